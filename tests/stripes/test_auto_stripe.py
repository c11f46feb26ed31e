"""Stripes by themselves: a contended item is divided while sales go on, and put together again; nothing is lost."""

import os
import random
import threading
import time

import psycopg
import pytest

from auditing import audit
from databases import Database
from dev.server import Server
from shop import ONE, TWO, Aside, item, sell, shop, until

STOCK = 100_000
PG = os.environ.get("PG", "18")


@pytest.fixture(scope="module")
def server():
    """A server on which no transaction can be prepared."""
    preload = {} if int(PG) >= 17 else {"shared_preload_libraries": "inventory_ext"}
    settings = {"max_prepared_transactions": "0", "full_page_writes": "off", "inventory_ext.write_path": "auto"}
    with Server(pg=PG, settings=settings | preload) as running:
        yield running


@pytest.fixture(scope="module")
def template(server):
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE template_inventory")
    with psycopg.connect(server.dsn("template_inventory"), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION inventory_ext")
    return "template_inventory"


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {item(number): str(STOCK) for number in range(1, 6)})
    conn.execute(f"ALTER DATABASE {db.name} SET inventory_ext.auto_stripe = on")
    return conn


def stripes(conn, key=ONE):
    return conn.execute("SELECT count(*) FROM inventory_stripe WHERE inventory_id = %s", (key,)).fetchone()[0]


def contend(db, sessions=8, seconds=20, until_striped=True, work=None):
    """Sessions that sell one item until it is striped; returns the units that each has sold."""
    give_up = time.monotonic() + seconds

    def till(number):
        session, sold = db.connect(), 0
        while time.monotonic() < give_up:
            with session.transaction():
                sell(session, ONE, 1)
                session.execute("SELECT pg_sleep(0.002)")
            sold += 1
            if until_striped and sold % 5 == 0 and stripes(session):
                return sold
        return sold

    return [call.result() for call in [Aside(till, number) for number in range(sessions)]]


def contend_in_vain(db):
    """Sessions that sell one item, and roll back each sale, with the divisions that it made."""

    def till():
        session = db.connect()
        for _ in range(200):
            with session.transaction(force_rollback=True):
                sell(session, ONE, 1)
                session.execute("SELECT pg_sleep(0.001)")

    for call in [Aside(till) for _ in range(8)]:
        call.result()


def total(conn, key=ONE):
    return conn.execute("SELECT available_inventory(%s::uuid)", (key,)).fetchone()[0]


def test_a_contended_item_is_divided_and_nothing_is_lost(db, conn):
    sold = sum(contend(db))
    assert stripes(conn) == 16
    assert total(conn) == STOCK - sold
    assert stripes(conn, TWO) == 0
    assert audit(conn) == []
    kinds = conn.execute("SELECT DISTINCT kind FROM inventory_movement WHERE inventory_id = %s", (ONE,)).fetchall()
    assert {kind for (kind,) in kinds} == {"opening", "sale", "transfer"}


def test_it_is_put_together_when_it_is_quiet(db, conn):
    sold = sum(contend(db))
    until(lambda: stripes(conn) == 0, "the stripes are put together")
    assert conn.execute("SELECT quantity FROM inventory WHERE id = %s", (ONE,)).fetchone() == (STOCK - sold,)
    sell(conn, ONE, 1)
    assert audit(conn, full=True) == []


@pytest.mark.parametrize("setting", ["auto_stripe = off", "write_path = sql", "track = off"])
def test_nothing_is_divided_where_it_is_off_or_cannot_be(db, conn, setting):
    conn.execute(f"ALTER DATABASE {db.name} SET inventory_ext.{setting}")
    contend(db, seconds=3)
    assert stripes(conn) == 0


def wait_times(db, times):
    """So many waits of one call for another, as fast as they can follow each other, until the item is divided."""
    with db.connect(autocommit=False) as holder, db.connect() as waiter, db.connect() as watcher:
        for _ in range(times):
            if stripes(watcher):
                return
            sell(holder, ONE, 1)
            call = Aside(sell, waiter, ONE, 1)
            until(lambda: watcher.execute("SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted",
                                          (waiter.info.backend_pid,)).fetchone(), "it waits")  # fmt: skip
            holder.commit()
            call.result()


def test_fewer_than_twenty_waits_within_a_second_divide_nothing(db, conn):
    for _ in range(4):
        wait_times(db, 15)
        assert stripes(conn) == 0
        time.sleep(1.1)
    for _ in range(20):  # where the machine is slow, the twenty may take longer than a second
        wait_times(db, 25)
        if stripes(conn):
            break
    assert stripes(conn) == 16
    assert audit(conn, full=True) == []


