"""The catalogue of models: the bundled snapshot, or api.json of models.dev from a file or address.

What it says of models that a provider lists fills their rows; models that it lists for a provider
that tells none itself are added. What an operator said of a model is left alone.
"""

import gzip
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from importlib import resources
from typing import Any

import msgspec

from helix.core.db import Connection
from helix.providers.errors import CatalogUnreadable
from helix.providers.models_store import ModelStore, Synced

__all__ = ["Catalog", "CatalogModel", "Price", "ProposePrice", "bundled", "read_catalog", "sync"]

CATALOG_BYTES_MAX = 50_000_000
CATALOG_URL = "https://models.dev/api.json"
_PRICE_MAX = Decimal(1_000_000)
_INT_MAX = 2**31 - 1
_BY_PROTOCOL = {"anthropic": "anthropic", "gemini": "google"}


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens, six decimals at most; None: as the main price."""

    input_usd: Decimal
    output_usd: Decimal
    cached_input_usd: Decimal | None = None
    reasoning_usd: Decimal | None = None


ProposePrice = Callable[..., Awaitable[bool]]
"""`(conn, *, provider, model, price, source, dated)`: whether the ledger took the price."""


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model as the catalogue describes it."""

    name: str
    facts: dict[str, Any]
    price: Price | None


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models by the catalogue's id of their provider; `source` and `dated` say where from."""

    source: str
    dated: str
    providers: Mapping[str, Mapping[str, CatalogModel]]
    failed: int = 0

    def count(self) -> int:
        """Return how many models it describes."""
        return sum(len(models) for models in self.providers.values())


def bundled() -> Catalog:
    """Return the snapshot that Helix carries."""
    packed = resources.files("helix.providers").joinpath("snapshot/models.json.gz").read_bytes()
    return read_catalog(gzip.decompress(packed), source="snapshot", dated="")


def read_catalog(data: bytes, *, source: str, dated: str) -> Catalog:
    """Read a catalogue, plain or gzip: the snapshot's form, or that of models.dev/api.json.

    An entry that makes no sense is passed over and counted. Raises CatalogUnreadable.
    """
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data)
    try:
        document = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise CatalogUnreadable(f"it is not JSON of that form: {exc}") from exc
    told = document
    if isinstance(document.get("providers"), dict):
        told = document["providers"]
        source, dated = str(document.get("source", source)), str(document.get("dated", dated))
    providers: dict[str, dict[str, CatalogModel]] = {}
    failed = 0
    for provider_id, provider in told.items():
        if not isinstance(provider, dict) or not isinstance(provider.get("models"), dict):
            failed += 1
            continue
        models: dict[str, CatalogModel] = {}
        for name, entry in provider["models"].items():
            model = _model(provider_id, name, entry)
            if model is None:
                failed += 1
            else:
                models[name] = model
        providers[provider_id] = models
    catalog = Catalog(source[:100], dated[:50], providers, failed)
    if not catalog.count():
        raise CatalogUnreadable("it describes no models; expected the form of models.dev/api.json")
    return catalog


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, CATALOG_BYTES_MAX)
    except zlib.error as exc:
        raise CatalogUnreadable("it cannot be unpacked") from exc
    if unpacker.unconsumed_tail:
        raise CatalogUnreadable(f"unpacked it is larger than {CATALOG_BYTES_MAX} bytes")
    return text


def _model(provider_id: str, name: str, entry: Any) -> CatalogModel | None:
    if not isinstance(entry, dict) or not name.isprintable() or not 0 < len(name) <= 255:
        return None
    modalities = entry.get("modalities")
    limit, cost = entry.get("limit"), entry.get("cost")
    inputs = _texts(modalities, "input")
    outputs = _texts(modalities, "output")
    price = _price(cost if isinstance(cost, dict) else {})
    limit = limit if isinstance(limit, dict) else {}
    facts = {
        "model_name": name,
        "display_name": _text(entry.get("name"), 255),
        "context_window": _count(limit.get("context")),
        "max_tokens": _count(limit.get("output")),
        "pricing_input": None if price is None else str(price.input_usd),
        "pricing_output": None if price is None else str(price.output_usd),
        "vision": "image" in inputs,
        "audio": "audio" in inputs,
        "image_generation": "image" in outputs,
        "tools": entry.get("tool_call") is True,
        "json_schema": entry.get("structured_output") is True,
        "reasoning": entry.get("reasoning") is True,
        "model_type": _text(entry.get("type"), 100) or "text",
        "family": _text(entry.get("family"), 100),
        "released": _text(entry.get("release_date"), 50),
        "modelsdev_id": f"{provider_id}/{name}"[:255],
        "raw": entry,
    }
    return CatalogModel(name, facts, price)


def _texts(value: Any, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _text(value: Any, most: int) -> str | None:
    return value[:most] if isinstance(value, str) and value.isprintable() and value else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= _INT_MAX else None


def _price(cost: Mapping[str, Any]) -> Price | None:
    given, taken = _usd(cost.get("input")), _usd(cost.get("output"))
    if given is None or taken is None:
        return None
    return Price(given, taken, _usd(cost.get("cache_read")), _usd(cost.get("reasoning")))


def _usd(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        usd = round(Decimal(str(value)), 6)
    except InvalidOperation:
        return None
    return usd if usd.is_finite() and 0 <= usd < _PRICE_MAX else None


async def sync(
    conn: Connection,
    store: ModelStore,
    catalog: Catalog,
    *,
    now: datetime,
    kind: str,
    provider: str | None = None,
    add: bool = False,
    propose_price: ProposePrice | None = None,
) -> list[Synced]:
    """Fill the models of every provider, or of one, from the catalogue; one row of history each.

    With `add` models that a provider does not list itself are added too. Prices are proposed to
    the ledger, which keeps those that people set. Raises ProviderNotFound.
    """
    done = []
    for row in await store.begin_sync(conn, name=provider):
        ids = [row["modelsdev_provider_id"], row["name"], _BY_PROTOCOL.get(row["protocol"])]
        models = next((catalog.providers[i] for i in ids if i in catalog.providers), {})
        known = await store.models_of(conn, provider_id=row["id"])
        taken = [m for name, m in models.items() if add or not known or name in known]
        await store.put_facts(
            conn, provider_id=row["id"], facts=[m.facts for m in taken], catalog=catalog
        )
        prices = 0
        for model in taken:
            if propose_price is not None and model.price is not None:
                prices += await propose_price(
                    conn,
                    provider=row["name"],
                    model=model.name,
                    price=model.price,
                    source=catalog.source,
                    dated=catalog.dated,
                )
        synced = Synced(row["name"], len(taken), max(0, len(known) - len(taken)), prices)
        await store.end_sync(
            conn, provider_id=row["id"], kind=kind, synced=synced, catalog=catalog, started_at=now
        )
        done.append(synced)
    return done
