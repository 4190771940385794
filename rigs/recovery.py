"""Recovery under the worst: `python -m rigs.recovery [--short] [--only PART] [--megabytes N]`.

In throwaway homes, with a base backup and the archived log of a workload:

- PITR (B2): the database comes back to random commits, named by time, position or transaction, and
  equals what it was then, by an order-free checksum; then to the end of the log.
- Damage (B3): each of many flipped bytes, in the dump, the base, the manifests and the segments,
  and a dropped and a doubled segment, is found, and the file is named.
- Killed (B4): `helix backup create --physical`, killed at random moments, leaves nothing listed.
- Archiver (B3): while the archive cannot be written, nothing is forgotten and it is alarmed; after,
  no segment is missing.
- Full (D9): on a full volume backups fail, the good one stays, the database goes on; then it heals.
- Times of create, verify and restore, logical and physical, and per gigabyte.

Exits 1 when anything was not as promised.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.machine import facts
from helix.core.config import load_settings
from helix.core.db import Connection, connect
from helix.core.errors import HelixError
from helix.core.instance import load_keyring, make_home
from helix.operations.backup.archive import WalArchive, system_identifier
from helix.operations.backup.base import create_physical
from helix.operations.backup.create import create_logical
from helix.operations.backup.errors import BackupDamaged, BackupKeyMissing
from helix.operations.backup.keeper import read_trouble
from helix.operations.backup.manifest import BackupDirectory, check_files
from helix.operations.backup.moments import Moment, archive_now, restore_moment
from helix.operations.backup.ranges import chain_of
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.state import backup_health
from helix.operations.backup.targets import into_home
from helix.operations.backup.types import Backup, Method
from helix.operations.backup.verify import verify
from helix.operations.backup.wal import parse_lsn
from helix.operations.migrate import upgrade
from helix.operations.postgres import embedded_postgres

_FILL = """
INSERT INTO error_log (code, category, message, technical_detail)
SELECT i % 97, 'rig', 'message ' || i, repeat(md5(i::text), 14) || md5(random()::text)
FROM generate_series(1, $1::integer) AS i
"""
_ROWS_A_MEGABYTE = 1_700
_STATE = """
SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM rig AS t
"""
_ENOSPC = 28
_VOLUME_MB = 96


@dataclass(frozen=True)
class Mark:
    """A moment after a commit, named in three ways, and the table as it was."""

    at: datetime
    lsn: int
    xid: int
    state: str


def _quiet(_: str) -> None:
    pass


def _now() -> datetime:
    return datetime.now(UTC)


class Rig:
    """One home, its backups, and what was found broken."""

    def __init__(self, place: Path, chance: random.Random) -> None:
        self.place, self.chance = place, chance
        self.settings = load_settings({}, home=place / "home")
        make_home(self.settings.home_dir)
        keys = load_keyring(self.settings, create=True).derived(BACKUP_PURPOSE)
        self.directory = BackupDirectory(self.settings.backup_path, keys)
        self.failures: list[str] = []

    @property
    def archive(self) -> WalArchive:
        data = self.settings.home_dir / "postgres"
        return WalArchive(self.directory.path, system_identifier(data), self.directory.keys)

    def expect(self, good: bool, what: str) -> None:
        """Note what was not as promised."""
        if not good:
            self.failures.append(what)
            print(f"  BROKEN: {what}")

    async def times(self, megabytes: int) -> None:
        """Fill, back up both ways, test and restore both, and print what it took."""
        async with embedded_postgres(self.settings) as server:
            await upgrade(server.url)
            conn = await connect(server.url)
            for _ in range(max(1, megabytes // 100)):
                await conn.execute(_FILL, min(100, megabytes) * _ROWS_A_MEGABYTE)
            size = await conn.fetchval("SELECT pg_database_size('helix')")
            await conn.close()
            gigabytes = size / 1e9
            print(f"database of {size / 1e6:.0f} MB; seconds, and seconds a gigabyte:")
            for method, make in (
                (Method.PHYSICAL, create_physical), (Method.LOGICAL, create_logical),
            ):  # fmt: skip
                began = time.monotonic()
                backup = await make(
                    server.url, self.settings, self.directory, now=_now(), report=_quiet
                )
                _took(f"{method} create", time.monotonic() - began, gigabytes)
                print(f"  {method} is of {backup.manifest.size_bytes / 1e6:.0f} MB")
                began = time.monotonic()
                await self._restore(backup)
                _took(f"{method} restore", time.monotonic() - began, gigabytes)
                took_s = await verify(
                    server.url, self.settings, self.directory, backup, report=_quiet
                )
                _took(f"{method} verify", took_s, gigabytes)

    async def _restore(self, backup: Backup) -> None:
        home = self.place / "restored"
        target = self.settings.model_copy(update={"home": home})
        if backup.manifest.method is Method.LOGICAL:
            await into_home(
                self.settings, target, backup, self.directory.keys, now=_now(), report=_quiet
            )
        else:
            await self.recover(Moment(base_only=True), home)
        shutil.rmtree(home)

    async def recover(self, moment: Moment, home: Path) -> None:
        """Recover to a moment into a new home."""
        await restore_moment(
            self.settings,
            self.directory,
            moment,
            into=home,
            base=None,
            confirmed=False,
            now=_now(),
            report=_quiet,
        )

    async def work(self, commits: int) -> list[Mark]:
        """Commit under a base backup, with a segment closed now and then."""
        marks: list[Mark] = []
        async with embedded_postgres(self.settings) as server:
            await upgrade(server.url)
            conn = await connect(server.url)
            await conn.execute("CREATE TABLE rig (id bigint PRIMARY KEY, body text)")
            await create_logical(
                server.url, self.settings, self.directory, now=_now(), report=_quiet
            )
            await create_physical(
                server.url, self.settings, self.directory, now=_now(), report=_quiet
            )
            for number in range(commits):
                marks.append(await self.commit(conn))
                if number % 9 == 0:
                    await conn.execute("SELECT pg_switch_wal()")
            await archive_now(server.url, self.settings)
            await conn.close()
        return marks

    async def commit(self, conn: Connection) -> Mark:
        """Change rows in one transaction."""
        first = self.chance.randrange(10**12)
        async with conn.transaction():
            xid = await conn.fetchval("SELECT pg_current_xact_id()::text::bigint")
            await conn.execute("DELETE FROM rig WHERE id % 13 = $1", first % 13)
            await conn.execute("UPDATE rig SET body = md5(body) WHERE id % 7 = $1", first % 7)
            await conn.execute(
                "INSERT INTO rig SELECT $1::bigint + i, md5(i::text)"
                " FROM generate_series(1, $2::integer) AS i",
                first,
                self.chance.randrange(1, 300),
            )
        row = await conn.fetchrow(
            "SELECT clock_timestamp() AS at, pg_current_wal_insert_lsn()::text AS lsn"
        )
        state = await conn.fetchval(_STATE)
        return Mark(row["at"], parse_lsn(row["lsn"]), xid, state)

    async def moments(self, marks: list[Mark], count: int) -> None:
        """Recover to `count` random commits, and to the end; print how many were exact."""
        exact, began = 0, time.monotonic()
        for number in range(count):
            mark = self.chance.choice(marks)
            ways = [Moment(at=mark.at), Moment(lsn=mark.lsn), Moment(xid=mark.xid)]
            exact += await self._equals(ways[number % 3], mark)
        took_s = time.monotonic() - began
        print(f"random commits exact    {exact} of {count} ({took_s / count:.1f} s each)")
        self.expect(exact == count, "a recovery was not exact")
        self.expect(await self._equals(Moment(), marks[-1]), "the end of the log was not exact")

    async def _equals(self, moment: Moment, mark: Mark) -> bool:
        home = self.place / "moment"
        try:
            await self.recover(moment, home)
            copy = load_settings({}, home=home)
            async with embedded_postgres(copy) as server:
                conn = await connect(server.url)
                found = await conn.fetchval(_STATE)
                await conn.close()
            if found != mark.state:
                print(f"  {moment}: {found} instead of {mark.state}")
            return bool(found == mark.state)
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def damage(self, flips: int) -> None:
        """Flip bytes of every kind of file, drop and double a segment; each must be found."""
        backups, _ = self.directory.list()
        newest = {backup.manifest.method: backup for backup in reversed(backups)}
        base = newest[Method.PHYSICAL]
        segments = chain_of(base, self.archive).segments
        cases: list[tuple[Path, Callable[[], None]]] = []
        for backup in newest.values():
            check = _checker(self.directory, backup.name)
            cases += [(path, check) for path in sorted(backup.path.iterdir())]
        for segment in segments:
            path = self.archive.file(segment.name)
            cases.append((path, partial(_got, self.archive, segment.name)))
        found = sum(self._flip(*cases[number % len(cases)]) for number in range(flips))
        print(f"flipped bytes found     {found} of {flips}, over {len(cases)} files")
        self.expect(found == flips, "a flipped byte was not found")
        one, two = segments[len(segments) // 2], segments[len(segments) // 2 - 1]
        file = self.archive.file(one.name)
        good = file.read_bytes()
        file.unlink()
        dropped = one.name in str(chain_of(base, self.archive, check=True).fault)
        file.write_bytes(self.archive.file(two.name).read_bytes())
        doubled = one.name in str(chain_of(base, self.archive, check=True).fault)
        file.write_bytes(good)
        whole = chain_of(base, self.archive, check=True).fault is None
        print(f"segment dropped, doubled: {'both found' if dropped and doubled else 'MISSED'}")
        self.expect(dropped and doubled and whole, "a broken log was not found")

    def _flip(self, path: Path, check: Callable[[], None]) -> bool:
        with path.open("r+b") as file:
            at = self.chance.randrange(path.stat().st_size)
            file.seek(at)
            good = file.read(1)
            file.seek(at)
            file.write(bytes([good[0] ^ self.chance.randrange(1, 256)]))
            file.flush()
            try:
                check()
            except (BackupDamaged, BackupKeyMissing) as exc:
                found = path.name.removesuffix(".hxw") in exc.message or path.parent.name in str(
                    exc
                )
            else:
                found = False
            file.seek(at)
            file.write(good)
        return found

    async def kills(self, count: int) -> None:
        """Kill base backups at random moments; nothing may be listed that is not whole."""
        well = 0
        async with embedded_postgres(self.settings):
            for number in range(count):
                good = [backup.name for backup in self.directory.list()[0]]
                process = subprocess.Popen(  # noqa: ASYNC220 - ourselves
                    [sys.executable, "-m", "helix", "backup", "create", "--physical",
                     "--home", str(self.settings.home_dir)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )  # fmt: skip
                while process.poll() is None and not self._has_begun():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.3 * number)
                process.kill()
                process.wait()
                backups, unusable = self.directory.list()
                listed = [backup.name for backup in backups]
                whole = all(_is_whole(self.directory, backup) for backup in backups)
                well += set(good) <= set(listed) and not unusable and whole
        print(f"base backups killed, well {well} of {count}")
        self.expect(well == count, "a killed base backup left something")

    def _has_begun(self) -> bool:
        return bool(list(self.directory.path.glob(".*.partial/base.hxb")))

    async def archiver(self) -> None:
        """Let the archive be away for a while; nothing may be forgotten, and it must be seen."""
        async with embedded_postgres(self.settings) as server:
            path, aside = self.archive.path, self.archive.path.with_name("aside")
            before = len(self.archive.segments())
            path.rename(aside)
            path.write_bytes(b"in the way")
            began = time.monotonic()
            conn = await connect(server.url)
            for _ in range(5):
                await self.commit(conn)
                await conn.execute("SELECT pg_switch_wal()")
            await self.until(lambda: read_trouble(self.settings.home_dir) is not None)
            seen_s = time.monotonic() - began
            health = await backup_health(
                server.url, self.directory, now=_now(), settings=self.settings
            )
            self.expect(
                any("cannot be archived" in alarm for alarm in health.alarms), "it was not alarmed"
            )
            path.unlink()
            aside.rename(path)
            await self.until(lambda: read_trouble(self.settings.home_dir) is None)
            await archive_now(server.url, self.settings)
            await conn.close()
        base = self.directory.newest_of(Method.PHYSICAL)
        chain = chain_of(base, self.archive, check=True)
        gained = len(self.archive.segments()) - before
        print(f"archive away: alarmed after {seen_s:.1f} s, {gained} segments came later, no gap")
        self.expect(chain.fault is None and gained >= 5, f"the archive has a gap: {chain.fault}")

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for up to two minutes."""
        async with asyncio.timeout(120):
            while not done():  # noqa: ASYNC110 - what another thread leaves
                await asyncio.sleep(0.05)


