"""What Ollama's API answers, told in OpenAI's format."""

from typing import Any

import msgspec

from helix.providers.wires.chunks import Chunks, count, decoded, error_body, given, usage_of
from helix.providers.wires.embeddings import Embeddings, embeddings_answer
from helix.providers.wires.lines import Lines

__all__ = [
    "OllamaTranslator",
    "chat_of_ollama",
    "embeddings_of_ollama",
    "refusal_of_ollama",
]

_FINISH = {"stop": "stop", "length": "length"}


class _Function(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw()


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    content: str = ""
    thinking: str = ""
    tool_calls: list[_Call] | None = None


class _Told(msgspec.Struct):
    model: str = ""
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    logprobs: Any = None
    error: Any = None


class _Embedded(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: Any = None


_DecodeTold = msgspec.json.Decoder(_Told)
_DecodeEmbedded = msgspec.json.Decoder(_Embedded)


class OllamaTranslator:
    """Turns a stream of lines (NDJSON) into chunks; the line with `done` ends it."""

    def __init__(
        self, *, model: str, answer_id: str, created: int = 0, include_usage: bool = True
    ) -> None:
        self.done = False
        self._include_usage = include_usage
        self._chunks = Chunks(answer_id, model, created)
        self._lines = Lines()
        self._begun = False
        self._calls = 0

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the chunks that these bytes complete; see `chunks.Translator`."""
        found: list[dict[str, Any]] = []
        for line in self._lines.feed(data):
            self._take(line, found)
        return found

    def end(self) -> list[dict[str, Any]]:
        """Return what a last line without its end tells."""
        found: list[dict[str, Any]] = []
        self._take(self._lines.rest(), found)
        return found

    def _take(self, line: bytes, found: list[dict[str, Any]]) -> None:
        if not line.strip() or self.done:
            return
        told = decoded(_DecodeTold, line)
        if told.error is not None:
            found.append(refusal_of_ollama({"error": told.error}))
            return
        self._chunks.model = told.model or self._chunks.model
        if not self._begun:
            self._begun = True
            found.append(self._chunks.delta({"role": "assistant", "content": ""}))
        message = told.message
        if message is not None:
            if message.thinking:
                found.append(self._chunks.delta({"reasoning_content": message.thinking}))
            if message.content:
                more: dict[str, Any] = (
                    {} if told.logprobs is None else {"logprobs": _logprobs(told.logprobs)}
                )
                found.append(self._chunks.delta({"content": message.content}, **more))
            calls = _calls(message, f"call_{self._chunks.id}", self._calls)
            found += [self._chunks.delta({"tool_calls": [call]}) for call in calls]
            self._calls += len(calls)
        if told.done:
            found.append(self._chunks.finish(_reason(told.done_reason, self._calls)))
            usage = _usage(told) if self._include_usage else None
            if usage is not None:
                found.append(self._chunks.usage(usage))
            self.done = True


def chat_of_ollama(body: bytes, *, model: str, answer_id: str, created: int = 0) -> dict[str, Any]:
    """Return the chat completion of a whole answer; raises ValueError for what is none."""
    told = decoded(_DecodeTold, body)
    if told.error is not None:
        return refusal_of_ollama({"error": told.error})
    if told.message is None:
        raise ValueError("it has no message")
    calls = _calls(told.message, f"call_{answer_id}", 0)
    message: dict[str, Any] = {"role": "assistant", "content": told.message.content}
    if told.message.thinking:
        message["reasoning_content"] = told.message.thinking
    if calls:
        for call in calls:
            call.pop("index")
        message["tool_calls"] = calls
        message["content"] = told.message.content or None
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None if told.logprobs is None else _logprobs(told.logprobs),
        "finish_reason": _reason(told.done_reason, len(calls)),
    }
    chunks = Chunks(answer_id, told.model or model, created)
    return chunks.whole([choice], _usage(told))


def _calls(message: _Message, prefix: str, first: int) -> list[dict[str, Any]]:
    return [
        {
            "index": number,
            "id": call.id or f"{prefix}_{number}",
            "type": "function",
            "function": {
                "name": call.function.name,
                "arguments": bytes(given(call.function.arguments) or b"{}").decode(),
            },
        }
        for number, call in enumerate(message.tool_calls or [], start=first)
    ]


def _reason(told: str | None, calls: int) -> str:
    found = _FINISH.get(told or "stop", "stop")
    return "tool_calls" if calls and found == "stop" else found


def _logprobs(told: Any) -> dict[str, Any]:
    return {"content": told, "refusal": None}


def _usage(told: _Told) -> dict[str, Any] | None:
    """Return the usage; a prompt that was cached whole is not counted by Ollama, so it is 0."""
    prompt = 0 if told.prompt_eval_count is None else count(told.prompt_eval_count)
    if told.eval_count is None:
        return None
    return usage_of(prompt, count(told.eval_count))


def embeddings_of_ollama(body: bytes, asked: Embeddings, model: str) -> dict[str, Any]:
    """Return the embeddings of an answer; raises ValueError for what is none."""
    told = decoded(_DecodeEmbedded, body)
    if len(told.embeddings) != len(asked.texts):
        raise ValueError("it has not a vector for each text")
    return embeddings_answer(
        told.embeddings,
        model=model,
        as_base64=asked.as_base64,
        prompt_tokens=count(told.prompt_eval_count),
    )


def refusal_of_ollama(told: Any) -> dict[str, Any]:
    """Return an error body of OpenAI's format out of Ollama's, which is a text alone."""
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, dict):
        return error_body(error.get("message"), error.get("type"), error.get("code"))
    return error_body(error, "ollama_error")
