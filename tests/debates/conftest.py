"""A whole Helix without a port: the application of app.py, on a private database."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2 as httpx
import msgspec
import pytest

from helix.accounts import Scope, bootstrap_admin
from helix.app import App, build, started
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database
from tests.gateway.conftest import gateway_db, make_key, make_user, options, stack, upstream

__all__ = ["gateway_db", "options", "stack", "upstream"]  # fixtures of a gateway on a real port


@dataclass
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Helix:
    """A running application and people who may call it."""

    app: App
    db: Database
    owner: Connection
    user_id: UUID
    keys: dict[str, str]

    async def call(
        self, method: str, path: str, body: Any = None, *, who: str = "me", **headers: str
    ) -> Answer:
        transport = httpx.ASGITransport(app=self.app)
        given = {"authorization": f"Bearer {self.keys[who]}"} if who in self.keys else {}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://helix", timeout=60
        ) as client:
            answer = await client.request(
                method,
                path,
                headers={**given, **headers},
                content=None if body is None else msgspec.json.encode(body),
            )
        return Answer(answer.status_code, dict(answer.headers), answer.content)


@pytest.fixture
def code_root(tmp_path: Path) -> Path:
    """The directory below which debates may read repositories."""
    return tmp_path / "code"


@pytest.fixture
async def helix(
    db: Database, owner: Connection, tmp_path: Path, code_root: Path
) -> AsyncIterator[Helix]:
    settings = load_settings(
        {"HELIX_DEBATE_CODE_ROOTS": str(code_root), "HELIX_LOG_LEVEL": "error"},
        home=tmp_path / "home",
    )
    await bootstrap_admin(db)
    async with owner.transaction():
        mine, theirs = await make_user(owner), await make_user(owner)
        keys = {
            "me": (await make_key(owner, mine)).key,
            "other": (await make_key(owner, theirs)).key,
            "no scope": (await make_key(owner, mine, scopes=frozenset({Scope.COMPLETIONS}))).key,
        }
    app = build(settings, db, Keyring([new_key()]), SystemClock())
    async with started(app):
        yield Helix(app, db, owner, mine, keys)
