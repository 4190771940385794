"""The merge of memories: pure functions on states, the same on every node.

A state is a join-semilattice (Shapiro, Preguiça, Baquero, Zawirski: "A comprehensive study of
Convergent and Commutative Replicated Data Types", 2011): `join` commutes, associates and is
idempotent, so the order, repetition and grouping in which events arrive do not matter.

    text, fields, metadata   last writer wins, by hybrid logical clock (Kulkarni et al., "Logical
                             Physical Clocks", 2014), then node, then event
    tags, entities, relations  observed-remove sets: a removal takes the additions it had seen
    uses                     a counter per node that only grows; the count is their sum
    forgetting               wins for ever, and leaves nothing but the clock
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from helix.memory.replication.types import Event, Stamp

__all__ = [
    "Addition",
    "Register",
    "State",
    "digest",
    "empty",
    "fold",
    "join",
    "members",
    "state_of",
    "visible",
]

K = TypeVar("K")
V = TypeVar("V")
SETS = ("entities", "relationships", "tags")


class Register(msgspec.Struct, frozen=True):
    """A value and the write it came by; None: emptied."""

    stamp: Stamp
    value: Any


class Addition(msgspec.Struct, frozen=True):
    """The newest addition of an element by one node: its version, its write, the element."""

    version: int
    stamp: Stamp
    value: Any


class State(msgspec.Struct, frozen=True):
    """All that is known of one memory. `sets` holds additions by kind, element and node; `taken`
    the greatest version by node that a removal of the element had seen."""

    id: str
    clock: dict[str, int] = {}
    hlc_seen: int = 0
    deleted: bool = False
    content: Register | None = None
    fields: dict[str, Register] = {}
    metadata: dict[str, Register] = {}
    sets: dict[str, dict[str, dict[str, Addition]]] = {}
    taken: dict[str, dict[str, dict[str, int]]] = {}
    uses: dict[str, int] = {}


def empty(memory_id: object) -> State:
    """Return the state of a memory nothing is known of."""
    return State(str(memory_id))


def state_of(event: Event) -> State:
    """Return what one event says by itself.

    An event without its text (redacted) says that the memory was forgotten, even when the event
    that forgot it has not arrived.
    """
    clock = {**event.vector_clock, event.node_id: event.version}
    if event.event_type == "deleted" or event.redacted:
        return State(str(event.memory_id), clock=clock, hlc_seen=event.hlc, deleted=True)
    stamp = event.stamp
    fields = {key: Register(stamp, value) for key, value in event.fields.items()}
    if event.importance is not None:
        fields["importance"] = Register(stamp, event.importance)
    additions: dict[str, dict[str, dict[str, Addition]]] = {}
    for kind in SETS:
        for value in getattr(event, kind):
            one = {event.node_id: Addition(event.version, stamp, value)}
            additions.setdefault(kind, {})[element_key(kind, value)] = one
    taken = {
        kind: {key: dict(clock) for key in keys} for kind, keys in event.removed.items() if keys
    }
    return State(
        str(event.memory_id),
        clock=clock,
        hlc_seen=event.hlc,
        content=None if event.content is None else Register(stamp, event.content),
        fields=fields,
        metadata={key: Register(stamp, value) for key, value in event.metadata.items()},
        sets=additions,
        taken=taken,
        uses={event.node_id: event.access_total} if event.access_total else {},
    )


def element_key(kind: str, value: Any) -> str:
    """Return what makes two elements of a set the same: an id, a name, or the whole."""
    if isinstance(value, dict):
        if "id" in value:
            return str(value["id"])
        if kind == "entities" and "name" in value:
            return str(value["name"])
        return _as_postgresql(value)
    return str(value)


def _as_postgresql(value: Any) -> str:
    """Return a JSON value as jsonb is written out: triggers name what was removed that way."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        inner = (f"{json.dumps(k, ensure_ascii=False)}: {_as_postgresql(value[k])}" for k in keys)
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_as_postgresql, value))}]"
    return json.dumps(value, ensure_ascii=False)


def join(a: State, b: State) -> State:
    """Return what both together say. Both must be of one memory."""
    clock = _widest(a.clock, b.clock)
    seen = max(a.hlc_seen, b.hlc_seen)
    if a.deleted or b.deleted:
        return State(a.id, clock=clock, hlc_seen=seen, deleted=True)
    return State(
        a.id,
        clock=clock,
        hlc_seen=seen,
        content=_later(a.content, b.content),
        fields=_latest(a.fields, b.fields),
        metadata=_latest(a.metadata, b.metadata),
        sets=_nested(a.sets, b.sets, _additions),
        taken=_nested(a.taken, b.taken, _widest),
        uses=_widest(a.uses, b.uses),
    )


def fold(events: Iterable[Event], base: State) -> State:
    """Return `base` and all that the events say."""
    state = base
    for event in events:
        state = join(state, state_of(event))
    return state


def _later(a: Register | None, b: Register | None) -> Register | None:
    if a is None or b is None:
        return a or b
    return a if a.stamp >= b.stamp else b


def _latest(a: Mapping[str, Register], b: Mapping[str, Register]) -> dict[str, Register]:
    return _joined(a, b, lambda x, y: x if x.stamp >= y.stamp else y)


def _widest(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return _joined(a, b, max)


def _additions(a: Mapping[str, Addition], b: Mapping[str, Addition]) -> dict[str, Addition]:
    return _joined(a, b, lambda x, y: max(x, y, key=lambda one: (one.version, one.stamp)))


def _nested(a: Mapping[str, Any], b: Mapping[str, Any], inner: Any) -> dict[str, Any]:
    return _joined(a, b, lambda x, y: _joined(x, y, inner))


def _joined(a: Mapping[K, V], b: Mapping[K, V], both: Any) -> dict[K, V]:
    out = dict(a)
    for key, value in b.items():
        out[key] = both(out[key], value) if key in out else value
    return out


def members(state: State, kind: str) -> list[Any]:
    """Return what a set holds, in the order of the elements' keys."""
    taken = state.taken.get(kind, {})
    found = []
    for key, by_node in sorted(state.sets.get(kind, {}).items()):
        gone = taken.get(key, {})
        left = [one for node, one in by_node.items() if gone.get(node, 0) < one.version]
        if left:
            found.append(max(left, key=lambda one: one.stamp).value)
    return found


def visible(state: State) -> dict[str, Any] | None:
    """Return the memory as people see it; None when it was forgotten or has no text yet.

    `fields` are without `importance`, which stands by itself; emptied ones are left out.
    """
    if state.deleted or state.content is None:
        return None
    fields = {key: one.value for key, one in state.fields.items() if one.value is not None}
    return {
        "id": state.id,
        "content": state.content.value,
        "importance": str(fields.pop("importance", "0.5000")),
        "fields": fields,
        "metadata": {k: one.value for k, one in state.metadata.items() if one.value is not None},
        **{kind: members(state, kind) for kind in SETS},
        "access_count": sum(state.uses.values()),
    }


def digest(state: State) -> bytes:
    """Return the SHA-256 of what is to be seen: equal on nodes that agree."""
    shown = {"id": state.id, "deleted": state.deleted, "seen": visible(state)}
    return hashlib.sha256(msgspec.json.encode(shown, order="deterministic")).digest()
