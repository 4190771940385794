"""Reads conversations in the format of LoCoMo (A. Maharana et al., 2024), which is not part of
Helix: texts with their speakers and dates, and questions with the texts that answer them.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

__all__ = ["CATEGORIES", "Conversation", "Probe", "Turn", "read"]

CATEGORIES = {
    1: "multi-hop",
    2: "temporal",
    3: "open-domain",
    4: "single-hop",
    5: "adversarial",
}
_EVIDENCE = re.compile(r"D:?(\d+):(\d+)")
_SESSION = re.compile(r"session_(\d+)")
_DATE_FORMATS = (
    "%I:%M %p on %d %B, %Y",
    "%Y/%m/%d (%a) %H:%M",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d",
    "%d %B, %Y",
)
_FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Turn:
    """One thing said; `session` counts from 0, `text` has the caption of a picture in it."""

    key: str
    session: int
    speaker: str
    text: str
    at: datetime


@dataclass(frozen=True)
class Probe:
    """A question, its category and the keys of the turns that answer it."""

    question: str
    category: int
    evidence: frozenset[str]


@dataclass(frozen=True)
class Conversation:
    """All sessions of two speakers, and the questions about them."""

    name: str
    turns: list[Turn]
    probes: list[Probe]
    skipped: int  # questions whose evidence names no turn


def read(path: Path) -> list[Conversation]:
    """Return the conversations of a file.

    Evidence is taken from whatever form it has ("D8:6; D9:17" is two turns); a question is skipped
    only when none of its evidence names a turn.
    """
    return [_conversation(sample, n) for n, sample in enumerate(json.loads(path.read_text()))]


def _conversation(sample: dict[str, Any], number: int) -> Conversation:
    talk = sample["conversation"]
    sessions = sorted(int(m.group(1)) for name in talk if (m := _SESSION.fullmatch(name)))
    turns: list[Turn] = []
    for order, session in enumerate(sessions):
        start = _date(talk.get(f"session_{session}_date_time"), order)
        for place, turn in enumerate(talk[f"session_{session}"] or []):
            at = start + timedelta(seconds=place)
            key = _key(str(turn.get("dia_id", f"D{session}:{place + 1}")))
            turns.append(Turn(key, order, str(turn["speaker"]), _text(turn), at))
    known = {turn.key for turn in turns}
    probes, skipped = [], 0
    for asked in sample["qa"]:
        given = asked.get("evidence") or []
        named = " ".join(map(str, given if isinstance(given, list) else [given]))
        keys = frozenset(f"D{int(a)}:{int(b)}" for a, b in _EVIDENCE.findall(named)) & known
        if keys:
            category = int(asked.get("category", 4))
            probes.append(Probe(str(asked["question"]), category, keys))
        else:
            skipped += 1
    return Conversation(str(sample.get("sample_id", number)), turns, probes, skipped)


def _key(dia_id: str) -> str:
    found = _EVIDENCE.fullmatch(dia_id.strip())
    return f"D{int(found.group(1))}:{int(found.group(2))}" if found else dia_id


def _text(turn: dict[str, Any]) -> str:
    text = str(turn.get("text") or "")
    shown = [str(turn[name]) for name in ("blip_caption", "query") if turn.get(name)]
    return f"{text} [image: {'; '.join(shown)}]".strip() if shown else text


def _date(text: str | None, order: int) -> datetime:
    for form in _DATE_FORMATS:
        try:
            return datetime.strptime(str(text).strip(), form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return _FIRST_DAY + timedelta(days=order)
