"""Tasks: batches planned as batches, and the rest as the rest.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "036"
down_revision = "035"
