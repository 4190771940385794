"""Models.dev: the catalogue of models, benchmarks, and the provider columns that follow it.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "002"
down_revision = "001"
