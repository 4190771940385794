"""Planning a context: its promises for any talk, and that looked-up text stays data."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.conversations.context import (
    ContextOptions,
    ContextStrategy,
    Past,
    Plan,
    Recalled,
    SummaryText,
    plan,
    read_options,
)
from helix.conversations.errors import BudgetTooSmall
from helix.conversations.text import message_tokens
from tests.conversations.support import said
from tests.injections import FENCE, INJECTIONS


def past(*bodies: dict[str, Any]) -> list[Past]:
    return [
        Past(f"m{number}", number, body, message_tokens(body))
        for number, body in enumerate(bodies, 1)
    ]


def call(*ids: str) -> dict[str, Any]:
    calls = [
        {"id": one, "type": "function", "function": {"name": "look", "arguments": "{}"}}
        for one in ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(of: str, text: str = "found") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": of, "content": text}


def planned(budget_tokens: int = 10_000, **given_: Any) -> Plan:
    values: dict[str, Any] = {
        "system": [said("system", "be brief")],
        "new": [said("user", "and now?")],
        "history": [],
        "fence": FENCE,
        **given_,
    }
    return plan(budget_tokens=budget_tokens, **values)


WORDS = st.text("abc \n", min_size=1, max_size=200)


@st.composite
def talks(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Talk with calls of tools: whole, without some result, and results without their call."""
    bodies: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["user", "assistant", "tools", "stray"]))
        if kind == "tools":
            ids = [f"c{number}{letter}" for letter in "ab"[: draw(st.integers(1, 2))]]
            bodies.append(call(*ids))
            answered = ids if draw(st.booleans()) else ids[:-1]
            bodies += [result(one, draw(WORDS)) for one in answered]
        elif kind == "stray":
            bodies.append(result(f"x{number}"))
        else:
            bodies.append(said(kind, draw(WORDS)))
    return bodies


@settings(max_examples=400, deadline=None)
@given(
    talk=talks(),
    system=st.lists(WORDS, max_size=2),
    memories=st.lists(st.tuples(WORDS, st.floats(0, 1)), max_size=6),
    summary=WORDS | st.none(),
    budget=st.integers(1, 1_200),
    strategy=st.sampled_from(ContextStrategy),
)
def test_the_promises_hold_for_any_talk(  # noqa: PLR0917 - drawn by name
    talk: list[dict[str, Any]],
    system: list[str],
    memories: list[tuple[str, float]],
    summary: str | None,
    budget: int,
    strategy: ContextStrategy,
) -> None:
    prompts = [said("system", text) for text in system]
    new = [said("user", "what now?")]
    history = past(*talk)
    needed = sum(map(message_tokens, [*prompts, *new]))
    try:
        made = plan(
            budget_tokens=budget,
            system=prompts,
            new=new,
            history=history,
            summary=SummaryText("s1", summary, 3) if summary else None,
            memories=[Recalled(f"r{i}", text, score) for i, (text, score) in enumerate(memories)],
            strategy=strategy,
            fence=FENCE,
        )
    except BudgetTooSmall:
        assert needed > budget
        return
    assert sum(map(message_tokens, made.messages)) <= made.tokens <= budget
    assert list(made.messages[: len(prompts)]) == prompts
    assert made.messages[-1] == new[-1]
    check_calls(made.messages)
    check_history_is_its_end(made, talk)
    if strategy is ContextStrategy.RECENT:
        assert not made.added["memories"]
        assert made.added["summary"] is None


def check_calls(messages: Sequence[Any]) -> None:
    """Every call of a tool is followed by all its results, and every result follows its call."""
    waiting: set[str] = set()
    for body in messages:
        if body["role"] == "tool":
            assert body["tool_call_id"] in waiting
            waiting.remove(body["tool_call_id"])
        else:
            assert not waiting
            waiting = {one["id"] for one in body.get("tool_calls") or []}
    assert not waiting


def check_history_is_its_end(made: Plan, talk: list[dict[str, Any]]) -> None:
    """What was kept of the history is its end, but for calls that are broken."""
    ids = made.added["history"]["message_ids"]
    places = [int(one[1:]) for one in ids]
    assert places == sorted(places)
    first = min(places, default=len(talk) + 1)
    holes = [talk[place - 1] for place in range(first, len(talk) + 1) if place not in places]
    assert all(body["role"] == "tool" or body.get("tool_calls") for body in holes)


