"""Checks of what Helix itself keeps: the queue, backups, retention, providers, secrets."""

from datetime import datetime
from typing import Any

from helix import providers, tasks
from helix.core.config import Settings
from helix.core.crypto import Keyring, new_key
from helix.core.instance import HomePaths
from helix.operations.archive import glance
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.state import BackupHealth, backup_health
from helix.operations.doctor.policy import LIMITS, above, age_text, bytes_text, worst
from helix.operations.doctor.scene import QUERIES, Check, Scene
from helix.operations.doctor.types import Finding, Measure, Severity
from helix.operations.runner import quoted

__all__ = ["CHECKS", "look_at_spool"]

_BACKUP_CRITICAL_S = 7 * 86_400.0
_RESTORE_TEST_AGE_S = 35 * 86_400.0


async def _quarantine(scene: Scene) -> Finding:
    row = await QUERIES.row(scene.conn, "open_quarantine")
    if row is None:
        return Finding(
            "quarantine",
            Severity.OK,
            "this is not a restored copy that waits for its release",
            measures=(Measure("helix_quarantined", 0),),
        )
    return Finding(
        "quarantine",
        Severity.CRITICAL,
        f"this is a restored copy since {row['quarantined_at']:%Y-%m-%d %H:%M} UTC and serves "
        f"nobody: {row['reason']}",
        "helix backup release",
        measures=(Measure("helix_quarantined", 1),),
    )


async def _queue(scene: Scene) -> Finding:
    rows = [row for row in await tasks.stats(scene.conn) if row["status"] == "pending"]
    workers = await tasks.workers(scene.conn)
    now = scene.clock.now()
    waiting = sum(row["tasks"] for row in rows)
    age_s = max(((now - row["oldest_due_at"]).total_seconds() for row in rows), default=0.0)
    age_s = max(0.0, age_s)
    severity = above(age_s, warning=LIMITS.queue_warning_s, critical=LIMITS.queue_critical_s)
    todo = None
    if severity is not Severity.OK:
        todo = "helix tasks list --status pending; run more workers: helix worker"
        if not workers:
            severity, todo = Severity.CRITICAL, "no worker lives: helix worker"
    return Finding(
        "queue",
        severity,
        f"{waiting} tasks wait, the oldest has been due for {age_text(age_s)}; "
        f"{len(workers)} workers live",
        todo,
        round(age_s, 1),
        "s",
        tuple(
            {k: row[k] for k in ("queue", "task_type", "tasks", "oldest_due_at")} for row in rows
        )[:10],
        (
            Measure("helix_queue_oldest_seconds", age_s),
            Measure("helix_queue_waiting", waiting),
            Measure("helix_workers_alive", len(workers)),
        ),
    )


async def _dead_letters(scene: Scene) -> Finding:
    rows = await tasks.dead_letter_counts(scene.conn)
    total = sum(row["letters"] for row in rows)
    severity = Severity.NOTICE if total else Severity.OK
    if total >= LIMITS.dead_letters_warning:
        severity = Severity.WARNING
    return Finding(
        "dead_letters",
        severity,
        f"{total} tasks failed for good and were not started again",
        "helix tasks dead, then helix tasks redrive" if total else None,
        total,
        "tasks",
        tuple(dict(row) for row in rows[:10]),
        (Measure("helix_dead_letters", total),),
    )


async def _health(scene: Scene, *, log_too: bool = False) -> BackupHealth | None:
    """Return the state of backups, with that of the archived log if wanted."""
    if scene.keyring is None:
        return None
    place = BackupDirectory(scene.settings.backup_path, scene.keyring.derived(BACKUP_PURPOSE))
    settings = scene.settings if log_too else None
    return await backup_health(scene.url, place, now=scene.clock.now(), settings=settings)


def _unknown(code: str) -> Finding:
    return Finding(
        code,
        Severity.WARNING,
        "the encryption keys of this home cannot be read, so backups cannot be told apart",
        "run it with the HELIX_HOME or HELIX_SECRET_KEYS of the server",
    )


async def _backup(scene: Scene) -> Finding:
    health = await _health(scene, log_too=True)
    if health is None:
        return _unknown("backup")
    told = [alarm for alarm in health.alarms if "restore" not in alarm and "verify" not in alarm]
    age_s = _age_s(health.last_backup_at, scene)
    severity = Severity.OK
    if (await _installed_s(scene) if age_s is None else age_s) > _BACKUP_CRITICAL_S:
        severity = Severity.CRITICAL
    elif told:
        severity = Severity.WARNING
    last = "there is no backup" if age_s is None else f"the last is {age_text(age_s)} old"
    return Finding(
        "backup",
        severity,
        f"{last}; {health.backups} in {scene.settings.backup_path}"
        + "".join(f"; {alarm}" for alarm in told if age_s is not None),
        "helix backup create" if severity is not Severity.OK else None,
        age_s,
        "s",
        tuple({"alarm": alarm} for alarm in told),
        (
            Measure("helix_backups", health.backups),
            *(() if age_s is None else (Measure("helix_backup_age_seconds", age_s),)),
        ),
    )


