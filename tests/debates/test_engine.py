"""Debates held to their end: protocols, stops, substitutes, ballots, validation, limits, value."""

import asyncio
import json
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from helix import debates, tasks
from helix.accounts import Principal
from helix.core.clock import SystemClock
from helix.core.db import Connection, Database, Role
from helix.core.errors import Forbidden, HelixError, TooMany, Unavailable, Upstream
from helix.debates import Debate, DebateSpec
from tests.debates.support import (
    Answer,
    FakeModels,
    a_user,
    agreeable,
    engine_of,
    events,
    held,
    kind_of,
    ranked,
    run_once,
    said,
    see,
    spec_of,
    start,
    until_ended,
    working,
)


async def hold(
    db: Database, owner: Connection, answer: Answer, spec: DebateSpec | None = None, **ports: Any
) -> tuple[Debate, FakeModels]:
    """Hold one debate in one attempt."""
    user_id = await a_user(owner)
    models = FakeModels(owner, answer)
    debate_id = await start(db, spec or spec_of(), user_id)
    await run_once(db, engine_of(models, **ports), debate_id, user_id)
    return await see(db, debate_id), models


def loyal(**position_of: str) -> Answer:
    """Each model holds its own position, and votes for it alone."""

    def answer(model: str, messages: list[dict[str, str]]) -> str:
        mine = position_of[model.rpartition("/")[2]]
        if kind_of(messages) == "argue":
            number = messages[-1]["content"].rpartition("This is round ")[2][0]
            return said(mine, f"in round {number} {model} still holds {mine} for reason {number}")
        return agreeable(mine)(model, messages)

    return answer


async def test_a_debate_that_agrees_ends_after_its_first_round(
    db: Database, owner: Connection
) -> None:
    user_id = await a_user(owner)
    models = FakeModels(owner, agreeable("tabs", "spaces"))
    debate_id = await start(db, spec_of(), user_id)
    [debate] = await held(db, engine_of(models), debate_id)
    assert (debate.status, debate.stop_reason) == ("completed", "agreement")
    assert (debate.final_winner, debate.final_conclusion) == ("tabs", "tabs it is")
    assert debate.consensus_reached
    assert (debate.confidence, debate.confidence_source) == (Decimal("1.0000"), "vote_share")
    assert debate.baseline == {"answer": "tabs", "share": "1.0000", "answers": 3}
    assert debate.changed is False
    assert len(models.asked) == 3 + 3 + 3 + 1
    told = await events(db, debate_id)
    assert told[:2] == ["started", "round_started"]
    assert sorted(told[2:8]) == ["argued"] * 3 + ["baseline"] * 3
    assert told[8:] == ["voted", "voted", "voted", "round_ended", "concluded", "completed"]


async def test_participants_who_repeat_themselves_are_stopped_by_convergence(
    db: Database, owner: Connection
) -> None:
    def stubborn(model: str, messages: list[dict[str, str]]) -> str:
        mine = "tabs" if model == "mock/ada" else "spaces"
        return agreeable(mine)(model, messages)

    debate, _ = await hold(db, owner, stubborn, spec_of(rounds=5))
    assert (debate.stop_reason, len(debate.rounds)) == ("convergence", 2)
    assert [r.convergence for r in debate.rounds] == [None, Decimal("1.0000")]
    assert debate.final_winner == "spaces"


async def test_all_rounds_are_held_when_nobody_gives_way(db: Database, owner: Connection) -> None:
    answer = loyal(ada="tabs", bob="spaces", cyd="tabs")
    debate, _ = await hold(db, owner, answer, spec_of(rounds=3, conclude="winner"))
    assert (debate.stop_reason, [r.phase for r in debate.rounds]) == (
        "rounds",
        ["proposal", "critique", "convergence"],
    )
    assert (debate.final_winner, debate.consensus_reached) == ("tabs", True)
    assert debate.final_conclusion is not None
    assert debate.final_conclusion.startswith("tabs. in round 3")
    assert debate.minority_opinion == "bob held spaces: best case"


