"""The offline model. These need its weights (`make embedder`)."""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest

from helix.core.config import load_settings
from helix.retrieval import (
    EmbeddingFailed,
    RemoteEmbedder,
    WeightsUnusable,
    choose_embedder,
    local_embedder,
    why_no_embedder,
)
from helix.retrieval.minilm import MiniLM, find_weights

USER = uuid4()


@pytest.fixture(scope="module")
def model() -> MiniLM:
    found = find_weights()
    if found is None:
        pytest.skip("the weights are not installed: make embedder")
    return MiniLM(*found)


def test_word_pieces_are_those_of_bert(model: MiniLM) -> None:
    assert model.tokens("Hello, world!") == [101, 7592, 1010, 2088, 999, 102]
    assert model.tokens("Café") == model.tokens("cafe")
    assert model.tokens("") == [101, 102]
    assert model.tokens("x" * 200) == [101, 100, 102]
    assert len(model.tokens("word " * 1_000)) == 256


def test_vectors_are_unit_length_and_alike_for_what_means_alike(model: MiniLM) -> None:
    cat, kitten, stocks = model.embed(
        ["A cat sleeps on the sofa.", "The kitten naps on a couch.", "Share prices fell sharply."]
    )
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-5)
    assert cat @ kitten > 0.6
    assert cat @ stocks < 0.2


def test_a_vector_does_not_depend_on_what_is_beside_it(model: MiniLM) -> None:
    texts = ["one", "two words", "and three words"]
    together = model.embed(texts)
    alone = np.stack([model.embed([text])[0] for text in texts])
    assert np.abs(together - alone).max() < 1e-5


def test_other_weights_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "model.safetensors"
    other.write_bytes(b"not the weights")
    with pytest.raises(WeightsUnusable, match="SHA-256"):
        MiniLM(other, other)


async def test_the_worker_thread_gives_the_models_vectors(model: MiniLM) -> None:
    embedder = local_embedder()
    assert embedder is not None
    vectors = await embedder.embed(["A cat sleeps."], user_id=USER)
    assert np.abs(vectors - model.embed(["A cat sleeps."])).max() < 1e-6
    assert (await embedder.embed([], user_id=USER)).shape == (0, 384)
    embedder.close()


@pytest.mark.parametrize(
    "answer", [[[1.0, 0.0]], [[1.0, 0.0], [1.0]], [[0.0, 0.0, 0.0]] * 2, [[float("nan")] * 3] * 2]
)
async def test_unusable_answers_of_a_provider_are_refused(answer: list[list[float]]) -> None:
    async def call(_: object, __: object) -> list[list[float]]:
        return answer

    with pytest.raises(EmbeddingFailed):
        await RemoteEmbedder("openai", "small", 3, call).embed(["a", "b"], user_id=USER)


async def test_a_providers_vectors_are_brought_to_unit_length() -> None:
    async def call(_: object, __: object) -> list[list[float]]:
        return [[3.0, 4.0]]

    vectors = await RemoteEmbedder("openai", "small", 2, call).embed(["a"], user_id=USER)
    assert vectors.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


async def test_the_length_of_a_providers_vectors_is_learned_from_the_first() -> None:
    async def call(texts: Sequence[str], user_id: UUID) -> list[list[float]]:
        assert user_id == USER
        return [[1.0, 0.0, 0.0]] * len(texts)

    embedder = RemoteEmbedder("openai", "small", 0, call)
    assert embedder.dimension == 0
    assert (await embedder.embed(["a", "b"], user_id=USER)).shape == (2, 3)
    assert embedder.dimension == 3


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("none", "HELIX_EMBEDDER is none"),
        ("openai/text-embedding-3-small", "only the server asks openai/text-embedding-3-small"),
    ],
)
def test_without_an_embedder_it_is_said_why(setting: str, why: str, tmp_path: Path) -> None:
    settings = load_settings({"HELIX_EMBEDDER": setting}, home=tmp_path)
    assert choose_embedder(settings) is None
    assert why_no_embedder(settings).startswith(why)


def test_a_model_of_a_provider_is_asked_through_the_server(tmp_path: Path) -> None:
    async def call(_: Sequence[str], __: UUID) -> list[list[float]]:
        return []

    settings = load_settings({"HELIX_EMBEDDER": "ollama/nomic-embed-text:v1.5"}, home=tmp_path)
    found = choose_embedder(settings, call=call)
    assert found is not None
    assert (found.provider, found.model, found.dimension) == ("ollama", "nomic-embed-text:v1.5", 0)
