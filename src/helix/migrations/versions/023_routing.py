"""Routing: health by the hour, verifications, routes and their targets.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "023"
down_revision = "022"