async def _restore_test(scene: Scene) -> Finding:
    health = await _health(scene)
    if health is None:
        return _unknown("restore_test")
    age_s = _age_s(health.last_restore_test_at, scene)
    late = (await _installed_s(scene) if age_s is None else age_s) > _RESTORE_TEST_AGE_S
    told = [alarm for alarm in health.alarms if "verify" in alarm]
    failed = any("failed" in alarm for alarm in told)
    return Finding(
        "restore_test",
        Severity.WARNING if late or failed else Severity.NOTICE if told else Severity.OK,
        "no backup was ever restored to test it"
        if age_s is None
        else f"a backup was last restored and compared {age_text(age_s)} ago",
        "helix backup verify" if late or told else None,
        age_s,
        "s",
        tuple({"alarm": alarm} for alarm in told),
        () if age_s is None else (Measure("helix_restore_test_age_seconds", age_s),),
    )


async def _installed_s(scene: Scene) -> float:
    """Return for how long this installation has been there: a new one may lack a backup yet."""
    row = await QUERIES.row(scene.conn, "installed_at")
    since = None if row is None else row["installed_at"]
    return 0.0 if since is None else (scene.clock.now() - since).total_seconds()


def _age_s(moment: datetime | None, scene: Scene) -> float | None:
    return None if moment is None else (scene.clock.now() - moment).total_seconds()


async def _retention(scene: Scene) -> Finding:
    there = await QUERIES.row(scene.conn, "find_retention")
    if there is None or not there["found"]:
        return Finding(
            "retention", Severity.OK, "this release keeps no record of retention: nothing to say"
        )
    runs = await QUERIES.rows(scene.conn, "last_retention")
    good = [row["completed_at"] for row in runs if row["error_message"] is None]
    if not good:
        failed = f"; the last one failed: {runs[0]['error_message'][:200]}" if runs else ""
        return Finding(
            "retention",
            Severity.WARNING if runs else Severity.NOTICE,
            f"retention never ran to its end, {len(runs)} runs are on record{failed}",
            "helix retention run",
            len(runs),
            "runs",
        )
    age_s = (scene.clock.now() - max(good)).total_seconds()
    late, failing = age_s > LIMITS.retention_age_s, runs[0]["error_message"] is not None
    return Finding(
        "retention",
        Severity.WARNING if late or failing else Severity.OK,
        f"retention last ran to its end {age_text(age_s)} ago"
        + (f"; since then it failed: {runs[0]['error_message'][:200]}" if failing else ""),
        "helix retention run" if late or failing else None,
        age_s,
        "s",
        measures=(Measure("helix_retention_age_seconds", age_s),),
    )


async def _archive(scene: Scene) -> Finding:
    there = await QUERIES.row(scene.conn, "find_retention")
    if there is None or not there["found"]:
        return Finding("archive", Severity.OK, "this schema has no archive yet: nothing to say")
    files = await glance(scene.conn, scene.settings)
    faulty = [file for file in files if file.fault is not None]
    place, size_bytes = scene.settings.archive_path, sum(file.size_bytes or 0 for file in files)
    last = await QUERIES.row(scene.conn, "last_archiving")
    failure = None if last is None else last["error_message"]
    measures = (
        Measure("helix_archive_files", len(files)),
        Measure("helix_archive_bytes", size_bytes),
        Measure("helix_archive_files_faulty", len(faulty)),
        Measure("helix_archive_failing", failure is not None),
    )
    seen = f"{len(files)} files of old requests, {bytes_text(size_bytes)}, in {place}"
    severity, todo = Severity.OK, None
    if failure is not None:
        severity, todo = Severity.WARNING, "mend that, then: helix retention run --yes"
        seen += f"; old requests could not be archived and stay in the database: {failure[:200]}"
    if faulty:
        severity = Severity.CRITICAL
        seen += f"; {len(faulty)} of them are missing or cannot be used: they are all there is of "
        seen += ", ".join(f"{month:%Y-%m}" for month in sorted({f.month for f in faulty})[:5])
        todo = (
            f"bring {place} back from a copy, or set HELIX_ARCHIVE_DIR to where the files are; "
            "then: helix archive verify"
        )
    return Finding(
        "archive",
        severity,
        seen,
        todo,
        len(faulty),
        "files",
        tuple({"name": file.name, "fault": file.fault} for file in faulty[:10]),
        measures,
    )


