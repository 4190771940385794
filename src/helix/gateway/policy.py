"""Pure decisions of the gateway: reading answers and refusals of providers, counting tokens."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, auto
from typing import Any

import msgspec

from helix.accounts import Principal
from helix.core.errors import HelixError
from helix.core.log import redact
from helix.gateway.errors import (
    UpstreamAnswered,
    UpstreamBusy,
    UpstreamCredential,
    UpstreamCut,
    UpstreamEmpty,
    UpstreamFailed,
    UpstreamModelMissing,
    UpstreamOverloaded,
    UpstreamRejected,
    UpstreamSlow,
)
from helix.gateway.types import CallRequest
from helix.ledger import TOKENS_MAX, Usage
from helix.providers import (
    FailureKind,
    Operation,
    Plan,
    UpstreamBroken,
    estimate_tokens,
    failure_of_error,
    failure_of_status,
    retry_after_s,
)

__all__ = [
    "Again",
    "Answer",
    "answer_of",
    "backoff_s",
    "estimate_prompt",
    "failure_kind",
    "is_refusal",
    "may_call",
    "may_try_again",
    "one_line",
    "read_answer",
    "read_usage",
    "refusal_of",
    "storable",
    "tokens_out_max",
]

_MESSAGE_CHARS_MAX = 1_000
_WORD_CHARS_MAX = 100
_BY_STATUS: dict[int, type[UpstreamAnswered]] = {
    401: UpstreamCredential,
    402: UpstreamCredential,
    403: UpstreamCredential,
    404: UpstreamModelMissing,
    408: UpstreamSlow,
    429: UpstreamBusy,
    503: UpstreamOverloaded,
    504: UpstreamSlow,
    529: UpstreamOverloaded,
}


class _Message(msgspec.Struct):
    content: Any = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: Any = None
    finish_reason: Any = None


class _Answer(msgspec.Struct):
    id: Any = None
    model: Any = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    data: list[msgspec.Raw] | None = None
    results: list[msgspec.Raw] | None = None


_WHAT = {
    Operation.CHAT: "a chat completion",
    Operation.COMPLETIONS: "a completion",
    Operation.EMBEDDINGS: "a list of embeddings",
    Operation.MODERATIONS: "a moderation",
}

_DecodeAnswer = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is taken out of an answer; `text` is the JSON as it was sent."""

    text: str
    upstream_id: str | None
    model: str | None
    content: str | None
    finish_reason: str | None
    usage: Any


def read_answer(name: str, body: bytes, operation: Operation = Operation.CHAT) -> Answer:
    """Return the answer in `body`, in OpenAI's format of `operation`, of the provider `name`.

    Raises UpstreamBroken for what is no answer, UpstreamAnswered for an error sent as a success.
    """
    try:
        text = body.decode()
        found = _DecodeAnswer.decode(body)
    except UnicodeDecodeError as exc:
        raise UpstreamBroken(name, "it is not UTF-8") from exc
    except RecursionError as exc:
        raise UpstreamBroken(name, "its JSON is nested too deep") from exc
    except msgspec.ValidationError as exc:
        what = _WHAT.get(operation, "an answer")
        raise UpstreamBroken(name, f"its JSON is not {what}") from exc
    except msgspec.DecodeError as exc:
        raise UpstreamBroken(name, "it is not JSON") from exc
    if operation is Operation.EMBEDDINGS or operation is Operation.MODERATIONS:
        return _without_text(name, found, text, operation)
    if found.choices is None:
        if found.error is not None:
            raise refusal_of(name, 502, body, None, None)
        raise UpstreamBroken(name, "its JSON has no choices")
    first = found.choices[0] if found.choices else _Choice()
    content = _content_text(first.text if first.message is None else first.message.content)
    return Answer(
        text=text,
        upstream_id=_word(found.id, 255),
        model=_word(found.model, 255),
        content=content,
        finish_reason=_word(first.finish_reason, 50),
        usage=found.usage,
    )


