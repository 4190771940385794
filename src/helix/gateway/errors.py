"""The errors of the gateway."""

from decimal import Decimal

from helix.core.errors import (
    BadInput,
    Conflict,
    Forbidden,
    HelixError,
    NotFound,
    TooLarge,
    Unavailable,
    Upstream,
)
from helix.providers import UpstreamBroken

__all__ = [
    "AnswerErased",
    "BodyTooLarge",
    "BodyTooSlow",
    "CallFailed",
    "CallInterrupted",
    "CallNotFound",
    "CallOverBudget",
    "ClientGone",
    "KeyInProgress",
    "KeyReused",
    "MethodNotAllowed",
    "ModelIsVirtual",
    "ModelNotAllowed",
    "NotCached",
    "NotJson",
    "NotRecorded",
    "ProjectNotFound",
    "RequestUnstorable",
    "ResponseNotFound",
    "RouteNotFound",
    "SessionNotFound",
    "Stopping",
    "TooBusy",
    "TotalTimeout",
    "TransportUnsupported",
    "UpstreamBusy",
    "UpstreamCredential",
    "UpstreamCut",
    "UpstreamEmpty",
    "UpstreamFailed",
    "UpstreamModelMissing",
    "UpstreamOverloaded",
    "UpstreamRejected",
    "UpstreamSlow",
    "VirtualUndecided",
    "WrongField",
]


class BodyTooLarge(TooLarge):
    """The request's body passes body_bytes_max."""

    code = "body_too_large"

    def __init__(self, most: int) -> None:
        super().__init__(f"the request body is larger than body_bytes_max ({most} bytes)")


class BodyTooSlow(BadInput):
    """The request's body did not arrive in time."""

    code = "body_timeout"
    status = 408

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the request body did not arrive within {limit_s:g} s")


class ClientGone(BadInput):
    """The client left before its request was whole, or before its answer; nobody reads this."""

    code = "client_gone"

    def __init__(self) -> None:
        super().__init__("the client closed the connection before it had its answer")


class CallOverBudget(HelixError):
    """The call may cost more than its own helix.budget lets it; no provider was called."""

    code = "call_over_budget"
    status = 402
    kind = "insufficient_quota"

    def __init__(self, *, cost_usd: Decimal, budget_usd: Decimal) -> None:
        super().__init__(
            f"this call may cost {cost_usd.normalize():f} USD, more than its helix.budget of "
            f"{budget_usd.normalize():f} USD: lower max_tokens, or raise the budget",
            param="helix.budget",
        )


class TransportUnsupported(BadInput):
    """The request is packed in a way that is not taken."""

    code = "encoding_unsupported"
    status = 415

    def __init__(self, encoding: str) -> None:
        super().__init__(f"send the body plain: Content-Encoding {encoding[:40]!r} is not taken")


class NotJson(BadInput):
    """The body is not JSON as it is taken here."""

    code = "not_json"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the request body is not JSON that can be taken: {reason}")


class RequestUnstorable(BadInput):
    """PostgreSQL does not take the request as it is, so it cannot be recorded."""

    code = "request_unstorable"

    def __init__(self) -> None:
        super().__init__("the request holds something that cannot be recorded, so it is not made")


class WrongField(BadInput):
    """A field of the request is missing or wrong."""

    code = "wrong_field"

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(f"{param}: {reason}", param=param)


class ProjectNotFound(NotFound):
    """helix.project names none of the caller's projects."""

    code = "project_not_found"

    def __init__(self) -> None:
        super().__init__("helix.project names no project of yours", param="helix.project")


class SessionNotFound(NotFound):
    """helix.session names none of the caller's live sessions."""

    code = "session_not_found"

    def __init__(self) -> None:
        super().__init__("helix.session names no live session of yours", param="helix.session")


class RouteNotFound(NotFound):
    """There is no such path."""

    code = "route_not_found"

    def __init__(self, path: str) -> None:
        super().__init__(f"there is nothing at {path[:200]!r}")


