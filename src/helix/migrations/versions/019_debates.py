"""Debates that are held: course, outcome and cost; panels to call by name.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "019"
down_revision = "018"
