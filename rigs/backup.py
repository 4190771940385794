"""Backups under the worst: `python -m rigs.backup [--short] [--megabytes N] [--flips N]`.

In a throwaway home it fills a database, backs it up, restores it into another home and compares
(B1); flips random bytes of copies of the backup, each of which must be found (B3); kills the dump
at random moments, after which the good backup must be the only one listed (B4). Prints seconds,
and seconds a gigabyte. Exits 1 when anything was not as promised.
"""

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import facts
from helix.core.config import Settings, load_settings
from helix.core.db import connect
from helix.core.errors import HelixError
from helix.core.instance import load_keyring, make_home
from helix.operations.backup.create import create_logical
from helix.operations.backup.errors import BackupDamaged, BackupKeyMissing
from helix.operations.backup.manifest import BackupDirectory, check_files
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.targets import into_home
from helix.operations.backup.types import Backup
from helix.operations.backup.verify import compare
from helix.operations.migrate import upgrade
from helix.operations.postgres import embedded_postgres

_FILL = """
INSERT INTO error_log (code, category, message, technical_detail)
SELECT i % 97, 'rig', 'message ' || i, repeat(md5(i::text), 14) || md5(random()::text)
FROM generate_series(1, $1::integer) AS i
"""
_ROWS_A_MEGABYTE = 1_700


def _quiet(_: str) -> None:
    pass


def _flip(backup: Backup, directory: BackupDirectory, flips: int, chance: random.Random) -> int:
    """Return how many of `flips` changed bytes, one at a time, were found."""
    paths = sorted(backup.path.iterdir())
    sizes = [path.stat().st_size for path in paths]
    found = 0
    for number in range(flips):
        # Half of them in the manifest, which is small: by size alone it would never be hit.
        path = paths[number % 2] if len(paths) > 1 else paths[0]
        with path.open("r+b") as file:
            at = chance.randrange(sizes[paths.index(path)])
            file.seek(at)
            good = file.read(1)
            file.seek(at)
            file.write(bytes([good[0] ^ chance.randrange(1, 256)]))
            file.flush()
            try:
                check_files(directory.get(backup.name), directory.keys)
            except (BackupDamaged, BackupKeyMissing):
                found += 1
            file.seek(at)
            file.write(good)
    return found


async def _kill_dumps(home: Path, directory: BackupDirectory, kills: int, took_s: float) -> int:
    """Kill `helix backup create` at random moments; return after how many all was well."""
    good = [backup.name for backup in directory.list()[0]]
    well = 0
    for number in range(kills):
        process = subprocess.Popen(  # noqa: ASYNC220 - ourselves
            [sys.executable, "-m", "helix", "backup", "create", "--home", str(home)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        begun = time.monotonic()
        while process.poll() is None and not list(directory.path.glob(".*.partial/dump.hxb")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(took_s * (number + 1) / (kills + 1) * 0.5)
        process.kill()
        process.wait()
        names, unusable = directory.list()
        listed = [backup.name for backup in names]
        kept = all(name in listed for name in good) and not unusable
        fine = all(_is_whole(backup, directory) for backup in names)
        well += kept and fine
        print(f"  killed after {time.monotonic() - begun:.1f} s: {len(listed)} listed")
        good = listed
    return well


def _is_whole(backup: Backup, directory: BackupDirectory) -> bool:
    try:
        check_files(backup, directory.keys)
    except HelixError:
        return False
    return True


async def _rig(place: Path, *, megabytes: int, flips: int, kills: int) -> bool:
    settings = load_settings({}, home=place / "home")
    make_home(settings.home_dir)
    keys = load_keyring(settings, create=True).derived(BACKUP_PURPOSE)
    directory = BackupDirectory(settings.backup_path, keys)
    async with embedded_postgres(settings) as server:
        await upgrade(server.url)
        conn = await connect(server.url)
        await conn.execute(_FILL, megabytes * _ROWS_A_MEGABYTE)
        size = await conn.fetchval("SELECT pg_database_size('helix')")
        await conn.close()
        began = time.monotonic()
        backup = await create_logical(
            server.url, settings, directory, now=datetime.now(UTC), report=_quiet
        )
        made_s = time.monotonic() - began
        well = await _kill_dumps(settings.home_dir, directory, kills, made_s)
    began = time.monotonic()
    found = _flip(backup, directory, flips, random.Random(1))
    flipped_s = time.monotonic() - began
    shutil.rmtree(settings.home_dir / "postgres")
    restored_s, lines = await _bring_back(settings, backup, directory)
    gigabytes = size / 1e9
    print(
        f"database            {size / 1e6:.0f} MB; backup {backup.manifest.size_bytes / 1e6:.0f} MB"
    )
    print(f"create              {made_s:.1f} s, {made_s / gigabytes:.0f} s a GB")
    print(f"restore             {restored_s:.1f} s, {restored_s / gigabytes:.0f} s a GB")
    print(f"flipped bytes found {found} of {flips} ({flipped_s:.1f} s)")
    print(f"dumps killed, well  {well} of {kills}")
    print(f"differences after destroy and restore: {lines or 'none'}")
    return found == flips and well == kills and not lines


async def _bring_back(
    settings: Settings, backup: Backup, directory: BackupDirectory
) -> tuple[float, list[str]]:
    began = time.monotonic()
    await into_home(
        settings, settings, backup, directory.keys, now=datetime.now(UTC), report=_quiet
    )
    took_s = time.monotonic() - began
    async with embedded_postgres(settings) as server:
        lines = await compare(server.url, backup)
    # The restore's own traces are all that a restored copy has more.
    traces = ("table quarantines", "table audit_log")
    return took_s, [line for line in lines if not line.startswith(traces)]


def main() -> None:
    """Run the rig and exit 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a small database, fewer of each")
    parser.add_argument("--megabytes", type=int, default=1_000)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    args = parser.parse_args()
    if args.short:
        args.megabytes, args.kills = 20, 3
    print(facts())
    place = Path(tempfile.mkdtemp(prefix=f"helix-rig-backup-{os.getpid()}-"))
    try:
        good = asyncio.run(
            _rig(place, megabytes=args.megabytes, flips=args.flips, kills=args.kills)
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
