"""The doctor: looks at everything an operator would, and says what to do about it."""

from helix.operations.doctor.domain import Doctor
from helix.operations.doctor.examine import CODES, examine
from helix.operations.doctor.jobs import register_doctor, sample_sizes
from helix.operations.doctor.types import Examination, Finding, Severity

__all__ = [
    "CODES",
    "Doctor",
    "Examination",
    "Finding",
    "Severity",
    "examine",
    "register_doctor",
    "sample_sizes",
]
