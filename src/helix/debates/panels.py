"""Panels: what may be stored under a name. Pure."""

import re
from typing import Any

import msgspec

from helix.debates.ensembles import read_ensemble
from helix.debates.errors import BadPanel
from helix.debates.policy import read_spec
from helix.debates.service import Kind

__all__ = ["read_panel"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_TOPIC = "what is asked"


def read_panel(kind: Kind, name: str, raw: bytes) -> dict[str, Any]:
    """Check a panel and return its configuration as it is stored. Raises BadPanel, BadDebate.

    That of a debate is a DebateSpec without a topic: the call brings it.
    """
    if not _NAME.fullmatch(name):
        raise BadPanel("a panel's name is a-z, 0-9, . _ - and at most 100 long", param="name")
    if kind == "ensemble":
        plain: dict[str, Any] = msgspec.to_builtins(read_ensemble(raw))
        return plain
    try:
        told = msgspec.json.decode(raw)
    except msgspec.DecodeError as exc:
        raise BadPanel(f"the panel cannot be read as JSON: {exc}") from exc
    if not isinstance(told, dict):
        raise BadPanel("a panel is a JSON object")
    if "topic" in told or "code" in told:
        raise BadPanel("a panel has no topic and no code; a call brings them", param="topic")
    config: dict[str, Any] = msgspec.to_builtins(read_spec({**told, "topic": _TOPIC}))
    del config["topic"]
    return config
