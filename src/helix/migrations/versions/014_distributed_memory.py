"""Distributed memory and Big Data: conversations, nodes, learning, analytics, materialized views.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "014"
down_revision = "013"
