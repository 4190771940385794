"""What clients get wrong: the right status, OpenAI's error shape, nothing recorded, still alive."""

import asyncio
from typing import Any
from uuid import uuid4

import msgspec
import openai
import pytest

from helix.accounts.policy import key_from_random
from helix.accounts.types import Scope
from tests.gateway.conftest import Stack, make_user, read_answer

HELLO: Any = [{"role": "user", "content": "hello there"}]


def body(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "mock/echo", "messages": HELLO, **fields})


async def assert_alive(stack: Stack) -> None:
    assert (await stack.chat()).status == 200


@pytest.mark.parametrize(
    ("sent", "code", "param"),
    [
        (b"", "not_json", None),
        (b"{", "not_json", None),
        (b"[]", "not_json", None),
        (b'"text"', "not_json", None),
        (b"\xef\xbb\xbf{}", "not_json", None),
        (body() + b"x", "not_json", None),
        (b'{"model":"mock/echo","messages":[{"role":"user","content":"\xff"}]}', "not_json", None),
        (
            b'{"model":"mock/echo","messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
            "not_json",
            None,
        ),
        (
            b'{"model":"mock/echo","messages":[{"role":"user","content":"\\ud800"}]}',
            "not_json",
            None,
        ),
        (
            b'{"model":"mock/echo","messages":[{"role":"user","content":"\\udc00 x"}]}',
            "not_json",
            None,
        ),
        (b'{"model":"mock/echo","messages":[],"temperature":NaN}', "not_json", None),
        (b'{"model":"mock/echo","messages":[{"role":"user","content":"a\nb"}]}', "not_json", None),
        (b'{"messages":[{"role":"user","content":"x"}]}', "wrong_field", "model"),
        (body(model=None), "wrong_field", "model"),
        (body(model=""), "wrong_field", "model"),
        (body(model="m" * 256), "wrong_field", "model"),
        (body(model="a\u0000b"), "wrong_field", "model"),
        (b'{"model":"mock/echo"}', "wrong_field", "messages"),
        (body(messages=[]), "wrong_field", "messages"),
        (body(messages="hello"), "wrong_field", "messages"),
        (body(messages=["hello"]), "wrong_field", "messages[0]"),
        (body(messages=[{"content": "x"}]), "wrong_field", "messages[0].role"),
        (body(messages=HELLO * 10_000), "wrong_field", "messages"),
        (body(stream="yes"), "wrong_field", "stream"),
        (body(stream_options=[]), "wrong_field", "stream_options"),
        (body(helix=[]), "wrong_field", "helix"),
        (body(helix={"projct": "x"}), "wrong_field", "helix.projct"),
        (body(helix={"project": "x"}), "wrong_field", "helix.project"),
        (body(helix={"agent": "x" * 101}), "wrong_field", "helix.agent"),
        (body(helix={"mock": {"delay": 1}}), "bad_input", "helix.mock"),
        (body(deep=None).replace(b"null", b"[" * 65 + b"]" * 65), "not_json", None),
        (body(deep=None).replace(b"null", b"[" * 100_000 + b"]" * 100_000), "not_json", None),
    ],
)
async def test_wrong_body_is_refused_with_its_fault(
    stack: Stack, sent: bytes, code: str, param: str | None
) -> None:
    answer = await stack.chat(sent)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["code"] == code
    assert answer.error["param"] == param
    if code != "bad_input":
        assert await stack.count("llm_requests") == 0
    await assert_alive(stack)


@pytest.mark.parametrize("model", ["nothing", "mock/nothing", "nobody/echo", "mock/", "/echo"])
async def test_unknown_model_is_404_with_openais_code(stack: Stack, model: str) -> None:
    async with stack.client() as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model=model, messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (r'"a\u0000b"', "NUL"),
        (r'"\ud83d\ude00"', "a surrogate pair"),
        (r'[{"type":"text","text":"x"}]', "parts"),
        ('"   "', "white space"),
    ],
)
async def test_odd_but_right_content_is_taken_and_kept_letter_for_letter(
    stack: Stack, content: str, what: str
) -> None:
    sent = f'{{ "model": "mock/echo",\n "messages": [{{"role":"user","content":{content}}}] }}'
    answer = await stack.chat(sent.encode())
    assert answer.status == 200, what
    kept = await stack.owner.fetchrow(
        "SELECT request_body::text, body_bytes FROM llm_request_bodies"
    )
    assert kept["request_body"] == sent
    assert kept["body_bytes"] == len(sent)


async def test_huge_numbers_are_kept_and_passed_on_as_they_were_sent(stack: Stack) -> None:
    sent = (
        b'{"model":"up/gpt-4","messages":[{"role":"user","content":"x"}],'
        b'"seed":18446744073709551616,"temperature":1e400,"deep":-0.0}'
    )
    assert (await stack.chat(sent)).status == 200
    passed_on = stack.upstream.calls[0].body
    assert b'"seed":18446744073709551616' in passed_on
    assert b'"temperature":1e400' in passed_on
    assert b'"deep":-0.0' in passed_on


