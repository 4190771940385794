"""What the built-in provider answers, in OpenAI's own formats: pure and deterministic."""

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from helix.core.errors import BadInput
from helix.providers.policy import estimate_tokens
from helix.providers.wires.embeddings import Embeddings, embeddings_answer

__all__ = [
    "ChatAnswer",
    "MockOptions",
    "completion_fields",
    "embedded",
    "moderated",
]

DIMENSIONS = 256
DIMENSIONS_MAX = 4_096
CHOICES_MAX = 128
_FINGERPRINT = "helix-mock"
_WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
_WORD = re.compile(r"\w+")
_LOGPROBS_MAX = 20
_CATEGORIES = ("harassment", "hate", "self-harm", "sexual", "violence")


class MockCall(msgspec.Struct, frozen=True):
    """A call of a tool that the mock is to make; `arguments` is JSON as text."""

    name: str
    arguments: str = "{}"


class MockOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What `helix.mock` may hold; times in milliseconds.

    `status`: refuse with this HTTP status. `break_after`: break off after so many chunks.
    `usage`: false leaves the usage out. `tool_calls`: call these tools instead of talking.
    `reasoning`: think this aloud before the answer. `finish_reason`: end for this reason.
    """

    content: str | None = None
    words: int | None = None
    delay_ms: int = 0
    chunk_ms: int = 0
    status: int = 200
    break_after: int | None = None
    usage: bool = True
    tool_calls: list[MockCall] | None = None
    reasoning: str | None = None
    finish_reason: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: Any = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Format(msgspec.Struct):
    type: str = "text"
    json_schema: dict[str, Any] | None = None


class _Request(msgspec.Struct):
    messages: list[_Message]
    tools: list[dict[str, Any]] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    response_format: _Format | None = None


class _Completion(msgspec.Struct):
    prompt: str | list[str]
    max_tokens: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    logprobs: int | None = None
    stream_options: _StreamOptions | None = None


class _Moderation(msgspec.Struct):
    input: Any


def _decoded(body: bytes, kind: Any, param: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as exc:
        raise BadInput(f"mock: {exc}", param=param) from exc


def text_of(content: Any) -> str:
    """Return the text of a message's content, a text or parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


