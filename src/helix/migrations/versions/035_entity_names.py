"""Entities are found by a stored key of their names.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "035"
down_revision = "034"
