"""`ensemble/<name>`: the handler behind these models. Ask, gather, choose, cancel the rest.

Every member's answer is a row of the request, charged when it came; exactly one row is selected.
The most that all members, the judge and the synthesizer may cost together is reserved from the
caller's budgets before the first of them is asked (see gateway.VirtualModel.asks).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from helix.accounts import Principal
from helix.core.db import Database, Role
from helix.core.errors import HelixError
from helix.debates.ensembles.choose import (
    ask_confidence,
    by_confidence,
    fusion_messages,
    groups_of,
    is_good,
    is_settled,
    judge_messages,
    ruled,
    share_of,
    without_confidence,
)
from helix.debates.ensembles.spec import EnsembleSpec, Strategy, read_ensemble
from helix.debates.errors import NobodyAnswered, PanelNotFound
from helix.debates.service import get_panel, list_panels
from helix.debates.store import learned_weights
from helix.debates.voting import BallotRefused
from helix.gateway import Asked, Completion, VirtualCall
from helix.providers import ModelNotFound

__all__ = ["INLINE_FIELD", "Ensembles", "WeightsOf", "pieces_of"]

PREFIX = "ensemble"
_DEFAULT = "default"
INLINE_FIELD = "helix_ensemble"
"""The field in which the gateway hands on `extra_body.helix.ensemble`."""
_PIECE_CHARS = 64
_MAX_TOKENS = ("max_tokens", "max_completion_tokens")

WeightsOf = Callable[[str], Awaitable[Decimal | None]]
"""The weight of a model's provider in the registry, by the model's name; None if not known."""


class Ensembles:
    """Answers the models `ensemble/…`; see gateway.VirtualModel.

    `default` gives `ensemble/default` where no panel of that name is stored.
    """

    def __init__(
        self,
        db: Database,
        *,
        weight_of: WeightsOf,
        default: Callable[[], EnsembleSpec | None] = lambda: None,
    ) -> None:
        self._db = db
        self._weight_of = weight_of
        self._default = default

    async def names(self, principal: Principal) -> list[str]:
        """Return the ensembles this caller may call."""
        async with self._db.transaction(Role.APP, tenant=principal.user_id) as conn:
            panels = await list_panels(conn, user_id=principal.user_id, kind="ensemble")
        names = [_DEFAULT] if self._default() is not None else []
        names += [panel.name for panel in panels]
        return list(dict.fromkeys(f"{PREFIX}/{name}" for name in names))

    async def asks(
        self, principal: Principal, name: str, fields: Mapping[str, Any]
    ) -> Sequence[Asked]:
        """Return every call there may be: the members', the judge's or the synthesizer's."""
        spec = await self._spec(principal, name, fields)
        asked = [Asked(m.model, max_tokens=_own_max_tokens(m.fields)) for m in spec.members]
        if spec.asked_after is not None:
            asked.append(Asked(spec.asked_after, hears=len(spec.members)))
        return asked

    async def answer(self, call: VirtualCall) -> AsyncIterator[dict[str, Any]]:
        """Ask the members, choose, and tell the answer."""
        spec = await self._spec(call.principal, call.name, call.fields)
        fields = {name: told for name, told in call.fields.items() if name != INLINE_FIELD}
        weights = await self._weights(call.principal, spec)
        async with _Gathering(call, spec, fields, weights) as gathering:
            text, message = await gathering.decide()
        for chunk in pieces_of(text, message):
            yield chunk

    async def _spec(
        self, principal: Principal, name: str, fields: Mapping[str, Any]
    ) -> EnsembleSpec:
        inline = fields.get(INLINE_FIELD)
        if isinstance(inline, Mapping):
            return read_ensemble(inline)
        async with self._db.transaction(Role.APP, tenant=principal.user_id) as conn:
            try:
                panel = await get_panel(conn, user_id=principal.user_id, kind="ensemble", name=name)
            except PanelNotFound as exc:
                built = self._default() if name == _DEFAULT else None
                if built is None:
                    raise ModelNotFound(f"{PREFIX}/{name}") from exc
                return built
        return read_ensemble(panel.config)

    async def _weights(self, principal: Principal, spec: EnsembleSpec) -> dict[int, Fraction]:
        """Return each member's weight: its own or its provider's, times its success if learned."""
        if spec.strategy is not Strategy.WEIGHTED:
            return dict.fromkeys(range(len(spec.members)), Fraction(1))
        learned = [member.model for member in spec.members if member.weight_learned]
        rates: dict[str, Fraction] = {}
        if learned:
            async with self._db.transaction(Role.APP, tenant=principal.user_id) as conn:
                rates = await learned_weights(conn, models=learned)
        found: dict[int, Fraction] = {}
        for number, member in enumerate(spec.members):
            own = member.weight
            if own is None:
                own = await self._weight_of(member.model)
            rate = rates.get(member.model, Fraction(1)) if member.weight_learned else Fraction(1)
            found[number] = Fraction(own if own is not None else 1) * rate
        return found


