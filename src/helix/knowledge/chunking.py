"""Cutting a text into chunks: by sections, whole code, whole sentences, then size.

A chunk is a stretch of the text and nothing else: its characters can be read back from the text by
its place. Every character that is not white space is in a chunk. A heading begins a chunk, which
never reaches over the next heading. A block of code is kept whole up to four times the size, then
cut between lines; a sentence longer than a chunk is cut between words, a word longer than one
between characters. Chunks of one section overlap by whole sentences.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from helix.knowledge.types import Block, BlockKind, Chunking, Piece, Reading

__all__ = ["CODE_WHOLE_TIMES", "count_tokens", "cut"]

CODE_WHOLE_TIMES = 4
HEADINGS_MAX = 6
HEADING_CHARS_MAX = 200
_LETTERS_PER_TOKEN = 5

_WIDE = (  # scripts that write without spaces, and pictures: a token a character
    r"\u0e00-\u0eff\u1000-\u109f\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    r"\uff66-\uff9f\U0001f000-\U0001faff\U00020000-\U0003ffff"
)
_TOKEN = re.compile(rf"(?P<word>[^\W_{_WIDE}]+)|(?P<mark>\S)")
_SENTENCE_END = re.compile(
    r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+|\n[ \t\r]*\n|\n(?=[ \t]*(?:[-*+•]|\d{1,9}[.)])[ \t])"
)
_SPACE = re.compile(r"\s+")


def _weight(found: "re.Match[str]") -> int:
    if found.lastgroup != "word":
        return 1
    return 1 + (found.end() - found.start() - 1) // _LETTERS_PER_TOKEN


def count_tokens(text: str) -> int:
    """Return about how many tokens a model makes of `text`.

    One for each mark and each character of scripts without spaces; for a word one, and one more
    for every five letters after the first five. Word-piece and byte-pair vocabularies make as many
    or fewer of common English.
    """
    return sum(map(_weight, _TOKEN.finditer(text)))


class _Unit:
    """A stretch that is not cut further, and what may be done with it."""

    __slots__ = ("code", "end", "start", "tokens")

    def __init__(self, start: int, end: int, tokens: int, *, code: bool) -> None:
        self.start, self.end, self.tokens, self.code = start, end, tokens, code


def cut(reading: Reading, chunking: Chunking) -> list[Piece]:
    """Return the chunks of a text in order. A text of white space alone has none."""
    text = reading.text
    pieces: list[Piece] = []
    for headings, blocks in _sections(reading):
        units = [unit for block in blocks for unit in _units(text, block, chunking)]
        names = tuple(headings)
        for start, end in _pack(units, chunking):
            first, last = _pages(reading.page_starts, start, end)
            tokens = count_tokens(text[start:end])
            pieces.append(Piece(start, end, names, tokens, first, last))
    return pieces


def _whole(reading: Reading) -> Iterator[Block]:
    """Yield the blocks, and the text between them as blocks of its own: nothing is lost."""
    at = 0
    for block in reading.blocks:
        if block.start > at:
            yield Block(BlockKind.TEXT, at, block.start)
        if block.end > max(at, block.start):
            yield Block(block.kind, max(at, block.start), block.end, block.level)
        at = max(at, block.end)
    if at < len(reading.text):
        yield Block(BlockKind.TEXT, at, len(reading.text))


def _sections(reading: Reading) -> Iterator[tuple[list[str], list[Block]]]:
    """Yield each section: the headings it stands under, and its blocks, its own heading first.

    A heading right below another shares its section, so that no chunk is a heading alone.
    """
    path: list[tuple[int, str]] = []
    blocks: list[Block] = []
    only_headings = True
    for block in _whole(reading):
        if block.kind is BlockKind.HEADING:
            if blocks and not only_headings:
                yield [name for _, name in path], blocks
                blocks = []
            only_headings = True
            while path and path[-1][0] >= block.level:
                path.pop()
            path.append((block.level, _name(reading.text[block.start : block.end])))
            del path[: max(0, len(path) - HEADINGS_MAX)]
        elif reading.text[block.start : block.end].strip():
            only_headings = False
        blocks.append(block)
    if blocks:
        yield [name for _, name in path], blocks


def _name(line: str) -> str:
    plain = _SPACE.sub(" ", line.strip().strip("#=-").strip())
    return plain[:HEADING_CHARS_MAX]


def _units(text: str, block: Block, chunking: Chunking) -> Iterator[_Unit]:
    code = block.kind is BlockKind.CODE
    start, end = _trimmed(text, block.start, block.end, code=code)
    if start == end:
        return
    tokens = count_tokens(text[start:end])
    if code and tokens <= chunking.tokens * CODE_WHOLE_TIMES:
        yield _Unit(start, end, tokens, code=True)
        return
    splits = _lines(text, start, end) if code else _sentences(text, start, end)
    for a, b in splits:
        first, last = _trimmed(text, a, b, code=code)
        if first < last:
            size = count_tokens(text[first:last])
            if size <= chunking.tokens:
                yield _Unit(first, last, size, code=code)
            else:
                yield from _cut_long(text, first, last, chunking.tokens, code=code)


def _trimmed(text: str, start: int, end: int, *, code: bool) -> tuple[int, int]:
    """Return the stretch without white space around it; code keeps its first indentation."""
    inner = text[start:end]
    if not inner.strip():
        return start, start
    last = start + len(inner.rstrip())
    first = start + len(inner) - len(inner.lstrip())
    if code:
        line = text.rfind("\n", start, first) + 1
        first = max(line, start)
    return first, last


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    for found in _SENTENCE_END.finditer(text, start, end):
        yield at, found.end()
        at = found.end()
    yield at, end


def _lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    while at < end:
        newline = text.find("\n", at, end)
        stop = end if newline < 0 else newline + 1
        yield at, stop
        at = stop


def _cut_long(text: str, start: int, end: int, most: int, *, code: bool) -> Iterator[_Unit]:
    """Yield parts of at most `most` tokens, cut between tokens; longer words are cut within."""
    at, size, last = start, 0, start
    for found in _TOKEN.finditer(text, start, end):
        weight = _weight(found)
        if size and size + weight > most:
            yield _Unit(at, last, size, code=code)
            at, size = found.start(), 0
        if weight > most:
            step = most * _LETTERS_PER_TOKEN
            for part in range(found.start(), found.end(), step):
                stop = min(part + step, found.end())
                if stop < found.end():
                    yield _Unit(part, stop, most, code=code)
                else:
                    at, size = part, count_tokens(text[part:stop])
        else:
            size += weight
        last = found.end()
    if size:
        yield _Unit(at, end, size, code=code)


def _pack(units: Sequence[_Unit], chunking: Chunking) -> Iterator[tuple[int, int]]:
    """Fill chunks with units of one section, each beginning with the last sentences of the one

    before. What repeats is always followed by something new.
    """
    at = 0
    first = 0  # where the present chunk begins, overlap included
    size = 0
    while at < len(units):
        unit = units[at]
        if at > first and size + unit.tokens > chunking.tokens:
            yield units[first].start, units[at - 1].end
            first, size = _overlap(units, at, chunking, first)
            continue
        size += unit.tokens
        at += 1
    if first < len(units):
        yield units[first].start, units[-1].end


def _overlap(units: Sequence[_Unit], at: int, chunking: Chunking, before: int) -> tuple[int, int]:
    """Return the first unit of the chunk that brings in unit `at`, and the tokens before that."""
    first, size = at, 0
    room = min(chunking.overlap, chunking.tokens - units[at].tokens)
    while first - 1 > before and not units[first - 1].code:
        more = units[first - 1].tokens
        if size + more > room:
            break
        first, size = first - 1, size + more
    return first, size


def _pages(starts: Sequence[int], start: int, end: int) -> tuple[int | None, int | None]:
    if not starts:
        return None, None
    return max(bisect_right(starts, start), 1), max(bisect_right(starts, end - 1), 1)
