"""Pure decisions of replication: what is a conflict, how a node is doing, what may be taken in."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from helix.core.errors import BadInput, Misuse
from helix.memory.policy import CONTENT_CHARS_MAX, check_text
from helix.memory.replication.types import Event, NodeStatus

__all__ = [
    "BATCH_MAX",
    "check_event",
    "check_node_id",
    "concurrent_with",
    "conflict_type",
    "conflicting",
    "knows",
    "status_of",
]

BATCH_MAX = 1_000
CLOCK_NODES_MAX = 1_000
CLOCK_AHEAD_MAX = timedelta(hours=1)
SILENT_AFTER_S = 60.0
_NODE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_TYPES = frozenset({"created", "updated", "deleted", "merged"})


def check_node_id(node_id: str) -> str:
    """Return a node's name if it is one. Raises Misuse."""
    if not _NODE_ID.fullmatch(node_id):
        raise Misuse(
            f"{node_id!r} is no name of a node: up to 63 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit"
        )
    return node_id


def check_event(event: Event, *, now: datetime) -> None:
    """Refuse an event that no node of ours wrote. Raises BadInput.

    A clock more than an hour ahead is refused too: it would win against every later change.
    """
    where = f"event {event.id}"
    if event.event_type not in _TYPES:
        raise BadInput(f"{where}: event_type {event.event_type[:50]!r} is not known")
    nodes = {event.node_id, *event.vector_clock}
    if len(nodes) > CLOCK_NODES_MAX or not all(_NODE_ID.fullmatch(node) for node in nodes):
        raise BadInput(f"{where}: node_id or vector_clock names what is no node")
    counters = [event.version, *event.vector_clock.values()]
    if event.version < 1 or not all(0 <= one < 1 << 53 for one in counters):
        raise BadInput(f"{where}: version or vector_clock is out of range")
    latest = int((now + CLOCK_AHEAD_MAX).timestamp() * 1000) << 16
    if not 0 <= event.hlc <= latest:
        raise BadInput(
            f"{where}: the clock of node {event.node_id} is more than an hour ahead: set it right"
        )
    if not (0 <= event.access_delta < 1 << 31 and 0 <= event.access_total < 1 << 53):
        raise BadInput(f"{where}: access_delta or access_total is out of range")
    if event.content is not None and not 0 < len(event.content) <= CONTENT_CHARS_MAX:
        raise BadInput(f"{where}: content is empty or longer than {CONTENT_CHARS_MAX} characters")
    if event.importance is not None and not re.fullmatch(r"[01](\.\d{1,6})?", event.importance):
        raise BadInput(f"{where}: importance is not 0 to 1")
    for name in ("content", "tags", "entities", "relationships", "removed", "metadata", "fields"):
        check_text(name, getattr(event, name))


def knows(event: Event, other: Event) -> bool:
    """Say whether the writer of `event` had seen `other`."""
    return event.vector_clock.get(other.node_id, 0) >= other.version


def concurrent_with(event: Event, others: Iterable[Event]) -> list[Event]:
    """Return those changes of other nodes that did not know of `event`, nor it of them."""
    return [
        other
        for other in others
        if other.node_id != event.node_id and not knows(event, other) and not knows(other, event)
    ]


def conflicting(event: Event) -> bool:
    """Say whether an event changes what a person wrote: uses and redacted texts do not count."""
    return not event.redacted and bool(
        event.content is not None
        or event.importance is not None
        or event.tags
        or event.removed
        or event.metadata
        or event.fields
    )


def conflict_type(a: Event, b: Event) -> str:
    """Return `version_conflict` when one wording was lost, else `concurrent_update`."""
    both_wrote = a.content is not None and b.content is not None
    return "version_conflict" if both_wrote and a.content != b.content else "concurrent_update"


def status_of(
    *,
    last_contact: datetime | None,
    error: str | None,
    lag_ms: int,
    lag_alert_ms: int,
    now: datetime,
) -> NodeStatus:
    """Return how a node is doing: `failed` when it answers with an error, `inactive` after a minute
    without an answer, `lagging` while older events wait than `lag_alert_ms`."""
    silent_s = float("inf") if last_contact is None else (now - last_contact).total_seconds()
    if silent_s > SILENT_AFTER_S:
        return NodeStatus.INACTIVE
    if error is not None:
        return NodeStatus.FAILED
    return NodeStatus.LAGGING if lag_ms > lag_alert_ms else NodeStatus.ACTIVE


def joined_clock(clocks: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return, for each node, the greatest counter of any of the clocks."""
    out: dict[str, int] = {}
    for clock in clocks:
        for node, counter in clock.items():
            out[node] = max(out.get(node, 0), counter)
    return out
