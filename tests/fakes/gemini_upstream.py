"""A provider that speaks Gemini's API, strictly."""

from typing import Any, Literal
from urllib.parse import parse_qs, unquote

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

SIGNATURE = "dGhvdWdodA=="
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    529: "UNAVAILABLE",
}
_FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
}
_MODES = {"AUTO": "auto", "ANY": "required", "NONE": "none"}


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    pass


class Blob(Strict):
    mime_type: str
    data: str


class FileData(Strict):
    mime_type: str
    file_uri: str


class FunctionCall(Strict):
    name: str
    args: dict[str, Any]
    id: str | None = None


class FunctionResponse(Strict):
    name: str
    response: dict[str, Any]
    id: str | None = None


class Part(Strict):
    text: str | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    thought_signature: str | None = None


class Content(Strict):
    parts: list[Part]
    role: Literal["user", "model"] | None = None


class ThinkingConfig(Strict):
    include_thoughts: bool = False
    thinking_budget: int | None = None
    thinking_level: Literal["minimal", "low", "medium", "high"] | None = None


class GenerationConfig(Strict):
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_output_tokens: int | None = None
    stop_sequences: list[str] | None = None
    candidate_count: int | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    response_mime_type: Literal["application/json", "text/plain"] | None = None
    response_json_schema: dict[str, Any] | None = None
    thinking_config: ThinkingConfig | None = None


class Declaration(Strict):
    name: str
    description: str | None = None
    parameters_json_schema: dict[str, Any] | None = None


class Tool(Strict):
    function_declarations: list[Declaration] | None = None
    google_search: dict[str, Any] | None = None


class CallingConfig(Strict):
    mode: Literal["AUTO", "ANY", "NONE"]
    allowed_function_names: list[str] | None = None


class ToolConfig(Strict):
    function_calling_config: CallingConfig


class Request(Strict):
    contents: list[Content]
    system_instruction: Content | None = None
    tools: list[Tool] | None = None
    tool_config: ToolConfig | None = None
    generation_config: GenerationConfig | None = None
    safety_settings: list[dict[str, str]] | None = None


class Embed(Strict):
    content: Content
    model: str | None = None
    output_dimensionality: int | None = None


class EmbedBatch(Strict):
    requests: list[Embed]


class GeminiUpstream(WireUpstream):
    """Serves /v1beta/models and their methods."""

    def authorised(self, headers: dict[str, str]) -> bool:
        return headers.get("x-goog-api-key") == self.key and "authorization" not in headers

    def refusal(self, status: int, message: str) -> dict[str, Any]:
        kind = _STATUS.get(status, "UNKNOWN")
        return {"error": {"code": status, "message": message, "status": kind, "details": []}}

    async def serve(self, method: str, path: str, seen: Seen, writer: Writer) -> None:
        bare, _, query = path.partition("?")
        must("key" not in parse_qs(query), "the key is in the URL")
        if (method, bare) == ("GET", "/v1beta/models"):
            await whole(writer, 200, models_page(parse_qs(query)))
            return
        must(method == "POST" and bare.startswith("/v1beta/models/"), f"no {method} {path}")
        must(bare.count("/") == 3, "a model is one segment")
        model, _, verb = unquote(bare.removeprefix("/v1beta/models/")).rpartition(":")
        if verb == "embedContent":
            one = msgspec.json.decode(seen.body, type=Embed)
            await whole(writer, 200, {"embedding": {"values": embedding(one)}})
            return
        if verb == "batchEmbedContents":
            batch = msgspec.json.decode(seen.body, type=EmbedBatch)
            must(all(r.model == f"models/{model}" for r in batch.requests), "each names the model")
            vectors = [{"values": embedding(one)} for one in batch.requests]
            await whole(writer, 200, {"embeddings": vectors})
            return
        must(verb in {"generateContent", "streamGenerateContent"}, f"no method {verb}")
        request = msgspec.json.decode(seen.body, type=Request)
        check(request)
        asked = asked_of(request, model, stream=verb == "streamGenerateContent")
        told = self.hears(asked)
        if asked.stream:
            must(query == "alt=sse", "a stream of events is asked for by alt=sse")
            await self.stream(seen, writer, self.stream_events(told, asked))
        else:
            await whole(writer, 200, answer(told, asked, parts_of(told), ended=True))

    def stream_events(self, told: Told, asked: Asked) -> list[bytes]:
        pieces = parts_of(told, in_words=True) or [{"text": ""}]
        events = [answer(told, asked, [one], ended=False) for one in pieces[:-1]]
        events.append(answer(told, asked, pieces[-1:], ended=True))
        return [b"data: " + dumps(one) + b"\r\n\r\n" for one in events]


