"""Server-sent events of a chat stream: cut apart, and put together to the answer they tell."""

import re
from typing import Any

import msgspec

__all__ = ["DONE", "DONE_EVENT", "EventSplitter", "Transcript", "data_of"]

DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"
_END = re.compile(rb"\r?\n\r?\n")
_END_BYTES_MAX = 4


class EventSplitter:
    """Cuts bytes, however they arrive, into whole events, each with its blank line."""

    __slots__ = ("_pending", "_seen")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that `data` completes."""
        pending = self._pending
        pending += data
        events: list[bytes] = []
        begin, look = 0, max(0, self._seen - _END_BYTES_MAX)
        while found := _END.search(pending, look):
            look = found.end()
            events.append(bytes(pending[begin:look]))
            begin = look
        if begin:
            del pending[:begin]
        self._seen = len(pending)
        return events

    def rest(self) -> bytes:
        """Return what is left: an event whose blank line never came."""
        return bytes(self._pending)


def data_of(event: bytes) -> bytes | None:
    """Return the data of an event; None when it has none, as a comment has."""
    if event.startswith(b"data: ") and event.find(b"\n") >= len(event) - 4:
        return event[6:].rstrip()
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line[:5] == b"data:"]
    return b"\n".join(lines).strip() if lines else None


class _PlainDelta(msgspec.Struct, forbid_unknown_fields=True):
    content: str
    role: str | None = None
    refusal: None = None


class _PlainChoice(msgspec.Struct, forbid_unknown_fields=True):
    index: int
    delta: _PlainDelta
    finish_reason: None = None
    logprobs: None = None


class _PlainChunk(msgspec.Struct):
    choices: list[_PlainChoice]
    usage: None = None
    error: None = None


_DecodePlain = msgspec.json.Decoder(_PlainChunk)


class Transcript:
    """The answer that a stream told so far."""

    __slots__ = ("_choices", "_head", "chunks", "content_chunks", "model", "upstream_id", "usage")

    def __init__(self) -> None:
        self.upstream_id: str | None = None
        self.model: str | None = None
        self.chunks = 0
        self.content_chunks = 0
        self.usage: Any = None
        self._head: dict[str, Any] | None = None
        self._choices: dict[int, _Choice] = {}

    def take(self, chunk: dict[str, Any]) -> bool:
        """Add a chunk; return whether it carries content of the answer (not only a role).

        Raises ValueError for a chunk that is not one.
        """
        self.chunks += 1
        if self._head is None:
            self._head = {k: v for k, v in chunk.items() if k not in {"choices", "usage", "object"}}
            self.upstream_id = _text(chunk.get("id"))
            self.model = _text(chunk.get("model"))
        usage = chunk.get("usage")
        if usage is not None:
            self.usage = usage
        told = False
        choices = chunk.get("choices")
        if not choices:
            return False
        if type(choices) is not list:
            raise ValueError("choices is no list")
        for part in choices:
            if type(part) is not dict:
                raise ValueError("a choice is no object")
            index = part.get("index", 0)
            if type(index) is not int or not 0 <= index < CHOICES_MAX:
                raise ValueError("a choice has no index")
            choice = self._choices.get(index)
            if choice is None:
                choice = self._choices[index] = _Choice()
            told = choice.take(part) or told
        if told:
            self.content_chunks += 1
        return told

    def take_plain(self, told: bytes) -> bool:
        """Add a chunk that does nothing but go on with the text of one choice; else return False.

        As `take`, for the chunks that nearly all are, at a third of the cost: what is not looked
        for is not made. Only after the first chunk, which says whose stream it is.
        """
        try:
            chunk = _DecodePlain.decode(told)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if len(chunk.choices) != 1:
            return False
        part = chunk.choices[0]
        choice, text = self._choices.get(part.index), part.delta.content
        if (
            choice is None
            or not text
            or choice.is_text
            or part.delta.role not in (None, choice.role)
        ):
            return False
        self.chunks += 1
        self.content_chunks += 1
        choice.parts.append(text)
        return True

    @property
    def content(self) -> str | None:
        """The text of the first choice; None when it has none."""
        first = self._choices.get(0)
        return "".join(first.parts) if first is not None and first.parts else None

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended; None when it has not."""
        first = self._choices.get(0)
        return None if first is None else first.finish_reason

    @property
    def finished(self) -> bool:
        """Whether every choice that began has ended."""
        choices = self._choices.values()
        return bool(choices) and all(c.finish_reason is not None for c in choices)

    def told_text(self) -> str:
        """Return all text that was told, of every choice, to estimate its tokens by."""
        return "".join(choice.all_text() for choice in self._choices.values())

    def as_json(self) -> str | None:
        """Return the answer as the JSON that a call without stream gives; None when none began."""
        if self._head is None:
            return None
        choices = sorted(self._choices.items())
        is_text = any(choice.is_text for _, choice in choices)
        answer = {
            **self._head,
            "object": "text_completion" if is_text else "chat.completion",
            "choices": [
                {"index": index, **(choice.as_text() if is_text else choice.as_dict())}
                for index, choice in choices
            ],
        }
        if self.usage is not None:
            answer["usage"] = self.usage
        return msgspec.json.encode(answer).decode()


