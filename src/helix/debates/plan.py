"""The state machine of a debate: from what is recorded, what comes next. Pure and deterministic.

    pending ──► running ──► validating ──► completed
       │           │             │
       └───────────┴─────────────┴──────► failed · cancelled

    a round: open it · ask each group in turn · ask the voters · close it · the next, or the end

Every step is small enough to be done by one transaction, or is a set of calls of which each is
committed by its own. Asked again with the same debate, `next_step` says the same; asked after some
calls of a step are recorded, it names the rest. So a debate goes on wherever it was broken off.
"""

import hashlib
import re
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any

from helix.debates import prompts
from helix.debates.policy import (
    agreed_share,
    confidence_of,
    convergence,
    four_places,
    majority_of,
    outcome_of,
    same_answer,
    speakers,
    stop_reason,
    supporters,
    tally,
    voters,
)
from helix.debates.types import (
    Argument,
    ConfidenceSource,
    Debate,
    Participant,
    Status,
    StopReason,
    Vote,
)
from helix.debates.voting import Method, Outcome

__all__ = [
    "Ask",
    "BeginValidation",
    "CloseRound",
    "Fail",
    "Finish",
    "Kind",
    "OpenRound",
    "Start",
    "Step",
    "Turn",
    "next_step",
    "stopped",
    "without_calls",
]

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,99}")
SPEAKERS_MIN = 2
"""A round in which fewer spoke is no debate: it fails."""


class Kind(StrEnum):
    """What a call to a model is for."""

    BASELINE = "baseline"
    ARGUE = "argue"
    VOTE = "vote"
    VALIDATE = "validate"
    CONCLUDE = "conclude"


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer to be had from a model: the first of `models` that gives one."""

    kind: Kind
    round: int
    number: int
    participant: str
    models: tuple[str, ...]
    messages: list[dict[str, str]]
    fields: dict[str, Any] = field(default_factory=dict)
    line: str | None = None
    member: Participant | None = None

    @property
    def key(self) -> str:
        """What tells it from every other turn of the debate, in at most 150 plain characters.

        A name that is long, or holds what a key cannot or what parts of a key are told apart by,
        stands there as its hash.
        """
        name = self.participant
        if not _PLAIN_NAME.fullmatch(name):
            name = "~" + hashlib.sha256(name.encode()).hexdigest()[:32]
        return f"{self.round}:{self.kind.value}:{name}"


@dataclass(frozen=True, slots=True)
class Start:
    """Begin: pending becomes running."""


@dataclass(frozen=True, slots=True)
class OpenRound:
    """Begin a round."""

    number: int
    phase: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Have these turns taken, all at once; each is recorded by itself."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class CloseRound:
    """End a round with what its votes say; `stop` is why there is no other."""

    number: int
    agreement: Decimal
    convergence: Decimal | None
    winner: str | None
    tally: dict[str, Any]
    stop: StopReason | None


@dataclass(frozen=True, slots=True)
class BeginValidation:
    """Running becomes validating."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Complete the debate."""

    conclusion: str
    minority: str | None
    winner: str | None
    consensus: bool
    confidence: Decimal | None
    source: ConfidenceSource | None
    stop: StopReason
    baseline: dict[str, Any] | None
    changed: bool | None
    multipass: dict[str, Any] | None
    won: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fail:
    """End the debate without an answer."""

    error: str


Step = Start | OpenRound | Ask | CloseRound | BeginValidation | Finish | Fail


def next_step(debate: Debate) -> Step:
    """Return what comes next. The debate must not have ended."""
    if debate.status is Status.PENDING:
        return Start()
    last = debate.rounds[-1] if debate.rounds else None
    if debate.stop_reason is None and debate.status is Status.RUNNING:
        if last is None or last.ended:
            number = 1 if last is None else last.number + 1
            return OpenRound(number, prompts.phase_of(debate.spec, number))
        return _within_round(debate, last.number)
    if debate.stop_reason in {None, StopReason.BUDGET, StopReason.TIME, StopReason.CALLS}:
        return without_calls(debate)
    if debate.spec.validation.passes:
        if debate.status is Status.RUNNING:
            return BeginValidation()
        if turns := _validations(debate):
            return Ask(tuple(turns))
    if debate.spec.conclude == "synthesis" and debate.conclusion is None:
        turn = _conclusion(debate)
        if (turn.round, turn.kind.value, turn.participant) not in debate.silent:
            return Ask((turn,))
    return _finish(debate)


