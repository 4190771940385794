"""The audit of sensitive operations: listed, sealed, verified."""

from helix.operations.audit.jobs import register_audit
from helix.operations.audit.seal import seal_tables
from helix.operations.audit.verify import verify_tables

__all__ = ["register_audit", "seal_tables", "verify_tables"]
