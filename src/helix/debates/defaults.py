"""Who takes part when nobody is named: `debate/default`, `ensemble/default`, `helix debate TOPIC`.

Chosen from the registry: one model of each of up to MEMBERS_DEFAULT providers, the best provider
first. Of providers that are healthy first, then by the quality of their model (the mean of its
benchmarks), by the provider's verification score, by its priority and its name. A provider's model
is the one with the highest quality, else its default model, else the first by name that somebody
described, else the first by name; models that plainly do not chat are passed over. With fewer
providers than members they give further models, and with one model only it speaks in three roles.
The mock provider takes part only where there is no other; its models then read lines.

Pure: the same registry, the same members.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import msgspec

from helix.debates.ensembles import EnsembleSpec, Member, Strategy
from helix.debates.errors import BadDebate
from helix.debates.types import JUDGE, Role
from helix.providers import UNKNOWN_MODEL, Health, Provider, Providers, Wire

__all__ = [
    "DEFAULT",
    "MEMBERS_DEFAULT",
    "Choose",
    "Place",
    "choose",
    "default_ensemble",
    "fill",
    "fill_json",
    "places_of",
]

DEFAULT = "default"
"""The panel there always is, unless one of that name is stored."""
MEMBERS_DEFAULT = 3
_MOCK_MODELS = ("large", "small", "echo")
_NO_CHAT = re.compile(
    r"embed|rerank|moderation|guard|whisper|transcri|tts|speech|audio|realtime|image|dall-?e"
    r"|imagen|veo|sora|video|ocr",
    re.IGNORECASE,
)
_ROLES = (Role.DEBATER, Role.CRITIC, Role.RESEARCHER)
_NAMES = ("Ada", "Bob", "Cyd")

Choose = Callable[[], list[str]]
"""Return the models, as `provider/model`, that take part where nobody is named, the best first."""


@dataclass(frozen=True, slots=True)
class Place:
    """A provider's models in the order in which it gives them, and how good it is."""

    provider: str
    models: tuple[str, ...]
    is_mock: bool
    healthy: bool
    quality: float | None
    score: float | None
    priority: int


def places_of(providers: Providers) -> list[Place]:
    """Return the providers that can be called, in no order."""
    found = []
    for provider in providers.registry.providers.values():
        if provider.problem is not None:
            continue
        models = _models_of(provider)
        if not models:
            continue
        shown = providers.shown(provider)
        found.append(
            Place(
                provider=provider.name,
                models=tuple(models),
                is_mock=provider.wire is Wire.MOCK,
                healthy=shown.health is not Health.UNHEALTHY,
                quality=provider.facts.get(models[0], UNKNOWN_MODEL).quality,
                score=shown.score,
                priority=provider.priority,
            )
        )
    return found


def _models_of(provider: Provider) -> list[str]:
    """Return those of a provider's models that chat, the one it would give first in front."""
    listed = provider.models | ({provider.default_model} if provider.default_model else set())
    if provider.wire is Wire.MOCK:
        return [m for m in _MOCK_MODELS if m in listed] or sorted(listed)

    def rank(model: str) -> tuple[Any, ...]:
        facts = provider.facts.get(model, UNKNOWN_MODEL)
        quality = facts.quality or 0.0
        default = model == provider.default_model
        return facts.quality is None, -quality, not default, not facts.known, model

    return sorted((model for model in listed if not _NO_CHAT.search(model)), key=rank)


def choose(places: Sequence[Place]) -> list[str]:
    """Return up to MEMBERS_DEFAULT models as `provider/model`; none where there is no provider."""
    real = [place for place in places if not place.is_mock]
    ranked = sorted(
        real or places,
        key=lambda p: (
            not p.healthy,
            p.quality is None,
            -(p.quality or 0.0),
            p.score is None,
            -(p.score or 0.0),
            p.priority,
            p.provider,
        ),
    )
    rounds = zip_longest(*([f"{p.provider}/{m}" for m in p.models] for p in ranked))
    return [model for model in chain.from_iterable(rounds) if model is not None][:MEMBERS_DEFAULT]


