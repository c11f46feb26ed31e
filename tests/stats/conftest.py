"""A shop whose statistics begin at zero, and what the views show of it."""

import pytest

from shop import item, shop


class Statistics:
    """The views, read by a connection of its own."""

    def __init__(self, conn):
        self.conn = conn

    def of(self, function, table="public.inventory"):
        """The row of inventory_stats as a dict; None where there is none."""
        cursor = self.conn.execute(
            "SELECT * FROM inventory_stats WHERE function = %s AND stock_table IS NOT DISTINCT FROM %s",
            (function, table),
        )
        names = [column.name for column in cursor.description]
        row = cursor.fetchone()
        return row and dict(zip(names, row, strict=True))

    def latency(self, function, measure="call"):
        cursor = self.conn.execute(
            "SELECT * FROM inventory_latency WHERE function = %s AND measure = %s", (function, measure)
        )
        names = [column.name for column in cursor.description]
        row = cursor.fetchone()
        return row and dict(zip(names, row, strict=True))

    def hot(self):
        return self.conn.execute(
            "SELECT inventory_id, lock_waits, lock_time, refusals FROM inventory_hot_items"
        ).fetchall()

    def queue(self):
        return self.conn.execute(
            "SELECT inventory_id, stripe, place, pid, blocked_by, waiting, reference FROM inventory_lock_queue"
        ).fetchall()

    def info(self):
        return self.conn.execute(
            "SELECT available, reason, stats_reset, not_counted FROM inventory_stats_info"
        ).fetchone()


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {item(number): "1000" for number in range(1, 21)})
    return conn


@pytest.fixture
def stats(db, conn):
    reader = db.connect()
    reader.execute("SELECT reset_inventory_stats()")
    return Statistics(reader)
