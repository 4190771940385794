"""OpenAI's chat format, read for translation: what is known is typed, the rest is kept as sent."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec

from helix.core.errors import BadInput
from helix.providers.errors import FieldUnsupported
from helix.providers.wires.chunks import given

__all__ = [
    "Chat",
    "DataPart",
    "LinkPart",
    "Message",
    "Part",
    "ResponseFormat",
    "TextPart",
    "Tool",
    "ToolCall",
    "read_chat",
]

T = TypeVar("T")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w=.+-]+)*?)(;base64)?,", re.ASCII)
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mp3"}
_SYSTEM = frozenset({"system", "developer"})
_ROLES = _SYSTEM | {"user", "assistant", "tool"}
_HINTS = (
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "store",
)
"""What neither changes the answer nor has a place in any other wire."""


class FunctionCall(msgspec.Struct):
    """The function that an assistant called; `arguments` is JSON as text."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct):
    """A call of a tool in an assistant's message; `extra_content` is a provider's own."""

    id: str
    function: FunctionCall
    type: str = "function"
    extra_content: Any = None


class Message(msgspec.Struct):
    """A message of the conversation."""

    role: str
    content: Any = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    thinking_blocks: list[msgspec.Raw] | None = None
    function_call: Any = None
    audio: Any = None

    @property
    def is_system(self) -> bool:
        """Whether it instructs the model."""
        return self.role in _SYSTEM


class TextPart(NamedTuple):
    """Text; `extra` is whatever else stood in the part (`cache_control`)."""

    text: str
    extra: dict[str, Any]


class DataPart(NamedTuple):
    """A file within the request: `data` is base64."""

    mime: str
    data: str
    name: str | None
    extra: dict[str, Any]


class LinkPart(NamedTuple):
    """An image at a URL, which Helix never fetches."""

    url: str
    extra: dict[str, Any]


Part = TextPart | DataPart | LinkPart


