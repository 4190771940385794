"""The rows of audited tables, and the keyed digests that seals hold of them."""

import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from helix.core.db import Connection, Queries
from helix.operations.runner import quoted

__all__ = [
    "AUDITED",
    "DIGEST_BYTES",
    "QUERIES",
    "AuditRow",
    "all_ids",
    "digest_row",
    "fetch_rows",
    "fetch_unsealed",
    "loose_columns",
]

AUDITED = ("audit_log", "tool_audit_log")
"""The tables that are sealed. Each has a primary key `id` that is a UUIDv7."""

DIGEST_BYTES = 16
QUERIES = Queries("helix.operations.audit")
# Names are quoted, and are those of AUDITED. What never changes stands apart from what erasure may
# empty; NULL leaves no trace, so that a column added later does not change old digests.
_PARTS = (
    "SELECT t.id, jsonb_strip_nulls(to_jsonb(t) - {loose}::text[])::text AS fixed, "
    "(SELECT array_agg(nullif(to_jsonb(t) -> c, 'null')::text ORDER BY n) "
    "FROM unnest({loose}::text[]) WITH ORDINALITY AS u (c, n)) AS loose "
    "FROM public.{table} AS t "
)
_OF_IDS = _PARTS + "WHERE t.id = ANY ($2::uuid[]) ORDER BY t.id"
_UNSEALED = _PARTS + (
    "WHERE t.id > $2 AND t.id < $3 AND NOT EXISTS (SELECT FROM public.audit_seals AS s "
    "WHERE s.table_name = $4 AND s.last_row_id >= $2 AND t.id BETWEEN s.first_row_id AND "
    "s.last_row_id AND t.id = ANY (s.row_ids)) ORDER BY t.id LIMIT $5"
)
_IDS = "SELECT t.id FROM public.{table} AS t WHERE t.id > $1 ORDER BY t.id LIMIT $2"
_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A row: what never changes of it, as text, and each column that may be emptied."""

    id: UUID
    fixed: str
    loose: tuple[str | None, ...]


async def loose_columns(conn: Connection, table: str) -> list[str]:
    """Return the columns that unlinking and erasure may set to NULL, sorted."""
    row = await QUERIES.row(conn, "trigger_arguments", table_name=table)
    text = "" if row is None else row["arguments"].decode().replace("\0", ",")
    return sorted({name for name in text.split(",") if name})


def _row(row: Any) -> AuditRow:
    return AuditRow(row["id"], row["fixed"], tuple(row["loose"] or ()))


async def fetch_rows(
    conn: Connection, table: str, columns: Sequence[str], ids: Sequence[UUID]
) -> dict[UUID, AuditRow]:
    """Return the rows with these ids that are there."""
    sql = _OF_IDS.format(table=quoted(table), loose="$1")
    return {row["id"]: _row(row) for row in await conn.fetch(sql, list(columns), list(ids))}


async def fetch_unsealed(  # noqa: PLR0917 - its one caller names them all
    conn: Connection, table: str, columns: Sequence[str], above: UUID, below: UUID, max_count: int
) -> list[AuditRow]:
    """Return rows between two ids that no seal has, by id."""
    sql = _UNSEALED.format(table=quoted(table), loose="$1")
    rows = await conn.fetch(sql, list(columns), above, below, table, max_count)
    return [_row(row) for row in rows]


async def all_ids(conn: Connection, table: str) -> AsyncIterator[UUID]:
    """Go through the ids of a table, in order."""
    sql, after = _IDS.format(table=quoted(table)), UUID(int=0)
    while rows := await conn.fetch(sql, after, _PAGE):
        for row in rows:
            yield row["id"]
        after = rows[-1]["id"]


def digest_row(key: bytes, row: AuditRow) -> bytes:
    """Return the digests of a row: of what never changes, then of each loose column.

    They are keyed, so that nobody can find out an erased text by trying.
    """
    parts = [row.fixed, *("" if text is None else f"={text}" for text in row.loose)]
    return b"".join(
        hmac.new(key, f"{number}:{text}".encode(), hashlib.sha256).digest()[:DIGEST_BYTES]
        for number, text in enumerate(parts)
    )
