"""Whole nodes over HTTP: what one is told, all know; what one forgets, all forget."""

import asyncio
import contextlib
import random
from decimal import Decimal
from uuid import uuid4

import aiohttp
import msgspec
import pytest

from helix.accounts.types import Scope, UserRole
from helix.core.clock import SystemClock
from helix.core.db import Role
from helix.core.errors import BadInput
from helix.memory import MemoryId, MemoryNotFound, Patch
from helix.memory.replication.client import NodeClient, pack
from helix.memory.replication.conflicts import conflict_shown, list_conflicts, resolve_conflict
from helix.memory.replication.domain import PULL_BATCH
from helix.memory.replication.errors import PeerFailed
from helix.memory.replication.snapshots import snapshot_user
from helix.memory.replication.types import Peer
from tests.conftest import Server
from tests.memory.replication.support import a_node, a_person, make_key, nodes, settled
from tests.memory.support import said
from tests.memory.test_forget import tables_with


async def test_what_one_node_is_told_the_other_finds(server: Server) -> None:
    async with nodes(server, "north", "south") as [north, south]:
        user = await a_person(north.owner, "ada@example.org")
        [added] = await north.memories.add(
            user_id=user,
            memories=[said("Ada lives in Rome", "Ada", tags=("home",), metadata={"a": 1})],
        )
        told = await south.exchange(north)
        assert (told.pulled, told.conflicts) == (1, 0)
        found = await south.memories.search(user_id=user, query="Where does Ada live?")
        assert [hit.memory.id for hit in found.hits] == [added.id]
        here = await north.memories.get(user_id=user, memory_id=added.id)
        there = await south.memories.get(user_id=user, memory_id=added.id)
        assert (there.content, there.tags, there.metadata) == (
            "Ada lives in Rome",
            ("home",),
            {"a": 1},
        )
        assert (there.speaker, there.valid_from) == (here.speaker, here.valid_from)
        assert (await north.rebuilt()).differences == []
        assert (await south.rebuilt()).differences == []


