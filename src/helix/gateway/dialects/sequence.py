"""A canonical answer, whole or in chunks, as blocks one after the other.

Chat completions tell text, reasoning and tool calls side by side; Anthropic's and OpenAI's newer
APIs tell them as a list, each begun and ended before the next. What comes for a block while an
earlier one is open waits until that one is whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

__all__ = ["Block", "Kind", "Sequence", "Step", "Told"]


class Kind(StrEnum):
    """What a block is."""

    REASONING = "reasoning"
    TEXT = "text"
    REFUSAL = "refusal"
    TOOL = "tool"


class Told(StrEnum):
    """What a step tells of its block."""

    BEGUN = "begun"
    MORE = "more"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Block:
    """A part of an answer. `number` counts from 0; `custom` is a tool that takes plain text.

    `told` and `logprobs_told` count what steps have told of `parts` and `logprobs`.
    """

    kind: Kind
    number: int
    call_id: str = ""
    name: str = ""
    custom: bool = False
    signature: str = ""
    parts: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    begun: bool = False
    told: int = 0
    logprobs_told: int = 0

    @property
    def text(self) -> str:
        """All that the block tells: a text, or the arguments of a call."""
        return "".join(self.parts)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a call; what is no JSON object is kept as text under one name."""
        text = self.text
        if not text.strip():
            return {}
        value = _json(text)
        return value if type(value) is dict else {"_unparsed": text}

    def is_whole(self, *, last: bool) -> bool:
        """Say whether nothing more can come."""
        if self.kind is not Kind.TOOL or self.custom:
            return not last
        if last or not self.parts or not self.parts[-1].rstrip().endswith("}"):
            return False
        return type(_json(self.text)) is dict

    def more(self) -> "Step":
        """Return what was not told yet."""
        text = "".join(self.parts[self.told :])
        logprobs = tuple(self.logprobs[self.logprobs_told :])
        self.told, self.logprobs_told = len(self.parts), len(self.logprobs)
        return Step(Told.MORE, self, text, logprobs)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to tell of a block; `text` is what is added, with the log probabilities of it."""

    told: Told
    block: Block
    text: str = ""
    logprobs: tuple[Any, ...] = ()


class Sequence:
    """Puts the first choice of an answer into blocks."""

    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}
        self.finish_reason: str | None = None
        self.stop_sequence: str | None = None
        self.blocks: list[Block] = []
        self._by_index: dict[int, Block] = {}
        self._at = 0

    def take(self, chunk: dict[str, Any]) -> list[Step]:
        """Take a chunk, or a whole answer; return what can be told now."""
        for name in ("id", "model", "created", "service_tier"):
            if name not in self.head and chunk.get(name) is not None:
                self.head[name] = chunk[name]
        usage = chunk.get("usage")
        if type(usage) is dict:
            self.usage = usage
        for choice in _objects(chunk.get("choices")):
            if choice.get("index", 0) == 0:
                self._take_choice(choice)
        return list(self._steps(at_end=False))

    def end(self) -> list[Step]:
        """Return what is left to tell."""
        return list(self._steps(at_end=True))

    def _take_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        if type(delta) is not dict:
            delta = choice.get("message")
        if type(delta) is dict:
            self._take_delta(delta, _logprobs(choice))
        if type(choice.get("finish_reason")) is str:
            self.finish_reason = choice["finish_reason"]
        if type(choice.get("stop_reason")) is str:
            self.stop_sequence = choice["stop_reason"]

    def _take_delta(self, delta: dict[str, Any], logprobs: list[Any]) -> None:
        reasoning = delta.get("reasoning_content")
        if type(reasoning) is not str:
            reasoning = delta.get("reasoning")
        self._add_text(Kind.REASONING, reasoning)
        for block in _objects(delta.get("thinking_blocks")):
            self._sign(block)
        text = _joined(delta.get("content"))
        self._add_text(Kind.TEXT, text)
        if text and logprobs:
            self.blocks[-1].logprobs += logprobs
        self._add_text(Kind.REFUSAL, delta.get("refusal"))
        for position, call in enumerate(_objects(delta.get("tool_calls"))):
            self._add_call(call, position)

    def _sign(self, told: dict[str, Any]) -> None:
        last = next((b for b in reversed(self.blocks) if b.kind is Kind.REASONING), None)
        if last is not None and type(told.get("signature")) is str:
            last.signature = told["signature"]

    def _add_text(self, kind: Kind, text: Any) -> None:
        if type(text) is not str or not text:
            return
        if not self.blocks or self.blocks[-1].kind is not kind:
            block = self._new(kind)
        else:
            block = self.blocks[-1]
        block.parts.append(text)

    def _new(self, kind: Kind) -> Block:
        block = Block(kind, len(self.blocks))
        self.blocks.append(block)
        return block

    def _add_call(self, call: dict[str, Any], position: int) -> None:
        given = call.get("index")
        index = given if type(given) is int else position
        block = self._by_index.get(index)
        if block is None:
            block = self._by_index[index] = self._new(Kind.TOOL)
        if type(call.get("id")) is str and not block.call_id:
            block.call_id = call["id"]
        block.custom = block.custom or call.get("type") == "custom" or "custom" in call
        told = call.get("custom") if block.custom else call.get("function")
        if type(told) is not dict:
            return
        if type(told.get("name")) is str and not block.name:
            block.name = told["name"]
        text = told.get("input" if block.custom else "arguments")
        if type(text) is str and text:
            block.parts.append(text)

    def _steps(self, *, at_end: bool) -> Iterator[Step]:
        while self._at < len(self.blocks):
            block = self.blocks[self._at]
            last = self._at == len(self.blocks) - 1
            if block.kind is Kind.TOOL and not block.name and not at_end:
                return
            if not block.begun:
                block.begun = True
                block.call_id = block.call_id or f"call_{block.number}"
                yield Step(Told.BEGUN, block)
            if block.told < len(block.parts):
                yield block.more()
            if not at_end and not block.is_whole(last=last):
                return
            yield Step(Told.ENDED, block)
            self._at += 1


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if type(one) is dict] if type(value) is list else []


def _logprobs(choice: dict[str, Any]) -> list[Any]:
    told = choice.get("logprobs")
    return _objects(told.get("content")) if type(told) is dict else []


def _joined(content: Any) -> Any:
    if type(content) is not list:
        return content
    return "".join(p["text"] for p in _objects(content) if type(p.get("text")) is str)


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
