"""Bringing a database to a revision of the schema, and back.

Guarantees: one migrator at a time per database, whoever else starts waits and finds the work done;
a step (almost always: a whole revision) is one transaction together with the row that records it,
so a migrator killed between any two statements leaves nothing half made, and running it again goes
on; what is not Helix's is never touched. Decided in docs/adr/0006.
"""

import asyncio
import importlib
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from helix.core.db import OUTAGES, Connection, Queries, Role, connect
from helix.core.errors import Unavailable
from helix.operations.errors import (
    DatabaseUnsuitable,
    DeletionsNotConfirmed,
    MigrationBusy,
    NamesTaken,
    RevisionUnknown,
    SchemaUnknown,
)
from helix.operations.runner import Runner, quoted, read_applied
from helix.operations.scripts import (
    MIGRATIONS,
    concerned_table,
    created_names,
    dropped_columns,
    dropped_tables,
    revision_ids,
    summary,
)
from helix.operations.types import (
    AppliedRevision,
    Deletion,
    Guard,
    MigrationLimits,
    Report,
    Revision,
    SchemaVersion,
    Watch,
)

__all__ = [
    "current",
    "deletions",
    "downgrade",
    "load",
    "open_migrator",
    "require_free_names",
    "require_known_schema",
    "resolve",
    "standing",
    "upgrade",
]

_QUERIES = Queries("helix.operations")
_LOCK_KEY = int.from_bytes(b"HELIX")
_OLDEST_SERVER = 150_000
_PEER_POLL_S = 0.1
_LIMITS = MigrationLimits()
_ROLES = [role.value for role in Role]
_RELATIVE = re.compile(r"[+-]\d+")


def _quiet(line: str) -> None:
    """Report nothing."""


async def upgrade(
    url: str,
    *,
    target: str = "head",
    report: Report = _quiet,
    limits: MigrationLimits = _LIMITS,
    directory: Path = MIGRATIONS,
    watch: Watch | None = None,
    guard: Guard | None = None,
) -> None:
    """Apply the revisions up to `target` to the database at `url`.

    Repeating it is harmless; of any number of callers at once one does the work and the others
    find it done. Raises DatabaseUnsuitable or NamesTaken before anything is made, SchemaUnknown
    when the database holds a revision this Helix does not know, RevisionUnknown for a target that
    is behind, MigrationFailed, and MigrationBusy when locks or another migrator do not make way.
    `guard` is called, and may raise, before anything is made, when rows would be destroyed.
    """
    async with open_migrator(url, limits) as conn:
        runner = Runner(conn, limits, report, watch)
        version = standing(await read_applied(conn), revision_ids(directory))
        if target == "head" and not version.pending and not version.interrupted:
            await runner.rebuild_invalid_indexes(directory)
            report(f"the schema is at {version.revision} already")
            return
        async with _sole_migrator(conn, limits, report):
            revisions = load(directory)
            await _require_suitable(conn)
            standing(await read_applied(conn), [revision.id for revision in revisions])
            at = await runner.finish_interrupted(revisions)
            goal = resolve(target, revisions, at)
            if goal < at:
                raise RevisionUnknown(
                    f"the database is at {revisions[at - 1].id}, past {target}: use downgrade"
                )
            await require_free_names(conn, revisions[:at], revisions[at:goal])
            if guard is not None:
                await _guard_rows(conn, revisions[at:goal], guard)
            for revision in revisions[at:goal]:
                await runner.run(revision, up=True)
            await runner.rebuild_invalid_indexes(directory)
            if goal == at:
                report(f"nothing to do: the schema is at {_label(revisions, at)}")


async def downgrade(
    url: str,
    *,
    target: str = "-1",
    confirmed: bool = False,
    report: Report = _quiet,
    limits: MigrationLimits = _LIMITS,
    directory: Path = MIGRATIONS,
    watch: Watch | None = None,
    guard: Guard | None = None,
) -> None:
    """Take revisions back until the database is at `target`.

    Raises DeletionsNotConfirmed, which lists them, when tables or columns would be dropped and
    `confirmed` is False; nothing is changed then. Otherwise as `upgrade`; `guard` is called when
    rows or values go with what is dropped.
    """
    async with open_migrator(url, limits) as conn, _sole_migrator(conn, limits, report):
        runner = Runner(conn, limits, report, watch)
        revisions = load(directory)
        standing(await read_applied(conn), [revision.id for revision in revisions])
        at = await runner.finish_interrupted(revisions)
        goal = resolve(target, revisions, at)
        if goal > at:
            raise RevisionUnknown(
                f"the database is at {_label(revisions, at)}, before {target}: use upgrade"
            )
        going = tuple(reversed(revisions[goal:at]))
        lost = await deletions(conn, going)
        if lost and not confirmed:
            raise DeletionsNotConfirmed(lost)
        if guard is not None and (gone := sum(one.rows for one in lost)):
            await guard(conn, f"this drops {len(lost)} tables or columns with {gone} rows")
        for revision in going:
            await runner.run(revision, up=False)
        if goal == at:
            report(f"nothing to do: the schema is at {_label(revisions, at)}")


