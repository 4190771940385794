"""Every byte, chunk and end of an encrypted file is held by its authentication."""

import hashlib
import io
import random
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.core.crypto import Keyring, new_key
from helix.operations.backup.errors import BackupDamaged, BackupKeyMissing
from helix.operations.backup.sealed import BACKUP_PURPOSE, Keys, SealedWriter, unseal

CHUNK = (1 << 20) + 16
HEADER = 32


def sealed(data: bytes, keys: Keys, *, purpose: str = "dump") -> bytes:
    with tempfile.TemporaryFile() as file:
        writer = SealedWriter(file, keys, purpose=purpose)
        for start in range(0, len(data), 70_001):
            writer.write(data[start : start + 70_001])
        writer.finish()
        file.seek(0)
        content = file.read()
    assert writer.size_bytes == len(content)
    assert writer.sha256 == hashlib.sha256(content).hexdigest()
    return content


def opened(content: bytes, keys: Keys, *, purpose: str = "dump") -> bytes:
    return b"".join(unseal(io.BytesIO(content), keys, purpose=purpose, name="it"))


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 17])
def test_what_went_in_comes_out(size: int, keys: Keys) -> None:
    data = random.Random(size).randbytes(size)
    assert opened(sealed(data, keys), keys) == data


@given(st.integers(min_value=0), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_no_flipped_byte_passes(at: int, change: int) -> None:
    keys = Keyring([new_key()]).derived(BACKUP_PURPOSE)
    content = bytearray(sealed(b"x" * 3_000, keys))
    content[at % len(content)] ^= change
    with pytest.raises((BackupDamaged, BackupKeyMissing)):
        opened(bytes(content), keys)


def test_chunks_cannot_be_dropped_doubled_swapped_or_cut(keys: Keys) -> None:
    content = sealed(b"a" * (1 << 20) + b"b" * (1 << 20) + b"c" * 9, keys)
    head, rest = content[:HEADER], content[HEADER:]
    one, two, last = rest[:CHUNK], rest[CHUNK : 2 * CHUNK], rest[2 * CHUNK :]
    for parts in (
        [one, two],  # the end is missing
        [two, last],
        [one, last],
        [one, one, two, last],
        [two, one, last],
        [one, two, last, last],
        [one, two, last[:-1]],
        [],
    ):
        with pytest.raises(BackupDamaged):
            opened(head + b"".join(parts), keys)


def test_another_key_opens_nothing_and_is_named(keys: Keys) -> None:
    others = Keyring([new_key()]).derived(BACKUP_PURPOSE)
    with pytest.raises(BackupKeyMissing, match=keys[0][0]):
        opened(sealed(b"secret", keys), others)


def test_an_older_key_of_the_keyring_still_opens() -> None:
    old, new = new_key(), new_key()
    content = sealed(b"secret", Keyring([old]).derived(BACKUP_PURPOSE))
    assert opened(content, Keyring([new, old]).derived(BACKUP_PURPOSE)) == b"secret"


def test_a_file_does_not_open_as_something_else(keys: Keys) -> None:
    with pytest.raises(BackupDamaged):
        opened(sealed(b"secret", keys, purpose="dump"), keys, purpose="base")