def models_page(query: dict[str, list[str]]) -> dict[str, Any]:
    if "pageToken" in query:
        methods = ["embedContent"]
        return {"models": [{"name": "models/embed-1", "supportedGenerationMethods": methods}]}
    model = {
        "name": "models/gemini-2.5-flash",
        "displayName": "Gemini 2.5 Flash",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
    return {"models": [model], "nextPageToken": "next/1"}


def embedding(one: Embed) -> list[float]:
    return vector(one.content.parts[0].text or "")[: one.output_dimensionality]


def parts_of(told: Told, *, in_words: bool = False) -> list[dict[str, Any]]:
    split = words if in_words else lambda text: [text] if text else []
    parts: list[dict[str, Any]] = [
        {"text": piece, "thought": True} for piece in split(told.thinking)
    ]
    parts += [{"text": piece} for piece in split(told.text)]
    for number, (call_id, name, arguments) in enumerate(told.calls):
        part: dict[str, Any] = {"functionCall": {"id": call_id, "name": name, "args": arguments}}
        if number == 0:
            part["thoughtSignature"] = SIGNATURE
        parts.append(part)
    return parts


def answer(told: Told, asked: Asked, parts: list[dict[str, Any]], *, ended: bool) -> dict[str, Any]:
    candidates = []
    for index in range(asked.n):
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": index}
        if ended:
            candidate["finishReason"] = _FINISH[told.finish or "stop"]
        candidates.append(candidate)
    found: dict[str, Any] = {
        "candidates": candidates,
        "modelVersion": f"{asked.model}-001",
        "responseId": "resp_01",
    }
    usage = told.usage
    if usage is not None:
        found["usageMetadata"] = {
            "promptTokenCount": usage.prompt,
            "candidatesTokenCount": usage.completion - usage.reasoning if ended else 1,
            "totalTokenCount": usage.prompt + usage.completion,
            **({"thoughtsTokenCount": usage.reasoning} if usage.reasoning else {}),
            **({"cachedContentTokenCount": usage.cached} if usage.cached else {}),
        }
    return found


def check(request: Request) -> None:
    """Refuse what the service refuses."""
    must(request.contents and request.contents[0].role == "user", "the first is the user's")
    role = ""
    calls = 0
    for turn in request.contents:
        must(turn.role is not None and turn.role != role, "two turns of one role")
        role = turn.role or ""
        must(turn.parts, "a turn without parts")
        results = [p.function_response for p in turn.parts if p.function_response is not None]
        must(len(results) == calls, f"{len(results)} results for {calls} calls")
        calls = sum(p.function_call is not None for p in turn.parts)
        for part in turn.parts:
            data = (
                part.text,
                part.inline_data,
                part.file_data,
                part.function_call,
                part.function_response,
            )
            must(sum(one is not None for one in data) == 1, "a part has one kind of data")
            if part.inline_data is not None:
                check_base64(part.inline_data.data)
            signed = part.thought_signature
            must(signed is None or signed == SIGNATURE, "the signature is not the one given")


def asked_of(request: Request, model: str, *, stream: bool) -> Asked:
    given = request.generation_config or GenerationConfig()
    calling = None
    if request.tool_config is not None:
        calling = request.tool_config.function_calling_config
    choice = None
    if calling is not None:
        allowed = calling.allowed_function_names
        choice = allowed[0] if allowed else _MODES[calling.mode]
    thinking = given.thinking_config
    effort: Any = None
    if thinking is not None:
        effort = thinking.thinking_level or thinking.thinking_budget
    declared = [one for tool in request.tools or [] for one in tool.function_declarations or []]
    system = request.system_instruction
    return Asked(
        model=model,
        stream=stream,
        system="".join(part.text or "" for part in system.parts) if system is not None else "",
        turns=[
            (
                "assistant" if turn.role == "model" else "user",
                [item_of(part) for part in turn.parts],
            )
            for turn in request.contents
        ],
        tools={one.name: one.parameters_json_schema for one in declared},
        choice=choice,
        schema=given.response_json_schema
        or ({} if given.response_mime_type == "application/json" else None),
        stop=given.stop_sequences or [],
        max_tokens=given.max_output_tokens,
        temperature=given.temperature,
        top_k=given.top_k,
        effort=effort,
        n=given.candidate_count or 1,
    )


def item_of(part: Part) -> tuple[Any, ...]:
    if part.text is not None:
        return ("text", part.text)
    if part.inline_data is not None:
        return ("image", part.inline_data.mime_type, part.inline_data.data)
    if part.file_data is not None:
        return ("link", part.file_data.file_uri)
    if part.function_call is not None:
        call = part.function_call
        return ("call", call.id, call.name, call.args)
    result = part.function_response
    assert result is not None
    told = result.response
    text = told["result"] if set(told) == {"result"} else dumps(told).decode()
    return ("result", result.id, text)
