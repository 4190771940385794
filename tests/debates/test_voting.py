"""What voting promises, whatever the ballots."""

import random
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.debates.voting import (
    Ballot,
    BallotRefused,
    Completion,
    Method,
    TieBreak,
    count,
    read_ballot,
)

NAMES = ("ada", "bob", "cyd", "dee")


@st.composite
def some_ballots(draw: st.DrawFn) -> tuple[tuple[str, ...], list[Ballot]]:
    candidates = NAMES[: draw(st.integers(2, 4))]
    ballots = []
    for _ in range(draw(st.integers(1, 7))):
        order = draw(st.permutations(candidates))
        named = draw(st.integers(1, len(order)))
        weight = Fraction(draw(st.integers(0, 400)), 100)
        ballots.append(Ballot(tuple(order[:named]), weight))
    return candidates, ballots


ELECTIONS = some_ballots()
METHODS = st.sampled_from(list(Method))
COMPLETIONS = st.sampled_from(list(Completion))


@given(ELECTIONS, METHODS, COMPLETIONS, st.randoms(use_true_random=False))
def test_who_cast_which_ballot_does_not_matter(
    election: tuple[tuple[str, ...], list[Ballot]],
    method: Method,
    completion: Completion,
    chance: random.Random,
) -> None:
    candidates, ballots = election
    shuffled = list(ballots)
    chance.shuffle(shuffled)
    before = count(method, candidates, ballots, completion=completion)
    assert count(method, candidates, shuffled, completion=completion) == before


@given(ELECTIONS, METHODS, COMPLETIONS, st.permutations(NAMES))
def test_renaming_the_candidates_renames_the_result(
    election: tuple[tuple[str, ...], list[Ballot]],
    method: Method,
    completion: Completion,
    other: list[str],
) -> None:
    candidates, ballots = election
    renamed = dict(zip(NAMES, other, strict=True))
    before = count(method, candidates, ballots, completion=completion)
    after = count(
        method,
        [renamed[name] for name in candidates],
        [Ballot(tuple(renamed[n] for n in b.ranking), b.weight) for b in ballots],
        completion=completion,
    )
    assert after.tied == tuple(renamed[name] for name in before.tied)
    assert after.winner == (None if before.winner is None else renamed[before.winner])
    assert after.share == before.share


@given(ELECTIONS, METHODS, COMPLETIONS)
def test_the_order_of_the_candidates_matters_only_where_it_says_so(
    election: tuple[tuple[str, ...], list[Ballot]], method: Method, completion: Completion
) -> None:
    candidates, ballots = election
    before = count(method, candidates, ballots, completion=completion)
    after = count(method, candidates[::-1], ballots, completion=completion)
    assert set(after.tied) == set(before.tied)
    assert after.tie_break == before.tie_break
    if before.tie_break is not TieBreak.ORDER:
        assert after.winner == before.winner


@given(ELECTIONS, COMPLETIONS)
def test_who_beats_everybody_pairwise_is_elected(
    election: tuple[tuple[str, ...], list[Ballot]], completion: Completion
) -> None:
    candidates, ballots = election

    def beats(one: str, other: str) -> bool:
        def place(ballot: Ballot, name: str) -> int:
            ranking = ballot.ranking
            return ranking.index(name) if name in ranking else len(NAMES)

        better = sum(place(b, one) < place(b, other) for b in ballots)
        worse = sum(place(b, one) > place(b, other) for b in ballots)
        return better > worse

    strongest = [c for c in candidates if all(beats(c, o) for o in candidates if o != c)]
    outcome = count(Method.CONDORCET, candidates, ballots, completion=completion)
    if strongest:
        assert (outcome.winner, outcome.completion) == (strongest[0], None)
    else:
        assert outcome.completion is completion


@given(ELECTIONS, st.sampled_from([m for m in Method if m is not Method.CONDORCET]), st.data())
def test_a_winner_that_is_raised_on_a_ballot_still_wins(
    election: tuple[tuple[str, ...], list[Ballot]], method: Method, data: st.DataObject
) -> None:
    candidates, ballots = election
    before = count(method, candidates, ballots)
    if before.winner is None:
        return
    number = data.draw(st.integers(0, len(ballots) - 1))
    ballots = list(ballots)
    ballots[number] = raised(ballots[number], before.winner)
    assert count(method, candidates, ballots).winner == before.winner


