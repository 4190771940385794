"""What providers get wrong: no hang, an honest error, one terminal row, nothing told twice."""

import asyncio
import time
from typing import Any
from uuid import UUID, uuid4

import msgspec
import openai
import pytest

from helix.providers.store import Store as ProviderStore
from helix.providers.types import Wire
from tests.fakes.openai_upstream import words
from tests.gateway.conftest import Answer, Stack

REFUSALS = {500, 502, 503, 529}
HELLO: Any = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def options() -> dict[str, Any]:
    return {
        "connect_timeout_s": 1,
        "first_byte_timeout_s": 0.5,
        "between_bytes_timeout_s": 0.5,
        "total_timeout_s": 2,
        "answer_bytes_max": 2_000_000,
        "drain_timeout_s": 2,
    }


async def recorded_failure(stack: Stack, answer: Answer, status: str = "failed") -> Any:
    tries = await stack.tries(answer.headers["x-helix-request-id"])
    assert [call["attempt"] for call in tries] == list(range(1, len(tries) + 1))
    assert [call["status"] for call in tries] == ["failed"] * (len(tries) - 1) + [status]
    assert {call["request_status"] for call in tries} == {"failed"}
    assert all(call["error"] for call in tries)
    return tries[-1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "code", "upstream_status"),
    [
        ("400", 400, "invalid_value", 400),
        ("401", 502, "upstream_credential", 401),
        ("404", 404, "upstream_not_found", 404),
        ("429", 429, "rate_limit_exceeded", 429),
        ("500", 502, "upstream_failed", 500),
        ("502", 502, "upstream_failed", 502),
        ("503", 503, "upstream_overloaded", 503),
        ("529", 503, "upstream_overloaded", 529),
        ("redirect", 502, "upstream_broken", 302),
        ("rst", 502, "upstream_broken", None),
        ("silent", 504, "upstream_timeout", None),
        ("drips-head", 504, "upstream_timeout", None),
        ("long-head", 502, "upstream_broken", None),
        ("gzip", 502, "upstream_broken", None),
    ],
)
async def test_refusal_is_mapped_and_recorded(  # noqa: PLR0917 - parameters of the table
    stack: Stack, model: str, status: int, code: str, upstream_status: int | None, stream: bool
) -> None:
    answer = await asyncio.wait_for(stack.chat(model=f"up/{model}", stream=stream), 10)
    assert answer.status == status
    assert answer.error["code"] == code
    call = await recorded_failure(stack, answer)
    assert call["http_status"] == upstream_status
    assert call["cost"] == 0
    assert call["usage_id"] is None
    # Sent again only where the provider said that it did not answer, and then retries_max times.
    assert len(stack.upstream.calls) == (3 if upstream_status in REFUSALS else 1)


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("empty", "upstream_broken"),
        ("garbage", "upstream_broken"),
        ("half-json", "upstream_broken"),
        ("deep-json", "upstream_broken"),
        ("html", "upstream_broken"),
        ("no-choices", "upstream_broken"),
        ("surrogate", "upstream_broken"),
        ("error-as-200", "insufficient_quota"),
        ("endless-body", "upstream_too_large"),
        ("rst-in-answer", "upstream_broken"),
        ("hangs-after-head", "upstream_timeout"),
    ],
)
async def test_answer_that_is_none_is_an_error_and_recorded(
    stack: Stack, model: str, code: str
) -> None:
    answer = await asyncio.wait_for(stack.chat(model=f"up/{model}"), 10)
    assert answer.status in {502, 504}
    assert answer.error["code"] == code
    call = await recorded_failure(stack, answer)
    assert call["http_status"] == 200


@pytest.mark.parametrize("model", ["empty", "garbage", "html", "error-as-200", "no-choices"])
async def test_answer_that_is_no_stream_is_an_error_with_a_status(stack: Stack, model: str) -> None:
    answer = await stack.chat(model=f"up/{model}", stream=True)
    assert answer.status == 502
    assert answer.error
    await recorded_failure(stack, answer)


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("rst-in-answer", "upstream_broken"),
        ("fin-in-answer", "upstream_broken"),
        ("cut-short", "upstream_cut"),
        ("error-in-stream", "boom"),
        ("malformed-chunk", "upstream_broken"),
        ("hangs-after-head", "upstream_timeout"),
    ],
)
async def test_fault_after_the_first_content_is_an_error_event_and_no_retry(
    stack: Stack, model: str, code: str
) -> None:
    answer = await asyncio.wait_for(stack.chat(model=f"up/{model}", stream=True), 10)
    assert answer.status == 200
    assert "[DONE]" not in answer.events
    told = [msgspec.json.decode(event) for event in answer.events]
    assert told[-1]["error"]["code"] == code
    text = "".join(
        choice["delta"].get("content") or "" for event in told[:-1] for choice in event["choices"]
    )
    assert text == "".join(words()[: len(told) - 2])
    call = await recorded_failure(stack, answer, "interrupted")
    assert (call["content"] or "").startswith(text)
    assert call["usage_estimated"]
    assert call["tokens_in"] == 3
    assert call["usage_id"] is not None
    assert len(stack.upstream.calls) == 1


