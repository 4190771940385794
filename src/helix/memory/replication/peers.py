"""The other nodes of this one: added and removed by operators, their keys encrypted."""

from collections.abc import Callable
from uuid import UUID

from helix.core.crypto import Keyring
from helix.core.db import Connection
from helix.core.errors import Conflict, Misuse
from helix.memory.replication.errors import PeerUnknown
from helix.memory.replication.policy import check_node_id
from helix.memory.replication.store import QUERIES
from helix.memory.replication.types import Peer

__all__ = ["add_peer", "list_peers", "remove_peer"]


def _context(peer_id: UUID) -> str:
    return f"memory_peers.credentials:{peer_id}"


async def add_peer(
    conn: Connection,
    *,
    name: str,
    url: str,
    key: str,
    keyring: Keyring,
    new_id: Callable[[], UUID],
) -> UUID:
    """Add a node to exchange memories with; `url` is checked already. Raises Misuse, Conflict."""
    check_node_id(name)
    if not key or any(char.isspace() for char in key):
        raise Misuse("the key is empty or has spaces in it")
    peer_id = new_id()
    row = await QUERIES.row(
        conn,
        "insert_peer",
        id=peer_id,
        name=name,
        url=url,
        credentials=keyring.encrypt(key, context=_context(peer_id)),
        key_id=keyring.key_id,
    )
    if row is None:
        raise Conflict(f"there is a node {name!r} already: remove it first")
    return peer_id


async def remove_peer(conn: Connection, *, name: str) -> None:
    """Exchange nothing more with a node; what came from it stays. Raises PeerUnknown."""
    if await QUERIES.row(conn, "delete_peer", name=name) is None:
        raise PeerUnknown(name)


async def list_peers(conn: Connection, *, keyring: Keyring) -> list[Peer]:
    """Return the nodes with their keys, by name."""
    return [
        Peer(
            row["id"],
            row["name"],
            row["url"],
            row["node_id"],
            keyring.decrypt(row["credentials"], context=_context(row["id"])),
        )
        for row in await QUERIES.rows(conn, "peers")
    ]
