"""Audit with seals, erasure of users, tombstones of documents.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "027"
down_revision = "026"
