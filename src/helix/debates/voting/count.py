"""Counting: six methods, exact arithmetic, and one rule for ties.

    plurality    most first choices; one ballot, one vote
    weighted     most first choices, each worth its ballot's weight
    majority     more than half of all ballots put the candidate first; else nobody is elected
    unanimous    all ballots put the candidate first; else nobody is elected
    borda        with m candidates a first place is worth m - 1 points, the next m - 2, … ; the
                 candidates a ballot leaves out share what is left equally (averaged Borda)
    condorcet    beats every other candidate in a majority of the ballots that tell them apart;
                 a ballot puts whom it names before whom it leaves out. Without such a candidate
                 the named completion decides: `borda` (Black's rule: D. Black, "The Theory of
                 Committees and Elections", 1958) or `schulze` (strongest paths by winning votes:
                 M. Schulze, "A new monotonic, clone-independent, reversal symmetric, and
                 Condorcet-consistent single-winner election method", 2011)

Ties: all candidates that a method puts first together are `tied`. Of these wins the one with most
Borda points over the same ballots; if that does not tell them apart, the one that stands first in
the list of candidates. That list is the motion's and not a voter's, so anonymity always holds;
neutrality holds up to that last step, which `tie_break` makes visible.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from helix.debates.voting.ballots import Ballot

__all__ = ["CANDIDATES_MAX", "Completion", "Method", "Outcome", "TieBreak", "count"]

CANDIDATES_MAX = 50


class Method(StrEnum):
    """How ballots become a winner; the set of debates.voting_method."""

    WEIGHTED = "weighted"
    MAJORITY = "majority"
    PLURALITY = "plurality"
    UNANIMOUS = "unanimous"
    BORDA = "borda"
    CONDORCET = "condorcet"


class Completion(StrEnum):
    """What decides when no candidate beats all others pairwise."""

    BORDA = "borda"
    SCHULZE = "schulze"


class TieBreak(StrEnum):
    """What told the winner from those it was tied with."""

    BORDA = "borda"
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a count found.

    `winner` is None when the method elects nobody; `tied` holds all candidates it puts first, in
    the order of the candidates (one, when there is no tie). `leader` is who has most first choices
    (by weight under `weighted`), also when nobody is elected; None without ballots. `share` is the
    part of the ballots, by the method's weight, that put the leader first: 0 to 1, exact.
    """

    method: Method
    winner: str | None
    tied: tuple[str, ...]
    leader: str | None
    share: Fraction
    scores: Mapping[str, Fraction]
    ballots: int
    tie_break: TieBreak | None = None
    completion: Completion | None = None


def count(
    method: Method,
    candidates: Sequence[str],
    ballots: Sequence[Ballot],
    *,
    completion: Completion = Completion.BORDA,
) -> Outcome:
    """Count `ballots` over `candidates`; see the module for the methods and ties.

    `scores` are first choices (weights, points) or, for condorcet, pairwise victories with half a
    point for a draw. Raises ValueError for no, too many or repeated candidates and for a ballot
    that names somebody else: what cannot be counted is refused before.
    """
    _check(candidates, ballots)
    firsts = _first_choices(candidates, ballots, weighted=method is Method.WEIGHTED)
    points = _borda(candidates, ballots)
    cast = sum(firsts.values(), Fraction(0))
    tied, scores, completed = _METHODS[method](candidates, ballots, firsts, points, completion)
    if not cast:
        tied = ()
    winner, tie_break = _of_tied(tied, points)
    leader = _of_tied(_best(candidates, firsts), points)[0] if cast else None
    share = firsts[leader] / cast if leader is not None else Fraction(0)
    return Outcome(
        method=method,
        winner=winner,
        tied=tied,
        leader=leader,
        share=share,
        scores=scores,
        ballots=len(ballots),
        tie_break=tie_break,
        completion=completed if winner is not None else None,
    )


def _check(candidates: Sequence[str], ballots: Sequence[Ballot]) -> None:
    known = set(candidates)
    if not candidates or len(candidates) > CANDIDATES_MAX or len(known) != len(candidates):
        raise ValueError(f"candidates must be 1 to {CANDIDATES_MAX} different names")
    for ballot in ballots:
        if not known.issuperset(ballot.ranking):
            raise ValueError(f"a ballot names {set(ballot.ranking) - known}, who does not stand")


_Points = dict[str, Fraction]
_Found = tuple[tuple[str, ...], _Points, Completion | None]