def test_an_item_that_sells_ten_times_a_second_stays_divided(db, conn):
    contend(db)
    end, sold = time.monotonic() + 5, 0
    while time.monotonic() < end:
        sell(conn, ONE, 1)
        sold += 1
    assert sold > 100, "the machine is too slow for this test"
    assert stripes(conn) == 16
    for _ in range(40):
        time.sleep(0.5)
        sell(conn, ONE, 1)
        if not stripes(conn):
            break
    assert stripes(conn) == 0, "two a second are few"
    assert audit(conn, full=True) == []


def test_an_item_that_an_owner_has_striped_stays_so(db, conn):
    conn.execute("SELECT stripe_inventory(%s::text, 4)", (str(ONE),))
    for _ in range(5):
        sell(conn, ONE, 1)
    time.sleep(4)
    assert stripes(conn) == 4


def test_a_division_that_is_rolled_back_leaves_no_trace(db, conn):
    contend_in_vain(db)
    assert stripes(conn) == 0 and total(conn) == STOCK
    sell(conn, ONE, 1)
    assert audit(conn, full=True) == []


def test_every_kind_of_call_goes_on_while_items_are_divided_and_put_together(db, conn):
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    over, least, give_up = threading.Event(), time.monotonic() + 8, time.monotonic() + 60

    def act(session, chosen):
        one, other = chosen.sample([ONE, ONE, TWO, item(3)], 2) if chosen.random() < 0.5 else (ONE, TWO)
        if one == other:
            other = item(4)
        what = chosen.random()
        if what < 0.6:
            sell(session, ONE, chosen.randint(1, 3))
        elif what < 0.7:
            lines = f'[{{"inventory_id": "{one}", "quantity": 1}}, {{"inventory_id": "{other}", "quantity": 2}}]'
            session.execute("SELECT decrement_inventory_batch(%s::jsonb)", (lines,))
        elif what < 0.78:
            session.execute("SELECT restock_inventory(%s::text, 2)", (str(one),))
        elif what < 0.84:
            session.execute("SELECT transfer_inventory(%s::text, %s::text, 1)", (str(one), str(other)))
        elif what < 0.88:
            session.execute("SELECT adjust_inventory(%s::text, %s)", (str(one), chosen.randint(50_000, 60_000)))
        elif what < 0.93:
            session.execute("UPDATE inventory SET quantity = quantity + 1 WHERE id = %s", (one,))
        else:
            assert total(session, one) > 0
        if chosen.random() < 0.5:
            session.execute("SELECT pg_sleep(0.003)")

    def till(number):
        chosen, session = random.Random(seed + number), db.connect()
        while not over.is_set():
            if chosen.random() < 0.02:
                time.sleep(chosen.random() * 2)
            level = "REPEATABLE READ" if chosen.random() < 0.1 else "READ COMMITTED"
            try:
                with session.transaction(force_rollback=chosen.random() < 0.1):
                    session.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
                    for _ in range(chosen.randint(1, 3)):
                        act(session, chosen)
            except psycopg.Error as error:
                # A direct write to a striped item, two that wait for each other, an older snapshot.
                assert error.sqlstate in ("55000", "40P01", "40001"), (error.sqlstate, error)

    seen = set()
    calls = [Aside(till, number) for number in range(10)]
    while time.monotonic() < least or (seen != {0, 16} and time.monotonic() < give_up):
        seen.add(stripes(conn))
        assert audit(conn) == []
    over.set()
    for call in calls:
        call.result()
    assert seen == {0, 16}, "it was divided meanwhile"
    assert audit(conn, full=True) == []
    for number in range(1, 6):
        key = item(number)
        opening, moved = conn.execute(
            "SELECT sum(new_quantity - old_quantity) FILTER (WHERE kind = 'opening'),"
            " sum(new_quantity - old_quantity) FILTER (WHERE kind <> 'opening')"
            " FROM inventory_movement WHERE inventory_id = %s", (key,)
        ).fetchone()  # fmt: skip
        assert opening + (moved or 0) == total(conn, key)


def test_a_direct_write_that_waited_for_the_division_is_refused(db, conn):
    """It found the item in its row, and would write a quantity that no stripe knows of."""
    give_up = time.monotonic() + 20

    def correct():
        session, written = db.connect(), 0
        while time.monotonic() < give_up and not stripes(session):
            try:
                session.execute("UPDATE inventory SET quantity = quantity + 1000 WHERE id = %s", (ONE,))
                written += 1
            except psycopg.Error as error:
                assert error.sqlstate == "55000", error
        return written

    corrections = [Aside(correct) for _ in range(3)]
    sold = sum(contend(db))
    added = 1000 * sum(call.result() for call in corrections)
    assert stripes(conn) == 16 and total(conn) == STOCK - sold + added
    assert audit(conn, full=True) == []


