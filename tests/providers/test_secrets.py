"""A stored key goes to the host it was stored for, and nowhere else (experiment N2)."""

from uuid import uuid4

import msgspec
import pytest

from helix import providers
from helix.core.config import load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database
from helix.providers import Call, ProviderUnusable
from helix.providers.store import Store
from helix.providers.types import Wire
from tests.fakes.openai_upstream import OpenAIUpstream

CANARY = "sk-canary-of-a-provider"
BODY = {"model": "gpt-4", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([new_key()])


@pytest.fixture
async def store(keyring: Keyring, owner: Connection) -> Store:
    store = Store(keyring)
    await store.insert(
        owner,
        provider_id=uuid4(),
        name="here",
        wire=Wire.OPENAI,
        base_url="http://127.0.0.1:1/v1",
        api_key=CANARY,
        models=["gpt-4"],
    )
    return store


async def reached(db: Database, keyring: Keyring, upstream: OpenAIUpstream) -> str | None:
    """Call the provider through everything; return what the attacker saw of a key, or why not."""
    running = providers.build(db, load_settings({}, probe_interval_s=0), keyring=keyring)
    async with running.opened():
        try:
            plan = await running.plan("here/gpt-4")
        except ProviderUnusable as exc:
            return "told" if CANARY in exc.message else None
        body = {**BODY, "api_base": upstream.url, "base_url": upstream.url}
        call = Call(plan.targets[0], msgspec.json.encode(body), False, "r")
        reply = await running.open(call)
        reply.close()
    return upstream.seen[-1].headers.get("authorization")


async def test_key_is_gone_when_the_base_url_leads_to_another_host(
    db: Database, owner: Connection, keyring: Keyring, store: Store
) -> None:
    upstream = OpenAIUpstream()
    await upstream.start()
    try:
        shown = await store.change(owner, name="here", change={"base_url": upstream.url})
        assert (shown["key"], shown["key_needed"]) == ("needed", True)
        assert await owner.fetchval("SELECT count(*) FROM provider_configs") == 0
        assert await reached(db, keyring, upstream) is None
        assert upstream.seen == []
        await store.set_key(owner, name="here", api_key="sk-entered-again")
        assert await reached(db, keyring, upstream) == "Bearer sk-entered-again"
    finally:
        await upstream.stop()


async def test_key_does_not_open_for_an_address_written_past_helix(
    db: Database, owner: Connection, keyring: Keyring, store: Store
) -> None:
    upstream = OpenAIUpstream()
    await upstream.start()
    try:
        await owner.execute("UPDATE llm_providers SET base_url = $1", upstream.url)
        assert await reached(db, keyring, upstream) is None
        assert upstream.seen == []
    finally:
        await upstream.stop()


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://127.0.0.1:1/other/path", True),
        ("https://127.0.0.1:1/v1", False),
        ("http://127.0.0.1:2/v1", False),
        ("http://127.0.0.1.:1/v1", True),
        ("http://localhost:1/v1", False),
    ],
)
async def test_key_is_bound_to_scheme_host_and_port(
    owner: Connection, store: Store, url: str, kept: bool
) -> None:
    await store.change(owner, name="here", change={"base_url": url})
    registry = await store.load(owner)
    assert (registry.providers["here"].api_key == CANARY) is kept
    assert (registry.providers["here"].problem is None) is kept


async def test_provider_made_public_is_not_called_at_a_private_address(
    db: Database, owner: Connection, keyring: Keyring, store: Store
) -> None:
    upstream = OpenAIUpstream()
    await upstream.start()
    try:
        change = {"base_url": upstream.url, "private": False}
        await store.change(owner, name="here", change=change)
        await store.set_key(owner, name="here", api_key=CANARY)
        running = providers.build(db, load_settings({}, probe_interval_s=0), keyring=keyring)
        async with running.opened():
            probe = await running.probe_now("here")
        assert not probe.healthy
        assert upstream.seen == []
    finally:
        await upstream.stop()
