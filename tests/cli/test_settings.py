"""`helix settings` lists what exists, masks what is secret, and makes docs/settings.md."""

import json
import subprocess
from collections.abc import Callable

from helix.cli.settings import setting_lines
from helix.core.config import Settings, load_settings

Helix = Callable[..., subprocess.CompletedProcess[str]]


def test_every_setting_has_a_name_a_type_and_a_meaning() -> None:
    lines = setting_lines(Settings())
    assert len(lines) == len(Settings.model_fields)
    assert [line.name for line in lines if not (line.type and line.help)] == []


def test_bounds_and_units_are_told() -> None:
    lines = {line.name: line for line in setting_lines(Settings())}
    port, wait = lines["HELIX_PORT"], lines["HELIX_RECORD_TIMEOUT_S"]
    assert (port.type, port.range, port.default) == ("integer", "0 to 65535", "8484")
    assert (wait.type, wait.range, wait.default) == ("number, seconds", "above 0, up to 60", "1.8")
    assert lines["HELIX_LOG_LEVEL"].range == "debug, info, warning, error"


def test_secrets_are_masked_everywhere() -> None:
    chosen = load_settings(
        {
            "DATABASE_URL": "postgresql://u:canary@h/d",
            "OPENAI_API_KEY": "canary",
            "OPENAI_BASE_URL": "https://u:canary@example.org/v1",
        }
    )
    values = {line.name: line.value for line in setting_lines(chosen)}
    assert values["DATABASE_URL"] == "***"
    assert values["OPENAI_API_KEY"] == "***"
    assert values["OPENAI_BASE_URL"] == "https://u:***@example.org/v1"
    assert "canary" not in str(values)


def test_values_in_force_are_printed_as_json_lines(helix: Helix) -> None:
    done = helix("settings", "--json", HELIX_PORT="9999")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["name"]: line["value"] for line in lines}["HELIX_PORT"] == "9999"


def test_wrong_setting_still_prints_the_list(helix: Helix) -> None:
    done = helix("settings", HELIX_PROT="9999")
    assert done.returncode == 2
    assert "HELIX_PORT=8484" in done.stdout
    assert done.stderr == (
        "helix: unknown setting HELIX_PROT: `helix settings` lists those that exist\n"
    )


def test_page_of_the_documentation_is_the_same_for_everyone(helix: Helix) -> None:
    one, two = helix("settings", "--markdown"), helix("settings", "--markdown", HELIX_PORT="9999")
    assert one.stdout == two.stdout
    assert "| `HELIX_PORT` | integer | `8484` | 0 to 65535 | " in one.stdout
