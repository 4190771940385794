"""Names and places in the write-ahead log: positions, segments, timelines and their histories."""

import re
from dataclasses import dataclass

from helix.core.errors import Misuse

__all__ = [
    "SEGMENT_BYTES",
    "Segment",
    "Switch",
    "is_wal_name",
    "lsn_text",
    "number_of",
    "parse_history",
    "parse_lsn",
    "segment_at",
    "segment_of",
]

SEGMENT_BYTES = 16 << 20
"""Length of every segment of the embedded PostgreSQL, which Helix makes itself."""

_SEGMENTS_A_LOG = (1 << 32) // SEGMENT_BYTES
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_ARCHIVED = re.compile(r"[0-9A-F]{24}(?:\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")
_SWITCH = re.compile(r"\s*(\d+)\s+([0-9A-F]+/[0-9A-F]+)")


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of 16 MiB of the log: its timeline and its number on it."""

    timeline: int
    number: int

    @property
    def name(self) -> str:
        """Its file name, such as 000000010000000000000003."""
        log, part = divmod(self.number, _SEGMENTS_A_LOG)
        return f"{self.timeline:08X}{log:08X}{part:08X}"

    @property
    def end(self) -> int:
        """The position just after it."""
        return (self.number + 1) * SEGMENT_BYTES


@dataclass(frozen=True, slots=True)
class Switch:
    """Where a timeline was left for the next one."""

    timeline: int
    lsn: int


def is_wal_name(name: str) -> bool:
    """Whether PostgreSQL gives files of this name to be archived."""
    return _ARCHIVED.fullmatch(name) is not None


def segment_of(name: str) -> Segment | None:
    """Return the segment that a file of this name holds whole; None for any other file."""
    if not _SEGMENT.fullmatch(name):
        return None
    return Segment(int(name[:8], 16), number_of(name))


def number_of(name: str) -> int:
    """Return the number of the segment that a file of the log, other than a history, is about."""
    return int(name[8:16], 16) * _SEGMENTS_A_LOG + int(name[16:24], 16)


def segment_at(timeline: int, lsn: int) -> Segment:
    """Return the segment in which position `lsn` lies."""
    return Segment(timeline, lsn // SEGMENT_BYTES)


def parse_lsn(text: str) -> int:
    """Return a position such as 0/3000060 as a number; raises Misuse."""
    match = _LSN.fullmatch(text.strip())
    if match is None:
        raise Misuse(f"{text[:40]!r} is not a position in the log: those look like 0/3000060")
    return (int(match.group(1), 16) << 32) + int(match.group(2), 16)


def lsn_text(lsn: int) -> str:
    """Return a position as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_history(text: str) -> tuple[Switch, ...]:
    """Return from where to where a timeline goes back, oldest first, of the text of its file."""
    found = (_SWITCH.match(line) for line in text.splitlines() if not line.startswith("#"))
    return tuple(Switch(int(m.group(1)), parse_lsn(m.group(2))) for m in found if m)