def test_everything_goes_along_when_there_is_room() -> None:
    history = past(said("user", "one"), said("assistant", "two"))
    made = planned(history=history, summary=SummaryText("s", "a summary", 1))
    assert [body["content"] for body in made.messages] == ["be brief", "one", "two", "and now?"]
    assert made.tainted is False
    assert made.added["history"] == {
        "messages": 2, "message_ids": ["m1", "m2"], "from_sequence": 1, "to_sequence": 2,
        "tokens": 10, "left_out": 0, "broken_calls": 0,
    }  # fmt: skip


def test_a_summary_stands_for_what_did_not_fit() -> None:
    history = past(*[said("user" if i % 2 == 0 else "assistant", "word " * 60) for i in range(20)])
    made = planned(1_000, history=history, summary=SummaryText("s", "user: it began well", 9))
    assert made.messages[1]["role"] == "system"
    assert "it began well" in made.messages[2]["content"]
    assert made.added["summary"]["to_sequence"] == 9
    assert made.added["history"]["to_sequence"] == 20
    assert made.added["history"]["left_out"] == 20 - made.added["history"]["messages"] > 0
    assert made.tainted


def test_the_history_begins_with_a_message_of_the_user() -> None:
    long = "word " * 100
    history = past(said("user", long), said("assistant", long), said("user", "b"),
                   said("assistant", "c"))  # fmt: skip
    made = planned(180, history=history)
    assert [body["content"] for body in made.messages[1:3]] == ["b", "c"]


def test_a_result_brings_the_call_it_answers() -> None:
    history = past(said("user", "word " * 400), said("user", "look it up"), call("c1", "c2"))
    made = planned(100, history=history, new=[result("c1"), result("c2")])
    assert [body["role"] for body in made.messages] == [
        "system", "user", "assistant", "tool", "tool",
    ]  # fmt: skip
    with pytest.raises(BudgetTooSmall, match=r"budget_tokens is 30"):
        planned(30, history=history, new=[result("c1", "x" * 40), result("c2")])


def test_the_best_memories_come_first_and_none_is_cut() -> None:
    found = [Recalled("low", "c " * 10, 0.2), Recalled("big", "b" * 9_000, 0.9),
             Recalled("high", "Anna lives in Berlin", 0.8)]  # fmt: skip
    made = planned(600, memories=sorted(found, key=lambda one: -one.score))
    assert [one["id"] for one in made.added["memories"]] == ["high", "low"]
    assert made.messages[2]["content"].index("Berlin") < made.messages[2]["content"].index("c c")


def test_the_list_of_injections_is_long() -> None:
    assert len(set(INJECTIONS)) == 500


@pytest.mark.parametrize("where", ["memory", "summary", "tool", "history"])
def test_no_text_that_was_looked_up_becomes_an_instruction(where: str) -> None:
    """500 texts in each of four places: the shape of the context never changes."""
    for text in INJECTIONS:
        told = text if where == "tool" else "r"
        answered = text if where == "history" else "y"
        history = past(
            said("user", "x"), call("c1"), result("c1", told), said("assistant", answered)
        )
        memories = [Recalled("m", text, 0.5)] if where == "memory" else []
        summary = SummaryText("s", text, 1) if where == "summary" else None
        if where == "summary":
            history = past(said("user", "word " * 2_000), *[one.body for one in history])
        made = planned(1_500, history=history, memories=memories, summary=summary)
        assert made.tainted, text
        prompts = [body for body in made.messages if body["role"] == "system"]
        assert prompts[0]["content"] == "be brief"
        assert all(text not in body["content"] for body in prompts)
        assert made.messages[-1] == said("user", "and now?")
        if where in {"memory", "summary"}:
            data = made.messages[2]
            assert data["role"] == "user"
            assert data["content"].startswith(f"BEGIN helix-data-{FENCE}\n")
            assert data["content"].endswith(f"\nEND helix-data-{FENCE}")
            assert data["content"].count("helix-data-") == 2
            assert made.added["fence"] == f"helix-data-{FENCE}"


@pytest.mark.parametrize(
    ("given_", "options"),
    [
        (None, None),
        (False, None),
        (True, ContextOptions(None, ContextStrategy.HYBRID, 5)),
        ({"budget_tokens": 500}, ContextOptions(500, ContextStrategy.HYBRID, 5)),
        ({"strategy": "recent", "memories": 0}, ContextOptions(None, ContextStrategy.RECENT, 0)),
    ],
)
def test_options_are_read(given_: Any, options: ContextOptions | None) -> None:
    assert read_options(given_) == options


@pytest.mark.parametrize(
    "given_",
    [7, "all", {"budget": 5}, {"budget_tokens": 0}, {"memories": 51}, {"strategy": "best"}],
)
def test_options_that_make_no_sense_are_refused(given_: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_options(given_)
