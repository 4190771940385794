"""Which memories a call used is noted once, also by the process that comes after."""

from collections.abc import Sequence
from uuid import UUID

import pytest

from helix.app.recall import uses_noter
from helix.conversations import ContextOptions, Recalled, build
from helix.core.clock import SystemClock
from helix.core.config import Settings
from helix.core.db import Connection, Database
from tests.conversations.support import IDS, fresh_name, recorded_call, said
from tests.factories import make_memory, make_user


@pytest.mark.parametrize("left_by", ["nobody", "a dead process"])
async def test_memories_of_a_call_are_noted_with_its_turn(
    db: Database, owner: Connection, left_by: str
) -> None:
    user_id: UUID = (await make_user(owner))["id"]
    memory = await make_memory(owner, user_id=user_id)
    clock = SystemClock()

    async def search(_: UUID, __: str, ___: int) -> Sequence[Recalled]:
        return [Recalled(str(memory["id"]), "Anna likes tea", 0.9)]

    talks = build(db, Settings(), search_memories=search, note_uses=uses_noter(clock))
    request_id, messages = IDS.next(clock.now()), [said("user", "and Anna?")]
    await talks.before(
        request_id=request_id,
        user_id=user_id,
        session=fresh_name(),
        messages=messages,
        options=ContextOptions(),
    )
    await recorded_call(owner, user_id, messages, "tea", request_id=request_id)
    if left_by == "nobody":
        await talks.after(request_id=request_id, user_id=user_id)
    assert (await talks.sweep())["recorded"] == (0 if left_by == "nobody" else 1)
    await talks.after(request_id=request_id, user_id=user_id)
    uses = await owner.fetch("SELECT request_id, memory_id, user_id FROM memory_uses")
    assert [tuple(row) for row in uses] == [(request_id, memory["id"], user_id)]
    counted = await owner.fetchval("SELECT access_count FROM memories WHERE id = $1", memory["id"])
    assert counted == 1
