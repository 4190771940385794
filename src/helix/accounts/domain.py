"""Accounts put together: what the server and the gateway hold of this domain."""

import os
from dataclasses import dataclass
from uuid import UUID, uuid4

from helix.accounts import service
from helix.accounts.errors import AccountSuspended, ScopeMissing
from helix.accounts.keys import KeyGate, bearer
from helix.accounts.passwords import NO_PASSWORD, Passwords
from helix.accounts.policy import KEY_MARK, RANDOM_BYTES, scopes_of_role
from helix.accounts.sessions import SessionTokens, SigningKeys
from helix.accounts.store import Store
from helix.accounts.types import Principal, Scope, UserStatus
from helix.core.clock import Clock, SystemClock
from helix.core.config import Settings
from helix.core.db import Database, Role

__all__ = ["Accounts", "bootstrap_admin", "build", "issue_admin_key"]


@dataclass(frozen=True, slots=True)
class Accounts:
    """Who may do what. `start` and `stop` it with the server."""

    db: Database
    store: Store
    keys: KeyGate
    passwords: Passwords
    tokens: SessionTokens
    clock: Clock
    session_ttl_s: int
    open_registration: bool

    def start(self) -> None:
        """Begin the work in the background."""
        self.keys.start()

    async def stop(self) -> None:
        """Write what is left to write and let the threads go."""
        await self.keys.stop()
        self.passwords.close()

    async def admit(
        self, authorization: bytes | None, scope: Scope, *or_scopes: Scope
    ) -> Principal:
        """Let a caller in by its key: known, and of one of these scopes.

        Its limits and budgets are judged when the call is recorded (helix_admit). Raises what
        KeyGate.authenticate does, or ScopeMissing.
        """
        principal = await self.keys.authenticate(authorization)
        if scope not in principal.scopes and principal.scopes.isdisjoint(or_scopes):
            raise ScopeMissing(scope.value)
        return principal

    async def on_behalf(self, user_id: UUID) -> Principal:
        """Return a user as the caller of what Helix does for them, such as a task.

        It has the scopes of a login, and no key. Raises UserNotFound, or AccountSuspended.
        """
        async with self.db.connection(Role.OPERATOR) as conn:
            user = await self.store.get_user(conn, user_id=user_id)
        if user.status is not UserStatus.ACTIVE:
            raise AccountSuspended
        return Principal(user_id=user.id, role=user.role, scopes=scopes_of_role(user.role))

    async def identify(self, authorization: bytes | None) -> Principal:
        """Return who calls, by API key or by session token; for all that is not a hot path."""
        credential = bearer(authorization, chars_max=2_048)
        if credential.startswith(KEY_MARK):
            return await self.keys.authenticate(authorization)
        async with self.db.transaction(Role.OPERATOR) as conn:
            return await service.principal_of_session(
                conn, self.store, self.tokens, token=credential, now=self.clock.now()
            )


def build(
    db: Database,
    settings: Settings,
    *,
    signing_keys: SigningKeys,
    clock: Clock | None = None,
) -> Accounts:
    """Put the domain together; `signing_keys` sign the tokens of logins."""
    clock = clock or SystemClock()
    store = Store()
    return Accounts(
        db=db,
        store=store,
        keys=KeyGate(db, store, clock, cache_s=settings.key_cache_s),
        passwords=Passwords(settings.bcrypt_cost),
        tokens=SessionTokens(signing_keys),
        clock=clock,
        session_ttl_s=settings.session_ttl_s,
        open_registration=settings.open_registration,
    )


async def bootstrap_admin(db: Database, *, clock: Clock | None = None) -> str | None:
    """Make the first admin and a key with every scope; return the key, shown this once.

    Returns None when there is an admin already. Of two processes that start at once exactly one
    gets a key. The account has no password until `helix users set-password admin@localhost`.
    """
    async with db.transaction(Role.OPERATOR) as conn:
        made = await service.bootstrap(
            conn,
            Store(),
            user_id=uuid4(),
            key_id=uuid4(),
            noise=os.urandom(RANDOM_BYTES),
            password_hash=NO_PASSWORD,
            now=(clock or SystemClock()).now(),
        )
    return None if made is None else made.key


async def issue_admin_key(db: Database, *, name: str, clock: Clock | None = None) -> str | None:
    """Make another key with every scope for the first active admin; None when there is no admin.

    For whoever runs Helix on a database whose first key another home was shown.
    """
    store = Store()
    async with db.transaction(Role.OPERATOR) as conn:
        admins = await store.lock_admins(conn)
        if not admins:
            return None
        made = await service.issue_key(
            conn,
            store,
            user_id=admins[0],
            key_id=uuid4(),
            noise=os.urandom(RANDOM_BYTES),
            name=name,
            scopes=frozenset(Scope),
            rate_limit=service.BOOTSTRAP_RATE_LIMIT,
            expires_at=None,
            now=(clock or SystemClock()).now(),
        )
    return made.key
