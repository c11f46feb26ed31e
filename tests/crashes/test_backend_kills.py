"""Sessions and the totals worker end in the middle of their work: the books stay exact, and another worker follows.

A worker that ends while a row does not show its stripes yet must be started again by the next call of any function,
in sessions that have been connected for long too: a shop that sells nothing but other items for the rest of the day
shows the right rows.
"""

import os
import random
import signal
import threading
import time
from contextlib import contextmanager

import psycopg
import pytest

from accountant import at_rest, problems
from books import lines, stripes_of
from clients import (
    PLAIN,
    STRIPED,
    clients_at_work,
    connect,
    open_shop,
    resent,
    server_with_a_shop,
    until_sold,
    worker_pid,
)
from shop import Aside, create_role, left, sell, until


@pytest.fixture
def conn(db):
    conn = db.connect()
    open_shop(conn)
    return conn


@pytest.fixture(scope="module")
def own():
    """A server to be crashed, and with a single process for background workers beside the replication launcher."""
    with server_with_a_shop(restart_after_crash="on", max_worker_processes="2") as server:
        yield server


def sell_while(conn, dsn, harm, times=20, sales_between=10):
    """Clients sell; `harm` is called again and again, each time after some further sales. The books must be exact."""
    with clients_at_work(dsn) as clients:
        for _ in range(times):
            until_sold(clients, sales_between)
            harm()
    assert problems(conn, clients) == []
    return clients


# Sessions under load


@pytest.mark.parametrize("how", ["pg_terminate_backend", "pg_cancel_backend"])
def test_sessions_that_are_ended_or_cancelled_at_any_moment_leave_exact_books(db, conn, how):
    """A call takes place once or not at all; what was acknowledged stays."""
    harm = f"""
        SELECT {how}(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
           AND state <> 'idle' ORDER BY random() LIMIT 3
    """
    clients = sell_while(conn, db.dsn, lambda: conn.execute(harm))
    assert resent(clients) > 0


def test_a_session_killed_by_signal_9_under_load_leaves_exact_books(own):
    """PostgreSQL restarts all its processes, and the clients go on by themselves."""
    with clients_at_work(lambda: own.dsn("shop")) as clients:
        for _ in range(2):
            until_sold(clients, 200)
            with connect(own) as conn:
                sessions = conn.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'client'").fetchall()
            os.kill(random.choice(sessions)[0], signal.SIGKILL)
        until_sold(clients, 200)
    assert resent(clients) > 0
    with connect(own) as conn:
        assert problems(conn, clients) == []


# The worker under load


