"""Operations: growth is read from the doctor's samples alone.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "034"
down_revision = "032"
