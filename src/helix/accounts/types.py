"""What accounts are made of: users, sessions, API keys, and who is calling."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

__all__ = [
    "ApiKey",
    "KeyLimits",
    "KeyStatus",
    "NewKey",
    "Principal",
    "Scope",
    "Session",
    "User",
    "UserRole",
    "UserStatus",
    "fits_pattern",
]


class UserRole(StrEnum):
    """What an account is: a person, a person who runs Helix, or a machine."""

    USER = "user"
    ADMIN = "admin"
    SERVICE = "service"


class UserStatus(StrEnum):
    """Whether an account may be used."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


class KeyStatus(StrEnum):
    """Whether an API key may be used; an active key may still be past its expiry."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"


class Scope(StrEnum):
    """What an API key may do. The same list stands in the CHECK of api_keys.scopes."""

    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    MODELS = "models"
    DEBATES = "debates"
    MEMORIES = "memories"
    KNOWLEDGE = "knowledge"
    CONVERSATIONS = "conversations"
    TASKS = "tasks"
    PROJECTS = "projects"
    PROMPTS = "prompts"
    TOOLS = "tools"
    USAGE = "usage"
    ADMIN = "admin"


def fits_pattern(name: str, pattern: str) -> bool:
    """Say whether a name fits a pattern; `*` stands for any characters, nothing else is special."""
    parts = pattern.split("*")
    if len(parts) == 1:
        return name == pattern
    if not name.startswith(parts[0]) or len(name) < sum(map(len, parts)):
        return False
    at = len(parts[0])
    for part in parts[1:-1]:
        found = name.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(name) - len(parts[-1]) >= at and name.endswith(parts[-1])


@dataclass(frozen=True, slots=True)
class User:
    """An account, and at once a tenant. Its password hash never leaves the store."""

    id: UUID
    email: str
    username: str | None
    name: str | None
    role: UserRole
    status: UserStatus
    created_at: datetime
    last_login: datetime | None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it can be shown: `prefix` tells keys apart and opens nothing.

    `rate_limit` is requests per minute; 0 refuses all.
    """

    id: UUID
    user_id: UUID
    prefix: str
    name: str
    scopes: frozenset[Scope]
    rate_limit: int
    status: KeyStatus
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    parent_key_id: UUID | None = None
    tokens_per_minute: int | None = None
    parallel_max: int | None = None
    allowed_models: tuple[str, ...] | None = None
    cache_max_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may use beyond its requests per minute; None: no limit of its own.

    `allowed_models` are patterns in which `*` stands for any characters; `cache_max_age_s` is how
    old an answer out of the response cache may be, 0 for never.
    """

    tokens_per_minute: int | None = None
    parallel_max: int | None = None
    allowed_models: tuple[str, ...] | None = None
    cache_max_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the one moment at which it is known."""

    key: str = field(repr=False)
    record: ApiKey


@dataclass(frozen=True, slots=True)
class Session:
    """A login. `token` is known only when the session is opened."""

    id: UUID
    user_id: UUID
    expires_at: datetime
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, through a key (`api_key_id`) or a login (`session_id`), and with what rights.

    `rate_limit` is requests per minute, None for a login. `model_lists` holds the patterns of the
    key and of each key it descends from: a model must fit one pattern of every list.
    """

    user_id: UUID
    role: UserRole
    scopes: frozenset[Scope]
    api_key_id: UUID | None = None
    session_id: UUID | None = None
    rate_limit: int | None = None
    expires_at: datetime | None = None
    model_lists: tuple[tuple[str, ...], ...] = ()
    cache_max_age_s: int | None = None

    def may_call(self, *names: str) -> bool:
        """Say whether the caller may call the model known by any of these names."""
        return all(
            any(fits_pattern(name, pattern) for pattern in patterns for name in names)
            for patterns in self.model_lists
        )

    def allows(self, scope: Scope) -> bool:
        """Say whether the caller may do what `scope` names; each scope is its own, `admin` too."""
        return scope in self.scopes
