"""What a call asks of Helix in its field `helix`: its own budget, and what is refused clearly."""

from decimal import Decimal

import msgspec
import pytest

from tests.gateway.conftest import Stack

# gpt-4 is priced at 30 and 60 dollars a million; prompts are reserved in steps of 256 tokens.
PROMPT_USD = Decimal("0.00768")
UNKNOWN_OUT_USD = Decimal("0.24576")


async def test_call_that_may_cost_more_than_its_budget_is_not_made(stack: Stack) -> None:
    answer = await stack.chat(model="up/gpt-4", helix={"budget": "0.25"})
    assert answer.status == 402
    assert answer.error["code"] == "call_over_budget"
    assert answer.error["param"] == "helix.budget"
    assert answer.error["type"] == "insufficient_quota"
    cost = PROMPT_USD + UNKNOWN_OUT_USD
    assert f"may cost {cost:f} USD" in answer.error["message"]
    assert "helix.budget of 0.25 USD" in answer.error["message"]
    assert stack.upstream.calls == []
    assert await stack.count("llm_requests") == 0


async def test_call_that_cannot_cost_more_than_its_budget_is_made(stack: Stack) -> None:
    most = PROMPT_USD + Decimal("0.0006")
    exact = await stack.chat(model="up/gpt-4", max_tokens=10, helix={"budget": str(most)})
    assert exact.status == 200
    less = most - Decimal("0.000000000001")
    assert (
        await stack.chat(model="up/gpt-4", max_tokens=10, helix={"budget": str(less)})
    ).status == 402
    assert (await stack.chat(model="up/gpt-4", helix={"budget": 1})).status == 200
    assert len(stack.upstream.calls) == 2
    assert "helix" not in stack.upstream.calls[0].json


async def test_length_of_the_longest_answer_is_the_catalogues_where_it_says(stack: Stack) -> None:
    await stack.owner.execute(
        "UPDATE llm_models SET max_tokens = 100,"
        " capabilities = coalesce(capabilities, '{}') || '{\"known_from\": \"test\"}'"
        " WHERE model_name = 'gpt-4'"
    )
    await stack.providers._registry.refresh()
    budget = PROMPT_USD + Decimal("0.006")
    fits = await stack.chat(model="up/gpt-4", helix={"budget": str(budget)})
    assert fits.status == 200
    over = await stack.chat(
        model="up/gpt-4", helix={"budget": str(budget - Decimal("0.000000000001"))}
    )
    assert over.status == 402


@pytest.mark.parametrize("budget", [-1, "NaN", "Infinity", "1e9", True, "much", []])
async def test_budget_that_is_none_is_refused(stack: Stack, budget: object) -> None:
    answer = await stack.chat(helix={"budget": budget})
    assert answer.status == 400
    assert answer.error["code"] == "wrong_field"
    assert answer.error["param"] == "helix.budget"


@pytest.mark.parametrize(
    "asked", [{"prompt": "greeting@3"}, {"variables": {"name": "Ada"}}, {"prompt": ""}]
)
async def test_stored_prompts_are_refused_and_not_passed_over(
    stack: Stack, asked: dict[str, object]
) -> None:
    answer = await stack.chat(helix=asked)
    assert answer.status == 400
    assert answer.error["param"] == f"helix.{next(iter(asked))}"
    assert "stored prompts" in answer.error["message"]
    assert await stack.count("llm_requests") == 0


async def test_other_apis_take_the_budget_of_a_call_too(stack: Stack) -> None:
    body = {
        "model": "up/gpt-4",
        "max_tokens": 4_000,
        "messages": [{"role": "user", "content": "hello"}],
        "helix": {"budget": 0.01},
    }
    answer = await stack.request("POST", "/v1/messages", msgspec.json.encode(body))
    assert answer.status == 402
    assert stack.upstream.calls == []
