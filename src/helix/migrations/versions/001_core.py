"""Core: users, sessions, providers, projects, prompts, requests, responses, ledger, tools, errors.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "001"
down_revision = None
