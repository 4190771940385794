"""Memory: what Helix remembers for its users, how it is found, and how it is forgotten.

`Memories` is what others hold: `search` finds with reasons, `used` records what went into a
request. Below it lie sql/schema/cognee_memories.sql and the engine of `helix.retrieval`.
"""

from helix.memory.asked import extractor
from helix.memory.domain import ContentEraser, Memories, build
from helix.memory.errors import (
    BadMemory,
    DuplicateMemory,
    EntityNotFound,
    MemoryNotFound,
    NothingToUndo,
)
from helix.memory.graph import entities, neighbours, path_between, relations
from helix.memory.jobs import Extractor, enqueue_embedding, register_jobs
from helix.memory.near import build_indexes
from helix.memory.replication import (
    Replication,
    begin_node,
    build_node_router,
    build_replication,
)
from helix.memory.routes import build_router
from helix.memory.service import (
    add_memories,
    forget_all,
    forget_memories,
    record_uses,
)
from helix.memory.store import apply_tombstones, tombstones_since
from helix.memory.types import (
    Added,
    AuditReport,
    Entity,
    Filters,
    Forgotten,
    Found,
    Hit,
    Memory,
    MemoryId,
    NewMemory,
    Patch,
    Relation,
    Sources,
    Step,
    Use,
)

__all__ = [
    "Added",
    "AuditReport",
    "BadMemory",
    "ContentEraser",
    "DuplicateMemory",
    "Entity",
    "EntityNotFound",
    "Extractor",
    "Filters",
    "Forgotten",
    "Found",
    "Hit",
    "Memories",
    "Memory",
    "MemoryId",
    "MemoryNotFound",
    "NewMemory",
    "NothingToUndo",
    "Patch",
    "Relation",
    "Replication",
    "Sources",
    "Step",
    "Use",
    "add_memories",
    "apply_tombstones",
    "begin_node",
    "build",
    "build_indexes",
    "build_node_router",
    "build_replication",
    "build_router",
    "enqueue_embedding",
    "entities",
    "extractor",
    "forget_all",
    "forget_memories",
    "neighbours",
    "path_between",
    "record_uses",
    "register_jobs",
    "relations",
    "tombstones_since",
]
