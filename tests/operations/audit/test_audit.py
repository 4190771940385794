"""What is done to an audit table after it was sealed is found, and the row is named (A8)."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helix.core import audit
from helix.core.audit import Actor
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database, Role, connect
from helix.core.ids import uuid7
from helix.operations.audit.rows import AUDITED, loose_columns
from helix.operations.audit.seal import read_anchors, seal_tables, write_anchors
from helix.operations.audit.verify import Finding, verify_tables
from helix.operations.secrets.cli import PLACES
from helix.operations.secrets.rotate import rotate
from tests.factories import make_api_key, make_tool_audit, make_user


@dataclass
class Book:
    """An audit in a database, and the home that seals it."""

    conn: Connection
    home: Path
    key: str = field(default_factory=new_key)

    def __post_init__(self) -> None:
        self.keyring = Keyring([self.key])

    async def write(self, count: int, *, at: datetime | None = None) -> list[UUID]:
        moment = at or datetime.now(UTC) - timedelta(minutes=5)
        ids = []
        for i in range(count):
            row_id = uuid7(int(moment.timestamp() * 1_000) + i)
            await self.conn.execute(
                "INSERT INTO audit_log (id, operation, actor_kind, origin, subject_name, details) "
                "VALUES ($1, 'api_key.created', 'command', 'ada@here', $2, $3)",
                row_id, f"key {i}", {"i": i},
            )  # fmt: skip
            ids.append(row_id)
        return ids

    async def seal(self) -> dict[str, int]:
        done = await seal_tables(self.conn, self.keyring, now=datetime.now(UTC))
        await write_anchors(self.conn, self.home)
        return done

    async def findings(self) -> list[Finding]:
        verdicts = await verify_tables(self.conn, self.keyring, read_anchors(self.home))
        return [finding for verdict in verdicts for finding in verdict.findings]

    async def kinds(self) -> list[tuple[str, UUID | None]]:
        return [(f.kind, f.row_id) for f in await self.findings()]

    async def tamper(self, sql: str, *args: Any) -> None:
        """Do what only a superuser can: change the table past its triggers."""
        await self.conn.execute("SET session_replication_role = replica")
        assert not (await self.conn.execute(sql, *args)).endswith(" 0")
        await self.conn.execute("RESET session_replication_role")


@pytest.fixture
async def book(owner: Connection, tmp_path: Path) -> Book:
    return Book(owner, tmp_path)


async def test_an_untouched_audit_verifies(book: Book) -> None:
    await book.write(7)
    assert await book.seal() == {"audit_log": 7, "tool_audit_log": 0}
    await book.write(2, at=datetime.now(UTC) - timedelta(minutes=1))
    assert await book.seal() == {"audit_log": 2, "tool_audit_log": 0}
    [log, tools] = await verify_tables(book.conn, book.keyring, read_anchors(book.home))
    assert (log.seals, log.rows, log.unsealed, log.findings) == (2, 9, 0, [])
    assert (tools.seals, tools.rows) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        "operation = 'api_key.revoked'",
        "outcome = 'failed'",
        "created_at = created_at - interval '1 day'",
        "subject_name = NULL",
        "details = '{\"i\": 99}'",
        "origin = 'eve@elsewhere'",
    ],
)
async def test_an_edit_is_found_and_the_row_named(book: Book, change: str) -> None:
    ids = await book.write(5)
    await book.seal()
    await book.tamper(f"UPDATE audit_log SET {change} WHERE id = $1", ids[3])
    assert await book.kinds() == [("row_edited", ids[3])]


@pytest.mark.parametrize("place", [0, 2, 4])
async def test_a_removal_is_found_and_the_row_named(book: Book, place: int) -> None:
    ids = await book.write(5)
    await book.seal()
    await book.tamper("DELETE FROM audit_log WHERE id = $1", ids[place])
    assert await book.kinds() == [("row_removed", ids[place])]


async def test_two_rows_that_trade_places_are_found(book: Book) -> None:
    ids = await book.write(5)
    await book.seal()
    await book.tamper(
        "UPDATE audit_log AS a SET subject_name = b.subject_name, details = b.details, "
        "created_at = b.created_at FROM audit_log AS b "
        "WHERE (a.id, b.id) IN (($1, $2), ($2, $1))",
        ids[1],
        ids[3],
    )
    assert await book.kinds() == [("row_edited", ids[1]), ("row_edited", ids[3])]


async def test_a_row_put_in_behind_the_seals_is_found(book: Book) -> None:
    await book.write(3)
    await book.seal()
    [forged] = await book.write(1, at=datetime.now(UTC) - timedelta(days=1))
    assert await book.seal() == {"audit_log": 0, "tool_audit_log": 0}
    assert await book.kinds() == [("row_added", forged)]


async def test_a_row_that_became_visible_late_is_sealed_and_no_finding(book: Book) -> None:
    await book.write(3)
    await book.seal()
    await book.write(1, at=datetime.now(UTC) - timedelta(minutes=30))
    assert await book.seal() == {"audit_log": 1, "tool_audit_log": 0}
    assert await book.kinds() == []


async def _three_seals(book: Book) -> list[UUID]:
    ids = []
    for minutes in (30, 20, 10):
        ids += await book.write(2, at=datetime.now(UTC) - timedelta(minutes=minutes))
        await book.seal()
    return ids


@pytest.mark.parametrize("number", [1, 2])
async def test_a_seal_that_was_taken_out_with_its_rows_is_found(book: Book, number: int) -> None:
    ids = await _three_seals(book)
    gone = ids[2 * number - 2 : 2 * number]
    await book.tamper("DELETE FROM audit_log WHERE id = ANY ($1::uuid[])", gone)
    await book.tamper("DELETE FROM audit_seals WHERE number = $1", number)
    assert await book.kinds() == [("seal_removed", None)]


async def test_an_end_that_was_cut_off_with_its_seal_is_found(book: Book) -> None:
    ids = await _three_seals(book)
    await book.tamper("DELETE FROM audit_log WHERE id = ANY ($1::uuid[])", ids[4:])
    await book.tamper("DELETE FROM audit_seals WHERE number = 3")
    [found] = await book.findings()
    assert (found.kind, found.what) == (
        "tail_removed",
        "seal 3, which this home has seen, is gone; the last is 2",
    )


async def test_everything_removed_is_found(book: Book) -> None:
    await _three_seals(book)
    await book.tamper("DELETE FROM audit_log")
    await book.tamper("DELETE FROM audit_seals")
    assert await book.kinds() == [("tail_removed", None)]


async def test_a_chain_made_anew_without_the_encryption_key_is_found(book: Book) -> None:
    ids = await _three_seals(book)
    await book.tamper("UPDATE audit_log SET operation = 'nothing' WHERE id = $1", ids[0])
    await book.tamper("DELETE FROM audit_seals")
    forger = Book(book.conn, book.home.parent / "forger")
    await forger.seal()
    kinds = {kind for kind, _ in await book.kinds()}
    assert kinds == {"seal_changed", "tail_removed"}


async def test_two_seals_that_trade_places_are_found(book: Book) -> None:
    await _three_seals(book)
    await book.tamper("UPDATE audit_seals SET number = 9 WHERE number = 1")
    await book.tamper("UPDATE audit_seals SET number = 1 WHERE number = 2")
    await book.tamper("UPDATE audit_seals SET number = 2 WHERE number = 9")
    assert {kind for kind, _ in await book.kinds()} == {"seal_changed"}


async def test_digests_made_to_fit_are_found(book: Book) -> None:
    ids = await book.write(3)
    await book.seal()
    await book.tamper("DELETE FROM audit_log WHERE id = $1", ids[2])
    await book.tamper(
        "UPDATE audit_seals SET row_ids = row_ids[1:2], row_count = 2, "
        "row_digests = substr(row_digests, 1, octet_length(row_digests) / 3 * 2)"
    )
    assert {kind for kind, _ in await book.kinds()} == {"seal_changed"}


@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["edit", "remove"]), st.integers(0, 19)), min_size=1, max_size=4
    )
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_rows_are_touched_exactly_those_are_named(
    changes: list[tuple[str, int]],
    shared_database_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    asyncio.run(_touch(changes, shared_database_url, tmp_path_factory.mktemp("home")))


async def _touch(changes: list[tuple[str, int]], url: str, home: Path) -> None:
    conn = await connect(url)
    undo = conn.transaction()
    await undo.start()
    try:
        book = Book(conn, home)
        ids = await book.write(20)
        await book.seal()
        touched: dict[UUID, str] = {}
        for kind, place in changes:
            if touched.get(ids[place]) == "row_removed":
                continue
            if kind == "edit":
                await book.tamper(
                    "UPDATE audit_log SET subject_name = subject_name || '!' WHERE id = $1",
                    ids[place],
                )
                touched[ids[place]] = "row_edited"
            else:
                await book.tamper("DELETE FROM audit_log WHERE id = $1", ids[place])
                touched[ids[place]] = "row_removed"
        assert {row: kind for kind, row in await book.kinds()} == touched
    finally:
        await undo.rollback()
        await conn.close()


# ---- what may change -----------------------------------------------------------------------------


async def test_erasing_and_unlinking_are_no_findings_and_are_counted(book: Book) -> None:
    user = await make_user(book.conn)
    key = await make_api_key(book.conn, user_id=user["id"])
    actor = Actor("user", user["id"], key["id"], "192.0.2.7")
    await audit.record(book.conn, "api_key.created", actor=actor, details={"a": 1})
    await make_tool_audit(
        book.conn,
        user_id=user["id"],
        parameters={"path": "/x"},
        result={"ok": True},
        reason="rule 7",
    )
    later = datetime.now(UTC) + timedelta(minutes=1)
    await seal_tables(book.conn, book.keyring, now=later)
    await book.conn.execute("SELECT helix_erase_user($1)", user["id"])
    verdicts = await verify_tables(book.conn, book.keyring, {})
    assert [v.findings for v in verdicts] == [[], []]
    assert [v.emptied for v in verdicts] == [4, 4]


async def test_a_dropped_month_breaks_no_chain(book: Book) -> None:
    old = datetime.now(UTC) - timedelta(days=400)
    month = old.strftime("%Y%m")
    await book.conn.execute("SELECT helix_create_partitions(14, 1)")
    await book.write(3, at=old)
    await book.seal()
    await book.write(2)
    await book.seal()
    await book.conn.execute(f"DROP TABLE audit_log_p{month}")
    [log, _] = await verify_tables(book.conn, book.keyring, read_anchors(book.home))
    assert (log.rows, dict(log.dropped), log.findings) == (2, {int(month): 3}, [])
    await book.seal()
    kept = await book.conn.fetchval("SELECT row_ids IS NOT NULL FROM audit_seals WHERE number = 1")
    assert not kept
    [log, _] = await verify_tables(book.conn, book.keyring, read_anchors(book.home))
    assert (log.rows, dict(log.dropped), log.findings) == (2, {int(month): 3}, [])


async def test_seals_of_a_month_that_is_there_cannot_be_emptied_unseen(book: Book) -> None:
    await book.write(3)
    await book.seal()
    await book.tamper("UPDATE audit_seals SET row_ids = NULL, row_digests = NULL")
    assert ("seal_changed", None) in await book.kinds()


async def test_a_column_added_later_does_not_change_old_digests(book: Book) -> None:
    await book.write(3)
    await book.seal()
    await book.conn.execute("ALTER TABLE audit_log ADD COLUMN ticket text")
    assert await book.kinds() == []


async def test_seals_are_rotated_with_everything_else(book: Book) -> None:
    await _three_seals(book)
    old = book.keyring.key_id
    new = new_key()
    both = Keyring([new, book.key])
    done = await rotate(book.conn, both, PLACES, progress=lambda _: None)
    assert done.rows == 3
    book.keyring = Keyring([new])
    assert book.keyring.key_id != old
    assert await book.kinds() == []


# ---- what the tables let nobody do ---------------------------------------------------------------


@pytest.mark.parametrize("table", AUDITED)
async def test_what_may_be_emptied_is_what_the_trigger_says(conn: Connection, table: str) -> None:
    assert (
        await loose_columns(conn, table)
        == {
            "audit_log": ["actor_id", "actor_key_id", "details", "origin"],
            "tool_audit_log": [
                "api_key_id",
                "parameters",
                "project_id",
                "reason",
                "result",
                "user_id",
            ],
        }[table]
    )


async def test_nobody_removes_a_seal_and_tenants_see_none(conn: Connection) -> None:
    for role in Role:
        for right in ("DELETE", "TRUNCATE"):
            assert not await conn.fetchval(
                "SELECT has_table_privilege($1, 'audit_seals', $2)", role.value, right
            )
    for role, table in ((Role.APP, "audit_log"), (Role.APP, "audit_seals")):
        assert not await conn.fetchval(
            "SELECT has_any_column_privilege($1, $2, 'SELECT')", role.value, table
        )


async def test_sealing_two_at_a_time_makes_one_chain(
    db: Database, owner: Connection, tmp_path: Path
) -> None:
    book = Book(owner, tmp_path)
    await book.write(30)

    async def seal() -> int:
        async with db.connection(Role.OPERATOR) as conn:
            return (await seal_tables(conn, book.keyring, now=datetime.now(UTC)))["audit_log"]

    assert sum(await asyncio.gather(*(seal() for _ in range(4)))) == 30
    assert await book.kinds() == []
