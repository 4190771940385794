"""Reading a document from the public network, with the small client and its bounds."""

from helix.providers.errors import UpstreamBroken
from helix.providers.http import HttpClient, Target
from helix.providers.listing import read_all

__all__ = ["read_url"]

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "helix"}


async def read_url(http: HttpClient, url: str, bytes_max: int) -> bytes:
    """Return what GET of `url` gives; only public addresses, and no redirect is followed.

    Raises UpstreamUnreachable, UpstreamTimeout, UpstreamBroken.
    """
    try:
        target = Target.of("catalogue", "GET", url, _HEADERS, private=False)
    except ValueError as exc:
        raise UpstreamBroken("catalogue", str(exc)) from exc
    reply = await http.send(target, None)
    try:
        if reply.status != 200:
            raise UpstreamBroken("catalogue", f"status {reply.status}")
        data = await read_all(reply, bytes_max)
    finally:
        reply.close()
    if len(data) > bytes_max:
        raise UpstreamBroken("catalogue", f"it is larger than {bytes_max} bytes")
    return data
