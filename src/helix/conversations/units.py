"""Messages that belong together: a call of tools and its results are never parted. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["HasBody", "Unit", "answered_calls", "calls_in", "units_of"]


class HasBody(Protocol):
    """Anything that carries a message in the form of the chat completions API."""

    @property
    def body(self) -> Mapping[str, Any]:
        """The message."""
        ...

    @property
    def tokens(self) -> int:
        """About how many tokens it costs."""
        ...


M = TypeVar("M", bound=HasBody)


@dataclass(frozen=True, slots=True)
class Unit(Generic[M]):
    """One message, or one call of tools with its results. `open_calls` still wait for a result."""

    messages: tuple[M, ...]
    open_calls: frozenset[str]

    @property
    def tokens(self) -> int:
        """Tokens of all its messages."""
        return sum(message.tokens for message in self.messages)

    @property
    def role(self) -> str:
        """The role of its first message."""
        return str(self.messages[0].body.get("role"))


def calls_in(body: Mapping[str, Any]) -> list[str]:
    """Return the ids of the tool calls that a message makes."""
    calls = body.get("tool_calls")
    return [
        str(call.get("id"))
        for call in (calls if isinstance(calls, list) else [])
        if isinstance(call, dict)
    ]


def answered_calls(bodies: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the ids of the tool calls that messages answer."""
    return {str(body.get("tool_call_id")) for body in bodies if body.get("role") == "tool"}


def units_of(messages: Sequence[M]) -> tuple[list[Unit[M]], list[M]]:
    """Return messages as units, in order, and those left over: results of calls nobody made."""
    units: list[Unit[M]] = []
    strays: list[M] = []
    for message in messages:
        if message.body.get("role") == "tool":
            last = units[-1] if units else None
            answered = str(message.body.get("tool_call_id"))
            if last is None or answered not in calls_in(last.messages[0].body):
                strays.append(message)
                continue
            units[-1] = Unit((*last.messages, message), last.open_calls - {answered})
        else:
            units.append(Unit((message,), frozenset(calls_in(message.body))))
    return units, strays
