"""Running virtual models: a handler above asks candidates; here they are made and recorded."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from helix.accounts import Principal
from helix.core.clock import Clock
from helix.core.errors import HelixError
from helix.gateway.answers import chunks_of
from helix.gateway.attempts import Attempts
from helix.gateway.dialects.chat import Chat
from helix.gateway.dialects.types import Renderer
from helix.gateway.ending import Ending
from helix.gateway.errors import (
    ModelIsVirtual,
    ModelNotAllowed,
    VirtualUndecided,
    WrongField,
)
from helix.gateway.exchange import Exchange
from helix.gateway.intake import IntakeLimits, read_chat
from helix.gateway.policy import Answer, may_call
from helix.gateway.recorder import Recorder
from helix.gateway.sse import Transcript
from helix.gateway.turn import Cut, Turn
from helix.gateway.types import CallRequest, Outcome, Settlement
from helix.gateway.virtual import Asked, CallOptions, Completion, VirtualCall, VirtualModel
from helix.gateway.waits import Wait
from helix.gateway.whole import Wholes
from helix.providers import ModelNotFound, Plan, Providers, RoutePolicy

__all__ = ["Virtuals", "completion_of"]

_JSON = b"application/json"
_NOT_FOR_HANDLERS = frozenset({"helix", "model", "stream", "stream_options"})
_PROVIDER = "helix"
_ENSEMBLE = "ensemble"
_INLINE = "helix_ensemble"


@dataclass(slots=True, eq=False)
class _Run:
    """One call of a virtual model: its candidates, and what its handler told so far."""

    turn: Turn
    call: VirtualCall
    candidates: dict[UUID, tuple[Settlement, Answer]] = field(default_factory=dict)
    transcript: Transcript = field(default_factory=Transcript)
    begun: bool = False


class Virtuals:
    """The virtual models there are, and the running of their calls."""

    def __init__(
        self,
        *,
        providers: Providers,
        attempts: Attempts,
        wholes: Wholes,
        ending: Ending,
        recorder: Recorder,
        clock: Clock,
        intake: IntakeLimits,
        total_timeout_s: float,
    ) -> None:
        self._providers = providers
        self._attempts = attempts
        self._wholes = wholes
        self._ending = ending
        self._recorder = recorder
        self._clock = clock
        self._intake = intake
        self._policy = RoutePolicy(total_s=total_timeout_s)
        self._handlers: dict[str, VirtualModel] = {}
        self._chat = Chat()
        self.turns: set[Turn] = set()

    def add(self, prefix: str, handler: VirtualModel) -> None:
        """Let a handler answer the models `prefix/…`; raises ValueError when one does already."""
        if prefix in self._handlers or not prefix or "/" in prefix:
            raise ValueError(f"virtual models cannot be called {prefix!r}")
        self._handlers[prefix] = handler

    def owns(self, model: str) -> bool:
        """Say whether a model is a virtual one."""
        return bool(self._handlers) and model.partition("/")[0] in self._handlers

    def takes(self, request: CallRequest) -> bool:
        """Say whether a call is one of a virtual model, or asks for an ensemble of its own."""
        if request.options.ensemble is not None:
            if _ENSEMBLE not in self._handlers:
                raise WrongField("helix.ensemble", "there are no ensembles here")
            return True
        return self.owns(request.model)

    async def names(self, principal: Principal) -> list[str]:
        """Return the names of all virtual models that a caller may use."""
        found: list[str] = []
        for handler in self._handlers.values():
            found += await handler.names(principal)
        return found

    async def plan(
        self, principal: Principal, request: CallRequest
    ) -> tuple[Plan, tuple[Asked, ...]]:
        """Return the plan of a call: its targets are all that it may ask, one per upstream call.

        With it, in the same order, what the price of each depends on.
        """
        handler, name = self._handler_of(request)
        asked = tuple(await handler.asks(principal, name, _values(request)))
        targets = []
        for one in asked:
            if self.owns(one.model):
                raise ModelIsVirtual(one.model)
            targets.append((await self._providers.plan(one.model)).targets[0])
        return Plan(request.model, tuple(targets), self._policy), asked

    def _handler_of(self, request: CallRequest) -> tuple[VirtualModel, str]:
        if request.options.ensemble is not None:
            return self._handlers[_ENSEMBLE], ""
        prefix, _, name = request.model.partition("/")
        if not name:
            raise ModelNotFound(request.model)
        return self._handlers[prefix], name

    # ---- a client's call, or one from inside

    async def serve(self, turn: Turn, exchange: Exchange) -> None:
        """Answer a client, whole or as a stream."""
        if not turn.request.stream:
            answer, _ = await self.complete(turn)
            body = turn.dialect.whole(answer, turn.request, turn.id_text)
            await exchange.reply(200, body, _JSON)
            return
        renderer = turn.dialect.stream(turn.request, turn.id_text)
        watch = asyncio.ensure_future(exchange.until_gone())
        watch.add_done_callback(lambda done: None if done.cancelled() else turn.cut_off(Cut.GONE))
        run = self._start(turn)
        try:
            await self._play(run, partial(self._send, run, exchange, renderer))
        except HelixError as exc:
            await self._fail(run, exc)
            if turn.cut is Cut.GONE:
                return
            if not run.begun:
                raise
            await exchange.end(renderer.error(exc, turn.id_text))
            return
        finally:
            watch.cancel()
        try:
            await self._settle(run)
        except HelixError as exc:
            if not run.begun:
                raise
            await exchange.end(renderer.error(exc, turn.id_text))
            return
        if not run.begun:
            await exchange.begin_stream()
        await exchange.end(renderer.end())

    async def complete(self, turn: Turn) -> tuple[dict[str, Any], Settlement]:
        """Return the whole answer in the canonical form, committed; raises its error, settled."""
        run = self._start(turn)
        try:
            await self._play(run, _nowhere)
        except HelixError as exc:
            await self._fail(run, exc)
            raise
        row = await self._settle(run)
        raw = run.transcript.as_json()
        answer = msgspec.json.decode(raw) if raw is not None else {}
        return answer, row

    def _start(self, turn: Turn) -> _Run:
        request = turn.request
        handler_options = CallOptions(
            project_id=request.options.project_id,
            session_id=request.options.session_id,
            agent_id=request.options.agent_id,
            task_id=request.options.task_id,
        )
        call = VirtualCall(
            principal=turn.principal,
            request_id=turn.request_id,
            name=self._handler_of(request)[1],
            fields=_values(request),
            options=handler_options,
            timeout_s=max(turn.ends_at_s - self._clock.monotonic_s(), 0.0),
            make=_unmade,
        )
        run = _Run(turn, call)
        call.make = partial(self._candidate, run)
        return run

    async def _play(self, run: _Run, tell: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Let the handler answer, and tell each of its chunks; raises what went wrong."""
        turn, call = run.turn, run.call
        handler, _ = self._handler_of(turn.request)
        head = {
            "id": f"chatcmpl-{turn.id_text}",
            "object": "chat.completion.chunk",
            "created": int(turn.admission.created_at.timestamp()),
            "model": turn.request.model,
        }
        try:
            with Wait() as turn.deadline:
                turn.wake()
                told = handler.answer(call)
                async for chunk in told:
                    await self._take(run, {**chunk, **head}, tell)
                for chunk in self._closing(run):
                    await self._take(run, {**chunk, **head}, tell)
        except TimeoutError as exc:
            raise turn.why_cut() from exc
        except HelixError:
            raise
        except BaseException:
            self._ending.unheard(turn)
            raise

    async def _take(
        self, run: _Run, chunk: dict[str, Any], tell: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        run.transcript.take(chunk)
        await tell(chunk)

    def _closing(self, run: _Run) -> list[dict[str, Any]]:
        """Return what a handler left to be told: the answer if it told none, its end, its usage."""
        call, transcript = run.call, run.transcript
        if not call.decided:
            raise VirtualUndecided(run.turn.request.model)
        chunks: list[dict[str, Any]] = []
        finish = call.finish_reason
        if call.chosen is not None:
            chosen = run.candidates.get(call.chosen)
            if chosen is None:
                raise VirtualUndecided(run.turn.request.model)
            finish = chosen[0].finish_reason or finish
        if not transcript.content_chunks:
            answer = {"choices": [{"message": self._message(run), "finish_reason": finish}]}
            chunks += chunks_of(answer, include_usage=False)
        elif not transcript.finished:
            end = {"index": 0, "delta": {}, "finish_reason": finish}
            chunks.append({"choices": [end]})
        rows = [row for row, _ in run.candidates.values()]
        prompt, told = sum(r.tokens_prompt for r in rows), sum(r.tokens_completion for r in rows)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": told,
            "total_tokens": prompt + told,
        }
        chunks.append({"choices": [], "usage": usage})
        return chunks

    def _message(self, run: _Run) -> Mapping[str, Any]:
        call = run.call
        if call.chosen is not None:
            return _message_of(run.candidates[call.chosen][1])
        return call.answer_message or {"role": "assistant", "content": call.answer_text}

    async def _send(
        self, run: _Run, exchange: Exchange, renderer: Renderer, chunk: dict[str, Any]
    ) -> None:
        data = renderer.chunk(chunk)
        if data:
            if not run.begun:
                run.begun = True
                await exchange.begin_stream()
            await exchange.more(data)

    # ---- the record

    async def _settle(self, run: _Run) -> Settlement:
        turn, call = run.turn, run.call
        confidence = None if call.confidence is None else _confidence(call.confidence)
        now = self._clock.now()
        if call.chosen is not None:
            row, _ = run.candidates[call.chosen]
            await self._recorder.choose(turn.admission, call.chosen, now=now, confidence=confidence)
            self._ending.committed(turn, row)
            return row
        row = self._ending.made_here(
            turn,
            provider_name=_PROVIDER,
            content=run.transcript.content,
            finish_reason=run.transcript.finish_reason,
            raw_response=run.transcript.as_json(),
            chunk_count=run.transcript.chunks if turn.request.stream else None,
            confidence=confidence,
            attempt=len(run.candidates) + 1,
        )
        await self._ending.settle(turn, row)
        return row

    async def _fail(self, run: _Run, error: HelixError) -> None:
        turn = run.turn
        outcome = Outcome.INTERRUPTED if run.transcript.chunks else Outcome.FAILED
        if turn.cut is Cut.GONE:
            outcome = Outcome.CANCELLED
        await self._ending.failed(turn, error, outcome)

    # ---- candidates

    async def _candidate(
        self, run: _Run, model: str, fields: Mapping[str, Any], attempt: int
    ) -> Completion:
        if self.owns(model):
            raise ModelIsVirtual(model)
        parent = run.turn
        caller = parent.principal
        told = {name: value for name, value in fields.items() if name not in _NOT_FOR_HANDLERS}
        request = read_chat(msgspec.json.encode({**told, "model": model}), self._intake)
        request = replace(request, options=parent.request.options)
        plan = await self._providers.plan(
            model,
            operation=request.operation,
            needs=request.needs,
            sticky=request.options.sticky,
        )
        if not caller.may_call(parent.request.model) and not may_call(caller, request, plan):
            raise ModelNotAllowed(model)
        now_s = self._clock.monotonic_s()
        turn = Turn(
            request_id=parent.request_id,
            id_text=parent.id_text,
            principal=caller,
            dialect=self._chat,
            request=request,
            plan=plan,
            began_s=now_s,
            total_s=max(min(plan.policy.total_s, parent.ends_at_s - now_s), 0.0),
            attempt_number=attempt,
        )
        turn.admission = parent.admission
        self.turns.add(turn)
        try:
            tried, _, answer = await self._attempts.run(turn, self._wholes.once)
        except HelixError as exc:
            if turn.attempt is not None:
                self._ending.attempt_failed(turn, turn.attempt, exc)
            raise
        except BaseException:
            if turn.attempt is not None:
                self._ending.attempt_cut(turn, turn.attempt)
            raise
        finally:
            self.turns.discard(turn)
        row = self._ending.completed(turn, tried, answer)
        await self._recorder.respond(row)
        run.candidates[row.id] = (row, answer)
        return completion_of(row, answer)


