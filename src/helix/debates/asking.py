"""Asking a model inside a debate: under one key, with substitutes, and what an error means.

The key names the turn and the model's place among those that may take it. The gateway returns the
recorded answer for a key it has seen, also after a crash, so a turn that was paid for but not
recorded here is not paid for again.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

import msgspec

from helix.accounts import Principal
from helix.core.errors import (
    BadInput,
    Conflict,
    Forbidden,
    HelixError,
    NotFound,
    TooMany,
    Unauthenticated,
    Upstream,
)
from helix.debates.plan import Kind, Turn
from helix.debates.policy import MAX_TOKENS_FIELDS
from helix.debates.types import Debate
from helix.gateway import CallOptions, Completion

__all__ = [
    "Answered",
    "Ask",
    "Meaning",
    "OnBehalf",
    "Price",
    "Unanswered",
    "meaning_of",
    "most_usd",
]

EPOCHS_MAX = 3
_MESSAGE_TOKENS = 16
_NO_PROVIDER = frozenset({"provider_unusable", "no_provider_healthy"})
_INTERRUPTED = frozenset({"call_interrupted", "call_failed"})
"""What the record tells of a call whose gateway ended before it: nobody knows what came of it."""
_ASKED_OTHERWISE = "idempotency_key_reused"
"""The turn was asked in other words before: by an earlier release whose answer was never committed
here. It is asked again, once for this release's words."""


class Ask(Protocol):
    """The gateway's way in for callers inside Helix; see helix.gateway."""

    async def __call__(
        self, principal: Principal, fields: dict[str, Any], *, options: CallOptions
    ) -> Completion:
        """Make one call, with everything a call from outside goes through. Raises HelixError."""
        ...


OnBehalf = Callable[[UUID], Awaitable[Principal]]
"""Who a task works for; raises Forbidden when that user may not be worked for any more."""
Price = Callable[[str, int, int], Awaitable[Decimal]]
"""The most that a call may cost: model, prompt tokens, output tokens; exact dollars."""


class Meaning(StrEnum):
    """What an error of a call means for a turn."""

    SUBSTITUTE = "substitute"
    LATER = "later"
    BUDGET = "budget"
    REFUSED = "refused"


def meaning_of(error: HelixError) -> Meaning:
    """Say what an error means: the model's fault, a passing state of ours, or the caller's limits.

    What a model or its provider did wrong is a case for a substitute. A limit of rate, a database
    that is away and a call still under way elsewhere pass: the debate waits. A budget ends it, a
    user who may not call any more fails it.
    """
    if error.code == "budget_exceeded":
        return Meaning.BUDGET
    if isinstance(error, Upstream) or error.code in _NO_PROVIDER or error.param == "model":
        return Meaning.SUBSTITUTE
    if isinstance(error, Unauthenticated | Forbidden):
        return Meaning.REFUSED
    if isinstance(error, TooMany | Conflict):
        return Meaning.LATER
    if isinstance(error, NotFound | BadInput):
        return Meaning.SUBSTITUTE
    return Meaning.LATER


@dataclass(frozen=True, slots=True)
class Answered:
    """A turn was taken by the model at `place` (0: its own); `failed` are those before it."""

    completion: Completion
    place: int
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No model gave an answer; each with the code of its error."""

    failed: tuple[tuple[str, str], ...]


async def take(
    ask: Ask, principal: Principal, debate: Debate, turn: Turn, *, timeout_s: float
) -> Answered | Unanswered:
    """Have a turn taken by the first of its models that answers.

    Raises the error of a call whose meaning is not SUBSTITUTE.
    """
    failed: list[tuple[str, str]] = []
    for place, model in enumerate(turn.models):
        try:
            completion = await ask_one(
                ask,
                principal,
                debate,
                turn,
                model=model,
                messages=turn.messages,
                key=f"{turn.key}:{place}",
                timeout_s=timeout_s,
            )
        except HelixError as exc:
            if meaning_of(exc) is not Meaning.SUBSTITUTE:
                raise
            failed.append((model, exc.code))
            continue
        if completion.text.strip():
            return Answered(completion, place, tuple(failed))
        failed.append((model, "empty_answer"))
    return Unanswered(tuple(failed))


async def ask_one(
    ask: Ask,
    principal: Principal,
    debate: Debate,
    turn: Turn,
    *,
    model: str,
    messages: list[dict[str, str]],
    key: str,
    timeout_s: float,
) -> Completion:
    """Ask one model once; a call that died with its gateway is made anew under another key.

    Raises the error of the call.
    """
    fields = {"model": model, "messages": messages, **turn.fields}
    if turn.line is not None and model.startswith("mock/"):
        own = turn.fields.get("helix", {})
        fields["helix"] = {**own, "mock": {**own.get("mock", {}), "content": turn.line}}
    spec = debate.spec
    epoch = 0
    while True:
        options = CallOptions(
            project_id=spec.project_id,
            session_id=spec.session_id,
            task_id=debate.task_id,
            parent_request_id=debate.request_id,
            idempotency_key=f"debate:{debate.id}:{key}" + (f":{epoch}" if epoch else ""),
            metadata={
                "debate_id": str(debate.id),
                "round": turn.round,
                "kind": turn.kind.value,
                "participant": turn.participant,
            },
            timeout_s=timeout_s,
        )
        try:
            return await ask(principal, fields, options=options)
        except HelixError as exc:
            epoch += 1
            known = exc.code in _INTERRUPTED or exc.code == _ASKED_OTHERWISE
            if not known or epoch >= EPOCHS_MAX:
                raise


async def most_usd(price: Price, turn: Turn) -> Decimal:
    """Return the most that a turn can cost: its dearest model, and a ballot's second try.

    A token has at least one byte, so the prompt has at most as many tokens as bytes.
    """
    prompt = sum(_MESSAGE_TOKENS + len(m["content"].encode()) for m in turn.messages)
    output = max((turn.fields[name] for name in MAX_TOKENS_FIELDS & turn.fields.keys()), default=0)
    if turn.kind is Kind.VOTE:
        again = prompt + 5 * output + len(msgspec.json.encode(turn.messages))
        prompt, output = prompt + again, 2 * output
    found = [await price(model, prompt, output) for model in turn.models]
    return max(found, default=Decimal(0))
