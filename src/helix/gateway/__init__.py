"""The gateway: the OpenAI-compatible surface, and the record of every call."""

from helix.gateway.caller import Caller
from helix.gateway.domain import Gateway, build
from helix.gateway.errors import WrongField
from helix.gateway.hooks import AfterHook, BeforeHook, Injected, SettledCall
from helix.gateway.reading import answer_message, request_messages
from helix.gateway.render import error_body, error_headers, unexpected
from helix.gateway.routes import build_router
from helix.gateway.sweep import SweepTimes
from helix.gateway.types import CallRequest
from helix.gateway.virtual import Asked, CallOptions, Completion, VirtualCall, VirtualModel

__all__ = [
    "AfterHook",
    "Asked",
    "BeforeHook",
    "CallOptions",
    "CallRequest",
    "Caller",
    "Completion",
    "Gateway",
    "Injected",
    "SettledCall",
    "SweepTimes",
    "VirtualCall",
    "VirtualModel",
    "WrongField",
    "answer_message",
    "build",
    "build_router",
    "error_body",
    "error_headers",
    "request_messages",
    "unexpected",
]
