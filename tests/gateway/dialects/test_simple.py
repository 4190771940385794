"""OpenAI's simpler APIs and lists of models, held against the official SDKs' types."""

import base64
import contextlib
import json
import random
import struct
from typing import Any

import pytest
from anthropic.types import ModelInfo
from hypothesis import given
from hypothesis import strategies as st
from openai.types import (
    Completion,
    CreateEmbeddingResponse,
    Model,
    ModerationCreateResponse,
)

from helix.gateway.dialects import Chat, Completions, Embeddings, Moderations, dialects
from helix.gateway.dialects.completions import canonical_answer
from helix.gateway.dialects.models import (
    ModelEntry,
    Page,
    anthropic_model,
    anthropic_models,
    openai_model,
    openai_models,
)
from helix.gateway.dialects.types import Dialect
from helix.gateway.errors import NotJson, TooBusy, WrongField
from helix.gateway.intake import upstream_body
from helix.gateway.types import CallRequest
from tests.gateway.dialects.answers import (
    LIMITS,
    REQUEST_ID,
    Answer,
    answers,
    chunks_of,
    events_of,
    texts,
    values,
    whole_of,
)


def read(dialect: Dialect, **fields: Any) -> CallRequest:
    return dialect.read(json.dumps({"model": "m", **fields}).encode(), LIMITS)


def chat(request: CallRequest, name: str) -> Any:
    raw = request.fields.get(name)
    return None if raw is None else json.loads(bytes(raw))


def test_every_dialect_stands_at_its_path() -> None:
    assert {path: one.name for path, one in dialects().items()} == {
        "/v1/chat/completions": "chat",
        "/v1/completions": "completions",
        "/v1/embeddings": "embeddings",
        "/v1/messages": "messages",
        "/v1/moderations": "moderations",
        "/v1/responses": "responses",
    }


@given(body=st.binary(max_size=100))
def test_any_bytes_are_refused_everywhere(body: bytes) -> None:
    for dialect in dialects().values():
        with pytest.raises((NotJson, WrongField)):
            dialect.read(body, LIMITS)


# ---- chat


@given(answer=answers, shuffle=st.randoms(use_true_random=False), asked=st.booleans())
def test_chat_chunks_go_through_as_they_are(
    answer: Answer, shuffle: random.Random, asked: bool
) -> None:
    chunks = chunks_of(answer, shuffle, mixed=True)
    fields = {"stream_options": {"include_usage": True}} if asked else {}
    request = read(Chat(), messages=[{"role": "user", "content": "x"}], **fields)
    renderer = Chat().stream(request, REQUEST_ID)
    told = b"".join(renderer.chunk(chunk) for chunk in chunks) + renderer.end()
    assert told.endswith(b"data: [DONE]\n\n")
    assert [one for _, one in events_of(told)] == (chunks if asked else chunks[:-1])


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {"tools"}),
        ({"tools": []}, set()),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"content": [{"type": "image_url", "image_url": {"url": "u"}}]}, {"vision"}),
        ({"content": [{"type": "input_audio"}, {"type": "file"}]}, {"audio", "files"}),
        ({"content": 'say "image_url" please'}, set()),
        ({"content": [{"type": ["image_url"]}, "image_url"]}, set()),
    ],
)
def test_chat_says_what_the_model_must_be_able_to_do(fields: Any, needs: set[str]) -> None:
    content = fields.pop("content", "x")
    request = read(Chat(), messages=[{"role": "user", "content": content}], **fields)
    assert request.needs == needs


# ---- completions


@given(answer=answers, shuffle=st.randoms(use_true_random=False), echo=st.booleans(), prompt=texts)
def test_completion_streams_the_same_text(
    answer: Answer, shuffle: random.Random, echo: bool, prompt: str
) -> None:
    chunks = chunks_of(answer, shuffle, mixed=False)
    request = read(Completions(), prompt=prompt, echo=echo)
    assert chat(request, "messages") == [{"role": "user", "content": prompt}]
    whole = Completion.model_validate_json(
        Completions().whole(whole_of(chunks), request, REQUEST_ID)
    )
    renderer = Completions().stream(request, REQUEST_ID)
    told = events_of(b"".join(renderer.chunk(chunk) for chunk in chunks) + renderer.end())
    choices = [choice for _, event in told for choice in event["choices"]]
    text = "".join(choice["text"] for choice in choices)
    assert text == whole.choices[0].text == (prompt if echo else "") + answer.text
    assert choices[-1]["finish_reason"] == whole.choices[0].finish_reason
    assert {event["id"] for _, event in told} == {whole.id}


