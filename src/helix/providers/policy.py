"""Pure decisions of providers: names, routes, addresses, how long to wait."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from urllib.parse import urlsplit

from helix.core.errors import Misuse
from helix.providers.errors import ModelNotFound, ProviderUnusable
from helix.providers.types import Provider, Route

__all__ = [
    "Registry",
    "check_base_url",
    "check_provider_name",
    "estimate_tokens",
    "registry_of",
    "retry_after_s",
]

RETRY_AFTER_MAX_S = 3_600.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Registry:
    """The enabled providers at one moment, by name and by the models they list."""

    providers: Mapping[str, Provider] = field(default_factory=lambda: MappingProxyType({}))
    by_model: Mapping[str, Provider] = field(default_factory=lambda: MappingProxyType({}))

    def route(self, name: str) -> Route:
        """Return where the model called `name` is.

        `provider/model` goes to that provider, a provider's name alone to its default model, any
        other name to the first provider (by priority, then name) that lists it. Raises
        ModelNotFound, or ProviderUnusable.
        """
        prefix, slash, rest = name.partition("/")
        provider = self.providers.get(prefix)
        if provider is not None and slash and rest:
            return _usable(provider, rest)
        if provider is not None and not slash and provider.default_model is not None:
            return _usable(provider, provider.default_model)
        listed = self.by_model.get(name)
        if listed is None:
            raise ModelNotFound(name)
        return _usable(listed, name)

    def names(self) -> list[tuple[str, str]]:
        """Return every model as (provider, model), sorted."""
        return sorted((p.name, model) for p in self.providers.values() for model in p.models)


def _usable(provider: Provider, model: str) -> Route:
    if provider.problem is not None:
        raise ProviderUnusable(provider.name, provider.problem)
    return Route(provider, model)


def registry_of(providers: Iterable[Provider]) -> Registry:
    """Return the registry of these providers."""
    ordered = sorted(providers, key=lambda p: (p.priority, p.name))
    listed: dict[str, list[Provider]] = defaultdict(list)
    for provider in ordered:
        for model in provider.models:
            listed[model].append(provider)
    return Registry(
        MappingProxyType({provider.name: provider for provider in ordered}),
        MappingProxyType({model: offering[0] for model, offering in listed.items()}),
    )


def check_provider_name(name: str) -> None:
    """Raise Misuse unless `name` can stand before the slash of a model name."""
    if not _NAME.fullmatch(name):
        raise Misuse(
            f"{name!r} is no name for a provider: up to 63 of a-z, 0-9, '.', '_', '-', "
            "beginning with a letter or digit"
        )


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
