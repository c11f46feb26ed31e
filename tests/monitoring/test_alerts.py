"""The alerts as an operator sees them: a real server in trouble, the exporter, and a real Prometheus."""

import time
from contextlib import suppress

import psycopg

from auditing import audit, past_the_triggers
from dev.monitoring import monitored
from load import Load
from shop import ONE, TWO, item
from watched import order

DUE_SECONDS = 30
# The sale holds its lock for 50 ms more, as one whose transaction does other things before it commits.
SLOW_SALE = "SELECT decrement_item(%s, 1), pg_sleep(0.05)"
SESSIONS = 5

CONTENTION = ("InventoryContention", "public.contended")
WRONG_STOCK = ("InventoryAuditFailed", "public.wrong")
LATE = ("InventoryAuditLate", "public.late")
NEVER = ("InventoryAuditLate", "public.never")
TROUBLE = {
    CONTENTION,
    WRONG_STOCK,
    LATE,
    ("InventoryRefusals", "public.refused"),
    ("InventoryReplays", "public.replayed"),
}


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
    settings = {"inventory_ext.stock_table": "public.contended"}
    with Load(watched.db, SLOW_SALE, (str(item(3)),), SESSIONS, settings):
        begin = time.monotonic()
        make_trouble(watched)
        watched.eventually(lambda: CONTENTION in watched.firing(), "the alert on contention")
        fired_after = time.monotonic() - begin
        watched.eventually(lambda: TROUBLE <= watched.firing(), "all alerts")
        assert watched.firing() == TROUBLE | {NEVER}
    print(f"contention: the alert fired {fired_after:.1f} s after the load began")
    assert fired_after < DUE_SECONDS
    ended = {CONTENTION, WRONG_STOCK, LATE}
    put_right(watched)
    ended_after = watched.eventually(lambda: not ended & watched.firing(), f"{ended} end")
    print(f"all that was put right ended {ended_after:.1f} s later")
    assert watched.firing() == TROUBLE - ended | {NEVER}


def test_an_exporter_that_is_gone_is_noticed(watched):
    """The alert is pending at once; alerts_test.yml shows that it fires after a minute."""
    with monitored(watched.db.server, "shop") as prometheus:
        watched.eventually(lambda: prometheus.query("inventory_statistics_available == 1"), "the statistics")
        assert prometheus.alerts("InventoryStatsUnavailable", "pending") == []
        prometheus.exporter.stop()
        found = lambda: prometheus.alerts("InventoryStatsUnavailable", "pending")  # noqa: E731
        watched.eventually(found, "the alert")
        assert [alert["job"] for alert in found()] == ["inventory"]
