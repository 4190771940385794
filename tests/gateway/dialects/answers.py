"""Answers of every shape, whole and cut into chunks in every way, for Hypothesis."""

import itertools
import random
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import strategies as st

from helix.gateway.intake import IntakeLimits
from helix.gateway.sse import Transcript

LIMITS = IntakeLimits(messages_max=100, json_depth_max=16)
REQUEST_ID = "0190f5f0-0000-7000-8000-00000000abcd"

texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)
words = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,11}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=3)


@dataclass(frozen=True)
class Tool:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a model told: reasoning, text, a refusal, calls of tools."""

    reasoning: str
    text: str
    refusal: str
    tools: tuple[Tool, ...]
    finish: str
    prompt_tokens: int
    completion_tokens: int
    cached: int

    @property
    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": min(self.cached, self.prompt_tokens)},
        }


answers = st.builds(
    Answer,
    reasoning=texts,
    text=texts,
    refusal=st.just("") | texts,
    tools=st.lists(st.builds(Tool, name=words, arguments=objects), max_size=3).map(tuple),
    finish=st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
    prompt_tokens=st.integers(0, 10_000),
    completion_tokens=st.integers(0, 10_000),
    cached=st.integers(0, 10_000),
)


def cut(text: str, shuffle: random.Random) -> list[str]:
    """Return a text in pieces, at random."""
    places = sorted(shuffle.randrange(len(text) + 1) for _ in range(shuffle.randrange(4)))
    bounds = [0, *places, len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


def chunks_of(answer: Answer, shuffle: random.Random, *, mixed: bool) -> list[dict[str, Any]]:
    """Return an answer in chunks, at random; `mixed`: calls of tools in between one another."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning_content": piece} for piece in cut(answer.reasoning, shuffle)]
    deltas += [{"content": piece} for piece in cut(answer.text, shuffle)]
    deltas += [{"refusal": piece} for piece in cut(answer.refusal, shuffle)]
    waiting: list[list[dict[str, Any]]] = []
    for index, tool in enumerate(answer.tools):
        told = msgspec.json.encode(tool.arguments).decode()
        begin = {
            "index": index,
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": tool.name, "arguments": ""},
        }
        more = [{"index": index, "function": {"arguments": p}} for p in cut(told, shuffle)]
        waiting.append([begin, *more])
    if mixed:
        deltas += [{"tool_calls": [one.pop(0)]} for one in waiting]
    while waiting:
        one = shuffle.choice(waiting) if mixed else waiting[0]
        if not one:
            waiting.remove(one)
            continue
        deltas.append({"tool_calls": [one.pop(0)]})
    head = {"id": "up_1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m"}
    chunks = [{**head, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish}]})
    chunks.append({**head, "choices": [], "usage": answer.usage})
    return chunks


def whole_of(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the canonical answer that chunks tell, put together as the gateway does."""
    transcript = Transcript()
    for chunk in msgspec.json.decode(msgspec.json.encode(chunks)):
        transcript.take(chunk)
    told = transcript.as_json()
    assert told is not None
    return msgspec.json.decode(told)  # type: ignore[no-any-return]


def events_of(data: bytes) -> list[tuple[str | None, dict[str, Any]]]:
    """Return the events in a stream: name and data. Comments and [DONE] are left out."""
    found = []
    assert data.endswith(b"\n\n")
    for event in data.decode().split("\n\n")[:-1]:
        if event.startswith(":"):
            continue
        lines = dict(line.split(": ", 1) for line in event.split("\n"))
        if lines["data"] != "[DONE]":
            found.append((lines.get("event"), msgspec.json.decode(lines["data"])))
    return found
