"""Running a `helix` command in this process, as the shell does."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helix.core.errors import HelixError, Misuse


@dataclass
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def run(main: Callable[[list[str]], None], capsys: Any, *args: str) -> Ran:
    """Run a command's main with these arguments; errors end it as helix.__main__ ends it."""
    code = 0
    try:
        main(list(args))
    except SystemExit as exc:
        code = int(exc.code or 0)
    except Misuse as exc:
        code, message = 2, exc.message
        print(message)
    except HelixError as exc:
        code, message = 1, exc.message
        print(message)
    captured = capsys.readouterr()
    return Ran(code, captured.out, captured.err)


__all__ = ["Ran", "run"]
