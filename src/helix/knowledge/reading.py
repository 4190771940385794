"""From bytes to text: plain text and Markdown here, HTML and PDF in a confined child process."""

import asyncio
import contextlib
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import msgspec

from helix.knowledge.errors import DocumentTooLarge, ReadersBusy, UnreadableDocument
from helix.knowledge.types import Block, BlockKind, MediaType, Reading

__all__ = ["MEMORY_BYTES", "ReadLimits", "Reader", "media_type_of", "read_markdown"]

MEMORY_BYTES = 64_000_000
READERS_MAX = 2
WAITING_MAX = 16
TITLE_CHARS_MAX = 255
_CHILD = "reader_child.py"
_KINDS = {MediaType.PDF: "pdf", MediaType.HTML: "html"}
_SUFFIXES = {
    ".txt": MediaType.TEXT,
    ".text": MediaType.TEXT,
    ".log": MediaType.TEXT,
    ".rst": MediaType.TEXT,
    ".md": MediaType.MARKDOWN,
    ".markdown": MediaType.MARKDOWN,
    ".html": MediaType.HTML,
    ".htm": MediaType.HTML,
    ".xhtml": MediaType.HTML,
    ".pdf": MediaType.PDF,
}
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]|$)")
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_CLOSING = re.compile(r"[ \t]+#+[ \t]*$")


def media_type_of(name: str) -> MediaType | None:
    """Return what a file of this name holds, or None when its ending says nothing known."""
    dot = name.rfind(".")
    return _SUFFIXES.get(name[dot:].lower()) if dot >= 0 else None


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What may be read: bytes given, pages, characters of text, seconds of one reading."""

    bytes_max: int = 20_000_000
    pages_max: int = 2_000
    chars_max: int = 5_000_000
    seconds: float = 5.0


class _Answer(msgspec.Struct):
    text: str = ""
    blocks: list[tuple[BlockKind, int, int, int]] = []
    page_starts: list[int] = []
    title: str | None = None
    error: str | None = None
    limit: str | None = None


class Reader:
    """Reads documents within limits; at most two children at a time, sixteen readings waiting."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._children = asyncio.Semaphore(READERS_MAX)
        self._waiting = 0

    @property
    def limits(self) -> ReadLimits:
        """What may be read."""
        return self._limits

    async def read(self, content: bytes, media_type: MediaType) -> Reading:
        """Return text, blocks and pages of a document.

        Raises DocumentTooLarge for what passes a named limit, UnreadableDocument for bytes that
        are not of this type or take too much time or memory, ReadersBusy when too many wait.
        """
        most = self._limits.bytes_max
        if len(content) > most:
            raise DocumentTooLarge(f"{len(content)} bytes", f"knowledge_file_bytes_max ({most})")
        if media_type in _KINDS:
            return await self._read_apart(content, _KINDS[media_type])
        text = _decoded(content)
        if len(text) > self._limits.chars_max:
            raise DocumentTooLarge(
                f"{len(text)} characters", f"knowledge_chars_max ({self._limits.chars_max})"
            )
        if media_type is MediaType.MARKDOWN:
            return await asyncio.to_thread(read_markdown, text)
        return Reading(text)

    async def _read_apart(self, content: bytes, kind: str) -> Reading:
        if self._waiting >= WAITING_MAX:
            raise ReadersBusy
        self._waiting += 1
        try:
            async with self._children:
                output, code = await self._run(content, kind)
        finally:
            self._waiting -= 1
        if code != 0 or not output:
            raise UnreadableDocument(
                f"reading it took more than {self._limits.seconds:g} s or {MEMORY_BYTES} bytes"
            )
        answer = msgspec.json.decode(output, type=_Answer)
        if answer.error is not None:
            if answer.limit is not None and answer.limit != "memory":
                raise DocumentTooLarge(answer.error, answer.limit)
            raise UnreadableDocument(answer.error)
        blocks = tuple(Block(k, start, end, level) for k, start, end, level in answer.blocks)
        return Reading(answer.text, blocks, tuple(answer.page_starts), answer.title)

    async def _run(self, content: bytes, kind: str) -> tuple[bytes, int]:
        """Return what the child says and its exit code, -1 when it had to be ended."""
        limits = self._limits
        numbers = (limits.pages_max, limits.chars_max, MEMORY_BYTES, math.ceil(limits.seconds))
        with resources.as_file(resources.files("helix.knowledge").joinpath(_CHILD)) as program:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                str(program),
                kind,
                *map(str, numbers),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={},
            )
            try:
                async with asyncio.timeout(limits.seconds):
                    output, _ = await child.communicate(content)
            except TimeoutError:
                return b"", -1
            finally:
                if child.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        child.kill()
                    await child.wait()
        return output, child.returncode or 0


