"""Retrieval: finding the right text for a question, with reasons.

Pure: texts are analysed when written (`analyse`), a question is read (`ask`), signals are measured
over the texts of a scope and added up with learned weights (`rank`). Which texts, and where they
are stored, is the business of the domains above (memory, knowledge).
"""

from helix.retrieval.analysis import (
    ANALYSIS_VERSION,
    Analysis,
    Fact,
    Question,
    analyse,
    ask,
    speaker_number,
    term_number,
    to_embed,
)
from helix.retrieval.embedder import Embedder, LocalEmbedder, RemoteEmbedder, local_embedder
from helix.retrieval.errors import EmbeddingFailed, QueryEmpty, WeightsUnusable
from helix.retrieval.packed import Packed, Scope, dense_of, scope_of
from helix.retrieval.ranker import Kind, Ranked, kind_of, load_weights, rank
from helix.retrieval.signals import DENSE_SIGNALS, SIGNALS, Corpus, measure
from helix.retrieval.stemming import stem

__all__ = [
    "ANALYSIS_VERSION",
    "DENSE_SIGNALS",
    "SIGNALS",
    "Analysis",
    "Corpus",
    "Embedder",
    "EmbeddingFailed",
    "Fact",
    "Kind",
    "LocalEmbedder",
    "Packed",
    "QueryEmpty",
    "Question",
    "Ranked",
    "RemoteEmbedder",
    "Scope",
    "WeightsUnusable",
    "analyse",
    "ask",
    "dense_of",
    "kind_of",
    "load_weights",
    "local_embedder",
    "measure",
    "rank",
    "scope_of",
    "speaker_number",
    "stem",
    "term_number",
    "to_embed",
]
