"""The `helix` command: finds the part of the program that a word names and runs only that.

Parts are imported when they are called, so that `helix calls tail` does not pay for the server.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from helix.core.errors import HelixError, Misuse

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("helix.cli.up", "start Helix in the foreground"),
    "status": ("helix.cli.status", "say whether this home's Helix runs, and where"),
    "settings": ("helix.cli.settings", "list every setting with its value and meaning"),
    "doctor": ("helix.operations.doctor.cli", "look at everything and say what to do"),
    "db": ("helix.operations.cli", "plan, upgrade, check and draw the database"),
    "backup": ("helix.operations.backup.cli", "make, list, test and restore backups"),
    "retention": ("helix.operations.retention.cli", "what leaves the database: plan, run, runs"),
    "archive": ("helix.operations.archive.cli", "old requests: list, query, restore, verify"),
    "users": ("helix.cli.users", "accounts: add, list, suspend, erase"),
    "secrets": ("helix.operations.secrets.cli", "encryption keys: status, rotate, check, retire"),
    "audit": ("helix.operations.audit.cli", "sensitive operations: list, verify"),
    "keys": ("helix.cli.keys", "API keys: create, list, revoke"),
    "providers": ("helix.providers.cli", "providers of models: add, list, set, test, verify"),
    "models": ("helix.cli.models", "their models: list, sync, enable, alias, benchmarks"),
    "routes": ("helix.providers.cli_routes", "virtual models: list, add, set, remove"),
    "prices": ("helix.ledger.cli", "dated prices: list, set"),
    "budgets": ("helix.ledger.cli_budgets", "spending limits: list, set, change, remove"),
    "usage": ("helix.ledger.cli_usage", "what was used and what it cost, by model, day, user ..."),
    "reprice": ("helix.ledger.cli_reprice", "what a past month would cost by today's prices"),
    "reference": ("helix.cli.reference", "print the pages of docs/ that the code writes"),
    "tasks": ("helix.tasks.cli", "background work: list, watch, cancel, retry, redrive"),
    "worker": ("helix.tasks.cli_worker", "run background work in a process of its own"),
    "conversations": (
        "helix.conversations.cli",
        "conversations: list, show, replay, compress, snapshot, export",
    ),
    "memory": ("helix.memory.cli", "memories: add, search, forget, audit, undo, graph"),
    "debate": ("helix.cli.debate", "have models debate a question, and see if it paid"),
    "debates": ("helix.debates.cli", "debates: list, watch, transcript, cancel, value"),
    "panels": ("helix.debates.cli_panels", "named ensembles and debates, called as models"),
    "demo": ("helix.cli.demo", "see it work, without any key: debate"),
    "knowledge": ("helix.knowledge.cli", "documents: add, search, show, remove"),
    "calls": ("helix.gateway.cli", "recorded calls: tail, show"),
}
"""Each command's module, which has a `main(args) -> None`, and its one-line help."""


def _usage() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: helix COMMAND …", "", *lines, "", "`helix COMMAND --help` tells more."]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exits 0 when done, 1 when it failed, 2 when it was misused."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in {"-h", "--help", "help"}:
        print(_usage())
        return
    if args[0] in {"-V", "--version", "version"}:
        print(importlib.import_module("helix").__version__)
        return
    if args[0] not in COMMANDS:
        print(f"helix: unknown command {args[0]!r}\n\n{_usage()}", file=sys.stderr)
        raise SystemExit(2)
    try:
        importlib.import_module(COMMANDS[args[0]][0]).main(args[1:])
    except Misuse as exc:
        print(f"helix: {exc.message}", file=sys.stderr)
        raise SystemExit(2) from exc
    except HelixError as exc:
        print(f"helix: {exc.message}", file=sys.stderr)
        raise SystemExit(1) from exc
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
