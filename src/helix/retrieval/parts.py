"""Cutting a long text into parts, each short enough for a vector of its own.

The vector of a long text is an average of all it speaks of, and a model reads only its beginning
(256 word pieces, the offline one). A fact that is told in passing is found by the vector of the
part it stands in; for the text, its nearest part speaks.
"""

import re

__all__ = ["PARTS_MAX", "PART_CHARS", "parts_of"]

PART_CHARS = 1_000
"""About what the offline model reads: 256 word pieces."""
PARTS_MAX = 32
"""Of one text; what follows is found by its words."""
_WHOLE_UP_TO = 1_200  # a text a little longer is not worth a second vector
_BREAK = re.compile(r"\n+|(?<=[.!?…])\s+")


def parts_of(text: str) -> list[str]:
    """Return the text as parts of about 1,000 characters, at ends of lines and sentences.

    At least one, at most 32; a sentence longer than a part is cut where the part is full.
    """
    if len(text) <= _WHOLE_UP_TO:
        return [text]
    parts: list[str] = []
    begin = at = 0
    for found in _BREAK.finditer(text):
        if found.end() - begin > PART_CHARS and at > begin:
            parts.append(text[begin:at].strip())
            begin = at
        at = found.end()
        while at - begin > PART_CHARS:
            parts.append(text[begin : begin + PART_CHARS].strip())
            begin += PART_CHARS
        if len(parts) >= PARTS_MAX:
            break
    while begin < len(text) and len(parts) < PARTS_MAX:
        parts.append(text[begin : begin + PART_CHARS].strip())
        begin += PART_CHARS
    return [part for part in parts[:PARTS_MAX] if part] or [text[:PART_CHARS]]
