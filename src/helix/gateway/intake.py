"""Reading a chat request: within limits, refused clearly or kept exactly as it was sent."""

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from helix.core.config import Settings
from helix.gateway.errors import NotJson, WrongField
from helix.gateway.types import ChatRequest

__all__ = ["IntakeLimits", "read_chat", "upstream_body"]

NODES_MAX = 250_000
"""Most strings (keys too), arrays and objects in one body; long talks have some ten thousand."""

MODEL_CHARS_MAX = 255
AGENT_CHARS_MAX = 100
_PARAM_BYTES_MAX = 64
_PARAMS = frozenset(
    {
        "frequency_penalty",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "seed",
        "service_tier",
        "temperature",
        "top_logprobs",
        "top_p",
        "verbosity",
    }
)
# Numbers that jsonb takes whatever their exponent, words, and plain short strings.
_PARAM = re.compile(
    rb'-?\d{1,20}(?:\.\d{1,20})?(?:[eE][+-]?\d{1,2})?|true|false|null|"[\w .:-]{0,60}"'
)
_FOLD = bytes.maketrans(b"{}", b"[]")
_NOT_SHAPE = bytes(set(range(256)) - set(b'[]{}"'))
_STRING = re.compile(rb'"[^"]*"')

_TOO_MANY = f"it has more than {NODES_MAX} strings, arrays and objects"

_Fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_Text = msgspec.json.Decoder(str)


class _Message(msgspec.Struct):
    role: str


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Helix(msgspec.Struct, forbid_unknown_fields=True):
    project: UUID | None = None
    session: UUID | None = None
    agent: str | None = None
    mock: dict[str, Any] | None = None


_Messages = msgspec.json.Decoder(list[_Message])
_Options = msgspec.json.Decoder(_StreamOptions | None)
_HelixField = msgspec.json.Decoder(_Helix | None)
_AnyObject = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """How much of what a request may hold, each by the name of its setting."""

    messages_max: int
    json_depth_max: int

    @classmethod
    def of(cls, settings: Settings) -> "IntakeLimits":
        """Return the limits that the settings name."""
        return cls(settings.messages_max, settings.json_depth_max)


