"""What a scenario talks to, and how it looks at what was recorded."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from helix.core.db import Connection
from tests.compat.upstream import Upstream
from tests.gateway.conftest import make_key

__all__ = ["Scenario", "World", "run_all"]

WAIT_S = 20.0


@dataclass
class World:
    """A running gateway, a key for it, its provider and its database."""

    port: int
    key: str
    user_id: UUID
    upstream: Upstream
    owner: Connection

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def another_key(self, **options: Any) -> str:
        """Return another key of the same user."""
        async with self.owner.transaction():
            return (await make_key(self.owner, self.user_id, **options)).key

    async def record(self, request_id: str) -> Any:
        """Return the recorded call, as soon as it has ended."""
        async with asyncio.timeout(WAIT_S):
            while True:
                row = await self.owner.fetchrow(
                    "SELECT * FROM llm_calls WHERE request_id = $1", UUID(request_id)
                )
                if row is not None and row["status"] is not None:
                    return row
                await asyncio.sleep(0.01)

    def calls_of(self, model: str) -> list[dict[str, Any]]:
        """Return what the provider was asked for under a model's name."""
        return [one for one in self.upstream.seen if one["model"] == model]


Scenario = Callable[[World], Awaitable[None]]


async def run_all(world: World, scenarios: Mapping[str, Scenario]) -> dict[str, str]:
    """Run every scenario; return what went wrong, by name."""
    failed = {}
    for name, scenario in scenarios.items():
        try:
            async with asyncio.timeout(WAIT_S):
                await scenario(world)
        except Exception:  # noqa: BLE001 - all are run, and every failure is shown
            failed[name] = traceback.format_exc()
    return failed
