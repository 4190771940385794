"""What the doctor looks at: sizes by day, growth, duplicate indexes, bloat, long transactions.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "028"
down_revision = "027"
