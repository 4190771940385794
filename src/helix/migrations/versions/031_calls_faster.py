"""Count the batches of plain calls in two steps.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "031"
down_revision = "030"
