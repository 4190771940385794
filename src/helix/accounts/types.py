"""What accounts are made of: users, sessions, API keys, and who is calling."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

__all__ = [
    "ApiKey",
    "KeyStatus",
    "NewKey",
    "Principal",
    "Scope",
    "Session",
    "User",
    "UserRole",
    "UserStatus",
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

    `rate_limit` is requests per minute, None for a login.
    """

    user_id: UUID
    role: UserRole
    scopes: frozenset[Scope]
    api_key_id: UUID | None = None
    session_id: UUID | None = None
    rate_limit: int | None = None
    expires_at: datetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Say whether the caller may do what `scope` names; each scope is its own, `admin` too."""
        return scope in self.scopes
