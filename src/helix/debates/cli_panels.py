"""`helix panels`: named ensembles and debates, called as ensemble/<name> and debate/<name>."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.debates import service
from helix.debates.command import Home, Json, counted, line, one_transaction, payer, say, table
from helix.debates.panels import read_panel

__all__ = ["main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
KindName = Annotated[str, typer.Argument(metavar="KIND/NAME", help="ensemble/fast, debate/three…")]
Email = Annotated[
    str | None, typer.Option("--user", help="Account that owns it; default: everybody's.")
]


def main(args: list[str]) -> None:
    """Run `helix panels …`."""
    app(args, prog_name="helix panels")


def _split(name: str) -> tuple[service.Kind, str]:
    kind, _, rest = name.partition("/")
    if rest and kind == "ensemble":
        return "ensemble", rest
    if rest and kind == "debate":
        return "debate", rest
    raise Misuse("a panel is named ensemble/<name> or debate/<name>")


async def _owner(conn: Connection, email: str | None) -> Any:
    return None if email is None else await payer(conn, email)


@app.command("list")
def list_(home: Home = None, as_json: Json = False) -> None:
    """List all panels."""
    began = time.monotonic()
    found = one_transaction(home, service.list_panels)
    rows = [
        {
            "model": f"{panel.kind}/{panel.name}",
            "owner": panel.user_id or "(everybody)",
            "updated_at": panel.updated_at,
            "config": panel.config,
        }
        for panel in found
    ]
    if as_json:
        for row in rows:
            line(row)
    else:
        table(("model", "owner", "updated_at"), rows)
    counted(len(rows), "panel", time.monotonic() - began)


@app.command("set")
def set_(
    name: KindName,
    file: Annotated[Path | None, typer.Argument(help="JSON file; default: standard input.")] = None,
    email: Email = None,
    home: Home = None,
) -> None:
    """Store a panel from JSON, replacing the one of that name."""
    kind, rest = _split(name)
    try:
        raw = sys.stdin.buffer.read() if file is None else file.read_bytes()
    except OSError as exc:
        raise Misuse(f"{file}: {exc.strerror}") from exc
    config = read_panel(kind, rest, raw)

    async def work(conn: Connection) -> service.Panel:
        owner = await _owner(conn, email)
        return await service.put_panel(conn, user_id=owner, kind=kind, name=rest, config=config)

    panel = one_transaction(home, work)
    say(f"{panel.kind}/{panel.name} is stored; clients call it as a model of that name")


@app.command("show")
def show(name: KindName, email: Email = None, home: Home = None) -> None:
    """Print a panel as JSON, as `set` takes it."""
    kind, rest = _split(name)

    async def work(conn: Connection) -> service.Panel:
        owner = await _owner(conn, email)
        return await service.get_panel(conn, user_id=owner, kind=kind, name=rest)

    line(one_transaction(home, work).config)


@app.command("remove")
def remove(
    name: KindName,
    email: Email = None,
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it only the plan.")] = False,
) -> None:
    """Remove a panel; debates that were held with it stay."""
    kind, rest = _split(name)
    if not yes:
        say(f"would remove the panel {name} of {email or 'everybody'}; --yes does")
        return

    async def work(conn: Connection) -> None:
        owner = await _owner(conn, email)
        await service.remove_panel(conn, user_id=owner, kind=kind, name=rest)

    one_transaction(home, work)
    say(f"{name} is removed")
