"""Condensing a conversation, by rules alone or around a summary that a model wrote. Pure.

Extractive: sentences are taken as they were said, those first that add most for their length of
what the conversation is about. What a sentence is worth is the sum of the weights of its terms
that no sentence taken before has: a word weighs log(1 + uses) * log(1 + messages / messages with
it) (term statistics after K. Spärck Jones, "A statistical interpretation of term specificity",
1972), a name or number NAMED_WEIGHT times as much. The first sentence of a message and the first
and newest messages count more, small talk less. Taking the best next is the greedy answer to
budgeted coverage (H. Lin, J. Bilmes, "A class of submodular functions for document summarization",
2011); worths only shrink as sentences are taken, so a heap with late re-evaluation finds it.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helix.conversations.text import (
    MESSAGE_TOKENS,
    Named,
    entities_in,
    message_tokens,
    sentences_in,
    text_of,
    words_in,
)
from helix.conversations.types import CompressionType, Message, MessageRole
from helix.conversations.units import units_of
from helix.providers import estimate_tokens

__all__ = [
    "Condensed",
    "Kept",
    "compress",
    "condensable",
    "parts_of",
    "quality_of",
    "transcript_of",
]

NAMED_WEIGHT = 2.0
OPENING_BONUS = 1.25
EDGE_BONUS = 1.2
SMALL_TALK_WORDS = 3
SMALL_TALK_FACTOR = 0.4
TOPICS_MAX = 8
ENTITIES_MAX = 40
RELATIONS_MAX = 40
LENGTH_POWER = 0.6
"""How strongly long sentences are held back: 0 not at all, 1 in proportion."""

_WINDOW_SHARE = {
    CompressionType.WINDOW_SUMMARY: 0.5,
    CompressionType.HYBRID: 0.35,
    CompressionType.ENTITY_GRAPH: 0.35,
    CompressionType.FULL: 0.0,
}
_GRAPH_SHARE = {CompressionType.HYBRID: 0.4, CompressionType.ENTITY_GRAPH: 1.0}
_QUALITY_WEIGHTS = (0.5, 0.3, 0.2)
_MEASURED = frozenset({"number", "date"})


@dataclass(frozen=True, slots=True)
class Kept:
    """An entity that was kept: its name, what it is, how often it was named."""

    name: str
    entity_type: str
    mentions: int


@dataclass(frozen=True, slots=True)
class Condensed:
    """A condensed context: `summary` stands for what went before, `kept` follow word for word.

    `quality` is 0 to 1 (quality_of), None when there was nothing to keep.
    """

    summary: str
    kept: tuple[Message, ...]
    entities: tuple[Kept, ...]
    topics: tuple[str, ...]
    original_messages: int
    original_tokens: int
    compressed_tokens: int
    quality: float | None

    @property
    def compressed_messages(self) -> int:
        """Messages the context has now; the summary is one."""
        return len(self.kept) + (1 if self.summary else 0)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a strategy makes of a conversation, before it is condensed."""

    condensed: tuple[Message, ...]
    kept: tuple[Message, ...]
    summary_tokens: int
    graph_tokens: int


@dataclass(slots=True)
class _Sentence:
    at: tuple[int, int]
    speaker: str
    text: str
    terms: frozenset[str]
    factor: float
    tokens: int


class _Statistics:
    """What a conversation is about: weights of its words and names."""

    def __init__(self, texts: Sequence[str]) -> None:
        uses: Counter[str] = Counter()
        spread: Counter[str] = Counter()
        self.named: dict[str, Named] = {}
        self.mentions: Counter[str] = Counter()
        for text in texts:
            words = words_in(text)
            uses.update(words)
            spread.update(set(words))
            for named in entities_in(text, max_count=ENTITIES_MAX * 4):
                self.named.setdefault(named.key, named)
                self.mentions[named.key] += 1
        count = len(texts)
        self.words = {
            word: math.log1p(uses[word]) * math.log1p(count / spread[word]) for word in uses
        }
        self.names = {
            key: NAMED_WEIGHT * math.log1p(mentions) * math.log1p(count / mentions)
            for key, mentions in self.mentions.items()
        }
        topical = [word for word in uses if spread[word] > 1 and not word.isdigit()] or [
            word for word in uses if not word.isdigit()
        ]
        topical.sort(key=lambda word: (-uses[word] * math.log1p(count / spread[word]), word))
        self.topics = tuple(topical[:TOPICS_MAX])

    def weight(self, term: str) -> float:
        return self.names[term[1:]] if term[0] == "#" else self.words[term]

    def terms(self, text: str) -> frozenset[str]:
        named = {
            f"#{found.key}"
            for found in entities_in(text, max_count=ENTITIES_MAX)
            if found.key in self.names
        }
        return frozenset(word for word in words_in(text) if word in self.words) | named


