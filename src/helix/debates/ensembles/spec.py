"""How an ensemble is made up, and what may be asked for. Pure."""

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from helix.debates.errors import BadPanel
from helix.debates.policy import holds_nul

__all__ = ["EnsembleSpec", "Member", "Strategy", "read_ensemble"]

_WEIGHT_MAX = Decimal(1_000)
_FIELDS_OURS = frozenset({"helix", "messages", "model", "n", "stream"})
_VIRTUAL = ("debate/", "ensemble/")
_Model = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Strategy(StrEnum):
    """How one answer is made of several.

    first_good: the first that is one at all. majority: the answer most members gave. weighted: the
    answer with most weight behind it. best_of: the one a judge puts first. fusion: a new one that a
    synthesizer writes from all. confidence: the one whose member is surest of it.
    """

    FIRST_GOOD = "first_good"
    MAJORITY = "majority"
    WEIGHTED = "weighted"
    BEST_OF = "best_of"
    FUSION = "fusion"
    CONFIDENCE = "confidence"


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A model that is asked. Without a weight, that of its provider in the registry counts.

    With `weight_learned` it is multiplied by the model's success in debates, where enough is known.
    `fields` go into its call and stand before the caller's.
    """

    model: _Model
    weight: Decimal | None = None
    weight_learned: bool = False
    fields: dict[str, Any] = {}


class EnsembleSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an ensemble answers. The same object in a panel and in `extra_body.helix.ensemble`.

    `quorum`: so many are enough, and the rest are cancelled. Under majority and weighted that many
    members that agree (by default as soon as the others cannot outweigh them any more); under
    best_of, fusion and confidence that many answers (by default all). `hedge_ms`: under first_good
    the next member is asked only when so long nobody has answered, or at once when one has failed;
    None asks all together. `timeout_s`: what is there by then counts.
    """

    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1, max_length=20)]
    strategy: Strategy = Strategy.MAJORITY
    quorum: Annotated[int, msgspec.Meta(ge=1, le=20)] | None = None
    hedge_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 120.0
    judge: _Model | None = None
    synthesizer: _Model | None = None

    @property
    def asked_after(self) -> str | None:
        """The model that is asked once the members have answered, if the strategy has one."""
        if self.strategy is Strategy.BEST_OF:
            return self.judge
        return self.synthesizer if self.strategy is Strategy.FUSION else None


def read_ensemble(raw: bytes | Mapping[str, Any]) -> EnsembleSpec:
    """Read and check how an ensemble answers, from JSON or decoded. Raises BadPanel."""
    try:
        if isinstance(raw, bytes):
            spec = msgspec.json.decode(raw, type=EnsembleSpec)
        else:
            spec = msgspec.convert(raw, EnsembleSpec, strict=False)
    except (msgspec.ValidationError, msgspec.DecodeError) as exc:
        raise BadPanel(f"this is no ensemble: {exc}", param="ensemble") from exc
    for member in spec.members:
        weight = member.weight
        if weight is not None and not (weight.is_finite() and 0 <= weight <= _WEIGHT_MAX):
            raise BadPanel(f"{member.model}: the weight is 0 to {_WEIGHT_MAX}", param="members")
        if ours := sorted(_FIELDS_OURS & member.fields.keys()):
            raise BadPanel(f"{member.model}: fields may not hold {', '.join(ours)}")
    for model in (*(member.model for member in spec.members), spec.judge, spec.synthesizer):
        if model is not None and model.startswith(_VIRTUAL):
            raise BadPanel(f"{model!r}: only real models can be members", param="members")
    if spec.strategy is Strategy.BEST_OF and spec.judge is None:
        raise BadPanel("the strategy best_of needs the model of the judge", param="judge")
    if spec.strategy is Strategy.FUSION and spec.synthesizer is None:
        raise BadPanel("the strategy fusion needs a synthesizer", param="synthesizer")
    if holds_nul(msgspec.to_builtins(spec)):
        raise BadPanel("a text holds U+0000, which PostgreSQL cannot keep")
    if spec.quorum is not None and spec.quorum > len(spec.members):
        raise BadPanel("the quorum is larger than the ensemble", param="quorum")
    if spec.hedge_ms is not None and spec.strategy is not Strategy.FIRST_GOOD:
        raise BadPanel("hedge_ms goes with the strategy first_good", param="hedge_ms")
    return spec
