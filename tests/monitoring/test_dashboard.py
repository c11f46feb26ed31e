"""What the alerts and the dashboard ask for is there, and the exporter shows no more than it should."""

import json
import re

import psycopg
import pytest

from dev.monitoring import FILES, ROLE
from load import Load
from shop import ONE, item, refused
from watched import ITEMS, order

DASHBOARD = json.loads((FILES / "dashboard.json").read_text())
ALL = {"$database": ".*", "$stock_table": ".*", "$__rate_interval": "20s"}  # as Grafana replaces them
HOT_ITEMS = 10
METRIC = re.compile(r"\b(?:inventory_\w+|sql_exporter_\w+|up)(?=[{\[\s)]|$)")
SLOW_SALE = "SELECT decrement_inventory(%s, 1), pg_sleep(0.02)"


def queries():
    """{title of the panel and letter of the query: PromQL}"""
    found = {}
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            promql = target["expr"]
            for variable, value in ALL.items():
                promql = promql.replace(variable, value)
            assert "$" not in promql
            found[f"{panel['title']} {target['refId']}"] = promql
    return found


@pytest.fixture(scope="module")
def busy(watched):
    """The shop while customers are in it, some of them in vain, with a retry and fifteen items that were sold out."""
    with watched.session("inventory") as conn:
        for number in range(1, ITEMS + 1):
            refused(conn, "SELECT decrement_item(%s, 1000000)", (str(item(number)),))
        for _ in range(2):
            conn.execute("SELECT decrement_inventory_batch(%s, 'order 2', 'key 2')", (order(ONE),))
    settings = {"inventory_ext.stock_table": "public.inventory"}
    with Load(watched.db, SLOW_SALE, (ONE,), sessions=3, settings=settings):
        yield watched


def test_each_query_of_the_dashboard_returns_data(busy):
    missing = queries()
    assert len(missing) >= len(DASHBOARD["panels"]) >= 12

    def all_return_data():
        for name, promql in list(missing.items()):
            if busy.prometheus.query(promql):
                del missing[name]
        return not missing

    try:
        busy.eventually(all_return_data, "each query returns data")
    except AssertionError:
        pytest.fail(f"no data: {missing}")


def test_what_the_panels_show_is_what_happens(busy):
    """Rates of a load whose extent is known: three sessions that sell one item in turn."""

    def value(name):
        return sum(found for _, found in busy.prometheus.query(queries()[name]))

    busy.eventually(lambda: value("Calls per second A") > 5, "sales")
    busy.eventually(lambda: 1 < value("Sessions that wait for an item A") <= 2.5, "two sessions wait at any time")
    busy.eventually(lambda: 0.02 <= value("Mean time of a call B") < 0.1, "a call waits for two others")
    assert 0 < value("Failed calls A") < 1


def test_the_names_are_those_of_the_exporter(busy):
    rules = [rule for group in busy.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    asked = {name for rule in rules for name in METRIC.findall(rule["query"])}
    asked |= {name for promql in queries().values() for name in METRIC.findall(promql)}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+)(?:{.*})?, (\w+)\)", variable["definition"]).groups()
            asked.add(metric)
            query = f'{metric}{{{label}!=""}}'
            busy.eventually(lambda query=query: busy.prometheus.query(query), query)
    assert len(asked) >= 20
    busy.eventually(lambda: asked <= set(busy.prometheus.ask("label/__name__/values")), f"all of {asked} are known")
    assert {rule["health"] for rule in rules} == {"ok"}


def test_the_number_of_items_is_limited(busy):
    with busy.db.connect() as conn:
        assert conn.execute("SELECT count(*) FROM inventory_hot_items").fetchone()[0] > HOT_ITEMS
    shown = f"count(inventory_hot_item_refusals_total) == {HOT_ITEMS}"
    busy.eventually(lambda: busy.prometheus.query(shown), "ten items")


def test_no_query_of_the_exporter_fails(busy):
    assert busy.prometheus.query("sql_exporter_last_scrape_failed == 0")
    assert busy.prometheus.query("sql_exporter_last_scrape_failed != 0") == []
    log = busy.prometheus.exporter.log_path.read_text()
    assert [line for line in log.splitlines() if re.search('"level":"(warn|error)"', line)] == []


def test_the_role_reads_statistics_and_nothing_else(busy):
    with busy.db.connect(ROLE) as conn:
        member = "SELECT string_agg(roleid::regrole::text, ' ') FROM pg_auth_members WHERE member = %s::regrole"
        assert conn.execute(member, (ROLE,)).fetchone() == ("pg_read_all_stats",)
        assert conn.execute("SELECT count(*) > 0 FROM inventory_stats").fetchone() == (True,)
        for sql in ("SELECT * FROM inventory", "SELECT * FROM inventory_audit", "SELECT reset_inventory_stats()"):
            assert refused(conn, sql).sqlstate == "42501"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT decrement_inventory(%s, 1)", (ONE,))
