"""Rows in PostgreSQL's text format of COPY: one line a row, tabs between values.

PostgreSQL documentation, "COPY", "Text Format": \\N is NULL, and a backslash with a letter or
another character stands for what would else end a value or a line. Every type of column comes back
from it exactly as it was.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

__all__ = ["NULL", "value_of", "values_of"]

NULL = b"\\N"
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_INTEGERS = frozenset({"integer", "smallint", "bigint"})


def _text(raw: bytes) -> str:
    if b"\\" in raw:
        raw = _ESCAPED.sub(lambda found: _LETTERS.get(found.group(1), found.group(1)), raw)
    return raw.decode()


def value_of(raw: bytes, kind: str) -> Any:
    """Return one value as Python's: ids, times, whole numbers, booleans and JSON; else its text."""
    if raw == NULL:
        return None
    text = _text(raw)
    if kind == "uuid":
        return UUID(text)
    if kind in _INTEGERS:
        return int(text)
    if kind == "boolean":
        return text == "t"
    if kind == "timestamp with time zone":
        return datetime.fromisoformat(text)
    if kind in {"json", "jsonb"}:
        return msgspec.Raw(text.encode())
    return text


def values_of(line: bytes, columns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the values of a row by the names of its columns."""
    return {
        name: value_of(raw, kind)
        for (name, kind), raw in zip(columns, line.split(b"\t"), strict=True)
    }
