"""Errors of memory."""

from uuid import UUID

from helix.core.errors import BadInput, Conflict, NotFound

__all__ = [
    "BadMemory",
    "DuplicateMemory",
    "EntityNotFound",
    "MemoryNotFound",
    "NothingToUndo",
    "UserUnknown",
]


class MemoryNotFound(NotFound):
    """There is no such memory, or it is not the caller's."""

    code = "memory.not_found"

    def __init__(self, memory_id: UUID) -> None:
        super().__init__(f"there is no memory {memory_id}", param="memory_id")


class EntityNotFound(NotFound):
    """No memory of the caller speaks of this."""

    code = "memory.entity_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"no memory speaks of {name!r}", param="entity")


class BadMemory(BadInput):
    """A memory, or what is asked of memories, breaks a rule."""

    code = "memory.bad_memory"


class DuplicateMemory(Conflict):
    """Another memory says exactly this."""

    code = "memory.duplicate"

    def __init__(self, memory_id: UUID) -> None:
        super().__init__(f"another memory says exactly this: change or forget memory {memory_id}")


class NothingToUndo(Conflict):
    """No audit has changed anything that is not taken back yet."""

    code = "memory.nothing_to_undo"

    def __init__(self) -> None:
        super().__init__("there is no change of an audit left to take back")


class UserUnknown(NotFound):
    """There is no account of this address, name or id."""

    code = "memory.user_unknown"

    def __init__(self, who: str) -> None:
        super().__init__(f"there is no user {who!r}: `helix users list` shows them", param="user")
