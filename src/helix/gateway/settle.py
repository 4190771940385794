"""Settlements: what is recorded of the end of a call, in its four ways to end. Pure."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from helix.core.errors import HelixError
from helix.core.ids import uuid7_beside
from helix.gateway.policy import storable
from helix.gateway.store import Unfinished
from helix.gateway.timing import Gaps
from helix.gateway.types import Admission, Outcome, Recorded, Settlement
from helix.ledger import Charge, Usage

__all__ = ["NOTHING_USED", "cached_settlement", "chosen", "given_up", "settlement", "swept"]

NOTHING_USED = Usage(0, 0)
_FREE = Charge(Decimal(0), None)
_INTEGER_MAX = 2_147_483_647
_ERROR_CHARS_MAX = 2_000
_UNKNOWN = "unknown"


def settlement(
    admission: Admission,
    *,
    outcome: Outcome,
    now: datetime,
    provider_id: UUID | None,
    provider_name: str,
    model_name: str,
    latency_s: float,
    usage: Usage = NOTHING_USED,
    charge: Charge = _FREE,
    error: HelixError | None = None,
    http_status: int | None = None,
    upstream_id: str | None = None,
    first_token_s: float | None = None,
    chunk_count: int | None = None,
    finish_reason: str | None = None,
    content: str | None = None,
    raw_response: str | None = None,
    attempt: int = 1,
    selected: bool = True,
    cached: bool = False,
    confidence: Decimal | None = None,
    final: bool = True,
    gaps: Gaps | None = None,
) -> Settlement:
    """Return the rows that end a call, or, not `final`, those of one attempt of it."""
    completed = outcome is Outcome.COMPLETED
    return Settlement(
        request_id=admission.id,
        request_status="completed" if completed else "failed",
        completed_at=now,
        id=uuid7_beside(admission.id),
        user_id=admission.user_id,
        provider_id=provider_id,
        provider_name=provider_name,
        model_name=model_name,
        upstream_id=upstream_id,
        status=outcome.value,
        error_code=None if error is None else error.code,
        error=None if error is None else storable(error.message[:_ERROR_CHARS_MAX]),
        http_status=http_status,
        tokens_prompt=usage.prompt,
        tokens_completion=usage.completion,
        tokens_cached=usage.cached,
        tokens_reasoning=usage.reasoning,
        usage_estimated=usage.estimated,
        latency_ms=_ms(latency_s),
        first_token_ms=None if first_token_s is None else _ms(first_token_s),
        chunk_count=chunk_count,
        finish_reason=finish_reason,
        cost_usd=charge.cost_usd,
        pricing_id=charge.pricing_id,
        content=storable(content),
        raw_response=raw_response,
        usage_id=uuid7_beside(admission.id) if completed or usage.total else None,
        api_key_id=admission.api_key_id,
        project_id=admission.project_id,
        agent_id=admission.agent_id,
        attempt=attempt,
        selected=selected,
        cached=cached,
        confidence=confidence,
        final=final,
        gap_p50_ms=None if gaps is None else gaps.p50_ms,
        gap_p95_ms=None if gaps is None else gaps.p95_ms,
        gap_max_ms=None if gaps is None else gaps.max_ms,
    )


def cached_settlement(
    admission: Admission, found: Recorded, *, now: datetime, latency_s: float
) -> Settlement:
    """Return the rows of a call that was given an answer on record: nothing used, nothing paid."""
    return settlement(
        admission,
        outcome=Outcome.COMPLETED,
        now=now,
        provider_id=found.provider_id,
        provider_name=found.provider_name,
        model_name=found.model_name,
        latency_s=latency_s,
        upstream_id=found.upstream_id,
        finish_reason=found.finish_reason,
        content=found.content,
        raw_response=None if found.raw_response is None else found.raw_response.decode(),
        cached=True,
    )


def _ms(seconds: float) -> int:
    return min(max(round(seconds * 1_000), 0), _INTEGER_MAX)


def given_up(admission: Admission, *, error: HelixError, now: datetime) -> Settlement:
    """Return the end of a request that was recorded too late: no provider was called."""
    return settlement(
        admission,
        outcome=Outcome.FAILED,
        now=now,
        provider_id=None,
        provider_name=_UNKNOWN,
        model_name=admission.model_name,
        latency_s=0.0,
        error=error,
    )


def chosen(
    request: Admission, response_id: UUID, *, now: datetime, confidence: Decimal | None
) -> Settlement:
    """Return the end of a request whose answer is on record already.

    It costs nothing more, and gives back what the request still holds of its user's budgets.
    """
    return Settlement(
        request_id=request.id,
        request_status="completed",
        completed_at=now,
        id=response_id,
        user_id=request.user_id,
        provider_id=None,
        provider_name=_UNKNOWN,
        model_name=_UNKNOWN,
        upstream_id=None,
        status=Outcome.COMPLETED.value,
        error_code=None,
        error=None,
        http_status=None,
        tokens_prompt=0,
        tokens_completion=0,
        tokens_cached=0,
        tokens_reasoning=0,
        usage_estimated=False,
        latency_ms=0,
        first_token_ms=None,
        chunk_count=None,
        finish_reason=None,
        cost_usd=Decimal(0),
        pricing_id=None,
        content=None,
        raw_response=None,
        usage_id=None,
        api_key_id=request.api_key_id,
        project_id=request.project_id,
        agent_id=request.agent_id,
        confidence=confidence,
        chosen=True,
    )


def swept(request: Unfinished, *, now: datetime) -> Settlement:
    """Return the end of a request whose gateway died."""
    return Settlement(
        request_id=request.id,
        request_status="failed",
        completed_at=now,
        id=uuid7_beside(request.id),
        user_id=request.user_id,
        provider_id=None,
        provider_name=_UNKNOWN,
        model_name=request.model_name,
        upstream_id=None,
        status=Outcome.INTERRUPTED.value,
        error_code="gateway_died",
        error="the gateway ended before the call did; what the provider did is not known",
        http_status=None,
        tokens_prompt=0,
        tokens_completion=0,
        tokens_cached=0,
        tokens_reasoning=0,
        usage_estimated=False,
        latency_ms=_ms((now - request.created_at).total_seconds()),
        first_token_ms=None,
        chunk_count=None,
        finish_reason=None,
        cost_usd=Decimal(0),
        pricing_id=None,
        content=None,
        raw_response=None,
        usage_id=None,
        api_key_id=request.api_key_id,
        project_id=request.project_id,
        agent_id=request.agent_id,
    )
