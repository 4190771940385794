"""OpenAI's older text completions, translated to chat for models that have nothing else.

A prompt becomes one message of the user. Several prompts, prompts as tokens, a suffix and best_of
have no place in chat: only a provider with this API takes them.
"""

from typing import Any

import msgspec

from helix.core.errors import HelixError
from helix.gateway.dialects.chat import DONE_EVENT, PING, data_event
from helix.gateway.dialects.reading import Untold, decoded, items_of, packed, within
from helix.gateway.errors import WrongField
from helix.gateway.intake import (
    Fields,
    IntakeLimits,
    params_of,
    read_fields,
    read_flag,
    read_include_usage,
    read_model,
    read_options,
)
from helix.gateway.render import error_body, error_event
from helix.gateway.types import CallRequest
from helix.providers import Operation

__all__ = ["Completions", "canonical_answer"]

PROMPTS_MAX = 2_048
CHOICES_MAX = 128
LOGPROBS_MAX = 20
TOKEN_MAX = 2**31 - 1
_OWN = frozenset({"best_of", "echo", "logprobs", "prompt", "suffix"})
_FINISH = {"length": "length", "content_filter": "content_filter"}


class Completions:
    """POST /v1/completions."""

    name = "completions"
    path = "/v1/completions"
    operation = Operation.CHAT
    native: Operation | None = Operation.COMPLETIONS
    identity = False

    def read(self, body: bytes, limits: IntakeLimits) -> CallRequest:
        """Return the call that a body asks for; see `types.Dialect`."""
        text, fields = read_fields(body, limits)
        model, options = read_model(fields), read_options(fields)
        stream, include_usage = read_flag(fields, "stream"), read_include_usage(fields)
        untold = Untold()
        chat = {name: raw for name, raw in fields.items() if name not in _OWN}
        prompt = _read_prompt(decoded(fields, "prompt"), untold)
        chat["messages"] = packed([{"role": "user", "content": prompt}])
        _read_choices(fields, untold)
        _read_logprobs(fields, chat, untold)
        return CallRequest(
            text=text,
            body_bytes=len(body),
            fields=chat,
            model=model,
            stream=stream,
            include_usage=include_usage,
            params=params_of(chat),
            options=options,
            operation=self.operation,
            dialect=self.name,
            own=fields,
            native_only=untold.first,
        )

    def whole(self, answer: dict[str, Any], request: CallRequest, request_id: str) -> bytes:
        """Return a canonical answer as a text completion."""
        echo = _echo(request)
        choices = []
        for choice in _objects(answer.get("choices")):
            message = choice.get("message")
            told = _text(message) if type(message) is dict else ""
            logprobs = _legacy_logprobs(choice.get("logprobs"), len(echo))
            choices.append(_choice(choice, echo + told, logprobs))
        return msgspec.json.encode(
            {
                **_head(answer, request, request_id),
                "choices": choices,
                **({"usage": answer["usage"]} if answer.get("usage") is not None else {}),
            }
        )

    def stream(self, request: CallRequest, request_id: str) -> "CompletionRenderer":
        """Return the renderer of one stream."""
        return CompletionRenderer(request, request_id)

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return an error as OpenAI tells it."""
        return error_body(error, request_id)


class CompletionRenderer:
    """Renders canonical chunks as chunks of text completions."""

    def __init__(self, request: CallRequest, request_id: str) -> None:
        self._request = request
        self._request_id = request_id
        self._echo = _echo(request)
        self._head: dict[str, Any] | None = None
        self._told: dict[int, int] = {}

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """Return an event when the chunk tells text, an end, or usage that was asked for."""
        if self._head is None:
            self._head = _head(chunk, self._request, self._request_id)
        choices = []
        for choice in _objects(chunk.get("choices")):
            delta = choice.get("delta")
            text = _text(delta) if type(delta) is dict else ""
            index = choice.get("index", 0)
            if index not in self._told:
                text, self._told[index] = self._echo + text, 0
            offset = self._told[index] + (len(self._echo) if not self._told[index] else 0)
            logprobs = _legacy_logprobs(choice.get("logprobs"), offset)
            self._told[index] += len(text)
            if text or logprobs or choice.get("finish_reason") is not None:
                choices.append(_choice(choice, text, logprobs))
        usage = chunk.get("usage")
        if self._request.include_usage and usage is not None and not choices:
            return data_event({**self._head, "choices": [], "usage": usage})
        return data_event({**self._head, "choices": choices}) if choices else b""

    def end(self) -> bytes:
        """Return the event that ends a stream."""
        return DONE_EVENT

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return the event that tells of an error."""
        return error_event(error, request_id)

    def ping(self) -> bytes:
        """Return a comment."""
        return PING


