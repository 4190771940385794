"""The only code that runs the statements of debates: rows to types, types to rows."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import msgspec

from helix.core.db import Connection, Queries
from helix.debates.policy import ballot_weight
from helix.debates.types import (
    Argument,
    CodeVersion,
    ConfidenceSource,
    Debate,
    DebateId,
    DebateSpec,
    Event,
    EventType,
    Protocol,
    Round,
    Status,
    StopReason,
    Summary,
    Verdict,
    Vote,
)
from helix.debates.voting import Ballot

__all__ = ["QUERIES", "append_event", "insert_argument", "insert_debate", "insert_vote", "load"]

QUERIES = Queries("helix.debates")

_TOPOLOGY = {
    Protocol.ROUND_ROBIN: "chain",
    Protocol.ALL_SEE_ALL: "graph_mesh",
    Protocol.CRITIC_DEFENDER: "tree",
    Protocol.JUDGE: "star",
}
_OWN_COLUMNS = (
    "topic description participants positions protocol strategy rounds validation expected "
    "project_id session_id metadata"
).split()


async def insert_debate(
    conn: Connection,
    *,
    debate_id: DebateId,
    created_by: UUID | None,
    spec: DebateSpec,
    request_id: UUID | None,
    panel: str | None,
    now: datetime,
) -> None:
    """Write a debate that has not begun."""
    plain = msgspec.to_builtins(spec)
    await QUERIES.run(
        conn,
        "insert_debate",
        id=debate_id,
        created_by=created_by,
        project_id=spec.project_id,
        session_id=spec.session_id,
        request_id=request_id,
        topic=spec.topic,
        description=spec.description,
        strategy=spec.strategy_name,
        topology=_TOPOLOGY[spec.protocol],
        protocol=spec.protocol.value,
        voting_method=spec.voting.method.value,
        total_rounds=spec.rounds,
        positions=list(spec.positions),
        participants=plain["participants"],
        validation_config=plain.get("validation", {}),
        config={name: value for name, value in plain.items() if name not in _OWN_COLUMNS},
        expected=spec.expected,
        panel=panel,
        metadata=spec.metadata,
        now=now,
    )


def _spec_from(row: Any) -> DebateSpec:
    """Put a spec together again from the columns it was laid out in."""
    told = {
        **row["config"],
        "topic": row["topic"],
        "description": row["description"],
        "participants": row["participants"],
        "positions": row["positions"],
        "protocol": row["protocol"],
        "strategy": row["strategy"],
        "rounds": row["total_rounds"],
        "validation": row["validation_config"],
        "expected": row["expected"],
        "project_id": row["project_id"] and str(row["project_id"]),
        "session_id": row["session_id"] and str(row["session_id"]),
        "metadata": row["metadata"],
    }
    told.setdefault("voting", {"method": row["voting_method"]})
    return msgspec.convert(told, DebateSpec, strict=False)


async def load(conn: Connection, *, debate_id: DebateId) -> Debate | None:
    """Return a debate as far as it has come, or None."""
    row = await QUERIES.row(conn, "debate_by_id", id=debate_id)
    if row is None:
        return None
    rounds = await QUERIES.rows(conn, "rounds_of_debate", debate_id=debate_id)
    arguments = await QUERIES.rows(conn, "arguments_of_debate", debate_id=debate_id)
    votes = await QUERIES.rows(conn, "votes_of_debate", debate_id=debate_id)
    code = await QUERIES.rows(conn, "code_of_debate", debate_id=debate_id)
    events = await QUERIES.rows(conn, "state_events_of_debate", debate_id=debate_id)
    calls = await QUERIES.row(conn, "calls_of_debate", debate_id=debate_id)
    silent, verdicts, conclusion, weights = _from_events(events)
    source, stop = row["confidence_source"], row["stop_reason"]
    return Debate(
        id=DebateId(row["id"]),
        created_by=row["created_by"],
        status=Status(row["status"]),
        spec=_spec_from(row),
        created_at=row["created_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        task_id=row["task_id"],
        request_id=row["request_id"],
        panel=row["panel"],
        rounds=tuple(_round_from(r) for r in rounds),
        arguments=tuple(_argument_from(a) for a in arguments),
        votes=tuple(_vote_from(v) for v in votes),
        silent=silent,
        verdicts=verdicts,
        conclusion=conclusion,
        code=tuple(code_from(c) for c in code),
        weights=weights,
        calls=calls["calls"] if calls is not None else 0,
        event_count=row["event_count"],
        stop_reason=StopReason(stop) if stop else None,
        final_winner=row["final_winner"],
        final_conclusion=row["final_conclusion"],
        minority_opinion=row["minority_opinion"],
        consensus_reached=row["consensus_reached"],
        confidence=row["confidence"],
        confidence_source=ConfidenceSource(source) if source else None,
        baseline=row["baseline"],
        changed=row["changed"],
        multipass_result=row["multipass_result"],
        error=row["error"],
    )


_FromEvents = tuple[
    frozenset[tuple[int, str, str]],
    dict[str, tuple[Verdict, ...]],
    tuple[str, str | None] | None,
    dict[str, Fraction],
]


def _from_events(rows: Sequence[Any]) -> _FromEvents:
    silent: set[tuple[int, str, str]] = set()
    verdicts: dict[str, tuple[Verdict, ...]] = {}
    conclusion: tuple[str, str | None] | None = None
    weights: dict[str, Fraction] = {}
    for row in rows:
        data = row["data"]
        match EventType(row["event_type"]):
            case EventType.SILENT:
                silent.add((row["round_number"], data["kind"], row["participant_id"]))
            case EventType.VALIDATED:
                found = data["verdicts"]
                verdicts[data["pass"]] = tuple(
                    Verdict(v["participant"], v["passed"], v["feedback"]) for v in found
                )
            case EventType.CONCLUDED:
                conclusion = (data["conclusion"], data["minority_opinion"])
            case EventType.STARTED:
                weights = {name: Fraction(told) for name, told in data["weights"].items()}
            case _:
                continue
    return frozenset(silent), verdicts, conclusion, weights


def _round_from(row: Any) -> Round:
    return Round(
        number=row["round_number"],
        phase=row["phase"],
        ended=row["status"] not in {"pending", "running"},
        agreement=row["agreement"],
        convergence=row["convergence"],
        winner=row["winner"],
        tally=row["tally"],
    )


def _argument_from(row: Any) -> Argument:
    source = row["confidence_source"]
    return Argument(
        round=row["round_number"],
        turn=row["turn_number"],
        participant=row["participant_id"],
        provider_name=row["provider_name"],
        model_name=row["model_name"] or "",
        position=row["position"],
        role=row["role"],
        text=row["argument_text"],
        answer=row["answer"],
        confidence=row["confidence"],
        confidence_source=ConfidenceSource(source) if source else None,
        tokens=row["tokens_used"],
        latency_ms=row["latency_ms"],
        provider_id=row["provider_id"],
        response_id=row["response_id"],
        is_primary=row["is_primary"],
        validation_status=row["validation_status"],
        validation_feedback=row["validation_feedback"],
    )


def _vote_from(row: Any) -> Vote:
    ballot = None
    if row["is_valid"]:
        weight = ballot_weight(row["weight"], row["confidence"])
        ballot = Ballot(tuple(row["ranking"]), weight, row["confidence"], row["reason"])
    return Vote(
        round=row["round_number"],
        voter=row["voter"],
        ballot=ballot,
        weight=row["weight"],
        refusal=row["refusal"],
        is_repaired=row["is_repaired"],
        response_id=row["response_id"],
    )


def code_from(row: Any) -> CodeVersion:
    """Return a row of code_versions as a type."""
    return CodeVersion(
        version_hash=row["version_hash"],
        branch=row["branch"],
        commit_message=row["commit_message"] or "",
        files_changed=tuple(row["files_changed"]),
        diff_summary=row["diff_summary"] or "",
        validation_status=row["validation_status"],
        test_results=row["test_results"],
    )


def event_from(row: Any) -> Event:
    """Return a row of debate_events as a type."""
    return Event(
        sequence=row["sequence"],
        event_type=EventType(row["event_type"]),
        round=row["round_number"],
        participant=row["participant_id"],
        response_id=row["response_id"],
        data=row["data"],
        created_at=row["created_at"],
    )


def summary_from(row: Any) -> Summary:
    """Return a row of a list of debates as a type."""
    return Summary(
        id=DebateId(row["id"]),
        created_by=row["created_by"],
        topic=row["topic"],
        status=Status(row["status"]),
        protocol=row["protocol"],
        voting_method=row["voting_method"],
        rounds=row["current_round"],
        rounds_max=row["total_rounds"],
        final_winner=row["final_winner"],
        consensus_reached=row["consensus_reached"],
        confidence=row["confidence"],
        changed=row["changed"],
        created_at=row["created_at"],
        completed_at=row["completed_at"],
    )


async def append_event(
    conn: Connection,
    *,
    debate_id: DebateId,
    event_type: EventType,
    now: datetime,
    round_number: int | None = None,
    participant: str | None = None,
    request_id: UUID | None = None,
    response_id: UUID | None = None,
    data: dict[str, Any] | None = None,
) -> int | None:
    """Write the next event; return its sequence, or None when the debate has ended."""
    row = await QUERIES.row(
        conn,
        "append_event",
        debate_id=debate_id,
        event_type=event_type.value,
        round_number=round_number,
        participant_id=participant,
        request_id=request_id,
        response_id=response_id,
        data=data or {},
        now=now,
    )
    return None if row is None else int(row["sequence"])


async def insert_argument(
    conn: Connection, *, debate_id: DebateId, argument: Argument, now: datetime
) -> None:
    """Write what a participant said."""
    await QUERIES.run(
        conn,
        "insert_argument",
        debate_id=debate_id,
        round_number=argument.round,
        turn_number=argument.turn,
        participant_id=argument.participant,
        provider_id=argument.provider_id,
        provider_name=argument.provider_name,
        model_name=argument.model_name,
        position=argument.position,
        role=argument.role,
        argument_text=argument.text,
        answer=argument.answer,
        confidence=argument.confidence,
        confidence_source=argument.confidence_source and argument.confidence_source.value,
        tokens_used=argument.tokens,
        latency_ms=argument.latency_ms,
        response_id=argument.response_id,
        is_primary=argument.is_primary,
        validation_status=argument.validation_status,
        now=now,
    )


async def insert_vote(conn: Connection, *, debate_id: DebateId, vote: Vote, now: datetime) -> None:
    """Write a ballot, valid or refused."""
    ballot = vote.ballot
    await QUERIES.run(
        conn,
        "insert_vote",
        debate_id=debate_id,
        round_number=vote.round,
        voter=vote.voter,
        ranking=list(ballot.ranking) if ballot is not None else [],
        weight=vote.weight,
        confidence=ballot.confidence if ballot is not None else None,
        reason=ballot.reason if ballot is not None else None,
        is_valid=ballot is not None,
        is_repaired=vote.is_repaired,
        refusal=vote.refusal,
        response_id=vote.response_id,
        now=now,
    )


async def learned_weights(
    conn: Connection, *, models: Sequence[str], attempts_min: int = 3
) -> dict[str, Fraction]:
    """Return success rates by model (as named in `models`) where at least `attempts_min` known."""
    rows = await QUERIES.rows(
        conn, "learned_success", models=list(models), attempts_min=attempts_min
    )
    found: dict[str, Fraction] = {}
    for row in rows:
        rate = Fraction(row["success_count"], row["total_attempts"])
        for model in models:
            if model in {f"{row['provider']}/{row['model']}", row["model"]}:
                found[model] = rate
    return found


def as_stored(weight: Fraction) -> Decimal:
    """Return a weight as debate_votes keeps it: two decimals, at most 999.99, down."""
    hundredths = min(weight.numerator * 100 // weight.denominator, 99_999)
    return Decimal(hundredths) / 100
