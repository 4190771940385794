"""What a dialect is: one API as clients speak it, read into a call and rendered from its answer.

Between the two stands one form, that of OpenAI's chat completions: a request's fields, an answer,
and the chunks of a stream. A dialect is pure: bytes and values in, bytes and values out.
"""

from typing import Any, Protocol

from helix.core.errors import HelixError
from helix.gateway.intake import IntakeLimits
from helix.gateway.types import CallRequest
from helix.providers import Operation

__all__ = ["Dialect", "Renderer"]


class Renderer(Protocol):
    """Renders one stream. `chunk` may be called until `end` or `error`, of which one is called."""

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """Return the events that a canonical chunk gives, none to many, each whole.

        However an answer is cut into chunks, the events tell the same content in the same order.
        """
        ...

    def end(self) -> bytes:
        """Return the events that end the stream of a whole answer."""
        ...

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return the events that end a stream in which something went wrong after it began."""
        ...

    def ping(self) -> bytes:
        """Return what may be sent while nothing comes; clients pass over it."""
        ...


class Dialect(Protocol):
    """One API. Instances hold no state and may be shared."""

    @property
    def name(self) -> str:
        """The name it is recorded under."""
        ...

    @property
    def path(self) -> str:
        """Where it is served: `/v1/messages`."""
        ...

    @property
    def operation(self) -> Operation:
        """What is asked of a provider when the request is translated."""
        ...

    @property
    def native(self) -> Operation | None:
        """What is asked of a provider that speaks this API, which then gets `request.own`."""
        ...

    @property
    def identity(self) -> bool:
        """Whether answers of `operation` go to the client as the provider sent them."""
        ...

    def read(self, body: bytes, limits: IntakeLimits) -> CallRequest:
        """Return the call that a body asks for; unknown fields pass through.

        Raises NotJson, or WrongField, which names the path of the fault.
        """
        ...

    def whole(self, answer: dict[str, Any], request: CallRequest, request_id: str) -> bytes:
        """Return a canonical answer as JSON of this API."""
        ...

    def stream(self, request: CallRequest, request_id: str) -> Renderer:
        """Return the renderer of one stream."""
        ...

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return the body that tells of an error."""
        ...
