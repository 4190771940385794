"""A chat or embeddings request said to Gemini's API."""

import mimetypes
import re
from typing import Any

import msgspec

from helix.core.errors import BadInput
from helix.providers.wires.canonical import Chat, DataPart, Part, TextPart, Tool
from helix.providers.wires.embeddings import Embeddings

__all__ = ["embed_request", "generate_request"]

_GENERATION = {
    "temperature": "temperature",
    "top_p": "topP",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
_LEVELS = re.compile(r"(?:models/)?gemini-(?:[3-9]|\d\d)")
_BUDGETS = {"none": 0, "minimal": 512, "low": 1_024, "medium": 8_192, "high": 24_576}
_EFFORTS = frozenset({"minimal", "low", "medium", "high"})
_INLINE = ("image/", "audio/", "video/", "text/", "application/pdf")
_OPENAI_ONLY = ("metadata", "service_tier")


def generate_request(chat: Chat, model: str) -> dict[str, Any]:
    """Return the body; raises BadInput, FieldUnsupported."""
    if chat.parallel is False and chat.tools:
        raise chat.refuse("parallel_tool_calls", "may always call tools in parallel: leave it out")
    for name in _OPENAI_ONLY:
        chat.rest.pop(name, None)
    body: dict[str, Any] = {"contents": _contents(chat)}
    system = [
        {"text": part.text}
        for at, message in enumerate(chat.messages)
        if message.is_system
        for part in chat.texts(at)
    ]
    if system:
        body["systemInstruction"] = {"parts": system}
    _add_tools(chat, body)
    generation = _generation(chat, model)
    given = chat.rest.pop("generationConfig", None)
    if given is not None:
        generation |= _object("generationConfig", given)
    if generation:
        body["generationConfig"] = generation
    return {**body, **chat.rest}


def _object(name: str, raw: msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as exc:
        raise BadInput(f"{name}: it must be an object", param=name) from exc


def _generation(chat: Chat, model: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        theirs: chat.numbers[ours] for ours, theirs in _GENERATION.items() if ours in chat.numbers
    }
    if "top_k" in chat.rest:
        found["topK"] = chat.rest.pop("top_k")
    if chat.max_tokens is not None:
        found["maxOutputTokens"] = chat.max_tokens
    if chat.stop:
        found["stopSequences"] = chat.stop
    if chat.n != 1:
        found["candidateCount"] = chat.n
    if chat.logprobs:
        found["responseLogprobs"] = True
        if chat.top_logprobs:
            found["logprobs"] = chat.top_logprobs
    if chat.format is not None:
        found["responseMimeType"] = "application/json"
        if chat.format.json_schema is not None:
            found["responseJsonSchema"] = chat.format.json_schema.schema
    if chat.effort is not None:
        found["thinkingConfig"] = _thinking(chat, model, chat.effort)
    return found


def _thinking(chat: Chat, model: str, effort: str) -> dict[str, Any]:
    if _LEVELS.match(model):
        if effort not in _EFFORTS:
            raise chat.refuse("reasoning_effort", f"knows no effort {effort[:40]!r} for {model}")
        return {"thinkingLevel": effort, "includeThoughts": True}
    budget = _BUDGETS.get(effort)
    if budget is None:
        raise chat.refuse("reasoning_effort", f"knows no effort {effort[:40]!r} for {model}")
    return {"thinkingBudget": budget, "includeThoughts": budget > 0}


def _contents(chat: Chat) -> list[dict[str, Any]]:
    """Return the turns; neighbours of one role are one turn, as results of tools must be."""
    names = chat.names_of_calls()
    turns: list[dict[str, Any]] = []
    for at, message in enumerate(chat.messages):
        if message.is_system:
            continue
        role = "model" if message.role == "assistant" else "user"
        if message.role == "tool":
            parts = [_result(chat, at, names)]
        else:
            told = chat.texts(at) if role == "model" else chat.parts(at)
            parts = [_part(chat, p, f"messages[{at}].content[{n}]") for n, p in enumerate(told)]
            parts += _calls(chat, at)
        if not parts:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"].extend(parts)
        else:
            turns.append({"role": role, "parts": parts})
    if not turns:
        raise BadInput("messages: there must be one that is not the system's", param="messages")
    return turns


def _calls(chat: Chat, at: int) -> list[dict[str, Any]]:
    found = []
    for number, call in enumerate(chat.messages[at].tool_calls or []):
        told: dict[str, Any] = {
            "functionCall": {
                "id": call.id,
                "name": call.function.name,
                "args": chat.arguments(at, number),
            }
        }
        extra = call.extra_content
        google = extra.get("google") if isinstance(extra, dict) else None
        if isinstance(google, dict) and isinstance(google.get("thought_signature"), str):
            told["thoughtSignature"] = google["thought_signature"]
        found.append(told)
    return found


def _result(chat: Chat, at: int, names: dict[str, str]) -> dict[str, Any]:
    """Return the result of a call: an object as it is, anything else under `result`."""
    message = chat.messages[at]
    call_id = message.tool_call_id or ""
    name = names.get(call_id) or message.name
    if name is None:
        where = f"messages[{at}].tool_call_id"
        raise BadInput(f"{where}: no call before has this id", param=where)
    text = "".join(part.text for part in chat.texts(at))
    response: Any = {"result": text}
    if text.lstrip().startswith("{"):
        try:
            msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, RecursionError):
            pass
        else:
            response = msgspec.Raw(text.encode())
    return {"functionResponse": {"id": call_id, "name": name, "response": response}}


def _part(chat: Chat, part: Part, where: str) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    if isinstance(part, DataPart):
        if not part.mime.startswith(_INLINE):
            raise chat.refuse(where, f"takes no file of type {part.mime[:40]}")
        return {"inlineData": {"mimeType": part.mime, "data": part.data}}
    mime = mimetypes.guess_type(part.url.partition("?")[0])[0]
    if mime is None:
        reason = "must be told the type of a file behind a URL: end it in .png, or send its data"
        raise chat.refuse(where, reason)
    return {"fileData": {"mimeType": mime, "fileUri": part.url}}


def _add_tools(chat: Chat, body: dict[str, Any]) -> None:
    declared = [_declaration(tool) for tool in chat.tools if isinstance(tool, Tool)]
    own = [tool for tool in chat.tools if not isinstance(tool, Tool)]
    tools: list[Any] = [{"functionDeclarations": declared}] if declared else []
    if tools or own:
        body["tools"] = tools + own
    if chat.tools and chat.forced is not None:
        calling = {"mode": "ANY", "allowedFunctionNames": [chat.forced]}
        body["toolConfig"] = {"functionCallingConfig": calling}
    elif chat.tools and chat.tool_choice is not None:
        body["toolConfig"] = {"functionCallingConfig": {"mode": _MODES[chat.tool_choice]}}


def _declaration(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        found["description"] = tool.description
    if tool.parameters is not None:
        found["parametersJsonSchema"] = tool.parameters
    return found


def embed_request(asked: Embeddings, model: str) -> dict[str, Any]:
    """Return the body of batchEmbedContents, or of embedContent for a single text."""
    requests = []
    for text in asked.texts:
        one: dict[str, Any] = {"content": {"parts": [{"text": text}]}, **asked.rest}
        if asked.dimensions is not None:
            one["outputDimensionality"] = asked.dimensions
        requests.append(one)
    if asked.single:
        return requests[0]
    return {"requests": [{"model": model, **one} for one in requests]}
