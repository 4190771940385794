"""Reading migration scripts: steps, and the names a script makes or drops. Knows no Alembic.

Lines among the comments before a statement direct how it is run. `-- helix: outside a transaction`
says that it cannot run in one (CREATE INDEX CONCURRENTLY); it then has to be harmless to repeat.
`-- helix: destructive` says that it destroys data: a backup is asked for first (guard.py).
"""

import re
from functools import lru_cache
from importlib import resources
from pathlib import Path

from helix.core.errors import Misuse
from helix.core.sql import scan, split_statements, strip
from helix.operations.types import Script, Step

__all__ = [
    "MIGRATIONS",
    "bare",
    "concerned_table",
    "concurrent_index",
    "created_names",
    "dropped_columns",
    "dropped_tables",
    "parse_script",
    "read_script",
    "revision_ids",
    "summary",
]

MIGRATIONS = Path(str(resources.files("helix.migrations")))
"""Where the packaged revisions are."""
_SCRIPTS_KEPT = 128
"""Scripts of which the parse is kept: reading all of them takes a second of processor time."""

_DIRECTIVE = re.compile(r"--\s*helix:\s*(.*?)\s*$")
_OUTSIDE = "outside a transaction"
_DESTRUCTIVE = "destructive"
_NAME = r"(?:public\.)?(\"[^\"]+\"|[a-z_][a-z0-9_$]*)"
_CREATE = re.compile(
    r"CREATE (?:OR REPLACE )?(?:UNLOGGED |UNIQUE )?"
    r"(TABLE|VIEW|MATERIALIZED VIEW|SEQUENCE|INDEX|TYPE|DOMAIN|FUNCTION|PROCEDURE) "
    rf"(?:CONCURRENTLY )?(?:IF NOT EXISTS )?{_NAME}",
    re.IGNORECASE,
)
_CONCURRENT = re.compile(
    rf"CREATE (?:UNIQUE )?INDEX CONCURRENTLY (?:IF NOT EXISTS )?{_NAME}", re.IGNORECASE
)
_DROP_TABLE = re.compile(r"DROP TABLE (?:IF EXISTS )?(.+?)(?: CASCADE| RESTRICT)?$", re.IGNORECASE)
_ALTER_TABLE = re.compile(rf"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?{_NAME} ", re.IGNORECASE)
_CONCERNED = re.compile(
    r"(?:ALTER TABLE|DROP TABLE|TRUNCATE(?: TABLE)?|DELETE FROM|UPDATE) "
    rf"(?:IF EXISTS )?(?:ONLY )?{_NAME}",
    re.IGNORECASE,
)
_DROP_COLUMN = re.compile(rf"DROP COLUMN (?:IF EXISTS )?{_NAME}", re.IGNORECASE)


@lru_cache(maxsize=_SCRIPTS_KEPT)
def parse_script(file: str, text: str) -> Script:
    """Cut a script into steps; raises Misuse naming `file` when it cannot be read."""
    try:
        statements = split_statements(text)
    except ValueError as exc:
        raise Misuse(f"{file}: {exc}") from exc
    steps: list[Step] = []
    together: list[str] = []
    destructive: list[str] = []
    for statement in statements:
        directions = _directions(file, statement)
        if _DESTRUCTIVE in directions:
            destructive.append(statement)
        if _OUTSIDE not in directions:
            together.append(statement)
            continue
        if together:
            steps.append(Step(tuple(together)))
            together = []
        steps.append(Step((statement,), transactional=False))
    if together or not steps:
        steps.append(Step(tuple(together)))
    return Script(file, tuple(steps), tuple(destructive))


def _directions(file: str, statement: str) -> set[str]:
    directions: set[str] = set()
    for token in scan(statement):
        if token.kind == "comment" and (found := _DIRECTIVE.match(token.text)):
            if found.group(1) not in {_OUTSIDE, _DESTRUCTIVE}:
                raise Misuse(f"{file}: unknown directive {token.text!r}")
            directions.add(found.group(1))
    return directions


def read_script(path: Path) -> Script:
    """Read a script from its file; raises Misuse when it is missing."""
    try:
        return parse_script(path.name, path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise Misuse(f"cannot read {path}: {exc.strerror}") from exc


def revision_ids(directory: Path = MIGRATIONS) -> tuple[str, ...]:
    """Return the ids of the revisions by their file names, the first one first.

    The same ids in the same order as `revisions.load_revisions` (a test holds that), for a
    hundredth of the cost.
    """
    names = sorted(path.name for path in (directory / "sql").glob("*.up.sql"))
    return tuple(name.partition("_")[0] for name in names)


def summary(statement: str, length: int = 72) -> str:
    """Return the beginning of a statement on one line, without comments."""
    plain = " ".join(strip(statement).split())
    return plain if len(plain) <= length else plain[: length - 1] + "…"


def bare(statement: str) -> str:
    """Return a statement as it is written, without the comments before it."""
    lines = statement.splitlines()
    while lines and (not lines[0].strip() or lines[0].lstrip().startswith("--")):
        lines.pop(0)
    return "\n".join(lines)


def _unquoted(name: str) -> str:
    return name[1:-1] if name.startswith('"') else name.lower()


def created_names(script: Script) -> set[tuple[str, str]]:
    """Return what the script creates as (kind, name); kind is relation, type or function."""
    kinds = {"TYPE": "type", "DOMAIN": "type", "FUNCTION": "function", "PROCEDURE": "function"}
    names: set[tuple[str, str]] = set()
    for statement in script.statements:
        if found := _CREATE.match(strip(statement)):
            names.add((kinds.get(found.group(1).upper(), "relation"), _unquoted(found.group(2))))
    return names


def concurrent_index(statement: str) -> str | None:
    """Return the name of the index that the statement builds concurrently, if it does."""
    found = _CONCURRENT.match(strip(statement))
    return _unquoted(found.group(1)) if found else None


def concerned_table(statement: str) -> str | None:
    """Return the table whose rows a destructive statement concerns, if it is plain which."""
    found = _CONCERNED.match(strip(statement))
    return _unquoted(found.group(1)) if found else None


def dropped_tables(script: Script) -> list[str]:
    """Return the tables that the script drops, in order."""
    tables: list[str] = []
    for statement in script.statements:
        if found := _DROP_TABLE.match(strip(statement)):
            names = (name.strip() for name in found.group(1).split(","))
            tables += [_unquoted(name.removeprefix("public.")) for name in names]
    return tables


def dropped_columns(script: Script) -> list[tuple[str, str]]:
    """Return the (table, column) pairs that the script drops from tables that stay."""
    columns: list[tuple[str, str]] = []
    for statement in script.statements:
        plain = strip(statement)
        if found := _ALTER_TABLE.match(plain):
            table = _unquoted(found.group(1))
            columns += [
                (table, _unquoted(column)) for column in _DROP_COLUMN.findall(plain, found.end())
            ]
    return columns
