"""The errors of providers."""

from helix.core.errors import Conflict, NotFound, Unavailable, Upstream

__all__ = [
    "ModelNotFound",
    "ProviderExists",
    "ProviderNotFound",
    "ProviderUnusable",
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


class ProviderUnusable(Unavailable):
    """The provider cannot be called as it is configured."""

    code = "provider_unusable"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"the provider {name!r} cannot be used: {problem}")


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
