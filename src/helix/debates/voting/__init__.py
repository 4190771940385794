"""Voting: ballots in, an outcome out. Pure, exact, and the same for everyone who counts again."""

from helix.debates.voting.ballots import (
    BALLOT_CHARS_MAX,
    Ballot,
    BallotRefused,
    match_name,
    read_ballot,
)
from helix.debates.voting.count import CANDIDATES_MAX, Completion, Method, Outcome, TieBreak, count

__all__ = [
    "BALLOT_CHARS_MAX",
    "CANDIDATES_MAX",
    "Ballot",
    "BallotRefused",
    "Completion",
    "Method",
    "Outcome",
    "TieBreak",
    "count",
    "match_name",
    "read_ballot",
]
