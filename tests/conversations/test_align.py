"""Which messages of a call are new to its conversation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.conversations.align import Said, first_new
from helix.conversations.text import digest_of


def talk(text: str) -> list[Said]:
    """`u1 a1` is a message of the user and an answer."""
    roles = {"u": "user", "a": "assistant", "t": "tool"}
    return [Said(word, roles[word[0]]) for word in text.split()]


@pytest.mark.parametrize(
    ("known", "sent", "new"),
    [
        ("", "u1", "u1"),
        ("u1 a1", "u1 a1 u2", "u2"),
        ("u1 a1 u2 a2", "u1 a1 u2", ""),  # asked anew: only the answer is new
        ("u1 a1 u2 a2", "u1 a1 u3", "u3"),  # another way from there
        ("u1 a1 u2 a2", "u2 a2 u3", "u3"),  # the client dropped the beginning
        ("u1 a1", "u2", "u2"),
        ("u1", "u1", ""),  # never answered, asked again
        ("u1 a1 u2 a2", "u2", "u2"),  # the same words again are a new question
        ("u1 a1 u2 a2 u1 a1", "u1 a1 u3", "u3"),
        ("u1 a1", "u1 a1 t1 t2", "t1 t2"),
        ("u1 a1", "a9 u1", "a9 u1"),
    ],
)
def test_a_client_that_sends_its_history(known: str, sent: str, new: str) -> None:
    at = first_new(talk(sent), talk(known), whole=True, assembled=False)
    assert talk(sent)[at:] == talk(new)


@pytest.mark.parametrize(
    ("known", "sent", "new"),
    [
        ("u1 a1", "u1", "u1"),  # yes, and yes again
        ("u1 a1", "u2", "u2"),
        ("u1 a1 u2", "u2", ""),
        ("u1 a1", "u1 a1 u2", "u2"),
    ],
)
def test_a_client_that_leaves_history_to_helix(known: str, sent: str, new: str) -> None:
    at = first_new(talk(sent), talk(known), whole=True, assembled=True)
    assert talk(sent)[at:] == talk(new)


def test_a_history_longer_than_what_is_compared_is_still_found() -> None:
    sent = talk("u1 a1 u2 a2 u3 a3 u4")
    assert first_new(sent, talk("u2 a2 u3 a3"), whole=False, assembled=False) == 6


@given(st.lists(st.sampled_from("abc"), max_size=6), st.integers(1, 3))
def test_a_talk_told_in_growing_histories_is_held_once(words: list[str], step: int) -> None:
    whole = [Said(f"{w}{i}", "user" if i % 2 == 0 else "assistant") for i, w in enumerate(words)]
    held: list[Said] = []
    for end in range(step, len(whole) + step, step):
        sent = whole[:end]
        held += sent[first_new(sent, held, whole=True, assembled=False) :]
    assert held == whole


def test_what_says_the_same_has_the_same_digest() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"}
    assert digest_of(parts) == digest_of({"role": "user", "content": "hi"})
    called = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    bare = {"role": "assistant", "tool_calls": [called]}
    assert digest_of(bare) == digest_of({**bare, "content": None, "refusal": None})
    assert digest_of(bare) != digest_of({"role": "assistant", "content": ""})
    assert digest_of({"role": "user", "content": "hi"}) != digest_of(
        {"role": "assistant", "content": "hi"}
    )
