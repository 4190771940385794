"""OpenAI's Responses: what goes in, what comes out, held against the official SDK's types."""

import contextlib
import json
import random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_item_list import ResponseItemList
from pydantic import TypeAdapter

from helix.core.errors import HelixError
from helix.gateway.dialects import Responses
from helix.gateway.dialects.responses import (
    Kept,
    continued,
    input_items,
    is_kept,
    request_id_of,
)
from helix.gateway.dialects.responses_out import failed_response, readdressed, response_id
from helix.gateway.errors import NotJson, TooBusy, UpstreamBusy, WrongField
from helix.gateway.intake import IntakeLimits
from helix.gateway.types import CallRequest
from tests.gateway.dialects.answers import (
    LIMITS,
    REQUEST_ID,
    Answer,
    answers,
    chunks_of,
    events_of,
    objects,
    texts,
    values,
    whole_of,
    words,
)

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def body_of(**fields: Any) -> str:
    return json.dumps({"model": "m", "input": "hi", **fields})


def read(**fields: Any) -> CallRequest:
    return Responses().read(body_of(**fields).encode(), LIMITS)


def chat(request: CallRequest, name: str) -> Any:
    raw = request.fields.get(name)
    return None if raw is None else json.loads(bytes(raw))


def text_message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def replayed(events: list[tuple[str | None, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the items that a stream's events build, each event in its place."""
    items: list[dict[str, Any]] = []
    texts_told: dict[int, str] = {}
    for number, (name, told) in enumerate(events):
        assert name == told["type"]
        assert told["sequence_number"] == number
        EVENT.validate_python(told)
        if name == "response.output_item.added":
            assert told["output_index"] == len(items)
            items.append(told["item"])
            texts_told[told["output_index"]] = ""
        elif str(name).endswith(".delta"):
            assert told["item_id"] == items[told["output_index"]]["id"]
            texts_told[told["output_index"]] += told["delta"]
        elif name == "response.output_item.done":
            assert told["item"]["id"] == items[told["output_index"]]["id"]
            items[told["output_index"]] = told["item"]
            said = told["item"].get("arguments")
            if said is None:
                part = told["item"]["content"][0]
                said = part.get("text", part.get("refusal"))
            assert said == texts_told[told["output_index"]]
    return items


@given(answer=answers, shuffle=st.randoms(use_true_random=False), mixed=st.booleans())
def test_stream_tells_the_same_as_the_whole(
    answer: Answer, shuffle: random.Random, mixed: bool
) -> None:
    chunks, request = chunks_of(answer, shuffle, mixed=mixed), read()
    whole = json.loads(Responses().whole(whole_of(chunks), request, REQUEST_ID))
    Response.model_validate(whole)
    renderer = Responses().stream(request, REQUEST_ID)
    data = b"".join(renderer.chunk(chunk) for chunk in chunks) + renderer.end()
    events = events_of(data)
    assert [name for name, _ in events[:2]] == ["response.created", "response.in_progress"]
    items = replayed(events)
    assert events[-1][0] == f"response.{whole['status']}"
    assert events[-1][1]["response"] == whole
    done = [{**item, "status": "completed"} for item in whole["output"] if "status" in item]
    assert items == done


@given(answer=answers, shuffle=st.randoms(use_true_random=False))
def test_response_holds_all_that_was_told(answer: Answer, shuffle: random.Random) -> None:
    whole = whole_of(chunks_of(answer, shuffle, mixed=False))
    response = Response.model_validate_json(Responses().whole(whole, read(), REQUEST_ID))
    assert response.output_text == answer.text
    calls = [
        (item.name, json.loads(item.arguments))
        for item in response.output
        if item.type == "function_call"
    ]
    assert calls == [(tool.name, tool.arguments) for tool in answer.tools]
    expected = {"length": "max_output_tokens", "content_filter": "content_filter"}
    reason = response.incomplete_details and response.incomplete_details.reason
    assert reason == expected.get(answer.finish)
    assert response.usage is not None
    assert response.usage.input_tokens == answer.prompt_tokens
    assert response.usage.output_tokens == answer.completion_tokens


def test_logprobs_stand_with_their_text() -> None:
    told = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    choice = {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [told]}}
    renderer = Responses().stream(read(), REQUEST_ID)
    events = events_of(renderer.chunk({"choices": [choice]}) + renderer.end())
    delta = next(told for name, told in events if name == "response.output_text.delta")
    assert delta["logprobs"] == [told]
    assert events[-1][1]["response"]["output"][0]["content"][0]["logprobs"] == [told]


def test_error_ends_the_stream_with_what_was_told() -> None:
    renderer = Responses().stream(read(), REQUEST_ID)
    begun = renderer.chunk({"choices": [{"index": 0, "delta": {"content": "half"}}]})
    events = events_of(begun + renderer.error(UpstreamBusy("slow down"), REQUEST_ID))
    for _, told in events:
        EVENT.validate_python(told)
    failed = events[-1][1]["response"]
    assert events[-1][0] == "response.failed"
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": "rate_limit_exceeded", "message": "slow down"}
    assert failed["output"][0]["content"][0]["text"] == "half"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WrongField("a", "b"), "invalid_prompt"),
        (TooBusy("x"), "server_error"),
        (HelixError("x"), "server_error"),
    ],
)
def test_failure_has_a_code_that_the_sdk_knows(error: HelixError, code: str) -> None:
    events = events_of(Responses().stream(read(), REQUEST_ID).error(error, REQUEST_ID))
    assert EVENT.validate_python(events[-1][1]).response.error.code == code


