"""What a database holds, as comparable values: rows, sequences, roles, extensions, catalogue."""

import re
from collections.abc import Mapping

import msgspec

from helix.core.db import Connection, Queries, Role
from helix.operations.backup.types import Contents, SequenceState, TableState
from helix.operations.catalogue import Catalogue, differences, read_catalogue
from helix.operations.runner import quoted

__all__ = ["content_differences", "read_contents", "read_sequences", "with_sequences"]

_QUERIES = Queries("helix.operations.backup")
_VIEWS = ("view ", "materialized view ")
_TEXT_CASTS = re.compile(r"::(?:text|character varying)(?:\[\])?|[()\s]")
# The name is quoted, and comes from pg_class.
_CHECKSUM = (
    'SELECT count(*) AS rows, coalesce(sum(hashtextextended(t::text COLLATE "C", 0)::numeric), 0)'
    "::text AS checksum FROM ONLY public.{} AS t"
)
_LAST_VALUE = "SELECT last_value, is_called FROM public.{}"
_SAME_TEXT = {
    "search_path": "public, pg_catalog",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "lc_monetary": "C",
    "row_security": "on",
    "jit": "off",
    "statement_timeout": "0",
}
"""What decides how a value is spelt; the same for every database that is compared."""


async def read_contents(conn: Connection, *, logged_only: bool = False) -> Contents:
    """Read all of it as of the caller's snapshot; one pass over every table.

    The caller holds a transaction (repeatable read) and sees every row. A checksum is the sum of
    64-bit hashes of the rows' texts: the order of rows does not matter, a changed, missing or
    doubled row does. `logged_only` leaves out what no copy of files has, unlogged tables, and
    sequences, of which PostgreSQL logs values ahead.
    """
    for name, value in _SAME_TEXT.items():
        await conn.execute("SELECT set_config($1, $2, true)", name, value)
    tables: dict[str, TableState] = {}
    for row in await _QUERIES.rows(conn, "list_tables"):
        if logged_only and not row["logged"]:
            continue
        found = await conn.fetchrow(_CHECKSUM.format(quoted(row["name"])))
        tables[row["name"]] = TableState(found["rows"], found["checksum"])
    catalogue = await read_catalogue(conn)
    roles = await _QUERIES.rows(conn, "read_backup_roles", roles=[role.value for role in Role])
    values = {} if logged_only else await read_sequences(conn)
    return Contents(
        tables=tables,
        sequences={name: SequenceState(value, value) for name, value in values.items()},
        roles={row["name"]: row["facts"] for row in roles},
        extensions={
            row["name"]: row["version"] for row in await _QUERIES.rows(conn, "list_extensions")
        },
        things={name: dict(facts) for name, facts in catalogue.things.items()},
        roots=dict(catalogue.roots),
        heads=dict(catalogue.heads),
    )


async def read_sequences(conn: Connection) -> dict[str, int | None]:
    """Return the last value of every sequence; None when it was never used."""
    values: dict[str, int | None] = {}
    for row in await _QUERIES.rows(conn, "list_sequences"):
        found = await conn.fetchrow(_LAST_VALUE.format(quoted(row["name"])))
        values[row["name"]] = found["last_value"] if found["is_called"] else None
    return values


def with_sequences(
    contents: Contents, before: Mapping[str, int | None], after: Mapping[str, int | None]
) -> Contents:
    """Return the contents with where the sequences stood before and after the dump."""
    sequences = {name: SequenceState(before.get(name), value) for name, value in after.items()}
    return msgspec.structs.replace(contents, sequences=sequences)


def content_differences(expected: Contents, found: Contents) -> list[str]:
    """Return what differs, a line each; an empty list says that the copy is the original."""
    lines: list[str] = []
    for name in sorted(expected.tables.keys() | found.tables.keys()):
        want, have = expected.tables.get(name), found.tables.get(name)
        if want is None or have is None:
            lines.append(f"table {name}: is {'missing' if have is None else 'not in the backup'}")
        elif want.rows != have.rows:
            lines.append(f"table {name}: has {have.rows} rows instead of {want.rows}")
        elif want.checksum != have.checksum:
            lines.append(f"table {name}: its {want.rows} rows differ (checksum)")
    for name in sorted(expected.sequences.keys() | found.sequences.keys()):
        between, now = expected.sequences.get(name), found.sequences.get(name)
        if between is None or now is None:
            lines.append(f"sequence {name}: is {'missing' if now is None else 'not in the backup'}")
        elif not _lies_between(now.least, between):
            lines.append(f"sequence {name}: stands at {now.least} instead of {between.most}")
    lines += _differing("role", expected.roles, found.roles)
    lines += _differing("extension", expected.extensions, found.extensions)
    names = ("the backup", "the copy")
    lines += [str(d) for d in differences(_catalogue(expected), _catalogue(found), names)]
    return lines


def _lies_between(value: int | None, state: SequenceState) -> bool:
    if value is None or state.most is None:
        return state.least is None and value == state.most
    low, high = sorted((state.most if state.least is None else state.least, state.most))
    return value == state.most or low <= value <= high


def _differing(kind: str, expected: Mapping[str, object], found: Mapping[str, object]) -> list[str]:
    return [
        f"{kind} {name}: is {found.get(name, 'missing')} instead of {expected.get(name, 'missing')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def _catalogue(contents: Contents) -> Catalogue:
    things = {
        name: {fact: _as_read_back(value) for fact, value in facts.items()}
        if name.startswith(_VIEWS)
        else facts
        for name, facts in contents.things.items()
    }
    return Catalogue(things, contents.roots, contents.heads)


def _as_read_back(value: object) -> object:
    """Return a view's query without casts between texts: PostgreSQL moves them when it reads it."""
    return _TEXT_CASTS.sub("", value) if isinstance(value, str) else value
