"""Giving a recovering PostgreSQL its log: the other way round of the keeper.

PostgreSQL asks by a file and waits; Helix opens the sealed segment, a few ahead, and puts it where
it is taken from by a rename. PostgreSQL needs neither the key nor the archive.

    DATA/helix_feed/000000010000000000000003.want    asked for
    DATA/helix_feed/000000010000000000000003.have    here it is
    DATA/helix_feed/00000002.history.none            there is none
"""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

from helix.operations.backup.archive import WalArchive
from helix.operations.backup.errors import WalMissing
from helix.operations.backup.wal import Segment, segment_of
from helix.operations.postgres_programs import Programs

__all__ = ["RESTORE_COMMAND", "WalFeeder"]

_PLACE = "helix_feed"
_LOOK_S = 0.02
_AHEAD = 4
RESTORE_COMMAND = (
    f": > {_PLACE}/%f.want; while [ -e {_PLACE}/keeper ]; do "
    f"if [ -e {_PLACE}/%f.have ]; "
    f"then rm -f {_PLACE}/%f.want; mv {_PLACE}/%f.have %p; exit $?; fi; "
    f"if [ -e {_PLACE}/%f.none ]; "
    f"then rm -f {_PLACE}/%f.want {_PLACE}/%f.none; exit 1; fi; "
    "sleep 0.02; done; exit 1"
)


class WalFeeder:
    """Feeds the cluster in `data` with `segments` of an archive, and with timelines' histories.

    Other segments it does not get, whatever the archive has: they were not checked.
    """

    def __init__(
        self,
        archive: WalArchive | None,
        segments: Collection[Segment],
        *,
        data: Path,
        programs: Programs,
    ) -> None:
        self._archive = archive
        self._names = [segment.name for segment in sorted(segments, key=lambda s: s.number)]
        self._at = {name: number for number, name in enumerate(self._names)}
        self._place = data / _PLACE
        self._identity = programs.identity

    def begin(self) -> None:
        """Make the place where things are handed over."""
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(mode=0o700)
        us = f"/proc/{os.getpid()}" if sys.platform == "linux" else "/"
        (self._place / "keeper").symlink_to(us)
        os.chown(self._place, self._identity.uid, self._identity.gid)

    def end(self) -> None:
        """Take the place away; who still waits there is told no."""
        shutil.rmtree(self._place, ignore_errors=True)

    async def run(self) -> None:
        """Feed until cancelled; raises what opening a segment raises."""
        while True:
            for path in sorted(self._place.glob("*.want")):
                await asyncio.to_thread(self._hand_over, path.name.removesuffix(".want"))
            await asyncio.sleep(_LOOK_S)

    def _hand_over(self, name: str) -> None:
        if not self._may_have(name):
            self._put(f"{name}.none", b"")
            return
        at = self._at.get(name)
        names = [name] if at is None else self._names[at : at + _AHEAD]
        for each in names:
            if self._archive is None or (self._place / f"{each}.have").exists():
                continue
            try:
                self._put(f"{each}.have", self._archive.get(each))
            except WalMissing:
                self._put(f"{each}.none", b"")

    def _may_have(self, name: str) -> bool:
        if self._archive is None:
            return False
        return name in self._at or (segment_of(name) is None and name.endswith(".history"))

    def _put(self, name: str, content: bytes) -> None:
        if not (self._place / name.replace(".none", ".want")).exists() and not content:
            return  # asked twice, answered already
        temporary = self._place / f".{name}"
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(content)
            os.fchown(file.fileno(), self._identity.uid, self._identity.gid)
        temporary.rename(self._place / name)