def canonical_answer(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a provider's own text completion as a canonical answer, to record it like any."""
    choices = [
        {**_common(choice), "message": {"role": "assistant", "content": choice.get("text")}}
        for choice in _objects(answer.get("choices"))
    ]
    return {**answer, "object": "chat.completion", "choices": choices}


def _common(choice: dict[str, Any]) -> dict[str, Any]:
    return {"index": choice.get("index", 0), "finish_reason": choice.get("finish_reason")}


def _read_prompt(value: Any, untold: Untold) -> str:
    """Return the text to send as a message; what is no single text is noted."""
    if type(value) is str:
        return value
    if type(value) is not list:
        raise WrongField(
            "prompt", "it is missing" if value is None else "it must be a string or an array"
        )
    if not 0 < len(value) <= PROMPTS_MAX and not _is_tokens(value):
        raise WrongField("prompt", f"there are {len(value)}, and 1 to {PROMPTS_MAX} are taken")
    if _is_tokens(value):
        untold.note("prompt", "it is tokens")
        return ""
    if len(value) > 1:
        untold.note("prompt", "it is more than one prompt")
    for path, item in items_of(value, "prompt"):
        if _is_tokens(item):
            untold.note(path, "it is tokens")
        elif type(item) is not str:
            raise WrongField(path, "prompts are strings or arrays of tokens")
    return value[0] if type(value[0]) is str else ""


def _is_tokens(value: Any) -> bool:
    return (
        type(value) is list
        and bool(value)
        and all(type(one) is int and 0 <= one <= TOKEN_MAX for one in value)
    )


def _read_choices(fields: Fields, untold: Untold) -> None:
    n, best_of = decoded(fields, "n"), decoded(fields, "best_of")
    if n is not None:
        within(n, "n", 1, CHOICES_MAX)
    if best_of is not None and within(best_of, "best_of", 1, CHOICES_MAX) != (n or 1):
        untold.note("best_of", "it asks for more answers than n")
    suffix = decoded(fields, "suffix")
    if suffix is not None and type(suffix) is not str:
        raise WrongField("suffix", "it must be a string")
    if suffix:
        untold.note("suffix", "it asks for text between two others")


def _read_logprobs(fields: Fields, chat: Fields, untold: Untold) -> None:
    logprobs = decoded(fields, "logprobs")
    echo = read_flag(fields, "echo")
    if logprobs is None:
        return
    within(logprobs, "logprobs", 0, LOGPROBS_MAX)
    if echo:
        untold.note("echo", "with logprobs it asks for those of the prompt")
    chat["logprobs"] = packed(value=True)
    if logprobs:
        chat["top_logprobs"] = packed(logprobs)


def _echo(request: CallRequest) -> str:
    if not read_flag(request.own, "echo"):
        return ""
    prompt = decoded(request.own, "prompt")
    first = prompt[0] if type(prompt) is list and prompt else prompt
    return first if type(first) is str else ""


def _head(told: dict[str, Any], request: CallRequest, request_id: str) -> dict[str, Any]:
    head = {
        "id": "cmpl-" + request_id.replace("-", ""),
        "object": "text_completion",
        "created": told.get("created") or 0,
        "model": told.get("model") or request.model,
    }
    if told.get("system_fingerprint") is not None:
        head["system_fingerprint"] = told["system_fingerprint"]
    return head


def _choice(choice: dict[str, Any], text: str, logprobs: Any) -> dict[str, Any]:
    reason = choice.get("finish_reason")
    return {
        "text": text,
        "index": choice.get("index", 0),
        "logprobs": logprobs,
        "finish_reason": None if reason is None else _FINISH.get(reason, "stop"),
    }


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if type(content) is list:
        return "".join(p["text"] for p in _objects(content) if type(p.get("text")) is str)
    return content if type(content) is str else ""


def _legacy_logprobs(told: Any, offset: int) -> dict[str, Any] | None:
    content = _objects(told.get("content")) if type(told) is dict else []
    if not content:
        return None
    tokens, offsets = [str(one.get("token", "")) for one in content], []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [one.get("logprob") for one in content],
        "top_logprobs": [
            {
                str(top.get("token", "")): top.get("logprob")
                for top in _objects(one.get("top_logprobs"))
            }
            for one in content
        ],
        "text_offset": offsets,
    }


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if type(one) is dict] if type(value) is list else []
