"""A provider that speaks OpenAI's formats, read in the same neutral form as the other wires."""

import json
from typing import Any

from tests.fakes.openai_upstream import Seen, Writer, whole
from tests.fakes.wire_upstream import Asked, Told, WireUpstream, dumps, halves, must, vector, words

_KINDS = {401: "invalid_request_error", 429: "requests", 400: "invalid_request_error"}


class OpenAIWireUpstream(WireUpstream):
    """Serves chat, completions, embeddings, moderations, responses and models under /v1."""

    base_path = "/v1"

    def authorised(self, headers: dict[str, str]) -> bool:
        return headers.get("authorization") == f"Bearer {self.key}"

    def refusal(self, status: int, message: str) -> dict[str, Any]:
        kind = _KINDS.get(status, "server_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}

    async def serve(self, method: str, path: str, seen: Seen, writer: Writer) -> None:
        if (method, path) == ("GET", "/v1/models"):
            data = [{"id": "gpt-4", "object": "model"}, {"id": "tiny", "context_length": 8_192}]
            await whole(writer, 200, {"object": "list", "data": data})
            return
        must(method == "POST", f"there is no {method} {path}")
        body = seen.json
        if path == "/v1/embeddings":
            given = body["input"]
            texts = [given] if isinstance(given, str) else given
            vectors = [vector(text)[: body.get("dimensions")] for text in texts]
            data = [
                {"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)
            ]
            usage = {"prompt_tokens": 5, "total_tokens": 5}
            await whole(writer, 200, {"object": "list", "data": data, "model": "e", "usage": usage})
        elif path in {"/v1/completions", "/v1/moderations", "/v1/responses"}:
            await whole(writer, 200, {"path": path, "got": body})
        else:
            must(path == "/v1/chat/completions", f"there is no {path}")
            asked = asked_of(body)
            told = self.hears(asked)
            if asked.stream:
                await self.stream(seen, writer, self.stream_events(told, asked))
            else:
                await whole(writer, 200, answer(told, asked))

    def stream_events(self, told: Told, asked: Asked) -> list[bytes]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": word} for word in words(told.thinking)]
        deltas += [{"content": word} for word in words(told.text)]
        for index, call in enumerate(calls_of(told)):
            function = call["function"]
            begun = {"index": index, **call, "function": {**function, "arguments": ""}}
            deltas.append({"tool_calls": [begun]})
            deltas += [
                {"tool_calls": [{"index": index, "function": {"arguments": half}}]}
                for half in halves(function["arguments"])
            ]
        events = [chunk(asked, [choice]) for choice in ({"index": 0, "delta": d} for d in deltas)]
        finish = {"index": 0, "delta": {}, "finish_reason": told.finish}
        events.append(chunk(asked, [finish]))
        if told.usage is not None:
            events.append(chunk(asked, [], usage=usage_of(told)))
        return [*events, b"data: [DONE]\n\n"]


def chunk(asked: Asked, choices: list[dict[str, Any]], **more: Any) -> bytes:
    body = {
        "id": "chatcmpl-up",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": f"{asked.model}-2024",
        "choices": choices,
        **more,
    }
    return b"data: " + dumps(body) + b"\n\n"


def answer(told: Told, asked: Asked) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": told.text or None}
    if told.thinking:
        message["reasoning_content"] = told.thinking
    if told.calls:
        message["tool_calls"] = calls_of(told)
    found = {
        "id": "chatcmpl-up",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": f"{asked.model}-2024",
        "choices": [{"index": 0, "message": message, "finish_reason": told.finish}],
    }
    return found if told.usage is None else {**found, "usage": usage_of(told)}


def calls_of(told: Told) -> list[dict[str, Any]]:
    return [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": dumps(arguments).decode()},
        }
        for call_id, name, arguments in told.calls
    ]


def usage_of(told: Told) -> dict[str, Any]:
    usage = told.usage
    assert usage is not None
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def asked_of(body: dict[str, Any]) -> Asked:
    choice = body.get("tool_choice")
    form = body.get("response_format") or {}
    schema = {"json_schema": (form.get("json_schema") or {}).get("schema"), "json_object": {}}
    stop = body.get("stop") or []
    turns: list[tuple[str, list[tuple[Any, ...]]]] = []
    for message in body["messages"]:
        if message["role"] in {"system", "developer"}:
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        items = items_of(message)
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(items)
        else:
            turns.append((role, items))
    systems = [m for m in body["messages"] if m["role"] in {"system", "developer"}]
    return Asked(
        model=body["model"],
        stream=bool(body.get("stream")),
        system="".join(item[1] for m in systems for item in items_of(m)),
        turns=turns,
        tools={
            t["function"]["name"]: t["function"].get("parameters") for t in body.get("tools", [])
        },
        choice=choice["function"]["name"] if isinstance(choice, dict) else choice,
        parallel=body.get("parallel_tool_calls", True),
        schema=schema.get(form.get("type", "")),
        stop=[stop] if isinstance(stop, str) else stop,
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        temperature=body.get("temperature"),
        top_k=body.get("top_k"),
        effort=body.get("reasoning_effort"),
        n=body.get("n") or 1,
    )


def items_of(message: dict[str, Any]) -> list[tuple[Any, ...]]:
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    if message["role"] == "tool":
        return [("result", message["tool_call_id"], "".join(part["text"] for part in parts))]
    items: list[tuple[Any, ...]] = []
    for part in parts:
        if part["type"] == "text":
            items.append(("text", part["text"]))
        else:
            url = part["image_url"]["url"]
            kind, _, data = url.partition(";base64,")
            items.append(("image", kind.removeprefix("data:"), data) if data else ("link", url))
    for call in message.get("tool_calls") or []:
        function = call["function"]
        items.append(("call", call["id"], function["name"], json.loads(function["arguments"])))
    return items
