"""Pure decisions of providers: names, routes, addresses, how long to wait."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from types import MappingProxyType
from urllib.parse import urlsplit
from uuid import UUID

from helix.core.errors import Misuse
from helix.providers.errors import ModelNotFound, ProviderUnusable
from helix.providers.plan import RoutePolicy, Strategy, Target, Virtual
from helix.providers.types import Provider, Route

__all__ = [
    "ROUTE_PREFIX",
    "Registry",
    "RouteEntry",
    "RouteTarget",
    "check_base_url",
    "check_provider_name",
    "check_route_name",
    "estimate_tokens",
    "origin_of",
    "private_host",
    "registry_of",
    "retry_after_s",
    "split_model",
]

RETRY_AFTER_MAX_S = 3_600.0
ROUTE_PREFIX = "route/"
_RESERVED = frozenset({"route", "ensemble", "debate"})  # they stand before the slash of their own
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ROUTE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """A target as a route names it; without a provider: every one that lists the model."""

    provider_id: UUID | None
    model: str
    priority: int = 5
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """A route as it is kept. An alias is also called by its bare name."""

    name: str
    strategy: Strategy
    alias: bool
    policy: RoutePolicy
    targets: tuple[RouteTarget, ...]


@dataclass(frozen=True, slots=True)
class Registry:
    """The enabled providers at one moment, by name and by the models they list; the routes.

    `routes` are the names of routes and aliases as they are called, sorted.
    """

    providers: Mapping[str, Provider] = field(default_factory=lambda: MappingProxyType({}))
    by_model: Mapping[str, Provider] = field(default_factory=lambda: MappingProxyType({}))
    virtuals: Mapping[str, Virtual] = field(default_factory=lambda: MappingProxyType({}))
    routes: tuple[str, ...] = ()
    policy: RoutePolicy = field(default_factory=RoutePolicy)

    def route(self, name: str) -> Route:
        """Return the first place where `name` leads, as `resolve` finds it.

        Raises ModelNotFound, or ProviderUnusable.
        """
        virtual = self.resolve(name)
        if not virtual.targets:
            raise ModelNotFound(name)
        route = virtual.targets[0].route
        if route.provider.problem is not None:
            raise ProviderUnusable(route.provider.name, route.provider.problem)
        return route

    def resolve(self, name: str) -> Virtual:
        """Return what the model called `name` is.

        An alias or `route/<name>` is that route; `provider/model` is the model of that provider,
        a provider's name alone its default model, any other name the providers that list it, in
        the order of priority, then name. Raises ModelNotFound.
        """
        virtual = self.virtuals.get(name)
        if virtual is not None and name in self.routes:
            return virtual
        prefix, slash, rest = name.partition("/")
        provider = self.providers.get(prefix)
        if provider is not None and slash and rest:
            return self._single(name, provider, rest)
        if provider is not None and not slash and provider.default_model is not None:
            return self._single(name, provider, provider.default_model)
        if virtual is None:
            raise ModelNotFound(name)
        return virtual

    def _single(self, name: str, provider: Provider, model: str) -> Virtual:
        target = Target(Route(provider, model), provider.priority, provider.weight)
        return Virtual.of(name, [target], Strategy.PRIORITY, self.policy)

    def names(self) -> list[tuple[str, str]]:
        """Return every model as (provider, model), sorted."""
        return sorted((p.name, model) for p in self.providers.values() for model in p.models)


def registry_of(
    providers: Iterable[Provider],
    routes: Iterable[RouteEntry] = (),
    *,
    policy: RoutePolicy | None = None,
) -> Registry:
    """Return the registry of these providers and routes.

    Targets whose provider is not among them, being disabled or withdrawn, are left out.
    """
    ordered = sorted(providers, key=lambda p: (p.priority, p.name))
    by_id = {provider.id: provider for provider in ordered}
    listed: dict[str, list[Provider]] = defaultdict(list)
    for provider in ordered:
        for model in provider.models:
            listed[model].append(provider)
    policy = policy or RoutePolicy()
    virtuals = {
        model: Virtual.of(
            model,
            [Target(Route(p, model), p.priority, p.weight) for p in offering],
            Strategy.PRIORITY,
            policy,
        )
        for model, offering in listed.items()
    }
    called = []
    for entry in routes:
        targets = [
            Target(Route(provider, target.model), target.priority, target.weight)
            for target in entry.targets
            for provider in _offering(target, by_id, listed)
        ]
        names = [f"{ROUTE_PREFIX}{entry.name}", *([entry.name] if entry.alias else [])]
        for name in names:
            virtuals[name] = Virtual.of(name, targets, entry.strategy, entry.policy)
            called.append(name)
    return Registry(
        MappingProxyType({provider.name: provider for provider in ordered}),
        MappingProxyType({model: offering[0] for model, offering in listed.items()}),
        MappingProxyType(virtuals),
        tuple(sorted(called)),
        policy,
    )


def _offering(
    target: RouteTarget, by_id: Mapping[UUID, Provider], listed: Mapping[str, list[Provider]]
) -> list[Provider]:
    if target.provider_id is None:
        return listed.get(target.model, [])
    provider = by_id.get(target.provider_id)
    return [] if provider is None else [provider]


def check_provider_name(name: str) -> None:
    """Raise Misuse unless `name` can stand before the slash of a model name."""
    if not _NAME.fullmatch(name):
        raise Misuse(
            f"{name!r} is no name for a provider: up to 63 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit"
        )
    if name in _RESERVED:
        raise Misuse(f"{name!r} is kept for names of Helix's own: take another")


def check_route_name(name: str) -> None:
    """Raise Misuse unless `name` can be the name of a route or an alias."""
    if not _ROUTE_NAME.fullmatch(name):
        raise Misuse(
            f"{name!r} is no name for a route: up to 100 letters, digits, '.', '_', ':', '-', "
            "beginning with a letter or digit"
        )


def split_model(name: str) -> tuple[str, str]:
    """Return provider and model of `provider/model`; raises Misuse."""
    provider, slash, model = name.partition("/")
    if not slash or not provider or not model:
        raise Misuse(f"{name!r} is not provider/model")
    return provider, model


def check_base_url(url: str) -> str:
    """Return `url` without a slash at its end; raises Misuse unless it can be called."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise Misuse(f"the base URL cannot be read: {exc}") from exc
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise Misuse("a base URL looks like https://api.example.com/v1")
    if parts.username is not None or parts.password is not None:
        raise Misuse("a base URL carries no user or password: give the key by --api-key-file")
    if parts.query or parts.fragment:
        raise Misuse("a base URL carries no query and no fragment")
    return url.rstrip("/")


def origin_of(url: str) -> str:
    """Return where a URL leads, as `scheme://host:port`; a key is bound to that. "" for none."""
    if not url:
        return ""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{(parts.hostname or '').rstrip('.')}:{port}"


def private_host(url: str) -> bool:
    """Say whether the host of a URL is plainly on this machine or in a private network.

    True for `localhost`, for addresses that are not public, and for no URL. A name that only
    resolves to such an address is not known here.
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        return not ip_address(host).is_global
    except ValueError:
        return host in {"", "localhost"} or host.endswith(".localhost")


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has, where nobody tells: one for four bytes, rounded up.

    For want of the model's own tokenizer; rows that rest on it say so (usage_estimated).
    """
    return math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN)


def retry_after_s(header: str | None, *, now: datetime) -> float | None:
    """Return the seconds a Retry-After header (seconds or a date) asks for, 0 to one hour.

    None when it is absent or says nothing that can be kept.
    """
    if header is None:
        return None
    try:
        wait_s = float(header)
    except ValueError:
        try:
            wait_s = (parsedate_to_datetime(header) - now).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(wait_s, 0.0), RETRY_AFTER_MAX_S) if math.isfinite(wait_s) else None
