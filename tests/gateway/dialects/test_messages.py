"""Anthropic's Messages: what goes in, what comes out, held against the official SDK's types."""

import contextlib
import json
import random
from typing import Any

import pytest
from anthropic.types import ErrorResponse, Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from helix.core.errors import HelixError
from helix.gateway.dialects import CountTokens, Messages
from helix.gateway.errors import NotJson, TooBusy, UpstreamBusy, WrongField
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

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
SMALL = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def read(**fields: Any) -> CallRequest:
    return Messages().read(json.dumps({**SMALL, **fields}).encode(), LIMITS)


def chat(request: CallRequest, name: str) -> Any:
    raw = request.fields.get(name)
    return None if raw is None else json.loads(bytes(raw))


def streamed(chunks: list[dict[str, Any]]) -> list[tuple[str | None, dict[str, Any]]]:
    renderer = Messages().stream(read(), REQUEST_ID)
    data = b"".join(renderer.chunk(chunk) for chunk in chunks) + renderer.end()
    return events_of(data)


def accumulated(events: list[tuple[str | None, dict[str, Any]]]) -> dict[str, Any]:
    """Put a message together as a client does, and refuse an order that the API never has."""
    message: dict[str, Any] = {}
    pending: list[str] = []
    is_open = False
    for name, told in events:
        assert name == told["type"]
        if name != "ping":
            EVENT.validate_python(told)
        match name:
            case "message_start":
                assert not message
                message = told["message"]
            case "content_block_start":
                assert not is_open
                assert told["index"] == len(message["content"])
                message["content"].append(told["content_block"])
                pending, is_open = [], True
            case "content_block_delta":
                assert is_open
                block, delta = message["content"][told["index"]], told["delta"]
                assert block is message["content"][-1]
                if delta["type"] == "text_delta":
                    block["text"] += delta["text"]
                elif delta["type"] == "thinking_delta":
                    block["thinking"] += delta["thinking"]
                else:
                    assert delta["type"] == "input_json_delta"
                    pending.append(delta["partial_json"])
            case "content_block_stop":
                assert is_open
                if pending:
                    message["content"][-1]["input"] = json.loads("".join(pending))
                is_open = False
            case "message_delta":
                assert not is_open
                message |= told["delta"]
                message["usage"] |= told["usage"]
    assert events[-1][0] == "message_stop"
    return message


@given(answer=answers, shuffle=st.randoms(use_true_random=False), mixed=st.booleans())
def test_stream_tells_the_same_as_the_whole(
    answer: Answer, shuffle: random.Random, mixed: bool
) -> None:
    chunks = chunks_of(answer, shuffle, mixed=mixed)
    whole = json.loads(Messages().whole(whole_of(chunks), read(), REQUEST_ID))
    Message.model_validate(whole)
    assert accumulated(streamed(chunks)) == whole


@given(answer=answers, shuffle=st.randoms(use_true_random=False))
def test_message_holds_all_that_was_told(answer: Answer, shuffle: random.Random) -> None:
    whole = whole_of(chunks_of(answer, shuffle, mixed=False))
    message = Message.model_validate_json(Messages().whole(whole, read(), REQUEST_ID))
    said = [block.text for block in message.content if block.type == "text"]
    assert "".join(said) == answer.text + answer.refusal
    thought = [block.thinking for block in message.content if block.type == "thinking"]
    assert "".join(thought) == answer.reasoning
    calls = [(b.name, b.input) for b in message.content if b.type == "tool_use"]
    assert calls == [(tool.name, tool.arguments) for tool in answer.tools]
    usage = message.usage
    assert usage.cache_read_input_tokens == min(answer.cached, answer.prompt_tokens)
    assert usage.input_tokens + usage.cache_read_input_tokens == answer.prompt_tokens
    assert usage.output_tokens == answer.completion_tokens


def test_calls_told_in_between_one_another_are_told_one_after_the_other() -> None:
    def call(index: int, text: str, **more: Any) -> dict[str, Any]:
        told = {"index": index, "function": {"arguments": text, **more}}
        return {"choices": [{"index": 0, "delta": {"tool_calls": [told]}}]}

    renderer = Messages().stream(read(), REQUEST_ID)
    renderer.chunk(call(0, '{"a":', name="one"))
    waiting = renderer.chunk(call(1, '{"b":2}', name="two"))
    assert waiting == b""
    kinds = [name for name, _ in events_of(renderer.chunk(call(0, "1}")))]
    assert kinds == [
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
    ]


