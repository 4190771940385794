"""Pure decisions of knowledge: what may be kept, how good a text is, what a search may ask."""

import re
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from helix.knowledge.chunking import count_tokens
from helix.knowledge.errors import BadDocument
from helix.knowledge.types import Filters, NewDocument, Patch, Source

__all__ = [
    "DOCUMENT_WEIGHTS",
    "HITS_MAX",
    "KEY_CHARS_MAX",
    "NEIGHBOURS_MAX",
    "QUERY_CHARS_MAX",
    "TITLE_CHARS_MAX",
    "as_uuid",
    "check_document",
    "check_filters",
    "check_patch",
    "check_text",
    "quality_of",
]

TITLE_CHARS_MAX = 255
KEY_CHARS_MAX = 4_096
TYPE_CHARS_MAX = 50
TAGS_MAX = 64
TAG_CHARS_MAX = 255
METADATA_CHARS_MAX = 100_000
HITS_MAX = 100
QUERY_CHARS_MAX = 4_000
NEIGHBOURS_MAX = 3
FILTER_IDS_MAX = 1_000

DOCUMENT_WEIGHTS = {
    "people": {
        "text": 3.0,
        "window": 1.0,
        "lead": 0.5,
        "pair": 1.0,
        "dense": 2.0,
        "dense_lead": 2.0,
        "dense_session": 0.5,
        "length": 0.2,
        "number": 0.1,
        "date": 0.5,
        "recent": 0.3,
    },
    "people_words": {
        "text": 4.0,
        "window": 1.5,
        "lead": 0.5,
        "pair": 1.2,
        "length": 0.2,
        "number": 0.1,
        "date": 0.5,
        "recent": 0.3,
    },
}
"""The weights of retrieval's signals for documents, with vectors and without.

Not learned: in documents nobody speaks, so the signals of talk (speaker, answers, first person …)
are left out; the words of the chunk itself and its vector decide, what stands around it helps.
docs/knowledge.md tells what they were tried on. The names are those of retrieval's sets.
"""

_PROVENANCE = {Source.MANUAL: 1.0, Source.CHECKPOINT: 0.7, Source.AGENT_LEARNING: 0.5}
_SAMPLE_CHARS = 200_000
_WORD = re.compile(r"[^\W\d_]+")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def quality_of(text: str, source: Source) -> Decimal:
    """Return how good a text is by rule, 0.00 to 1.00, from its first 200,000 characters.

    Three tenths for letters and digits (in full from 70 % of what is not white space), two tenths
    for words of 2 to 20 letters (from 80 % of the words), two tenths for lines that do not repeat,
    15 % for length (in full from 100 tokens), 15 % for where it comes from (manual 1, checkpoint
    0.7, agent_learning 0.5).
    """
    sample = text[:_SAMPLE_CHARS]
    solid = "".join(sample.split())
    if not solid:
        return Decimal("0.00")
    letters = sum(map(str.isalnum, solid)) / len(solid)
    words = _WORD.findall(sample)
    common = sum(2 <= len(word) <= 20 or not word.isascii() for word in words)
    lines = [line.strip() for line in sample.splitlines() if line.strip()]
    score = (
        0.30 * min(1.0, letters / 0.7)
        + 0.20 * (min(1.0, common / len(words) / 0.8) if words else 0.0)
        + 0.20 * len(set(lines)) / len(lines)
        + 0.15 * min(1.0, count_tokens(sample[:2_000]) / 100)
        + 0.15 * _PROVENANCE[source]
    )
    return Decimal(str(round(score, 2))).quantize(Decimal("0.01"))


def check_document(document: NewDocument, now: datetime) -> None:
    """Refuse what cannot be kept. Raises BadDocument with the field at fault."""
    _check_title(document.title)
    if document.key is not None and not 1 <= len(document.key) <= KEY_CHARS_MAX:
        raise BadDocument(f"key: 1 to {KEY_CHARS_MAX} characters", param="key")
    check_text("key", document.key)
    _check_type(document.knowledge_type)
    _check_tags(document.tags)
    _check_metadata(document.metadata)
    _check_quality(document.quality)
    if document.expires_at is not None and document.expires_at <= now:
        raise BadDocument("expires_at: lies in the past", param="expires_at")


def check_patch(patch: Patch) -> None:
    """Refuse a change that cannot be made. Raises BadDocument with the field at fault."""
    _check_title(patch.title)
    if patch.knowledge_type is not None:
        _check_type(patch.knowledge_type)
    _check_tags(patch.tags or ())
    _check_metadata(patch.metadata or {})
    _check_quality(patch.quality)
    if patch.quality is not None and patch.rule_quality:
        raise BadDocument("quality: give a value, or leave it to the rule", param="quality")
    if patch.expires_at is not None and patch.forget_expiry:
        raise BadDocument("expires_at: give a moment, or take it away", param="expires_at")


def check_filters(filters: Filters) -> None:
    """Refuse filters that cannot be asked. Raises BadDocument."""
    check_text("knowledge_type", filters.knowledge_type)
    _check_tags(filters.tags)
    if filters.document_ids is not None and len(filters.document_ids) > FILTER_IDS_MAX:
        raise BadDocument(f"document_ids: at most {FILTER_IDS_MAX}", param="document_ids")
    _check_quality(filters.quality_min)


def check_text(name: str, value: object) -> None:
    """Refuse text, or JSON with text in it, that PostgreSQL cannot keep. Raises BadDocument."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_text(name, key)
            check_text(name, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_text(name, inner)
    elif isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        raise BadDocument(
            f"{name}: PostgreSQL cannot keep the character U+0000 or half a surrogate pair",
            param=name,
        )


def _check_title(title: str | None) -> None:
    if title is not None and not (title.strip() and len(title) <= TITLE_CHARS_MAX):
        raise BadDocument(f"title: 1 to {TITLE_CHARS_MAX} characters", param="title")
    check_text("title", title)


def _check_type(name: str) -> None:
    if not 1 <= len(name) <= TYPE_CHARS_MAX:
        raise BadDocument(f"knowledge_type: 1 to {TYPE_CHARS_MAX} characters")
    check_text("knowledge_type", name)


def _check_tags(tags: tuple[str, ...]) -> None:
    if len(tags) > TAGS_MAX or any(not 1 <= len(tag) <= TAG_CHARS_MAX for tag in tags):
        raise BadDocument(
            f"tags: at most {TAGS_MAX}, of 1 to {TAG_CHARS_MAX} characters", param="tags"
        )
    check_text("tags", tags)


def _check_metadata(metadata: dict[str, object]) -> None:
    if len(str(metadata)) > METADATA_CHARS_MAX:
        raise BadDocument(f"metadata: at most {METADATA_CHARS_MAX} characters", param="metadata")
    check_text("metadata", metadata)


def _check_quality(quality: Decimal | None) -> None:
    if quality is not None and not (quality.is_finite() and 0 <= quality <= 1):
        raise BadDocument("quality: 0.00 to 1.00", param="quality")


def as_uuid(text: str) -> UUID | None:
    """Return the id in `text`, or None when it is a name."""
    return UUID(text) if _UUID.fullmatch(text) else None
