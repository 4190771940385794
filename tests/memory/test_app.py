"""Memory through the whole of Helix: models of providers make its vectors and name its entities."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from helix.accounts import Scope, bootstrap_admin
from helix.app import build, started
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database
from tests.debates.conftest import Helix
from tests.gateway.conftest import make_key, make_user

PATIENCE_S = 40.0
CAT = (
    'Ada owns a cat. {"entities": [{"name": "cat", "type": "animal"}, {"name": "Zeus"}],'
    ' "relations": [{"subject": "Ada", "predicate": "owns", "object": "cat"}]}'
)


async def begun(
    db: Database, owner: Connection, tmp_path: Path, **settings: str
) -> tuple[Any, Helix]:
    """Return an application that is not started yet, and who calls it."""
    loaded = load_settings(
        {"HELIX_LOG_LEVEL": "error", **{f"HELIX_{k.upper()}": v for k, v in settings.items()}},
        home=tmp_path / "home",
    )
    async with owner.transaction():
        mine = await make_user(owner)
        keys = {
            "me": (await make_key(owner, mine)).key,
            "memory only": (await make_key(owner, mine, scopes=frozenset({Scope.MEMORIES}))).key,
        }
    app = build(loaded, db, Keyring([new_key()]), SystemClock())
    return app, Helix(app, db, owner, mine, keys)


@pytest.fixture
async def helix(db: Database, owner: Connection, tmp_path: Path) -> AsyncIterator[Helix]:
    await bootstrap_admin(db)
    app, caller = await begun(
        db, owner, tmp_path, embedder="mock/embed", memory_extraction_model="mock/echo"
    )
    async with started(app):
        yield caller


async def ask(helix: Helix, method: str, path: str, body: Any = None, **given: str) -> Any:
    """Return the answer as JSON; a machine too busy for the database's pool is asked again."""
    given.setdefault("content-type", "application/json")
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await helix.call(method, path, body, **given)).status == 503:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert answer.status < 300, (path, answer.json)
    return answer.json


async def until(helix: Helix, query: str, wanted: Any) -> None:
    """Wait for the background tasks of the server to make a figure true."""
    async with asyncio.timeout(PATIENCE_S):
        while await helix.owner.fetchval(query) != wanted:  # noqa: ASYNC110 - no signal over HTTP
            await asyncio.sleep(0.05)


async def test_a_providers_model_embeds_memories_and_questions_at_the_users_cost(
    helix: Helix,
) -> None:
    await ask(helix, "POST", "/api/memories", {"content": "The lighthouse keeper grows roses"})
    await until(helix, "SELECT count(*) FROM memory_embeddings", 1)
    found = await ask(helix, "POST", "/api/memories/search", {"query": "rose keepers"})
    assert (found["vectors"], found["unembedded"]) == ("embed", 0)
    assert "dense" in found["data"][0]["signals"]
    model = await helix.owner.fetchrow("SELECT provider, model, dimension FROM embedding_config")
    assert tuple(model) == ("mock", "embed", 256)
    calls = await helix.owner.fetch(
        "SELECT q.user_id, p.cost_usd, p.tokens_prompt FROM llm_requests AS q"
        " JOIN llm_responses AS p ON p.request_id = q.id WHERE q.request_type = 'embedding'"
    )
    assert {row["user_id"] for row in calls} == {helix.user_id}
    assert len(calls) >= 3  # the length of its vectors, the memory, the question
    assert all(row["cost_usd"] >= Decimal(0) and row["tokens_prompt"] > 0 for row in calls)


async def test_documents_are_embedded_by_the_same_model(helix: Helix) -> None:
    body = {"content": "# Pumps\n\nPrime the pump.", "name": "a.md", "key": "pumps"}
    await ask(helix, "POST", "/api/knowledge", body)
    await until(
        helix, "SELECT count(*) FROM vector_documents WHERE embedding_config_id IS NOT NULL", 1
    )
    found = await ask(helix, "POST", "/api/knowledge/search", {"query": "pump"})
    assert (found["vectors"], found["unembedded"]) == ("embed", 0)