async def _providers(scene: Scene) -> Finding:
    store = providers.Store(scene.keyring or Keyring([new_key()]))
    troubles = await store.troubles(scene.conn)
    if scene.keyring is not None:
        registry = await store.load(scene.conn)
        known = {row["provider"] for row in troubles}
        troubles += [
            {"provider": p.name, "trouble": p.problem}
            for p in registry.providers.values()
            if p.problem is not None and p.name not in known
        ]
    troubles += [
        {"provider": name, "trouble": f"its breaker is {state} in this process"}
        for name, state in sorted(scene.breakers().items())
    ]
    names = sorted({row["provider"] for row in troubles})
    return Finding(
        "providers",
        Severity.WARNING if names else Severity.OK,
        f"{len(names)} providers cannot be used or fail: {', '.join(names[:5])}"
        if names
        else "no enabled provider lacks a key or fails",
        f"helix providers test {names[0]}" if names else None,
        len(names),
        "providers",
        tuple(troubles[:20]),
        (Measure("helix_providers_troubled", len(names)),),
    )


async def _sealed(scene: Scene) -> list[dict[str, Any]]:
    """Return how many secrets each key has sealed in each table."""
    found: list[dict[str, Any]] = []
    for table in await QUERIES.rows(scene.conn, "sealed_tables"):
        rows = await scene.conn.fetch(
            f"SELECT key_id, count(*) AS secrets FROM {quoted(table['name'])}"  # noqa: S608
            " WHERE key_id IS NOT NULL GROUP BY key_id ORDER BY key_id"
        )
        found += [{"place": table["name"], **dict(row)} for row in rows]
    return found


async def _secrets(scene: Scene) -> Finding:
    rows = await _sealed(scene)
    total = sum(row["secrets"] for row in rows)
    if scene.keyring is None:
        return Finding(
            "secrets",
            Severity.WARNING if total else Severity.OK,
            f"the encryption keys of this home cannot be read; {total} secrets need them",
            "run it with the HELIX_HOME or HELIX_SECRET_KEYS of the server" if total else None,
            total,
            "secrets",
        )
    ours = {key_id for key_id, _ in scene.keyring.derived("helix doctor")}
    lost = [dict(row) for row in rows if row["key_id"] not in ours]
    unreadable = sum(row["secrets"] for row in lost)
    if unreadable:
        return Finding(
            "secrets",
            Severity.CRITICAL,
            f"{unreadable} of {total} secrets were sealed with keys that are not here: "
            f"{', '.join(sorted({row['key_id'] for row in lost}))}",
            "put the missing key back into HELIX_SECRET_KEYS or HOME/keys",
            unreadable,
            "secrets",
            tuple(lost),
            (Measure("helix_secrets_unreadable", unreadable),),
        )
    return Finding(
        "secrets",
        Severity.OK,
        f"{total} secrets, all sealed with keys that are here",
        None,
        0,
        "secrets",
        measures=(Measure("helix_secrets_unreadable", 0),),
    )


async def _expiring_keys(scene: Scene) -> Finding:
    rows = await QUERIES.rows(scene.conn, "expiring_keys", days=LIMITS.expiry_days)
    found = {"API key": 0, "GitHub token": 0} | {row["kind"]: row["of_kind"] for row in rows}
    todo = None
    if found["API key"]:
        prefix = next(row["key_prefix"] for row in rows if row["kind"] == "API key")
        todo = f"helix keys list; the next is {prefix}"
    elif rows:
        todo = f"let {rows[0]['name']} link GitHub again"
    return Finding(
        "expiring_keys",
        Severity.NOTICE if rows else Severity.OK,
        f"{found['API key']} API keys and {found['GitHub token']} GitHub tokens that nothing "
        f"refreshes stop working within {LIMITS.expiry_days} days",
        todo,
        sum(found.values()),
        "keys",
        tuple(
            {name: row[name] for name in ("kind", "key_prefix", "name", "expires_at")}
            for row in rows
        ),
        (Measure("helix_api_keys_expiring", found["API key"]),),
    )


async def _spool(scene: Scene) -> Finding:
    return look_at_spool(scene.settings)


def look_at_spool(settings: Settings) -> Finding:
    """Say what answered calls wait on disk; needs no database."""
    directory = HomePaths(settings.home_dir).spool
    waiting = sum(path.stat().st_size for path in directory.glob("*.spool"))
    faulty = sum(path.stat().st_size for path in directory.glob("*.faulty"))
    severity = worst(
        (
            Severity.NOTICE if waiting else Severity.OK,
            Severity.WARNING if faulty else Severity.OK,
        )
    )
    return Finding(
        "spool",
        severity,
        f"{bytes_text(waiting)} of answered calls wait on disk for the database, "
        f"{bytes_text(faulty)} were refused by it",
        f"look at {directory}: what is refused is kept there" if faulty else None,
        waiting + faulty,
        "bytes",
        measures=(Measure("helix_spool_bytes", waiting),),
    )


CHECKS = (
    Check("quarantine", _quarantine),
    Check("queue", _queue),
    Check("dead_letters", _dead_letters),
    Check("backup", _backup),
    Check("restore_test", _restore_test),
    Check("retention", _retention),
    Check("archive", _archive),
    Check("providers", _providers),
    Check("secrets", _secrets),
    Check("expiring_keys", _expiring_keys),
    Check("spool", _spool),
)
