"""`helix backup …`: make, list, test, restore, release and throw away backups."""

import asyncio
import os
import time
from typing import Annotated

import typer

from helix.core.audit import by_command
from helix.core.clock import SystemClock
from helix.core.command import Home, Json, say, show_json
from helix.core.config import Settings, load_settings
from helix.core.errors import HelixError, Misuse
from helix.core.instance import HomePaths, load_keyring
from helix.operations.backup.archive import clusters
from helix.operations.backup.base import create_physical
from helix.operations.backup.cli_parts import Name, database_of, open_directory
from helix.operations.backup.cli_restore import release_command, restore_command
from helix.operations.backup.create import create_logical
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.moments import mark
from helix.operations.backup.prune import Keeping, Pruned
from helix.operations.backup.prune import prune as throw_away
from helix.operations.backup.ranges import recoverable
from helix.operations.backup.state import Archiving, backup_health, record_pruned, verified_at
from helix.operations.backup.types import Backup, Manifest, Method
from helix.operations.backup.verify import verify as test
from helix.operations.postgres_programs import find_programs

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Backups: made, listed, tested by restoring them, restored, released, thrown away.",
)

app.command("restore")(restore_command)
app.command("release")(release_command)


def main(args: list[str]) -> None:
    """Run `helix backup` with these arguments."""
    app(args, prog_name="helix backup")


def _line(backup: Backup) -> dict[str, object]:
    manifest = backup.manifest
    return {
        "name": backup.name,
        "method": manifest.method,
        "created_at": manifest.created_at,
        "size_bytes": manifest.size_bytes,
        "database_bytes": manifest.database_bytes,
        "rows": manifest.rows,
        "schema_version": manifest.schema_version,
        "server_version": manifest.server_version,
    }


def _key_advice(settings: Settings) -> str:
    place = (
        "HELIX_SECRET_KEYS"
        if settings.secret_keys is not None
        else str(HomePaths(settings.home_dir).keys)
    )
    return (
        f"The key that opens it is NOT in the backup: it is in {place}. Keep a copy of that "
        "elsewhere (`helix backup key` tells how); without it no backup can be read"
    )


@app.command("create")
def create_command(
    home: Home = None,
    as_json: Json = False,
    physical: Annotated[
        bool,
        typer.Option("--physical", help="Copy the files: the base of point-in-time recovery."),
    ] = False,
) -> None:
    """Back the database up, encrypted, as of one moment; nothing is listed until it is whole."""

    async def work() -> None:
        began = time.monotonic()
        settings, directory = open_directory(home)
        make = create_physical if physical else create_logical
        async with database_of(settings, "create") as url:
            now, actor = SystemClock().now(), by_command()
            backup = await make(url, settings, directory, now=now, report=say, actor=actor)
        if as_json:
            show_json(_line(backup))
        else:
            print(backup.name)
        say(_key_advice(settings))
        manifest = backup.manifest
        say(
            f"{_extent(manifest)}, {manifest.size_bytes} bytes encrypted, "
            f"{time.monotonic() - began:.1f} s; test it: helix backup verify {backup.name}"
        )

    asyncio.run(work())


def _extent(manifest: Manifest) -> str:
    if manifest.method is Method.PHYSICAL:
        return f"{manifest.database_bytes} bytes"
    return f"{manifest.rows} rows"


def _ranges(settings: Settings, directory: BackupDirectory, backups: list[Backup]) -> list[str]:
    archives = clusters(directory.path, directory.keys)
    if not archives:
        return []
    stretches = recoverable(backups, archives, find_programs(settings))
    lines = [
        f"recoverable to any moment from {one.since:%Y-%m-%d %H:%M:%S} to "
        f"{one.until:%Y-%m-%d %H:%M:%S} UTC (position {one.until_lsn}, timeline {one.timeline})"
        + (f"; BROKEN: {one.fault}" if one.fault else "")
        for one in stretches
    ]
    return lines or ["no moment is recoverable: `helix backup create --physical`"]


@app.command("list")
def list_command(home: Home = None, as_json: Json = False) -> None:
    """List the backups, newest first, and when each passed its restore test.

    What cannot be used is named on stderr, with the reason; the exit status is 1 then.
    """

    async def work() -> None:
        settings, directory = open_directory(home)
        backups, unusable = directory.list()
        try:
            async with database_of(settings, "list") as url:
                tested = await verified_at(url)
        except HelixError as exc:
            say(f"restore tests are not known: {exc.message}")
            tested = {}
        for backup in backups:
            when = tested.get(backup.name)
            if as_json:
                show_json({**_line(backup), "verified_at": when})
                continue
            manifest = backup.manifest
            state = f"restored {when:%Y-%m-%d %H:%M}" if when else "never restored"
            print(
                f"{backup.name}  {manifest.method:<8}  {manifest.size_bytes:>14}  "
                f"{_extent(manifest):>20}  {state}"
            )
        for name, reason in unusable.items():
            say(f"{name} CANNOT BE USED: {reason}")
        for line in await asyncio.to_thread(_ranges, settings, directory, backups):
            say(line)
        total = sum(backup.manifest.size_bytes for backup in backups)
        say(f"{len(backups)} backups, {total} bytes, in {directory.path}")
        if unusable:
            raise HelixError(f"{len(unusable)} backups cannot be used")

    asyncio.run(work())


