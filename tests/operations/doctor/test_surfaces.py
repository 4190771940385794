"""The doctor as a person, a program and Prometheus meet it."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import uvicorn
import yaml
from prometheus_client.parser import text_string_to_metric_families

from helix import app as wiring
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database
from helix.core.instance import HomePaths
from helix.operations.doctor import CODES, Severity
from helix.operations.doctor.alerts import alert_files
from helix.operations.doctor.away import examine_without
from helix.operations.doctor.metrics import METRICS

ROOT = Path(__file__).parents[3]
NAME = re.compile(r"\bhelix_[a-z0-9_]+")
QUOTED = re.compile(r'"[^"]*"')


def doctor(url: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HELIX_", "DB_"))}
    return subprocess.run(
        [sys.executable, "-m", "helix", "doctor", "--home", str(home), *arguments],
        env=kept | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_exit_status_is_0_then_1_then_2_by_the_worst(
    database_url: str, owner: Connection, tmp_path: Path
) -> None:
    only = ("--only", "quarantine,spool,migrations")
    fine = doctor(database_url, tmp_path, *only)
    assert (fine.returncode, fine.stdout.count("ok ")) == (0, 3)
    assert fine.stderr.startswith("3 checks: 3 ok, 0 notice, 0 warning, 0 critical; ")
    spool = tmp_path / "spool"
    await asyncio.to_thread(spool.mkdir)
    (spool / "1.faulty").write_bytes(b"x")
    assert doctor(database_url, tmp_path, *only).returncode == 1
    await owner.execute("INSERT INTO quarantines (backup_name, reason) VALUES ('b', 'a drill')")
    worst = doctor(database_url, tmp_path, *only)
    assert worst.returncode == 2
    assert worst.stdout.splitlines()[:2] == [
        "CRITICAL  quarantine: " + worst.stdout.splitlines()[0].partition(": ")[2],
        "          do: helix backup release",
    ]


def test_database_that_is_away_is_critical_and_the_rest_is_told(tmp_path: Path) -> None:
    nobody = "postgresql://helix@127.0.0.1:1/helix"
    said = doctor(nobody, tmp_path, "--json")
    lines = {line["code"]: line for line in map(json.loads, said.stdout.splitlines())}
    assert said.returncode == 2
    assert lines["database"]["severity"] == "critical"
    assert lines["database"]["seen"].startswith("the database cannot be examined: ")
    assert lines.keys() == {"database", "disk_backups", "disk_archive", "spool"}
    only = doctor(nobody, tmp_path, "--only", "spool")
    assert [line[10:].partition(":")[0] for line in only.stdout.splitlines() if line[0] != " "] == [
        "database",
        "spool",
    ]


def test_disk_that_stopped_postgresql_is_named_out_of_its_log(tmp_path: Path) -> None:
    paths = HomePaths(tmp_path)
    paths.data.mkdir(parents=True)
    paths.postgres_log.parent.mkdir()
    full = 'PANIC:  could not write to file "pg_wal/xlogtemp.1": No space left on device'
    paths.postgres_log.write_text(f"LOG:  ready\n{full}\nLOG:  all server processes terminated\n")
    found = examine_without(
        load_settings({}, home=tmp_path), "away", clock=SystemClock(), keyring=None, only=CODES
    )
    away = found.findings[0]
    assert (away.code, away.severity, away.details) == (
        "database",
        Severity.CRITICAL,
        ({"log": full},),
    )
    assert "make room" in str(away.todo)


def test_home_that_was_never_made_has_nothing_to_look_at(tmp_path: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HELIX_", "DB_", "DATABASE"))}
    command = [sys.executable, "-m", "helix", "doctor", "--home", str(tmp_path / "none")]
    said = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (2, "")
    assert "start it with `helix up`" in said.stderr


def test_program_gets_a_line_for_each_finding(database_url: str, tmp_path: Path) -> None:
    said = doctor(database_url, tmp_path, "--json", "--only", "clock,partitions_ahead")
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert {line["code"] for line in lines} == {"clock", "partitions_ahead"}
    ahead = next(line for line in lines if line["code"] == "partitions_ahead")
    assert (ahead["severity"], ahead["value"], ahead["unit"]) == ("ok", 3, "months")


def test_unknown_code_is_misuse_in_one_line(database_url: str, tmp_path: Path) -> None:
    said = doctor(database_url, tmp_path, "--only", "health")
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert said.stderr.startswith("helix: there is no check health: there are database, ")


def test_alert_files_are_named_and_copied(tmp_path: Path) -> None:
    named = doctor("", tmp_path, "alerts")
    assert named.stdout.splitlines() == [
        str(ROOT / "ops/grafana/helix.json"),
        str(ROOT / "ops/prometheus/helix.rules.yml"),
    ]
    doctor("", tmp_path, "alerts", "--to", str(tmp_path / "here"))
    copied = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert copied == ["helix.json", "helix.rules.yml"]


# ---- HTTP and /metrics


@pytest.fixture
async def address(db: Database, tmp_path: Path) -> AsyncIterator[str]:
    """A server that looks at itself at once."""
    settings = load_settings({}, home=tmp_path / "home", probe_interval_s=0, doctor_interval_s=0.05)
    app = wiring.build(settings, db, Keyring([new_key()]), SystemClock())
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, ws="none", lifespan="on", log_config=None, access_log=False)
    )
    task = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
        await asyncio.sleep(0.005)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await task


async def scrape(address: str) -> dict[str, list[Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
        return {
            sample.name: [*()] + [s for s in family.samples if s.name == sample.name]
            for family in families
            for sample in family.samples
        }


async def examined(address: str) -> dict[str, list[Any]]:
    """Return the metrics once the doctor has looked."""
    async with asyncio.timeout(30):
        while True:
            found = await scrape(address)
            at = found.get("helix_doctor_examined_timestamp_seconds")
            if at and at[0].value > 0:
                return found
            await asyncio.sleep(0.05)


async def test_what_was_found_is_on_metrics_with_few_labels(address: str) -> None:
    found = await examined(address)
    severities = {s.labels["code"]: s.value for s in found["helix_doctor_severity"]}
    assert severities.keys() == set(CODES)
    assert (severities["migrations"], severities["quarantine"]) == (0, 0)
    assert found["helix_connections_used"][0].value >= 1
    assert found["helix_partition_months_ahead"][0].value == 3
    assert len(found["helix_table_bytes"]) == 10
    doctors = [s for name in METRICS for s in found.get(name, [])]
    assert len(doctors) < 80
    labels = {label for name in METRICS for s in found.get(name, []) for label in s.labels}
    assert labels <= {"volume", "table", "code"}


async def declared(address: str) -> set[str]:
    """Return the names of all series that a server may have, those without a sample too."""
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    names: set[str] = set()
    async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if line.startswith("# TYPE "):
                name, kind = line.split()[2:4]
                base = name.removesuffix("_total") if kind == "counter" else name
                names |= {base + ending for ending in endings.get(kind, [""])}
    return names


def metric_names(expression: str) -> set[str]:
    return set(NAME.findall(QUOTED.sub("", expression)))


async def test_every_metric_of_the_alerts_and_the_dashboard_is_there(address: str) -> None:
    there = await declared(address)
    dashboard, rules = alert_files()
    groups = yaml.safe_load(rules.read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"]]
    used = {name: metric_names(rule["expr"]) for rule in alerts for name in [rule["alert"]]}
    assert len(alerts) == len(used) >= 25
    board = json.loads(dashboard.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    used |= {
        panel["title"]: metric_names(" ".join(t["expr"] for t in panel["targets"]))
        for panel in panels
    }
    assert all(name == "HelixDown" or metrics for name, metrics in used.items())
    assert {name: sorted(m - there) for name, m in used.items() if m - there} == {}


def test_each_alert_has_a_severity_a_summary_and_a_runbook_that_leads_somewhere() -> None:
    _, rules = alert_files()
    for group in yaml.safe_load(rules.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"warning", "critical"}, rule["alert"]
            assert rule["annotations"]["summary"]
            runbook = rule["annotations"]["runbook"]
            for page, anchor in re.findall(r"(docs/\w+\.md)(?:#([\w-]+))?", runbook):
                text = (ROOT / page).read_text()
                headings = {
                    re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
                    for line in text.splitlines()
                    if line.startswith("#")
                }
                assert not anchor or anchor in headings, f"{rule['alert']}: {page}#{anchor}"
            for codes in re.findall(r"--only ([\w,]+)", runbook):
                assert set(codes.split(",")) <= set(CODES) | {"disk_"}, rule["alert"]


def test_dashboard_has_an_id_a_title_and_a_place_for_each_panel() -> None:
    board = msgspec.json.decode(alert_files()[0].read_bytes())
    ids = [panel["id"] for panel in board["panels"]]
    assert (board["uid"], len(set(ids))) == ("helix", len(ids))
    places = [tuple(panel["gridPos"][k] for k in "xy") for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert all(p["title"] and p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in board["panels"])
