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
_EVIDENCE = re.compile(r"D:?\s*(\d+)\s*[:_.-]\s*(\d+)", re.IGNORECASE)
_SESSION = re.compile(r"session_(\d+)")
_DATE_FORMATS = (
    "%I:%M %p on %d %B, %Y",
    "%Y/%m/%d (%a) %H:%M",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%SZ",
    "%d %B, %Y",
    "%d %B %Y",
    "%B %d, %Y",
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
    """Return the conversations of a file: a list, one alone, or one a line.

    Evidence is taken from whatever form it has ("D8:6; D9:17" is two turns, a turn's own id is
    that turn); a question is skipped only when none of its evidence names a turn.
    """
    text = path.read_text()
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(found, dict):
        listed = [value for value in found.values() if isinstance(value, list)]
        found = [found] if "conversation" in found else [one for some in listed for one in some]
    return [_conversation(sample, n) for n, sample in enumerate(found)]


def _conversation(sample: dict[str, Any], number: int) -> Conversation:
    talk = sample.get("conversation") or {}
    sessions = sorted(int(m.group(1)) for name in talk if (m := _SESSION.fullmatch(name)))
    turns: list[Turn] = []
    for order, session in enumerate(sessions):
        start = _date(talk.get(f"session_{session}_date_time"), order)
        for place, given in enumerate(talk[f"session_{session}"] or []):
            turn = given if isinstance(given, dict) else {"text": given}
            key = _key(str(turn.get("dia_id") or f"D{session}:{place + 1}"))
            speaker = str(turn.get("speaker") or turn.get("role") or "")
            turns.append(Turn(key, order, speaker, _text(turn), start + timedelta(seconds=place)))
    known = {turn.key for turn in turns}
    probes, skipped = [], 0
    for asked in sample.get("qa") or []:
        question = str(asked.get("question") or "").strip()
        keys = frozenset(_evidence(asked.get("evidence"), known))
        if keys and question:
            probes.append(Probe(question, _category(asked.get("category")), keys))
        else:
            skipped += 1
    return Conversation(str(sample.get("sample_id", number)), turns, probes, skipped)


def _evidence(given: Any, known: set[str]) -> set[str]:
    """Return the turns that evidence names, in whatever list, object or text it stands."""
    if isinstance(given, dict):
        given = given.get("dia_id") or list(given.values())
    if isinstance(given, list | tuple):
        return {key for one in given for key in _evidence(one, known)}
    text = str(given or "").strip()
    named = {f"D{int(a)}:{int(b)}" for a, b in _EVIDENCE.findall(text)}
    return ({text} | named) & known


def _category(given: Any) -> int:
    """Return the number of a category; 4, single-hop, where there is none."""
    try:
        return int(given)
    except (TypeError, ValueError):
        by_name = {name: number for number, name in CATEGORIES.items()}
        return by_name.get(str(given).strip().lower(), 4)


def _key(dia_id: str) -> str:
    found = _EVIDENCE.fullmatch(dia_id.strip())
    return f"D{int(found.group(1))}:{int(found.group(2))}" if found else dia_id.strip()


def _text(turn: dict[str, Any]) -> str:
    text = str(turn.get("text") or turn.get("content") or "")
    shown = [str(turn[name]) for name in ("blip_caption", "query") if turn.get(name)]
    return f"{text} [image: {'; '.join(shown)}]".strip() if shown else text


def _date(text: str | None, order: int) -> datetime:
    for form in _DATE_FORMATS:
        try:
            return datetime.strptime(str(text).strip(), form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return _FIRST_DAY + timedelta(days=order)
