"""Reading recorded calls again, in whichever dialect they were made: in one form, that of chat."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from helix.gateway.dialects import Chat, Completions, Dialect, Messages, Responses
from helix.gateway.intake import IntakeLimits
from helix.gateway.native import canonical_of

__all__ = ["answer_message", "request_messages"]

_BIGGEST = 1 << 40
# What was recorded was let in: no limit of today may refuse it.
_WIDE = IntakeLimits(messages_max=_BIGGEST, json_depth_max=256, json_nodes_max=_BIGGEST)


def request_messages(request_type: str, body: str) -> Sequence[Mapping[str, Any]]:
    """Return the messages of a recorded request of a type of llm_requests; none of other types.

    The prompt of a text completion is a message of the user. Raises what the dialect does.
    """
    known: dict[str, Dialect] = {
        "chat": Chat(),
        "vision": Chat(),
        "completion": Completions(),
        "message": Messages(),
        "response": Responses(),
    }
    dialect = known.get(request_type)
    if dialect is None:
        return []
    fields = dialect.read(body.encode(), _WIDE).fields
    if (raw := fields.get("messages")) is not None:
        messages = msgspec.json.decode(raw)
        return [message for message in messages if isinstance(message, dict)]
    prompt = msgspec.json.decode(fields.get("prompt", b"null"))
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []


def answer_message(raw: str) -> Mapping[str, Any] | None:
    """Return the first choice's message of a recorded answer; None when there is none."""
    answer = msgspec.json.decode(raw)
    if not isinstance(answer, dict):
        return None
    choices = canonical_of(answer, raw.encode()).get("choices") or [None]
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    return message if isinstance(message, dict) else None