class _Function(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class _Tool(msgspec.Struct):
    type: str
    function: _Function | None = None
    cache_control: msgspec.Raw = msgspec.Raw()


class Tool(NamedTuple):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None
    parameters: msgspec.Raw | None
    strict: bool
    cache_control: msgspec.Raw | None


class _JsonSchema(msgspec.Struct):
    name: str = "answer"
    schema: msgspec.Raw = msgspec.Raw()
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    """The form the answer must have: text, json_object, or json_schema."""

    type: str
    json_schema: _JsonSchema | None = None


class _Named(msgspec.Struct):
    name: str


class _ToolChoice(msgspec.Struct):
    type: str
    function: _Named | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


@dataclass(slots=True)
class Chat:
    """A chat request. `rest` is what OpenAI's format does not know, as it was sent.

    `tool_choice` is auto, none, required, or the name of the function in `forced`.
    """

    provider: str
    messages: list[Message]
    tools: list[Tool | msgspec.Raw]
    tool_choice: str | None
    forced: str | None
    parallel: bool | None
    stop: list[str]
    max_tokens: int | None
    format: ResponseFormat | None
    effort: str | None
    numbers: dict[str, msgspec.Raw]
    n: int
    logprobs: bool
    top_logprobs: int | None
    user: str | None
    stream: bool
    include_usage: bool
    rest: dict[str, msgspec.Raw] = field(default_factory=dict)

    def refuse(self, param: str, reason: str) -> FieldUnsupported:
        """Return the error of a field that this wire cannot say."""
        return FieldUnsupported(self.provider, param, reason)

    def parts(self, at: int) -> list[Part]:
        """Return the content of message `at` as parts; raises BadInput, FieldUnsupported."""
        content, where = self.messages[at].content, f"messages[{at}].content"
        if content is None:
            return []
        if isinstance(content, str):
            return [TextPart(content, {})] if content else []
        if not isinstance(content, list):
            raise BadInput(f"{where}: it must be a text or a list of parts", param=where)
        return [self._part(part, f"{where}[{n}]") for n, part in enumerate(content)]

    def texts(self, at: int) -> list[TextPart]:
        """Return the content of message `at`, which must be text."""
        found = []
        for n, part in enumerate(self.parts(at)):
            if not isinstance(part, TextPart):
                where = f"messages[{at}].content[{n}]"
                raise self.refuse(where, f"takes only text from the {self.messages[at].role}")
            found.append(part)
        return found

    def _part(self, part: Any, where: str) -> Part:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise BadInput(f"{where}: it must be an object with a type", param=where)
        kind = part["type"]
        extra = {k: v for k, v in part.items() if k not in {"type", kind}}
        told = part.get(kind)
        if kind in {"text", "refusal"} and isinstance(told, str):
            return TextPart(told, extra)
        if kind == "image_url" and isinstance(told, dict) and isinstance(told.get("url"), str):
            url = told["url"]
            return self._data(url, where, extra) if url[:5] == "data:" else LinkPart(url, extra)
        if kind == "file" and isinstance(told, dict) and isinstance(told.get("file_data"), str):
            return self._data(told["file_data"], where, extra, told.get("filename"))
        if kind == "input_audio" and isinstance(told, dict) and isinstance(told.get("data"), str):
            mime = _AUDIO.get(str(told.get("format")))
            if mime is not None:
                return DataPart(mime, told["data"], None, extra)
        if kind in {"text", "refusal", "image_url", "input_audio"}:
            raise BadInput(f"{where}: it is no {kind} part as it should be", param=where)
        raise self.refuse(where, f"takes no part of type {kind[:40]!r} here")

    def _data(self, url: str, where: str, extra: dict[str, Any], name: Any = None) -> DataPart:
        found = _DATA_URL.match(url)
        if found is None or found[3] is None:
            raise BadInput(f"{where}: data must be sent as data:TYPE;base64,…", param=where)
        mime = (found[1] or "application/octet-stream").lower()
        return DataPart(mime, url[found.end() :], name if isinstance(name, str) else None, extra)

    def arguments(self, at: int, number: int) -> msgspec.Raw:
        """Return the arguments of a call in message `at` as a JSON object, digit for digit."""
        calls = self.messages[at].tool_calls or []
        text = calls[number].function.arguments.strip() or "{}"
        try:
            _Object.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as exc:
            where = f"messages[{at}].tool_calls[{number}].function.arguments"
            raise BadInput(f"{where}: it must be a JSON object", param=where) from exc
        return msgspec.Raw(text.encode())

    def names_of_calls(self) -> dict[str, str]:
        """Return the function's name by the id of each call in the conversation."""
        calls: Iterator[ToolCall] = (c for m in self.messages for c in m.tool_calls or [])
        return {call.id: call.function.name for call in calls}


_Object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DecodeTool = msgspec.json.Decoder(_Tool)


class _Fields:
    """The fields of a body, taken one by one."""

    def __init__(self, body: bytes) -> None:
        try:
            self.left = _Object.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise BadInput("the body must be a JSON object") from exc

    def take(self, name: str, kind: type[T]) -> T | None:
        """Return a field of this type; None when it is absent or null. Raises BadInput."""
        found: T | None = self.take_any(name, kind)
        return found

    def take_any(self, name: str, kind: Any) -> Any:
        """Return a field of one of several types, as `take` does."""
        raw = self.left.pop(name, None)
        if raw is None or bytes(raw) == b"null":
            return None
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise BadInput(f"{name}: {str(exc)[:200]}", param=name) from exc

    def number(self, name: str) -> msgspec.Raw | None:
        """Return a number digit for digit; None when it is absent or null. Raises BadInput."""
        raw = self.left.get(name)
        value = self.take(name, float)
        return None if value is None else raw


_NUMBERS = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")


def read_chat(provider: str, body: bytes) -> Chat:
    """Return the chat request in `body`, to be said to the provider of this name.

    Raises BadInput, which names the field, for what is no chat request; FieldUnsupported for what
    no other wire than OpenAI's can say.
    """
    fields = _Fields(body)
    fields.take("model", str)
    messages = fields.take("messages", list[Message])
    if not messages:
        raise BadInput("messages: send at least one", param="messages")
    _check_messages(provider, messages)
    limit = fields.take("max_tokens", int)
    forced, choice = _read_choice(provider, fields)
    numbers = {name: raw for name in _NUMBERS if (raw := fields.number(name)) is not None}
    options = fields.take("stream_options", _StreamOptions)
    chat = Chat(
        provider=provider,
        messages=messages,
        tools=_read_tools(fields),
        tool_choice=choice,
        forced=forced,
        parallel=fields.take("parallel_tool_calls", bool),
        stop=_read_stop(fields),
        max_tokens=fields.take("max_completion_tokens", int) or limit,
        format=fields.take("response_format", ResponseFormat),
        effort=fields.take("reasoning_effort", str),
        numbers=numbers,
        n=_or(fields.take("n", int), 1),
        logprobs=bool(fields.take("logprobs", bool)),
        top_logprobs=fields.take("top_logprobs", int),
        user=fields.take("user", str),
        stream=bool(fields.take("stream", bool)),
        include_usage=options is not None and bool(options.include_usage),
    )
    _check_format(chat)
    _refuse_rest(chat, fields)
    chat.rest = fields.left
    return chat


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _check_messages(provider: str, messages: Sequence[Message]) -> None:
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if message.role not in _ROLES:
            raise BadInput(f"{where}.role: it is none of {sorted(_ROLES)}", param=f"{where}.role")
        if message.function_call is not None:
            reason = "takes no function_call: use tool_calls"
            raise FieldUnsupported(provider, f"{where}.function_call", reason)
        if message.audio is not None:
            raise FieldUnsupported(provider, f"{where}.audio", "does not keep earlier audio")
        if message.name is not None and message.role != "tool":
            reason = "knows no names of speakers: say in the text who speaks"
            raise FieldUnsupported(provider, f"{where}.name", reason)
        if message.role == "tool" and not message.tool_call_id:
            named = f"{where}.tool_call_id"
            raise BadInput(f"{named}: say which call this is the result of", param=named)
        for number, call in enumerate(message.tool_calls or []):
            if call.type != "function":
                named = f"{where}.tool_calls[{number}].type"
                raise FieldUnsupported(provider, named, "takes calls of functions alone")


def _read_choice(provider: str, fields: _Fields) -> tuple[str | None, str | None]:
    """Return (the function forced, the choice)."""
    choice: str | _ToolChoice | None = fields.take_any("tool_choice", str | _ToolChoice)
    if choice is None:
        return None, None
    if isinstance(choice, str) and choice in {"auto", "none", "required"}:
        return None, choice
    if isinstance(choice, _ToolChoice) and choice.function is not None:
        return choice.function.name, "function"
    kind = choice if isinstance(choice, str) else choice.type
    raise FieldUnsupported(provider, "tool_choice", f"takes no choice of type {kind[:40]!r}")


def _read_tools(fields: _Fields) -> list[Tool | msgspec.Raw]:
    found: list[Tool | msgspec.Raw] = []
    for number, raw in enumerate(fields.take("tools", list[msgspec.Raw]) or []):
        try:
            told = _DecodeTool.decode(raw)
        except msgspec.DecodeError:
            found.append(raw)  # a provider's own, which has no type
            continue
        if told.type != "function":
            found.append(raw)
            continue
        if told.function is None:
            where = f"tools[{number}].function"
            raise BadInput(f"{where}: it is missing", param=where)
        one = told.function
        found.append(
            Tool(
                one.name,
                one.description,
                given(one.parameters),
                one.strict or False,
                given(told.cache_control),
            )
        )
    return found


def _read_stop(fields: _Fields) -> list[str]:
    stop: str | list[str] | None = fields.take_any("stop", str | list[str])
    if stop is None:
        return []
    return [stop] if isinstance(stop, str) else stop


def _check_format(chat: Chat) -> None:
    told = chat.format
    if told is None:
        return
    if told.type == "text":
        chat.format = None
    elif told.type == "json_schema":
        if told.json_schema is None or given(told.json_schema.schema) is None:
            where = "response_format.json_schema.schema"
            raise BadInput(f"{where}: it is missing", param=where)
    elif told.type != "json_object":
        raise chat.refuse("response_format", f"knows no format {told.type[:40]!r}")


def _refuse_rest(chat: Chat, fields: _Fields) -> None:
    """Refuse what only OpenAI can do; leave out what changes nothing."""
    for name in _HINTS:
        fields.left.pop(name, None)
    if fields.take("logit_bias", dict[str, float]):
        raise chat.refuse("logit_bias", "cannot weigh single tokens: leave it out")
    if chat.n < 1:
        raise BadInput("n: it must be at least 1", param="n")
    if set(fields.take("modalities", list[str]) or []) - {"text"}:
        raise chat.refuse("modalities", "answers in text alone")
    if fields.take("verbosity", str) not in {None, "medium"}:
        raise chat.refuse("verbosity", "has no such control: say it in the prompt")
    for name in ("audio", "functions", "function_call", "web_search_options"):
        if fields.take(name, msgspec.Raw) is not None:
            advice = "use tools" if name.startswith("function") else "leave it out"
            raise chat.refuse(name, f"cannot do this: {advice}")
