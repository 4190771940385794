"""`helix status`: whether this home's Helix runs, and where."""

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from helix.core.config import Settings, load_settings
from helix.core.db import redacted_url
from helix.core.errors import Misuse
from helix.core.instance import HomePaths, find_postmaster, locate, read_instance

__all__ = ["app", "main"]

_READY_TIMEOUT_S = 5.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(args: list[str]) -> None:
    """Run `helix status` with these arguments."""
    app(args, prog_name="helix status")


@app.command()
def status(
    home: Annotated[
        Path | None, typer.Option(help="Directory of the instance. [HELIX_HOME]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Say whether Helix runs on this home, where, and whether it is ready; exit 1 when not."""
    found = _look(load_settings(os.environ, home=home))
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, value in found.items():
            table.add_row(name, "-" if value is None else str(value))
        Console(soft_wrap=True).print(table)
    if not found["ready"]:
        raise typer.Exit(1)


def _look(settings: Settings) -> dict[str, Any]:
    home = settings.home_dir
    instance = read_instance(home)
    try:
        database_url = redacted_url(locate(settings).database_url)
    except Misuse:
        database_url = None
    postmaster = find_postmaster(HomePaths(home).data)
    return {
        "running": instance is not None,
        "ready": instance is not None and _is_ready(instance.url),
        "url": None if instance is None else instance.url,
        "pid": None if instance is None else instance.pid,
        "postgres_pid": None if postmaster is None else postmaster.pid,
        "mode": None if instance is None else instance.mode,
        "version": None if instance is None else instance.version,
        "started_at": None if instance is None else instance.started_at.isoformat(" ", "seconds"),
        "database_url": database_url,
        "home": str(home),
    }


def _is_ready(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/ready", timeout=_READY_TIMEOUT_S) as answer:
            return bool(answer.status == http.HTTPStatus.OK)
    except (OSError, http.client.HTTPException):
        return False
