"""Lists of models, as OpenAI and as Anthropic tell them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from helix.gateway.errors import WrongField

__all__ = [
    "ModelEntry",
    "Page",
    "anthropic_model",
    "anthropic_models",
    "openai_model",
    "openai_models",
]

PAGE_MAX = 1_000


class ModelEntry(NamedTuple):
    """A model as it may be called. `created` is in seconds since 1970, 0 where it is not known."""

    id: str
    owned_by: str
    created: int = 0
    display_name: str | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None


class Page(NamedTuple):
    """Which part of a list is asked for, as Anthropic's API asks."""

    limit: int | None = None
    after_id: str | None = None
    before_id: str | None = None

    @classmethod
    def of(cls, query: dict[str, str]) -> "Page":
        """Return what a query asks for; raises WrongField."""
        limit = query.get("limit")
        if limit is not None and not (limit.isdecimal() and 1 <= int(limit[:6]) <= PAGE_MAX):
            raise WrongField("limit", f"it must be a whole number from 1 to {PAGE_MAX}")
        after, before = query.get("after_id"), query.get("before_id")
        if after is not None and before is not None:
            raise WrongField("before_id", "give after_id or before_id, not both")
        return cls(None if limit is None else int(limit), after, before)


def openai_model(entry: ModelEntry) -> bytes:
    """Return one model as OpenAI tells it."""
    return msgspec.json.encode(_openai(entry))


def openai_models(entries: Sequence[ModelEntry]) -> bytes:
    """Return all models as OpenAI tells them, in one page."""
    return msgspec.json.encode({"object": "list", "data": [_openai(one) for one in entries]})


def anthropic_model(entry: ModelEntry) -> bytes:
    """Return one model as Anthropic tells it."""
    return msgspec.json.encode(_anthropic(entry))


def anthropic_models(entries: Sequence[ModelEntry], page: Page = Page()) -> bytes:  # noqa: B008 - a tuple
    """Return a page of models as Anthropic tells them; all of them when no limit is given.

    Raises WrongField for an after_id or before_id that is no model.
    """
    ids = [one.id for one in entries]
    begin, end = 0, len(ids)
    if page.after_id is not None:
        begin = _place(ids, page.after_id, "after_id") + 1
    if page.before_id is not None:
        end = _place(ids, page.before_id, "before_id")
    more = False
    if page.limit is not None and end - begin > page.limit:
        more = True
        if page.before_id is not None:
            begin = end - page.limit
        else:
            end = begin + page.limit
    shown = entries[begin:end]
    return msgspec.json.encode(
        {
            "data": [_anthropic(one) for one in shown],
            "has_more": more,
            "first_id": shown[0].id if shown else None,
            "last_id": shown[-1].id if shown else None,
        }
    )


def _place(ids: list[str], wanted: str, param: str) -> int:
    try:
        return ids.index(wanted)
    except ValueError as exc:
        raise WrongField(param, "there is no such model in the list") from exc


def _openai(entry: ModelEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created,
        "owned_by": entry.owned_by,
    }


def _anthropic(entry: ModelEntry) -> dict[str, Any]:
    return {
        "type": "model",
        "id": entry.id,
        "display_name": entry.display_name or entry.id,
        "created_at": datetime.fromtimestamp(entry.created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": entry.context_window,
        "max_tokens": entry.max_output_tokens,
    }
