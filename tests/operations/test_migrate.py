"""Migrations: one migrator, all or nothing, on from where it stopped, and nobody else's tables."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from helix.core.db import Connection, Role, connect
from helix.core.errors import Unavailable
from helix.operations.catalogue import Catalogue, differences, read_catalogue
from helix.operations.check import catalogue_of
from helix.operations.errors import (
    DatabaseUnsuitable,
    DeletionsNotConfirmed,
    MigrationBusy,
    MigrationFailed,
    NamesTaken,
    RevisionUnknown,
    SchemaUnknown,
)
from helix.operations.migrate import current, downgrade, load, require_known_schema, upgrade
from helix.operations.scratch import on_database
from helix.operations.types import MigrationLimits, SchemaVersion
from tests.conftest import Server

IMPATIENT = MigrationLimits(lock_timeout_ms=50, attempts=2, pause_s=0.01, peer_wait_s=0.3)
STATEMENTS = [
    (revision.id, number) for revision in load() for number in range(len(revision.up.statements))
]
IDS = [revision.id for revision in load()]
SAMPLE = random.Random(79).sample(STATEMENTS, 6)  # rigs/kill_migrator.py does them all


def same(left: Catalogue, right: Catalogue) -> bool:
    return differences(left, right, ("left", "right")) == []


def revision_directory(tmp_path: Path, *scripts: tuple[str, str]) -> Path:
    """Write revisions r1, r2 … of (up, down) into a directory of their own."""
    (tmp_path / "versions").mkdir()
    (tmp_path / "sql").mkdir()
    for number, (up, down) in enumerate(scripts, start=1):
        before = f'"{number - 1:03}"' if number > 1 else None
        text = f'"""Revision {number}."""\nrevision = "{number:03}"\ndown_revision = {before}\n'
        (tmp_path / "versions" / f"{number:03}_r.py").write_text(text)
        (tmp_path / "sql" / f"{number:03}_r.up.sql").write_text(up)
        (tmp_path / "sql" / f"{number:03}_r.down.sql").write_text(down)
    return tmp_path


def killing_before(
    url: str, revision: str, number: int
) -> tuple[Callable[[str, int], Awaitable[None]], list[int]]:
    """Return a watch that has the migrator's backend killed before one statement."""
    killed: list[int] = []

    async def watch(at_revision: str, at_number: int) -> None:
        if (at_revision, at_number) != (revision, number) or killed:
            return
        conn = await connect(url)
        killed.append(
            await conn.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'helix migrate' AND datname = current_database()"
            )
        )
        await conn.close()

    return watch, killed


async def test_history_begins_with_the_documented_one_and_goes_on_to_the_head(
    empty_database_url: str,
) -> None:
    await upgrade(empty_database_url)
    assert await current(empty_database_url) == SchemaVersion(IDS[-1], None, ())
    assert IDS[:7] == ["001", "002", "003", "011", "012", "013", "014"]


async def test_upgrade_repeated_does_nothing(database_url: str) -> None:
    before = await catalogue_of(database_url)
    told: list[str] = []
    await upgrade(database_url, report=told.append)
    assert told == [f"the schema is at {IDS[-1]} already"]
    assert same(before, await catalogue_of(database_url))


async def test_of_four_starters_one_applies_and_none_fails(empty_database_url: str) -> None:
    told: list[list[str]] = [[], [], [], []]
    await asyncio.gather(*(upgrade(empty_database_url, report=lines.append) for lines in told))
    applied = [sum("applied" in line for line in lines) for lines in told]
    assert sorted(applied) == [0, 0, 0, len(IDS)]
    assert (await current(empty_database_url)).pending == ()


@pytest.mark.parametrize(("revision", "number"), SAMPLE)
async def test_migrator_killed_before_a_statement_leaves_nothing_half_made(
    empty_database_url: str, revision: str, number: int
) -> None:
    ids = [r.id for r in load()]
    before = ids[ids.index(revision) - 1] if revision != "001" else "base"
    await upgrade(empty_database_url, target=before)
    start = await catalogue_of(empty_database_url)
    watch, killed = killing_before(empty_database_url, revision, number)
    with pytest.raises(Unavailable, match="connection to the database was lost"):
        await upgrade(empty_database_url, target=revision, watch=watch)
    assert killed == [1]
    assert same(start, await catalogue_of(empty_database_url))
    await upgrade(empty_database_url, target=revision)
    assert (await current(empty_database_url)).revision == revision