async def current(url: str, *, directory: Path = MIGRATIONS) -> SchemaVersion:
    """Return where the database at `url` stands; reads only."""
    async with open_migrator(url, _LIMITS) as conn:
        applied = await read_applied(conn)
    return standing(applied, revision_ids(directory))


async def require_known_schema(conn: Connection, *, directory: Path = MIGRATIONS) -> None:
    """Return if the database is at the head this Helix knows; any role may ask.

    Raises SchemaUnknown, in one line that says what to do, when it is empty, older, half
    migrated, or made by another release. The server calls this before it serves.
    """
    version = standing(await read_applied(conn), revision_ids(directory))
    if version.interrupted:
        raise SchemaUnknown(
            f"the schema's revision {version.interrupted} is half done: run `helix db upgrade`"
        )
    if version.revision is None:
        raise SchemaUnknown("the database holds no Helix schema: run `helix db upgrade`")
    if version.pending:
        raise SchemaUnknown(
            f"the schema is at {version.revision} and this Helix needs {version.pending[-1]}: "
            "run `helix db upgrade`"
        )


def standing(applied: Sequence[AppliedRevision], known: Sequence[str]) -> SchemaVersion:
    """Return where a database with `applied` revisions stands on the line of `known` ones.

    Raises SchemaUnknown for a revision that is not known, or a gap before one.
    """
    strange = [row.id for row in applied if row.id not in known]
    if strange:
        raise SchemaUnknown(
            f"the database has revision {', '.join(strange)}, which this Helix does not know "
            f"(it knows up to {known[-1]}): run the release that made it"
        )
    whole = [row.id for row in applied if row.state == "applied"]
    interrupted = [row.id for row in applied if row.state != "applied"]
    present = whole + interrupted
    if sorted(present) != sorted(known[: len(present)]) or len(interrupted) > 1:
        raise SchemaUnknown(
            f"helix_migrations lists {', '.join(present)}, with a gap before the last: "
            "somebody edited it"
        )
    return SchemaVersion(
        revision=known[len(whole) - 1] if whole else None,
        interrupted=interrupted[0] if interrupted else None,
        pending=tuple(known[len(whole) :]),
    )


def load(directory: Path = MIGRATIONS) -> tuple[Revision, ...]:
    """Return the revisions; imports Alembic, and only when called (revisions.py says why)."""
    revisions: tuple[Revision, ...] = importlib.import_module(
        "helix.operations.revisions"
    ).load_revisions(directory)
    return revisions


def resolve(target: str, revisions: tuple[Revision, ...], at: int) -> int:
    """Return how many revisions are in place once `target` is reached; `at` are in place now.

    `target` is `head`, `base`, `+N`, `-N`, or a revision's id or the unique beginning of one.
    Raises RevisionUnknown for anything else.
    """
    ids = [revision.id for revision in revisions]
    if target == "head":
        return len(ids)
    if target == "base":
        return 0
    if _RELATIVE.fullmatch(target):
        goal = at + int(target)
        if not 0 <= goal <= len(ids):
            raise RevisionUnknown(f"{target} leads out of the {len(ids)} revisions from {at}")
        return goal
    matches = [n for n, id_ in enumerate(ids) if id_ == target] or [
        n for n, id_ in enumerate(ids) if target and id_.startswith(target)
    ]
    if len(matches) != 1:
        raise RevisionUnknown(f"no revision {target!r}: there are {', '.join(ids) or 'none'}")
    return matches[0] + 1


async def _guard_rows(conn: Connection, coming: Sequence[Revision], guard: Guard) -> None:
    """Call the guard once if a statement that destroys data concerns a table with rows."""
    for revision in coming:
        for statement in revision.up.destructive:
            table = concerned_table(statement)
            if table is not None and not await _has_rows(conn, table):
                continue
            await guard(conn, f"revision {revision.id} destroys data ({summary(statement)})")
            return


async def _has_rows(conn: Connection, table: str) -> bool:
    row = await _QUERIES.row(conn, "find_table", name=table)
    if row is None or not row["found"]:
        return False
    return bool(await conn.fetchval(f"SELECT EXISTS (SELECT FROM {quoted(table)})"))  # noqa: S608


def _label(revisions: Sequence[Revision], at: int) -> str:
    return f"{revisions[at - 1].id} ({revisions[at - 1].title})" if at else "base"