def without_calls(debate: Debate) -> Step:
    """Return how a debate ends that may call no more models: on what is there."""
    return _finish(debate) if any(a.round >= 1 for a in debate.arguments) else Fail(
        f"its {debate.stop_reason.value if debate.stop_reason else 'limits'} limit was reached "
        "before anybody spoke"
    )  # fmt: skip


# ---- a round -------------------------------------------------------------------------------------


def _within_round(debate: Debate, number: int) -> Step:
    singles = _singles(debate) if number == 1 and debate.spec.baseline else []
    for group in speakers(debate.spec):
        turns = [
            _argue(debate, member, n, number)
            for n, member in group
            if not _spoke(debate, number, member.name)
            and (number, Kind.ARGUE.value, member.name) not in debate.silent
        ]
        if turns:
            return Ask((*singles, *turns))
    if singles:
        return Ask(tuple(singles))
    spoke = sum(1 for a in debate.arguments if a.round == number)
    if spoke < SPEAKERS_MIN:
        return Fail(f"only {spoke} of {len(debate.spec.participants)} spoke in round {number}")
    voted = {vote.voter for vote in debate.votes if vote.round == number}
    ballots = [
        _ballot(debate, voter, n, number)
        for n, voter in enumerate(voters(debate.spec))
        if voter not in voted and (number, Kind.VOTE.value, voter) not in debate.silent
    ]
    return Ask(tuple(ballots)) if ballots else _close(debate, number)


def _spoke(debate: Debate, number: int, name: str) -> bool:
    return any(a.round == number and a.participant == name for a in debate.arguments)


def _models(debate: Debate, member: Participant) -> tuple[str, ...]:
    """Return whom to ask for a participant: whoever spoke for it last, then the rest in order."""
    models = tuple(dict.fromkeys((member.model, *member.substitutes, *debate.spec.substitutes)))
    stood_in = [a for a in debate.arguments if a.participant == member.name and a.round >= 1]
    if not stood_in or stood_in[-1].is_primary:
        return models
    spoke_as = f"{stood_in[-1].provider_name}/{stood_in[-1].model_name}"
    first = [m for m in models if m in {spoke_as, stood_in[-1].model_name}]
    return (*first, *(m for m in models if m not in first and m != member.model), member.model)


def _fields(debate: Debate, member: Participant | None) -> dict[str, Any]:
    return {
        "max_tokens": debate.spec.limits.max_tokens,
        **(member.fields if member is not None else {}),
    }


def _singles(debate: Debate) -> list[Turn]:
    return [
        Turn(
            Kind.BASELINE,
            0,
            n,
            member.name,
            (member.model,),
            prompts.baseline(debate.spec, prompts.code_text(debate)),
            _fields(debate, member),
            member.lines.get("baseline"),
            member,
        )
        for n, member in enumerate(debate.spec.participants)
        if not _spoke(debate, 0, member.name)
        and (0, Kind.BASELINE.value, member.name) not in debate.silent
    ]


def _argue(debate: Debate, member: Participant, turn: int, number: int) -> Turn:
    heard = [a for a in debate.arguments if 1 <= a.round < number]
    for group in speakers(debate.spec):
        names = {other.name for _, other in group}
        if member.name in names:
            break
        heard += [a for a in debate.arguments if a.round == number and a.participant in names]
    return Turn(
        Kind.ARGUE,
        number,
        turn,
        member.name,
        _models(debate, member),
        prompts.argue(debate, member, number, heard),
        _fields(debate, member),
        member.lines.get(f"argue/{number}"),
        member,
    )


def _ballot(debate: Debate, voter: str, turn: int, number: int) -> Turn:
    spec = debate.spec
    member = next((m for m in spec.participants if m.name == voter), None)
    if member is not None:
        models, line = _models(debate, member), member.lines.get(f"vote/{number}")
    else:
        models, line = tuple(dict.fromkeys((spec.judge or "", *spec.substitutes))), None
    return Turn(
        Kind.VOTE,
        number,
        turn,
        voter,
        models,
        prompts.vote(debate, voter, number),
        _fields(debate, member),
        line,
        member,
    )


