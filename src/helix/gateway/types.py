"""What a call is made of: the request as it was read, and the two things recorded of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

__all__ = ["Admission", "ChatRequest", "Outcome", "Settlement"]


class Outcome(StrEnum):
    """How an answer ended; the status of a row in llm_responses."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat request that may be made. `text` is the body as it was sent.

    `fields` are its top-level fields as raw JSON; `params` the settings of the model as JSON.
    """

    text: str = field(repr=False)
    body_bytes: int
    fields: dict[str, Any] = field(repr=False)
    model: str
    stream: bool
    include_usage: bool
    params: str
    project_id: UUID | None = None
    session_id: UUID | None = None
    agent_id: str | None = None
    mock: Mapping[str, Any] | None = None


class Admission(NamedTuple):
    """The rows of llm_requests and llm_request_bodies; field order is that of the statement."""

    id: UUID
    user_id: UUID
    api_key_id: UUID | None
    session_id: UUID | None
    project_id: UUID | None
    agent_id: str | None
    model_name: str
    stream: bool
    model_params: str
    idempotency_key: str | None
    client_request_id: str | None
    metadata: str
    created_at: datetime
    request_body: str
    body_bytes: int


class Settlement(NamedTuple):
    """The rows of llm_responses, llm_response_bodies and llm_token_usage, and the request's end.

    Field order is that of the statement. `usage_id` is None where no tokens were used.
    """

    request_id: UUID
    request_status: str
    completed_at: datetime
    id: UUID
    user_id: UUID | None
    provider_id: UUID | None
    provider_name: str
    model_name: str
    upstream_id: str | None
    status: str
    error_code: str | None
    error: str | None
    http_status: int | None
    tokens_prompt: int
    tokens_completion: int
    tokens_cached: int
    tokens_reasoning: int
    usage_estimated: bool
    latency_ms: int
    first_token_ms: int | None
    chunk_count: int | None
    finish_reason: str | None
    cost_usd: Decimal
    pricing_id: UUID | None
    content: str | None
    raw_response: str | None
    usage_id: UUID | None
    api_key_id: UUID | None
    project_id: UUID | None
    agent_id: str | None