@pytest.mark.parametrize(
    ("finish", "stop", "reason", "sequence"),
    [
        ("stop", None, "end_turn", None),
        ("stop", "###", "stop_sequence", "###"),
        ("length", None, "max_tokens", None),
        ("content_filter", None, "refusal", None),
        ("something_new", None, "end_turn", None),
    ],
)
def test_stop_reason(finish: str, stop: str | None, reason: str, sequence: str | None) -> None:
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": finish, "stop_reason": stop}
    message = json.loads(Messages().whole({"choices": [choice]}, read(), REQUEST_ID))
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def test_arguments_that_are_no_object_are_kept_as_text() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
    choice = {"index": 0, "message": {"content": None, "tool_calls": [call]}}
    message = json.loads(Messages().whole({"choices": [choice]}, read(), REQUEST_ID))
    assert message["content"][0]["input"] == {"_unparsed": '{"a":'}


# ---- requests

blocks_of_user = st.lists(
    st.builds(lambda text: {"type": "text", "text": text}, texts)
    | st.builds(
        lambda data: {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": data},
        },
        words,
    )
    | st.builds(lambda url: {"type": "image", "source": {"type": "url", "url": url}}, words),
    min_size=2,
    max_size=4,
)
tool_uses = st.builds(
    lambda call_id, name, given: {"type": "tool_use", "id": call_id, "name": name, "input": given},
    words,
    words,
    objects,
)
turns = st.lists(
    st.builds(lambda text: {"role": "user", "content": text}, texts)
    | st.builds(lambda blocks: {"role": "user", "content": blocks}, blocks_of_user)
    | st.builds(lambda text: {"role": "assistant", "content": text}, texts.filter(bool))
    | st.builds(
        lambda text, uses: {
            "role": "assistant",
            "content": [{"type": "text", "text": text}, *uses],
        },
        texts.filter(bool),
        st.lists(tool_uses, min_size=1, max_size=2),
    )
    | st.builds(
        lambda call_id, text: {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call_id, "content": text}],
        },
        words,
        texts,
    ),
    min_size=1,
    max_size=5,
)


def back(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return canonical messages as Anthropic's: the inverse of reading."""
    found: list[dict[str, Any]] = []
    for message in messages:
        content, role = message["content"], message["role"]
        if role == "tool":
            block = {
                "type": "tool_result",
                "tool_use_id": message["tool_call_id"],
                "content": content,
            }
            found.append({"role": "user", "content": [block]})
        elif type(content) is list:
            found.append({"role": role, "content": [back_part(part) for part in content]})
        elif "tool_calls" in message:
            blocks = [{"type": "text", "text": content}]
            for call in message["tool_calls"]:
                function = call["function"]
                blocks.append(
                    {
                        "type": "tool_use",
                        "id": call["id"],
                        "name": function["name"],
                        "input": json.loads(function["arguments"]),
                    }
                )
            found.append({"role": role, "content": blocks})
        else:
            found.append({"role": role, "content": content})
    return found


def back_part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return part
    url = part["image_url"]["url"]
    if url.startswith("data:"):
        media, _, data = url.removeprefix("data:").partition(";base64,")
        source = {"type": "base64", "media_type": media, "data": data}
    else:
        source = {"type": "url", "url": url}
    return {"type": "image", "source": source}


@given(turns=turns)
def test_messages_can_be_had_back_from_the_call(turns: list[dict[str, Any]]) -> None:
    request = read(messages=turns)
    assert back(chat(request, "messages")) == turns
    assert json.loads(bytes(request.own["messages"])) == turns
    assert request.native_only is None


@given(name=words, schema=objects, text=texts)
def test_tools_reach_the_provider_as_functions(name: str, schema: Any, text: str) -> None:
    tool = {"name": name, "description": text, "input_schema": schema}
    request = read(tools=[tool])
    function = {"name": name, "description": text, "parameters": schema}
    assert chat(request, "tools") == [{"type": "function", "function": function}]
    assert request.needs == {"tools"}


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"system": "S"}, {}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"temperature": 0.5, "top_k": 3}, {"temperature": 0.5, "top_k": 3}),
        ({"max_tokens": 77}, {"max_completion_tokens": 77}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
        (
            {"tool_choice": {"type": "tool", "name": "f"}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 10_000}},
            {"reasoning_effort": "medium"},
        ),
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": None}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "xhigh"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"a": 1}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"a": 1}, "strict": True},
                }
            },
        ),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}),
        ({"a_new_field": [1]}, {"a_new_field": [1]}),
    ],
)
def test_settings_are_told_in_the_words_of_chat(sent: Any, told: dict[str, Any]) -> None:
    request = read(**sent)
    for name, value in told.items():
        assert chat(request, name) == value
    assert not {"system", "stop_sequences", "max_tokens", "thinking"} & request.fields.keys()


