"""Valid rows for any table, made from the catalogue: used to migrate a database that is not empty.

Row number i of every table refers to row i of the tables it points to. So composite foreign keys
agree, unique keys are unique because their parents differ, and an id, its request's and its
answer's fall into the same month. A column's value follows from its type and its CHECKs; the few
rules that span columns are written out in SPECIAL.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from helix.core.db import Connection
from helix.core.ids import uuid7

ROWS = 1_000
_EMBEDDING_DIMENSION = 384
_LIST = re.compile(r"\(?\"?(\w+)\"?\)?(?:::text)? = ANY \(\(?ARRAY\[(.*?)\]")
_TYPEOF = re.compile(r"jsonb_typeof\((\w+)\) = '(\w+)'")
_LITERAL = re.compile(r"'((?:[^']|'')*)'")
_LENGTH = re.compile(r"\((\d+)\)")

Special = Callable[[int], object]

SPECIAL: Mapping[str, Special] = {
    "user_sessions.memory_id": lambda i: None,  # a foreign key from revision 003 on
    "project_state.current_task_id": lambda i: None,  # a foreign key from revision 012 on
    "background_tasks.status": lambda i: "completed",
    "background_tasks.worker_id": lambda i: None,
    "api_keys.scopes": lambda i: ["completions"],
    "api_keys.parent_key_id": lambda i: None,
    "api_keys.ancestor_ids": lambda i: [],
    "prompts.version": lambda i: f"1.{i}.0",
    "llm_usage_monthly.month": lambda i: str(date(1990 + i // 12, 1 + i % 12, 1)),
    "budgets.scope": lambda i: "user",
    "llm_routes.name": lambda i: f"route-{i}",
    "panels.name": lambda i: f"panel-{i}",
    "budgets.api_key_id": lambda i: None,
    "budgets.project_id": lambda i: None,
    "budgets.agent_id": lambda i: None,
    "embedding_config.is_default": lambda i: False,
    "embedding_config.dimension": lambda i: _EMBEDDING_DIMENSION,
    "memory_embeddings.dimension": lambda i: _EMBEDDING_DIMENSION,
    "memories.merged_into": lambda i: None,
    "memories.deleted_at": lambda i: None,
    "rag_knowledge.chunk_tokens": lambda i: 220,
    "rag_knowledge.overlap_tokens": lambda i: 30,
    "rag_knowledge.source_hash": lambda i: f"\\x{i:064x}",
    "vector_documents.start_char": lambda i: i,
    "vector_documents.end_char": lambda i: i + 1,
    "task_controls.scope": lambda i: "type",
    "task_lanes.queue": lambda i: f"lane {i}",  # the trigger of background_tasks makes others
    "task_unique_keys.held_while": lambda i: "period",
    "webhook_deliveries.status": lambda i: "delivered",
    "conversations.last_sequence": lambda i: 0,
    "distributed_memory.deleted_at": lambda i: None,
    "memory_nodes.is_self": lambda i: False,
    "distributed_memory_events.event_type": lambda i: "updated",
    "distributed_memory_events.redacted_at": lambda i: None,
    "learning_statistics.period_end": lambda i: str(datetime(2030, 1, 1, tzinfo=UTC)),
    "matview_refresh_state.refresh_every": lambda i: "5 minutes",
    "archive_files.status": lambda i: "archived",
    "archive_files.sha256": lambda i: f"\\x{i:064x}",
    "archive_files.month": lambda i: str(date(1990 + i // 12, 1 + i % 12, 1)),
    "archive_keys.month": lambda i: str(date(1990 + i // 12, 1 + i % 12, 1)),
    "archive_restores.month": lambda i: str(date(1990 + i // 12, 1 + i % 12, 1)),
    "archive_restores.keep_until": lambda i: str(datetime(2060, 1, 1, tzinfo=UTC)),
}

FIXED = frozenset({"task_transitions"})
"""Tables whose rows the migrations install and nobody adds to."""


@dataclass(frozen=True)
class Column:
    """What the catalogue says of one column that can be written."""

    name: str
    type: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ForeignKey:
    """Columns of a table and those of another they must be found in."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]


@dataclass
class Rows:
    """The rows made so far, by table; `base` sets the time in the ids, `count` is of each table."""

    base: datetime
    count: int = ROWS
    made: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    moments: list[tuple[int, str]] = field(init=False)

    def __post_init__(self) -> None:
        """Set the moment of each row, in ms and as text: every third lies in the month before."""
        ago = timedelta(days=31)
        times = [
            self.base - (ago if i % 3 == 0 else timedelta()) + timedelta(milliseconds=i)
            for i in range(self.count)
        ]
        self.moments = [(int(time.timestamp() * 1000), time.isoformat()) for time in times]


