"""The directory of backups: finished ones with their manifests, unfinished ones, and old ones.

    DIR/helix_backup_20261122_023000/manifest.json   what it is and holds; a MAC on its second line
    DIR/helix_backup_20261122_023000/dump.hxb        the encrypted dump
    DIR/helix_backup_20261122_031500/base.hxb        or the cluster's files
    DIR/wal/7345…/000000010000000000000003.hxw       the archived log, see archive
    DIR/.helix_backup_….partial/                     being made, or left by a killed command

A backup appears under its name by one rename, after all its bytes are on the disk: what is listed
is whole. It is deleted the other way round, so what is half deleted is not listed.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from helix.core.errors import Misuse
from helix.operations.backup.errors import (
    BackupDamaged,
    BackupKeyMissing,
    BackupNotFound,
    BackupsBusy,
)
from helix.operations.backup.sealed import Keys, unseal
from helix.operations.backup.types import Backup, Manifest, Method
from helix.operations.postgres_files import sync_directory

__all__ = [
    "BackupDirectory",
    "backup_name",
    "check_files",
    "read_backup",
    "write_manifest",
]

_NAME = re.compile(r"helix_backup_\d{8}_\d{6}")
_MANIFEST = "manifest.json"
_MANIFEST_BYTES_MAX = 64 << 20
_READ_BYTES = 1 << 20


def backup_name(at: datetime) -> str:
    """Return the name of a backup begun at `at`: helix_backup_YYYYMMDD_HHMMSS, in UTC."""
    return at.astimezone(UTC).strftime("helix_backup_%Y%m%d_%H%M%S")


def _mac(key_id: str, key: bytes, body: bytes) -> bytes:
    digest = hmac.new(key, b"helix backup manifest" + body, hashlib.sha256).hexdigest()
    return f"hmac-sha256 {key_id} {digest}\n".encode()


def write_manifest(directory: Path, manifest: Manifest, keys: Keys) -> None:
    """Write the manifest with its MAC and sync it; the directory is not yet under its name."""
    body = msgspec.json.encode(manifest) + b"\n"
    descriptor = os.open(directory / _MANIFEST, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body + _mac(*keys[0], body))
        file.flush()
        os.fsync(file.fileno())
    sync_directory(directory)


def read_backup(path: Path, keys: Keys) -> Backup:
    """Return the backup in `path`; its manifest is authentic, its other files are not looked at.

    Raises BackupNotFound, BackupKeyMissing, or BackupDamaged.
    """
    try:
        with (path / _MANIFEST).open("rb") as file:
            content = file.read(_MANIFEST_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise BackupNotFound(f"there is no backup {path.name} in {path.parent}") from exc
    except OSError as exc:
        raise Misuse(f"cannot read {path}: {exc.strerror}") from exc
    body, newline, mac = content.partition(b"\n")
    body += newline
    words = mac.split(b" ")
    known = {key_id.encode(): (key_id, key) for key_id, key in keys}
    if len(words) != 3 or words[0] != b"hmac-sha256":
        raise BackupDamaged(f"the manifest of {path.name} is damaged: its last line is not a MAC")
    if words[1] not in known:
        raise BackupKeyMissing(
            f"{path.name} was made with key {words[1].decode(errors='replace')[:12]!r}, which this "
            "instance does not have, or its manifest is damaged: put that key into "
            "HELIX_SECRET_KEYS or HOME/keys"
        )
    if not hmac.compare_digest(mac, _mac(*known[words[1]], body)):
        raise BackupDamaged(f"the manifest of {path.name} has changed since it was written")
    try:
        manifest = msgspec.json.decode(body, type=Manifest)
    except msgspec.DecodeError as exc:
        raise BackupDamaged(
            f"the manifest of {path.name} cannot be read by this version of Helix: {exc}"
        ) from exc
    if manifest.name != path.name:
        raise BackupDamaged(f"{path.name} is {manifest.name} under another name: rename it back")
    return Backup(path, manifest)


def check_files(backup: Backup, keys: Keys) -> int:
    """Read every byte of a backup and return how many; raises BackupDamaged at the first fault.

    Both what the manifest says of a file (length, SHA-256) and its own authentication must hold.
    """
    total = 0
    for entry in backup.manifest.files:
        path, name = backup.path / entry.name, f"{backup.name}/{entry.name}"
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size_bytes = file.tell()
                if size_bytes != entry.size_bytes:
                    raise BackupDamaged(
                        f"{name} is damaged: {size_bytes} bytes instead of {entry.size_bytes}"
                    )
                if digest != entry.sha256:
                    raise BackupDamaged(f"{name} is damaged: its SHA-256 is {digest}")
                file.seek(0)
                for _ in unseal(file, keys, purpose=entry.purpose, name=name):
                    pass
        except FileNotFoundError as exc:
            raise BackupDamaged(f"{name} is missing") from exc
        total += size_bytes
    return total


class BackupDirectory:
    """Where the backups of an instance lie. Only finished, authentic ones are ever listed."""

    def __init__(self, path: Path, keys: Keys) -> None:
        self.path = path
        self.keys = keys

    def make(self) -> None:
        """Make the directory, for the owner only, unless it is there. Raises Misuse."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise Misuse(f"cannot make the directory {self.path}: {exc.strerror}") from exc

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for writing; raises BackupsBusy when another command does.

        The lock goes with the process, however it ends.
        """
        self.make()
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise BackupsBusy(f"another backup or prune is working in {self.path}") from exc
            yield
        finally:
            os.close(descriptor)

    def begin(self, now: datetime) -> tuple[str, Path]:
        """Return a free name and its empty working directory; what was left half done is removed.

        The caller holds the lock. A name that is taken gets the next free second.
        """
        for left in self.path.glob(".helix_backup_*.partial"):
            shutil.rmtree(left)
        at = now
        while (self.path / backup_name(at)).exists():
            at += timedelta(seconds=1)
        name = backup_name(at)
        partial = self.path / f".{name}.partial"
        partial.mkdir(mode=0o700)
        return name, partial

    def publish(self, partial: Path, manifest: Manifest) -> Backup:
        """Write the manifest and give the backup its name, in an order that survives any crash."""
        write_manifest(partial, manifest, self.keys)
        path = self.path / manifest.name
        partial.rename(path)
        sync_directory(self.path)
        return Backup(path, manifest)

    def list(self) -> tuple[list[Backup], dict[str, str]]:
        """Return the backups, newest first, and of those that cannot be used the reason."""
        backups: list[Backup] = []
        unusable: dict[str, str] = {}
        names = sorted(p.name for p in self.path.glob("helix_backup_*") if _NAME.fullmatch(p.name))
        for name in reversed(names):
            try:
                backups.append(self.get(name))
            except (BackupDamaged, BackupKeyMissing, BackupNotFound) as exc:
                unusable[name] = exc.message
        return backups, unusable

    def get(self, name: str) -> Backup:
        """Return the backup `name`; raises BackupNotFound, BackupDamaged, BackupKeyMissing."""
        if not _NAME.fullmatch(name):
            raise BackupNotFound(
                f"{name[:80]!r} is not a backup's name: those look like "
                "helix_backup_20261122_023000, see `helix backup list`"
            )
        return read_backup(self.path / name, self.keys)

    def newest(self) -> Backup:
        """Return the newest backup; raises BackupNotFound when there is none."""
        return self.newest_of(None)

    def newest_of(self, method: Method | None) -> Backup:
        """Return the newest backup made in that way, or at all; raises BackupNotFound."""
        backups, _ = self.list()
        found = [b for b in backups if method is None or b.manifest.method is method]
        if not found:
            raise BackupNotFound(f"there is no backup in {self.path}: `helix backup create`")
        return found[0]

    def remove(self, backup: Backup) -> None:
        """Delete a backup; it is unlisted by one rename first. The caller holds the lock."""
        going = self.path / f".{backup.name}.partial"
        backup.path.rename(going)
        sync_directory(self.path)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(going)
