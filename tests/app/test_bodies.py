"""What a route gets of a body, and what it is spared."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from helix.app.bodies import Bodies
from helix.core.config import load_settings
from helix.core.room import NoRoom, Room

JSON = {"headers": [(b"content-type", b"application/json")]}
FILE = {"headers": [(b"content-type", b"application/pdf")]}


def bodies(room: Room | None = None) -> Bodies:
    settings = load_settings({}, home=Path("/nowhere"), json_nodes_max=1_000)
    return Bodies(settings, room or Room(40_000_000))


async def received(scope: Any, pieces: Iterable[bytes], room: Room | None = None) -> bytes:
    """Return a body as a route receives it."""
    left = [*pieces]

    async def receive() -> Any:
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    told = b""
    with bodies(room).of(scope, receive) as receive_body:
        while True:
            message = await receive_body()
            told += message["body"]
            if not message["more_body"]:
                return told


@pytest.mark.parametrize("scope", [JSON, FILE], ids=["json", "file"])
async def test_body_arrives_as_it_was_sent(scope: Any) -> None:
    pieces = [b'{"text": "', b"word, [{" * 100_000, b'"}']
    assert await received(scope, pieces) == b"".join(pieces)


@pytest.mark.parametrize(
    "body",
    [
        b"{" + b",".join(b'"key%d":1' % n for n in range(20_000)) + b"}",
        b"[" + b",".join([b"1"] * 50_000) + b"]",
        b"[" + b",".join([b"[]"] * 50_000) + b"]",
        b"[" * 100_000,
        b'["' + rb"\"" * 50_000 + b'"' + b",2" * 5_000 + b"]",
    ],
    ids=["keys", "numbers", "arrays", "deep", "after escapes"],
)
async def test_json_of_too_many_parts_is_refused(body: bytes) -> None:
    with pytest.raises(HTTPException) as caught:
        await received(JSON, [body[:70_000], body[70_000:]])
    assert caught.value.status_code == 400
    assert await received(FILE, [body]) == body


async def test_large_bodies_share_the_room_and_give_it_back() -> None:
    room = Room(1_000_000)
    first = room.share()
    first.take(900_000)
    with pytest.raises(HTTPException) as caught:
        await received(FILE, [b"x" * 60_000, b"x" * 60_000, b"x" * 60_000], room)
    assert caught.value.status_code == 503
    assert room.held == 900_000
    with pytest.raises(NoRoom):
        room.share().take(100_001)
    first.give_back()
    first.give_back()
    assert room.held == 0
    await received(FILE, [b"x" * 60_000] * 10, room)
    assert room.held == 0
