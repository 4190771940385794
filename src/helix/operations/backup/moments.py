"""Point-in-time recovery: the database as it was at a moment, a position or a transaction.

All is done beside: every byte that is needed is opened, the base unpacked into a directory of its
own, the log replayed, the copy quarantined, and the server stopped. Then one rename puts it where
it belongs. What was there is kept, renamed.
"""

import asyncio
import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from helix.core import audit
from helix.core.audit import Actor
from helix.core.config import Settings
from helix.core.db import Queries, connect
from helix.core.errors import HelixError, Misuse, Unavailable
from helix.core.instance import HomePaths, find_postmaster, lock_home, make_home, socket_url
from helix.operations.backup.along import bring_along
from helix.operations.backup.archive import WalArchive, clusters, system_identifier
from helix.operations.backup.errors import (
    BackupNotFound,
    RestoreTargetTaken,
    TargetOutOfRange,
    WalMissing,
)
from helix.operations.backup.keeper import archive_waiting, waiting
from helix.operations.backup.manifest import BackupDirectory, check_files
from helix.operations.backup.ranges import Chain, bases_of, chain_of, last_commit_at, recoverable
from helix.operations.backup.recovery import last_replayed_at, recovering, unpack
from helix.operations.backup.restore import home_is_new
from helix.operations.backup.state import quarantine
from helix.operations.backup.types import Backup, Method
from helix.operations.backup.wal import lsn_text, parse_lsn
from helix.operations.postgres_files import clear_stale, sync_directory
from helix.operations.postgres_programs import find_programs
from helix.operations.types import Report

__all__ = ["Moment", "Recovered", "archive_now", "mark", "restore_moment"]

_QUERIES = Queries("helix.operations.backup")
_ARCHIVED_WITHIN_S = 60.0
_POLL_S = 0.1
_POINT = re.compile(r"[a-z0-9_-]{1,63}")


