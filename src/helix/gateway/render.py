"""Errors as clients of OpenAI's API know them: the one place where they take that shape."""

import math

import msgspec

from helix.core.errors import HelixError
from helix.gateway.errors import MethodNotAllowed, UpstreamAnswered

__all__ = ["Headers", "error_body", "error_event", "error_headers", "unexpected"]

Headers = list[tuple[bytes, bytes]]


class _Unexpected(HelixError):
    """A fault of Helix itself; the log has it under the request's id."""


def unexpected(request_id: str) -> HelixError:
    """Return what a client is told of a fault of ours."""
    return _Unexpected(f"Helix failed; its log has the reason under request {request_id}")


def error_body(error: HelixError, request_id: str) -> bytes:
    """Return `{"error": {"message", "type", "param", "code", "request_id"}}`."""
    kind, code = error.kind, error.code
    if isinstance(error, UpstreamAnswered):
        kind = error.provider_kind or kind
        code = error.provider_code or code
    return msgspec.json.encode(
        {
            "error": {
                "message": error.message,
                "type": kind,
                "param": error.param,
                "code": code,
                "request_id": request_id,
            }
        }
    )


def error_headers(error: HelixError) -> Headers:
    """Return the headers that belong to an error: when to come again, how to authenticate.

    A 503 always says when: in a second, unless it knows better.
    """
    headers: Headers = []
    if error.retry_after_s is not None or error.status == 503:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s or 1))))
    if error.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="helix"'))
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", b"GET, HEAD, POST"))
    return headers


def error_event(error: HelixError, request_id: str) -> bytes:
    """Return the event that ends a stream in which something went wrong after it began."""
    return b"data: " + error_body(error, request_id) + b"\n\n"
