"""OpenAI's Responses API: read into a chat call; see responses_out.py for its answers.

A provider that speaks it gets the request as it was sent. For all others it is translated. What
is left out then, because chat completions have no word for it: reasoning items, and what says how
an answer is kept. What would change the answer and cannot be told is refused by its path.

State lies in the record: every answer is in it under its request's id, so `previous_response_id`
works with any model. The calls that led there are read back and told anew (`continued`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import msgspec

from helix.core.errors import HelixError
from helix.gateway.dialects.reading import (
    Untold,
    decoded,
    flag_of,
    items_of,
    object_of,
    objects_of,
    one_of,
    optional_text,
    packed,
    text_in,
    text_of,
    within,
)
from helix.gateway.dialects.responses_out import (
    ResponsesRenderer,
    output_items,
    response_id,
    response_of,
)
from helix.gateway.errors import WrongField
from helix.gateway.intake import (
    Fields,
    IntakeLimits,
    params_of,
    read_fields,
    read_flag,
    read_model,
    read_options,
)
from helix.gateway.render import error_body
from helix.gateway.types import CallRequest
from helix.providers import Operation

__all__ = [
    "CHAIN_MAX",
    "InputTokens",
    "Kept",
    "Responses",
    "continued",
    "deleted_body",
    "input_items",
    "is_kept",
    "request_id_of",
]

CHAIN_MAX = 500
"""Most answers, one going on from the other, that are read back for a call."""

TOKENS_MAX = 2**31 - 1
_MARK = "resp_"
_LOGPROBS = "message.output_text.logprobs"
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_TRANSLATED = frozenset(
    {
        "background",
        "context_management",
        "conversation",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "previous_response_id",
        "prompt",
        "reasoning",
        "store",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "truncation",
    }
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A recorded call: the body as it was sent, and the canonical answer."""

    text: str
    answer: dict[str, Any]


class Responses:
    """POST /v1/responses."""

    name = "responses"
    path = "/v1/responses"
    operation = Operation.CHAT
    native: Operation | None = Operation.RESPONSES
    identity = False

    def read(self, body: bytes, limits: IntakeLimits) -> CallRequest:
        """Return the call that a body asks for; see `types.Dialect`.

        When it names a previous response, `continued` is still to be called.
        """
        return _read(body, limits)

    def whole(self, answer: dict[str, Any], request: CallRequest, request_id: str) -> bytes:
        """Return a canonical answer as a response."""
        return msgspec.json.encode(response_of(answer, request, request_id))

    def stream(self, request: CallRequest, request_id: str) -> ResponsesRenderer:
        """Return the renderer of one stream."""
        return ResponsesRenderer(request, request_id)

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return an error as OpenAI tells it."""
        return error_body(error, request_id)


class InputTokens:
    """POST /v1/responses/input_tokens; answered without a provider, from an estimate."""

    path = "/v1/responses/input_tokens"

    def read(self, body: bytes, limits: IntakeLimits) -> CallRequest:
        """Return the call whose tokens are to be counted; raises as `Responses.read` does."""
        return _read(body, limits)

    def answer(self, tokens: int) -> bytes:
        """Return a count, marked as the estimate it is."""
        told = {"object": "response.input_tokens", "input_tokens": tokens, "estimated": True}
        return msgspec.json.encode(told)


def _read(body: bytes, limits: IntakeLimits) -> CallRequest:
    text, fields = read_fields(body, limits)
    model, options = read_model(fields), read_options(fields)
    previous = _read_state(fields)
    untold, needs = Untold(), set[str]()
    chat = {name: raw for name, raw in fields.items() if name not in _TRANSLATED}
    messages = _instructions(fields)
    given = decoded(fields, "input")
    _check_count(given, limits)
    if given is not None or previous is None:
        messages += _messages(given, untold, needs)
    chat["messages"] = packed(messages)
    _read_tools(fields, chat, untold, needs)
    _read_text(fields, chat, needs)
    _read_settings(fields, chat, untold)
    return CallRequest(
        text=text,
        body_bytes=len(body),
        fields=chat,
        model=model,
        stream=read_flag(fields, "stream"),
        include_usage=False,
        params=params_of(chat),
        options=options,
        operation=Operation.CHAT,
        dialect="responses",
        own=fields,
        needs=frozenset(needs),
        native_only=untold.first,
        previous=previous,
    )


# ---- state


def request_id_of(given: str) -> UUID | None:
    """Return the id of the request whose answer `resp_…` names; None for ids not made here."""
    digits = given.removeprefix(_MARK)
    if digits == given or len(digits) != 32:
        return None
    try:
        found = UUID(hex=digits)
    except ValueError:
        return None
    return found if response_id(str(found)) == given else None


def is_kept(text: str) -> bool:
    """Say whether the request with this body lets its answer be fetched and gone on from."""
    fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    return bytes(fields.get("store", b"true")) != b"false"


def continued(request: CallRequest, kept: Sequence[Kept], limits: IntakeLimits) -> CallRequest:
    """Return a call that goes on from `kept`, the recorded calls before it, oldest first.

    Their instructions are left behind, as in OpenAI's API. Raises WrongField when all together
    has more messages than may be.
    """
    untold, needs = Untold(), set(request.needs)
    earlier: list[dict[str, Any]] = []
    items: list[Any] = []
    for one in kept:
        fields = msgspec.json.decode(one.text, type=Fields)
        given = decoded(fields, "input")
        said = _as_items(given) + output_items(one.answer, "")
        items += said
        _join(earlier, _messages(said, untold, needs))
    instructions = _instructions(request.own)
    given = decoded(request.own, "input")
    now = [] if given is None else _messages(given, untold, needs)
    _join(earlier, now)
    messages = [*instructions, *earlier]
    _check_count(messages, limits)
    own = {**request.own, "input": packed([*items, *_as_items(given)])}
    own.pop("previous_response_id", None)
    return replace(
        request,
        fields={**request.fields, "messages": packed(messages)},
        own=own,
        needs=frozenset(needs),
        native_only=request.native_only or untold.first,
    )


def input_items(text: str, request_id: str) -> bytes:
    """Return what a recorded request put in, as the list that OpenAI's API gives."""
    fields = msgspec.json.decode(text, type=Fields)
    mark = request_id.replace("-", "")
    items = []
    for number, item in enumerate(_as_items(decoded(fields, "input"))):
        shown = {"id": f"msg_{mark}_in{number}", "status": "completed", **item}
        if shown.get("type", "message") == "message":
            shown["type"] = "message"
            if type(shown.get("content")) is str:
                kind = "output_text" if shown.get("role") == "assistant" else "input_text"
                part = {"type": kind, "text": shown["content"]}
                shown["content"] = [{**part, "annotations": []} if kind == "output_text" else part]
        items.append(shown)
    return msgspec.json.encode(
        {
            "object": "list",
            "data": items,
            "first_id": items[0]["id"] if items else "",
            "last_id": items[-1]["id"] if items else "",
            "has_more": False,
        }
    )


