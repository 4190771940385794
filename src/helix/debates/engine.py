"""The engine: holds a debate, as the handler of its task.

Load, ask `plan.next_step` what comes next, do it, and again. What a step changes is one transaction
that commits only while this attempt still holds the task; a call is made outside of any. A process
that dies anywhere leaves a debate from which the next attempt takes the very next step.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from helix.accounts import Principal
from helix.core.clock import Clock
from helix.core.db import Connection, Role
from helix.core.errors import Forbidden, HelixError, NotFound, Unauthenticated
from helix.debates import prompts, store
from helix.debates.asking import (
    Answered,
    Ask,
    Meaning,
    OnBehalf,
    Price,
    Unanswered,
    ask_one,
    meaning_of,
    most_usd,
    take,
)
from helix.debates.code import Repositories
from helix.debates.errors import RepositoryRefused
from helix.debates.plan import Ask as AskStep
from helix.debates.plan import (
    BeginValidation,
    CloseRound,
    Fail,
    Finish,
    Kind,
    OpenRound,
    Start,
    Step,
    Turn,
    next_step,
    stopped,
    without_calls,
)
from helix.debates.policy import ballot_weight
from helix.debates.reading import (
    argument_of,
    conclusion_of,
    mean_confidence,
    storable,
    verdicts_of,
)
from helix.debates.service import record_code
from helix.debates.store import QUERIES, as_stored
from helix.debates.types import (
    ENDED,
    Argument,
    CodeVersion,
    Debate,
    DebateId,
    EventType,
    Round,
    Status,
    StopReason,
    Vote,
)
from helix.debates.voting import Ballot, BallotRefused, read_ballot
from helix.gateway import Completion
from helix.tasks import RetryLater, TaskContext

__all__ = ["COMMITS_MAX", "Engine", "RunPayload"]

T = TypeVar("T")
COMMITS_MAX = 8
"""Turns that one process commits at a time: so many connections hold all its debates together."""
LATER_S = 1.0
LEARNED_ATTEMPTS_MIN = 3


class RunPayload(msgspec.Struct, forbid_unknown_fields=True):
    """The payload of a task of type debates.run."""

    debate_id: UUID


class _Stopped(Exception):
    """A limit does not allow the call."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class _Refused(Exception):
    """The debate's user may not call any more."""


