"""Letting a call in: its request row is committed, or it is refused with the reason."""

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from helix.core.clock import Clock
from helix.gateway.errors import CallOverBudget, RequestUnstorable, WrongField
from helix.gateway.policy import estimate_prompt, tokens_out_max
from helix.gateway.recorder import Recorder, Unstorable
from helix.gateway.refusals import refused
from helix.gateway.turn import Turn
from helix.gateway.types import Admission, CallRequest, Decision
from helix.gateway.virtual import CallOptions
from helix.ledger import TOKENS_MAX, Ledger
from helix.providers import Operation, Providers, Route

__all__ = ["Admitting", "Notes"]

UNKNOWN_OUT_TOKENS = 4_096
"""What is reserved for the answer of a model of which nobody said how long it may answer."""

_NOTE_CHARS_MAX = 255
_SHORT_BYTES = 8_192
_BYTES_A_TOKEN = 3
_INSTRUCTIONS_TOKENS = 256  # what a virtual model's handler puts around what it asks
_PROMPT_STEP = 256  # sizes are rounded up to it, so that few prices need working out
_BELIEVED_S = 1.0
_KNOWN_MAX = 10_000
_NOTHING = Decimal(0)
_TYPES = {
    Operation.CHAT: "chat",
    Operation.COMPLETIONS: "completion",
    Operation.EMBEDDINGS: "embedding",
    Operation.MODERATIONS: "moderation",
    Operation.MESSAGES: "message",
    Operation.RESPONSES: "response",
}


@dataclass(frozen=True, slots=True)
class Notes:
    """What comes with a call beside its request. `body_sha256` is set with an idempotency key."""

    idempotency_key: str | None = None
    client_request_id: str | None = None
    body_sha256: bytes | None = None
    task_id: UUID | None = None
    parent_request_id: UUID | None = None
    metadata: dict[str, Any] | None = None

    @classmethod
    def of(cls, headers: dict[bytes, bytes], path: str, body: bytes) -> "Notes":
        """Return what the headers of a client say; raises WrongField."""
        key = _note(headers, b"idempotency-key")
        digest = None if key is None else hashlib.sha256(path.encode() + b"\n" + body).digest()
        return cls(key, _note(headers, b"x-client-request-id"), digest)

    @classmethod
    def of_options(cls, options: CallOptions, fields: dict[str, Any]) -> "Notes":
        """Return what a caller inside Helix says; raises WrongField."""
        key, digest = options.idempotency_key, None
        if key is not None:
            _check_note("idempotency_key", key)
            told = msgspec.json.encode(fields, order="deterministic")
            digest = hashlib.sha256(b"ask\n" + told).digest()
        return cls(
            key,
            None,
            digest,
            options.task_id,
            options.parent_request_id,
            dict(options.metadata) or None,
        )


_NOT_KEPT = '{"helix":"the texts of this call are not kept"}'


