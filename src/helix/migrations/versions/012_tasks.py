"""Tasks: the queue, its events and history, dead letters.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "012"
down_revision = "011"
