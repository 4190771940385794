"""The verbs of memory: add, change, forget, and what a request used.

Each is given a connection inside one transaction and never commits. A memory is searchable by its
words at that commit; its vector follows (`vectors.py`).
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from helix.core.db import Connection
from helix.memory import graph_store, store
from helix.memory.errors import BadMemory, DuplicateMemory, MemoryNotFound
from helix.memory.extraction import Extracted, FoundEntity, extract
from helix.memory.policy import BATCH_MAX, CONTENT_CHARS_MAX, check_filters, check_memory
from helix.memory.types import Added, Filters, Memory, MemoryId, NewMemory, Patch, Use
from helix.retrieval import analyse

__all__ = [
    "add_extracted",
    "add_memories",
    "change_memory",
    "forget_all",
    "forget_memories",
    "get_memory",
    "list_memories",
    "record_uses",
    "reindex",
]

PAGE_MAX = 500
USES_MAX = 200
_FORGET_PAGE = 1_000


async def add_memories(
    conn: Connection,
    *,
    user_id: UUID,
    memories: Sequence[NewMemory],
    new_id: Callable[[], UUID],
    now: datetime,
) -> list[Added]:
    """Remember up to 1,000 things, with their entities and relations, found by rules.

    What a live memory of the user already says exactly is not added again: its id is returned.
    Raises BadMemory, and then nothing is added.
    """
    if len(memories) > BATCH_MAX:
        raise BadMemory(f"{len(memories)} memories at once, at most {BATCH_MAX}")
    for memory in memories:
        check_memory(memory)
    made = [
        (MemoryId(new_id()), memory, extract(memory.content, speaker=memory.speaker))
        for memory in memories
    ]
    try:
        fresh = await store.insert_memories(conn, user_id=user_id, memories=made, now=now)
    except (asyncpg.ForeignKeyViolationError, asyncpg.InsufficientPrivilegeError) as exc:
        raise BadMemory("session_id, project_id: there is no such thing of yours") from exc
    own = [(i, memory, found) for i, memory, found in made if i in fresh]
    await store.put_search_rows(
        conn,
        user_id=user_id,
        analyses={i: analyse(m.content, speaker=m.speaker) for i, m, _ in own},
    )
    await _tie(conn, user_id=user_id, found=[(i, found) for i, _, found in own])
    known: dict[int, MemoryId] = {}
    if len(fresh) < len(made):
        known = await store.ids_by_content(
            conn, user_id=user_id, contents=[memory.content for memory in memories]
        )
    return [
        Added(i, False) if i in fresh else Added(known[at], True)
        for at, (i, _, _) in enumerate(made)
    ]


async def _tie(
    conn: Connection, *, user_id: UUID, found: Sequence[tuple[MemoryId, Extracted]]
) -> None:
    """Tie memories to the entities and relations found in them."""
    named = {(e.name, e.type): None for _, one in found for e in one.entities}
    if not named:
        return
    ends = [name for _, one in found for r in one.relations for name in (r.subject, r.object)]
    ids = await graph_store.put_entities(conn, user_id=user_id, entities=list(named), ends=ends)
    mentions = [(i, ids[e.name]) for i, one in found for e in one.entities]
    await graph_store.put_mentions(conn, user_id=user_id, mentions=mentions)
    relations = [
        (ids[r.subject], r.predicate, ids[r.object], i) for i, one in found for r in one.relations
    ]
    if relations:
        await graph_store.put_relations(conn, user_id=user_id, relations=relations)


async def add_extracted(
    conn: Connection, *, user_id: UUID, memory_id: MemoryId, found: Extracted
) -> None:
    """Tie a memory to more entities and relations, such as a model named.

    Ends of relations that are not among the entities become entities. Raises MemoryNotFound.
    """
    await get_memory(conn, user_id=user_id, memory_id=memory_id)
    named = {e.name.lower() for e in found.entities}
    ends = dict.fromkeys(name for r in found.relations for name in (r.subject, r.object))
    more = [FoundEntity(name, "thing") for name in ends if name.lower() not in named]
    whole = Extracted((*found.entities, *more), found.relations)
    await _tie(conn, user_id=user_id, found=[(memory_id, whole)])


async def get_memory(conn: Connection, *, user_id: UUID, memory_id: MemoryId) -> Memory:
    """Return one of the user's memories. Raises MemoryNotFound."""
    found = await store.memories_by_id(conn, user_id=user_id, ids=[memory_id])
    if memory_id not in found:
        raise MemoryNotFound(memory_id)
    return found[memory_id]


