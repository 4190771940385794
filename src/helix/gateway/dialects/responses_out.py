"""OpenAI's Responses API, the way out: responses, the events of a stream."""

from typing import Any

import msgspec

from helix.core.errors import BadInput, HelixError, TooMany
from helix.gateway.dialects.chat import PING
from helix.gateway.dialects.reading import decoded
from helix.gateway.dialects.sequence import Block, Kind, Sequence, Step, Told
from helix.gateway.errors import UpstreamBusy, UpstreamRejected
from helix.gateway.types import CallRequest

__all__ = [
    "ResponsesRenderer",
    "failed_response",
    "output_items",
    "readdressed",
    "response_id",
    "response_of",
]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_id(request_id: str) -> str:
    """Return the id under which an answer can be fetched and gone on from."""
    return "resp_" + request_id.replace("-", "")


def response_of(answer: dict[str, Any], request: CallRequest, request_id: str) -> dict[str, Any]:
    """Return a canonical answer as a response. Of several choices it is the first."""
    told = Sequence()
    told.take(answer)
    told.end()
    return _whole(told, request, request_id)


def failed_response(
    request: CallRequest, request_id: str, *, code: str, message: str, created: int = 0
) -> dict[str, Any]:
    """Return the response of a call that failed. `code` is one that OpenAI's API knows."""
    told = Sequence()
    told.head["created"] = created
    response = _frame(told, request, request_id, "failed")
    return {**response, "error": {"code": code, "message": message}}


def output_items(answer: dict[str, Any], request_id: str) -> list[dict[str, Any]]:
    """Return what a canonical answer put out, as items; without ids for an empty request_id."""
    told = Sequence()
    told.take(answer)
    told.end()
    items = [_item(block, request_id, "completed") for block in told.blocks]
    if not request_id:
        items = [{k: v for k, v in item.items() if k != "id"} for item in items]
    return items


def readdressed(data: bytes, upstream_id: str, request_id: str) -> bytes:
    """Return bytes of a provider's own response with its id replaced by ours.

    So the answer can be fetched from the record. `data` must hold whole events or a whole answer.
    """
    if not upstream_id:
        return data
    ours = msgspec.json.encode(response_id(request_id))
    return data.replace(msgspec.json.encode(upstream_id), ours)


