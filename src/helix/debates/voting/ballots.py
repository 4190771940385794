"""Ballots: what a model said, read as a ranking or refused with a reason. Nothing is guessed.

A ballot is a JSON object `{"ranking": ["best", "next", …], "confidence": 0.8, "reason": "…"}`. What
models wrap around it is taken off without a call: a code fence, words before and after the object,
a comma before a closing bracket. A name counts as a candidate's when both are equal after Unicode
normalisation (NFKC), case folding, and collapsing white space and the quotes around it. Anything
else refuses the ballot: no ranking, an unknown or repeated name. The voter may be asked once more;
a second failure is recorded as an invalid ballot and counts for nobody.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from helix.debates.structured import NotStructured, fraction_of, read_object

__all__ = ["BALLOT_CHARS_MAX", "Ballot", "BallotRefused", "match_name", "read_ballot"]

BALLOT_CHARS_MAX = 100_000
_REASON_CHARS_MAX = 2_000
_SPACE = re.compile(r"\s+")
_QUOTES = "\"'`“”‘’«»*"


@dataclass(frozen=True, slots=True)
class Ballot:
    """One voter's ranking, best first, without repeats, at least one name.

    `weight` counts under the weighted method alone; it is exact and at least 0.
    """

    ranking: tuple[str, ...]
    weight: Fraction = Fraction(1)
    confidence: Decimal | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if not self.ranking or len(set(self.ranking)) != len(self.ranking):
            raise ValueError("a ballot ranks one or more different candidates")
        if self.weight < 0:
            raise ValueError("a ballot's weight is at least 0")


class BallotRefused(Exception):
    """A text is no valid ballot; the message says why, in words fit for asking again."""


def read_ballot(text: str, candidates: Sequence[str], *, weight: Fraction = Fraction(1)) -> Ballot:
    """Read a voter's answer. Raises BallotRefused."""
    if len(text) > BALLOT_CHARS_MAX:
        raise BallotRefused(f"the answer is longer than {BALLOT_CHARS_MAX} characters")
    try:
        told = read_object(text)
    except NotStructured as exc:
        raise BallotRefused(str(exc)) from exc
    ranking = _names(told)
    found: list[str] = []
    for name in ranking:
        candidate = match_name(name, candidates)
        if candidate is None:
            raise BallotRefused(f"{name[:80]!r} is none of the candidates")
        if candidate in found:
            raise BallotRefused(f"{candidate[:80]!r} is ranked twice")
        found.append(candidate)
    reason = told.get("reason")
    return Ballot(
        ranking=tuple(found),
        weight=weight,
        confidence=fraction_of(told.get("confidence")),
        reason=reason[:_REASON_CHARS_MAX] if isinstance(reason, str) else None,
    )


def match_name(name: str, candidates: Sequence[str]) -> str | None:
    """Return the candidate that `name` spells, or None; of candidates spelt alike, only itself."""
    if name in candidates:
        return name
    found = [candidate for candidate in candidates if _key(candidate) == _key(name)]
    return found[0] if len(found) == 1 else None


def _names(told: dict[str, Any]) -> list[str]:
    ranking = told.get("ranking")
    if ranking is None:
        raise BallotRefused('the object has no "ranking"')
    if not isinstance(ranking, list) or not ranking:
        raise BallotRefused('"ranking" must be a list with at least one candidate')
    for name in ranking:
        if not isinstance(name, str):
            raise BallotRefused('"ranking" must hold names of candidates and nothing else')
    return ranking


def _key(name: str) -> str:
    """Return what two spellings of one name have in common."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return _SPACE.sub(" ", plain).strip().strip(_QUOTES).strip()
