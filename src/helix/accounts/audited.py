"""What accounts write into the audit of sensitive operations."""

from helix.accounts.types import ApiKey
from helix.core import audit
from helix.core.audit import Actor
from helix.core.db import Connection

__all__ = ["record_key"]


async def record_key(conn: Connection, operation: str, actor: Actor, key: ApiKey) -> None:
    """Record what was done to a key: its id, whose it is and what it may do; nothing of it."""
    await audit.record(
        conn,
        operation,
        actor=actor,
        subject="api_key",
        subject_id=key.id,
        details={
            "user_id": str(key.user_id),
            "scopes": sorted(scope.value for scope in key.scopes),
            "rate_limit": key.rate_limit,
            "expires_at": None if key.expires_at is None else key.expires_at.isoformat(),
        },
    )
