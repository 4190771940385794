"""Reading requests, without a server: what Hypothesis can think of."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.gateway.errors import NotJson, WrongField
from helix.gateway.intake import IntakeLimits, _check_shape, read_chat, upstream_body

LIMITS = IntakeLimits(messages_max=100, json_depth_max=16)

texts = st.text(st.characters(blacklist_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | texts
scalars |= st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=30
)


def depth(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


@given(value=values, most=st.integers(1, 6), ascii_only=st.booleans())
def test_depth_is_that_of_the_value(value: Any, most: int, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    limits = IntakeLimits(messages_max=100, json_depth_max=most)
    if depth(value) > most:
        with pytest.raises(NotJson, match="deeper"):
            _check_shape(body, limits)
    else:
        _check_shape(body, limits)


@given(content=texts, extra=st.dictionaries(texts, scalars, max_size=5), ascii_only=st.booleans())
def test_what_is_sent_reaches_the_provider_but_for_three_fields(
    content: str, extra: dict[str, Any], ascii_only: bool
) -> None:
    known = {"model", "messages", "stream", "stream_options", "helix"}
    extra = {key: value for key, value in extra.items() if key not in known}
    sent = {
        **extra,
        "model": "up/gpt",
        "messages": [{"role": "user", "content": content}],
        "stream": True,
        "helix": {"agent": "a"},
    }
    text = json.dumps(sent, ensure_ascii=ascii_only)
    request = read_chat(text.encode(), LIMITS)
    assert request.text == text
    passed_on = json.loads(upstream_body(request, "gpt"))
    assert passed_on.pop("stream_options") == {"include_usage": True}
    assert passed_on.pop("model") == "gpt"
    assert passed_on == {k: v for k, v in sent.items() if k not in {"model", "helix"}}


@given(body=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with pytest.raises((NotJson, WrongField)):
        read_chat(body, LIMITS)


@given(body=st.text(alphabet='{}[]":,\\u0d8ef1-.eE+ntr\n "model"messages', max_size=80))
def test_anything_like_json_is_read_or_refused(body: str) -> None:
    with pytest.raises((NotJson, WrongField)):
        read_chat(body.encode(), LIMITS)


@pytest.mark.parametrize(
    "extra",
    [
        json.dumps({f"k{number}": number for number in range(300_000)}),
        "[" + ",".join(["{}"] * 300_000) + "]",
        "[" + ",".join(["[" * 62 + "]" * 62] * 10_000) + "]",
        "[" + ",".join(['"x"'] * 300_000) + "]",
    ],
)
def test_body_of_too_many_parts_is_refused_before_it_is_decoded(extra: str) -> None:
    body = '{"model":"m","messages":[{"role":"user"}],"x":' + extra + "}"
    with pytest.raises(NotJson, match=r"more than json_nodes_max \(250000\)"):
        read_chat(body.encode(), IntakeLimits(messages_max=100, json_depth_max=64))


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("0.5", '{"temperature":0.5}'),
        ("1e99", '{"temperature":1e99}'),
        ("1e999999999", "{}"),
        ("null", '{"temperature":null}'),
        ('"low"', '{"temperature":"low"}'),
        (r'"\u0000"', "{}"),
        ("[1]", "{}"),
        ("9" * 70, "{}"),
    ],
)
def test_settings_of_the_model_are_kept_where_jsonb_takes_them(value: str, kept: str) -> None:
    body = '{"model":"m","messages":[{"role":"user"}],"temperature":' + value + "}"
    assert read_chat(body.encode(), LIMITS).params == kept


def test_usage_is_asked_for_beside_what_the_client_set() -> None:
    body = (
        b'{"model":"m","messages":[{"role":"user"}],"stream":true,'
        b'"stream_options":{"include_usage":false,"other":1}}'
    )
    passed_on = json.loads(upstream_body(read_chat(body, LIMITS), "m"))
    assert passed_on["stream_options"] == {"include_usage": True, "other": 1}
