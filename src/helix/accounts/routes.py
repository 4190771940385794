"""The HTTP surface of accounts: /api/auth, /api/me, /api/keys, /api/users."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from helix.accounts import service
from helix.accounts.audited import record_key
from helix.accounts.domain import Accounts
from helix.accounts.errors import (
    AccountSuspended,
    BadPassword,
    KeyExceedsParent,
    LoginRefused,
    ScopeMissing,
    SessionInvalid,
)
from helix.accounts.keys import presented
from helix.accounts.passwords import NO_PASSWORD
from helix.accounts.policy import RANDOM_BYTES
from helix.accounts.render import shown_key, shown_user
from helix.accounts.types import KeyLimits, Principal, Scope, UserRole, UserStatus
from helix.core import audit
from helix.core.audit import Actor
from helix.core.clock import Moment
from helix.core.db import Role

__all__ = ["router"]

Line = StringConstraints(
    strip_whitespace=True, min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$"
)
Email = StringConstraints(
    strip_whitespace=True,
    max_length=255,
    pattern=r"^[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f]+$",
)
ModelPattern = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")
]
RATE_LIMIT_MAX = 1_000_000
_INTEGER_MAX = 2_147_483_647


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RegisterBody(_Body):
    """A new account."""

    email: Annotated[str, Email]
    password: SecretStr | None = Field(
        default=None, description="None for an account that only uses API keys."
    )
    username: Annotated[str, Line] | None = None
    name: Annotated[str, Line] | None = None
    role: UserRole = UserRole.USER


class LoginBody(_Body):
    """An address or user name, and its password."""

    login: str = Field(max_length=255)
    password: SecretStr = Field(max_length=1_024)


class PasswordBody(_Body):
    """A change of one's own password."""

    old_password: SecretStr = Field(max_length=1_024)
    new_password: SecretStr = Field(max_length=1_024)


class KeyBody(_Body):
    """A new key for oneself; it can do no more than who makes it."""

    name: Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    scopes: frozenset[Scope] = frozenset({Scope.COMPLETIONS})
    rate_limit: int = Field(default=1_000, ge=0, le=RATE_LIMIT_MAX)
    expires_at: Moment | None = None
    tokens_per_minute: int | None = Field(default=None, ge=0, le=_INTEGER_MAX)
    parallel_max: int | None = Field(default=None, ge=0, le=_INTEGER_MAX)
    allowed_models: Annotated[list[ModelPattern], Field(max_length=100)] | None = None
    cache_max_age_s: int | None = Field(default=None, ge=0, le=_INTEGER_MAX)


class RotateBody(_Body):
    """How long the old secret of a key opens the door beside the new one."""

    overlap_s: int = Field(default=86_400, ge=0, le=2_592_000)


class KeyChange(_Body):
    """What can be changed of a key: its name."""

    name: Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


class UserChange(_Body):
    """What an admin can change of an account."""

    status: UserStatus | None = None
    role: UserRole | None = None


@dataclass(frozen=True, slots=True)
class _Door:
    """What the routes share: the domain, and the dependencies that say who calls."""

    accounts: Accounts
    caller: Callable[..., Awaitable[Principal]]
    admin: Callable[..., Principal]
    acting: Callable[..., Actor]


def router(accounts: Accounts) -> APIRouter:
    """Return the routes of accounts. Errors are raised as HelixError for the app to render."""
    api = APIRouter(prefix="/api", tags=["accounts"])

    async def caller(request: Request) -> Principal:
        return await accounts.identify(presented(dict(request.headers.raw)))

    Caller = Annotated[Principal, Depends(caller)]  # noqa: N806 - a type

    def admin(principal: Caller) -> Principal:
        if not principal.allows(Scope.ADMIN) or principal.role is not UserRole.ADMIN:
            raise ScopeMissing(Scope.ADMIN.value)
        return principal

    def acting(principal: Caller, request: Request) -> Actor:
        return Actor("user", principal.user_id, principal.api_key_id, _address(request))

    door = _Door(accounts, caller, admin, acting)
    for add in (
        _add_registration,
        _add_sessions,
        _add_self,
        _add_keys,
        _add_one_key,
        _add_users,
    ):
        add(api, door)
    return api


def _add_registration(api: APIRouter, door: _Door) -> None:
    """Register."""
    accounts, store = door.accounts, door.accounts.store

    @api.post("/auth/register", status_code=201)
    async def register(body: RegisterBody, request: Request) -> dict[str, Any]:
        """Make an account.

        Only an admin may, unless open_registration is set: then anybody may make a plain one of
        their own, with a password.
        """
        by = audit.stranger(_address(request))
        if presented(dict(request.headers.raw)) or not accounts.open_registration:
            by = door.acting(door.admin(await door.caller(request)), request)
        elif body.role is not UserRole.USER or body.password is None:
            raise ScopeMissing(Scope.ADMIN.value)
        hashed = NO_PASSWORD
        if body.password is not None:
            hashed = await accounts.passwords.hash(body.password.get_secret_value())
        async with accounts.db.transaction(Role.OPERATOR) as conn:
            user = await store.insert_user(
                conn,
                user_id=uuid4(),
                email=body.email,
                username=body.username,
                name=body.name,
                role=body.role,
                password_hash=hashed,
            )
            await audit.record(
                conn,
                "user.created",
                actor=by,
                subject="user",
                subject_id=user.id,
                details={"role": user.role.value},
            )
        return shown_user(user)


