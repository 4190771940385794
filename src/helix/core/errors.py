"""The tree of errors.

    HelixError                 has a stable code, an HTTP status, and says what, where, what to do
    ├── BadInput         400   the caller's request cannot be read or breaks a rule
    │   ├── TooLarge     413   … because it passes a named limit
    │   └── HeadTooLarge 431   … because its line and headers do
    ├── Unauthenticated  401   who is calling is not known
    ├── Forbidden        403   who is calling is known and may not
    ├── NotFound         404   no such thing, or not the caller's
    ├── Conflict         409   the thing is not in the state this needs
    ├── TooMany          429   a limit is used up; may carry retry_after_s
    ├── Unavailable      503   expected trouble (database, provider); may carry retry_after_s
    │   ├── StorageFull  503   … because PostgreSQL has no room left on its disk
    │   └── Upstream     502   … of a provider
    └── Misuse                 a command line or setting is wrong: one line, exit status 2

Each domain's errors.py derives its own from these. Anything else that is raised is our bug.
"""

from typing import ClassVar

__all__ = [
    "BadInput",
    "Conflict",
    "Forbidden",
    "HeadTooLarge",
    "HelixError",
    "Misuse",
    "NotFound",
    "StorageFull",
    "TooLarge",
    "TooMany",
    "Unauthenticated",
    "Unavailable",
    "Upstream",
]


class HelixError(Exception):
    """An outcome a caller must be told of.

    `code` is stable and documented in docs/errors.md; `message` says what happened, with which
    value, and what to do; `param` names the field at fault when there is one. A message never
    holds a secret, a prompt or an answer.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    kind: ClassVar[str] = "api_error"  # the `type` of the OpenAI error shape

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class BadInput(HelixError):
    """The request cannot be read or breaks a rule."""

    code = "bad_input"
    status = 400
    kind = "invalid_request_error"


class TooLarge(BadInput):
    """The request passes a named limit."""

    code = "too_large"
    status = 413


class HeadTooLarge(BadInput):
    """The line and headers of a request, or its trailer, pass a limit."""

    code = "head_too_large"
    status = 431


class Unauthenticated(HelixError):
    """Who is calling is not known."""

    code = "unauthenticated"
    status = 401
    kind = "authentication_error"


class Forbidden(HelixError):
    """Who is calling is known and may not do this."""

    code = "forbidden"
    status = 403
    kind = "permission_error"


class NotFound(HelixError):
    """There is no such thing, or it is not the caller's."""

    code = "not_found"
    status = 404
    kind = "invalid_request_error"


class Conflict(HelixError):
    """The thing is not in the state that this needs."""

    code = "conflict"
    status = 409
    kind = "invalid_request_error"


class TooMany(HelixError):
    """A limit is used up."""

    code = "too_many"
    status = 429
    kind = "rate_limit_error"


class Unavailable(HelixError):
    """Expected trouble of something Helix depends on; the same call may pass later."""

    code = "unavailable"
    status = 503
    kind = "service_unavailable_error"


class StorageFull(Unavailable):
    """PostgreSQL has no room left to write; what only reads is still served."""

    code = "storage_full"

    def __init__(self) -> None:
        super().__init__(
            "the database has no room left on its disk: nothing new can be recorded until it has; "
            "an operator has to free some (helix doctor tells where)",
            retry_after_s=10,
        )


class Upstream(Unavailable):
    """A provider answered with an error, or not at all."""

    code = "upstream"
    status = 502
    kind = "upstream_error"


class Misuse(HelixError):
    """A command line or a setting is wrong; the command prints one line and exits with 2."""

    code = "misuse"
    status = 400
    kind = "invalid_request_error"