async def test_downgrade_killed_in_the_middle_leaves_nothing_half_gone(database_url: str) -> None:
    await downgrade(database_url, target="014", confirmed=True)
    start = await catalogue_of(database_url)
    watch, killed = killing_before(database_url, "014", 40)
    with pytest.raises(Unavailable):
        await downgrade(database_url, confirmed=True, watch=watch)
    assert killed == [1]
    assert same(start, await catalogue_of(database_url))
    await downgrade(database_url, confirmed=True)
    assert (await current(database_url)).revision == "013"


STEPPED = (
    (
        "CREATE TABLE a (id integer);\n"
        "INSERT INTO a SELECT generate_series(1, 100);\n"
        "-- helix: outside a transaction\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS a_id_idx ON a (id);\n"
        "INSERT INTO a VALUES (101);\n"
        "-- helix: outside a transaction\n"
        "VACUUM a;\n"
    ),
    "-- helix: outside a transaction\nDROP INDEX CONCURRENTLY IF EXISTS a_id_idx;\nDROP TABLE a;\n",
)


@pytest.mark.parametrize("number", range(5))
async def test_revision_in_steps_goes_on_after_a_kill_before_any_statement(
    empty_database_url: str, tmp_path: Path, number: int
) -> None:
    directory = revision_directory(tmp_path, STEPPED)
    watch, killed = killing_before(empty_database_url, "001", number)
    with pytest.raises(Unavailable):
        await upgrade(empty_database_url, directory=directory, watch=watch)
    assert killed == [1]
    await upgrade(empty_database_url, directory=directory)
    assert await current(empty_database_url, directory=directory) == SchemaVersion("001", None, ())
    conn = await connect(empty_database_url)
    assert await conn.fetchval("SELECT count(*) FROM a") == 101
    assert await conn.fetchval("SELECT indisvalid FROM pg_index WHERE indrelid = 'a'::regclass")
    await conn.close()


@pytest.mark.parametrize("number", range(2))
async def test_downgrade_in_steps_goes_on_after_a_kill(
    empty_database_url: str, tmp_path: Path, number: int
) -> None:
    directory = revision_directory(tmp_path, STEPPED)
    await upgrade(empty_database_url, directory=directory)
    watch, _ = killing_before(empty_database_url, "001", number)
    with pytest.raises(Unavailable):
        await downgrade(empty_database_url, directory=directory, confirmed=True, watch=watch)
    await downgrade(empty_database_url, target="base", directory=directory, confirmed=True)
    assert await current(empty_database_url, directory=directory) == SchemaVersion(
        None, None, ("001",)
    )


async def test_half_done_revision_is_not_served(empty_database_url: str, tmp_path: Path) -> None:
    directory = revision_directory(tmp_path, STEPPED)
    watch, _ = killing_before(empty_database_url, "001", 3)
    with pytest.raises(Unavailable):
        await upgrade(empty_database_url, directory=directory, watch=watch)
    conn = await connect(empty_database_url)
    with pytest.raises(SchemaUnknown, match="001 is half done: run `helix db upgrade`"):
        await require_known_schema(conn, directory=directory)
    await conn.close()


async def test_half_done_revision_of_another_release_is_refused(
    empty_database_url: str, tmp_path: Path
) -> None:
    directory = revision_directory(tmp_path, STEPPED)
    watch, _ = killing_before(empty_database_url, "001", 3)
    with pytest.raises(Unavailable):
        await upgrade(empty_database_url, directory=directory, watch=watch)
    (tmp_path / "sql" / "001_r.up.sql").write_text("CREATE TABLE b (id integer);")
    with pytest.raises(SchemaUnknown, match="another text"):
        await upgrade(empty_database_url, directory=directory)


