"""Server-sent events: the one loop behind every stream that follows committed rows.

A stream reads what is new, tells it, and waits. It polls: a notification in the transaction that
writes an event would make every such commit take one lock after another (docs/tasks.md), while
asking an index twice a second costs next to nothing. Whoever has something better passes `wait`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["DOCUMENTED", "KEEP_ALIVE_S", "POLL_S", "STREAM_S_MAX", "Told", "follow", "poll"]

POLL_S = 0.5
KEEP_ALIVE_S = 15.0
STREAM_S_MAX = 3_600.0
DOCUMENTED: Mapping[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
"""What a route that answers with a stream says of itself in the OpenAPI document."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event: its id, which a client names in Last-Event-ID, its name, its data in one line."""

    id: str
    event: str
    data: bytes


async def poll(timeout_s: float) -> None:
    """Wait for the next look."""
    await asyncio.sleep(min(POLL_S, timeout_s))


async def follow(
    read: Callable[[], Awaitable[tuple[Sequence[Told], bool]]],
    *,
    wait: Callable[[float], Awaitable[object]] = poll,
    keep_alive_s: float = KEEP_ALIVE_S,
    stream_s_max: float = STREAM_S_MAX,
) -> AsyncIterator[bytes]:
    """Yield a stream until `read` says that it has ended, or for `stream_s_max` seconds.

    `read` returns what is new since it was last called, in order, and whether nothing can follow;
    it must hold no connection afterwards. While there is nothing new, `wait` is called with the
    seconds it may take at most, and after `keep_alive_s` of silence a comment is sent, so that
    whoever is gone is noticed. A stream that ended for its time is taken up by Last-Event-ID.
    """
    yield b": watching\n\n"
    loop = asyncio.get_running_loop()
    end_at, quiet_at = loop.time() + stream_s_max, loop.time()
    while (now_s := loop.time()) < end_at:
        told, ended = await read()
        for one in told:
            yield b"id: %s\nevent: %s\ndata: %s\n\n" % (
                one.id.encode(),
                one.event.encode(),
                one.data,
            )
        if ended:
            return
        if told:
            quiet_at = now_s
            await asyncio.sleep(0)
            continue
        if now_s - quiet_at >= keep_alive_s:
            quiet_at = now_s
            yield b": still here\n\n"
        await wait(max(0.0, min(quiet_at + keep_alive_s, end_at) - now_s))
