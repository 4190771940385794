"""Streams cut apart at any place, and put together again."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.gateway.sse import EventSplitter, Transcript, data_of

lines = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


@given(
    told=st.lists(lines, max_size=6),
    end=st.sampled_from(["\n", "\r\n"]),
    places=st.lists(st.integers(0, 10_000), max_size=20),
)
def test_events_are_the_same_however_they_arrive(
    told: list[str], end: str, places: list[int]
) -> None:
    events = [f"data: {line}{end}{end}".encode() for line in told]
    splitter = EventSplitter()
    found = [event for part in cut(b"".join(events), places) for event in splitter.feed(part)]
    assert found == events
    assert splitter.rest() == b""


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data: x\r\n\r\n", b"x"),
        (b": comment\n\n", None),
        (b"event: ping\n\n", None),
        (b"event: a\ndata: x\nid: 1\n\n", b"x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: [DONE]\n\n", b"[DONE]"),
        (b"data:\n\n", b""),
        (b"\n\n", None),
    ],
)
def test_data_of_an_event(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {
        "id": "c1",
        "model": "m",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
    }


def test_transcript_is_the_answer_a_call_without_stream_gives() -> None:
    transcript = Transcript()
    assert not transcript.take(chunk({"role": "assistant", "content": ""}))
    assert transcript.take(chunk({"content": "Hel"}))
    assert transcript.take(chunk({"content": "lo", "reasoning_content": "think"}))
    assert transcript.take(chunk({"reasoning_content": "ing"}))
    assert transcript.take(chunk({"content": "second"}, index=1))
    assert not transcript.finished
    transcript.take(chunk({}, "stop"))
    transcript.take(chunk({}, "length", index=1))
    transcript.take({"choices": [], "usage": {"prompt_tokens": 1}})
    assert transcript.finished
    assert transcript.content == "Hello"
    assert json.loads(transcript.as_json() or "") == {
        "id": "c1",
        "model": "m",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello",
                    "reasoning_content": "thinking",
                },
                "logprobs": None,
                "finish_reason": "stop",
            },
            {
                "index": 1,
                "message": {"role": "assistant", "content": "second"},
                "logprobs": None,
                "finish_reason": "length",
            },
        ],
        "usage": {"prompt_tokens": 1},
    }
    assert "".join(sorted(transcript.told_text())) == "".join(sorted("Hellothinkingsecond"))


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"])), max_size=20))
def test_content_is_what_was_told_piece_by_piece(pieces: list[str]) -> None:
    transcript = Transcript()
    for piece in pieces:
        transcript.take(chunk({"content": piece}))
    assert (transcript.content or "") == "".join(pieces)


@pytest.mark.parametrize(
    "wrong",
    [
        {"choices": {"0": 1}},
        {"choices": ["x"]},
        {"choices": [{"index": "0", "delta": {}}]},
        {"choices": [{"index": -1, "delta": {}}]},
        {"choices": [{"index": 10**9, "delta": {}}]},
        {"choices": [{"delta": "x"}]},
        {"choices": [{"delta": {"content": 5}}]},
    ],
)
def test_chunk_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"choice|delta|content"):
        Transcript().take(wrong)


def test_million_small_additions_take_no_quadratic_time() -> None:
    transcript = Transcript()
    for _ in range(50_000):
        function = {"index": 0, "function": {"arguments": "xy"}}
        transcript.take(chunk({"content": "ab", "reasoning": "cd", "tool_calls": [function]}))
    assert transcript.content == "ab" * 50_000
    stored = json.loads(transcript.as_json() or "")["choices"][0]["message"]
    assert stored["tool_calls"][0]["function"]["arguments"] == "xy" * 50_000


deltas = st.one_of(
    st.builds(dict, content=st.text(max_size=3)),
    st.builds(dict, content=st.text(max_size=3), role=st.sampled_from(["assistant", "tool", None])),
    st.builds(dict, content=st.none(), refusal=st.sampled_from([None, "no"])),
    st.builds(dict, reasoning=st.text(max_size=3), content=st.text(max_size=3)),
    st.just({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}),
    st.just({}),
)
parts = st.fixed_dictionaries(
    {"index": st.integers(0, 2), "delta": deltas},
    optional={
        "finish_reason": st.sampled_from([None, "stop"]),
        "logprobs": st.sampled_from([None, {"content": [1]}]),
    },
)
chunks = st.fixed_dictionaries(
    {"id": st.just("c1"), "choices": st.lists(parts, max_size=2)},
    optional={"usage": st.sampled_from([None, {"prompt_tokens": 1}]), "new": st.just([1])},
)


@given(told=st.lists(chunks, max_size=8))
def test_plain_chunks_are_taken_as_any_other(told: list[dict[str, Any]]) -> None:
    slow, quick = Transcript(), Transcript()
    for number, one in enumerate(told):
        content = slow.take(one)
        if number and quick.take_plain(json.dumps(one).encode()):
            assert content
        else:
            assert quick.take(one) is content
    assert quick.as_json() == slow.as_json()
    assert quick.told_text() == slow.told_text()
    assert (quick.chunks, quick.content_chunks) == (slow.chunks, slow.content_chunks)
    assert (quick.usage, quick.finished) == (slow.usage, slow.finished)


def test_chunk_of_nothing_but_text_is_plain() -> None:
    transcript = Transcript()
    transcript.take(chunk({"role": "assistant", "content": ""}))
    assert transcript.take_plain(json.dumps(chunk({"content": "Hi"})).encode())
    assert transcript.content == "Hi"
