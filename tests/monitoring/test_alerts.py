"""The alerts as an operator sees them: a real server in trouble, the exporter, and a real Prometheus."""

import time
from contextlib import contextmanager, suppress

import psycopg

from auditing import audit, past_the_triggers
from load import Load
from shop import ONE, TWO, item
from watched import order

DUE_SECONDS = 30
# The slow sale holds its lock for 50 ms more, as one whose transaction does other things before it commits.
SALE = "SELECT decrement_item(%s, 1)"
SLOW_SALE = "SELECT decrement_item(%s, 1), pg_sleep(0.05)"
SESSIONS = 5

CONTENTION = ("InventoryContention", "public.contended")
STUCK = ("InventoryContention", "public.stuck")
WRONG_STOCK = ("InventoryAuditFailed", "public.wrong")
LATE = ("InventoryAuditLate", "public.late")
NEVER = ("InventoryAuditLate", "public.never")
TROUBLE = {
    CONTENTION,
    STUCK,
    WRONG_STOCK,
    LATE,
    ("InventoryRefusals", "public.refused"),
    ("InventoryReplays", "public.replayed"),
}


@contextmanager
def contention(watched):
    """Five sessions sell one item in turn, and on another table three wait for a session that does not commit."""

    def load(table, sessions, sql):
        settings = {"inventory_ext.stock_table": f"public.{table}", "lock_timeout": "0"}
        return Load(watched.db, sql, (str(item(3)),), sessions, settings)

    with load("contended", SESSIONS, SLOW_SALE), load("stuck", 3, SALE), watched.session("stuck") as idle:
        idle.execute("BEGIN")
        idle.execute(SALE, (str(item(3)),))
        yield


def make_trouble(watched):
    """All of it but the contention."""
    with watched.session("refused") as conn:
        for _ in range(40):
            with suppress(psycopg.Error):
                conn.execute("SELECT decrement_item(%s, 1000000)", (str(ONE),))
    with watched.session("replayed") as conn:
        for _ in range(40):
            conn.execute("SELECT decrement_inventory_batch(%s, 'order 1', 'key 1')", (order(TWO),))
    with watched.session("wrong") as conn:
        past_the_triggers(conn, f"UPDATE wrong SET quantity = quantity - 2 WHERE id = '{ONE}'")
        assert [found[0] for found in audit(conn)] == ["on_hand_drift"]
    with watched.session("late") as conn:
        past_the_triggers(conn, "UPDATE late_audit SET finished_at = finished_at - interval '27 hours'")


def put_right(watched):
    with watched.session("wrong") as conn:
        conn.execute("SELECT reconcile_inventory(%s, p_apply => true, p_reason => 'counted')", (str(ONE),))
        assert audit(conn) == []
    with watched.session("late") as conn:
        assert audit(conn) == []


def test_alerts_fire_within_half_a_minute_and_end_with_their_cause(watched):
    watched.eventually(lambda: watched.firing() == {NEVER}, "a table that was never audited is late, and no other")
    begin = time.monotonic()
    with contention(watched):
        make_trouble(watched)
        watched.eventually(lambda: {CONTENTION, STUCK} <= watched.firing(), "the alerts on contention")
        fired_after = time.monotonic() - begin
        watched.eventually(lambda: TROUBLE <= watched.firing(), "all alerts")
        assert watched.firing() == TROUBLE | {NEVER}
    print(f"contention: the alerts fired {fired_after:.1f} s after the load began")
    assert fired_after < DUE_SECONDS
    ended = {CONTENTION, STUCK, WRONG_STOCK, LATE}
    put_right(watched)
    ended_after = watched.eventually(lambda: not ended & watched.firing(), f"{ended} end")
    print(f"all that was put right ended {ended_after:.1f} s later")
    assert watched.firing() == TROUBLE - ended | {NEVER}


def test_an_exporter_that_is_gone_is_noticed(watched):
    """The alert is pending at once; alerts_test.yml shows that it fires after a minute."""
    exporter = watched.prometheus.exporter

    def pending():
        return [labels["job"] for labels in watched.prometheus.alerts("InventoryStatsUnavailable", "pending")]

    watched.eventually(lambda: pending() == [], "nothing is missing")
    exporter.stop()
    watched.eventually(lambda: pending() == ["inventory"], "the alert")
    exporter.start(exporter.port)
    watched.eventually(lambda: pending() == [], "the end of the alert")
