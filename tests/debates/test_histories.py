"""Recorded debates, replayed: this release decides as the one that held them, and repeats nothing.

Each file of tests/debates/histories is one debate (rigs/debates_history.py records them). Where
one of these tests fails, debates that are under way during an upgrade would go another way or pay
for a step again. When that is meant, record anew and say so in the changelog.
"""

import json
from collections import Counter
from typing import Any

import pytest

from helix.core.db import Connection, Database
from helix.debates import plan
from helix.debates.types import Status
from rigs.debaters import SPECS, digest
from tests.debates.histories import (
    Diverged,
    History,
    Recorded,
    argument_of,
    fold,
    histories,
    key_of,
    turn_key,
    vote_of,
)
from tests.debates.support import a_user, engine_of, run_once, see, start

ALL = histories()


def by_name(history: History) -> str:
    return history.name


def check_step(history: History, count: int) -> None:
    """Assert that what comes next after `count` events is what came next then."""
    debate = fold(history, count)
    step = plan.next_step(debate)
    rest = history.events[count:]
    upcoming = rest[0]["event_type"]
    match step:
        case plan.Start():
            assert upcoming == "started", (history.name, count)
        case plan.OpenRound():
            assert (upcoming, rest[0]["round"], rest[0]["data"]["phase"]) == (
                "round_started",
                step.number,
                step.phase,
            )
        case plan.Ask():
            check_turns(history, step.turns, rest)
        case plan.CloseRound():
            data = rest[0]["data"]
            assert upcoming == "round_ended"
            assert (data["winner"], data["agreement"]) == (step.winner, str(step.agreement))
            assert data["tally"] == step.tally
            assert data["stop"] == (step.stop and step.stop.value)
        case plan.BeginValidation():
            assert upcoming == "validating"
        case plan.Finish():
            assert upcoming == "completed"
            found = history.told["outcome"]
            assert found["final_winner"] == step.winner
            assert found["final_conclusion"] == step.conclusion
            assert found["minority_opinion"] == step.minority
            assert found["consensus_reached"] == step.consensus
            assert found["baseline"] == step.baseline
            assert found["changed"] == step.changed
            assert found["multipass_result"] == step.multipass
            assert found["confidence"] == (
                None if step.confidence is None else str(step.confidence)
            )
        case plan.Fail():
            raise Diverged(f"{history.name}: it fails after event {count}")


def check_turns(history: History, turns: tuple[plan.Turn, ...], rest: list[dict[str, Any]]) -> None:
    """Assert that the next turns are those that came next, asked in the same words."""
    ended = [key for event in rest if (key := key_of(event)) is not None]
    if history.told["outcome"]["stop_reason"] in {"calls", "budget", "time"} and not ended:
        return  # the step that the limit did not allow
    assert sorted(map(turn_key, turns)) == sorted(ended[: len(turns)]), history.name
    for turn in turns:
        asked = [key for key in history.calls if key.startswith(f"{turn.key}:")]
        if not asked:
            assert history.refused(*turn_key(turn)) == list(turn.models)
        for key in asked:
            call = history.calls[key]
            assert call["model"] in turn.models
            if not key.endswith(":repair"):
                assert call["prompt"] == digest(call["model"], turn.messages), key


@pytest.mark.parametrize("history", ALL, ids=by_name)
def test_after_every_event_the_next_step_is_the_recorded_one(history: History) -> None:
    check_all(history)


def check_all(history: History) -> None:
    for count in (0, *history.boundaries):
        check_step(history, count)


@pytest.mark.parametrize("history", ALL, ids=by_name)
async def test_the_engine_holds_it_as_it_was_held(
    db: Database, owner: Connection, history: History
) -> None:
    user_id = await a_user(owner)
    models = Recorded(owner, _never, history=history)
    debate_id = await start(db, history.spec, user_id)
    await run_once(db, engine_of(models), debate_id, user_id)
    assert sorted(models.given) == sorted(history.calls)
    await same_end(db, owner, debate_id, history)
    told = await owner.fetch(
        "SELECT event_type, round_number AS round, participant_id AS participant, data,"
        " response_id IS NOT NULL AS answered FROM debate_events WHERE debate_id = $1"
        " ORDER BY sequence",
        debate_id,
    )
    assert counted([dict(row) for row in told]) == counted(history.events)


