"""Replies of providers that do not speak OpenAI's format, translated as they arrive.

Nothing is held but the piece that is translated; a whole answer is held whole, within
answer_bytes_max. Large ones are read in a thread, so that others do not wait for it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from helix.core.errors import HelixError
from helix.providers.errors import UpstreamBroken
from helix.providers.http import HttpClient, HttpReply, Target
from helix.providers.listing import read_all
from helix.providers.types import Call, Reply
from helix.providers.wires.chunks import Translator

__all__ = ["MadeReply", "Refused", "Spoken", "TranslatedReply", "exchange", "in_thread_if_large"]

T = TypeVar("T")

_READ_HERE_BYTES = 500_000
_REFUSAL_BYTES_MAX = 65_536
_ALL = 2**62  # answer_bytes_max bounds it
_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


class MadeReply:
    """A reply that is there as a whole; see `types.Reply`."""

    def __init__(self, status: int, body: bytes, *, retry_after: str | None = None) -> None:
        self.status = status
        self.content_type = "application/json"
        self.retry_after = retry_after
        self._parts = deque([body])

    async def chunk(self) -> bytes:
        """Return the body, then b""."""
        return self._parts.popleft() if self._parts else b""

    def close(self) -> None:
        """Nothing is held."""


class TranslatedReply:
    """A stream, translated as it is read; see `types.Reply`."""

    content_type = "text/event-stream"

    def __init__(
        self, name: str, reply: HttpReply, translator: Translator, request_id: str
    ) -> None:
        self.status = reply.status
        self.retry_after = reply.retry_after
        self._name = name
        self._reply = reply
        self._translator = translator
        self._over = False
        self._id = f"chatcmpl-{request_id}"

    async def chunk(self) -> bytes:
        """Return the next bytes, b"" at the end; without [DONE] when the answer was cut."""
        translator = self._translator
        while not self._over:
            data = await self._reply.chunk()
            try:
                told = translator.feed(data) if data else translator.end()
            except ValueError as exc:
                raise UpstreamBroken(
                    self._name, "a part of its stream is not what it should be"
                ) from exc
            self._over = not data or translator.done
            if told or self._over:
                for chunk in told:
                    if not chunk.get("id", "x"):
                        chunk["id"] = self._id
                out = b"".join([b"data: " + _encode(chunk) + b"\n\n" for chunk in told])
                return out + _DONE if translator.done else out
        return b""

    def close(self) -> None:
        """Give the connection back, or cut it."""
        self._reply.close()


class Refused(NamedTuple):
    """A refusal in OpenAI's format; `status` and `retry_after` where the body tells them better."""

    body: dict[str, Any]
    status: int | None = None
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Spoken:
    """How the answer to one call is translated; each raises ValueError for what it cannot read.

    `stream_type` is the media type of this wire's streams; `translator` is there for a stream.
    """

    stream_type: str
    translator: Translator | None
    whole: Callable[[bytes], dict[str, Any]]
    refusal: Callable[[Any], Refused]


async def exchange(
    http: HttpClient, call: Call, target: Target, body: bytes, spoken: Spoken
) -> Reply:
    """Send a call in another wire and return its answer in OpenAI's format.

    Raises what `types.Adapter.open` does.
    """
    reply = await http.send(target, body, request_id=call.request_id, timeouts=call.timeouts)
    streams = spoken.translator is not None
    try:
        if reply.status != 200:
            return _refused(reply, await _some(reply), spoken)
        if spoken.translator is not None and reply.content_type == spoken.stream_type:
            return TranslatedReply(target.name, reply, spoken.translator, call.request_id)
        told = await read_all(reply, _REFUSAL_BYTES_MAX if streams else _ALL)
        if streams:
            return _no_stream(target.name, reply, told, spoken)
        answer = await in_thread_if_large(told, lambda: _encode(spoken.whole(told)))
    except ValueError as exc:
        raise UpstreamBroken(target.name, f"its answer cannot be read ({exc})") from exc
    finally:
        if not (streams and reply.status == 200 and reply.content_type == spoken.stream_type):
            reply.close()
    return MadeReply(200, answer)


async def in_thread_if_large(body: bytes, work: Callable[[], T]) -> T:
    """Do `work` on a body here, or in a thread when that takes milliseconds."""
    return work() if len(body) <= _READ_HERE_BYTES else await asyncio.to_thread(work)


async def _some(reply: HttpReply) -> bytes:
    """Return the beginning of a refusal; that it is long or breaks off makes it no less one."""
    body = bytearray()
    with contextlib.suppress(HelixError):
        while len(body) < _REFUSAL_BYTES_MAX and (data := await reply.chunk()):
            body += data
    return bytes(body[:_REFUSAL_BYTES_MAX])


def _refused(reply: HttpReply, body: bytes, spoken: Spoken) -> MadeReply:
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = None
    refused = spoken.refusal(told)
    return MadeReply(
        refused.status or reply.status,
        _encode(refused.body),
        retry_after=reply.retry_after or refused.retry_after,
    )


def _no_stream(name: str, reply: HttpReply, body: bytes, spoken: Spoken) -> MadeReply:
    """Return an error that was sent as a success; raises UpstreamBroken for anything else."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = None
    if isinstance(told, list) and told:
        told = told[0]
    if isinstance(told, dict) and told.get("error") is not None:
        return MadeReply(200, _encode(spoken.refusal(told).body))
    raise UpstreamBroken(name, f"it is {reply.content_type[:60] or 'untyped'}, not a stream")
