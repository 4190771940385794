"""`helix memory`: what is remembered for a user, for whoever runs this Helix."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
import typer

from helix.accounts import Home, Json, say, show, show_json
from helix.core.clock import SystemClock
from helix.core.command import progress
from helix.core.config import Settings, load_settings
from helix.core.db import OUTAGES, Database, Role, connect
from helix.core.errors import Misuse, NotFound, Unavailable
from helix.core.instance import locate
from helix.memory import graph
from helix.memory.domain import Memories
from helix.memory.near import build_indexes
from helix.memory.render import shown_memory, shown_report
from helix.memory.replication.cli import conflicts_app, nodes_app, rebuild
from helix.memory.service import reindex
from helix.memory.types import Filters, MemoryId, NewMemory
from helix.memory.users import find_user
from helix.retrieval import SIGNALS, choose_embedder, why_no_embedder

__all__ = ["main"]

T = TypeVar("T")
IMPORT_BATCH = 200
REINDEX_BATCH = 500
CONTENT_SHOWN = 100

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(nodes_app, name="nodes")
app.add_typer(conflicts_app, name="conflicts")
app.command("rebuild")(rebuild)
User = Annotated[str, typer.Option("--user", help="Email, user name or id.", metavar="USER")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="Most rows shown.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it only the plan is shown.")]
At = Annotated[
    datetime | None,
    typer.Option(
        help="What was true at this moment (UTC).", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
    ),
]
_RELATION_COLUMNS = ("subject", "predicate", "object", "valid_from", "valid_to", "memory_id")
_COLUMNS = ("id", "memory_type", "speaker", "content", "valid_from", "access_count")


def main(args: list[str]) -> None:
    """Run `helix memory …`."""
    app(args, prog_name="helix memory")


def _with(
    home: Path | None, user: str, work: Callable[[Memories, UUID], Awaitable[T]], *, vectors: bool
) -> T:
    """Run `work` on the instance's memory, as the operator, for one user."""

    async def run(db: Database, settings: Settings) -> T:
        async with db.transaction(Role.OPERATOR) as conn:
            user_id = await find_user(conn, user)
        embedder = choose_embedder(settings) if vectors else None
        memories = Memories(
            db, embedder, SystemClock(), role=Role.OPERATOR, without=why_no_embedder(settings)
        )
        try:
            return await work(memories, user_id)
        finally:
            await memories.stop()

    return _connected(home, run)


def _connected(home: Path | None, work: Callable[[Database, Settings], Awaitable[T]]) -> T:
    settings = load_settings(os.environ, home=home)
    target = locate(settings)

    async def run() -> T:
        db = Database(target.database_url, settings.pool_limits())
        try:
            return await work(db, settings)
        finally:
            await db.close()

    return asyncio.run(run())


def _done(started: float, what: str) -> None:
    say(f"{what}; {time.monotonic() - started:.1f} s")


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def _line(record: dict[str, Any]) -> dict[str, Any]:
    content = " ".join(str(record["content"]).split())
    short = content if len(content) <= CONTENT_SHOWN else f"{content[: CONTENT_SHOWN - 1]}…"
    return {**record, "content": short}