@given(ELECTIONS, st.data())
def test_a_condorcet_winner_that_is_raised_still_wins(
    election: tuple[tuple[str, ...], list[Ballot]], data: st.DataObject
) -> None:
    """With the completion by Borda too: raising the winner gives nobody else a victory or point."""
    candidates, ballots = election
    before = count(Method.CONDORCET, candidates, ballots)
    number = data.draw(st.integers(0, len(ballots) - 1))
    ballots = list(ballots)
    assert before.winner is not None
    ballots[number] = raised(ballots[number], before.winner)
    assert count(Method.CONDORCET, candidates, ballots).winner == before.winner


def raised(ballot: Ballot, name: str) -> Ballot:
    """The same ballot with one candidate moved a place up, or put first if it was left out."""
    ranking = list(ballot.ranking)
    if name not in ranking:
        return Ballot((name, *ranking), ballot.weight)
    at = ranking.index(name)
    if at:
        ranking[at - 1], ranking[at] = ranking[at], ranking[at - 1]
    return Ballot(tuple(ranking), ballot.weight)


@given(ELECTIONS, METHODS)
def test_what_all_put_first_wins(
    election: tuple[tuple[str, ...], list[Ballot]], method: Method
) -> None:
    candidates, ballots = election
    agreed = [Ballot((candidates[-1], *candidates[:-1]), Fraction(1)) for _ in ballots]
    outcome = count(method, candidates, agreed)
    assert (outcome.winner, outcome.share) == (candidates[-1], 1)


def ballots_of(*rankings: str) -> list[Ballot]:
    return [Ballot(tuple(ranking.split(">"))) for ranking in rankings]


def test_a_cycle_is_completed_by_the_method_that_is_named() -> None:
    # a and b halve the ballots, c beats a, b beats c: nobody beats both others.
    profile = {"c>b>a": 2, "c>a>b": 3, "a>b>c": 3, "b>c>a": 4}
    ballots = [b for r, n in profile.items() for b in ballots_of(r) * n]
    by_points = count(Method.CONDORCET, "abc", ballots)
    assert (by_points.winner, by_points.completion) == ("c", Completion.BORDA)
    by_paths = count(Method.CONDORCET, "abc", ballots, completion=Completion.SCHULZE)
    assert (by_paths.winner, by_paths.completion) == ("b", Completion.SCHULZE)


def test_schulze_agrees_with_its_author_s_example() -> None:
    # Schulze 2011, section 3.1: 45 voters, E wins by strongest paths.
    profile = {
        "A>C>B>E>D": 5, "A>D>E>C>B": 5, "B>E>D>A>C": 8, "C>A>B>E>D": 3,
        "C>A>E>B>D": 7, "C>B>A>D>E": 2, "D>C>E>B>A": 7, "E>B>A>D>C": 8,
    }  # fmt: skip
    ballots = [b for r, n in profile.items() for b in ballots_of(r) * n]
    outcome = count(Method.CONDORCET, "ABCDE", ballots, completion=Completion.SCHULZE)
    assert (outcome.tied, outcome.completion) == (("E",), Completion.SCHULZE)


def test_majority_and_unanimous_elect_nobody_rather_than_too_little() -> None:
    ballots = ballots_of("a>b", "a>b", "b>a", "c>a")
    majority = count(Method.MAJORITY, "abc", ballots)
    assert (majority.winner, majority.leader, majority.share) == (None, "a", Fraction(1, 2))
    assert count(Method.UNANIMOUS, "abc", ballots).winner is None
    assert count(Method.MAJORITY, "abc", [*ballots, *ballots_of("a")]).winner == "a"


