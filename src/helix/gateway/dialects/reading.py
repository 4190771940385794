"""What dialects read requests with: values taken out of JSON, each refused by its whole path."""

from collections.abc import Iterator
from typing import Any

import msgspec

from helix.gateway.errors import WrongField
from helix.gateway.intake import Fields, wrong_field
from helix.gateway.types import Untranslatable

__all__ = [
    "Untold",
    "decoded",
    "flag_of",
    "items_of",
    "object_of",
    "objects_of",
    "one_of",
    "optional_text",
    "packed",
    "text_in",
    "text_of",
    "within",
]

_OTHER_FORMAT = "only a provider that speaks this API itself can do it: choose a model of one"

_Any = msgspec.json.Decoder(Any)


class Untold:
    """Notes the first thing of a request that chat completions cannot tell."""

    def __init__(self) -> None:
        self.first: Untranslatable | None = None

    def note(self, param: str, what: str) -> None:
        """Note that `param` holds `what`, which has no place in chat completions."""
        if self.first is None:
            self.first = Untranslatable(param, f"{what}: {_OTHER_FORMAT}")


def decoded(fields: Fields, name: str) -> Any:
    """Return the value of a top-level field; None when it is missing."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _Any.decode(raw)
    except msgspec.DecodeError as exc:
        raise wrong_field(name, exc) from exc


def packed(value: Any) -> msgspec.Raw:
    """Return a value as the raw JSON that a request's fields are kept in."""
    return msgspec.Raw(msgspec.json.encode(value))


def text_of(value: Any, path: str) -> str:
    """Return a text; raises WrongField for anything else."""
    if type(value) is not str:
        raise WrongField(path, "it must be a string" if value is not None else "it is missing")
    return value


def text_in(holder: dict[str, Any], name: str, path: str) -> str:
    """Return the text under `name`; raises WrongField."""
    return text_of(holder.get(name), f"{path}.{name}")


def object_of(value: Any, path: str) -> dict[str, Any]:
    """Return an object; raises WrongField for anything else."""
    if type(value) is not dict:
        raise WrongField(path, "it must be an object" if value is not None else "it is missing")
    return value


def items_of(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and value of each item of a list; raises WrongField for anything else."""
    if type(value) is not list:
        raise WrongField(path, "it must be an array" if value is not None else "it is missing")
    for number, item in enumerate(value):
        yield f"{path}[{number}]", item


def objects_of(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and value of each object in a list; raises WrongField for anything else."""
    for at, item in items_of(value, path):
        yield at, object_of(item, at)


def within(value: Any, path: str, least: int, most: int) -> int:
    """Return a whole number within bounds; raises WrongField for anything else."""
    if type(value) is not int or not least <= value <= most:
        raise WrongField(path, f"it must be a whole number from {least} to {most}")
    return value


def flag_of(value: Any, path: str) -> bool:
    """Return true or false, false for what is missing; raises WrongField for anything else."""
    if value is not None and type(value) is not bool:
        raise WrongField(path, "it must be true or false")
    return bool(value)


def one_of(value: Any, path: str, *allowed: str) -> str | None:
    """Return one of the words allowed, or None for what is missing; raises WrongField."""
    if value is not None and (type(value) is not str or value not in allowed):
        raise WrongField(path, f"it must be one of {', '.join(allowed)}")
    return value


def optional_text(holder: dict[str, Any], name: str, path: str) -> str | None:
    """Return the text under `name`, None when it is missing or empty; raises WrongField."""
    value = holder.get(name)
    return (text_of(value, f"{path}.{name}") or None) if value is not None else None