class ResponsesRenderer:
    """Renders canonical chunks as response.created, items one after the other, the end."""

    def __init__(self, request: CallRequest, request_id: str) -> None:
        self._request = request
        self._request_id = request_id
        self._told = Sequence()
        self._number = 0
        self._begun = False

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """Return the events that a chunk gives."""
        steps = self._told.take(chunk)
        return self._start() + b"".join(self._events(step) for step in steps)

    def end(self) -> bytes:
        """Return the events that close the last item and the response."""
        begin, steps = self._start(), self._told.end()
        closing = b"".join(self._events(step) for step in steps)
        response = _whole(self._told, self._request, self._request_id)
        return begin + closing + self._event(f"response.{response['status']}", response=response)

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return the event that tells of an error: the response failed."""
        begin = self._start()
        response = {
            **_frame(self._told, self._request, self._request_id, "failed"),
            "output": [_item(b, self._request_id, "incomplete") for b in self._told.blocks],
            "error": {"code": _error_code(error), "message": error.message},
        }
        return begin + self._event("response.failed", response=response)

    def ping(self) -> bytes:
        """Return a comment."""
        return PING

    def _event(self, kind: str, **values: Any) -> bytes:
        told = {"type": kind, "sequence_number": self._number, **values}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(told) + b"\n\n"

    def _start(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        response = _frame(self._told, self._request, self._request_id, "in_progress")
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def _events(self, step: Step) -> bytes:
        block = step.block
        at = {"output_index": block.number}
        if step.told is Told.BEGUN:
            item = _item(block, self._request_id, "in_progress", empty=True)
            begun = self._event("response.output_item.added", **at, item=item)
            if block.kind is Kind.TOOL:
                return begun
            place = self._place(block)
            return begun + self._event("response.content_part.added", **place, part=_empty(block))
        if step.told is Told.MORE:
            return self._more(step)
        return self._ended(block) + self._event(
            "response.output_item.done", **at, item=_item(block, self._request_id, "completed")
        )

    def _place(self, block: Block) -> dict[str, Any]:
        place = {"item_id": _item_id(block, self._request_id), "output_index": block.number}
        return place if block.kind is Kind.TOOL else {**place, "content_index": 0}

    def _more(self, step: Step) -> bytes:
        place = self._place(step.block)
        if step.block.kind is Kind.TEXT:
            told = {"delta": step.text, "logprobs": _logprobs(step.logprobs)}
            return self._event("response.output_text.delta", **place, **told)
        return self._event(f"response.{_kind(step.block)}.delta", **place, delta=step.text)

    def _ended(self, block: Block) -> bytes:
        place, kind, text = self._place(block), _kind(block), block.text
        if block.kind is Kind.TOOL:
            name = "input" if block.custom else "arguments"
            named = {} if block.custom else {"name": block.name}
            return self._event(f"response.{kind}.done", **place, **named, **{name: text})
        if block.kind is Kind.TEXT:
            told: dict[str, Any] = {"text": text, "logprobs": _logprobs(tuple(block.logprobs))}
        elif block.kind is Kind.REFUSAL:
            told = {"refusal": text}
        else:
            told = {"text": text}
        done = self._event(f"response.{kind}.done", **place, **told)
        return done + self._event("response.content_part.done", **place, part=_part(block))


def _kind(block: Block) -> str:
    if block.kind is Kind.TOOL:
        return "custom_tool_call_input" if block.custom else "function_call_arguments"
    return {Kind.TEXT: "output_text", Kind.REFUSAL: "refusal"}.get(block.kind, "reasoning_text")


def _item_id(block: Block, request_id: str) -> str:
    if block.kind is Kind.TOOL:
        mark = "ctc" if block.custom else "fc"
    else:
        mark = "rs" if block.kind is Kind.REASONING else "msg"
    return f"{mark}_{request_id.replace('-', '')}_{block.number}"


def _item(block: Block, request_id: str, status: str, *, empty: bool = False) -> dict[str, Any]:
    item: dict[str, Any] = {"id": _item_id(block, request_id)}
    text = "" if empty else block.text
    if block.kind is Kind.TOOL:
        call = {"call_id": block.call_id, "name": block.name}
        if block.custom:
            return {**item, "type": "custom_tool_call", **call, "input": text}
        return {
            **item,
            "type": "function_call",
            "status": status,
            **call,
            "arguments": text or ("" if empty else "{}"),
        }
    content = [] if empty else [_part(block)]
    if block.kind is Kind.REASONING:
        return {**item, "type": "reasoning", "summary": [], "content": content, "status": status}
    return {**item, "type": "message", "status": status, "role": "assistant", "content": content}


def _part(block: Block) -> dict[str, Any]:
    if block.kind is Kind.REASONING:
        return {"type": "reasoning_text", "text": block.text}
    if block.kind is Kind.REFUSAL:
        return {"type": "refusal", "refusal": block.text}
    logprobs = _logprobs(tuple(block.logprobs))
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": logprobs}


def _empty(block: Block) -> dict[str, Any]:
    return _part(Block(block.kind, block.number))


def _logprobs(told: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [
        {
            "token": one.get("token"),
            "bytes": one.get("bytes") or [],
            "logprob": one.get("logprob"),
            "top_logprobs": [
                {**top, "bytes": top.get("bytes") or []}
                for top in one.get("top_logprobs") or []
                if type(top) is dict
            ],
        }
        for one in told
    ]


def _whole(told: Sequence, request: CallRequest, request_id: str) -> dict[str, Any]:
    reason = _INCOMPLETE.get(told.finish_reason or "")
    status = "completed" if reason is None else "incomplete"
    created = told.head.get("created")
    last = len(told.blocks) - 1
    items = [
        _item(block, request_id, status if block.number == last else "completed")
        for block in told.blocks
    ]
    return {
        **_frame(told, request, request_id, status),
        "completed_at": created if status == "completed" else None,
        "incomplete_details": None if reason is None else {"reason": reason},
        "output": items,
        "usage": _usage(told.usage),
    }


def _frame(told: Sequence, request: CallRequest, request_id: str, status: str) -> dict[str, Any]:
    """Return a response without its output: what was asked, as OpenAI's API repeats it."""
    own = request.own
    reasoning, text = decoded(own, "reasoning") or {}, decoded(own, "text") or {}
    parallel = decoded(own, "parallel_tool_calls")
    return {
        "id": response_id(request_id),
        "object": "response",
        "created_at": told.head.get("created") or 0,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": decoded(own, "instructions"),
        "max_output_tokens": decoded(own, "max_output_tokens"),
        "max_tool_calls": decoded(own, "max_tool_calls"),
        "metadata": decoded(own, "metadata") or {},
        "model": told.head.get("model") or request.model,
        "output": [],
        "parallel_tool_calls": True if parallel is None else parallel,
        "previous_response_id": request.previous,
        "reasoning": {"effort": None, "summary": None, **reasoning},
        "service_tier": told.head.get("service_tier"),
        "store": decoded(own, "store") is not False,
        "temperature": decoded(own, "temperature"),
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": decoded(own, "tool_choice") or "auto",
        "tools": [_shown(tool) for tool in decoded(own, "tools") or []],
        "top_logprobs": decoded(own, "top_logprobs") or 0,
        "top_p": decoded(own, "top_p"),
        "truncation": decoded(own, "truncation") or "disabled",
        "usage": None,
        "user": decoded(own, "user"),
    }


def _shown(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def _usage(usage: dict[str, Any]) -> dict[str, Any] | None:
    if not usage:
        return None
    asked, told = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    into, out = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return {
        "input_tokens": asked,
        "input_tokens_details": {
            "cached_tokens": _count(into, "cached_tokens"),
            "cache_write_tokens": _count(into, "cache_write_tokens"),
        },
        "output_tokens": told,
        "output_tokens_details": {"reasoning_tokens": _count(out, "reasoning_tokens")},
        "total_tokens": asked + told,
    }


def _count(holder: Any, name: str) -> int:
    value = holder.get(name) if type(holder) is dict else None
    return value if type(value) is int and value >= 0 else 0


def _error_code(error: HelixError) -> str:
    if isinstance(error, TooMany | UpstreamBusy):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, BadInput | UpstreamRejected) else "server_error"
