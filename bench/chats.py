"""Chats of a user with an assistant, written for this project, in LoCoMo's format.

    python -m bench.chats > chats.json && make bench-memory DATA=chats.json

A test of search on data its weights were not fitted to, not a measure against other products: what
a user tells of themselves in passing, in a request about something else; answers of hundreds of
words that repeat the topic; facts that change; things the assistant said; and, around them, chats
that have nothing to do with it. Questions are worded otherwise than what answers them. The same
seed gives the same file.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

__all__ = ["make"]

SESSIONS = 48
ASSISTANT = 7


@dataclass(frozen=True)
class Card:
    """What one question asks: told by the user (or the assistant) in as many sessions as texts.

    Of a fact that changed (6) the last text holds; both are evidence. 7: the assistant said it.
    """

    topic: str
    told: tuple[str, ...]
    question: str
    category: int


_TEXTS = json.loads(Path(__file__).with_name("chats.json").read_text())
CARDS = tuple(
    Card(one["topic"], tuple(one["told"]), one["question"], one["category"])
    for one in _TEXTS["cards"]
)
TOPICS: dict[str, tuple[list[str], list[str]]] = {
    name: (one["asks"], one["answers"]) for name, one in _TEXTS["topics"].items()
}


def make(seed: int = 1, *, chats: int = 3, sessions: int = SESSIONS) -> list[dict[str, Any]]:
    """Return conversations in LoCoMo's format; each has a share of the cards, all have others."""
    draw = random.Random(seed)
    cards = list(CARDS)
    draw.shuffle(cards)
    return [_chat(draw, f"chat-{n + 1}", cards[n::chats], sessions) for n in range(chats)]


def _chat(draw: random.Random, name: str, cards: Sequence[Card], sessions: int) -> dict[str, Any]:
    planned: list[tuple[Card | None, int]] = [
        (card, part) for card in cards for part in range(len(card.told))
    ]
    planned += [(None, 0)] * max(0, sessions - len(planned))
    draw.shuffle(planned)
    # The parts of a card keep their order.
    places: dict[Card, list[int]] = {}
    for at, (card, _) in enumerate(planned):
        if card is not None:
            places.setdefault(card, []).append(at)
    for card, where in places.items():
        for part, at in enumerate(sorted(where)):
            planned[at] = (card, part)
    talk: dict[str, Any] = {"speaker_a": "user", "speaker_b": "assistant"}
    evidence: dict[Card, list[str]] = {}
    day = datetime(2023, 1, 2, 9, 0, tzinfo=UTC)
    for number, (card, part) in enumerate(planned, start=1):
        day += timedelta(days=draw.randint(1, 6), minutes=draw.randint(0, 600))
        turns, told_at = _session(draw, number, card, part)
        talk[f"session_{number}"] = turns
        talk[f"session_{number}_date_time"] = day.strftime("%Y/%m/%d (%a) %H:%M")
        if card is not None:
            evidence.setdefault(card, []).append(told_at)
    questions = [
        {"question": card.question, "evidence": evidence[card], "category": card.category}
        for card in cards
    ]
    return {"sample_id": name, "conversation": talk, "qa": questions}


def _session(
    draw: random.Random, number: int, card: Card | None, part: int
) -> tuple[list[dict[str, str]], str]:
    """Return the turns of a session, and the id of the one that tells what the card says."""
    topic = draw.choice(sorted(TOPICS)) if card is None else card.topic
    asks, bank = TOPICS[topic]
    rounds = draw.randint(2, 5)
    telling = draw.randrange(rounds)
    turns: list[dict[str, str]] = []
    told_at = ""

    def say(speaker: str, text: str) -> str:
        turns.append({"speaker": speaker, "dia_id": f"D{number}:{len(turns) + 1}", "text": text})
        return turns[-1]["dia_id"]

    for turn in range(rounds):
        asked = (
            draw.choice(asks)
            if turn == 0 or draw.random() < 0.5
            else draw.choice(_TEXTS["follow_ups"])
        )
        told = card.told[part] if card is not None and turn == telling else None
        by_user = told is not None and card is not None and card.category != ASSISTANT
        text = f"{draw.choice(_TEXTS['leads'])}{asked}"
        if by_user:
            text = f"{told} {asked}" if draw.random() < 0.5 else f"{text} {told}"
        at = say("user", text)
        said = say("assistant", _answer(draw, bank, None if by_user else told))
        if told is not None:
            told_at = at if by_user else said
    return turns, told_at


def _answer(draw: random.Random, bank: Sequence[str], told: str | None) -> str:
    """Return an answer of 60 to 600 words; what it is to tell stands somewhere inside."""
    lines = draw.choices([*bank, *bank, *_TEXTS["fillers"]], k=draw.randint(6, 45))
    if told is not None:
        lines.insert(draw.randint(len(lines) // 3, len(lines)), told)
    glue = "\n- " if draw.random() < 0.4 else " "
    body = glue.join([draw.choice(_TEXTS["openings"]), *lines])
    return f"{body}\n\n{draw.choice(_TEXTS['closings'])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chats", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="of each, at least")
    args = parser.parse_args()
    json.dump(make(args.seed, chats=args.chats, sessions=args.sessions), sys.stdout, indent=1)


if __name__ == "__main__":
    main()