@app.command("add")
def add(
    content: Annotated[str, typer.Argument(help="What to remember; - reads stdin.")],
    *,
    user: User,
    memory_type: Annotated[str, typer.Option("--type")] = "fact",
    speaker: Annotated[str | None, typer.Option(help="Who said it.")] = None,
    agent_id: Annotated[str | None, typer.Option("--agent")] = None,
    confidence: Annotated[float, typer.Option(min=0, max=1)] = 0.8,
    tag: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Remember one thing for a user."""
    started = time.monotonic()
    text = sys.stdin.read() if content == "-" else content
    memory = NewMemory(
        text,
        memory_type=memory_type,
        speaker=speaker,
        agent_id=agent_id,
        confidence=Decimal(str(round(confidence, 4))),
        tags=tuple(tag or ()),
    )

    async def work(memories: Memories, user_id: UUID) -> dict[str, Any]:
        [one] = await memories.add(user_id=user_id, memories=[memory])
        await memories.embed_missing(user_id=user_id)
        kept = shown_memory(await memories.get(user_id=user_id, memory_id=one.id))
        return {**kept, "duplicate": one.duplicate}

    made = _with(home, user, work, vectors=True)
    show(_COLUMNS, [made] if as_json else [_line(made)], as_json=as_json)
    _done(started, "it was remembered already" if made["duplicate"] else "1 memory added")


@app.command("search")
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    *,
    user: User,
    count: Annotated[int, typer.Option(min=1, max=100)] = 10,
    explain: Annotated[bool, typer.Option(help="Say what each signal added.")] = False,
    memory_type: Annotated[str | None, typer.Option("--type")] = None,
    agent_id: Annotated[str | None, typer.Option("--agent")] = None,
    session_id: Annotated[UUID | None, typer.Option("--session")] = None,
    at: At = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Find what answers a question, best first."""
    filters = Filters(
        session_id=session_id, agent_id=agent_id, memory_type=memory_type, at=_utc(at)
    )

    async def work(memories: Memories, user_id: UUID) -> Any:
        return await memories.search(user_id=user_id, query=query, filters=filters, max_count=count)

    found = _with(home, user, work, vectors=True)
    records = [
        {"score": hit.score, **shown_memory(hit.memory), "signals": hit.parts} for hit in found.hits
    ]
    if as_json:
        for record in records:
            show_json(record)
    else:
        shown = [
            {**_line(r), "why": " ".join(f"{n}={v:+.2f}" for n, v in r["signals"].items())}
            for r in records
        ]
        columns = ("score", "id", "speaker", "content", *(("why",) if explain else ()))
        show(columns, shown, as_json=False)
        if explain:
            for name in sorted({n for r in records for n in r["signals"]}):
                say(f"  {name}: {SIGNALS[name]}")
    say(
        f"{len(records)} of {found.considered} memories; vectors: {found.vectors}; "
        f"{found.took_ms:.0f} ms and {found.embedding_ms:.0f} ms for the question's vector"
    )


@app.command("list")
def listing(
    *,
    user: User,
    memory_type: Annotated[str | None, typer.Option("--type")] = None,
    agent_id: Annotated[str | None, typer.Option("--agent")] = None,
    merged: Annotated[bool, typer.Option(help="Those merged into others too.")] = False,
    after_id: Annotated[UUID | None, typer.Option("--after")] = None,
    limit: Limit = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List what is remembered for a user, newest first."""
    started = time.monotonic()

    async def work(memories: Memories, user_id: UUID) -> list[dict[str, Any]]:
        found = await memories.list(
            user_id=user_id,
            filters=Filters(memory_type=memory_type, agent_id=agent_id),
            merged=merged,
            after_id=after_id,
            max_count=limit,
        )
        return [shown_memory(memory) for memory in found]

    records = _with(home, user, work, vectors=False)
    show(_COLUMNS, records if as_json else [_line(r) for r in records], as_json=as_json)
    _done(started, f"{len(records)} memories")


@app.command("show")
def show_one(memory_id: UUID, *, user: User, home: Home = None, as_json: Json = False) -> None:
    """Show one memory whole, what it speaks of, and which requests used it."""

    async def work(memories: Memories, user_id: UUID) -> dict[str, Any]:
        own = MemoryId(memory_id)
        memory = shown_memory(await memories.get(user_id=user_id, memory_id=own))
        return {**memory, "used_by": await memories.uses_of(user_id=user_id, memory_id=own)}

    record = _with(home, user, work, vectors=False)
    if as_json:
        show_json(record)
    else:
        rows = [{"field": name, "value": _cell(value)} for name, value in record.items()]
        show(("field", "value"), rows, as_json=False)


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict | tuple):
        return msgspec.json.encode(value).decode() if value else ""
    return value


@app.command("forget")
def forget(
    memory_ids: Annotated[list[UUID] | None, typer.Argument(help="Which; or --all.")] = None,
    *,
    user: User,
    everything: Annotated[bool, typer.Option("--all", help="Every memory of this user.")] = False,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Erase memories for good: text, vectors, relations, distributed events; backups on restore."""
    started = time.monotonic()
    if bool(memory_ids) == everything:
        raise Misuse("give the ids of memories, or --all")

    async def work(memories: Memories, user_id: UUID) -> int:
        ids = [MemoryId(i) for i in memory_ids or ()]
        if not yes:
            for i in ids:
                memory = await memories.get(user_id=user_id, memory_id=i)
                say(f"would erase {i}: {_line(shown_memory(memory))['content']}")
            if everything:
                say(f"would erase every memory of {user}")
            return -1
        if everything:
            say("conversations and documents are not touched: see helix conversations, knowledge")
            return (await memories.forget_all(user_id=user_id))[0]
        gone = await memories.forget(user_id=user_id, ids=ids)
        for talk in gone.conversations_kept:
            say(f"conversation {talk} was its source and still has the words")
        return len(gone.ids)

    count = _with(home, user, work, vectors=False)
    if count < 0:
        say("nothing is erased yet: add --yes")
        raise typer.Exit(1)
    _done(started, f"{count} memories erased")


@app.command("audit")
def audit(
    *,
    user: User,
    apply: Annotated[bool, typer.Option(help="Merge duplicates, end contradicted.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Look for near-duplicates, contradictions, what was never used, and junk."""
    started = time.monotonic()

    async def work(memories: Memories, user_id: UUID) -> dict[str, Any]:
        return shown_report(await memories.audit(user_id=user_id, apply=apply))

    report = _with(home, user, work, vectors=False)
    if as_json:
        show_json(report)
    else:
        rows = [
            {"finding": "duplicate", "memory_id": d["drop"], "of_id": d["keep"],
             "note": f"similarity {d['similarity']}"} for d in report["duplicates"]
        ] + [
            {"finding": "contradicted", "memory_id": c["older"], "of_id": c["newer"],
             "note": f"{c['subject']} {c['predicate']}"} for c in report["contradictions"]
        ] + [
            {"finding": "junk", "memory_id": j["memory_id"], "note": f"score {j['score']}"}
            for j in report["junk"]
        ]  # fmt: skip
        show(("finding", "memory_id", "of_id", "note"), rows, as_json=False)
    if report["batch_id"]:
        say(f"batch {report['batch_id']}: take it back with `helix memory undo --user {user}`")
    _done(
        started,
        f"{report['looked_at']} looked at: {len(report['duplicates'])} duplicates, "
        f"{len(report['contradictions'])} contradicted, {len(report['junk'])} junk, "
        f"{len(report['never_used'])} never used; {report['merged']} merged, "
        f"{report['ended']} ended",
    )


@app.command("undo")
def undo(
    batch_id: Annotated[UUID | None, typer.Argument(help="Without it the newest.")] = None,
    *,
    user: User,
    home: Home = None,
) -> None:
    """Take back what an audit changed."""
    started = time.monotonic()

    async def work(memories: Memories, user_id: UUID) -> int:
        return len(await memories.undo(user_id=user_id, batch_id=batch_id))

    count = _with(home, user, work, vectors=False)
    _done(started, f"{count} memories are as they were")


class _Line(msgspec.Struct):
    content: str
    memory_type: str = "fact"
    speaker: str | None = None
    conversation_id: UUID | None = None
    agent_id: str | None = None
    confidence: Decimal = Decimal("0.8")
    importance: Decimal = Decimal("0.5")
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}


@app.command("import")
def import_lines(
    path: Annotated[Path, typer.Argument(help="JSON lines, each with at least `content`.")],
    *,
    user: User,
    home: Home = None,
) -> None:
    """Remember each line of a file; running it again adds only what is new."""
    started = time.monotonic()
    memories_in = _read_lines(path)

    async def work(memories: Memories, user_id: UUID) -> tuple[int, int]:
        added = 0
        with progress() as bars:
            bar = bars.add_task("remembering", total=len(memories_in))
            for at in range(0, len(memories_in), IMPORT_BATCH):
                some = memories_in[at : at + IMPORT_BATCH]
                results = await memories.add(user_id=user_id, memories=some)
                added += sum(1 for one in results if not one.duplicate)
                bars.advance(bar, len(some))
        return added, await memories.embed_missing(user_id=user_id)

    added, embedded = _with(home, user, work, vectors=True)
    _done(started, f"{len(memories_in)} lines, {added} added, {embedded} embedded")


def _read_lines(path: Path) -> list[NewMemory]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise Misuse(f"cannot read {path}: {exc.strerror}") from exc
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                read = msgspec.json.decode(line, type=_Line)
            except msgspec.DecodeError as exc:
                raise Misuse(f"{path}:{number}: {exc}") from exc
            found.append(NewMemory(**{f: getattr(read, f) for f in read.__struct_fields__}))
    return found


@app.command("graph")
def graph_of(
    entity: Annotated[str | None, typer.Argument(help="A name; without it, the entities.")] = None,
    *,
    user: User,
    to: Annotated[str | None, typer.Option(help="The way to this entity.")] = None,
    depth: Annotated[int, typer.Option(min=1, max=graph.DEPTH_MAX)] = 1,
    at: At = None,
    limit: Limit = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what memories speak of, what is said of an entity, or the way between two."""

    async def work(memories: Memories, user_id: UUID) -> tuple[tuple[str, ...], list[Any]]:
        moment = _utc(at)
        async with memories.unit(user_id) as conn:
            if entity is None:
                found: list[Any] = await graph.entities(conn, user_id=user_id, max_count=limit)
                return ("name", "type", "mention_count"), found
            if to is not None:
                step = await graph.path_between(
                    conn, user_id=user_id, name=entity, other=to, at=moment
                )
                if step is None:
                    raise NotFound(f"there is no way from {entity} to {to}")
                return ("told",), [{"told": told} for told in step.path]
            if depth > 1:
                steps = await graph.neighbours(
                    conn, user_id=user_id, name=entity, depth=depth, at=moment
                )
                columns = ("depth", "name", "type", "way")
                return columns, [
                    {"depth": s.depth, "name": s.entity.name, "type": s.entity.type,
                     "way": "; ".join(s.path)} for s in steps[:limit]
                ]  # fmt: skip
            told = await graph.relations(
                conn, user_id=user_id, name=entity, at=moment, max_count=limit
            )
            return ("subject", "predicate", "object", "valid_from", "valid_to", "memory_id"), [
                *told
            ]

    columns, records = _with(home, user, work, vectors=False)
    plain = [r if isinstance(r, dict) else {c: getattr(r, c) for c in columns} for r in records]
    show(columns, plain, as_json=as_json)
    say(f"{len(plain)} rows")


@app.command("reindex")
def reindex_all(*, home: Home = None) -> None:
    """Analyse anew what search knows by an older analysis; vectors are made every night."""
    started = time.monotonic()

    async def run(db: Database, _: Settings) -> int:
        count, after_id = 0, None
        while True:
            async with db.transaction(Role.OPERATOR) as conn:
                done, after_id = await reindex(
                    conn, user_id=None, after_id=after_id, max_count=REINDEX_BATCH
                )
            count += done
            if after_id is None:
                return count

    count = _connected(home, run)
    _done(started, f"{count} memories analysed anew")


@app.command("index")
def index(*, home: Home = None) -> None:
    """Build the vector indexes of users with more than 10,000 memories; drop unwanted ones."""
    started = time.monotonic()
    target = locate(load_settings(os.environ, home=home))

    async def run() -> int:
        try:
            owner = await connect(target.database_url, application_name="helix memory index")
        except OUTAGES as exc:
            raise Unavailable("the database does not answer") from exc
        try:
            return len(await build_indexes(owner, tell=say))
        finally:
            await owner.close()

    count = asyncio.run(run())
    _done(started, f"{count} indexes built")