@dataclass(frozen=True)
class Shape:
    """What the catalogue says of every table: columns that can be written, CHECKs, foreign keys."""

    columns: Mapping[str, list[Column]]
    checks: Mapping[str, list[str]]
    keys: Mapping[str, list[ForeignKey]]

    def tables(self) -> list[str]:
        """Return every table, parents first."""
        return _in_order(self.columns, self.keys)

    def row(self, table: str, i: int, rows: Rows) -> dict[str, Any]:
        """Return row i of a table, not inserted; its parents are the rows i made before."""
        makers = {c.name: _maker(table, c, self.checks[table], rows) for c in self.columns[table]}
        return _row(table, i, makers, self.keys[table], rows)


async def read_shape(conn: Connection) -> Shape:
    """Read the shape of the tables there are now."""
    tables = await _tables(conn)
    return Shape(
        await _columns(conn, tables, computed=False),
        await _checks(conn, tables),
        await _foreign_keys(conn, tables),
    )


async def insert_rows(conn: Connection, table: str, made: list[dict[str, Any]]) -> None:
    """Insert rows of one table, all with the same columns."""
    names = ", ".join(f'"{name}"' for name in made[0])
    await conn.execute(
        f'INSERT INTO "{table}" ({names}) SELECT {names} '
        f'FROM jsonb_populate_recordset(NULL::"{table}", $1::text::jsonb)',
        json.dumps(made, default=str),
    )


async def fill(conn: Connection, rows: Rows) -> list[str]:
    """Insert `rows.count` rows into every table with none of ours yet; returns those tables."""
    shape = await read_shape(conn)
    tables = [table for table in shape.tables() if table not in {*rows.made, *FIXED}]
    for table in tables:
        columns, checks = shape.columns[table], shape.checks[table]
        makers = {c.name: _maker(table, c, checks, rows) for c in columns}
        made = [_row(table, i, makers, shape.keys[table], rows) for i in range(rows.count)]
        await insert_rows(conn, table, made)
        rows.made[table] = made
    return tables


async def checksums(conn: Connection) -> dict[str, tuple[int, int | None]]:
    """Return, for each column of each table, how many rows there are and what they hold.

    What they hold is the sum, in exclusive or, of 64 bits of each value and its row's place.
    """
    found: dict[str, tuple[int, int | None]] = {}
    columns = await _columns(conn, await _tables(conn), computed=True)
    for table, its in columns.items():
        key = await conn.fetchval(PRIMARY_KEY, f'"{table}"')
        digests = ", ".join(
            f"bit_xor(hashtextextended('=' || \"{column.name}\"::text, place))" for column in its
        )
        placed = f'SELECT *, row_number() OVER (ORDER BY {key}) AS place FROM "{table}"'
        count, *values = await conn.fetchrow(
            f"SELECT count(*), {digests} FROM ({placed}) AS placed"
        )
        for column, value in zip(its, values, strict=True):
            found[f"{table}.{column.name}"] = (count, value)
    return found


TABLES = """
SELECT relname AS name FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
  AND relname <> 'helix_migrations' ORDER BY relname
"""
COLUMNS = """
SELECT c.relname AS table_name, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       a.attgenerated <> '' OR a.attidentity <> '' AS computed,
       ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = a.atttypid
             ORDER BY enumsortorder) AS labels
FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY ($1::text[])
  AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum
"""
CHECKS = """
SELECT c.relname AS table_name, pg_get_constraintdef(k.oid) AS definition
FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
WHERE k.contype = 'c' AND c.relname = ANY ($1::text[])
"""
FOREIGN_KEYS = """
SELECT c.relname AS child, p.relname AS parent,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u (n, o)
             JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.n
             ORDER BY u.o) AS columns,
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u (n, o)
             JOIN pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = u.n
             ORDER BY u.o) AS parent_columns
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_class AS p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND k.conparentid = 0 AND NOT c.relispartition ORDER BY k.conname
"""
PRIMARY_KEY = """
SELECT string_agg(format('%I::text', a.attname), ' || ' ORDER BY a.attnum)
FROM pg_constraint AS k
JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
WHERE k.contype = 'p' AND k.conrelid = $1::text::regclass
"""


async def _tables(conn: Connection) -> list[str]:
    return [row["name"] for row in await conn.fetch(TABLES)]


async def _columns(
    conn: Connection, tables: list[str], *, computed: bool
) -> dict[str, list[Column]]:
    columns: dict[str, list[Column]] = {table: [] for table in tables}
    for row in await conn.fetch(COLUMNS, tables):
        if computed or not row["computed"]:
            column = Column(row["name"], row["type"], tuple(row["labels"]))
            columns[row["table_name"]].append(column)
    return columns


