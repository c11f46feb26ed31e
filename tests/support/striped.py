"""What the tests of stripes share: calls, books, sessions of an isolation level, a totals worker that stands still.

`standing_worker` stops the process of the totals worker between two of its transactions, so that the rows of
striped items stay behind for as long as a test needs; it goes on at the end of the block.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from decimal import Decimal

import psycopg

from books import audit
from shop import ONE, left, refused_sale, until

RC, RR, SERIALIZABLE = (
    psycopg.IsolationLevel.READ_COMMITTED, psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE,
)  # fmt: skip


def stripe(conn, item=ONE, stripes=4):
    return conn.execute("SELECT stripe_inventory(%s, %s)", (item, stripes)).fetchone()[0]


def unstripe(conn, item=ONE):
    return conn.execute("SELECT unstripe_inventory(%s)", (item,)).fetchone()[0]


def available(conn, item=ONE) -> Decimal:
    return conn.execute("SELECT available_inventory(%s)", (item,)).fetchone()[0]


def detach(conn):
    conn.execute("SELECT detach_inventory()")


def shown(conn, item=ONE):
    """The row of the stock table comes to show what is available."""
    until(lambda: left(conn, item) == available(conn, item), "the row shows the total")


def in_books(conn, stock, ledger=True):
    """{item: quantity} is what the functions, the ledger, and soon the rows, say."""
    assert {key: available(conn, key) for key in stock} == {key: Decimal(quantity) for key, quantity in stock.items()}
    if ledger:
        sums = dict(conn.execute("SELECT inventory_id, sum(delta) FROM inventory_movement GROUP BY 1").fetchall())
        assert sums == {key: Decimal(quantity) for key, quantity in stock.items()}
    until(lambda: all(left(conn, key) == quantity for key, quantity in stock.items()), "the rows show the totals")
    if ledger:
        audit(conn)


def in_isolation(db, level, user="postgres"):
    """A session whose transactions begin with its first statement and have this isolation level."""
    session = db.connect(user=user, autocommit=False)
    session.isolation_level = level
    return session


def held_relations(conn, pid) -> int:
    """How many relations a process holds locks on."""
    locks = "SELECT count(*) FROM pg_locks WHERE pid = %s AND locktype = 'relation'"
    return conn.execute(locks, (pid,)).fetchone()[0]


def worker_at_rest(conn) -> int | None:
    """The process of this database's totals worker, where it has just begun its pause between two looks."""
    row = conn.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'inventory_ext totals'"
        " AND state = 'idle' AND clock_timestamp() - state_change < '100 ms'"
    ).fetchone()
    return row and row[0]


@contextmanager
def standing_worker(conn, seller=None, item=ONE):
    """While the block runs the totals worker does nothing, and holds no lock on a table.

    A sale of the striped item, which is refused, starts the worker; both connections must be in autocommit.
    """
    stopped = []

    def at_rest():
        # One that was about to end may have ended since the last sale.
        refused_sale(seller or conn, item, 1_000_000)
        return worker_at_rest(conn)

    def stop():
        pid = until(at_rest, "the totals worker pauses")
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
        if stands_still(pid) and held_relations(conn, pid) == 0:
            return True
        go_on(stopped.pop())
        return False

    until(stop, "the totals worker stands still")
    try:
        yield
    finally:
        for pid in stopped:
            go_on(pid)


def stands_still(pid) -> bool:
    until(lambda: state_of(pid) in "TZ-", "the process stops")
    return state_of(pid) == "T"


def state_of(pid) -> str:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "-"


def go_on(pid):
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