@app.command("verify")
def verify_command(name: Name = "", home: Home = None, as_json: Json = False) -> None:
    """Restore a backup into a scratch PostgreSQL and compare everything with its manifest."""

    async def work() -> None:
        settings, directory = open_directory(home)
        backup = directory.get(name) if name else directory.newest()
        async with database_of(settings, "verify") as url:
            took_s = await test(url, settings, directory, backup, report=say, actor=by_command())
        if as_json:
            show_json({"name": backup.name, "equal": True, "duration_s": round(took_s, 3)})
        contents = backup.manifest.contents
        things = len(contents.things) if contents else 0
        say(
            f"{backup.name} came back equal: {_extent(backup.manifest)}, {things} things of the "
            f"catalogue; {took_s:.1f} s"
        )

    asyncio.run(work())


@app.command("prune")
def prune_command(
    home: Home = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is shown.")] = False,
) -> None:
    """Delete old backups, and the archived log that no physical backup needs any more.

    Logical ones go after HELIX_BACKUP_DAYS, never the newest HELIX_BACKUP_KEEP_MIN; physical ones
    when another that is older than HELIX_BACKUP_WINDOW_DAYS came after them. Without --yes it only
    shows them.
    """
    settings, directory = open_directory(home)
    only_show = dry_run or not yes
    going = throw_away(directory, Keeping.of(settings), now=SystemClock().now(), dry_run=only_show)
    if not only_show:
        asyncio.run(_record_prune(settings, going))
    for backup in going.backups:
        if as_json:
            show_json(_line(backup))
        else:
            print(backup.name)
    say(
        f"{len(going.backups)} backups and {going.segments} segments of the log, "
        f"{going.size_bytes} bytes " + ("would go; nothing was deleted" if only_show else "deleted")
    )
    if (going.backups or going.segments) and only_show and not dry_run:
        raise Misuse("repeat it with --yes to delete them")


async def _record_prune(settings: Settings, gone: Pruned) -> None:
    """Record what was deleted, where there is a database; what went is gone in any case."""
    if not gone.backups and not gone.segments:
        return
    try:
        async with database_of(settings, "prune") as url:
            await record_pruned(url, gone, actor=by_command())
    except HelixError as exc:
        say(f"not recorded in audit_log: {exc.message}")


@app.command("status")
def status_command(home: Home = None, as_json: Json = False) -> None:
    """Say how old the last backup, restore test and archived log are; exit 1 on any alarm."""

    async def work() -> None:
        settings, directory = open_directory(home)
        async with database_of(settings, "status") as url:
            health = await backup_health(url, directory, now=SystemClock().now(), settings=settings)
        if as_json:
            show_json(health)
        else:
            print(f"backups            {health.backups}")
            print(f"last backup        {health.last_backup_at or 'never'}")
            print(f"last physical      {health.last_physical_at or 'never'}")
            print(f"last restore test  {health.last_restore_test_at or 'never'}")
            print(f"log archiving      {_archiving(health.archiving)}")
            for stretch in health.recoverable:
                print(f"recoverable        {stretch.since} to {stretch.until}")
        for alarm in health.alarms:
            say(f"ALARM: {alarm}")
        if health.alarms:
            raise HelixError(f"{len(health.alarms)} alarms")

    asyncio.run(work())


def _archiving(found: Archiving | None) -> str:
    if found is None:
        return "off"
    return f"{found.segments} segments, {found.size_bytes} bytes; {found.waiting} waiting" + (
        f" for {found.lag_s:.0f} s" if found.waiting else ""
    )


@app.command("point")
def point_command(
    name: Annotated[str, typer.Argument(help="What to call it: a-z, 0-9, _ and -.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Put a named place to recover to into the log, before something risky; archive up to it."""

    async def work() -> None:
        settings, _ = open_directory(home)
        async with database_of(settings, "point") as url:
            lsn = await mark(url, settings, name)
        if as_json:
            show_json({"name": name, "lsn": lsn})
        else:
            print(lsn)
        say(f"back to it: helix backup restore --to-name {name}")

    asyncio.run(work())


@app.command("key")
def key_command(home: Home = None) -> None:
    """Say where the key is that opens the backups, its id, and how to keep it; never the key."""
    settings = load_settings(os.environ, home=home)
    keyring = load_keyring(settings)
    if settings.secret_keys is not None:
        print(f"{keyring.key_id}  HELIX_SECRET_KEYS")
    else:
        print(f"{keyring.key_id}  {HomePaths(settings.home_dir).keys}")
    say(
        "Keep a copy of it where the backups are not: a password manager, a sealed envelope, "
        "another machine. Whoever has both a backup and the key can read everything; whoever has "
        "only the backups can read nothing, and neither can you. After a rotation keep the old "
        "key for as long as a backup that was made with it"
    )