async def list_memories(
    conn: Connection,
    *,
    user_id: UUID,
    filters: Filters,
    merged: bool = False,
    after_id: UUID | None = None,
    max_count: int = 100,
) -> list[Memory]:
    """Return the user's memories, newest first, from after `after_id` on; at most 500."""
    check_filters(filters)
    return await store.memories_page(
        conn,
        user_id=user_id,
        filters=filters,
        merged=merged,
        after_id=after_id,
        max_count=min(max_count, PAGE_MAX),
    )


async def change_memory(
    conn: Connection, *, user_id: UUID, memory_id: MemoryId, patch: Patch
) -> Memory:
    """Change a memory; a new text gets new search terms, entities and, later, a new vector.

    Raises MemoryNotFound, BadMemory, or DuplicateMemory when another says exactly the new text.
    """
    before = await get_memory(conn, user_id=user_id, memory_id=memory_id)
    content = before.content if patch.content is None else patch.content
    speaker = before.speaker if patch.speaker is None else patch.speaker
    check_memory(
        NewMemory(
            content,
            memory_type=patch.memory_type or before.memory_type,
            speaker=speaker,
            valid_from=patch.valid_from or before.valid_from,
            valid_to=patch.valid_to or before.valid_to,
            tags=patch.tags or (),
            metadata=patch.metadata or {},
        )
    )
    retold = (content, speaker) != (before.content, before.speaker)
    found = extract(content, speaker=speaker) if retold else None
    if content != before.content:
        same = await store.ids_by_content(conn, user_id=user_id, contents=[content])
        if same:
            raise DuplicateMemory(same[0])
        await store.drop_vectors(conn, user_id=user_id, memory_id=memory_id)
    await store.change_memory(conn, user_id=user_id, memory_id=memory_id, patch=patch, found=found)
    await store.put_search_rows(
        conn, user_id=user_id, analyses={memory_id: analyse(content, speaker=speaker)}
    )
    if found is not None:
        await graph_store.drop_ties(conn, user_id=user_id, memory_id=memory_id)
        await _tie(conn, user_id=user_id, found=[(memory_id, found)])
    return await get_memory(conn, user_id=user_id, memory_id=memory_id)


async def forget_memories(
    conn: Connection, *, user_id: UUID, ids: Sequence[MemoryId]
) -> list[MemoryId]:
    """Erase memories for good: text, terms, vectors, relations, entities nothing else speaks of,

    what was merged into them, and the texts of their distributed events. A tombstone stays, so that
    projections and restored backups erase them too. Returns all ids erased; ids that are not the
    user's are passed over.
    """
    return await store.forget(conn, user_id=user_id, ids=ids)


async def forget_all(conn: Connection, *, user_id: UUID) -> int:
    """Erase every memory of exactly this user; return how many."""
    total = 0
    while ids := await store.ids_of_user(conn, user_id=user_id, max_count=_FORGET_PAGE):
        total += len(await store.forget(conn, user_id=user_id, ids=ids))
    await store.drop_graph_of_user(conn, user_id=user_id)
    return total


async def record_uses(
    conn: Connection, *, user_id: UUID, request_id: UUID, uses: Sequence[Use], now: datetime
) -> list[MemoryId]:
    """Record that a request used these memories, and count the access.

    Repeating it is harmless; ids that are not the user's are passed over. Returns those recorded.
    """
    if len(uses) > USES_MAX:
        raise BadMemory(f"{len(uses)} memories in one request, at most {USES_MAX}")
    recorded = await store.insert_uses(
        conn, user_id=user_id, request_id=request_id, uses=uses, now=now
    )
    if recorded:
        times = dict.fromkeys(recorded, 1)
        await store.count_access(conn, user_id=user_id, times=times, now=now)
    return [use.memory_id for use in uses if use.memory_id in recorded]


async def reindex(
    conn: Connection, *, user_id: UUID | None, after_id: UUID | None, max_count: int
) -> tuple[int, UUID | None]:
    """Analyse memories anew whose search row is missing or of an older analysis.

    Returns how many, and the id to go on from, None at the end. `user_id` None: of every user, as
    the operator.
    """
    found = await store.unsearchable(conn, user_id=user_id, after_id=after_id, max_count=max_count)
    by_user: dict[UUID, dict[MemoryId, str | None]] = {}
    texts = {i: content[:CONTENT_CHARS_MAX] for i, _, content, _ in found}
    for i, owner, _, speaker in found:
        by_user.setdefault(owner, {})[i] = speaker
    for owner, own in by_user.items():
        await store.put_search_rows(
            conn,
            user_id=owner,
            analyses={i: analyse(texts[i], speaker=speaker) for i, speaker in own.items()},
        )
    return len(found), found[-1][0] if len(found) == max_count else None
