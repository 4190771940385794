"""A provider that can do all that the scenarios ask for: OpenAI's APIs, and Anthropic's Messages.

What it does is chosen by the model's name and by what a request holds, so that each scenario sees
its own words come back. `seen` is its ledger.
"""

import asyncio
import base64
import json
import struct
from typing import Any

from aiohttp import web

__all__ = ["ANTHROPIC_MODEL", "MODELS", "Upstream"]

MODELS = [
    "chat",
    "embedder",
    "endless",
    "fails",
    "flaky",
    "limited",
    "missing",
    "omni-moderation-latest",
    "refuses",
    "slow",
    "thinks",
]
ANTHROPIC_MODEL = "native"
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 5,
    "total_tokens": 25,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
REPORT = {"city": "Paris", "celsius": 21}
_REFUSALS = {
    "refuses": (400, "no such temperature"),
    "missing": (404, "no such model"),
    "limited": (429, "slow down"),
    "fails": (500, "out of order"),
}


class Upstream:
    """Start it in a test; `url` is for providers of OpenAI's wire, `root` for Anthropic's."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.cut = asyncio.Event()
        self._fails_next = False
        self._flaky: str | None = None
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """Begin to serve on a free port."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/embeddings", self._embed)
        app.router.add_post("/v1/moderations", self._moderate)
        app.router.add_post("/v1/messages", self._message)
        app.router.add_get("/v1/models", self._list)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Cut whatever is under way."""
        assert self._runner is not None
        await self._runner.cleanup()

    def fail_once(self) -> None:
        """Refuse the next request for `flaky`, however often Helix itself tries it."""
        self._fails_next = True

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    async def _asked(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.seen.append({"path": request.path, "id": request.headers.get("x-request-id"), **body})
        return body

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in MODELS]})

    # ---- chat

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._asked(request)
        model = body["model"]
        if model == "flaky":
            request_id = request.headers["x-request-id"]
            if self._fails_next:
                self._flaky, self._fails_next = request_id, False
            if request_id == self._flaky:
                return refused(500, "not yet")
        if model in _REFUSALS:
            return refused(*_REFUSALS[model])
        if model == "slow":
            await asyncio.sleep(3)
        choices = [told(body, index) for index in range(body.get("n") or 1)]
        if not body.get("stream"):
            return web.json_response({**head(body), "choices": choices, "usage": USAGE})
        return await self._stream(request, body, choices)

    async def _stream(
        self, request: web.Request, body: dict[str, Any], choices: list[dict[str, Any]]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        begin = {**head(body), "object": "chat.completion.chunk"}
        if body["model"] == "endless":
            try:
                while True:
                    delta = {"choices": [{"index": 0, "delta": {"content": "more and more "}}]}
                    await response.write(event({**begin, **delta}))
                    await asyncio.sleep(0.01)
            finally:
                self.cut.set()
        for choice in choices:
            for delta in deltas(choice):
                await response.write(event({**begin, "choices": [delta]}))
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(event({**begin, "choices": [], "usage": USAGE}))
        await response.write(b"data: [DONE]\n\n")
        return response

    # ---- OpenAI's simpler APIs

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await self._asked(request)
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        choices = [
            {"index": n, "text": f"after {one}", "logprobs": None, "finish_reason": "stop"}
            for n, one in enumerate(prompts)
        ]
        frame = {**head(body), "object": "text_completion"}
        if not body.get("stream"):
            return web.json_response({**frame, "choices": choices, "usage": USAGE})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for choice in choices:
            for word in choice["text"].split(" "):
                part = {**choice, "text": f"{word} ", "finish_reason": None}
                await response.write(event({**frame, "choices": [part]}))
            await response.write(event({**frame, "choices": [{**choice, "text": ""}]}))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _embed(self, request: web.Request) -> web.Response:
        body = await self._asked(request)
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = []
        for index, text in enumerate(texts):
            vector: Any = [float(len(text)), 0.5, -0.25]
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack("<3f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        usage = {"prompt_tokens": 6, "total_tokens": 6}
        return web.json_response(
            {"object": "list", "model": body["model"], "data": data, "usage": usage}
        )

    async def _moderate(self, request: web.Request) -> web.Response:
        body = await self._asked(request)
        flagged = "hate" in json.dumps(body["input"])
        names = ["harassment", "hate", "self-harm", "sexual", "violence"]
        result = {
            "flagged": flagged,
            "categories": {name: flagged and name == "hate" for name in names},
            "category_scores": {
                name: 0.9 if flagged and name == "hate" else 0.01 for name in names
            },
            "category_applied_input_types": {name: ["text"] for name in names},
        }
        return web.json_response({"id": "modr-1", "model": body["model"], "results": [result]})

    # ---- Anthropic's Messages

    async def _message(self, request: web.Request) -> web.StreamResponse:
        body = await self._asked(request)
        blocks: list[dict[str, Any]] = [
            {"type": "thinking", "thinking": "let me see", "signature": "sig=="},
            {"type": "text", "text": f"natively: {text_of(body['messages'][-1]['content'])}"},
        ]
        frame = {"id": "msg_up", "type": "message", "role": "assistant", "model": body["model"]}
        usage = {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 5}
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        if not body.get("stream"):
            return web.json_response({**frame, **end, "content": blocks, "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        nothing = {"stop_reason": None, "stop_sequence": None, "content": []}
        start = {**frame, **nothing, "usage": {**usage, "output_tokens": 0}}
        await response.write(named("message_start", message=start))
        await response.write(named("ping"))
        for index, block in enumerate(blocks):
            for part in native_block(index, block):
                await response.write(part)
        await response.write(named("message_delta", delta=end, usage={"output_tokens": 5}))
        await response.write(named("message_stop"))
        return response


def refused(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "upstream_says", "code": "c", "param": None}
    headers = {"retry-after": "1"} if status == 429 else {}
    return web.json_response({"error": error}, status=status, headers=headers)


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def named(kind: str, **values: Any) -> bytes:
    return f"event: {kind}\n".encode() + event({"type": kind, **values})


def native_block(index: int, block: dict[str, Any]) -> list[bytes]:
    if block["type"] == "thinking":
        empty = {"type": "thinking", "thinking": "", "signature": ""}
        tell: list[dict[str, Any]] = [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    else:
        empty = {"type": "text", "text": ""}
        half = len(block["text"]) // 2
        tell = [
            {"type": "text_delta", "text": part}
            for part in (block["text"][:half], block["text"][half:])
        ]
    return [
        named("content_block_start", index=index, content_block=empty),
        *(named("content_block_delta", index=index, delta=delta) for delta in tell),
        named("content_block_stop", index=index),
    ]


def head(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-up",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": body["model"],
    }


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


def told(body: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the choice that answers a request."""
    last = body["messages"][-1]
    form = (body.get("response_format") or {}).get("type")
    message: dict[str, Any] = {"role": "assistant", "content": None}
    finish = "stop"
    if last["role"] == "tool":
        results = [text_of(m["content"]) for m in body["messages"] if m["role"] == "tool"]
        message["content"] = f"the tools said {', '.join(results)}"
    elif body.get("tools"):
        message["tool_calls"], finish = calls(body), "tool_calls"
    elif form in {"json_schema", "json_object"}:
        message["content"] = json.dumps(REPORT)
    else:
        message["content"] = said(body, index)
    if body["model"] == "thinks":
        message["reasoning_content"] = "let me see"
    choice = {"index": index, "message": message, "finish_reason": finish, "logprobs": None}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [logprob(body, "you"), logprob(body, " said")]}
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    if most == 1:
        message["content"], choice["finish_reason"] = "you", "length"
    return choice


