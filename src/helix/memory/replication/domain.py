"""Replication put together: the node, its exchange with others, and what it does now and then."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import OUTAGES, Connection, Database, Role
from helix.core.errors import BadInput, HelixError
from helix.core.log import get_log
from helix.memory.replication import feed, peers, snapshots
from helix.memory.replication.client import NodeClient
from helix.memory.replication.errors import PeerFailed, SameNode
from helix.memory.replication.intake import take
from helix.memory.replication.policy import check_node_id, status_of
from helix.memory.replication.serve import serve_waiting
from helix.memory.replication.store import QUERIES, own_node
from helix.memory.replication.types import Batch, Mark, NodeStatus, Peer, Taken

__all__ = ["Exchanged", "Replication", "begin_node", "build_replication"]

_log = get_log(__name__)
_TROUBLE: tuple[type[BaseException], ...] = (HelixError, asyncpg.PostgresError, *OUTAGES)
PULL_BATCH = 200
ADOPT_PAGE = 1_000
USES_PAGE = 1_000
USERS_PAGE = 50
MAINTAIN_EVERY_S = 3_600.0
_TRIES = 3
_ERROR_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What an exchange with one node came to: events taken in, and events given."""

    pulled: int = 0
    pushed: int = 0
    conflicts: int = 0


async def begin_node(conn: Connection, *, wanted: str, now: datetime) -> str:
    """Say which node this database belongs to, and return its name.

    `wanted` wins; without it the name the database has, else a new one that is kept. From then on
    changes of memories are recorded as events. Raises Misuse.
    """
    await QUERIES.run(conn, "lock_nodes")
    node_id = (
        check_node_id(wanted) if wanted else await own_node(conn) or f"node-{uuid4().hex[:12]}"
    )
    await QUERIES.run(conn, "resign_self", node_id=node_id)
    await QUERIES.run(conn, "put_self", node_id=node_id, now=now)
    return node_id


