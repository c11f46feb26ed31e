"""A backend that ends between two statements of an order leaves no place, lock or counter of the statistics behind.

The order stops at a named place (tests/support/failpoints.py). Killed with -9, it takes the server's shared memory with
it: all begins at zero. Ended with SIGTERM, it is one failure, and nothing else of it is left.
"""

import os
import signal

import psycopg
import pytest

from failpoints import ADVISORY_LOCK, CALL, ITEMS, ORDER, PLACES, StoppedOrder, connect_again, wait_until_stopped
from shop import until

VIEWS = ("inventory_stats", "inventory_latency", "inventory_hot_items", "inventory_lock_queue")
COUNTED = """SELECT stock_table, calls, successes, failures, refusals FROM inventory_stats
              WHERE function = 'decrement_inventory_batch'"""
STRIPED = pytest.mark.parametrize("shop", [ITEMS[1:4]], ids=["striped"], indirect=True)


def value(connection, sql, arguments=()):
    return connection.execute(sql, arguments).fetchone()[0]


def since(connection):
    return value(connection, "SELECT stats_reset FROM inventory_stats_info WHERE available")


def workers(connection):
    """The totals workers of this database, and whether they wait at the place."""
    sql = """SELECT pid, coalesce(wait_event = 'advisory', false) FROM pg_stat_activity
              WHERE datname = current_database() AND backend_type = 'inventory_ext totals'"""
    return connection.execute(sql).fetchall()


def assert_nothing_is_left(connection):
    """No place, and no lock of a process that is gone."""
    assert connection.execute("SELECT * FROM inventory_lock_queue").fetchall() == []
    assert connection.execute("SELECT * FROM inventory_stats_locking()").fetchall() == []
    locks = "SELECT * FROM pg_locks AS l WHERE pid NOT IN (SELECT pid FROM pg_stat_activity)"
    until(lambda: connection.execute(locks).fetchall() == [], "no lock is left")
    assert value(connection, "SELECT not_counted FROM inventory_stats_info") == 0


def assert_all_begins_at_zero(connection, before):
    for view in VIEWS:
        assert value(connection, f"SELECT count(*) FROM {view}") == 0, view
    assert_nothing_is_left(connection)
    assert since(connection) > before
    connection.execute(CALL, [ORDER])
    assert connection.execute(COUNTED).fetchall() == [("public.inventory", 1, 1, 0, {})]


def stopped(shop, place):
    """A session that holds the lock of the places, and an order that waits for it."""
    holder = shop()
    holder.execute("SELECT count(available_inventory(id)) FROM inventory")
    if place == "worker_sought":
        until(lambda: workers(holder) == [], "the worker that the first stripes started ends")
    holder.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
    order = StoppedOrder(shop, place)
    wait_until_stopped(holder, order.pid)
    queue = holder.execute("SELECT * FROM inventory_lock_queue").fetchall()
    assert queue == [], "it waits, and for no item"
    return holder, order


def crash_begins_at_zero(shop, place):
    holder, order = stopped(shop, place)
    before = since(holder)
    os.kill(order.pid, signal.SIGKILL)
    order.thread.join()
    with connect_again(shop, holder) as connection:
        assert_all_begins_at_zero(connection, before)


def end_is_one_failure(shop, place):
    holder, order = stopped(shop, place)
    with holder:
        assert value(holder, "SELECT pg_terminate_backend(%s, 60000)", [order.pid])
        order.thread.join()
        assert isinstance(order.error, psycopg.errors.AdminShutdown)
        failed = ("public.inventory", 1, 0, 1, {"57P01": 1})
        assert holder.execute(COUNTED).fetchall() == [failed]
        assert_nothing_is_left(holder)
        holder.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])
        with shop() as connection:
            assert "replayed" not in value(connection, CALL, [ORDER])
        assert holder.execute(COUNTED).fetchall() == [("public.inventory", 2, 1, 1, {"57P01": 1})]
        sums = """SELECT sum(n) FROM inventory_latency, unnest(histogram) AS n
                   WHERE function = 'decrement_inventory_batch' AND measure = 'call'"""
        assert value(holder, sums) == 2


@pytest.mark.parametrize("place", PLACES)
def test_a_crash_of_an_order_begins_at_zero(shop, place):
    crash_begins_at_zero(shop, place)


@pytest.mark.parametrize("place", PLACES)
def test_the_end_of_an_order_is_one_failure(shop, place):
    end_is_one_failure(shop, place)


@STRIPED
def test_a_crash_of_an_order_that_looks_for_the_worker_begins_at_zero(shop):
    crash_begins_at_zero(shop, "worker_sought")


@STRIPED
def test_the_end_of_an_order_that_looks_for_the_worker_is_one_failure(shop):
    end_is_one_failure(shop, "worker_sought")


def worker_that_is_about_to_end(shop):
    """A session that holds the lock, and the worker that has found no stock table any more."""
    holder = shop()
    holder.execute("ALTER DATABASE shop SET inventory_ext.failpoint = 'totals_over'")
    until(lambda: workers(holder) == [], "the worker that the first stripes started ends")
    holder.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
    with shop() as connection:
        connection.execute("SELECT decrement_inventory(%s, 1)", [ITEMS[1]])
        shown = "SELECT quantity = 9 FROM inventory WHERE id = %s"
        until(lambda: value(holder, shown, [ITEMS[1]]), "the worker shows the sale")
        connection.execute("SELECT detach_inventory()")
    until(lambda: [waits for _, waits in workers(holder)] == [True], "the worker stops before it ends")
    return holder, workers(holder)[0][0]


@STRIPED
def test_a_crash_of_the_worker_begins_at_zero(shop):
    holder, pid = worker_that_is_about_to_end(shop)
    before = since(holder)
    os.kill(pid, signal.SIGKILL)
    with connect_again(shop, holder) as connection:
        connection.execute("ALTER DATABASE shop RESET inventory_ext.failpoint")
        connection.execute("SELECT attach_inventory('inventory')")
        assert_all_begins_at_zero(connection, before)


@STRIPED
def test_the_end_of_the_worker_counts_nothing(shop):
    """It calls none of the functions."""
    holder, pid = worker_that_is_about_to_end(shop)
    with holder:
        counters = "SELECT function, calls, failures FROM inventory_stats ORDER BY function"
        before = holder.execute(counters).fetchall()
        assert value(holder, "SELECT pg_terminate_backend(%s, 60000)", [pid])
        assert holder.execute(counters).fetchall() == before
        assert_nothing_is_left(holder)
