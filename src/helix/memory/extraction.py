"""Entities and relations by rules: names, dates, places, and a few plain statements.

Rules find less than a model would and make nothing up. A model's answer can be laid beside it
(`helix.memory.jobs`); search needs neither.
"""

import re
from dataclasses import dataclass

__all__ = [
    "ENTITIES_MAX",
    "NAME_CHARS_MAX",
    "RELATIONS_MAX",
    "Extracted",
    "FoundEntity",
    "FoundRelation",
    "extract",
]

ENTITIES_MAX = 32
RELATIONS_MAX = 16
NAME_CHARS_MAX = 255


@dataclass(frozen=True, slots=True)
class FoundEntity:
    """A name in a text and its kind: person, place, date, organisation or thing."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class FoundRelation:
    """A statement in a text; both ends are names of entities found with it."""

    subject: str
    predicate: str
    object: str


@dataclass(frozen=True, slots=True)
class Extracted:
    """What a text speaks of."""

    entities: tuple[FoundEntity, ...]
    relations: tuple[FoundRelation, ...]


_NAME = r"[A-ZÀ-ÖØ-Þ][\w’'-]*[\w](?:\s+(?:of\s+(?:the\s+)?)?[A-ZÀ-ÖØ-Þ][\w’'-]*[\w]){0,4}"
_PROPER = re.compile(rf"\b{_NAME}")
_DATE = re.compile(
    r"\b(?:\d{4}-\d{2}-\d{2}|(?:\d{1,2}(?:st|nd|rd|th)?\s+)?(?:January|February|March|April|May|June|"
    r"July|August|September|October|November|December)(?:\s+\d{1,2}(?:st|nd|rd|th)?)?(?:,?\s+\d{4})?)"
    r"(?!\w)"
)
_CALENDAR = frozenset(
    """January February March April May June July August September October November December
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday""".split()
)
_NOT_NAMES = frozenset(
    """I I'm I've I'd I'll The A An This That These Those It It's He She We They You My Your His Her
    Our Their And But Or So If When Where What Who Why How Yes No Not Hey Hi Hello Thanks Thank Wow
    Oh Ok Okay Well Yeah Sure Just Also Then There Here Now Today Tomorrow Yesterday In On At To For
    From With By As Is Are Was Were Be Do Did Does Don't Have Has Had Can Could Would Should Will
    Let Let's Please Great Good Nice Cool Awesome Amazing Absolutely Definitely Really Sorry Glad
    Looks Sounds Keep Take Maybe Any Some All Last Next Every Since After Before While Been Being
    Congrats Congratulations Can't Won't Haven't That's What's You're We're They're He's She's
    Totally Exactly Of One Two Three Got Going Gonna Here's There's Who's How's I’m I’ve Mine Me Us
    Him Them Myself Love Loved""".split()
)
_RULES: tuple[tuple[str, str, str], ...] = (
    (r"\blive[sd]?\s+in\s+(?:the\s+)?", "lives_in", "place"),
    (r"\bmoved\s+to\s+(?:the\s+)?", "lives_in", "place"),
    (r"\b(?:work(?:s|ed|ing)?\s+(?:at|for)|(?:am|is|are)\s+employed\s+(?:at|by))\s+(?:the\s+)?",
     "works_at", "organisation"),
    (r"\bstud(?:y|ies|ied|ying)\s+at\s+(?:the\s+)?", "studies_at", "organisation"),
    (r"\b(?:visit(?:s|ed|ing)?|travel(?:s|l?ed|l?ing)?\s+to|went\s+to|been\s+to)\s+(?:the\s+)?",
     "visited", "place"),
    (r"\b(?:comes?|came)\s+from\s+(?:the\s+)?", "comes_from", "place"),
    (r"\b(?:married\s+to|married)\s+", "married_to", "person"),
    (r"\b(?:friends?\s+with|my\s+friend)\s+", "friend_of", "person"),
    (r"\b(?:met|know[s]?)\s+", "knows", "person"),
    (r"\b(?:am|is)\s+called\s+|\bname\s+is\s+", "is_named", "person"),
)  # fmt: skip
_OBJECT = re.compile(rf"({_NAME})")
_RELATION = tuple(
    (re.compile(pattern, re.IGNORECASE), name, kind) for pattern, name, kind in _RULES
)
_LIKES = re.compile(
    r"\b(?:(?P<not>do(?:es)?n['’]t\s+(?:like|enjoy)|hates?|dislikes?)|(?P<yes>loves?|likes?|enjoys?|"
    r"prefers?))\s+(?:to\s+|the\s+)?(?P<what>[a-z][\w-]*(?:\s+[a-z][\w-]*){0,2}?)"
    r"(?=[.,;!?]|\s+(?:and|but|because|when|with|in|at|on|so|very|a\s+lot|more)\b|$)"
)
_AGE = re.compile(r"\b(?:am|is|turned|I'm|I’m)\s+(\d{1,3})(?:\s+years\s+old)?(?=[\s.,;!?]|$)")
_SUBJECT_BEFORE = re.compile(
    rf"(?:^|[.!?;,]\s+|\band\s+|\bbut\s+)((?:{_NAME})|I|My name|He|She|They|We)\b[^.!?;,]*$"
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")


def extract(text: str, *, speaker: str | None = None) -> Extracted:
    """Return what `text` speaks of. "I" is the speaker; without one it is left out.

    At most 32 entities and 16 relations, in the order they are met; texts in scripts without
    capital letters give dates only.
    """
    entities: dict[str, FoundEntity] = {}
    relations: dict[FoundRelation, None] = {}

    def note(name: str, kind: str) -> None:
        kept = name.strip()[:NAME_CHARS_MAX]
        known = entities.get(kept.lower())
        if kept and (known is None or known.type == "thing"):
            entities[kept.lower()] = FoundEntity(kept, kind)

    if speaker and speaker.strip():
        note(speaker, "person")
    for sentence in _SENTENCE.findall(text):
        for relation, kind in _relations(sentence, speaker):
            relations.setdefault(relation)
            note(relation.subject, "person")
            note(relation.object, kind)
    for date in _DATE.findall(text):
        if any(c.isdigit() for c in date):
            note(date, "date")
    for name in _names(text):
        note(name, "thing")
    kept = tuple(list(entities.values())[:ENTITIES_MAX])
    known = {entity.name.lower() for entity in kept}
    told = [r for r in relations if {r.subject.lower(), r.object.lower()} <= known]
    return Extracted(kept, tuple(told[:RELATIONS_MAX]))


def _relations(sentence: str, speaker: str | None) -> list[tuple[FoundRelation, str]]:
    found: list[tuple[FoundRelation, str]] = []
    for pattern, predicate, kind in _RELATION:
        for match in pattern.finditer(sentence):
            subject = _subject(sentence[: match.start()], speaker)
            named = _OBJECT.match(sentence[match.end() :])
            if subject and named and (value := _clean(named.group(1))):
                found.append((FoundRelation(subject, predicate, value), kind))
    for match in _LIKES.finditer(sentence):
        subject = _subject(sentence[: match.start()], speaker)
        if subject:
            predicate = "dislikes" if match["not"] else "likes"
            found.append((FoundRelation(subject, predicate, match["what"]), "thing"))
    for match in _AGE.finditer(sentence):
        before = sentence[: match.start()] + ("I" if match.group(0).startswith("I") else "")
        subject = _subject(before, speaker)
        if subject:
            found.append((FoundRelation(subject, "has_age", match.group(1)), "number"))
    return found


def _subject(before: str, speaker: str | None) -> str | None:
    """Return who does it: the name or "I" that the clause begins with."""
    match = _SUBJECT_BEFORE.search(f"{before.strip()} ".rstrip())
    if match is None:
        return None
    who = match.group(1)
    if who in {"I", "My name", "We"}:
        return speaker.strip() if speaker and speaker.strip() else None
    if who in {"He", "She", "They"}:
        return None
    return _clean(who)


def _names(text: str) -> list[str]:
    return [name for found in _PROPER.findall(text) if (name := _clean(found))]


def _clean(name: str) -> str | None:
    """Return the name without words that are only capital because a sentence begins with them."""
    words = name.replace("\n", " ").split()
    while words and (words[0] in _NOT_NAMES or words[0] in _CALENDAR):
        words.pop(0)
    while words and (words[-1] in _NOT_NAMES or words[-1].lower() in {"of", "the"}):
        words.pop()
    cleaned = re.sub(r"['’]s$", "", " ".join(words))
    return cleaned if len(cleaned) > 1 and not cleaned.isdigit() else None
