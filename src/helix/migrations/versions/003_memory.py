"""Memory: memories, entities, relations, knowledge, embeddings.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "003"
down_revision = "002"