async def test_of_a_field_given_twice_one_reaches_the_provider(stack: Stack) -> None:
    sent = b'{"model":"nobody/x","model":"up/gpt-4","messages":[{"role":"user","content":"x"}]}'
    assert (await stack.chat(sent)).status == 200
    assert stack.upstream.calls[0].body.count(b'"model"') == 1


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "missing_api_key"),
        ("Basic abc", "missing_api_key"),
        ("Bearer ", "missing_api_key"),
        ("Bearer nonsense", "invalid_api_key"),
        ("Bearer hx_live_", "invalid_api_key"),
        ("Bearer " + key_from_random(b"x" * 24), "invalid_api_key"),
        ("Bearer " + key_from_random(b"x" * 24)[:-1] + "!", "invalid_api_key"),
        ("Bearer " + "x" * 5_000, "invalid_api_key"),
    ],
)
async def test_without_a_right_key_nobody_comes_in(stack: Stack, header: str, code: str) -> None:
    answer = await stack.request("POST", "/v1/chat/completions", body(), {"Authorization": header})
    assert answer.status == 401
    assert answer.error["type"] == "authentication_error"
    assert answer.error["code"] == code
    assert "www-authenticate" in answer.headers
    assert await stack.count("llm_requests") == 0


async def test_stock_client_raises_the_errors_it_should(stack: Stack) -> None:
    narrow = await stack.make_key(scopes=frozenset({Scope.DEBATES}))
    async with stack.client("hx_live_wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="mock/echo", messages=HELLO)
    async with stack.client(narrow.key) as client:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.chat.completions.create(model="mock/echo", messages=HELLO)
    assert caught.value.code == "scope_missing"
    async with stack.client() as client:
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="mock/echo", messages=[])


async def test_body_of_50_mb_is_413_before_it_is_read(stack: Stack) -> None:
    message = {"role": "user", "content": "x" * 50_000_000}
    async with stack.client() as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="mock/echo", messages=[message])  # type: ignore[list-item]
    assert caught.value.status_code == 413
    assert caught.value.code == "body_too_large"
    await assert_alive(stack)


async def test_body_that_says_it_is_too_large_is_refused_by_its_head_alone(stack: Stack) -> None:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\n"
        "Content-Length: 1000000000\r\n\r\n"
    )
    answer = await asyncio.wait_for(stack.raw(head.encode()), 5)
    assert answer.status == 413


async def test_chunked_body_is_cut_off_at_the_limit(stack: Stack) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    answer = asyncio.create_task(read_answer(reader))
    block = b"%x\r\n%s\r\n" % (1_000_000, b" " * 1_000_000)
    for _ in range(30):
        writer.write(block)
        await asyncio.wait(
            {asyncio.create_task(writer.drain()), answer}, timeout=5, return_when="FIRST_COMPLETED"
        )
        if answer.done():
            break
    assert (await answer).status == 413
    writer.close()


async def test_packed_body_is_refused_by_name(stack: Stack) -> None:
    answer = await stack.request(
        "POST", "/v1/chat/completions", body(), {"Content-Encoding": "gzip"}
    )
    assert answer.status == 415
    assert answer.error["code"] == "encoding_unsupported"


async def test_client_that_leaves_within_its_request_does_no_harm(stack: Stack) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\n"
        'Content-Length: 500\r\n\r\n{"model":'.encode()
    )
    await writer.drain()
    writer.transport.abort()
    await assert_alive(stack)
    assert await stack.count("llm_requests") == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "route_not_found"),
        ("GET", "/v1", 404, "route_not_found"),
        ("POST", "/v1/chat/completions/", 404, "route_not_found"),
        ("POST", "//v1/chat/completions", 404, "route_not_found"),
        ("POST", "/v1/chat/%2e%2e/chat/completions", 404, "route_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/mock/echo", 405, "method_not_allowed"),
    ],
)
async def test_other_paths_and_methods_get_openais_shape(
    stack: Stack, method: str, path: str, status: int, code: str
) -> None:
    answer = await stack.request(method, path)
    assert answer.status == status
    assert answer.error["code"] == code


async def test_project_of_somebody_else_is_not_found(stack: Stack) -> None:
    other = await make_user(stack.owner)
    project = await stack.owner.fetchval(
        "INSERT INTO projects (user_id, name, language) VALUES ($1, 'Mill', 'python') RETURNING id",
        other,
    )
    session = await stack.owner.fetchval(
        "INSERT INTO user_sessions (user_id, expires_at) VALUES ($1, now() + interval '1 hour')"
        " RETURNING id",
        other,
    )
    for helix, code in (
        ({"project": str(project)}, "project_not_found"),
        ({"project": str(uuid4())}, "project_not_found"),
        ({"session": str(session)}, "session_not_found"),
    ):
        answer = await stack.chat(body(helix=helix))
        assert answer.status == 404
        assert answer.error["code"] == code
    assert await stack.count("llm_requests") == 0


async def test_idempotency_key_that_cannot_be_kept_is_refused(stack: Stack) -> None:
    answer = await stack.request(
        "POST", "/v1/chat/completions", body(), {"Idempotency-Key": "x" * 256}
    )
    assert answer.status == 400
    assert answer.error["param"] == "idempotency-key"


async def test_large_bodies_share_the_room_there_is(stack: Stack) -> None:
    """Three bodies of more than a third each: one is told to come again, two are served."""
    most = stack.gateway.room.bytes_max
    sent = body(padding="x" * (most // 3))
    writers = {}
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port, limit=2**26)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}"
        writer.write(f"{head}\r\nContent-Length: {len(sent)}\r\n\r\n".encode() + sent[:-1])
        writers[asyncio.create_task(read_answer(reader))] = writer
    refused, waiting = await asyncio.wait(writers, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    (told,) = [answer.result() for answer in refused]
    assert (told.status, told.headers["retry-after"]) == (503, "1")
    assert told.error["code"] == "no_room"
    for answer in waiting:
        writers[answer].write(sent[-1:])
        assert (await asyncio.wait_for(answer, 20)).status == 200
    for writer in writers.values():
        writer.close()
    assert stack.gateway.room.held == 0
    await assert_alive(stack)
