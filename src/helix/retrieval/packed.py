"""From PostgreSQL's binary forms to a corpus: one value for all rows, whatever their number.

The store asks for `string_agg(packed, '')` of rows that `helix_pack_text` has packed (see
sql/schema/functions.sql), so ten thousand rows come as two values and are read by numpy, not one
by one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from helix.retrieval.signals import Corpus, Laid

__all__ = ["Packed", "Scope", "dense_of", "scope_of"]

Array = np.ndarray[Any, np.dtype[Any]]

_EPOCH_2000_S = 946_684_800
_HEAD = np.dtype(
    [
        ("id", "V16"),
        ("group_high", ">u8"),
        ("group_low", ">u8"),
        ("at", ">i8"),
        ("facts", ">u4"),
        ("speaker", ">u4"),
        ("count", ">u4"),
    ]
)
_HEAD_WORDS = _HEAD.itemsize // 4


@dataclass(frozen=True, slots=True)
class Packed:
    """The rows of a scope in any order: `rows` one after another as `helix_pack_text` makes them,

    `lengths` the bytes of each (`int4send`), `at` its time (`timestamptz_send`) where that is not
    the one that is packed.
    """

    rows: bytes
    lengths: bytes
    at: bytes | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """A corpus and the id of each of its rows, 16 bytes each."""

    ids: Array
    corpus: Corpus

    def id_bytes(self, row: int) -> bytes:
        """Return the id of a row."""
        return bytes(self.ids[row].tobytes())


def scope_of(packed: Packed) -> Scope:
    """Return the texts sorted by conversation, time and id, as `Corpus` wants them.

    A text without a conversation (its group is its own id) is a conversation of its own.
    """
    sizes = np.frombuffer(packed.lengths, ">u4").astype(np.int64) // 4
    words = np.frombuffer(packed.rows, ">u4")
    ends = np.cumsum(sizes)
    within = (ends - sizes)[:, None] + np.arange(_HEAD_WORDS)
    head = words[within].view(_HEAD)[:, 0]
    moments = head["at"] if packed.at is None else np.frombuffer(packed.at, ">i8")
    order = _order(head, moments.astype(np.int64))
    row = np.empty(len(order), np.int64)
    row[order] = np.arange(len(order))
    laid = Laid(row, ends - sizes + _HEAD_WORDS, ends)
    head = head[order]
    group = np.zeros(len(head), np.int64)
    if len(head):
        new = np.diff(head["group_low"]).astype(bool) | np.diff(head["group_high"]).astype(bool)
        group[1:] = np.cumsum(new)
    corpus = Corpus(
        terms=words.astype(np.uint32),  # with heads between them: cheaper than leaving those out
        lengths=head["count"].astype(np.int64),
        group=group,
        at=moments[order] / 1e6 + _EPOCH_2000_S,
        facts=head["facts"].astype(np.int64),
        speaker=head["speaker"].astype(np.int64),
        dense=None,
        laid=laid,
    )
    return Scope(np.ascontiguousarray(head["id"]), corpus)


def _order(head: Array, at: Array) -> Array:
    """Return the order by conversation, time and id.

    Rows mostly come in the order of time, and of one conversation two texts seldom have the same:
    what is seldom needed is sorted by only if it is.
    """
    low, high = head["group_low"].astype(np.uint64), head["group_high"].astype(np.uint64)
    order = np.argsort(low, kind="stable")
    same, before = low[order][1:] == low[order][:-1], np.diff(at[order])
    if (same & ((before < 0) | (high[order][1:] != high[order][:-1]))).any():
        order = np.lexsort((at, high, low))
        same = (np.diff(low[order]) == 0) & (np.diff(high[order]) == 0)
        before = np.diff(at[order])
    if (same & (before == 0)).any():
        ids = np.frombuffer(head["id"].tobytes(), ">u8").reshape(-1, 2).astype(np.uint64)
        order = np.lexsort((ids[:, 1], ids[:, 0], at, high, low))
    return order


def dense_of(scope: Scope, ids: bytes, cosines: bytes) -> Array:
    """Return the cosine of each row of the scope, NaN where none is given.

    Of a text with several vectors, one for each of its parts, the best counts. Ids are told apart
    by their last eight bytes: in a UUIDv7 62 random bits.
    """
    out = np.full(len(scope.ids), np.nan, np.float32)
    if not ids or not len(out):
        return out
    known = np.frombuffer(ids, ">u8")[1::2].astype(np.uint64)
    values = np.frombuffer(cosines, ">f4").astype(np.float32)
    order = np.argsort(known)
    if (known[order][1:] == known[order][:-1]).any():
        order = np.lexsort((-values, known))
    known, values = known[order], values[order]
    wanted = np.frombuffer(scope.ids.tobytes(), ">u8")[1::2].astype(np.uint64)
    at = np.searchsorted(known, wanted)
    at[at == len(known)] = 0
    hit = known[at] == wanted
    out[hit] = values[at[hit]]
    return out