def said(body: dict[str, Any], index: int) -> str:
    users = [m["content"] for m in body["messages"] if m["role"] == "user"]
    systems = [text_of(m["content"]) for m in body["messages"] if m["role"] == "system"]
    parts = users[-1] if users and isinstance(users[-1], list) else []
    images = sum(1 for part in parts if part["type"] == "image_url")
    text = f"you said {text_of(users[-1]) if users else ''}"
    if images:
        text += f" with {images} image"
    if systems:
        text += f" under {systems[0]}"
    if len(users) > 1:
        text += f" after {' and '.join(text_of(one) for one in users[:-1])}"
    return f"{text} #{index}" if index else text


def calls(body: dict[str, Any]) -> list[dict[str, Any]]:
    tools = body["tools"] if body.get("parallel_tool_calls") is not False else body["tools"][:1]
    return [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {
                "name": tool["function"]["name"],
                "arguments": json.dumps({"city": ["Paris", "Oslo"][number % 2]}),
            },
        }
        for number, tool in enumerate(tools)
    ]


def logprob(body: dict[str, Any], token: str) -> dict[str, Any]:
    tops = [{"token": f"t{n}", "logprob": -n - 1.0, "bytes": [116]} for n in range(2)]
    most = body.get("top_logprobs") or 0
    return {
        "token": token,
        "logprob": -0.5,
        "bytes": list(token.encode()),
        "top_logprobs": tops[:most],
    }


def deltas(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a choice in pieces; parallel calls are told in between one another."""
    message, index = choice["message"], choice["index"]
    found: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if "reasoning_content" in message:
        found += [{"reasoning_content": word} for word in ("let me", " see")]
    if message["content"]:
        found += [{"content": f"{word} "} for word in message["content"].split(" ")[:-1]]
        found.append({"content": message["content"].split(" ")[-1]})
    tools = message.get("tool_calls", [])
    for number, call in enumerate(tools):
        empty = {**call, "index": number, "function": {**call["function"], "arguments": ""}}
        found.append({"tool_calls": [empty]})
    for half in range(2):
        for number, call in enumerate(tools):
            text = call["function"]["arguments"]
            part = text[: len(text) // 2] if half == 0 else text[len(text) // 2 :]
            found.append({"tool_calls": [{"index": number, "function": {"arguments": part}}]})
    parts = [{"index": index, "delta": delta, "finish_reason": None} for delta in found]
    if choice["logprobs"]:
        parts[1]["logprobs"] = choice["logprobs"]
    parts.append({"index": index, "delta": {}, "finish_reason": choice["finish_reason"]})
    return parts
