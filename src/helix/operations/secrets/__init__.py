"""Secrets at rest: rotated by catalogue, checked, and told of when they cannot be read."""

from helix.operations.secrets.rows import connected, count_keys
from helix.operations.secrets.watch import SecretsWatch, unreadable_lines

__all__ = ["SecretsWatch", "connected", "count_keys", "unreadable_lines"]
