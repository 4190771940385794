"""Retention: what it did, the archive of requests, months one at a time, sums that never shrink.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "026"
down_revision = "024"
