"""Reading native APIs that are passed through, so that they are recorded like any other."""

from typing import Any, Protocol

from helix.gateway.dialects.completions import canonical_answer
from helix.providers import MessagesReader, Operation, ResponsesReader

__all__ = ["NativeReader", "canonical_of", "reader_of"]


class NativeReader(Protocol):
    """Reads one native stream."""

    @property
    def done(self) -> bool:
        """Whether the answer was told to its end."""
        ...

    def feed(self, event: bytes) -> list[dict[str, Any]]:
        """Return the canonical chunks that an event gives; raises ValueError for a broken one."""
        ...

    @staticmethod
    def whole(body: bytes) -> dict[str, Any]:
        """Return a native answer in the canonical form; raises ValueError for a broken one."""
        ...


def reader_of(operation: Operation) -> NativeReader | None:
    """Return a reader for one answer of a native operation; None for the canonical ones."""
    if operation is Operation.MESSAGES:
        return MessagesReader()
    if operation is Operation.RESPONSES:
        return ResponsesReader()
    return None


def canonical_of(answer: dict[str, Any], body: bytes) -> dict[str, Any]:
    """Return a recorded answer in the canonical form, whichever it was recorded in."""
    if answer.get("type") == "message":
        return MessagesReader.whole(body)
    if answer.get("object") == "response":
        return ResponsesReader.whole(body)
    if answer.get("object") == "text_completion":
        return canonical_answer(answer)
    return answer
