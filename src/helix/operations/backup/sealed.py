"""Encrypted files: a stream cut into chunks that can be neither changed, moved, dropped nor added.

    HXB1 | key id, 12 bytes | salt, 16 bytes | chunk | chunk | … | last chunk

Each chunk is AES-256-GCM of up to 1 MiB, under a key made for this file alone from the instance's
key, the salt and the file's purpose. Its nonce is its number and whether it is the last, so a
stream that ends early, goes on, or has its chunks in another order does not open (the STREAM
construction of Hoang, Reyhanitabar, Rogaway and Vizár, CRYPTO 2015; docs/adr/0044).
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from helix.operations.backup.errors import BackupDamaged, BackupKeyMissing

__all__ = ["BACKUP_PURPOSE", "Keys", "SealedWriter", "key_id_of_file", "unseal"]

Keys: TypeAlias = Sequence[tuple[str, bytes]]
"""Keys with their ids, newest first, as `Keyring.derived(BACKUP_PURPOSE)` gives them."""

BACKUP_PURPOSE = "helix backups"
_MAGIC = b"HXB1"
_ID_BYTES = 12
_SALT_BYTES = 16
_HEADER_BYTES = len(_MAGIC) + _ID_BYTES + _SALT_BYTES
_CHUNK_BYTES = 1 << 20
_TAG_BYTES = 16


def _cipher(key: bytes, salt: bytes, purpose: str) -> AESGCM:
    info = f"helix backup file: {purpose}".encode()
    return AESGCM(HKDF(hashes.SHA256(), 32, salt=salt, info=info).derive(key))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


class SealedWriter:
    """Encrypts what is written into `file`; only after `finish` does the file open again.

    `purpose` names what the file is, such as `dump`; reading needs the same. `size_bytes` and
    `sha256` are those of the encrypted file, `plain_bytes` the length of what went in.
    """

    def __init__(self, file: BinaryIO, keys: Keys, *, purpose: str) -> None:
        key_id, key = keys[0]
        salt = os.urandom(_SALT_BYTES)
        self._file = file
        self._header = _MAGIC + key_id.encode("ascii") + salt
        self._cipher = _cipher(key, salt, purpose)
        self._waiting = bytearray()
        self._number = 0
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self.plain_bytes = 0
        self._put(self._header)

    @property
    def sha256(self) -> str:
        """SHA-256 of the encrypted bytes so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Encrypt more bytes."""
        self._waiting += data
        self.plain_bytes += len(data)
        while len(self._waiting) > _CHUNK_BYTES:
            self._seal(bytes(self._waiting[:_CHUNK_BYTES]), last=False)
            del self._waiting[:_CHUNK_BYTES]

    def finish(self) -> None:
        """Write the last chunk and sync the file to the disk."""
        self._seal(bytes(self._waiting), last=True)
        self._waiting.clear()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        self._put(self._cipher.encrypt(_nonce(self._number, last=last), chunk, self._header))
        self._number += 1

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)


def key_id_of_file(path: Path) -> str | None:
    """Return the id of the key that an encrypted file needs; None for any other file."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return None
    if len(header) < _HEADER_BYTES or header[: len(_MAGIC)] != _MAGIC:
        return None
    return header[len(_MAGIC) :][:_ID_BYTES].decode("ascii", errors="replace")


def unseal(file: BinaryIO, keys: Keys, *, purpose: str, name: str) -> Iterator[bytes]:
    """Decrypt a file chunk by chunk; `name` is what errors call it.

    What was given out is authentic, but only the end of the iteration says that it was all. Raises
    BackupKeyMissing for a key that is not there, BackupDamaged for anything that does not open.
    """
    header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or header[: len(_MAGIC)] != _MAGIC:
        raise BackupDamaged(f"{name} is not a file that Helix encrypted, or its beginning is lost")
    key_id = header[len(_MAGIC) :][:_ID_BYTES].decode("ascii", errors="replace")
    key = dict(keys).get(key_id)
    if key is None:
        raise BackupKeyMissing(
            f"{name} was encrypted with key {key_id!r}, which this instance does not have (its "
            f"keys: {', '.join(known for known, _ in keys)}), or its beginning is damaged: put "
            "that key into HELIX_SECRET_KEYS or HOME/keys"
        )
    cipher = _cipher(key, header[-_SALT_BYTES:], purpose)
    number, chunk = 0, file.read(_CHUNK_BYTES + _TAG_BYTES)
    while True:
        following = file.read(_CHUNK_BYTES + _TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(number, last=not following), chunk, header)
        except (InvalidTag, ValueError) as exc:
            raise BackupDamaged(
                f"{name} is damaged: chunk {number} of 1 MiB has changed, or the file ends early"
            ) from exc
        if not following:
            return
        number, chunk = number + 1, following
