"""The verbs of accounts. Connection first; the caller opens the transaction and commits."""

from datetime import datetime, timedelta
from uuid import UUID

from helix.accounts.errors import (
    AccountSuspended,
    KeyExceedsParent,
    LastAdmin,
    LoginRefused,
    SessionInvalid,
)
from helix.accounts.passwords import Passwords
from helix.accounts.policy import (
    check_child,
    key_from_random,
    key_hash,
    key_prefix,
    scopes_of_role,
)
from helix.accounts.sessions import SessionTokens, token_hash
from helix.accounts.store import LoginFacts, Store
from helix.accounts.types import (
    KeyLimits,
    NewKey,
    Principal,
    Scope,
    Session,
    User,
    UserRole,
    UserStatus,
)
from helix.core.db import Connection

__all__ = [
    "BOOTSTRAP_RATE_LIMIT",
    "bootstrap",
    "change_password",
    "change_role",
    "change_status",
    "check_login",
    "issue_key",
    "make_child_key",
    "open_session",
    "principal_of_session",
    "require_own_key",
    "rotate_key",
]


NO_LIMITS = KeyLimits()
BOOTSTRAP_RATE_LIMIT = 1_000_000
"""The first key is for trying things out, benchmarks too: a limit that does not get in the way."""


async def issue_key(
    conn: Connection,
    store: Store,
    *,
    user_id: UUID,
    key_id: UUID,
    noise: bytes,
    name: str,
    scopes: frozenset[Scope],
    rate_limit: int,
    expires_at: datetime | None,
    now: datetime,
    parent_key_id: UUID | None = None,
    limits: KeyLimits = NO_LIMITS,
) -> NewKey:
    """Make a key of `noise` (24 random bytes) for a user; its rights are not judged here.

    The key is in the result and nowhere else. Raises UserNotFound.
    """
    key = key_from_random(noise)
    record = await store.insert_key(
        conn,
        key_id=key_id,
        user_id=user_id,
        key_hash=key_hash(key),
        prefix=key_prefix(key),
        name=name,
        scopes=scopes,
        rate_limit=rate_limit,
        expires_at=expires_at,
        now=now,
        parent_key_id=parent_key_id,
        limits=limits,
    )
    return NewKey(key, record)


async def rotate_key(
    conn: Connection,
    store: Store,
    *,
    key_id: UUID,
    user_id: UUID | None,
    noise: bytes,
    overlap_s: int,
    now: datetime,
) -> NewKey:
    """Give a key another secret of `noise`; its id, limits, budgets and children stay.

    The old secret opens the door for `overlap_s` seconds more, one replaced before no longer.
    Raises KeyNotFound, for a revoked key too.
    """
    key = key_from_random(noise)
    record = await store.rotate_key(
        conn,
        key_id=key_id,
        user_id=user_id,
        key_hash=key_hash(key),
        prefix=key_prefix(key),
        previous_until=now + timedelta(seconds=overlap_s),
    )
    return NewKey(key, record)


async def make_child_key(
    conn: Connection,
    store: Store,
    *,
    parent: Principal,
    key_id: UUID,
    noise: bytes,
    name: str,
    scopes: frozenset[Scope],
    rate_limit: int,
    expires_at: datetime | None,
    now: datetime,
    limits: KeyLimits = NO_LIMITS,
) -> NewKey:
    """Make a key for the caller that can do no more than the caller; raises KeyExceedsParent.

    A key made with a key is its child: it ends with it, its calls count against the limits and
    budgets of both, and it may call only models that both may.
    """
    check_child(parent, scopes=scopes, rate_limit=rate_limit, expires_at=expires_at)
    return await issue_key(
        conn,
        store,
        user_id=parent.user_id,
        key_id=key_id,
        noise=noise,
        name=name,
        scopes=scopes,
        rate_limit=rate_limit,
        expires_at=expires_at,
        now=now,
        parent_key_id=parent.api_key_id,
        limits=limits,
    )


async def require_own_key(
    conn: Connection, store: Store, *, caller: Principal, key_id: UUID
) -> None:
    """Raise unless the caller may rename or revoke this key of its user.

    A login may change any of its user's keys; a key itself and those that descend from it, never
    its parent or a sibling. Raises KeyNotFound, for another user's too, or KeyExceedsParent.
    """
    if caller.api_key_id is None:
        return
    if not await store.is_key_within(
        conn, key_id=key_id, within=caller.api_key_id, user_id=caller.user_id
    ):
        raise KeyExceedsParent(
            "a key can change itself and the keys made with it, and no other: log in for that"
        )


