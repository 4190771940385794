"""What providers write into the audit of sensitive operations."""

from helix.core import audit
from helix.core.audit import Actor
from helix.core.db import Connection

__all__ = ["record_change"]


async def record_change(
    conn: Connection, operation: str, actor: Actor, name: str, **details: object
) -> None:
    """Record what was done to a provider: its name and which fields; never a key."""
    await audit.record(
        conn,
        operation,
        actor=actor,
        subject="provider",
        subject_name=name,
        details=details or None,
    )
