"""A debate that dies at any boundary of any turn goes on where it was, and nothing is paid twice.

Here a death is an attempt that stops at a boundary and is abandoned: whatever it had not committed
is gone, as after a kill. One debate dies at each boundary of each of its turns, so that every
attempt takes up what the last one left. rigs/debates_kill.py does the same with processes that are
killed, a worker that takes over, and the gateway.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast
from uuid import UUID

import pytest

from helix import debates, tasks
from helix.core.db import Connection, Database, Role
from helix.core.errors import Upstream
from helix.debates import Debate, DebateId, DebateSpec
from tests.debates.support import (
    Attempt,
    FakeModels,
    a_user,
    agreeable,
    engine_of,
    kind_of,
    ranked,
    run_once,
    said,
    see,
    spec_of,
    start,
)


def divided(model: str, messages: list[dict[str, str]]) -> str:
    """Models that never agree, so that every round is held; bob cannot fill in a ballot."""
    mine = "tabs" if model.endswith("ada") else "spaces"
    if model == "mock/down":
        raise Upstream("down")
    match kind_of(messages):
        case "vote":
            if model.endswith("bob") and "no valid ballot" not in messages[-1]["content"]:
                return "I vote for spaces, of course!"
            return ranked(mine, confidence=0.9)
        case "argue":
            number = messages[-1]["content"].rpartition("This is round ")[2][0]
            return said(mine, f"{model} argues {mine} in round {number}, heard {len(messages)}")
        case _:
            return agreeable(mine)(model, messages)


class Deaths:
    """Stops each attempt at the first boundary at which none died yet."""

    def __init__(self, models: FakeModels) -> None:
        self.died = asyncio.Event()
        self.places: set[tuple[str, str]] = set()
        models.before, models.after = self._before, self._after

    async def _before(self, key: str) -> None:
        await self._boundary((key, "before the call"))

    async def _after(self, key: str) -> None:
        await self._boundary((key, "before the commit"))

    async def _boundary(self, place: tuple[str, str]) -> None:
        if place not in self.places and not self.died.is_set():
            self.places.add(place)
            self.died.set()
        if self.died.is_set():
            await asyncio.Event().wait()


async def die_at_every_boundary(
    db: Database, models: FakeModels, debate_id: DebateId, user_id: UUID
) -> set[tuple[str, str]]:
    """Hold a debate in attempts that each die once, until one lives; return where they died."""
    engine, deaths = engine_of(models), Deaths(models)
    while True:
        deaths.died.clear()
        attempt = asyncio.create_task(run_once(db, engine, debate_id, user_id))
        died = asyncio.create_task(deaths.died.wait())
        done, _ = await asyncio.wait({attempt, died}, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if attempt in done:
            await attempt
            return deaths.places
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)


def outcome(debate: Debate) -> dict[str, Any]:
    """Everything a debate found, without what differs between two of them."""
    return {
        "status": debate.status,
        "stop": debate.stop_reason,
        "winner": debate.final_winner,
        "conclusion": debate.final_conclusion,
        "minority": debate.minority_opinion,
        "confidence": debate.confidence,
        "baseline": debate.baseline,
        "changed": debate.changed,
        "multipass": debate.multipass_result,
        "rounds": debate.rounds,
        "arguments": [(a.round, a.turn, a.participant, a.text, a.answer) for a in debate.arguments],
        "votes": sorted(
            (v.round, v.voter, v.ballot.ranking if v.ballot else (), v.is_repaired)
            for v in debate.votes
        ),
        "calls": debate.calls,
    }


class _Died(BaseException):
    """An attempt that was killed."""


class Mortal(Attempt):
    """An attempt that dies right after its first transaction that left a new event."""

    def __init__(self, db: Database, user_id: UUID, debate_id: DebateId) -> None:
        super().__init__(db, user_id)
        self.debate_id = debate_id
        self.dead = False

    @asynccontextmanager
    async def transaction(self, role: Role | None = None) -> AsyncIterator[Connection]:
        if self.dead:
            raise _Died
        async with super().transaction(role) as conn:
            yield conn
            new = await conn.fetchval(
                "SELECT count(*) FROM debate_events"
                " WHERE debate_id = $1 AND event_type <> 'resumed'"
                " AND xmin::text = pg_current_xact_id_if_assigned()::xid::text",
                self.debate_id,
            )
        if new:
            self.dead = True
            raise _Died


async def die_after_every_commit(
    db: Database, models: FakeModels, debate_id: DebateId, user_id: UUID
) -> int:
    """Hold a debate in attempts of which each commits one thing and dies; return how many."""
    engine, attempts = engine_of(models, commits_max=1), 0
    while (await see(db, debate_id)).completed_at is None:
        attempts += 1
        attempt = Mortal(db, user_id, debate_id)
        with suppress(_Died):
            await engine.run(cast("tasks.TaskContext", attempt), debates.RunPayload(debate_id))
    return attempts


SPECS = {
    "round_robin": spec_of(protocol="round_robin"),
    "all_see_all": spec_of(validation={"passes": ["facts", "logic"]}),
    "critic_defender": spec_of(protocol="critic_defender"),
    "judge": spec_of(protocol="judge", judge="mock/judge"),
    "substitutes": spec_of(
        participants=[
            {"name": "ada", "model": "mock/ada"},
            {"name": "bob", "model": "mock/down", "substitutes": ["mock/stand-in"]},
            {"name": "cyd", "model": "mock/cyd"},
        ]
    ),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
async def test_a_debate_that_dies_at_every_boundary_ends_as_one_that_never_dies(
    db: Database, owner: Connection, spec: DebateSpec
) -> None:
    user_id = await a_user(owner)
    undisturbed = FakeModels(owner, divided)
    first = await start(db, spec, user_id)
    await run_once(db, engine_of(undisturbed), first, user_id)

    models = FakeModels(owner, divided)
    second = await start(db, spec, user_id)
    places = await die_at_every_boundary(db, models, second, user_id)

    keys = [key for key, _ in models.asked]
    sides = ("before the call", "before the commit")
    answered = {place for place in places if place[0] in keys}  # the rest were refused
    assert answered == {(key, side) for key in keys for side in sides}
    assert len(keys) == len(set(keys)) == len(undisturbed.asked)
    assert outcome(await see(db, second)) == outcome(await see(db, first))
    events = await owner.fetch(
        "SELECT sequence, response_id FROM debate_events WHERE debate_id = $1 ORDER BY 1", second
    )
    assert [e["sequence"] for e in events] == list(range(1, len(events) + 1))
    paid = [e["response_id"] for e in events if e["response_id"]]
    assert len(paid) == len(keys)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
async def test_a_debate_that_dies_after_every_commit_ends_as_one_that_never_dies(
    db: Database, owner: Connection, spec: DebateSpec
) -> None:
    """Also where no call is made: at its start, around rounds, before and after validation."""
    user_id = await a_user(owner)
    undisturbed = FakeModels(owner, divided)
    first = await start(db, spec, user_id)
    await run_once(db, engine_of(undisturbed), first, user_id)

    models = FakeModels(owner, divided)
    second = await start(db, spec, user_id)
    attempts = await die_after_every_commit(db, models, second, user_id)

    keys = [key for key, _ in models.asked]
    assert len(keys) == len(set(keys)) == len(undisturbed.asked)
    assert outcome(await see(db, second)) == outcome(await see(db, first))
    resumed = await owner.fetchval(
        "SELECT count(*) FROM debate_events WHERE debate_id = $1 AND event_type = 'resumed'", second
    )
    assert attempts > len(keys)
    assert resumed == attempts - 1