def test_system_prompt_comes_first_and_cache_marks_stay_with_the_body() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    request = read(system=[{"type": "text", "text": "A", **mark}, {"type": "text", "text": "B"}])
    assert chat(request, "messages")[0] == {"role": "system", "content": "A\n\nB"}
    assert b"cache_control" not in b"".join(bytes(raw) for raw in request.fields.values())
    assert b"cache_control" in bytes(request.own["system"])


def test_what_a_tool_shows_is_shown_by_the_user() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "u"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "c",
        "is_error": True,
        "content": [{"type": "text", "text": "T"}, image],
    }
    request = read(messages=[{"role": "user", "content": [result]}])
    assert chat(request, "messages") == [
        {"role": "tool", "tool_call_id": "c", "content": "Error: T"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]},
    ]
    assert request.needs == {"vision"}


def test_documents_are_files_or_text() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
    plain = {"type": "text", "media_type": "text/plain", "data": "D"}
    content = [
        {"type": "document", "source": pdf, "title": "T"},
        {"type": "document", "source": plain},
    ]
    request = read(messages=[{"role": "user", "content": content}])
    file = {"filename": "T", "file_data": "data:application/pdf;base64,JVBE"}
    assert chat(request, "messages")[0]["content"] == [
        {"type": "text", "text": "T"},
        {"type": "file", "file": file},
        {"type": "text", "text": "D"},
    ]


def in_user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type"),
        ({"mcp_servers": [{"url": "u"}]}, "mcp_servers"),
        ({"container": "c"}, "container"),
        (
            in_user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
            "messages[0].content[0].source",
        ),
        (in_user({"type": "container_upload", "file_id": "f"}), "messages[0].content[0].type"),
        (
            in_user(
                {
                    "type": "document",
                    "source": {"type": "text", "data": "x"},
                    "citations": {"enabled": True},
                }
            ),
            "messages[0].content[0].citations",
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
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}] * 101}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        (in_user({"type": "text"}), "messages[0].content[0].text"),
        (in_user({"type": "image", "source": {}}), "messages[0].content[0].source.type"),
        (in_user({"type": "tool_result"}), "messages[0].content[0].tool_use_id"),
        ({"system": [{"type": "text", "text": 1}]}, "system[0].text"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
        ({"stream": "yes"}, "stream"),
        ({"output_config": {"effort": []}}, "output_config.effort"),
        ({"helix": {"x": 1}}, "helix.x"),
    ],
)
def test_wrong_field_is_named_by_its_path(sent: Any, param: str) -> None:
    with pytest.raises(WrongField) as caught:
        read(**sent)
    assert caught.value.param == param


FIELDS = [
    "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "stop_sequences",
    "output_config", "output_format", "metadata", "service_tier", "stream", "container",
]  # fmt: skip


@given(field=st.sampled_from(FIELDS), value=values, part=st.booleans())
def test_any_value_is_read_or_refused(field: str, value: Any, part: bool) -> None:
    shaped = [{"role": "user", "content": [value]}] if part and field == "messages" else value
    with contextlib.suppress(WrongField, NotJson):  # and nothing else
        read(**{field: shaped})


def test_counting_needs_no_max_tokens() -> None:
    body = json.dumps({"model": "m", "messages": SMALL["messages"]}).encode()
    assert CountTokens().read(body, LIMITS).model == "m"
    assert json.loads(CountTokens().answer(7))["input_tokens"] == 7


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (WrongField("a", "b"), "invalid_request_error"),
        (TooBusy("x"), "overloaded_error"),
        (UpstreamBusy("x"), "rate_limit_error"),
        (HelixError("x"), "api_error"),
    ],
)
def test_errors_have_the_shape_of_anthropic(error: HelixError, kind: str) -> None:
    told = json.loads(Messages().error(error, REQUEST_ID))
    assert ErrorResponse.model_validate(told).error.type == kind
    assert told["request_id"] == REQUEST_ID
    event = Messages().stream(read(), REQUEST_ID).error(error, REQUEST_ID)
    assert events_of(event) == [("error", told)]
