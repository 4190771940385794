"""Streams cut at any byte give the same chunks; and what native readers make of native answers."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.gateway.sse import Transcript
from helix.providers import MessagesReader, ResponsesReader, Wire
from helix.providers.wires.anthropic_answer import MessagesTranslator
from helix.providers.wires.chunks import Translator
from helix.providers.wires.gemini_answer import GeminiTranslator
from helix.providers.wires.lines import Events, Lines
from helix.providers.wires.ollama_answer import OllamaTranslator
from tests.fakes.anthropic_upstream import AnthropicUpstream, event, message_of
from tests.fakes.gemini_upstream import GeminiUpstream
from tests.fakes.ollama_upstream import OllamaUpstream
from tests.fakes.wire_upstream import Asked, Tokens, Told, dumps

ASKED = Asked("model", stream=True)
CALLS = [("c1", "weather", {"city": "Grüße 生命", "n": 10**25}), ("c2", "clock", {})]
TOLD = Told(
    'One 👩🏽‍🚀 two\n\nthree "x"', "thinking\r\nof it", CALLS, "tool_calls", Tokens(9, 8, 7, 6)
)
TRANSLATORS: dict[Wire, Callable[[], Translator]] = {
    Wire.ANTHROPIC: MessagesTranslator,
    Wire.GEMINI: lambda: GeminiTranslator(model="m", answer_id="a"),
    Wire.OLLAMA: lambda: OllamaTranslator(model="m", answer_id="a"),
}
STREAMS = {
    Wire.ANTHROPIC: b"".join(AnthropicUpstream().stream_events(TOLD, ASKED)),
    Wire.GEMINI: b"".join(GeminiUpstream().stream_events(TOLD, ASKED)),
    Wire.OLLAMA: b"".join(OllamaUpstream().stream_events(TOLD, ASKED)),
}


def read(wire: Wire, pieces: list[bytes]) -> list[dict[str, Any]]:
    translator = TRANSLATORS[wire]()
    found = [chunk for piece in pieces for chunk in translator.feed(piece)]
    if not translator.done:
        found += translator.end()
    assert translator.done
    return found


@pytest.mark.parametrize("wire", TRANSLATORS, ids=str)
def test_cut_at_each_byte_gives_the_same_chunks(wire: Wire) -> None:
    stream = STREAMS[wire]
    expected = read(wire, [stream])
    for at in range(1, len(stream)):
        assert read(wire, [stream[:at], stream[at:]]) == expected


@pytest.mark.parametrize("wire", TRANSLATORS, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_pieces_give_the_same_chunks(wire: Wire, data: st.DataObject) -> None:
    stream = STREAMS[wire]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(wire, pieces) == read(wire, [stream])


@pytest.mark.parametrize("wire", TRANSLATORS, ids=str)
@settings(max_examples=150, deadline=None)
@given(noise=st.binary(max_size=200), at=st.integers(0, 4_000))
def test_noise_never_makes_a_whole_answer_or_another_error(
    wire: Wire, noise: bytes, at: int
) -> None:
    stream = STREAMS[wire]
    translator = TRANSLATORS[wire]()
    at = min(at, len(stream))
    try:
        for chunk in [*translator.feed(stream[:at] + noise), *translator.end()]:
            msgspec.json.encode(chunk)
    except ValueError:
        return
    assert translator.done <= (at + len(noise) >= len(stream) - 60 or b"done" in stream[:at])


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=20).filter(lambda b: not set(b) & set(b"\r\n")), max_size=8),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n"]), min_size=8, max_size=8),
    size=st.integers(1, 7),
)
def test_lines_are_cut_wherever_they_end(lines: list[bytes], ends: list[bytes], size: int) -> None:
    stream = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    cutter = Lines()
    found = [
        line for at in range(0, len(stream), size) for line in cutter.feed(stream[at : at + size])
    ]
    assert found == lines
    assert cutter.rest() == b""


def test_a_million_single_bytes_are_one_line() -> None:
    cutter = Lines()
    for _number in range(1_000_000):
        assert cutter.feed(b"x") == []
    assert cutter.feed(b"\n") == [b"x" * 1_000_000]


def test_event_may_have_several_lines_of_data_and_none() -> None:
    events = Events()
    assert events.feed(b": hi\n\nevent: x\ndata: a\ndata:b\n\ndata: c") == [b"a\nb"]
    assert events.rest() == [b"c"]


# ---- native answers


def transcript(chunks: list[dict[str, Any]]) -> Any:
    made = Transcript()
    for chunk in chunks:
        made.take(chunk)
    return msgspec.json.decode((made.as_json() or "null").encode())


def test_native_messages_stream_is_read_as_a_chat() -> None:
    reader = MessagesReader()
    chunks = []
    for one in AnthropicUpstream().stream_events(TOLD, ASKED):
        chunks += reader.feed(one)
    found = transcript(chunks)
    assert reader.done
    whole = MessagesReader.whole(dumps(message_of(TOLD, ASKED)))
    message = found["choices"][0]["message"]
    for call in message["tool_calls"]:
        call.pop("index")
    assert message == whole["choices"][0]["message"]
    assert (
        found["usage"]
        == whole["usage"]
        == {
            "prompt_tokens": 9,
            "completion_tokens": 8,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 7, "cache_creation_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 6},
        }
    )
    assert found["choices"][0]["finish_reason"] == "tool_calls"
    assert (found["id"], found["model"]) == ("msg_01", "model-20250929")


def test_native_messages_error_is_an_error() -> None:
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "full"}}
    error = {"message": "full", "type": "overloaded_error", "param": None}
    expected = {"error": {**error, "code": "overloaded_error"}}
    assert MessagesReader.whole(dumps(body)) == expected
    assert MessagesReader().feed(event("error", error=body["error"])) == [expected]


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1_700_000_000,
    "model": "gpt-5",
    "status": "completed",
    "output": [
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "content": [{"type": "output_text", "text": "Hello there."}]},
        {"type": "function_call", "id": "f", "call_id": "c1", "name": "w", "arguments": '{"a":1}'},
    ],
    "usage": {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 10},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 50,
    },
}


def response_events() -> list[bytes]:
    call = {**RESPONSE["output"][2], "arguments": ""}  # type: ignore[index]
    told = [
        {"type": "response.created", "response": {**RESPONSE, "output": [], "usage": None}},
        {"type": "response.in_progress", "response": {}},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Hm."},
        {"type": "response.output_item.added", "output_index": 1, "item": {"type": "message"}},
        {"type": "response.output_text.delta", "output_index": 1, "delta": "Hello "},
        {"type": "response.output_text.delta", "output_index": 1, "delta": "there."},
        {"type": "response.output_text.done", "output_index": 1, "text": "Hello there."},
        {"type": "response.output_item.added", "output_index": 2, "item": call},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": '{"a"'},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": ":1}"},
        {"type": "response.completed", "response": RESPONSE},
    ]
    return [
        event(str(one["type"]), **{k: v for k, v in one.items() if k != "type"}) for one in told
    ]


def test_native_response_is_read_as_a_chat() -> None:
    reader = ResponsesReader()
    found = transcript([chunk for one in response_events() for chunk in reader.feed(one)])
    whole = ResponsesReader.whole(dumps(RESPONSE))
    message = found["choices"][0]["message"]
    message["tool_calls"][0].pop("index")
    assert (
        message
        == whole["choices"][0]["message"]
        == {
            "role": "assistant",
            "content": "Hello there.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "w", "arguments": '{"a":1}'}}
            ],
        }
    )
    assert found["usage"] == whole["usage"]
    assert found["usage"]["prompt_tokens_details"] == {"cached_tokens": 10}
    assert found["usage"]["completion_tokens_details"] == {"reasoning_tokens": 5}
    assert reader.done
    assert (found["id"], found["created"]) == ("resp_1", 1_700_000_000)


@pytest.mark.parametrize(
    ("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "content_filter")]
)
def test_native_response_that_is_incomplete_says_why(reason: str, finish: str) -> None:
    body = {**RESPONSE, "status": "incomplete", "incomplete_details": {"reason": reason}}
    assert ResponsesReader.whole(dumps(body))["choices"][0]["finish_reason"] == finish
    chunks = ResponsesReader().feed(event("response.incomplete", response=body))
    assert chunks[0]["choices"][0]["finish_reason"] == finish


def test_native_response_that_failed_is_an_error() -> None:
    body = {**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": "no"}}
    assert ResponsesReader.whole(dumps(body))["error"]["message"] == "no"
    reader = ResponsesReader()
    assert (
        reader.feed(event("response.failed", response=body))[0]["error"]["code"] == "server_error"
    )
    assert not reader.done
    assert reader.feed(event("error", message="cut", code="x"))[0]["error"]["message"] == "cut"


@pytest.mark.parametrize("reader", [MessagesReader, ResponsesReader])
@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"type":17}', b"\xff", b"[" * 100_000])
def test_what_is_no_native_answer_is_a_value_error(reader: Any, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        reader.whole(body)
    if body:
        with pytest.raises(ValueError, match=r"."):
            reader().feed(b"data: " + body + b"\n\n")