async def test_whom_one_hears_is_what_the_protocol_says(db: Database, owner: Connection) -> None:
    heard: dict[tuple[str, str], str] = {}

    def listening(model: str, messages: list[dict[str, str]]) -> str:
        text = messages[-1]["content"]
        if kind_of(messages) == "argue":
            number = text.rpartition("This is round ")[2][0]
            heard[model, number] = text
            return said("tabs", f"{model} spoke in {number}")
        return agreeable("tabs")(model, messages)

    stop = {"agreement": None, "convergence": None}
    spec = spec_of(protocol="round_robin", stop=stop)
    await hold(db, owner, listening, spec)
    assert "spoke in" not in heard["mock/ada", "1"]
    assert "mock/ada spoke in 1" in heard["mock/bob", "1"]
    assert "mock/cyd" not in heard["mock/bob", "1"]
    assert "mock/ada spoke in 2" in heard["mock/cyd", "2"]

    heard.clear()
    await hold(db, owner, listening, spec_of(protocol="all_see_all", stop=stop))
    assert "spoke in" not in heard["mock/cyd", "1"]
    assert all(f"mock/{n} spoke in 1" in heard["mock/cyd", "2"] for n in ("ada", "bob", "cyd"))
    assert "spoke in 2" not in heard["mock/cyd", "2"]

    heard.clear()
    await hold(db, owner, listening, spec_of(protocol="critic_defender", stop=stop))
    assert "spoke in" not in heard["mock/ada", "1"] + heard["mock/cyd", "1"]
    assert "mock/ada spoke in 1" in heard["mock/bob", "1"]
    assert "Address ada first" in heard["mock/bob", "1"]


async def test_a_judge_rules_alone(db: Database, owner: Connection) -> None:
    def answer(model: str, messages: list[dict[str, str]]) -> str:
        if model == "mock/judge" and kind_of(messages) == "vote":
            return ranked("spaces", "tabs", confidence=0.7, reason="the better case")
        return agreeable("tabs")(model, messages)

    spec = spec_of(protocol="judge", judge="mock/judge", conclude="winner")
    debate, _ = await hold(db, owner, answer, spec)
    assert [(v.voter, v.round) for v in debate.votes] == [("judge", 1)]
    assert (debate.final_winner, debate.confidence) == ("spaces", Decimal("0.7000"))
    assert debate.confidence_source == "judge"
    assert debate.changed is True
    assert debate.baseline == {"answer": "tabs", "share": "1.0000", "answers": 3}


async def test_a_substitute_speaks_for_the_same_position(db: Database, owner: Connection) -> None:
    spec = spec_of(
        participants=[
            {"name": "ada", "model": "mock/ada"},
            {
                "name": "bob",
                "model": "mock/bob",
                "position": "spaces",
                "substitutes": ["mock/bobs", "mock/cyd"],
            },
        ],
        stop={"agreement": None, "convergence": None},
    )

    def down(model: str, messages: list[dict[str, str]]) -> str:
        if model in {"mock/bob", "mock/bobs"}:
            raise Upstream("down")
        return agreeable("tabs")(model, messages)

    debate, _ = await hold(db, owner, down, spec)
    of_bob = [a for a in debate.arguments if a.participant == "bob"]
    assert [(a.round, a.model_name, a.is_primary, a.position) for a in of_bob] == [
        (1, "cyd", False, "spaces"),
        (2, "cyd", False, "spaces"),
    ]
    assert debate.status == "completed"
    told = await events(db, debate.id)
    assert told.count("substituted") == 1  # from then on the substitute is asked first
    assert told.count("silent") == 1  # nobody stands in for a model in its baseline


async def test_a_debate_goes_on_without_one_and_fails_without_two(
    db: Database, owner: Connection
) -> None:
    def one_down(model: str, messages: list[dict[str, str]]) -> str:
        if model == "mock/cyd":
            raise Upstream("down")
        return agreeable("tabs")(model, messages)

    debate, _ = await hold(db, owner, one_down)
    assert (debate.status, debate.final_winner) == ("completed", "tabs")
    assert {a.participant for a in debate.arguments} == {"ada", "bob"}
    assert debate.rounds[0].agreement == Decimal("0.6667")  # the silent one does not agree

    def two_down(model: str, messages: list[dict[str, str]]) -> str:
        if model != "mock/ada":
            raise Upstream("down")
        return agreeable("tabs")(model, messages)

    failed, _ = await hold(db, owner, two_down)
    assert failed.status == "failed"
    assert failed.error == "only 1 of 3 spoke in round 1"
    assert (await events(db, failed.id))[-1] == "failed"


