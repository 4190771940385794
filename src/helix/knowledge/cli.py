"""`helix knowledge`: documents of a user, for whoever runs this Helix."""

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
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
from helix.core.config import load_settings
from helix.core.db import Database, Role
from helix.core.errors import HelixError, Misuse, Unavailable
from helix.core.instance import locate
from helix.knowledge import store
from helix.knowledge.domain import Knowledge, chunking_of, limits_of
from helix.knowledge.errors import UserUnknown
from helix.knowledge.policy import as_uuid
from helix.knowledge.render import shown_chunk, shown_document, shown_found
from helix.knowledge.types import DocumentId, Filters, MediaType, NewDocument, Source
from helix.knowledge.walk import FoundFile, find_files, read_file
from helix.retrieval import SIGNALS, choose_embedder, why_no_embedder

__all__ = ["main"]

T = TypeVar("T")
LOOKED_UP_AT_ONCE = 200
CONTENT_SHOWN = 100
CHUNKS_SHOWN = 500

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
User = Annotated[str, typer.Option("--user", help="Email, user name or id.", metavar="USER")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="Most rows shown.")]
KindOption = Annotated[str | None, typer.Option("--type", help="pattern, failure, solution …")]
SourceOption = Annotated[Source | None, typer.Option("--source")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="May be given several times.")]
QualityMin = Annotated[float | None, typer.Option("--quality-min", min=0, max=1)]
_COLUMNS = ("id", "knowledge_type", "title", "source", "quality", "version", "chunks", "expires_at")


def main(args: list[str]) -> None:
    """Run `helix knowledge …`."""
    app(args, prog_name="helix knowledge")


def _with(
    home: Path | None,
    user: str,
    work: Callable[[Knowledge, UUID], Awaitable[T]],
    *,
    vectors: bool = False,
    seconds: float | None = None,
) -> T:
    """Run `work` on the instance's knowledge, as the operator, for one user."""
    settings = load_settings(os.environ, home=home)
    target = locate(settings)

    async def run() -> T:
        db = Database(target.database_url, settings.pool_limits())
        try:
            async with db.transaction(Role.OPERATOR) as conn:
                user_id = await store.user_by_name(conn, name=user, user_id=as_uuid(user))
            if user_id is None:
                raise UserUnknown(user)
            limits = limits_of(settings)
            knowledge = Knowledge(
                db,
                choose_embedder(settings) if vectors else None,
                SystemClock(),
                limits=limits if seconds is None else replace(limits, seconds=seconds),
                chunking=chunking_of(settings),
                chunks_max=settings.knowledge_chunks_max,
                role=Role.OPERATOR,
                without=why_no_embedder(settings),
            )
            return await work(knowledge, user_id)
        finally:
            await db.close()

    return asyncio.run(run())


def _done(started: float, what: str) -> None:
    say(f"{what}; {time.monotonic() - started:.1f} s")


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= CONTENT_SHOWN else f"{line[: CONTENT_SHOWN - 1]}…"


def _filters(
    kind: str | None, source: Source | None, tags: list[str] | None, quality_min: float | None
) -> Filters:
    return Filters(
        knowledge_type=kind,
        source=source,
        tags=tuple(tags or ()),
        quality_min=None if quality_min is None else Decimal(str(round(quality_min, 4))),
    )


@dataclass(slots=True)
class _Tally:
    """What became of the files."""

    added: int = 0
    replaced: int = 0
    known: int = 0
    chunks: int = 0
    embedded: int = 0
    waiting: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


