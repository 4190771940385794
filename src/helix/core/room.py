"""Room for the bodies of requests: how much of them one process gathers at a time."""

from helix.core.errors import Unavailable

__all__ = ["NoRoom", "Room", "Share"]


class NoRoom(Unavailable):
    """As much of large requests is being read as this process takes on."""

    code = "no_room"

    def __init__(self, bytes_max: int) -> None:
        super().__init__(
            f"large requests fill bodies_bytes_max ({bytes_max} bytes); try again shortly",
            retry_after_s=1,
        )


class Room:
    """So many bytes at a time, whoever's they are. What comes in one small piece is not counted."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held = 0

    def share(self) -> "Share":
        """Return one request's share; nothing is taken yet."""
        return Share(self)


class Share:
    """What one request holds; give it back once, however it ends. Twice does no harm."""

    __slots__ = ("_held", "_room")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = 0

    def take(self, count: int) -> None:
        """Take so many bytes more; raises NoRoom, and then holds what it held."""
        room = self._room
        if room.held + count > room.bytes_max:
            raise NoRoom(room.bytes_max)
        room.held += count
        self._held += count

    def give_back(self) -> None:
        """Hold nothing any more."""
        self._room.held -= self._held
        self._held = 0