def read_chat(body: bytes, limits: IntakeLimits) -> ChatRequest:
    """Return the chat request in `body`; raises NotJson, or WrongField, which name the fault.

    Refused: what is not UTF-8, not JSON (NaN and lone surrogates are not), deeper or longer than
    the limits. Everything else, NUL characters and huge numbers too, is kept as it was sent.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise NotJson(f"byte {exc.start} is not UTF-8") from exc
    _check_shape(body, limits)
    try:
        fields = _Fields.decode(body)
    except msgspec.ValidationError as exc:
        raise NotJson("it must be an object") from exc
    except msgspec.DecodeError as exc:
        raise NotJson(_reason(exc)) from exc
    except RecursionError as exc:
        raise NotJson(_too_deep(limits)) from exc
    include_usage = _read_options(fields)
    helix = _read_helix(fields)
    _check_messages(fields, limits)
    return ChatRequest(
        text=text,
        body_bytes=len(body),
        fields=fields,
        model=_read_model(fields),
        stream=_read_stream(fields),
        include_usage=include_usage,
        params=_params(fields),
        project_id=helix.project,
        session_id=helix.session,
        agent_id=helix.agent,
        mock=helix.mock,
    )


def upstream_body(request: ChatRequest, model: str) -> bytes:
    """Return the body for the provider: every field as it was sent but for three.

    `helix` is taken out, `model` is the provider's name for it, and a stream is asked for usage.
    """
    fields = {**request.fields, "model": msgspec.Raw(msgspec.json.encode(model))}
    fields.pop("helix", None)
    if request.stream and not request.include_usage:
        given = fields.get("stream_options")
        known = (_AnyObject.decode(given) if given is not None else None) or {}
        asked = {**known, "include_usage": True}
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode(asked))
    return msgspec.json.encode(fields)


def _reason(exc: msgspec.DecodeError) -> str:
    told = str(exc).removeprefix("JSON is malformed: ")
    if "truncated" in told or "surrogate" in told:
        return "it is cut off, or holds half of a surrogate pair"
    return told


def _too_deep(limits: IntakeLimits) -> str:
    return f"it is nested deeper than json_depth_max ({limits.json_depth_max})"


def _check_shape(body: bytes, limits: IntakeLimits) -> None:
    """Raise NotJson for too many or too deep parts, before anything is made of them.

    No loop over characters: escapes and all but quotes and brackets are deleted, then the strings.
    A body of ordinary size and shape is let through by counting alone.
    """
    opened = body.count(b"[") + body.count(b"{")
    if opened <= limits.json_depth_max and body.count(b'"') <= 2 * NODES_MAX:
        return
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_SHAPE)
    strings = bare.count(b'"') // 2
    if strings > NODES_MAX:
        raise NotJson(_TOO_MANY)
    shape = _STRING.sub(b"", bare).translate(_FOLD)
    if strings + shape.count(b"[") > NODES_MAX:
        raise NotJson(_TOO_MANY)
    if _deeper(shape, limits.json_depth_max):
        raise NotJson(_too_deep(limits))


def _deeper(shape: bytes, most: int) -> bool:
    """Say whether brackets are nested deeper than `most`: each pass takes the innermost pairs."""
    for left in range(most, 0, -1):
        if not shape:
            return False
        if b"[" * (left + 1) in shape:
            return True
        shape = shape.replace(b"[]", b"")
    return bool(shape)


def _read_model(fields: dict[str, msgspec.Raw]) -> str:
    raw = fields.get("model")
    if raw is None:
        raise WrongField("model", "it is missing: name the model to call")
    try:
        model = _Text.decode(raw)
    except msgspec.DecodeError as exc:
        raise WrongField("model", "it must be a string") from exc
    if not model or len(model) > MODEL_CHARS_MAX or not model.isprintable():
        raise WrongField("model", f"it must be 1 to {MODEL_CHARS_MAX} printable characters")
    return model


def _read_stream(fields: dict[str, msgspec.Raw]) -> bool:
    raw = fields.get("stream")
    given = b"null" if raw is None else bytes(raw)
    if given not in {b"true", b"false", b"null"}:
        raise WrongField("stream", "it must be true or false")
    return given == b"true"


def _read_options(fields: dict[str, msgspec.Raw]) -> bool:
    raw = fields.get("stream_options")
    if raw is None:
        return False
    try:
        options = _Options.decode(raw)
    except msgspec.DecodeError as exc:
        raise WrongField("stream_options", str(exc)) from exc
    return options is not None and bool(options.include_usage)


def _read_helix(fields: dict[str, msgspec.Raw]) -> _Helix:
    raw = fields.get("helix")
    if raw is None:
        return _NO_OPTIONS
    try:
        helix = _HelixField.decode(raw) or _NO_OPTIONS
    except msgspec.DecodeError as exc:
        raise WrongField("helix", str(exc)) from exc
    agent = helix.agent
    if agent is not None and not (0 < len(agent) <= AGENT_CHARS_MAX and agent.isprintable()):
        raise WrongField("helix.agent", f"it must be 1 to {AGENT_CHARS_MAX} printable characters")
    return helix


_NO_OPTIONS = _Helix()


def _check_messages(fields: dict[str, msgspec.Raw], limits: IntakeLimits) -> None:
    raw = fields.get("messages")
    if raw is None:
        raise WrongField("messages", "it is missing: send at least one message")
    try:
        messages = _Messages.decode(raw)
    except msgspec.DecodeError as exc:
        raise WrongField("messages", str(exc)) from exc
    if not 0 < len(messages) <= limits.messages_max:
        raise WrongField(
            "messages",
            f"there are {len(messages)}, and 1 to messages_max ({limits.messages_max}) are taken",
        )


def _params(fields: dict[str, msgspec.Raw]) -> str:
    found = []
    for name, raw in fields.items():
        if name in _PARAMS:
            value = bytes(raw)
            if len(value) <= _PARAM_BYTES_MAX and _PARAM.fullmatch(value):
                found.append(f'"{name}":{value.decode()}')
    return "{" + ",".join(found) + "}"