@app.command("add")
def add(
    paths: Annotated[list[Path], typer.Argument(help="Files and directories; - reads stdin.")],
    *,
    user: User,
    title: Annotated[str | None, typer.Option(help="Of a single document.")] = None,
    kind: Annotated[str, typer.Option("--type", help="pattern, failure, solution …")] = "document",
    source: Annotated[Source, typer.Option("--source")] = Source.MANUAL,
    tag: Tags = None,
    quality: Annotated[float | None, typer.Option(min=0, max=1, help="Else a rule.")] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            help="Not found from then on (UTC).", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
        ),
    ] = None,
    media_type: Annotated[
        MediaType | None, typer.Option("--media-type", help="Else by the ending of the name.")
    ] = None,
    hidden: Annotated[
        bool, typer.Option("--hidden", help="Names that begin with a dot too.")
    ] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, max=3600, help="Longest to read one file.")
    ] = 60.0,
    embed: Annotated[
        bool, typer.Option("--embed", help="Make the vectors here, not in the background.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add documents: text, Markdown, HTML, PDF; directories with all below them.

    Running it again adds only what is new or changed: the very bytes are skipped, a changed file
    replaces its older text. Symbolic links below a directory are not followed.
    """
    started = time.monotonic()
    stdin = sys.stdin.buffer.read() if Path("-") in paths else None
    files = [
        file
        for path in paths
        if path != Path("-")
        for file in find_files(path, media_type=media_type, hidden=hidden)
    ]
    if title is not None and len(files) + (stdin is not None) != 1:
        raise Misuse("--title: is for a single document")
    common = NewDocument(
        b"",
        media_type=media_type or MediaType.TEXT,
        title=title,
        knowledge_type=kind,
        source=source,
        tags=tuple(tag or ()),
        quality=None if quality is None else Decimal(str(round(quality, 2))),
        expires_at=None if expires is None else expires.replace(tzinfo=UTC),
    )

    async def work(knowledge: Knowledge, user_id: UUID) -> _Tally:
        tally = _Tally()
        with progress() as bars:
            bar = bars.add_task("adding", total=len(files) + (stdin is not None))
            if stdin is not None:
                await _add_one(knowledge, user_id, "-", replace(common, content=stdin), tally)
                bars.advance(bar)
            for at in range(0, len(files), LOOKED_UP_AT_ONCE):
                some = files[at : at + LOOKED_UP_AT_ONCE]
                await _add_some(
                    knowledge,
                    user_id,
                    some,
                    common=common,
                    tally=tally,
                    advance=lambda: bars.advance(bar),
                )
            waiting = await knowledge.count_missing(user_id=user_id)
            if embed and waiting:
                bar = bars.add_task("embedding", total=waiting)
                tally.embedded = await knowledge.embed_missing(
                    user_id=user_id, tell=lambda done: bars.update(bar, completed=done)
                )
                waiting = await knowledge.count_missing(user_id=user_id)
            tally.waiting = waiting
        return tally

    tally = _with(home, user, work, vectors=True, seconds=seconds)
    for name, reason in tally.failed:
        say(f"{name}: {reason}")
    record = msgspec.to_builtins(tally)
    if as_json:
        show_json({**record, "failed": [{"path": p, "reason": r} for p, r in tally.failed]})
    _done(
        started,
        f"{tally.added} added, {tally.replaced} replaced, {tally.known} already there, "
        f"{len(tally.failed)} failed; {tally.chunks} chunks, {tally.embedded} embedded, "
        f"{tally.waiting} wait for their vectors",
    )
    if tally.failed:
        raise typer.Exit(1)


async def _add_some(
    knowledge: Knowledge,
    user_id: UUID,
    files: Sequence[FoundFile],
    *,
    common: NewDocument,
    tally: _Tally,
    advance: Callable[[], None],
) -> None:
    """Add files, asking first which of them are there already; their bytes are read twice."""
    most = knowledge.limits.bytes_max
    hashes: dict[FoundFile, bytes] = {}
    for file in files:
        content = await asyncio.to_thread(read_file, file, bytes_max=most)
        if content is not None:
            hashes[file] = hashlib.sha256(content).digest()
    there = await knowledge.known(user_id=user_id, hashes=list(hashes.values()))
    for file in files:
        if hashes.get(file) in there:
            tally.known += 1
        else:
            content = await asyncio.to_thread(read_file, file, bytes_max=most)
            if content is None:
                tally.failed.append((str(file.path), "is not a plain file that can be read"))
            else:
                document = replace(
                    common, content=content, media_type=file.media_type, key=file.key
                )
                await _add_one(knowledge, user_id, str(file.path), document, tally)
        advance()


async def _add_one(
    knowledge: Knowledge, user_id: UUID, name: str, document: NewDocument, tally: _Tally
) -> None:
    """Add one document; what is wrong with it is told at the end and stops nothing else."""
    try:
        added = await knowledge.add(user_id=user_id, document=document)
    except Unavailable:
        raise
    except HelixError as exc:
        tally.failed.append((name, exc.message))
        return
    if added.duplicate:
        tally.known += 1
        return
    tally.chunks += added.chunks
    if added.replaced:
        tally.replaced += 1
    else:
        tally.added += 1


@app.command("list")
def listing(
    *,
    user: User,
    kind: KindOption = None,
    source: SourceOption = None,
    tag: Tags = None,
    quality_min: QualityMin = None,
    expired: Annotated[
        bool, typer.Option("--expired", help="Those whose time is over too.")
    ] = False,
    after_id: Annotated[UUID | None, typer.Option("--after")] = None,
    limit: Limit = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List a user's documents, newest first."""
    started = time.monotonic()

    async def work(knowledge: Knowledge, user_id: UUID) -> list[dict[str, Any]]:
        found = await knowledge.list(
            user_id=user_id,
            filters=_filters(kind, source, tag, quality_min),
            expired=expired,
            after_id=after_id,
            max_count=limit,
        )
        return [shown_document(document) for document in found]

    records = _with(home, user, work)
    show(_COLUMNS, records, as_json=as_json)
    _done(started, f"{len(records)} documents")


@app.command("show")
def show_one(
    document_id: UUID,
    *,
    user: User,
    chunks: Annotated[bool, typer.Option("--chunks", help="Its chunks, one a line.")] = False,
    text: Annotated[bool, typer.Option("--text", help="Its text and nothing else.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show one document, its chunks or its text."""
    own = DocumentId(document_id)

    async def work(knowledge: Knowledge, user_id: UUID) -> tuple[Any, list[Any], str]:
        whole = shown_document(await knowledge.get(user_id=user_id, document_id=own))
        listed: list[Any] = []
        while chunks and len(listed) % CHUNKS_SHOWN == 0:
            more = await knowledge.chunks(
                user_id=user_id, document_id=own, from_number=len(listed), max_count=CHUNKS_SHOWN
            )
            listed += [shown_chunk(chunk) for chunk in more]
            if not more:
                break
        parts: list[str] = []
        while text and sum(map(len, parts)) < whole["chars"]:
            start = sum(map(len, parts))
            parts.append(await knowledge.text(user_id=user_id, document_id=own, start=start))
        return whole, listed, "".join(parts)

    record, pieces, content = _with(home, user, work)
    if text:
        sys.stdout.write(content)
    elif chunks:
        columns = ("number", "start", "end", "first_page", "tokens", "headings", "content")
        shown = [{**piece, "content": _short(piece["content"])} for piece in pieces]
        show(columns, pieces if as_json else shown, as_json=as_json)
    elif as_json:
        show_json(record)
    else:
        rows = [{"field": name, "value": _cell(value)} for name, value in record.items()]
        show(("field", "value"), rows, as_json=False)


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict | tuple):
        return msgspec.json.encode(value).decode() if value else ""
    return value


@app.command("search")
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    *,
    user: User,
    count: Annotated[int, typer.Option(min=1, max=100)] = 5,
    explain: Annotated[bool, typer.Option(help="Say what each signal added.")] = False,
    kind: KindOption = None,
    source: SourceOption = None,
    tag: Tags = None,
    quality_min: QualityMin = None,
    document_id: Annotated[list[UUID] | None, typer.Option("--document")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Find what answers a question, best first, with the place it stands at."""
    chosen = None if document_id is None else tuple(DocumentId(i) for i in document_id)
    filters = replace(_filters(kind, source, tag, quality_min), document_ids=chosen)

    async def work(knowledge: Knowledge, user_id: UUID) -> Any:
        return await knowledge.search(
            user_id=user_id, query=query, filters=filters, max_count=count
        )

    found = _with(home, user, work, vectors=True)
    records = shown_found(found, explain=True)["data"]
    if as_json:
        for record in records:
            show_json(record)
    else:
        rows = []
        for hit in found.hits:
            place = f"{hit.document.title} [{hit.chunk.start}:{hit.chunk.end}]"
            if hit.chunk.first_page is not None:
                place += f" p. {hit.chunk.first_page}"
            why = " ".join(f"{name}={part:+.2f}" for name, part in hit.parts.items())
            rows.append(
                {"score": hit.score, "place": place, "content": _short(hit.chunk.content),
                 "why": why, "document_id": hit.document.id}
            )  # fmt: skip
        columns = ("score", "document_id", "place", "content", *(("why",) if explain else ()))
        show(columns, rows, as_json=False)
        if explain:
            for name in sorted({name for hit in found.hits for name in hit.parts}):
                say(f"  {name}: {SIGNALS[name]}")
    say(
        f"{len(records)} of {found.considered} chunks; vectors: {found.vectors}; "
        f"{found.took_ms:.0f} ms and {found.embedding_ms:.0f} ms for the question's vector"
    )


@app.command("remove")
def remove(
    document_ids: Annotated[list[UUID], typer.Argument(help="Which.")],
    *,
    user: User,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it only the plan.")] = False,
    home: Home = None,
) -> None:
    """Remove documents for good, with their chunks and vectors."""
    started = time.monotonic()
    ids = [DocumentId(i) for i in dict.fromkeys(document_ids)]

    async def work(knowledge: Knowledge, user_id: UUID) -> int:
        for i in ids:
            document = await knowledge.get(user_id=user_id, document_id=i)
            if not yes:
                say(f"would remove {i}: {_short(document.title)}, {document.chunks} chunks")
        return len(await knowledge.remove(user_id=user_id, ids=ids)) if yes else -1

    count = _with(home, user, work)
    if count < 0:
        say("nothing is removed yet: add --yes")
        raise typer.Exit(1)
    _done(started, f"{count} documents removed")


@app.command("stats")
def stats(*, user: User, home: Home = None, as_json: Json = False) -> None:
    """Count a user's documents, chunks and vectors."""
    started = time.monotonic()

    async def work(knowledge: Knowledge, user_id: UUID) -> Any:
        return await knowledge.stats(user_id=user_id)

    found = _with(home, user, work)
    record = {name: getattr(found, name) for name in found.__slots__}
    if as_json:
        show_json(record)
    else:
        rows = [{"field": name, "value": _cell(value)} for name, value in record.items()]
        show(("field", "value"), rows, as_json=False)
    _done(started, f"{found.documents} documents")
