"""Search of memories: what it knows of each, uses by requests, changes by audits, tombstones.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "017"
down_revision = "016"
