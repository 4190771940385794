"""What Anthropic's Messages API answers, told in OpenAI's chat format."""

from typing import Any

import msgspec

from helix.providers.wires.chunks import Chunks, count, decoded, error_body, given, usage_of
from helix.providers.wires.lines import Events, data_of_event

__all__ = ["MessagesReader", "MessagesTranslator", "chat_of_message", "refusal_of_messages"]

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_THOUGHTS = frozenset({"thinking", "redacted_thinking"})


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    thinking: str = ""
    signature: str | None = None
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""
    content: list[msgspec.Raw] = []
    stop_reason: str | None = None
    usage: Any = None
    type: str = ""
    error: Any = None


class _Delta(msgspec.Struct):
    type: str | None = None
    text: str = ""
    partial_json: str = ""
    thinking: str = ""
    signature: str = ""
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str
    message: _Message | None = None
    index: int = 0
    content_block: msgspec.Raw = msgspec.Raw()
    delta: _Delta | None = None
    usage: Any = None
    error: Any = None


_DecodeEvent = msgspec.json.Decoder(_Event)
_DecodeMessage = msgspec.json.Decoder(_Message)
_DecodeBlock = msgspec.json.Decoder(_Block)


class MessagesTranslator:
    """Turns the events of one answer into chunks.

    `json_tool` is the tool whose input is the answer itself. Thinking becomes reasoning_content,
    and, with its signature, thinking_blocks, which a client sends back with the results of tools.
    """

    def __init__(
        self, *, created: int = 0, include_usage: bool = True, json_tool: str | None = None
    ) -> None:
        self.done = False
        self._include_usage = include_usage
        self._json_tool = json_tool
        self._chunks = Chunks("", "", created)
        self._events = Events()
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, tuple[str, int]] = {}
        self._thoughts: dict[int, list[str]] = {}
        self._calls = 0
        self._answered = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the chunks that these bytes complete; see `chunks.Translator`."""
        found: list[dict[str, Any]] = []
        for event in self._events.feed(data):
            self.take(event, found)
        return found

    def end(self) -> list[dict[str, Any]]:
        """Return what a last event without its blank line tells."""
        found: list[dict[str, Any]] = []
        for event in self._events.rest():
            self.take(event, found)
        return found

    def take(self, data: bytes, found: list[dict[str, Any]]) -> None:
        """Add what the data of one event tells; raises ValueError for what is no event."""
        event = decoded(_DecodeEvent, data)
        if event.type == "content_block_delta":
            if event.delta is None:
                raise ValueError("a delta is missing")
            self._take_delta(event.index, event.delta, found)
        elif event.type == "content_block_start":
            self._begin_block(event, found)
        elif event.type == "message_start":
            message = event.message or _Message()
            self._chunks.id, self._chunks.model = message.id, message.model
            self._note_usage(message.usage)
            found.append(self._chunks.delta({"role": "assistant", "content": ""}))
        elif event.type == "message_delta":
            self._note_usage(event.usage)
            if event.delta is not None and event.delta.stop_reason is not None:
                found.append(self._chunks.finish(self._finish(event.delta.stop_reason)))
        elif event.type == "message_stop":
            usage = _usage(self._usage) if self._include_usage else None
            if usage is not None:
                found.append(self._chunks.usage(usage))
            self.done = True
        elif event.type == "error":
            found.append(_error(event.error))

    def _finish(self, reason: str) -> str:
        if reason == "tool_use" and self._answered and not self._calls:
            return "stop"
        return _FINISH.get(reason, "stop")

    def _note_usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _begin_block(self, event: _Event, found: list[dict[str, Any]]) -> None:
        raw = event.content_block
        if not raw:
            raise ValueError("a block is missing")
        block = decoded(_DecodeBlock, bytes(raw))
        if block.type == "tool_use" and block.name == self._json_tool:
            self._answered = True
            self._blocks[event.index] = ("json", 0)
        elif block.type == "tool_use":
            call = {
                "index": self._calls,
                "id": block.id,
                "type": "function",
                "function": {"name": block.name, "arguments": ""},
            }
            self._blocks[event.index] = ("tool", self._calls)
            self._calls += 1
            found.append(self._chunks.delta({"tool_calls": [call]}))
        elif block.type == "thinking":
            self._blocks[event.index] = ("thinking", 0)
            self._thoughts[event.index] = []
        elif block.type != "text":
            name = "thinking_blocks" if block.type in _THOUGHTS else "provider_blocks"
            found.append(self._chunks.delta({name: [msgspec.json.decode(raw)]}))
        if block.text:
            found.append(self._chunks.delta({"content": block.text}))

    def _take_delta(self, index: int, delta: _Delta, found: list[dict[str, Any]]) -> None:
        if delta.text:
            found.append(self._chunks.delta({"content": delta.text}))
        elif delta.partial_json:
            kind, number = self._blocks.get(index, ("other", 0))
            if kind == "json":
                found.append(self._chunks.delta({"content": delta.partial_json}))
            elif kind == "tool":
                piece = {"index": number, "function": {"arguments": delta.partial_json}}
                found.append(self._chunks.delta({"tool_calls": [piece]}))
        elif delta.thinking:
            if index in self._thoughts:
                self._thoughts[index].append(delta.thinking)
            found.append(self._chunks.delta({"reasoning_content": delta.thinking}))
        elif delta.signature:
            thought = {
                "type": "thinking",
                "thinking": "".join(self._thoughts.pop(index, [])),
                "signature": delta.signature,
            }
            found.append(self._chunks.delta({"thinking_blocks": [thought]}))


class MessagesReader:
    """Reads Anthropic's native events and answers, so that a call passed through is recorded.

    Pure. One reader for one stream. ValueError is raised for what is no event or no answer.
    """

    def __init__(self) -> None:
        self._translator = MessagesTranslator()

    @property
    def done(self) -> bool:
        """Whether the answer was told to its end (`message_stop`)."""
        return self._translator.done

    def feed(self, event: bytes) -> list[dict[str, Any]]:
        """Return the chunks that one whole event tells; none for a ping or a comment.

        An `error` event gives a chunk with `error` alone.
        """
        data = data_of_event(event)
        found: list[dict[str, Any]] = []
        if data:
            self._translator.take(data, found)
        return found

    @staticmethod
    def whole(body: bytes) -> dict[str, Any]:
        """Return the chat completion that a whole answer tells, or `{"error": …}`."""
        return chat_of_message(body)


def chat_of_message(
    body: bytes, *, created: int = 0, json_tool: str | None = None
) -> dict[str, Any]:
    """Return the chat completion of a whole answer; raises ValueError for what is none."""
    told = decoded(_DecodeMessage, body)
    if told.error is not None or told.type == "error":
        return _error(told.error)
    if told.type != "message":
        raise ValueError("it is no message")
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    kept: dict[str, list[Any]] = {}
    answered = False
    for raw in told.content:
        block = decoded(_DecodeBlock, bytes(raw))
        if block.type == "text":
            texts.append(block.text)
        elif block.type == "tool_use" and block.name == json_tool:
            answered = True
            texts.append(bytes(given(block.input) or b"{}").decode())
        elif block.type == "tool_use":
            function = {
                "name": block.name,
                "arguments": bytes(given(block.input) or b"{}").decode(),
            }
            calls.append({"id": block.id, "type": "function", "function": function})
        else:
            name = "thinking_blocks" if block.type in _THOUGHTS else "provider_blocks"
            kept.setdefault(name, []).append(msgspec.json.decode(raw))
            thoughts.append(block.thinking)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    reason = _FINISH.get(told.stop_reason or "", "stop")
    if answered and not calls and reason == "tool_calls":
        reason = "stop"
    choice = {
        "index": 0,
        "message": {**message, **kept},
        "logprobs": None,
        "finish_reason": reason,
    }
    usage = _usage(told.usage) if isinstance(told.usage, dict) else None
    return Chunks(told.id, told.model, created).whole([choice], usage)


def refusal_of_messages(told: Any) -> dict[str, Any]:
    """Return an error body of OpenAI's format out of Anthropic's."""
    return _error(told.get("error") if isinstance(told, dict) else None)


def _error(error: Any) -> dict[str, Any]:
    told = error if isinstance(error, dict) else {}
    return error_body(told.get("message"), told.get("type"), told.get("type"))


def _usage(told: dict[str, Any]) -> dict[str, Any] | None:
    """Return the usage: what was written to and read from the cache counts as prompt."""
    fresh = count(told.get("input_tokens"))
    written = count(told.get("cache_creation_input_tokens"))
    read = count(told.get("cache_read_input_tokens"))
    details = told.get("output_tokens_details")
    reasoning = count(details.get("thinking_tokens")) if isinstance(details, dict) else None
    return usage_of(
        None if fresh is None else fresh + (written or 0) + (read or 0),
        count(told.get("output_tokens")),
        cached=read,
        reasoning=reasoning,
        cache_creation_tokens=written,
    )
