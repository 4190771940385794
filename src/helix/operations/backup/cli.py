"""`helix backup …`: make, list, test, restore, release and throw away backups."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.errors import HelixError, Misuse
from helix.core.instance import HomePaths, load_keyring
from helix.operations.backup.create import create_logical
from helix.operations.backup.create import prune as throw_away
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.state import backup_health, release, verified_at
from helix.operations.backup.targets import into_database, into_home, replace_database
from helix.operations.backup.types import Backup
from helix.operations.backup.verify import verify as test
from helix.operations.postgres import running_postgres

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Backups: made, listed, tested by restoring them, restored, released, thrown away.",
)

Home = Annotated[Path | None, typer.Option(help="Directory of the instance. [HELIX_HOME]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
Name = Annotated[str, typer.Argument(help="The backup; the newest if left out.", metavar="[NAME]")]


def main(args: list[str]) -> None:
    """Run `helix backup` with these arguments."""
    app(args, prog_name="helix backup")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _emit(value: object) -> None:
    print(msgspec.json.encode(value).decode())


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def _open(home: Path | None) -> tuple[Settings, BackupDirectory]:
    settings = load_settings(os.environ, home=home)
    keys = load_keyring(settings).derived(BACKUP_PURPOSE)
    return settings, BackupDirectory(settings.backup_path, keys)


@asynccontextmanager
async def _database(settings: Settings, command: str) -> AsyncIterator[str]:
    async with running_postgres(settings, command=f"helix backup {command}", report=_say) as url:
        yield url


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
def create_command(home: Home = None, as_json: AsJson = False) -> None:
    """Back the database up, encrypted, as of one moment; nothing is listed until it is whole."""

    async def work() -> None:
        began = time.monotonic()
        settings, directory = _open(home)
        async with _database(settings, "create") as url:
            backup = await create_logical(
                url, settings, directory, now=SystemClock().now(), report=_say
            )
        if as_json:
            _emit(_line(backup))
        else:
            print(backup.name)
        _say(_key_advice(settings))
        manifest = backup.manifest
        _say(
            f"{manifest.rows} rows, {manifest.size_bytes} bytes encrypted, "
            f"{time.monotonic() - began:.1f} s; test it: helix backup verify {backup.name}"
        )

    _run(work())


@app.command("list")
def list_command(home: Home = None, as_json: AsJson = False) -> None:
    """List the backups, newest first, and when each passed its restore test.

    What cannot be used is named on stderr, with the reason; the exit status is 1 then.
    """

    async def work() -> None:
        settings, directory = _open(home)
        backups, unusable = directory.list()
        try:
            async with _database(settings, "list") as url:
                tested = await verified_at(url)
        except HelixError as exc:
            _say(f"restore tests are not known: {exc.message}")
            tested = {}
        for backup in backups:
            when = tested.get(backup.name)
            if as_json:
                _emit({**_line(backup), "verified_at": when})
                continue
            manifest = backup.manifest
            state = f"restored {when:%Y-%m-%d %H:%M}" if when else "never restored"
            print(
                f"{backup.name}  {manifest.method:<8}  {manifest.size_bytes:>14}  "
                f"{manifest.rows:>12} rows  {state}"
            )
        for name, reason in unusable.items():
            _say(f"{name} CANNOT BE USED: {reason}")
        total = sum(backup.manifest.size_bytes for backup in backups)
        _say(f"{len(backups)} backups, {total} bytes, in {directory.path}")
        if unusable:
            raise HelixError(f"{len(unusable)} backups cannot be used")

    _run(work())


@app.command("verify")
def verify_command(name: Name = "", home: Home = None, as_json: AsJson = False) -> None:
    """Restore a backup into a scratch PostgreSQL and compare everything with its manifest."""

    async def work() -> None:
        settings, directory = _open(home)
        backup = directory.get(name) if name else directory.newest()
        async with _database(settings, "verify") as url:
            took_s = await test(url, settings, directory, backup, report=_say)
        if as_json:
            _emit({"name": backup.name, "equal": True, "duration_s": round(took_s, 3)})
        contents = backup.manifest.contents
        things = len(contents.things) if contents else 0
        _say(
            f"{backup.name} came back equal: {backup.manifest.rows} rows, {things} things of the "
            f"catalogue; {took_s:.1f} s"
        )

    _run(work())


@app.command("restore")
def restore_command(  # noqa: PLR0917 - options, given by name
    name: Annotated[str, typer.Argument(help="The backup.")],
    into: Annotated[
        Path | None, typer.Option(help="A new home to restore into.", metavar="DIR")
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="A new database on the same server.", metavar="NAME")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Replace the database there is; it is kept, renamed.")
    ] = False,
) -> None:
    """Bring a backup back: into a new home, a new database, or in place of the one there is.

    The copy starts in quarantine: no call, task or webhook until `helix backup release`.
    """

    async def work() -> None:
        began = time.monotonic()
        settings, directory = _open(home)
        if into is not None and database is not None:
            raise Misuse("--into and --database are two different places: give one")
        backup = directory.get(name)
        now = SystemClock().now()
        if into is not None:
            target = settings.model_copy(
                update={"home": into, "database_url": None, "db_host": None}
            )
            done = await into_home(settings, target, backup, directory.keys, now=now, report=_say)
            where = f"--home {target.home_dir}"
        elif database is not None:
            async with _database(settings, "restore") as url:
                done = await into_database(
                    url, settings, database, backup, directory.keys, now=now, report=_say
                )
            where = f"with DATABASE_URL naming {database}"
        else:
            done = await replace_database(
                settings, backup, directory.keys, confirmed=yes, now=now, report=_say
            )
            where = f"--home {settings.home_dir}"
        if as_json:
            _emit({"name": backup.name, "rows": done.rows, "feeds_reset": done.feeds_reset})
        if done.feeds_reset:
            _say(
                "transaction numbers of the old cluster were forgotten: feeds are read from their "
                f"beginning again, {done.tasks_offered} pending tasks were offered again"
            )
        _say(f"QUARANTINED: nothing runs in it until `helix backup release` ({where})")
        _say(f"{done.rows} rows restored in {time.monotonic() - began:.1f} s")

    _run(work())


@app.command("release")
def release_command(home: Home = None, as_json: AsJson = False) -> None:
    """Let a restored copy act: calls, tasks and webhooks. Make sure the original does not run."""

    async def work() -> None:
        settings = load_settings(os.environ, home=home)
        async with _database(settings, "release") as url:
            reasons = await release(url)
        for reason in reasons:
            if as_json:
                _emit({"released": reason})
            else:
                print(reason)
        _say(f"{len(reasons)} quarantines ended" if reasons else "it was not in quarantine")

    _run(work())


@app.command("prune")
def prune_command(
    home: Home = None,
    as_json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is shown.")] = False,
) -> None:
    """Delete backups older than HELIX_BACKUP_DAYS, never the newest HELIX_BACKUP_KEEP_MIN.

    Without --yes it only shows them.
    """
    settings, directory = _open(home)
    only_show = dry_run or not yes
    going = throw_away(
        directory,
        now=SystemClock().now(),
        days=settings.backup_days,
        keep_min=settings.backup_keep_min,
        dry_run=only_show,
    )
    for backup in going:
        if as_json:
            _emit(_line(backup))
        else:
            print(backup.name)
    freed = sum(backup.manifest.size_bytes for backup in going)
    _say(
        f"{len(going)} backups, {freed} bytes "
        + ("would go; nothing was deleted" if only_show else "deleted")
    )
    if going and only_show and not dry_run:
        raise Misuse("repeat it with --yes to delete them")


@app.command("status")
def status_command(home: Home = None, as_json: AsJson = False) -> None:
    """Say how old the last backup and the last restore test are; exit 1 when one is overdue."""

    async def work() -> None:
        settings, directory = _open(home)
        async with _database(settings, "status") as url:
            health = await backup_health(url, directory, now=SystemClock().now())
        if as_json:
            _emit(health)
        else:
            print(f"backups            {health.backups}")
            print(f"last backup        {health.last_backup_at or 'never'}")
            print(f"last restore test  {health.last_restore_test_at or 'never'}")
        for alarm in health.alarms:
            _say(f"ALARM: {alarm}")
        if health.alarms:
            raise HelixError(f"{len(health.alarms)} alarms")

    _run(work())


@app.command("key")
def key_command(home: Home = None) -> None:
    """Say where the key is that opens the backups, its id, and how to keep it; never the key."""
    settings = load_settings(os.environ, home=home)
    keyring = load_keyring(settings)
    if settings.secret_keys is not None:
        print(f"{keyring.key_id}  HELIX_SECRET_KEYS")
    else:
        print(f"{keyring.key_id}  {HomePaths(settings.home_dir).keys}")
    _say(
        "Keep a copy of it where the backups are not: a password manager, a sealed envelope, "
        "another machine. Whoever has both a backup and the key can read everything; whoever has "
        "only the backups can read nothing, and neither can you. After a rotation keep the old "
        "key for as long as a backup that was made with it"
    )
