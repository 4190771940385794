"""What the official clients are to do against Helix: the list, and the page that tells of it."""

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["CLIENTS", "PAGE", "ROOT", "SCENARIOS", "npm_scenarios", "table", "told"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- scenarios -->", "<!-- end of scenarios -->"

SCENARIOS: Mapping[str, str] = {
    "chat": "a chat call, with its usage",
    "chat_async": "the same with the asynchronous client",
    "chat_stream": "streamed chat: text, finish reason, usage",
    "tools": "a tool is called, and its result answered",
    "tools_parallel": "two tools are called at once",
    "tools_streamed": "two calls of tools, told in between one another, put together by the client",
    "json_schema": "structured output; in Python parsed by the client's own helper",
    "vision": "an image in the request",
    "n": "several choices, whole and streamed",
    "logprobs": "log probabilities of tokens",
    "reasoning": "reasoning beside the answer",
    "length": "an answer cut by the limit of tokens",
    "unknown_fields": "a field that Helix does not know reaches the provider",
    "helix_options": "`extra_body` with `helix` reaches the record and no provider",
    "completions": "text completions: native, and translated to chat",
    "completions_stream": "streamed text completions: native, and translated",
    "embeddings": "embeddings as base64 and as numbers",
    "moderations": "moderations, flagged and not",
    "models": "list models, and retrieve one",
    "responses": "a response: text, usage, instructions",
    "responses_stream": "every event of a streamed response",
    "responses_state": "`previous_response_id`, retrieve, list input items, delete",
    "responses_tools": "function tools in the Responses API",
    "responses_parse": "structured output of the Responses API",
    "messages": "a message, with its usage",
    "messages_stream": "every event of a streamed message",
    "messages_native": "a provider that speaks Messages gets and gives it untouched",
    "count_tokens": "count the tokens of a request",
    "auth_token": "the key as bearer, and as the client's own header",
    "error_401": "a wrong key",
    "error_403": "a key without the scope",
    "error_404": "an unknown model, and an unknown path",
    "error_400": "a wrong field, named; a provider's own refusal",
    "error_429": "the key's limit, and a provider's",
    "error_5xx": "a provider that fails",
    "error_413": "a body that is too large",
    "error_in_stream": "a fault after the first content",
    "request_id": "the id of the request on answers and errors",
    "retries": "the client's own retry after a failure",
    "idempotency": "one Idempotency-Key, one call of the provider; another body is refused",
    "timeout": "the client gives up waiting",
    "cancel": "the client leaves in mid-stream: the provider is cut off, the call is recorded as"
    " cancelled with its tokens",
}


CLIENTS = {
    "openai": "`openai` (Python)",
    "anthropic": "`anthropic` (Python)",
    "npm": "`openai` (npm)",
}


def table(held: Mapping[str, frozenset[str]]) -> str:
    """Return the table of the page: which client runs which scenario."""
    lines = ["| scenario | " + " | ".join(CLIENTS.values()) + " |", "|---|" + "---|" * len(CLIENTS)]
    for name, what in SCENARIOS.items():
        marks = ["yes" if name in held[client] else "" for client in CLIENTS]
        lines.append(f"| **{name}** {what} | " + " | ".join(marks) + " |")
    return "\n".join(lines)


def told() -> str:
    """Return the table that stands in the page."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip()


def npm_scenarios() -> frozenset[str]:
    """Return the names of the scenarios that the npm client runs, read from its file."""
    text = (ROOT / "compat" / "js" / "scenarios.mjs").read_text()
    return frozenset(re.findall(r"^  async (\w+)\(\) \{$", text, re.MULTILINE))
