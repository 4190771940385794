"""`helix memory nodes`, `conflicts` and `rebuild`: for whoever runs this node."""

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid4

import typer

from helix.accounts import Home, Json, say, show, show_json, with_operator
from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.db import Connection
from helix.core.errors import HelixError, Misuse
from helix.core.instance import load_keyring
from helix.memory.replication import conflicts, peers, snapshots
from helix.memory.replication.client import check_node_url
from helix.memory.replication.domain import begin_node, list_nodes
from helix.memory.replication.store import QUERIES
from helix.memory.users import find_user

__all__ = ["conflicts_app", "nodes_app", "rebuild"]

T = TypeVar("T")
nodes_app = typer.Typer(
    help="Other nodes that memories are exchanged with.", no_args_is_help=True, add_completion=False
)
conflicts_app = typer.Typer(
    help="Changes that did not know of each other.", no_args_is_help=True, add_completion=False
)
Limit = Annotated[int, typer.Option(min=1, max=conflicts.PAGE_MAX, help="Most rows shown.")]
ConflictId = Annotated[UUID, typer.Argument(metavar="CONFLICT", help="Its id.")]
_NODE_COLUMNS = (
    "node_id", "name", "status", "sync_lag_ms", "last_heartbeat", "events_published",
    "events_consumed", "pending_events", "url", "error_message",
)  # fmt: skip
_CONFLICT_COLUMNS = (
    "id", "memory_id", "conflict_type", "node1_id", "node2_id", "resolution_strategy",
    "resolved_by", "detected_at",
)  # fmt: skip


def _done(started: float, what: str) -> None:
    say(f"{what}; {time.monotonic() - started:.1f} s")


def _run(home: Path | None, work: Callable[[Connection, Settings], Awaitable[T]]) -> T:
    return with_operator(home, work)


@nodes_app.command("add")
def add_node(
    name: Annotated[str, typer.Argument(help="A short name for it, a-z, 0-9, '-'.")],
    url: Annotated[str, typer.Argument(help="Where it listens, https://host:port.")],
    *,
    key_file: Annotated[Path, typer.Option(help="File with a key of scope admin of that node.")],
    home: Home = None,
) -> None:
    """Exchange memories with another node from now on."""
    started = time.monotonic()
    settings = load_settings(os.environ, home=home)
    checked = check_node_url(url, allowed_hosts=settings.memory_node_host_list)
    try:
        key = key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise Misuse(f"cannot read {key_file}: {exc}") from exc
    keyring = load_keyring(settings)

    async def work(conn: Connection, _: Settings) -> None:
        await peers.add_peer(conn, name=name, url=checked, key=key, keyring=keyring, new_id=uuid4)

    _run(home, work)
    _done(started, f"1 node added: {name} at {checked}; a running server meets it within seconds")


@nodes_app.command("remove")
def remove_node(
    name: Annotated[str, typer.Argument(help="Its name here.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it nothing is done.")] = False,
    home: Home = None,
) -> None:
    """Exchange nothing more with a node; memories that came from it stay."""
    started = time.monotonic()
    if not yes:
        say(f"would stop exchanging memories with {name}; add --yes")
        return

    async def work(conn: Connection, _: Settings) -> None:
        await peers.remove_peer(conn, name=name)

    _run(home, work)
    _done(started, f"1 node removed: {name}")


@nodes_app.command("list")
def show_nodes(*, home: Home = None, as_json: Json = False) -> None:
    """Show this node and the others: status, lag, how far each has read."""

    async def work(conn: Connection, settings: Settings) -> list[dict[str, Any]]:
        return await list_nodes(
            conn, lag_alert_ms=settings.memory_lag_alert_ms, now=SystemClock().now()
        )

    found = _run(home, work)
    show(_NODE_COLUMNS, [{**dict.fromkeys(_NODE_COLUMNS), **one} for one in found], as_json=as_json)
    say(f"{len(found)} nodes")


@conflicts_app.command("list")
def show_conflicts(
    *,
    open_only: Annotated[bool, typer.Option("--open", help="Only those not settled.")] = False,
    limit: Limit = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List conflicts, newest first."""

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        found = await conflicts.list_conflicts(conn, open_only=open_only, max_count=limit)
        return [asdict(one) for one in found]

    found = _run(home, work)
    show(_CONFLICT_COLUMNS, found, as_json=as_json)
    say(f"{len(found)} conflicts")


@conflicts_app.command("show")
def show_conflict(conflict_id: ConflictId, *, home: Home = None) -> None:
    """Show, as JSON, what each side said and what holds now."""

    async def work(conn: Connection, _: Settings) -> dict[str, Any]:
        return await conflicts.conflict_shown(conn, conflict_id=conflict_id)

    show_json(_run(home, work))


@conflicts_app.command("resolve")
def resolve_conflict(
    conflict_id: ConflictId,
    *,
    keep: Annotated[str | None, typer.Option(help="local or remote.")] = None,
    content: Annotated[str | None, typer.Option(help="Another wording.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Settle a conflict by one side or another wording; with neither, as the merge did."""
    started = time.monotonic()
    if keep not in (None, "local", "remote"):
        raise Misuse("--keep is local or remote")

    async def work(conn: Connection, _: Settings) -> dict[str, Any]:
        return asdict(
            await conflicts.resolve_conflict(
                conn, conflict_id=conflict_id, keep=keep, content=content,
                resolved_by="helix command", now=SystemClock().now(),
            )
        )  # fmt: skip

    settled = _run(home, work)
    show(_CONFLICT_COLUMNS, [settled], as_json=as_json)
    _done(started, "1 conflict settled")


class _Unlike(HelixError):
    """Events and state do not agree."""

    code = "memory.rebuild_differs"


def rebuild(
    *,
    check: Annotated[bool, typer.Option("--check", help="Compare only; required.")] = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Replay every event, not from the snapshot on.")
    ] = False,
    user: Annotated[
        str | None, typer.Option("--user", help="Only this account.", metavar="USER")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Replay the events of memories and compare with what is kept; exit 1 if they differ."""
    started = time.monotonic()
    if not check:
        raise Misuse("memories are always what their events say: --check shows that they are")

    async def work(conn: Connection, settings: Settings) -> list[snapshots.Rebuilt]:
        node_id = await begin_node(conn, wanted=settings.node_id, now=SystemClock().now())
        if user is not None:
            users = [await find_user(conn, user)]
        else:
            rows = await QUERIES.rows(conn, "users_with_memories")
            users = [row["user_id"] for row in rows]
        return [
            await snapshots.rebuild_user(conn, node_id=node_id, user_id=one, from_start=from_start)
            for one in users
        ]

    found = _run(home, work)
    unlike = [one for part in found for one in part.differences]
    show(
        ("memory_id", "where"),
        [{"memory_id": one.memory_id, "where": ", ".join(one.where)} for one in unlike],
        as_json=as_json,
    )
    memories, events = sum(p.memories for p in found), sum(p.events for p in found)
    _done(started, f"{memories} memories, {events} events replayed, {len(unlike)} differ")
    if unlike:
        raise _Unlike(f"{len(unlike)} memories are not what their events say")
