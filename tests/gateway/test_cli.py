"""`helix calls`, run as the shell runs it, on calls made for real."""

import asyncio
import re
from typing import Any
from uuid import uuid4

import pytest

from helix.gateway import cli
from tests.fakes.command import Ran, run
from tests.gateway.conftest import Stack

Capture = pytest.CaptureFixture[str]


async def calls(
    stack: Stack, database_url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, *args: str
) -> Ran:
    monkeypatch.setenv("DATABASE_URL", database_url)
    return await asyncio.to_thread(run, cli.main, capsys, *args)


async def test_tail_lists_calls_and_show_joins_everything(
    stack: Stack, database_url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await stack.chat(model="up/gpt-4")
    await stack.chat(model="up/400")
    tail = await calls(stack, database_url, capsys, monkeypatch, "tail", "-n", "5", "--json")
    assert [(one["requested_model"], one["status"]) for one in tail.json] == [
        ("up/gpt-4", "completed"),
        ("up/400", "failed"),
    ]
    request_id = first.headers["x-helix-request-id"]
    for wanted in (request_id, tail.json[0]["response_id"]):
        shown = await calls(stack, database_url, capsys, monkeypatch, "show", wanted, "--json")
        call: Any = shown.json[0]
        answer = call["responses"][0]
        assert call["request_id"] == request_id
        assert stack.key.startswith(call["key_prefix"])
        assert call["user_email"]
        assert call["request_body"]["model"] == "up/gpt-4"
        assert answer["raw_response"]["id"] == "chatcmpl-up"
        assert (answer["tokens_prompt"], answer["tokens_completion"]) == (11, 7)
        assert answer["cost_usd"] == "0.000750000000"
        assert answer["input_cost_per_million"] == "30.000000"
        assert answer["usage_id"] is not None
        assert answer["latency_ms"] >= 0
        assert stack.key not in shown.out
    for_people = await calls(stack, database_url, capsys, monkeypatch, "show", request_id)
    assert re.search(r"^cost_usd +0\.00075 *$", for_people.out, re.MULTILINE)
    table = await calls(stack, database_url, capsys, monkeypatch, "tail")
    assert request_id in table.out


async def test_request_without_an_answer_is_shown_too(
    stack: Stack, database_url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = asyncio.create_task(stack.chat(model="up/held"))
    await stack.upstream.arrived.wait()
    request_id = stack.upstream.calls[0].headers["x-request-id"]
    shown = await calls(stack, database_url, capsys, monkeypatch, "show", request_id, "--json")
    assert shown.json[0]["request_status"] == "running"
    assert shown.json[0]["responses"] == []
    stack.upstream.go_on.set()
    await asking


async def test_id_that_is_none_or_unknown_is_told_apart(
    stack: Stack, database_url: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = await calls(stack, database_url, capsys, monkeypatch, "show", "nothing")
    unknown = await calls(stack, database_url, capsys, monkeypatch, "show", str(uuid4()))
    assert (none.code, unknown.code) == (2, 1)