@dataclass(frozen=True, slots=True)
class Moment:
    """Where to stop: at most one of them; none means the end of the archived log.

    `at`: with all that was committed up to then. `lsn`: with all records before it. `xid`: with
    that transaction and all committed before it. `name`: at that restore point. `base_only`: as
    the base was when it was whole. `timeline` None follows the newest.
    """

    at: datetime | None = None
    lsn: int | None = None
    xid: int | None = None
    name: str | None = None
    base_only: bool = False
    timeline: int | None = None

    def __str__(self) -> str:
        if self.at is not None:
            return f"{self.at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"
        if self.lsn is not None:
            return f"position {lsn_text(self.lsn)}"
        if self.xid is not None:
            return f"transaction {self.xid}"
        if self.name is not None:
            return f"restore point {self.name}"
        return "the end of the backup" if self.base_only else "the end of the archived log"

    @property
    def parameters(self) -> dict[str, str]:
        """What PostgreSQL is told of it."""
        if self.at is not None:
            return {"recovery_target_time": self.at.astimezone(UTC).isoformat(sep=" ")}
        if self.lsn is not None:
            return {
                "recovery_target_lsn": lsn_text(self.lsn),
                "recovery_target_inclusive": "off",
            }
        if self.xid is not None:
            return {"recovery_target_xid": str(self.xid)}
        if self.name is not None:
            return {"recovery_target_name": self.name}
        return {"recovery_target": "immediate"} if self.base_only else {}


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery did: from which base, to where, and where what was there is kept."""

    base: str
    moment: str
    timeline: int
    segments: int
    last_commit: str | None
    kept: str | None
    duration_s: float


@dataclass(frozen=True, slots=True)
class _Plan:
    chain: Chain
    archive: WalArchive
    moment: Moment


async def restore_moment(
    settings: Settings,
    directory: BackupDirectory,
    moment: Moment,
    *,
    into: Path | None,
    base: str | None,
    confirmed: bool,
    now: datetime,
    report: Report,
    actor: Actor = audit.SYSTEM,
) -> Recovered:
    """Recover a cluster to `moment`: into the new home `into`, or in place of the home's own.

    `base` names the physical backup to begin with; without, the newest that lies before. The copy
    is quarantined. Nothing is replaced before it is whole. Raises TargetOutOfRange with the range
    there is, BackupDamaged and WalMissing with the file at fault, RestoreTargetTaken, Misuse.
    """
    began = time.monotonic()
    if settings.external_url() is not None and into is None:
        raise Misuse(
            "DATABASE_URL names a PostgreSQL of your own: recover that with what archives its log "
            "(docs/backup.md), or a backup of an embedded one into a new home with --into DIR"
        )
    target = into if into is not None else settings.home_dir
    if into is not None and not home_is_new(into):
        raise RestoreTargetTaken(f"there is a database in {into} already: name a new directory")
    if into is None and not home_is_new(target) and not confirmed:
        raise Misuse(
            f"there is a database in {target}: repeat it with --yes to replace it (it is kept, "
            "renamed), or recover elsewhere with --into DIR"
        )
    make_home(target)
    with lock_home(target, "helix backup restore"):
        identifier = await _settle_source(settings, report, mine=into is None)
        plan = await asyncio.to_thread(
            _plan, settings, directory, moment, identifier=identifier, base=base, report=report
        )
        if into is not None:
            bring_along(settings, target, report)
            if settings.backup_dir is not None:
                report("give the copy a HELIX_BACKUP_DIR of its own: their logs would mix")
        recovered, kept = await _recover(
            settings, target, plan, directory, now=now, report=report, actor=actor
        )
    return Recovered(
        base=plan.chain.base.name,
        moment=str(moment),
        timeline=plan.chain.timeline,
        segments=len(plan.chain.segments),
        last_commit=recovered,
        kept=None if kept is None else str(kept),
        duration_s=time.monotonic() - began,
    )


async def _settle_source(settings: Settings, report: Report, *, mine: bool) -> str | None:
    """Get what the source's own pg_wal still has into the archive; return which cluster it is."""
    data = HomePaths(settings.home_dir).data
    try:
        identifier = system_identifier(data)
    except Misuse:
        return None
    postmaster = find_postmaster(data)
    if postmaster is not None and mine:
        raise Misuse(f"PostgreSQL runs on {data} (process {postmaster.pid}): stop it first")
    try:
        if postmaster is not None and postmaster.ready and postmaster.socket_dir is not None:
            report("archiving what the running server has written")
            await archive_now(socket_url(postmaster.socket_dir), settings)
        elif settings.wal_archive and (names := waiting(data)):
            report(f"archiving {len(names)} segments that the stopped server left")
            await asyncio.to_thread(archive_waiting, settings, data, names)
    except (HelixError, OSError) as exc:  # an earlier moment can be had all the same
        report(f"what is not archived yet cannot be had: {exc}")
    return identifier


async def archive_now(url: str, settings: Settings) -> None:
    """Have all that is committed now archived, and a commit after it. Raises Unavailable."""
    if not settings.wal_archive:
        return
    conn = await connect(url, application_name="helix backup")
    try:
        await _QUERIES.rows(conn, "take_xid")
        name = (await _QUERIES.rows(conn, "close_segment"))[0]["name"]
    finally:
        await conn.close()
    identifier = system_identifier(HomePaths(settings.home_dir).data)
    archive = WalArchive(settings.backup_path, identifier, [])
    deadline = time.monotonic() + _ARCHIVED_WITHIN_S
    while not archive.file(name).exists():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{name} was not archived within {_ARCHIVED_WITHIN_S:.0f} s: see "
                "`helix backup status`"
            )
        await asyncio.sleep(_POLL_S)


