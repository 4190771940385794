"""A chat request said to Anthropic's Messages API.

System messages are drawn together in front, as Anthropic's own layer for OpenAI clients does.
"""

import re
from typing import Any

import msgspec

from helix.core.errors import BadInput
from helix.providers.wires.canonical import Chat, DataPart, LinkPart, Part, TextPart, Tool

__all__ = ["JSON_TOOL", "messages_request"]

JSON_TOOL = "json_answer"
"""The tool by which a model without an output format of its own answers in JSON."""

_OLDER = re.compile(r"claude-(?:[12]|instant|3)(?!\d)")
_VERSION = re.compile(r"claude-[a-z]+-(\d)(?:-(\d)(?!\d))?")
_BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 24_576}
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh"}
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
_OPEN_OBJECT = msgspec.Raw(b'{"type":"object","additionalProperties":true}')
_PDF = "application/pdf"


def messages_request(chat: Chat, model: str) -> tuple[dict[str, Any], str | None]:
    """Return the body, and the name of the tool whose input is the answer when there is one.

    Raises BadInput, FieldUnsupported.
    """
    _refuse(chat)
    limit = chat.max_tokens if chat.max_tokens is not None else _room(model)
    body: dict[str, Any] = {"model": model, "max_tokens": limit, "messages": _messages(chat)}
    system = [
        _text(part) for at, m in enumerate(chat.messages) if m.is_system for part in chat.texts(at)
    ]
    if system:
        body["system"] = system
    if chat.stream:
        body["stream"] = True
    if chat.stop:
        body["stop_sequences"] = chat.stop
    body |= {name: chat.numbers[name] for name in ("temperature", "top_p") if name in chat.numbers}
    user = chat.user or _user_of(chat.rest.pop("metadata", None))
    chat.rest.pop("metadata", None)
    if user is not None:
        body["metadata"] = {"user_id": user}
    _add_tools(chat, body)
    _add_effort(chat, model, body)
    json_tool = _add_format(chat, model, body)
    chat.rest.pop("service_tier", None)
    if "output_config" in body and "output_config" in chat.rest:
        told = msgspec.json.decode(chat.rest.pop("output_config"), type=dict[str, msgspec.Raw])
        body["output_config"] = {**body["output_config"], **told}
    return {**body, **chat.rest}, json_tool


def _refuse(chat: Chat) -> None:
    if chat.n != 1:
        raise chat.refuse("n", "gives one answer a call: ask again for more")
    if chat.logprobs or chat.top_logprobs:
        raise chat.refuse("logprobs", "tells no probabilities: leave it out")
    for name in ("presence_penalty", "frequency_penalty"):
        if float(bytes(chat.numbers.get(name, b"0"))):
            raise chat.refuse(name, "has no such control: leave it out")


def _user_of(metadata: msgspec.Raw | None) -> str | None:
    """Return the one thing of `metadata` that Anthropic takes; OpenAI's are labels to store."""
    told = None if metadata is None else msgspec.json.decode(metadata)
    user = told.get("user_id") if isinstance(told, dict) else None
    return user if isinstance(user, str) else None


def _version(model: str) -> tuple[int, int]:
    """Return the generation a model's name tells; what is not known counts as new."""
    if _OLDER.match(model):
        return (3, 5) if "3-5" in model or "3-7" in model else (3, 0)
    found = _VERSION.match(model)
    return (9, 9) if found is None else (int(found[1]), int(found[2] or 0))


def _room(model: str) -> int:
    """Return how long an answer may get when the client does not say: what the model can."""
    version = _version(model)
    if version < (3, 5):
        return 4_096
    return 8_192 if version < (4, 0) else 32_000


def _text(part: TextPart) -> dict[str, Any]:
    return {"type": "text", "text": part.text, **_kept(part.extra)}


def _kept(extra: dict[str, Any]) -> dict[str, Any]:
    return {name: extra[name] for name in ("cache_control", "citations") if name in extra}


def _messages(chat: Chat) -> list[dict[str, Any]]:
    """Return the turns; neighbours of one role are one turn, results of tools are the user's."""
    turns: list[dict[str, Any]] = []
    for at, message in enumerate(chat.messages):
        if message.is_system:
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(chat, at)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise BadInput("messages: there must be one that is not the system's", param="messages")
    return turns


