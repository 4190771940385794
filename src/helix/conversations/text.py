"""Reading what was said, by rules alone: tokens, sentences, words, entities. Pure.

One estimate of tokens is used everywhere in this domain: that of the providers (one token for four
bytes of UTF-8), with a fixed price for what is around a text.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from helix.providers import estimate_tokens

__all__ = [
    "MESSAGE_TOKENS",
    "PART_TOKENS",
    "Named",
    "digest_of",
    "entities_in",
    "message_tokens",
    "sentences_in",
    "storable",
    "text_of",
    "words_in",
]

MESSAGE_TOKENS = 4
"""What a message costs beside its text: role and separators, as OpenAI's cookbook counts it."""

PART_TOKENS = 800
"""What a part that is no text (an image, a sound, a file) is taken to cost."""

ELIDED_CHARS = 4_096
"""A longer string in a part that is no text is kept as its digest: the body of the request has it.
"""

ENTITIES_MAX = 20
"""Most entities taken from one message."""

ENTITY_CHARS = 20_000
"""How much of a text is looked through for entities."""

_SENTENCE = re.compile(r"(?<=[.!?…。！？])[\s\"'»”)\]]+|\n+")
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}")
_URL = re.compile(r"https?://[^\s<>\"'()\[\]{}]{1,500}[^\s<>\"'()\[\]{}.,;:!?]")
_DATE = re.compile(r"\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}[./]\d{1,2}[./]\d{2,4}\b")
_NUMBER = re.compile(
    r"(?<![\w.])[$€£]?\d{1,15}(?:[.,]\d{1,9}){0,4}"
    r"(?:\s?(?:%|€|\$|[kMGT]?B|ms|s|min|h|km|m|cm|kg|g|USD|EUR|percent|years?|days?|hours?))?(?!\w)"
)
_CODE = re.compile(
    r"\b[A-Za-z][A-Za-z0-9]{0,40}(?:_[A-Za-z0-9]{1,40}){1,6}\b"
    r"|\b[a-z]{1,30}(?:[A-Z][a-z0-9]{1,30}){1,6}\b"
)
_CAPITAL = r"[A-ZÀ-ÖØ-Þ][\w&'’-]{0,40}"
_NAME = re.compile(rf"\b{_CAPITAL}(?:[ ](?:(?:of|de|van|von|der|la|the)[ ])?{_CAPITAL}){{0,3}}")
_COMMON = frozenset(
    "a an and any are as at be been but by can could did do does for from had has have he her his "
    "how i i'd i'll i'm i've if in into is it it's its just let like me my no not of ok okay on or "
    "our please she should so some than thank thanks that the their them then there these they "
    "this those to too us was we were what when where which who why will with would yes you your "
    "hello hi sure also about after before because here more most much now only other out over "
    "such up very way well while don't can't doesn't isn't one two tell make made get got go "
    "monday tuesday wednesday thursday friday saturday sunday".split()
)


@dataclass(frozen=True, slots=True)
class Named:
    """Something a text names. `key` is what two spellings of it share."""

    key: str
    name: str
    entity_type: str


def text_of(body: Mapping[str, Any]) -> str:
    """Return the text of a message: its content, its refusal, and the tools it calls."""
    parts = list(_texts(body.get("content")))
    if isinstance(refusal := body.get("refusal"), str):
        parts.append(refusal)
    calls = body.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            parts.append(f"{function.get('name', '')}({function.get('arguments', '')})")
    return "\n".join(part for part in parts if part)


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else []:
        if isinstance(part, dict) and isinstance(text := part.get("text"), str):
            yield text


def message_tokens(body: Mapping[str, Any]) -> int:
    """Return about how many tokens a message costs in a prompt; at least MESSAGE_TOKENS."""
    content = body.get("content")
    other = sum(
        1
        for part in (content if isinstance(content, list) else [])
        if not (isinstance(part, dict) and isinstance(part.get("text"), str))
    )
    calls = body.get("tool_calls")
    around = msgspec.json.encode(calls).decode() if calls else ""
    name = body.get("name")
    bare = {**body, "tool_calls": None}
    return (
        MESSAGE_TOKENS
        + estimate_tokens(text_of(bare))
        + estimate_tokens(around)
        + (estimate_tokens(name) if isinstance(name, str) else 0)
        + other * PART_TOKENS
    )