async def test_index_left_invalid_is_rebuilt_before_it_is_built_again(
    empty_database_url: str, tmp_path: Path
) -> None:
    directory = revision_directory(tmp_path, STEPPED)
    watch, _ = killing_before(empty_database_url, "001", 2)
    with pytest.raises(Unavailable):
        await upgrade(empty_database_url, directory=directory, watch=watch)
    conn = await connect(empty_database_url)
    await conn.execute("CREATE INDEX a_id_idx ON a (id)")
    await conn.execute("UPDATE pg_index SET indisvalid = false WHERE indrelid = 'a'::regclass")
    await upgrade(empty_database_url, directory=directory)
    assert await conn.fetchval("SELECT indisvalid FROM pg_index WHERE indrelid = 'a'::regclass")
    await conn.close()


async def test_invalid_indexes_of_helix_are_rebuilt_and_those_of_others_left(
    database_url: str, owner: Connection
) -> None:
    await owner.execute("CREATE TABLE guest (id integer)")
    await owner.execute("CREATE INDEX guest_idx ON guest (id)")
    await owner.execute(
        "UPDATE pg_index SET indisvalid = false "
        "WHERE indexrelid IN ('guest_idx'::regclass, 'projects_pkey'::regclass)"
    )
    told: list[str] = []
    await upgrade(database_url, report=told.append)
    assert told[0] == "rebuilt the invalid index projects_pkey"
    invalid = await owner.fetch(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
    )
    assert [row[0] for row in invalid] == ["guest_idx"]


async def test_failing_statement_is_named_and_leaves_nothing(
    empty_database_url: str, tmp_path: Path
) -> None:
    directory = revision_directory(
        tmp_path, ("CREATE TABLE a (id integer);\nINSERT INTO a VALUES (1 / 0);", "DROP TABLE a;")
    )
    with pytest.raises(MigrationFailed) as raised:
        await upgrade(empty_database_url, directory=directory)
    assert raised.value.message == (
        "001_r.up.sql, statement 2 (INSERT INTO a VALUES (1 / 0)): division by zero"
    )
    assert [*(await catalogue_of(empty_database_url)).heads] == []
    conn = await connect(empty_database_url)
    assert await conn.fetchval("SELECT to_regclass('helix_migrations')") is None
    await conn.close()


async def test_waiting_for_a_lock_gives_up_and_goes_on_later(
    empty_database_url: str, tmp_path: Path
) -> None:
    directory = revision_directory(
        tmp_path,
        ("CREATE TABLE a (id integer);", "DROP TABLE a;"),
        ("ALTER TABLE a ADD COLUMN b integer;", "ALTER TABLE a DROP COLUMN b;"),
    )
    await upgrade(empty_database_url, target="001", directory=directory)
    conn = await connect(empty_database_url)
    async with conn.transaction():
        await conn.execute("LOCK TABLE a IN ACCESS SHARE MODE")
        with pytest.raises(MigrationBusy, match="no lock within 50 ms in 2 tries"):
            await upgrade(empty_database_url, directory=directory, limits=IMPATIENT)
    await upgrade(empty_database_url, directory=directory, limits=IMPATIENT)
    assert (await current(empty_database_url, directory=directory)).revision == "002"
    await conn.close()


async def test_peer_that_never_ends_is_reported(empty_database_url: str) -> None:
    peer = await connect(empty_database_url)
    await peer.execute("SELECT pg_advisory_lock($1)", int.from_bytes(b"HELIX"))
    told: list[str] = []
    with pytest.raises(MigrationBusy, match="another migrator still runs"):
        await upgrade(empty_database_url, limits=IMPATIENT, report=told.append)
    assert told == ["another migrator is at work: waiting for it"]
    await peer.close()


