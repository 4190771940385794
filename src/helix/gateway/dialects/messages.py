"""Anthropic's Messages API: read into a chat call; see messages_out.py for its answers.

A provider that speaks it gets the request as it was sent. For all others it is translated. What
is left out then, because chat completions have no word for it: cache_control, earlier thinking
and its signatures. What would change the answer and cannot be told is refused by its path.
"""

from typing import Any

import msgspec

from helix.core.errors import HelixError
from helix.gateway.dialects.messages_out import MessagesRenderer, error_body, message_of
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
from helix.gateway.types import CallRequest
from helix.providers import Operation

__all__ = ["CountTokens", "Messages", "effort_of_budget"]

TOKENS_MAX = 2**31 - 1
STOPS_MAX = 8_192
_TRANSLATED = frozenset(
    {
        "cache_control",
        "container",
        "context_management",
        "max_tokens",
        "mcp_servers",
        "messages",
        "metadata",
        "output_config",
        "output_format",
        "service_tier",
        "stop_sequences",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


def effort_of_budget(tokens: int) -> str:
    """Return the reasoning effort that a budget of thinking tokens comes closest to."""
    if tokens <= 4_096:
        return "low"
    return "medium" if tokens <= 16_384 else "high"


class Messages:
    """POST /v1/messages."""

    name = "messages"
    path = "/v1/messages"
    operation = Operation.CHAT
    native: Operation | None = Operation.MESSAGES
    identity = False

    def read(self, body: bytes, limits: IntakeLimits) -> CallRequest:
        """Return the call that a body asks for; see `types.Dialect`."""
        return _read(body, limits, counting=False)

    def whole(self, answer: dict[str, Any], request: CallRequest, request_id: str) -> bytes:
        """Return a canonical answer as a message."""
        return msgspec.json.encode(message_of(answer, request, request_id))

    def stream(self, request: CallRequest, request_id: str) -> MessagesRenderer:
        """Return the renderer of one stream."""
        return MessagesRenderer(request, request_id)

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return an error as Anthropic tells it."""
        return error_body(error, request_id)


class CountTokens:
    """POST /v1/messages/count_tokens; answered without a provider, from an estimate."""

    path = "/v1/messages/count_tokens"

    def read(self, body: bytes, limits: IntakeLimits) -> CallRequest:
        """Return the call whose tokens are to be counted; raises as `Messages.read` does."""
        return _read(body, limits, counting=True)

    def answer(self, tokens: int) -> bytes:
        """Return a count, marked as the estimate it is."""
        return msgspec.json.encode({"input_tokens": tokens, "estimated": True})


def _read(body: bytes, limits: IntakeLimits, *, counting: bool) -> CallRequest:
    text, fields = read_fields(body, limits)
    model, options = read_model(fields), read_options(fields)
    untold, needs = Untold(), set[str]()
    chat = {name: raw for name, raw in fields.items() if name not in _TRANSLATED}
    messages = _system(decoded(fields, "system"), untold)
    messages += _read_messages(decoded(fields, "messages"), limits, untold, needs)
    chat["messages"] = packed(messages)
    most = decoded(fields, "max_tokens")
    if most is not None or not counting:
        chat["max_completion_tokens"] = packed(within(most, "max_tokens", 1, TOKENS_MAX))
    _read_stops(fields, chat)
    _read_tools(fields, chat, untold, needs)
    _read_thinking(fields, chat)
    _read_output(fields, chat, needs)
    _read_rest(fields, chat, untold)
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
        dialect="messages",
        own=fields,
        needs=frozenset(needs),
        native_only=untold.first,
    )


# ---- messages


def _system(value: Any, untold: Untold) -> list[dict[str, Any]]:
    if value is None:
        return []
    if type(value) is str:
        return [{"role": "system", "content": value}] if value else []
    texts = [_text_block(block, path, untold) for path, block in objects_of(value, "system")]
    return [{"role": "system", "content": "\n\n".join(texts)}] if texts else []


def _text_block(block: dict[str, Any], path: str, untold: Untold) -> str:
    if text_in(block, "type", path) != "text":
        untold.note(f"{path}.type", "it is no text")
        return ""
    return text_in(block, "text", path)


def _read_messages(
    value: Any, limits: IntakeLimits, untold: Untold, needs: set[str]
) -> list[dict[str, Any]]:
    if value is None:
        raise WrongField("messages", "it is missing: send at least one message")
    if type(value) is list and not 0 < len(value) <= limits.messages_max:
        raise WrongField(
            "messages",
            f"there are {len(value)}, and 1 to messages_max ({limits.messages_max}) are taken",
        )
    found: list[dict[str, Any]] = []
    for path, message in objects_of(value, "messages"):
        role = text_in(message, "role", path)
        one_of(role, f"{path}.role", "user", "assistant", "system")
        content = message.get("content")
        at = f"{path}.content"
        if type(content) is str:
            found.append({"role": role, "content": content})
        elif role == "assistant":
            found.append(_assistant(content, at, untold))
        elif role == "system":
            found += _system(content, untold)
        else:
            found += _user(content, at, untold, needs)
    return found


def _assistant(content: Any, path: str, untold: Untold) -> dict[str, Any]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for at, block in objects_of(content, path):
        kind = text_in(block, "type", at)
        if kind == "text":
            texts.append(text_in(block, "text", at))
        elif kind == "tool_use":
            given = object_of(block.get("input", {}), f"{at}.input")
            function = {
                "name": text_in(block, "name", at),
                "arguments": msgspec.json.encode(given).decode(),
            }
            calls.append({"id": text_in(block, "id", at), "type": "function", "function": function})
        elif kind not in {"thinking", "redacted_thinking"}:
            untold.note(f"{at}.type", f"chat completions have no block {kind[:60]!r}")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
    if calls:
        message["tool_calls"] = calls
    elif not texts:
        message["content"] = ""
    return message


def _user(content: Any, path: str, untold: Untold, needs: set[str]) -> list[dict[str, Any]]:
    """Return the results of tools, each a message of its own, then what the user says."""
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for at, block in objects_of(content, path):
        if block.get("type") == "tool_result":
            text, shown = _tool_result(block, at, untold, needs)
            call_id = text_in(block, "tool_use_id", at)
            results.append({"role": "tool", "tool_call_id": call_id, "content": text})
            parts += shown
        else:
            parts += _parts(block, at, untold, needs)
    if not parts:
        return results or [{"role": "user", "content": ""}]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return [*results, {"role": "user", "content": parts[0]["text"]}]
    return [*results, {"role": "user", "content": parts}]


def _tool_result(
    block: dict[str, Any], path: str, untold: Untold, needs: set[str]
) -> tuple[str, list[dict[str, Any]]]:
    """Return the text of a result, and what else it shows: chat takes that from the user only."""
    content = block.get("content", "")
    parts: list[dict[str, Any]] = []
    if type(content) is str:
        text = content
    else:
        for at, one in objects_of(content, f"{path}.content"):
            parts += _parts(one, at, untold, needs)
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    failed = flag_of(block.get("is_error"), f"{path}.is_error")
    return f"Error: {text}" if failed else text, [p for p in parts if p["type"] != "text"]


def _parts(
    block: dict[str, Any], path: str, untold: Untold, needs: set[str]
) -> list[dict[str, Any]]:
    kind = text_in(block, "type", path)
    if kind == "text":
        return [{"type": "text", "text": text_in(block, "text", path)}]
    if kind == "image":
        needs.add("vision")
        return _image(object_of(block.get("source"), f"{path}.source"), f"{path}.source", untold)
    if kind == "document":
        return _document(block, path, untold, needs)
    if kind == "search_result":
        title, source = text_in(block, "title", path), text_in(block, "source", path)
        inner = objects_of(block.get("content"), f"{path}.content")
        texts = [_text_block(one, at, untold) for at, one in inner]
        return [{"type": "text", "text": "\n".join([f"{title} ({source})", *texts])}]
    untold.note(f"{path}.type", f"chat completions have no block {kind[:60]!r}")
    return []


def _image(source: dict[str, Any], path: str, untold: Untold) -> list[dict[str, Any]]:
    kind = text_in(source, "type", path)
    if kind == "base64":
        media, data = text_in(source, "media_type", path), text_in(source, "data", path)
        return [{"type": "image_url", "image_url": {"url": f"data:{media};base64,{data}"}}]
    if kind == "url":
        return [{"type": "image_url", "image_url": {"url": text_in(source, "url", path)}}]
    untold.note(path, f"it is of the kind {kind[:60]!r}")
    return []


def _document(
    block: dict[str, Any], path: str, untold: Untold, needs: set[str]
) -> list[dict[str, Any]]:
    source = object_of(block.get("source"), f"{path}.source")
    kind, at = text_in(source, "type", f"{path}.source"), f"{path}.source"
    citations = block.get("citations")
    if type(citations) is dict and citations.get("enabled"):
        untold.note(f"{path}.citations", "it asks for citations")
    title, context = optional_text(block, "title", path), optional_text(block, "context", path)
    heads = [{"type": "text", "text": one} for one in (title, context) if one]
    if kind == "text":
        return [*heads, {"type": "text", "text": text_in(source, "data", at)}]
    if kind == "content":
        content = source.get("content")
        if type(content) is str:
            return [*heads, {"type": "text", "text": content}]
        inner = objects_of(content, f"{at}.content")
        return heads + [part for p, one in inner for part in _parts(one, p, untold, needs)]
    if kind == "base64":
        needs.add("files")
        media, data = text_in(source, "media_type", at), text_in(source, "data", at)
        file = {
            "filename": title or "document.pdf",
            "file_data": f"data:{media};base64,{data}",
        }
        return [*heads, {"type": "file", "file": file}]
    untold.note(at, f"it is of the kind {kind[:60]!r}")
    return []


# ---- everything else


def _read_stops(fields: Fields, chat: Fields) -> None:
    stops = decoded(fields, "stop_sequences")
    if stops is None:
        return
    found = [text_of(one, path) for path, one in items_of(stops, "stop_sequences")]
    if len(found) > STOPS_MAX:
        raise WrongField("stop_sequences", f"at most {STOPS_MAX} are taken")
    if found:
        chat["stop"] = packed(found)


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
    kind = text_in(object_of(choice, "tool_choice"), "type", "tool_choice")
    if kind == "tool":
        function = {"name": text_in(choice, "name", "tool_choice")}
        chat["tool_choice"] = packed({"type": "function", "function": function})
    elif kind in _CHOICES:
        chat["tool_choice"] = packed(_CHOICES[kind])
    else:
        raise WrongField("tool_choice.type", 'it must be "auto", "any", "tool" or "none"')
    alone = choice.get("disable_parallel_tool_use")
    if flag_of(alone, "tool_choice.disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = packed(value=False)


def _tool(tool: dict[str, Any], path: str, untold: Untold) -> dict[str, Any]:
    kind = optional_text(tool, "type", path)
    if kind not in (None, "custom"):
        untold.note(f"{path}.type", f"chat completions have no tool {kind[:60]!r}")
        return {}
    function: dict[str, Any] = {"name": text_in(tool, "name", path)}
    if tool.get("description") is not None:
        function["description"] = text_in(tool, "description", path)
    function["parameters"] = object_of(tool.get("input_schema"), f"{path}.input_schema")
    if tool.get("strict") is not None:
        function["strict"] = flag_of(tool["strict"], f"{path}.strict")
    return {"type": "function", "function": function}


def _read_thinking(fields: Fields, chat: Fields) -> None:
    thinking = decoded(fields, "thinking")
    if thinking is None:
        return
    if text_in(object_of(thinking, "thinking"), "type", "thinking") == "enabled":
        budget = within(thinking.get("budget_tokens"), "thinking.budget_tokens", 1, TOKENS_MAX)
        chat["reasoning_effort"] = packed(effort_of_budget(budget))


def _read_output(fields: Fields, chat: Fields, needs: set[str]) -> None:
    config, name = decoded(fields, "output_config"), "output_config"
    wanted = decoded(fields, "output_format")
    path = "output_format"
    if config is not None:
        object_of(config, name)
        effort = one_of(config.get("effort"), f"{name}.effort", *_EFFORTS)
        if effort is not None:
            chat["reasoning_effort"] = packed("xhigh" if effort == "max" else effort)
        if config.get("format") is not None:
            wanted, path = config["format"], f"{name}.format"
    if wanted is None:
        return
    if text_in(object_of(wanted, path), "type", path) != "json_schema":
        raise WrongField(f"{path}.type", 'it must be "json_schema"')
    schema = object_of(wanted.get("schema"), f"{path}.schema")
    chat["response_format"] = packed(
        {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    )
    needs.add("json_schema")


def _read_rest(fields: Fields, chat: Fields, untold: Untold) -> None:
    metadata = decoded(fields, "metadata")
    if metadata is not None:
        user = object_of(metadata, "metadata").get("user_id")
        if user is not None:
            chat["user"] = packed(text_of(user, "metadata.user_id"))
    tier = decoded(fields, "service_tier")
    if tier not in (None, "auto"):
        chat["service_tier"] = packed("default" if tier == "standard_only" else tier)
    for name, what in (
        ("container", "it names a container"),
        ("mcp_servers", "it names servers of tools"),
        ("context_management", "it asks to edit the context"),
    ):
        if decoded(fields, name) not in (None, [], {}):
            untold.note(name, what)
