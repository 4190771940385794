"""Errors of debates.

BadInput    ├── BadDebate        400 debate_invalid      what was asked for breaks a rule
            └── BadPanel         400 panel_invalid
NotFound    ├── DebateNotFound   404 debate_not_found
            └── PanelNotFound    404 panel_not_found
Conflict    └── DebateEnded      409 debate_ended        it has ended; nothing more happens to it
Forbidden   └── RepositoryRefused 403 repository_refused it is not below a root of the operator
Unavailable └── DebateFailed     503 debate_failed       a debate asked for as a model failed
Upstream    └── NobodyAnswered   502 nobody_answered     no member of an ensemble gave an answer
"""

from uuid import UUID

from helix.core.errors import BadInput, Conflict, Forbidden, NotFound, Unavailable, Upstream

__all__ = [
    "BadDebate",
    "BadPanel",
    "DebateEnded",
    "DebateFailed",
    "DebateNotFound",
    "NobodyAnswered",
    "PanelNotFound",
    "RepositoryRefused",
]


class BadDebate(BadInput):
    """What was asked for breaks a rule of debates."""

    code = "debate_invalid"


class BadPanel(BadInput):
    """A panel's configuration breaks a rule."""

    code = "panel_invalid"


class DebateNotFound(NotFound):
    """There is no such debate, or it is not the caller's."""

    code = "debate_not_found"

    def __init__(self, debate_id: UUID) -> None:
        super().__init__(f"there is no debate {debate_id}; `helix debates list` shows what is")


class PanelNotFound(NotFound):
    """There is no panel of this kind and name for the caller."""

    code = "panel_not_found"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"there is no {kind} panel {name[:100]!r}; `helix panels list` shows what is",
            param="model",
        )


class DebateEnded(Conflict):
    """A debate has ended and stays as it ended."""

    code = "debate_ended"

    def __init__(self, debate_id: UUID, status: str) -> None:
        super().__init__(f"debate {debate_id} has ended as {status}")


class RepositoryRefused(Forbidden):
    """A repository is not one that the operator opened to debates."""

    code = "repository_refused"


class DebateFailed(Unavailable):
    """A debate that was asked for as a model ended without an answer."""

    code = "debate_failed"


class NobodyAnswered(Upstream):
    """No member of an ensemble gave an answer that could be chosen."""

    code = "nobody_answered"