def _first_choices(
    candidates: Sequence[str], ballots: Sequence[Ballot], *, weighted: bool
) -> _Points:
    found = dict.fromkeys(candidates, Fraction(0))
    for ballot in ballots:
        found[ballot.ranking[0]] += ballot.weight if weighted else 1
    return found


def _borda(candidates: Sequence[str], ballots: Sequence[Ballot]) -> _Points:
    points = dict.fromkeys(candidates, Fraction(0))
    for ballot in ballots:
        for place, name in enumerate(ballot.ranking):
            points[name] += len(candidates) - 1 - place
        left = [name for name in candidates if name not in ballot.ranking]
        for name in left:
            points[name] += Fraction(len(left) - 1, 2)
    return points


def _best(candidates: Sequence[str], scores: Mapping[str, Fraction]) -> tuple[str, ...]:
    most = max(scores[name] for name in candidates)
    return tuple(name for name in candidates if scores[name] == most)


def _of_tied(
    tied: Sequence[str], points: Mapping[str, Fraction]
) -> tuple[str | None, TieBreak | None]:
    if not tied:
        return None, None
    if len(tied) == 1:
        return tied[0], None
    best = _best(tied, points)
    return best[0], TieBreak.BORDA if len(best) == 1 else TieBreak.ORDER


def _most_first(
    candidates: Sequence[str],
    ballots: Sequence[Ballot],
    firsts: _Points,
    points: _Points,
    completion: Completion,
) -> _Found:
    return _best(candidates, firsts), firsts, None


def _more_than_half(
    candidates: Sequence[str],
    ballots: Sequence[Ballot],
    firsts: _Points,
    points: _Points,
    completion: Completion,
) -> _Found:
    elected = tuple(name for name in candidates if 2 * firsts[name] > len(ballots))
    return elected, firsts, None


def _all_agree(
    candidates: Sequence[str],
    ballots: Sequence[Ballot],
    firsts: _Points,
    points: _Points,
    completion: Completion,
) -> _Found:
    elected = tuple(name for name in candidates if firsts[name] == len(ballots))
    return elected, firsts, None


def _most_points(
    candidates: Sequence[str],
    ballots: Sequence[Ballot],
    firsts: _Points,
    points: _Points,
    completion: Completion,
) -> _Found:
    return _best(candidates, points), points, None


def _pairwise(candidates: Sequence[str], ballots: Sequence[Ballot]) -> dict[tuple[str, str], int]:
    """Return for each pair how many ballots put the first of it before the second."""
    found = {(a, b): 0 for a in candidates for b in candidates if a != b}
    for ballot in ballots:
        below = [name for name in candidates if name not in ballot.ranking]
        for place, name in enumerate(ballot.ranking):
            for other in (*ballot.ranking[place + 1 :], *below):
                found[name, other] += 1
    return found


def _beats_all(
    candidates: Sequence[str],
    ballots: Sequence[Ballot],
    firsts: _Points,
    points: _Points,
    completion: Completion,
) -> _Found:
    wins = _pairwise(candidates, ballots)
    scores = {
        a: sum(
            (Fraction(1 + _sign(wins[a, b] - wins[b, a]), 2) for b in candidates if b != a),
            Fraction(0),
        )
        for a in candidates
    }
    winner = tuple(name for name in candidates if scores[name] == len(candidates) - 1)
    if winner:
        return winner, scores, None
    if completion is Completion.SCHULZE:
        return _schulze(candidates, wins), scores, completion
    return _best(candidates, points), scores, completion


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def _schulze(candidates: Sequence[str], wins: Mapping[tuple[str, str], int]) -> tuple[str, ...]:
    strength = {
        (a, b): wins[a, b] if wins[a, b] > wins[b, a] else 0
        for a in candidates
        for b in candidates
        if a != b
    }
    for through in candidates:
        for a in candidates:
            for b in candidates:
                if through in {a, b} or a == b:
                    continue
                path = min(strength[a, through], strength[through, b])
                strength[a, b] = max(strength[a, b], path)
    return tuple(
        a for a in candidates if all(strength[a, b] >= strength[b, a] for b in candidates if b != a)
    )


_METHODS: Mapping[
    Method,
    Callable[[Sequence[str], Sequence[Ballot], _Points, _Points, Completion], _Found],
] = {
    Method.PLURALITY: _most_first,
    Method.WEIGHTED: _most_first,
    Method.MAJORITY: _more_than_half,
    Method.UNANIMOUS: _all_agree,
    Method.BORDA: _most_points,
    Method.CONDORCET: _beats_all,
}
