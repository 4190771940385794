"""Ensembles: several models are asked at once, and one answer is made of theirs."""

from helix.debates.ensembles.spec import EnsembleSpec, Member, Strategy, read_ensemble
from helix.debates.ensembles.virtual import Ensembles, WeightsOf

__all__ = ["EnsembleSpec", "Ensembles", "Member", "Strategy", "WeightsOf", "read_ensemble"]
