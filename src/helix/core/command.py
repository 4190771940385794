"""What the commands of the domains share: finding the database, printing for people or programs."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.table import Table

from helix.core.config import Settings, load_settings
from helix.core.db import OUTAGES, Connection, Role, connect
from helix.core.errors import Unavailable
from helix.core.instance import locate

__all__ = [
    "Home",
    "Json",
    "connected",
    "progress",
    "say",
    "show",
    "show_json",
    "show_table",
    "with_operator",
]

T = TypeVar("T")

Home = Annotated[
    Path | None, typer.Option(help="HELIX_HOME of the instance; default from the environment.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")]


def with_operator(home: Path | None, work: Callable[[Connection, Settings], Awaitable[T]]) -> T:
    """Run `work` in one transaction, as helix_operator, on the database of the instance.

    Raises Misuse when there is none, Unavailable when it does not answer.
    """

    async def run(conn: Connection, settings: Settings) -> T:
        async with conn.transaction():
            return await work(conn, settings)

    return connected(home, run)


def connected(
    home: Path | None,
    work: Callable[[Connection, Settings], Awaitable[T]],
    *,
    application_name: str = "helix command",
) -> T:
    """Run `work` with a connection as helix_operator, outside a transaction.

    Raises what `with_operator` does.
    """
    settings = load_settings(os.environ, home=home)
    target = locate(settings)

    async def run() -> T:
        try:
            conn = await connect(
                target.database_url, role=Role.OPERATOR, application_name=application_name
            )
        except OUTAGES as exc:
            raise Unavailable(
                f"the database does not answer: {str(exc) or type(exc).__name__}"
            ) from exc
        try:
            return await work(conn, settings)
        finally:
            await conn.close()

    return asyncio.run(run())


def say(text: str) -> None:
    """Tell the person something; programs read stdout and do not see it."""
    print(text, file=sys.stderr)


def progress(*columns: ProgressColumn | str) -> Progress:
    """Return bars on stderr that vanish when all is done; nothing at all where nobody looks."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def show_json(record: Any) -> None:
    """Print one record as one line of JSON."""
    sys.stdout.buffer.write(msgspec.json.encode(record) + b"\n")
    sys.stdout.buffer.flush()


_PIPE_COLUMNS = 240  # whoever reads a pipe has no window to fit


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)


def show_table(columns: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """Print records as a table of these columns; ids and times stay whole, to be copied."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        whole = column.endswith(("id", "_at", "time", "model"))
        table.add_column(column, overflow="fold", no_wrap=whole)
    for record in records:
        table.add_row(*(_cell(record.get(column)) for column in columns))
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    Console(soft_wrap=False, markup=False, highlight=False, width=width).print(table)


def show(columns: Sequence[str], records: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print records: whole, one JSON line each, or these columns of them as a table."""
    if as_json:
        for record in records:
            show_json(record)
    else:
        show_table(columns, records)