async def test_foreign_tables_are_untouched_by_the_whole_way_up_and_down(
    empty_database_url: str,
) -> None:
    conn = await connect(empty_database_url)
    await conn.execute("CREATE TYPE mood AS ENUM ('fine', 'not')")
    await conn.execute("CREATE TABLE customers (id serial PRIMARY KEY, name text UNIQUE, how mood)")
    await conn.execute(
        "INSERT INTO customers (name) SELECT 'c' || n FROM generate_series(1, 500) AS n"
    )
    await conn.execute("CREATE VIEW named AS SELECT name FROM customers")
    await conn.execute("CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql RETURN n * 2")
    before, rows = await read_catalogue(conn), await conn.fetch("SELECT * FROM customers")
    await upgrade(empty_database_url)
    await downgrade(empty_database_url, target="base", confirmed=True)
    after = await read_catalogue(conn)
    roots = {"customers", "customers_id_seq", "named", "mood", "twice(integer)"}
    assert roots <= set(before.roots.values())
    assert {t: f for t, f in before.things.items() if before.roots[t] in roots} == {
        t: f for t, f in after.things.items() if after.roots[t] in roots
    }
    assert await conn.fetch("SELECT * FROM customers") == rows
    await conn.close()


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("CREATE TABLE users (id integer)", "table users"),
        ("CREATE VIEW llm_calls AS SELECT 1", "view llm_calls"),
        (
            "CREATE TABLE t (id integer); CREATE INDEX idx_events_data ON t (id)",
            "index idx_events_data",
        ),
        ("CREATE TYPE task_status AS ENUM ('x')", "type task_status"),
        (
            "CREATE FUNCTION helix_tenant() RETURNS int LANGUAGE sql RETURN 1",
            "function helix_tenant",
        ),
    ],
)
async def test_name_that_is_taken_is_refused_before_anything_is_made(
    empty_database_url: str, statement: str, named: str
) -> None:
    conn = await connect(empty_database_url)
    await conn.execute(statement)
    before = await read_catalogue(conn)
    with pytest.raises(NamesTaken, match=named):
        await upgrade(empty_database_url)
    assert same(before, await read_catalogue(conn))
    assert await conn.fetchval("SELECT to_regclass('helix_migrations')") is None
    await conn.close()


async def test_downgrade_names_what_it_drops_and_waits_for_yes(
    database_url: str, owner: Connection
) -> None:
    await downgrade(database_url, target="014", confirmed=True)
    await owner.execute("INSERT INTO memory_nodes (node_id) VALUES ('n1'), ('n2')")
    before = await read_catalogue(owner)
    with pytest.raises(DeletionsNotConfirmed) as raised:
        await downgrade(database_url)
    lost = {deletion.name: deletion for deletion in raised.value.deletions}
    assert (lost["memory_nodes"].kind, lost["memory_nodes"].rows) == ("table", 2)
    assert "users" not in lost
    assert same(before, await read_catalogue(owner))
    assert await owner.fetchval("SELECT count(*) FROM memory_nodes") == 2


async def test_downgrade_announces_exactly_the_tables_and_columns_that_go(
    database_url: str,
) -> None:
    with pytest.raises(DeletionsNotConfirmed) as raised:
        await downgrade(database_url, target="001")
    named = {(deletion.kind, deletion.name) for deletion in raised.value.deletions}
    before = await catalogue_of(database_url)
    await downgrade(database_url, target="001", confirmed=True)
    after = await catalogue_of(database_url)
    tables = {
        thing.removeprefix("table ")
        for thing in before.things.keys() - after.things.keys()
        if thing.startswith("table ") and not before.things[thing].get("parents")
    }
    columns = {
        thing.removeprefix("column ")
        for thing in before.things.keys() - after.things.keys()
        if thing.startswith("column ") and before.roots[thing] in set(after.roots.values())
    }
    parts = {
        thing.removeprefix("table ")
        for thing, shape in before.things.items()
        if thing.startswith("table ") and shape.get("parents")
    }
    columns = {name for name in columns if name.partition(".")[0] not in parts}
    shown = {
        (kind, name)
        for kind, name in named
        if kind == "table" or name.partition(".")[0] not in tables
    }  # a later revision takes its columns off a table that an earlier one then drops
    assert shown == {("table", name) for name in tables} | {("column", name) for name in columns}
    assert ("column", "llm_providers.modelsdev_provider_id") in named


@pytest.mark.parametrize("target", ["099", "", "head~1", "0", "+9", "-9"])
async def test_unknown_target_is_refused(database_url: str, target: str) -> None:
    with pytest.raises(RevisionUnknown):
        await upgrade(database_url, target=target)


async def test_targets_may_be_relative_or_the_beginning_of_an_id(empty_database_url: str) -> None:
    await upgrade(empty_database_url, target="+1")
    assert (await current(empty_database_url)).revision == "001"
    await upgrade(empty_database_url, target="003")
    with pytest.raises(RevisionUnknown, match="past 002: use downgrade"):
        await upgrade(empty_database_url, target="002")
    with pytest.raises(RevisionUnknown, match="before 011: use upgrade"):
        await downgrade(empty_database_url, target="011")
    await downgrade(empty_database_url, target="-2", confirmed=True)
    assert (await current(empty_database_url)).revision == "001"