async def test_a_ballot_is_repaired_once_and_then_recorded_as_invalid(
    db: Database, owner: Connection
) -> None:
    def answer(model: str, messages: list[dict[str, str]]) -> str:
        again = "no valid ballot" in messages[-1]["content"]
        if kind_of(messages) == "vote" and model != "mock/ada":
            return ranked("tabs") if again and model == "mock/bob" else "tabs, obviously"
        return agreeable("tabs")(model, messages)

    debate, models = await hold(db, owner, answer)
    votes = {v.voter: v for v in debate.votes if v.round == 1}
    assert votes["ada"].ballot is not None
    assert (votes["bob"].is_repaired, votes["bob"].ballot is not None) == (True, True)
    assert (votes["cyd"].is_repaired, votes["cyd"].ballot) == (False, None)
    assert votes["cyd"].refusal == "the answer holds no JSON object that can be read"
    assert debate.rounds[0].tally is not None
    assert (debate.rounds[0].tally["ballots"], debate.rounds[0].tally["invalid"]) == (2, 1)
    paid = [e for e in await events(db, debate.id) if e in {"voted", "ballot_refused"}]
    assert (paid.count("voted"), paid.count("ballot_refused")) == (6, 4)  # of two rounds
    assert len(models.asked) == debate.calls


async def test_validation_passes_judge_every_argument(db: Database, owner: Connection) -> None:
    def answer(model: str, messages: list[dict[str, str]]) -> str:
        if kind_of(messages) != "validate":
            return agreeable("tabs")(model, messages)
        if "logic" in messages[0]["content"]:
            return "I would rather not."
        verdicts = [
            {"participant": "ada", "verdict": "passed", "feedback": "sound"},
            {"participant": "bob", "verdict": "failed", "feedback": "made up"},
        ]
        return json.dumps({"verdicts": verdicts})

    spec = spec_of(validation={"passes": ["facts", "logic"], "model": "mock/checker"})
    debate, models = await hold(db, owner, answer, spec)
    checked = {a.participant: a for a in debate.arguments if a.round == 1}
    assert [checked[n].validation_status for n in ("ada", "bob", "cyd")] == [
        "passed",
        "failed",
        "pending",
    ]
    assert checked["bob"].validation_feedback is not None
    assert "facts: made up" in checked["bob"].validation_feedback
    assert debate.multipass_result == {
        "passes": [
            {"name": "facts", "passed": 1, "failed": 1, "unreadable": 1},
            {"name": "logic", "passed": 0, "failed": 0, "unreadable": 3},
        ],
        "passed": ["ada"],
        "failed": ["bob"],
        "score": "0.3333",
    }
    assert [model for key, model in models.asked if ":validate:" in key] == ["mock/checker"] * 2
    assert debate.consensus_reached


async def test_what_validation_fails_throughout_is_no_consensus(
    db: Database, owner: Connection
) -> None:
    def answer(model: str, messages: list[dict[str, str]]) -> str:
        if kind_of(messages) != "validate":
            return agreeable("tabs")(model, messages)
        verdicts = [
            {"participant": name, "verdict": "failed", "feedback": "wrong"}
            for name in ("ada", "bob", "cyd")
        ]
        return json.dumps({"verdicts": verdicts})

    debate, _ = await hold(db, owner, answer, spec_of(validation={"passes": ["facts"]}))
    assert (debate.final_winner, debate.consensus_reached) == ("tabs", False)


