"""Pure decisions: what may be asked for, how alike texts are, what a round and a debate found."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec

from helix.debates.errors import BadDebate
from helix.debates.types import (
    JUDGE,
    Argument,
    ConfidenceSource,
    Debate,
    DebateSpec,
    Participant,
    Protocol,
    Role,
    StopReason,
    Vote,
)
from helix.debates.voting import Outcome, count

__all__ = [
    "MAX_TOKENS_FIELDS",
    "SAME_ANSWER",
    "agreed_share",
    "ballot_weight",
    "check_spec",
    "confidence_of",
    "convergence",
    "four_places",
    "holds_nul",
    "majority_of",
    "outcome_of",
    "read_spec",
    "role_of",
    "same_answer",
    "similarity",
    "speakers",
    "stop_reason",
    "supporters",
    "tally",
    "voters",
]

SAME_ANSWER = Fraction(4, 5)
"""Two answers in free text count as one from this similarity on."""
_VIRTUAL = ("debate/", "ensemble/")
_WORD = re.compile(r"\w+")
_PLACES = Decimal("0.0001")
_WEIGHT_MAX = Decimal("999.99")
_METADATA_BYTES_MAX = 20_000
_FIELDS_BYTES_MAX = 20_000
MAX_TOKENS_FIELDS = frozenset({"max_tokens", "max_completion_tokens"})
MAX_TOKENS_MAX = 100_000
_FIELDS_OURS = frozenset({"messages", "model", "stream", "n", "tools", "tool_choice"})


def read_spec(raw: bytes | Mapping[str, Any]) -> DebateSpec:
    """Read and check what is asked for, from JSON or decoded. Raises BadDebate."""
    try:
        if isinstance(raw, bytes):
            spec = msgspec.json.decode(raw, type=DebateSpec)
        else:
            spec = msgspec.convert(raw, DebateSpec, strict=False)
    except msgspec.ValidationError as exc:
        where = str(exc).partition(" - at `$.")[2].strip("`")
        raise BadDebate(f"this is no debate: {exc}", param=where or None) from exc
    except (msgspec.DecodeError, RecursionError, UnicodeError) as exc:
        raise BadDebate(f"the debate cannot be read as JSON: {exc}") from exc
    check_spec(spec)
    return spec


def check_spec(spec: DebateSpec) -> None:
    """Raise BadDebate for what the types cannot say."""
    names = [member.name for member in spec.participants]
    if len(set(names)) != len(names):
        raise BadDebate("two participants have the same name", param="participants")
    if JUDGE in names:
        raise BadDebate(f"no participant may be called {JUDGE!r}", param="participants")
    if len(set(spec.positions)) != len(spec.positions) or len(spec.positions) == 1:
        raise BadDebate("positions must be none, or two or more that differ", param="positions")
    for member in spec.participants:
        _check_participant(member, spec)
    if len(set(spec.validation.passes)) != len(spec.validation.passes):
        raise BadDebate("two validation passes are the same", param="validation.passes")
    if spec.protocol is Protocol.JUDGE and spec.judge is None:
        raise BadDebate("the protocol `judge` needs the model of the judge", param="judge")
    if spec.protocol is Protocol.CRITIC_DEFENDER:
        roles = {member.role for member in spec.participants}
        if Role.CRITIC in roles and Role.DEFENDER not in roles:
            raise BadDebate("critics need at least one defender", param="participants")
    if spec.expected is not None and spec.expected not in spec.positions:
        raise BadDebate("expected must be one of the positions", param="expected")
    for name, share in (("agreement", spec.stop.agreement), ("convergence", spec.stop.convergence)):
        if share is not None and not (share.is_finite() and 0 <= share <= 1):
            raise BadDebate(f"stop.{name} is 0 to 1", param=f"stop.{name}")
    budget = spec.limits.budget_usd
    if budget is not None and not (budget.is_finite() and budget >= 0):
        raise BadDebate("limits.budget_usd is at least 0", param="limits.budget_usd")
    if len(msgspec.json.encode(spec.metadata)) > _METADATA_BYTES_MAX:
        raise BadDebate(f"metadata has at most {_METADATA_BYTES_MAX} bytes", param="metadata")
    others = (spec.judge, spec.synthesizer, spec.validation.model, *spec.substitutes)
    for model in others:
        if model is not None and model.startswith(_VIRTUAL):
            raise BadDebate(f"{model!r}: only real models can take part", param="participants")
    if holds_nul(msgspec.to_builtins(spec)):
        raise BadDebate("a text holds U+0000, which PostgreSQL cannot keep")


def holds_nul(value: object) -> bool:
    """Say whether a text anywhere in decoded JSON holds U+0000."""
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(holds_nul(one) for pair in value.items() for one in pair)
    return isinstance(value, list | tuple) and any(map(holds_nul, value))


def _check_participant(member: Participant, spec: DebateSpec) -> None:
    where = f"participants.{member.name}"
    if not (member.weight.is_finite() and 0 <= member.weight <= _WEIGHT_MAX):
        raise BadDebate(f"{where}: the weight is 0 to {_WEIGHT_MAX}", param="participants")
    if spec.positions and member.position is not None and member.position not in spec.positions:
        raise BadDebate(f"{where}: its position is none of the positions", param="participants")
    if len(msgspec.json.encode(member.fields)) > _FIELDS_BYTES_MAX:
        raise BadDebate(f"{where}: fields have at most {_FIELDS_BYTES_MAX} bytes")
    if ours := sorted(_FIELDS_OURS & member.fields.keys()):
        raise BadDebate(f"{where}: fields may not hold {', '.join(ours)}", param="participants")
    for field in MAX_TOKENS_FIELDS & member.fields.keys():
        most = member.fields[field]
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MAX_TOKENS_MAX:
            raise BadDebate(f"{where}: {field} is 1 to {MAX_TOKENS_MAX}", param="participants")
    own = member.fields.get("helix", {})
    if not isinstance(own, dict) or own.keys() - {"mock"}:
        raise BadDebate(f"{where}: of helix, fields may hold mock alone", param="participants")
    for model in (member.model, *member.substitutes):
        if model.startswith(_VIRTUAL):
            raise BadDebate(f"{where}: only real models can take part, not {model!r}")
    if member.lines and not member.model.startswith("mock/"):
        raise BadDebate(f"{where}: lines are for models of the mock provider alone")


def speakers(spec: DebateSpec) -> list[list[tuple[int, Participant]]]:
    """Return the groups of a round, in order; a group speaks at once and hears the groups before.

    The number is the participant's turn. In critic_defender those without either role alternate.
    """
    turns = list(enumerate(spec.participants))
    if spec.protocol is Protocol.ROUND_ROBIN:
        return [[turn] for turn in turns]
    if spec.protocol is Protocol.CRITIC_DEFENDER:
        critics = [(n, member) for n, member in turns if role_of(spec, n) is Role.CRITIC]
        defenders = [(n, member) for n, member in turns if role_of(spec, n) is not Role.CRITIC]
        return [defenders, critics] if critics else [defenders]
    return [turns]


def role_of(spec: DebateSpec, number: int) -> Role:
    """Return the role in which a participant speaks."""
    role = spec.participants[number].role
    if spec.protocol is not Protocol.CRITIC_DEFENDER or role in {Role.CRITIC, Role.DEFENDER}:
        return role
    return Role.CRITIC if number % 2 else Role.DEFENDER


def voters(spec: DebateSpec) -> tuple[str, ...]:
    """Return who votes: the judge alone, or every participant."""
    if spec.protocol is Protocol.JUDGE:
        return (JUDGE,)
    return tuple(member.name for member in spec.participants)


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def similarity(one: str, other: str) -> Fraction:
    """Return how alike two texts are, 0 to 1, exact.

    The Jaccard index of their sets of neighbouring word pairs (words after Unicode NFKC and case
    folding, punctuation left out); texts of one word are compared by that word. Two texts without
    words are alike when they are equal.
    """
    a, b = _pairs(_words(one)), _pairs(_words(other))
    if not a and not b:
        return Fraction(one == other)
    return Fraction(len(a & b), len(a | b))


def _pairs(words: Sequence[str]) -> set[tuple[str, ...]]:
    if len(words) == 1:
        return {(words[0],)}
    return set(pairwise(words))


def same_answer(one: str, other: str) -> bool:
    """Say whether two answers are one: the same words, or alike from SAME_ANSWER on."""
    return _words(one) == _words(other) or similarity(one, other) >= SAME_ANSWER


def majority_of(
    answers: Sequence[str], weights: Sequence[Fraction] | None = None
) -> tuple[int, Fraction] | None:
    """Return the plain majority of free answers: (its first answer's number, share), or None.

    Answers are put together in order: each joins the first group whose first answer is the same
    (`same_answer`). The heaviest group wins, of equals the one that began first.
    """
    weighed = weights or [Fraction(1)] * len(answers)
    groups: dict[int, Fraction] = {}
    for number, answer in enumerate(answers):
        head = next((n for n in groups if same_answer(answers[n], answer)), number)
        groups[head] = groups.get(head, Fraction(0)) + weighed[number]
    total = sum(groups.values(), Fraction(0))
    if not total:
        return None
    best = max(groups, key=lambda n: (groups[n], -n))
    return best, groups[best] / total


def ballot_weight(weight: Decimal, confidence: Decimal | None) -> Fraction:
    """Return what a ballot counts under weighted voting: the voter's weight times its confidence.

    A voter that states no confidence counts with its whole weight. Exact.
    """
    return Fraction(weight) * (Fraction(confidence) if confidence is not None else 1)


def outcome_of(spec: DebateSpec, votes: Sequence[Vote]) -> Outcome:
    """Count the valid votes of a round."""
    ballots = [vote.ballot for vote in votes if vote.ballot is not None]
    return count(spec.voting.method, spec.candidates, ballots, completion=spec.voting.completion)


def tally(outcome: Outcome, votes: Sequence[Vote]) -> dict[str, Any]:
    """Return a count as it is kept: scores as exact fractions in text."""
    return {
        "method": outcome.method.value,
        "scores": {name: str(score) for name, score in outcome.scores.items()},
        "ballots": outcome.ballots,
        "invalid": sum(1 for vote in votes if vote.ballot is None),
        "leader": outcome.leader,
        "tied": list(outcome.tied),
        "tie_break": outcome.tie_break and outcome.tie_break.value,
        "completion": outcome.completion and outcome.completion.value,
    }


def four_places(share: Fraction) -> Decimal:
    """Return an exact share as it is stored: four decimals, half to even."""
    exact = Decimal(share.numerator) / Decimal(share.denominator)
    return exact.quantize(_PLACES, rounding=ROUND_HALF_EVEN)


def convergence(debate: Debate, number: int) -> Fraction | None:
    """Return how far participants repeated themselves in a round, 0 to 1; None if none could.

    The mean, over those who spoke in both, of the similarity to their own argument before.
    """
    before = {a.participant: a.text for a in debate.arguments if a.round == number - 1}
    if number == 1:
        return None
    alike = [
        similarity(before[a.participant], a.text)
        for a in debate.arguments
        if a.round == number and a.participant in before
    ]
    return sum(alike, Fraction(0)) / len(alike) if alike else None


def agreed_share(outcome: Outcome, asked: int) -> Fraction:
    """Return the part of those asked to vote that put the leader first, by the method's weight.

    Ballots that were refused or never came count as not agreeing.
    """
    return outcome.share * Fraction(outcome.ballots, asked) if asked else Fraction(0)


def stop_reason(
    spec: DebateSpec, number: int, *, agreement: Fraction, moved: Fraction | None
) -> StopReason | None:
    """Return why a debate ends with this round, or None when there is to be another."""
    if number >= spec.stop.rounds_min:
        if spec.stop.agreement is not None and agreement >= Fraction(spec.stop.agreement):
            return StopReason.AGREEMENT
        wanted = spec.stop.convergence
        if wanted is not None and moved is not None and moved >= Fraction(wanted):
            return StopReason.CONVERGENCE
    return StopReason.ROUNDS if number >= spec.rounds else None


def supporters(debate: Debate, candidate: str) -> list[Argument]:
    """Return the newest arguments for a candidate, in order of turns.

    A participant stands for its answer, else for its position; where participants themselves are
    voted on, for itself.
    """
    newest: dict[str, Argument] = {}
    for argument in debate.arguments:
        if argument.round >= 1:
            newest[argument.participant] = argument
    found = []
    for argument in newest.values():
        if debate.spec.positions:
            stands_for = argument.answer or argument.position
        else:
            stands_for = argument.participant
        if stands_for == candidate:
            found.append(argument)
    return sorted(found, key=lambda argument: argument.turn)


def confidence_of(
    debate: Debate, outcome: Outcome | None, winner: str | None
) -> tuple[Decimal | None, ConfidenceSource | None]:
    """Return the confidence in the conclusion and where it comes from.

    The source asked for, if it has something to say; else the judge's, the share of the votes, what
    the winner's supporters stated themselves (their mean), in this order.
    """
    last = max((a.round for a in debate.arguments), default=0)
    judged = next((v.ballot for v in debate.votes if v.voter == JUDGE and v.round == last), None)
    own = [a.confidence for a in supporters(debate, winner) if a.confidence] if winner else []
    told: dict[ConfidenceSource, Decimal | None] = {
        ConfidenceSource.JUDGE: judged.confidence if judged else None,
        ConfidenceSource.VOTE_SHARE: four_places(outcome.share)
        if outcome is not None and outcome.ballots
        else None,
        ConfidenceSource.SELF_REPORTED: four_places(Fraction(sum(own)) / len(own)) if own else None,
    }
    asked = debate.spec.confidence
    for source in (*((asked,) if asked else ()), *told):
        if told[source] is not None:
            return told[source], source
    return None, None
