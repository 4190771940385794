"""The end of a call, and of each try before it: what is recorded, and that it is committed."""

import asyncio
import contextlib
from collections.abc import Callable
from decimal import Decimal

import msgspec

from helix.core.clock import Clock
from helix.core.errors import HelixError
from helix.core.log import get_log
from helix.gateway.errors import CallInterrupted, NotRecorded
from helix.gateway.metrics import Metrics
from helix.gateway.policy import Answer, estimate_prompt, one_line, read_usage
from helix.gateway.recorder import Recorder, Unstorable
from helix.gateway.render import unexpected
from helix.gateway.settle import NOTHING_USED, settlement
from helix.gateway.turn import Attempt, Turn
from helix.gateway.types import Outcome, Settlement
from helix.ledger import TOKENS_MAX, Ledger, Usage
from helix.providers import UpstreamBroken, estimate_tokens

__all__ = ["Ending"]

_log = get_log(__name__)
_UNKNOWN = "unknown"


class Ending:
    """Settles calls. `settled` is told of each that is committed."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        recorder: Recorder,
        metrics: Metrics,
        clock: Clock,
        settled: Callable[[Turn, Settlement], None],
    ) -> None:
        self._ledger = ledger
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._settled = settled

    # ---- rows

    def completed(self, turn: Turn, attempt: Attempt, answer: Answer) -> Settlement:
        """Return the rows of a whole answer."""
        usage = read_usage(answer.usage) or Usage(
            estimate_prompt(turn.request),
            min(estimate_tokens(answer.content or ""), TOKENS_MAX),
            estimated=True,
        )
        return self._row(
            turn,
            attempt,
            Outcome.COMPLETED,
            None,
            usage,
            model=answer.model,
            upstream_id=answer.upstream_id,
            finish_reason=answer.finish_reason,
            content=answer.content,
            raw_response=answer.text,
        )

    def streamed(
        self, turn: Turn, attempt: Attempt, outcome: Outcome, error: HelixError | None
    ) -> Settlement:
        """Return the rows of what a stream told, whole or not; or of a try that told nothing."""
        transcript = attempt.transcript
        usage = read_usage(transcript.usage)
        if usage is None and transcript.chunks:
            told = min(estimate_tokens(transcript.told_text()), TOKENS_MAX)
            usage = Usage(estimate_prompt(turn.request), told, estimated=True)
        return self._row(
            turn,
            attempt,
            outcome,
            error,
            usage or NOTHING_USED,
            model=_short(transcript.model),
            upstream_id=_short(transcript.upstream_id),
            finish_reason=_short(transcript.finish_reason, 50),
            content=transcript.content,
            raw_response=transcript.as_json(),
        )

    def _row(
        self,
        turn: Turn,
        attempt: Attempt,
        outcome: Outcome,
        error: HelixError | None,
        usage: Usage,
        *,
        model: str | None,
        upstream_id: str | None,
        finish_reason: str | None,
        content: str | None,
        raw_response: str | None,
    ) -> Settlement:
        provider, called = attempt.route.provider, attempt.route.model
        latency_s = self._clock.monotonic_s() - attempt.sent_s
        first_s = None if attempt.first_s is None else attempt.first_s - attempt.sent_s
        answered = model or called
        self._metrics.call(
            provider.name,
            outcome.value,
            seconds=latency_s,
            first_s=first_s,
            prompt=usage.prompt,
            completion=usage.completion,
        )
        gaps = None if attempt.arrivals is None else attempt.arrivals.gaps()
        return settlement(
            turn.admission,
            outcome=outcome,
            now=self._clock.now(),
            provider_id=provider.id,
            provider_name=provider.name,
            model_name=answered,
            latency_s=latency_s,
            usage=usage,
            charge=self._ledger.charge(
                usage,
                provider=provider.name,
                models=(called, answered),
                at=turn.admission.created_at,
            ),
            error=error,
            http_status=attempt.http_status,
            upstream_id=upstream_id,
            first_token_s=first_s,
            chunk_count=attempt.transcript.chunks if turn.request.stream else None,
            finish_reason=finish_reason,
            content=None if turn.private else content,
            raw_response=None if turn.private else raw_response,
            attempt=turn.attempt_number or attempt.number,
            gaps=gaps,
        )

    def made_here(
        self,
        turn: Turn,
        *,
        provider_name: str,
        content: str | None,
        finish_reason: str | None,
        raw_response: str | None,
        chunk_count: int | None,
        confidence: Decimal | None,
        attempt: int,
    ) -> Settlement:
        """Return the rows of an answer that no provider gave and that costs nothing more."""
        return settlement(
            turn.admission,
            outcome=Outcome.COMPLETED,
            now=self._clock.now(),
            provider_id=None,
            provider_name=provider_name,
            model_name=turn.request.model,
            latency_s=self._clock.monotonic_s() - turn.began_s,
            chunk_count=chunk_count,
            finish_reason=finish_reason,
            content=content,
            raw_response=raw_response,
            confidence=confidence,
            attempt=attempt,
        )

    # ---- commits

    async def settle(self, turn: Turn, row: Settlement) -> None:
        """Record the end of a call; on return it is committed.

        An answer that PostgreSQL does not take is recorded as a failure and raised as one.
        """
        try:
            await self._recorder.settle(row)
        except Unstorable as exc:
            error = UpstreamBroken(row.provider_name, "it cannot be recorded")
            bare = _bare(row, error)
            with contextlib.suppress(Unstorable):
                await self._recorder.settle(bare)
                self._settled(turn, bare)
            raise error from exc
        self._settled(turn, row)

    async def failed(
        self, turn: Turn, error: HelixError | None, outcome: Outcome
    ) -> Settlement | None:
        """Record a call that did not come to its end. The client is told of that, not of this.

        Returns None when the record is not committed yet; the recorder goes on trying.
        """
        row = self._row_of_failure(turn, error, outcome)
        try:
            await self.settle(turn, row)
        except (NotRecorded, CallInterrupted, UpstreamBroken) as exc:
            _log.warning("settle_late", request_id=turn.id_text, reason=exc.code)
            return None
        return row

    def attempt_failed(self, turn: Turn, attempt: Attempt, error: HelixError) -> None:
        """Record, without waiting, a try after which the call goes on."""
        row = self.streamed(turn, attempt, Outcome.FAILED, error)
        self._recorder.respond(row).add_done_callback(_look_at)

    def attempt_cut(self, turn: Turn, attempt: Attempt) -> None:
        """Record, without waiting, a candidate that nobody waits for any more."""
        row = self.streamed(turn, attempt, Outcome.CANCELLED, None)
        self._recorder.respond(row).add_done_callback(_look_at)

    def committed(self, turn: Turn, row: Settlement) -> None:
        """Tell of a call whose end was committed otherwise."""
        self._settled(turn, row)

    def unheard(self, turn: Turn) -> None:
        """Record, without waiting, a call that a fault of ours or the end of the process broke."""
        row = self._row_of_failure(turn, unexpected(turn.id_text), Outcome.INTERRUPTED)
        self._recorder.settle(row).add_done_callback(_look_at)

    def _row_of_failure(self, turn: Turn, error: HelixError | None, outcome: Outcome) -> Settlement:
        if turn.attempt is not None:
            return self.streamed(turn, turn.attempt, outcome, error)
        return settlement(
            turn.admission,
            outcome=outcome,
            now=self._clock.now(),
            provider_id=None,
            provider_name=_UNKNOWN,
            model_name=turn.request.model,
            latency_s=self._clock.monotonic_s() - turn.began_s,
            error=error,
        )


def _bare(row: Settlement, error: HelixError) -> Settlement:
    """Return a settlement without whatever a provider said, which PostgreSQL does not take."""
    return msgspec.structs.replace(
        row,
        request_status="failed",
        status=Outcome.FAILED.value,
        error_code=error.code,
        error=error.message,
        upstream_id=None,
        finish_reason=None,
        model_name=_UNKNOWN,
        provider_id=None,
        content=None,
        raw_response=None,
    )


def _look_at(done: "asyncio.Future[None]") -> None:
    if not done.cancelled() and done.exception() is not None:
        _log.warning("settle_unheard", reason=type(done.exception()).__name__)


def _short(text: str | None, chars_max: int = 255) -> str | None:
    return None if text is None else one_line(text, chars_max)
