"""What can be seen while the database is away: disks, backups, the spool, PostgreSQL's log."""

from collections.abc import Collection
from pathlib import Path

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.instance import HomePaths
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.doctor.checks_helix import look_at_spool
from helix.operations.doctor.policy import age_text, examine_volume
from helix.operations.doctor.scene import volumes_of
from helix.operations.doctor.types import Examination, Finding, Severity

__all__ = ["DATABASE", "examine_without"]

DATABASE = "database"
"""The code of the finding that says that the database is away; always told."""
_LOG_BYTES = 65_536
_LOG_LINES = 40
_GRAVE = ("PANIC:", "FATAL:")
_SHOWN_CHARS = 300


def examine_without(
    settings: Settings,
    reason: str,
    *,
    clock: Clock,
    keyring: Keyring | None,
    only: Collection[str],
) -> Examination:
    """Look at what needs no database; the first finding is critical and says why there is none.

    Volumes are told without their growth, which is in the database. Never raises: what cannot be
    seen is left out.
    """
    began_s, at = clock.monotonic_s(), clock.now()
    embedded = settings.external_url() is None
    paths = HomePaths(settings.home_dir)
    findings = [_away(reason, paths.postgres_log if embedded else None)]
    volumes = volumes_of(settings, paths.data if embedded else None)
    findings += [examine_volume(volume, bytes_per_day=None) for volume in volumes.values()]
    findings += [*_backups(settings, keyring, clock), look_at_spool(settings)]
    return Examination(
        at,
        clock.monotonic_s() - began_s,
        tuple(one for one in findings if one.code == DATABASE or one.code in only),
    )


def _away(reason: str, log: Path | None) -> Finding:
    said = _last_words(log) if log is not None else None
    todo = "helix up, and look at its output" if log is not None else "look at that server"
    if said is not None and "No space left on device" in said:
        todo = "make room: docs/monitoring.md, Disks; then PostgreSQL is started again by itself"
    return Finding(
        DATABASE,
        Severity.CRITICAL,
        reason,
        todo,
        details=() if said is None else ({"log": said},),
    )


def _last_words(log: Path) -> str | None:
    """Return the last grave line among the last lines of PostgreSQL's log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    grave = [line for line in lines[-_LOG_LINES:] if any(word in line for word in _GRAVE)]
    return grave[-1][:_SHOWN_CHARS] if grave else None


def _backups(settings: Settings, keyring: Keyring | None, clock: Clock) -> list[Finding]:
    """Say what there is to restore; nothing where the keys or the directory cannot be read."""
    if keyring is None:
        return []
    place = BackupDirectory(settings.backup_path, keyring.derived(BACKUP_PURPOSE))
    try:
        backups, unusable = place.list()
    except OSError:
        return []
    seen = f"{len(backups)} backups in {settings.backup_path}"
    if backups:
        age_s = (clock.now() - backups[0].manifest.created_at).total_seconds()
        seen += f", the newest {backups[0].name}, {age_text(age_s)} old"
    severity = Severity.OK if backups and not unusable else Severity.WARNING
    return [
        Finding(
            "backup",
            severity,
            seen + "".join(f"; {name} cannot be used" for name in sorted(unusable)),
            None if severity is Severity.OK else "helix backup list",
            len(backups),
            "backups",
        )
    ]
