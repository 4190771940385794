"""Distributed memory: nodes exchange events of memories and merge them to the same state.

`Replication` runs with the server; docs/replication.md tells how it works and what it promises.
"""

from helix.memory.replication.domain import Replication, begin_node, build_replication
from helix.memory.replication.routes import build_node_router

__all__ = ["Replication", "begin_node", "build_node_router", "build_replication"]