async def mark(url: str, settings: Settings, name: str) -> str:
    """Put a named place to recover to into the log and archive up to it; return its position.

    Raises Misuse for a name of other characters, or where the log is not archived by Helix.
    """
    if not _POINT.fullmatch(name):
        raise Misuse(f"{name[:80]!r} cannot be a point's name: a-z, 0-9, _ and -, at most 63")
    if settings.external_url() is not None or not settings.wal_archive:
        raise Misuse("nothing archives the log here: see HELIX_WAL_ARCHIVE and docs/backup.md")
    conn = await connect(url, application_name="helix backup")
    try:
        lsn = str((await _QUERIES.rows(conn, "mark_log", name=name))[0]["lsn"])
    finally:
        await conn.close()
    await archive_now(url, settings)
    return lsn


# What to begin with, and whether it leads there


def _plan(
    settings: Settings,
    directory: BackupDirectory,
    moment: Moment,
    *,
    identifier: str | None,
    base: str | None,
    report: Report,
) -> _Plan:
    """Choose a base and check every byte of it and of the log after it."""
    backups, unusable = directory.list()
    if base is not None:
        chosen = directory.get(base)
        if chosen.manifest.method is not Method.PHYSICAL:
            raise Misuse(f"{base} is a logical backup: it comes back as it is, without --to-…")
        candidates = [chosen]
    else:
        physical = [b for b in backups if b.manifest.method is Method.PHYSICAL]
        if not physical:
            raise BackupNotFound(_no_base(directory, unusable))
        candidates = bases_of(backups, identifier or "")
        if not candidates:  # the home is new, or was made anew: of the cluster copied last
            candidates = bases_of(backups, physical[0].manifest.system_identifier or "")
    found = [b for b in candidates if _lies_before(b, moment)]
    if not found:
        raise TargetOutOfRange(
            f"{moment} is before the end of every physical backup"
            + (f" but {', '.join(sorted(unusable))} (unusable)" if unusable else "")
            + f"; {_range(settings, directory, backups)}"
        )
    chosen = _on_timeline(directory, found, moment.timeline)
    archive = _archive_of(directory, chosen)
    report(f"checking {chosen.name} and the log that follows it")
    check_files(chosen, directory.keys)
    if moment.base_only:
        return _Plan(Chain(chosen, chosen.manifest.timeline or 1, ()), archive, moment)
    chain = chain_of(chosen, archive, timeline=moment.timeline, check=True)
    return _Plan(chain, archive, _reachable(settings, chain, archive, moment))


def _archive_of(directory: BackupDirectory, base: Backup) -> WalArchive:
    return WalArchive(directory.path, base.manifest.system_identifier or "", directory.keys)


def _on_timeline(directory: BackupDirectory, bases: list[Backup], timeline: int | None) -> Backup:
    """Return the newest base from which a way leads to a timeline; raises WalMissing."""
    for base in bases:
        try:
            chain_of(base, _archive_of(directory, base), timeline=timeline)
        except WalMissing:
            if base is bases[-1]:
                raise
        else:
            return base
    raise BackupNotFound("there is no base to begin with")


def _no_base(directory: BackupDirectory, unusable: Mapping[str, str]) -> str:
    if unusable:
        return (
            f"no physical backup in {directory.path} can be used: {next(iter(unusable.values()))}"
        )
    return f"there is no physical backup in {directory.path}: `helix backup create --physical`"


def _lies_before(base: Backup, moment: Moment) -> bool:
    manifest = base.manifest
    if moment.at is not None:
        return (manifest.ended_at or manifest.created_at) <= moment.at
    if moment.lsn is not None:
        return parse_lsn(manifest.end_lsn or "0/0") <= moment.lsn
    return moment.xid is None or manifest.next_xid <= moment.xid


def _range(settings: Settings, directory: BackupDirectory, backups: list[Backup]) -> str:
    archives = clusters(directory.path, directory.keys)
    stretches = recoverable(backups, archives, find_programs(settings))
    told = [
        f"{s.since:%Y-%m-%d %H:%M:%S.%f} to {s.until:%Y-%m-%d %H:%M:%S.%f} UTC"
        + (f" (timeline {s.timeline})" if s.timeline > 1 else "")
        for s in stretches
    ]
    return f"recoverable: {', '.join(told) or 'nothing'}"


