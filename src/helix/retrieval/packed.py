"""From PostgreSQL's binary forms to a corpus: one value a column, whatever the number of rows.

The store asks for `string_agg(<type>_send(column), '')`, so ten thousand rows come as seven values
and are read by numpy, not one by one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from helix.retrieval.signals import Corpus

__all__ = ["Packed", "Scope", "dense_of", "scope_of"]

Array = np.ndarray[Any, np.dtype[Any]]

_EPOCH_2000_S = 946_684_800
_ARRAY_HEADER_WORDS = 5  # dimensions, flags, type, length, lower bound
_EMPTY_ARRAY_WORDS = 3


@dataclass(frozen=True, slots=True)
class Packed:
    """The columns of a scope, each all its rows in the same order.

    `ids` and `groups` are 16 bytes a row (`uuid_send`), `at` `timestamptz_send`, `terms`
    `array_send` of integer[], `counts` `int4send` of its cardinality, `facts` and `speaker`
    `int4send`.
    """

    ids: bytes
    groups: bytes
    at: bytes
    terms: bytes
    counts: bytes
    facts: bytes
    speaker: bytes


@dataclass(frozen=True, slots=True)
class Scope:
    """A corpus and the id of each of its rows, 16 bytes each."""

    ids: Array
    corpus: Corpus

    def id_bytes(self, row: int) -> bytes:
        """Return the id of a row."""
        return bytes(self.ids[row].tobytes())


def _words(data: bytes) -> Array:
    return np.frombuffer(data, ">u4")


def _term_numbers(data: bytes, counts: Array) -> Array:
    """Strip the headers of arrays and of their elements."""
    words = _words(data)
    sizes = np.where(counts > 0, _ARRAY_HEADER_WORDS + 2 * counts, _EMPTY_ARRAY_WORDS)
    starts = np.cumsum(sizes) - sizes
    full = counts > 0
    first = (starts[full] + _ARRAY_HEADER_WORDS + 1).astype(np.int64)
    own = counts[full]
    ends = np.cumsum(own)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - own, own)
    numbers: Array = words[np.repeat(first, own) + 2 * within].astype(np.uint32)
    return numbers


def scope_of(packed: Packed) -> Scope:
    """Return the texts sorted by conversation, time and id, as `Corpus` wants them.

    A text without a conversation (its group is its own id) is a conversation of its own.
    """
    ids = np.frombuffer(packed.ids, "V16")
    at = np.frombuffer(packed.at, ">i8") / 1e6 + _EPOCH_2000_S
    halves = np.frombuffer(packed.groups, ">u8").reshape(-1, 2)
    own = np.frombuffer(packed.ids, ">u8").reshape(-1, 2)
    order = np.lexsort((own[:, 1], own[:, 0], at, halves[:, 1], halves[:, 0]))
    counts = _words(packed.counts).astype(np.int64)
    terms = _term_numbers(packed.terms, counts)
    ends = np.cumsum(counts)
    sorted_counts = counts[order]
    sorted_ends = np.cumsum(sorted_counts)
    within = np.arange(len(terms)) - np.repeat(sorted_ends - sorted_counts, sorted_counts)
    place = np.repeat((ends - counts)[order], sorted_counts) + within
    sorted_halves = halves[order]
    new = np.r_[False, (sorted_halves[1:] != sorted_halves[:-1]).any(1)] if len(ids) else []
    corpus = Corpus(
        terms=terms[place],
        lengths=sorted_counts,
        group=np.cumsum(np.asarray(new, np.int64)),
        at=at[order],
        facts=_words(packed.facts).astype(np.int64)[order],
        speaker=_words(packed.speaker).astype(np.int64)[order],
        dense=None,
    )
    return Scope(ids[order], corpus)


def dense_of(scope: Scope, ids: bytes, cosines: bytes) -> Array:
    """Return the cosine of each row of the scope, NaN where none is given.

    Ids are told apart by their last eight bytes: in a UUIDv7 62 random bits.
    """
    out = np.full(len(scope.ids), np.nan, np.float32)
    if not ids or not len(out):
        return out
    known = np.frombuffer(ids, ">u8").reshape(-1, 2)[:, 1]
    order = np.argsort(known)
    wanted = np.frombuffer(scope.ids.tobytes(), ">u8").reshape(-1, 2)[:, 1]
    at = np.searchsorted(known, wanted, sorter=order)
    at[at == len(known)] = 0
    found = order[at]
    hit = known[found] == wanted
    values = np.frombuffer(cosines, ">f4").astype(np.float32)
    out[hit] = values[found[hit]]
    return out
