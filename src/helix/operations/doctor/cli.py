"""`helix doctor`: look at everything and say what to do."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import SpinnerColumn, TextColumn

from helix.core.clock import SystemClock
from helix.core.command import Home, Json, progress, say, show_json
from helix.core.config import Settings, load_settings
from helix.core.crypto import Keyring
from helix.core.errors import Misuse, Unavailable
from helix.core.instance import HomePaths, load_keyring, locate
from helix.operations.doctor.alerts import alert_files
from helix.operations.doctor.away import examine_without
from helix.operations.doctor.examine import CODES, chosen_codes, examine
from helix.operations.doctor.routes import shown
from helix.operations.doctor.types import Examination, Severity

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    invoke_without_command=True,
)
_MARKS = {
    Severity.OK: "ok      ",
    Severity.NOTICE: "notice  ",
    Severity.WARNING: "WARNING ",
    Severity.CRITICAL: "CRITICAL",
}
_EXIT = {Severity.OK: 0, Severity.NOTICE: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


def main(args: list[str]) -> None:
    """Run `helix doctor` with these arguments."""
    app(args, prog_name="helix doctor")


@app.callback()
def doctor(
    context: typer.Context,
    only: Annotated[
        str | None, typer.Option(help="Only these checks, by code, with commas.", metavar="CODES")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Details of what is in order, too.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Look at the database, its disks, backups, queue and secrets; say what to do.

    While the database is away it says what can be seen without it. The exit status is 0 when all
    is well, 1 when something is a warning, 2 when something is critical, or nothing can be seen.
    """
    if context.invoked_subcommand is not None:
        return
    settings = load_settings(os.environ, home=home)
    codes = chosen_codes(only)
    with progress(SpinnerColumn(), TextColumn("{task.description}")) as bars:
        task = bars.add_task("")
        found = _examined(settings, codes, lambda code: bars.update(task, description=code))
    _show(found, as_json=as_json, details=all_)
    counts = ", ".join(
        f"{sum(one.severity is severity for one in found.findings)} {severity.value}"
        for severity in Severity
    )
    say(f"{len(found.findings)} checks: {counts}; {found.duration_s:.1f} s")
    raise SystemExit(_EXIT[found.worst])


def _examined(
    settings: Settings, codes: frozenset[str], say_code: Callable[[str], None]
) -> Examination:
    """Look at everything, or, while the database is away, at what can be seen without it."""
    keyring, clock = _keyring(settings), SystemClock()
    try:
        url = locate(settings).database_url
        return asyncio.run(
            examine(url, settings, clock=clock, keyring=keyring, only=codes, say=say_code)
        )
    except (Misuse, Unavailable) as exc:
        if settings.external_url() is None and not HomePaths(settings.home_dir).data.exists():
            raise  # there is nothing here to look at
        return examine_without(settings, exc.message, clock=clock, keyring=keyring, only=codes)


def _keyring(settings: Settings) -> Keyring | None:
    try:
        return load_keyring(settings)
    except Misuse:
        return None


def _show(found: Examination, *, as_json: bool, details: bool) -> None:
    for finding in sorted(found.findings, key=lambda one: -one.severity.rank):
        if as_json:
            show_json(shown(finding))
            continue
        print(f"{_MARKS[finding.severity]}  {finding.code}: {finding.seen}")
        if finding.todo is not None:
            print(f"          do: {finding.todo}")
        if details or finding.severity is not Severity.OK:
            for row in finding.details[:10]:
                print(f"          - {_row(row)}")


def _row(row: Any) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for name, value in row.items()
        if value is not None
    )


@app.command("codes")
def codes_command(as_json: Json = False) -> None:
    """List the codes of all checks."""
    for code in CODES:
        if as_json:
            show_json({"code": code})
        else:
            print(code)


@app.command("alerts")
def alerts_command(
    to: Annotated[
        Path | None, typer.Option(help="Copy the files into this directory.", metavar="DIR")
    ] = None,
) -> None:
    """Say where the Grafana dashboard and the Prometheus alert rules are, or copy them."""
    for path in alert_files():
        if to is None:
            print(path)
            continue
        try:
            to.mkdir(parents=True, exist_ok=True)
            (to / path.name).write_bytes(path.read_bytes())
        except OSError as exc:
            raise Misuse(f"cannot write to {to}: {exc.strerror}") from exc
        print(to / path.name)
