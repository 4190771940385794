"""The APIs that clients may speak: each read into one canonical call and rendered from it."""

from helix.gateway.dialects.chat import Chat
from helix.gateway.dialects.completions import Completions
from helix.gateway.dialects.embeddings import Embeddings
from helix.gateway.dialects.messages import CountTokens, Messages
from helix.gateway.dialects.moderations import Moderations
from helix.gateway.dialects.responses import InputTokens, Responses
from helix.gateway.dialects.types import Dialect, Renderer

__all__ = [
    "Chat",
    "Completions",
    "CountTokens",
    "Dialect",
    "Embeddings",
    "InputTokens",
    "Messages",
    "Moderations",
    "Renderer",
    "Responses",
    "dialects",
]


def dialects() -> dict[str, Dialect]:
    """Return every dialect by the path it is served at."""
    known: list[Dialect] = [
        Chat(),
        Completions(),
        Embeddings(),
        Messages(),
        Moderations(),
        Responses(),
    ]
    return {one.path: one for one in known}
