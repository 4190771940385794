"""`helix backup restore` and `release`: bring a backup back, or the database of some moment."""

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from helix.core.audit import by_command
from helix.core.clock import SystemClock
from helix.core.command import Home, Json, say, show_json
from helix.core.config import Settings, load_settings
from helix.core.errors import Misuse
from helix.operations.backup.cli_parts import database_of, open_directory
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.moments import Moment, restore_moment
from helix.operations.backup.state import release
from helix.operations.backup.targets import into_database, into_home, replace_database
from helix.operations.backup.types import Backup, Method
from helix.operations.backup.wal import parse_lsn
from helix.operations.erasure.ledger import file_of, read

__all__ = ["release_command", "restore_command"]


def restore_command(  # noqa: PLR0917 - options, given by name
    name: Annotated[
        str, typer.Argument(help="The backup; of a moment, its base.", metavar="[NAME]")
    ] = "",
    to_time: Annotated[
        str | None,
        typer.Option(help="With all committed up to then; ISO 8601, UTC if it does not say."),
    ] = None,
    to_lsn: Annotated[
        str | None, typer.Option(help="With all of the log before it, such as 0/3000060.")
    ] = None,
    to_xid: Annotated[
        int | None, typer.Option(help="With this transaction and all before it.", min=3)
    ] = None,
    to_name: Annotated[
        str | None, typer.Option(help="At this point, made by `helix backup point`.")
    ] = None,
    to_latest: Annotated[
        bool, typer.Option("--to-latest", help="With all that was archived.")
    ] = False,
    timeline: Annotated[
        int | None, typer.Option(help="Follow this timeline, not the newest.", min=1)
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="A new home to restore into.", metavar="DIR")
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="A new database on the same server.", metavar="NAME")
    ] = None,
    home: Home = None,
    as_json: Json = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Replace the database there is; it is kept, renamed.")
    ] = False,
) -> None:
    """Bring a backup, or a moment (--to-…), back: into a new home, a new database, or in place.

    The copy starts in quarantine: no call, task or webhook until `helix backup release`.
    """

    async def work() -> None:
        settings, directory = open_directory(home)
        if into is not None and database is not None:
            raise Misuse("--into and --database are two different places: give one")
        moment = _moment(to_time, to_lsn, to_xid, to_name, to_latest, timeline)
        backup = directory.get(name) if name else None
        if moment is None and backup is None:
            raise Misuse("name a backup (`helix backup list`), or a moment with --to-…")
        if moment is None and backup is not None and backup.manifest.method is Method.LOGICAL:
            await _restore_logical(settings, directory, backup, into, database, as_json, yes)
            return
        if database is not None:
            raise Misuse(
                "a physical backup is a whole cluster: use --into DIR, or replace in place"
            )
        done = await restore_moment(
            settings,
            directory,
            moment or Moment(base_only=True),
            into=into,
            base=name or None,
            confirmed=yes,
            now=SystemClock().now(),
            report=say,
            actor=by_command(),
        )
        if as_json:
            show_json(done)
        if done.kept is not None:
            say(f"what was there is now {done.kept}: delete it when you are sure")
        if done.last_commit is not None:
            say(f"the last transaction in it is of {done.last_commit}")
        say(
            "QUARANTINED: nothing runs in it until `helix backup release` "
            f"(--home {into or settings.home_dir})"
        )
        say(
            f"recovered to {done.moment} from {done.base} and {done.segments} segments in "
            f"{done.duration_s:.1f} s"
        )

    asyncio.run(work())


def _moment(  # noqa: PLR0917 - the options, in their order
    to_time: str | None,
    to_lsn: str | None,
    to_xid: int | None,
    to_name: str | None,
    to_latest: bool,
    timeline: int | None,
) -> Moment | None:
    given = [value for value in (to_time, to_lsn, to_xid, to_name) if value is not None]
    if len(given) + to_latest > 1:
        raise Misuse("--to-time, --to-lsn, --to-xid, --to-name, --to-latest: give one")
    if not given and not to_latest:
        if timeline is not None:
            raise Misuse("--timeline needs a moment: add --to-latest or another --to-…")
        return None
    return Moment(
        at=None if to_time is None else _parse_time(to_time),
        lsn=None if to_lsn is None else parse_lsn(to_lsn),
        xid=to_xid,
        name=to_name,
        timeline=timeline,
    )


def _parse_time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as exc:
        raise Misuse(f"{text[:60]!r} is not a time: write it as 2026-11-22T10:30:00Z") from exc
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


async def _restore_logical(  # noqa: PLR0917 - the options, in their order
    settings: Settings,
    directory: BackupDirectory,
    backup: Backup,
    into: Path | None,
    database: str | None,
    as_json: bool,
    yes: bool,
) -> None:
    began, now = time.monotonic(), SystemClock().now()
    if into is not None:
        target = settings.model_copy(update={"home": into, "database_url": None, "db_host": None})
        done = await into_home(
            settings, target, backup, directory.keys, now=now, report=say, actor=by_command()
        )
        where = f"--home {target.home_dir}"
    elif database is not None:
        async with database_of(settings, "restore") as url:
            done = await into_database(
                url,
                settings,
                database,
                backup,
                directory.keys,
                now=now,
                report=say,
                actor=by_command(),
            )
        where = f"with DATABASE_URL naming {database}"
    else:
        done = await replace_database(
            settings,
            backup,
            directory.keys,
            confirmed=yes,
            now=now,
            report=say,
            actor=by_command(),
        )
        where = f"--home {settings.home_dir}"
    if as_json:
        show_json({"name": backup.name, "rows": done.rows, "feeds_reset": done.feeds_reset})
    if done.feeds_reset:
        say(
            "transaction numbers of the old cluster were forgotten: feeds are read from their "
            f"beginning again, {done.tasks_offered} pending tasks were offered again"
        )
    say(f"QUARANTINED: nothing runs in it until `helix backup release` ({where})")
    say(f"{done.rows} rows restored in {time.monotonic() - began:.1f} s")


def release_command(
    home: Home = None,
    as_json: Json = False,
    erasures: Annotated[
        Path | None,
        typer.Option(help="The original's erasures.jsonl. [that beside the backups]"),
    ] = None,
) -> None:
    """Let a restored copy act: calls, tasks and webhooks. Make sure the original does not run.

    Users, memories and documents that were erased since the backup was made are erased again.
    """

    async def work() -> None:
        settings = load_settings(os.environ, home=home)
        path = erasures or file_of(settings.backup_path)
        if erasures is not None and not path.is_file():
            raise Misuse(f"{path} is not there")
        if not path.exists():
            say(f"no {path}: whatever was erased since the backup was made is in this copy")
        known = read(path)
        async with database_of(settings, "release") as url:
            reasons = await release(url, erasures=known, actor=by_command())
        for reason in reasons:
            if as_json:
                show_json({"released": reason})
            else:
                print(reason)
        say(f"{len(known)} erasures applied")
        say(f"{len(reasons)} quarantines ended" if reasons else "it was not in quarantine")

    asyncio.run(work())
