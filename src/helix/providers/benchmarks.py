"""Reading benchmark results from CSV or JSON. Pure."""

import csv
import io
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from helix.core.errors import Misuse
from helix.providers.models_store import BenchmarkResult

__all__ = ["read_benchmarks"]

RESULTS_MAX = 100_000
_FIELDS = ("model", "benchmark", "score")
_SCORE_MAX = Decimal(1_000_000)


def read_benchmarks(data: bytes, *, source: str) -> list[BenchmarkResult]:
    """Read a JSON array, or CSV with a header line.

    Fields: model (`provider/model`), benchmark, score; and if known normalized (0 to 100; without
    it the score itself, when it lies there), type, rank, date, source. Raises Misuse with the
    number of the entry at fault.
    """
    try:
        text = data.decode("utf-8-sig")
        if text.lstrip()[:1] == "[":
            entries = msgspec.json.decode(text, type=list[dict[str, Any]])
        else:
            entries = list(csv.DictReader(io.StringIO(text), strict=True))
    except (UnicodeDecodeError, msgspec.DecodeError, csv.Error) as exc:
        raise Misuse(f"the benchmarks cannot be read: {exc}") from exc
    if len(entries) > RESULTS_MAX:
        raise Misuse(f"at most {RESULTS_MAX} benchmark results at a time, not {len(entries)}")
    return [_result(number, entry, source) for number, entry in enumerate(entries, start=1)]


def _result(number: int, entry: dict[str, Any], source: str) -> BenchmarkResult:
    def wrong(what: str) -> Misuse:
        return Misuse(f"benchmark result {number}: {what}")

    missing = [name for name in _FIELDS if entry.get(name) in {None, ""}]
    if missing:
        raise wrong(f"{', '.join(missing)} missing")
    provider, slash, model = str(entry["model"]).partition("/")
    if not slash or not provider or not model:
        raise wrong("model is written provider/model")
    try:
        score = Decimal(str(entry["score"]))
        given = entry.get("normalized")
        normalized = score if given in {None, ""} else Decimal(str(given))
        rank = None if entry.get("rank") in {None, ""} else int(str(entry["rank"]))
        dated = None if not entry.get("date") else date.fromisoformat(str(entry["date"]))
    except (InvalidOperation, ValueError) as exc:
        raise wrong("score, normalized, rank or date cannot be read") from exc
    if not score.is_finite() or abs(score) >= _SCORE_MAX:
        raise wrong(f"score is a number below {_SCORE_MAX}")
    if not normalized.is_finite() or not 0 <= normalized <= 100:
        raise wrong("normalized is 0 to 100; give it when the score lies elsewhere")
    if rank is not None and not 1 <= rank < 2**31:
        raise wrong("rank is 1 or more")
    named = (entry["benchmark"], entry.get("type") or "", entry.get("source") or source)
    benchmark, kind, where = (str(text) for text in named)
    if len(benchmark) > 255 or len(kind) > 100 or len(where) > 255:
        raise wrong("benchmark, type or source is too long")
    return BenchmarkResult(
        provider,
        model,
        benchmark,
        round(score, 4),
        round(normalized, 2),
        kind or None,
        rank,
        dated,
        where,
    )
