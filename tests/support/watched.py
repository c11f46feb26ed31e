"""A shop that is watched as docs/operations.md says, by the exporter and a Prometheus."""

import time
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from databases import Database
from dev.monitoring import Prometheus, monitored
from shop import ONE, TWO, item, shop

TABLES = ("inventory", "contended", "stuck", "refused", "replayed", "wrong", "late", "never")
ITEMS = 15
PATIENCE_SECONDS = 60  # an alert is due within half of it


@dataclass
class Watched:
    db: Database
    prometheus: Prometheus

    def session(self, table):
        return session_of(self.db, table)

    def firing(self):
        """{(alert, stock table)}"""
        found = [alert for alert in self.prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]
        return {(alert["labels"]["alertname"], alert["labels"].get("stock_table")) for alert in found}

    def eventually(self, condition, what):
        """Waits for a condition on what Prometheus has; returns the seconds until then."""
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() < begin + PATIENCE_SECONDS, f"never happened: {what}"
            time.sleep(0.1)
        return time.monotonic() - begin


@contextmanager
def watch_shop(server):
    """Each table has had a sale and an order, each but `never` an audit, and Prometheus knows of it."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE shop")
        conn.execute("ALTER DATABASE shop SET lock_timeout = '20s'")
    db = Database(server, "shop")
    with db.connect() as conn:
        conn.execute("CREATE EXTENSION inventory_ext")
        for table in TABLES:
            shop(conn, {item(number): "100000" for number in range(1, ITEMS + 1)}, table)
    for table in TABLES:
        with session_of(db, table) as conn:
            conn.execute("SELECT decrement_item(%s, 1)", (str(ONE),))
            conn.execute("SELECT decrement_inventory_batch(%s)", (order(TWO),))
            if table != "never":
                conn.execute("SELECT count(*) FROM audit_inventory()")
    with monitored(server, "shop") as prometheus:
        watched = Watched(db, prometheus)
        counted = f'count(inventory_function_calls_total{{function="decrement_inventory_batch"}}) == {len(TABLES)}'
        audited = f"count(inventory_audit_finished_timestamp_seconds > 0) == {len(TABLES) - 1}"
        for promql in (counted, audited):
            watched.eventually(lambda promql=promql: prometheus.query(promql), promql)
        yield watched


def session_of(db, table):
    """A connection whose calls mean that table."""
    conn = db.connect()
    conn.execute("SELECT set_config('inventory_ext.stock_table', %s, false)", (f"public.{table}",))
    return conn


def order(key, quantity=1):
    return f'[{{"inventory_id": "{key}", "quantity": {quantity}}}]'
