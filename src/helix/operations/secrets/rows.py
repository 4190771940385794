"""The rows with ciphertext: found by the catalogue, counted by key, opened, made anew."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from helix.core.crypto import Keyring, SecretUnreadable, key_id_of
from helix.core.db import OUTAGES, Connection, Queries, connect
from helix.core.errors import Unavailable
from helix.operations.runner import quoted
from helix.operations.secrets.errors import SecretsUnclear
from helix.operations.secrets.types import KeyCount, Places, SecretTable, Unreadable

__all__ = [
    "FIRST",
    "QUERIES",
    "behind",
    "connected",
    "context_of",
    "count_keys",
    "count_table",
    "find_unreadable",
    "secret_tables",
    "undecided_columns",
    "write_batch",
]

QUERIES = Queries("helix.operations.secrets")
FIRST = UUID(int=0)
_PAGE = 1_000
# Names are quoted, and come from pg_class and pg_attribute.
_COUNT = (
    "SELECT CASE WHEN t.{column} LIKE 'hx1:%' THEN split_part(t.{column}, ':', 2) END AS key_id, "
    "count(*) AS found FROM public.{table} AS t WHERE t.{column} IS NOT NULL GROUP BY 1 ORDER BY 1"
)
_READ = "SELECT t.id, {columns} FROM public.{table} AS t WHERE t.id > $1 ORDER BY t.id LIMIT $2"
_BEHIND = (
    "SELECT t.id, {columns} FROM public.{table} AS t "
    "WHERE t.id > $1 AND ({behind}) ORDER BY t.id LIMIT $2"
)
_IS_BEHIND = "(t.{column} LIKE 'hx1:%' AND split_part(t.{column}, ':', 2) <> $3)"
_WRITE = (
    "UPDATE public.{table} AS t SET {sets}, key_id = $1 FROM unnest($2::uuid[], {arrays}) "
    "AS u (id, {names}) WHERE t.id = u.id AND {same}"
)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Lend a connection as the login, which owns the tables; raises Unavailable."""
    try:
        conn = await connect(url, application_name="helix secrets")
    except (*OUTAGES, asyncpg.PostgresError) as exc:
        raise Unavailable(f"the database cannot be reached: {exc}", retry_after_s=1) from exc
    try:
        yield conn
    finally:
        await conn.close()


async def secret_tables(conn: Connection) -> list[SecretTable]:
    """Return the tables that have columns marked as ciphertext, by name.

    Raises SecretsUnclear for one that no rotation could work on.
    """
    tables = []
    for row in await QUERIES.rows(conn, "list_secret_columns"):
        if not (row["keyed"] and row["named"]):
            raise SecretsUnclear(
                f"{row['table_name']} has columns of ciphertext ({', '.join(row['columns'])}) but "
                "no column key_id, or no primary key id uuid: it cannot be rotated"
            )
        tables.append(SecretTable(row["table_name"], tuple(row["columns"])))
    return tables


async def undecided_columns(conn: Connection) -> list[str]:
    """Return columns that may hold a secret and do not say what they hold, as table.column."""
    rows = await QUERIES.rows(conn, "list_undecided_columns")
    return [f"{row['table_name']}.{row['column_name']}" for row in rows]


async def count_keys(conn: Connection) -> list[KeyCount]:
    """Return how many values of each column each key made, as the values themselves say."""
    return [one for table in await secret_tables(conn) for one in await count_table(conn, table)]


async def count_table(conn: Connection, table: SecretTable) -> list[KeyCount]:
    """Return how many values of each column of one table each key made."""
    counts = []
    for column in table.columns:
        sql = _COUNT.format(table=quoted(table.name), column=quoted(column))
        counts += [
            KeyCount(table.name, column, row["key_id"], row["found"])
            for row in await conn.fetch(sql)
        ]
    return counts


async def behind(
    conn: Connection, table: SecretTable, *, key_id: str, after: UUID, max_count: int
) -> list[Any]:
    """Return the next rows of a table, by id, with a value that another key made."""
    sql = _BEHIND.format(
        table=quoted(table.name),
        columns=", ".join(f"t.{quoted(column)}" for column in table.columns),
        behind=" OR ".join(_IS_BEHIND.format(column=quoted(column)) for column in table.columns),
    )
    found: list[Any] = await conn.fetch(sql, after, max_count, key_id)
    return found


async def context_of(
    conn: Connection, table: SecretTable, ids: Sequence[UUID], places: Places
) -> dict[tuple[UUID, str], str]:
    """Return the place of each value of these rows."""
    contexts: dict[tuple[UUID, str], str] = {}
    for column in table.columns:
        place = places.get((table.name, column))
        if place is None:
            contexts.update({(i, column): f"{table.name}.{column}:{i}" for i in ids})
        else:
            contexts.update({(i, column): text for i, text in (await place(conn, ids)).items()})
    return contexts


async def write_batch(
    conn: Connection,
    table: SecretTable,
    *,
    key_id: str,
    old: Sequence[Any],
    new: Sequence[Mapping[str, str | None]],
) -> int:
    """Replace the values of rows that still are what was read; return how many rows were.

    A row that somebody changed meanwhile is left as that made it.
    """
    count = len(table.columns)
    sql = _WRITE.format(
        table=quoted(table.name),
        sets=", ".join(f"{quoted(c)} = u.new{i}" for i, c in enumerate(table.columns)),
        arrays=", ".join(f"${3 + i}::text[]" for i in range(2 * count)),
        names=", ".join([*(f"old{i}" for i in range(count)), *(f"new{i}" for i in range(count))]),
        same=" AND ".join(
            f"t.{quoted(c)} IS NOT DISTINCT FROM u.old{i}" for i, c in enumerate(table.columns)
        ),
    )
    befores = [[row[column] for row in old] for column in table.columns]
    afters = [[row[column] for row in new] for column in table.columns]
    tag: str = await conn.execute(sql, key_id, [row["id"] for row in old], *befores, *afters)
    return int(tag.rpartition(" ")[2])


async def find_unreadable(conn: Connection, keyring: Keyring, places: Places) -> list[Unreadable]:
    """Open every value there is; return those that do not."""
    found: list[Unreadable] = []
    for table in await secret_tables(conn):
        sql = _READ.format(
            table=quoted(table.name),
            columns=", ".join(f"t.{quoted(column)}" for column in table.columns),
        )
        after = FIRST
        while rows := await conn.fetch(sql, after, _PAGE):
            after = rows[-1]["id"]
            contexts = await context_of(conn, table, [row["id"] for row in rows], places)
            for row in rows:
                found += _unreadable(table, row, keyring, contexts)
    return found


def _unreadable(
    table: SecretTable, row: Any, keyring: Keyring, contexts: Mapping[tuple[UUID, str], str]
) -> list[Unreadable]:
    found = []
    for column in table.columns:
        value = row[column]
        if value is None or key_id_of(value) is None:
            continue
        try:
            keyring.decrypt(value, context=contexts[row["id"], column])
        except SecretUnreadable as exc:
            found.append(Unreadable(table.name, column, row["id"], exc.message))
    return found
