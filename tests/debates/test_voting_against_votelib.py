"""Our counts against votelib's, an independent library, on random elections."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from votelib.component.rankscore import Borda
from votelib.convert import (
    RankedToCondorcetVotes,
    RankedToFirstPreference,
    RankedToPositionalVotes,
)
from votelib.evaluate.condorcet import CondorcetWinner, Schulze
from votelib.evaluate.core import Plurality, Tie

from helix.debates.voting import Ballot, Completion, Method, Outcome, TieBreak, count

ELECTIONS = 10_000
NAMES = ("ada", "bob", "cyd", "dee", "eve")
NUMBERS = {name: number for number, name in enumerate(NAMES)}
"""votelib takes anything with a length, a name too, for several candidates at once."""

Ranking = tuple[str, ...]


def elections(seed: int, number: int) -> list[tuple[tuple[str, ...], list[Ranking]]]:
    """Elections of 2 to 5 candidates and 1 to 9 ballots, some of them partial."""
    chance = random.Random(seed)
    found = []
    for _ in range(number):
        candidates = NAMES[: chance.randint(2, 5)]
        ballots = []
        for _ in range(chance.randint(1, 9)):
            order = chance.sample(candidates, len(candidates))
            named = len(order) if chance.random() < 0.6 else chance.randint(1, len(order))
            ballots.append(tuple(order[:named]))
        found.append((candidates, ballots))
    return found


def numbered(ranking: Ranking) -> tuple[int, ...]:
    return tuple(NUMBERS[name] for name in ranking)


def with_the_rest(candidates: Sequence[str], ranking: Ranking) -> tuple[Any, ...]:
    """A ranking with those it leaves out together on the last place."""
    left = frozenset(NUMBERS[name] for name in candidates if name not in ranking)
    return (*numbered(ranking), left) if left else numbered(ranking)


def named(scores: dict[int, int]) -> dict[str, int]:
    return {NAMES[number]: score for number, score in scores.items()}


def firsts_by_votelib(ballots: Sequence[Ranking], weights: Sequence[int]) -> dict[str, int]:
    """First preferences as votelib counts them."""
    votes: Counter[tuple[int, ...]] = Counter()
    for ballot, weight in zip(ballots, weights, strict=True):
        votes[numbered(ballot)] += weight
    return named(RankedToFirstPreference().convert(dict(votes)))


def best_of(scores: dict[str, Any]) -> set[str]:
    """All whom votelib's plurality puts first together."""
    [elected] = Plurality().evaluate(scores, 1)
    return set(elected) if isinstance(elected, Tie) else {elected}


def points_by_votelib(candidates: Sequence[str], ballots: Sequence[Ranking]) -> dict[str, int]:
    """Averaged Borda points: each partial ballot as all its completions, times 24 in all."""
    votes: Counter[tuple[int, ...]] = Counter()
    for ballot in ballots:
        left = [name for name in candidates if name not in ballot]
        for order in itertools.permutations(left):
            votes[numbered((*ballot, *order))] += 24 // math.factorial(len(left))
    return named(RankedToPositionalVotes(Borda(base=0)).convert(dict(votes)))


def our(
    method: Method, candidates: Sequence[str], ballots: Sequence[Ballot], **options: Any
) -> Outcome:
    return count(method, candidates, ballots, **options)


def check(candidates: tuple[str, ...], rankings: list[Ranking], weights: list[int]) -> None:
    """Hold one election under every method against votelib."""
    ballots = [Ballot(r, Fraction(w)) for r, w in zip(rankings, weights, strict=True)]
    firsts = firsts_by_votelib(rankings, [1] * len(rankings))

    plurality = our(Method.PLURALITY, candidates, ballots)
    assert set(plurality.tied) == best_of(firsts)
    assert {n: s for n, s in plurality.scores.items() if s} == {
        n: s for n, s in firsts.items() if s
    }

    weighted = our(Method.WEIGHTED, candidates, ballots)
    heavy = firsts_by_votelib(rankings, weights)
    assert set(weighted.tied) == best_of(heavy)

    majority = our(Method.MAJORITY, candidates, ballots)
    over_half = {name for name, votes in firsts.items() if 2 * votes > len(rankings)}
    assert set(majority.tied) == over_half

    unanimous = our(Method.UNANIMOUS, candidates, ballots)
    assert set(unanimous.tied) == {n for n, votes in firsts.items() if votes == len(rankings)}

    points = points_by_votelib(candidates, rankings)
    borda = our(Method.BORDA, candidates, ballots)
    assert {name: 24 * score for name, score in borda.scores.items()} == points
    assert set(borda.tied) == best_of(points)

    whole = Counter(with_the_rest(candidates, ranking) for ranking in rankings)
    told = RankedToCondorcetVotes().convert(dict(whole))
    pairs = {
        (a, b): told.get((NUMBERS[a], NUMBERS[b]), 0)
        for a, b in itertools.permutations(candidates, 2)
    }
    condorcet = our(Method.CONDORCET, candidates, ballots)
    elected = CondorcetWinner().evaluate(pairs)
    if elected:
        assert (condorcet.winner, condorcet.completion) == (elected[0], None)
    else:
        assert condorcet.completion is Completion.BORDA
        assert set(condorcet.tied) == best_of(points)

    schulze = our(Method.CONDORCET, candidates, ballots, completion=Completion.SCHULZE)
    by_paths = Schulze().evaluate(pairs, 1)
    if not by_paths:  # nobody beats anybody, by no path
        theirs = set(candidates)
    else:
        theirs = set(by_paths[0]) if isinstance(by_paths[0], Tie) else set(by_paths)
    if len(schulze.tied) == 1:
        assert set(schulze.tied) == theirs
    else:  # of those unbeaten by any path votelib names the ones with most victories
        assert theirs <= set(schulze.tied)

    for outcome in (plurality, weighted, borda, condorcet, schulze):
        assert outcome.winner in outcome.tied
        best = max(points.get(name, 0) for name in outcome.tied)
        assert points.get(outcome.winner, 0) == best
        told_apart = [n for n in outcome.tied if points.get(n, 0) == best]
        assert outcome.winner == told_apart[0]
        if len(outcome.tied) == 1:
            assert outcome.tie_break is None
        else:
            by_points = len(told_apart) == 1
            assert outcome.tie_break is (TieBreak.BORDA if by_points else TieBreak.ORDER)


@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_elections_are_counted_as_votelib_counts_them(seed: int) -> None:
    chance = random.Random(seed + 100)
    for candidates, rankings in elections(seed, ELECTIONS // 4):
        weights = [chance.randint(1, 5) for _ in rankings]
        check(candidates, rankings, weights)
