"""What providers are made of: the registry, a route to a model, a call and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol
from uuid import UUID

from helix.providers.facts import UNLIMITED, ModelFacts, RateLimits

__all__ = [
    "AS_SET",
    "Adapter",
    "Call",
    "ListedModel",
    "Operation",
    "Probe",
    "Provider",
    "Reply",
    "Route",
    "Timeouts",
    "Wire",
]


class Wire(StrEnum):
    """The wire format a provider speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    OLLAMA = "ollama"
    MOCK = "mock"


class Operation(StrEnum):
    """What is asked of a provider, and with it the format of what goes in and comes out.

    The first four are OpenAI's formats, whatever the provider speaks. MESSAGES and RESPONSES are
    native: the body goes out and the answer comes back byte for byte as the provider speaks.
    """

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MODERATIONS = "moderations"
    MESSAGES = "messages"
    RESPONSES = "responses"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one call may wait, in seconds; None is what the settings say.

    `connect_s` for a connection, `first_byte_s` for the head of the answer, `between_s` for each
    piece after it. The total is not for this layer.
    """

    connect_s: float | None = None
    first_byte_s: float | None = None
    between_s: float | None = None


AS_SET = Timeouts()


@dataclass(frozen=True, slots=True)
class Provider:
    """An enabled provider as calls need it. `problem` says why it cannot be used, when it cannot.

    `models` are the names it lists; `default_model` answers when only the provider is named.
    `facts` tells of those models that somebody described. `private` says that it may stand at a
    loopback or private address.
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
    weight: float = 1.0
    limits: RateLimits = UNLIMITED
    private: bool = True
    facts: Mapping[str, ModelFacts] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes: a provider and the model's name there."""

    provider: Provider
    model: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a provider, in the format of its operation.

    `body` is the JSON to send; `request_id` goes along, so that the provider's log can be held
    against the record; `mock` holds options for the mock provider alone. `headers` are what a
    client of a native operation may say to the provider (`anthropic-beta`); an adapter sends on
    those it knows, and no other.
    """

    route: Route
    body: bytes = field(repr=False)
    stream: bool
    request_id: str
    mock: Mapping[str, Any] | None = None
    operation: Operation = Operation.CHAT
    timeouts: Timeouts = AS_SET
    headers: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as its provider lists it; None and empty where the provider does not tell.

    `name` is what a call names, 1 to 255 printable characters; the sizes are tokens. `operations`
    are those of OpenAI's formats that the model is listed for.
    """

    name: str
    display_name: str | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    operations: frozenset[Operation] = frozenset()
    capabilities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Probe:
    """What a provider answered when it was asked for its models, which costs nothing.

    `problem` is None when it can be called; else one line says why not, without any secret.
    `status` is None when no HTTP answer came.
    """

    latency_ms: float
    status: int | None = None
    models: int | None = None
    problem: str | None = None
    retry_after: str | None = None

    @property
    def healthy(self) -> bool:
        """Whether the provider can be called."""
        return self.problem is None


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
    """Speaks one wire format; what goes in and comes out has the format of the operation."""

    @property
    def operations(self) -> frozenset[Operation]:
        """What can be asked of a provider of this wire."""
        ...

    async def open(self, call: Call) -> Reply:
        """Send a call and return when the head of the answer is there.

        A refusal keeps its status and Retry-After, and has an error body in OpenAI's format.
        Raises OperationUnsupported and FieldUnsupported for what this wire cannot say, BadInput
        for a body that is wrong; UpstreamUnreachable, UpstreamTimeout, UpstreamBroken,
        UpstreamTooLarge.
        """
        ...

    async def models(self, provider: Provider) -> list[ListedModel]:
        """Return the models that a provider lists, by name.

        Raises what `open` does, and UpstreamBroken for an answer that is no list.
        """
        ...

    async def probe(self, provider: Provider) -> Probe:
        """Ask a provider whether it serves; its trouble is told, not raised."""
        ...
