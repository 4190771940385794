"""What a call is made of: the request as it was read, and the two things recorded of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from helix.providers import Operation

__all__ = [
    "Admission",
    "CallRequest",
    "Decision",
    "HelixOptions",
    "Outcome",
    "Recorded",
    "Settlement",
    "Untranslatable",
    "Verdict",
]


class Outcome(StrEnum):
    """How an answer ended; the status of a row in llm_responses."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class Decision(StrEnum):
    """What the admitting statement says of a call. All but ADMITTED leave no request behind."""

    ADMITTED = "admitted"
    RATE_LIMITED = "rate_limited"
    BUDGET_EXCEEDED = "budget_exceeded"
    REPLAY = "replay"
    IN_PROGRESS = "in_progress"
    KEY_REUSED = "key_reused"
    REVOKED = "revoked"


class Verdict(NamedTuple):
    """A decision with its reason; field order is that of the statement's answer.

    `limit_name` says which limit refused, such as `key requests_per_minute` or
    `budget project month`; `limit` and `left` are in its unit (requests, tokens, calls or US
    dollars). `other_request_id` is the request that holds the Idempotency-Key: its answer is to be
    replayed (REPLAY), waited for (IN_PROGRESS), or was asked for with another body (KEY_REUSED).
    """

    decision: Decision
    limit_name: str | None = None
    limit: Decimal | None = None
    left: Decimal | None = None
    retry_after_s: float | None = None
    other_request_id: UUID | None = None

    @property
    def admitted(self) -> bool:
        """Whether the call may be made; its request is committed then."""
        return self.decision is Decision.ADMITTED


@dataclass(frozen=True, slots=True)
class HelixOptions:
    """What a caller asks of Helix itself: the field `helix` of a body, read once.

    `cache`: whether a kept answer will do; None leaves it to the key's policy. `sticky`: calls of
    the same word go to the same provider while it is well. Times are bounds of this one call, and
    only ever narrow those of the route. `session` is as it was sent, the id of a session or a word
    of the client's; `session_id` is the session it turned out to be. `context` is what a hook that
    assembles contexts is told, `memory` whether memories are wanted in it; None leaves that to it.
    `budget_usd`: a call that may cost more is not made. `ensemble`: have several models answer this
    call, as it says, whatever its model is (the handler of `ensemble/…` reads it).
    """

    project_id: UUID | None = None
    session_id: UUID | None = None
    session: str | None = None
    context: Any = field(default=None, repr=False)
    agent_id: str | None = None
    task_id: UUID | None = None
    memory: bool | None = None
    budget_usd: Decimal | None = None
    cache: bool | None = None
    sticky: str | None = None
    timeout_s: float | None = None
    first_token_timeout_s: float | None = None
    mock: Mapping[str, Any] | None = field(default=None, repr=False)
    ensemble: Mapping[str, Any] | None = field(default=None, repr=False)


class Untranslatable(NamedTuple):
    """Why only a provider that speaks the request's own format can take it; raise WrongField."""

    param: str
    reason: str


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A request that may be made, in any dialect. `text` is the body as it was sent.

    `fields` are the top-level fields to call a provider with, as raw JSON, in the format of
    `operation`: for most dialects those of chat completions. `own` are the fields as they were
    sent, for a provider that speaks the dialect itself. `params` are settings of the model, as
    JSON. `needs` is what the model must be able to do. `native_only` is set when nothing but
    `own` tells all that was asked. `previous` is the id of the answer this one goes on from.
    """

    text: str = field(repr=False)
    body_bytes: int
    fields: dict[str, Any] = field(repr=False)
    model: str
    stream: bool
    include_usage: bool
    params: str
    options: HelixOptions = field(default_factory=HelixOptions)
    operation: Operation = Operation.CHAT
    dialect: str = "chat"
    own: dict[str, Any] = field(default_factory=dict, repr=False)
    needs: frozenset[str] = frozenset()
    native_only: Untranslatable | None = None
    previous: str | None = None

    @property
    def project_id(self) -> UUID | None:
        """The project the call is for."""
        return self.options.project_id

    @property
    def session_id(self) -> UUID | None:
        """The session the call is part of."""
        return self.options.session_id

    @property
    def agent_id(self) -> str | None:
        """The caller's name for who calls."""
        return self.options.agent_id

    @property
    def mock(self) -> Mapping[str, Any] | None:
        """Options of the mock provider."""
        return self.options.mock