def _own_max_tokens(fields: Mapping[str, Any]) -> int | None:
    """Return how long a member may answer by its own fields; what is no number is refused later."""
    own = [fields[name] for name in _MAX_TOKENS if isinstance(fields.get(name), int)]
    return max(own, default=None)


def pieces_of(text: str, message: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return an answer as chunks of a stream; what is more than a text goes in one."""
    if message is not None and message.get("tool_calls"):
        return []  # the gateway tells the chosen message itself, whole
    parts = [text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS)]
    return [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in parts]


@dataclass(slots=True, eq=False)
class _Gathering:
    """One call's members under way. Leaving it cancels those that are still asked."""

    call: VirtualCall
    spec: EnsembleSpec
    fields: dict[str, Any]
    weights: dict[int, Fraction]
    answers: list[tuple[int, Completion]] = field(default_factory=list)
    errors: dict[int, HelixError] = field(default_factory=dict)
    asked: "dict[asyncio.Task[Completion], int]" = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)

    async def __aenter__(self) -> "_Gathering":
        self.waiting = list(range(len(self.spec.members)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.asked:
            task.cancel()
        if self.asked:
            await asyncio.gather(*self.asked, return_exceptions=True)

    async def decide(self) -> tuple[str, Mapping[str, Any] | None]:
        """Ask until there is enough, say which answer it is, and return it."""
        await self._gather()
        if not self.answers:
            raise self._nobody()
        return await _DECIDERS[self.spec.strategy](self)

    # ---- asking

    def _ask_next(self) -> None:
        number = self.waiting.pop(0)
        member = self.spec.members[number]
        messages: Sequence[Any] = self.fields.get("messages", [])
        if self.spec.strategy is Strategy.CONFIDENCE:
            messages = ask_confidence(messages)
        fields = {**self.fields, **member.fields, "messages": messages}
        task = asyncio.ensure_future(self.call.candidate(member.model, fields, attempt=number + 1))
        self.asked[task] = number

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + min(self.spec.timeout_s, self.call.timeout_s)
        hedged = self.spec.hedge_ms is not None
        while self.waiting and not (hedged and self.asked):
            self._ask_next()
        while self.asked and not self._enough():
            left_s = ends_at - loop.time()
            wait_s = left_s
            if self.waiting and self.spec.hedge_ms is not None:
                wait_s = min(left_s, self.spec.hedge_ms / 1_000)
            done, _ = await asyncio.wait(
                self.asked, timeout=max(wait_s, 0.0), return_when=asyncio.FIRST_COMPLETED
            )
            for task in sorted(done, key=lambda task: self.asked[task]):
                self._take(task, self.asked.pop(task))
            if not done and loop.time() >= ends_at:
                return
            if self.waiting and not self._enough():
                self._ask_next()

    def _take(self, task: "asyncio.Task[Completion]", number: int) -> None:
        try:
            told = task.result()
        except HelixError as exc:
            self.errors[number] = exc
            return
        if is_good(told):
            self.answers.append((number, told))

    def _enough(self) -> bool:
        match self.spec.strategy:
            case Strategy.FIRST_GOOD:
                return bool(self.answers)
            case Strategy.MAJORITY | Strategy.WEIGHTED:
                outstanding = [self.weights[n] for n in (*self.asked.values(), *self.waiting)]
                return is_settled(
                    groups_of(self.answers, self.weights),
                    outstanding=sum(outstanding, Fraction(0)),
                    quorum=self.spec.quorum,
                )
            case _:
                wanted = self.spec.quorum or len(self.spec.members)
                return len(self.answers) >= wanted

    def _nobody(self) -> HelixError:
        if self.errors and len(self.errors) == len(self.spec.members):
            return self.errors[min(self.errors)]
        return NobodyAnswered("no member of the ensemble gave an answer in time")

    # ---- choosing

    def _choose(
        self, number: int, confidence: float | None
    ) -> tuple[str, Mapping[str, Any] | None]:
        told = dict(self.answers)[number]
        self.call.choose(told.response_id, confidence=confidence)
        return told.text, told.message

    async def first_good(self) -> tuple[str, Mapping[str, Any] | None]:
        return self._choose(self.answers[0][0], None)

    async def agreed(self) -> tuple[str, Mapping[str, Any] | None]:
        best = groups_of(self.answers, self.weights)[0]
        return self._choose(best.members[0], share_of(best, self.weights))

    async def surest(self) -> tuple[str, Mapping[str, Any] | None]:
        number, confidence = by_confidence(self.answers)
        told = dict(self.answers)[number]
        self.call.choose(
            told.response_id, confidence=None if confidence is None else float(confidence)
        )
        return without_confidence(told.text)[0], told.message

    async def ruled_best(self) -> tuple[str, Mapping[str, Any] | None]:
        """Have the judge rank; if it cannot or its ruling cannot be read, the majority stands."""
        told = sorted(self.answers)
        if len(told) == 1:
            return self._choose(told[0][0], None)
        messages = judge_messages(self.fields.get("messages", []), [c.text for _, c in told])
        if self.spec.judge is not None:
            try:
                ruling = await self._after(self.spec.judge, messages)
                number, confidence = ruled(ruling.text, len(told))
                surely = None if confidence is None else float(confidence)
                return self._choose(told[number][0], surely)
            except (BallotRefused, HelixError):
                return await self.agreed()
        return await self.agreed()

    async def fused(self) -> tuple[str, Mapping[str, Any] | None]:
        """Have the synthesizer write one answer; if it cannot, the majority stands."""
        told = [completion.text for _, completion in sorted(self.answers)]
        messages = fusion_messages(self.fields.get("messages", []), told)
        if self.spec.synthesizer is not None:
            try:
                written = await self._after(self.spec.synthesizer, messages)
            except HelixError:
                return await self.agreed()
            if is_good(written):
                self.call.choose(written.response_id)
                return written.text, written.message
        return await self.agreed()

    async def _after(self, model: str, messages: Sequence[Any]) -> Completion:
        fields = {"messages": list(messages), **_settings(self.fields)}
        return await self.call.candidate(model, fields, attempt=len(self.spec.members) + 1)


def _settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return those fields of the caller's that a judge or synthesizer is to have too."""
    wanted = (*_MAX_TOKENS, "seed")
    return {name: fields[name] for name in wanted if name in fields}


_DECIDERS: Mapping[
    Strategy, Callable[[_Gathering], Awaitable[tuple[str, Mapping[str, Any] | None]]]
] = {
    Strategy.FIRST_GOOD: _Gathering.first_good,
    Strategy.MAJORITY: _Gathering.agreed,
    Strategy.WEIGHTED: _Gathering.agreed,
    Strategy.CONFIDENCE: _Gathering.surest,
    Strategy.BEST_OF: _Gathering.ruled_best,
    Strategy.FUSION: _Gathering.fused,
}
