"""Answers that may be given again, and how the arrivals of a stream lay apart.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "015"
down_revision = "014"
