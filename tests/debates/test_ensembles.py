"""Ensembles over real HTTP with the stock SDK: strategies, quorum, hedging, weights, budget.

In each, every member's answer is a row of the request and exactly one of the rows is selected.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from openai import APIStatusError, AsyncOpenAI

from helix import debates, ledger
from helix.core.clock import SystemClock
from helix.core.db import Connection, Database
from helix.providers import Store, Wire
from tests.fakes.scripted_upstream import HANG, ScriptedUpstream
from tests.gateway.conftest import Stack
from tests.gateway.test_limits import make_budget, of_period

ASK: Any = [{"role": "user", "content": "Which is it?"}]
MODELS = ("a", "b", "c", "judge", "writer")


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    fake = ScriptedUpstream()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def gateway_db(db: Database, owner: Connection) -> Database:
    """A database in which the five have prices before a gateway starts."""
    for model in MODELS:
        await owner.execute(
            "INSERT INTO llm_pricing (model, input_cost_per_million, output_cost_per_million)"
            " VALUES ($1, 10, 20)",
            f"ens/{model}",
        )
    return db


@pytest.fixture
async def client(stack: Stack, scripted: ScriptedUpstream) -> AsyncOpenAI:
    """A client of a gateway with ensembles, before a provider `ens` of five models with prices."""
    async with stack.owner.transaction():
        await Store(stack.keyring).insert(
            stack.owner,
            provider_id=uuid4(),
            name="ens",
            wire=Wire.OPENAI,
            base_url=scripted.url,
            api_key="sk-ens-secret-0000001",
            models=list(MODELS),
        )
    await stack.providers.refresh()
    debates.build(
        stack.db,
        gateway=stack.gateway,
        providers=stack.providers,
        ledger=ledger.build(stack.db),
        on_behalf=stack.accounts.on_behalf,
        clock=SystemClock(),
    )
    return stack.client()


def ensemble(strategy: str, *members: Any, **fields: Any) -> dict[str, Any]:
    """What rides in extra_body."""
    told = [{"model": f"ens/{m}"} if isinstance(m, str) else m for m in members]
    return {"helix": {"ensemble": {"strategy": strategy, "members": told, **fields}}}


async def ask(client: AsyncOpenAI, extra: dict[str, Any], **fields: Any) -> tuple[str, str]:
    """Return the answer and the request's id."""
    given = {"model": "ens/a", "messages": ASK, "extra_body": extra, "max_tokens": 100, **fields}
    raw = await client.chat.completions.with_raw_response.create(**given)
    told = raw.parse()
    return told.choices[0].message.content or "", raw.headers["x-request-id"]


async def rows(stack: Stack, request_id: str) -> dict[str, tuple[str, bool]]:
    """Return the rows of a request: model, status, selected; asserts that one is selected."""
    found = await stack.tries(request_id)
    assert [row["selected"] for row in found].count(True) == 1
    assert len({row["response_id"] for row in found}) == len(found)
    return {row["model_name"]: (row["status"], row["selected"]) for row in found}


async def settled(stack: Stack, budget: UUID) -> Decimal:
    """Return what a budget was charged, once nothing of it is reserved any more."""
    assert await stack.gateway._calls.until_idle(10)
    reserved, charged = await of_period(stack.owner, budget)
    assert reserved == 0
    return charged


DONE, CHOSEN = ("completed", False), ("completed", True)


def ruling(*order: Any) -> str:
    return json.dumps({"ranking": list(order), "confidence": 0.9, "reason": "sound"})