def condensable(messages: Iterable[Message]) -> list[Message]:
    """Return the messages that can be condensed: all but system prompts, which stay as they are."""
    instructing = {MessageRole.SYSTEM, MessageRole.DEVELOPER}
    return [message for message in messages if message.role not in instructing]


def parts_of(
    messages: Sequence[Message],
    *,
    strategy: CompressionType,
    target_tokens: int,
    window_messages: int,
) -> Parts:
    """Divide a conversation into what is condensed and the newest part that stays word for word.

    The window takes whole units (a call of tools stays with its results), the newest first, at
    most `window_messages` messages and the strategy's share of the target.
    """
    units, _ = units_of(messages)
    room, taken = int(target_tokens * _WINDOW_SHARE[strategy]), 0
    kept: list[Message] = []
    for unit in reversed(units):
        if taken + unit.tokens > room or len(kept) + len(unit.messages) > window_messages:
            break
        taken += unit.tokens
        kept[:0] = unit.messages
    stays = {message.message_id for message in kept}
    condensed = tuple(message for message in messages if message.message_id not in stays)
    left = min(target_tokens - taken, sum(message.tokens for message in condensed))
    left = max(left - MESSAGE_TOKENS, 0)
    graph = int(left * _GRAPH_SHARE.get(strategy, 0.0))
    return Parts(condensed, tuple(kept), left - graph, graph)


def compress(
    messages: Sequence[Message],
    *,
    strategy: CompressionType,
    target_tokens: int,
    window_messages: int,
    written: str | None = None,
) -> Condensed:
    """Condense a conversation to about `target_tokens`, never above them nor above what it had.

    `messages` are without system prompts, in order. `written` is a summary by a model, which takes
    the place of the extracted sentences; it is cut at the end of a sentence where it is too long.
    """
    parts = parts_of(
        messages, strategy=strategy, target_tokens=target_tokens, window_messages=window_messages
    )
    texts = [text_of(message.body) for message in messages]
    statistics = _Statistics(texts)
    sentences = _sentences(parts.condensed, statistics)
    sections = []
    if parts.summary_tokens:
        sections.append(
            _cut(written, parts.summary_tokens)
            if written is not None
            else _extract(sentences, statistics, parts.summary_tokens)
        )
    if parts.graph_tokens:
        told = "\n".join(sections)
        sections.append(_graph(sentences, statistics, parts.graph_tokens, told=told))
    summary = "\n".join(section for section in sections if section)
    result = "\n".join([summary, *(text_of(message.body) for message in parts.kept)])
    whole = result.casefold()
    ranked = sorted(statistics.mentions.items(), key=lambda item: (-item[1], item[0]))
    preserved = [
        Kept(statistics.named[key].name, statistics.named[key].entity_type, mentions)
        for key, mentions in ranked
        if key in whole
    ]
    summary_tokens = message_tokens({"content": summary}) if summary else 0
    return Condensed(
        summary=summary,
        kept=parts.kept,
        entities=tuple(preserved[:ENTITIES_MAX]),
        topics=tuple(topic for topic in statistics.topics if topic in whole),
        original_messages=len(messages),
        original_tokens=sum(message.tokens for message in messages),
        compressed_tokens=summary_tokens + sum(message.tokens for message in parts.kept),
        quality=_quality(statistics, whole),
    )


def transcript_of(messages: Sequence[Message]) -> str:
    """Return what was said, one line a message, for a model to summarise."""
    return "\n".join(
        f"{message.role.value}: {' '.join(text_of(message.body).split())}" for message in messages
    )


def quality_of(originals: Sequence[str], result: str) -> float | None:
    """Return how much of the originals a result still tells, 0 to 1.

    Half is the share of the names that are still there, weighted by how often they were named;
    three tenths the share of the numbers and dates; two tenths that of the topics. A kind that the
    originals have none of leaves its weight to the others. None when they have none at all.
    """
    return _quality(_Statistics(list(originals)), result.casefold())


def _quality(statistics: _Statistics, whole: str) -> float | None:
    names = {k: n for k, n in statistics.mentions.items() if not _is_measured(statistics, k)}
    facts = [key for key in statistics.mentions if _is_measured(statistics, key)]
    shares = []
    if names:
        shares.append(sum(n for key, n in names.items() if key in whole) / sum(names.values()))
    if facts:
        shares.append(sum(key in whole for key in facts) / len(facts))
    if statistics.topics:
        told = sum(topic in whole for topic in statistics.topics)
        shares.append(told / len(statistics.topics))
    weights = [
        weight
        for weight, there in zip(_QUALITY_WEIGHTS, (names, facts, statistics.topics), strict=True)
        if there
    ]
    if not weights:
        return None
    weighted = sum(share * weight for share, weight in zip(shares, weights, strict=True))
    return round(weighted / sum(weights), 4)


def _is_measured(statistics: _Statistics, key: str) -> bool:
    return statistics.named[key].entity_type in _MEASURED


