"""The totals worker: when it starts and ends, what it waits for, and that the rows come to show the totals."""

import time
from decimal import Decimal

import psycopg
import pytest

from books import call
from shop import ONE, Aside, left, sell, shop, until
from striped import available, stripe


@pytest.fixture
def conn(db):
    return db.connect()


def shown(conn, quantity, item=ONE):
    """The row of the stock table comes to show this."""
    until(lambda: left(conn, item) == Decimal(quantity), f"the row shows {quantity}")


def test_the_users_triggers_fire_when_the_total_is_shown(conn):
    shop(conn, {ONE: "12"}, type="integer")
    conn.execute(
        "CREATE TABLE seen (quantity integer);"
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO public.seen VALUES (NEW.quantity); RETURN NULL; END $$;"
        "CREATE TRIGGER see AFTER UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION see()"
    )
    stripe(conn)
    sell(conn, ONE, 4)
    until(lambda: conn.execute("SELECT 8 IN (SELECT quantity FROM seen)").fetchone()[0], "the trigger saw the total")


def totals_workers(conn):
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = %s"
    return conn.execute(sql, ("inventory_ext totals",)).fetchone()[0]


def working(conn):
    """The workers that hold the lock of the worker. Of sessions that sell at once several may start one; those that
    find the lock taken end."""
    # The third number of its lock is 65535, which a smallint shows so.
    sql = (
        "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
        "WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objsubid = -1 AND l.granted"
    )
    return conn.execute(sql).fetchone()[0]


def test_one_worker_comes_with_the_first_sale_and_ends_when_nothing_changes(db, conn):
    shop(conn, {ONE: "1000"}, type="integer")
    stripe(conn)
    tills = [db.connect() for _ in range(20)]
    for aside in [Aside(sell, till, ONE, 1) for till in tills]:
        aside.result()
    shown(conn, 980)
    assert working(conn) <= 1
    until(lambda: totals_workers(conn) == 0, "the worker ends")
    sell(conn, ONE, 1)
    shown(conn, 979)


def test_the_worker_waits_for_a_sale_that_is_not_committed(db, conn):
    """It may not go while a transaction that wrote stripes is open: no other process would show that sale."""
    shop(conn, {ONE: "10"}, type="integer")
    stripe(conn)
    till = db.connect(autocommit=False)
    sell(till, ONE, 1)
    give_up = time.monotonic() + 4  # twice as long as it stays without work
    while time.monotonic() < give_up:
        assert working(conn) == 1
        time.sleep(0.1)
    till.commit()
    shown(conn, 9)


def test_a_worker_that_found_nothing_striped_does_not_keep_the_next_one_from_starting(conn):
    """Striping that was rolled back had started one, which ended at once; for a second no other was started, nor later
    for a lone sale."""
    shop(conn, {ONE: "12"}, type="integer")
    with pytest.raises(ZeroDivisionError), conn.transaction():
        stripe(conn)
        sell(conn, ONE, 1)
        raise ZeroDivisionError
    stripe(conn)
    sell(conn, ONE, 1)
    shown(conn, 11)


def test_a_row_that_another_session_holds_is_shown_later(db, conn):
    shop(conn, {ONE: "10"}, type="integer")
    stripe(conn)
    holder = db.connect(autocommit=False)
    holder.execute("SELECT 1 FROM inventory FOR UPDATE")
    for _ in range(3):
        sell(conn, ONE, 1)
    assert available(conn) == 7 and left(conn, ONE) == 10
    holder.rollback()
    shown(conn, 7)


def test_a_worker_that_was_killed_is_replaced(conn):
    shop(conn, {ONE: "10"}, type="integer")
    stripe(conn)
    sell(conn, ONE, 1)
    until(lambda: totals_workers(conn) == 1, "there is a worker")
    conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'inventory_ext totals'")
    until(lambda: totals_workers(conn) == 0, "it is gone")
    more = lambda: call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1)  # noqa: E731
    until(lambda: more() and totals_workers(conn) == 1, "a later call starts one")
    until(lambda: left(conn, ONE) == available(conn), "the row shows the total")


def test_the_database_can_be_dropped_soon_after_a_sale(db, conn):
    """DROP DATABASE waits five seconds for others to go; the worker ends sooner."""
    name = f"{db.name}_short"
    admin = psycopg.connect(db.server.dsn(), autocommit=True)
    admin.execute(f'CREATE DATABASE "{name}"')
    with psycopg.connect(db.server.dsn(name), autocommit=True) as short:
        short.execute("CREATE EXTENSION inventory_ext")
        shop(short, {ONE: "10"}, type="integer")
        stripe(short)
        sell(short, ONE, 1)
    admin.execute(f'DROP DATABASE "{name}"')
    admin.close()
