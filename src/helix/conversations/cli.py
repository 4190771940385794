"""`helix conversations`: list, show, replay, compress, snapshot, export, sweep."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
import typer

from helix.conversations import domain, replay, service
from helix.conversations.domain import Conversations
from helix.conversations.routes import event_json, state_json
from helix.conversations.text import text_of
from helix.conversations.types import CompressionType, ReplayType, SnapshotType
from helix.core.command import Home, Json, say, show, show_json, show_table
from helix.core.config import load_settings
from helix.core.db import OUTAGES, Connection, Database, PoolLimits, Role
from helix.core.errors import Unavailable
from helix.core.instance import locate

__all__ = ["main"]

T = TypeVar("T")
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

At = Annotated[
    str | None, typer.Option(help="A sequence number or a time with its zone; default the end.")
]
_TEXT_CHARS = 100
_COLUMNS = ("id", "external_id", "title", "status", "last_sequence", "last_event_at", "user_id")


def main(args: list[str]) -> None:
    """Run `helix conversations …`."""
    app(args, prog_name="helix conversations")


def _with(home: Path | None, work: Callable[[Conversations], Awaitable[T]]) -> T:
    """Run `work` with the domain, its pools acting as the operator or a tenant as it asks."""
    settings = load_settings(os.environ, home=home)
    target = locate(settings)

    async def run() -> T:
        limits = PoolLimits(kept=0, maximum=2, acquire_timeout_s=10.0)
        db = Database(target.database_url, {Role.APP: limits, Role.OPERATOR: limits})
        try:
            return await work(domain.build(db, settings))
        except OUTAGES as exc:
            raise Unavailable(
                f"the database does not answer: {str(exc) or type(exc).__name__}"
            ) from exc
        finally:
            await db.close()

    return asyncio.run(run())


def _read(home: Path | None, work: Callable[[Connection, Conversations], Awaitable[T]]) -> T:
    async def run(conversations: Conversations) -> T:
        async with conversations.db.transaction(Role.OPERATOR) as conn:
            return await work(conn, conversations)

    return _with(home, run)


def _plain(record: Any) -> Any:
    return msgspec.to_builtins(record)


def _counted(count: int, noun: str, began_s: float) -> None:
    say(f"{count} {noun}{'' if count == 1 else 's'}, {time.monotonic() - began_s:.2f} s")


@app.command("list")
def list_conversations(
    user: Annotated[UUID | None, typer.Option(help="Only this user's.")] = None,
    before: Annotated[UUID | None, typer.Option(help="The last id of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=service.PAGE_MAX, help="Most rows.")] = 50,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List conversations, newest first."""
    began_s = time.monotonic()
    found = _read(
        home,
        lambda conn, _: service.list_conversations(
            conn, user_id=user, before=before, max_count=limit
        ),
    )
    show(_COLUMNS, [_plain(one) for one in found], as_json=as_json)
    _counted(len(found), "conversation", began_s)


@app.command("show")
def show_conversation(
    conversation_id: UUID, at: At = None, as_json: Json = False, home: Home = None
) -> None:
    """Show a conversation as it is, or as it was at a point."""
    began_s = time.monotonic()
    point = replay.point_of(at)

    async def work(conn: Connection, _: Conversations) -> tuple[Any, Any]:
        conversation = await service.get(conn, conversation_id=conversation_id, user_id=None)
        goal = await replay.resolve_point(conn, conversation=conversation, point=point)
        base, _unused = await service.nearest_state(
            conn, conversation=conversation, to_sequence=goal
        )
        state, _unused2 = await service.state_at(
            conn, conversation=conversation, to_sequence=goal, base=base
        )
        return conversation, state

    conversation, state = _read(home, work)
    if as_json:
        show_json({**_plain(conversation), "state": _plain(state_json(state))})
    else:
        fields = {**_plain(conversation), "sequence": state.sequence, "tokens": state.tokens}
        show_table(("field", "value"), [{"field": k, "value": v} for k, v in fields.items()])
        show_table(
            ("sequence", "role", "tokens", "text"),
            [
                {
                    "sequence": message.sequence,
                    "role": message.role.value,
                    "tokens": message.tokens,
                    "text": _short(text_of(message.body)),
                }
                for message in state.messages
            ],
        )
    _counted(len(state.messages), "message", began_s)