def _add_sessions(api: APIRouter, door: _Door) -> None:
    """Log in and out."""
    accounts, store, clock = door.accounts, door.accounts.store, door.accounts.clock
    Caller = Annotated[Principal, Depends(door.caller)]  # noqa: N806 - a type

    @api.post("/auth/login")
    async def login(body: LoginBody, request: Request) -> dict[str, Any]:
        """Open a session; the token is shown this once."""
        if "\0" in body.login:
            raise LoginRefused
        async with accounts.db.connection(Role.OPERATOR) as conn:
            facts = await store.find_login(conn, login=body.login)
        try:
            user = await service.check_login(
                accounts.passwords, facts, password=body.password.get_secret_value()
            )
        except (LoginRefused, AccountSuspended) as exc:
            async with accounts.db.transaction(Role.OPERATOR) as conn:
                await audit.record(
                    conn,
                    "login.failed",
                    actor=audit.stranger(_address(request)),
                    subject="user",
                    subject_id=None if facts is None else facts.user.id,
                    details={"reason": exc.code},
                    outcome="refused",
                )
            raise
        async with accounts.db.transaction(Role.OPERATOR) as conn:
            session = await service.open_session(
                conn,
                store,
                accounts.tokens,
                user=user,
                session_id=uuid4(),
                ttl_s=accounts.session_ttl_s,
                now=clock.now(),
            )
        return {
            "token": session.token,
            "token_type": "Bearer",
            "expires_at": session.expires_at,
            "user": shown_user(user),
        }

    @api.post("/auth/logout", status_code=204)
    async def logout(principal: Caller) -> None:
        """End the session that calls."""
        if principal.session_id is None:
            raise SessionInvalid
        async with accounts.db.transaction(Role.OPERATOR) as conn:
            await store.revoke_session(
                conn,
                session_id=principal.session_id,
                user_id=principal.user_id,
                now=clock.now(),
            )


def _add_self(api: APIRouter, door: _Door) -> None:
    """Who one is, and one's password."""
    accounts, store, clock = door.accounts, door.accounts.store, door.accounts.clock
    Caller = Annotated[Principal, Depends(door.caller)]  # noqa: N806 - a type
    Acting = Annotated[Actor, Depends(door.acting)]  # noqa: N806 - a type

    @api.get("/me")
    async def me(principal: Caller) -> dict[str, Any]:
        """Tell who calls, with what rights."""
        async with accounts.db.connection(Role.OPERATOR) as conn:
            user = await store.get_user(conn, user_id=principal.user_id)
        return {
            "user": shown_user(user),
            "api_key_id": principal.api_key_id,
            "session_id": principal.session_id,
            "scopes": sorted(scope.value for scope in principal.scopes),
            "rate_limit": principal.rate_limit,
            "expires_at": principal.expires_at,
        }

    @api.post("/me/password", status_code=204)
    async def change_password(body: PasswordBody, principal: Caller, by: Acting) -> None:
        """Change one's own password; every session ends, this one too."""
        async with accounts.db.connection(Role.OPERATOR) as conn:
            stored = await store.get_password_hash(conn, user_id=principal.user_id)
        if not await accounts.passwords.fits(body.old_password.get_secret_value(), stored):
            raise BadPassword("the old password is wrong")
        hashed = await accounts.passwords.hash(body.new_password.get_secret_value())
        async with accounts.db.transaction(Role.OPERATOR) as conn:
            await service.change_password(
                conn,
                store,
                user_id=principal.user_id,
                password_hash=hashed,
                now=clock.now(),
            )
            await audit.record(
                conn,
                "user.password_changed",
                actor=by,
                subject="user",
                subject_id=principal.user_id,
            )


