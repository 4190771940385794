"""Sensitive operations, written down in the transaction that does them (S113).

Every domain records its own with `record`; `helix audit` lists, seals and verifies them
(helix.operations.audit). Details hold names, numbers and states; never a secret, text or address of
a person.
"""

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from helix.core.db import Connection, Queries

__all__ = ["SYSTEM", "Actor", "by_command", "record", "stranger"]

Outcome = Literal["done", "refused", "failed"]
_QUERIES = Queries("helix.core", "audit.sql")
_ORIGIN_CHARS_MAX = 255
_NAME_CHARS_MAX = 255


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, with which key, and from where."""

    kind: Literal["user", "command", "system", "unknown"]
    user_id: UUID | None = None
    api_key_id: UUID | None = None
    origin: str | None = None


SYSTEM = Actor("system")
"""Helix itself: schedules, retention."""


def by_command() -> Actor:
    """Return the person at a command line: login name and machine."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        name = str(os.getuid())
    return Actor("command", origin=f"{name}@{socket.gethostname()}")


def stranger(origin: str | None) -> Actor:
    """Return somebody who has not said who they are, from an address."""
    return Actor("unknown", origin=origin)


async def record(
    conn: Connection,
    operation: str,
    *,
    actor: Actor,
    subject: str | None = None,
    subject_id: UUID | None = None,
    subject_name: str | None = None,
    details: Mapping[str, Any] | None = None,
    outcome: Outcome = "done",
) -> None:
    """Write one row of audit_log; needs a connection as helix_operator or the owner.

    `operation` is a noun and a past tense, such as `api_key.revoked`.
    """
    await _QUERIES.run(
        conn,
        "record",
        operation=operation,
        outcome=outcome,
        actor_kind=actor.kind,
        actor_id=actor.user_id,
        actor_key_id=actor.api_key_id,
        origin=None if actor.origin is None else actor.origin[:_ORIGIN_CHARS_MAX],
        subject_type=subject,
        subject_id=subject_id,
        subject_name=None if subject_name is None else subject_name[:_NAME_CHARS_MAX],
        details=None if details is None else dict(details),
    )