def deleted_body(given: str) -> bytes:
    """Return what tells that a response was deleted."""
    return msgspec.json.encode({"id": given, "object": "response", "deleted": True})


def _read_state(fields: Fields) -> str | None:
    for name in ("store", "background"):
        flag_of(decoded(fields, name), name)
    if read_flag(fields, "background"):
        raise WrongField("background", "answers come with the call itself: leave it out")
    previous: str | None = decoded(fields, "previous_response_id")
    if previous is not None and not (previous := text_of(previous, "previous_response_id")):
        raise WrongField("previous_response_id", "it is empty")
    metadata = decoded(fields, "metadata")
    if metadata is not None:
        object_of(metadata, "metadata")
    return previous


# ---- input


def _instructions(fields: Fields) -> list[dict[str, Any]]:
    given = decoded(fields, "instructions")
    if given is None or given == "":
        return []
    return [{"role": "system", "content": text_of(given, "instructions")}]


def _check_count(items: Any, limits: IntakeLimits) -> None:
    if type(items) is list and len(items) > limits.messages_max:
        raise WrongField(
            "input",
            f"with all before it that is {len(items)} items, and at most"
            f" messages_max ({limits.messages_max}) are taken",
        )


def _as_items(given: Any) -> list[dict[str, Any]]:
    if type(given) is str:
        return [{"type": "message", "role": "user", "content": given}]
    return [one for one in given if type(one) is dict] if type(given) is list else []


def _messages(given: Any, untold: Untold, needs: set[str]) -> list[dict[str, Any]]:
    """Return the messages that an input tells."""
    if type(given) is str:
        return [{"role": "user", "content": given}]
    if type(given) is not list:
        raise WrongField(
            "input", "it is missing" if given is None else "it must be a string or an array"
        )
    if not given:
        raise WrongField("input", "it is empty")
    messages: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for path, item in objects_of(given, "input"):
        kind = text_of(item.get("type", "message"), f"{path}.type")
        if shown and not kind.endswith("_output"):
            messages.append({"role": "user", "content": shown})
            shown = []
        if kind == "message":
            _join(messages, [_message(item, path, untold, needs)])
        elif kind in {"function_call", "custom_tool_call"}:
            message = {"role": "assistant", "content": None, "tool_calls": [_call(item, path)]}
            _join(messages, [message])
        elif kind in {"function_call_output", "custom_tool_call_output"}:
            text, more = _output(item, path, untold, needs)
            call_id = text_in(item, "call_id", path)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
            shown += more
        elif kind != "reasoning":
            untold.note(f"{path}.type", f"chat completions have no item {kind[:60]!r}")
    if shown:
        messages.append({"role": "user", "content": shown})
    return messages


