"""Retrieval: finding the right text for a question, with reasons.

Texts are analysed when written (`analyse`), a question is read (`ask`), signals are measured over
the texts of a scope and added up with learned weights (`rank`): all pure. Which texts, and where
they are stored, is the business of the domains above (memory, knowledge); of the database only the
catalogue of embedding models is known here.
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
from helix.retrieval.asking import (
    embed_question,
    missing_vectors,
    rank_aside,
)
from helix.retrieval.embedder import (
    EmbedCall,
    Embedder,
    LocalEmbedder,
    RemoteEmbedder,
    choose_embedder,
    local_embedder,
    why_no_embedder,
)
from helix.retrieval.errors import EmbeddingFailed, QueryEmpty, WeightsUnusable
from helix.retrieval.models import Vectors, find_model, make_model
from helix.retrieval.packed import Packed, Scope, dense_of, scope_of
from helix.retrieval.parts import PARTS_MAX, parts_of
from helix.retrieval.ranker import Kind, Ranked, kind_of, load_weights, rank
from helix.retrieval.signals import DENSE_SIGNALS, SIGNALS, Corpus, measure
from helix.retrieval.stemming import stem

__all__ = [
    "ANALYSIS_VERSION",
    "DENSE_SIGNALS",
    "PARTS_MAX",
    "SIGNALS",
    "Analysis",
    "Corpus",
    "EmbedCall",
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
    "Vectors",
    "WeightsUnusable",
    "analyse",
    "ask",
    "choose_embedder",
    "dense_of",
    "embed_question",
    "find_model",
    "kind_of",
    "load_weights",
    "local_embedder",
    "make_model",
    "measure",
    "missing_vectors",
    "parts_of",
    "rank",
    "rank_aside",
    "scope_of",
    "speaker_number",
    "stem",
    "term_number",
    "to_embed",
    "why_no_embedder",
]
