"""Models that Helix asks on behalf of its users: summaries, entities, vectors.

Each call is the user's: recorded, charged and limited like one of their own, but without its texts,
which stand where they come from and are forgotten there.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from helix import accounts, conversations, gateway, memory, retrieval
from helix.core.config import Settings

__all__ = ["Asking"]


class Asking:
    """Who asks models, by the settings that name them."""

    def __init__(
        self, settings: Settings, people: accounts.Accounts, calls: gateway.Gateway
    ) -> None:
        self._settings = settings
        self._people = people
        self._calls = calls

    async def _ask(self, user_id: UUID, fields: Mapping[str, Any]) -> gateway.Completion:
        principal = await self._people.on_behalf(user_id)
        private = gateway.CallOptions(private=True)
        return await self._calls.caller.ask(principal, fields, options=private)

    async def _embed(self, texts: Sequence[str], user_id: UUID) -> list[list[float]]:
        principal = await self._people.on_behalf(user_id)
        return await self._calls.caller.embed(
            principal,
            self._settings.embedder,
            texts,
            dimension=self._settings.embedder_dimension,
        )

    def embedder(self) -> retrieval.Embedder | None:
        """Return what makes vectors, if anything does. Raises Misuse."""
        return retrieval.choose_embedder(self._settings, call=self._embed)

    def summariser(self) -> conversations.Summarise | None:
        """Return who writes summaries of conversations, if a model is set for that."""
        model = self._settings.conversation_summary_model
        return None if model is None else conversations.summariser(self._ask, model=model)

    def extractor(self) -> memory.Extractor | None:
        """Return who names what memories speak of, if a model is set for that."""
        model = self._settings.memory_extraction_model
        return None if model is None else memory.extractor(self._ask, model=model)