# ---- limits (L5, T2) -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "asked", "status", "rounds"),
    [
        (5, 0, "failed", 0),  # the first step needs six
        (6, 6, "completed", 0),
        (8, 6, "completed", 0),  # three votes would make nine
        (9, 9, "completed", 1),
        (14, 12, "completed", 1),
    ],
)
async def test_a_debate_stops_exactly_at_its_cap_of_calls(  # noqa: PLR0917 - a table
    db: Database, owner: Connection, calls: int, asked: int, status: str, rounds: int
) -> None:
    answer = loyal(ada="tabs", bob="spaces", cyd="tabs")
    spec = spec_of(rounds=20, limits={"calls": calls})
    debate, models = await hold(db, owner, answer, spec)
    assert len(models.asked) == asked
    assert (debate.status, debate.stop_reason) == (
        status,
        "calls",
    )
    assert sum(1 for r in debate.rounds if r.winner) == rounds
    if status == "completed":
        assert debate.final_winner == "tabs"


async def test_a_debate_never_spends_more_than_its_budget(db: Database, owner: Connection) -> None:
    async def price(model: str, prompt_tokens: int, output_tokens: int) -> Decimal:
        return Decimal("0.001")  # what each call costs, exactly

    answer = loyal(ada="tabs", bob="spaces", cyd="tabs")
    for budget, asked in (("0.0059", 0), ("0.006", 6), ("0.0089", 6), ("0.012", 12)):
        spec = spec_of(rounds=20, limits={"budget_usd": budget}, conclude="winner")
        debate, models = await hold(db, owner, answer, spec, price=price)
        spent = await owner.fetchval(
            "SELECT cost_usd FROM debate_value WHERE debate_id = $1", debate.id
        )
        assert (len(models.asked), debate.stop_reason) == (asked, "budget")
        assert spent <= Decimal(budget)


async def test_a_debate_ends_in_time_with_what_was_said(db: Database, owner: Connection) -> None:
    """The time limit is the wall's: the clock is moved on while the second round is spoken."""

    class Moved(SystemClock):
        gone = False

        def now(self) -> Any:
            found = super().now()
            return found.replace(year=found.year + 1) if self.gone else found

    clock = Moved()

    def answer(model: str, messages: list[dict[str, str]]) -> str:
        if "This is round 2" in messages[-1]["content"]:
            clock.gone = True
        return loyal(ada="tabs", bob="spaces", cyd="tabs")(model, messages)

    debate, models = await hold(
        db, owner, answer, spec_of(rounds=20, limits={"time_s": 3_600}), clock=clock
    )
    assert (debate.status, debate.stop_reason) == ("completed", "time")
    assert len(models.asked) == 6 + 3 + 3
    statuses = await owner.fetch(
        "SELECT status FROM debate_rounds WHERE debate_id = $1 ORDER BY round_number", debate.id
    )
    assert [row["status"] for row in statuses] == ["completed", "cancelled"]


async def test_a_budget_of_the_caller_ends_the_debate_with_what_there_is(
    db: Database, owner: Connection
) -> None:
    class BudgetExceeded(TooMany):
        code = "budget_exceeded"

    def answer(model: str, messages: list[dict[str, str]]) -> str:
        if kind_of(messages) == "vote":
            raise BudgetExceeded("the month's budget is used up")
        return agreeable("tabs")(model, messages)

    debate, _ = await hold(db, owner, answer)
    assert (debate.status, debate.stop_reason) == ("completed", "budget")
    assert (debate.final_winner, debate.consensus_reached) == ("tabs", False)


async def test_a_passing_trouble_hands_the_task_back(db: Database, owner: Connection) -> None:
    calls = 0

    def answer(model: str, messages: list[dict[str, str]]) -> str:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Unavailable("the database cannot be reached", retry_after_s=0.01)
        return agreeable("tabs")(model, messages)

    user_id = await a_user(owner)
    models = FakeModels(owner, answer)
    debate_id = await start(db, spec_of(), user_id)
    with pytest.raises(tasks.RetryLater):
        await run_once(db, engine_of(models), debate_id, user_id)
    assert len(models.asked) == 5  # the others of that step are recorded
    await run_once(db, engine_of(models), debate_id, user_id)
    debate = await see(db, debate_id)
    assert debate.status == "completed"
    assert len({key for key, _ in models.asked}) == len(models.asked) == debate.calls
    assert "resumed" in await events(db, debate_id)