async def _checks(conn: Connection, tables: list[str]) -> dict[str, list[str]]:
    checks: dict[str, list[str]] = {table: [] for table in tables}
    for row in await conn.fetch(CHECKS, tables):
        checks[row["table_name"]].append(row["definition"])
    return checks


async def _foreign_keys(conn: Connection, tables: list[str]) -> dict[str, list[ForeignKey]]:
    keys: dict[str, list[ForeignKey]] = {table: [] for table in tables}
    for row in await conn.fetch(FOREIGN_KEYS):
        keys[row["child"]].append(
            ForeignKey(tuple(row["columns"]), row["parent"], tuple(row["parent_columns"]))
        )
    return keys


def _in_order(tables: Mapping[str, object], keys: Mapping[str, list[ForeignKey]]) -> list[str]:
    ordered: list[str] = []

    def visit(table: str, above: tuple[str, ...]) -> None:
        if table in ordered or table in above:
            return
        for key in keys[table]:
            visit(key.parent, (*above, table))
        ordered.append(table)

    for table in tables:
        visit(table, ())
    return ordered


def _row(
    table: str,
    i: int,
    makers: Mapping[str, Callable[[int], Any]],
    keys: list[ForeignKey],
    rows: Rows,
) -> dict[str, Any]:
    row = {name: make(i) for name, make in makers.items()}
    for key in keys:
        parents = rows.made.get(key.parent)
        for name, parent_name in zip(key.columns, key.parent_columns, strict=True):
            if f"{table}.{name}" not in SPECIAL:
                row[name] = parents[i][parent_name] if parents else None
    if "user_id" in row and "users" in rows.made:  # a tenant's row, with or without a foreign key
        row["user_id"] = rows.made["users"][i]["id"]
    if table == "memory_sync_status":
        nodes = rows.made["memory_nodes"]
        row["target_node_id"] = nodes[(i + 1) % len(nodes)]["node_id"]
    if table == "entity_cooccurrences":
        entities = rows.made["memory_entities"]
        other = entities[(i + 1) % len(entities)]["id"]
        row["entity1_id"], row["entity2_id"] = sorted([row["entity1_id"], other])
    return row


def _maker(table: str, column: Column, checks: list[str], rows: Rows) -> Callable[[int], Any]:
    """Return what makes the column's value for row i."""
    name, kind = column.name, column.type
    where = f"{table}.{name}"
    choices = column.labels
    for check in checks:
        for subject, values in _LIST.findall(check):
            choices = tuple(_LITERAL.findall(values)) if subject == name else choices
    if where in SPECIAL:
        return SPECIAL[where]
    if choices:
        return lambda i: choices[i % len(choices)]
    if kind == "uuid":
        return lambda i: str(uuid7(rows.moments[i][0], rand_a=_noise(where, i)))
    if kind.startswith(("character varying", "text", "character(")) and not kind.endswith("[]"):
        length = _LENGTH.search(kind)
        most = int(length.group(1)) if length else 1_000
        return lambda i: (f"{name} of row {i}" if most >= 20 else str(i))[:most]
    if kind in {"json", "jsonb"}:
        arrays = {n for check in checks for n, t in _TYPEOF.findall(check) if t == "array"}
        return lambda i: [] if name in arrays else {"row": i}
    if kind.endswith("[]"):
        element = _maker(table, Column(name, kind.removesuffix("[]"), ()), [], rows)
        return lambda i: [element(i)]
    if kind.startswith(("vector", "halfvec")):
        length = _LENGTH.search(kind)
        size = int(length.group(1)) if length else _EMBEDDING_DIMENSION
        return lambda i: str([1 + i % 3] * size)
    if kind.startswith(("numeric", "double precision", "real")):
        return lambda i: 0.5 + (i % 10) / 100
    if kind.startswith("timestamp"):
        return lambda i: rows.moments[i][1]
    plain: dict[str, Callable[[int], Any]] = {
        "integer": lambda i: 1,
        "bigint": lambda i: 1,
        "smallint": lambda i: 1,
        "boolean": lambda i: True,
        "date": lambda i: str(date(2000, 1, 1) + timedelta(days=i)),
        "interval": lambda i: "5 minutes",
        "int4range": lambda i: f"[{i},{i + 1})",
        "xid8": lambda i: str(i + 1),
        "pg_snapshot": lambda i: f"{i + 1}:{i + 1}:",
        "bytea": lambda i: "\\x" + hashlib.sha256(f"{where}.{i}".encode()).hexdigest(),
    }
    if kind not in plain:
        raise AssertionError(f"no rule for {where} of type {kind}")
    return plain[kind]


def _noise(where: str, i: int) -> int:
    return zlib.crc32(f"{where}.{i}".encode()) & 0xFFF
