"""Debates and ensembles: several models, one answer, and whether it paid.

`start` a debate in your transaction; its task is held by an `Engine`, registered with `register`.
Below it lies sql/schema/debate_system.sql.
"""

from helix.debates.asking import Ask, OnBehalf, Price, meaning_of
from helix.debates.cli import follow
from helix.debates.code import Repositories
from helix.debates.command import payer
from helix.debates.defaults import DEFAULT, choose, fill, places_of
from helix.debates.domain import Debates, build
from helix.debates.engine import Engine, RunPayload
from helix.debates.errors import (
    BadDebate,
    BadPanel,
    DebateEnded,
    DebateFailed,
    DebateNotFound,
    NobodyAnswered,
    PanelNotFound,
    RepositoryRefused,
)
from helix.debates.jobs import register, tidy
from helix.debates.policy import read_spec, similarity
from helix.debates.service import (
    best_strategies,
    cancel,
    events_of,
    get,
    get_panel,
    list_debates,
    list_panels,
    put_panel,
    record_code,
    remove_panel,
    start,
    value,
)
from helix.debates.types import (
    Argument,
    Debate,
    DebateId,
    DebateSpec,
    Event,
    EventType,
    Participant,
    Protocol,
    Status,
    StopReason,
    Vote,
)
from helix.debates.voting import Method as VotingMethod

__all__ = [
    "DEFAULT",
    "Argument",
    "Ask",
    "BadDebate",
    "BadPanel",
    "Debate",
    "DebateEnded",
    "DebateFailed",
    "DebateId",
    "DebateNotFound",
    "DebateSpec",
    "Debates",
    "Engine",
    "Event",
    "EventType",
    "NobodyAnswered",
    "OnBehalf",
    "PanelNotFound",
    "Participant",
    "Price",
    "Protocol",
    "Repositories",
    "RepositoryRefused",
    "RunPayload",
    "Status",
    "StopReason",
    "Vote",
    "VotingMethod",
    "best_strategies",
    "build",
    "cancel",
    "choose",
    "events_of",
    "fill",
    "follow",
    "get",
    "get_panel",
    "list_debates",
    "list_panels",
    "meaning_of",
    "payer",
    "places_of",
    "put_panel",
    "read_spec",
    "record_code",
    "register",
    "remove_panel",
    "similarity",
    "start",
    "tidy",
    "value",
]
