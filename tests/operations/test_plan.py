"""`helix db plan`: what a migration would lock and touch, without doing it."""

from pathlib import Path

from helix.core.db import connect
from helix.operations.catalogue import differences
from helix.operations.check import catalogue_of
from helix.operations.migrate import current, load, upgrade
from helix.operations.plan import plan, render_plan, static_locks
from helix.operations.types import LockTaken, PlannedStatement
from tests.operations.test_migrate import revision_directory

FIRST = ("CREATE TABLE a (id integer);\nINSERT INTO a VALUES (1), (2);", "DROP TABLE a;")
SECOND = (
    (
        "-- Two new things of a.\n"
        "ALTER TABLE a ADD COLUMN b integer;\n"
        "UPDATE a SET b = id;\n"
        "CREATE TABLE c (id integer);\n"
        "-- helix: outside a transaction\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS a_b_idx ON a (b);\n"
    ),
    "DROP TABLE c;\nALTER TABLE a DROP COLUMN b;\n",
)


async def test_locks_and_rows_are_measured_and_nothing_is_changed(
    empty_database_url: str, tmp_path: Path
) -> None:
    directory = revision_directory(tmp_path, FIRST, SECOND)
    await upgrade(empty_database_url, target="001", directory=directory)
    before = await catalogue_of(empty_database_url)
    alter, update, create, index = await plan(empty_database_url, directory=directory)
    assert alter.locks == (LockTaken("a", "AccessExclusive"),)
    assert (alter.revision, alter.number, alter.rows) == ("002", 0, "ALTER TABLE")
    assert (update.locks, update.rows) == ((LockTaken("a", "RowExclusive"),), "UPDATE 2")
    assert create.locks == ()
    assert (index.locks, index.measured) == ((LockTaken("a", "ShareUpdateExclusive"),), False)
    assert differences(before, await catalogue_of(empty_database_url), ("a", "b")) == []
    conn = await connect(empty_database_url)
    assert await conn.fetchval("SELECT count(*) FROM a") == 2
    await conn.close()


async def test_plan_of_a_downgrade_runs_backwards(empty_database_url: str, tmp_path: Path) -> None:
    directory = revision_directory(tmp_path, FIRST, SECOND)
    await upgrade(empty_database_url, directory=directory)
    planned = await plan(empty_database_url, target="base", directory=directory)
    assert [(s.revision, s.sql) for s in planned] == [
        ("002", "DROP TABLE c"),
        ("002", "ALTER TABLE a DROP COLUMN b"),
        ("001", "DROP TABLE a"),
    ]
    assert (await current(empty_database_url, directory=directory)).revision == "002"


async def test_lock_that_is_not_to_be_had_ends_the_measuring_not_the_plan(
    empty_database_url: str, tmp_path: Path
) -> None:
    directory = revision_directory(tmp_path, FIRST, SECOND)
    await upgrade(empty_database_url, target="001", directory=directory)
    conn = await connect(empty_database_url)
    async with conn.transaction():
        await conn.execute("LOCK TABLE a IN SHARE MODE")
        planned = await plan(empty_database_url, directory=directory)
    assert [statement.measured for statement in planned] == [False, False, False, False]
    await conn.close()


async def test_whole_plan_of_an_empty_database_is_the_whole_sql(empty_database_url: str) -> None:
    planned = await plan(empty_database_url)
    assert len(planned) == sum(len(revision.up.statements) for revision in load())
    assert all(statement.measured for statement in planned)
    text = render_plan(planned, load())
    assert "CREATE TABLE users (" in text
    assert "-- 014 Distributed memory" in text


async def test_plan_without_measuring_reads_only(empty_database_url: str) -> None:
    planned = await plan(empty_database_url, target="001", measure=False)
    assert not any(statement.measured for statement in planned)


def test_plan_is_printed_as_a_script() -> None:
    statement = PlannedStatement(
        "002", 3, "-- Why.\nUPDATE a SET b = 1", (LockTaken("a", "RowExclusive"),), "UPDATE 2", True
    )
    revision = load()[1]
    assert render_plan([statement], [revision]).splitlines()[-2:] == [
        "-- 002.4  locks: RowExclusive on a  |  UPDATE 2",
        "UPDATE a SET b = 1;",
    ]


def test_locks_of_statements_outside_transactions_are_known() -> None:
    assert static_locks("CREATE UNIQUE INDEX CONCURRENTLY x ON t (a)") == (
        LockTaken("t", "ShareUpdateExclusive"),
    )
    assert static_locks("REINDEX TABLE CONCURRENTLY public.t") == (
        LockTaken("t", "ShareUpdateExclusive"),
    )
    assert static_locks("SELECT 1") == ()