async def test_a_model_names_what_new_memories_speak_of(helix: Helix) -> None:
    made = await ask(helix, "POST", "/api/memories", {"content": CAT})
    await until(
        helix,
        "SELECT count(*) FROM memory_relations WHERE predicate = 'owns' AND memory_id IS NOT NULL",
        1,
    )
    told = (await ask(helix, "GET", "/api/memories/graph/relations?entity=cat"))["data"]
    assert [(r["subject"], r["predicate"], r["object"]) for r in told] == [("Ada", "owns", "cat")]
    assert told[0]["memory_id"] == made["id"]
    names = await helix.owner.fetch("SELECT type FROM memory_entities WHERE lower(name) = 'cat'")
    assert "animal" in {row["type"] for row in names}
    asked = await helix.owner.fetchval(
        "SELECT count(*) FROM llm_requests WHERE request_type = 'chat' AND user_id = $1",
        helix.user_id,
    )
    assert asked == 1


async def test_a_new_model_embeds_everything_anew_from_the_start(
    db: Database, owner: Connection, tmp_path: Path
) -> None:
    await bootstrap_admin(db)
    app, first = await begun(db, owner, tmp_path, embedder="none")
    async with started(app):
        batch = [{"content": f"Fact number {n} of the lighthouse"} for n in range(150)]
        await ask(first, "POST", "/api/memories/batch", {"memories": batch})
        body = {"query": "lighthouse"}
        before = await ask(first, "POST", "/api/memories/search", body)
    assert (before["vectors"], before["unembedded"]) == ("none: HELIX_EMBEDDER is none", 150)
    app, second = await begun(db, owner, tmp_path, embedder="mock/embed")
    second.keys = first.keys
    async with started(app):
        await until(second, "SELECT count(*) FROM memory_embeddings", 150)
        await until(
            second,
            "SELECT count(*) FROM background_tasks WHERE task_type = 'memory.embed'"
            " AND status = 'completed' AND progress = 100",
            1,
        )
        after = await ask(second, "POST", "/api/memories/search", body)
    assert (after["vectors"], after["unembedded"]) == ("embed", 0)


async def test_erasing_sources_needs_the_scope_of_conversations_and_leaves_no_word(
    helix: Helix,
) -> None:
    said = {
        "model": "mock/echo",
        "messages": [{"role": "user", "content": "My secret is Zanzibar9"}],
        "helix": {"session": "diary"},
    }
    await ask(helix, "POST", "/v1/chat/completions", said)
    await until(helix, "SELECT count(*) > 0 FROM conversation_events", True)
    talk = str(await helix.owner.fetchval("SELECT id FROM conversations"))
    new = {"content": "Zanzibar9 is the secret", "conversation_id": talk}
    made = await ask(helix, "POST", "/api/memories", new)
    place = f"/api/memories/{made['id']}"
    refused = await helix.call("DELETE", f"{place}?sources=true", who="memory only")
    assert refused.status == 403
    gone = await ask(helix, "DELETE", f"{place}?sources=true")
    assert gone["conversations_erased"] == [talk]
    tables = await helix.owner.fetch(
        "SELECT c.relname FROM pg_class AS c WHERE c.relkind IN ('r', 'p', 'm')"
        " AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace"
    )
    for table in (row["relname"] for row in tables):
        left = f"SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%Zanzibar9%'"
        assert await helix.owner.fetchval(left) == 0, table
    refused = await helix.call("DELETE", "/api/memories?all=true&sources=true", who="memory only")
    assert refused.status == 403
    plain = await ask(helix, "DELETE", "/api/memories?all=true")
    assert plain["kept"] == ["conversations (add &sources=true)", "documents"]
