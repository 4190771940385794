"""What every adapter needs to list models and to ask whether a provider serves."""

from collections.abc import Awaitable, Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from helix.core.clock import Clock
from helix.core.errors import HelixError
from helix.providers.errors import ProviderUnusable, UpstreamBroken
from helix.providers.http import HttpClient, HttpReply, Target
from helix.providers.types import ListedModel, Probe, Provider

__all__ = ["UpstreamStatus", "count", "listed", "probed", "read_all", "read_list", "target_of"]

T = TypeVar("T")

LISTED_MAX = 5_000
LIST_BYTES_MAX = 8_000_000
COUNT_MAX = 2**53
_COMMON: Final = {
    "Accept": "application/json, text/event-stream, application/x-ndjson",
    "Accept-Encoding": "identity",
    "User-Agent": "helix",
}


class UpstreamStatus(UpstreamBroken):
    """The provider answered a question of Helix's own with a status that is no success."""

    def __init__(self, name: str, what: str, status: int, retry_after: str | None) -> None:
        super().__init__(name, f"{what} gave status {status}")
        self.upstream_status = status
        self.upstream_retry_after = retry_after


def target_of(provider: Provider, method: str, path: str, headers: Mapping[str, str]) -> Target:
    """Return the target of requests to `path` below a provider's base URL.

    Raises ProviderUnusable for an address or a key that cannot be sent.
    """
    given = {**_COMMON, **headers}
    if method == "POST":
        given["Content-Type"] = "application/json"
    try:
        return Target.of(
            provider.name, method, provider.base_url + path, given, private=provider.private
        )
    except ValueError as exc:
        raise ProviderUnusable(provider.name, str(exc)) from exc


async def read_all(reply: HttpReply, bytes_max: int) -> bytes:
    """Return the rest of an answer, at most about so many bytes of it; it is not closed."""
    body = bytearray()
    while len(body) <= bytes_max and (data := await reply.chunk()):
        body += data
    return bytes(body)


async def read_list(http: HttpClient, target: Target, shape: type[T], what: str) -> T:
    """Ask for a page of a provider's list of models and return it in its shape.

    Raises what `HttpClient.send` does, UpstreamStatus, and UpstreamBroken for anything else.
    """
    reply = await http.send(target, None)
    try:
        if reply.status != 200:
            raise UpstreamStatus(target.name, what, reply.status, reply.retry_after)
        answer = await read_all(reply, LIST_BYTES_MAX)
    finally:
        reply.close()
    if len(answer) > LIST_BYTES_MAX:
        raise UpstreamBroken(target.name, f"{what} gave more than {LIST_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(answer, type=shape)
    except msgspec.ValidationError as exc:
        raise UpstreamBroken(target.name, "its list of models cannot be read") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamBroken(target.name, f"{what} gave no JSON") from exc


def listed(models: Iterable[ListedModel]) -> list[ListedModel]:
    """Return the models that can be named in a call, each once, by name, at most LISTED_MAX."""
    usable = {m.name: m for m in models if 0 < len(m.name) <= 255 and m.name.isprintable()}
    return [usable[name] for name in sorted(usable)][:LISTED_MAX]


def count(value: object) -> int | None:
    """Return a number of tokens as a provider told it; None for what is none."""
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None


async def probed(clock: Clock, asking: Awaitable[list[ListedModel]]) -> Probe:
    """Return how asking for the models went, and how long it took."""
    begun = clock.monotonic_s()
    try:
        found = await asking
    except UpstreamStatus as exc:
        return Probe(
            _since_ms(clock, begun),
            exc.upstream_status,
            problem=exc.message,
            retry_after=exc.upstream_retry_after,
        )
    except HelixError as exc:
        return Probe(_since_ms(clock, begun), problem=exc.message)
    return Probe(_since_ms(clock, begun), 200, len(found))


def _since_ms(clock: Clock, begun: float) -> float:
    return (clock.monotonic_s() - begun) * 1_000
