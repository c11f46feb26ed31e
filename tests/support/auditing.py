"""What the tests of the audit share: a shop with history, faults past the triggers, and what an audit finds."""

from __future__ import annotations

import json
from contextlib import contextmanager

from shop import item

COLUMNS = "kind, inventory_id, stripe, expected, actual, difference, after_movement, before_movement"


def audit(conn, key=None, full=False):
    """The discrepancies, each as a tuple of COLUMNS."""
    sql = f"SELECT {COLUMNS} FROM audit_inventory(%s::inventory_key, %s) ORDER BY 1, 2, 3, 7"
    return conn.execute(sql, (None if key is None else str(key), full)).fetchall()


def kinds(conn, key=None, full=False):
    return [found[0] for found in audit(conn, key, full)]


def digest(conn):
    return conn.execute("SELECT inventory_digest()").fetchone()[0]


def verify(conn, kept):
    """What verify_inventory finds, as (kind, movement_id, inventory_id)."""
    sql = "SELECT kind, movement_id, inventory_id FROM verify_inventory(%s) ORDER BY 1, 2, 3"
    return conn.execute(sql, (json.dumps(kept),)).fetchall()


@contextmanager
def replica(conn):
    """Without triggers, as a superuser can write."""
    conn.execute("SET session_replication_role = replica")
    yield
    conn.execute("RESET session_replication_role")


def past_the_triggers(conn, *statements):
    with replica(conn):
        for statement in statements:
            conn.execute(statement)


def history(conn, items=4, sales=5):
    """Sells one unit at a time; returns the movements of each item, oldest first."""
    for _ in range(sales):
        for number in range(1, items + 1):
            conn.execute("SELECT decrement_item(%s, 1)", (str(item(number)),))
    return movements(conn)


def movements(conn):
    """{item: [movement_id, …]}"""
    sql = "SELECT inventory_id::text, array_agg(movement_id ORDER BY movement_id) FROM inventory_movement GROUP BY 1"
    return dict(conn.execute(sql).fetchall())


def run(conn):
    """The newest run."""
    sql = (
        "SELECT is_full, checked_movements, checked_items, discrepancies, sealed, seal_number FROM inventory_audit "
        "ORDER BY run_id DESC LIMIT 1"
    )
    return conn.execute(sql).fetchone()
