"""A gateway in front of a provider that can do all that the scenarios ask for."""

import warnings
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from helix.accounts.types import UserRole
from helix.core.config import load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database
from helix.providers.store import Store as ProviderStore
from helix.providers.types import Wire
from tests.compat.upstream import ANTHROPIC_MODEL, MODELS, Upstream
from tests.compat.world import World
from tests.gateway.conftest import make_key, make_user, running, serving


@pytest.fixture
async def world(db: Database, owner: Connection) -> AsyncIterator[World]:
    """A gateway with the providers `up` (OpenAI's wire), `claude` (Anthropic's), and `mock`."""
    warnings.simplefilter("error")
    upstream = Upstream()
    await upstream.start()
    settings = load_settings({}, body_bytes_max=300_000, drain_timeout_s=2)
    keyring = Keyring([new_key()])
    async with owner.transaction():
        user_id = await make_user(owner, UserRole.ADMIN)
        made = await make_key(owner, user_id)
        store = ProviderStore(keyring)
        for name, wire, url, models in (
            ("up", Wire.OPENAI, upstream.url, MODELS),
            ("claude", Wire.ANTHROPIC, upstream.root, [ANTHROPIC_MODEL]),
        ):
            await store.insert(
                owner,
                provider_id=uuid4(),
                name=name,
                wire=wire,
                base_url=url,
                api_key="sk-upstream-secret-123456",
                models=models,
            )
    async with (
        running(db, settings, keyring) as (_, __, door),
        serving(door) as (___, port),
    ):
        yield World(port=port, key=made.key, user_id=user_id, upstream=upstream, owner=owner)
    await upstream.stop()
