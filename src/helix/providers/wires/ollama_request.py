"""A chat or embeddings request said to Ollama's API."""

from typing import Any

import msgspec

from helix.core.errors import BadInput
from helix.providers.wires.canonical import Chat, DataPart, TextPart, Tool
from helix.providers.wires.embeddings import Embeddings

__all__ = ["chat_request", "embed_request"]

_OPTIONS = frozenset(
    """min_p mirostat mirostat_eta mirostat_tau num_batch num_ctx num_gpu num_keep num_thread
    repeat_last_n repeat_penalty tfs_z top_k typical_p""".split()
)
_EFFORTS = frozenset({"low", "medium", "high"})


def chat_request(chat: Chat, model: str) -> dict[str, Any]:
    """Return the body; raises BadInput, FieldUnsupported."""
    _refuse(chat)
    for name in ("metadata", "service_tier"):
        chat.rest.pop(name, None)
    body: dict[str, Any] = {
        "model": model,
        "messages": _messages(chat),
        "stream": chat.stream,
    }
    if chat.tools and chat.tool_choice != "none":
        body["tools"] = [_tool(t) if isinstance(t, Tool) else t for t in chat.tools]
    if chat.format is not None:
        schema = chat.format.json_schema
        body["format"] = "json" if schema is None else schema.schema
    if chat.effort is not None:
        body["think"] = _think(chat, model, chat.effort)
    if chat.logprobs:
        body["logprobs"] = True
        if chat.top_logprobs:
            body["top_logprobs"] = chat.top_logprobs
    options = _options(chat)
    if options:
        body["options"] = options
    return {**body, **chat.rest}


def _refuse(chat: Chat) -> None:
    if chat.n != 1:
        raise chat.refuse("n", "gives one answer a call: ask again for more")
    if chat.tools and chat.tool_choice in {"required", "function"}:
        raise chat.refuse("tool_choice", "cannot be made to call a tool: use auto or none")
    if chat.tools and chat.parallel is False:
        raise chat.refuse("parallel_tool_calls", "may always call tools in parallel: leave it out")


def _options(chat: Chat) -> dict[str, Any]:
    options: dict[str, Any] = dict(chat.numbers)
    if chat.max_tokens is not None:
        options["num_predict"] = chat.max_tokens
    if chat.stop:
        options["stop"] = chat.stop
    for name in _OPTIONS & chat.rest.keys():
        options[name] = chat.rest.pop(name)
    given = chat.rest.pop("options", None)
    if given is not None:
        try:
            options |= msgspec.json.decode(given, type=dict[str, msgspec.Raw])
        except msgspec.DecodeError as exc:
            raise BadInput("options: it must be an object", param="options") from exc
    return options


def _think(chat: Chat, model: str, effort: str) -> bool | str:
    """Return how hard to think: only gpt-oss knows degrees."""
    if effort == "none":
        return False
    if effort in _EFFORTS:
        return effort if "gpt-oss" in model else True
    raise chat.refuse("reasoning_effort", f"knows no effort {effort[:40]!r}")


def _messages(chat: Chat) -> list[dict[str, Any]]:
    names = chat.names_of_calls()
    found = []
    for at, message in enumerate(chat.messages):
        role = "system" if message.is_system else message.role
        told: dict[str, Any] = {"role": role, "content": ""}
        images = []
        texts = []
        for number, part in enumerate(chat.parts(at)):
            if isinstance(part, TextPart):
                texts.append(part.text)
            elif isinstance(part, DataPart) and part.mime.startswith("image/") and role == "user":
                images.append(part.data)
            else:
                where = f"messages[{at}].content[{number}]"
                raise chat.refuse(where, "takes text, and images sent as data, of the user alone")
        told["content"] = "".join(texts)
        if images:
            told["images"] = images
        if role == "assistant":
            if message.reasoning_content:
                told["thinking"] = message.reasoning_content
            if message.tool_calls:
                told["tool_calls"] = _calls(chat, at)
        elif role == "tool":
            call_id = message.tool_call_id or ""
            name = names.get(call_id) or message.name
            if name is None:
                where = f"messages[{at}].tool_call_id"
                raise BadInput(f"{where}: no call before has this id", param=where)
            told |= {"tool_name": name, "tool_call_id": call_id}
        found.append(told)
    return found


def _calls(chat: Chat, at: int) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "function": {"name": call.function.name, "arguments": chat.arguments(at, number)},
        }
        for number, call in enumerate(chat.messages[at].tool_calls or [])
    ]


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "parameters": tool.parameters or msgspec.Raw(b'{"type":"object","properties":{}}'),
    }
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def embed_request(asked: Embeddings, model: str) -> dict[str, Any]:
    """Return the body."""
    given = asked.texts[0] if asked.single else asked.texts
    body: dict[str, Any] = {"model": model, "input": given, **asked.rest}
    if asked.dimensions is not None:
        body["dimensions"] = asked.dimensions
    return body