_NOTHING = Decimal(0)


class Admission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rows of llm_requests and llm_request_bodies.

    `reserve_usd` and `reserve_tokens` are the most that the call may cost and use: they are held
    in every budget and limit that fits until the request is settled. `body_sha256` goes with the
    `idempotency_key`, which is claimed for the user: the same key with another hash is refused.
    """

    id: UUID
    user_id: UUID
    api_key_id: UUID | None = None
    session_id: UUID | None = None
    project_id: UUID | None = None
    agent_id: str | None = None
    model_name: str
    stream: bool = False
    model_params: str
    idempotency_key: str | None = None
    client_request_id: str | None = None
    metadata: str
    created_at: datetime
    request_body: str
    body_bytes: int
    request_type: str = "chat"
    task_id: UUID | None = None
    parent_request_id: UUID | None = None
    reserve_usd: Decimal = _NOTHING
    reserve_tokens: int = 0
    body_sha256: bytes | None = None
    memory: str | None = None
    prompt_id: UUID | None = None
    ensemble_config: str | None = None

    def __repr__(self) -> str:
        """Name the row, not the texts in it."""
        return f"Admission({self.id})"


class Settlement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rows of llm_responses, llm_response_bodies and llm_token_usage, and the request's end.

    A spool keeps rows as lists in the order of the fields (spool.py): new ones go to the end.
    `usage_id` is None where no tokens were used. Not `final`: an attempt or candidate, charged at
    once, after which the request stays open; `attempt` numbers them from 1. `selected` marks the
    one answer that the client got. `chosen`: the answer `id` is on record already, is made the
    selected one, and ends the request (Recorder.choose).
    """

    request_id: UUID
    request_status: str = "completed"
    completed_at: datetime
    id: UUID
    user_id: UUID | None = None
    provider_id: UUID | None = None
    provider_name: str
    model_name: str
    upstream_id: str | None = None
    status: str = "completed"
    error_code: str | None = None
    error: str | None = None
    http_status: int | None = None
    tokens_prompt: int = 0
    tokens_completion: int = 0
    tokens_cached: int = 0
    tokens_reasoning: int = 0
    usage_estimated: bool = False
    latency_ms: int
    first_token_ms: int | None = None
    chunk_count: int | None = None
    finish_reason: str | None = None
    cost_usd: Decimal = _NOTHING
    pricing_id: UUID | None = None
    content: str | None = None
    raw_response: str | None = None
    usage_id: UUID | None = None
    api_key_id: UUID | None = None
    project_id: UUID | None = None
    agent_id: str | None = None
    attempt: int = 1
    selected: bool = True
    cached: bool = False
    confidence: Decimal | None = None
    final: bool = True
    chosen: bool = False
    gap_p50_ms: int | None = None
    gap_p95_ms: int | None = None
    gap_max_ms: int | None = None

    def __repr__(self) -> str:
        """Name the row, not the texts in it."""
        return f"Settlement({self.id} of {self.request_id})"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request that has ended and the answer it got, as they are recorded."""

    request_id: UUID
    status: str
    response_id: UUID | None
    provider_id: UUID | None
    provider_name: str
    model_name: str
    upstream_id: str | None
    finish_reason: str | None
    error_code: str | None
    error: str | None
    http_status: int | None
    tokens_prompt: int
    tokens_completion: int
    tokens_cached: int
    tokens_reasoning: int
    usage_estimated: bool
    cost_usd: Decimal
    latency_ms: int
    cached: bool
    content: str | None = field(repr=False)
    raw_response: bytes | None = field(repr=False)
