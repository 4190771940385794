"""A reply that counts as a call under way until it is closed."""

from collections.abc import Callable, Coroutine
from typing import Any

from helix.providers.types import Reply
from helix.providers.vitals import Ticket

__all__ = ["HeldReply"]


class HeldReply:
    """A reply and its ticket; `chunk` is the reply's own, so that reading costs nothing more."""

    __slots__ = ("_reply", "_ticket", "chunk", "content_type", "retry_after", "status")

    def __init__(self, reply: Reply, ticket: Ticket) -> None:
        self._reply = reply
        self._ticket = ticket
        self.status = reply.status
        self.content_type = reply.content_type
        self.retry_after = reply.retry_after
        self.chunk: Callable[[], Coroutine[Any, Any, bytes]] = reply.chunk

    def close(self) -> None:
        """Close the reply and end the call."""
        self._ticket.leave()
        self._reply.close()