def _without_text(name: str, found: _Answer, text: str, operation: Operation) -> Answer:
    """Return an answer that is numbers, of embeddings or moderations."""
    told = found.data if operation is Operation.EMBEDDINGS else found.results
    if told is None:
        if found.error is not None:
            raise refusal_of(name, 502, text.encode(), None, None)
        raise UpstreamBroken(name, f"its JSON is not {_WHAT[operation]}")
    return Answer(
        text=text,
        upstream_id=_word(found.id, 255),
        model=_word(found.model, 255),
        content=None,
        finish_reason=None,
        usage=found.usage,
    )


def answer_of(name: str, body: bytes, canonical: Callable[[bytes], dict[str, Any]]) -> Answer:
    """Return the answer in `body`, in a native format that `canonical` reads.

    Raises UpstreamBroken for what is none.
    """
    try:
        text = body.decode()
        found = canonical(body)
    except UnicodeDecodeError as exc:
        raise UpstreamBroken(name, "it is not UTF-8") from exc
    except (msgspec.DecodeError, RecursionError, ValueError, KeyError, TypeError) as exc:
        raise UpstreamBroken(name, "its JSON is not an answer") from exc
    if is_refusal(found):
        raise refusal_of(name, 502, body, None, None)
    read = read_answer(name, msgspec.json.encode(found))
    return replace(read, text=text)


def _content_text(content: Any) -> str | None:
    if type(content) is str:
        return content
    if type(content) is list:
        return "".join(
            part["text"] for part in content if type(part) is dict and type(part.get("text")) is str
        )
    return None


def read_usage(told: Any) -> Usage | None:
    """Return the usage a provider told; None when it is missing or cannot be true."""
    if type(told) is not dict:
        return None
    prompt, completion = _count(told.get("prompt_tokens")), _count(told.get("completion_tokens", 0))
    if prompt is None or completion is None:
        return None
    cached = _detail(told, "prompt_tokens_details", "cached_tokens")
    reasoning = _detail(told, "completion_tokens_details", "reasoning_tokens")
    return Usage(prompt, completion, min(cached, prompt), min(reasoning, completion))


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= TOKENS_MAX else None


def _detail(told: dict[str, Any], group: str, name: str) -> int:
    details = told.get(group)
    return _count(details.get(name)) or 0 if type(details) is dict else 0


_TEXTS = ("messages", "prompt", "input")


def estimate_prompt(request: CallRequest) -> int:
    """Return about how many tokens the texts of a request have."""
    fields = request.fields
    given = next((fields[name] for name in _TEXTS if name in fields), None)
    pending: list[Any] = [] if given is None else [msgspec.json.decode(given)]
    tokens = 0
    while pending:
        value = pending.pop()
        if type(value) is str:
            tokens += estimate_tokens(value)
        elif type(value) is list:
            pending.extend(value)
        elif type(value) is dict:
            pending.extend(one for key, one in value.items() if key not in {"role", "type"})
    return min(tokens, TOKENS_MAX)


class Again(Enum):
    """Where a failed call may be made again."""

    NO = auto()
    ELSEWHERE = auto()
    HERE = auto()


_HERE = frozenset(
    {
        FailureKind.CONNECT,
        FailureKind.SERVER_ERROR,
        FailureKind.OVERLOADED,
        FailureKind.RATE_LIMITED,
    }
)
BACKOFF_FIRST_S = 0.25
BACKOFF_MOST_S = 8.0


def failure_kind(error: HelixError, http_status: int | None) -> FailureKind:
    """Return how a try failed, by what the provider answered, else by what was raised."""
    if isinstance(error, UpstreamAnswered):
        told = None if http_status is None else failure_of_status(http_status)
        return told or FailureKind.BROKEN  # an error sent as a success
    if isinstance(error, UpstreamCut):
        return FailureKind.BROKEN
    return failure_of_error(error)


