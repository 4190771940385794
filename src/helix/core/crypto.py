"""Encryption at rest: AES-256-GCM with a key id, bound to the row it belongs to.

Fernet, which one of the founding documents names, binds no context: a ciphertext copied from one
row to another still opens. Here the table, column and row id are authenticated with the value
(ADR 0009). A value is text: `hx1:<key id>:<base64url of nonce and ciphertext>`.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from helix.core.errors import HelixError, Misuse

__all__ = ["Keyring", "SecretUnreadable", "id_of_key", "key_id_of", "new_key"]

_VERSION = "hx1"
_NONCE_BYTES = 12
_KEY_BYTES = 32
_ID_CHARS = 12


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
    return _Key(hashlib.sha256(b"helix key id" + raw).hexdigest()[:_ID_CHARS], raw, AESGCM(raw))


@dataclass(frozen=True, slots=True)
class _Ring:
    """Keys that belong together, and what was derived of them so far."""

    keys: tuple[_Key, ...]
    by_id: dict[str, _Key]
    derived: dict[str, tuple[tuple[str, bytes], ...]] = field(default_factory=dict)


def _ring(keys: Sequence[str]) -> _Ring:
    if not keys:
        raise Misuse("at least one encryption key is needed")
    parsed = tuple(_read_key(text) for text in keys)
    return _Ring(parsed, {key.id: key for key in parsed})


class Keyring:
    """Encrypts with the first key, decrypts with any: put a new key first to rotate.

    A key's id is the first 12 hex digits of a hash of it: it names the key and tells nothing.
    `reread` returns the keys when they have changed since it was last asked, else None: with it a
    rotation reaches a running process before it next encrypts, and whenever it meets a key it does
    not know.
    """

    def __init__(
        self, keys: Sequence[str], *, reread: Callable[[], Sequence[str] | None] | None = None
    ) -> None:
        self._now = _ring(keys)
        self._reread = reread

    def _current(self) -> _Ring:
        keys = None if self._reread is None else self._reread()
        if keys is not None:
            self._now = _ring(keys)
        return self._now

    @property
    def key_id(self) -> str:
        """The id of the key that encrypts."""
        return self._current().keys[0].id

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of all keys, newest first."""
        return tuple(key.id for key in self._current().keys)

    def derived(self, purpose: str) -> list[tuple[str, bytes]]:
        """Return a key of 32 bytes for another purpose from each key, newest first, with its id.

        HKDF-SHA256 (RFC 5869): what is signed with a derived key tells nothing about the others.
        """
        ring = self._current()
        if purpose not in ring.derived:
            ring.derived[purpose] = tuple(
                (key.id, _derive(key.raw, purpose.encode())) for key in ring.keys
            )
        return list(ring.derived[purpose])

    def encrypt(self, value: str, *, context: str) -> str:
        """Encrypt `value` for the place `context`, such as `provider_configs.value:<row id>`."""
        key = self._current().keys[0]
        nonce = os.urandom(_NONCE_BYTES)
        sealed = key.cipher.encrypt(nonce, value.encode(), context.encode())
        body = base64.urlsafe_b64encode(nonce + sealed).decode()
        return f"{_VERSION}:{key.id}:{body}"

    def decrypt(self, sealed: str, *, context: str) -> str:
        """Return the value; raises SecretUnreadable, which names the context and the key id."""
        key_id = key_id_of(sealed)
        if key_id is None:
            raise SecretUnreadable(f"{context} is not a value that Helix encrypted")
        key = self._now.by_id.get(key_id) or self._current().by_id.get(key_id)
        if key is None:
            raise SecretUnreadable(
                f"{context} was encrypted with key {key_id!r}, which is not configured"
            )
        try:
            raw = base64.urlsafe_b64decode(sealed.split(":")[2].encode())
            opened = key.cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context.encode())
        except (InvalidTag, binascii.Error, ValueError) as exc:
            raise SecretUnreadable(f"{context} does not open with key {key_id}") from exc
        return opened.decode()


def key_id_of(sealed: str) -> str | None:
    """Return the id of the key that made a ciphertext; None for what Helix did not encrypt."""
    version, _, rest = sealed.partition(":")
    key_id, _, body = rest.partition(":")
    return key_id[:_ID_CHARS] if version == _VERSION and body and ":" not in body else None


def id_of_key(text: str) -> str:
    """Return the id of a key given as text; raises Misuse for what is no key."""
    return _read_key(text).id


def _derive(raw: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=purpose).derive(raw)
