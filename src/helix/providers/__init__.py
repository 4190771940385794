"""Providers: the registry of whom Helix may call, and the adapters that call them."""

from helix.providers.domain import Providers, build
from helix.providers.errors import (
    BadProvider,
    BadRoute,
    CatalogUnreadable,
    FieldUnsupported,
    ModelNotFound,
    NoProviderHealthy,
    OperationUnsupported,
    ProviderBusy,
    ProviderExists,
    ProviderNotFound,
    ProviderUnusable,
    RouteExists,
    RouteNotFound,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
)
from helix.providers.facts import UNKNOWN_MODEL, Health, ModelFacts, RateLimits
from helix.providers.jobs import register_jobs
from helix.providers.plan import (
    AttemptResult,
    FailureKind,
    Plan,
    RoutePolicy,
    failure_of_error,
    failure_of_status,
)
from helix.providers.policy import Registry, estimate_tokens, retry_after_s
from helix.providers.routes import build_router
from helix.providers.store import Store, credential_places
from helix.providers.types import (
    Adapter,
    Call,
    ListedModel,
    Operation,
    Probe,
    Provider,
    Reply,
    Route,
    Timeouts,
    Wire,
)
from helix.providers.watch import Watched
from helix.providers.wires.anthropic_answer import MessagesReader
from helix.providers.wires.responses import ResponsesReader

__all__ = [
    "UNKNOWN_MODEL",
    "Adapter",
    "AttemptResult",
    "BadProvider",
    "BadRoute",
    "Call",
    "CatalogUnreadable",
    "FailureKind",
    "FieldUnsupported",
    "Health",
    "ListedModel",
    "MessagesReader",
    "ModelFacts",
    "ModelNotFound",
    "NoProviderHealthy",
    "Operation",
    "OperationUnsupported",
    "Plan",
    "Probe",
    "Provider",
    "ProviderBusy",
    "ProviderExists",
    "ProviderNotFound",
    "ProviderUnusable",
    "Providers",
    "RateLimits",
    "Registry",
    "Reply",
    "ResponsesReader",
    "Route",
    "RouteExists",
    "RouteNotFound",
    "RoutePolicy",
    "Store",
    "Timeouts",
    "UpstreamBroken",
    "UpstreamTimeout",
    "UpstreamTooLarge",
    "UpstreamUnreachable",
    "Watched",
    "Wire",
    "build",
    "build_router",
    "credential_places",
    "estimate_tokens",
    "failure_of_error",
    "failure_of_status",
    "register_jobs",
    "retry_after_s",
]
