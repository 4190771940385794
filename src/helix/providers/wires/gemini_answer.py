"""What Gemini's API answers, told in OpenAI's format."""

from typing import Any

import msgspec

from helix.providers.wires.chunks import Chunks, count, decoded, error_body, given, usage_of
from helix.providers.wires.embeddings import Embeddings, embeddings_answer
from helix.providers.wires.lines import Events

__all__ = [
    "GeminiTranslator",
    "chat_of_generated",
    "embeddings_of_gemini",
    "refusal_of_gemini",
]

_FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
}


class _FunctionCall(msgspec.Struct):
    name: str = ""
    id: str | None = None
    args: msgspec.Raw = msgspec.Raw()


class _Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool = False
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct):
    parts: list[msgspec.Raw] | None = None


class _Logprob(msgspec.Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class _TopLogprobs(msgspec.Struct):
    candidates: list[_Logprob] = []


class _Logprobs(msgspec.Struct, rename="camel"):
    chosen_candidates: list[_Logprob] = []
    top_candidates: list[_TopLogprobs] = []


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    index: int = 0
    logprobs_result: _Logprobs | None = None
    grounding_metadata: msgspec.Raw = msgspec.Raw()
    citation_metadata: msgspec.Raw = msgspec.Raw()
    url_context_metadata: msgspec.Raw = msgspec.Raw()
    safety_ratings: msgspec.Raw = msgspec.Raw()


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: str | None = None


class _Generated(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: Any = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None


class _Vector(msgspec.Struct):
    values: list[float]


class _Embedded(msgspec.Struct, rename="camel"):
    embedding: _Vector | None = None
    embeddings: list[_Vector] | None = None
    usage_metadata: Any = None


_DecodeGenerated = msgspec.json.Decoder(_Generated)
_DecodePart = msgspec.json.Decoder(_Part)
_DecodeEmbedded = msgspec.json.Decoder(_Embedded)
_decode = msgspec.json.decode


class _Choice:
    """What one candidate told so far."""

    def __init__(self) -> None:
        self.calls = 0
        self.finish: str | None = None

    def deltas(self, candidate: _Candidate, call_prefix: str) -> list[dict[str, Any]]:
        """Return the pieces of a message that a candidate adds, neighbours of a kind as one."""
        found: list[dict[str, Any]] = []
        parts = candidate.content.parts if candidate.content is not None else None
        for raw in parts or []:
            part = decoded(_DecodePart, bytes(raw))
            if part.function_call is not None:
                found.append({"tool_calls": [self._call(part, part.function_call, call_prefix)]})
            elif part.text is not None:
                name = "reasoning_content" if part.thought else "content"
                if found and name in found[-1]:
                    found[-1][name] += part.text
                elif part.text:
                    found.append({name: part.text})
            else:
                found.append({"provider_blocks": [_decode(raw)]})
        return found

    def _call(self, part: _Part, told: _FunctionCall, call_prefix: str) -> dict[str, Any]:
        number, self.calls = self.calls, self.calls + 1
        call: dict[str, Any] = {
            "index": number,
            "id": told.id or f"{call_prefix}_{number}",
            "type": "function",
            "function": {"name": told.name, "arguments": bytes(given(told.args) or b"{}").decode()},
        }
        if part.thought_signature is not None:
            call["extra_content"] = {"google": {"thought_signature": part.thought_signature}}
        return call

    def reason(self, told: str) -> str:
        """Return why it ended, in OpenAI's words."""
        found = _FINISH.get(told, "stop")
        return "tool_calls" if found == "stop" and self.calls else found


class GeminiTranslator:
    """Turns a stream of answers (`alt=sse`) into chunks.

    Gemini tells no end: the answer is whole when each candidate gave its reason to finish, and
    then the stream ends.
    """

    def __init__(
        self, *, model: str, answer_id: str, created: int = 0, include_usage: bool = True
    ) -> None:
        self.done = False
        self._include_usage = include_usage
        self._chunks = Chunks(answer_id, model, created)
        self._events = Events()
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None
        self._failed = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the chunks that these bytes complete; see `chunks.Translator`."""
        found: list[dict[str, Any]] = []
        for event in self._events.feed(data):
            self._take(event, found)
        return found

    def end(self) -> list[dict[str, Any]]:
        """Return the usage, when the answer is whole."""
        found: list[dict[str, Any]] = []
        for event in self._events.rest():
            self._take(event, found)
        ended = bool(self._choices) and all(c.finish for c in self._choices.values())
        self.done = ended and not self._failed
        usage = _usage(self._usage) if self.done and self._include_usage else None
        return found if usage is None else [*found, self._chunks.usage(usage)]

    def _take(self, data: bytes, found: list[dict[str, Any]]) -> None:
        told = decoded(_DecodeGenerated, data)
        if told.error is not None:
            self._failed = True
            found.append(refusal_of_gemini({"error": told.error})[0])
            return
        _name(self._chunks, told)
        if told.usage_metadata is not None:
            self._usage = told.usage_metadata
        for candidate in told.candidates or ([_blocked(told)] if _is_blocked(told) else []):
            choice = self._choices.get(candidate.index)
            if choice is None:
                choice = self._choices[candidate.index] = _Choice()
                found.append(
                    self._chunks.delta({"role": "assistant", "content": ""}, index=candidate.index)
                )
            self._take_candidate(candidate, choice, found)

    def _take_candidate(
        self, candidate: _Candidate, choice: _Choice, found: list[dict[str, Any]]
    ) -> None:
        more = _logprobs(candidate)
        for delta in choice.deltas(candidate, f"call_{self._chunks.id}_{candidate.index}"):
            found.append(self._chunks.delta(delta, index=candidate.index, **more))
            more = {}
        if candidate.finish_reason is not None and choice.finish is None:
            choice.finish = choice.reason(candidate.finish_reason)
            more |= _kept(candidate)
            found.append(self._chunks.finish(choice.finish, index=candidate.index, **more))


def chat_of_generated(
    body: bytes, *, model: str, answer_id: str, created: int = 0
) -> dict[str, Any]:
    """Return the chat completion of a whole answer; raises ValueError for what is none."""
    told = decoded(_DecodeGenerated, body)
    if told.error is not None:
        return refusal_of_gemini({"error": told.error})[0]
    if not told.candidates:
        if not _is_blocked(told):
            raise ValueError("it has no candidates")
        told.candidates = [_blocked(told)]
    chunks = Chunks(answer_id, model, created)
    _name(chunks, told)
    choices = [_whole_choice(c, f"call_{chunks.id}_{c.index}") for c in told.candidates]
    return chunks.whole(choices, _usage(told.usage_metadata))


def _whole_choice(candidate: _Candidate, call_prefix: str) -> dict[str, Any]:
    choice = _Choice()
    message: dict[str, Any] = {"role": "assistant", "content": None}
    for delta in choice.deltas(candidate, call_prefix):
        for name, value in delta.items():
            if name == "tool_calls":
                value[0].pop("index")
            so_far = message.get(name)
            message[name] = value if so_far is None else so_far + value
    return {
        "index": candidate.index,
        "message": message,
        "logprobs": None,
        "finish_reason": choice.reason(candidate.finish_reason or "STOP"),
        **_logprobs(candidate),
        **_kept(candidate),
    }


def _name(chunks: Chunks, told: _Generated) -> None:
    if told.response_id:
        chunks.id = told.response_id
    if told.model_version:
        chunks.model = told.model_version


def _is_blocked(told: _Generated) -> bool:
    return told.prompt_feedback is not None and told.prompt_feedback.block_reason is not None


def _blocked(told: _Generated) -> _Candidate:
    """Return the candidate of a prompt that was refused: nothing but why it ended."""
    return _Candidate(finish_reason="SAFETY")


def _kept(candidate: _Candidate) -> dict[str, Any]:
    """Return what Gemini tells beside the answer, under its own names."""
    told = {
        "grounding_metadata": candidate.grounding_metadata,
        "citation_metadata": candidate.citation_metadata,
        "url_context_metadata": candidate.url_context_metadata,
        "safety_ratings": candidate.safety_ratings,
    }
    return {name: _decode(raw) for name, raw in told.items() if given(raw)}


def _logprobs(candidate: _Candidate) -> dict[str, Any]:
    told = candidate.logprobs_result
    if told is None:
        return {}
    content = []
    for number, chosen in enumerate(told.chosen_candidates):
        others = told.top_candidates[number : number + 1]
        top = [_logprob(one) for group in others for one in group.candidates]
        content.append({**_logprob(chosen), "top_logprobs": top})
    return {"logprobs": {"content": content, "refusal": None}}


def _logprob(told: _Logprob) -> dict[str, Any]:
    token = told.token
    return {"token": token, "logprob": told.log_probability, "bytes": list(token.encode())}


def _usage(told: Any) -> dict[str, Any] | None:
    """Return the usage: thoughts count as completion, what tools put in as prompt."""
    if not isinstance(told, dict):
        return None
    prompt = count(told.get("promptTokenCount"))
    thoughts = count(told.get("thoughtsTokenCount"))
    tools = count(told.get("toolUsePromptTokenCount"))
    said = count(told.get("candidatesTokenCount", 0))
    return usage_of(
        None if prompt is None else prompt + (tools or 0),
        None if said is None else said + (thoughts or 0),
        cached=count(told.get("cachedContentTokenCount")),
        reasoning=thoughts,
    )


def embeddings_of_gemini(body: bytes, asked: Embeddings, model: str) -> dict[str, Any]:
    """Return the embeddings of an answer; raises ValueError for what is none."""
    told = decoded(_DecodeEmbedded, body)
    vectors = told.embeddings or ([] if told.embedding is None else [told.embedding])
    if len(vectors) != len(asked.texts):
        raise ValueError("it has not a vector for each text")
    usage = told.usage_metadata
    tokens = count(usage.get("promptTokenCount")) if isinstance(usage, dict) else None
    return embeddings_answer(
        [vector.values for vector in vectors],
        model=model,
        as_base64=asked.as_base64,
        prompt_tokens=tokens,
    )


def refusal_of_gemini(told: Any) -> tuple[dict[str, Any], int | None, str | None]:
    """Return (an error body of OpenAI's format, the status to tell, Retry-After in seconds).

    A key that is wrong is told by Gemini as 400; it is 401, since the client sent nothing wrong.
    """
    if isinstance(told, list) and told:
        told = told[0]
    error = told.get("error") if isinstance(told, dict) else None
    if not isinstance(error, dict):
        return error_body(None, None), None, None
    status, wait = None, None
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        if not isinstance(detail, dict):
            continue
        if detail.get("reason") == "API_KEY_INVALID":
            status = 401
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and delay.endswith("s"):
            wait = delay[:-1]
    kind = error.get("status")
    return error_body(error.get("message"), kind, kind), status, wait
