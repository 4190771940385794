"""A provider that speaks Anthropic's Messages API, strictly."""

from typing import Any, Literal

import msgspec

from tests.fakes.openai_upstream import Seen, Writer, whole
from tests.fakes.wire_upstream import (
    Asked,
    Tokens,
    Told,
    WireUpstream,
    check_base64,
    dumps,
    halves,
    must,
    words,
)

SIGNATURE = "c2lnbmF0dXJl"
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Typed(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    pass


class Base64(Typed):
    media_type: str
    data: str


class Url(Typed):
    url: str


class Text(Typed):
    text: str
    cache_control: dict[str, str] | None = None


class Image(Typed):
    source: Base64 | Url
    cache_control: dict[str, str] | None = None


class Document(Typed):
    source: Base64
    title: str | None = None


class ToolUse(Typed, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class ToolResult(Typed, tag="tool_result"):
    tool_use_id: str
    content: list[Text | Image]


class Thinking(Typed):
    thinking: str
    signature: str


class Turn(Strict):
    role: Literal["user", "assistant"]
    content: list[Text | Image | Document | ToolUse | ToolResult | Thinking]


class Auto(Typed):
    disable_parallel_tool_use: bool = False


class AnyTool(Typed, tag="any"):
    disable_parallel_tool_use: bool = False


class Tool(Typed):
    name: str
    disable_parallel_tool_use: bool = False


class NoTool(Typed, tag="none"):
    pass


class Declared(Strict):
    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool = False
    cache_control: dict[str, str] | None = None


class JsonSchema(Typed, tag="json_schema"):
    schema: dict[str, Any]


class OutputConfig(Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonSchema | None = None


class Adaptive(Typed):
    pass


class Disabled(Typed):
    pass


class Enabled(Typed):
    budget_tokens: int


class Metadata(Strict):
    user_id: str | None = None


class Request(Strict):
    model: str
    max_tokens: int
    messages: list[Turn]
    system: list[Text] | None = None
    stream: bool = False
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    tools: list[Declared] | None = None
    tool_choice: Auto | AnyTool | Tool | NoTool | None = None
    thinking: Adaptive | Disabled | Enabled | None = None
    output_config: OutputConfig | None = None


class AnthropicUpstream(WireUpstream):
    """Serves /v1/messages and /v1/models."""

    def authorised(self, headers: dict[str, str]) -> bool:
        return headers.get("x-api-key") == self.key and "authorization" not in headers

    def refusal(self, status: int, message: str) -> dict[str, Any]:
        error = {"type": _KINDS.get(status, "api_error"), "message": message}
        return {"type": "error", "error": error, "request_id": "req_1"}

    async def serve(self, method: str, path: str, seen: Seen, writer: Writer) -> None:
        must(seen.headers.get("anthropic-version") == "2023-06-01", "the version is missing")
        if (method, path.partition("?")[0]) == ("GET", "/v1/models"):
            model = {
                "type": "model",
                "id": "claude-sonnet-4-5",
                "display_name": "Claude Sonnet 4.5",
                "created_at": "2025-09-29T00:00:00Z",
                "max_input_tokens": 200_000,
                "max_tokens": 64_000,
            }
            later = {**model, "id": "claude-haiku-4-5", "display_name": "Claude Haiku 4.5"}
            second = "after_id=claude-sonnet-4-5" in path
            data = [later] if second else [model]
            page = {"data": data, "has_more": not second, "last_id": data[-1]["id"]}
            await whole(writer, 200, page)
            return
        must((method, path) == ("POST", "/v1/messages"), f"there is no {method} {path}")
        must(seen.headers.get("content-type") == "application/json", "it is not told to be JSON")
        request = msgspec.json.decode(seen.body, type=Request)
        check(request)
        asked = asked_of(request)
        told = self.hears(asked)
        if request.stream:
            await self.stream(seen, writer, self.stream_events(told, asked))
        else:
            await whole(writer, 200, message_of(told, asked))

    def stream_events(self, told: Told, asked: Asked) -> list[bytes]:
        message = {**message_of(told, asked), "content": [], "stop_reason": None}
        message["usage"] = {**usage_of(told), "output_tokens": 1} if told.usage else {}
        events = [event("message_start", message=message), event("ping")]
        for index, block in enumerate(blocks_of(told)):
            events += block_events(index, block)
        end = {"stop_reason": _STOP[told.finish or "stop"], "stop_sequence": None}
        usage = {"output_tokens": told.usage.completion} if told.usage else {}
        events += [event("message_delta", delta=end, usage=usage), event("message_stop")]
        return events


def event(name: str, **fields: Any) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + dumps({"type": name, **fields}) + b"\n\n"


def block_events(index: int, block: dict[str, Any]) -> list[bytes]:
    kind = block["type"]
    if kind == "text":
        begun = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": word} for word in words(block["text"])]
    elif kind == "thinking":
        begun = {"type": "thinking", "thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": word} for word in words(block["thinking"])]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    else:
        begun = {**block, "input": {}}
        pieces = ["", *halves(dumps(block["input"]).decode())]
        deltas = [{"type": "input_json_delta", "partial_json": one} for one in pieces]
    return [
        event("content_block_start", index=index, content_block=begun),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def blocks_of(told: Told) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if told.thinking:
        blocks.append({"type": "thinking", "thinking": told.thinking, "signature": SIGNATURE})
    if told.text:
        blocks.append({"type": "text", "text": told.text})
    for call_id, name, arguments in told.calls:
        blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": arguments})
    return blocks


def usage_of(told: Told) -> dict[str, Any]:
    usage = told.usage or Tokens()
    found: dict[str, Any] = {
        "input_tokens": usage.prompt - usage.cached,
        "output_tokens": usage.completion,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
    }
    if usage.reasoning:
        found["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return found


def message_of(told: Told, asked: Asked) -> dict[str, Any]:
    found = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": f"{asked.model}-20250929",
        "content": blocks_of(told),
        "stop_reason": _STOP[told.finish or "stop"],
        "stop_sequence": None,
    }
    return found if told.usage is None else {**found, "usage": usage_of(told)}


def check(request: Request) -> None:
    """Refuse what the service refuses."""
    must(request.max_tokens >= 1, "max_tokens: from 1")
    must(request.temperature is None or 0 <= request.temperature <= 1, "temperature: 0 to 1")
    must(request.tool_choice is None or request.tools, "tool_choice without tools")
    thinking = request.thinking
    if isinstance(thinking, Enabled):
        must(1_024 <= thinking.budget_tokens < request.max_tokens, "budget_tokens")
        must(not isinstance(request.tool_choice, Tool | AnyTool), "thinking and a forced tool")
    must(request.messages and request.messages[0].role == "user", "the first is the user's")
    open_calls: set[str] = set()
    role = ""
    for turn in request.messages:
        must(turn.role != role, "two turns of one role")
        role = turn.role
        results = {b.tool_use_id for b in turn.content if isinstance(b, ToolResult)}
        must(results == open_calls, f"results {results} for calls {open_calls}")
        open_calls = {b.id for b in turn.content if isinstance(b, ToolUse)}
        for block in turn.content:
            must(not isinstance(block, Text) or block.text, "an empty text")
            if isinstance(block, Image | Document) and isinstance(block.source, Base64):
                check_base64(block.source.data)
    must(not open_calls, "calls without results")


def asked_of(request: Request) -> Asked:
    choice = request.tool_choice
    schema: Any = None
    if request.output_config is not None and request.output_config.format is not None:
        schema = request.output_config.format.schema
    effort: Any = None
    if isinstance(request.thinking, Enabled):
        effort = request.thinking.budget_tokens
    elif request.output_config is not None:
        effort = request.output_config.effort
    named = {Auto: "auto", AnyTool: "required", NoTool: "none"}
    return Asked(
        model=request.model,
        stream=request.stream,
        system="".join(part.text for part in request.system or []),
        turns=[
            (turn.role, [item_of(block) for block in turn.content]) for turn in request.messages
        ],
        tools={tool.name: tool.input_schema for tool in request.tools or []},
        choice=choice.name if isinstance(choice, Tool) else named.get(type(choice)),  # type: ignore[arg-type]
        parallel=not getattr(choice, "disable_parallel_tool_use", False),
        schema=schema,
        stop=request.stop_sequences or [],
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_k=request.top_k,
        effort=effort,
    )


def item_of(block: Any) -> tuple[Any, ...]:
    if isinstance(block, Text):
        return ("text", block.text)
    if isinstance(block, Image | Document):
        source = block.source
        if isinstance(source, Url):
            return ("link", source.url)
        return ("image", source.media_type, source.data)
    if isinstance(block, ToolUse):
        return ("call", block.id, block.name, block.input)
    if isinstance(block, ToolResult):
        text = "".join(part.text for part in block.content if isinstance(part, Text))
        return ("result", block.tool_use_id, text)
    return ("thought", block.thinking)