def test_nothing_is_divided_where_transactions_can_be_prepared():
    """One may be prepared, and be committed after a restart by a session that does not know of the division."""
    preload = {} if int(PG) >= 17 else {"shared_preload_libraries": "inventory_ext"}
    with Server(pg=PG, settings={"max_prepared_transactions": "5"} | preload) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as admin:
            admin.execute("CREATE EXTENSION inventory_ext; ALTER DATABASE postgres SET inventory_ext.auto_stripe = on")
        other = Database(running, "postgres", None)
        with other.connect() as conn:
            shop(conn, {ONE: str(STOCK)})
            contend(other, seconds=4)
            assert stripes(conn) == 0


def test_an_open_division_holds_up_no_other_item(db, conn):
    """The first division of a table writes its row of the configuration."""
    conn.execute(f"ALTER DATABASE {db.name} SET inventory_ext.auto_stripe = off")
    with db.connect(autocommit=False) as holder:
        holder.execute("SET inventory_ext.auto_stripe = on")
        rivals = [Aside(contend, db, 1, 5, False) for _ in range(6)]
        until(lambda: divides(holder), "the holder divides the item")
        sold = [Aside(sells_two, db) for _ in range(6)]
        assert [call.result() for call in sold] == [50] * 6
        assert stripes(conn, TWO) == 0, "its division would have to wait"
        holder.commit()
    units = sum(sum(rival.result()) for rival in rivals)
    assert stripes(conn) == 16 and total(conn) <= STOCK - units
    assert audit(conn, full=True) == []


def divides(holder):
    sell(holder, ONE, 1)
    if stripes(holder):
        return True
    holder.commit()
    return False


def sells_two(db):
    session = db.connect()
    session.execute("SET inventory_ext.auto_stripe = on; SET lock_timeout = '5s'")
    for _ in range(50):
        with session.transaction():
            sell(session, TWO, 1)
            session.execute("SELECT pg_sleep(0.002)")
    return 50


@pytest.mark.parametrize(
    "obstacle",
    [
        "ALTER TABLE inventory_stripe ADD CHECK (quantity < 0)",
        "ALTER TABLE inventory_stripe_total ADD CHECK (quantity < 0)",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE USING ERRCODE = ''SH0P1''; END';"
        "CREATE TRIGGER no BEFORE INSERT ON inventory_stripe_total FOR EACH ROW EXECUTE FUNCTION no()",
    ],
)
def test_an_item_that_cannot_be_divided_is_sold_from_its_row(db, conn, obstacle):
    conn.execute(obstacle)
    sold = sum(contend(db, seconds=3))
    assert stripes(conn) == 0 and total(conn) == STOCK - sold
    assert audit(conn, full=True) == []


def test_what_an_owner_has_striped_by_hand_after_a_division_that_was_rolled_back_stays_so(db, conn):
    """The note that the item had divided itself outlived the division."""

    contend_in_vain(db)
    conn.execute("SELECT stripe_inventory(%s::text, 4)", (str(ONE),))
    sell(conn, ONE, 1)
    time.sleep(4)
    assert stripes(conn) == 4


def test_stripes_are_put_together_after_a_merge_that_was_rolled_back(db, conn):
    contend(db)
    with conn.transaction(force_rollback=True):
        conn.execute("SELECT unstripe_inventory(%s::text)", (str(ONE),))
    assert stripes(conn) == 16
    until(lambda: stripes(conn) == 0, "the stripes are put together")


def test_a_division_that_fails_is_not_tried_again_at_once(db, conn):
    """It failed for each call that waited: a twelfth of the sales were left."""
    conn.execute("ALTER TABLE inventory_stripe_total ADD CHECK (quantity < 0)")
    begin = db.server.log_path.stat().st_size
    contend(db, seconds=3)
    log = db.server.log_path.read_bytes()[begin:].decode(errors="replace")
    assert log.count("cannot be divided into stripes") == 1
    dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'inventory_stripe'"
    assert conn.execute(dead).fetchone()[0] <= 256


