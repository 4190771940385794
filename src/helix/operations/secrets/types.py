"""What secrets are made of: tables with ciphertext, and how they stand."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from helix.core.db import Connection

__all__ = ["Contexts", "KeyCount", "Places", "Rotation", "SecretTable", "Unreadable"]

Contexts = Callable[[Connection, Sequence[UUID]], Awaitable[Mapping[UUID, str]]]
"""Returns, for rows of a table by their ids, the place each value was encrypted for."""

Places = Mapping[tuple[str, str], Contexts]
"""Columns, by table and name, whose values are bound to more than `<table>.<column>:<row id>`."""


@dataclass(frozen=True, slots=True)
class SecretTable:
    """A table with columns of ciphertext; they share the column key_id."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeyCount:
    """How many values of a column were made with a key; `key_id` None: values in plain."""

    table: str
    column: str
    key_id: str | None
    rows: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that does not open, and why."""

    table: str
    column: str
    row_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did: rows made anew with `key_id`, and values it could not read."""

    key_id: str
    rows: int
    unreadable: tuple[Unreadable, ...]
