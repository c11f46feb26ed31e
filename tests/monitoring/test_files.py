"""The files of monitoring/ are what Prometheus and Grafana read, and each alert fires when it should."""

import json
import re
import subprocess

import pytest

from bench import dashboard
from dev.monitoring import FILES, PROGRAMS

ROOT = FILES.parent
ALERTS = (FILES / "alerts.yml").read_text()
DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
MOST_BYTES = 300_000
NAMES = ["Contention", "Refusals", "Replays", "AuditFailed", "AuditLate", "StatsUnavailable"]


def promtool(*arguments, folder=ROOT):
    done = subprocess.run([PROGRAMS / "promtool", *arguments], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_promtool_accepts_the_configuration_and_the_rules():
    status, output = promtool("check", "config", "monitoring/prometheus.yml")
    assert (status, "alerts.yml" in output) == (0, True), output
    status, output = promtool("check", "rules", "monitoring/alerts.yml")
    assert (status, f"{len(NAMES)} rules found" in output) == (0, True), output


def test_each_alert_fires_and_ends_as_it_should():
    status, output = promtool("test", "rules", "tests/monitoring/alerts_test.yml")
    assert status == 0, output


# For each threshold a wrong one, and the test of the rules that must notice it.
WRONG = {
    "contention of four": ("contention, waits that are over", "[15s])) > 1", "[15s])) > 4.5"),
    "contention of one": ("contention, waits that go on", "[15s])) > 1", "[15s])) >= 1"),
    "contention at once": ("contention, waits that are over", "for: 10s", "for: 0s"),
    "contention far too late": ("contention, waits that are over", "for: 10s", "for: 30s"),
    "refusals of one in ten": ("refusals that are few", "> 0.2\n", "> 0.09\n"),
    "refusals of two in three": ("refusals, most of the calls", "> 0.2\n", "> 0.66\n"),
    "ten refusals": ("refusals that are few", "failures_total[5m])) >= 20", "failures_total[5m])) >= 5"),
    "replays of one in fifty": ("replays", "> 0.05", "> 0.01"),
    "few replays": ("replays", "replays_total[5m])) >= 20", "replays_total[5m])) >= 5"),
    "an audit with one discrepancy": ("audit with discrepancies", "discrepancies > 0", "discrepancies > 2"),
    "an audit a day ago": ("late audit", "26 * 3600", "24 * 3600"),
    "statistics that are not kept": ("statistics that the server", "available == 0", "available == 7"),
    "a query that fails": ("a query that fails", '_.+"}) == 1', '_.+"}) == 7'),
    "an exporter that is gone": ("an exporter that is gone", 'up{job="inventory"} == 0\n', "vector(1) == 0\n"),
    "an exporter twice": ("an exporter that is gone", ' unless on () up{job="inventory"} == 0)', ")"),
    "metrics under other names": ("metrics under other names", "absent(inventory", "absent(up or inventory"),
    "calls that are not counted": ("calls that find no room", "total[15m]) > 0", "total[15m]) > 1e9"),
}


@pytest.mark.parametrize("what", WRONG)
def test_another_threshold_is_noticed(what, tmp_path):
    name, right, wrong = WRONG[what]
    assert right in ALERTS
    (tmp_path / "alerts.yml").write_text(ALERTS.replace(right, wrong))
    head, *tests = (ROOT / "tests/monitoring/alerts_test.yml").read_text().split("\n  - name: ")
    [chosen] = [test for test in tests if test.startswith(name)]
    text = "\n  - name: ".join([head, chosen]).replace("../../monitoring/alerts.yml", "alerts.yml")
    (tmp_path / "alerts_test.yml").write_text(text)
    status, output = promtool("test", "rules", "alerts_test.yml", folder=tmp_path)
    assert (status, "FAILED" in output) == (1, True), output


def test_each_alert_has_a_section_of_the_manual():
    assert re.findall(r"alert: Inventory(\w+)", ALERTS) == NAMES
    sections = re.findall(r"^#+ (Inventory\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert sections == [f"Inventory{name}" for name in NAMES]
    for name in NAMES:
        link = f"docs/operations.md#inventory{name.lower()}\n"
        assert ALERTS.count(link) == 2, "in the description and as the runbook"


def test_the_panels_fill_the_dashboard():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = []
    for panel in panels:
        place = panel["gridPos"]
        taken += [
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        ]
        assert panel["description"] and panel["datasource"]["uid"] == "${datasource}"
        assert [target["refId"] for target in panel["targets"]] == list("ABCD")[: len(panel["targets"])]
    assert len(set(taken)) == len(taken), "two panels overlap"
    assert {column for column, _ in taken} == set(range(24))
    assert len(taken) == 24 * (1 + max(row for _, row in taken)), "there is a gap"


def test_the_picture_can_be_drawn_again_and_is_small():
    assert {panel["type"] for panel in DASHBOARD["panels"]} == dashboard.DRAW.keys()
    assert dashboard.PICTURE.stat().st_size < MOST_BYTES
    assert f"({dashboard.PICTURE.name})" in (ROOT / "docs/operations.md").read_text()