class ChatAnswer:
    """One answer of chat or of completions, whole or in events; `legacy` is completions' format."""

    def __init__(
        self,
        number: int,
        created: int,
        model: str,
        body: bytes,
        options: MockOptions,
        *,
        legacy: bool = False,
    ) -> None:
        request = completion_fields(body) if legacy else _decoded(body, _Request, "messages")
        kind = "cmpl" if legacy else "chatcmpl"
        self._object = "text_completion" if legacy else "chat.completion"
        self._head = {
            "id": f"{kind}-mock-{number}",
            "created": created,
            "model": f"mock/{model}",
        }
        self._legacy = legacy
        self._request = request
        self._options = options
        self._choices = 1 if request.n is None else request.n
        if not 1 <= self._choices <= CHOICES_MAX:
            raise BadInput(f"n: it must be 1 to {CHOICES_MAX}", param="n")
        self._calls = _calls(request, options, model)
        self._pieces, self._finish = _told(request, options, called=bool(self._calls))
        self._logprobs = _asks_logprobs(request, legacy=legacy)

    def _usage(self) -> dict[str, int]:
        asked = sum(estimate_tokens(text_of(m.content)) for m in self._request.messages)
        told = 10 if self._calls else estimate_tokens("".join(self._pieces))
        told = (told + estimate_tokens(self._options.reasoning or "")) * self._choices
        return {
            "prompt_tokens": asked,
            "completion_tokens": told,
            "total_tokens": asked + told,
        }

    def whole(self) -> bytes:
        """Return the answer as one JSON."""
        answer = {
            **self._head,
            "object": self._object,
            "choices": [self._choice(index) for index in range(self._choices)],
            "system_fingerprint": _FINGERPRINT,
        }
        if self._options.usage:
            answer["usage"] = self._usage()
        return msgspec.json.encode(answer)

    def _choice(self, index: int) -> dict[str, Any]:
        ended = {"index": index, "finish_reason": self._finish}
        told = _logprobs(self._pieces, self._logprobs, legacy=self._legacy)
        text = "".join(self._pieces)
        if self._legacy:
            return {"text": text, "logprobs": told, **ended}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._options.reasoning is not None:
            message["reasoning_content"] = self._options.reasoning
        if self._calls:
            message |= {"content": None, "tool_calls": self._calls}
        return {"message": message, "logprobs": told, **ended}

    def events(self) -> Iterator[bytes]:
        """Return the answer as the events of a stream."""
        asked = self._request.stream_options
        with_usage = asked is not None and asked.include_usage and self._options.usage
        for index in range(self._choices):
            for delta in self._deltas():
                yield self._event(index, delta, None, with_usage=with_usage)
            yield self._event(index, {}, self._finish, with_usage=with_usage)
        if with_usage:
            yield self._line({"choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _deltas(self) -> Iterator[dict[str, Any]]:
        if not self._legacy:
            yield {"role": "assistant", "content": ""}
        if self._options.reasoning is not None:
            yield {"reasoning_content": self._options.reasoning}
        if self._calls:
            yield {"tool_calls": [{"index": n, **call} for n, call in enumerate(self._calls)]}
        else:
            yield from ({"content": piece} for piece in self._pieces)

    def _event(
        self, index: int, delta: dict[str, Any], finish: str | None, *, with_usage: bool
    ) -> bytes:
        piece = delta.get("content")
        told = None
        if piece:
            told = _logprobs([piece], self._logprobs, legacy=self._legacy)
        choice: dict[str, Any] = {"index": index, "logprobs": told, "finish_reason": finish}
        if self._legacy:
            choice["text"] = piece or ""
        else:
            choice["delta"] = delta
        return self._line({"choices": [choice], **({"usage": None} if with_usage else {})})

    def _line(self, rest: dict[str, Any]) -> bytes:
        chunk = {
            **self._head,
            "object": self._object if self._legacy else f"{self._object}.chunk",
            "system_fingerprint": _FINGERPRINT,
            **rest,
        }
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def completion_fields(body: bytes) -> _Request:
    """Return a request of completions as one of chat: the prompt as the user's message."""
    told = _decoded(body, _Completion, "prompt")
    prompt = told.prompt if isinstance(told.prompt, str) else "".join(told.prompt)
    return _Request(
        messages=[_Message("user", prompt)],
        max_tokens=told.max_tokens,
        stream_options=told.stream_options,
        n=told.n,
        stop=told.stop,
        logprobs=told.logprobs,
    )


def _told(request: _Request, options: MockOptions, *, called: bool) -> tuple[list[str], str]:
    """Return the answer in pieces, and why it ends."""
    if options.content is not None:
        pieces = _pieces(options.content)
    elif options.words is not None:
        pieces = [f"{w} " for w in itertools.islice(itertools.cycle(_WORDS), options.words)]
    else:
        said = [text_of(m.content) for m in request.messages if m.role == "user"]
        pieces = _pieces(_formed(said[-1] if said else "", request.response_format))
    pieces = _stopped(pieces, request.stop)
    finish = "tool_calls" if called else "stop"
    most = request.max_completion_tokens or request.max_tokens
    if most is not None and not called and len(pieces) > most:
        pieces, finish = pieces[:most], "length"
    return pieces, options.finish_reason or finish


def _pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + ([words[-1]] if words[-1] else [])


def _stopped(pieces: list[str], stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    text = "".join(pieces)
    found = [at for word in stops if word and (at := text.find(word)) >= 0]
    return _pieces(text[: min(found)]) if found else pieces


def _formed(text: str, form: _Format | None) -> str:
    """Return a text in the form asked for: JSON stays, anything else is put into an example."""
    if form is None or form.type == "text":
        return text
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        schema = (form.json_schema or {}).get("schema")
        made = _example(schema, text, 8) if isinstance(schema, dict) else {"answer": text}
        return msgspec.json.encode(made).decode()
    return text


def _example(schema: Any, text: str, depth: int) -> Any:
    """Return a small value that fits a schema of the common kind."""
    if not isinstance(schema, dict) or depth == 0:
        return text
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object":
        properties = schema.get("properties")
        known = properties if isinstance(properties, dict) else {}
        return {name: _example(one, text, depth - 1) for name, one in known.items()}
    if kind == "array":
        return [_example(schema.get("items"), text, depth - 1)]
    lowest = schema.get("minimum", 0)
    return {"integer": lowest, "number": lowest, "boolean": True, "null": None}.get(str(kind), text)


def _calls(request: _Request, options: MockOptions, model: str) -> list[dict[str, Any]]:
    if options.tool_calls is not None:
        wanted = [(call.name, call.arguments) for call in options.tool_calls]
    elif model == "tools":
        functions = [tool.get("function") for tool in request.tools or []]
        names = [f["name"] for f in functions if isinstance(f, dict) and "name" in f]
        wanted = [(name, "{}") for name in names[:1] if isinstance(name, str)]
    else:
        wanted = []
    return [
        {
            "id": f"call_mock_{number}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
        for number, (name, arguments) in enumerate(wanted, start=1)
    ]


def _asks_logprobs(request: _Request, *, legacy: bool) -> int | None:
    """Return how many alternatives are asked for; None when no probabilities are."""
    if legacy:
        most = request.logprobs if isinstance(request.logprobs, int) else None
    else:
        most = (request.top_logprobs or 0) if request.logprobs else None
    if most is not None and not 0 <= most <= _LOGPROBS_MAX:
        raise BadInput(f"top_logprobs: it must be 0 to {_LOGPROBS_MAX}", param="top_logprobs")
    return most


def _logprobs(pieces: Sequence[str], most: int | None, *, legacy: bool) -> dict[str, Any] | None:
    if most is None:
        return None
    if legacy:
        return {
            "tokens": list(pieces),
            "token_logprobs": [_logprob(piece) for piece in pieces],
            "top_logprobs": [
                {one["token"]: one["logprob"] for one in _alternatives(piece, most)}
                for piece in pieces
            ],
            "text_offset": list(itertools.accumulate(map(len, pieces[:-1]), initial=0)),
        }
    content = [{**_token(p, _logprob(p)), "top_logprobs": _alternatives(p, most)} for p in pieces]
    return {"content": content, "refusal": None}


def _logprob(piece: str) -> float:
    return -round((hashlib.sha256(piece.encode()).digest()[0] + 1) / 512, 6)


def _token(piece: str, logprob: float) -> dict[str, Any]:
    return {"token": piece, "logprob": logprob, "bytes": list(piece.encode())}


def _alternatives(piece: str, most: int) -> list[dict[str, Any]]:
    likely = [_token(piece, _logprob(piece))]
    others = (_token(word, -1.0 - number) for number, word in enumerate(itertools.cycle(_WORDS)))
    return [*likely, *itertools.islice(others, max(0, most - 1))][:most]


def embedded(asked: Embeddings, model: str) -> dict[str, Any]:
    """Return a unit vector for each text: alike texts lie near, the same text is the same."""
    dimensions = asked.dimensions or DIMENSIONS
    if dimensions > DIMENSIONS_MAX:
        raise BadInput(f"dimensions: at most {DIMENSIONS_MAX}", param="dimensions")
    return embeddings_answer(
        [_vector(text, dimensions) for text in asked.texts],
        model=f"mock/{model}",
        as_base64=asked.as_base64,
        prompt_tokens=sum(estimate_tokens(text) for text in asked.texts),
    )


def _vector(text: str, dimensions: int) -> list[float]:
    """Return the signed hashed words and trigrams of a text, scaled to length 1."""
    vector = [0.0] * dimensions
    for word in _WORD.findall(text.lower()) or [text]:
        padded = f" {word} "
        grams = [padded[at : at + 3] for at in range(max(1, len(padded) - 2))]
        for gram, weight in [(word, 2.0), *((gram, 0.5) for gram in grams)]:
            digest = hashlib.sha256(gram.encode("utf-8", "replace")).digest()
            at = int.from_bytes(digest[:4]) % dimensions
            vector[at] += weight if digest[4] & 1 else -weight
    length = math.sqrt(sum(number * number for number in vector))
    if length == 0.0:
        return [1.0, *vector[1:]]
    return [number / length for number in vector]


def moderated(body: bytes, model: str, number: int) -> dict[str, Any]:
    """Return a verdict for each text: a category is found when its name stands in the text."""
    told = _decoded(body, _Moderation, "input").input
    parts = told if isinstance(told, list) and told else [told]
    texts = [text_of([part]) if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise BadInput("input: send a text, or a list of texts", param="input")
    return {
        "id": f"modr-mock-{number}",
        "model": f"mock/{model}",
        "results": [_verdict(text.lower()) for text in texts],
    }


def _verdict(text: str) -> dict[str, Any]:
    found = {name: name in text for name in _CATEGORIES}
    scores = {name: 1.0 if is_there else 0.0 for name, is_there in found.items()}
    return {"flagged": any(found.values()), "categories": found, "category_scores": scores}