async def check_login(passwords: Passwords, facts: LoginFacts | None, *, password: str) -> User:
    """Return the user whose password this is. Holds no connection: it takes a quarter second.

    Raises LoginRefused, after the same time, for an unknown name and for a wrong password;
    AccountSuspended only to who knows the password.
    """
    stored = None if facts is None else facts.password_hash
    if not await passwords.fits(password, stored) or facts is None:
        raise LoginRefused
    if facts.user.status is not UserStatus.ACTIVE:
        raise AccountSuspended
    return facts.user


async def open_session(
    conn: Connection,
    store: Store,
    tokens: SessionTokens,
    *,
    user: User,
    session_id: UUID,
    ttl_s: int,
    now: datetime,
) -> Session:
    """Log a user in: write the session and the time, return the session with its token."""
    session = Session(session_id, user.id, now + timedelta(seconds=ttl_s))
    token = tokens.sign(session, now=now)
    await store.insert_session(conn, session=session, token_hash=token_hash(token), now=now)
    await store.set_last_login(conn, user_id=user.id, now=now)
    return Session(session.id, session.user_id, session.expires_at, token)


async def principal_of_session(
    conn: Connection, store: Store, tokens: SessionTokens, *, token: str, now: datetime
) -> Principal:
    """Return who presents a session token, and count the request.

    Raises SessionInvalid, or AccountSuspended.
    """
    session_id, user_id = tokens.read(token)
    facts = await store.use_session(
        conn, session_id=session_id, user_id=user_id, token_hash=token_hash(token), now=now
    )
    if facts is None:
        raise SessionInvalid
    if facts.user_status is not UserStatus.ACTIVE:
        raise AccountSuspended
    return Principal(
        user_id=user_id,
        role=facts.user_role,
        scopes=scopes_of_role(facts.user_role),
        session_id=session_id,
        expires_at=facts.session.expires_at,
    )


async def change_status(
    conn: Connection, store: Store, *, user_id: UUID, status: UserStatus, now: datetime
) -> User:
    """Suspend, delete or activate an account; its sessions end when it is not active.

    Raises UserNotFound; LastAdmin when nobody would be left to run Helix.
    """
    if status is not UserStatus.ACTIVE:
        if await store.lock_admins(conn) == [user_id]:
            raise LastAdmin
        await store.revoke_sessions(conn, user_id=user_id, now=now)
    return await store.set_status(conn, user_id=user_id, status=status)


async def change_role(conn: Connection, store: Store, *, user_id: UUID, role: UserRole) -> User:
    """Change what an account is; raises UserNotFound, or LastAdmin."""
    if role is not UserRole.ADMIN and await store.lock_admins(conn) == [user_id]:
        raise LastAdmin
    return await store.set_role(conn, user_id=user_id, role=role)


async def change_password(
    conn: Connection, store: Store, *, user_id: UUID, password_hash: str, now: datetime
) -> None:
    """Replace a password and end every session that the old one opened; raises UserNotFound."""
    await store.set_password(conn, user_id=user_id, password_hash=password_hash)
    await store.revoke_sessions(conn, user_id=user_id, now=now)


async def bootstrap(
    conn: Connection,
    store: Store,
    *,
    user_id: UUID,
    key_id: UUID,
    noise: bytes,
    password_hash: str,
    now: datetime,
) -> NewKey | None:
    """Make the first admin and a key with every scope, unless there is an admin already.

    Two that start at once wait for each other; the second finds the first's admin.
    """
    await store.lock_bootstrap(conn)
    if await store.count_admins(conn):
        return None
    await store.insert_user(
        conn,
        user_id=user_id,
        email="admin@localhost",
        username="admin",
        name="First admin",
        role=UserRole.ADMIN,
        password_hash=password_hash,
    )
    return await issue_key(
        conn,
        store,
        user_id=user_id,
        key_id=key_id,
        noise=noise,
        name="first key",
        scopes=frozenset(Scope),
        rate_limit=BOOTSTRAP_RATE_LIMIT,
        expires_at=None,
        now=now,
    )
