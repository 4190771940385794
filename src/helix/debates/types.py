"""The nouns of debates: what is asked for, what was said, voted and found."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import msgspec

from helix.debates.voting import Ballot, Completion, Method

__all__ = [
    "ENDED",
    "JUDGE",
    "Argument",
    "Code",
    "CodeVersion",
    "ConfidenceSource",
    "Debate",
    "DebateId",
    "DebateSpec",
    "Event",
    "EventType",
    "Limits",
    "Participant",
    "Protocol",
    "Role",
    "Round",
    "Status",
    "Stop",
    "StopReason",
    "Summary",
    "Validation",
    "Verdict",
    "Vote",
    "Voting",
]

DebateId = NewType("DebateId", UUID)

JUDGE = "judge"
"""The voter's name of the judge; no participant may be called so."""


class Status(StrEnum):
    """State of a debate. One seed says `active` for running; the compatibility views do so too."""

    PENDING = "pending"
    RUNNING = "running"
    VALIDATING = "validating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
"""A debate in one of these stays in it."""


class Protocol(StrEnum):
    """Who speaks when, and who hears whom.

    round_robin: one after the other, each hears all that was said. all_see_all: all at once, each
    hears the rounds before. critic_defender: the defenders at once, then the critics, who have
    heard them. judge: as all_see_all, and a judge alone rules on each round.
    """

    ROUND_ROBIN = "round_robin"
    ALL_SEE_ALL = "all_see_all"
    CRITIC_DEFENDER = "critic_defender"
    JUDGE = "judge"


class Role(StrEnum):
    """What a participant is there for."""

    DEBATER = "debater"
    PROPONENT = "proponent"
    OPPONENT = "opponent"
    CRITIC = "critic"
    DEFENDER = "defender"
    RESEARCHER = "researcher"
    MODERATOR = "moderator"
    SYNTHESIZER = "synthesizer"


class StopReason(StrEnum):
    """Why there is no further round: the last three are limits of the debate."""

    ROUNDS = "rounds"
    AGREEMENT = "agreement"
    CONVERGENCE = "convergence"
    BUDGET = "budget"
    TIME = "time"
    CALLS = "calls"


class ConfidenceSource(StrEnum):
    """Where a confidence comes from."""

    SELF_REPORTED = "self_reported"
    VOTE_SHARE = "vote_share"
    JUDGE = "judge"


class EventType(StrEnum):
    """A step in the course of a debate; the set of debate_events.event_type."""

    STARTED = "started"
    RESUMED = "resumed"
    ROUND_STARTED = "round_started"
    BASELINE = "baseline"
    ARGUED = "argued"
    SUBSTITUTED = "substituted"
    SILENT = "silent"
    VOTED = "voted"
    BALLOT_REFUSED = "ballot_refused"
    ROUND_ENDED = "round_ended"
    VALIDATING = "validating"
    VALIDATED = "validated"
    CONCLUDED = "concluded"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CODE_RECORDED = "code_recorded"


_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Model = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Short = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Participant(_Strict, frozen=True):
    """Who argues. `position` binds the participant, and whoever substitutes for it, to a view.

    `weight` counts under weighted voting; with `weight_learned` it is multiplied by the model's
    success in past debates, where enough are known.
    `fields` go into each of its calls (temperature, response_format, …). `lines`, for rehearsals on
    the mock provider alone, are what it says: by `baseline`, `argue/1`, `vote/1`, …
    """

    name: _Name
    model: _Model
    role: Role = Role.DEBATER
    position: _Short | None = None
    weight: Decimal = Decimal(1)
    weight_learned: bool = False
    substitutes: Annotated[tuple[_Model, ...], msgspec.Meta(max_length=5)] = ()
    instructions: Annotated[str, msgspec.Meta(max_length=10_000)] | None = None
    fields: dict[str, Any] = {}
    lines: Annotated[dict[str, str], msgspec.Meta(max_length=200)] = {}


class Voting(_Strict, frozen=True):
    """How votes are counted; `completion` decides where Condorcet finds a cycle or a tie."""

    method: Method = Method.WEIGHTED
    completion: Completion = Completion.BORDA


class Stop(_Strict, frozen=True):
    """When there is no further round, 0 to 1; None never stops for it.

    `agreement`: share of the votes for the leader. `convergence`: similarity of what was said to
    the round before. Neither counts before `rounds_min` rounds.
    """

    agreement: Decimal | None = Decimal(1)
    convergence: Decimal | None = Decimal("0.95")
    rounds_min: Annotated[int, msgspec.Meta(ge=1, le=20)] = 1


class Limits(_Strict, frozen=True):
    """Bounds of one debate; a step that might pass one is not begun.

    `budget_usd` holds for the most a step can cost, not for what such steps did cost before.
    `time_s` counts from the start; `calls` are calls to models; `max_tokens` is for each answer.
    """

    budget_usd: Decimal | None = None
    time_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 1_800.0
    calls: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500
    turn_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 120.0
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 800


class Validation(_Strict, frozen=True):
    """Passes over the arguments of the last round, each a question put to `model`.

    Without a model the judge or else the synthesizer is asked.
    """

    passes: Annotated[tuple[_Short, ...], msgspec.Meta(max_length=5)] = ()
    model: _Model | None = None


