"""`helix settings`: every setting, for people, as JSON lines, or as docs/settings.md."""

import os
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
import typer
from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from helix.core.config import Settings, load_settings
from helix.core.db import redacted_url
from helix.core.errors import Misuse

__all__ = ["SettingLine", "app", "main", "setting_lines"]

_UNITS = {"_s": "seconds", "_bytes_max": "bytes", "_max": "count", "_size": "count"}
_TYPES = {int: "integer", float: "number", str: "text", Path: "path", SecretStr: "secret"}
_MARKDOWN_HEAD = """\
# Settings

Read once at start, from the environment and from nowhere else. An unknown `HELIX_*` is refused. A
secret may come from a file instead: `NAME_FILE` holds its path. Options of a command win.

This page is generated: `helix settings --markdown > docs/settings.md`.

| Name | Type | Default | Range | Meaning |
|---|---|---|---|---|
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(args: list[str]) -> None:
    """Run `helix settings` with these arguments."""
    app(args, prog_name="helix settings")


class SettingLine(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say about one setting; `value` is masked when it is secret."""

    name: str
    type: str
    default: str
    range: str
    value: str
    help: str


@app.command()
def settings(
    home: Annotated[
        Path | None, typer.Option(help="Directory of the instance. [HELIX_HOME]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/settings.md; values are left out.")
    ] = False,
) -> None:
    """List every setting: name, type and unit, default, range, value (secrets masked), meaning."""
    if as_markdown:
        print(_markdown(setting_lines(Settings())), end="")
        return
    wrong: Misuse | None = None
    try:
        chosen = load_settings(os.environ, home=home)
    except Misuse as exc:  # the list is what helps now: print it with the defaults, then complain
        wrong, chosen = exc, Settings()
    lines = setting_lines(chosen)
    if as_json:
        print("\n".join(msgspec.json.encode(line).decode() for line in lines))
    else:
        print("\n".join(_paragraph(line) for line in lines))
    if wrong is not None:
        raise wrong


def setting_lines(chosen: Settings) -> list[SettingLine]:
    """Describe every setting in the order of the source, with the values of `chosen`."""
    return [
        SettingLine(
            name=_environment_name(name, field),
            type=_type_of(name, field),
            default=_shown(field.default),
            range=_range_of(field),
            value=_shown(getattr(chosen, name)),
            help=field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _environment_name(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"HELIX_{name}".upper()


def _type_of(name: str, field: FieldInfo) -> str:
    kinds: list[Any] = [field.annotation]
    if get_origin(field.annotation) in {Union, types.UnionType}:
        kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    text = ", ".join(_TYPES.get(kind, str(kind)) for kind in kinds if kind is not None)
    if text in {"integer", "number"}:
        unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), None)
        text += f", {unit}" if unit else ""
    return text


def _range_of(field: FieldInfo) -> str:
    bounds: dict[str, Any] = {}
    for rule in field.metadata:
        for name in ("ge", "gt", "le", "lt", "pattern"):
            if getattr(rule, name, None) is not None:
                bounds[name] = getattr(rule, name)
    if "pattern" in bounds:
        return str(bounds["pattern"]).strip("^$()").replace("|", ", ")
    if "gt" in bounds:
        upper = f", up to {bounds['le']}" if "le" in bounds else ""
        return f"above {bounds['gt']}{upper}"
    if "ge" in bounds:
        return f"{bounds['ge']} to {bounds['le']}" if "le" in bounds else f"{bounds['ge']} or more"
    return ""


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    text = str(value)
    return redacted_url(text) if "://" in text else text


def _paragraph(line: SettingLine) -> str:
    default = f"default {line.default}" if line.default else "no default"
    facts = "; ".join(part for part in (line.type, line.range, default) if part)
    return f"{line.name}={line.value}\n    {line.help} ({facts})"


def _markdown(lines: list[SettingLine]) -> str:
    rows = [
        "| "
        + " | ".join(
            cell.replace("|", "\\|") or "-"
            for cell in (
                f"`{line.name}`",
                line.type,
                f"`{line.default}`" if line.default else "",
                line.range,
                line.help,
            )
        )
        + " |"
        for line in lines
    ]
    return _MARKDOWN_HEAD + "\n".join(rows) + "\n"
