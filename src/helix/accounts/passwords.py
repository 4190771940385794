"""Passwords: bcrypt, away from the event loop, a bounded number at a time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import bcrypt

from helix.accounts.errors import LoginBusy
from helix.accounts.policy import PASSWORD_BYTES_MAX, check_password

__all__ = ["NO_PASSWORD", "Passwords", "hash_now"]

T = TypeVar("T")

NO_PASSWORD = "!"  # noqa: S105 - fits no password
"""Stands in users.password_hash where an account has no password."""

WAITING_MAX = 32
_WORKERS = 1  # a quarter of a second of CPU each: more would take the processor from calls
_NOBODY = "$2b${cost:02d}$pLwpJT5HnX35PBE/z7a/8.1zDDYwSEiU9ACTi12z5bkwzHzWm8sB2"  # well formed


def hash_now(password: str, cost: int) -> str:
    """Return the hash to store, made here and now; for commands. Raises BadPassword."""
    check_password(password)
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()


class Passwords:
    """Makes and checks password hashes of one cost; more than 32 waiting are refused."""

    def __init__(self, cost: int) -> None:
        self._cost = cost
        self._pool = ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="helix-bcrypt")
        self._waiting = 0

    def close(self) -> None:
        """Let the threads go; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """Return the hash to store; raises BadPassword, or LoginBusy."""
        check_password(password)
        salt = bcrypt.gensalt(self._cost)
        hashed = await self._run(bcrypt.hashpw, password.encode(), salt)
        return hashed.decode()

    async def fits(self, password: str, stored: str | None) -> bool:
        """Say whether `password` fits; takes the same time when there is no hash to fit.

        A password that could never have been stored (NUL, too long) fits nothing.
        """
        given = password.encode("utf-8", "replace")
        storable = b"\0" not in given and len(given) <= PASSWORD_BYTES_MAX
        known = stored is not None and stored != NO_PASSWORD
        against = stored if stored is not None and known else _NOBODY.format(cost=self._cost)
        right = await self._run(
            bcrypt.checkpw, given if storable else b"unstorable", against.encode()
        )
        return right and storable and known

    async def _run(self, work: Callable[[bytes, bytes], T], first: bytes, second: bytes) -> T:
        if self._waiting >= WAITING_MAX:
            raise LoginBusy
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, first, second)
        finally:
            self._waiting -= 1
