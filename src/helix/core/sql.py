"""Reading SQL text: statements, comments and named parameters.

One small scanner serves the query files (`queries.sql`), the migrations and the schema files.
It knows what PostgreSQL's lexer knows about where a token ends: quoted strings (standard and E''),
quoted identifiers, dollar quotes, line comments and nested block comments
(PostgreSQL documentation, "Lexical Structure"). It does not parse.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["NamedStatement", "Token", "named_statements", "scan", "split_statements", "strip"]

_WORD = r"[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*+"
_TAG = r"(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*+)?\$"
_ESCAPES = r"(?<=[eE])(?<![A-Za-z0-9\x80-\U0010ffff][eE])"
_TOKEN = re.compile(
    rf"""
      (?P<text>(?: \s | {_WORD} | ::
        | :(?![a-z_]) | -(?!-) | /(?!\*) | \$(?!{_TAG}) | [^\s;'":\-/$A-Za-z_\x80-\U0010ffff]
      )++)
    | (?P<semicolon>;)
    | (?P<comment>--[^\n]*+)
    | (?P<param>:[a-z_][a-z0-9_]*+)
    | (?P<string>
          {_ESCAPES}'[^'\\]*+(?:(?:''|\\.)[^'\\]*+)*+'
        | (?!{_ESCAPES})'[^']*+(?:''[^']*+)*+'
        | "[^"]*+(?:""[^"]*+)*+" )
    | (?P<block>/\*)
    | (?P<dollar>\${_TAG})
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_SPACE = re.compile(r"\s+", re.ASCII)
_NAME = re.compile(r"--\s*name:\s*([a-z_][a-z0-9_]*)\s*$")


class Token(NamedTuple):
    """A piece of SQL text: `kind` is comment, string, param, semicolon or text (all the rest)."""

    kind: str
    text: str


def scan(sql: str) -> Iterator[Token]:
    """Yield the tokens of `sql`; joined, their texts are `sql` again.

    Text runs on, with its words and white space, to the next token of another kind: a megabyte of
    SQL takes some hundredths of a second. Raises ValueError when a string, identifier, comment or
    dollar quote does not end.
    """
    at = 0
    while at < len(sql):
        found = _TOKEN.match(sql, at)
        if found is None:
            raise ValueError(f"a quotation opened with {sql[at]} does not end")
        kind, end = found.lastgroup or "text", found.end()
        if kind == "block":
            kind, end = "comment", _end_of_block_comment(sql, at)
        elif kind == "dollar":
            closing = sql.find(found.group(), end)
            if closing < 0:
                raise ValueError(f"the dollar quote {found.group()} does not end")
            kind, end = "string", closing + len(found.group())
        yield Token(kind, sql[at:end])
        at = end


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
        filled = filled or not (token.kind == "comment" or token.text.isspace())
        parts.append(token.text)
    if filled:
        statements.append("".join(parts).strip())
    return statements


def strip(sql: str) -> str:
    """Return `sql` without comments, with each run of white space between tokens as one space."""
    parts: list[str] = []
    spaced = True
    for kind, text in scan(sql):
        plain = text if kind != "comment" else " "
        if kind == "text":
            plain = _SPACE.sub(" ", text)
        if spaced:
            plain = plain.removeprefix(" ")
        if plain:
            parts.append(plain)
            spaced = plain.endswith(" ")
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
