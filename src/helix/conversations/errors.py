"""Errors of conversations."""

from uuid import UUID

from helix.core.errors import BadInput, Conflict, HelixError, NotFound

__all__ = [
    "BadPoint",
    "BrokenHistory",
    "BudgetTooSmall",
    "ConversationNotActive",
    "ConversationNotFound",
    "EventRefused",
    "ExternalIdTaken",
    "MessageExists",
    "MessageNotFound",
    "NothingToCompress",
    "ProjectNotFound",
]


class ConversationNotFound(NotFound):
    """There is no such conversation, or it is not the caller's."""

    code = "conversations.not_found"

    def __init__(self, conversation: UUID | str) -> None:
        super().__init__(f"there is no conversation {conversation} of yours")


class ProjectNotFound(NotFound):
    """There is no such project, or it is not the caller's."""

    code = "conversations.project_not_found"

    def __init__(self) -> None:
        super().__init__("there is no such project of yours", param="project_id")


class MessageNotFound(NotFound):
    """There is no such message in the conversation, or it was deleted."""

    code = "conversations.message_not_found"

    def __init__(self, message_id: str) -> None:
        super().__init__(f"the conversation has no message {message_id!r}, or it was deleted")


class MessageExists(Conflict):
    """The conversation has a message of that id already, with another content."""

    code = "conversations.message_exists"

    def __init__(self, message_id: str) -> None:
        super().__init__(
            f"the conversation has a message {message_id!r} already: change it, or use another id",
            param="message_id",
        )


class ExternalIdTaken(Conflict):
    """The caller has a conversation of that external id already."""

    code = "conversations.external_id_taken"

    def __init__(self, external_id: str) -> None:
        super().__init__(
            f"you have a conversation {external_id!r} already: go on with it, or use another id",
            param="external_id",
        )


class ConversationNotActive(Conflict):
    """The conversation is paused or closed and takes no new messages."""

    code = "conversations.not_active"

    def __init__(self, conversation_id: UUID, status: str) -> None:
        super().__init__(
            f"conversation {conversation_id} is {status} and takes no messages: resume it first"
        )


class NothingToCompress(Conflict):
    """The conversation has nothing that could be condensed."""

    code = "conversations.nothing_to_compress"

    def __init__(self, conversation_id: UUID) -> None:
        super().__init__(f"conversation {conversation_id} has no messages to compress")


class EventRefused(BadInput):
    """An event of an unknown type, or whose payload does not fit its type."""

    code = "conversations.event_refused"

    def __init__(self, reason: str, *, param: str | None = None) -> None:
        super().__init__(f"the event cannot be taken: {reason}", param=param)


class BadPoint(BadInput):
    """A point in a conversation that is neither a sequence number nor a time."""

    code = "conversations.bad_point"

    def __init__(self, given: str) -> None:
        super().__init__(
            f"at={given[:60]!r} is no point of a conversation: give a sequence number (0 or more)"
            " or a time with its zone, such as 2026-11-22T08:00:00Z",
            param="at",
        )


class BudgetTooSmall(BadInput):
    """What must be sent does not fit into the token budget of the context."""

    code = "conversations.budget_too_small"

    def __init__(self, *, budget_tokens: int, needed_tokens: int) -> None:
        super().__init__(
            f"the system prompt and the new messages need about {needed_tokens} tokens and"
            f" helix.context.budget_tokens is {budget_tokens}: raise it, or send less",
            param="helix.context.budget_tokens",
        )


class BrokenHistory(HelixError):
    """The events of a conversation contradict each other: they were not written by Helix."""

    code = "conversations.broken_history"
    status = 500

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"event {sequence} cannot be folded: {reason}; see docs/conversations.md")
