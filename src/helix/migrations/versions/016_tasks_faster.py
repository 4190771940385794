"""Tasks: fewer index entries and no quadratic join on the way of a task.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "016"
down_revision = "015"
