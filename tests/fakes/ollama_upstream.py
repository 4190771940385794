"""A provider that speaks Ollama's API, strictly."""

from typing import Any, Literal

import msgspec

from tests.fakes.openai_upstream import Seen, Writer, whole
from tests.fakes.wire_upstream import (
    Asked,
    Told,
    WireUpstream,
    check_base64,
    dumps,
    must,
    vector,
    words,
)


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Function(Strict):
    name: str
    arguments: dict[str, Any]


class Call(Strict):
    function: Function
    id: str | None = None


class Message(Strict):
    role: Literal["system", "user", "assistant", "tool"]
    content: str
    images: list[str] | None = None
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    thinking: str | None = None


class Declared(Strict):
    name: str
    parameters: dict[str, Any]
    description: str | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Declared


class Options(Strict):
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: list[str] | None = None
    num_predict: int | None = None
    num_ctx: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class Request(Strict):
    model: str
    messages: list[Message]
    stream: bool = True
    tools: list[Tool] | None = None
    format: Literal["json"] | dict[str, Any] | None = None
    options: Options | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    keep_alive: str | int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None


class Embed(Strict):
    model: str
    input: str | list[str]
    dimensions: int | None = None


class OllamaUpstream(WireUpstream):
    """Serves /api/chat, /api/embed and /api/tags."""

    stream_type = "application/x-ndjson"

    def authorised(self, headers: dict[str, str]) -> bool:
        return headers.get("authorization") == f"Bearer {self.key}"

    def refusal(self, status: int, message: str) -> dict[str, Any]:
        return {"error": message}

    async def serve(self, method: str, path: str, seen: Seen, writer: Writer) -> None:
        if (method, path) == ("GET", "/api/tags"):
            names = ["llama3.2:latest", "qwen3:8b"]
            models = [{"name": name, "model": name, "details": {}} for name in names]
            await whole(writer, 200, {"models": models})
            return
        if (method, path) == ("POST", "/api/embed"):
            embed = msgspec.json.decode(seen.body, type=Embed)
            texts = [embed.input] if isinstance(embed.input, str) else embed.input
            vectors = [vector(text)[: embed.dimensions] for text in texts]
            told = {"model": embed.model, "embeddings": vectors, "prompt_eval_count": 5}
            await whole(writer, 200, told)
            return
        must((method, path) == ("POST", "/api/chat"), f"there is no {method} {path}")
        request = msgspec.json.decode(seen.body, type=Request)
        for message in request.messages:
            for image in message.images or []:
                check_base64(image)
            must(message.role != "tool" or message.tool_name, "a result names its tool")
        asked = asked_of(request)
        answer = self.hears(asked)
        if request.stream:
            await self.stream(seen, writer, self.stream_events(answer, asked))
        else:
            parts = {"content": answer.text}
            await whole(writer, 200, {**line(asked, message_of(answer, parts)), **ended(answer)})

    def stream_events(self, told: Told, asked: Asked) -> list[bytes]:
        pieces: list[dict[str, Any]] = [
            {"content": "", "thinking": word} for word in words(told.thinking)
        ]
        pieces += [{"content": word} for word in words(told.text)]
        calls = calls_of(told)
        if calls:
            pieces.append({"content": "", "tool_calls": calls})
        lines = [{**line(asked, {"role": "assistant", **one}), "done": False} for one in pieces]
        lines.append({**line(asked, {"role": "assistant", "content": ""}), **ended(told)})
        return [dumps(one) + b"\n" for one in lines]


def line(asked: Asked, message: dict[str, Any]) -> dict[str, Any]:
    made = "2026-01-01T00:00:00.000000Z"
    return {"model": asked.model, "created_at": made, "message": message}


def message_of(told: Told, parts: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", **parts}
    if told.thinking:
        message["thinking"] = told.thinking
    if told.calls:
        message["tool_calls"] = calls_of(told)
    return message


def calls_of(told: Told) -> list[dict[str, Any]]:
    return [
        {"id": call_id, "function": {"index": n, "name": name, "arguments": arguments}}
        for n, (call_id, name, arguments) in enumerate(told.calls)
    ]


def ended(told: Told) -> dict[str, Any]:
    reason = "length" if told.finish == "length" else "stop"
    found: dict[str, Any] = {"done": True, "done_reason": reason, "total_duration": 1_000}
    if told.usage is not None:
        found |= {"prompt_eval_count": told.usage.prompt, "eval_count": told.usage.completion}
    return found


def asked_of(request: Request) -> Asked:
    options = request.options or Options()
    names = {call.id: call for m in request.messages for call in m.tool_calls or []}
    must(
        all(m.tool_call_id in names for m in request.messages if m.role == "tool"),
        "a result of no call",
    )
    return Asked(
        model=request.model,
        stream=request.stream,
        system="".join(m.content for m in request.messages if m.role == "system"),
        turns=turns_of(request.messages),
        tools={tool.function.name: tool.function.parameters for tool in request.tools or []},
        schema={} if request.format == "json" else request.format,
        stop=options.stop or [],
        max_tokens=options.num_predict,
        temperature=options.temperature,
        top_k=options.top_k,
        effort=request.think,
    )


def turns_of(messages: list[Message]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Return the turns; results of tools are the user's, as in the other wires."""
    turns: list[tuple[str, list[tuple[Any, ...]]]] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        items = items_of(message)
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(items)
        else:
            turns.append((role, items))
    return turns


def items_of(message: Message) -> list[tuple[Any, ...]]:
    if message.role == "tool":
        return [("result", message.tool_call_id, message.content)]
    items: list[tuple[Any, ...]] = []
    if message.content:
        items.append(("text", message.content))
    items += [("image", "image/png", image) for image in message.images or []]
    for call in message.tool_calls or []:
        items.append(("call", call.id, call.function.name, call.function.arguments))
    return items
