"""Retention: what leaves the database, when and how; and the upkeep of what stays."""

from helix.operations.retention.jobs import nightly, register_retention
from helix.operations.retention.measure import forecast, measure
from helix.operations.retention.plan import PLAN
from helix.operations.retention.routes import build_router
from helix.operations.retention.run import roll_up, run

__all__ = [
    "PLAN",
    "build_router",
    "forecast",
    "measure",
    "nightly",
    "register_retention",
    "roll_up",
    "run",
]
