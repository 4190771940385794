"""Addresses that Helix must never call, in every spelling there is (N1).

    python -m rigs.outbound [--rounds 5] [--short]

A canary listens on every address of this machine. It is named in some 70 forms (decimal, octal and
hexadecimal numbers, IPv6 with an IPv4 address within, user information, odd schemes, names that
resolve to it at once, the second time or among others), as each thing that Helix calls by itself:
the base URL of a provider, an endpoint tested, the list of models, a webhook, a node of memory, and
the target of redirects from a provider that may be called. Nothing connects to the canary, no
connection goes to an address that was not looked at, and no answer tells what a redirect said.

Most is done in this process, where names can be made to resolve at will and a connection to an
outside address is noted and refused; redirects, and providers added over HTTP, by a whole Helix. As
a control the canary is called by a provider that may stand there, and by a client that follows
redirects: both must be seen. Exit status 1 when something was not as promised.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import aiohttp
from aiohttp import web

from bench.machine import facts
from bench.processes import Helix, start
from helix.core.errors import HelixError
from helix.memory.replication.client import NodeClient, check_node_url
from helix.memory.replication.types import Peer
from helix.providers.fetching import read_url
from helix.providers.http import HttpClient, HttpLimits, Target
from helix.providers.policy import check_base_url
from helix.tasks.webhooks import WebhookSender
from rigs.gateways import add_provider, make_key, verdict

LIMITS = HttpLimits(2.0, 2.0, 2.0, 1_000_000)
STATUSES = (301, 302, 303, 307, 308, 300)
OUTSIDE = "1.1.1.1"
"""A public address that names resolve to; nothing is ever sent there."""

SECRET = "what-only-the-redirect-says"
_HOSTS = """
127.0.0.1 127.1 127.0.1 127.000.000.001 127.0.0.2 127.255.255.254 2130706433 0x7f000001 0x7f.0.0.1
0177.0.0.1 017700000001 0x7f.1 0177.1 127.0.0.1. localhost LOCALHOST localhost. ip6-localhost
0.0.0.0 0 0x0 0.0.0.0. [::] [::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1]
[0:0:0:0:0:ffff:7f00:0001] [::127.0.0.1] [::7f00:1] [64:ff9b::127.0.0.1] [64:ff9b::7f00:1]
[64:ff9b:1::7f00:1] [2002:7f00:1::] [2002:7f00:1::1] [2001:0:7f00:1::] [fe80::1] [fe80::1%25lo]
[fec0::1] [fc00::1] [fd00:ec2::254] [ff02::1] 169.254.169.254 169.254.169.254. 2852039166
0xa9fea9fe 0251.0376.0251.0376 [::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [64:ff9b::a9fe:a9fe]
[2002:a9fe:a9fe::] 100.100.100.200 168.63.129.16 192.0.0.192 10.0.0.1 172.16.0.1 192.168.0.1
100.64.0.1 198.18.0.1 224.0.0.1 255.255.255.255 240.0.0.1 canary.test twice.test among.test
alias.test mapped.test %31%32%37.0.0.1 １２７.0.0.1 127。0。0。1 ⑫⑦.0.0.1 ①②⑦.⓪.⓪.①
""".split()
_WHOLE = """
http://user@127.0.0.1:{port}/ http://user:pass@127.0.0.1:{port}/ http://example.com@127.0.0.1:{port}/
http://127.0.0.1:{port}#@example.com/ http://example.com:80@127.0.0.1:{port}/
http://example.com\\@127.0.0.1:{port}/ http://127.0.0.1:{port}\\.example.com/
http:///127.0.0.1:{port}/ http:127.0.0.1:{port}/ http:\\\\127.0.0.1:{port}/ //127.0.0.1:{port}/
http://[::1]:{port}\\@example.com/ http://127.0.0.1:{port}?@example.com/
file:///etc/passwd file://127.0.0.1/etc/passwd unix:/var/run/docker.sock http+unix://%2Ftmp%2Fs/
gopher://127.0.0.1:{port}/_GET ftp://127.0.0.1:{port}/ dict://127.0.0.1:{port}/ data:,x
jar:http://127.0.0.1:{port}!/ ws://127.0.0.1:{port}/ HTTP://127.0.0.1:{port}/
""".split()


def forms(port: int) -> list[str]:
    """Return every URL that names the canary, or what else must not be called."""
    hosts = [f"{scheme}://{host}:{port}" for scheme in ("http", "https") for host in _HOSTS]
    return [*(f"{url}/v1" for url in hosts), *(one.format(port=port) for one in _WHOLE)]


class Canary:
    """Listens everywhere on one port; `hits` are those who came."""

    def __init__(self) -> None:
        self.hits = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Canary":
        every = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port = every.getsockname()[1]
        self._server = await asyncio.start_server(self._met, sock=every)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hits += 1
        body = b'{"data": [{"id": "CANARY"}]}'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        writer.write(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()


@dataclass
class Network:
    """Names resolve as the rig says; `went` are the outside addresses somebody would connect to."""

    turns: Iterator[int] = field(default_factory=itertools.count)
    went: Counter[str] = field(default_factory=Counter)

    def addresses(self, host: str) -> Sequence[str] | None:
        """Return what a name of the rig's resolves to; None for others."""
        twice = [OUTSIDE] if next(self.turns) % 2 == 0 else ["127.0.0.1"]
        told = {
            "canary.test": ["127.0.0.1"],
            "twice.test": twice,
            "among.test": [OUTSIDE, "127.0.0.1", "::1"],
            "alias.test": ["169.254.169.254"],
            "mapped.test": ["::ffff:127.0.0.1"],
            "ip6-localhost": ["::1"],
        }
        return told.get(host.rstrip("."))

    @contextmanager
    def within(self) -> Iterator[None]:
        """Let the names of the rig resolve, and nothing connect to anywhere but this machine."""
        resolve, loop = socket.getaddrinfo, asyncio.get_running_loop()
        connect = loop.sock_connect

        def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
            found = self.addresses(str(host))
            if found is None:
                return resolve(host, port, *rest, **more)
            return [entry for one in found for entry in resolve(one, port, *rest, **more)]

        async def sock_connect(sock: socket.socket, address: Any) -> None:
            if not _is_here(str(address[0])):
                self.went[str(address[0])] += 1
                raise ConnectionRefusedError(f"{address[0]} is outside")
            await connect(sock, address)

        with (
            patch.object(socket, "getaddrinfo", getaddrinfo),
            patch.object(loop, "sock_connect", sock_connect),
        ):
            yield


def _is_here(address: str) -> bool:
    return address.startswith(("127.", "::1", "0.", "::ffff:127.")) or address in {"::", "0.0.0.0"}


class Callers:
    """Everything in Helix that calls an address somebody gave it."""

    def __init__(self) -> None:
        self.http = HttpClient(LIMITS)
        self.webhooks = WebhookSender(lambda _: [b"secret"])
        self.nodes = NodeClient()

    async def provider(self, url: str) -> None:
        """Call a provider that may not stand at a private address."""
        target = Target.of("p", "POST", check_base_url(url), {}, private=False)
        (await self.http.send(target, b"{}")).close()

    async def private_provider(self, url: str) -> None:
        """Call a provider that may; at what is nobody's provider it may not either."""
        if "169.254" in url or "a9fe" in url or "0251" in url or "alias" in url:
            target = Target.of("p", "POST", check_base_url(url), {}, private=True)
            (await self.http.send(target, b"{}")).close()

    async def catalogue(self, url: str) -> None:
        """Read the catalogue of models from an address."""
        await read_url(self.http, url, 1_000)

    async def webhook(self, url: str) -> None:
        """Deliver a webhook."""
        message = {"url": url, "payload": "{}", "user_id": None, "event_type": "x", "id": uuid4()}
        await self.webhooks.send(message)

    async def node(self, url: str) -> None:
        """Ask a node for its events."""
        await self.nodes.pull(
            _peer(check_node_url(url, allowed_hosts=())), reader="r", after=None, limit=1
        )

    async def stop(self) -> None:
        """Close every connection."""
        await self.http.stop()
        await self.webhooks.close()
        await self.nodes.close()


def _peer(url: str) -> Peer:
    return Peer(id=uuid4(), name="n", url=url, key="k", node_id="n")


async def _in_process(canary: Canary, rounds: int) -> tuple[int, list[str]]:
    network, callers, tries = Network(), Callers(), 0
    callers.http.start()
    problems = []
    kinds = (
        callers.provider,
        callers.private_provider,
        callers.catalogue,
        callers.webhook,
        callers.node,
    )
    with network.within():
        for _ in range(rounds):
            for url in forms(canary.port):
                for call in kinds:
                    before = canary.hits
                    with contextlib.suppress(HelixError, ValueError, OSError, aiohttp.ClientError):
                        async with asyncio.timeout(5):
                            await call(url)
                    tries += 1
                    if canary.hits != before:
                        problems.append(f"N1: {call.__name__} called {url}")
    await callers.stop()
    elsewhere = network.went.keys() - {OUTSIDE}
    problems += [f"N1: a connection went to {address}" for address in sorted(elsewhere)]
    return tries, problems


# ---- a whole Helix


@asynccontextmanager
async def _redirecting(canary: Canary) -> AsyncIterator[tuple[int, list[str]]]:
    """Serve a provider that redirects each call to the next of the forms."""
    turns = itertools.cycle(
        (status, url) for status in STATUSES for url in forms(canary.port) if url.isascii()
    )
    told: list[str] = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        await request.read()
        if request.path == "/control":
            raise web.HTTPFound(f"http://127.0.0.1:{canary.port}/")
        status, url = next(turns)
        told.append(url)
        headers = {"Location": url, "Refresh": f"0; url={url}", "Content-Location": url}
        body = json.dumps({"error": {"message": SECRET}, "data": [{"id": SECRET}]})
        return web.Response(
            status=status, headers=headers, text=body, content_type="application/json"
        )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", redirect)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1], told
    await runner.cleanup()


@dataclass
class Asking:
    """A client of a whole Helix."""

    helix: Helix
    key: str
    session: aiohttp.ClientSession
    answers: list[str] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> int:
        """Make a request, and keep what came back."""
        headers = {"Authorization": f"Bearer {self.key}"}
        async with self.session.request(
            method, f"{self.helix.url}{path}", json=body, headers=headers
        ) as answer:
            self.answers.append(await answer.text())
            return answer.status

    async def chat(self, model: str, *, stream: bool, **fields: Any) -> int:
        """Make a call."""
        messages = [{"role": "user", "content": "hello"}]
        body = {"model": model, "stream": stream, "messages": messages, **fields}
        return await self.ask("POST", "/v1/chat/completions", body)


async def _whole(canary: Canary, asking: Asking, port: int) -> tuple[int, list[str]]:
    """Add providers at every form, and call one that redirects; return tries and problems."""
    tries, problems = 0, []
    for url in forms(canary.port):
        before = canary.hits
        body = {"name": "evil", "base_url": url, "models": ["m"], "private": False}
        if await asking.ask("POST", "/api/providers", body) == 201:
            await asking.ask("POST", "/api/providers/evil/test")
            await asking.chat("evil/m", stream=False)
            await asking.ask("DELETE", "/api/providers/evil")
        own = {"api_base": url, "base_url": url, "image_url": {"url": url}, "webhook_url": url}
        await asking.chat("mock/echo", stream=False, **own)
        await asking.ask(
            "POST",
            "/v1/responses",
            {"model": "mock/echo", "input": [{"role": "user", "content": [
                {"type": "input_image", "image_url": url}]}]},
        )  # fmt: skip
        tries += 4
        if canary.hits != before:
            problems.append(f"N1: {url} was called, given over HTTP")
    await asyncio.to_thread(add_provider, asking.helix, "rig", port)
    turns = len(STATUSES) * len([url for url in forms(canary.port) if url.isascii()])
    for number in range(turns):
        before = canary.hits
        await asking.chat(f"rig/m{number}", stream=number % 2 == 1)  # a breaker of its own
        if number % 20 == 0:
            await asking.ask("POST", "/api/providers/rig/test")
        tries += 1
        if canary.hits != before:
            problems.append(f"N1: redirect {number} was followed")
    problems += [f"N1: an answer tells {SECRET}" for told in asking.answers if SECRET in told][:3]
    problems += [f"N1: an answer tells {told}" for told in asking.answers if "CANARY" in told][:3]
    return tries, problems


async def _controls(canary: Canary, asking: Asking, port: int) -> list[str]:
    """Let the canary be called where it may be; return what was not seen."""
    missed, before = [], canary.hits
    body = {
        "name": "friend",
        "base_url": f"http://127.0.0.1:{canary.port}/v1",
        "models": ["m"],
        "private": True,
    }
    await asking.ask("POST", "/api/providers", body)
    await asking.chat("friend/m", stream=False)
    if canary.hits == before:
        missed.append("a provider at the canary's address")
    before = canary.hits
    async with asking.session.get(f"http://127.0.0.1:{port}/control") as answer:
        await answer.read()
    if canary.hits == before:
        missed.append("a client that follows redirects")
    return missed


async def _run(given: argparse.Namespace, home: Path) -> int:
    async with Canary() as canary, _redirecting(canary) as (port, told):
        tries, problems = await _in_process(canary, given.rounds)
        print(f"N1: {tries} tries by five callers in {len(forms(1))} forms, {canary.hits} arrived")
        extra = {"HELIX_PROBE_INTERVAL_S": "0", "HELIX_CONNECT_TIMEOUT_S": "1"}
        helix = await asyncio.to_thread(start, home, extra=extra)
        try:
            key = await asyncio.to_thread(make_key, helix, "completions", "admin")
            async with aiohttp.ClientSession() as session:
                asking = Asking(helix, key, session)
                more, found = await _whole(canary, asking, port)
                print(f"N1: {more} over HTTP, {len(told)} redirects told, {canary.hits} arrived")
                missed = await _controls(canary, asking, port)
        finally:
            helix.process.terminate()
            await asyncio.to_thread(helix.process.wait, 60)
    print(f"N1: {tries + more} tries in all")
    return verdict(problems + found, missed)


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="1 round")
    given = parser.parse_args()
    if given.short:
        given.rounds = 1
    print(facts())
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        status = asyncio.run(_run(given, Path(name) / "home"))
    sys.exit(status)


if __name__ == "__main__":
    main()
