"""Limits, budgets and claims that one statement decides, over any number of processes.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "024"
down_revision = "023"
