"""`helix keys`, with the rotation of encryption keys that operations bring.

An API key is rotated over HTTP; `helix keys rotate` means what `helix secrets rotate` does.
"""

from helix.accounts.cli_keys import app, main
from helix.operations.secrets.cli import rotate_command

__all__ = ["app", "main"]

app.command("rotate")(rotate_command)