def test_completion_has_every_choice_and_its_logprobs() -> None:
    logprobs = {
        "content": [
            {"token": "ab", "logprob": -0.1, "top_logprobs": [{"token": "x", "logprob": -2.0}]},
            {"token": "c", "logprob": -0.2, "top_logprobs": []},
        ]
    }
    choices = [
        {"index": n, "message": {"content": "abc"}, "logprobs": logprobs, "finish_reason": "length"}
        for n in range(2)
    ]
    request = read(Completions(), prompt="p", n=2, logprobs=1)
    assert chat(request, "logprobs") is True
    assert chat(request, "top_logprobs") == 1
    body = Completions().whole({"choices": choices, "created": 1}, request, REQUEST_ID)
    told = Completion.model_validate_json(body)
    assert [one.index for one in told.choices] == [0, 1]
    found = told.choices[1].logprobs
    assert found is not None
    assert found.tokens == ["ab", "c"]
    assert found.text_offset == [0, 2]
    assert found.top_logprobs == [{"x": -2.0}, {}]


@pytest.mark.parametrize("asked", [True, False])
def test_usage_of_a_streamed_completion_is_told_to_who_asked(asked: bool) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    fields = {"stream_options": {"include_usage": True}} if asked else {}
    request = read(Completions(), prompt="p", stream=True, **fields)
    told = Completions().stream(request, REQUEST_ID).chunk({"choices": [], "usage": usage})
    assert (b'"usage"' in told) is asked


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt[0]"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
    ],
)
def test_what_chat_cannot_complete_goes_out_as_it_was_sent(sent: Any, param: str) -> None:
    request = read(Completions(), **sent)
    assert request.native_only is not None
    assert request.native_only.param == param
    assert json.loads(upstream_body(request, "up", native=True)) == {"model": "up", **sent}


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [{}]}, "prompt[0]"),
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "n": 1000}, "n"),
        ({"prompt": "a", "echo": 1}, "echo"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
    ],
)
def test_wrong_field_of_a_completion(sent: Any, param: str) -> None:
    with pytest.raises(WrongField) as caught:
        read(Completions(), **sent)
    assert caught.value.param == param


def test_native_completion_is_read_into_the_canonical_form() -> None:
    choice = {"index": 1, "text": "abc", "finish_reason": "stop"}
    told = canonical_answer({"id": "x", "choices": [choice], "usage": {"prompt_tokens": 1}})
    assert told["choices"][0]["message"] == {"role": "assistant", "content": "abc"}
    assert told["usage"] == {"prompt_tokens": 1}


# ---- embeddings

floats = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1)


@given(vector=floats, sent_coded=st.booleans(), asked_coded=st.booleans())
def test_vectors_come_in_the_encoding_asked_for(
    vector: list[float], sent_coded: bool, asked_coded: bool
) -> None:
    coded = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    fields = {"encoding_format": "base64"} if asked_coded else {}
    request = read(Embeddings(), input="x", **fields)
    one = {"object": "embedding", "index": 0, "embedding": coded if sent_coded else vector}
    answer = {"object": "list", "model": "m", "data": [one]}
    told = json.loads(Embeddings().whole(answer, request, REQUEST_ID))
    assert told["data"][0]["embedding"] == (coded if asked_coded else vector)
    if not asked_coded:
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        CreateEmbeddingResponse.model_validate({**told, "usage": usage})