def _add_keys(api: APIRouter, door: _Door) -> None:
    """List one's keys, make them, give them new secrets."""
    accounts, store, clock = door.accounts, door.accounts.store, door.accounts.clock
    Caller = Annotated[Principal, Depends(door.caller)]  # noqa: N806 - a type
    Acting = Annotated[Actor, Depends(door.acting)]  # noqa: N806 - a type

    @api.get("/keys")
    async def list_keys(principal: Caller) -> dict[str, Any]:
        """List one's own keys, newest first."""
        async with accounts.db.connection(Role.OPERATOR) as conn:
            keys = await store.list_keys(conn, user_id=principal.user_id)
        return {"data": [shown_key(key) for key in keys]}

    @api.post("/keys", status_code=201)
    async def create_key(body: KeyBody, principal: Caller, by: Acting) -> dict[str, Any]:
        """Make a key for oneself; `key` is shown this once."""
        now = clock.now()
        async with accounts.db.transaction(Role.OPERATOR) as conn:
            made = await service.make_child_key(
                conn,
                store,
                parent=principal,
                key_id=uuid4(),
                noise=os.urandom(RANDOM_BYTES),
                name=body.name,
                scopes=body.scopes,
                rate_limit=body.rate_limit,
                expires_at=body.expires_at,
                now=now,
                limits=KeyLimits(
                    body.tokens_per_minute,
                    body.parallel_max,
                    None if body.allowed_models is None else tuple(body.allowed_models),
                    body.cache_max_age_s,
                ),
            )
            await record_key(conn, "api_key.created", by, made.record)
        return {"key": made.key, **shown_key(made.record)}

    @api.post("/keys/{key_id}/rotate")
    async def rotate_key(
        key_id: UUID, body: RotateBody, principal: Caller, by: Acting
    ) -> dict[str, Any]:
        """Give one of one's own keys a new secret; `key` is shown this once."""
        if principal.api_key_id is not None and principal.api_key_id != key_id:
            raise KeyExceedsParent("a key can rotate itself and no other: log in for that")
        async with accounts.db.transaction(Role.OPERATOR) as conn:
            made = await service.rotate_key(
                conn,
                store,
                key_id=key_id,
                user_id=principal.user_id,
                noise=os.urandom(RANDOM_BYTES),
                overlap_s=body.overlap_s,
                now=clock.now(),
            )
            await record_key(conn, "api_key.rotated", by, made.record)
        return {"key": made.key, **shown_key(made.record)}


def _add_one_key(api: APIRouter, door: _Door) -> None:
    """Show, rename and revoke one key."""
    accounts, store, clock = door.accounts, door.accounts.store, door.accounts.clock
    Caller = Annotated[Principal, Depends(door.caller)]  # noqa: N806 - a type
    Acting = Annotated[Actor, Depends(door.acting)]  # noqa: N806 - a type

    @api.get("/keys/{key_id}")
    async def get_key(key_id: UUID, principal: Caller) -> dict[str, Any]:
        """Show one of one's own keys."""
        async with accounts.db.connection(Role.OPERATOR) as conn:
            return shown_key(await store.get_key(conn, key_id=key_id, user_id=principal.user_id))

    @api.patch("/keys/{key_id}")
    async def rename_key(key_id: UUID, body: KeyChange, principal: Caller) -> dict[str, Any]:
        """Rename one of one's own keys; a key itself and those made with it only."""
        async with accounts.db.transaction(Role.OPERATOR) as conn:
            await service.require_own_key(conn, store, caller=principal, key_id=key_id)
            return shown_key(
                await store.rename_key(
                    conn, key_id=key_id, user_id=principal.user_id, name=body.name
                )
            )

    @api.delete("/keys/{key_id}")
    async def revoke_key(key_id: UUID, principal: Caller, by: Acting) -> dict[str, Any]:
        """Revoke one of one's own keys: no process accepts it a second later.

        A key revokes itself and those made with it only.
        """
        async with accounts.db.transaction(Role.OPERATOR) as conn:
            await service.require_own_key(conn, store, caller=principal, key_id=key_id)
            key = await store.revoke_key(
                conn, key_id=key_id, user_id=principal.user_id, now=clock.now()
            )
            await record_key(conn, "api_key.revoked", by, key)
        return shown_key(key)


def _add_users(api: APIRouter, door: _Door) -> None:
    """List and change accounts."""
    accounts, store, clock = door.accounts, door.accounts.store, door.accounts.clock
    Acting = Annotated[Actor, Depends(door.acting)]  # noqa: N806 - a type
    Admin = Annotated[Principal, Depends(door.admin)]  # noqa: N806 - a type

    @api.get("/users")
    async def list_users(_: Admin, after_id: UUID | None = None) -> dict[str, Any]:
        """List accounts, oldest first, 100 a page; go on with the last id as `after_id`."""
        async with accounts.db.connection(Role.OPERATOR) as conn:
            users = await store.list_users(conn, after_id=after_id, max_count=100)
        return {"data": [shown_user(user) for user in users]}

    @api.patch("/users/{user_id}")
    async def change_user(user_id: UUID, body: UserChange, _: Admin, by: Acting) -> dict[str, Any]:
        """Suspend, activate or mark as deleted; make an admin or take it back."""
        now: datetime = clock.now()
        async with accounts.db.transaction(Role.OPERATOR) as conn:
            if body.role is not None:
                await service.change_role(conn, store, user_id=user_id, role=body.role)
                await audit.record(
                    conn,
                    "user.role_changed",
                    actor=by,
                    subject="user",
                    subject_id=user_id,
                    details={"role": body.role.value},
                )
            if body.status is not None:
                await service.change_status(
                    conn, store, user_id=user_id, status=body.status, now=now
                )
                await audit.record(
                    conn,
                    "user.status_changed",
                    actor=by,
                    subject="user",
                    subject_id=user_id,
                    details={"status": body.status.value},
                )
            return shown_user(await store.get_user(conn, user_id=user_id))


def _address(request: Request) -> str | None:
    return None if request.client is None else request.client.host
