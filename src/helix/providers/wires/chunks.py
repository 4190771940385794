"""Answers and chunks in OpenAI's format, made from what other wires tell."""

from typing import Any, Protocol, TypeVar

import msgspec

__all__ = ["Chunks", "Translator", "count", "decoded", "error_body", "given", "usage_of"]

T = TypeVar("T")

_TOKENS_MAX = 2**53


class Translator(Protocol):
    """Turns one provider's stream into chunks. Raises ValueError for what is no such stream."""

    @property
    def done(self) -> bool:
        """Whether the answer was told to its end."""
        ...

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the chunks that these bytes complete."""
        ...

    def end(self) -> list[dict[str, Any]]:
        """Return what is still to be told when no more bytes come."""
        ...


class Chunks:
    """Makes the chunks of one stream; `id` and `model` are the provider's, once it told them."""

    __slots__ = ("created", "id", "model")

    def __init__(self, answer_id: str, model: str, created: int) -> None:
        self.id = answer_id
        self.model = model
        self.created = created

    def head(self) -> dict[str, Any]:
        """Return what every chunk begins with."""
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }

    def delta(self, delta: dict[str, Any], *, index: int = 0, **more: Any) -> dict[str, Any]:
        """Return a chunk with a piece of a choice."""
        choice = {"index": index, "delta": delta, "finish_reason": None, **more}
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [choice],
        }

    def finish(self, reason: str, *, index: int = 0, **more: Any) -> dict[str, Any]:
        """Return the chunk that ends a choice."""
        choice = {"index": index, "delta": {}, "finish_reason": reason, **more}
        return {**self.head(), "choices": [choice]}

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the chunk that tells the usage."""
        return {**self.head(), "choices": [], "usage": usage}

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        """Return a whole answer."""
        answer = {**self.head(), "object": "chat.completion", "choices": choices}
        if usage is not None:
            answer["usage"] = usage
        return answer


def decoded(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Return what JSON holds; raises ValueError for what is not JSON of that shape."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(str(exc)[:200]) from exc


def given(raw: msgspec.Raw) -> msgspec.Raw | None:
    """Return what stood in a field; None when it was absent or null."""
    return raw if raw and bytes(raw) != b"null" else None


def count(value: object) -> int | None:
    """Return a number of tokens as a provider told it; None for what cannot be one."""
    return value if type(value) is int and 0 <= value <= _TOKENS_MAX else None


def usage_of(
    prompt: int | None,
    completion: int | None,
    *,
    cached: int | None = None,
    reasoning: int | None = None,
    **details: int | None,
) -> dict[str, Any] | None:
    """Return the usage in OpenAI's format; None when the provider did not tell the totals.

    `prompt` includes `cached`, `completion` includes `reasoning`; `details` are more of the prompt.
    """
    if prompt is None or completion is None:
        return None
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    of_prompt = {"cached_tokens": cached, **details}
    told = {name: value for name, value in of_prompt.items() if value is not None}
    if told:
        usage["prompt_tokens_details"] = told
    if reasoning is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return usage


def error_body(message: object, kind: object, code: object = None) -> dict[str, Any]:
    """Return an error in OpenAI's format out of a provider's own words."""
    return {
        "error": {
            "message": message if isinstance(message, str) else "",
            "type": kind if isinstance(kind, str) else None,
            "param": None,
            "code": code if isinstance(code, str) else None,
        }
    }