@pytest.mark.parametrize("role", [None, Role.APP, Role.RECORDER, Role.READONLY, Role.OPERATOR])
async def test_head_is_served_to_every_role(database_url: str, role: Role | None) -> None:
    conn = await connect(database_url, role=role)
    await require_known_schema(conn)
    await conn.close()


async def test_schema_that_is_not_this_release_s_is_not_served(
    empty_database_url: str, database_url: str, owner: Connection
) -> None:
    empty = await connect(empty_database_url)
    with pytest.raises(SchemaUnknown, match="holds no Helix schema: run `helix db upgrade`"):
        await require_known_schema(empty)
    await empty.close()
    await owner.execute(
        "INSERT INTO helix_migrations (revision, title, checksum, state) "
        "VALUES ('099', '', '', 'applied')"
    )
    with pytest.raises(SchemaUnknown, match="revision 099, which this Helix does not know"):
        await require_known_schema(owner)
    with pytest.raises(SchemaUnknown):
        await upgrade(database_url)
    await owner.execute("DELETE FROM helix_migrations WHERE revision = ANY ($1)", [IDS[-1], "099"])
    with pytest.raises(SchemaUnknown, match=f"is at {IDS[-2]} and this Helix needs {IDS[-1]}"):
        await require_known_schema(owner)
    await owner.execute("DELETE FROM helix_migrations WHERE revision = '002'")
    with pytest.raises(SchemaUnknown, match="with a gap"):
        await require_known_schema(owner)


@pytest.fixture
async def plain_owner_url(server: Server, empty_database_url: str) -> str:
    """An empty database whose owner is no superuser but may create roles."""
    name = f"owner_{uuid4().hex}"
    admin = await connect(empty_database_url)
    database = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"CREATE ROLE {name} LOGIN CREATEROLE")
    await admin.execute(f"ALTER DATABASE {database} OWNER TO {name}")
    await admin.execute("CREATE EXTENSION vector")
    await admin.close()
    return on_database(empty_database_url, database).replace("helix@", f"{name}@", 1)


async def test_plain_owner_who_may_have_the_roles_migrates_up_down_and_up(
    server: Server, plain_owner_url: str
) -> None:
    admin = await connect(server.url("postgres"))
    name = plain_owner_url.partition("//")[2].partition("@")[0]
    roles = ", ".join(role.value for role in Role)
    await admin.execute(f"GRANT {roles} TO {name}")
    await upgrade(plain_owner_url)
    first = await catalogue_of(plain_owner_url)
    await downgrade(plain_owner_url, target="base", confirmed=True)
    await upgrade(plain_owner_url)
    assert same(first, await catalogue_of(plain_owner_url))
    await admin.close()


async def test_owner_who_may_not_have_the_roles_is_told_what_to_run(plain_owner_url: str) -> None:
    with pytest.raises(MigrationFailed, match=r"may not become a member of it.*GRANT helix_"):
        await upgrade(plain_owner_url)


async def test_owner_who_may_not_install_pgvector_is_told_what_to_run(
    server: Server, plain_owner_url: str
) -> None:
    database = plain_owner_url.partition("@/")[2].partition("?")[0]
    admin = await connect(server.url(database))
    await admin.execute("DROP EXTENSION vector")
    await admin.close()
    with pytest.raises(DatabaseUnsuitable, match=f"CREATE EXTENSION vector in {database}"):
        await upgrade(plain_owner_url)


async def test_login_without_rights_on_the_schema_is_refused(
    server: Server, empty_database_url: str
) -> None:
    name = f"guest_{uuid4().hex}"
    admin = await connect(empty_database_url)
    await admin.execute(f"CREATE ROLE {name} LOGIN")
    with pytest.raises(DatabaseUnsuitable, match="may not create in schema public"):
        await upgrade(empty_database_url.replace("helix@", f"{name}@", 1))
    await admin.execute(f"DROP ROLE {name}")
    await admin.close()