class Admitting:
    """Records requests. `lease` is written with each (sweep.py)."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        ledger: Ledger,
        providers: Providers,
        clock: Clock,
        lease: int,
    ) -> None:
        self._recorder = recorder
        self._providers = providers
        self._ledger = ledger
        self._clock = clock
        self._lease = lease
        self._metadata: dict[str, str] = {}
        self._known: dict[tuple[str, str, int, int], Decimal] = {}
        self._known_since_s = 0.0

    async def admit(self, turn: Turn, notes: Notes, *, free: bool = False) -> UUID | None:
        """Record the request of a turn; on return it is committed, or was made before.

        Returns None, or the request that holds its Idempotency-Key: its answer is to be given.
        `free`: no provider will be called. Raises CallOverBudget, what `refused` does,
        NotRecorded, or RequestUnstorable.
        """
        turn.admission = self._row(turn, notes, free=free)
        try:
            verdict = await self._recorder.admit(turn.admission)
        except Unstorable as exc:
            raise RequestUnstorable from exc
        if verdict.admitted:
            return None
        if verdict.decision in {Decision.REPLAY, Decision.IN_PROGRESS}:
            return verdict.other_request_id
        raise refused(verdict)

    def _row(self, turn: Turn, notes: Notes, *, free: bool) -> Admission:
        request, principal, options = turn.request, turn.principal, turn.request.options
        usd, tokens = (_NOTHING, 0) if free else self._reserve(turn)
        if options.budget_usd is not None and usd > options.budget_usd:
            raise CallOverBudget(cost_usd=usd, budget_usd=options.budget_usd)
        return Admission(
            id=turn.request_id,
            user_id=principal.user_id,
            api_key_id=principal.api_key_id,
            session_id=options.session_id or principal.session_id,
            project_id=options.project_id,
            agent_id=options.agent_id,
            model_name=request.model,
            stream=request.stream,
            model_params=request.params,
            idempotency_key=notes.idempotency_key,
            client_request_id=notes.client_request_id,
            metadata=self._metadata_of(turn, notes),
            created_at=self._clock.now(),
            request_body=_NOT_KEPT if turn.private else request.text,
            body_bytes=request.body_bytes,
            request_type=_TYPES[turn.dialect.native or request.operation],
            task_id=notes.task_id or options.task_id,
            parent_request_id=notes.parent_request_id,
            reserve_usd=usd,
            reserve_tokens=tokens,
            body_sha256=notes.body_sha256,
            **_added(turn),
        )

    def _metadata_of(self, turn: Turn, notes: Notes) -> str:
        name = turn.dialect.name
        if notes.metadata is None:
            known = self._metadata.get(name)
            if known is None:
                told = {"lease": self._lease, "api": name}
                known = self._metadata[name] = msgspec.json.encode(told).decode()
            return known
        told_all = {**notes.metadata, "lease": self._lease, "api": name}
        return msgspec.json.encode(told_all).decode()

    def _reserve(self, turn: Turn) -> tuple[Decimal, int]:
        """Return the most that a call may cost at any of its targets, and the tokens it may use.

        A virtual call may cost what all it may ask cost together. Short requests are not looked
        into: their bytes bound their tokens.
        """
        request = turn.request
        short = request.body_bytes <= _SHORT_BYTES
        prompt = request.body_bytes // _BYTES_A_TOKEN + 1 if short else estimate_prompt(request)
        asked = tokens_out_max(request)
        prompt = -(-prompt // _PROMPT_STEP) * _PROMPT_STEP
        if turn.virtual:
            return self._reserve_all(turn, prompt, asked)
        usd, tokens = _NOTHING, 0
        for route in turn.plan.targets:
            most = asked if asked is not None else self._most_out(route, request)
            usd = max(usd, self._cost(route, prompt, most))
            tokens = max(tokens, prompt + most)
        return usd, tokens

    def _reserve_all(self, turn: Turn, prompt: int, asked: int | None) -> tuple[Decimal, int]:
        """Return what every call of a virtual model may cost together.

        Whoever hears others reads, besides the caller's prompt, the longest of the answers before
        it, once for each that it hears.
        """
        usd, tokens, longest = _NOTHING, 0, 0
        for route, one in zip(turn.plan.targets, turn.asked, strict=True):
            most = one.max_tokens if one.max_tokens is not None else asked
            if most is None:
                most = self._most_out(route, turn.request)
            heard = prompt + _INSTRUCTIONS_TOKENS
            if one.hears:
                heard += prompt + one.hears * (longest + _INSTRUCTIONS_TOKENS)
            usd += self._cost(route, heard, most)
            tokens = min(tokens + heard + most, TOKENS_MAX)
            longest = max(longest, most)
        return usd, tokens

    def _cost(self, route: Route, prompt: int, most: int) -> Decimal:
        """Return what an answer of this size costs; prices are believed for a second."""
        now_s = self._clock.monotonic_s()
        if now_s - self._known_since_s > _BELIEVED_S or len(self._known) > _KNOWN_MAX:
            self._known.clear()
            self._known_since_s = now_s
        size = (route.provider.name, route.model, prompt, most)
        cost = self._known.get(size)
        if cost is None:
            cost = self._known[size] = self._ledger.estimate(route, prompt, most)
        return cost

    def _most_out(self, route: Route, request: CallRequest) -> int:
        if request.operation in {Operation.EMBEDDINGS, Operation.MODERATIONS}:
            return 0
        known = self._providers.model_facts(route.provider, route.model).max_output_tokens
        return UNKNOWN_OUT_TOKENS if known is None else min(known, TOKENS_MAX)


def _added(turn: Turn) -> dict[str, Any]:
    """Return what hooks added, and whom a virtual model may ask; most calls have neither."""
    added: dict[str, Any] = {}
    if turn.injected is not None:
        memory, prompt_id = turn.injected.memory, turn.injected.prompt_id
        added["memory"] = None if memory is None else msgspec.json.encode(memory).decode()
        added["prompt_id"] = prompt_id
    if turn.virtual:
        asks = [f"{route.provider.name}/{route.model}" for route in turn.plan.targets]
        told = {"model": turn.request.model, "asks": asks}
        added["ensemble_config"] = msgspec.json.encode(told).decode()
    return added


def _note(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    if value is None:
        return None
    text = value.decode("latin-1")
    _check_note(name.decode(), text)
    return text


def _check_note(name: str, text: str) -> None:
    if not 0 < len(text) <= _NOTE_CHARS_MAX or not text.isprintable():
        raise WrongField(name, f"it must be 1 to {_NOTE_CHARS_MAX} printable characters")
