"""Reading SQL text: statements, comments and named parameters.

One small scanner serves the query files (`queries.sql`), the migrations and the schema files.
It knows what PostgreSQL's lexer knows about where a token ends: quoted strings (standard and E''),
quoted identifiers, dollar quotes, line comments and nested block comments
(PostgreSQL documentation, "Lexical Structure"). It does not parse.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["NamedStatement", "Token", "named_statements", "scan", "split_statements", "strip"]

_WORD = re.compile(r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*")
_DOLLAR = re.compile(r"\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$")
_PARAM = re.compile(r":([a-z_][a-z0-9_]*)")
_NAME = re.compile(r"--\s*name:\s*([a-z_][a-z0-9_]*)\s*$")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of SQL text: `kind` is space, comment, string, word, param, semicolon or other."""

    kind: str
    text: str


def scan(sql: str) -> Iterator[Token]:
    """Yield the tokens of `sql`; joined, their texts are `sql` again.

    Raises ValueError when a string, identifier, comment or dollar quote does not end.
    """
    at = 0
    while at < len(sql):
        kind, end = _next_token(sql, at)
        yield Token(kind, sql[at:end])
        at = end


def _next_token(sql: str, at: int) -> tuple[str, int]:
    char = sql[at]
    if char.isspace():
        end = at + 1
        while end < len(sql) and sql[end].isspace():
            end += 1
        return "space", end
    if sql.startswith("--", at):
        newline = sql.find("\n", at)
        return "comment", len(sql) if newline < 0 else newline
    if sql.startswith("/*", at):
        return "comment", _end_of_block_comment(sql, at)
    if char == "'":
        escapes = at > 0 and sql[at - 1] in "eE" and (at < 2 or not sql[at - 2].isalnum())
        return "string", _end_of_quoted(sql, at, "'", backslash=escapes)
    if char == '"':
        return "string", _end_of_quoted(sql, at, '"', backslash=False)
    if char == "$" and (opening := _DOLLAR.match(sql, at)):
        closing = sql.find(opening.group(), opening.end())
        if closing < 0:
            raise ValueError(f"the dollar quote {opening.group()} does not end")
        return "string", closing + len(opening.group())
    if word := _WORD.match(sql, at):
        return "word", word.end()
    if sql.startswith("::", at):
        return "other", at + 2
    if param := _PARAM.match(sql, at):
        return "param", param.end()
    return ("semicolon" if char == ";" else "other"), at + 1


def _end_of_block_comment(sql: str, at: int) -> int:
    depth, end = 1, at + 2
    while depth:
        opened, closed = sql.find("/*", end), sql.find("*/", end)
        if closed < 0:
            raise ValueError("a block comment does not end")
        nested = 0 <= opened < closed
        depth += 1 if nested else -1
        end = (opened if nested else closed) + 2
    return end


def _end_of_quoted(sql: str, at: int, quote: str, *, backslash: bool) -> int:
    end = at + 1
    while end < len(sql):
        if backslash and sql[end] == "\\":
            end += 2
        elif sql[end] != quote:
            end += 1
        elif sql.startswith(quote, end + 1):
            end += 2
        else:
            return end + 1
    raise ValueError(f"a quotation opened with {quote} does not end")


def split_statements(sql: str) -> list[str]:
    """Return the statements of a script, each with the comments before it, without semicolons.

    Comments after the last statement are dropped. A body in BEGIN ATOMIC is not known to the
    scanner: write function bodies as dollar-quoted strings.
    """
    statements: list[str] = []
    parts: list[str] = []
    filled = False
    for token in scan(sql):
        if token.kind == "semicolon":
            if filled:
                statements.append("".join(parts).strip())
            parts, filled = [], False
            continue
        filled = filled or token.kind not in {"space", "comment"}
        parts.append(token.text)
    if filled:
        statements.append("".join(parts).strip())
    return statements


def strip(sql: str) -> str:
    """Return `sql` without comments, with each run of white space between tokens as one space."""
    parts: list[str] = []
    for token in scan(sql):
        if token.kind not in {"space", "comment"}:
            parts.append(token.text)
        elif parts and parts[-1] != " ":
            parts.append(" ")
    return "".join(parts).strip()


@dataclass(frozen=True, slots=True)
class NamedStatement:
    """A statement of a query file, ready for the driver.

    `sql` has $1, $2 … in place of `:name`; `params` gives the names in that order.
    """

    name: str
    sql: str
    params: tuple[str, ...]

    def arguments(self, values: dict[str, object]) -> Sequence[object]:
        """Return `values` in the order of the placeholders; raises TypeError on a wrong set."""
        if values.keys() != set(self.params):
            missing = sorted(set(self.params) - values.keys())
            unknown = sorted(values.keys() - set(self.params))
            raise TypeError(f"statement {self.name}: missing {missing}, unknown {unknown}")
        return [values[name] for name in self.params]


def named_statements(text: str) -> dict[str, NamedStatement]:
    """Read a query file: each statement follows a line `-- name: verb_noun`.

    Raises ValueError for a name used twice or a part without exactly one statement.
    """
    parts: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.splitlines(keepends=True):
        if heading := _NAME.match(line.strip()):
            if heading.group(1) in parts:
                raise ValueError(f"statement {heading.group(1)} is defined twice")
            current = parts[heading.group(1)] = []
        elif current is not None:
            current.append(line)
    return {name: _bind(name, "".join(lines)) for name, lines in parts.items()}


def _bind(name: str, text: str) -> NamedStatement:
    statements = split_statements(text)
    if len(statements) != 1:
        raise ValueError(f"statement {name}: expected one statement, found {len(statements)}")
    params: list[str] = []
    parts: list[str] = []
    for token in scan(statements[0]):
        if token.kind == "comment":
            continue
        if token.kind != "param":
            parts.append(token.text)
            continue
        if token.text[1:] not in params:
            params.append(token.text[1:])
        parts.append(f"${params.index(token.text[1:]) + 1}")
    return NamedStatement(name, "".join(parts).strip(), tuple(params))