def completion_of(row: Settlement, answer: Answer) -> Completion:
    """Return a committed answer as callers inside Helix get it."""
    message = _message_of(answer)
    return Completion(
        request_id=row.request_id,
        response_id=row.id,
        message=message,
        text=answer.content or "",
        finish_reason=row.finish_reason,
        tokens_prompt=row.tokens_prompt,
        tokens_completion=row.tokens_completion,
        cost_usd=row.cost_usd,
        provider_id=row.provider_id,
        provider_name=row.provider_name,
        model_name=row.model_name,
        latency_ms=row.latency_ms,
        cached=row.cached,
    )


def _message_of(answer: Answer) -> dict[str, Any]:
    choices = msgspec.json.decode(answer.text).get("choices") or [{}]
    message = choices[0].get("message")
    return message if type(message) is dict else {"role": "assistant", "content": answer.content}


def _values(request: CallRequest) -> dict[str, Any]:
    values = {
        name: msgspec.json.decode(raw)
        for name, raw in request.fields.items()
        if name not in _NOT_FOR_HANDLERS
    }
    if request.options.ensemble is not None:
        values[_INLINE] = request.options.ensemble
    return values


def _confidence(value: float) -> Decimal:
    return Decimal(repr(min(max(value, 0.0), 1.0))).quantize(Decimal("0.0001"))


async def _nowhere(_: dict[str, Any]) -> None:
    return


async def _unmade(_model: str, _fields: Mapping[str, Any], _attempt: int) -> Completion:
    raise ValueError("this call has not begun")