class Engine:
    """Holds debates, any number at a time, with at most COMMITS_MAX connections."""

    def __init__(
        self,
        *,
        ask: Ask,
        on_behalf: OnBehalf,
        price: Price,
        repositories: Repositories,
        clock: Clock,
        commits_max: int = COMMITS_MAX,
    ) -> None:
        self.ask = ask
        self.on_behalf = on_behalf
        self.price = price
        self.repositories = repositories
        self.clock = clock
        self._commits = asyncio.Semaphore(commits_max)

    @asynccontextmanager
    async def unit(self, ctx: TaskContext, role: Role | None = None) -> Any:
        """One transaction of the attempt, when it is this one's turn to have a connection."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._commits)
            yield await stack.enter_async_context(ctx.transaction(role))

    async def run(self, ctx: TaskContext, payload: RunPayload) -> dict[str, Any]:
        """Hold a debate to its end; the handler of its task."""
        debate_id = DebateId(payload.debate_id)
        async with self.unit(ctx) as conn:
            debate = await store.load(conn, debate_id=debate_id)
            if debate is not None and debate.status not in ENDED and debate.event_count:
                await store.append_event(
                    conn,
                    debate_id=debate_id,
                    event_type=EventType.RESUMED,
                    now=self.clock.now(),
                    data={"attempt": ctx.attempt},
                )
        if debate is None or debate.status in ENDED:
            return {"debate_id": str(debate_id), "status": debate.status if debate else "gone"}
        debate = replace(debate, task_id=ctx.task_id)
        return await _Held(self, ctx, debate).to_the_end()


@dataclass(slots=True)
class _Held:
    """A debate in the hands of one attempt."""

    engine: Engine
    ctx: TaskContext
    debate: Debate
    principal: Principal | None = None
    claimed: int = 0
    """Calls recorded, and those that the step under way may make: at most limits.calls."""

    async def to_the_end(self) -> dict[str, Any]:
        while True:
            step = await self._next()
            try:
                ended = await self._do(step)
            except _Stopped as exc:
                await self._stop_at(exc.reason)
                ended = await self._do(without_calls(self.debate))
            except _Refused as exc:
                ended = await self._do(Fail(str(exc)))
            if ended is not None:
                return ended
            self._tell_progress()

    async def _next(self) -> Step:
        debate = self.debate
        if self._time_left_s() <= 0 and debate.status is not Status.PENDING:
            await self._stop_at(StopReason.TIME)
            return without_calls(self.debate)
        return next_step(debate)

    def _tell_progress(self) -> None:
        spec, done = self.debate.spec, sum(1 for r in self.debate.rounds if r.ended)
        self.ctx.progress(95 * done / spec.rounds, f"round {len(self.debate.rounds)}")

    async def _do(self, step: Step) -> dict[str, Any] | None:
        match step:
            case Start():
                await self._start()
            case OpenRound():
                await self._open_round(step)
            case AskStep():
                await self._ask(step.turns)
            case CloseRound():
                await self._close_round(step)
            case BeginValidation():
                await self._begin_validation()
            case Finish():
                return await self._finish(step)
            case Fail():
                return await self._fail(step)
        return None

    # ---- steps without calls ---------------------------------------------------------------------

    async def _event(self, conn: Connection, event_type: EventType, **values: Any) -> None:
        now = self.engine.clock.now()
        await store.append_event(
            conn, debate_id=self.debate.id, event_type=event_type, now=now, **values
        )

    async def _start(self) -> None:
        debate, now = self.debate, self.engine.clock.now()
        code: tuple[CodeVersion, ...] = ()
        if debate.spec.code is not None:
            try:
                code = (await self.engine.repositories.read(debate.spec.code),)
            except RepositoryRefused as exc:
                raise _Refused(exc.message) from exc
        learned = [m.model for m in debate.spec.participants if m.weight_learned]
        async with self.engine.unit(self.ctx) as conn:
            rates = await store.learned_weights(
                conn, models=learned, attempts_min=LEARNED_ATTEMPTS_MIN
            )
            weights = {
                member.name: Fraction(member.weight)
                * (rates.get(member.model, Fraction(1)) if member.weight_learned else 1)
                for member in debate.spec.participants
            }
            await QUERIES.row(conn, "start_debate", id=debate.id, now=now)
            await self._event(
                conn,
                EventType.STARTED,
                data={"weights": {name: str(weight) for name, weight in weights.items()}},
            )
            for version in code:
                number = await record_code(conn, debate_id=debate.id, version=version, now=now)
                await self._event(
                    conn,
                    EventType.CODE_RECORDED,
                    data={"version": number, "hash": version.version_hash},
                )
        self.debate = replace(
            debate, status=Status.RUNNING, started_at=now, weights=weights, code=code
        )

    async def _open_round(self, step: OpenRound) -> None:
        now = self.engine.clock.now()
        async with self.engine.unit(self.ctx) as conn:
            await QUERIES.run(
                conn,
                "open_round",
                debate_id=self.debate.id,
                number=step.number,
                phase=step.phase,
                now=now,
            )
            await QUERIES.run(conn, "set_current_round", id=self.debate.id, number=step.number)
            await self._event(
                conn,
                EventType.ROUND_STARTED,
                round_number=step.number,
                data={"phase": step.phase},
            )
        self.debate = replace(
            self.debate, rounds=(*self.debate.rounds, Round(step.number, step.phase))
        )

    async def _close_round(self, step: CloseRound) -> None:
        now = self.engine.clock.now()
        async with self.engine.unit(self.ctx) as conn:
            await QUERIES.run(
                conn,
                "close_round",
                debate_id=self.debate.id,
                number=step.number,
                agreement=step.agreement,
                convergence=step.convergence,
                winner=step.winner,
                tally=step.tally,
                now=now,
            )
            if step.stop is not None:
                await QUERIES.run(
                    conn, "set_stop_reason", id=self.debate.id, stop_reason=step.stop.value
                )
            await self._event(
                conn,
                EventType.ROUND_ENDED,
                round_number=step.number,
                data={
                    "agreement": str(step.agreement),
                    "convergence": None if step.convergence is None else str(step.convergence),
                    "winner": step.winner,
                    "tally": step.tally,
                    "stop": step.stop and step.stop.value,
                },
            )
        ended = replace(
            self.debate.rounds[-1],
            ended=True,
            agreement=step.agreement,
            convergence=step.convergence,
            winner=step.winner,
            tally=step.tally,
        )
        self.debate = replace(
            self.debate, rounds=(*self.debate.rounds[:-1], ended), stop_reason=step.stop
        )

    async def _begin_validation(self) -> None:
        debate = self.debate
        async with self.engine.unit(self.ctx) as conn:
            await QUERIES.row(conn, "begin_validation", id=debate.id)
            await QUERIES.run(
                conn, "await_verdicts", debate_id=debate.id, round_number=debate.rounds[-1].number
            )
            await self._event(
                conn, EventType.VALIDATING, data={"passes": list(debate.spec.validation.passes)}
            )
        self.debate = replace(debate, status=Status.VALIDATING)

    async def _stop_at(self, reason: StopReason) -> None:
        if self.debate.stop_reason is not None:
            return
        async with self.engine.unit(self.ctx) as conn:
            await QUERIES.run(conn, "set_stop_reason", id=self.debate.id, stop_reason=reason.value)
        self.debate = stopped(self.debate, reason)

    async def _finish(self, step: Finish) -> dict[str, Any]:
        debate, now = self.debate, self.engine.clock.now()
        result = {
            "debate_id": str(debate.id),
            "status": Status.COMPLETED.value,
            "winner": step.winner,
            "consensus_reached": step.consensus,
        }
        async with self.engine.unit(self.ctx, Role.OPERATOR) as conn:
            await QUERIES.run(
                conn,
                "break_off_rounds",
                debate_id=debate.id,
                status=Status.CANCELLED.value,
                now=now,
            )
            await self._event(
                conn,
                EventType.COMPLETED,
                data={**result, "stop": step.stop.value, "changed": step.changed},
            )
            await QUERIES.row(
                conn,
                "complete_debate",
                id=debate.id,
                conclusion=step.conclusion,
                minority=step.minority,
                winner=step.winner[:255] if step.winner else None,
                consensus=step.consensus,
                confidence=step.confidence,
                source=step.source and step.source.value,
                stop_reason=step.stop.value,
                baseline=step.baseline,
                changed=step.changed,
                multipass=step.multipass,
                now=now,
            )
            if step.winner is not None:
                await self._learn(conn, step.won)
            await self.ctx.complete(conn, result)
        return result

    async def _learn(self, conn: Connection, won: frozenset[str]) -> None:
        """Count who was right, by strategy, model and role; always in the same order of rows."""
        debate, found = self.debate, []
        for member in debate.spec.participants:
            said = [a for a in debate.arguments if a.participant == member.name and a.round >= 1]
            if said:
                found.append((said[-1].provider_name, said[-1].model_name, said[-1].role or "",
                              member.name, said))  # fmt: skip
        for provider, model, role, name, said in sorted(found, key=lambda item: item[:4]):
            await QUERIES.run(
                conn,
                "learn_success",
                strategy_name=debate.spec.strategy_name,
                provider=provider,
                model=model,
                position=role,
                success=int(name in won),
                confidence=mean_confidence(said),
                response_time_ms=Decimal(sum(a.latency_ms for a in said)) / len(said),
                now=self.engine.clock.now(),
            )

    async def _fail(self, step: Fail) -> dict[str, Any]:
        debate, now = self.debate, self.engine.clock.now()
        result = {"debate_id": str(debate.id), "status": Status.FAILED.value, "error": step.error}
        async with self.engine.unit(self.ctx, Role.OPERATOR) as conn:
            await QUERIES.run(
                conn, "break_off_rounds", debate_id=debate.id, status=Status.FAILED.value, now=now
            )
            await self._event(conn, EventType.FAILED, data={"error": step.error})
            await QUERIES.row(
                conn, "fail_debate", id=debate.id, error=storable(step.error, 2_000), now=now
            )
            await self.ctx.complete(conn, result)
        return result

    # ---- calls -----------------------------------------------------------------------------------

    def _time_left_s(self) -> float:
        debate = self.debate
        if debate.started_at is None:
            return debate.spec.limits.time_s
        gone = (self.engine.clock.now() - debate.started_at).total_seconds()
        return debate.spec.limits.time_s - gone

    async def _ask(self, turns: Sequence[Turn]) -> None:
        """Have turns taken, all at once; what was answered is recorded even if another's fails."""
        await self._allowed(turns)
        self.claimed = self.debate.calls + len(turns)
        principal = await self._principal()
        done = await asyncio.gather(
            *(self._turn(principal, turn) for turn in turns), return_exceptions=True
        )
        for failure in done:
            if isinstance(failure, BaseException) and not isinstance(failure, HelixError):
                raise failure
        errors = [failure for failure in done if isinstance(failure, HelixError)]
        if errors:
            self._raise_for(errors)

    async def _allowed(self, turns: Sequence[Turn]) -> None:
        """Raise _Stopped when the turns might pass a limit of the debate."""
        limits, debate = self.debate.spec.limits, self.debate
        if debate.calls + len(turns) > limits.calls:
            raise _Stopped(StopReason.CALLS)
        if limits.budget_usd is None:
            return
        most = Decimal(0)
        for turn in turns:
            most += await most_usd(self.engine.price, turn)
        async with self.engine.unit(self.ctx) as conn:
            row = await QUERIES.row(conn, "spent_on_debate", debate_id=debate.id)
        spent = Decimal(0) if row is None else row["cost_usd"]
        if spent + most > limits.budget_usd:
            raise _Stopped(StopReason.BUDGET)

    async def _principal(self) -> Principal:
        if self.principal is None:
            if self.debate.created_by is None:
                raise _Refused("the debate has no user to work for")
            try:
                self.principal = await self.engine.on_behalf(self.debate.created_by)
            except (Forbidden, NotFound, Unauthenticated) as exc:
                raise _Refused(exc.message) from exc
        return self.principal

    @staticmethod
    def _raise_for(errors: Sequence[HelixError]) -> None:
        by_meaning = {meaning_of(error): error for error in errors}
        if Meaning.REFUSED in by_meaning:
            raise _Refused(by_meaning[Meaning.REFUSED].message)
        if Meaning.BUDGET in by_meaning:
            raise _Stopped(StopReason.BUDGET)
        waits = [error.retry_after_s or LATER_S for error in errors]
        raise RetryLater(errors[0].message, delay_s=max(waits))

    async def _turn(self, principal: Principal, turn: Turn) -> None:
        timeout_s = max(0.001, min(self.debate.spec.limits.turn_timeout_s, self._time_left_s()))
        found = await take(self.engine.ask, principal, self.debate, turn, timeout_s=timeout_s)
        if isinstance(found, Unanswered):
            await self._record_silence(turn, found)
            return
        match turn.kind:
            case Kind.BASELINE | Kind.ARGUE:
                await self._record_argument(turn, found)
            case Kind.VOTE:
                await self._record_vote(principal, turn, found, timeout_s)
            case Kind.VALIDATE:
                await self._record_verdicts(turn, found)
            case Kind.CONCLUDE:
                await self._record_conclusion(turn, found)

    async def _record_silence(self, turn: Turn, found: Unanswered) -> None:
        async with self.engine.unit(self.ctx) as conn:
            await self._event(
                conn,
                EventType.SILENT,
                round_number=turn.round,
                participant=turn.participant,
                data={"kind": turn.kind.value, "failed": [list(f) for f in found.failed]},
            )
        self.debate = replace(
            self.debate,
            silent=self.debate.silent | {(turn.round, turn.kind.value, turn.participant)},
        )

    async def _substituted(self, conn: Connection, turn: Turn, found: Answered) -> None:
        if found.failed:
            await self._event(
                conn,
                EventType.SUBSTITUTED,
                round_number=turn.round,
                participant=turn.participant,
                data={
                    "kind": turn.kind.value,
                    "failed": [list(f) for f in found.failed],
                    "by": turn.models[found.place],
                },
            )

    async def _paid(
        self, conn: Connection, event_type: EventType, turn: Turn, told: Completion, **data: Any
    ) -> None:
        await self._event(
            conn,
            event_type,
            round_number=turn.round,
            participant=turn.participant,
            request_id=told.request_id,
            response_id=told.response_id,
            data=data,
        )

    async def _record_argument(self, turn: Turn, found: Answered) -> None:
        primary = turn.member is None or turn.models[found.place] == turn.member.model
        argument = argument_of(self.debate, turn, found.completion, is_primary=primary)
        kind = EventType.BASELINE if turn.kind is Kind.BASELINE else EventType.ARGUED
        async with self.engine.unit(self.ctx) as conn:
            await self._substituted(conn, turn, found)
            await store.insert_argument(
                conn, debate_id=self.debate.id, argument=argument, now=self.engine.clock.now()
            )
            await self._paid(
                conn,
                kind,
                turn,
                found.completion,
                model=f"{argument.provider_name}/{argument.model_name}",
                answer=argument.answer,
                confidence=None if argument.confidence is None else str(argument.confidence),
            )
        self.debate = replace(
            self.debate,
            arguments=tuple(sorted((*self.debate.arguments, argument), key=_place)),
            calls=self.debate.calls + 1,
        )

    async def _record_vote(
        self, principal: Principal, turn: Turn, found: Answered, timeout_s: float
    ) -> None:
        """Read a ballot; ask once more for one that cannot be read; record what came of it."""
        weight = as_stored(self.debate.weights.get(turn.participant, Fraction(1)))
        told, spoilt = found.completion, None
        ballot, refusal = self._ballot(told, weight)
        if ballot is None and self.claimed < self.debate.spec.limits.calls:
            self.claimed += 1
            spoilt = (told, refusal or "")
            told = await self._ask_again(principal, turn, found, spoilt, timeout_s)
            if told is not spoilt[0]:
                ballot, again = self._ballot(told, weight)
                refusal = refusal if ballot is not None else again
        vote = Vote(
            round=turn.round,
            voter=turn.participant,
            ballot=ballot,
            weight=weight,
            refusal=storable(refusal, 1_000) if refusal else None,
            is_repaired=spoilt is not None and ballot is not None,
            response_id=told.response_id,
        )
        async with self.engine.unit(self.ctx) as conn:
            await self._substituted(conn, turn, found)
            if spoilt is not None and told is not spoilt[0]:
                await self._paid(
                    conn, EventType.BALLOT_REFUSED, turn, spoilt[0], refusal=storable(spoilt[1])
                )
            await store.insert_vote(
                conn, debate_id=self.debate.id, vote=vote, now=self.engine.clock.now()
            )
            await self._paid(
                conn,
                EventType.VOTED,
                turn,
                told,
                ranking=list(ballot.ranking) if ballot is not None else [],
                valid=ballot is not None,
            )
        self.debate = replace(
            self.debate,
            votes=(*self.debate.votes, vote),
            calls=self.debate.calls + (2 if spoilt is not None and told is not spoilt[0] else 1),
        )

    def _ballot(self, told: Completion, weight: Decimal) -> tuple[Ballot | None, str | None]:
        try:
            read = read_ballot(storable(told.text), self.debate.spec.candidates)
        except BallotRefused as exc:
            return None, str(exc)
        return replace(read, weight=ballot_weight(weight, read.confidence)), None

    async def _ask_again(
        self,
        principal: Principal,
        turn: Turn,
        found: Answered,
        spoilt: tuple[Completion, str],
        timeout_s: float,
    ) -> Completion:
        """Return a second answer of the same model, or the first when there is none to be had."""
        messages = prompts.repair_ballot(
            turn.messages, storable(spoilt[0].text), spoilt[1], self.debate.spec
        )
        try:
            return await ask_one(
                self.engine.ask,
                principal,
                self.debate,
                turn,
                model=turn.models[found.place],
                messages=messages,
                key=f"{turn.key}:{found.place}:repair",
                timeout_s=timeout_s,
            )
        except HelixError as exc:
            if meaning_of(exc) is not Meaning.SUBSTITUTE:
                raise
            return spoilt[0]

    async def _record_verdicts(self, turn: Turn, found: Answered) -> None:
        names = [a.participant for a in self.debate.arguments if a.round == turn.round]
        verdicts = verdicts_of(found.completion.text, names)
        async with self.engine.unit(self.ctx) as conn:
            await self._substituted(conn, turn, found)
            for verdict in verdicts:
                await QUERIES.run(
                    conn,
                    "set_verdict",
                    debate_id=self.debate.id,
                    round_number=turn.round,
                    participant_id=verdict.participant,
                    passed=verdict.passed,
                    feedback=f"{turn.participant}: {verdict.feedback}",
                )
            told = [
                {"participant": v.participant, "passed": v.passed, "feedback": v.feedback}
                for v in verdicts
            ]
            await self._paid(
                conn,
                EventType.VALIDATED,
                turn,
                found.completion,
                **{"pass": turn.participant, "verdicts": told},
            )
        self.debate = replace(
            self.debate,
            verdicts={**self.debate.verdicts, turn.participant: verdicts},
            calls=self.debate.calls + 1,
        )

    async def _record_conclusion(self, turn: Turn, found: Answered) -> None:
        conclusion, minority = conclusion_of(found.completion.text)
        async with self.engine.unit(self.ctx) as conn:
            await self._substituted(conn, turn, found)
            await self._paid(
                conn,
                EventType.CONCLUDED,
                turn,
                found.completion,
                conclusion=conclusion,
                minority_opinion=minority,
            )
        self.debate = replace(
            self.debate, conclusion=(conclusion, minority), calls=self.debate.calls + 1
        )


def _place(argument: Argument) -> tuple[int, int]:
    return argument.round, argument.turn
