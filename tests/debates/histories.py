"""Recorded debates, and what holds a release against them."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from helix import debates
from helix.core.errors import Upstream
from helix.debates import Argument, Debate, DebateId, Status, StopReason, Vote
from helix.debates.plan import Turn
from helix.debates.policy import ballot_weight
from helix.debates.types import ConfidenceSource, Round, Verdict
from helix.debates.voting import Ballot
from helix.gateway import CallOptions, Completion
from rigs.debaters import digest
from tests.debates.support import FakeModels

__all__ = ["Diverged", "History", "Recorded", "fold", "histories", "key_of"]

PLACE = Path(__file__).parent / "histories"
TURNS = {
    "baseline": "baseline", "argued": "argue", "voted": "vote", "validated": "validate",
    "concluded": "conclude",
}  # fmt: skip
"""Events that end a turn, by the kind of the turn; `silent` names its own."""
_WITHIN = frozenset({"substituted", "ballot_refused", "code_recorded"})
"""Events that stand in one transaction with the next (or the one before)."""


class Diverged(AssertionError):
    """This release does something else than the one that was recorded."""


@dataclass(frozen=True)
class History:
    """One file; see rigs/debates_history.py."""

    name: str
    told: dict[str, Any]

    @property
    def spec(self) -> debates.DebateSpec:
        return debates.read_spec(self.told["spec"])

    @property
    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.told["events"]
        return found

    @property
    def calls(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.told["calls"]
        return found

    @property
    def boundaries(self) -> list[int]:
        """After how many events the database can have been left: at the end of a transaction."""
        last = len(self.events) - 1
        return [n for n in range(1, last + 1) if self.events[n - 1]["event_type"] not in _WITHIN]

    def refused(self, number: int, kind: str, who: str) -> list[str]:
        """The models that gave no answer to a turn; some were refused before they were asked."""
        return [
            model
            for event in self.events
            if event["event_type"] in {"silent", "substituted"}
            if (event["round"], event["data"]["kind"], event["participant"]) == (number, kind, who)
            for model, _ in event["data"]["failed"]
        ]

    def argument(self, event: dict[str, Any]) -> dict[str, Any]:
        """What was said at an event."""
        return next(
            a
            for a in self.told["arguments"]
            if (a["round"], a["participant"]) == (event["round"], event["participant"])
        )

    def vote(self, event: dict[str, Any]) -> dict[str, Any]:
        """What was voted at an event."""
        return next(
            v
            for v in self.told["votes"]
            if (v["round"], v["voter"]) == (event["round"], event["participant"])
        )


def histories() -> list[History]:
    """Every recorded history, by name."""
    files = sorted(PLACE.glob("*.json"))
    return [History(file.stem, msgspec.json.decode(file.read_bytes())) for file in files]


def key_of(event: dict[str, Any]) -> tuple[int, str, str] | None:
    """Which turn an event ended, or None."""
    kind = (
        event["data"]["kind"] if event["event_type"] == "silent" else TURNS.get(event["event_type"])
    )
    return None if kind is None else (event["round"], kind, event["participant"])


def turn_key(turn: Turn) -> tuple[int, str, str]:
    """The same of a turn."""
    return turn.round, turn.kind.value, turn.participant


def fold(history: History, count: int) -> Debate:
    """Return the debate as its first `count` events left it: what a restart reads."""
    debate = Debate(
        id=DebateId(UUID(int=7)),
        created_by=UUID(int=8),
        status=Status.PENDING,
        spec=history.spec,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    for event in history.events[:count]:
        debate = _after(debate, history, event)
    return debate


def _after(debate: Debate, history: History, event: dict[str, Any]) -> Debate:
    data, number = event["data"], event["round"]
    debate = replace(debate, calls=debate.calls + int(event["answered"]))
    match event["event_type"]:
        case "started":
            weights = {name: Fraction(told) for name, told in data["weights"].items()}
            return replace(debate, status=Status.RUNNING, weights=weights)
        case "round_started":
            return replace(debate, rounds=(*debate.rounds, Round(number, data["phase"])))
        case "baseline" | "argued":
            said = (*debate.arguments, argument_of(history.argument(event)))
            return replace(debate, arguments=tuple(sorted(said, key=lambda a: (a.round, a.turn))))
        case "voted":
            return replace(debate, votes=(*debate.votes, vote_of(history.vote(event))))
        case "silent":
            turn = (number, data["kind"], event["participant"])
            return replace(debate, silent=debate.silent | {turn})
        case "round_ended":
            convergence = data["convergence"]
            ended = replace(
                debate.rounds[-1],
                ended=True,
                agreement=Decimal(data["agreement"]),
                convergence=None if convergence is None else Decimal(convergence),
                winner=data["winner"],
                tally=data["tally"],
            )
            stop = StopReason(data["stop"]) if data["stop"] else None
            return replace(debate, rounds=(*debate.rounds[:-1], ended), stop_reason=stop)
        case "validating":
            return replace(debate, status=Status.VALIDATING)
        case "validated":
            found = tuple(
                Verdict(v["participant"], v["passed"], v["feedback"]) for v in data["verdicts"]
            )
            return replace(debate, verdicts={**debate.verdicts, data["pass"]: found})
        case "concluded":
            return replace(debate, conclusion=(data["conclusion"], data["minority_opinion"]))
        case _:
            return debate


def argument_of(told: dict[str, Any]) -> Argument:
    """An argument as it was recorded."""
    confidence = told["confidence"]
    return Argument(
        **{
            **told,
            "confidence": None if confidence is None else Decimal(confidence),
            "confidence_source": ConfidenceSource.SELF_REPORTED if confidence else None,
        }
    )


def vote_of(told: dict[str, Any]) -> Vote:
    """A vote as it was recorded."""
    weight = Decimal(told["weight"])
    confidence = None if told["confidence"] is None else Decimal(told["confidence"])
    ballot = None
    if told["is_valid"]:
        counts = ballot_weight(weight, confidence)
        ballot = Ballot(tuple(told["ranking"]), counts, confidence, told["reason"])
    return Vote(
        round=told["round"],
        voter=told["voter"],
        ballot=ballot,
        weight=weight,
        refusal=told["refusal"],
        is_repaired=told["is_repaired"],
    )


class _Failed(Upstream):
    """The error that a call was recorded with."""

    code = "upstream_error"


@dataclass
class Recorded(FakeModels):
    """Models that say what they said then, to the very same prompts; else it is Diverged."""

    history: History = field(default_factory=lambda: History("", {}))
    given: list[str] = field(default_factory=list)

    async def ask(
        self, principal: Any, fields: dict[str, Any], *, options: CallOptions
    ) -> Completion:
        """Answer as it was recorded. Raises Diverged, or the recorded failure."""
        assert options.idempotency_key is not None
        key = options.idempotency_key.split(":", 2)[2]
        call = self.history.calls.get(key)
        if call is None:
            number, kind, who = key.split(":")[:3]
            if fields["model"] in self.history.refused(int(number), kind, who):
                raise _Failed("as recorded")
            raise Diverged(f"{self.history.name}: it asks {key}, which was not asked then")
        if key in self.given:
            raise Diverged(f"{self.history.name}: it asks {key} twice")
        if call["model"] != fields["model"]:
            raise Diverged(f"{self.history.name}: {key} went to {call['model']} then")
        if call["prompt"] != digest(fields["model"], fields["messages"]):
            raise Diverged(f"{self.history.name}: {key} was asked in other words then")
        self.given.append(key)
        if "failed" in call:
            raise _Failed("as recorded")
        return await self._record(principal.user_id, fields["model"], call["answer"])
