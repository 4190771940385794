"""The registry in the database: encrypted keys, changes seen, what settings register."""

import asyncio
import contextlib
from typing import Any
from uuid import UUID, uuid4

import pytest

from helix import providers
from helix.core.config import load_settings
from helix.core.crypto import Keyring, SecretUnreadable, new_key
from helix.core.db import Connection, Database
from helix.core.errors import Misuse
from helix.providers.errors import ModelNotFound, ProviderExists, ProviderNotFound
from helix.providers.mock import MOCK_MODELS
from helix.providers.register import register
from helix.providers.store import Store, credential_context
from helix.providers.types import Wire
from tests.fakes.openai_upstream import OpenAIUpstream

URL = "http://127.0.0.1:1/v1"
KEY = "sk-the-secret-of-a-provider"


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([new_key()])


@pytest.fixture
def store(keyring: Keyring) -> Store:
    return Store(keyring)


async def add(conn: Connection, store: Store, name: str, **fields: Any) -> UUID:
    provider_id = uuid4()
    given: dict[str, Any] = {
        "wire": Wire.OPENAI,
        "base_url": URL,
        "api_key": KEY,
        "models": ["m1", "m2"],
        **fields,
    }
    await store.insert(conn, provider_id=provider_id, name=name, **given)
    return provider_id


async def test_key_is_ciphertext_bound_to_its_row(
    owner: Connection, store: Store, keyring: Keyring
) -> None:
    one, other = await add(owner, store, "one"), await add(owner, store, "other")
    rows = await owner.fetch("SELECT provider_id, value, key_id FROM provider_configs")
    sealed = {row["provider_id"]: row["value"] for row in rows}
    assert all(KEY not in row["value"] and row["key_id"] == keyring.key_id for row in rows)
    assert keyring.decrypt(sealed[one], context=credential_context(one, URL)) == KEY
    with pytest.raises(SecretUnreadable):
        keyring.decrypt(sealed[one], context=credential_context(other, URL))
    registry = await store.load(owner)
    assert registry.providers["one"].api_key == KEY
    assert KEY not in repr(registry)


async def test_key_moved_to_another_row_makes_only_that_provider_unusable(
    owner: Connection, store: Store
) -> None:
    one, other = await add(owner, store, "one"), await add(owner, store, "other")
    await owner.execute(
        "UPDATE provider_configs SET value ="
        " (SELECT value FROM provider_configs WHERE provider_id = $1) WHERE provider_id = $2",
        one,
        other,
    )
    registry = await store.load(owner)
    assert registry.providers["one"].problem is None
    assert registry.providers["other"].problem is not None
    assert registry.providers["other"].api_key is None


async def test_wrong_encryption_key_is_named_and_fails_closed(
    owner: Connection, store: Store
) -> None:
    await add(owner, store, "one")
    registry = await Store(Keyring([new_key()])).load(owner)
    assert "API key" in str(registry.providers["one"].problem)


async def test_name_is_taken_once(owner: Connection, store: Store) -> None:
    await add(owner, store, "one")
    with pytest.raises(ProviderExists):
        await add(owner, store, "one")
    with pytest.raises(ProviderNotFound):
        await store.set_enabled(owner, name="two", enabled=True)
    with pytest.raises(ProviderNotFound):
        await store.delete(owner, name="two")


async def test_every_change_moves_the_mark(owner: Connection, store: Store) -> None:
    marks = [await store.mark(owner)]
    await add(owner, store, "one")
    marks.append(await store.mark(owner))
    await store.set_enabled(owner, name="one", enabled=False)
    marks.append(await store.mark(owner))
    await owner.execute("UPDATE llm_models SET is_active = false WHERE model_name = 'm1'")
    marks.append(await store.mark(owner))
    await owner.execute("DELETE FROM provider_configs")
    marks.append(await store.mark(owner))
    await store.delete(owner, name="one")
    marks.append(await store.mark(owner))
    assert len(set(marks[:-1])) == 5
    assert marks[-1] != marks[-2]


async def test_change_is_seen_within_a_second(
    db: Database, owner: Connection, keyring: Keyring, store: Store
) -> None:
    running = providers.build(db, load_settings({}), keyring=keyring)
    await running.start()
    try:
        assert "later" not in running.registry.providers
        await add(owner, store, "later")
        async with asyncio.timeout(1.5):
            while "later" not in running.registry.providers:  # noqa: ASYNC110 - it is polled
                await asyncio.sleep(0.01)
        await store.set_enabled(owner, name="later", enabled=False)
        async with asyncio.timeout(1.5):
            while "later" in running.registry.providers:  # noqa: ASYNC110 - it is polled
                await asyncio.sleep(0.01)
    finally:
        await running.stop()