def digest_of(body: Mapping[str, Any]) -> str:
    """Return 32 hex digits that two messages share when they say the same thing.

    A text and a list with one text part are the same, so are an absent, a null and an empty
    content. Only role, text, other parts, tool calls and the call answered count.
    """
    content = body.get("content")
    parts = [
        part
        for part in (content if isinstance(content, list) else [])
        if not (isinstance(part, dict) and isinstance(part.get("text"), str))
    ]
    calls = body.get("tool_calls")
    called = [
        [call.get("id"), (call.get("function") or {}).get("name"),
         (call.get("function") or {}).get("arguments")]
        for call in (calls if isinstance(calls, list) else [])
        if isinstance(call, dict)
    ]  # fmt: skip
    said = [
        body.get("role"),
        "\n".join(_texts(content)),
        _elided(parts),
        called,
        body.get("tool_call_id"),
    ]
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()[:32]


def storable(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as an event can hold it.

    NUL, which jsonb refuses, becomes U+FFFD. A string of over ELIDED_CHARS in a part that is no
    text becomes `helix:elided:sha256:DIGEST:CHARS`.
    """
    kept = dict(body)
    content = kept.get("content")
    if isinstance(content, list):
        kept["content"] = [
            part if isinstance(part, dict) and isinstance(part.get("text"), str) else _elided(part)
            for part in content
        ]
    return {name: _without_nul(value) for name, value in kept.items()}


def _elided(value: Any) -> Any:
    if isinstance(value, str) and len(value) > ELIDED_CHARS:
        if value.startswith("helix:elided:"):
            return value
        told = hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()
        return f"helix:elided:sha256:{told}:{len(value)}"
    if isinstance(value, dict):
        return {name: _elided(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_elided(inner) for inner in value]
    return value


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "�") if "\0" in value else value
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nul(inner) for inner in value]
    return value


def sentences_in(text: str, *, chars_max: int = 600) -> list[str]:
    """Return the sentences of a text, in order; a longer one is cut at white space."""
    found: list[str] = []
    for part in _SENTENCE.split(text):
        sentence = " ".join(part.split())
        while len(sentence) > chars_max:
            cut = sentence.rfind(" ", 1, chars_max)
            cut = cut if cut > 0 else chars_max
            found.append(sentence[:cut])
            sentence = sentence[cut:].strip()
        if sentence:
            found.append(sentence)
    return found


def words_in(text: str) -> list[str]:
    """Return the words that carry meaning, folded, in order, with repeats."""
    return [
        word
        for word in (match.group().casefold() for match in _WORD.finditer(text))
        if word not in _COMMON and (len(word) > 1 or word.isdigit())
    ]


def entities_in(text: str, *, max_count: int = ENTITIES_MAX) -> list[Named]:
    """Return the things a text names, each once, in the order of their first place.

    Rules only: addresses of mail and of the web, dates, numbers with what they measure, names of
    code, and words in capitals. A capitalised word that begins a sentence counts only when it is
    seen inside one too, or is followed by another.
    """
    text = text[:ENTITY_CHARS]
    found: dict[str, tuple[int, Named]] = {}
    taken: list[tuple[int, int]] = []

    def take(match: "re.Match[str]", entity_type: str) -> None:
        start, end = match.span()
        if any(start < other_end and other < end for other, other_end in taken):
            return
        taken.append((start, end))
        name = " ".join(match.group().split())
        key = name.casefold()
        if key not in found:
            found[key] = (start, Named(key, name, entity_type))

    for pattern, entity_type in _EXACT:
        for match in pattern.finditer(text):
            take(match, entity_type)
    openings = _openings(text)
    names = [
        match
        for match in (_bare_name(text, found) for found in _NAME.finditer(text))
        if match is not None and _is_name(match.group())
    ]
    inside = {match.group().casefold() for match in names if match.start() not in openings}
    for match in names:
        alone = " " not in match.group()
        acronym = match.group().isupper() and len(match.group()) > 1
        begins = alone and not acronym and match.start() in openings
        if begins and match.group().casefold() not in inside:
            continue
        take(match, "name")
    ordered = sorted(found.values(), key=lambda pair: pair[0])
    return [named for _, named in ordered[:max_count]]


_EXACT = (
    (_URL, "url"),
    (_EMAIL, "email"),
    (_DATE, "date"),
    (_CODE, "code"),
    (_NUMBER, "number"),
)


def _openings(text: str) -> set[int]:
    """Return where sentences begin."""
    found = {len(text) - len(text.lstrip())}
    found.update(match.end() for match in _SENTENCE.finditer(text))
    found.update(match.end() for match in re.finditer(r"[.!?:]\s+|\n\W*|^\W+", text))
    return found


def _bare_name(text: str, match: "re.Match[str]") -> "re.Match[str] | None":
    """Return a name without the common words before it: `In Rome` names Rome."""
    start = match.start()
    for word in match.group().split()[:-1]:
        if word.casefold() not in _COMMON:
            break
        start = text.index(" ", start) + 1
    return match if start == match.start() else _NAME.match(text, start, match.end())


def _is_name(text: str) -> bool:
    return len(text) > 1 and text.casefold() not in _COMMON
