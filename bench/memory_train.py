"""Learns the weights of search and writes src/helix/retrieval/weights.json.

    python -m bench.memory_train DATA [--write]

DATA is a file in LoCoMo's format. For each of four sets (people or chat, with or without vectors)
a linear ranker is fitted: softmax over the texts of a question, cross-entropy against those that
answer it, L2, L-BFGS. Questions meant to mislead (category 5) teach nothing and are left out.
Figures are evidence recall@10, on the conversations it was fitted to and on the one left out.

There is no public set of chats with an assistant here to learn from. The sets for chats are
fitted to the same conversations and to a rewriting of them together: one speaker becomes the user
(and the questions ask of "I"), the other an assistant whose answers are long and repeat the user's
words. Their figures are those of the rewritten conversations.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.locomo import Conversation, Probe, Turn, read
from helix.retrieval.analysis import analyse, ask, to_embed
from helix.retrieval.minilm import MODEL_NAME, MiniLM, find_weights
from helix.retrieval.signals import DENSE_SIGNALS, SIGNALS, Corpus, measure

Array = np.ndarray[Any, np.dtype[Any]]
TARGET = Path("src/helix/retrieval/weights.json")
KEPT_PER_QUESTION = 150
L2 = 1e-3
STEPS = 150
ADVERSARIAL = 5
ECHO_TURNS = 4


@dataclass(frozen=True)
class Example:
    """One question: `signals` float32 (texts, signals), `right` the rows that answer it."""

    signals: Array
    right: Array
    category: int


def as_chat(talk: Conversation) -> Conversation:
    """Return the conversation as a chat of its first speaker with an assistant."""
    names = list(dict.fromkeys(turn.speaker for turn in talk.turns))[:2]
    roles = {names[0]: "user", names[-1]: "assistant"}
    turns: list[Turn] = []
    for at, turn in enumerate(talk.turns):
        role, text = roles.get(turn.speaker, "user"), turn.text
        if role == "assistant":
            beside = [t.text for t in talk.turns[max(0, at - 1) : at + ECHO_TURNS]]
            text = " ".join([turn.text, *beside, *beside[:1]])
        turns.append(replace(turn, speaker=role, text=text))
    by_key = {turn.key: turn for turn in turns}
    probes = []
    for probe in talk.probes:
        said_by = {by_key[key].speaker for key in probe.evidence}
        if said_by == {"user"} and names[0] in probe.question:
            asked = _mine(probe.question, names[0])
        elif said_by == {"assistant"} and names[-1] in probe.question:
            asked = f"You told me: {probe.question.replace(names[-1], 'you')}"
        else:
            continue
        probes.append(Probe(asked, probe.category, probe.evidence))
    return Conversation(talk.name, turns, probes, talk.skipped)


def _mine(question: str, name: str) -> str:
    return re.sub(rf"\b{name}\b", "I", re.sub(rf"\b{name}['’]s\b", "my", question))


def corpus_of(talk: Conversation) -> Corpus:
    """Return the texts of a conversation as search sees them, without vectors."""
    known = [analyse(turn.text, speaker=turn.speaker) for turn in talk.turns]
    return Corpus(
        terms=np.array([n for one in known for n in one.terms], np.uint32),
        lengths=np.array([len(one.terms) for one in known], np.int64),
        group=np.array([turn.session for turn in talk.turns], np.int64),
        at=np.array([turn.at.timestamp() for turn in talk.turns]),
        facts=np.array([int(one.facts) for one in known], np.int64),
        speaker=np.array([one.speaker for one in known], np.int64),
        dense=None,
    )


def examples_of(
    talk: Conversation, vectors: dict[str, Array] | None, names: Sequence[str]
) -> list[Example]:
    """Return an example a question; `vectors` by text, None to go without."""
    corpus = corpus_of(talk)
    place = {turn.key: row for row, turn in enumerate(talk.turns)}
    speakers = list(dict.fromkeys(turn.speaker for turn in talk.turns))
    texts = None if vectors is None else np.stack([vectors[turn.text] for turn in talk.turns])
    examples = []
    for probe in talk.probes:
        dense = None
        if vectors is not None and texts is not None:
            dense = texts @ vectors[to_embed(probe.question, speakers)]
        question = ask(probe.question, speakers=set(corpus.speaker.tolist()))
        found = measure(question, replace(corpus, dense=dense))
        right = np.array(sorted(place[key] for key in probe.evidence))
        examples.append(Example(np.stack([found[n] for n in names], 1), right, probe.category))
    return examples


def embed_all(talks: Sequence[Conversation], cache: Path | None) -> dict[str, Array]:
    """Return the vector of every text and question."""
    texts: dict[str, None] = {}
    for talk in talks:
        speakers = list(dict.fromkeys(turn.speaker for turn in talk.turns))
        texts.update(dict.fromkeys(turn.text for turn in talk.turns))
        texts.update(dict.fromkeys(to_embed(p.question, speakers) for p in talk.probes))
    if cache is not None and cache.exists():
        kept = np.load(cache, allow_pickle=False)
        known = dict(zip(kept["texts"].tolist(), kept["vectors"], strict=True))
    else:
        known = {}
    missing = [text for text in texts if text not in known]
    if missing:
        found = find_weights()
        if found is None:
            sys.exit("the embedder is not installed: make embedder")
        model = MiniLM(*found)
        for start in range(0, len(missing), 256):
            part = missing[start : start + 256]
            known.update(zip(part, model.embed(part), strict=True))
            print(f"\rembedded {start + len(part)} of {len(missing)}", end="", file=sys.stderr)
        print(file=sys.stderr)
        if cache is not None:
            names = list(known)
            np.savez(cache, texts=np.array(names), vectors=np.stack([known[n] for n in names]))
    return known


def fit(examples: Sequence[Example]) -> Array:
    """Return the weights that make the answering texts likeliest."""
    blocks, shares = [], []
    for example in examples:
        if example.category == ADVERSARIAL:
            continue
        quick = example.signals.sum(1)
        keep = np.union1d(np.argsort(-quick)[:KEPT_PER_QUESTION], example.right)
        right = np.isin(keep, example.right).astype(float)
        blocks.append(example.signals[keep].astype(float))
        shares.append(right / right.sum())
    x, share = np.concatenate(blocks), np.concatenate(shares)
    ends = np.cumsum([len(block) for block in blocks])
    starts, block_of = (
        np.r_[0, ends[:-1]],
        np.repeat(np.arange(len(blocks)), np.diff(np.r_[0, ends])),
    )

    def loss(w: Array) -> tuple[float, Array]:
        score = x @ w
        score -= np.maximum.reduceat(score, starts)[block_of]
        mass = np.exp(score)
        total = np.add.reduceat(mass, starts)
        value = -(share * (score - np.log(total)[block_of])).sum() / len(blocks) + L2 * (w @ w) / 2
        return float(value), x.T @ (mass / total[block_of] - share) / len(blocks) + L2 * w

    return _lbfgs(loss, np.zeros(x.shape[1]))


def _lbfgs(loss: Callable[[Array], tuple[float, Array]], w: Array, memory: int = 10) -> Array:
    value, slope = loss(w)
    moved: list[tuple[Array, Array]] = []
    for _ in range(STEPS):
        step, kept = slope.copy(), []
        for s, y in reversed(moved):
            a = s @ step / (y @ s)
            kept.append(a)
            step -= a * y
        if moved:
            s, y = moved[-1]
            step *= (s @ y) / (y @ y)
        for (s, y), a in zip(moved, reversed(kept), strict=True):
            step += s * (a - y @ step / (y @ s))
        length = 1.0 if moved else 1 / max(float(np.abs(slope).sum()), 1e-9)
        while True:
            after = w - length * step
            next_value, next_slope = loss(after)
            if next_value <= value - 1e-4 * length * (slope @ step) or length < 1e-10:
                break
            length /= 2
        s, y = after - w, next_slope - slope
        if s @ y > 1e-12:
            moved = [*moved[-(memory - 1) :], (s, y)]
        if abs(value - next_value) < 1e-9:
            return after
        w, value, slope = after, next_value, next_slope
    return w


def recall(examples: Sequence[Example], w: Array, depth: int = 10) -> float:
    """Return evidence recall at `depth`, over the questions that are not meant to mislead."""
    shares = [
        np.isin(np.argsort(-(e.signals @ w), kind="stable")[:depth], e.right).sum() / len(e.right)
        for e in examples
        if e.category != ADVERSARIAL
    ]
    return float(np.mean(shares))


def validate(
    sets: Sequence[list[Example]], beside: Sequence[list[Example]]
) -> tuple[float, float, list[float]]:
    """Return recall@10 where fitted, on the conversation left out, and that for each.

    `beside` are other forms of the same conversations, to learn from as well, in the same order.
    """
    fitted, held, counts = [], [], []
    for at, out in enumerate(sets):
        rest = [example for n, one in enumerate(sets) if n != at for example in one]
        more = [example for n, one in enumerate(beside) if n != at for example in one]
        w = fit([*rest, *more])
        fitted.append(recall(rest, w))
        held.append(recall(out, w))
        counts.append(sum(1 for e in out if e.category != ADVERSARIAL))
    return float(np.mean(fitted)), float(np.average(held, weights=counts)), held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", action="store_true", help=f"write {TARGET}")
    parser.add_argument("--cache", type=Path, help="keep vectors here, outside the project")
    parser.add_argument("--drop", default="", help="signals to go without, by comma")
    args = parser.parse_args()
    people = read(args.data)
    chats = [as_chat(talk) for talk in people]
    vectors = embed_all([*people, *chats], args.cache)
    dropped = set(filter(None, args.drop.split(",")))
    sets: dict[str, dict[str, float]] = {}
    figures: dict[str, dict[str, float]] = {}
    for kind, talks in (("people", people), ("chat", chats)):
        for with_vectors in (True, False):
            names = [
                name
                for name in SIGNALS
                if name not in dropped and (with_vectors or name not in DENSE_SIGNALS)
            ]
            name = kind if with_vectors else f"{kind}_words"
            own = vectors if with_vectors else None
            examples = [examples_of(talk, own, names) for talk in talks]
            beside = [examples_of(talk, own, names) for talk in people] if kind == "chat" else []
            fitted, held, each = validate(examples, beside)
            w = fit([example for one in [*examples, *beside] for example in one])
            sets[name] = {n: round(float(x), 3) for n, x in zip(names, w, strict=True)}
            figures[name] = {"fitted": round(fitted, 4), "held_out": round(held, 4)}
            shown = " ".join(f"{x:.3f}" for x in each)
            print(f"{name:<13} fitted {fitted:.4f}  held out {held:.4f}  ({shown})")
    if args.write:
        provenance = {
            "made_by": "python -m bench.memory_train",
            "made_on": datetime.now(UTC).date().isoformat(),
            "data": "LoCoMo (A. Maharana et al., 2024), first five conversations; for chats these "
            "and a rewriting of them as chats with an assistant. No text of it is kept here.",
            "embedder": MODEL_NAME,
            "questions": sum(len(talk.probes) for talk in people),
            "recall_at_10": figures,
        }
        content = msgspec.json.format(
            msgspec.json.encode({"provenance": provenance, "sets": sets}), indent=2
        )
        TARGET.write_bytes(content + b"\n")
        print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
