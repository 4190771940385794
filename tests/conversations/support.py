"""What the tests of conversations share: events made by hand, and recorded calls."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from helix.conversations.domain import Conversations, build
from helix.conversations.types import Event, MessageAdded, MessageRole, Payload
from helix.core.clock import SystemClock
from helix.core.config import Settings
from helix.core.db import Connection, Database
from helix.core.ids import IdSource, uuid7_beside

START = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
TALK = UUID("01980000-0000-7000-8000-000000000001")
IDS, CLOCK = IdSource(), SystemClock()


def numbered(*payloads: tuple[Payload, str | None, int]) -> list[Event]:
    """Return events of one conversation, one a second."""
    return [
        Event(TALK, number, START + timedelta(seconds=number), payload, message_id, tokens)
        for number, (payload, message_id, tokens) in enumerate(payloads, 1)
    ]


def said(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def added(role: str, text: str) -> MessageAdded:
    return MessageAdded(MessageRole(role), {"content": text})


def domain(db: Database, **settings: Any) -> Conversations:
    return build(db, Settings(**settings))


_counter = itertools.count()


async def recorded_call(
    owner: Connection,
    user_id: UUID,
    messages: list[dict[str, Any]],
    answer: dict[str, Any] | str | None = "sure",
    *,
    request_id: UUID | None = None,
    status: str = "completed",
) -> UUID:
    """Insert a call as the gateway leaves it, with its answer; returns its id."""
    made = request_id or IDS.next(CLOCK.now())
    failed = status != "completed"
    await owner.execute(
        "INSERT INTO llm_requests (id, user_id, model_name, status, completed_at)"
        " VALUES ($1, $2, 'mock/echo', $3, now() - interval '1 minute')",
        made, user_id, "failed" if failed else "completed",
    )  # fmt: skip
    body = msgspec.json.encode({"model": "mock/echo", "messages": messages}).decode()
    await owner.execute(
        "INSERT INTO llm_request_bodies (request_id, user_id, request_body, body_bytes)"
        " VALUES ($1, $2, $3, $4)", made, user_id, body, len(body),
    )  # fmt: skip
    response = uuid7_beside(made)
    await owner.execute(
        "INSERT INTO llm_responses (id, request_id, user_id, provider_name, model_name, status,"
        " latency_ms) VALUES ($1, $2, $3, 'mock', 'echo', $4, 1)", response, made, user_id, status,
    )  # fmt: skip
    if answer is not None:
        message = said("assistant", answer) if isinstance(answer, str) else answer
        raw = msgspec.json.encode({"choices": [{"index": 0, "message": message}]}).decode()
        await owner.execute(
            "INSERT INTO llm_response_bodies (response_id, request_id, user_id, content,"
            " raw_response) VALUES ($1, $2, $3, $4, $5)",
            response, made, user_id, message.get("content"), raw,
        )  # fmt: skip
    return made


def fresh_name() -> str:
    return f"talk-{next(_counter)}-{uuid4().hex[:6]}"
