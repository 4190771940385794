"""Answers that are wrong, hostile or endless: a named error, in time, within bounds."""

import asyncio
import gzip
import resource
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from helix.gateway.policy import read_usage
from helix.providers.errors import (
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
)
from helix.providers.http import HttpLimits
from helix.providers.types import Timeouts, Wire
from tests.fakes.wire_upstream import Fault
from tests.providers.rig import Rig, rig_of

TRANSLATED = [Wire.ANTHROPIC, Wire.GEMINI, Wire.OLLAMA]
JSON = {"content-type": "application/json"}
STREAMS = {
    Wire.ANTHROPIC: "text/event-stream",
    Wire.GEMINI: "text/event-stream",
    Wire.OLLAMA: "application/x-ndjson",
}
WHOLE: dict[Wire, Any] = {
    Wire.ANTHROPIC: {
        "type": "message",
        "id": "m",
        "model": "c",
        "content": [{"type": "text", "text": "TEXT"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": "USAGE", "output_tokens": 1},
    },
    Wire.GEMINI: {
        "candidates": [{"content": {"parts": [{"text": "TEXT"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": "USAGE", "candidatesTokenCount": 1},
    },
    Wire.OLLAMA: {
        "model": "l",
        "message": {"role": "assistant", "content": "TEXT"},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": "USAGE",
        "eval_count": 1,
    },
}


@pytest.fixture(params=TRANSLATED, ids=str)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    limits = HttpLimits(2.0, 5.0, 5.0, 2_000_000)
    async with rig_of(request.param, limits) as made:
        yield made


def whole_with(wire: Wire, *, text: bytes = b"x", usage: bytes = b"1") -> bytes:
    body = msgspec.json.encode(WHOLE[wire])
    return body.replace(b"TEXT", text).replace(b'"USAGE"', usage)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\xff\x00\xff",
        b"<html></html>",
        b'{"id":"x","choices":[{"index":0,"mess',
        b'{"message":' + b"[" * 100_000,
        b"[]",
        b"17",
        b'"text"',
        b"{}",
        b'{"content":17,"candidates":17,"message":17}',
        b'{"type":"pong"}',
    ],
    ids=[
        "empty",
        "garbage",
        "html",
        "half",
        "deep",
        "list",
        "number",
        "text",
        "object",
        "types",
        "kind",
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_is_no_answer_is_broken(rig: Rig, body: bytes, stream: bool) -> None:
    rig.upstream.fault = Fault(200, headers=JSON, body=body)
    with pytest.raises(UpstreamBroken):
        await rig.chat(stream=stream)


@pytest.mark.parametrize(
    "text", [b"\\ud800", b"\\ud800\\ud800", b"\xff", b"\xed\xa0\x80"], ids=repr
)
async def test_text_that_is_no_unicode_is_broken(rig: Rig, text: bytes) -> None:
    rig.upstream.fault = Fault(200, headers=JSON, body=whole_with(rig.wire, text=text))
    with pytest.raises(UpstreamBroken):
        await rig.chat()


async def test_nul_is_kept(rig: Rig) -> None:
    body = whole_with(rig.wire, text=b"a\\u0000b")
    rig.upstream.fault = Fault(200, headers=JSON, body=body)
    assert (await rig.chat()).message["content"] == "a\0b"


@pytest.mark.parametrize(
    "usage", [b"-5", b"1e400", b"9223372036854775808", b'"many"', b"1.5", b"[]", b"true"], ids=repr
)
async def test_usage_that_cannot_be_true_is_not_told(rig: Rig, usage: bytes) -> None:
    rig.upstream.fault = Fault(200, headers=JSON, body=whole_with(rig.wire, usage=usage))
    try:
        found = await rig.chat()
    except UpstreamBroken:
        assert usage == b"1e400"  # which no parser takes for a number
        return
    assert found.message["content"] == "x"
    assert read_usage(found.json.get("usage")) is None


async def test_nan_is_broken(rig: Rig) -> None:
    rig.upstream.fault = Fault(200, headers=JSON, body=whole_with(rig.wire, usage=b"NaN"))
    with pytest.raises(UpstreamBroken):
        await rig.chat()


async def test_packed_answer_is_refused_before_it_grows(rig: Rig) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    rig.upstream.fault = Fault(200, headers={**JSON, "content-encoding": "gzip"}, body=bomb)
    with pytest.raises(UpstreamBroken, match="compressed"):
        await rig.chat()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_endless_answer_ends_at_its_limit(rig: Rig, stream: bool) -> None:
    kind = STREAMS[rig.wire] if stream else "application/json"
    rig.upstream.fault = Fault(
        200, headers={"content-type": kind}, body=b"x" * 65_536, repeat=1_600
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UpstreamTooLarge, match="answer_bytes_max"):
        await rig.chat(stream=stream)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


async def test_stream_of_nothing_is_no_answer(rig: Rig) -> None:
    kind = {"content-type": STREAMS[rig.wire]}
    rig.upstream.fault = Fault(200, headers=kind, body=b"\n" * 10_000, repeat=100)
    found = await rig.chat(stream=True)
    assert found.chunks == []
    assert not found.done


async def test_error_sent_as_a_success_is_an_error(rig: Rig) -> None:
    told = {
        Wire.ANTHROPIC: {"type": "error", "error": {"type": "overloaded_error", "message": "full"}},
        Wire.GEMINI: [{"error": {"code": 503, "message": "full", "status": "UNAVAILABLE"}}],
        Wire.OLLAMA: {"error": "full"},
    }
    body = msgspec.json.encode(told[rig.wire])
    rig.upstream.fault = Fault(200, headers=JSON, body=body)
    found = await rig.chat(stream=True)
    assert found.json["error"]["message"] == "full"


async def test_error_in_the_stream_is_told_and_the_answer_is_not_whole(rig: Rig) -> None:
    told = {
        Wire.ANTHROPIC: b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
        b'"message":"full"}}\n\n',
        Wire.GEMINI: b'data: {"error":{"code":503,"message":"full","status":"UNAVAILABLE"}}\n\n',
        Wire.OLLAMA: b'{"error":"full"}\n',
    }
    kind = {"content-type": STREAMS[rig.wire]}
    rig.upstream.fault = Fault(200, headers=kind, body=told[rig.wire])
    found = await rig.chat(stream=True)
    assert [chunk["error"]["message"] for chunk in found.chunks] == ["full"]
    assert not found.done


@pytest.mark.parametrize("status", [400, 502])
async def test_refusal_that_is_no_json_is_still_one(rig: Rig, status: int) -> None:
    body = b"<html>" + b"x" * 200_000
    rig.upstream.fault = Fault(status, headers={"content-type": "text/html"}, body=body)
    found = await rig.chat()
    assert found.status == status
    assert found.json["error"]["message"] == ""


# ---- waiting


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A port that takes connections and what is sent, and says what a test tells it to: nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(told)
        while await reader.read(65_536):
            pass
        writer.close()

    told = b"HTTP/1.1 200 OK\r\nx-slow: "
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_call_says_how_long_it_waits_for_the_head(rig: Rig, silent_port: int) -> None:
    object.__setattr__(rig.provider, "base_url", f"http://127.0.0.1:{silent_port}")
    begun = time.monotonic()
    with pytest.raises(UpstreamTimeout, match=r"first_byte_timeout_s \(0.2 s\)"):
        await rig.chat(timeouts=Timeouts(first_byte_s=0.2))
    assert time.monotonic() - begun < 3


async def test_call_says_how_long_it_waits_between_bytes(rig: Rig) -> None:
    kind = {"content-type": STREAMS[rig.wire], "content-length": "1000"}
    rig.upstream.fault = Fault(200, headers=kind, body=b"\n")
    with pytest.raises(UpstreamTimeout, match=r"between_bytes_timeout_s \(0.2 s\)"):
        await rig.chat(stream=True, timeouts=Timeouts(between_s=0.2))


async def test_call_says_how_long_it_waits_for_a_connection(rig: Rig) -> None:
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    port = full.getsockname()[1]
    taken = [socket.socket() for _ in range(4)]
    for one in taken:  # the queue of a listener that accepts nobody
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
    object.__setattr__(rig.provider, "base_url", f"http://127.0.0.1:{port}")
    try:
        with pytest.raises(UpstreamTimeout, match=r"connect_timeout_s \(0.2 s\)"):
            await rig.chat(timeouts=Timeouts(connect_s=0.2))
    finally:
        for one in [full, *taken]:
            one.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254",
        "http://[::ffff:169.254.169.254]:80",
        "http://2852039166",
        "http://0xa9fea9fe",
        "http://0.0.0.0:1",
        "http://[64:ff9b::a9fe:a9fe]",
        "http://[2002:a9fe:a9fe::1]",
    ],
)
async def test_credentials_of_the_machine_are_never_asked_for(rig: Rig, url: str) -> None:
    object.__setattr__(rig.provider, "base_url", url)
    with pytest.raises(UpstreamUnreachable, match=r"not a provider|no address of a host"):
        await rig.chat(timeouts=Timeouts(connect_s=5))


async def test_provider_that_must_be_public_is_not_called_at_home(rig: Rig) -> None:
    object.__setattr__(rig.provider, "private", False)
    with pytest.raises(UpstreamUnreachable, match="a private address"):
        await rig.chat()
    assert rig.upstream.seen == []