def _join(messages: list[dict[str, Any]], more: Iterable[dict[str, Any]]) -> None:
    """Add messages; what one answer said and called stays one message."""
    for message in more:
        last = messages[-1] if messages else {}
        if not (
            message["role"] == "assistant" == last.get("role")
            and ("tool_calls" in last or "tool_calls" in message)
        ):
            messages.append(message)
            continue
        last.setdefault("tool_calls", []).extend(message.get("tool_calls", []))
        if message["content"]:
            last["content"] = (last["content"] or "") + message["content"]


def _message(item: dict[str, Any], path: str, untold: Untold, needs: set[str]) -> dict[str, Any]:
    role = _ROLES.get(text_in(item, "role", path))
    if role is None:
        raise WrongField(f"{path}.role", f"it must be one of {', '.join(_ROLES)}")
    content = item.get("content")
    if type(content) is str:
        return {"role": role, "content": content}
    parts = _parts(content, f"{path}.content", untold, needs)
    if role != "user" or (len(parts) == 1 and parts[0]["type"] == "text"):
        return {"role": role, "content": "".join(p.get("text", "") for p in parts)}
    return {"role": role, "content": parts}


def _parts(content: Any, path: str, untold: Untold, needs: set[str]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for at, part in objects_of(content, path):
        kind = text_in(part, "type", at)
        if kind in {"input_text", "output_text", "text", "summary_text"}:
            parts.append({"type": "text", "text": text_in(part, "text", at)})
        elif kind == "refusal":
            parts.append({"type": "text", "text": text_in(part, "refusal", at)})
        elif kind == "input_image":
            needs.add("vision")
            parts += _image(part, at, untold)
        elif kind == "input_file":
            needs.add("files")
            parts += _file(part, at, untold)
        elif kind == "input_audio":
            needs.add("audio")
            audio = object_of(part.get("input_audio"), f"{at}.input_audio")
            parts.append({"type": "input_audio", "input_audio": audio})
        else:
            untold.note(f"{at}.type", f"chat completions have no part {kind[:60]!r}")
    return parts


def _image(part: dict[str, Any], path: str, untold: Untold) -> list[dict[str, Any]]:
    url = optional_text(part, "image_url", path)
    if url is None:
        text_in(part, "file_id", path)
        untold.note(f"{path}.file_id", "it names a file at a provider")
        return []
    image = {"url": url}
    detail = optional_text(part, "detail", path)
    if detail is not None:
        image["detail"] = detail
    return [{"type": "image_url", "image_url": image}]


def _file(part: dict[str, Any], path: str, untold: Untold) -> list[dict[str, Any]]:
    if part.get("file_data") is None:
        name = "file_id" if part.get("file_url") is None else "file_url"
        text_in(part, name, path)
        untold.note(f"{path}.{name}", "the file is not in the request")
        return []
    file = {"file_data": text_in(part, "file_data", path)}
    file["filename"] = optional_text(part, "filename", path) or "file"
    return [{"type": "file", "file": file}]


def _call(item: dict[str, Any], path: str) -> dict[str, Any]:
    call_id, name = text_in(item, "call_id", path), text_in(item, "name", path)
    if item["type"] == "custom_tool_call":
        told = {"name": name, "input": text_in(item, "input", path)}
        return {"id": call_id, "type": "custom", "custom": told}
    function = {"name": name, "arguments": text_in(item, "arguments", path)}
    return {"id": call_id, "type": "function", "function": function}


def _output(
    item: dict[str, Any], path: str, untold: Untold, needs: set[str]
) -> tuple[str, list[dict[str, Any]]]:
    """Return the text of a tool's result, and what else it shows."""
    output = item.get("output")
    if type(output) is str:
        return output, []
    parts = _parts(output, f"{path}.output", untold, needs)
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    return text, [part for part in parts if part["type"] != "text"]


# ---- everything else


def _read_tools(fields: Fields, chat: Fields, untold: Untold, needs: set[str]) -> None:
    tools = decoded(fields, "tools")
    if tools is not None:
        found = [_tool(tool, path, untold) for path, tool in objects_of(tools, "tools")]
        if found:
            chat["tools"] = packed(found)
            needs.add("tools")
    choice = decoded(fields, "tool_choice")
    if choice is None:
        return
    if type(choice) is str:
        one_of(choice, "tool_choice", "none", "auto", "required")
        chat["tool_choice"] = packed(choice)
        return
    kind = text_in(object_of(choice, "tool_choice"), "type", "tool_choice")
    if kind == "allowed_tools":
        mode = one_of(choice.get("mode"), "tool_choice.mode", "auto", "required")
        allowed = [
            _named(tool, path, untold)
            for path, tool in objects_of(choice.get("tools"), "tool_choice.tools")
        ]
        told = {"mode": mode or "auto", "tools": allowed}
        chat["tool_choice"] = packed({"type": kind, "allowed_tools": told})
    else:
        chat["tool_choice"] = packed(_named(choice, "tool_choice", untold))


def _named(tool: dict[str, Any], path: str, untold: Untold) -> dict[str, Any]:
    kind = text_in(tool, "type", path)
    if kind not in {"function", "custom"}:
        untold.note(f"{path}.type", f"chat completions have no tool {kind[:60]!r}")
        return {}
    return {"type": kind, kind: {"name": text_in(tool, "name", path)}}


def _tool(tool: dict[str, Any], path: str, untold: Untold) -> dict[str, Any]:
    told = _named(tool, path, untold)
    if not told:
        return {}
    kind = told["type"]
    if tool.get("description") is not None:
        told[kind]["description"] = text_in(tool, "description", path)
    if kind == "function":
        if tool.get("parameters") is not None:
            told[kind]["parameters"] = object_of(tool["parameters"], f"{path}.parameters")
        if tool.get("strict") is not None:
            told[kind]["strict"] = flag_of(tool["strict"], f"{path}.strict")
    elif tool.get("format") is not None:
        form = object_of(tool["format"], f"{path}.format")
        if form.get("type") == "grammar":
            grammar = {
                "syntax": text_in(form, "syntax", f"{path}.format"),
                "definition": text_in(form, "definition", f"{path}.format"),
            }
            form = {"type": "grammar", "grammar": grammar}
        told[kind]["format"] = form
    return told


def _read_text(fields: Fields, chat: Fields, needs: set[str]) -> None:
    text = decoded(fields, "text")
    if text is None:
        return
    verbosity = optional_text(object_of(text, "text"), "verbosity", "text")
    if verbosity is not None:
        chat["verbosity"] = packed(verbosity)
    if text.get("format") is None:
        return
    path = "text.format"
    form = object_of(text["format"], path)
    kind = text_in(form, "type", path)
    if kind == "json_object":
        chat["response_format"] = packed({"type": kind})
    elif kind == "json_schema":
        text_in(form, "name", path)
        object_of(form.get("schema"), f"{path}.schema")
        known = ("name", "description", "schema", "strict")
        told = {name: form[name] for name in known if form.get(name) is not None}
        chat["response_format"] = packed({"type": kind, "json_schema": told})
        needs.add("json_schema")
    elif kind != "text":
        raise WrongField(f"{path}.type", "it must be text, json_schema or json_object")


def _read_settings(fields: Fields, chat: Fields, untold: Untold) -> None:
    reasoning = decoded(fields, "reasoning")
    if reasoning is not None:
        effort = optional_text(object_of(reasoning, "reasoning"), "effort", "reasoning")
        if effort is not None:
            chat["reasoning_effort"] = packed(effort)
    most = decoded(fields, "max_output_tokens")
    if most is not None:
        within(most, "max_output_tokens", 1, TOKENS_MAX)
        chat["max_completion_tokens"] = packed(most)
    include = decoded(fields, "include")
    wanted = [] if include is None else [text_of(o, p) for p, o in items_of(include, "include")]
    tops = decoded(fields, "top_logprobs")
    if tops is not None:
        within(tops, "top_logprobs", 0, 20)
    if _LOGPROBS in wanted or tops:
        chat["logprobs"] = packed(value=True)
        if tops:
            chat["top_logprobs"] = packed(tops)
    one_of(decoded(fields, "truncation"), "truncation", "auto", "disabled")
    for name, what in (
        ("conversation", "it names a conversation at a provider"),
        ("prompt", "it names a prompt at a provider"),
        ("context_management", "it asks to compact the context"),
    ):
        if decoded(fields, name) not in (None, [], {}):
            untold.note(name, what)