def test_failed_call_can_be_shown() -> None:
    told = failed_response(read(), REQUEST_ID, code="server_error", message="M", created=5)
    response = Response.model_validate(told)
    assert (response.status, response.error and response.error.message) == ("failed", "M")


# ---- requests

items_of_talk = st.lists(
    st.builds(lambda text: text_message("user", text), texts)
    | st.builds(lambda text: text_message("assistant", text), texts)
    | st.builds(
        lambda call_id, name, given: {
            "type": "function_call",
            "call_id": call_id,
            "name": name,
            "arguments": json.dumps(given),
        },
        words,
        words,
        objects,
    )
    | st.builds(
        lambda call_id, text: {
            "type": "function_call_output",
            "call_id": call_id,
            "output": text,
        },
        words,
        texts,
    ),
    min_size=1,
    max_size=6,
)


def back(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return canonical messages as items: the inverse of reading, but for merged texts."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            output = {"call_id": message["tool_call_id"], "output": message["content"]}
            found.append({"type": "function_call_output", **output})
            continue
        if message["content"] or "tool_calls" not in message:
            found.append(text_message(message["role"], message["content"]))
        for call in message.get("tool_calls", []):
            told = {"call_id": call["id"], **call["function"]}
            found.append({"type": "function_call", **told})
    return found


def settled(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return items as an answer tells them: its text before its calls, in one."""
    found: list[dict[str, Any]] = []
    turn: list[dict[str, Any]] = []

    def flush() -> None:
        if any("call_id" in one for one in turn):
            text = "".join(one["content"] for one in turn if "content" in one)
            found.extend([text_message("assistant", text)] if text else [])
            found.extend(one for one in turn if "call_id" in one)
        else:
            found.extend(turn)
        turn.clear()

    for item in items:
        if item.get("role") == "assistant" or item.get("type") == "function_call":
            calls = any("call_id" in one for one in turn)
            if turn and not calls and "content" in item:
                flush()
            turn.append(item)
        else:
            flush()
            found.append(item)
    flush()
    return found


@given(items=items_of_talk)
def test_items_can_be_had_back_from_the_call(items: list[dict[str, Any]]) -> None:
    request = read(input=items)
    assert back(chat(request, "messages")) == settled(items)
    assert json.loads(bytes(request.own["input"])) == items
    assert request.native_only is None


def test_parts_of_an_input() -> None:
    content = [
        {"type": "input_text", "text": "T"},
        {"type": "input_image", "image_url": "u", "detail": "low"},
        {"type": "input_file", "filename": "f", "file_data": "data:,x"},
    ]
    request = read(input=[{"role": "user", "content": content}], instructions="I")
    assert chat(request, "messages") == [
        {"role": "system", "content": "I"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "T"},
                {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:,x", "filename": "f"}},
            ],
        },
    ]
    assert request.needs == {"vision", "files"}


def test_what_tools_show_is_shown_after_all_their_results() -> None:
    image = {"type": "input_image", "image_url": "u"}
    outputs = [
        {"type": "function_call_output", "call_id": "a", "output": [image]},
        {"type": "function_call_output", "call_id": "b", "output": "B"},
    ]
    roles = [m["role"] for m in chat(read(input=outputs), "messages")]
    assert roles == ["tool", "tool", "user"]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"text": {"verbosity": "high"}}, {"verbosity": "high"}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {
                "text": {
                    "format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}
                }
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {}, "strict": True},
                }
            },
        ),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": {}, "strict": False}]},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {}, "strict": False},
                    }
                ]
            },
        ),
        (
            {
                "tools": [
                    {
                        "type": "custom",
                        "name": "c",
                        "format": {"type": "grammar", "syntax": "lark", "definition": "d"},
                    }
                ]
            },
            {
                "tools": [
                    {
                        "type": "custom",
                        "custom": {
                            "name": "c",
                            "format": {
                                "type": "grammar",
                                "grammar": {"syntax": "lark", "definition": "d"},
                            },
                        },
                    }
                ]
            },
        ),
        (
            {"tool_choice": {"type": "function", "name": "f"}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
            {"logprobs": True, "top_logprobs": 2},
        ),
        ({"metadata": {"a": "b"}, "store": False}, {"metadata": None, "store": None}),
        ({"a_new_field": 1, "temperature": 0.1}, {"a_new_field": 1, "temperature": 0.1}),
    ],
)
def test_settings_are_told_in_the_words_of_chat(sent: Any, told: dict[str, Any]) -> None:
    request = read(**sent)
    for name, value in told.items():
        assert chat(request, name) == value


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
    ],
)
def test_what_chat_cannot_tell_is_named(sent: Any, param: str) -> None:
    found = read(**sent).native_only
    assert found is not None
    assert found.param == param


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [1]}, "input[0]"),
        ({"input": [{"role": "user", "content": "x"}] * 101}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"background": True}, "background"),
        ({"instructions": 3}, "instructions"),
        ({"previous_response_id": ""}, "previous_response_id"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"truncation": "some"}, "truncation"),
        ({"include": [1]}, "include[0]"),
    ],
)
def test_wrong_field_is_named_by_its_path(sent: Any, param: str) -> None:
    with pytest.raises(WrongField) as caught:
        read(**sent)
    assert caught.value.param == param


FIELDS = [
    "input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "store",
    "previous_response_id", "metadata", "max_output_tokens", "top_logprobs", "truncation",
    "background", "conversation", "parallel_tool_calls", "temperature", "user",
]  # fmt: skip


@given(field=st.sampled_from(FIELDS), value=values, part=st.booleans())
def test_any_value_is_read_and_shown_or_refused(field: str, value: Any, part: bool) -> None:
    shaped = [{"role": "user", "content": [value]}] if part and field == "input" else value
    with contextlib.suppress(WrongField, NotJson):  # and nothing else
        request = read(**{field: shaped})
        Responses().whole({"choices": []}, request, REQUEST_ID)


# ---- state


@given(request_id=st.uuids())
def test_id_of_a_response_is_that_of_its_request(request_id: UUID) -> None:
    assert request_id_of(response_id(str(request_id))) == request_id


@given(given_id=texts | st.from_regex(r"resp_[0-9a-fA-F{}-]{30,36}", fullmatch=True))
def test_foreign_id_names_no_request(given_id: str) -> None:
    found = request_id_of(given_id)
    assert found is None or response_id(str(found)) == given_id


def answered(text: str, *calls: str) -> dict[str, Any]:
    told = [
        {"id": one, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for one in calls
    ]
    return {"choices": [{"index": 0, "message": {"content": text, "tool_calls": told}}]}


def test_call_goes_on_from_what_was_said_before() -> None:
    kept = [
        Kept(body_of(input="one", instructions="old"), answered("1")),
        Kept(body_of(input="two"), answered("2", "c")),
    ]
    output = {"type": "function_call_output", "call_id": "c", "output": "R"}
    request = read(input=[output], instructions="new", previous_response_id="resp_x")
    assert request.previous == "resp_x"
    whole = continued(request, kept, LIMITS)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert chat(whole, "messages") == [
        text_message("system", "new"),
        text_message("user", "one"),
        text_message("assistant", "1"),
        text_message("user", "two"),
        {"role": "assistant", "content": "2", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "R"},
    ]
    assert "previous_response_id" not in whole.own
    items = json.loads(bytes(whole.own["input"]))
    assert [one.get("type") for one in items] == [
        "message", "message", "message", "message", "function_call", "function_call_output",
    ]  # fmt: skip
    assert not any("id" in one for one in items)
    shown = json.loads(Responses().whole(answered("3"), whole, REQUEST_ID))
    assert shown["previous_response_id"] == "resp_x"


def test_long_past_is_refused() -> None:
    few = IntakeLimits(messages_max=2, json_depth_max=16)
    with pytest.raises(WrongField, match="messages_max"):
        continued(read(previous_response_id="resp_x"), [Kept(body_of(), answered("1"))], few)


@pytest.mark.parametrize(("sent", "kept"), [({}, True), ({"store": False}, False)])
def test_store_says_whether_an_answer_is_kept(sent: Any, kept: bool) -> None:
    assert is_kept(body_of(**sent)) is kept


def test_input_can_be_listed() -> None:
    sent = [
        text_message("user", "x"),
        {"type": "function_call_output", "call_id": "c", "output": "R"},
    ]
    for given_input in (sent, "x"):
        listed = json.loads(input_items(body_of(input=given_input), REQUEST_ID))
        ResponseItemList.model_validate(listed)
        assert listed["data"][0]["content"] == [{"type": "input_text", "text": "x"}]


def test_answer_of_a_provider_gets_our_id() -> None:
    data = b'data: {"response":{"id":"resp_up","output":[]},"x":"resp_up2"}\n\n'
    mine = readdressed(data, "resp_up", REQUEST_ID).decode()
    assert mine == data.decode().replace('"resp_up"', f'"{response_id(REQUEST_ID)}"')
