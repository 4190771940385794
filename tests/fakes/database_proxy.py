"""A way to PostgreSQL that can be cut, frozen, or made to lose the server's answers."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class DatabaseProxy:
    """Stands in front of a server's socket. `url` leads through it."""

    def __init__(self, url: str, directory: Path) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        port = query.get("port", ["5432"])[0]
        self._real = f"{query['host'][0]}/.s.PGSQL.{port}"
        self._place = directory / f".s.PGSQL.{port}"
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path}?host={directory}&port={port}"
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._answers = asyncio.Event()

    async def start(self) -> None:
        """Let everything through, again."""
        self._flows.set()
        self._answers.set()
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._serve, self._place)

    async def cut(self) -> None:
        """Break every connection and take no new ones, as a stopped server does."""
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(FileNotFoundError):
                self._place.unlink()
        await self.drop()

    async def drop(self) -> None:
        """Break every connection; new ones are taken."""
        for writer in list(self._writers):
            writer.transport.abort()
        self._flows.set()
        self._answers.set()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def freeze(self) -> None:
        """Pass nothing on, either way, and break nothing."""
        self._flows.clear()
        self._answers.clear()

    def lose_answers(self) -> None:
        """Pass on what the client says, and nothing that the server answers."""
        self._answers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        real_reader, real_writer = await asyncio.open_unix_connection(self._real)
        self._writers |= {writer, real_writer}
        try:
            await asyncio.gather(
                _pump(reader, real_writer, self._flows), _pump(real_reader, writer, self._answers)
            )
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(link)
            self._writers -= {writer, real_writer}
            writer.transport.abort()
            real_writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_: asyncio.Event
) -> None:
    while data := await reader.read(65_536):
        await open_.wait()
        writer.write(data)
        await writer.drain()
    raise ConnectionError


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[DatabaseProxy]:
    """Run a proxy in front of `url`, open."""
    with tempfile.TemporaryDirectory(prefix="hxp-") as directory:
        proxy = DatabaseProxy(url, Path(directory))
        await proxy.start()
        try:
            yield proxy
        finally:
            await proxy.cut()
