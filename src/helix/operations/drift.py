"""`python -m helix.operations.drift`: is everything that is derived what it would be now?

In a throwaway database: the schema files against the migrations, then every generated file
(sql/complete_schema.sql, docs/diagrams, the pages of docs/ that the code writes) against what
would be generated now.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from helix.core.config import Settings, load_settings
from helix.core.db import connect
from helix.core.errors import HelixError
from helix.core.instance import lock_home, make_home
from helix.operations.check import check
from helix.operations.diagram import diagram_files, read_drawing
from helix.operations.migrate import load, upgrade
from helix.operations.postgres import EmbeddedPostgres
from helix.operations.postgres_programs import find_programs
from helix.operations.schema_files import (
    complete_schema,
    domain_of_tables,
    read_schema_files,
    sql_directory,
)

__all__ = ["drift", "generated_files", "main"]

_PAGES = {
    "settings.md": ("settings", "--markdown"),
    "errors.md": ("reference", "errors"),
    "cli.md": ("reference", "commands"),
}
"""Pages of docs/ and the `helix` words that print them."""


async def generated_files(
    url: str, settings: Settings, kinds: Sequence[str] = ("schema", "diagram")
) -> dict[Path, str]:
    """Return the files that are generated from the catalogue of the database at `url`.

    Their paths are those in the source tree. The database should be at the head.
    """
    files: dict[Path, str] = {}
    sql = sql_directory()
    conn = await connect(url, application_name="helix generate")
    try:
        if "schema" in kinds:
            pg_dump = find_programs(settings).directory / "pg_dump"
            text = await complete_schema(conn, url, pg_dump, load())
            files[sql / "complete_schema.sql"] = text
        if "diagram" in kinds:
            domains = domain_of_tables(read_schema_files(sql))
            drawing = await read_drawing(conn, list(domains))
            for name, text in diagram_files(drawing, domains).items():
                files[sql.parent / "docs" / "diagrams" / name] = text
    finally:
        await conn.close()
    return files


async def drift(root: Path, *, write: bool = False) -> list[str]:
    """Return what is stale or differs, one line each; starts a PostgreSQL of its own.

    With `write` the generated files are written anew instead of being reported.
    """
    with tempfile.TemporaryDirectory(prefix="helix-drift-") as directory:
        settings = load_settings({}, home=Path(directory))
        make_home(settings.home_dir)
        with lock_home(settings.home_dir, "drift"):
            server = EmbeddedPostgres(settings, durable=False)
            await server.start()
            try:
                await upgrade(server.url)
                result = await check(server.url)
                files = await generated_files(server.url, settings)
            finally:
                await server.stop()
    for name, words in _PAGES.items():
        files[root / "docs" / name] = await asyncio.to_thread(_page, words)
    found = [str(difference) for difference in result.differences]
    if write:
        for path, text in files.items():
            await asyncio.to_thread(path.write_text, text, encoding="utf-8")
    found += [
        f"{path.relative_to(root)} is {'stale' if path.exists() else 'missing'}: {_remedy(path)}"
        for path, text in files.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    diagrams = root / "docs" / "diagrams"
    found += [
        f"{path.relative_to(root)} is left over: nothing generates it"
        for pattern in ("*.mmd", "*.puml")
        for path in sorted(diagrams.glob(pattern))
        if path not in files
    ]
    return found


def _page(words: Sequence[str]) -> str:
    """Ask the command line for a page: the command lies on a floor above this one."""
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "helix", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise HelixError(f"helix {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _remedy(path: Path) -> str:
    if path.name == "complete_schema.sql":
        return "make schema"
    if path.name in _PAGES:
        return f"helix {' '.join(_PAGES[path.name])} > docs/{path.name}"
    return "make diagram"


def main() -> None:
    """Print what has drifted; exits 1 when anything has. `--write` mends the generated files."""
    started = time.monotonic()
    write = sys.argv[1:] == ["--write"]
    if sys.argv[1:] and not write:
        print("usage: python -m helix.operations.drift [--write]", file=sys.stderr)
        raise SystemExit(2)
    found = asyncio.run(drift(sql_directory().parent, write=write))
    for line in found:
        print(line)
    took = f"{time.monotonic() - started:.1f} s"
    if found:
        print(f"drift: {len(found)} differences; {took}", file=sys.stderr)
        raise SystemExit(1)
    print(f"drift: none; {took}", file=sys.stderr)


if __name__ == "__main__":
    main()