async def test_mock_is_always_there_and_settings_name_the_rest(
    owner: Connection, store: Store
) -> None:
    settings = load_settings({"OPENAI_API_KEY": KEY, "OLLAMA_HOST": "127.0.0.1:11434"})
    async with owner.transaction():
        await register(owner, store, settings)
        await register(owner, store, settings)
    registry = await store.load(owner)
    assert set(registry.providers) == {"mock", "ollama", "openai"}
    assert registry.providers["mock"].models == set(MOCK_MODELS)
    assert registry.providers["openai"].base_url == "https://api.openai.com/v1"
    assert registry.providers["openai"].api_key == KEY
    assert registry.providers["ollama"].base_url == "http://127.0.0.1:11434"
    assert registry.providers["ollama"].api_key is None


async def registered(conn: Connection, store: Store, **environment: str) -> Any:
    async with conn.transaction():
        await register(conn, store, load_settings(environment))
    return (await store.load(conn)).providers


async def test_settings_that_go_take_their_provider_and_key_along(
    owner: Connection, store: Store
) -> None:
    await registered(owner, store, OPENAI_API_KEY=KEY)
    assert "openai" not in await registered(owner, store)
    assert await owner.fetchval("SELECT count(*) FROM provider_configs") == 0
    back = await registered(owner, store, OPENAI_API_KEY="sk-another-secret-key")
    assert back["openai"].api_key == "sk-another-secret-key"


async def test_settings_that_change_are_followed_and_disabled_stays_disabled(
    owner: Connection, store: Store
) -> None:
    await registered(owner, store, OPENAI_API_KEY=KEY)
    moved = await registered(
        owner, store, OPENAI_API_KEY="sk-new-secret-key-1", OPENAI_BASE_URL="http://127.0.0.1:9/v1"
    )
    assert moved["openai"].base_url == "http://127.0.0.1:9/v1"
    assert moved["openai"].api_key == "sk-new-secret-key-1"
    await store.set_enabled(owner, name="openai", enabled=False)
    assert "openai" not in await registered(owner, store, OPENAI_API_KEY=KEY)


async def test_provider_of_the_operator_is_left_alone(owner: Connection, store: Store) -> None:
    await add(owner, store, "openai")
    kept = await registered(owner, store, OPENAI_API_KEY="sk-from-the-environment")
    assert kept["openai"].api_key == KEY
    assert kept["openai"].base_url == "http://127.0.0.1:1/v1"
    assert "openai" in await registered(owner, store)


def test_address_that_cannot_be_called_stops_the_start(db: Database, keyring: Keyring) -> None:
    for environment in (
        {"OLLAMA_HOST": "ftp://x"},
        {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "x"},
    ):
        with pytest.raises(Misuse):
            providers.build(db, load_settings(environment), keyring=keyring)


async def test_models_of_a_new_provider_are_asked_for_in_the_background(
    db: Database, owner: Connection, keyring: Keyring
) -> None:
    fake = OpenAIUpstream()
    await fake.start()
    settings = load_settings({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": fake.url})
    running = providers.build(db, settings, keyring=keyring)
    await running.start()
    try:
        async with asyncio.timeout(5):
            while "gpt-4" not in running.registry.by_model:  # noqa: ASYNC110 - it is polled
                await asyncio.sleep(0.01)
        assert (await running.route("tiny")).provider.name == "openai"
        assert fake.seen[0].path == "/v1/models"
        assert fake.seen[0].headers["authorization"] == f"Bearer {KEY}"
    finally:
        await running.stop()
        await fake.stop()


async def test_a_provider_added_just_now_is_found_at_once(
    db: Database, owner: Connection, keyring: Keyring
) -> None:
    running = providers.build(db, load_settings({}), keyring=keyring)
    await running.start()
    try:
        with pytest.raises(ModelNotFound):
            await running.route("late/m")
        await owner.execute(
            "INSERT INTO llm_providers (name, provider_type, protocol, base_url)"
            " VALUES ('late', 'api_key', 'openai', 'http://127.0.0.1:1/v1')"
        )
        await owner.execute(
            "INSERT INTO llm_models (provider_id, model_name)"
            " SELECT id, 'm' FROM llm_providers WHERE name = 'late'"
        )
        async with asyncio.timeout(0.4):  # the follower looks every half second
            while True:
                with contextlib.suppress(ModelNotFound):
                    assert (await running.route("late/m")).provider.name == "late"
                    break
                await asyncio.sleep(0.01)
    finally:
        await running.stop()
