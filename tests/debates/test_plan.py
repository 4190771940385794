"""The state machine of a debate, without a database: whatever models say or leave unsaid."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from helix.debates import Debate, DebateId, Protocol, Status, StopReason
from helix.debates.plan import (
    Ask,
    BeginValidation,
    CloseRound,
    Fail,
    Finish,
    Kind,
    OpenRound,
    Start,
    Turn,
    next_step,
    stopped,
    without_calls,
)
from helix.debates.policy import majority_of, same_answer, similarity
from helix.debates.types import Argument, Round, Verdict, Vote
from helix.debates.voting import Ballot, Method
from tests.debates.support import spec_of

POSITIONS = ("tabs", "spaces")
STEPS_MAX = 200


def new(**fields: Any) -> Debate:
    return Debate(
        id=DebateId(UUID(int=7)),
        created_by=UUID(int=8),
        status=Status.PENDING,
        spec=spec_of(**fields),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def taken(debate: Debate, turn: Turn, data: st.DataObject) -> Debate:
    """The debate after a turn: somebody spoke, voted, was silent, or could not be read."""
    if data.draw(st.integers(0, 9)) == 0:
        return replace(
            debate, silent=debate.silent | {(turn.round, turn.kind.value, turn.participant)}
        )
    match turn.kind:
        case Kind.BASELINE | Kind.ARGUE:
            said = Argument(
                round=turn.round,
                turn=turn.number,
                participant=turn.participant,
                provider_name="mock",
                model_name=turn.participant,
                position=turn.participant,
                role=None,
                text=data.draw(st.sampled_from(["one thing", "another thing", "so be it"])),
                answer=data.draw(st.sampled_from([*POSITIONS, None])),
            )
            placed = sorted((*debate.arguments, said), key=lambda a: (a.round, a.turn))
            return replace(debate, arguments=tuple(placed))
        case Kind.VOTE:
            ranking = data.draw(st.sampled_from([POSITIONS, POSITIONS[::-1], POSITIONS[:1], None]))
            ballot = None if ranking is None else Ballot(ranking, Fraction(1))
            vote = Vote(turn.round, turn.participant, ballot, Decimal(1))
            return replace(debate, votes=(*debate.votes, vote))
        case Kind.VALIDATE:
            passed = data.draw(st.sampled_from([True, False, None]))
            verdicts = tuple(
                Verdict(a.participant, passed, "")
                for a in debate.arguments
                if a.round == turn.round
            )
            return replace(debate, verdicts={**debate.verdicts, turn.participant: verdicts})
        case Kind.CONCLUDE:
            return replace(debate, conclusion=("so be it", None))


def after(debate: Debate, step: Any, data: st.DataObject) -> Debate:
    """The debate after a step; of several turns only some, when it is broken off."""
    match step:
        case Start():
            return replace(debate, status=Status.RUNNING)
        case OpenRound():
            return replace(debate, rounds=(*debate.rounds, Round(step.number, step.phase)))
        case CloseRound():
            ended = replace(debate.rounds[-1], ended=True, winner=step.winner)
            return replace(debate, rounds=(*debate.rounds[:-1], ended), stop_reason=step.stop)
        case BeginValidation():
            return replace(debate, status=Status.VALIDATING)
        case Ask():
            turns = data.draw(st.permutations(step.turns))
            done = data.draw(st.integers(1, len(turns)))
            for turn in turns[:done]:
                debate = taken(debate, turn, data)
            return debate
    raise AssertionError(step)


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    st.sampled_from(list(Protocol)),
    st.sampled_from(list(Method)),
    st.integers(1, 4),
    st.booleans(),
)
def test_every_debate_ends_and_asks_nobody_twice(
    data: st.DataObject, protocol: Protocol, method: Method, rounds: int, checked: bool
) -> None:
    debate = new(
        protocol=protocol.value,
        voting={"method": method.value},
        rounds=rounds,
        judge="mock/judge",
        validation={"passes": ["facts"] if checked else []},
    )
    recorded: set[str] = set()
    for _ in range(STEPS_MAX):
        step = next_step(debate)
        assert next_step(debate) == step  # the same debate, the same step
        if isinstance(step, Finish | Fail):
            break
        if isinstance(step, Ask):
            keys = [turn.key for turn in step.turns]
            assert keys
            assert len(set(keys)) == len(keys)
            assert recorded.isdisjoint(keys)
        before, debate = debate, after(debate, step, data)
        if isinstance(step, Ask):
            left = next_step(debate)
            still = {t.key for t in left.turns} if isinstance(left, Ask) else set()
            recorded |= {turn.key for turn in step.turns} - still
        assert debate != before
    else:
        raise AssertionError("it does not end")
    assert len(debate.rounds) <= rounds
    spoken = [(a.round, a.participant) for a in debate.arguments]
    assert len(set(spoken)) == len(spoken)
    if isinstance(step, Finish):
        assert step.conclusion
        assert step.stop in {StopReason.ROUNDS, StopReason.AGREEMENT, StopReason.CONVERGENCE}
        if step.winner is not None:
            assert step.winner in POSITIONS
        if step.consensus:
            assert step.winner is not None


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 30), st.sampled_from([StopReason.BUDGET, StopReason.TIME]))
def test_a_debate_that_a_limit_stops_anywhere_ends_without_another_call(
    data: st.DataObject, steps: int, reason: StopReason
) -> None:
    debate = new(rounds=3)
    for _ in range(steps):
        step = next_step(debate)
        if isinstance(step, Finish | Fail):
            return
        debate = after(debate, step, data)
    end = without_calls(stopped(debate, reason))
    spoke = any(a.round >= 1 for a in debate.arguments)
    assert isinstance(end, Finish) is spoke
    if isinstance(end, Finish):
        assert end.stop is reason


@given(st.text(), st.text())
def test_likeness_is_symmetric_and_one_for_itself(one: str, other: str) -> None:
    assert similarity(one, other) == similarity(other, one)
    assert similarity(one, one) == 1
    assert 0 <= similarity(one, other) <= 1


def test_likeness_is_of_neighbouring_words() -> None:
    assert similarity("Use the queue", "use   THE queue!") == 1
    assert similarity("use the queue", "queue the use") == 0
    assert similarity("a b c", "a b d") == Fraction(1, 3)
    assert same_answer("PostgreSQL.", "postgresql")
    assert not same_answer("PostgreSQL 15", "PostgreSQL 16")


def test_plain_majority_puts_same_answers_together() -> None:
    assert majority_of(["42", "Forty-two", "42."]) == (0, Fraction(2, 3))
    assert majority_of(["a", "b"]) == (0, Fraction(1, 2))  # of equals the first
    assert majority_of(["a", "b"], [Fraction(1), Fraction(3)]) == (1, Fraction(3, 4))
    assert majority_of([]) is None
