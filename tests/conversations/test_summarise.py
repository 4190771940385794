"""Summaries by a model: what it is asked, and what becomes of its answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from helix.conversations import summariser
from helix.conversations.summarise import TRANSCRIPT_TOKENS_MAX
from helix.providers import estimate_tokens
from tests.injections import INJECTIONS

USER, ANSWER = uuid4(), uuid4()


@dataclass
class Said:
    text: str
    model_name: str = "small"
    response_id: UUID = ANSWER


class Model:
    """Keeps what it was asked and answers what it is given."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[tuple[UUID, Mapping[str, Any]]] = []

    async def ask(self, user_id: UUID, fields: Mapping[str, Any]) -> Said:
        self.asked.append((user_id, fields))
        return Said(self.text)


async def test_the_answer_is_the_summary_with_who_wrote_it() -> None:
    model = Model("  Anna ships 3 crates.\n")
    written = await summariser(model.ask, model="mock/small")(USER, "user: ship 3", 200)
    assert written is not None
    assert (written.text, written.model, written.response_id) == (
        "Anna ships 3 crates.", "small", ANSWER,
    )  # fmt: skip
    [(user, fields)] = model.asked
    assert (user, fields["model"], fields["max_tokens"], fields["temperature"]) == (
        USER, "mock/small", 200, 0,
    )  # fmt: skip


async def test_an_empty_answer_is_no_summary() -> None:
    assert await summariser(Model(" \n").ask, model="m")(USER, "user: hello", 50) is None


async def test_the_conversation_stands_between_fences_that_are_new_each_time() -> None:
    model = Model("x")
    summarise = summariser(model.ask, model="m")
    fences = set()
    for text in INJECTIONS:
        await summarise(USER, text, 50)
        system, data = model.asked[-1][1]["messages"]
        first, *_, last = data["content"].split("\n")
        assert (system["role"], data["role"]) == ("system", "user")
        assert first.removeprefix("BEGIN ") == last.removeprefix("END ")
        assert first.removeprefix("BEGIN ") in system["content"]
        assert text not in system["content"]
        fences.add(first)
    assert len(fences) == len(INJECTIONS)


async def test_a_very_long_conversation_is_told_by_its_beginning_and_its_end() -> None:
    model = Model("x")
    text = "BEGINNING " + "word " * 100_000 + "ENDING"
    await summariser(model.ask, model="m")(USER, text, 50)
    sent = model.asked[0][1]["messages"][1]["content"]
    assert "BEGINNING" in sent
    assert "[…]" in sent
    assert sent.rstrip().splitlines()[-2].endswith("ENDING")
    assert estimate_tokens(sent) < TRANSCRIPT_TOKENS_MAX + 100
