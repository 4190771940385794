"""Telling a recorded answer again: whole or as a stream, in the API of the client. Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec

from helix.gateway.dialects.responses_out import readdressed
from helix.gateway.dialects.types import Dialect
from helix.gateway.native import canonical_of
from helix.gateway.sse import DONE_EVENT
from helix.gateway.types import CallRequest

__all__ = ["chunk_event", "chunks_of", "stream_again", "whole_again"]

_PIECE_CHARS = 2_048
_OF_HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")


def whole_again(raw: bytes, dialect: Dialect, request: CallRequest, request_id: str) -> bytes:
    """Return the body of a recorded answer as the client first got it.

    `request_id` is that of the call that was recorded.
    """
    if dialect.identity:
        return raw
    answer = msgspec.json.decode(raw)
    if canonical_of(answer, raw) is not answer:  # it was passed through as the provider sent it
        is_response = answer.get("object") == "response"
        return readdressed(raw, str(answer.get("id", "")), request_id) if is_response else raw
    return dialect.whole(answer, request, request_id)


def stream_again(
    raw: bytes, dialect: Dialect, request: CallRequest, request_id: str
) -> Iterator[bytes]:
    """Yield a recorded answer as a stream: the same content, whatever it was cut into before."""
    answer = canonical_of(msgspec.json.decode(raw), raw)
    if dialect.identity:
        yield b"".join(map(chunk_event, chunks_of(answer, include_usage=request.include_usage)))
        yield DONE_EVENT
        return
    renderer = dialect.stream(request, request_id)
    yield b"".join(map(renderer.chunk, chunks_of(answer, include_usage=True)))
    yield renderer.end()


def chunk_event(chunk: dict[str, Any]) -> bytes:
    """Return a canonical chunk as an event."""
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def chunks_of(answer: dict[str, Any], *, include_usage: bool) -> Iterator[dict[str, Any]]:
    """Yield the chunks of a stream that tells `answer`, of chats and of text completions."""
    is_text = answer.get("object") == "text_completion"
    head = {name: answer[name] for name in _OF_HEAD if name in answer}
    head["object"] = "text_completion" if is_text else "chat.completion.chunk"
    for number, choice in enumerate(answer.get("choices") or []):
        index = choice.get("index", number)
        parts = _texts(choice) if is_text else _deltas(choice)
        for part in parts:
            yield {**head, "choices": [{"index": index, **part, "finish_reason": None}]}
        nothing: dict[str, Any] = {"text": ""} if is_text else {"delta": {}}
        end = {**nothing, "finish_reason": choice.get("finish_reason") or "stop"}
        yield {**head, "choices": [{"index": index, **end}]}
    if include_usage and answer.get("usage") is not None:
        yield {**head, "choices": [], "usage": answer["usage"]}


def _texts(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for piece in _pieces(choice.get("text") or ""):
        yield {"text": piece, "logprobs": choice.get("logprobs")}


def _deltas(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    message = choice.get("message") or {}
    yield {"delta": {"role": message.get("role") or "assistant", "content": ""}}
    logprobs = choice.get("logprobs")
    for name, value in message.items():
        if value is None or name == "role":
            continue
        if type(value) is str:
            for piece in _pieces(value):
                told = {"delta": {name: piece}}
                yield {**told, "logprobs": logprobs} if name == "content" and logprobs else told
                logprobs = None if name == "content" else logprobs
        elif name == "tool_calls" and type(value) is list:
            numbered = [{"index": n, **call} for n, call in enumerate(value)]
            yield {"delta": {name: numbered}}
        else:
            yield {"delta": {name: value}}


def _pieces(text: str) -> Iterator[str]:
    for begin in range(0, len(text), _PIECE_CHARS):
        yield text[begin : begin + _PIECE_CHARS]
