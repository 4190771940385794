"""The merge itself: its laws, and that nodes that were parted come to the same state."""

import random
from datetime import UTC, datetime
from functools import reduce
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.memory.replication.merge import State, digest, empty, fold, join, state_of, visible
from helix.memory.replication.policy import concurrent_with, conflict_type, knows
from helix.memory.replication.types import Event

MEMORY = UUID(int=7)
USER = UUID(int=8)
NODES = ("east", "north", "south")
AT = datetime(2026, 1, 1, tzinfo=UTC)


class Writer:
    """A node that changes one memory as the triggers do: it has seen what it folded."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.events: dict[UUID, Event] = {}
        self.uses = 0
        self.clock = 0

    @property
    def state(self) -> State:
        return fold(self.events.values(), empty(MEMORY))

    def write(self, **change: Any) -> Event:
        state = self.state
        version = state.clock.get(self.node_id, 0) + 1
        self.clock = max(self.clock, state.hlc_seen) + change.pop("ticks", 1)
        self.uses += change.get("access_delta", 0)
        event = Event(
            id=UUID(int=(NODES.index(self.node_id) + 1 << 64) + version),
            event_type=change.pop("event_type", "updated"),
            node_id=self.node_id,
            memory_id=MEMORY,
            user_id=USER,
            version=version,
            vector_clock={**state.clock, self.node_id: version},
            hlc=self.clock,
            timestamp=AT,
            access_total=self.uses,
            **change,
        )
        self.events[event.id] = event
        return event


words = st.sampled_from(["tea", "coffee", "milk"])
changes = st.fixed_dictionaries(
    {},
    optional={
        "content": words,
        "importance": st.sampled_from(["0.1000", "0.9000"]),
        "tags": st.lists(words, unique=True, max_size=2),
        "entities": st.lists(st.builds(lambda n: {"name": n}, words), max_size=2),
        "removed": st.fixed_dictionaries(
            {}, optional={"tags": st.lists(words, max_size=2), "entities": st.lists(words)}
        ),
        "metadata": st.dictionaries(st.sampled_from("ab"), st.none() | st.integers(0, 2)),
        "fields": st.dictionaries(st.sampled_from(["speaker", "valid_to"]), st.none() | words),
        "access_delta": st.integers(0, 3),
        "ticks": st.integers(1, 3),
    },
)
actions = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(NODES), changes),
    st.tuples(st.just("forget"), st.sampled_from(NODES), st.none()),
    st.tuples(st.just("send"), st.permutations(NODES), st.integers(0, 1 << 32)),
)


def play(script: list[Any], *, forgetting: bool = True) -> dict[str, Writer]:
    """Let three nodes write and now and then hear of some events of another: in any order, some
    twice, some lost."""
    nodes = {name: Writer(name) for name in NODES}
    for kind, who, what in script:
        if kind == "write":
            nodes[who].write(**dict(what))
        elif kind == "forget" and forgetting:
            nodes[who].write(event_type="deleted")
        elif kind == "send":
            source, target = nodes[who[0]], nodes[who[1]]
            chance = random.Random(what)
            heard = [e for e in source.events.values() if chance.random() < 0.7]
            for event in chance.sample(heard * 2, len(heard) * 2):
                target.events[event.id] = event
    return nodes


def some_states(script: list[Any]) -> list[State]:
    return [node.state for node in play(script).values()]


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=14))
def test_merges_commute_associate_and_are_idempotent(script: list[Any]) -> None:
    a, b, c = some_states(script)
    assert join(a, b) == join(b, a)
    assert join(join(a, b), c) == join(a, join(b, c))
    assert join(a, a) == a
    assert join(join(a, b), b) == join(a, b)
    assert join(a, empty(MEMORY)) == a


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=20), st.integers(0, 1 << 32))
def test_three_nodes_that_were_parted_converge(script: list[Any], seed: int) -> None:
    nodes = play(script)
    everything = {i: e for node in nodes.values() for i, e in node.events.items()}
    chance = random.Random(seed)
    states = []
    for node in nodes.values():
        missing = [e for i, e in everything.items() if i not in node.events]
        order = chance.sample(missing * 2, len(missing) * 2)  # reordered, and each twice
        states.append(fold(order, node.state))
    assert states[0] == states[1] == states[2]
    assert len({digest(state) for state in states}) == 1
    if any(e.event_type == "deleted" for e in everything.values()):
        assert visible(states[0]) is None
        assert states[0].content is None


@settings(max_examples=100, deadline=None)
@given(st.lists(actions, max_size=14), st.integers(0, 100))
def test_events_replay_to_the_same_state_from_any_snapshot(script: list[Any], cut: int) -> None:
    events = [e for node in play(script).values() for e in node.events.values()]
    at = cut % (len(events) + 1)
    stored = msgspec.json.encode(fold(events[:at], empty(MEMORY)))
    snapshot = msgspec.json.decode(stored, type=State)
    assert fold(events[at:], snapshot) == fold(events, empty(MEMORY))


@settings(max_examples=100, deadline=None)
@given(st.lists(actions, max_size=14), st.sampled_from(NODES), st.lists(actions, max_size=6))
def test_a_tombstone_wins_every_merge(before: list[Any], who: str, after: list[Any]) -> None:
    nodes = play(before)
    nodes[who].write(event_type="deleted")
    dead = nodes[who].state
    for other in some_states(after):
        merged = join(other, dead)
        assert merged.deleted
        assert visible(merged) is None
        assert (merged.fields, merged.metadata, merged.sets, merged.taken) == ({}, {}, {}, {})


@settings(max_examples=100, deadline=None)
@given(st.lists(actions, max_size=20))
def test_no_use_is_lost_or_counted_twice(script: list[Any]) -> None:
    nodes = play(script, forgetting=False)
    whole = reduce(join, (node.state for node in nodes.values()))
    assert sum(whole.uses.values()) == sum(node.uses for node in nodes.values())


def test_a_tag_taken_away_stays_if_another_added_it_unknowing() -> None:
    north, south = Writer("north"), Writer("south")
    first = north.write(content="Ada likes tea", tags=["tea"])
    south.events[first.id] = first
    north.write(removed={"tags": ["tea"]})
    south.write(tags=["tea"])
    both = visible(join(north.state, south.state))
    assert both is not None
    assert both["tags"] == ["tea"]
    alone = visible(north.state)
    assert alone is not None
    assert alone["tags"] == []


def test_the_later_wording_wins_and_a_later_one_that_has_seen_both_wins_over_it() -> None:
    north, south = Writer("north"), Writer("south")
    north.write(content="Ada lives in Rome")
    south.write(content="Ada lives in Bonn", ticks=5)
    both = join(north.state, south.state)
    assert both.content is not None
    assert both.content.value == "Ada lives in Bonn"
    north.events |= south.events
    north.write(content="Ada lives in Paris")
    settled = join(north.state, south.state)
    assert settled.content is not None
    assert settled.content.value == "Ada lives in Paris"


def test_of_two_wordings_at_one_moment_the_node_decides_alike_everywhere() -> None:
    north, south = Writer("north"), Writer("south")
    north.write(content="from the north")
    south.write(content="from the south")
    for merged in (join(north.state, south.state), join(south.state, north.state)):
        assert merged.content is not None
        assert merged.content.value == "from the south"


def test_an_event_without_its_text_says_that_the_memory_was_forgotten() -> None:
    north = Writer("north")
    event = north.write(content="a canary", tags=["canary"])
    emptied = msgspec.structs.replace(event, content=None, tags=[], redacted=True)
    assert state_of(emptied).deleted
    assert visible(join(state_of(event), state_of(emptied))) is None


def test_who_had_seen_what_decides_what_is_a_conflict() -> None:
    north, south = Writer("north"), Writer("south")
    first = north.write(content="one")
    south.events[first.id] = first
    seen = south.write(content="two")
    unseen = north.write(content="three")
    other = north.write(tags=["x"])
    assert knows(seen, first)
    assert concurrent_with(seen, [first, unseen, other]) == [unseen, other]
    assert conflict_type(unseen, seen) == "version_conflict"
    assert conflict_type(other, seen) == "concurrent_update"