async def test_stock_client_raises_on_an_error_event(stack: Stack) -> None:
    async with stack.client() as client:
        stream = await client.chat.completions.create(
            model="up/error-in-stream", messages=HELLO, stream=True
        )
        with pytest.raises(openai.APIError, match="overloaded"):
            async for _ in stream:
                pass


async def test_whole_answer_without_done_is_whole(stack: Stack) -> None:
    answer = await stack.chat(model="up/no-done", stream=True)
    assert answer.events[-1] == "[DONE]"
    call = await stack.call(answer.headers["x-helix-request-id"])
    assert call["status"] == "completed"


async def test_endless_stream_ends_at_the_total_timeout(stack: Stack) -> None:
    began_s = time.monotonic()
    answer = await asyncio.wait_for(stack.chat(model="up/endless", stream=True), 20)
    last = msgspec.json.decode(answer.events[-1])
    assert last["error"]["code"] in {"total_timeout", "upstream_too_large"}
    assert time.monotonic() - began_s < 15
    await recorded_failure(stack, answer, "interrupted")


@pytest.mark.parametrize(
    ("model", "wait"),
    [
        ("429", "7"),
        ("429-date", "1"),
        ("429-negative", "1"),
        ("429-huge", "3600"),
        ("429-words", None),
    ],
)
async def test_retry_after_is_passed_on_within_an_hour(
    stack: Stack, model: str, wait: str | None
) -> None:
    answer = await stack.chat(model=f"up/{model}")
    assert answer.status == 429
    assert answer.headers.get("retry-after") == wait


async def test_secret_in_a_refusal_goes_no_further(stack: Stack) -> None:
    answer = await stack.chat(model="up/401")
    call = await recorded_failure(stack, answer)
    for place in (answer.body.decode(), call["error"]):
        assert "sk-proj" not in place
        assert "sk-upstream" not in place


async def test_provider_that_is_not_there_is_unreachable(stack: Stack) -> None:
    unused = "http://127.0.0.1:1/v1"
    nowhere = "http://no-such-host.invalid/v1"
    for name, url in (("dead", unused), ("nowhere", nowhere), ("plain", "https://127.0.0.1:1/v1")):
        async with stack.owner.transaction():
            await ProviderStore(stack.keyring).insert(
                stack.owner,
                provider_id=uuid4(),
                name=name,
                wire=Wire.OPENAI,
                base_url=url,
                api_key=None,
                models=[],
            )
    await stack.providers._registry.refresh()
    for name in ("dead", "nowhere", "plain"):
        answer = await stack.chat(model=f"{name}/x")
        assert answer.status in {502, 504}
        assert answer.error["code"] in {"upstream_unreachable", "upstream_timeout"}
        await recorded_failure(stack, answer)


async def test_tls_to_a_plain_server_is_unreachable(stack: Stack) -> None:
    async with stack.owner.transaction():
        await ProviderStore(stack.keyring).insert(
            stack.owner,
            provider_id=uuid4(),
            name="tls",
            wire=Wire.OPENAI,
            base_url=stack.upstream.url.replace("http:", "https:"),
            api_key=None,
            models=[],
        )
    await stack.providers._registry.refresh()
    answer = await stack.chat(model="tls/x")
    assert answer.status in {502, 504}
    await recorded_failure(stack, answer)


async def test_client_that_leaves_stops_the_provider_and_is_settled(stack: Stack) -> None:
    async with stack.client() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="up/endless", messages=HELLO, stream=True
        )
        stream = raw.parse()
        seen = 0
        async for chunk in stream:
            seen += bool(chunk.choices[0].delta.content)
            if seen == 5:
                break
        await stream.close()
    request_id = UUID(raw.headers["x-helix-request-id"])
    await asyncio.wait_for(stack.upstream.calls[0].cut.wait(), 5)
    async with asyncio.timeout(5):
        while not await stack.count("llm_responses"):  # noqa: ASYNC110 - a row tells nobody
            await asyncio.sleep(0.01)
    call = await stack.call(request_id)
    assert call["status"] == "cancelled"
    assert call["request_status"] == "failed"
    assert call["usage_estimated"]
    assert call["content"].startswith("and on " * 5)
    assert call["tokens_out"] == -(-len(call["content"]) // 4)
    assert call["usage_id"] is not None


async def test_client_that_leaves_before_the_first_byte_is_settled(stack: Stack) -> None:
    body = msgspec.json.encode({"model": "up/silent", "messages": HELLO, "stream": True})
    _, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await stack.upstream.arrived.wait()
    writer.transport.abort()
    async with asyncio.timeout(5):
        while not await stack.count("llm_responses"):  # noqa: ASYNC110 - a row tells nobody
            await asyncio.sleep(0.01)
    request_id = UUID(stack.upstream.calls[0].headers["x-request-id"])
    assert (await stack.call(request_id))["status"] == "cancelled"
