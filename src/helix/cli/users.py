"""`helix users`, with the erasing that operations bring."""

from helix.accounts.cli_users import app, main
from helix.operations.erasure.cli import erase_command

__all__ = ["app", "main"]

app.command("erase")(erase_command)
