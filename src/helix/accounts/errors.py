"""The errors of accounts."""

from helix.core.errors import (
    BadInput,
    Conflict,
    Forbidden,
    NotFound,
    TooMany,
    Unauthenticated,
)

__all__ = [
    "AccountSuspended",
    "BadPassword",
    "EmailTaken",
    "InvalidKey",
    "KeyExceedsParent",
    "KeyExpired",
    "KeyNotFound",
    "KeyRevoked",
    "LastAdmin",
    "LoginBusy",
    "LoginRefused",
    "MissingKey",
    "RateLimited",
    "ScopeMissing",
    "SessionInvalid",
    "UserNotFound",
]


class MissingKey(Unauthenticated):
    """The request carries no credential."""

    code = "missing_api_key"

    def __init__(self) -> None:
        super().__init__("no API key was sent: use the header 'Authorization: Bearer hx_live_…'")


class InvalidKey(Unauthenticated):
    """The credential is no key of this Helix."""

    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("the API key is not known here: check it for typing mistakes")


class KeyRevoked(Unauthenticated):
    """The key was revoked."""

    code = "key_revoked"

    def __init__(self) -> None:
        super().__init__("the API key was revoked: make a new one with `helix keys create`")


class KeyExpired(Unauthenticated):
    """The key is past its expiry."""

    code = "key_expired"

    def __init__(self) -> None:
        super().__init__("the API key has expired: make a new one with `helix keys create`")


class AccountSuspended(Forbidden):
    """The account is suspended or deleted."""

    code = "account_suspended"

    def __init__(self) -> None:
        super().__init__("this account is not active: ask whoever runs this Helix")


class ScopeMissing(Forbidden):
    """The credential does not carry the scope this needs."""

    code = "scope_missing"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs the scope '{scope}', which this credential does not have")


class RateLimited(TooMany):
    """A limit on requests or tokens per minute, or on parallel calls, is used up."""

    code = "rate_limit_exceeded"

    def __init__(self, limit_name: str, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"the limit {limit_name} of {limit:,} is used up; "
            f"try again in {max(retry_after_s, 1):.0f} s",
            retry_after_s=retry_after_s,
        )


class KeyExceedsParent(Forbidden):
    """A key was asked to do more than who makes it may do."""

    code = "key_exceeds_parent"


class KeyNotFound(NotFound):
    """There is no such key, or it is another's."""

    code = "key_not_found"

    def __init__(self) -> None:
        super().__init__("there is no such API key")


class UserNotFound(NotFound):
    """There is no such user."""

    code = "user_not_found"

    def __init__(self) -> None:
        super().__init__("there is no such user")


class EmailTaken(Conflict):
    """The address or user name belongs to another account."""

    code = "email_taken"

    def __init__(self) -> None:
        super().__init__("an account with this email or user name exists already")


class LastAdmin(Conflict):
    """The change would leave nobody to run Helix."""

    code = "last_admin"

    def __init__(self) -> None:
        super().__init__("this is the last active admin: make another one first")


class BadPassword(BadInput):
    """The password breaks a rule."""

    code = "bad_password"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="password")


class LoginRefused(Unauthenticated):
    """Name and password do not belong together; which of them is wrong is not told."""

    code = "login_refused"

    def __init__(self) -> None:
        super().__init__("email or password is wrong")


class LoginBusy(TooMany):
    """More passwords wait to be checked than this process takes on."""

    code = "login_busy"

    def __init__(self) -> None:
        super().__init__("too many logins at this moment; try again shortly", retry_after_s=2)


class SessionInvalid(Unauthenticated):
    """The session token is not valid, has expired, or was revoked."""

    code = "session_invalid"

    def __init__(self) -> None:
        super().__init__("the session is not valid any more: log in again")
