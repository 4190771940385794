"""What search reads of a text as one value, an index by tenant and term, vectors of parts.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "030"
down_revision = "028"