def may_try_again(error: HelixError, kind: FailureKind) -> Again:
    """Return where a call that failed before any content came may be made again; see attempts.py.

    HERE only where the provider cannot have answered it.
    """
    refused_late = kind is FailureKind.TIMEOUT and isinstance(error, UpstreamAnswered)
    if kind in _HERE or refused_late or isinstance(error, UpstreamEmpty):
        return Again.HERE
    return Again.ELSEWHERE if kind.elsewhere else Again.NO


def backoff_s(tries: int, chance: float) -> float:
    """Return the pause after so many tries: full jitter, `chance` (0 to 1) of a doubling most."""
    return chance * min(BACKOFF_FIRST_S * 2.0 ** min(tries - 1, 16), BACKOFF_MOST_S)


def tokens_out_max(request: CallRequest) -> int | None:
    """Return the most tokens a call may be answered with, all its choices together, if it says."""
    most = _number(request, "max_completion_tokens") or _number(request, "max_tokens")
    if most is None:
        return None
    return min(most * max(_number(request, "n") or 1, 1), TOKENS_MAX)


def _number(request: CallRequest, name: str) -> int | None:
    raw = request.fields.get(name)
    if raw is None:
        return None
    text = bytes(raw)
    return int(text) if len(text) <= 8 and text.isdigit() else None


def is_refusal(chunk: dict[str, Any]) -> bool:
    """Say whether a chunk of a stream tells an error instead of a part of the answer."""
    return chunk.get("error") is not None and not chunk.get("choices")


def refusal_of(
    name: str, status: int, body: bytes, retry_after: str | None, now: datetime | None
) -> UpstreamAnswered:
    """Return the error to raise for a refusal of the provider `name`.

    The provider's message goes on to the client, cut and searched for secrets; the status is
    mapped so that the client's own retries do the right thing.
    """
    told = _told_error(body)
    message = _word(told.get("message"), _MESSAGE_CHARS_MAX)
    kind = _BY_STATUS.get(status)
    if kind is None:
        kind = UpstreamRejected if 400 <= status < 500 else UpstreamFailed
    said = f": {redact(message)}" if message and kind is not UpstreamCredential else ""
    wait_s = None
    if kind in {UpstreamBusy, UpstreamOverloaded} and now is not None:
        wait_s = retry_after_s(retry_after, now=now)
    code = told.get("code")
    return kind(
        f"the provider {name!r} answered {status}{said}",
        provider_code=_word(str(code) if type(code) is int else code, _WORD_CHARS_MAX),
        provider_kind=_word(told.get("type"), _WORD_CHARS_MAX),
        param=_word(told.get("param"), _WORD_CHARS_MAX),
        retry_after_s=wait_s,
    )


def _told_error(body: bytes) -> dict[str, Any]:
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if type(told) is list and told:
        told = told[0]
    error = told.get("error") if type(told) is dict else None
    if type(error) is str:
        return {"message": error}
    return error if type(error) is dict else {}


def _word(value: Any, chars_max: int) -> str | None:
    """Return a provider's word as it can be stored and shown: short, on one line; None if none."""
    return one_line(value, chars_max) if type(value) is str and value else None


def one_line(text: str, chars_max: int) -> str:
    """Return the beginning of a text with a blank for whatever cannot be printed."""
    cut = text[:chars_max]
    return cut if cut.isprintable() else "".join(c if c.isprintable() else " " for c in cut)


def storable(text: str | None) -> str | None:
    """Return a text as PostgreSQL's type text takes it: NUL shown as its symbol (U+2400).

    The lossless form stands beside it, in raw_response.
    """
    return text if text is None or "\0" not in text else text.replace("\0", "\u2400")


def may_call(principal: Principal, request: CallRequest, plan: Plan) -> bool:
    """Say whether a key's lists of models take the name that was asked for, or all behind it."""
    return principal.may_call(request.model) or all(
        principal.may_call(f"{target.provider.name}/{target.model}", target.model)
        for target in plan.targets
    )
