"""`helix archive …`: files of old requests: list, read in, bring back and check them."""

import asyncio
import time
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
import typer

from helix.core.audit import by_command
from helix.core.clock import SystemClock
from helix.core.command import Home, Json, say, show_json, show_table
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.core.instance import load_keyring
from helix.operations.archive.errors import ArchiveDamaged
from helix.operations.archive.read import query
from helix.operations.archive.restore import restore, restore_plan
from helix.operations.archive.store import QUERIES, list_files
from helix.operations.archive.types import ArchiveFile, Filters
from helix.operations.archive.verify import unlisted, verify
from helix.operations.command import database
from helix.operations.steps import connected, opened

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Archived requests: list the files, read in them, bring months back, check every byte.",
)

_FILE_COLUMNS = (
    "month", "status", "requests", "responses", "texts", "rows_bytes", "file_bytes", "archived_at",
    "name",
)  # fmt: skip
_ROW_COLUMNS = (
    "request_id", "created_at", "user_id", "model_name", "status", "answers", "tokens", "cost_usd",
)  # fmt: skip


def main(args: list[str]) -> None:
    """Run `helix archive` with these arguments."""
    app(args, prog_name="helix archive")


def _month(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError as exc:
        raise Misuse(f"{text[:20]!r} is not a month: write it as 2026-05") from exc


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise Misuse(
            f"{text[:40]!r} is not a time: write it as 2026-05-01 or 2026-05-01T12:00:00Z"
        ) from exc
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _line(file: ArchiveFile) -> dict[str, Any]:
    requests, request_texts, responses, response_texts = file.counts
    return {
        "month": f"{file.month:%Y-%m}",
        "status": file.status,
        "requests": requests,
        "responses": responses,
        "texts": request_texts + response_texts,
        "rows_bytes": file.plain_bytes,
        "file_bytes": file.size_bytes,
        "archived_at": file.archived_at,
        "name": file.name,
    }


@app.command("list")
def list_command(home: Home = None, as_json: Json = False) -> None:
    """List the files of the archive, oldest first, and what was brought back."""

    async def work() -> None:
        async with (
            database(home, "helix archive list") as (settings, url),
            connected(url, opened) as conn,
        ):
            files = await list_files(conn)
            restores = await QUERIES.rows(conn, "list_restores", max_count=100)
        lines = [_line(file) for file in files]
        if as_json:
            for line in lines:
                show_json(line)
        else:
            show_table(_FILE_COLUMNS, lines)
        for row in restores:
            say(
                f"{row['month']:%Y-%m} was brought back at {row['restored_at']:%Y-%m-%d %H:%M} and "
                f"stays until {row['keep_until']:%Y-%m-%d %H:%M}"
            )
        size = sum(file.size_bytes or 0 for file in files)
        count = sum(file.request_count or 0 for file in files)
        say(f"{len(files)} files, {count} requests, {size} bytes, in {settings.archive_path}")

    asyncio.run(work())


async def _user(conn: Connection, name: str | None) -> UUID | None:
    if name is None:
        return None
    row = await QUERIES.row(conn, "find_user", name=name)
    if row is None:
        try:
            return UUID(name)  # an erased one: their requests are there, without them
        except ValueError as exc:
            raise Misuse(
                f"there is no user {name[:80]!r}: give an id or an e-mail address"
            ) from exc
    found: UUID = row["id"]
    return found


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    responses = row["responses"]
    return {
        "request_id": row["id"],
        "created_at": row["created_at"],
        "user_id": row["user_id"],
        "model_name": row["model_name"],
        "status": row["status"],
        "answers": len(responses),
        "tokens": sum(one["tokens_total"] for one in responses),
        "cost_usd": str(sum((float(one["cost_usd"]) for one in responses), 0.0)),
    }


@app.command("query")
def query_command(  # noqa: PLR0917 - options, given by name
    from_time: Annotated[
        str | None, typer.Option("--from", help="Requests from this time on (UTC).")
    ] = None,
    to_time: Annotated[str | None, typer.Option("--to", help="Requests before this time.")] = None,
    user: Annotated[str | None, typer.Option(help="Of this user: id or e-mail address.")] = None,
    model: Annotated[str | None, typer.Option(help="For this model, as it was asked for.")] = None,
    request: Annotated[str | None, typer.Option("--id", help="This one request.")] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="With what was asked and answered; implies --json.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most requests.")] = 100,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Read archived requests, oldest first, without bringing them back."""

    async def work() -> None:
        began = time.monotonic()
        try:
            request_id = None if request is None else UUID(request)
        except ValueError as exc:
            raise Misuse(f"{request!r} is not the id of a request") from exc
        if request_id is not None and request_id.version != 7:
            raise Misuse(f"{request_id} is not the id of a request: those are UUIDs of version 7")
        count = 0
        async with (
            database(home, "helix archive query") as (settings, url),
            connected(url, opened) as conn,
        ):
            filters = Filters(
                _moment(from_time), _moment(to_time), await _user(conn, user), model, request_id
            )
            records: list[dict[str, Any]] = []
            async for row in query(
                conn, settings, load_keyring(settings), filters, texts=texts, max_count=limit
            ):
                count += 1
                if as_json or texts:
                    show_json(row)
                else:
                    records.append(_shown(row))
        if not (as_json or texts):
            show_table(_ROW_COLUMNS, records)
        say(f"{count} archived requests; {time.monotonic() - began:.1f} s")

    asyncio.run(work())


@app.command("restore")
def restore_command(  # noqa: PLR0917 - options, given by name
    month: Annotated[str, typer.Argument(help="The month, as 2026-05.")],
    to: Annotated[str | None, typer.Option(help="The last month, if it is several.")] = None,
    home: Home = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it is.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it.")] = False,
) -> None:
    """Bring archived months back into the database, for HELIX_ARCHIVE_RESTORE_DAYS.

    Without --yes it only shows the files it would read.
    """
    first = _month(month)
    last = first if to is None else _month(to)

    async def work() -> None:
        began = time.monotonic()
        async with database(home, "helix archive restore") as (settings, url):
            if dry_run or not yes:
                async with connected(url, opened) as conn:
                    files = await restore_plan(conn, from_month=first, to_month=last)
                show_table(_FILE_COLUMNS, [_line(file) for file in files])
                count = sum(file.request_count or 0 for file in files)
                say(f"{len(files)} files, {count} requests; nothing was changed")
                if not dry_run:
                    raise Misuse("repeat it with --yes to bring them back")
                return
            done = await restore(
                url,
                settings,
                load_keyring(settings),
                from_month=first,
                to_month=last,
                now=SystemClock().now(),
                actor=by_command(),
            )
        for one in done:
            if as_json:
                print(msgspec.json.encode(asdict(one)).decode())
            say(
                f"{one.month:%Y-%m}: {one.request_count} requests, {one.response_count} answers, "
                f"{one.text_count} texts; {one.withheld_count} texts stay away, erased; kept until "
                f"{one.keep_until:%Y-%m-%d %H:%M}"
            )
        total = sum(one.request_count for one in done)
        say(f"{total} requests brought back; {time.monotonic() - began:.1f} s")

    asyncio.run(work())


@app.command("verify")
def verify_command(home: Home = None, as_json: Json = False) -> None:
    """Read every byte of every file; exit 1 when one is missing, damaged or cannot be opened."""

    async def work() -> None:
        began = time.monotonic()
        files = faults = 0
        async with (
            database(home, "helix archive verify") as (settings, url),
            connected(url, opened) as conn,
        ):
            async for check in verify(conn, settings, load_keyring(settings)):
                files += 1
                faults += check.fault is not None
                if as_json:
                    show_json(check)
                elif check.fault is not None:
                    print(f"{check.name}  {check.fault}")
            strangers = await unlisted(conn, settings)
        for path in strangers:
            say(f"{path} belongs to no row of archive_files: another database's, or left by one")
        say(f"{files} files read, {faults} faulty; {time.monotonic() - began:.1f} s")
        if faults:
            raise ArchiveDamaged(f"{faults} of {files} files of the archive cannot be used")

    asyncio.run(work())
