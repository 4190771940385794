"""The only code that runs the statements of accounts: rows to types, constraints to errors."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from helix.accounts.errors import EmailTaken, KeyExceedsParent, KeyNotFound, UserNotFound
from helix.accounts.types import (
    ApiKey,
    KeyLimits,
    KeyStatus,
    Scope,
    Session,
    User,
    UserRole,
    UserStatus,
)
from helix.core.db import Connection, Queries

__all__ = [
    "KeyFacts",
    "LoginFacts",
    "SessionFacts",
    "Store",
]

LISTED_MAX = 500
_NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """All that decides about a presented key."""

    key_hash: bytes = field(repr=False)
    id: UUID
    user_id: UUID
    scopes: frozenset[Scope]
    rate_limit: int
    status: KeyStatus
    expires_at: datetime | None
    user_role: UserRole
    user_status: UserStatus
    model_lists: tuple[tuple[str, ...], ...] = ()
    cache_max_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class LoginFacts:
    """An account and the hash that its password must fit."""

    user: User
    password_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """A valid session and the standing of its user."""

    session: Session
    user_role: UserRole
    user_status: UserStatus


def _user(row: Any) -> User:
    return User(
        id=row["id"],
        email=row["email"],
        username=row["username"],
        name=row["name"],
        role=UserRole(row["role"]),
        status=UserStatus(row["status"]),
        created_at=row["created_at"],
        last_login=row["last_login"],
    )


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=row["id"],
        user_id=row["user_id"],
        prefix=row["key_prefix"],
        name=row["name"],
        scopes=frozenset(map(Scope, row["scopes"])),
        rate_limit=row["rate_limit"],
        status=KeyStatus(row["status"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
        parent_key_id=row["parent_key_id"],
        tokens_per_minute=row["tokens_per_minute"],
        parallel_max=row["parallel_max"],
        allowed_models=None if row["allowed_models"] is None else tuple(row["allowed_models"]),
        cache_max_age_s=row["cache_max_age_s"],
    )


class Store:
    """Reads and writes accounts; each method is given a connection and never commits."""

    def __init__(self) -> None:
        self._queries = Queries("helix.accounts")

    async def check_keys(self, conn: Connection, *, hashes: Sequence[bytes]) -> list[KeyFacts]:
        """Return what decides about the keys with these hashes; unknown hashes are left out."""
        rows = await self._queries.rows(conn, "check_keys", hashes=list(hashes))
        return [
            KeyFacts(
                key_hash=row["key_hash"],
                id=row["id"],
                user_id=row["user_id"],
                scopes=frozenset(map(Scope, row["scopes"])),
                rate_limit=row["rate_limit"],
                status=KeyStatus(row["status"]),
                expires_at=row["expires_at"],
                user_role=UserRole(row["user_role"]),
                user_status=UserStatus(row["user_status"]),
                model_lists=tuple(map(tuple, row["model_lists"] or ())),
                cache_max_age_s=row["cache_max_age_s"],
            )
            for row in rows
        ]

    async def touch_keys(self, conn: Connection, *, used: dict[UUID, datetime]) -> None:
        """Note when keys were last used; to the minute, never back."""
        await self._queries.run(
            conn, "touch_keys", ids=list(used.keys()), times=list(used.values())
        )

    async def insert_user(
        self,
        conn: Connection,
        *,
        user_id: UUID,
        email: str,
        username: str | None,
        name: str | None,
        role: UserRole,
        password_hash: str,
    ) -> User:
        """Write a new account; raises EmailTaken when the address or user name is another's."""
        try:
            row = await self._queries.row(
                conn,
                "insert_user",
                id=user_id,
                email=email,
                username=username,
                name=name,
                role=role.value,
                password_hash=password_hash,
            )
        except asyncpg.UniqueViolationError as exc:
            raise EmailTaken from exc
        return _user(row)

    async def find_login(self, conn: Connection, *, login: str) -> LoginFacts | None:
        """Return the account that logs in under this address or user name."""
        row = await self._queries.row(conn, "find_login", login=login)
        return None if row is None else LoginFacts(_user(row), row["password_hash"])

    async def get_user(self, conn: Connection, *, user_id: UUID) -> User:
        """Return an account; raises UserNotFound."""
        row = await self._queries.row(conn, "get_user", id=user_id)
        if row is None:
            raise UserNotFound
        return _user(row)

    async def get_password_hash(self, conn: Connection, *, user_id: UUID) -> str:
        """Return the hash of an account's password; raises UserNotFound."""
        row = await self._queries.row(conn, "get_password_hash", id=user_id)
        if row is None:
            raise UserNotFound
        return str(row["password_hash"])

    async def list_users(
        self, conn: Connection, *, after_id: UUID | None = None, max_count: int = LISTED_MAX
    ) -> list[User]:
        """Return a page of accounts, oldest first, beginning after `after_id`."""
        rows = await self._queries.rows(conn, "list_users", after_id=after_id, max_count=max_count)
        return [_user(row) for row in rows]

    async def lock_admins(self, conn: Connection) -> list[UUID]:
        """Return the active admins, held until the transaction ends."""
        return [row["id"] for row in await self._queries.rows(conn, "lock_admins")]

    async def set_status(self, conn: Connection, *, user_id: UUID, status: UserStatus) -> User:
        """Change the standing of an account; raises UserNotFound."""
        row = await self._queries.row(conn, "set_user_status", id=user_id, status=status.value)
        if row is None:
            raise UserNotFound
        return _user(row)

    async def set_role(self, conn: Connection, *, user_id: UUID, role: UserRole) -> User:
        """Change what an account is; raises UserNotFound."""
        row = await self._queries.row(conn, "set_user_role", id=user_id, role=role.value)
        if row is None:
            raise UserNotFound
        return _user(row)

    async def set_password(self, conn: Connection, *, user_id: UUID, password_hash: str) -> None:
        """Replace the password's hash; raises UserNotFound."""
        row = await self._queries.row(conn, "set_password", id=user_id, password_hash=password_hash)
        if row is None:
            raise UserNotFound

    async def set_last_login(self, conn: Connection, *, user_id: UUID, now: datetime) -> None:
        """Note a log-in."""
        await self._queries.run(conn, "set_last_login", id=user_id, now=now)

    async def lock_bootstrap(self, conn: Connection) -> None:
        """Wait until nobody else makes the first admin, until the transaction ends."""
        await self._queries.row(conn, "lock_bootstrap")

    async def count_admins(self, conn: Connection) -> int:
        """Return how many admins there are, in whatever standing."""
        row = await self._queries.row(conn, "count_admins")
        return 0 if row is None else int(row["admins"])

    async def insert_session(
        self, conn: Connection, *, session: Session, token_hash: bytes, now: datetime
    ) -> None:
        """Write a login."""
        await self._queries.run(
            conn,
            "insert_session",
            id=session.id,
            user_id=session.user_id,
            token_hash=token_hash,
            expires_at=session.expires_at,
            now=now,
        )

    async def use_session(
        self,
        conn: Connection,
        *,
        session_id: UUID,
        user_id: UUID,
        token_hash: bytes,
        now: datetime,
    ) -> SessionFacts | None:
        """Check a session and count the request; None when it is not valid any more."""
        row = await self._queries.row(
            conn,
            "use_session",
            id=session_id,
            user_id=user_id,
            token_hash=token_hash,
            now=now,
        )
        if row is None:
            return None
        return SessionFacts(
            Session(row["id"], row["user_id"], row["expires_at"]),
            UserRole(row["user_role"]),
            UserStatus(row["user_status"]),
        )

    async def revoke_session(
        self, conn: Connection, *, session_id: UUID, user_id: UUID, now: datetime
    ) -> None:
        """End one login."""
        await self._queries.run(conn, "revoke_session", id=session_id, user_id=user_id, now=now)

    async def revoke_sessions(self, conn: Connection, *, user_id: UUID, now: datetime) -> None:
        """End every login of a user."""
        await self._queries.run(conn, "revoke_sessions", user_id=user_id, now=now)

    async def insert_key(
        self,
        conn: Connection,
        *,
        key_id: UUID,
        user_id: UUID,
        key_hash: bytes,
        prefix: str,
        name: str,
        scopes: frozenset[Scope],
        rate_limit: int,
        expires_at: datetime | None,
        now: datetime,
        parent_key_id: UUID | None = None,
        limits: KeyLimits = _NO_LIMITS,
    ) -> ApiKey:
        """Write a key's hash and rights; raises UserNotFound, or KeyExceedsParent."""
        try:
            row = await self._queries.row(
                conn,
                "insert_key",
                id=key_id,
                user_id=user_id,
                key_hash=key_hash,
                key_prefix=prefix,
                name=name,
                scopes=sorted(scope.value for scope in scopes),
                rate_limit=rate_limit,
                expires_at=expires_at,
                now=now,
                parent_key_id=parent_key_id,
                tokens_per_minute=limits.tokens_per_minute,
                parallel_max=limits.parallel_max,
                allowed_models=None
                if limits.allowed_models is None
                else list(limits.allowed_models),
                cache_max_age_s=limits.cache_max_age_s,
            )
        except asyncpg.ForeignKeyViolationError as exc:
            raise UserNotFound from exc
        except asyncpg.CheckViolationError as exc:
            if exc.constraint_name != "api_keys_ancestors_check":
                raise
            raise KeyExceedsParent("keys are made with keys at most eight times over") from exc
        return _key(row)

    async def rotate_key(
        self,
        conn: Connection,
        *,
        key_id: UUID,
        user_id: UUID | None,
        key_hash: bytes,
        prefix: str,
        previous_until: datetime,
    ) -> ApiKey:
        """Replace what opens a key; the old one does so until `previous_until`.

        Raises KeyNotFound, for a revoked key too.
        """
        row = await self._queries.row(
            conn,
            "rotate_key",
            id=key_id,
            user_id=user_id,
            key_hash=key_hash,
            key_prefix=prefix,
            previous_until=previous_until,
        )
        if row is None:
            raise KeyNotFound
        return _key(row)

    async def list_keys(
        self, conn: Connection, *, user_id: UUID | None, max_count: int = LISTED_MAX
    ) -> list[ApiKey]:
        """Return keys, newest first: one user's, or with None everybody's."""
        rows = await self._queries.rows(conn, "list_keys", user_id=user_id, max_count=max_count)
        return [_key(row) for row in rows]

    async def get_key(self, conn: Connection, *, key_id: UUID, user_id: UUID | None) -> ApiKey:
        """Return a key, with `user_id` only one of that user's; raises KeyNotFound."""
        row = await self._queries.row(conn, "get_key", id=key_id, user_id=user_id)
        if row is None:
            raise KeyNotFound
        return _key(row)

    async def find_keys_by_prefix(self, conn: Connection, *, prefix: str) -> list[ApiKey]:
        """Return at most two keys whose shown part is `prefix`."""
        rows = await self._queries.rows(conn, "find_keys_by_prefix", prefix=prefix)
        return [_key(row) for row in rows]

    async def is_key_within(
        self, conn: Connection, *, key_id: UUID, within: UUID, user_id: UUID
    ) -> bool:
        """Say whether a user's key is the key `within` or descends from it; raises KeyNotFound."""
        row = await self._queries.row(
            conn, "key_is_within", id=key_id, within=within, user_id=user_id
        )
        if row is None:
            raise KeyNotFound
        return bool(row["within"])

    async def rename_key(
        self, conn: Connection, *, key_id: UUID, user_id: UUID | None, name: str
    ) -> ApiKey:
        """Change a key's name; raises KeyNotFound."""
        row = await self._queries.row(conn, "rename_key", id=key_id, user_id=user_id, name=name)
        if row is None:
            raise KeyNotFound
        return _key(row)

    async def revoke_key(
        self, conn: Connection, *, key_id: UUID, user_id: UUID | None, now: datetime
    ) -> ApiKey:
        """End a key and all that were made with it, now and for good; raises KeyNotFound.

        Repeating it is harmless.
        """
        rows = await self._queries.rows(conn, "revoke_key", id=key_id, user_id=user_id, now=now)
        for row in rows:
            if row["id"] == key_id:
                return _key(row)
        raise KeyNotFound