async def test_a_call_that_died_with_its_gateway_is_made_anew(
    db: Database, owner: Connection
) -> None:
    """The record tells such a call as failed for good; it is no fault of the model's."""

    class CallFailed(Upstream):
        code = "call_failed"

    models = FakeModels(owner, agreeable("tabs"))

    async def before(key: str) -> None:
        if key.endswith(":1:argue:bob:0"):
            raise CallFailed("the gateway ended before the call did")

    models.before = before
    user_id = await a_user(owner)
    debate_id = await start(db, spec_of(), user_id)
    await run_once(db, engine_of(models), debate_id, user_id)
    debate = await see(db, debate_id)
    assert {a.participant for a in debate.arguments if a.round == 1} == {"ada", "bob", "cyd"}
    assert all(a.is_primary for a in debate.arguments)
    assert [key for key, _ in models.asked if key.endswith(":argue:bob:0:1")]


async def test_a_user_who_may_not_call_any_more_fails_the_debate(
    db: Database, owner: Connection
) -> None:
    async def refused(user_id: UUID) -> Principal:
        raise Forbidden("the account is suspended")

    debate, models = await hold(db, owner, agreeable(), on_behalf=refused)
    assert (debate.status, debate.error) == ("failed", "the account is suspended")
    assert models.asked == []


# ---- cancelling ----------------------------------------------------------------------------------


async def test_a_debate_is_cancelled_while_it_runs(db: Database, owner: Connection) -> None:
    user_id = await a_user(owner)
    asking = asyncio.Event()

    async def before(key: str) -> None:
        if ":2:" in key:
            asking.set()
            await asyncio.Event().wait()

    models = FakeModels(owner, loyal(ada="tabs", bob="spaces", cyd="tabs"), before=before)
    debate_id = await start(db, spec_of(rounds=3), user_id)
    async with working(db, engine_of(models)), asyncio.timeout(30):
        await asking.wait()
        async with db.transaction(Role.APP, tenant=user_id) as conn:
            await debates.cancel(conn, debate_id=debate_id, now=SystemClock().now())
        debate = await until_ended(db, debate_id)
    assert debate.status == "cancelled"
    assert (await events(db, debate_id))[-1] == "cancelled"
    assert [r.ended for r in debate.rounds] == [True, True]
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        with pytest.raises(debates.DebateEnded):
            await debates.cancel(conn, debate_id=debate_id, now=SystemClock().now())


async def test_a_debate_whose_task_is_gone_is_ended(db: Database, owner: Connection) -> None:
    user_id = await a_user(owner)
    ids = [await start(db, spec_of(), user_id) for _ in range(3)]
    await owner.execute("UPDATE debates SET created_at = now() - interval '1 hour'")
    async with db.transaction(Role.OPERATOR) as conn:
        first = await debates.get(conn, debate_id=ids[0])
        await tasks.cancel(conn, task_id=tasks.TaskId(first.task_id or uuid4()))
    await owner.execute("UPDATE debates SET task_id = NULL WHERE id = $1", ids[1])
    async with db.transaction(Role.OPERATOR) as conn:
        assert await debates.tidy(conn, now=SystemClock().now()) == 2
        assert await debates.tidy(conn, now=SystemClock().now()) == 0
    found = [(await see(db, debate_id)).status for debate_id in ids]
    assert found == ["cancelled", "failed", "pending"]


# ---- tenancy, value, learning --------------------------------------------------------------------


async def test_a_debate_is_its_users_alone(db: Database, owner: Connection) -> None:
    debate, _ = await hold(db, owner, agreeable())
    stranger = await a_user(owner)
    async with db.transaction(Role.APP, tenant=stranger) as conn:
        with pytest.raises(debates.DebateNotFound):
            await debates.get(conn, debate_id=debate.id)
        with pytest.raises(debates.DebateNotFound):
            await debates.cancel(conn, debate_id=debate.id, now=SystemClock().now())
        assert await debates.list_debates(conn) == []
        assert await debates.events_of(conn, debate_id=debate.id) == []
        assert await debates.value(conn, debate_id=debate.id) == []


