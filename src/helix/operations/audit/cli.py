"""`helix audit …`: sensitive operations listed, audit tables sealed and verified."""

import os
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
import typer

from helix.core.clock import SystemClock
from helix.core.command import Home, Json, connected, say, show
from helix.core.config import Settings, load_settings
from helix.core.db import Connection
from helix.core.instance import load_keyring
from helix.operations.audit.errors import AuditBroken
from helix.operations.audit.rows import QUERIES
from helix.operations.audit.seal import read_anchors, seal_tables, write_anchors
from helix.operations.audit.verify import Verdict, verify_tables

__all__ = ["app", "main"]

_LISTED_MAX = 1_000
_NAMED_MAX = 100
_COLUMNS = (
    "created_at", "operation", "outcome", "actor_kind", "actor_id", "origin", "subject_type",
    "subject_id", "subject_name", "details",
)  # fmt: skip

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Sensitive operations: who did what, to what, when, from where; and whether it is whole.",
)


def main(args: list[str]) -> None:
    """Run `helix audit` with these arguments."""
    app(args, prog_name="helix audit")


@app.command("list")
def list_command(  # noqa: PLR0917 - options, given by name
    operation: Annotated[
        str | None, typer.Option(help="Only operations that begin so: api_key, login.failed …")
    ] = None,
    about: Annotated[UUID | None, typer.Option(help="Only by or about this id.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Only of so many days.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=_LISTED_MAX, help="Most rows shown.")] = 100,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List sensitive operations, newest first."""
    since = None if days is None else datetime.now(UTC) - timedelta(days=days)

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        rows = await QUERIES.rows(
            conn, "list_operations", operation=operation, since=since, about=about, max_count=limit
        )
        return [dict(row) for row in rows]

    found = connected(home, work)
    if not as_json:
        for row in found:
            row["details"] = msgspec.json.encode(row["details"] or {}).decode()
    show(_COLUMNS, found, as_json=as_json)
    say(f"{len(found)} operations")


@app.command("seal")
def seal_command(
    home: Home = None,
    reset_anchor: Annotated[
        bool,
        typer.Option(
            "--reset-anchor", help="Forget what this home has seen: after a restore, on purpose."
        ),
    ] = False,
) -> None:
    """Seal what the audit tables gained; a running Helix does so every five minutes."""
    began = time.monotonic()
    keyring = load_keyring(load_settings(os.environ, home=home))

    async def work(conn: Connection, settings: Settings) -> dict[str, int]:
        done = await seal_tables(conn, keyring, now=SystemClock().now())
        await write_anchors(conn, settings.home_dir, reset=reset_anchor)
        return done

    done = connected(home, work)
    for table, rows in done.items():
        say(f"{table}: {rows} rows sealed")
    say(f"{sum(done.values())} rows sealed in {time.monotonic() - began:.1f} s")


@app.command("verify")
def verify_command(home: Home = None, as_json: Json = False) -> None:
    """Compare every sealed row with its seal; name what was edited, removed, added or cut off.

    The exit status is 1 when anything was.
    """
    began = time.monotonic()
    keyring = load_keyring(load_settings(os.environ, home=home))

    async def work(conn: Connection, settings: Settings) -> list[Verdict]:
        anchors = read_anchors(settings.home_dir)
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            return await verify_tables(conn, keyring, anchors)

    verdicts = connected(home, work)
    findings = [finding for verdict in verdicts for finding in verdict.findings]
    show(
        ("table", "kind", "row_id", "what"),
        [
            {"table": f.table, "kind": f.kind, "row_id": f.row_id, "what": f.what}
            for f in findings[: None if as_json else _NAMED_MAX]
        ],
        as_json=as_json,
    )
    for v in verdicts:
        gone = "".join(f"; {rows} rows of {month} dropped" for month, rows in v.dropped.items())
        say(
            f"{v.table}: {v.rows} rows as sealed in {v.seals} seals, {v.emptied} values emptied by "
            f"erasure, {v.unsealed} not sealed yet{gone}"
        )
    say(f"{len(findings)} findings; {time.monotonic() - began:.1f} s")
    if findings:
        raise AuditBroken(f"{len(findings)} findings: the audit is not as it was written")
