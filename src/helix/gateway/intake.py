"""Reading a request: within limits, refused clearly or kept exactly as it was sent.

What every dialect reads with stands here; `read_chat` reads the canonical one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from helix.core.config import Settings
from helix.gateway.errors import NotJson, WrongField
from helix.gateway.types import CallRequest, HelixOptions

__all__ = [
    "Fields",
    "IntakeLimits",
    "params_of",
    "read_chat",
    "read_fields",
    "read_flag",
    "read_include_usage",
    "read_model",
    "read_options",
    "upstream_body",
    "wrong_field",
]

Fields = dict[str, msgspec.Raw]

MODEL_CHARS_MAX = 255
AGENT_CHARS_MAX = 100
WORD_CHARS_MAX = 255
TIMEOUT_S_MAX = 86_400.0
BUDGET_USD_MAX = 1_000_000
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

_Fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_Text = msgspec.json.Decoder(str)


class _Message(msgspec.Struct):
    role: str


class _Content(msgspec.Struct):
    content: Any = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Helix(msgspec.Struct, forbid_unknown_fields=True):
    project: UUID | None = None
    session: str | None = None
    context: Any = None
    agent: str | None = None
    task: UUID | None = None
    prompt: str | None = None
    variables: dict[str, Any] | None = None
    memory: bool | None = None
    budget: Decimal | None = None
    cache: bool | None = None
    sticky: str | None = None
    timeout_s: float | None = None
    first_token_timeout_s: float | None = None
    mock: dict[str, Any] | None = None
    ensemble: dict[str, Any] | None = None


_Messages = msgspec.json.Decoder(list[_Message])
_Contents = msgspec.json.Decoder(list[_Content])
_Options = msgspec.json.Decoder(_StreamOptions | None)
_HelixField = msgspec.json.Decoder(_Helix | None)
_AnyObject = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_NO_HELIX = HelixOptions()
_PART_NEEDS = {"image_url": "vision", "input_audio": "audio", "file": "files"}
_PARTS = re.compile(rb'"(?:image_url|input_audio|file)"')
_NO_NEEDS: frozenset[str] = frozenset()
_STREAM_OPTIONS = frozenset({"chat", "completions"})


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """How much of what a request may hold, each by the name of its setting."""

    messages_max: int
    json_depth_max: int
    json_nodes_max: int = 250_000

    @classmethod
    def of(cls, settings: Settings) -> "IntakeLimits":
        """Return the limits that the settings name."""
        return cls(settings.messages_max, settings.json_depth_max, settings.json_nodes_max)


def read_chat(body: bytes, limits: IntakeLimits) -> CallRequest:
    """Return the chat request in `body`; raises NotJson, or WrongField, which name the fault.

    Refused: what is not UTF-8, not JSON (NaN and lone surrogates are not), deeper or longer than
    the limits. Everything else, NUL characters and huge numbers too, is kept as it was sent.
    """
    text, fields = read_fields(body, limits)
    include_usage = read_include_usage(fields)
    options = read_options(fields)
    _check_messages(fields, limits)
    return CallRequest(
        text=text,
        body_bytes=len(body),
        fields=fields,
        model=read_model(fields),
        stream=read_flag(fields, "stream"),
        include_usage=include_usage,
        params=params_of(fields),
        options=options,
        own=fields,
        needs=_needs(fields),
    )


def read_fields(body: bytes, limits: IntakeLimits) -> tuple[str, Fields]:
    """Return a body as text, and its top-level fields as raw JSON; raises NotJson."""
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise NotJson(f"byte {exc.start} is not UTF-8") from exc
    _check_shape(body, limits)
    try:
        return text, _Fields.decode(body)
    except msgspec.ValidationError as exc:
        raise NotJson("it must be an object") from exc
    except msgspec.DecodeError as exc:
        raise NotJson(_reason(exc)) from exc
    except RecursionError as exc:
        raise NotJson(_too_deep(limits)) from exc


def upstream_body(request: CallRequest, model: str, *, native: bool = False) -> bytes:
    """Return the body for the provider: every field as it was sent but for three.

    `helix` is taken out, `model` is the provider's name for it, and a stream is asked for usage
    where its format has to be. `native`: for a provider that speaks the request's own dialect.
    """
    given = request.own if native else request.fields
    fields = {**given, "model": msgspec.Raw(msgspec.json.encode(model))}
    fields.pop("helix", None)
    asks = not native or request.dialect in _STREAM_OPTIONS
    if request.stream and not request.include_usage and asks:
        options = fields.get("stream_options")
        known = (_AnyObject.decode(options) if options is not None else None) or {}
        asked = {**known, "include_usage": True}
        fields["stream_options"] = msgspec.Raw(msgspec.json.encode(asked))
    return msgspec.json.encode(fields)


def wrong_field(name: str, exc: msgspec.DecodeError) -> WrongField:
    """Return the error that names the path within the field `name` that does not fit."""
    told, _, path = str(exc).partition(" - at `$")
    path = name + path.removesuffix("`").replace("[...]", ".*")
    if (missing := re.fullmatch(r"Object missing required field `(.+)`", told)) is not None:
        return WrongField(f"{path}.{missing[1]}", "it is missing")
    if (unknown := re.fullmatch(r"Object contains unknown field `(.+)`", told)) is not None:
        return WrongField(f"{path}.{unknown[1]}", "there is no such field")
    return WrongField(path, told[:1].lower() + told[1:].replace("`", ""))


def _reason(exc: msgspec.DecodeError) -> str:
    told = str(exc).removeprefix("JSON is malformed: ")
    if "truncated" in told or "surrogate" in told:
        return "it is cut off, or holds half of a surrogate pair"
    return told


def _too_deep(limits: IntakeLimits) -> str:
    return f"it is nested deeper than json_depth_max ({limits.json_depth_max})"


def _too_many(limits: IntakeLimits) -> str:
    most = limits.json_nodes_max
    return f"it has more than json_nodes_max ({most}) strings, arrays and objects"


def _check_shape(body: bytes, limits: IntakeLimits) -> None:
    """Raise NotJson for too many or too deep parts, before anything is made of them.

    No loop over characters: escapes and all but quotes and brackets are deleted, then the strings.
    A body of ordinary size and shape is let through by counting alone.
    """
    opened = body.count(b"[") + body.count(b"{")
    most = limits.json_nodes_max
    if opened <= limits.json_depth_max and body.count(b'"') <= 2 * most:
        return
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_SHAPE)
    strings = bare.count(b'"') // 2
    if strings > most:
        raise NotJson(_too_many(limits))
    shape = _STRING.sub(b"", bare).translate(_FOLD)
    if strings + shape.count(b"[") > most:
        raise NotJson(_too_many(limits))
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


def read_model(fields: Fields) -> str:
    """Return the model that is called; raises WrongField."""
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


def read_flag(fields: Fields, name: str, *, default: bool = False) -> bool:
    """Return a field that is true or false; `default` when it is missing or null."""
    raw = fields.get(name)
    given = b"null" if raw is None else bytes(raw)
    if given not in {b"true", b"false", b"null"}:
        raise WrongField(name, "it must be true or false")
    return default if given == b"null" else given == b"true"


def read_include_usage(fields: Fields) -> bool:
    """Return whether stream_options asks for the usage of a stream; raises WrongField."""
    raw = fields.get("stream_options")
    if raw is None:
        return False
    try:
        options = _Options.decode(raw)
    except msgspec.DecodeError as exc:
        raise wrong_field("stream_options", exc) from exc
    return options is not None and bool(options.include_usage)


def read_options(fields: Fields) -> HelixOptions:
    """Return what the field `helix` asks of Helix; raises WrongField, also for unknown ones."""
    raw = fields.get("helix")
    if raw is None:
        return _NO_HELIX
    try:
        helix = _HelixField.decode(raw)
    except msgspec.DecodeError as exc:
        raise wrong_field("helix", exc) from exc
    if helix is None:
        return _NO_HELIX
    _check_word("helix.session", helix.session, WORD_CHARS_MAX)
    _check_word("helix.agent", helix.agent, AGENT_CHARS_MAX)
    for name, given in (("prompt", helix.prompt), ("variables", helix.variables)):
        if given is not None:
            raise WrongField(
                f"helix.{name}", "calls are not made of stored prompts: send the messages"
            )
    _check_word("helix.sticky", helix.sticky, WORD_CHARS_MAX)
    _check_time("helix.timeout_s", helix.timeout_s)
    _check_time("helix.first_token_timeout_s", helix.first_token_timeout_s)
    return HelixOptions(
        project_id=helix.project,
        session=helix.session,
        context=helix.context,
        agent_id=helix.agent,
        task_id=helix.task,
        memory=helix.memory,
        budget_usd=_read_budget(helix.budget),
        cache=helix.cache,
        sticky=helix.sticky,
        timeout_s=helix.timeout_s,
        first_token_timeout_s=helix.first_token_timeout_s,
        mock=helix.mock,
        ensemble=helix.ensemble,
    )


def _check_word(name: str, word: str | None, chars_max: int) -> None:
    if word is not None and not (0 < len(word) <= chars_max and word.isprintable()):
        raise WrongField(name, f"it must be 1 to {chars_max} printable characters")


def _read_budget(budget: Decimal | None) -> Decimal | None:
    """Return the most a call may cost, in US dollars; raises WrongField."""
    if budget is not None and not (budget.is_finite() and 0 <= budget <= BUDGET_USD_MAX):
        raise WrongField("helix.budget", f"it must be 0 to {BUDGET_USD_MAX} US dollars")
    return budget


def _check_time(name: str, time_s: float | None) -> None:
    if time_s is not None and not 0 < time_s <= TIMEOUT_S_MAX:
        raise WrongField(name, f"it must be more than 0 and at most {TIMEOUT_S_MAX:g} seconds")


def _check_messages(fields: Fields, limits: IntakeLimits) -> None:
    raw = fields.get("messages")
    if raw is None:
        raise WrongField("messages", "it is missing: send at least one message")
    try:
        messages = _Messages.decode(raw)
    except msgspec.DecodeError as exc:
        raise wrong_field("messages", exc) from exc
    if not 0 < len(messages) <= limits.messages_max:
        raise WrongField(
            "messages",
            f"there are {len(messages)}, and 1 to messages_max ({limits.messages_max}) are taken",
        )


def params_of(fields: Mapping[str, Any]) -> str:
    """Return the settings of the model among `fields` as JSON that jsonb takes."""
    found = []
    for name, raw in fields.items():
        if name in _PARAMS:
            value = bytes(raw)
            if len(value) <= _PARAM_BYTES_MAX and _PARAM.fullmatch(value):
                found.append(f'"{name}":{value.decode()}')
    return "{" + ",".join(found) + "}"


def _needs(fields: Fields) -> frozenset[str]:
    """Return what the model must be able to do: vision, audio, files, tools, json_schema."""
    messages = bytes(fields["messages"])
    has_parts = _PARTS.search(messages) is not None
    if not has_parts and "tools" not in fields and "response_format" not in fields:
        return _NO_NEEDS
    needs = set()
    if has_parts:
        for message in _Contents.decode(messages):
            parts = message.content if type(message.content) is list else []
            kinds = [part.get("type") for part in parts if type(part) is dict]
            needs |= {_PART_NEEDS[k] for k in kinds if type(k) is str and k in _PART_NEEDS}
    if bytes(fields.get("tools", b"null")) not in {b"null", b"[]"}:
        needs.add("tools")
    if b"json_schema" in bytes(fields.get("response_format", b"")):
        needs.add("json_schema")
    return frozenset(needs)
