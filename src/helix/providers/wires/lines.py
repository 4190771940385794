"""Streams cut into lines and into server-sent events, however their bytes arrive."""

__all__ = ["Events", "Lines", "data_of_event"]


class Lines:
    """Cuts bytes into lines; each byte is looked at once, and held at most once."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their ends (LF or CRLF)."""
        first, *others = data.split(b"\n")
        if not others:
            self._pending += first
            return []
        if self._pending:
            first = bytes(self._pending) + first
        self._pending = bytearray(others.pop())
        return [_bare(first), *(_bare(line) for line in others)]

    def rest(self) -> bytes:
        """Return a last line whose end never came."""
        rest = _bare(bytes(self._pending))
        self._pending.clear()
        return rest


def _bare(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line


class Events:
    """Cuts bytes into the data of server-sent events; names, ids and comments are left out."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that `data` completes."""
        found: list[bytes] = []
        for line in self._lines.feed(data):
            self._take(line, found)
        return found

    def rest(self) -> list[bytes]:
        """Return the data of a last event whose blank line never came."""
        found: list[bytes] = []
        self._take(self._lines.rest(), found)
        self._take(b"", found)
        return found

    def _take(self, line: bytes, found: list[bytes]) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif not line and self._data:
            data = self._data
            found.append(data[0] if len(data) == 1 else b"\n".join(data))
            self._data = []


def data_of_event(event: bytes) -> bytes:
    """Return the data of one whole event; empty when it has none."""
    events = Events()
    return b"".join([*events.feed(event), *events.rest()])
