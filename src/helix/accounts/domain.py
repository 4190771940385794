"""Accounts put together: what the server and the gateway hold of this domain."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from helix.accounts import service
from helix.accounts.errors import RateLimited, ScopeMissing
from helix.accounts.keys import KeyGate, bearer
from helix.accounts.passwords import NO_PASSWORD, Passwords
from helix.accounts.policy import KEY_MARK, RANDOM_BYTES
from helix.accounts.rates import RateWindows
from helix.accounts.sessions import SessionTokens
from helix.accounts.store import Store
from helix.accounts.types import Principal, Scope
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
    rates: RateWindows
    passwords: Passwords
    tokens: SessionTokens
    clock: Clock
    session_ttl_s: int

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
        """Let a call in by its key: known, of one of these scopes, within its requests per minute.

        Raises what KeyGate.authenticate does, ScopeMissing, or RateLimited.
        """
        principal = await self.keys.authenticate(authorization)
        if scope not in principal.scopes and principal.scopes.isdisjoint(or_scopes):
            raise ScopeMissing(scope.value)
        if principal.api_key_id is not None and principal.rate_limit is not None:
            wait_s = self.rates.take(
                principal.api_key_id, principal.rate_limit, self.clock.monotonic_s()
            )
            if wait_s is not None:
                raise RateLimited(principal.rate_limit, wait_s)
        return principal

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
    signing_keys: Sequence[tuple[str, bytes]],
    clock: Clock | None = None,
) -> Accounts:
    """Put the domain together. `signing_keys`: pairs of key id and 32 bytes, newest first."""
    clock = clock or SystemClock()
    store = Store()
    return Accounts(
        db=db,
        store=store,
        keys=KeyGate(db, store, clock, cache_s=settings.key_cache_s),
        rates=RateWindows(),
        passwords=Passwords(settings.bcrypt_cost),
        tokens=SessionTokens(signing_keys),
        clock=clock,
        session_ttl_s=settings.session_ttl_s,
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