@pytest.mark.parametrize("table", ["inventory_stripe", "inventory_stripe_total"])
def test_a_division_waits_for_nobody_who_has_a_table(db, conn, table):
    """The call that divides has the row that all others want."""
    with db.connect(autocommit=False) as holder:
        holder.execute(f"LOCK TABLE {table} IN SHARE MODE")
        sold = contend(db, seconds=4)
        assert min(sold) > 10 and stripes(conn) == 0
    contend(db)
    assert stripes(conn) == 16


def test_a_worker_that_was_ended_is_started_by_a_sale_of_another_item(db, conn):
    contend(db)
    until(lambda: conn.execute("SELECT quantity FROM inventory WHERE id = %s", (ONE,)).fetchone()[0] == total(conn),
          "the row shows the total")  # fmt: skip
    conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'inventory_ext totals'"
                 " AND datname = current_database()")  # fmt: skip
    for _ in range(60):
        sell(conn, TWO, 1)
        time.sleep(0.2)
        if stripes(conn) == 0:
            break
    assert stripes(conn) == 0


def test_nothing_is_divided_where_no_worker_can_be_started():
    """Who would put it together again?"""
    preload = {} if int(PG) >= 17 else {"shared_preload_libraries": "inventory_ext"}
    with Server(pg=PG, settings={"max_prepared_transactions": "0", "max_worker_processes": "0"} | preload) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as admin:
            admin.execute("CREATE EXTENSION inventory_ext; ALTER DATABASE postgres SET inventory_ext.auto_stripe = on")
        other = Database(running, "postgres", None)
        with other.connect() as conn:
            shop(conn, {ONE: str(STOCK)})
            contend(other, seconds=4)
            assert stripes(conn) == 0


def test_calls_that_are_cancelled_while_items_are_divided_leave_their_sessions_usable(db, conn):
    """A cancel within a division left the session in a failed transaction, with the row locked."""
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    over, cancelled = threading.Event(), []

    def till(number):
        chosen, session = random.Random(seed + number), db.connect()
        while not over.is_set():
            try:
                sell(session, ONE if chosen.random() < 0.8 else TWO, 1)
            except psycopg.Error as error:
                assert error.sqlstate == "57014", (error.sqlstate, error)
                cancelled.append(number)
            assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            if chosen.random() < 0.02:
                time.sleep(chosen.random() * 1.5)

    calls = [Aside(till, number) for number in range(10)]
    end, chosen = time.monotonic() + 8, random.Random(seed)
    while time.monotonic() < end:
        conn.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                     " AND pid <> pg_backend_pid() AND state = 'active' ORDER BY random() LIMIT 1")  # fmt: skip
        time.sleep(chosen.random() * 0.02)
    over.set()
    for call in calls:
        call.result()
    assert cancelled
    assert audit(conn, full=True) == []


def test_what_an_owner_has_striped_by_hand_after_a_division_stays_so(db, conn):
    contend(db)
    conn.execute("SELECT stripe_inventory(%s::text, 4)", (str(ONE),))
    time.sleep(4)
    assert stripes(conn) == 4


@pytest.mark.parametrize(
    "row", ["inventory WHERE id = %s", "inventory_stripe WHERE inventory_id = %s AND stripe = 16",
            "inventory_stripe_total WHERE inventory_id = %s"]
)  # fmt: skip
def test_a_merge_that_would_wait_for_a_locked_row_holds_up_no_sale(db, conn, row):
    """It waited for a stripe with the stock table locked, so that no other item sold."""
    contend(db)
    with db.connect(autocommit=False) as reader:
        reader.execute(f"SELECT FROM {row} FOR SHARE", (ONE,))
        slowest, end = 0.0, time.monotonic() + 5
        while time.monotonic() < end:
            begin = time.monotonic()
            sell(conn, TWO, 1)
            slowest = max(slowest, time.monotonic() - begin)
            time.sleep(0.02)
        assert stripes(conn) == 16
    assert slowest < 1.5, "the patience of the worker is two seconds"
    until(lambda: stripes(conn) == 0, "the stripes are put together")


def test_a_database_can_be_dropped_soon_after_a_division(db, conn):
    contend(db)
    name = f"{db.name}_gone"
    with psycopg.connect(db.server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        admin.execute(f"ALTER DATABASE {name} SET inventory_ext.auto_stripe = on")
        gone = Database(db.server, name, None)
        with gone.connect() as session:
            session.execute("CREATE EXTENSION inventory_ext")
            shop(session, {ONE: str(STOCK)})
            contend(gone)
            assert stripes(session) == 16
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                      " AND backend_type = 'client backend'", (name,))  # fmt: skip
        admin.execute(f"DROP DATABASE {name}")