def _reachable(settings: Settings, chain: Chain, archive: WalArchive, moment: Moment) -> Moment:
    """Return what to tell PostgreSQL; raises TargetOutOfRange, naming what breaks the chain."""
    programs = find_programs(settings)
    broken = f"; {chain.fault}" if chain.fault else ""
    end = f"position {lsn_text(chain.end_lsn)}"
    if moment.lsn is not None and moment.lsn >= chain.end_lsn:
        raise TargetOutOfRange(f"{moment} is after the archived log, which ends at {end}{broken}")
    if moment.at is None:
        if chain.fault and moment.lsn is None:
            raise TargetOutOfRange(
                f"the archived log is broken{broken}; before that it reaches {end}"
                + _until(last_commit_at(archive, chain.segments, programs))
            )
        return moment
    until = last_commit_at(archive, chain.segments, programs)
    if until is None or moment.at > until:
        ended = chain.base.manifest.ended_at
        shown = f"{ended:%Y-%m-%d %H:%M:%S.%f} to {until or ended:%Y-%m-%d %H:%M:%S.%f} UTC"
        raise TargetOutOfRange(
            f"{moment} is after the last transaction in the archive{_until(until)}{broken}; "
            f"recoverable: {shown}"
        )
    if moment.at == until:  # no commit after it would stop the recovery: the end of the log does
        return Moment(timeline=moment.timeline)
    return moment


def _until(at: datetime | None) -> str:
    return f", of {at:%Y-%m-%d %H:%M:%S.%f} UTC" if at is not None else ""


# Doing it


async def _recover(
    settings: Settings,
    home: Path,
    plan: _Plan,
    directory: BackupDirectory,
    *,
    now: datetime,
    report: Report,
    actor: Actor,
) -> tuple[str | None, Path | None]:
    clear_stale(home, ".restore-*")
    staging = Path(tempfile.mkdtemp(prefix=".restore-", dir=home))
    beside = settings.model_copy(update={"home": staging, "database_url": None, "db_host": None})
    base = plan.chain.base
    try:
        make_home(staging)
        report(f"unpacking {base.name}")
        await unpack(base, directory.keys, beside, durable=True)
        report(f"replaying the log to {plan.moment}")
        reason = f"restored from {base.name} into {home} at {now:%Y-%m-%d %H:%M:%S} UTC"
        await _replay(beside, plan, reason, actor)
        return last_replayed_at(beside), _put_in_place(staging, home, now)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


async def _replay(beside: Settings, plan: _Plan, reason: str, actor: Actor) -> None:
    timeline = {"recovery_target_timeline": str(plan.chain.timeline)}
    try:
        async with recovering(
            beside,
            archive=plan.archive,
            segments=plan.chain.segments,
            parameters=timeline | plan.moment.parameters,
            durable=True,
        ) as server:
            conn = await connect(server.url, application_name="helix restore")
            try:
                await quarantine(conn, backup=plan.chain.base.name, reason=reason, actor=actor)
            finally:
                await conn.close()
    except TargetOutOfRange as exc:
        last = last_replayed_at(beside)
        raise TargetOutOfRange(
            f"{plan.moment} is not in the log that follows {plan.chain.base.name}, which ends at "
            f"{lsn_text(plan.chain.end_lsn)}"
            + (f" (last transaction: {last})" if last else "")
            + (f"; {plan.chain.fault}" if plan.chain.fault else "")
            + "; an older one may lead there: name it before --to-…"
        ) from exc


def _put_in_place(staging: Path, home: Path, now: datetime) -> Path | None:
    """Give the recovered data their place; return where what was there is now."""
    data, fresh = HomePaths(home).data, HomePaths(staging).data
    kept: Path | None = None
    with contextlib.suppress(FileNotFoundError, OSError):
        data.rmdir()  # an empty one
    if data.exists():
        kept = home / f"postgres_before_{now:%Y%m%d_%H%M%S}"
        data.rename(kept)
    fresh.rename(data)
    sync_directory(home)
    return kept
