"""Bodies of requests to everything but /v1, looked at before a route gets them.

FastAPI reads JSON whole, in the event loop, into an object for each value: a million of them would
hold up everybody. So what is large and says that it is JSON is gathered here, and refused when it
has too many parts; no object is made of it before.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.exceptions import HTTPException

from helix.core.config import Settings
from helix.core.room import NoRoom, Room, Share

__all__ = ["Bodies"]

Receive = Callable[[], Awaitable[Any]]

_SMALL_BYTES = 65_536
_NOT_SHAPE = bytes(set(range(256)) - set(b'[{,"'))
_STRING = re.compile(rb'"[^"]*"')


class Bodies:
    """Bounds the bodies of requests; all of them share the room."""

    def __init__(self, settings: Settings, room: Room) -> None:
        self._bytes_max = max(settings.body_bytes_max, settings.knowledge_file_bytes_max)
        self._parts_max = settings.json_nodes_max
        self._room = room

    @contextmanager
    def of(self, scope: Any, receive: Receive) -> Iterator[Receive]:
        """Yield what a route receives its body from; it raises HTTPException for a wrong one."""
        share = self._room.share()
        try:
            yield self._json(receive, share) if _is_json(scope) else self._raw(receive, share)
        finally:
            share.give_back()

    def _raw(self, receive: Receive, share: Share) -> Receive:
        length = 0

        async def receive_some() -> Any:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > self._bytes_max:
                raise HTTPException(413, f"the request body is larger than {self._bytes_max} bytes")
            if length > _SMALL_BYTES:
                try:
                    share.take(len(message.get("body", b"")))
                except NoRoom as exc:
                    raise HTTPException(503, exc.message) from exc
            return message

        return receive_some

    def _json(self, receive: Receive, share: Share) -> Receive:
        some, gathered = self._raw(receive, share), False

        async def receive_all() -> Any:
            nonlocal gathered
            message = await some()
            if gathered or message["type"] != "http.request":
                return message
            gathered = True
            parts = bytearray(message.get("body", b""))
            while message.get("more_body", False):
                message = await some()
                if message["type"] != "http.request":
                    return message
                parts += message.get("body", b"")
            body = bytes(parts)
            most = self._parts_max
            if len(body) > _SMALL_BYTES and await asyncio.to_thread(_has_more_parts, body, most):
                raise HTTPException(
                    400, f"the body has more than json_nodes_max ({most}) texts and values"
                )
            return {"type": "http.request", "body": body, "more_body": False}

        return receive_all


def _is_json(scope: Any) -> bool:
    """Say whether a route takes the body for JSON: what says so, and what says nothing."""
    told = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return not told or b"json" in told.lower()


def _has_more_parts(body: bytes, most: int) -> bool:
    """Say whether JSON has more than `most` values and keys.

    No loop over characters: escapes and all but quotes, brackets and commas are deleted, then the
    strings. What counting alone lets through is not looked at further.
    """
    signs = body.count(b",") + body.count(b"[") + body.count(b"{")
    if signs <= most and body.count(b'"') <= 2 * most:
        return False
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_SHAPE)
    if bare.count(b'"') > 2 * most:
        return True
    return len(_STRING.sub(b"", bare)) > most