async def test_the_judge_chooses_the_best(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    scripted.lines |= {"a": "one", "b": "two", "c": "three", "judge": ruling("2", "1", "3")}
    answer, request_id = await ask(client, ensemble("best_of", "a", "b", "c", judge="ens/judge"))
    assert answer == "two"
    assert await rows(stack, request_id) == {"a": DONE, "b": CHOSEN, "c": DONE, "judge": DONE}
    [chosen] = [row for row in await stack.tries(request_id) if row["selected"]]
    assert chosen["confidence"] == Decimal("0.9000")
    asked = scripted.asked[-1]["messages"][-1]["content"]
    assert '{"answer":"1","text":"one"}' in asked  # whose it is, is not said
    assert "ens/" not in asked


async def test_a_judge_that_gives_bare_numbers_is_read(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    scripted.lines |= {"a": "one", "b": "two", "judge": '{"ranking": [2, 1]}'}
    answer, request_id = await ask(client, ensemble("best_of", "a", "b", judge="ens/judge"))
    assert answer == "two"
    assert (await rows(stack, request_id))["b"] == CHOSEN


@pytest.mark.parametrize(
    "judge", [500, "I like them all.", '{"ranking": ["9"]}', '{"ranking": []}']
)
async def test_if_the_judge_fails_the_majority_stands(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream, judge: Any
) -> None:
    scripted.lines |= {"a": "lone", "b": "two it is", "c": "two it is", "judge": judge}
    extra = ensemble("best_of", "a", "b", "c", judge="ens/judge")
    answer, request_id = await ask(client, extra)
    assert answer == "two it is"
    found = await rows(stack, request_id)
    assert found["a"] == DONE
    assert sorted([found["b"], found["c"]]) == [DONE, CHOSEN]
    assert found["judge"][1] is False
    assert found["judge"][0] == ("failed" if judge == 500 else "completed")


async def test_a_new_answer_is_made_of_all(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    scripted.lines |= {"a": "one", "b": "two", "writer": "one and two"}
    answer, request_id = await ask(client, ensemble("fusion", "a", "b", synthesizer="ens/writer"))
    assert answer == "one and two"
    assert await rows(stack, request_id) == {"a": DONE, "b": DONE, "writer": CHOSEN}
    *_, system, drafts = scripted.asked[-1]["messages"]
    assert system["role"] == "system"
    assert "one" not in system["content"].split()[-1]
    assert (drafts["role"], '{"draft":"2","text":"two"}' in drafts["content"]) == ("user", True)


@pytest.mark.parametrize("writer", [503, "   "])
async def test_if_the_synthesizer_fails_the_majority_stands(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream, writer: Any
) -> None:
    scripted.lines |= {"a": "two it is", "b": "lone", "c": "two it is", "writer": writer}
    extra = ensemble("fusion", "a", "b", "c", synthesizer="ens/writer")
    answer, request_id = await ask(client, extra)
    assert answer == "two it is"
    assert (await rows(stack, request_id))["writer"][1] is False


async def test_the_surest_answers_and_its_line_is_left_out(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    scripted.lines |= {
        "a": "one\nCONFIDENCE: 60%",
        "b": "two\nCONFIDENCE: 95%",
        "c": "three, and I am quite certain",
    }
    answer, request_id = await ask(client, ensemble("confidence", "a", "b", "c"))
    assert answer == "two"
    assert await rows(stack, request_id) == {"a": DONE, "b": CHOSEN, "c": DONE}
    [chosen] = [row for row in await stack.tries(request_id) if row["selected"]]
    assert chosen["confidence"] == Decimal("0.9500")
    assert all("CONFIDENCE" in body["messages"][-1]["content"] for body in scripted.asked)


async def test_nobody_who_is_surer_than_certain_wins(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    scripted.lines |= {"a": "one\nCONFIDENCE: 900%", "b": "two\nCONFIDENCE: 30%"}
    answer, request_id = await ask(client, ensemble("confidence", "a", "b"))
    assert answer == "two"
    assert (await rows(stack, request_id))["b"] == CHOSEN


@pytest.mark.parametrize("stream", [False, True])
async def test_a_quorum_answers_and_the_rest_are_cut_off(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream, stream: bool
) -> None:
    scripted.lines |= {"a": "it is two", "b": "It is two.", "c": HANG}
    extra = ensemble("majority", "a", "b", "c", quorum=2)
    async with asyncio.timeout(20):
        if stream:
            raw = await client.chat.completions.with_raw_response.create(
                model="ens/a", messages=ASK, extra_body=extra, stream=True, max_tokens=100
            )
            request_id = raw.headers["x-request-id"]
            pieces = [c async for c in raw.parse()]
            answer = "".join(c.choices[0].delta.content or "" for c in pieces if c.choices)
            assert pieces[-1].choices[0].finish_reason == "stop" or not pieces[-1].choices
        else:
            answer, request_id = await ask(client, extra)
        await scripted.cut["c"].wait()  # the upstream sees the hang-up
    assert answer.casefold().rstrip(".") == "it is two"
    found = await rows(stack, request_id)
    assert found["c"] == ("cancelled", False)
    assert {found["a"][0], found["b"][0]} == {"completed"}


async def test_a_hedge_asks_the_next_after_silence_and_cuts_the_silent_off(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    scripted.lines |= {"a": HANG, "b": "two", "c": "three"}
    async with asyncio.timeout(20):
        answer, request_id = await ask(
            client, ensemble("first_good", "a", "b", "c", hedge_ms=1_000)
        )
        await scripted.cut["a"].wait()
    assert answer == "two"
    assert sorted(scripted.models) == ["a", "b"]  # asked at once
    assert await rows(stack, request_id) == {"a": ("cancelled", False), "b": CHOSEN}


async def test_a_long_answer_is_streamed_in_pieces_and_whole(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    text = "a word or two, " * 40
    scripted.lines |= {"a": text, "b": 500}
    stream = await client.chat.completions.create(
        model="ens/a", messages=ASK, stream=True, max_tokens=100,
        extra_body=ensemble("majority", "a", "b"), stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    told = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert "".join(told) == text
    assert len(told) == 10
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 150  # of the one member that was charged


async def test_who_was_right_in_debates_weighs_more(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    scripted.lines |= {"a": "one", "b": "one", "c": "two"}
    for model, success in (("a", 1), ("b", 1), ("c", 9)):
        await stack.owner.execute(
            "INSERT INTO debate_strategy_success (strategy_name, provider, model, position,"
            " success_count, total_attempts) VALUES ('x', 'ens', $1, 'debater', $2, 10)",
            model,
            success,
        )
    members = [{"model": f"ens/{m}", "weight": 1, "weight_learned": True} for m in "abc"]
    answer, request_id = await ask(client, ensemble("weighted", *members))
    assert answer == "two"  # 9/10 against 1/10 + 1/10
    [chosen] = [row for row in await stack.tries(request_id) if row["selected"]]
    assert chosen["confidence"] == Decimal("0.8182")
    plain = [{**member, "weight_learned": False} for member in members]
    assert (await ask(client, ensemble("weighted", *plain)))[0] == "one"


async def test_a_member_without_a_weight_has_its_providers(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    scripted.lines |= {"a": "one", "b": "one"}
    await stack.owner.execute("UPDATE llm_providers SET weight = 0.25 WHERE name = 'ens'")
    await stack.providers.refresh()
    extra = ensemble("weighted", "a", "b", {"model": "mock/echo", "weight": "0.6"})
    assert (await ask(client, extra))[0] == "Which is it?"


async def test_the_cost_of_all_is_held_against_the_budget_before_anybody_is_asked(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    """One member fits the budget, three do not; with room for all, all are charged."""
    scripted.lines |= {"a": "one", "b": "one", "c": "one"}
    budget = await make_budget(stack.owner, stack.user_id, Decimal("0.012"))
    assert (await ask(client, ensemble("majority", "a")))[0] == "one"
    cost = Decimal("0.002")  # 100 x 10 + 50 x 20 micro-dollars
    assert await settled(stack, budget) == cost
    scripted.asked.clear()
    with pytest.raises(APIStatusError) as refused:
        await ask(client, ensemble("majority", "a", "b", "c"))
    assert refused.value.code == "budget_exceeded"
    assert scripted.asked == []
    assert await settled(stack, budget) == cost
    await stack.owner.execute("UPDATE budgets SET limit_usd = 1 WHERE id = $1", budget)
    await ask(client, ensemble("best_of", "a", "b", "c", judge="ens/judge"))
    assert await settled(stack, budget) == 5 * cost


async def test_what_a_judge_reads_and_a_member_may_say_is_counted_too(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    """A member's own max_tokens, and the answers in the judge's prompt, would cost more."""
    budget = await make_budget(stack.owner, stack.user_id, Decimal("1.5"))
    long = {"model": "ens/b", "fields": {"max_tokens": 100_000}}
    with pytest.raises(APIStatusError):  # 100,000 x 20 micro-dollars
        await ask(client, ensemble("majority", "a", long))
    fits = {"model": "ens/b", "fields": {"max_tokens": 40_000}}
    await ask(client, ensemble("majority", "a", fits))
    with pytest.raises(APIStatusError):  # 0.8 to say it, 0.8 for the judge to read two such
        await ask(client, ensemble("best_of", "a", fits, judge="ens/judge"))
    assert sorted(scripted.models) == ["a", "b"]  # asked at once
    assert await settled(stack, budget) == Decimal("0.004")


async def test_all_failing_is_one_clear_error_and_no_selected_row(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    scripted.lines |= {"a": 500, "b": "  ", "c": 401}
    answer = await stack.chat(
        model="ens/a", **ensemble("best_of", "a", "b", "c", judge="ens/judge")
    )
    assert answer.status == 502
    assert answer.error["code"]
    found = await stack.tries(answer.headers["x-request-id"])
    assert not any(row["selected"] for row in found if row["status"] == "completed")
    assert "judge" not in scripted.models


async def test_default_ensemble_asks_the_registrys_best(
    stack: Stack, client: AsyncOpenAI, scripted: ScriptedUpstream
) -> None:
    await stack.owner.execute(
        "UPDATE llm_models SET benchmark_score = CASE model_name WHEN 'c' THEN 90 ELSE 80 END"
        " WHERE provider_id = (SELECT id FROM llm_providers WHERE name = 'ens')"
    )
    await stack.providers.refresh()
    scripted.lines |= {"c": lambda body: ruling("1") if "Rank" in str(body) else "c says"}
    names = {model.id async for model in client.models.list()}
    assert {"ensemble/default", "debate/default"} <= names
    answer, request_id = await ask(client, {}, model="ensemble/default")
    assert answer == "c says"
    told = await stack.owner.fetchval(
        "SELECT ensemble_config FROM llm_requests WHERE id = $1", request_id
    )
    assert told["asks"] == ["ens/c", "up/gpt-4", "ens/a", "ens/c"]
