"""Protocols: MCP, LSP and ACP registries.

What it does: ../sql/ beside this file's name, .up.sql and .down.sql.
"""

revision = "013"
down_revision = "012"
