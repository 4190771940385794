"""Reading the JSON object in a model's answer, with the repairs that change no meaning. Pure."""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

__all__ = ["NotStructured", "fraction_of", "read_object"]

_OBJECTS_TRIED_MAX = 20
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")
_PLACES = Decimal("0.0001")


class NotStructured(Exception):
    """There is no JSON object in the answer, or more than one."""


def read_object(text: str) -> dict[str, Any]:
    """Return the one JSON object that an answer holds.

    Words around it and a code fence are passed over; a comma before a closing bracket is dropped
    when the object cannot be read otherwise. Numbers with a point come as Decimal. Raises
    NotStructured for none, and for several that differ: which was meant would be a guess.
    """
    found: list[dict[str, Any]] = []
    at = tried = 0
    while (start := text.find("{", at)) >= 0 and tried < _OBJECTS_TRIED_MAX:
        tried += 1
        end = _end_of_object(text, start)
        if end is None:
            at = start + 1
            continue
        value = _decoded(text[start:end])
        if value is None:
            at = start + 1
            continue
        if value not in found:
            found.append(value)
        at = end
    if not found:
        raise NotStructured("the answer holds no JSON object that can be read")
    if len(found) > 1:
        raise NotStructured("the answer holds several JSON objects that differ")
    return found[0]


def _end_of_object(text: str, start: int) -> int | None:
    """Return where the object that begins at `start` ends, going by brackets and strings."""
    depth, in_string, at = 0, False, start
    while at < len(text):
        char = text[at]
        if in_string:
            if char == "\\":
                at += 1
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return None


_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


def _decoded(text: str) -> dict[str, Any] | None:
    for attempt in (text, _TRAILING_COMMA.sub(r"\1", text)):
        try:
            return _DECODER.decode(attempt)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            continue
    return None


def fraction_of(told: object) -> Decimal | None:
    """Return a confidence that a model stated, 0 to 1 with four decimals, or None.

    Numbers from 0 to 1 are taken as they are; a text such as `"85%"` as hundredths. What lies
    outside, and a bare 85, says nothing certain and is None.
    """
    if isinstance(told, bool) or not isinstance(told, int | Decimal | str):
        return None
    try:
        if isinstance(told, str):
            text = told.strip()
            number = Decimal(text.removesuffix("%").strip())
            number = number / 100 if text.endswith("%") else number
        else:
            number = Decimal(told)
    except InvalidOperation:
        return None
    if not number.is_finite() or not 0 <= number <= 1:
        return None
    return number.quantize(_PLACES)
