"""Reading what models say in a debate into arguments, votes and verdicts. Pure; nothing guessed."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from helix.debates.plan import Turn
from helix.debates.policy import role_of
from helix.debates.structured import NotStructured, fraction_of, read_object
from helix.debates.types import Argument, ConfidenceSource, Debate, Verdict
from helix.debates.voting import match_name
from helix.gateway import Completion

__all__ = ["argument_of", "conclusion_of", "storable", "verdicts_of"]

TEXT_CHARS_MAX = 100_000
ANSWER_CHARS_MAX = 2_000
_FEEDBACK_CHARS_MAX = 2_000
_PASSED = {"passed": True, "pass": True, "failed": False, "fail": False}


def storable(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Return a text as PostgreSQL can keep it, within a bound."""
    return text.replace("\x00", "").encode(errors="replace").decode()[:chars_max].strip()


def argument_of(debate: Debate, turn: Turn, told: Completion, *, is_primary: bool) -> Argument:
    """Read an argument. What is no JSON object is taken as the argument itself, without an answer.

    Where there are positions, an answer counts only when it is one of them.
    """
    member = turn.member
    text, answer, confidence = storable(told.text), None, None
    try:
        said = read_object(told.text)
    except NotStructured:
        said = {}
    if isinstance(said.get("argument"), str) and said["argument"].strip():
        text = storable(said["argument"])
    if isinstance(said.get("answer"), str) and said["answer"].strip():
        answer = storable(said["answer"], ANSWER_CHARS_MAX)
        if debate.spec.positions:
            answer = match_name(answer, debate.spec.positions)
    confidence = fraction_of(said.get("confidence"))
    bound = member.position if member is not None and turn.round else None
    return Argument(
        round=turn.round,
        turn=turn.number,
        participant=turn.participant,
        provider_id=told.provider_id,
        provider_name=told.provider_name,
        model_name=told.model_name,
        position=bound or answer or turn.participant,
        role=role_of(debate.spec, turn.number).value if turn.round else None,
        text=text,
        answer=answer,
        confidence=confidence,
        confidence_source=ConfidenceSource.SELF_REPORTED if confidence is not None else None,
        tokens=told.tokens_prompt + told.tokens_completion,
        latency_ms=told.latency_ms,
        response_id=told.response_id,
        is_primary=is_primary,
    )


def verdicts_of(text: str, participants: Sequence[str]) -> tuple[Verdict, ...]:
    """Read a validator's verdicts, one for each participant; one that is not there is None."""
    try:
        told: Any = read_object(text).get("verdicts")
        why = "the validator gave no verdict on it"
    except NotStructured as exc:
        told, why = None, f"the validator could not be read: {exc}"
    found: dict[str, Verdict] = {}
    for item in told if isinstance(told, list) else []:
        if not isinstance(item, dict) or not isinstance(item.get("participant"), str):
            continue
        name = match_name(item["participant"], participants)
        passed = _PASSED.get(str(item.get("verdict")).strip().casefold())
        if name is None or passed is None or name in found:
            continue
        feedback = item.get("feedback")
        said = storable(feedback, _FEEDBACK_CHARS_MAX) if isinstance(feedback, str) else ""
        found[name] = Verdict(name, passed, said)
    return tuple(found.get(name, Verdict(name, None, why)) for name in participants)


def conclusion_of(text: str) -> tuple[str, str | None]:
    """Read a conclusion and the minority's opinion; a text without structure is the conclusion."""
    try:
        told = read_object(text)
    except NotStructured:
        return storable(text), None
    conclusion, minority = told.get("conclusion"), told.get("minority_opinion")
    if not isinstance(conclusion, str) or not conclusion.strip():
        return storable(text), None
    said = storable(minority) if isinstance(minority, str) else ""
    return storable(conclusion), said or None


def mean_confidence(arguments: Sequence[Argument]) -> Decimal | None:
    """Return the mean of the confidences stated, or None."""
    told = [a.confidence for a in arguments if a.confidence is not None]
    return (sum(told, Decimal(0)) / len(told)).quantize(Decimal("0.0001")) if told else None
