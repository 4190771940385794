"""A small real virtual model: it asks two models and gives the longer answer, or both together."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from helix.accounts import Principal
from helix.gateway import Asked, VirtualCall
from helix.providers import ModelNotFound

__all__ = ["Longest"]


class Longest:
    """`longest/<anything>` chooses, `longest/both` fuses, `longest/silent` never decides."""

    def __init__(self, models: Sequence[str]) -> None:
        self.models = list(models)
        self.calls: list[VirtualCall] = []

    async def names(self, principal: Principal) -> list[str]:
        return ["longest/best", "longest/both"]

    async def asks(self, principal: Principal, name: str, fields: Mapping[str, Any]) -> list[Asked]:
        if name == "unknown":
            raise ModelNotFound("longest/unknown")
        return [Asked(model) for model in self.models]

    async def answer(self, call: VirtualCall) -> AsyncIterator[dict[str, Any]]:
        self.calls.append(call)
        found = [
            await call.candidate(model, call.fields, attempt=number)
            for number, model in enumerate(self.models, 1)
        ]
        if call.name == "silent":
            return
        if call.name == "both":
            text = " | ".join(one.text for one in found)
            for word in text.split(" "):
                yield {"choices": [{"index": 0, "delta": {"content": f"{word} "}}]}
            call.answered(text, confidence=0.5)
            return
        best = max(found, key=lambda one: len(one.text))
        call.choose(best.response_id, confidence=0.75)
