"""What the tests of the schema share: acting as a role, and being refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from helix.core.db import Connection

ROLES = ("helix_app", "helix_operator", "helix_readonly", "helix_recorder")


@asynccontextmanager
async def acting_as(
    conn: Connection, role: str, *, tenant: UUID | None = None
) -> AsyncIterator[None]:
    """Act as a role, and as `helix_app` for a tenant, inside a transaction; then as before."""
    await conn.execute(f"SET LOCAL ROLE {role}")
    await conn.execute("SELECT set_config('helix.tenant', $1, true)", str(tenant or ""))
    try:
        yield
    finally:
        if not conn.is_closed():
            await conn.execute("RESET ROLE")
            await conn.execute("SELECT set_config('helix.tenant', '', true)")


@asynccontextmanager
async def refused(
    conn: Connection,
    error: type[BaseException],
    *,
    constraint: str | None = None,
    match: str | None = None,
) -> AsyncIterator[None]:
    """Expect the block to be refused, by this constraint; what it did is undone."""
    with pytest.raises(error, match=match) as caught:
        async with conn.transaction():
            yield
    if constraint is not None:
        found: Any = caught.value
        assert found.constraint_name == constraint
