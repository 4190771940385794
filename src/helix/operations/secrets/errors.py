"""Errors of secrets."""

from helix.core.errors import Conflict, Misuse

__all__ = ["KeyStillNeeded", "SecretsBusy", "SecretsUnclear", "SecretsUnreadable"]


class SecretsBusy(Conflict):
    """Another rotation is under way."""

    code = "secrets.busy"


class SecretsUnclear(Conflict):
    """A column is marked as ciphertext, but its table cannot be rotated."""

    code = "secrets.unclear"


class SecretsUnreadable(Conflict):
    """Some encrypted values do not open with the keys there are."""

    code = "secrets.unreadable"


class KeyStillNeeded(Misuse):
    """A key cannot be retired: something can only be read with it."""

    code = "secrets.key_needed"
