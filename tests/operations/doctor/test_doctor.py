"""The doctor: each thing it looks for is made, and found; what fails is a finding, not a crash."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Role, connect
from helix.core.errors import Misuse, Unavailable
from helix.operations.doctor import CODES, Examination, Finding, Severity, examine, sample_sizes
from helix.operations.doctor.examine import chosen_codes
from helix.operations.doctor.metrics import METRICS
from helix.operations.doctor.policy import LIMITS
from helix.operations.doctor.scene import Check, Scene
from helix.operations.migrate import downgrade
from helix.tasks import NewTask, enqueue
from tests.factories import (
    insert,
    make_api_key,
    make_github_credential,
    make_provider,
    make_user,
)

KEYRING = Keyring([new_key()])

Look = Callable[[str], Awaitable[Finding]]


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return load_settings({"DATABASE_URL": database_url}, home=tmp_path / "home")


@pytest.fixture
def look(database_url: str, settings: Settings) -> Look:
    """Return what runs one check and gives its finding."""

    async def run(code: str) -> Finding:
        found = await examine(
            database_url, settings, clock=SystemClock(), keyring=KEYRING, only={code}
        )
        [finding] = found.findings
        assert finding.code == code
        return finding

    return run


async def test_new_installation_has_nothing_worse_than_what_it_still_lacks(
    database_url: str, settings: Settings
) -> None:
    found = await examine(database_url, settings, clock=SystemClock(), keyring=KEYRING)
    assert [finding.code for finding in found.findings] == list(CODES)
    told = {f.code: f.severity for f in found.findings if f.severity is not Severity.OK}
    beside = {
        "connections",
        "long_transactions",
        "idle_transactions",
        "durability",
        "disk_data",
        "disk_wal",
        "disk_backups",
        "disk_archive",
        "slow_statements",
    }  # of the server, which tests share
    assert {code: told[code] for code in told.keys() - beside} == {
        "backup": Severity.WARNING,
        "restore_test": Severity.NOTICE,
        "retention": Severity.NOTICE,
    }
    for finding in found.findings:
        assert (finding.todo is None) == (finding.severity is Severity.OK)
        assert {measure.name for measure in finding.measures} <= METRICS.keys()
        assert all((METRICS[m.name][1] is None) == (m.label is None) for m in finding.measures)


async def test_codes_are_unique_and_a_wrong_one_is_refused() -> None:
    assert len(set(CODES)) == len(CODES)
    assert chosen_codes(" clock, queue ") == {"clock", "queue"}
    assert chosen_codes(None) == set(CODES)
    with pytest.raises(Misuse, match="there is no check nothing: there are database, "):
        chosen_codes("clock,nothing")


# ---- a check that goes wrong


def check_of(work: Callable[[Scene], Awaitable[Finding]], code: str = "versions") -> Check:
    return Check(code, work)


async def run_checks(url: str, settings: Settings, *checks: Check) -> Examination:
    return await examine(
        url, settings, clock=SystemClock(), keyring=None, checks=checks, limit_s=0.2
    )


async def fine(scene: Scene) -> Finding:
    return Finding("clock", Severity.OK, str(await scene.conn.fetchval("SELECT 1")))


async def test_check_that_fails_is_a_finding_and_the_next_one_runs(
    database_url: str, settings: Settings
) -> None:
    async def fails(_: Scene) -> Finding:
        raise ZeroDivisionError("of ours")

    found = await run_checks(database_url, settings, check_of(fails), check_of(fine, "clock"))
    assert [f.severity for f in found.findings] == [Severity.WARNING, Severity.OK]
    assert found.findings[0].seen == "the check failed: of ours"


async def test_check_that_hangs_is_cut_off_and_the_next_one_runs(
    database_url: str, settings: Settings
) -> None:
    async def hangs(scene: Scene) -> Finding:
        await scene.conn.execute("SELECT pg_sleep(60)")
        raise AssertionError

    found = await run_checks(database_url, settings, check_of(hangs), check_of(fine, "clock"))
    assert [f.severity for f in found.findings] == [Severity.WARNING, Severity.OK]
    assert "did not end within" in found.findings[0].seen


async def test_check_whose_connection_is_cut_is_a_finding_and_the_next_one_gets_another(
    database_url: str, settings: Settings
) -> None:
    async def cut(scene: Scene) -> Finding:
        await scene.conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        raise AssertionError

    found = await run_checks(database_url, settings, check_of(cut), check_of(fine, "clock"))
    assert [f.severity for f in found.findings] == [Severity.WARNING, Severity.OK]


async def test_check_cannot_write(database_url: str, settings: Settings) -> None:
    async def writes(scene: Scene) -> Finding:
        await scene.conn.execute("CREATE TABLE nothing_like_it (n integer)")
        raise AssertionError

    found = await run_checks(database_url, settings, check_of(writes))
    assert "read-only transaction" in found.findings[0].seen


async def test_database_that_is_away_is_unavailable(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be examined"):
        await examine(
            f"postgresql://helix@/nothing?host={tmp_path}", settings, clock=SystemClock(),
            keyring=None,
        )  # fmt: skip


# ---- the schema


async def test_pending_revision_is_critical(look: Look, database_url: str) -> None:
    await downgrade(database_url, target="-1", confirmed=True)
    found = await look("migrations")
    assert (found.severity, found.todo, found.value) == (Severity.CRITICAL, "helix db upgrade", 1)


SCHEMA_FAULTS = [
    ("DROP INDEX idx_sessions_expires", "missing idx_sessions_expires"),
    ("DROP VIEW recent_errors", "missing recent_errors"),
    ("ALTER TABLE llm_providers DISABLE TRIGGER llm_providers_set_updated_at", "switched off"),
    ("ALTER TABLE users NO FORCE ROW LEVEL SECURITY", "row-level security not forced users"),
    ("CREATE TABLE undecided (user_id uuid)", "has no row-level security"),
    (
        "ALTER TABLE users ADD CONSTRAINT later CHECK (email <> '') NOT VALID",
        "constraint not validated users.later",
    ),
]


@pytest.mark.parametrize(("statement", "seen"), SCHEMA_FAULTS)
async def test_schema_that_somebody_changed_is_critical(
    look: Look, owner: Connection, statement: str, seen: str
) -> None:
    await owner.execute(statement)
    found = await look("schema")
    assert found.severity is Severity.CRITICAL
    assert seen in str(found.details) or seen in found.seen


async def test_invalid_index_is_a_warning(look: Look, owner: Connection) -> None:
    await owner.execute(
        "INSERT INTO size_samples (kind, name, sampled_on, size_bytes)"
        " VALUES ('table', 'a', '2026-01-01', 1), ('table', 'b', '2026-01-01', 1)"
    )
    with pytest.raises(asyncpg.UniqueViolationError):
        await owner.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON size_samples (kind)")
    found = await look("schema")
    assert (found.severity, found.todo) == (Severity.WARNING, "helix db upgrade")
    assert "invalid index broken" in found.seen


async def test_repeated_index_is_named_and_the_beginning_of_another_is_only_told(
    look: Look, owner: Connection
) -> None:
    before = await look("duplicate_indexes")
    assert (before.severity, before.seen.startswith("0 indexes repeat")) == (Severity.OK, True)
    await owner.execute("CREATE INDEX twice ON size_samples (sampled_on)")
    found = await look("duplicate_indexes")
    assert found.severity is Severity.NOTICE
    assert found.todo == "DROP INDEX CONCURRENTLY twice"
    [row] = [row for row in found.details if row["exact"]]
    assert (row["index_name"], row["covered_by"]) == ("twice", "size_samples_sampled_on_idx")


async def test_index_behind_a_constraint_is_never_the_one_to_drop(owner: Connection) -> None:
    await owner.execute("CREATE UNIQUE INDEX again ON users (id)")
    rows = await owner.fetch("SELECT index_name, covered_by FROM duplicate_indexes WHERE exact")
    assert [tuple(row) for row in rows] == [("again", "users_pkey")]


async def test_unused_indexes_add_the_months_up(look: Look, owner: Connection) -> None:
    found = await look("unused_indexes")
    names = [
        row["index_name"]
        for row in await owner.fetch(
            "SELECT indexrelname AS index_name FROM pg_stat_user_indexes WHERE indexrelname ~ "
            "'_p[0-9]{6}_'"
        )
    ]
    assert names
    assert not {row["index_name"] for row in found.details} & set(names)
    assert found.severity is Severity.OK  # statistics are young, and the indexes small


# ---- sizes, bloat, partitions


async def test_growth_is_what_was_sampled(
    look: Look, owner: Connection, database_url: str, settings: Settings
) -> None:
    assert "growth is known from the second day on" in (await look("sizes")).seen
    first = await sample_sizes(database_url, settings, clock=SystemClock())
    assert first.tables > 80
    await owner.execute(
        "UPDATE size_samples SET sampled_on = current_date - 10, size_bytes = size_bytes - 5000000"
        " WHERE kind = 'database'"
    )
    await owner.execute(
        "UPDATE size_samples SET sampled_on = current_date - 10, size_bytes = 0"
        " WHERE kind = 'table' AND name = 'users'"
    )
    again = await sample_sizes(database_url, settings, clock=SystemClock())
    await sample_sizes(database_url, settings, clock=SystemClock())
    assert again.tables == first.tables
    found = await look("sizes")
    assert "a day over 10 days" in found.seen
    per_day = {m.name: m.value for m in found.measures}["helix_database_growth_bytes_per_day"]
    assert 500_000 <= per_day < 600_000
    grown = await owner.fetchrow("SELECT * FROM table_growth WHERE table_name = 'users'")
    assert grown["grown_bytes"] == grown["bytes_now"] > 0
    assert grown["bytes_per_day"] == round(grown["bytes_now"] / 10)


async def test_samples_are_kept_for_400_days(
    owner: Connection, database_url: str, settings: Settings
) -> None:
    for days in (399, 401):
        await owner.execute(
            "INSERT INTO size_samples (kind, name, sampled_on, size_bytes)"
            " VALUES ('table', 'old', current_date - $1::integer, 1)",
            days,
        )
    await sample_sizes(database_url, settings, clock=SystemClock())
    kept = "SELECT current_date - sampled_on FROM size_samples WHERE name = 'old'"
    assert [row[0] for row in await owner.fetch(kept)] == [399]


async def test_bloat_is_seen_in_what_was_deleted(owner: Connection) -> None:
    await owner.execute("CREATE TABLE bloated AS SELECT n, repeat('x', 100) AS t FROM"
                        " generate_series(1, 20000) AS n")  # fmt: skip
    await owner.execute("ANALYZE bloated")
    full = await owner.fetchrow("SELECT * FROM table_bloat WHERE table_name = 'bloated'")
    assert full["wasted_bytes"] < full["heap_bytes"] * 0.1
    await owner.execute("DELETE FROM bloated WHERE n % 4 <> 0")
    await owner.execute("VACUUM (ANALYZE) bloated")
    thin = await owner.fetchrow("SELECT * FROM table_bloat WHERE table_name = 'bloated'")
    assert thin["heap_bytes"] * 0.65 < thin["wasted_bytes"] < thin["heap_bytes"] * 0.85


async def test_missing_month_is_critical_and_its_rows_are_counted(
    look: Look, owner: Connection
) -> None:
    assert (await look("partitions_ahead")).value == 3
    month = datetime.now(UTC).strftime("%Y%m")
    await owner.execute(f"DROP TABLE error_log_p{month}")
    found = await look("partitions_ahead")
    assert (found.severity, found.value) == (Severity.CRITICAL, -1)
    assert found.seen.startswith("error_log has no partition for this month")
    assert (await look("default_partitions")).severity is Severity.OK
    await owner.execute(
        "INSERT INTO error_log (code, category, message) VALUES (1, 'test', 'no month')"
    )
    await owner.execute("SELECT pg_stat_force_next_flush()")
    await owner.execute("SELECT 1")
    lost = await look("default_partitions")
    assert (lost.severity, lost.value) == (Severity.WARNING, 1)
    await owner.execute("SELECT helix_create_partitions(0, 3)")
    assert (await look("partitions_ahead")).severity is Severity.OK


# ---- sessions


async def test_transaction_that_idles_is_told_with_what_ends_it(
    look: Look, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = "helix.operations.doctor.checks_server.LIMITS"
    monkeypatch.setattr(limits, _limits(idle_warning_s=0.0, transaction_warning_s=0.0))
    conn = await connect(database_url, application_name="forgotten")
    try:
        await conn.execute("BEGIN")
        await conn.execute("SELECT 'what was asked last'")
        pid = conn.get_server_pid()
        idle, long = await look("idle_transactions"), await look("long_transactions")
    finally:
        await conn.close()
    assert (idle.severity, long.severity) == (Severity.WARNING, Severity.WARNING)
    assert f"pg_terminate_backend({pid})" in str(idle.todo)
    assert long.todo == f"SELECT pg_terminate_backend({pid})"
    assert idle.details[0]["application_name"] == "forgotten"


def _limits(**changed: Any) -> Any:
    return replace(LIMITS, **changed)


async def test_slot_without_a_reader_is_told(look: Look, owner: Connection) -> None:
    name = f"t_{(await owner.fetchval('SELECT current_database()'))[2:20]}"
    await owner.execute("SELECT pg_create_physical_replication_slot($1, true)", name)
    try:
        found = await look("replication_slots")
    finally:
        await owner.execute("SELECT pg_drop_replication_slot($1)", name)
    assert found.severity is not Severity.OK
    assert any(row["slot_name"] == name and not row["active"] for row in found.details)


async def test_clock_that_is_wrong_is_told(database_url: str, settings: Settings) -> None:
    class Late(SystemClock):
        def now(self) -> datetime:
            return super().now() - timedelta(seconds=40)

    found = await examine(database_url, settings, clock=Late(), keyring=None, only={"clock"})
    assert found.worst is Severity.CRITICAL
    assert found.findings[0].value == pytest.approx(40, abs=5)
    right = await examine(database_url, settings, clock=SystemClock(), keyring=None, only={"clock"})
    assert right.worst is Severity.OK


# ---- a login without privileges of the server


@pytest.fixture
async def plain_url(database_url: str, owner: Connection) -> AsyncIterator[str]:
    """The database as a login sees it that is a member of helix_operator and nothing else."""
    name = f"plain_{uuid4().hex[:12]}"
    await owner.execute(f"CREATE ROLE {name} LOGIN IN ROLE helix_operator")
    yield database_url.replace("postgresql://helix@", f"postgresql://{name}@")
    await owner.execute(f"DROP ROLE {name}")


async def test_login_that_may_not_see_the_servers_settings_gets_its_answers(
    plain_url: str, settings: Settings, owner: Connection
) -> None:
    codes = {"disk_data", "disk_backups", "disk_archive", "slow_statements", "archive", "sizes"}
    found = await examine(plain_url, settings, clock=SystemClock(), keyring=KEYRING, only=codes)
    told = {finding.code: finding for finding in found.findings}
    assert "may not tell where" in told["disk_data"].seen
    assert {code for code in codes if "may not look" in told[code].seen} == set()
    assert {code for code in codes if "failed" in told[code].seen} == set()
    await sample_sizes(plain_url, settings, clock=SystemClock())
    assert await owner.fetchval("SELECT count(*) FROM size_samples WHERE kind = 'table'") > 100


async def test_check_that_this_login_may_not_make_says_what_it_lacks(
    plain_url: str, settings: Settings, owner: Connection
) -> None:
    await owner.execute("REVOKE SELECT ON archive_files FROM helix_operator")
    found = await examine(
        plain_url, settings, clock=SystemClock(), keyring=KEYRING, only={"archive"}
    )
    [finding] = found.findings
    assert finding.severity is Severity.WARNING
    assert finding.seen == "this login may not look: permission denied for table archive_files"
    assert "GRANT pg_monitor, helix_operator" in str(finding.todo)


# ---- Helix's own


async def test_quarantine_is_critical(look: Look, owner: Connection) -> None:
    await owner.execute("INSERT INTO quarantines (backup_name, reason) VALUES ('b', 'a drill')")
    found = await look("quarantine")
    assert (found.severity, found.todo) == (Severity.CRITICAL, "helix backup release")
    assert "a drill" in found.seen


async def test_task_that_nobody_runs_is_critical(look: Look, database_url: str) -> None:
    conn = await connect(database_url, role=Role.OPERATOR)
    try:
        due = datetime.now(UTC) - timedelta(minutes=10)
        await enqueue(conn, NewTask("a.task", queue="q", scheduled_at=due))
    finally:
        await conn.close()
    found = await look("queue")
    assert (found.severity, found.todo) == (Severity.CRITICAL, "no worker lives: helix worker")
    assert found.value == pytest.approx(600, abs=60)


async def test_dead_letters_are_counted_until_redriven(look: Look, owner: Connection) -> None:
    row = {"task_type": "a.task", "payload": {}, "error_message": "it broke"}
    for _ in range(2):
        await insert(owner, "dead_letter_queue", **row)
    found = await look("dead_letters")
    assert (found.severity, found.value) == (Severity.NOTICE, 2)
    await owner.execute(
        "UPDATE dead_letter_queue SET redriven_at = now(), redriven_task_id = uuidv7()"
    )
    assert (await look("dead_letters")).severity is Severity.OK


async def test_backup_is_wanted_sooner_or_later(look: Look, owner: Connection) -> None:
    assert (await look("backup")).severity is Severity.WARNING
    await owner.execute("UPDATE helix_migrations SET applied_at = now() - interval '40 days'")
    old, never = await look("backup"), await look("restore_test")
    assert (old.severity, old.todo) == (Severity.CRITICAL, "helix backup create")
    assert (never.severity, never.todo) == (Severity.WARNING, "helix backup verify")


async def test_failed_backup_is_told(look: Look, owner: Connection) -> None:
    await owner.execute(
        "INSERT INTO backup_runs (action, status, backup_name, duration_ms, error_message)"
        " VALUES ('create', 'failed', 'b', 1, 'the disk is full')"
    )
    assert "the disk is full" in str((await look("backup")).details)


async def test_secret_of_a_lost_key_is_critical(look: Look, owner: Connection) -> None:
    provider = await make_provider(owner)
    for column, key_id in (("a", KEYRING.key_id), ("b", "0123456789ab")):
        await owner.execute(
            "INSERT INTO provider_configs (provider_id, key, value, encrypted, key_id)"
            " VALUES ($1, $2, 'hx1:x', true, $3)",
            provider["id"],
            column,
            key_id,
        )
    found = await look("secrets")
    assert (found.severity, found.value) == (Severity.CRITICAL, 1)
    assert "0123456789ab" in found.seen
    assert KEYRING.key_id not in found.seen


async def test_every_table_with_a_key_id_is_looked_at(look: Look, owner: Connection) -> None:
    await owner.execute("CREATE TABLE of_a_later_release (key_id varchar(64))")
    await owner.execute("INSERT INTO of_a_later_release VALUES ('0123456789ab')")
    found = await look("secrets")
    assert [dict(row) for row in found.details] == [
        {"place": "of_a_later_release", "key_id": "0123456789ab", "secrets": 1}
    ]


async def test_retention_that_is_late_or_fails_is_told(look: Look, owner: Connection) -> None:
    await owner.execute("DROP TABLE IF EXISTS retention_runs")
    assert (await look("retention")).severity is Severity.OK  # this release keeps none
    await owner.execute(
        "CREATE TABLE retention_runs (id uuid PRIMARY KEY DEFAULT uuidv7(), run_id uuid,"
        " completed_at timestamptz, error_message text)"
    )
    assert (await look("retention")).severity is Severity.NOTICE
    run = "INSERT INTO retention_runs VALUES (uuidv7(), uuidv7(), now() - $1 * interval '1h', $2)"
    await owner.execute(run, 40, None)
    late = await look("retention")
    assert (late.severity, late.todo) == (Severity.WARNING, "helix retention run")
    await owner.execute(run, 10, None)
    assert (await look("retention")).severity is Severity.OK
    await owner.execute(run, 1, "no lock on llm_requests")
    assert "no lock on llm_requests" in (await look("retention")).seen


async def test_api_key_that_ends_soon_is_told(look: Look, owner: Connection) -> None:
    user = await make_user(owner)
    soon, later = datetime.now(UTC) + timedelta(days=3), datetime.now(UTC) + timedelta(days=90)
    await make_api_key(owner, user_id=user["id"], expires_at=later)
    assert (await look("expiring_keys")).severity is Severity.OK
    await make_api_key(owner, user_id=user["id"], expires_at=soon)
    found = await look("expiring_keys")
    assert (found.severity, found.value) == (Severity.NOTICE, 1)
    assert "helix keys list" in str(found.todo)


async def test_all_keys_that_end_soon_are_counted_and_ten_are_named(
    look: Look, owner: Connection
) -> None:
    user = await make_user(owner)
    soon = datetime.now(UTC) + timedelta(days=3)
    for _ in range(12):
        await make_api_key(owner, user_id=user["id"], expires_at=soon)
    found = await look("expiring_keys")
    assert (found.value, len(found.details)) == (12, 10)
    assert found.seen.startswith("12 API keys and 0 GitHub tokens")


async def test_github_token_that_ends_soon_is_told_unless_it_is_refreshed(
    look: Look, owner: Connection
) -> None:
    soon = datetime.now(UTC) + timedelta(days=3)
    await make_github_credential(owner, token_expires_at=soon, refresh_token="ciphertext")
    assert (await look("expiring_keys")).severity is Severity.OK
    await make_github_credential(owner, token_expires_at=soon, github_login="octo")
    found = await look("expiring_keys")
    assert (found.value, found.todo) == (1, "let octo link GitHub again")
    assert found.measures[0].value == 0


async def test_provider_without_a_key_and_one_that_fails_are_told(
    look: Look, owner: Connection
) -> None:
    public = {
        "base_url": "https://api.example.com/v1",
        "config": {"private": False},
        "protocol": "openai",
    }
    await make_provider(owner, name="keyless", **public)
    await make_provider(owner, name="ill", health_status="unhealthy", config={"private": True})
    await make_provider(owner, name="off", enabled=False, health_status="unhealthy")
    found = await look("providers")
    told = {row["provider"]: row["trouble"] for row in found.details}
    assert told == {"keyless": "it has no API key", "ill": "its probes fail"}
    assert found.severity is Severity.WARNING


async def test_open_breaker_of_this_process_is_told(database_url: str, settings: Settings) -> None:
    found = await examine(
        database_url, settings, clock=SystemClock(), keyring=KEYRING, only={"providers"},
        breakers=lambda: {"openai": "open"},
    )  # fmt: skip
    assert found.findings[0].todo == "helix providers test openai"


async def test_answers_that_wait_on_disk_are_told(look: Look, settings: Settings) -> None:
    spool = settings.home_dir / "spool"
    await asyncio.to_thread(spool.mkdir, parents=True)
    (spool / "1.spool").write_bytes(b"x" * 10)
    assert (await look("spool")).severity is Severity.NOTICE
    (spool / "1.faulty").write_bytes(b"x")
    found = await look("spool")
    assert (found.severity, found.value) == (Severity.WARNING, 11)


async def test_home_without_keys_says_so(database_url: str, settings: Settings) -> None:
    found = await examine(
        database_url, settings, clock=SystemClock(), keyring=None, only={"backup", "secrets"}
    )
    assert [f.severity for f in found.findings] == [Severity.WARNING, Severity.OK]