@asynccontextmanager
async def open_migrator(url: str, limits: MigrationLimits = _LIMITS) -> AsyncIterator[Connection]:
    """Lend a connection as the login itself, set up for changing the schema.

    Raises Unavailable when the database cannot be reached or goes away meanwhile.
    """
    try:
        conn = await connect(url, application_name="helix migrate")
    except OUTAGES as exc:
        raise Unavailable(f"the database cannot be reached: {exc}") from exc
    try:
        server = await _QUERIES.row(conn, "read_server", roles=_ROLES)
        assert server is not None  # noqa: S101 - every login has a row in pg_roles
        schemas = ["public", *({server["vector_schema"]} - {None, "public"})]
        for name, value in (
            ("search_path", ", ".join(f'"{schema}"' for schema in schemas)),
            ("lock_timeout", str(limits.lock_timeout_ms)),
            ("statement_timeout", str(limits.statement_timeout_ms)),
            ("idle_in_transaction_session_timeout", "0"),
            ("client_min_messages", "warning"),
            ("check_function_bodies", "on"),
        ):
            await conn.execute("SELECT set_config($1, $2, false)", name, value)
        yield conn
    except (
        *OUTAGES,
        asyncpg.InternalClientError,
    ) as exc:
        raise Unavailable(f"the connection to the database was lost: {exc}") from exc
    finally:
        await _close(conn)


async def _close(conn: Connection) -> None:
    try:
        await conn.close(timeout=5)
    except OUTAGES:
        conn.terminate()


@asynccontextmanager
async def _sole_migrator(
    conn: Connection, limits: MigrationLimits, report: Report
) -> AsyncIterator[None]:
    """Hold the migrator's lock; it goes with the connection, whatever happens."""
    until = time.monotonic() + limits.peer_wait_s
    told = False
    while True:
        row = await _QUERIES.row(conn, "take_lock", key=_LOCK_KEY)
        if row is not None and row["taken"]:
            break
        if time.monotonic() > until:
            raise MigrationBusy(f"another migrator still runs after {limits.peer_wait_s:.0f} s")
        if not told:
            report("another migrator is at work: waiting for it")
            told = True
        await asyncio.sleep(_PEER_POLL_S)
    yield


async def _require_suitable(conn: Connection) -> None:
    server = await _QUERIES.row(conn, "read_server", roles=_ROLES)
    assert server is not None  # noqa: S101 - every login has a row in pg_roles
    name, login = server["database"], server["login"]
    if server["version_num"] < _OLDEST_SERVER:
        raise DatabaseUnsuitable(f"PostgreSQL {server['version']} is too old: Helix needs 15+")
    if not server["vector_available"]:
        raise DatabaseUnsuitable(
            f"PostgreSQL {server['version']} has no pgvector: install the extension `vector`"
        )
    if not server["may_create"]:
        raise DatabaseUnsuitable(
            f"{login} may not create in schema public of {name}: make it the database's owner"
        )
    if server["vector_schema"] is None and not server["vector_allowed"]:
        raise DatabaseUnsuitable(
            f"{login} may not install pgvector: have a superuser run CREATE EXTENSION vector "
            f"in {name}"
        )
    if not server["may_have_roles"]:
        raise DatabaseUnsuitable(
            f"{login} may not create roles and {', '.join(_ROLES)} do not all exist: "
            f"ALTER ROLE {login} CREATEROLE"
        )


async def require_free_names(
    conn: Connection, present: Sequence[Revision], coming: Sequence[Revision]
) -> None:
    """Raise NamesTaken when something in schema public has a name that `coming` will make."""
    ours = set().union(*(created_names(revision.up) for revision in present))
    wanted = set().union(*(created_names(revision.up) for revision in coming)) - ours
    by_kind: dict[str, list[str]] = {"relation": [], "type": [], "function": []}
    for kind, name in sorted(wanted):
        by_kind[kind].append(name)
        if kind == "relation":
            by_kind["type"].append(name)
    taken = await _QUERIES.rows(
        conn,
        "find_taken_names",
        relations=by_kind["relation"],
        types=by_kind["type"],
        functions=by_kind["function"],
    )
    named: dict[str, str] = {}
    for row in taken:  # a relation has a type of its name: it is called by what it is
        if row["kind"] != "type" or row["name"] not in named:
            named[row["name"]] = row["kind"]
    if named:
        raise NamesTaken([f"{kind} {name}" for name, kind in sorted(named.items())])


async def deletions(conn: Connection, going: Sequence[Revision]) -> tuple[Deletion, ...]:
    """Return the tables and columns that taking these revisions back drops, with their rows.

    Of a column the values that are not NULL are counted. Counts are exact: they read the tables.
    """
    lost: list[Deletion] = []
    async with conn.transaction(readonly=True):
        for revision in going:
            for table in dropped_tables(revision.down):
                rows = await conn.fetchval(f"SELECT count(*) FROM {quoted(table)}")  # noqa: S608
                lost.append(Deletion("table", table, rows))
            for table, column in dropped_columns(revision.down):
                rows = await conn.fetchval(
                    f"SELECT count({quoted(column)}) FROM {quoted(table)}"  # noqa: S608
                )
                lost.append(Deletion("column", f"{table}.{column}", rows))
    return tuple(lost)
