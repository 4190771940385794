"""What upper floors build on: calls made inside Helix, virtual models, and hooks around a call.

A virtual model (`ensemble/fast`, `debate/panel`) is called like any other, in every API, whole or
as a stream; behind it stands a handler that asks other models and says what the answer is. Upper
floors register theirs with `Gateway.add_virtual(prefix, handler)`; app.py does so.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from helix.accounts import Principal

__all__ = [
    "Asked",
    "CallOptions",
    "Candidates",
    "Completion",
    "VirtualCall",
    "VirtualModel",
]


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What belongs to a call beside its fields. Ids name rows of the caller's own.

    `idempotency_key` is the caller's, 1 to 255 printable characters: used again with the same
    fields, also after a crash, the recorded answer is returned and no provider is called.
    `metadata` is JSON kept in llm_requests.metadata. `timeout_s` bounds the whole call; None
    leaves it to the setting total_timeout_s. `private`: numbers and cost are recorded, the texts of
    the call are not, so that forgetting them elsewhere leaves none here; not with an idempotency
    key, whose answer is given again, nor for virtual models, whose candidates are recorded.
    """

    project_id: UUID | None = None
    session_id: UUID | None = None
    agent_id: str | None = None
    task_id: UUID | None = None
    parent_request_id: UUID | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float | None = None
    private: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """A recorded answer: it is committed, with its cost, before anyone sees it.

    `message` is the first choice's message in OpenAI's chat format, `text` its content ("" when
    it has none, as with tool calls only). `provider_id` is None for what no provider answered.
    `cost_usd` is exact; 0 when it came out of the cache. `latency_ms` is the provider's time.
    """

    request_id: UUID
    response_id: UUID
    message: dict[str, Any] = field(repr=False)
    text: str = field(repr=False)
    finish_reason: str | None
    tokens_prompt: int
    tokens_completion: int
    cost_usd: Decimal
    provider_id: UUID | None
    provider_name: str
    model_name: str
    latency_ms: int
    cached: bool = False


Candidates = Callable[[str, Mapping[str, Any], int], Awaitable[Completion]]
"""How a VirtualCall makes a call: model, fields, attempt."""


@dataclass(slots=True, eq=False)
class VirtualCall:
    """A call of a virtual model under way; its request row is admitted and committed.

    `name` is what follows the prefix: "fast" of "ensemble/fast". `fields` are those of the chat
    request as JSON values, without `model`, `stream`, `stream_options` and `helix`. `timeout_s` is
    what is left of the call's time when it began. What `VirtualModel.asks` told is kept in
    llm_requests.ensemble_config.

    The handler yields chunks of the answer and ends; by then it must have said, exactly once,
    which answer it is: `choose` (one of its candidates) or `answered` (a new one). A handler that
    ends without either, or raises, fails the call; candidates stay recorded and charged.
    """

    principal: Principal
    request_id: UUID
    name: str
    fields: Mapping[str, Any] = field(repr=False)
    options: CallOptions
    timeout_s: float
    make: Candidates = field(repr=False)
    chosen: UUID | None = None
    confidence: float | None = None
    answer_text: str | None = field(default=None, repr=False)
    answer_message: Mapping[str, Any] | None = field(default=None, repr=False)
    finish_reason: str = "stop"

    async def candidate(
        self, model: str, fields: Mapping[str, Any], *, attempt: int = 1
    ) -> Completion:
        """Ask one model, whole; on return the answer is a row of this request, not selected.

        `model` is any name a client may use but that of a virtual model; `fields` are those of a
        chat request, `messages` at least. Retries and fallbacks of the model's route apply; each
        failed try is a row too. Calls may run side by side. Raises HelixError; then nothing but
        failed rows of it exist. `attempt` is from 1 and tells candidates apart.
        """
        return await self.make(model, fields, attempt)

    def choose(self, response_id: UUID, *, confidence: float | None = None) -> None:
        """Say that a candidate's row is the answer; `confidence` is 0 to 1.

        Raises ValueError when the answer was said before.
        """
        self._once()
        self.chosen, self.confidence = response_id, confidence

    def answered(
        self,
        text: str,
        *,
        message: Mapping[str, Any] | None = None,
        confidence: float | None = None,
        finish_reason: str = "stop",
    ) -> None:
        """Say that the answer is a new one: it becomes a row of its own, selected, at no cost.

        Candidates have been charged; the new row adds nothing. `message` stands in for `text`
        where the answer is more than a text. Raises ValueError when the answer was said before.
        """
        self._once()
        self.answer_text, self.answer_message = text, message
        self.confidence, self.finish_reason = confidence, finish_reason

    @property
    def decided(self) -> bool:
        """Whether `choose` or `answered` was called."""
        return self.chosen is not None or self.answer_text is not None

    def _once(self) -> None:
        if self.decided:
            raise ValueError("the answer of this call is said already")


@dataclass(frozen=True, slots=True)
class Asked:
    """One call that a virtual model may make, as far as its price depends on it.

    `hears`: answers of so many others stand in its prompt besides the caller's messages.
    `max_tokens` of its answer, where the handler sets it; None leaves it to the caller's.
    """

    model: str
    hears: int = 0
    max_tokens: int | None = None


class VirtualModel(Protocol):
    """A handler of models under one prefix."""

    async def names(self, principal: Principal) -> Sequence[str]:
        """Return the whole names, prefix too, that this caller may use: for GET /v1/models."""
        ...

    async def asks(
        self, principal: Principal, name: str, fields: Mapping[str, Any]
    ) -> Sequence[Asked]:
        """Return whom a call of `name` may ask, one entry per upstream call at most.

        The sum of what these may cost is reserved from the caller's budgets before anything is
        asked. Raises ModelNotFound when there is no `name` for this caller.
        """
        ...

    def answer(self, call: VirtualCall) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of the final answer, in OpenAI's chat.completion.chunk format.

        Of a chunk only `choices` is needed: `[{"index": 0, "delta": {"content": "…"}}]`. A stream
        may begin before the winner is known. The gateway adds ids, usage, finish_reason and the
        end, and renders whole or stream in whichever API the client called.
        """
        ...