def _sentences(messages: Sequence[Message], statistics: _Statistics) -> list[_Sentence]:
    found: list[_Sentence] = []
    seen: set[str] = set()
    last = len(messages) - 1
    for i, message in enumerate(messages):
        edge = EDGE_BONUS if i <= last * 0.1 or i >= last * 0.9 else 1.0
        for j, text in enumerate(sentences_in(text_of(message.body))):
            if (same := text.casefold()) in seen:
                continue
            seen.add(same)
            factor = edge * (OPENING_BONUS if j == 0 else 1.0)
            if len(words_in(text)) < SMALL_TALK_WORDS:
                factor *= SMALL_TALK_FACTOR
            speaker = message.role.value
            cost = estimate_tokens(f"{speaker}: {text}\n")
            terms = statistics.terms(text)
            if terms:
                found.append(_Sentence((i, j), speaker, text, terms, factor, cost))
    return found


def _extract(sentences: Sequence[_Sentence], statistics: _Statistics, budget_tokens: int) -> str:
    """Return the sentences worth most within the budget, in the order they were said."""
    covered: set[str] = set()
    chosen: list[_Sentence] = []
    left = budget_tokens

    def worth(sentence: _Sentence) -> float:
        fresh = sum(statistics.weight(term) for term in sentence.terms - covered)
        return sentence.factor * fresh / math.pow(sentence.tokens, LENGTH_POWER)

    heap = [(-worth(sentence), i) for i, sentence in enumerate(sentences)]
    heapq.heapify(heap)
    while heap and left > 0:
        _, i = heapq.heappop(heap)
        sentence = sentences[i]
        if sentence.tokens > left:
            continue
        now = worth(sentence)
        if now <= 0:
            continue
        if heap and now < -heap[0][0]:
            heapq.heappush(heap, (-now, i))
            continue
        chosen.append(sentence)
        covered |= sentence.terms
        left -= sentence.tokens
    chosen.sort(key=lambda sentence: sentence.at)
    return _fit([f"{sentence.speaker}: {sentence.text}" for sentence in chosen], budget_tokens)


def _graph(
    sentences: Sequence[_Sentence], statistics: _Statistics, budget_tokens: int, *, told: str
) -> str:
    """Return who and what was named with the sentence that tells most, and who stands with whom.

    A sentence that stands in `told` or in a line before is not said again.
    """
    telling: dict[str, tuple[float, str]] = {}
    together: Counter[tuple[str, str]] = Counter()
    for sentence in sentences:
        keys = sorted(term[1:] for term in sentence.terms if term[0] == "#")
        worth = sum(map(statistics.weight, sentence.terms)) / math.pow(
            sentence.tokens, LENGTH_POWER
        )
        for key in keys:
            if key not in telling or worth > telling[key][0]:
                telling[key] = (worth, sentence.text)
        names = [key for key in keys if not _is_measured(statistics, key)]
        together.update((a, b) for k, a in enumerate(names[:8]) for b in names[k + 1 : 8])
    ranked = sorted(
        telling, key=lambda key: (_is_measured(statistics, key), -statistics.mentions[key], key)
    )
    lines: list[str] = []
    said: set[str] = set()
    for key in ranked[:ENTITIES_MAX]:
        named, text = statistics.named[key], telling[key][1]
        if _is_measured(statistics, key) and (text in said or text in told):
            continue
        again = text in said or text in told
        said.add(text)
        lines.append(f"- {named.name} ({named.entity_type}){'' if again else f': {text}'}")
    pairs = sorted(together.items(), key=lambda item: (-item[1], item[0]))[:RELATIONS_MAX]
    lines += [
        f"- {statistics.named[a].name} with {statistics.named[b].name}" for (a, b), _ in pairs
    ]
    return _fit(lines, budget_tokens)


def _fit(lines: Sequence[str], budget_tokens: int) -> str:
    """Return as many whole lines as the budget holds; one that is too long is passed over."""
    taken: list[str] = []
    size = 0
    for line in lines:
        cost = len(line.encode("utf-8", "replace")) + 1
        if (size + cost + 3) // 4 > budget_tokens:
            continue
        taken.append(line)
        size += cost
    return "\n".join(taken)


def _cut(text: str, budget_tokens: int) -> str:
    """Return the beginning of a text that the budget holds, to the end of a sentence."""
    if estimate_tokens(text) <= budget_tokens:
        return text.strip()
    taken: list[str] = []
    for sentence in sentences_in(text):
        if estimate_tokens(" ".join([*taken, sentence])) > budget_tokens:
            break
        taken.append(sentence)
    return " ".join(taken)


def facts_of(condensed: Condensed) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return the entities and topics of a condensed context as its row holds them."""
    return (
        [
            {"name": kept.name, "type": kept.entity_type, "mentions": kept.mentions}
            for kept in condensed.entities
        ],
        list(condensed.topics),
    )
