"""What search knows of a text: its stems in order, and a few facts about it, packed for storage.

An `Analysis` is made once when a text is written and kept beside it; a `Question` is made of each
query. Both are pure functions of the text, so they can be rebuilt at any time.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache
from itertools import pairwise
from zlib import crc32

from helix.retrieval.errors import QueryEmpty
from helix.retrieval.stemming import stem

__all__ = [
    "ANALYSIS_VERSION",
    "ASSISTANT_NUMBERS",
    "USER_NUMBERS",
    "Analysis",
    "Fact",
    "Question",
    "analyse",
    "ask",
    "speaker_number",
    "term_number",
    "to_embed",
]

ANALYSIS_VERSION = 1
"""Raised when the packed form or the stems change: texts of an older version are analysed anew."""
TERMS_MAX = 2_000  # of a text; what follows is not found by its words
QUESTION_TERMS_MAX = 48

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_APOSTROPHE = re.compile("['’]")
_POSSESSIVE = re.compile(r"['’]s$|['’]$")
_CAPITAL = re.compile(r"(?<![.!?\w'’] )(?<!^)\b[A-Z][\w'’]+")
_NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|"
    r"thousand|twice|once|couple|several|half)\b",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\b(?:yesterday|today|tonight|tomorrow|ago|last|next|since|weekend|week|weeks|month|months|"
    r"year|years|day|days|morning|afternoon|evening|night|monday|tuesday|wednesday|thursday|"
    r"friday|saturday|sunday|january|february|march|april|june|july|august|september|october|"
    r"november|december|summer|winter|spring|autumn|fall|recently|soon|birthday|anniversary|"
    r"(?:19|20)\d\d|just)\b",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"\b(?:in|at|to|from|near|visited|around|of)\s+(?:the\s+)?[A-Z][a-z]+|"
    r"\b(?:beach|park|city|country|town|mountain|mountains|cafe|restaurant|school|church|museum|"
    r"shelter|studio|lake|forest|state|street|home|gym|store|shop|island|village|hotel)\b"
)
_REASON = re.compile(
    r"\b(?:because|since|so that|reason|inspired|inspires|wanted|help|helps|helped|made me|makes "
    r"me|motivated|motivates|love|why|that's why|in order|passion|passionate)\b",
    re.IGNORECASE,
)
_PLAN = re.compile(
    r"\b(?:going to|gonna|will|plan|plans|planning|planned|want to|hope|hoping|next|'ll|thinking "
    r"of|thinking about|looking forward|upcoming|can't wait)\b",
    re.IGNORECASE,
)
_MEDIA = re.compile(r"\[(?:image|shares|photo|picture)\b", re.IGNORECASE)
_FIRST = re.compile(r"\b(?:i|i'm|i've|i'd|i'll|my|me|mine|we|our|us|we're|we've)\b", re.IGNORECASE)
_FEELING = re.compile(
    r"\b(?:feel|feels|feeling|felt|happy|sad|excited|proud|nervous|scared|grateful|thankful|"
    r"amazing|awesome|great|love|loved|enjoy|stressed|relaxed|joy|fun|tough|hard)\b",
    re.IGNORECASE,
)

_STOP = frozenset(
    """a about above after again against all also am an and any are as at be because been before
    being below between both but by can could did do does doing down during each few for from
    further get got had has have having he her here hers herself him himself his how i if in into
    is it its itself just let me more most my myself no nor not now of off on once only or other
    our ours ourselves out over own same she should so some such than that the their theirs them
    themselves then there these they this those through to too under until up very was we were what
    when where which while who whom why will with would you your yours yourself yourselves im ive
    id ill dont didnt doesnt wasnt isnt arent cant wont youre hes shes theyre weve lets thats whats
    ever much many long often according specific type kind think would likely considered s t re ve
    ll d m""".split()
)
_MONTHS = {
    name: number
    for number, name in enumerate(
        (
            "january february march april may june july august september october november december"
        ).split(),
        start=1,
    )
}


class Fact(IntFlag):
    """Something true of a text; questions of a kind look for texts with the fitting ones."""

    QUESTION = 1
    NUMBER = 2
    TIME = 4
    PLACE = 8
    NAME = 16
    REASON = 32
    PLAN = 64
    MEDIA = 128
    FIRST_PERSON = 256
    FEELING = 512
    QUOTE = 1_024


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is stored of a text: the numbers of its `terms`, in order; who speaks (0: nobody)."""

    terms: tuple[int, ...]
    facts: Fact
    speaker: int


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked for.

    `terms` are distinct stems without stop words and names of speakers, `pairs` those that stand
    beside each other, `names` the speakers meant, `wanted` the facts an answer would have; the
    date is what the question names of one.
    """

    text: str
    terms: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    names: tuple[int, ...]
    wanted: Fact
    year: int | None
    month: int | None
    day: int | None
    recent: bool


def term_number(word: str) -> int:
    """Return the number by which a stem is stored: its CRC-32, 1 to 2**32-1."""
    return crc32(word.encode()) or 1


@lru_cache(maxsize=65_536)
def _number(word: str) -> int:
    return term_number(stem(word))


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).lower()
    return [
        _POSSESSIVE.sub("", word).replace("’", "").replace("'", "") for word in _WORD.findall(plain)
    ]


USER_NUMBERS = tuple(crc32(role) for role in (b"user", b"human"))
ASSISTANT_NUMBERS = tuple(
    crc32(role) for role in (b"assistant", b"ai", b"bot", b"model", b"chatbot", b"system", b"tool")
)


_PATTERNS: tuple[tuple[Fact, re.Pattern[str]], ...] = (
    (Fact.NUMBER, _NUMBER),
    (Fact.TIME, _TIME),
    (Fact.PLACE, _PLACE),
    (Fact.NAME, _CAPITAL),
    (Fact.REASON, _REASON),
    (Fact.PLAN, _PLAN),
    (Fact.MEDIA, _MEDIA),
    (Fact.FIRST_PERSON, _FIRST),
    (Fact.FEELING, _FEELING),
    (Fact.QUOTE, re.compile('["“]')),
    (Fact.QUESTION, re.compile(r"\?")),
)


def _facts(text: str) -> Fact:
    facts = Fact(0)
    for fact, pattern in _PATTERNS:
        if pattern.search(text):
            facts |= fact
    return facts


_TITLES = frozenset("mr mrs ms miss dr prof professor sir madam".split())


def speaker_number(name: str) -> int:
    """Return the number of a name as a speaker: its first word but titles, in lower case."""
    words = _words(name)
    named = [word for word in words if word not in _TITLES] or words
    return term_number(named[0]) if named else 0


def analyse(text: str, *, speaker: str | None = None) -> Analysis:
    """Return what search stores of `text`; words beyond the first 2,000 are not kept."""
    numbers = [_number(word) for word in _words(text)[:TERMS_MAX] if word not in _STOP]
    return Analysis(
        tuple(numbers),
        _facts(text),
        speaker_number(speaker) if speaker else 0,
    )


_ASKS: tuple[tuple[re.Pattern[str], Fact], ...] = tuple(
    (re.compile(pattern), fact)
    for pattern, fact in (
        (
            r"^(?:when|(?:what|which) (?:date|day|year|month|time)|since when|how long(?: ago)?)\b",
            Fact.TIME,
        ),
        (r"^how (?:many|much|old|often|long)\b", Fact.NUMBER),
        (r"^(?:where|(?:what|which) (?:city|country|place|state|town))\b", Fact.PLACE),
        (
            r"^(?:who|whose|whom|which)\b|\b(?:name|title|called|named)\b",
            Fact.NAME | Fact.QUOTE,
        ),
        (r"^why\b|\b(?:reason|inspired|motivat\w*|made .* decide)", Fact.REASON),
        (r"\b(?:plan|plans|planning|going to|want to|will)\b", Fact.PLAN),
        (
            r"\b(?:photo|picture|image|painting|poster|share|shared|show|showed|sign|look like)\b",
            Fact.MEDIA,
        ),
        (r"\b(?:feel|feeling|felt|emotion|react|think (?:about|of))\b", Fact.FEELING),
    )
)
_RECENT = re.compile(r"\b(?:recent|recently|latest|currently|current|now|lately|last)\b")
_TO_ASSISTANT = re.compile(
    r"\byou (?:\w+ )?(?:said|told|recommend\w*|suggest\w*|mention\w*|provid\w*|gave|give|list\w*|"
    r"explain\w*|describ\w*|wrote|made|shared)\b|\byour (?:answer|list|advice|suggestion|"
    r"recommendation|explanation|response|previous)|\b(?:remind me|our (?:previous|last|earlier) "
    r"(?:chat|conversation|discussion))\b"
)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_MONTH = re.compile(
    r"\b(January|February|March|April|May|June|July|August|September|October|November|December|"
    r"january|february|april|june|july|august|september|october|november|december)\b"
)
_DAY = re.compile(r"\b([12]?\d|3[01])(?:st|nd|rd|th)?\b")


def _asked_date(text: str) -> tuple[int | None, int | None, int | None]:
    """Return year, month and day that the question names; a day only beside a month."""
    year, month = _YEAR.search(text), _MONTH.search(text)
    if month is None:
        return (int(year.group()) if year else None), None, None
    around = text[max(0, month.start() - 8) : month.start()] + text[month.end() : month.end() + 6]
    day = _DAY.search(around)
    return (
        int(year.group()) if year else None,
        _MONTHS[month.group().lower()],
        int(day.group(1)) if day and int(day.group(1)) > 0 else None,
    )


def ask(text: str, *, speakers: Iterable[int] = ()) -> Question:
    """Return the question in `text`. `speakers` are the numbers of those who speak in the scope:

    their names say whose words are looked for, and are not looked for as words themselves. Where
    nobody is named, "I" and "my" mean the user of a chat, "you told me" the assistant.
    Raises QueryEmpty when there is no word in it.
    """
    known = frozenset(speakers)
    words = _words(text)
    if not words:
        raise QueryEmpty
    lowered = text.lower().strip()
    named = [n for word in words if (n := term_number(word)) in known]
    kept = [word for word in words if word not in _STOP and term_number(word) not in known]
    numbers = [_number(word) for word in kept or words][:QUESTION_TERMS_MAX]
    wanted = Fact(0)
    for pattern, fact in _ASKS:
        if pattern.search(lowered):
            wanted |= fact
    if not named:
        assistant = bool(_TO_ASSISTANT.search(lowered))
        roles = ASSISTANT_NUMBERS if assistant else USER_NUMBERS
        if assistant or _FIRST.search(text):
            named = [n for n in roles if n in known]
    year, month, day = _asked_date(text)
    return Question(
        text=text,
        terms=tuple(dict.fromkeys(numbers)),
        pairs=tuple(pairwise(numbers)),
        names=tuple(dict.fromkeys(named)),
        wanted=wanted,
        year=year,
        month=month,
        day=day,
        recent=bool(_RECENT.search(lowered)),
    )


def to_embed(text: str, speaker_names: Sequence[str]) -> str:
    """Return the question as the speaker would say it: their name becomes "I", "X's" "my".

    A sentence vector of a name pulls towards every text with that name in it; who speaks is a
    signal of its own.
    """
    for name in speaker_names:
        first = name.split()[0] if name.split() else ""
        if first:
            text = re.sub(rf"\b{re.escape(first)}['’]s\b", "my", text)
            text = re.sub(rf"\b{re.escape(first)}\b", "I", text)
    return text
