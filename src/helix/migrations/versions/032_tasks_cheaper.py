"""Tasks: less work for every attempt.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "032"
down_revision = "031"
