"""A database's catalogue as comparable values, and what differs between two of them.

Everything that makes a schema is read from pg_catalog, in the server's own normal form: tables,
columns, constraints, indexes, enums, partitions, policies, functions, views, triggers, grants,
comments, storage. Two things are left out: the order of columns, and the partitions of months.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from helix.core.db import Connection, Queries, Role

__all__ = [
    "Catalogue",
    "Difference",
    "differences",
    "foreign_heads",
    "read_catalogue",
    "role_faults",
]

_QUERIES = Queries("helix.operations", "catalogue.sql")
_HEADS = ("read_tables", "read_functions", "read_types", "read_extensions")
_PARTS = (
    "read_columns",
    "read_constraints",
    "read_indexes",
    "read_triggers",
    "read_rules",
    "read_policies",
    "read_statistics",
    "read_grants",
)
_FORBIDDEN_RIGHTS = ("superuser", "bypassrls", "createrole", "createdb", "login", "replication")
_VALUE_SHOWN = 120
_CAST_LIST = re.compile(r"\(\(ARRAY\[([^\]]*)\]\)::text\[\]\)")
_VARCHAR_LITERAL = re.compile(r"'(?:[^']|'')*'::character varying")

Facts: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What is in schema public: for each thing its facts, and the root it belongs to.

    A root is what stands on its own (a relation, function, type, extension, the schema itself);
    `heads` names the thing that is the root, such as `table users` for `users`.
    """

    things: Mapping[str, Facts]
    roots: Mapping[str, str]
    heads: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference between two catalogues; as text, a line for a person."""

    thing: str
    text: str

    def __str__(self) -> str:
        return f"{self.thing}: {self.text}"


async def read_catalogue(conn: Connection) -> Catalogue:
    """Read the catalogue of schema public, all of it as of one moment."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        # How the server spells a name depends on the path; so it has to be the same for all.
        await conn.execute("SET LOCAL search_path = public, pg_catalog")
        relations = [row["id"] for row in await _QUERIES.rows(conn, "list_relations")]
        found = await _QUERIES.row(conn, "find_owner", relations=relations)
        values: dict[str, object] = {
            "relations": relations,
            "owner": found["owner"] if found else 0,
        }
        rows: dict[str, list[Any]] = {}
        for name in (*_HEADS, *_PARTS):
            wanted = {param: values[param] for param in _QUERIES[name].params}
            rows[name] = await _QUERIES.rows(conn, name, **wanted)
    every = [row for found_rows in rows.values() for row in found_rows]
    return Catalogue(
        things={row["thing"]: _normal(row["facts"]) for row in every},
        roots={row["thing"]: row["root"] for row in every},
        heads={row["root"]: row["thing"] for name in _HEADS for row in rows[name]},
    )


def _normal(facts: Facts) -> Facts:
    """Return the facts with lists of varchar literals in the form that a dump brings back.

    PostgreSQL writes `x IN ('a')` as a cast of the list and reads that back as a list of casts.
    """
    return {
        name: _CAST_LIST.sub(_cast_each, value) if isinstance(value, str) else value
        for name, value in facts.items()
    }


def _cast_each(found: re.Match[str]) -> str:
    values = _VARCHAR_LITERAL.sub(r"(\g<0>)::text", found.group(1))
    return f"(ARRAY[{values}])"


def differences(
    left: Catalogue, right: Catalogue, names: tuple[str, str], *, foreign_right: bool = False
) -> list[Difference]:
    """Return what differs between `left` and `right`, called `names` in the lines.

    What belongs to a root that is missing as a whole is not listed by itself. With
    `foreign_right`, roots that only the right side has are taken for another program's and
    passed over (`foreign_heads` lists them).
    """
    left_roots, right_roots = set(left.roots.values()), set(right.roots.values())
    found: list[Difference] = []
    for thing in sorted(left.things.keys() | right.things.keys()):
        if thing in left.things and thing in right.things:
            found += _differing_facts(thing, left.things[thing], right.things[thing], names)
        elif thing in left.things:
            root = left.roots[thing]
            if root in right_roots or left.heads.get(root) == thing:
                found.append(Difference(thing, f"is in {names[0]}, not in {names[1]}"))
        else:
            root = right.roots[thing]
            whole = root not in left_roots
            if not whole or (right.heads.get(root) == thing and not foreign_right):
                found.append(Difference(thing, f"is in {names[1]}, not in {names[0]}"))
    return found


def foreign_heads(reference: Catalogue, other: Catalogue) -> list[str]:
    """Return the roots that only `other` has, as a person names them, sorted."""
    known = set(reference.roots.values())
    return sorted(head for root, head in other.heads.items() if root not in known)


def _differing_facts(
    thing: str, left: Facts, right: Facts, names: tuple[str, str]
) -> list[Difference]:
    lines: list[Difference] = []
    for fact in sorted(left.keys() | right.keys()):
        a, b = left.get(fact), right.get(fact)
        if a != b:
            shown_a, shown_b = _shown(a, b)
            lines.append(
                Difference(thing, f"{fact} is {shown_a} in {names[0]}, {shown_b} in {names[1]}")
            )
    return lines


def _shown(a: object, b: object) -> tuple[str, str]:
    """Return both values short enough for a line: of long texts, from where they part."""
    if isinstance(a, str) and isinstance(b, str) and max(len(a), len(b)) > _VALUE_SHOWN:
        start = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
        start = max(0, a.rfind(" ", 0, max(0, start - 20)) + 1)
        return _excerpt(a, start), _excerpt(b, start)
    return _one(a), _one(b)


def _excerpt(text: str, start: int) -> str:
    before = "…" if start else ""
    after = "…" if len(text) > start + _VALUE_SHOWN else ""
    return f"`{before}{' '.join(text[start : start + _VALUE_SHOWN].split())}{after}`"


def _one(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = " ".join(str(value).split())
    return f"`{text}`" if len(text) <= _VALUE_SHOWN else f"`{text[: _VALUE_SHOWN - 1]}…`"


async def role_faults(conn: Connection) -> list[Difference]:
    """Return what Helix's database roles may do and must not, or that one is missing."""
    found = {
        row["role"]: row
        for row in await _QUERIES.rows(conn, "read_roles", roles=[role.value for role in Role])
    }
    faults: list[Difference] = []
    for role in Role:
        if role.value not in found:
            faults.append(Difference(f"role {role.value}", "does not exist"))
            continue
        faults += [
            Difference(f"role {role.value}", f"has {right.upper()}")
            for right in _FORBIDDEN_RIGHTS
            if found[role.value][right]
        ]
    return faults