def _decoded(content: bytes) -> str:
    """Return the text of bytes: by their mark, else UTF-8. Raises UnreadableDocument."""
    name = "utf-8-sig"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        name = "utf-16"
    try:
        text = content.decode(name)
    except UnicodeDecodeError as exc:
        raise UnreadableDocument(f"it is not {name} text (byte {exc.start})") from exc
    if "\0" in text:
        raise UnreadableDocument("it holds the character U+0000: is it a binary file?")
    return text


def _lines(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield begin and end of each line, its break included, and the line without it."""
    at = 0
    while at < len(text):
        newline = text.find("\n", at)
        end = len(text) if newline < 0 else newline + 1
        yield at, end, text[at:end].rstrip("\r\n")
        at = end


def read_markdown(text: str) -> Reading:
    """Return Markdown as it is, with its headings, fenced code, tables and front matter marked.

    The title is the first heading of level 1.
    """
    blocks: list[Block] = []
    title: str | None = None
    fence: str | None = None
    code_start = 0
    before: tuple[int, str] | None = None  # the line of text just before, for underlined headings
    for start, end, line in _lines(text):
        if fence is not None:
            if _closes(line, fence):
                blocks.append(Block(BlockKind.CODE, code_start, end))
                fence = None
            continue
        opening = _FENCE.match(line)
        heading = _ATX.match(line)
        under = _SETEXT.match(line)
        if start == 0 and line == "---":
            fence, code_start = "---", start
        elif opening is not None:
            fence, code_start = opening[1], start
        elif heading is not None:
            level = len(heading[1])
            blocks.append(Block(BlockKind.HEADING, start, end, level))
            if title is None and level == 1:
                title = _CLOSING.sub("", line[heading.end() :]).strip()
        elif under is not None and before is not None:
            level = 1 if under[1][0] == "=" else 2
            blocks.append(Block(BlockKind.HEADING, before[0], end, level))
            if title is None and level == 1:
                title = before[1].strip()
        elif line.startswith("|"):
            _add_table_line(blocks, start, end)
        before = None
        if line.strip() and opening is None and heading is None and under is None:
            before = (start, line) if not line.startswith(("|", ">", "    ")) else None
    if fence is not None:
        blocks.append(Block(BlockKind.CODE, code_start, len(text)))
    return Reading(text, tuple(blocks), (), (title or "")[:TITLE_CHARS_MAX] or None)


def _closes(line: str, fence: str) -> bool:
    stripped = line.strip()
    if fence == "---":
        return line.rstrip() in {"---", "..."}
    return len(stripped) >= len(fence) and set(stripped) == {fence[0]}


def _add_table_line(blocks: list[Block], start: int, end: int) -> None:
    """Make a table one block, so that it is kept whole or cut between its rows."""
    if blocks and blocks[-1].kind is BlockKind.CODE and blocks[-1].end == start:
        blocks[-1] = Block(BlockKind.CODE, blocks[-1].start, end)
    else:
        blocks.append(Block(BlockKind.CODE, start, end))
