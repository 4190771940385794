"""The archive: requests that are too old for the database, in files that can be read and undone."""

from helix.operations.archive.read import query
from helix.operations.archive.restore import restore
from helix.operations.archive.verify import glance, unlisted, verify
from helix.operations.archive.write import archive_due, archive_months

__all__ = ["archive_due", "archive_months", "glance", "query", "restore", "unlisted", "verify"]
