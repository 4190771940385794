"""Debates: debates, rounds, arguments, votes, code versions.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "011"
down_revision = "003"
