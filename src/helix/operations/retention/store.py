"""The statements of retention."""

from helix.core.db import Queries

__all__ = ["QUERIES"]

QUERIES = Queries("helix.operations.retention")
