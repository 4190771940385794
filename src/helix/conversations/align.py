"""Which messages of a call are new to its conversation. Pure.

Clients of the chat API send their whole history with every call; a conversation must not hold it
once per call. Messages are compared by digest (text.digest_of), oldest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Said", "first_new"]


@dataclass(frozen=True, slots=True)
class Said:
    """A message, as far as comparing needs it."""

    digest: str
    role: str

    @property
    def instructs(self) -> bool:
        """Whether it is a system prompt, which stands outside the order of talk."""
        return self.role in {"system", "developer"}


def first_new(sent: Sequence[Said], known: Sequence[Said], *, whole: bool, assembled: bool) -> int:
    """Return the index in `sent` of the first message that the conversation does not hold.

    Both are in order and without system prompts; `known` are the newest messages held, and `whole`
    says that they are all. What is held already is a question that ends `known`, was never
    answered and is asked again; or else the longest run of `sent` that stands in `known`. A run
    reaches to the start of one of the two, and is more than chance: it holds an answer, or both
    begin with it. With `assembled` Helix supplies the history, so that clients send new messages
    alone: then only a run that holds an answer counts.
    """
    if _repeats_open_end(sent, known):
        return len(sent)
    best = 0
    for start in range(len(known)):
        length = _run(sent, 0, known, start)
        both_begin = whole and start == 0 and not assembled
        if length > best and _counts(sent[:length], both_begin=both_begin):
            best = length
    if not whole:
        for start in range(1, len(sent)):
            length = _run(sent, start, known, 0)
            if start + length > best and _counts(sent[start : start + length], both_begin=False):
                best = start + length
    return best


def _repeats_open_end(sent: Sequence[Said], known: Sequence[Said]) -> bool:
    """Say whether `sent` is what the conversation ends with, and that was never answered."""
    tail = known[-len(sent) :] if sent else known
    return bool(sent) and list(tail) == list(sent) and sent[-1].role != "assistant"


def _run(sent: Sequence[Said], i: int, known: Sequence[Said], j: int) -> int:
    length = 0
    while i + length < len(sent) and j + length < len(known):
        if sent[i + length] != known[j + length]:
            break
        length += 1
    return length


def _counts(run: Sequence[Said], *, both_begin: bool) -> bool:
    return bool(run) and (both_begin or any(said.role == "assistant" for said in run))
