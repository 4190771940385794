"""Errors of knowledge."""

from uuid import UUID

from helix.core.errors import BadInput, NotFound, TooLarge, Unavailable

__all__ = [
    "BadDocument",
    "DocumentNotFound",
    "DocumentTooLarge",
    "ReadersBusy",
    "UnreadableDocument",
    "UserUnknown",
]


class DocumentNotFound(NotFound):
    """There is no such document, or it is not the caller's."""

    code = "knowledge.not_found"

    def __init__(self, document_id: UUID) -> None:
        super().__init__(f"there is no document {document_id}", param="document_id")


class BadDocument(BadInput):
    """A document, or what is asked of knowledge, breaks a rule."""

    code = "knowledge.bad_document"


class UnreadableDocument(BadInput):
    """The bytes are not what their media type says, or cannot be read within the limits."""

    code = "knowledge.unreadable"
    status = 422

    def __init__(self, reason: str) -> None:
        super().__init__(f"the document cannot be read: {reason}", param="content")


class DocumentTooLarge(TooLarge):
    """The document passes a named limit."""

    code = "knowledge.too_large"

    def __init__(self, what: str, limit: str) -> None:
        super().__init__(f"the document is too large: {what}; the limit is {limit}")


class ReadersBusy(Unavailable):
    """As many documents are being read as may be at a time."""

    code = "knowledge.readers_busy"

    def __init__(self) -> None:
        super().__init__("too many documents are being read; try again shortly", retry_after_s=2)


class UserUnknown(NotFound):
    """There is no account of this address, name or id."""

    code = "knowledge.user_unknown"

    def __init__(self, who: str) -> None:
        super().__init__(f"there is no user {who!r}: `helix users list` shows them", param="user")
