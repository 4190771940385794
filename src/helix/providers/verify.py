"""Verification: small checks run against a provider's model, and the score they lead to.

    score         10 x (0.5 correctness + 0.3 availability + 0.2 speed), 0 to 10, two decimals
    correctness   the weight of the checks passed over the weight of the checks that apply:
                  echo 2 (gives one word back exactly), arithmetic 1, json_schema 2 (an object of
                  the schema asked for, nothing around it), tool 2 (calls the tool with the argument
                  asked for), stream 2 (several content pieces, then [DONE]), stop 1 (ends before
                  the stop word)
    availability  (asked - failed + r) / (asked + 1) over the probes and calls of the last 7 days,
                  r being 1 when this verification reached the provider, else 0
    speed         the fleet's median time to the first content over this provider's, at most 1.
                  This provider's: the mean of its calls of 7 days, without any the median of the
                  checks. Without another provider to compare with: 1 when reached.

A provider that cannot be reached has 0 for speed and correctness. Tools and JSON schema are left
out for models of which the catalogue says that they have none; a check that does not fit the wire
(422, 400 with field_unsupported) counts as failed. A verification makes at most six small calls,
about 600 tokens; they are no calls of any user and are kept in provider_verifications alone.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from helix.core.errors import HelixError
from helix.providers.facts import ModelFacts
from helix.providers.health_store import Kept
from helix.providers.types import Call, Reply, Route, Timeouts

__all__ = ["Checked", "Outcome", "run_checks", "score_of"]

CHECK_TIMEOUT_S = 60.0
ANSWER_BYTES_MAX = 1_000_000
TOKENS_PER_ANSWER = 1_024  # reasoning models think first
_WORD = "heliotrope-4711"
_WEIGHTS = {"echo": 2, "arithmetic": 1, "json_schema": 2, "tool": 2, "stream": 2, "stop": 1}
_TIMEOUTS = Timeouts(connect_s=10.0, first_byte_s=CHECK_TIMEOUT_S, between_s=CHECK_TIMEOUT_S)
_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}

Open = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Checked:
    """How one check went; `passed` is None when it does not apply."""

    passed: bool | None
    note: str
    first_ms: float | None = None
    tokens: int = 0
    reached: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """All checks of one model."""

    checks: Mapping[str, Checked]
    duration_ms: int

    @property
    def reached(self) -> bool:
        """Whether the provider gave any answer."""
        return any(check.reached for check in self.checks.values())

    @property
    def correctness(self) -> float:
        """The weight passed over the weight that applies, 0 to 1."""
        applies = {n: c for n, c in self.checks.items() if c.passed is not None}
        whole = sum(_WEIGHTS[name] for name in applies)
        return sum(_WEIGHTS[n] for n, c in applies.items() if c.passed) / whole if whole else 0.0

    @property
    def first_ms(self) -> float | None:
        """The median time to the first content, in ms."""
        times = [c.first_ms for c in self.checks.values() if c.first_ms is not None]
        return statistics.median(times) if times else None


def score_of(
    model: str,
    outcome: Outcome,
    *,
    asked: int,
    failed: int,
    own_ms: float | None,
    fleet_ms: list[float],
) -> Kept:
    """Return the score by the formula above. `fleet_ms` are the other providers' times."""
    reached = int(outcome.reached)
    availability = (asked - failed + reached) / (asked + 1)
    mine = own_ms if own_ms is not None else outcome.first_ms
    speed = float(reached)
    if reached and mine and fleet_ms:
        speed = min(1.0, statistics.median([*fleet_ms, mine]) / mine)
    correctness = outcome.correctness
    score = 10 * (0.5 * correctness + 0.3 * availability + 0.2 * speed)
    return Kept(
        model=model,
        score=Decimal(f"{score:.2f}"),
        availability=Decimal(f"{availability:.4f}"),
        speed=Decimal(f"{speed:.4f}"),
        correctness=Decimal(f"{correctness:.4f}"),
        checks={
            name: {"passed": check.passed, "note": check.note, "weight": _WEIGHTS[name]}
            for name, check in outcome.checks.items()
        },
        tokens=sum(check.tokens for check in outcome.checks.values()),
        duration_ms=outcome.duration_ms,
    )


async def run_checks(open_call: Open, route: Route, facts: ModelFacts) -> Outcome:
    """Run the checks one after the other; trouble fails a check and is never raised."""
    began_s = time.perf_counter()
    checks: dict[str, Checked] = {}
    for name in _WEIGHTS:
        needed = {"json_schema": "json_schema", "tool": "tools"}.get(name)
        if facts.known and needed is not None and needed not in facts.capabilities:
            checks[name] = Checked(None, "the catalogue says that the model has none")
            continue
        checks[name] = await _check(open_call, route, name)
        if name == "echo" and not checks[name].reached:
            rest = [other for other in _WEIGHTS if other != name]
            checks |= {other: Checked(False, "not reached") for other in rest}
            break
    return Outcome(checks, round((time.perf_counter() - began_s) * 1_000))