def default_ensemble(choose_models: Choose) -> EnsembleSpec | None:
    """Return `ensemble/default`: the best of the answers as the best model judges; None if nobody.

    A single model has nobody to be judged with, and mock models cannot judge: there the majority
    is the answer.
    """
    models = choose_models()
    if not models:
        return None
    members = tuple(Member(model) for model in models)
    if len(models) == 1 or _is_mock(models):
        return EnsembleSpec(members, Strategy.MAJORITY)
    return EnsembleSpec(members, Strategy.BEST_OF, judge=models[0])


def fill(told: Mapping[str, Any], choose_models: Choose) -> dict[str, Any]:
    """Return what is asked for with participants, when it names none.

    Raises BadDebate when nobody can be had.
    """
    if told.get("participants"):
        return dict(told)
    models = choose_models()
    if not models:
        raise BadDebate(
            "who debates? nobody is named and no provider can be called: name participants, or "
            "add a provider (`helix providers add`, or its key in the environment)",
            param="participants",
        )
    return {**told, "participants": _participants(models, told)}


def fill_json(raw: bytes, choose_models: Choose) -> bytes:
    """Do what `fill` does to JSON; what is no JSON object is returned as it is."""
    try:
        told = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return raw
    if not isinstance(told, dict) or told.get("participants"):
        return raw
    return msgspec.json.encode(fill(told, choose_models))


def _is_mock(models: Sequence[str]) -> bool:
    return all(model.startswith("mock/") for model in models)


def _participants(models: Sequence[str], told: Mapping[str, Any]) -> list[dict[str, Any]]:
    if _is_mock(models):
        return _rehearsing(models, told)
    spoken = list(models)
    while len(spoken) < MEMBERS_DEFAULT:
        spoken.append(models[len(spoken) % len(models)])
    members = []
    for number, model in enumerate(spoken):
        name = model.partition("/")[2][:90]
        alone = spoken.count(model) == 1
        members.append(
            {
                "name": name if alone else f"{name} {number + 1}",
                "model": model,
                **({} if alone else {"role": _ROLES[number].value}),
            }
        )
    names = [member["name"] for member in members]
    plain = {name for name in names if names.count(name) == 1} - {JUDGE}
    return [{**m, "name": m["name"] if m["name"] in plain else m["model"][:100]} for m in members]


# ---- a rehearsal of mock models ------------------------------------------------------------------


def _rehearsing(models: Sequence[str], told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return mock participants who read lines: each begins with a view of its own, then two agree.

    What is wrong with `told` is not found here but by whoever reads the whole.
    """
    spoken = [models[n % len(models)] for n in range(MEMBERS_DEFAULT)]
    positions = told.get("positions")
    held = [p for p in positions if isinstance(p, str)] if isinstance(positions, list) else []
    candidates = held or list(_NAMES)
    rounds = told.get("rounds")
    count = rounds if isinstance(rounds, int) and 1 <= rounds <= 20 else 3
    return [
        {"name": name, "model": model, "lines": _lines(number, name, candidates, bool(held), count)}
        for number, (name, model) in enumerate(zip(_NAMES, spoken, strict=True))
    ]


def _lines(
    number: int, name: str, candidates: Sequence[str], has_positions: bool, rounds: int
) -> dict[str, str]:
    last = len(_NAMES) - 1
    told = {}
    for at in range(rounds + 1):
        mine = candidates[number % len(candidates) if at < 2 or number == last else 0]
        answer = mine if has_positions else f"the answer of {mine}"
        words = (
            f"I am a mock model and read my line of round {at}: {name} stands for {mine!r}. "
            "Name real models to hear reasons."
        )
        turn = json.dumps({"answer": answer, "argument": words, "confidence": 0.5})
        told["baseline" if at == 0 else f"argue/{at}"] = turn
        order = [mine, *(c for c in candidates if c != mine)]
        told[f"vote/{at}"] = json.dumps({"ranking": order, "confidence": 0.5, "reason": "My line."})
    del told["vote/0"]
    told["conclude"] = json.dumps(
        {
            "conclusion": "A rehearsal: mock models read lines, and no question was thought about. "
            "With a real provider, the same command has its models debate.",
            "minority_opinion": None,
        }
    )
    return told