@pytest.mark.parametrize("how", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_worker_that_is_ended_or_cancelled_under_load_is_replaced(db, conn, how):
    """Each sale is there, and at rest each row shows its stripes."""
    harm = f"""
        SELECT {how}(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND backend_type = 'inventory_ext totals'
    """
    sell_while(conn, db.dsn, lambda: conn.execute(harm), times=15, sales_between=50)


def test_a_worker_killed_by_signal_9_under_load_is_replaced(own):
    """SIGKILL restarts the whole server; the first sale afterwards starts another worker."""
    with clients_at_work(lambda: own.dsn("shop")) as clients:
        until_sold(clients, 200)
        with connect(own) as conn:
            os.kill(until(lambda: worker_pid(conn), "the worker runs"), signal.SIGKILL)
        until_sold(clients, 200)
    with connect(own) as conn:
        assert problems(conn, clients) == []


def test_sessions_that_start_the_worker_at_the_same_time_leave_no_row_behind(db, conn):
    """Without a worker, 1, 2 or 8 sessions sell at once. One worker starts, and no further call is needed."""
    sessions = [db.connect() for _ in range(8)]
    for session in sessions:
        sell(session, STRIPED[0], 1)
    for count in (1, 2, 8) * 4:
        end_worker(conn)
        for sale in [Aside(sell, session, STRIPED[0], 1) for session in sessions[:count]]:
            sale.result()
        assert at_rest(conn) == []
    assert problems(conn) == []


# The worker ended while a row is behind


@contextmanager
def row_is_locked(db, one):
    """Within the block the worker cannot write the row of the item."""
    with db.connect(autocommit=False) as holder:
        holder.execute("SELECT FROM inventory WHERE id = %s FOR UPDATE", (one,))
        yield
        holder.rollback()


def end_worker(conn):
    """Ends the worker and waits until it is gone."""
    worker = until(lambda: worker_pid(conn), "the worker runs")
    conn.execute("SELECT pg_terminate_backend(%s)", (worker,))
    until(lambda: worker_pid(conn) != worker, "the worker ends")


def end_worker_while_a_row_is_behind(db, conn, units=7):
    """Sells a striped item; the worker ends before it can write the row."""
    with row_is_locked(db, STRIPED[0]):
        sell(conn, STRIPED[0], units)
        end_worker(conn)
        assert left(conn, STRIPED[0]) - sum(stripes_of(conn, STRIPED[0]).values()) == units


WARM_CALLS = {
    "sells another item": f"decrement_inventory('{PLAIN[0]}', 1)",
    "asks for more than there is": f"decrement_inventory('{PLAIN[0]}', 999999999)",
    "orders other items": f"decrement_inventory_batch('{lines((PLAIN[0], 1), (PLAIN[1], 2))}')",
    "repeats an order with its key": f"decrement_inventory_batch('{lines((PLAIN[0], 1))}', NULL, 'again')",
    "restocks another item": f"restock_inventory('{PLAIN[0]}', 5)",
    "counts another item": f"adjust_inventory('{PLAIN[0]}', 500)",
    "transfers other items": f"transfer_inventory('{PLAIN[0]}', '{PLAIN[1]}', 1)",
    "reads another item": f"available_inventory('{PLAIN[0]}')",
    "reads the striped item": f"available_inventory('{STRIPED[0]}')",
    "reads another striped item": f"available_inventory('{STRIPED[1]}')",
}
PATIENCE_SECONDS = 8  # the contract says one or two


def repeat_until_exact(conn, session, call):
    """Repeats a call in a session until each row shows its stripes, for some seconds at most."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while (behind := at_rest(conn, seconds=0)) and time.monotonic() < give_up:
        call_whatever_it_says(session, call)
        time.sleep(0.05)
    return behind


def call_whatever_it_says(session, call):
    """A refusal is a call too."""
    try:
        session.execute(f"SELECT {call}")
    except psycopg.Error as error:
        assert error.sqlstate == "IV001", error


@pytest.fixture
def clerk(db, conn):
    """A role that may call the functions and nothing else."""
    clerk = create_role(conn, db, "clerk")
    conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{clerk}"')
    return clerk


@pytest.mark.parametrize("call", WARM_CALLS.values(), ids=WARM_CALLS)
def test_a_session_that_has_long_been_connected_starts_a_worker_that_was_killed(db, conn, clerk, call):
    """The session knows the shop already. After each call the row is exact a moment later."""
    warm = db.connect(user=clerk)
    call_whatever_it_says(warm, call)
    sell(warm, STRIPED[0], 1)
    assert at_rest(conn) == []
    end_worker_while_a_row_is_behind(db, db.connect())
    assert repeat_until_exact(conn, warm, call) == []
    assert problems(conn) == []


@pytest.mark.parametrize("seller", ["the same session", "another session"])
def test_a_worker_that_failed_in_a_trigger_is_started_again_once_the_reason_is_gone(db, conn, seller):
    """The trigger refuses the total, and then no longer does. Sales of another item are enough."""
    conn.execute(
        """
        CREATE TABLE closed (today bool);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF EXISTS (SELECT FROM closed) THEN RAISE 'no total today'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE OF quantity ON inventory FOR EACH ROW EXECUTE FUNCTION refuse()
        """
    )
    warm = db.connect()
    sell(warm, PLAIN[0], 1)
    sell(warm, STRIPED[1], 1)
    assert at_rest(conn) == []
    log = db.server.log_path
    begin = log.stat().st_size
    conn.execute("INSERT INTO closed VALUES (true)")
    sell(warm if seller == "the same session" else db.connect(), STRIPED[0], 3)
    until(lambda: b"no total today" in log.read_bytes()[begin:], "the worker fails")
    conn.execute("DELETE FROM closed")
    assert repeat_until_exact(conn, warm, WARM_CALLS["sells another item"]) == []
    assert problems(conn) == []


def test_a_worker_that_found_no_free_process_is_started_by_later_calls(own):
    """The only process for background workers serves another database. Once it is free, any call takes it."""
    with psycopg.connect(own.dsn(), autocommit=True) as admin:
        until_no_worker(admin)
        admin.execute("CREATE DATABASE other TEMPLATE shop")
    with psycopg.connect(own.dsn("other"), autocommit=True) as other, connect(own) as warm:
        sell(other, STRIPED[0], 1)
        until(lambda: worker_pid(other), "the worker of the other database runs")
        stop = threading.Event()
        busy = Aside(keep_busy, other, stop)
        try:
            sell(warm, STRIPED[0], 5)
            assert worker_pid(warm) is None
        finally:
            stop.set()
            busy.result()
        until_no_worker(other)
        assert repeat_until_exact(warm, warm, WARM_CALLS["sells another item"]) == []
        assert problems(warm) == []


def keep_busy(conn, stop):
    """Sales of a striped item, so that the worker of this database does not end."""
    while not stop.is_set():
        sell(conn, STRIPED[0], 1)


def until_no_worker(conn):
    workers = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'inventory_ext totals'"
    until(lambda: not conn.execute(workers).fetchone(), "no totals worker runs")


def test_a_worker_that_waits_for_a_lock_can_be_ended(db, conn):
    """DROP DATABASE and a fast shutdown must not wait for it."""
    with db.connect(autocommit=False) as holder:
        holder.execute("SELECT FROM inventory WHERE id = %s FOR UPDATE", (STRIPED[0],))
        sell(conn, STRIPED[0], 2)
        holder.execute("LOCK TABLE inventory IN ACCESS EXCLUSIVE MODE")
        end_worker(conn)
        holder.rollback()
    sell(conn, STRIPED[0], 1)
    assert problems(conn) == []
