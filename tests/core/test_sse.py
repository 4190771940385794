"""Server-sent events: every stream's loop, without a server or a clock that is waited for."""

import asyncio
from collections.abc import Sequence

from helix.core.sse import Told, follow


async def test_what_is_new_is_told_once_in_order_and_the_end_ends_it() -> None:
    pages: list[tuple[Sequence[Told], bool]] = [
        ([Told("1", "said", b'{"a":1}'), Told("2", "said", b"{}")], False),
        ([], False),
        ([Told("3", "over", b"null")], True),
    ]
    waits: list[float] = []

    async def read() -> tuple[Sequence[Told], bool]:
        return pages.pop(0)

    async def wait(timeout_s: float) -> None:
        waits.append(timeout_s)

    told = b"".join([part async for part in follow(read, wait=wait)])
    assert told == (
        b": watching\n\n"
        b'id: 1\nevent: said\ndata: {"a":1}\n\n'
        b"id: 2\nevent: said\ndata: {}\n\n"
        b"id: 3\nevent: over\ndata: null\n\n"
    )
    assert len(waits) == 1
    assert 14 < waits[0] <= 15


async def test_silence_is_broken_by_comments_and_the_stream_ends_in_time() -> None:
    async def nothing() -> tuple[Sequence[Told], bool]:
        return [], False

    async with asyncio.timeout(30):
        told = [
            part
            async for part in follow(
                nothing, wait=asyncio.sleep, keep_alive_s=0.01, stream_s_max=0.1
            )
        ]
    assert told[0] == b": watching\n\n"
    assert set(told[1:]) == {b": still here\n\n"}


async def test_an_end_without_events_ends_at_once() -> None:
    async def over() -> tuple[Sequence[Told], bool]:
        return [], True

    assert [part async for part in follow(over)] == [b": watching\n\n"]