def _blocks(chat: Chat, at: int) -> list[Any]:
    message = chat.messages[at]
    if message.role == "tool":
        content = [_block(chat, part, at, n) for n, part in enumerate(chat.parts(at))]
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": content}]
    if message.role == "user":
        return [_block(chat, part, at, n) for n, part in enumerate(chat.parts(at))]
    blocks: list[Any] = list(message.thinking_blocks or [])
    blocks += [_text(part) for part in chat.texts(at)]
    for number, call in enumerate(message.tool_calls or []):
        arguments = chat.arguments(at, number)
        name = call.function.name
        blocks.append({"type": "tool_use", "id": call.id, "name": name, "input": arguments})
    return blocks


def _block(chat: Chat, part: Part, at: int, number: int) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return _text(part)
    if isinstance(part, LinkPart):
        source = {"type": "url", "url": part.url}
        return {"type": "image", "source": source, **_kept(part.extra)}
    return _file(chat, part, f"messages[{at}].content[{number}]")


def _file(chat: Chat, part: DataPart, where: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": part.mime, "data": part.data}
    if part.mime.startswith("image/"):
        return {"type": "image", "source": source, **_kept(part.extra)}
    if part.mime == _PDF:
        titled = {} if part.name is None else {"title": part.name}
        return {"type": "document", "source": source, **titled, **_kept(part.extra)}
    raise chat.refuse(where, f"takes images and PDF, not {part.mime[:40]}")


def _add_tools(chat: Chat, body: dict[str, Any]) -> None:
    if chat.tools:
        body["tools"] = [_tool(t) if isinstance(t, Tool) else t for t in chat.tools]
    choice: dict[str, Any] | None = None
    if chat.forced is not None:
        choice = {"type": "tool", "name": chat.forced}
    elif chat.tool_choice is not None:
        choice = {"type": _CHOICES[chat.tool_choice]}
    if chat.parallel is False and chat.tools:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
    if choice is not None and chat.tools:
        body["tool_choice"] = choice


def _tool(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": tool.name,
        "input_schema": tool.parameters or msgspec.Raw(b'{"type":"object"}'),
    }
    if tool.description is not None:
        found["description"] = tool.description
    if tool.strict:
        found["strict"] = True
    if tool.cache_control is not None:
        found["cache_control"] = tool.cache_control
    return found


def _add_effort(chat: Chat, model: str, body: dict[str, Any]) -> None:
    """Say how hard to think: by an effort where the model knows it, else by a budget."""
    effort = chat.effort
    if effort is None or "thinking" in chat.rest:
        return
    if effort == "none":
        body["thinking"] = {"type": "disabled"}
        return
    if _version(model) >= (4, 6):
        if effort not in _EFFORTS:
            raise chat.refuse("reasoning_effort", f"knows no effort {effort[:40]!r}")
        body["thinking"] = {"type": "adaptive"}
        body["output_config"] = {"effort": _EFFORTS[effort]}
        return
    budget = _BUDGETS.get(effort)
    if budget is None:
        raise chat.refuse("reasoning_effort", f"knows no effort {effort[:40]!r} for {model}")
    if "claude-3-7" not in model and _version(model) < (4, 0):
        raise chat.refuse("reasoning_effort", "does not think aloud with this model: leave it out")
    if chat.max_tokens is None:
        body["max_tokens"] = max(body["max_tokens"], budget + 4_096)
    elif chat.max_tokens <= 1_024:
        raise chat.refuse("max_tokens", "thinks in 1024 tokens or more, which must fit within")
    body["thinking"] = {
        "type": "enabled",
        "budget_tokens": min(budget, max(1_024, body["max_tokens"] - 1)),
    }


def _add_format(chat: Chat, model: str, body: dict[str, Any]) -> str | None:
    told = chat.format
    if told is None:
        return None
    schema = _OPEN_OBJECT
    if told.json_schema is not None:
        schema = told.json_schema.schema
        if _version(model) >= (4, 5):
            form = {"type": "json_schema", "schema": schema}
            body["output_config"] = {**body.get("output_config", {}), "format": form}
            return None
    thinks = body.get("thinking", {"type": "disabled"})["type"] != "disabled"
    if chat.tools or thinks or "thinking" in chat.rest:
        reason = "answers in JSON with this model only without tools and thinking"
        raise chat.refuse("response_format", reason)
    about = "Give your whole answer by calling this tool once."
    if told.json_schema is not None and told.json_schema.description:
        about = f"{about} {told.json_schema.description}"
    body["tools"] = [{"name": JSON_TOOL, "description": about, "input_schema": schema}]
    body["tool_choice"] = {"type": "tool", "name": JSON_TOOL}
    return JSON_TOOL
