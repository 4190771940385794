"""Knowledge: documents by key, hash and version; their chunks with places, terms and vectors.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "020"
down_revision = "019"
