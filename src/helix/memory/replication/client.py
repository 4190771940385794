"""Calling another node: its feed and its inbox, with its key, at an address an operator gave."""

import gzip
import socket
import zlib
from collections.abc import Collection
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from helix.core.addresses import refusal_of_address
from helix.core.errors import BadInput, Misuse, TooLarge
from helix.memory.replication.errors import PeerFailed
from helix.memory.replication.types import Batch, Peer

__all__ = ["BATCH_BYTES_MAX", "NodeClient", "check_node_url", "pack", "unpack"]

BATCH_BYTES_MAX = 64_000_000
TIMEOUT_S = 30.0
PATH = "/api/memory/replication/events"
_PLAIN_MAX = 1_000  # shorter bodies are not worth compressing


def check_node_url(url: str, *, allowed_hosts: Collection[str]) -> str:
    """Return a node's base URL without its last slash. Raises Misuse for what cannot be one.

    Only https, but for hosts in HELIX_MEMORY_NODE_HOSTS (`host` or `host:port`), which may also be
    plain http and in a private network. Addresses are checked again when they are called.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise Misuse("the node's URL cannot be read") from exc
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise Misuse("the node's URL has a user, query or fragment; give https://host:port")
    if not host.isascii():
        raise Misuse("the node's host is written in ASCII, other scripts as xn--…")
    if not host or parts.scheme not in {"http", "https"}:
        raise Misuse("the node's URL must look like https://host:port")
    allowed = host in allowed_hosts or f"{host}:{port}" in allowed_hosts
    if parts.scheme == "http" and not allowed:
        raise Misuse(
            f"memories go to {host} over https only; in a network you trust, name the host in "
            "HELIX_MEMORY_NODE_HOSTS"
        )
    return url.rstrip("/")


def pack(batch: Batch, *, compress: bool) -> tuple[bytes, bool]:
    """Return a batch as it travels, and whether it is gzipped."""
    body = msgspec.json.encode(batch)
    if compress and len(body) > _PLAIN_MAX:
        return gzip.compress(body, compresslevel=6, mtime=0), True
    return body, False


def unpack(body: bytes, *, gzipped: bool) -> Batch:
    """Read a batch. Raises TooLarge beyond 64 MB of JSON, BadInput for anything but a batch."""
    if gzipped:
        opener = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            body = opener.decompress(body, BATCH_BYTES_MAX + 1)
        except zlib.error as exc:
            raise BadInput("the batch says it is gzipped and is not") from exc
        if not opener.eof and len(body) <= BATCH_BYTES_MAX:
            raise BadInput("the gzipped batch ends too soon")
    if len(body) > BATCH_BYTES_MAX:
        raise TooLarge(f"a batch of more than {BATCH_BYTES_MAX} bytes: send fewer events")
    try:
        return msgspec.json.decode(body, type=Batch)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise BadInput(f"not a batch of events: {exc}") from exc


class _Resolver(AbstractResolver):
    """Resolves to addresses that may be called; the connection goes to the very one checked."""

    def __init__(self, allowed_hosts: Collection[str]) -> None:
        self._inner = ThreadedResolver()
        self._allowed = allowed_hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        private = host in self._allowed or f"{host}:{port}" in self._allowed
        found = await self._inner.resolve(host, port, family)
        fit = [one for one in found if refusal_of_address(one["host"], private=private) is None]
        if not fit:
            raise OSError(f"{host} has no address that may be called")
        return fit

    async def close(self) -> None:
        await self._inner.close()


def _socket(address: Any, *, private: bool) -> socket.socket:
    """Open the socket of a connection; the last look at where it goes, however it was spelt."""
    family, kind, protocol, _, where = address
    refusal = refusal_of_address(str(where[0]), private=private)
    if refusal is not None:
        raise OSError(refusal)
    return socket.socket(family, kind, protocol)


class NodeClient:
    """Calls other nodes. Redirects are not followed: they would lead around the checks."""

    def __init__(self, *, allowed_hosts: Collection[str] = (), compress: bool = True) -> None:
        self._allowed = frozenset(allowed_hosts)
        self._compress = compress
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Close the connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _calls(self, peer: Peer) -> aiohttp.ClientSession:
        host, port = urlsplit(peer.url).hostname or "", urlsplit(peer.url).port
        private = host in self._allowed or f"{host}:{port}" in self._allowed
        refusal = refusal_of_address(host, private=private)
        if refusal is not None and refusal != "its address cannot be read":  # a name, not a number
            raise PeerFailed(f"node {peer.name}: {refusal}; see HELIX_MEMORY_NODE_HOSTS")
        if private not in self._sessions:
            self._sessions[private] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_Resolver(self._allowed),
                    limit=20,
                    use_dns_cache=False,
                    socket_factory=partial(_socket, private=private),
                ),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                auto_decompress=False,
                trust_env=False,
            )
        return self._sessions[private]

    def _headers(self, peer: Peer) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {peer.key}", "User-Agent": "Helix-Node/1"}
        return {**headers, "Accept-Encoding": "gzip"} if self._compress else headers

    async def pull(self, peer: Peer, *, reader: str, after: str | None, limit: int) -> Batch:
        """Return the next events of a node's feed. Raises PeerFailed."""
        params = {"node": reader, "limit": str(limit)} | ({"after": after} if after else {})
        try:
            async with self._calls(peer).get(
                peer.url + PATH, params=params, headers=self._headers(peer), allow_redirects=False
            ) as answer:
                body = await self._read(peer, answer)
                gzipped = answer.headers.get("Content-Encoding") == "gzip"
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise PeerFailed(f"node {peer.name}: {type(exc).__name__}") from exc
        return unpack(body, gzipped=gzipped)

    async def push(self, peer: Peer, batch: Batch) -> None:
        """Give a node events. Raises PeerFailed."""
        body, gzipped = pack(batch, compress=self._compress)
        headers = {**self._headers(peer), "Content-Type": "application/json"}
        if gzipped:
            headers["Content-Encoding"] = "gzip"
        try:
            async with self._calls(peer).post(
                peer.url + PATH, data=body, headers=headers, allow_redirects=False
            ) as answer:
                await self._read(peer, answer)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise PeerFailed(f"node {peer.name}: {type(exc).__name__}") from exc

    async def _read(self, peer: Peer, answer: aiohttp.ClientResponse) -> bytes:
        if answer.status != 200:
            raise PeerFailed(f"node {peer.name}: HTTP {answer.status}")
        body = await answer.content.read(BATCH_BYTES_MAX + 1)
        parts = [body]
        held = len(body)
        while body and held <= BATCH_BYTES_MAX:
            body = await answer.content.read(BATCH_BYTES_MAX + 1)
            parts.append(body)
            held += len(body)
        if held > BATCH_BYTES_MAX:
            raise PeerFailed(f"node {peer.name}: an answer of more than {BATCH_BYTES_MAX} bytes")
        return b"".join(parts)