def _votes_of(debate: Debate, number: int) -> list[Vote]:
    return [vote for vote in debate.votes if vote.round == number]


def _close(debate: Debate, number: int) -> CloseRound:
    votes = _votes_of(debate, number)
    outcome = outcome_of(debate.spec, votes)
    agreement = agreed_share(outcome, len(voters(debate.spec)))
    moved = convergence(debate, number)
    return CloseRound(
        number=number,
        agreement=four_places(agreement),
        convergence=None if moved is None else four_places(moved),
        winner=outcome.winner,
        tally=tally(outcome, votes),
        stop=stop_reason(debate.spec, number, agreement=agreement, moved=moved),
    )


# ---- the end -------------------------------------------------------------------------------------


def _last_words(debate: Debate) -> list[Argument]:
    """Return each participant's newest argument of the last round that has any."""
    last = max((a.round for a in debate.arguments), default=0)
    return [a for a in debate.arguments if a.round == last and last >= 1]


def _checker(debate: Debate) -> tuple[str, ...]:
    spec = debate.spec
    first = spec.validation.model or spec.judge or spec.synthesizer or spec.participants[0].model
    return tuple(dict.fromkeys((first, *spec.substitutes)))


def _validations(debate: Debate) -> list[Turn]:
    arguments = _last_words(debate)
    number = arguments[0].round if arguments else 1
    return [
        Turn(
            Kind.VALIDATE,
            number,
            n,
            name,
            _checker(debate),
            prompts.validate(debate, name, arguments),
            _fields(debate, None),
        )
        for n, name in enumerate(debate.spec.validation.passes)
        if name not in debate.verdicts and (number, Kind.VALIDATE.value, name) not in debate.silent
    ]


def _conclusion(debate: Debate) -> Turn:
    spec = debate.spec
    outcome = _last_outcome(debate)
    writer = spec.synthesizer or spec.judge or spec.participants[0].model
    member = None if spec.synthesizer or spec.judge else spec.participants[0]
    return Turn(
        Kind.CONCLUDE,
        debate.rounds[-1].number,
        0,
        "synthesizer",
        tuple(dict.fromkeys((writer, *spec.substitutes))),
        prompts.conclude(
            debate,
            outcome.winner if outcome else None,
            {name: str(score) for name, score in outcome.scores.items()} if outcome else {},
        ),
        _fields(debate, member),
        None if member is None else member.lines.get("conclude"),
        member,
    )


def _last_outcome(debate: Debate) -> Outcome | None:
    """Return the count of the last round that was closed, or that has votes at all."""
    for number in range(len(debate.rounds), 0, -1):
        votes = _votes_of(debate, number)
        if votes:
            return outcome_of(debate.spec, votes)
    return None


def _finish(debate: Debate) -> Step:
    outcome = _last_outcome(debate)
    elected = outcome.winner if outcome is not None else None
    stands = elected or (outcome.leader if outcome is not None else None)
    if stands is None:
        stands = _plain_leader(debate)
    for_it = supporters(debate, stands) if stands is not None else []
    multipass = _multipass(debate)
    sound = multipass is None or not for_it or any(
        a.participant not in multipass["failed"] for a in for_it
    )  # fmt: skip
    confidence, source = confidence_of(debate, outcome, stands)
    told, minority = debate.conclusion or (None, None)
    conclusion = told or _in_their_words(debate, stands, for_it)
    if conclusion is None:
        return Fail("nobody said anything that could be concluded from")
    found = _baseline(debate)
    return Finish(
        conclusion=conclusion,
        minority=minority if told else _minority(debate, stands),
        winner=stands,
        consensus=elected is not None and sound and _agreed(debate, outcome),
        confidence=confidence,
        source=source,
        stop=debate.stop_reason or StopReason.ROUNDS,
        baseline=found,
        changed=_changed(debate, found, stands, for_it),
        multipass=multipass,
        won=_winners(debate, stands),
    )


def _agreed(debate: Debate, outcome: Outcome | None) -> bool:
    """Say whether an election is a consensus: most votes alone are none without more than half."""
    most_votes = {Method.PLURALITY, Method.WEIGHTED}
    if outcome is None or debate.spec.voting.method not in most_votes:
        return outcome is not None
    return 2 * outcome.share > 1


