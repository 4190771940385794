"""The errors of providers."""

from helix.core.errors import BadInput, Conflict, NotFound, Unavailable, Upstream

__all__ = [
    "BadProvider",
    "BadRoute",
    "CatalogUnreadable",
    "FieldUnsupported",
    "ModelNotFound",
    "NoProviderHealthy",
    "OperationUnsupported",
    "ProviderBusy",
    "ProviderExists",
    "ProviderNotFound",
    "ProviderUnusable",
    "RouteExists",
    "RouteNotFound",
    "UpstreamBroken",
    "UpstreamTimeout",
    "UpstreamTooLarge",
    "UpstreamUnreachable",
]


class ModelNotFound(NotFound):
    """No enabled provider offers a model of this name."""

    code = "model_not_found"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"the model {model[:200]!r} does not exist here: GET /v1/models lists those that do",
            param="model",
        )


class ProviderNotFound(NotFound):
    """There is no provider of this name."""

    code = "provider_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no provider {name!r}: `helix providers list` shows all")


class ProviderExists(Conflict):
    """A provider of this name is there already."""

    code = "provider_exists"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is a provider {name!r} already: remove it first, so that its key goes too"
        )


class RouteNotFound(NotFound):
    """There is no route of this name."""

    code = "route_unknown"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no route {name!r}: `helix routes list` shows all")


class RouteExists(Conflict):
    """A route of this name is there already."""

    code = "route_exists"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a route {name!r} already: change it, or remove it first")


class BadRoute(BadInput):
    """A route cannot be as it was given."""

    code = "bad_route"


class BadProvider(BadInput):
    """A provider cannot be as it was given."""

    code = "bad_provider"


class CatalogUnreadable(BadInput):
    """A catalogue of models cannot be read."""

    code = "catalog_unreadable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the catalogue of models cannot be used: {reason}")


class ProviderUnusable(Unavailable):
    """The provider cannot be called as it is configured."""

    code = "provider_unusable"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"the provider {name!r} cannot be used: {problem}")


class NoProviderHealthy(Unavailable):
    """Every target of a model is down, cooling or at its limit."""

    code = "no_provider_healthy"

    def __init__(self, model: str, retry_after_s: float) -> None:
        super().__init__(
            f"no provider of the model {model[:200]!r} can take a call now; try again shortly",
            retry_after_s=retry_after_s,
        )


class ProviderBusy(Unavailable):
    """A call would pass a limit set for the provider; it was not made."""

    code = "provider_busy"

    def __init__(self, name: str, limit: str, most: int, retry_after_s: float) -> None:
        super().__init__(
            f"the provider {name!r} is at its limit {limit} ({most}); try again shortly",
            retry_after_s=retry_after_s,
        )


class OperationUnsupported(BadInput):
    """The provider's wire has no such operation."""

    code = "operation_unsupported"

    def __init__(self, name: str, operation: str) -> None:
        super().__init__(
            f"the provider {name!r} does not offer {operation}: choose a model of another",
            param="model",
        )


class FieldUnsupported(BadInput):
    """A field changes what is asked for, and the provider's wire cannot say it."""

    code = "field_unsupported"

    def __init__(self, name: str, param: str, reason: str) -> None:
        super().__init__(f"{param}: the provider {name!r} {reason}", param=param)


class UpstreamUnreachable(Upstream):
    """No connection to the provider could be made."""

    code = "upstream_unreachable"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the provider {name!r} cannot be reached ({reason})")


class UpstreamTimeout(Upstream):
    """The provider took longer than a named limit."""

    code = "upstream_timeout"
    status = 504

    def __init__(self, name: str, limit: str, limit_s: float) -> None:
        self.limit = limit
        super().__init__(f"the provider {name!r} was silent beyond {limit} ({limit_s:g} s)")


class UpstreamBroken(Upstream):
    """What the provider sent cannot be used."""

    code = "upstream_broken"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the provider {name!r} sent no usable answer: {reason}")


class UpstreamTooLarge(Upstream):
    """The provider's answer passes answer_bytes_max."""

    code = "upstream_too_large"

    def __init__(self, name: str, most: int) -> None:
        super().__init__(
            f"the answer of the provider {name!r} is larger than answer_bytes_max ({most} bytes)"
        )