@app.command("replay")
def run_replay(
    conversation_id: UUID,
    kind: Annotated[ReplayType, typer.Option("--type", help="From where, and to what.")] = (
        ReplayType.FULL
    ),
    at: At = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Fold a conversation and tell how that went; the statistics are kept."""
    began_s = time.monotonic()
    point = replay.point_of(at)

    async def work(conn: Connection, conversations: Conversations) -> Any:
        conversation = await service.get(conn, conversation_id=conversation_id, user_id=None)
        return await replay.replay(
            conn,
            conversation=conversation,
            kind=kind,
            point=point,
            cache_ttl_s=conversations.cache_ttl_s,
            ids=conversations.ids,
            clock=conversations.clock,
        )

    done = _read(home, work)
    fields = {
        "replay_type": done.replay_type.value,
        "to_sequence": done.state.sequence,
        "events_replayed": done.events_replayed,
        "messages_replayed": done.messages_replayed,
        "replay_duration_ms": done.replay_duration_ms,
        "snapshot_id": None if done.snapshot_id is None else str(done.snapshot_id),
        "cache_hit": done.cache_hit,
        "compression_applied": done.compression_applied,
        "tokens": done.state.tokens,
    }
    if as_json:
        show_json({**fields, "state": _plain(state_json(done.state)), "context": done.context})
    else:
        show_table(("field", "value"), [{"field": k, "value": v} for k, v in fields.items()])
    _counted(done.events_replayed, "event", began_s)


@app.command("snapshot")
def take_snapshot(conversation_id: UUID, as_json: Json = False, home: Home = None) -> None:
    """Store the state of a conversation as it is now."""
    began_s = time.monotonic()
    taken = _read(
        home,
        lambda conn, conversations: service.take_snapshot(
            conn,
            conversation_id=conversation_id,
            user_id=None,
            kind=SnapshotType.ON_DEMAND,
            ids=conversations.ids,
            clock=conversations.clock,
        ),
    )
    records = [] if taken is None else [_plain(taken)]
    columns = ("id", "sequence_number", "message_count", "total_tokens", "size_bytes")
    show(columns, records, as_json=as_json)
    _counted(len(records), "snapshot", began_s)


@app.command("compress")
def compress(
    conversation_id: UUID,
    strategy: Annotated[CompressionType, typer.Option(help="What is kept.")] = (
        CompressionType.HYBRID
    ),
    target_tokens: Annotated[
        int | None, typer.Option(min=16, help="How long it may be; default a quarter.")
    ] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Condense a conversation by extraction; its events stay."""
    began_s = time.monotonic()

    async def work(conversations: Conversations) -> Any:
        async with conversations.db.transaction(Role.OPERATOR) as conn:
            owner = await service.get(conn, conversation_id=conversation_id, user_id=None)
        return await conversations.compress(
            conversation_id=conversation_id,
            user_id=owner.user_id,
            strategy=strategy,
            target_tokens=target_tokens,
        )

    done = _with(home, work)
    columns = ("id", "compression_type", "original_tokens", "compressed_tokens",
               "compression_ratio", "quality_score")  # fmt: skip
    show(columns, [_plain(done)], as_json=as_json)
    if not as_json:
        print(done.summary_content)
    _counted(1, "compression", began_s)


@app.command("export")
def export(conversation_id: UUID, home: Home = None) -> None:
    """Print a conversation and all its events, one JSON line each, in order."""
    began_s = time.monotonic()

    async def work(conn: Connection, _: Conversations) -> int:
        conversation = await service.get(conn, conversation_id=conversation_id, user_id=None)
        show_json({"conversation": _plain(conversation)})
        count = 0
        while events := await service.events_of(
            conn, conversation=conversation, from_sequence=count + 1
        ):
            for event in events:
                show_json({"event": _plain(event_json(event))})
            count = events[-1].sequence
        return count

    _counted(_read(home, work), "event", began_s)


@app.command("sweep")
def sweep(as_json: Json = False, home: Home = None) -> None:
    """Record calls whose process died before it could; the server does so every minute."""
    began_s = time.monotonic()
    done = _with(home, lambda conversations: conversations.sweep())
    show(("recorded", "failed", "dropped"), [done], as_json=as_json)
    _counted(done["recorded"], "call", began_s)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_CHARS else f"{line[: _TEXT_CHARS - 1]}…"
