"""What the commands of debates share: the way to the database, and how things are shown."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from helix.accounts import Store as People
from helix.accounts import UserRole
from helix.core import command
from helix.core.command import Home, Json, say
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.debates.types import DebateId

__all__ = [
    "Home",
    "Json",
    "connected",
    "counted",
    "line",
    "one_transaction",
    "payer",
    "say",
    "table",
]

T = TypeVar("T")


def connected(home: Path | None, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `work` with a connection as helix_operator. Raises Misuse or Unavailable."""
    return command.connected(home, lambda conn, _: work(conn), application_name="helix debates")


def one_transaction(home: Path | None, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `work` in one transaction as helix_operator."""

    async def run(conn: Connection) -> T:
        async with conn.transaction():
            return await work(conn)

    return connected(home, run)


async def payer(conn: Connection, email: str | None) -> Any:
    """Return the account to work for: the one named, else the first administrator."""
    people = People()
    if email is not None:
        found = await people.find_login(conn, login=email)
        if found is None:
            raise Misuse(f"there is no account {email}: `helix users list` shows what is")
        return found.user.id
    for account in await people.list_users(conn, max_count=1_000):
        if account.role is UserRole.ADMIN and account.status == "active":
            return account.id
    raise Misuse("there is no active administrator: name an account with --user")


def a_debate(text: str) -> DebateId:
    """Read the id of a debate from a command line. Raises Misuse."""
    try:
        return DebateId(UUID(text))
    except ValueError as exc:
        raise Misuse(f"{text!r} is no id of a debate: `helix debates list` shows them") from exc


def line(record: Any) -> None:
    """Print one JSON line of data."""
    sys.stdout.buffer.write(msgspec.json.encode(record, enc_hook=str) + b"\n")
    sys.stdout.buffer.flush()


def table(columns: Sequence[str], records: Sequence[dict[str, Any]]) -> None:
    """Print a plain table."""
    shown = [{column: _cell(record.get(column)) for column in columns} for record in records]
    command.show_table(columns, shown)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal | Fraction):
        text = f"{value:f}" if isinstance(value, Decimal) else str(value)
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)


def counted(count: int, noun: str, seconds: float) -> None:
    """End a command: how many, and how long it took."""
    say(f"{count} {noun}{'' if count == 1 else 's'}; {seconds:.2f} s")