def _plain_leader(debate: Debate) -> str | None:
    """Return what stands when nobody voted: the plain majority of the newest answers."""
    words = _last_words(debate)
    if not words:
        return None
    if not debate.spec.positions:
        found = majority_of([a.answer or a.text for a in words])
        return None if found is None else words[found[0]].participant
    held = [a.answer or a.position for a in words]
    counted = [(held.count(p), -n, p) for n, p in enumerate(debate.spec.positions) if p in held]
    return max(counted)[2] if counted else None


def _in_their_words(debate: Debate, stands: str | None, for_it: list[Argument]) -> str | None:
    """Return a conclusion without asking anybody: the winner, and its surest supporter's words."""
    if stands is None:
        words = _last_words(debate)
        return words[0].text if words else None
    if not for_it:
        return stands
    surest = max(for_it, key=lambda a: (a.confidence or Decimal(0), -a.turn))
    if debate.spec.positions:
        return f"{stands}. {surest.text}"
    return surest.text if surest.answer in {None, surest.text} else (
        f"{surest.answer} {surest.text}")  # fmt: skip


def _minority(debate: Debate, stands: str | None) -> str | None:
    """Return what those held who put somebody else first, in their words."""
    held = []
    for number in range(len(debate.rounds), 0, -1):
        votes = [v for v in _votes_of(debate, number) if v.ballot is not None]
        votes.sort(key=lambda vote: vote.voter)
        if votes:
            for vote in votes:
                if vote.ballot is not None and vote.ballot.ranking[0] != stands:
                    why = f": {vote.ballot.reason}" if vote.ballot.reason else ""
                    held.append(f"{vote.voter} held {vote.ballot.ranking[0]}{why}")
            break
    return "; ".join(held) or None


def _multipass(debate: Debate) -> dict[str, Any] | None:
    """Return what all passes found; an argument passes when none that could be read failed it."""
    if not debate.spec.validation.passes or not debate.verdicts:
        return None
    checked = sorted({v.participant for found in debate.verdicts.values() for v in found})
    failed = sorted(
        {v.participant for found in debate.verdicts.values() for v in found if v.passed is False}
    )
    passed = sorted(
        name
        for name in checked
        if name not in failed
        and any(v.passed for found in debate.verdicts.values() for v in found
                if v.participant == name)
    )  # fmt: skip
    return {
        "passes": [
            {
                "name": name,
                "passed": sum(1 for v in found if v.passed),
                "failed": sum(1 for v in found if v.passed is False),
                "unreadable": sum(1 for v in found if v.passed is None),
            }
            for name, found in debate.checked
        ],
        "passed": passed,
        "failed": failed,
        "score": str(four_places(Fraction(len(passed), len(checked)))) if checked else None,
    }


def _baseline(debate: Debate) -> dict[str, Any] | None:
    """Return the plain majority of the single answers: no weights, no roles, ties to the first."""
    singles = [a for a in debate.arguments if a.round == 0]
    if not singles:
        return None
    answers = [a.answer or a.text for a in singles]
    if debate.spec.positions:
        held = [a.answer for a in singles]
        counted = [(held.count(p), -n, p) for n, p in enumerate(debate.spec.positions) if p in held]
        if not counted:
            return {"answer": None, "share": "0", "answers": len(singles)}
        votes, _, answer = max(counted)
        share = Fraction(votes, len(singles))
    else:
        found = majority_of(answers)
        if found is None:
            return None
        answer, share = answers[found[0]], found[1]
    return {"answer": answer, "share": str(four_places(share)), "answers": len(singles)}


def _changed(
    debate: Debate, found: dict[str, Any] | None, stands: str | None, for_it: list[Argument]
) -> bool | None:
    if found is None or found["answer"] is None or stands is None:
        return None
    if debate.spec.positions:
        return bool(found["answer"] != stands)
    if not for_it:
        return None
    return not same_answer(found["answer"], for_it[0].answer or for_it[0].text)


def _winners(debate: Debate, stands: str | None) -> frozenset[str]:
    """Return the participants who were right: who stood for what won, or for what was expected."""
    right = debate.spec.expected or stands
    if right is None:
        return frozenset()
    return frozenset(a.participant for a in supporters(debate, right))


def stopped(debate: Debate, reason: StopReason) -> Debate:
    """Return the debate as it is once a limit has ended it."""
    return replace(debate, stop_reason=reason)
