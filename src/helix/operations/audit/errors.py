"""Errors of the audit."""

from helix.core.errors import Conflict

__all__ = ["AuditBroken"]


class AuditBroken(Conflict):
    """Audit tables are not as they were sealed."""

    code = "audit.broken"
