"""Operations: quarantines of restored copies, and the record of backups and restore tests.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "022"
down_revision = "021"