class Replication:
    """Exchanges memories with other nodes. `start` and `stop` it with the server.

    Every exchange can be stopped at any moment and repeated: what was taken in is committed with
    the position it was read up to, and what is known already is passed over.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        keyring: Keyring,
        clock: Clock,
        *,
        embed: bool,
        client: NodeClient | None = None,
    ) -> None:
        self._db = db
        self._settings = settings
        self._keyring = keyring
        self._clock = clock
        self._embed = embed
        self._client = client or NodeClient(
            allowed_hosts=settings.memory_node_host_list, compress=settings.memory_compression
        )
        self._loop: asyncio.Task[None] | None = None
        self._maintained_s: float | None = None
        self._snapshot_s: float | None = None

    async def start(self) -> None:
        """Begin to exchange; the database need not be there yet."""
        self._loop = asyncio.create_task(self._for_ever(), name="helix-memory-nodes")

    async def stop(self) -> None:
        """Stop exchanging; what is under way is left, and taken up again at the next start."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop
            self._loop = None
        await self._client.close()

    async def _for_ever(self) -> None:
        while True:
            try:
                await self.tick()
            except _TROUBLE as exc:
                _log.warning("memory_exchange_failed", reason=type(exc).__name__)
            await asyncio.sleep(self._settings.memory_sync_s)

    async def tick(self) -> None:
        """Do what is due: exchange with every node, and now and then what `maintain` does."""
        node_id = await self.node_id()
        now_s = self._clock.monotonic_s()
        if self._maintained_s is None or now_s - self._maintained_s >= MAINTAIN_EVERY_S:
            await self.maintain()
            self._maintained_s = now_s
        if self._snapshot_s is None or now_s - self._snapshot_s >= self._settings.memory_snapshot_s:
            await self.snapshot_due()
            self._snapshot_s = now_s
        async with self._unit() as conn:
            await QUERIES.run(conn, "heartbeat", now=self._clock.now())
            found = await peers.list_peers(conn, keyring=self._keyring)
        await asyncio.gather(*(self._try(node_id, peer) for peer in found))

    @asynccontextmanager
    async def _unit(self) -> AsyncIterator[Connection]:
        async with self._db.transaction(Role.OPERATOR) as conn:
            yield conn

    async def node_id(self) -> str:
        """Return what this node calls itself, naming it if it has no name yet."""
        async with self._unit() as conn:
            known = await own_node(conn)
            if known is not None and self._settings.node_id in ("", known):
                return known
            return await begin_node(conn, wanted=self._settings.node_id, now=self._clock.now())

    async def _try(self, node_id: str, peer: Peer) -> None:
        """Exchange with one node; what goes wrong is written down beside it."""
        try:
            await self.exchange(peer)
        except _TROUBLE as exc:
            _log.warning("memory_node_failed", node=peer.name, reason=str(exc)[:_ERROR_CHARS_MAX])
            if peer.node_id is not None:
                async with self._unit() as conn:
                    await QUERIES.run(
                        conn,
                        "put_sync_error",
                        source=peer.node_id,
                        target=node_id,
                        error=str(exc)[:_ERROR_CHARS_MAX],
                    )

    async def exchange(self, peer: Peer) -> Exchanged:
        """Take over everything a node has to tell, then give it what it lacks.

        Raises PeerFailed, BadInput (it told what no node tells), or SameNode.
        """
        node_id = await self.node_id()
        total = Exchanged()
        source: str | None = peer.node_id
        while True:
            after = None if source is None else await self._position(source, node_id)
            batch = await self._client.pull(
                peer, reader=node_id, after=None if after is None else str(after), limit=PULL_BATCH
            )
            if batch.node_id == node_id:
                raise SameNode(node_id)
            try:
                mark = Mark.parse(batch.mark)
            except BadInput as exc:
                raise PeerFailed(f"node {peer.name}: its mark cannot be read") from exc
            taken = await self._take_patiently(node_id, batch, read=mark, peer=peer)
            total = Exchanged(total.pulled + taken.applied, 0, total.conflicts + taken.conflicts)
            known_before, source = source, check_node_id(batch.node_id)
            if not batch.more and known_before == source:
                break
            if known_before is not None and known_before != source:
                peer = Peer(peer.id, peer.name, peer.url, source, peer.key)
        return Exchanged(total.pulled, await self._give(node_id, source, peer), total.conflicts)

    async def _position(self, source: str, target: str) -> Mark | None:
        async with self._unit() as conn:
            return await feed.kept_position(conn, source=source, target=target)

    async def _take(
        self, node_id: str, batch: Batch, *, read: Mark | None, peer: Peer | None
    ) -> Taken:
        """Take a batch in, with the position after it when it was read, in one transaction."""
        now = self._clock.now()
        check_node_id(batch.node_id)
        async with self._unit() as conn:
            taken = await take(
                conn,
                node_id=node_id,
                events=batch.events,
                accounts=batch.accounts,
                settle=self._settings.memory_crdt_strategy == "merge_all",
                embed=self._embed,
                now=now,
            )
            lag_ms = batch.lag_ms if batch.more else 0
            await self._saw(conn, batch.node_id, lag_ms=lag_ms, published=taken.applied)
            if peer is not None:
                await QUERIES.run(conn, "meet_peer", id=peer.id, node_id=batch.node_id)
            if read is not None:
                await QUERIES.run(
                    conn, "put_position", source=batch.node_id, target=node_id,
                    status="syncing" if batch.more else "synced", feed=read.feed,
                    xact=str(read.xact), event_id=read.event_id, pending=0, lag_ms=lag_ms,
                    now=now,
                )  # fmt: skip
        return taken

    async def _take_patiently(
        self, node_id: str, batch: Batch, *, read: Mark | None = None, peer: Peer | None = None
    ) -> Taken:
        """Take a batch in; people may change the same memories meanwhile, in another order or into
        the same text, and then it is tried again."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError):
                return await self._take(node_id, batch, read=read, peer=peer)
        return await self._take(node_id, batch, read=read, peer=peer)

    async def _saw(
        self, conn: Connection, node_id: str, *, lag_ms: int, published: int = 0, consumed: int = 0
    ) -> None:
        """Note that another node is there, what it told, what it took."""
        now = self._clock.now()
        status = status_of(
            last_contact=now, error=None, lag_ms=lag_ms, now=now,
            lag_alert_ms=self._settings.memory_lag_alert_ms,
        )  # fmt: skip
        await QUERIES.run(
            conn, "put_node", node_id=node_id, status=status.value, now=now, lag_ms=lag_ms,
            published=published, consumed=consumed,
        )  # fmt: skip

    async def _give(self, node_id: str, target: str, peer: Peer) -> int:
        """Push what the node has not read yet; it is told from where on by what it read itself."""
        given = 0
        while True:
            async with self._unit() as conn:
                after = await feed.kept_position(conn, source=node_id, target=target)
                batch = await feed.read_feed(
                    conn, node_id=node_id, reader=target, after=after, max_count=PULL_BATCH,
                    now=self._clock.now(),
                )  # fmt: skip
            if batch.events:
                await self._client.push(peer, batch)
                given += len(batch.events)
            if batch.events or after is None:
                async with self._unit() as conn:
                    await feed.acknowledge(
                        conn, node_id=node_id, reader=target, mark=Mark.parse(batch.mark),
                        now=self._clock.now(),
                    )  # fmt: skip
            if not batch.more:
                return given

    async def give_feed(self, *, reader: str, after: Mark | None, limit: int) -> Batch:
        """Answer a node that reads this one's events; its mark says what it holds already."""
        node_id = await self.node_id()
        if reader == node_id:
            raise SameNode(node_id)
        async with self._unit() as conn:
            now = self._clock.now()
            batch = await feed.read_feed(
                conn, node_id=node_id, reader=reader, after=after, max_count=limit, now=now
            )
            lag_ms = batch.lag_ms if batch.more else 0
            await self._saw(conn, reader, lag_ms=lag_ms, consumed=len(batch.events))
            await feed.acknowledge(
                conn, node_id=node_id, reader=reader,
                mark=await feed.position(conn, after=after), now=now,
            )  # fmt: skip
        return batch

    async def take_pushed(self, batch: Batch) -> Taken:
        """Take in what another node pushes; doing it again changes nothing. Raises BadInput."""
        node_id = await self.node_id()
        if batch.node_id == node_id:
            raise SameNode(node_id)
        return await self._take_patiently(node_id, batch)

    async def maintain(self) -> int:
        """Record memories from before events were, sum up uses, serve what waited; return of how
        many memories. Safe to repeat and to stop."""
        node_id = await self.node_id()
        count, after_id = 0, None
        while True:
            async with self._unit() as conn:
                row = await QUERIES.row(conn, "adopt", after_id=after_id, max_count=ADOPT_PAGE)
            if row is None or row["last_id"] is None:
                break
            count, after_id = count + row["adopted"], row["last_id"]
        while True:
            async with self._unit() as conn:
                row = await QUERIES.row(conn, "publish_uses", max_count=USES_PAGE)
            published = 0 if row is None else row["published"]
            count += published
            if published < USES_PAGE:
                break
        return count + await self._serve_waiting(node_id)

    async def _serve_waiting(self, node_id: str) -> int:
        count, after_id = 0, None
        while True:
            async with self._unit() as conn:
                rows = await QUERIES.rows(
                    conn, "waiting_twins", after_id=after_id, max_count=PULL_BATCH
                )
                owners = {row["id"]: row["user_id"] for row in rows}
                for user_id in dict.fromkeys(owners.values()):
                    ids = [i for i, owner in owners.items() if owner == user_id]
                    states = await snapshots.current_states(
                        conn, node_id=node_id, user_id=user_id, ids=ids
                    )
                    await serve_waiting(conn, states=states, owners=owners, embed=self._embed)
            count += len(rows)
            if len(rows) < PULL_BATCH:
                return count
            after_id = rows[-1]["id"]

    async def snapshot_due(self) -> int:
        """Keep the state of users with many events since their last snapshot; return how many."""
        node_id = await self.node_id()
        async with self._unit() as conn:
            rows = await QUERIES.rows(
                conn, "users_to_snapshot", node_id=node_id, max_count=USERS_PAGE,
                at_least=self._settings.memory_snapshot_events,
            )  # fmt: skip
        for row in rows:
            async with self._unit() as conn:
                await snapshots.snapshot_user(conn, node_id=node_id, user_id=row["user_id"])
        return len(rows)

    async def nodes(self) -> list[dict[str, Any]]:
        """Return every node with status and lag, this one first; peers not met yet come last."""
        async with self._unit() as conn:
            return await list_nodes(
                conn, lag_alert_ms=self._settings.memory_lag_alert_ms, now=self._clock.now()
            )

    async def rebuild(self, *, user_id: UUID | None = None) -> Sequence[snapshots.Rebuilt]:
        """Replay the events of a user, or of all, and compare; see `rebuild_user`."""
        node_id = await self.node_id()
        async with self._unit() as conn:
            rows = await QUERIES.rows(conn, "users_with_memories")
        users = [row["user_id"] for row in rows] if user_id is None else [user_id]
        found = []
        for one in users:
            async with self._unit() as conn:
                found.append(await snapshots.rebuild_user(conn, node_id=node_id, user_id=one))
        return found


async def list_nodes(conn: Connection, *, lag_alert_ms: int, now: datetime) -> list[dict[str, Any]]:
    """Return every node as an operator sees it now."""
    found = []
    for row in await QUERIES.rows(conn, "nodes"):
        shown = dict(row)
        if not row["is_self"]:
            shown["status"] = status_of(
                last_contact=row["last_heartbeat"], error=row["error_message"],
                lag_ms=row["sync_lag_ms"], lag_alert_ms=lag_alert_ms, now=now,
            ).value  # fmt: skip
        found.append(shown)
    found.extend(
        {
            "node_id": None, "name": row["name"], "url": row["url"], "is_self": False,
            "status": NodeStatus.INACTIVE.value, "last_heartbeat": None, "sync_lag_ms": None,
            "error_message": "has not answered yet",
        }
        for row in await QUERIES.rows(conn, "unmet_peers")
    )  # fmt: skip
    return found


def build_replication(
    db: Database, settings: Settings, keyring: Keyring, clock: Clock, *, embed: bool
) -> Replication:
    """Return the exchange with other nodes as the server runs it."""
    return Replication(db, settings, keyring, clock, embed=embed)
