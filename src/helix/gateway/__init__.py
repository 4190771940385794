"""The gateway: the OpenAI-compatible surface, and the record of every call."""

from helix.gateway.domain import Gateway, build
from helix.gateway.render import error_body, error_headers, unexpected
from helix.gateway.sweep import SweepTimes

__all__ = [
    "Gateway",
    "SweepTimes",
    "build",
    "error_body",
    "error_headers",
    "unexpected",
]
