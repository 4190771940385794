"""Memories exchanged between nodes: an event from every change, peers, tombstones that reach all.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "021"
down_revision = "020"