@pytest.mark.parametrize("spelt", ["127.0.0.1", "①②⑦.⓪.⓪.①", "[::ffff:127.0.0.1]", "localhost"])
async def test_node_is_called_at_no_inner_address_that_is_not_named(spelt: str) -> None:
    """However the address is spelt, and though nobody looked at the URL before."""
    called = asyncio.Event()

    async def met(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        writer.close()

    async with await asyncio.start_server(met, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = NodeClient(allowed_hosts=["another.example.org"])
        peer = Peer(uuid4(), "evil", f"http://{spelt}:{port}", None, "key")
        with pytest.raises(PeerFailed):
            await client.pull(peer, reader="r", after=None, limit=1)
        await client.close()
    assert not called.is_set()


async def test_concurrent_changes_of_different_things_are_both_kept(server: Server) -> None:
    async with nodes(server, "north", "south") as [north, south]:
        user = await a_person(north.owner, "ada@example.org")
        [one] = await north.memories.add(
            user_id=user, memories=[said("Ada likes tea", tags=("a",))]
        )
        await settled([north, south])
        await north.memories.change(
            user_id=user, memory_id=one.id, patch=Patch(tags=("a", "north"), metadata={"n": 1})
        )
        await south.memories.change(
            user_id=user, memory_id=one.id, patch=Patch(content="Ada likes coffee", tags=("south",))
        )
        await settled([north, south])
        for node in (north, south):
            kept = await node.memories.get(user_id=user, memory_id=one.id)
            assert (kept.content, kept.metadata) == ("Ada likes coffee", {"n": 1})
            assert sorted(kept.tags) == ["north", "south"]
            assert (await node.rebuilt()).differences == []
            rows = await node.owner.fetch(
                "SELECT conflict_type, resolution_strategy FROM memory_conflicts"
            )
            assert [tuple(row) for row in rows] == [("concurrent_update", "merge_all")]
        assert await north.seen() == await south.seen()


async def test_a_forgotten_canary_is_on_no_node(server: Server) -> None:
    async with nodes(server, "north", "south", "west") as made:
        north, south, west = made
        user = await a_person(north.owner, "ada@example.org")
        canary = "Zq7canary"
        [one] = await north.memories.add(
            user_id=user,
            memories=[said(f"{canary} sails", canary, tags=(canary,), metadata={"k": canary})],
        )
        await settled(made)
        await west.memories.change(
            user_id=user, memory_id=one.id, patch=Patch(content=f"{canary} sails at night")
        )
        for node in made:
            node_id = await node.replication.node_id()
            async with node.db.transaction(Role.OPERATOR) as conn:
                await snapshot_user(conn, node_id=node_id, user_id=user)
            assert len(await tables_with(node.owner, canary)) >= 4
        await south.memories.forget(user_id=user, ids=[one.id])
        await settled(made)
        for node in made:
            assert await tables_with(node.owner, canary) == []
            assert (await node.rebuilt()).differences == []
            kept = await node.owner.fetchrow("SELECT deleted_at, version FROM distributed_memory")
            assert kept["deleted_at"] is not None
        assert await north.seen() == await south.seen() == await west.seen()


async def test_a_late_change_does_not_bring_a_forgotten_memory_back(server: Server) -> None:
    async with nodes(server, "north", "south") as [north, south]:
        user = await a_person(north.owner, "ada@example.org")
        [one] = await north.memories.add(user_id=user, memories=[said("Ada likes tea")])
        await settled([north, south])
        await north.memories.forget(user_id=user, ids=[one.id])
        await south.memories.change(
            user_id=user, memory_id=one.id, patch=Patch(content="Ada likes her late tea")
        )
        await settled([north, south])
        for node in (north, south):
            assert await tables_with(node.owner, "late tea") == []
            assert await node.memories.list(user_id=user) == []


async def test_the_same_text_told_to_two_nodes_is_served_once(server: Server) -> None:
    async with nodes(server, "north", "south") as [north, south]:
        user = await a_person(north.owner, "ada@example.org")
        await north.memories.add(user_id=user, memories=[said("something first")])
        await settled([north, south])
        [a] = await north.memories.add(user_id=user, memories=[said("Ada lives in Rome")])
        [b] = await south.memories.add(user_id=user, memories=[said("Ada lives in Rome")])
        await settled([north, south])
        kept = min(a.id, b.id)
        for node in (north, south):
            found = await node.memories.search(user_id=user, query="Where does Ada live?")
            assert [h.memory.id for h in found.hits if "Rome" in h.memory.content] == [kept]
        await north.memories.change(
            user_id=user, memory_id=kept, patch=Patch(content="Ada lives in Paris")
        )
        await settled([north, south])
        for node in (north, south):
            await node.replication.maintain()
            told = sorted(m.content for m in await node.memories.list(user_id=user))
            assert told == ["Ada lives in Paris", "Ada lives in Rome", "something first"]
        await south.memories.forget_all(user_id=user)
        await settled([north, south])
        assert await north.memories.list(user_id=user) == []


async def test_a_lost_wording_is_shown_and_can_be_taken_back(server: Server) -> None:
    async with nodes(server, "north", "south", memory_crdt_strategy="custom") as [north, south]:
        user = await a_person(north.owner, "ada@example.org")
        [one] = await north.memories.add(user_id=user, memories=[said("Ada likes tea")])
        await settled([north, south])
        for node, text in ((north, "Ada likes coffee"), (south, "Ada likes milk")):
            await node.memories.change(user_id=user, memory_id=one.id, patch=Patch(content=text))
        await settled([north, south])
        async with north.db.transaction(Role.OPERATOR) as conn:
            [conflict] = await list_conflicts(conn, open_only=True)
            shown = await conflict_shown(conn, conflict_id=conflict.id)
            assert conflict.conflict_type == "version_conflict"
            assert shown["local"]["content"] == "Ada likes coffee"
            assert shown["remote"]["content"] == "Ada likes milk"
            assert shown["holds"] == "Ada likes milk"  # written last
            done = await resolve_conflict(
                conn, conflict_id=conflict.id, keep="local", content=None,
                resolved_by="ada", now=SystemClock().now(),
            )  # fmt: skip
            assert (done.resolution_strategy, done.resolved_by) == ("custom", "ada")
            assert await list_conflicts(conn, open_only=True) == []
        await settled([north, south])
        for node in (north, south):
            kept = await node.memories.get(user_id=user, memory_id=one.id)
            assert kept.content == "Ada likes coffee"


async def test_merging_near_duplicates_and_undoing_it_travels(server: Server) -> None:
    async with nodes(server, "north", "south") as [north, south]:
        user = await a_person(north.owner, "ada@example.org")
        await north.memories.add(
            user_id=user,
            memories=[
                said("My friend Ben loves sailing boats", "Ada"),
                said("My friend Ben loves sailing boats today", "Ada"),
            ],
        )
        assert (await north.memories.audit(user_id=user, apply=True)).merged == 1
        await settled([north, south])
        assert len(await south.memories.list(user_id=user)) == 1
        types = "SELECT event_type FROM distributed_memory_events ORDER BY 1"
        assert [r[0] for r in await south.owner.fetch(types)] == [
            "created", "created", "merged", "updated"
        ]  # fmt: skip
        await north.memories.undo(user_id=user)
        await settled([north, south])
        assert len(await south.memories.list(user_id=user)) == 2
        assert await north.seen() == await south.seen()
        assert (await south.rebuilt()).differences == []


async def test_uses_on_all_nodes_add_up(server: Server) -> None:
    async with nodes(server, "north", "south") as made:
        north, south = made
        user = await a_person(north.owner, "ada@example.org")
        [one] = await north.memories.add(user_id=user, memories=[said("Ada likes tea")])
        await settled(made)
        for node, times in ((north, 2), (south, 3)):
            for _ in range(times):
                await node.memories.search(user_id=user, query="tea")
            await node.memories.flush()
            await node.replication.maintain()
        await settled(made)
        for node in made:
            assert (await node.memories.get(user_id=user, memory_id=one.id)).access_count == 5
            assert (await node.rebuilt()).differences == []


async def test_a_node_that_was_away_for_a_month_catches_up(server: Server) -> None:
    async with nodes(server, "north", "south", memory_snapshot_events=500) as [north, south]:
        user = await a_person(north.owner, "ada@example.org")
        total = 3 * PULL_BATCH + 17
        for at in range(0, total, 300):
            await north.memories.add(
                user_id=user,
                memories=[
                    said(f"Fact number {n} of the month") for n in range(at, min(at + 300, total))
                ],
            )
        await north.told()
        assert await north.replication.snapshot_due() == 1
        told = await south.exchange(north)
        assert told.pulled == total
        for node in (north, south):
            found = await node.rebuilt()
            assert (found.memories, found.differences) == (total, [])
        assert await north.owner.fetchval(
            "SELECT count(*) FROM distributed_memory "
            "WHERE shard_key <> '' AND replicated_to ? 'south'"
        ) in range(total - PULL_BATCH, total + 1)
        await south.exchange(north)
        everywhere = "SELECT count(*) FROM distributed_memory WHERE replicated_to @> '[\"south\"]'"
        assert await north.owner.fetchval(everywhere) == total
        assert (await north.rebuilt()).events == 0, "the snapshot bounds the replay"


async def test_what_is_pushed_twice_or_cut_in_half_changes_nothing(server: Server) -> None:
    async with nodes(server, "north", "south") as [north, south]:
        user = await a_person(north.owner, "ada@example.org")
        await north.memories.add(user_id=user, memories=[said("Ada likes tea"), said("Ben too")])
        await north.told()
        batch = await north.replication.give_feed(reader="south", after=None, limit=10)
        first = await south.replication.take_pushed(batch)
        again = await south.replication.take_pushed(batch)
        assert (first.applied, first.known, again.applied, again.known) == (2, 0, 0, 2)
        whole, gzipped = pack(batch, compress=True)
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{south.url}/api/memory/replication/events",
                data=whole[: len(whole) // 2],
                headers={"Authorization": f"Bearer {south.key}", "Content-Encoding": "gzip"},
            ) as answer,
        ):
            assert answer.status == 400
        assert gzipped
        assert len(await south.memories.list(user_id=user)) == 2


async def test_only_an_admin_key_opens_the_exchange(server: Server) -> None:
    async with a_node(server, "north") as north:
        narrow = await make_key(north.db, UserRole.USER, {Scope.MEMORIES})
        path = f"{north.url}/api/memory/replication/events"
        async with aiohttp.ClientSession() as session:
            for key, status in ((None, 401), (narrow, 403), (north.key, 200)):
                headers = {} if key is None else {"Authorization": f"Bearer {key}"}
                async with session.get(f"{path}?node=south", headers=headers) as answer:
                    assert answer.status == status
                async with session.get(f"{north.url}/api/memory/nodes", headers=headers) as answer:
                    assert answer.status == status
                async with session.post(
                    path, headers=headers, json={"node_id": "south", "mark": "", "events": []}
                ) as answer:
                    assert answer.status == status
            opened = {"Authorization": f"Bearer {north.key}"}
            async with session.get(f"{path}?node=north", headers=opened) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (
                    409,
                    "memory.same_node",
                )
            async with session.get(f"{path}?node=south&after=nonsense", headers=opened) as answer:
                assert answer.status == 400
            async with session.post(path, headers=opened, data=b"[]") as answer:
                assert answer.status == 400


async def test_a_clock_far_ahead_is_refused_by_name(server: Server) -> None:
    async with nodes(server, "north", "south") as [north, south]:
        user = await a_person(north.owner, "ada@example.org")
        await north.memories.add(user_id=user, memories=[said("Ada likes tea")])
        await north.told()
        batch = await north.replication.give_feed(reader="south", after=None, limit=10)
        ahead = msgspec.structs.replace(
            batch.events[0], hlc=batch.events[0].hlc + (2 * 3_600_000 << 16)
        )
        with pytest.raises(BadInput, match="clock of node north is more than an hour ahead"):
            await south.replication.take_pushed(msgspec.structs.replace(batch, events=[ahead]))


async def test_lag_and_silence_are_seen(server: Server) -> None:
    async with nodes(server, "north", "south") as [north, south]:
        await north.exchange(south)
        shown = {node["node_id"]: node for node in await north.replication.nodes()}
        assert shown["north"]["is_self"]
        assert (shown["south"]["status"], shown["south"]["name"]) == ("active", "south")
        await north.owner.execute(
            "UPDATE memory_nodes SET last_heartbeat = now() - interval '2 minutes' "
            "WHERE node_id = 'south'"
        )
        shown = {node["node_id"]: node for node in await north.replication.nodes()}
        assert shown["south"]["status"] == "inactive"
        await north.owner.execute("UPDATE memory_peers SET url = 'http://127.0.0.1:1'")
        await north.replication.tick()
        row = await north.owner.fetchrow(
            "SELECT status, error_message FROM memory_sync_status WHERE status = 'failed'"
        )
        assert "node south" in row["error_message"]


async def test_memories_from_before_events_are_adopted(server: Server) -> None:
    async with a_node(server, "north") as north:
        user = await a_person(north.owner, "ada@example.org")
        await north.owner.execute("SELECT set_config('helix.replicating', 'on', false)")
        await north.owner.execute(
            "INSERT INTO memories (user_id, content) "
            "SELECT $1, 'old ' || n FROM generate_series(1, 5) AS n",
            user,
        )
        assert await north.replication.maintain() == 5
        assert await north.replication.maintain() == 0
        found = await north.rebuilt()
        assert (found.memories, found.events, found.differences) == (5, 5, [])


async def test_three_parted_nodes_come_to_the_same_state(server: Server) -> None:
    chance = random.Random(20_261_122)
    async with nodes(server, "east", "north", "south") as made:
        user = await a_person(made[0].owner, "ada@example.org")
        added = await made[0].memories.add(
            user_id=user,
            memories=[said(f"Fact {n} of Rome", "Eve", tags=("rome",)) for n in range(6)],
        )
        await settled(made)
        known: list[MemoryId] = [one.id for one in added]
        for step in range(40):
            node, memory_id = chance.choice(made), chance.choice(known)
            what = chance.random()
            if what < 0.45:
                patch = chance.choice(
                    [
                        Patch(content=f"Fact told anew in step {step}"),
                        Patch(tags=tuple(chance.sample(["rome", "bonn", "paris"], 2))),
                        Patch(metadata={"step": step}),
                        Patch(speaker=chance.choice(["Ada", "Ben"])),
                        Patch(importance=Decimal(step) / 100),
                    ]
                )
                with contextlib.suppress(MemoryNotFound):
                    await node.memories.change(user_id=user, memory_id=memory_id, patch=patch)
            elif what < 0.55:
                await node.memories.forget(user_id=user, ids=[memory_id])
            elif what < 0.65 and await node.memories.list(user_id=user):
                [one] = await node.memories.add(
                    user_id=user, memories=[said(f"New in step {step}")]
                )
                known.append(one.id)
            else:
                other = chance.choice([n for n in made if n is not node])
                await node.exchange(other)
        await settled(made)
        east, north, south = [await node.seen() for node in made]
        assert east == north == south
        assert len(east) >= 7
        for node in made:
            assert (await node.rebuilt()).differences == []
