"""Where upper floors take part in a call: before it is recorded, and after it is settled."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from helix.accounts import Principal

__all__ = ["AfterHook", "AfterWanted", "BeforeHook", "Injected", "SettledCall"]


@dataclass(frozen=True, slots=True)
class Injected:
    """What a before-hook changes of a call.

    `messages` stand in for those of the request, in OpenAI's chat format; None leaves them.
    `memory` is JSON that says what was added and from where (ids and scores): it is recorded in
    llm_requests.memory and marks the request memory_enhanced; None when nothing was added.
    `prompt_id` is the prompt version used, recorded with the request. `session_id` is the session
    that `helix.session` means; without a hook that says so it must be the id of one. The text as
    the client sent it stays the recorded body; what went to the provider is told by these.
    """

    messages: list[dict[str, Any]] | None = field(default=None, repr=False)
    memory: Mapping[str, Any] | None = None
    prompt_id: UUID | None = None
    session_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class SettledCall:
    """A call whose end is committed. `status` is the request's: completed or failed.

    `messages` are those the client sent, as raw JSON; `answer` the message it got (None when it
    got none, as for a failure before any content); `helix` the options it sent along as JSON
    values. `response_id` is the selected answer's, None when there is none.
    """

    request_id: UUID
    response_id: UUID | None
    principal: Principal
    status: str
    model_name: str
    provider_name: str
    messages: bytes = field(repr=False)
    answer: Mapping[str, Any] | None = field(repr=False)
    text: str = field(repr=False)
    helix: Mapping[str, Any] = field(repr=False)
    session_id: UUID | None
    project_id: UUID | None
    agent_id: str | None
    memory: Mapping[str, Any] | None
    tokens_prompt: int
    tokens_completion: int
    cost_usd: Decimal
    cached: bool


BeforeHook = Callable[[Any, Principal, UUID], Awaitable[Injected | None]]
"""Given the CallRequest, who calls and the request's id; called before the request is recorded.

It must be quick: the client waits. It raises a HelixError to refuse the call. None: no change.
Not called for embeddings and moderations, nor for calls that Helix itself makes (Caller.ask).
"""

AfterWanted = Callable[[Any, Injected | None], bool]
"""Given the CallRequest and what hooks added to it: whether an AfterHook is called. Quick, no I/O.

Telling a call costs reading its answer once more: hooks that care for few calls say for which.
"""

AfterHook = Callable[[SettledCall], Awaitable[None]]
"""Called once the end of a call is committed, beside the client's last byte, not before it.

It is called at most once by the process that settled the call: a process that dies in between
does not call it. What must not be missed is written under the request's id by a job as well, which
finds what is missing from llm_requests and llm_responses: so do conversations, whose turn is
recorded exactly once by whoever comes first. What it raises is logged and goes no further.
"""
