"""Providers: the registry of whom Helix may call, and the adapters that call them."""

from helix.providers.domain import Providers, build
from helix.providers.errors import (
    ModelNotFound,
    ProviderUnusable,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
)
from helix.providers.policy import Registry, estimate_tokens, retry_after_s
from helix.providers.types import Call, Provider, Reply, Route, Wire
from helix.providers.watch import Watched

__all__ = [
    "Call",
    "ModelNotFound",
    "Provider",
    "ProviderUnusable",
    "Providers",
    "Registry",
    "Reply",
    "Route",
    "UpstreamBroken",
    "UpstreamTimeout",
    "UpstreamTooLarge",
    "UpstreamUnreachable",
    "Watched",
    "Wire",
    "build",
    "estimate_tokens",
    "retry_after_s",
]