async def test_what_a_debate_changed_and_cost_is_one_row(db: Database, owner: Connection) -> None:
    def answer(model: str, messages: list[dict[str, str]]) -> str:
        if kind_of(messages) == "baseline" and model != "mock/cyd":
            return said("spaces")
        return agreeable("tabs")(model, messages)

    debate, _ = await hold(db, owner, answer, spec_of(expected="tabs"))
    async with db.transaction(Role.OPERATOR) as conn:
        [value] = await debates.value(conn, debate_id=debate.id)
    assert (value["baseline_answer"], value["final_winner"], value["changed"]) == (
        "spaces",
        "tabs",
        True,
    )
    assert (value["single_right"], value["baseline_right"], value["debate_right"]) == (
        1,
        False,
        True,
    )
    assert (value["calls"], value["calls_kept"]) == (10, 10)
    assert value["cost_usd"] == Decimal("0.010")
    assert (value["baseline_cost_usd"], value["debate_cost_usd"]) == (
        Decimal("0.003"),
        Decimal("0.007"),
    )
    assert value["times_the_baseline"] == Decimal("2.33")


async def test_success_is_learned_by_role_and_model_and_told_from_three_on(
    db: Database, owner: Connection
) -> None:
    answer = loyal(ada="tabs", bob="spaces", cyd="tabs")
    members = [
        {"name": "ada", "model": "mock/ada", "role": "researcher", "weight_learned": True},
        {"name": "bob", "model": "mock/bob", "role": "opponent", "weight_learned": True},
        {"name": "cyd", "model": "mock/cyd", "role": "researcher"},
    ]
    spec = spec_of(participants=members, rounds=1, strategy="plain")
    for number in range(4):
        async with db.transaction(Role.OPERATOR) as conn:
            best = await debates.best_strategies(conn)
        assert len(best) == (0 if number < 3 else 3)
        debate, _ = await hold(db, owner, answer, spec)
    told = {(b["model"], b["position"]): (b["success_count"], b["total_attempts"]) for b in best}
    assert told == {
        ("ada", "researcher"): (3, 3),
        ("bob", "opponent"): (0, 3),
        ("cyd", "researcher"): (3, 3),
    }
    assert best[-1]["model"] == "bob"
    assert {b["avg_confidence"] for b in best} == {Decimal("0.8000")}
    assert {b["avg_response_time_ms"] for b in best} == {Decimal("7.00")}
    weights = {v.voter: v.weight for v in debate.votes}
    assert weights == {"ada": Decimal(1), "bob": Decimal(0), "cyd": Decimal(1)}


async def test_the_database_holds_the_ways_between_states(db: Database, owner: Connection) -> None:
    debate, _ = await hold(db, owner, agreeable())
    for status in ("pending", "running", "validating", "failed", "cancelled"):
        with pytest.raises(Exception, match="cannot go from completed"):
            await owner.execute("UPDATE debates SET status = $2 WHERE id = $1", debate.id, status)
    other = await start(db, spec_of(), await a_user(owner))
    with pytest.raises(Exception, match="cannot go from pending to completed"):
        await owner.execute("UPDATE debates SET status = 'completed' WHERE id = $1", other)
    with pytest.raises(Exception, match="without saying how and when"):
        await owner.execute("UPDATE debates SET status = 'failed' WHERE id = $1", other)


async def test_two_hundred_debates_share_a_few_connections(db: Database, owner: Connection) -> None:
    """In small: each pool has eight connections, and forty debates want them at once."""
    user_id = await a_user(owner)
    models = FakeModels(owner, agreeable(), delay_s=0.02)
    spec = spec_of(conclude="winner", baseline=False)
    ids = [await start(db, spec, user_id) for _ in range(40)]
    async with working(db, engine_of(models), concurrency=40), asyncio.timeout(60):
        found = [await until_ended(db, debate_id) for debate_id in ids]
    assert {debate.status for debate in found} == {"completed"}
    assert len(models.asked) == 40 * 6


def test_errors_are_sorted_by_what_they_mean() -> None:
    class NoProvider(Unavailable):
        code = "provider_unusable"

    told: list[tuple[HelixError, str]] = [
        (Upstream("x"), "substitute"),
        (NoProvider("x"), "substitute"),
        (TooMany("x"), "later"),
        (Unavailable("x"), "later"),
        (Forbidden("x"), "refused"),
        (Forbidden("x", param="model"), "substitute"),
    ]
    assert [debates.meaning_of(error).value for error, _ in told] == [want for _, want in told]
