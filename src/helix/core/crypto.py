"""Encryption at rest: AES-256-GCM with a key id, bound to the row it belongs to.

Fernet, which one of the founding documents names, binds no context: a ciphertext copied from one
row to another still opens. Here the table, column and row id are authenticated with the value
(ADR 0009). A value is text: `hx1:<key id>:<base64url of nonce and ciphertext>`.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from helix.core.errors import HelixError, Misuse

__all__ = ["Keyring", "SecretUnreadable", "new_key"]

_VERSION = "hx1"
_NONCE_BYTES = 12
_KEY_BYTES = 32


class SecretUnreadable(HelixError):
    """An encrypted value does not open: wrong key, wrong row, or changed bytes."""

    code = "secret_unreadable"


def new_key() -> str:
    """Return a fresh 256-bit key as base64url text, from the system's randomness."""
    return base64.urlsafe_b64encode(os.urandom(_KEY_BYTES)).decode()


@dataclass(frozen=True, slots=True)
class _Key:
    id: str
    raw: bytes = field(repr=False)
    cipher: AESGCM = field(repr=False)


def _read_key(text: str) -> _Key:
    try:
        raw = base64.b64decode(text.strip().encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Misuse("an encryption key must be 32 bytes in base64url") from exc
    if len(raw) != _KEY_BYTES:
        raise Misuse(f"an encryption key must be 32 bytes, not {len(raw)}")
    return _Key(hashlib.sha256(b"helix key id" + raw).hexdigest()[:12], raw, AESGCM(raw))


class Keyring:
    """Encrypts with the first key, decrypts with any: put a new key first to rotate.

    A key's id is the first 12 hex digits of a hash of it: it names the key and tells nothing.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise Misuse("at least one encryption key is needed")
        parsed = [_read_key(text) for text in keys]
        self._keys = tuple(parsed)
        self._first = parsed[0]
        self._by_id = {key.id: key for key in parsed}

    @property
    def key_id(self) -> str:
        """The id of the key that encrypts."""
        return self._first.id

    def derived(self, purpose: str) -> list[tuple[str, bytes]]:
        """Return a key of 32 bytes for another purpose from each key, newest first, with its id.

        HKDF-SHA256 (RFC 5869): what is signed with a derived key tells nothing about the others.
        """
        return [
            (
                key.id,
                HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=purpose.encode()).derive(key.raw),
            )
            for key in self._keys
        ]

    def encrypt(self, value: str, *, context: str) -> str:
        """Encrypt `value` for the place `context`, such as `provider_configs.value:<row id>`."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._first.cipher.encrypt(nonce, value.encode(), context.encode())
        body = base64.urlsafe_b64encode(nonce + sealed).decode()
        return f"{_VERSION}:{self._first.id}:{body}"

    def decrypt(self, sealed: str, *, context: str) -> str:
        """Return the value; raises SecretUnreadable, which names the context and the key id."""
        version, _, rest = sealed.partition(":")
        key_id, _, body = rest.partition(":")
        if version != _VERSION or not body:
            raise SecretUnreadable(f"{context} is not a value that Helix encrypted")
        key = self._by_id.get(key_id)
        if key is None:
            raise SecretUnreadable(
                f"{context} was encrypted with key {key_id[:12]!r}, which is not configured"
            )
        try:
            raw = base64.urlsafe_b64decode(body.encode())
            opened = key.cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode())
        except (InvalidTag, binascii.Error, ValueError) as exc:
            raise SecretUnreadable(f"{context} does not open with key {key_id}") from exc
        return opened.decode()