CHOICES_MAX = 128


class _Choice:
    __slots__ = ("finish_reason", "is_text", "logprobs", "other", "parts", "role")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.role = "assistant"
        self.other: dict[str, Any] = {}
        self.logprobs: Any = None
        self.finish_reason: str | None = None
        self.is_text = False

    def take(self, part: dict[str, Any]) -> bool:
        delta = part.get("delta")
        told = False
        if delta:
            if type(delta) is not dict:
                raise ValueError("a delta is no object")
            for key, value in delta.items():
                if key == "content":
                    if type(value) is str:
                        if value:
                            self.parts.append(value)
                            told = True
                    elif value is not None:
                        raise ValueError("content is no text")
                elif key == "role":
                    self.role = _text(value) or self.role
                elif value is not None:
                    self.other[key] = merged(self.other.get(key), value)
                    told = True
        elif type(part.get("text")) is str:  # a chunk of /v1/completions
            self.is_text = True
            if part["text"]:
                self.parts.append(part["text"])
                told = True
        finish = part.get("finish_reason")
        if finish is not None:
            self.finish_reason = _text(finish)
        logprobs = part.get("logprobs")
        if logprobs is not None:
            self.logprobs = merged(self.logprobs, logprobs)
        return told

    def all_text(self) -> str:
        """Return the text of every part, arguments of tool calls and reasoning too."""
        texts = list(self.parts)
        pending: list[Any] = [self.other]
        while pending:
            value = pending.pop()
            if type(value) is str:
                texts.append(value)
            elif type(value) is _Growing:
                texts.extend(value)
            elif type(value) is dict:
                pending.extend(value.values())
            elif type(value) is list:
                pending.extend(value)
        return "".join(texts)

    def as_text(self) -> dict[str, Any]:
        return {
            "text": "".join(self.parts),
            "logprobs": settled(self.logprobs),
            "finish_reason": self.finish_reason,
        }

    def as_dict(self) -> dict[str, Any]:
        content = "".join(self.parts) if self.parts or not self.other else None
        return {
            "message": {"role": self.role, "content": content, **settled(self.other)},
            "logprobs": settled(self.logprobs),
            "finish_reason": self.finish_reason,
        }


class _Growing(list[str]):
    """A text in pieces: joined once at the end, since a million tiny additions would be slow."""


def merged(so_far: Any, delta: Any) -> Any:
    """Return a value with a delta added: texts grow, objects merge, lists merge by `index`.

    What has no way to grow (a number, a flag, another type) is replaced. `settled` ends it.
    """
    kind = type(delta)
    if kind is str:
        if type(so_far) is _Growing:
            so_far.append(delta)
            return so_far
        return _Growing([so_far, delta]) if type(so_far) is str else delta
    if kind is dict:
        if type(so_far) is not dict:
            so_far = {}
        for key, value in delta.items():
            if key not in _WHOLE or key not in so_far:
                so_far[key] = merged(so_far.get(key), value)
        return so_far
    if kind is list:
        return _by_index(so_far if type(so_far) is list else [], delta)
    return delta


_WHOLE = frozenset({"id", "index", "name", "type"})  # some providers repeat them in each delta


def settled(value: Any) -> Any:
    """Return a merged value as plain JSON values."""
    if type(value) is _Growing:
        return "".join(value)
    if type(value) is dict:
        return {key: settled(one) for key, one in value.items()}
    if type(value) is list:
        return [settled(one) for one in value]
    return value


def _by_index(so_far: list[Any], delta: list[Any]) -> list[Any]:
    for item in delta:
        index = item.get("index") if type(item) is dict else None
        known = next(
            (n for n, old in enumerate(so_far) if type(old) is dict and old.get("index") == index),
            None,
        )
        if index is None:
            so_far.append(item)
        elif known is None:
            so_far.append(merged(None, item))
        else:
            so_far[known] = merged(so_far[known], item)
    return so_far


def _text(value: Any) -> str | None:
    return value if type(value) is str else None