@pytest.mark.parametrize("history", ALL, ids=by_name)
async def test_a_debate_of_the_earlier_release_is_taken_up_without_repeating_a_turn(
    db: Database, owner: Connection, history: History
) -> None:
    """From the rows that release left in the middle of it."""
    user_id = await a_user(owner)
    models = Recorded(owner, _never, history=history)
    middle = history.boundaries[len(history.boundaries) // 2]
    debate_id = await start(db, history.spec, user_id)
    done = await restore(owner, models, debate_id, user_id, middle)
    await run_once(db, engine_of(models), debate_id, user_id)
    again = [key for key in models.given if key.rpartition(":")[0].removesuffix(":repair") in done]
    assert again == []
    await same_end(db, owner, debate_id, history)


def _never(model: str, messages: list[dict[str, str]]) -> str:
    raise Diverged(f"{model} was asked past the record")


def counted(events: list[dict[str, Any]]) -> Counter[str]:
    """Events without their order within a step and without ids."""
    plain = []
    for event in events:
        data = {n: v for n, v in event["data"].items() if n not in {"debate_id", "failed"}}
        plain.append(json.dumps({**event, "data": data}, sort_keys=True))
    return Counter(plain)


async def same_end(db: Database, owner: Connection, debate_id: Any, history: History) -> None:
    row = await owner.fetchrow(
        "SELECT status, stop_reason, final_winner, final_conclusion, minority_opinion,"
        " consensus_reached, confidence::text AS confidence, confidence_source, baseline, changed,"
        " multipass_result FROM debates WHERE id = $1",
        debate_id,
    )
    assert dict(row) == history.told["outcome"]
    assert (await see(db, debate_id)).status is Status.COMPLETED


async def restore(
    owner: Connection, models: Recorded, debate_id: Any, user_id: Any, count: int
) -> set[str]:
    """Write the rows that the first `count` events stand for; return the turns that are done."""
    history, done = models.history, set()
    await owner.execute(
        "UPDATE debates SET status = 'running', started_at = now() WHERE id = $1", debate_id
    )
    for number, event in enumerate(history.events[:count], 1):
        response_id = None
        if event["answered"]:
            response_id = (await models._record(user_id, "rig/echo", "as recorded")).response_id
        await owner.execute(
            "INSERT INTO debate_events (debate_id, sequence, event_type, round_number,"
            " participant_id, response_id, data) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            debate_id, number, event["event_type"], event["round"], event["participant"],
            response_id, event["data"],
        )  # fmt: skip
        await owner.execute("UPDATE debates SET event_count = $2 WHERE id = $1", debate_id, number)
        if (key := key_of(event)) is not None:
            done.add(":".join(map(str, key)))
        await _row_of(owner, history, debate_id, event, response_id)
    return done


async def _row_of(
    owner: Connection, history: History, debate_id: Any, event: dict[str, Any], response_id: Any
) -> None:
    data = event["data"]
    match event["event_type"]:
        case "round_started":
            await owner.execute(
                "INSERT INTO debate_rounds (debate_id, round_number, phase, status)"
                " VALUES ($1, $2, $3, 'running')",
                debate_id, event["round"], data["phase"],
            )  # fmt: skip
        case "round_ended":
            await owner.execute(
                "UPDATE debate_rounds SET status = 'completed', winner = $3, tally = $4,"
                " agreement = $5::text::numeric, convergence = $6::text::numeric"
                " WHERE debate_id = $1 AND round_number = $2",
                debate_id, event["round"], data["winner"], data["tally"], data["agreement"],
                data["convergence"],
            )  # fmt: skip
            await owner.execute(
                "UPDATE debates SET stop_reason = $2 WHERE id = $1", debate_id, data["stop"]
            )
        case "baseline" | "argued":
            said = argument_of(history.argument(event))
            await owner.execute(
                "INSERT INTO debate_arguments (debate_id, round_number, turn_number,"
                " participant_id, provider_name, model_name, position, role, argument_text, answer,"
                " confidence, confidence_source, tokens_used, latency_ms, is_primary, response_id)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
                debate_id, said.round, said.turn, said.participant, said.provider_name,
                said.model_name, said.position, said.role, said.text, said.answer, said.confidence,
                said.confidence_source, said.tokens, said.latency_ms, said.is_primary, response_id,
            )  # fmt: skip
        case "voted":
            vote = vote_of(history.vote(event))
            ballot = vote.ballot
            await owner.execute(
                "INSERT INTO debate_votes (debate_id, round_number, voter, ranking, weight,"
                " confidence, reason, is_valid, is_repaired, refusal, response_id)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                debate_id, vote.round, vote.voter, list(ballot.ranking) if ballot else [],
                vote.weight, ballot and ballot.confidence, ballot and ballot.reason,
                ballot is not None, vote.is_repaired, vote.refusal, response_id,
            )  # fmt: skip
        case "validating":
            await owner.execute("UPDATE debates SET status = 'validating' WHERE id = $1", debate_id)
        case _:
            return


# ---- the tests can fail --------------------------------------------------------------------------


def test_every_protocol_and_way_to_end_is_recorded() -> None:
    assert {history.name for history in ALL} >= set(SPECS)
    kinds = {event["event_type"] for history in ALL for event in history.events}
    assert kinds >= {"substituted", "silent", "ballot_refused", "validated", "concluded"}
    assert {h.told["outcome"]["stop_reason"] for h in ALL} >= {"rounds", "calls"}
    votes = [vote for history in ALL for vote in history.told["votes"]]
    assert {(v["is_valid"], v["is_repaired"]) for v in votes} == {
        (True, False),
        (True, True),
        (False, False),
    }


def changed(history: History, change: Any) -> History:
    told = json.loads(json.dumps(history.told))
    change(told)
    return History(history.name, told)


def of(name: str) -> History:
    return next(history for history in ALL if history.name == name)


def test_another_prompt_another_count_and_a_missing_turn_are_seen() -> None:
    def other_words(told: Any) -> None:
        told["calls"]["1:argue:ada:0"]["prompt"] = "0" * 64

    def other_winner(told: Any) -> None:
        ended = next(e for e in told["events"] if e["event_type"] == "round_ended")
        ended["data"]["winner"] = "nobody"

    def fewer_turns(told: Any) -> None:
        told["events"] = [
            e for e in told["events"] if (e["event_type"], e["participant"]) != ("voted", "ada")
        ]

    for change in (other_words, other_winner, fewer_turns):
        broken = changed(of("all_see_all"), change)
        with pytest.raises(AssertionError):
            check_all(broken)


async def test_an_engine_that_forgets_a_turn_is_seen(db: Database, owner: Connection) -> None:
    history = of("all_see_all")
    user_id = await a_user(owner)
    models = Recorded(owner, _never, history=history)
    debate_id = await start(db, history.spec, user_id)
    await restore(owner, models, debate_id, user_id, history.boundaries[8])
    await owner.execute("DELETE FROM debate_arguments WHERE debate_id = $1", debate_id)
    await run_once(db, engine_of(models), debate_id, user_id)
    assert "1:argue:ada:0" in models.given