def _request(name: str) -> dict[str, Any]:
    asked = {
        "echo": f"Reply with exactly this word and nothing else: {_WORD}",
        "arithmetic": "What is 17 times 23? Reply with the number only.",
        "json_schema": "Name the capital of France and its population as JSON.",
        "tool": "What is the weather in Oslo? Use the tool.",
        "stream": "Count from one to ten in words, separated by commas.",
        "stop": "Write the numbers from 1 to 9 in digits, separated by single spaces.",
    }[name]
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": asked}],
        "max_tokens": TOKENS_PER_ANSWER,
    }
    if name == "json_schema":
        schema = {"name": "capital", "strict": True, "schema": _SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif name == "tool":
        body["tools"] = [_TOOL]
    elif name == "stream":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    elif name == "stop":
        body["stop"] = ["5"]
    return body


async def _check(open_call: Open, route: Route, name: str) -> Checked:
    body = {"model": route.model, **_request(name)}
    stream = bool(body.get("stream"))
    call = Call(route, msgspec.json.encode(body), stream, "helix-verify", timeouts=_TIMEOUTS)
    began_s, first_ms, data = time.perf_counter(), None, bytearray()
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            reply = await open_call(call)
            try:
                while part := await reply.chunk():
                    first_ms = first_ms or (time.perf_counter() - began_s) * 1_000
                    data += part
                    if len(data) > ANSWER_BYTES_MAX:
                        return Checked(False, "its answer is too long", reached=True)
            finally:
                reply.close()
    except TimeoutError:
        return Checked(False, f"no answer within {CHECK_TIMEOUT_S:g} s")
    except HelixError as exc:
        return Checked(False, exc.code, reached=exc.status < 500)
    if reply.status != 200:
        return Checked(False, f"status {reply.status}", reached=reply.status < 500)
    try:
        return _judged(name, bytes(data), first_ms)
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, AttributeError, ValueError):
        return Checked(False, "its answer has not the form of a chat answer", reached=True)


def _judged(name: str, data: bytes, first_ms: float | None) -> Checked:
    if name == "stream":
        return _judge_stream(data, first_ms)
    answer = msgspec.json.decode(data)
    message = answer["choices"][0]["message"]
    text = (message.get("content") or "").strip()
    if name == "tool":
        passed, note = _judge_tool(message)
    elif name == "json_schema":
        passed, note = _judge_json(text)
    elif name == "echo":
        passed, note = text == _WORD, "the word" if text == _WORD else "other text"
    elif name == "arithmetic":
        passed = text.rstrip(".") == "391"
        note = "391" if passed else "another result"
    else:
        passed = bool(text) and "5" not in text and "4" in text
        note = "stopped" if passed else "did not stop there"
    return Checked(passed, note, first_ms, _tokens(answer), reached=True)


def _judge_json(text: str) -> tuple[bool, str]:
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False, "no JSON"
    fits = (
        isinstance(found, dict)
        and found.keys() == {"city", "population"}
        and isinstance(found["city"], str)
        and type(found["population"]) is int
    )
    return fits, "fits the schema" if fits else "does not fit the schema"


def _judge_tool(message: dict[str, Any]) -> tuple[bool, str]:
    calls = message.get("tool_calls") or []
    if not calls:
        return False, "called no tool"
    function = calls[0]["function"]
    arguments = msgspec.json.decode(function["arguments"])
    right = function["name"] == "get_weather" and "oslo" in str(arguments.get("city", "")).lower()
    return right, "called the tool" if right else "called it wrongly"


def _judge_stream(data: bytes, first_ms: float | None) -> Checked:
    pieces, done, tokens = 0, False, 0
    for line in data.decode().splitlines():
        if not line.startswith("data:"):
            continue
        told = line.removeprefix("data:").strip()
        if told == "[DONE]":
            done = True
            continue
        chunk = msgspec.json.decode(told)
        tokens = max(tokens, _tokens(chunk))
        pieces += any((c.get("delta") or {}).get("content") for c in chunk.get("choices") or [])
    passed = done and pieces > 1
    note = f"{pieces} pieces" if done else "it did not end with [DONE]"
    return Checked(passed, note, first_ms, tokens, reached=True)


def _tokens(answer: dict[str, Any]) -> int:
    used = (answer.get("usage") or {}).get("total_tokens", 0)
    return used if type(used) is int and 0 <= used < 1_000_000 else 0
