"""The official clients do all that docs/compatibility.md says they do."""

import pytest

from tests.compat import anthropic_python, openai_python
from tests.compat.scenarios import SCENARIOS, npm_scenarios, table, told
from tests.compat.world import Scenario, World, run_all


@pytest.mark.parametrize(
    "scenarios",
    [
        pytest.param(openai_python.SCENARIOS, id="openai"),
        pytest.param(anthropic_python.SCENARIOS, id="anthropic"),
    ],
)
async def test_official_python_client(world: World, scenarios: dict[str, Scenario]) -> None:
    failed = await run_all(world, scenarios)
    assert not failed, "\n".join(f"== {name}\n{why}" for name, why in failed.items())


def test_page_tells_what_is_run() -> None:
    held = {
        "openai": frozenset(openai_python.SCENARIOS),
        "anthropic": frozenset(anthropic_python.SCENARIOS),
        "npm": npm_scenarios(),
    }
    for names in held.values():
        assert names <= SCENARIOS.keys()
    assert frozenset().union(*held.values()) == SCENARIOS.keys()
    assert told() == table(held), "write this into docs/compatibility.md:\n" + table(held)
