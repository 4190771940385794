"""Memory as people and programs see it."""

from dataclasses import asdict
from typing import Any

from helix.memory.types import AuditReport, Found, Memory
from helix.retrieval import SIGNALS

__all__ = ["shown_found", "shown_memory", "shown_report"]


def shown_memory(memory: Memory) -> dict[str, Any]:
    """Return a memory for JSON; shares are numbers."""
    shown = asdict(memory)
    shown["confidence"] = float(memory.confidence)
    shown["importance"] = float(memory.importance)
    return shown


def shown_found(found: Found, *, explain: bool) -> dict[str, Any]:
    """Return the answer of a search; with `explain` each hit says what each signal added."""
    hits = []
    for hit in found.hits:
        shown = {"score": hit.score, "memory": shown_memory(hit.memory)}
        if explain:
            shown["signals"] = hit.parts
        hits.append(shown)
    told = {name for hit in found.hits for name in hit.parts}
    return {
        "data": hits,
        "vectors": found.vectors,
        "kind": found.kind,
        "considered": found.considered,
        "unembedded": found.unembedded,
        "exact": found.exact,
        "took_ms": found.took_ms,
        "embedding_ms": found.embedding_ms,
        **({"meanings": {n: SIGNALS[n] for n in sorted(told)}} if explain else {}),
    }


def shown_report(report: AuditReport) -> dict[str, Any]:
    """Return what an audit found, for JSON."""
    shown = asdict(report)
    shown["junk"] = [{"memory_id": i, "score": score} for i, score in report.junk]
    return shown