@pytest.mark.parametrize("given_input", ["x", ["x", "y"], [1, 2], [[1], [2, 3]]])
def test_embeddings_take_texts_and_tokens(given_input: Any) -> None:
    request = read(Embeddings(), input=given_input, dimensions=8, user="u")
    sent = {"model": "up", "input": given_input, "dimensions": 8, "user": "u"}
    assert json.loads(upstream_body(request, "up")) == sent


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1], [-1]]}, "input[1][0]"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "encoding_format": []}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
    ],
)
def test_wrong_field_of_embeddings(sent: Any, param: str) -> None:
    with pytest.raises(WrongField) as caught:
        read(Embeddings(), **sent)
    assert caught.value.param == param


@given(value=values, name=st.sampled_from(["input", "prompt", "encoding_format", "n", "model"]))
def test_any_value_is_read_or_refused(value: Any, name: str) -> None:
    for dialect in (Embeddings(), Moderations(), Completions()):
        with contextlib.suppress(WrongField, NotJson):  # and nothing else
            read(dialect, **{"input": "x", "prompt": "x", name: value})


# ---- moderations


def test_moderation_without_a_model_asks_the_usual_one() -> None:
    request = Moderations().read(b'{"input":"x"}', LIMITS)
    assert request.model == "omni-moderation-latest"
    answer = {"id": "modr-1", "model": "m", "results": []}
    body = Moderations().whole(answer, request, REQUEST_ID)
    assert ModerationCreateResponse.model_validate_json(body).results == []


def test_moderation_of_an_image_needs_sight() -> None:
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "u"}}]
    assert read(Moderations(), input=parts).needs == {"vision"}


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 1}, "input"),
        ({"input": [{"type": "text"}]}, "input[0].text"),
        ({"input": [{"type": "image_url"}]}, "input[0].image_url"),
    ],
)
def test_wrong_field_of_moderations(sent: Any, param: str) -> None:
    with pytest.raises(WrongField) as caught:
        read(Moderations(), **sent)
    assert caught.value.param == param


@pytest.mark.parametrize("dialect", [Embeddings(), Moderations()])
def test_what_does_not_stream_says_so(dialect: Dialect) -> None:
    with pytest.raises(WrongField, match="no streams"):
        dialect.stream(read(dialect, input="x"), REQUEST_ID)
    assert json.loads(dialect.error(TooBusy("x"), REQUEST_ID))["error"]["code"] == "too_busy"


# ---- models

ENTRIES = [ModelEntry(f"p/m{n}", "p", 1_700_000_000) for n in range(5)]


def test_models_in_the_shape_of_openai() -> None:
    told = json.loads(openai_models(ENTRIES))
    assert [Model.model_validate(one).id for one in told["data"]] == [e.id for e in ENTRIES]
    assert Model.model_validate_json(openai_model(ENTRIES[0])).owned_by == "p"


def test_models_in_the_shape_of_anthropic() -> None:
    told = ModelInfo.model_validate_json(anthropic_model(ENTRIES[0]))
    assert (told.id, told.created_at.year) == ("p/m0", 2023)


@given(limit=st.integers(1, 6), backwards=st.booleans())
def test_pages_have_every_model_once(limit: int, backwards: bool) -> None:
    found: list[str] = []
    page = Page(limit=limit, before_id=ENTRIES[-1].id if backwards else None)
    while True:
        told = json.loads(anthropic_models(ENTRIES, page))
        ids = [one["id"] for one in told["data"]]
        assert (told["first_id"], told["last_id"]) == ((ids or [None])[0], (ids or [None])[-1])
        found = [*ids, *found] if backwards else [*found, *ids]
        if not told["has_more"]:
            break
        page = (
            Page(limit=limit, before_id=told["first_id"])
            if backwards
            else Page(limit=limit, after_id=told["last_id"])
        )
    assert found == [one.id for one in ENTRIES][: -1 if backwards else None]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"limit": "9999999999999"}, "limit"),
        ({"after_id": "a", "before_id": "b"}, "before_id"),
    ],
)
def test_wrong_page_is_refused(query: dict[str, str], param: str) -> None:
    with pytest.raises(WrongField) as caught:
        Page.of(query)
    assert caught.value.param == param


def test_page_after_an_unknown_model_is_refused() -> None:
    with pytest.raises(WrongField, match="no such model"):
        anthropic_models(ENTRIES, Page(after_id="p/none"))
