"""Conversations: their clients' names, turns, and time that never goes back.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "018"
down_revision = "017"
