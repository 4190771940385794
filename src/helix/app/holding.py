"""What a restored copy answers while it is in quarantine: alive, not ready, and nothing else."""

from typing import Any

import msgspec
from starlette.responses import Response

from helix import __version__
from helix.app.api import error_response
from helix.core.errors import HelixError, Unavailable
from helix.core.quarantine import Quarantined, quarantine_of

__all__ = ["hold", "quarantined", "why_held"]


def quarantined(reason: str) -> Quarantined:
    """Return the error that says why nothing runs, and what ends it."""
    return Quarantined(
        f"this is a restored copy in quarantine ({reason}): nothing runs in it until "
        "`helix backup release`"
    )


async def why_held(url: str) -> HelixError | None:
    """Return why this database may not be acted upon, if so: a database away is a reason too."""
    try:
        reason = await quarantine_of(url)
    except Unavailable as exc:
        return exc
    return None if reason is None else quarantined(reason)


async def hold(scope: Any, receive: Any, send: Any, *, why: HelixError, request_id: str) -> None:
    """Answer one request in place of every domain."""
    reply: Response
    if scope["path"] == "/health":
        body = msgspec.json.encode({"status": why.code, "version": __version__})
        reply = Response(body, 200, media_type="application/json")
    elif scope["path"] == "/ready":
        state = {"status": "not ready", "missing": [why.code], "reason": why.message}
        reply = Response(msgspec.json.encode(state), 503, media_type="application/json")
    else:
        reply = error_response(why, request_id)
    await reply(scope, receive, send)
