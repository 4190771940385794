"""`helix secrets …`: the encryption keys, and everything they encrypt."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from helix import providers
from helix.core import audit
from helix.core.command import Home, Json, progress, say, show
from helix.core.config import Settings, load_settings
from helix.core.crypto import id_of_key, new_key
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.core.instance import HomePaths, load_keyring, make_home, read_keys, write_keys
from helix.operations.postgres import running_postgres
from helix.operations.secrets.errors import KeyStillNeeded, SecretsUnreadable
from helix.operations.secrets.files import keys_of_files
from helix.operations.secrets.rotate import (
    add_key,
    alone,
    left_behind,
    remove_keys,
    renew_file,
    rotate,
)
from helix.operations.secrets.rows import (
    connected,
    count_keys,
    find_unreadable,
    undecided_columns,
)
from helix.operations.secrets.types import Places
from helix.operations.secrets.watch import unreadable_lines

__all__ = ["PLACES", "app", "main"]

PLACES: Places = {("provider_configs", "value"): providers.credential_places}
_NAMED_MAX = 20

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Encryption keys and what they encrypt: status, rotate, check, retire.",
)
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it nothing is done.")]


def main(args: list[str]) -> None:
    """Run `helix secrets` with these arguments."""
    app(args, prog_name="helix secrets")


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@asynccontextmanager
async def _database(settings: Settings, command: str) -> AsyncIterator[Connection]:
    async with (
        running_postgres(settings, command=f"helix secrets {command}", report=say) as url,
        connected(url) as conn,
    ):
        yield conn


@app.command("status")
def status_command(home: Home = None, as_json: Json = False) -> None:
    """Show how many values of each column each key made, and what else needs a key.

    The exit status is 1 when a value's key is not configured.
    """

    async def work() -> None:
        settings = load_settings(os.environ, home=home)
        keyring = load_keyring(settings)
        async with _database(settings, "status") as conn:
            counts = await count_keys(conn)
            undecided = await undecided_columns(conn)
        standing = dict.fromkeys(keyring.key_ids, "old")
        standing[keyring.key_id] = "current"
        rows: list[dict[str, Any]] = [
            {
                "where": f"{one.table}.{one.column}",
                "key_id": one.key_id,
                "standing": "plain"
                if one.key_id is None
                else standing.get(one.key_id, "NOT CONFIGURED"),
                "rows": one.rows,
            }
            for one in counts
        ]
        for key_id, files in keys_of_files(settings).items():
            where, known = "backups and archives", standing.get(key_id, "NOT CONFIGURED")
            rows.append({"where": where, "key_id": key_id, "standing": known, "rows": len(files)})
        for key_id in keyring.key_ids:
            if not any(row["key_id"] == key_id for row in rows):
                row = {"where": "nothing", "key_id": key_id, "standing": standing[key_id]}
                rows.append({**row, "rows": 0})
        show(("where", "key_id", "standing", "rows"), rows, as_json=as_json)
        for column in undecided:
            say(f"{column} may hold secrets and does not say so: comment it `Ciphertext …`")
        say(f"{len(keyring.key_ids)} keys; {keyring.key_id} encrypts")
        lost = unreadable_lines(counts, keyring.key_ids)
        for line in lost:
            say(line)
        if lost:
            raise SecretsUnreadable(f"{len(lost)} columns hold values of keys that are not there")

    _run(work())


@app.command("rotate")
def rotate_command(
    home: Home = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
    another: Annotated[
        bool, typer.Option("--new-key", help="Make a new key though a rotation is unfinished.")
    ] = False,
) -> None:
    """Make a new key and every value anew with it, while Helix runs; the old key stays readable.

    After an end before its time, of whatever kind, it goes on where it was. With HELIX_SECRET_KEYS
    the new key is put first there, by hand, and Helix restarted; then this makes the values anew.
    """

    async def work() -> None:
        began = time.monotonic()
        settings = load_settings(os.environ, home=home)
        keyring = load_keyring(settings)
        path = HomePaths(settings.home_dir)
        async with _database(settings, "rotate") as conn, alone(conn):
            waiting = await left_behind(conn, keyring)
            makes = settings.secret_keys is None and (another or not waiting)
            if makes:
                waiting = sum(one.rows for one in await count_keys(conn) if one.key_id is not None)
            if dry_run:
                say(f"{waiting} values would be made anew with {'a new key' if makes else 'key '}")
                return
            if makes:
                key_id = add_key(path.keys)
                say(f"key {key_id} is now the first of {path.keys}: keep a copy of it elsewhere")
                await _audit(conn, "secrets.key_added", key_id)
            elif waiting:
                say(f"going on with the rotation to key {keyring.key_id}")
            with progress() as bars:
                bar = bars.add_task("values", total=waiting)
                done = await rotate(
                    conn, keyring, PLACES, progress=lambda rows: bars.advance(bar, rows)
                )
            renew_file(path.bootstrap_key, keyring)
            await _audit(
                conn, "secrets.rotated", done.key_id, rows=done.rows, lost=len(done.unreadable)
            )
        for one in done.unreadable[:_NAMED_MAX]:
            say(f"{one.table}.{one.column} {one.row_id}: {one.reason}")
        say(f"{done.rows} rows are encrypted with {done.key_id}; {time.monotonic() - began:.1f} s")
        if done.unreadable:
            raise SecretsUnreadable(
                f"{len(done.unreadable)} values do not open and were left as they are: store them "
                "again (helix secrets check lists them)"
            )
        if len(keyring.key_ids) > 1:
            say("older keys can be taken out when nothing needs them: helix secrets retire")

    _run(work())


async def _audit(conn: Connection, operation: str, key_id: str, **details: Any) -> None:
    await audit.record(
        conn,
        operation,
        actor=audit.by_command(),
        subject="encryption_key",
        subject_name=key_id,
        details=details or None,
    )


@app.command("check")
def check_command(home: Home = None, as_json: Json = False) -> None:
    """Open every encrypted value and name those that do not open; the exit status is 1 then."""

    async def work() -> None:
        began = time.monotonic()
        settings = load_settings(os.environ, home=home)
        keyring = load_keyring(settings)
        async with _database(settings, "check") as conn:
            bad = await find_unreadable(conn, keyring, PLACES)
            counts = await count_keys(conn)
        show(
            ("table", "column", "row_id", "reason"),
            [
                {"table": b.table, "column": b.column, "row_id": b.row_id, "reason": b.reason}
                for b in bad
            ],
            as_json=as_json,
        )
        total = sum(one.rows for one in counts if one.key_id is not None)
        say(f"{total} values opened or tried, {len(bad)} bad; {time.monotonic() - began:.1f} s")
        if bad:
            raise SecretsUnreadable(f"{len(bad)} values do not open: store them again")

    _run(work())


@app.command("retire")
def retire_command(
    home: Home = None,
    yes: Yes = False,
    abandon: Annotated[
        bool, typer.Option("--abandon-backups", help="Though backups or archives need the key.")
    ] = False,
) -> None:
    """Take every key but the first out of HOME/keys, if nothing needs it any more.

    Refused while a row does; backups and archives that need one are named. Logins that are signed
    with a retired key end, and webhooks are signed without it.
    """

    async def work() -> None:
        settings = load_settings(os.environ, home=home)
        if settings.secret_keys is not None:
            raise Misuse("the keys are in HELIX_SECRET_KEYS: take the old one out there")
        path = HomePaths(settings.home_dir)
        keyring = load_keyring(settings)
        old = set(keyring.key_ids[1:])
        files = keys_of_files(settings)
        for key_id in sorted(old):
            say(f"key {key_id}: {len(files.get(key_id, []))} backup and archive files need it")
            for file in files.get(key_id, [])[:_NAMED_MAX]:
                say(f"  {file}")
        needed = {key_id for key_id in old if files.get(key_id)}
        if needed and not abandon:
            raise KeyStillNeeded(
                f"{', '.join(sorted(needed))}: files need it; wait until they are pruned, or give "
                "--abandon-backups and keep the key elsewhere"
            )
        if not yes:
            say(f"{len(old)} keys would be retired; add --yes")
            return
        async with _database(settings, "retire") as conn, alone(conn):
            renew_file(path.bootstrap_key, keyring)
            gone = await remove_keys(conn, path.keys, key_ids=old)
            for key_id in gone:
                await _audit(conn, "secrets.key_retired", key_id)
        say(f"{len(gone)} keys retired; {keyring.key_id} is left")

    _run(work())


@app.command("begin-anew")
def begin_anew(home: Home = None, yes: Yes = False) -> None:
    """Make HOME/keys with a fresh key after the old ones were lost; what they encrypted stays lost.

    Refused while there is a key file. Afterwards `helix secrets check` names what must be stored
    again.
    """
    settings = load_settings(os.environ, home=home)
    if settings.secret_keys is not None:
        raise Misuse("the keys are in HELIX_SECRET_KEYS: put a new one there")
    path = HomePaths(settings.home_dir).keys
    if path.exists():
        raise Misuse(f"{path} is there with {len(read_keys(path))} keys: `helix secrets rotate`")
    if not yes:
        say(f"would make {path} with a fresh key; add --yes")
        return
    make_home(settings.home_dir)
    key = new_key()
    write_keys(path, [key])
    say(f"1 key, {id_of_key(key)}, in {path}")