def test_weights_count_exactly() -> None:
    ballots = [
        Ballot(("a",), Fraction(1, 10)), Ballot(("a",), Fraction(2, 10)),
        Ballot(("b",), Fraction(3, 10)),
    ]  # fmt: skip
    outcome = count(Method.WEIGHTED, "ab", ballots)
    assert outcome.tied == ("a", "b")  # in floating point 0.1 + 0.2 > 0.3
    assert outcome.share == Fraction(1, 2)


def test_ties_go_to_more_points_and_then_to_the_order_of_the_candidates() -> None:
    ballots = ballots_of("a>b>c", "b>c>a", "c>b>a", "b>a>c", "a>c>b")
    plurality = count(Method.PLURALITY, "abc", ballots)
    assert (plurality.tied, plurality.winner) == (("a", "b"), "b")
    assert plurality.tie_break is TieBreak.BORDA
    even = count(Method.PLURALITY, "ba", ballots_of("a>b", "b>a"))
    assert (even.winner, even.tie_break) == ("b", TieBreak.ORDER)


@pytest.mark.parametrize("method", list(Method))
def test_without_ballots_nobody_is_elected(method: Method) -> None:
    outcome = count(method, "ab", [])
    assert (outcome.winner, outcome.leader, outcome.tied, outcome.share) == (None, None, (), 0)


def test_weights_that_are_all_nothing_elect_nobody() -> None:
    outcome = count(Method.WEIGHTED, "ab", [Ballot(("a",), Fraction(0))])
    assert (outcome.winner, outcome.tied) == (None, ())


def test_candidates_and_ballots_that_cannot_be_counted_are_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        count(Method.BORDA, ["a", "a"], [])
    with pytest.raises(ValueError, match="does not stand"):
        count(Method.BORDA, ["a", "b"], ballots_of("x"))


# ---- reading ballots -----------------------------------------------------------------------------

CANDIDATES = ("PostgreSQL", "MySQL")


@pytest.mark.parametrize(
    "text",
    [
        '{"ranking": ["PostgreSQL", "MySQL"], "confidence": 0.75, "reason": "r"}',
        (
            'Sure!\n```json\n{"ranking": ["postgresql ", "**MySQL**"], "confidence": "75%", '
            '"reason": "r"}\n```\nHope it helps.'
        ),
        '{"ranking": ["PostgreSQL", "MySQL",], "confidence": 0.75, "reason": "r",}',
        (
            'I weigh {this} and {that}: {"reason": "r", "confidence": 0.75, '
            '"ranking": ["PostgreSQL", "MySQL"]}'
        ),
    ],
)
def test_a_ballot_is_read_through_what_models_wrap_around_it(text: str) -> None:
    ballot = read_ballot(text, CANDIDATES)
    assert ballot.ranking == ("PostgreSQL", "MySQL")
    assert (ballot.confidence, ballot.reason) == (Decimal("0.7500"), "r")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("PostgreSQL first, then MySQL", "no JSON object"),
        ('{"ranking": []}', "at least one"),
        ('{"winner": "MySQL"}', 'no "ranking"'),
        ('{"ranking": ["Postgres"]}', "none of the candidates"),
        ('{"ranking": ["MySQL", "mysql"]}', "ranked twice"),
        ('{"ranking": [1, 2]}', "names of candidates"),
        ('{"ranking": ["MySQL"]} or rather {"ranking": ["PostgreSQL"]}', "several"),
        ('{"ranking": ["MySQL"', "no JSON object"),
        ("{" * 200_000, "longer than"),
        ("{" * 90_000, "no JSON object"),
    ],
)
def test_a_ballot_that_would_have_to_be_guessed_is_refused(text: str, why: str) -> None:
    with pytest.raises(BallotRefused, match=why):
        read_ballot(text, CANDIDATES)


@pytest.mark.parametrize("told", ["85", "1.5", '"very"', "true", "null", "-0.1", '"NaN"', "[1]"])
def test_a_confidence_that_says_nothing_certain_is_none(told: str) -> None:
    ballot = read_ballot(f'{{"ranking": ["MySQL"], "confidence": {told}}}', CANDIDATES)
    assert ballot.confidence is None


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        ballot = read_ballot(text, CANDIDATES)
    except BallotRefused:
        return
    assert set(ballot.ranking) <= set(CANDIDATES)
