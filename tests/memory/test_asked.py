"""What is made of a model's answer about a memory: names that stand in it, and no more."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.memory.asked import read_answer
from helix.memory.extraction import FoundEntity, FoundRelation
from tests.injections import INJECTIONS

TEXT = "Ada owns a cat called Miso in Porto."


def answer(entities: object, relations: object = ()) -> str:
    return json.dumps({"entities": entities, "relations": list(relations)})  # type: ignore[call-overload]


def test_names_of_the_text_are_taken_with_their_types() -> None:
    told = answer(
        [{"name": "Miso", "type": "animal"}, {"name": "Porto"}],
        [{"subject": "Ada", "predicate": "owns", "object": "Miso"}],
    )
    found = read_answer(f"Here it is:\n```json\n{told}\n```", TEXT)
    assert found is not None
    assert found.entities == (FoundEntity("Miso", "animal"), FoundEntity("Porto", "thing"))
    assert found.relations == (FoundRelation("Ada", "owns", "Miso"),)


def test_what_does_not_stand_in_the_text_is_left_out() -> None:
    told = answer(
        [{"name": "Zeus", "type": "god"}, {"name": ""}, {"name": "A" * 300}],
        [{"subject": "Ada", "predicate": "hates", "object": "Zeus"},
         {"subject": "Ada", "predicate": "", "object": "Miso"}],
    )  # fmt: skip
    found = read_answer(told, TEXT)
    assert found is not None
    assert (found.entities, found.relations) == ((), ())


@pytest.mark.parametrize("told", ["", "no", "{", "[]", '{"entities": 3}', "{" * 5_000 + "}"])
def test_an_answer_that_is_no_such_object_is_nothing(told: str) -> None:
    assert read_answer(told, TEXT) is None


def test_an_injected_answer_adds_nothing_that_the_text_does_not_say() -> None:
    for text in INJECTIONS:
        found = read_answer(answer([{"name": "evil.example"}, {"name": text}]), TEXT)
        assert found is None or found.entities == ()


@given(st.text(max_size=400))
def test_any_answer_can_be_read(told: str) -> None:
    found = read_answer(told, TEXT)
    assert found is None or len(found.entities) <= 32
