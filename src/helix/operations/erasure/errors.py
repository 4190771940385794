"""Errors of erasure."""

from uuid import UUID

from helix.core.errors import BadInput, Conflict

__all__ = ["ErasureNotConfirmed", "UserBusy"]


class UserBusy(Conflict):
    """Calls of the user are still under way."""

    code = "erasure.user_busy"

    def __init__(self, user_id: UUID, calls: int) -> None:
        super().__init__(
            f"{calls} calls of {user_id} are still under way; the account is closed already: "
            "erase again when they have ended",
            retry_after_s=30,
        )


class ErasureNotConfirmed(BadInput):
    """Erasing cannot be undone, and the request does not repeat whom it means."""

    code = "erasure.not_confirmed"
