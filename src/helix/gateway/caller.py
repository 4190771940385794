"""Calls that Helix itself makes: the same path, the same record, without HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from helix.accounts import Principal, Scope, ScopeMissing
from helix.core.clock import Clock
from helix.core.ids import IdSource
from helix.gateway.admitting import Admitting, Notes
from helix.gateway.call import Calls
from helix.gateway.dialects.chat import Chat
from helix.gateway.dialects.embeddings import Embeddings
from helix.gateway.policy import Answer
from helix.gateway.replay import Replays, message_of
from helix.gateway.types import Recorded
from helix.gateway.virtual import CallOptions, Completion
from helix.gateway.virtual_run import Virtuals, completion_of
from helix.gateway.whole import Wholes, client_body
from helix.providers import UpstreamBroken

__all__ = ["Caller"]

_NO_OPTIONS = CallOptions()


class Caller:
    """Asks models for whoever is above the gateway, on behalf of a user."""

    def __init__(
        self,
        *,
        calls: Calls,
        admitting: Admitting,
        wholes: Wholes,
        virtuals: Virtuals,
        replays: Replays,
        clock: Clock,
    ) -> None:
        self._calls = calls
        self._admitting = admitting
        self._wholes = wholes
        self._virtuals = virtuals
        self._replays = replays
        self._clock = clock
        self._chat = Chat()
        self._embeddings = Embeddings()
        self._ids = IdSource()

    async def ask(
        self,
        principal: Principal,
        fields: Mapping[str, Any],
        *,
        options: CallOptions = _NO_OPTIONS,
    ) -> Completion:
        """Make one chat call, whole, as `principal`; on return its answer is committed.

        `fields` are those of /v1/chat/completions as JSON values: `model` and `messages` at least;
        `stream` is left out. Scope, rate limit, budgets, admission, retries, fallbacks and the
        settlement are those of a client's call; hooks are not called. With an idempotency key that
        was used with the same fields the recorded answer is returned, also after a crash, and no
        provider is called; one that is being made is waited for.

        Hold no transaction meanwhile. Raises HelixError: ScopeMissing, WrongField, ModelNotFound,
        what limits and budgets refuse with, NotRecorded, or what providers fail with.
        """
        if not principal.allows(Scope.COMPLETIONS):
            raise ScopeMissing(Scope.COMPLETIONS.value)
        self._calls.enter()
        try:
            return await self._ask(principal, dict(fields), options)
        finally:
            self._calls.leave()

    async def embed(
        self, principal: Principal, model: str, texts: Sequence[str], *, dimension: int = 0
    ) -> list[list[float]]:
        """Return the vectors of texts, by a provider's model, as `principal`.

        The call is recorded and charged like a client's to /v1/embeddings, but its texts are not
        kept: what is forgotten elsewhere must not stand here. `dimension` 0 leaves the length to
        the model. Hold no transaction meanwhile. Raises HelixError as `ask` does,
        and UpstreamBroken when there are not as many vectors as texts.
        """
        if not (principal.allows(Scope.EMBEDDINGS) or principal.allows(Scope.COMPLETIONS)):
            raise ScopeMissing(Scope.EMBEDDINGS.value)
        fields: dict[str, Any] = {"model": model, "input": list(texts)}
        if dimension:
            fields["dimensions"] = dimension
        self._calls.enter()
        try:
            request = await self._calls.read(self._embeddings, msgspec.json.encode(fields))
            turn = await self._calls.prepare(
                principal,
                self._embeddings,
                request,
                request_id=self._ids.next(self._clock.now()),
                exchange=None,
            )
            turn.private = True
            await self._admitting.admit(turn, Notes.of_options(_NO_OPTIONS, fields))
            async with self._calls.under_way(turn):
                fetched = await self._wholes.fetch(turn)
        finally:
            self._calls.leave()
        answer = msgspec.json.decode(client_body(turn, fetched))
        vectors = self._embeddings.vectors(answer)
        if len(vectors) != len(texts):
            told = f"it has {len(vectors)} vectors for {len(texts)} texts"
            raise UpstreamBroken(fetched.row.provider_name, told)
        return vectors

    async def _ask(
        self, principal: Principal, fields: dict[str, Any], options: CallOptions
    ) -> Completion:
        fields.pop("stream", None)
        fields.pop("stream_options", None)
        notes = Notes.of_options(options, fields)
        request = await self._calls.read(self._chat, msgspec.json.encode(fields))
        own = replace(
            request.options,
            project_id=options.project_id or request.options.project_id,
            session_id=options.session_id or request.options.session_id,
            agent_id=options.agent_id or request.options.agent_id,
            timeout_s=options.timeout_s or request.options.timeout_s,
        )
        turn = await self._calls.prepare(
            principal,
            self._chat,
            replace(request, options=own),
            request_id=self._ids.next(self._clock.now()),
            exchange=None,
        )
        turn.private = options.private and options.idempotency_key is None
        earlier = await self._admitting.admit(turn, notes)
        if earlier is not None:
            found = await self._replays.wait(principal.user_id, earlier, timeout_s=turn.total_s)
            return _recorded(found)
        async with self._calls.under_way(turn):
            if turn.virtual:
                answer, row = await self._virtuals.complete(turn)
                choice = (answer.get("choices") or [{}])[0]
                told = completion_of(row, _as_answer(answer))
                return replace(told, finish_reason=choice.get("finish_reason"))
            fetched = await self._wholes.fetch(turn)
            return completion_of(fetched.row, fetched.answer)


def _recorded(found: Recorded) -> Completion:
    """Return a recorded answer; raises the error of a call that got none."""
    message = message_of(found)
    return Completion(
        request_id=found.request_id,
        response_id=found.response_id or found.request_id,
        message=message,
        text=found.content or "",
        finish_reason=found.finish_reason,
        tokens_prompt=found.tokens_prompt,
        tokens_completion=found.tokens_completion,
        cost_usd=found.cost_usd,
        provider_id=found.provider_id,
        provider_name=found.provider_name,
        model_name=found.model_name,
        latency_ms=found.latency_ms,
        cached=found.cached,
    )


def _as_answer(answer: dict[str, Any]) -> Answer:
    message = ((answer.get("choices") or [{}])[0]).get("message") or {}
    content = message.get("content")
    return Answer(
        text=msgspec.json.encode(answer).decode(),
        upstream_id=None,
        model=None,
        content=content if type(content) is str else None,
        finish_reason=None,
        usage=answer.get("usage"),
    )
