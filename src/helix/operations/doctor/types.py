"""Nouns of the doctor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

__all__ = ["Examination", "Finding", "Measure", "Severity"]


class Severity(StrEnum):
    """How bad a finding is; later ones are worse."""

    OK = "ok"
    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for ok to 3 for critical."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Measure:
    """A number for Prometheus: the metric's name, and the value of its one label if it has one."""

    name: str
    value: float
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw.

    `code` is stable; `seen` says it in a sentence with numbers and units; `todo` is what to do,
    one command where there is one, None when there is nothing. `details` are the rows behind it.
    """

    code: str
    severity: Severity
    seen: str
    todo: str | None = None
    value: float | None = None
    unit: str | None = None
    details: tuple[Mapping[str, Any], ...] = ()
    measures: tuple[Measure, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings of one look, in the order of the checks."""

    at: datetime
    duration_s: float
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Severity:
        """The worst severity there is; ok when nothing was checked."""
        return max(
            (finding.severity for finding in self.findings),
            key=lambda one: one.rank,
            default=Severity.OK,
        )
