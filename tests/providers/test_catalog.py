"""The catalogue of models, offline; benchmarks; prices that people set stand."""

from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import msgspec
import pytest

from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.ledger import Proposals
from helix.providers.benchmarks import read_benchmarks
from helix.providers.errors import CatalogUnreadable
from helix.providers.models_store import ModelStore
from helix.providers.modelsdev import bundled, read_catalog, sync
from helix.providers.store import Store
from helix.providers.types import Wire

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
async def store(owner: Connection) -> Store:
    store = Store(Keyring([new_key()]))
    await store.insert(
        owner,
        provider_id=uuid4(),
        name="openai",
        wire=Wire.OPENAI,
        base_url="https://api.openai.com/v1",
        api_key=None,
        models=["gpt-4o", "not-in-the-catalogue"],
    )
    return store


def test_snapshot_knows_the_models_of_the_well_known_providers() -> None:
    catalog = bundled()
    assert catalog.dated == "2026-11-22"
    assert catalog.count() > 1_000
    assert catalog.failed == 0
    assert {"openai", "anthropic", "google", "mistral", "groq", "xai"} <= catalog.providers.keys()
    facts = catalog.providers["openai"]["gpt-4o"].facts
    assert (facts["context_window"], facts["vision"], facts["tools"]) == (128_000, True, True)


async def test_sync_without_a_network_fills_facts_counts_and_history(
    owner: Connection, store: Store
) -> None:
    done = await sync(owner, ModelStore(), bundled(), now=NOW, kind="snapshot")
    assert [(d.provider, d.models, d.unknown) for d in done] == [("openai", 1, 1)]
    shown = await store.show(owner, name="openai")
    assert (shown["total_models"], shown["enabled_models"]) == (2, 2)
    assert shown["last_models_sync"] is not None
    facts = (await store.load(owner)).providers["openai"].facts
    assert facts["gpt-4o"].known
    assert {"vision", "tools", "json_schema"} <= facts["gpt-4o"].capabilities
    assert facts["gpt-4o"].context_window == 128_000
    assert not facts["not-in-the-catalogue"].known
    run = await owner.fetchrow("SELECT * FROM models_refresh_history")
    assert (run["refresh_type"], run["status"], run["models_refreshed"]) == (
        "snapshot",
        "success",
        1,
    )


async def test_models_beyond_the_list_are_added_only_when_asked(
    owner: Connection, store: Store
) -> None:
    await sync(owner, ModelStore(), bundled(), now=NOW, kind="snapshot", add=True)
    assert (await store.show(owner, name="openai"))["total_models"] > 50


async def test_prices_are_proposed_once_and_never_over_a_price_that_somebody_set(
    owner: Connection, store: Store
) -> None:
    async def proposed() -> int:
        done = await sync(
            owner, ModelStore(), bundled(), now=NOW, kind="snapshot", propose_price=Proposals()
        )
        return done[0].prices

    assert (await proposed(), await proposed()) == (1, 0)
    row = await owner.fetchrow("SELECT * FROM llm_pricing WHERE model = 'openai/gpt-4o'")
    assert (row["input_cost_per_million"], row["output_cost_per_million"]) == (
        Decimal("2.5"),
        Decimal(10),
    )
    assert (row["source"], row["notes"]) == ("litellm 1.109.1", "as of 2026-11-22")


async def test_price_that_somebody_set_for_the_bare_name_stands(
    owner: Connection, store: Store
) -> None:
    await owner.execute(
        "INSERT INTO llm_pricing"
        " (model, input_cost_per_million, output_cost_per_million, updated_by)"
        " VALUES ('gpt-4o', 1, 1, 'me')"
    )
    done = await sync(
        owner, ModelStore(), bundled(), now=NOW, kind="snapshot", propose_price=Proposals()
    )
    assert done[0].prices == 0


async def test_what_an_operator_said_of_a_model_stays(owner: Connection, store: Store) -> None:
    await owner.execute(
        'UPDATE llm_models SET context_window = 5, capabilities = \'{"known_from": "operator"}\''
        " WHERE model_name = 'gpt-4o'"
    )
    await sync(owner, ModelStore(), bundled(), now=NOW, kind="snapshot")
    assert (await store.load(owner)).providers["openai"].facts["gpt-4o"].context_window == 5


def test_api_json_of_models_dev_is_read_and_nonsense_in_it_passed_over() -> None:
    document = {
        "some": {
            "models": {
                "a": {"limit": {"context": 10}, "cost": {"input": 0.1, "output": 1}},
                "b": {"limit": "?", "cost": {"input": "x"}, "modalities": 3},
                "c\n": {},
                "d": 7,
            }
        },
        "broken": [],
    }
    catalog = read_catalog(msgspec.json.encode(document), source="models.dev", dated="2026-01-01")
    assert sorted(catalog.providers["some"]) == ["a", "b"]
    assert catalog.failed == 3
    price = catalog.providers["some"]["a"].price
    assert price is not None
    assert price.input_usd == Decimal("0.1")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\x1f\x8bxx", b'{"a": 1}'])
def test_catalogue_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(CatalogUnreadable):
        read_catalog(data, source="x", dated="")


async def test_benchmarks_are_kept_and_make_the_quality(owner: Connection, store: Store) -> None:
    csv = (
        b"model,benchmark,score,normalized\nopenai/gpt-4o,MMLU,88.7,\nopenai/gpt-4o,Elo,1285,70.3\n"
    )
    models = ModelStore()
    assert await models.put_benchmarks(owner, read_benchmarks(csv, source="test")) == []
    assert (await store.load(owner)).providers["openai"].facts["gpt-4o"].quality == 79.5
    again = b'[{"model": "openai/gpt-4o", "benchmark": "MMLU", "score": 90.7}, '
    again += b'{"model": "openai/none", "benchmark": "MMLU", "score": 1}]'
    unknown = await models.put_benchmarks(owner, read_benchmarks(again, source="test"))
    assert [one.model for one in unknown] == ["none"]
    listed = await models.list_benchmarks(owner, benchmark="MMLU")
    assert [(one["model"], one["score"]) for one in listed] == [("gpt-4o", Decimal("90.7"))]
    assert (await store.load(owner)).providers["openai"].facts["gpt-4o"].quality == 80.5


@pytest.mark.parametrize(
    "data",
    [
        b"model,benchmark\na/b,c\n",
        b"model,benchmark,score\nnoslash,x,1\n",
        b"model,benchmark,score\na/b,x,nan\n",
        b"model,benchmark,score\na/b,x,1285\n",
        b'[{"model": "a/b", "benchmark": "x", "score": 1, "rank": 0}]',
        b"\xff\xfe",
    ],
)
def test_benchmarks_that_make_no_sense_are_refused(data: bytes) -> None:
    with pytest.raises(Misuse):
        read_benchmarks(data, source="test")
