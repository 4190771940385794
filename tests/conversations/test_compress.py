"""Condensing by rules: what is kept, what it costs, how it is measured."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.conversations.compress import compress, quality_of
from helix.conversations.text import (
    entities_in,
    message_tokens,
    sentences_in,
    storable,
    words_in,
)
from helix.conversations.types import CompressionType, Message, MessageRole
from tests.conversations.support import START

TALK = [
    ("user", "Hi there! Hope you are well."),
    ("assistant", "Hello! How can I help you today?"),
    ("user", "We at Acme GmbH want to move the billing service to Berlin by 2026-12-01."),
    ("assistant", "Understood. Is the PostgreSQL database part of the move?"),
    ("user", "Yes. It holds 4.2 TB and Anna Schmidt owns it. The budget is $12,500."),
    ("assistant", "Then I would plan two nights. Anna Schmidt should approve the downtime."),
    ("user", "Ok."),
    ("assistant", "Anything else? I am happy to help. Just ask."),
    ("user", "Thanks. What is the weather like? Never mind."),
    ("assistant", "Nice weather, I believe. Have a good day!"),
]


def messages(talk: list[tuple[str, str]] = TALK) -> list[Message]:
    return [
        Message(
            message_id=f"m{number}",
            sequence=number,
            role=MessageRole(role),
            added={"content": text},
            changes={},
            tokens=message_tokens({"content": text}),
            created_at=START + timedelta(seconds=number),
        )
        for number, (role, text) in enumerate(talk, 1)
    ]


@pytest.mark.parametrize("strategy", list(CompressionType))
def test_names_and_numbers_outlive_small_talk(strategy: CompressionType) -> None:
    done = compress(messages(), strategy=strategy, target_tokens=80, window_messages=2)
    told = done.summary + " ".join(m.added["content"] for m in done.kept)
    assert "Acme GmbH" in told
    assert "Anna Schmidt" in told
    assert "Hope you are well" not in told
    assert done.compressed_tokens <= 80 < done.original_tokens
    assert {"Anna Schmidt", "Acme GmbH"} <= {one.name for one in done.entities}
    assert done.quality is not None
    assert done.quality >= 0.5


def test_a_window_keeps_the_newest_messages_word_for_word() -> None:
    done = compress(
        messages(), strategy=CompressionType.WINDOW_SUMMARY, target_tokens=90, window_messages=2
    )
    assert [message.message_id for message in done.kept] == ["m9", "m10"]
    assert done.compressed_messages == 3
    full = compress(messages(), strategy=CompressionType.FULL, target_tokens=90, window_messages=2)
    assert full.kept == ()


def test_a_summary_a_model_wrote_takes_the_place_of_extracts() -> None:
    done = compress(
        messages(),
        strategy=CompressionType.WINDOW_SUMMARY,
        target_tokens=90,
        window_messages=2,
        written="Acme moves billing. " + "It goes on and on. " * 100,
    )
    assert done.summary.startswith("Acme moves billing. It goes on and on.")
    assert done.compressed_tokens <= 90


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["user", "assistant"]),
            st.text(st.sampled_from("ab A.B\n1é "), max_size=120),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(CompressionType),
    st.integers(16, 200),
    st.integers(0, 4),
)
def test_it_never_passes_its_target_nor_grows(
    talk: list[tuple[str, str]], strategy: CompressionType, target: int, window: int
) -> None:
    given_ = messages(talk)
    done = compress(given_, strategy=strategy, target_tokens=target, window_messages=window)
    assert done.compressed_tokens <= min(target, done.original_tokens)
    assert done.original_tokens == sum(message.tokens for message in given_)
    assert done.quality is None or 0 <= done.quality <= 1
    assert list(done.kept) == given_[len(given_) - len(done.kept) :]


def test_quality_is_the_share_of_names_numbers_and_topics() -> None:
    originals = ["I met Anna Schmidt in Berlin. It cost $40."]
    assert quality_of(originals, originals[0]) == 1.0
    assert quality_of(originals, "") == 0.0
    half = quality_of(originals, "Anna Schmidt; $40")
    assert half is not None
    assert 0.5 < half < 1.0
    assert quality_of(["ok"], "") is None


def test_entities_are_found_by_rules() -> None:
    text = (
        "Please ask Anna Schmidt (anna@example.org) about order_id 4711 at https://x.example/a?b=1."
        " Berlin is cold. We go to Berlin on 2026-12-01, NASA too."
    )
    assert [(one.name, one.entity_type) for one in entities_in(text)] == [
        ("Anna Schmidt", "name"),
        ("anna@example.org", "email"),
        ("order_id", "code"),
        ("4711", "number"),
        ("https://x.example/a?b=1", "url"),
        ("Berlin", "name"),
        ("2026-12-01", "date"),
        ("NASA", "name"),
    ]


def test_hostile_text_is_read_in_linear_time() -> None:
    """A quarter of a megabyte of each takes well under the test's own limit."""
    for unit in ("a", "A ", "_", "a_", "aB", "1.", "@", "a@", "http://", ". ", "\n", "A-"):
        text = unit * (250_000 // len(unit))
        entities_in(text)
        sentences_in(text)
        words_in(text)


def test_what_an_event_cannot_hold_is_replaced() -> None:
    body = {
        "role": "user",
        "content": [
            {"type": "text", "text": "a\0b" + "x" * 5_000},
            {"type": "image_url", "image_url": {"url": "data:" + "A" * 5_000}},
        ],
    }
    kept = storable(body)
    assert kept["content"][0]["text"].startswith("a�bxxx")
    url = kept["content"][1]["image_url"]["url"]
    assert url.startswith("helix:elided:sha256:")
    assert url.endswith(":5005")
    assert storable(kept) == kept