class Code(_Strict, frozen=True):
    """The commit a debate is about: a repository below one of the operator's roots.

    What changed from `base` to `revision` is recorded and shown to the participants.
    """

    repository: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
    revision: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] = "HEAD"
    base: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None


class DebateSpec(_Strict, frozen=True):
    """How a debate is to be held. The same object in POST /api/debates, a panel and the database.

    `positions` are what is voted on; without any, the participants themselves are. `baseline` asks
    every participant's model once, alone and plainly, beside the first round. `expected` names the
    right position when it is known; no participant is told.
    """

    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)]
    participants: Annotated[tuple[Participant, ...], msgspec.Meta(min_length=2, max_length=20)]
    description: Annotated[str, msgspec.Meta(max_length=100_000)] | None = None
    positions: Annotated[tuple[_Short, ...], msgspec.Meta(max_length=50)] = ()
    protocol: Protocol = Protocol.ALL_SEE_ALL
    strategy: _Name | None = None
    voting: Voting = Voting()
    rounds: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3
    judge: _Model | None = None
    synthesizer: _Model | None = None
    conclude: Literal["synthesis", "winner"] = "synthesis"
    confidence: ConfidenceSource | None = None
    substitutes: Annotated[tuple[_Model, ...], msgspec.Meta(max_length=5)] = ()
    validation: Validation = Validation()
    stop: Stop = Stop()
    limits: Limits = Limits()
    baseline: bool = True
    expected: _Short | None = None
    code: Code | None = None
    project_id: UUID | None = None
    session_id: UUID | None = None
    metadata: dict[str, Any] = {}

    @property
    def candidates(self) -> tuple[str, ...]:
        """What is voted on: the positions, or else the participants."""
        return self.positions or tuple(member.name for member in self.participants)

    @property
    def strategy_name(self) -> str:
        """The name under which its success is learned."""
        return self.strategy or f"{self.protocol.value}/{self.voting.method.value}"


@dataclass(frozen=True, slots=True)
class Argument:
    """What a participant said in a round; round 0 is the answer given alone."""

    round: int
    turn: int
    participant: str
    provider_name: str
    model_name: str
    position: str
    role: str | None
    text: str
    answer: str | None = None
    confidence: Decimal | None = None
    confidence_source: ConfidenceSource | None = None
    tokens: int = 0
    latency_ms: int = 0
    provider_id: UUID | None = None
    response_id: UUID | None = None
    is_primary: bool = True
    validation_status: str | None = None
    validation_feedback: str | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """A ballot, or the attempt at one: `ballot` is None when it was refused."""

    round: int
    voter: str
    ballot: Ballot | None
    weight: Decimal
    refusal: str | None = None
    is_repaired: bool = False
    response_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """A round of a debate; what stands after `phase` is known when it ended."""

    number: int
    phase: str
    ended: bool = False
    agreement: Decimal | None = None
    convergence: Decimal | None = None
    winner: str | None = None
    tally: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one validation pass found of one argument; `passed` None: it could not be read."""

    participant: str
    passed: bool | None
    feedback: str


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """A commit as a repository had it. `test_results` is empty when no tests were run."""

    version_hash: str
    branch: str
    commit_message: str
    files_changed: tuple[str, ...]
    diff_summary: str
    validation_status: str = "pending"
    test_results: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """A step in the course of a debate."""

    sequence: int
    event_type: EventType
    round: int | None
    participant: str | None
    response_id: UUID | None
    data: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Debate:
    """A debate as far as it has come: all that the next step follows from.

    `silent` are turns (round, kind, participant) that no model could be found for; `verdicts` are
    by validation pass; `conclusion` is what the synthesizer told, (conclusion, minority opinion).
    """

    id: DebateId
    created_by: UUID | None
    status: Status
    spec: DebateSpec
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    task_id: UUID | None = None
    request_id: UUID | None = None
    panel: str | None = None
    rounds: tuple[Round, ...] = ()
    arguments: tuple[Argument, ...] = ()
    votes: tuple[Vote, ...] = ()
    silent: frozenset[tuple[int, str, str]] = frozenset()
    verdicts: dict[str, tuple[Verdict, ...]] = field(default_factory=dict)
    conclusion: tuple[str, str | None] | None = None
    code: tuple[CodeVersion, ...] = ()
    weights: dict[str, Fraction] = field(default_factory=dict)
    calls: int = 0
    event_count: int = 0
    stop_reason: StopReason | None = None
    final_winner: str | None = None
    final_conclusion: str | None = None
    minority_opinion: str | None = None
    consensus_reached: bool = False
    confidence: Decimal | None = None
    confidence_source: ConfidenceSource | None = None
    baseline: dict[str, Any] | None = None
    changed: bool | None = None
    multipass_result: dict[str, Any] | None = None
    error: str | None = None

    @property
    def checked(self) -> list[tuple[str, tuple[Verdict, ...]]]:
        """What each validation pass found, in the order of the passes, whichever came first."""
        passes = self.spec.validation.passes
        return [(name, self.verdicts[name]) for name in passes if name in self.verdicts]


@dataclass(frozen=True, slots=True)
class Summary:
    """A debate in a list."""

    id: DebateId
    created_by: UUID | None
    topic: str
    status: Status
    protocol: str | None
    voting_method: str
    rounds: int
    rounds_max: int
    final_winner: str | None
    consensus_reached: bool
    confidence: Decimal | None
    changed: bool | None
    created_at: datetime
    completed_at: datetime | None
