"""What providers are made of: the registry, a route to a model, a call and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

__all__ = ["Adapter", "Call", "Provider", "Reply", "Route", "Wire"]


class Wire(StrEnum):
    """The wire format a provider speaks. What has no adapter yet can be stored, not called."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    MOCK = "mock"


@dataclass(frozen=True, slots=True)
class Provider:
    """An enabled provider as calls need it. `problem` says why it cannot be used, when it cannot.

    `models` are the names it lists; `default_model` answers when only the provider is named.
    """

    id: UUID
    name: str
    wire: Wire
    base_url: str
    priority: int
    default_model: str | None
    models: frozenset[str]
    api_key: str | None = field(default=None, repr=False)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes: a provider and the model's name there."""

    provider: Provider
    model: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a provider, in OpenAI's chat format.

    `body` is the JSON to send; `request_id` goes along, so that the provider's log can be held
    against the record; `mock` holds options for the mock provider alone.
    """

    route: Route
    body: bytes = field(repr=False)
    stream: bool
    request_id: str
    mock: Mapping[str, Any] | None = None


class Reply(Protocol):
    """What a provider answers, as it arrives. Close it, also when it was not read to its end."""

    @property
    def status(self) -> int:
        """HTTP status."""
        ...

    @property
    def content_type(self) -> str:
        """The media type, in lower case, without parameters."""
        ...

    @property
    def retry_after(self) -> str | None:
        """The header Retry-After, as sent."""
        ...

    async def chunk(self) -> bytes:
        """Return the next bytes, b"" at the end.

        Raises UpstreamTimeout, UpstreamBroken, or UpstreamTooLarge.
        """
        ...

    def close(self) -> None:
        """Give the connection back, or cut it when the answer was not read to its end."""
        ...


class Adapter(Protocol):
    """Speaks one wire format; what goes in and comes out is OpenAI's chat format."""

    async def open(self, call: Call) -> Reply:
        """Send a call and return when the head of the answer is there.

        Raises UpstreamUnreachable, UpstreamTimeout, UpstreamBroken, or BadInput.
        """
        ...
