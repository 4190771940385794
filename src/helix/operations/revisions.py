"""The revisions of the schema: Alembic's directory and graph around files of plain SQL.

`migrations/versions/NNN_name.py` names a revision and its predecessor for Alembic;
`migrations/sql/NNN_name.up.sql` and `.down.sql` hold what it does. Only this module imports
Alembic, which costs 25 MB and 0.4 s: `migrate` asks for it when there is something to do.
"""

import re
from pathlib import Path

from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util.exc import CommandError

from helix.core.errors import Misuse
from helix.operations.scripts import MIGRATIONS, read_script
from helix.operations.types import Revision

__all__ = ["create_revision", "load_revisions"]

_UP = "-- {file}: {title}.\n-- Plain SQL, one transaction (docs/migrations.md says what else).\n"
_DOWN = "-- {file}: takes back what {up} made, and nothing else.\n"


def _directory(directory: Path) -> ScriptDirectory:
    return ScriptDirectory(str(directory), file_template="%(rev)s_%(slug)s")


def load_revisions(directory: Path = MIGRATIONS) -> tuple[Revision, ...]:
    """Return every revision, the first one first.

    Raises Misuse when the graph is not one line from one base to one head, or a file is missing
    or cannot be read as SQL.
    """
    scripts = _directory(directory)
    try:
        found = list(scripts.walk_revisions("base", "heads"))
    except (RevisionError, CommandError) as exc:
        raise Misuse(f"the revisions in {directory} do not fit together: {exc}") from exc
    heads, bases = scripts.get_heads(), scripts.get_bases()
    if len(heads) > 1 or len(bases) > 1 or any(script.is_merge_point for script in found):
        raise Misuse(f"the revisions in {directory} are not one line: heads {', '.join(heads)}")
    revisions = []
    for script in reversed(found):
        stem = Path(script.path).stem
        revisions.append(
            Revision(
                id=script.revision,
                title=script.doc.rstrip("."),
                up=read_script(directory / "sql" / f"{stem}.up.sql"),
                down=read_script(directory / "sql" / f"{stem}.down.sql"),
            )
        )
    return tuple(revisions)


def create_revision(message: str, directory: Path = MIGRATIONS) -> list[Path]:
    """Write a new, empty revision after the head; returns the three files.

    The id is the head's number plus one. Raises Misuse when `message` has no letter or digit, or
    the directory cannot be written.
    """
    if not re.search(r"[A-Za-z0-9]", message):
        raise Misuse("a revision needs a message with a letter or digit in it")
    numbers = [int(revision.id) for revision in load_revisions(directory)]
    number = f"{max(numbers, default=0) + 1:03}"
    try:
        script = _directory(directory).generate_revision(number, message)
        assert script is not None  # noqa: S101 - Alembic returns None only for a file it skips
        versioned = Path(script.path)
        up = directory / "sql" / f"{versioned.stem}.up.sql"
        down = directory / "sql" / f"{versioned.stem}.down.sql"
        up.write_text(_UP.format(file=up.name, title=message.rstrip(".")), encoding="utf-8")
        down.write_text(_DOWN.format(file=down.name, up=up.name), encoding="utf-8")
    except OSError as exc:
        raise Misuse(f"cannot write a revision into {directory}: {exc.strerror}") from exc
    return [versioned, up, down]