class MethodNotAllowed(BadInput):
    """The path is there, but not for this method."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"{path} does not take {method[:20]}")


class TooBusy(Unavailable):
    """As many calls are under way as this process takes on, or it is stopping."""

    code = "too_busy"

    def __init__(self, reason: str) -> None:
        super().__init__(reason, retry_after_s=1)


class NotRecorded(Unavailable):
    """The call cannot be recorded now, and so it is not made, or not finished."""

    code = "not_recorded"

    def __init__(self) -> None:
        super().__init__(
            "the database cannot take the record of this call; try again shortly",
            retry_after_s=1,
        )


class CallInterrupted(Unavailable):
    """The record of the call was closed by another process that took this one for dead."""

    code = "call_interrupted"

    def __init__(self) -> None:
        super().__init__("the call was interrupted: make it again", retry_after_s=1)


class KeyReused(BadInput):
    """An Idempotency-Key came again with another body."""

    code = "idempotency_key_reused"
    status = 422

    def __init__(self) -> None:
        super().__init__(
            "this Idempotency-Key was used with another body in the last 24 hours: "
            "use a new key for a new request",
            param="idempotency-key",
        )


class CallNotFound(NotFound):
    """No recorded call has this id."""

    code = "call_not_found"

    def __init__(self, call_id: str) -> None:
        super().__init__(f"no recorded call has the id {call_id!r}")


class CallFailed(Upstream):
    """A call failed, and its record says no more than that."""

    code = "call_failed"


class AnswerErased(NotFound):
    """The answer was given once; its text has been erased since."""

    code = "answer_erased"

    def __init__(self) -> None:
        super().__init__("the text of this answer was erased; make the call anew, without its key")


class KeyInProgress(Conflict):
    """A call with this Idempotency-Key is still being made."""

    code = "idempotency_key_in_progress"

    def __init__(self, waited_s: float) -> None:
        super().__init__(
            f"a call with this Idempotency-Key is still being made after {waited_s:g} s: "
            "send the same call again to get its answer",
            param="idempotency-key",
            retry_after_s=1,
        )


class NotCached(NotFound):
    """`x-helix-cache: only` was asked for, and there is no answer to give again."""

    code = "not_cached"

    def __init__(self) -> None:
        super().__init__("the cache holds no answer to this call, and no other was asked for")


class ModelIsVirtual(BadInput):
    """A virtual model asks a virtual model."""

    code = "model_is_virtual"

    def __init__(self, model: str) -> None:
        super().__init__(f"{model[:200]!r} is virtual: only models of providers can be asked here")


class ResponseNotFound(NotFound):
    """No response of the caller's has this id, or it was not to be stored."""

    code = "response_not_found"

    def __init__(self, given: str) -> None:
        super().__init__(f"no response of yours has the id {given[:80]!r}")


class ModelNotAllowed(Forbidden):
    """The key is kept to a list of models, and this one is not on it."""

    code = "model_not_allowed"

    def __init__(self, model: str) -> None:
        super().__init__(f"this key may not call the model {model[:200]!r}", param="model")


class VirtualUndecided(HelixError):
    """The handler of a virtual model ended without saying what the answer is."""

    code = "virtual_undecided"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} came to no answer; its candidates are recorded")


class TotalTimeout(Upstream):
    """The call took longer than total_timeout_s."""

    code = "total_timeout"
    status = 504

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the call took longer than total_timeout_s ({limit_s:g} s)")


class Stopping(Unavailable):
    """Helix stops and cannot wait for the call any longer."""

    code = "stopping"

    def __init__(self) -> None:
        super().__init__("Helix is stopping: make the call again shortly", retry_after_s=1)


class UpstreamCut(Upstream):
    """The provider's stream ended before its answer did."""

    code = "upstream_cut"

    def __init__(self, name: str) -> None:
        super().__init__(f"the stream of the provider {name!r} ended in the middle of its answer")


class UpstreamEmpty(UpstreamBroken):
    """The provider's answer has nothing in it at all: it did not answer."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "it is empty")


class UpstreamAnswered(Upstream):
    """The provider refused the call; what it said is passed on, without anything secret.

    `provider_code` and `provider_kind` are the provider's own, where it told them.
    """

    def __init__(
        self,
        message: str,
        *,
        provider_code: str | None = None,
        provider_kind: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.provider_code = provider_code
        self.provider_kind = provider_kind


class UpstreamRejected(UpstreamAnswered):
    """The provider finds the request wrong."""

    code = "upstream_rejected"
    status = 400
    kind = "invalid_request_error"


class UpstreamModelMissing(UpstreamAnswered):
    """The provider does not know the model."""

    code = "upstream_not_found"
    status = 404
    kind = "invalid_request_error"


class UpstreamCredential(UpstreamAnswered):
    """The provider refuses the key that Helix holds for it: not the client's fault."""

    code = "upstream_credential"


class UpstreamBusy(UpstreamAnswered):
    """The provider's limits are used up."""

    code = "upstream_rate_limited"
    status = 429
    kind = "rate_limit_error"


class UpstreamOverloaded(UpstreamAnswered):
    """The provider cannot serve at this moment."""

    code = "upstream_overloaded"
    status = 503


class UpstreamSlow(UpstreamAnswered):
    """The provider gave up waiting."""

    code = "upstream_gateway_timeout"
    status = 504


class UpstreamFailed(UpstreamAnswered):
    """The provider failed."""

    code = "upstream_failed"
