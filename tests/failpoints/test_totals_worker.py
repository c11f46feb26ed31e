"""The totals worker ends, and an item is striped and sold at the same moment: the row still comes to show the total.

Runs on a build with the feature `failpoints` (tests/support/failpoints.py). The worker has found nothing that is
striped and is about to end; there, at the place `totals_over`, it waits for an advisory lock that the test holds. It
still counts as a worker, so a sale that comes now starts no other. Therefore the worker looks once more after it has
given its place away: without that second look no worker would write the total until some later call. The setting comes
from the database, because the worker is no session of the test.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from failpoints import ADVISORY_LOCK

ONE, TWO = (f"00000000-0000-4000-8000-{number:012d}" for number in (1, 2))
PATIENCE_SECONDS = 60


@pytest.fixture
def connect(server):
    """A function that connects to a fresh database, in which the worker stops before it ends."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        connection.execute("CREATE DATABASE shop")
        connection.execute("ALTER DATABASE shop SET inventory_ext.failpoint = 'totals_over'")

    def connect():
        return psycopg.connect(server.dsn("shop"), autocommit=True)

    with connect() as connection:
        connection.execute("CREATE EXTENSION inventory_ext")
        connection.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer)")
        connection.execute("INSERT INTO inventory VALUES (%s, 12), (%s, 12)", [ONE, TWO])
        connection.execute("SELECT attach_inventory('inventory')")
    return connect


def until(condition, what):
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up, f"never happened: {what}"
        time.sleep(0.005)


def workers(connection):
    """The workers of this database, and whether they wait at the place."""
    sql = """SELECT pid, coalesce(wait_event = 'advisory', false) FROM pg_stat_activity
              WHERE datname = current_database() AND backend_type = 'inventory_ext totals'"""
    return connection.execute(sql).fetchall()


def shown(connection, item=ONE):
    """What the row says; a plain read starts no worker."""
    return connection.execute("SELECT quantity FROM inventory WHERE id = %s", [item]).fetchone()[0]


def sell(connection, item, quantity):
    connection.execute("SELECT decrement_inventory(%s, %s)", [item, quantity])


def worker_that_is_about_to_end(connect):
    """A session that holds the lock, and the pid of the worker that has found no stock table any more."""
    holder = connect()
    holder.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
    with connect() as shop:
        shop.execute("SELECT stripe_inventory(%s, 4)", [ONE])
        sell(shop, ONE, 2)
        until(lambda: shown(holder) == 10, "the worker shows the first sale")
        shop.execute("SELECT detach_inventory()")
    until(lambda: [stopped for _, stopped in workers(holder)] == [True], "the worker stops before it ends")
    ((pid, _),) = workers(holder)
    return holder, pid


def test_an_item_that_is_striped_and_sold_while_the_worker_ends_is_shown(connect):
    holder, pid = worker_that_is_about_to_end(connect)
    with connect() as shop:
        shop.execute("SELECT attach_inventory('inventory')")
        shop.execute("SELECT stripe_inventory(%s, 4)", [TWO])
        sell(shop, TWO, 5)
    # It stands there for two seconds at a time.
    until(lambda: workers(holder) == [(pid, True)], "the sale has started no other worker")
    assert shown(holder, TWO) == 12
    holder.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])
    # No call comes any more.
    until(lambda: shown(holder, TWO) == 7, "the row shows the total")
    holder.close()


def test_a_sale_that_commits_after_the_worker_has_looked_again_is_shown(connect):
    """The transaction stripes and sells while the worker stands there, and is still open when it looks once more."""
    holder, _ = worker_that_is_about_to_end(connect)
    shop = connect()
    shop.execute("SELECT attach_inventory('inventory')")
    shop.execute("SELECT stripe_inventory(%s, 4)", [TWO])
    shop.execute("BEGIN")
    sell(shop, TWO, 5)
    holder.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])
    until(lambda: [stopped for _, stopped in workers(holder)] != [True], "the worker goes on")
    shop.execute("COMMIT")
    until(lambda: shown(holder, TWO) == 7, "the row shows the total")
    shop.close()
    holder.close()


def test_a_worker_with_nothing_to_do_ends_all_the_same(connect):
    holder, _ = worker_that_is_about_to_end(connect)
    holder.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])
    until(lambda: workers(holder) == [], "the worker ends")
    holder.close()


def test_a_worker_that_starts_while_a_session_looks_for_one_stays(connect):
    """Who looks has the worker's lock for a moment: a worker that began in that moment ended at once, and the row
    lagged until some later call. The one who looks here is terminated, so that nobody else starts a worker."""
    holder, looking, shop = connect(), connect(), connect()
    shop.execute("SELECT detach_inventory()")
    shop.execute("ALTER DATABASE shop RESET inventory_ext.failpoint")
    shop.execute("SELECT attach_inventory('inventory')")
    shop.execute("SELECT stripe_inventory(%s, 4)", [ONE])
    until(lambda: workers(holder) == [], "the worker of this call ends")
    holder.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
    with ThreadPoolExecutor() as threads:
        looking.execute("SET inventory_ext.failpoint = 'worker_sought'")
        looks = threads.submit(sell, looking, ONE, 1)
        waits = "SELECT wait_event = 'advisory' FROM pg_stat_activity WHERE pid = %s"
        pid = looking.info.backend_pid
        until(lambda: holder.execute(waits, [pid]).fetchone()[0], "a session looks for a worker")
        sell(shop, ONE, 2)
        holder.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])
        with pytest.raises(psycopg.OperationalError):
            looks.result()
    until(lambda: shown(holder) == 10, "the row shows the sale")
    for connection in (holder, shop):
        connection.close()
