"""Delivers webhook_deliveries: signed, tried again, and never into a private network."""

import socket
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from helix.tasks.errors import WebhookRefused
from helix.tasks.policy import address_allowed, check_webhook_url, sign_webhook

__all__ = ["Delivered", "WebhookSender"]

TIMEOUT_S = 10.0
_ERROR_CHARS_MAX = 500


class Delivered:
    """How one delivery went: `code` is the HTTP status, None without an answer."""

    def __init__(self, code: int | None, error: str | None) -> None:
        self.code = code
        self.error = error
        self.ok = error is None


class _PublicResolver(AbstractResolver):
    """Resolves names to public addresses only.

    The connection is made to the very address that was checked here, so a name that resolves
    differently the second time (DNS rebinding) gains nothing.
    """

    def __init__(self, allowed_hosts: Collection[str]) -> None:
        self._inner = ThreadedResolver()
        self._allowed = allowed_hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if host in self._allowed or f"{host}:{port}" in self._allowed:
            return found
        public = [entry for entry in found if address_allowed(entry["host"])]
        if not public:
            raise OSError(f"{host} has no public address")
        return public

    async def close(self) -> None:
        await self._inner.close()


def _public_socket(address: Any) -> socket.socket:
    """Open the socket of a connection; the last look at where it goes, however it was spelt.

    A host that is a number is not resolved, and what is a number is for the client to say: it also
    reads digits of other scripts.
    """
    family, kind, protocol, _, where = address
    if not address_allowed(str(where[0])):
        raise OSError(f"{where[0]} is no public address")
    return socket.socket(family, kind, protocol)


class WebhookSender:
    """Sends messages. `secret_for` returns a tenant's signing secrets (None: Helix's own)."""

    def __init__(
        self,
        secret_for: Callable[[UUID | None], Sequence[bytes]],
        *,
        allowed_hosts: Collection[str] = (),
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._secret_for = secret_for
        self._allowed = frozenset(allowed_hosts)
        self._time = unix_time
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _calls(self, url: str) -> aiohttp.ClientSession:
        """Return the session for a URL: one for the operator's exceptions, one for all else."""
        parts = urlsplit(url)
        excepted = not self._allowed.isdisjoint({parts.hostname, f"{parts.hostname}:{parts.port}"})
        if excepted not in self._sessions:
            connector = aiohttp.TCPConnector(
                resolver=_PublicResolver(self._allowed if excepted else ()),
                limit=20,
                use_dns_cache=False,
                socket_factory=None if excepted else _public_socket,
            )
            self._sessions[excepted] = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
            )
        return self._sessions[excepted]

    async def send(self, message: Any) -> Delivered:
        """Deliver one message (a row of `take_deliveries`); a 2xx answer is success.

        Redirects are not followed: they would lead around the check of the address.
        """
        try:
            check_webhook_url(message["url"], allowed_hosts=self._allowed)
        except WebhookRefused as exc:
            return Delivered(None, exc.message)
        body = message["payload"].encode()
        signature = sign_webhook(
            *self._secret_for(message["user_id"]), timestamp=int(self._time()), body=body
        )
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Helix-Webhook/1",
            "Helix-Event": message["event_type"],
            "Helix-Delivery": str(message["id"]),
            "Helix-Signature": signature,
        }
        try:
            async with self._calls(message["url"]).post(
                message["url"], data=body, headers=headers, allow_redirects=False
            ) as answer:
                ok = 200 <= answer.status < 300
                return Delivered(answer.status, None if ok else f"HTTP {answer.status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            return Delivered(None, f"{type(exc).__name__}: {exc}"[:_ERROR_CHARS_MAX])
