"""What follows once the end of a call is committed; nothing here holds up its last byte."""

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from helix.core.db import OUTAGES, Database, Role
from helix.core.errors import HelixError
from helix.core.ids import uuid7_beside
from helix.core.log import get_log
from helix.gateway.cache import Cache
from helix.gateway.hooks import AfterHook, AfterWanted, SettledCall
from helix.gateway.replay import Replays
from helix.gateway.store import Store, StreamSample
from helix.gateway.timing import Sample
from helix.gateway.turn import Turn
from helix.gateway.types import Outcome, Settlement

__all__ = ["AfterSettling"]

_log = get_log(__name__)
_TROUBLE: tuple[type[BaseException], ...] = (HelixError, *OUTAGES)
PENDING_MAX = 1_000
_ENDS = {"completed": "completed", "cancelled": "cancelled"}


class AfterSettling:
    """Tells who waits for an answer, remembers it, writes samples of its stream, calls hooks."""

    def __init__(self, db: Database, store: Store, *, replays: Replays, cache: Cache) -> None:
        self._db = db
        self._store = store
        self._replays = replays
        self._cache = cache
        self._tasks: set[asyncio.Task[None]] = set()
        self.hooks: list[tuple[AfterHook, AfterWanted]] = []

    def settled(self, turn: Turn, row: Settlement) -> None:
        """The end of a call is committed. It is called once for each, and returns at once."""
        self._replays.ended(row.request_id)
        completed = row.status == Outcome.COMPLETED.value
        if turn.cache_key is not None and completed and not row.cached:
            self._cache.put(
                turn.cache_key,
                user_id=turn.principal.user_id,
                request_id=row.request_id,
                response_id=row.id,
                keep_s=turn.cache_s,
            )
        attempt = turn.attempt
        arrivals = None if attempt is None else attempt.arrivals
        if arrivals is not None and arrivals.samples:
            self._begin(self._write_samples(turn, row, arrivals.samples))
        hooks = [hook for hook, wanted in self.hooks if wanted(turn.request, turn.injected)]
        if hooks:
            self._begin(self._call_hooks(hooks, _told(turn, row)))

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is under way, but no longer than so."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= PENDING_MAX:
            work.close()
            _log.warning("after_settling_dropped", pending=len(self._tasks))
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call_hooks(self, hooks: Sequence[AfterHook], call: SettledCall) -> None:
        for hook in hooks:
            try:
                await hook(call)
            except _TROUBLE as exc:
                _log.warning(
                    "after_hook_failed",
                    request_id=str(call.request_id),
                    reason=type(exc).__name__,
                )
            except Exception as exc:  # noqa: BLE001 - an edge: a hook's fault ends no other
                _log.error("after_hook_failed", exc=exc, request_id=str(call.request_id))

    async def _write_samples(self, turn: Turn, row: Settlement, samples: list[Sample]) -> None:
        told = [_row_of(row, turn, number, sample) for number, sample in enumerate(samples)]
        told.append(
            StreamSample(
                id=uuid7_beside(row.request_id),
                stream_id=str(row.id),
                event_type=_ENDS.get(row.status, "failed"),
                chunk_number=row.chunk_count or 0,
                latency_ms=row.latency_ms,
                tokens_delta=row.tokens_completion,
                chunks=max(row.chunk_count or 1, 1),
                max_gap_ms=row.gap_max_ms,
                request_id=row.request_id,
                provider_name=row.provider_name,
                model_name=row.model_name,
                user_id=turn.principal.user_id,
                timestamp=row.completed_at,
            )
        )
        try:
            async with self._db.transaction(Role.RECORDER) as conn:
                await self._store.write_samples(conn, told)
        except _TROUBLE as exc:
            _log.warning("stream_samples_not_written", reason=type(exc).__name__)


def _row_of(row: Settlement, turn: Turn, number: int, sample: Sample) -> StreamSample:
    first = number == 0
    latency_ms = (row.first_token_ms or 0) if first else round(sample.gap_s * 1_000)
    began_at = row.completed_at - timedelta(milliseconds=row.latency_ms)
    return StreamSample(
        id=uuid7_beside(row.request_id),
        stream_id=str(row.id),
        event_type="first_token" if first else "chunk",
        chunk_number=sample.chunk_number,
        latency_ms=latency_ms,
        tokens_delta=-(-sample.chars // 4),
        chunks=max(sample.chunks, 1),
        max_gap_ms=None if first else latency_ms,
        request_id=row.request_id,
        provider_name=row.provider_name,
        model_name=row.model_name,
        user_id=turn.principal.user_id,
        timestamp=began_at + timedelta(seconds=sample.at_s),
    )


def _told(turn: Turn, row: Settlement) -> SettledCall:
    completed = row.status == Outcome.COMPLETED.value
    answer = None
    if completed and row.raw_response is not None:
        choices = msgspec.json.decode(row.raw_response).get("choices") or [{}]
        message = choices[0].get("message") if type(choices[0]) is dict else None
        answer = message if type(message) is dict else {"role": "assistant", "content": row.content}
    elif row.content is not None:
        answer = {"role": "assistant", "content": row.content}
    request = turn.request
    helix = request.own.get("helix") or request.fields.get("helix")
    return SettledCall(
        request_id=row.request_id,
        response_id=row.id if completed else None,
        principal=turn.principal,
        status=row.request_status,
        model_name=row.model_name,
        provider_name=row.provider_name,
        messages=bytes(turn.request.fields.get("messages", b"[]")),
        answer=answer,
        text=row.content or "",
        helix={} if helix is None else msgspec.json.decode(helix) or {},
        session_id=turn.admission.session_id,
        project_id=row.project_id or request.project_id,
        agent_id=row.agent_id or request.agent_id,
        memory=None if turn.injected is None else turn.injected.memory,
        tokens_prompt=row.tokens_prompt,
        tokens_completion=row.tokens_completion,
        cost_usd=row.cost_usd,
        cached=row.cached,
    )
