"""Errors of replication."""

from uuid import UUID

from helix.core.errors import Conflict, NotFound, Upstream

__all__ = ["ConflictNotFound", "PeerFailed", "PeerUnknown", "SameNode"]


class SameNode(Conflict):
    """Two databases say that they are the same node."""

    code = "memory.same_node"

    def __init__(self, node_id: str) -> None:
        super().__init__(
            f"both nodes call themselves {node_id}: give one of them another HELIX_NODE_ID"
        )


class PeerUnknown(NotFound):
    """There is no such node to exchange memories with."""

    code = "memory.node_unknown"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no node {name!r}: `helix memory nodes list` shows them")


class PeerFailed(Upstream):
    """A node could not be reached, or refused."""

    code = "memory.node_failed"


class ConflictNotFound(NotFound):
    """There is no such conflict."""

    code = "memory.conflict_not_found"

    def __init__(self, conflict_id: UUID) -> None:
        super().__init__(f"there is no conflict {conflict_id}: `helix memory conflicts list`")