def _took(what: str, took_s: float, gigabytes: float) -> None:
    load = os.getloadavg()[0]
    print(f"  {what:<18} {took_s:>7.1f} ({took_s / gigabytes:.0f}), load {load:.0f}", flush=True)


def _checker(directory: BackupDirectory, name: str) -> Callable[[], None]:
    def check() -> None:
        check_files(directory.get(name), directory.keys)

    return check


def _got(archive: WalArchive, name: str) -> None:
    archive.get(name)


def _is_whole(directory: BackupDirectory, backup: Backup) -> bool:
    try:
        check_files(backup, directory.keys)
    except HelixError:
        return False
    return True


@contextmanager
def _small_volume(place: Path) -> Iterator[str | None]:
    """Give a small volume at `place`; yields why there is none, when none can be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_VOLUME_MB}m,mode=0700", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        yield None if mounted.returncode == 0 else mounted.stderr.strip() or "mount failed"
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(place)], check=False)


async def _full(place: Path, chance: random.Random) -> list[str]:
    """Fill the volume of the backups; the database goes on, and nothing good is lost."""
    volume = place / "volume"
    with _small_volume(volume) as why_not:
        if why_not is not None:
            print(f"full volume: not tried, {why_not}")
            return []
        rig = Rig(place, chance)
        rig.settings = load_settings(
            {"HELIX_BACKUP_DIR": str(volume), "HELIX_BACKUP_KEEP_MIN": "1"}, home=place / "home"
        )
        rig.directory = BackupDirectory(rig.settings.backup_path, rig.directory.keys)
        async with embedded_postgres(rig.settings) as server:
            await upgrade(server.url)
            conn = await connect(server.url)
            await conn.execute("CREATE TABLE rig (id bigint PRIMARY KEY, body text)")
            good = await create_physical(
                server.url, rig.settings, rig.directory, now=_now(), report=_quiet
            )
            filler = volume / "filler"
            with filler.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(1 << 20)):
                        pass
                except OSError as exc:
                    rig.expect(exc.errno == _ENOSPC, f"it is not full: {exc}")
            for _ in range(3):
                await rig.commit(conn)
                await conn.execute("SELECT pg_switch_wal()")
            await rig.until(lambda: read_trouble(rig.settings.home_dir) is not None)
            for make in (create_logical, create_physical):
                try:
                    await make(server.url, rig.settings, rig.directory, now=_now(), report=_quiet)
                    rig.expect(False, "a backup was made on a full volume")
                except HelixError as exc:
                    print(f"  on a full volume: {exc.message}")
            listed = [backup.name for backup in rig.directory.list()[0]]
            rig.expect(listed == [good.name], f"listed is {listed}")
            health = await backup_health(
                server.url, rig.directory, now=_now(), settings=rig.settings
            )
            rig.expect(any("No space" in alarm for alarm in health.alarms), "it was not alarmed")
            filler.unlink()
            await rig.until(lambda: read_trouble(rig.settings.home_dir) is None)
            await archive_now(server.url, rig.settings)
            rig.expect(
                chain_of(good, rig.archive, check=True).fault is None, "the archive has a gap"
            )
            await conn.close()
        print(f"full volume ({_VOLUME_MB} MB): alarmed, the good backup kept, healed without a gap")
        return rig.failures


async def _rig(place: Path, args: argparse.Namespace) -> list[str]:
    chance = random.Random(args.seed)
    failures: list[str] = []
    if args.only in {None, "times"}:
        await Rig(place / "times", chance).times(args.megabytes)
        shutil.rmtree(place / "times")
    if args.only in {None, "moments"}:
        rig = Rig(place / "main", chance)
        marks = await rig.work(args.commits)
        await rig.moments(marks, args.moments)
        rig.damage(args.flips)
        await rig.kills(args.kills)
        await rig.archiver()
        failures += rig.failures
    if args.only in {None, "full"}:
        failures += await _full(place / "full", chance)
    return failures


def main() -> None:
    """Run the rig and exit 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["times", "moments", "full"])
    parser.add_argument("--short", action="store_true", help="a small database, fewer of each")
    parser.add_argument("--megabytes", type=int, default=1_000)
    parser.add_argument("--commits", type=int, default=120)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args()
    if args.short:
        args.megabytes, args.commits, args.moments, args.kills = 10, 40, 3, 2
    print(facts())
    print(f"seed {args.seed}")
    place = Path(tempfile.mkdtemp(prefix=f"helix-rig-recovery-{os.getpid()}-"))
    try:
        for name in ("times", "main", "full"):
            (place / name).mkdir()
        failures = asyncio.run(_rig(place, args))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print("all as promised" if not failures else f"broken: {'; '.join(failures)}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
