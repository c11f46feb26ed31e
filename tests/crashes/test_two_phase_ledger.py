"""An order, its movements and its key are one with their transaction, however it ends: prepared, in savepoints, or
killed.

Two-phase commit with the decision from another session, savepoints that are kept and undone, and prepared orders that a
crash of the server outlives. A single sale in these is tested in test_transactions.py.
"""

from decimal import Decimal

import psycopg
import pytest

from books import audit, call, keys_kept, last_movement, movements, order, refused_order, steps
from dev.server import Server
from shop import ONE, TWO, Aside, attach, item, refused, sell, shop, stock_of, until_waiting

THREE = item(3)


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "10.00", TWO: "5.00", THREE: "1.00"})
    return conn


@pytest.fixture
def after(conn):
    return last_movement(conn)


@pytest.fixture
def till(db, conn):
    """The selling session, in transactions."""
    return db.connect(autocommit=False)


def prepared(till, name, work):
    """Runs `work` in a transaction of the till and prepares it; the name is the whole server's, so it carries the
    database's."""
    name = f"{till.info.dbname}_{name}"
    work(till)
    till.execute(f"PREPARE TRANSACTION '{name}'")
    till.rollback()  # tells psycopg that the transaction is no longer the session's
    return name


def whole_order(till):
    order(till, (TWO, 2), (ONE, 1), p_reference="order 1", p_idempotency_key="k1")
    call(till, "restock_inventory", p_inventory_id=THREE, p_quantity=4, p_reference="order 1")
    call(till, "transfer_inventory", p_from=ONE, p_to=THREE, p_quantity=3)
    till.execute("UPDATE inventory SET quantity = quantity + 0.5 WHERE id = %s", (TWO,))


@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
def test_a_prepared_order_is_decided_by_another_session(db, conn, till, after, ends):
    """Until then nothing of it is seen and its items stay locked; then all of it is there, or none."""
    name = prepared(till, "order", whole_order)
    assert movements(conn, after=after) == []
    assert keys_kept(conn) == []
    rival = db.connect()
    waiting = Aside(lambda: order(rival, (THREE, 1), (ONE, 1)))
    until_waiting(conn, rival)
    conn.execute(f"{ends} PREPARED '{name}'")
    waiting.result()
    if ends == "COMMIT":
        assert stock_of(conn) == {ONE: 5, TWO: Decimal("3.5"), THREE: 7}
        assert keys_kept(conn) == ["k1"]
        assert order(conn, (ONE, 1), (TWO, 2), p_reference="order 1", p_idempotency_key="k1")["replayed"] is True
        assert steps(conn, ONE, after=after) == [("sale", 10, 9), ("transfer", 9, 6), ("sale", 6, 5)]
    else:
        assert stock_of(conn) == {ONE: 9, TWO: 5, THREE: 0}
        assert keys_kept(conn) == []
        assert sorted(steps(conn, after=after)) == [("sale", 1, 0), ("sale", 10, 9)]
        assert "replayed" not in order(conn, (TWO, 1), p_idempotency_key="k1")
    audit(conn)


@pytest.mark.parametrize("ends", ["COMMIT", "ROLLBACK"])
def test_a_rival_with_the_key_of_a_prepared_order_waits_for_the_decision(db, conn, till, ends):
    """The key is held by no session any more, and still held."""
    name = prepared(till, "key", lambda till: order(till, (ONE, 1), p_idempotency_key="k"))
    rival = db.connect()
    waiting = Aside(lambda: order(rival, (ONE, 1), p_idempotency_key="k"))
    until_waiting(conn, rival)
    conn.execute(f"{ends} PREPARED '{name}'")
    assert ("replayed" in waiting.result()) == (ends == "COMMIT")
    assert stock_of(conn)[ONE] == 9
    audit(conn)


def test_the_session_that_prepared_goes_on_with_a_clean_slate(conn, till, after):
    """Nothing of the prepared order is left in it: its next movements are its own."""
    name = prepared(till, "first", whole_order)
    sold_now = item(9)
    conn.execute("INSERT INTO inventory VALUES (%s, 4)", (sold_now,))
    order(till, (sold_now, 1))
    till.commit()
    assert [m.item for m in movements(conn, after=after)] == [sold_now, sold_now]
    conn.execute(f"ROLLBACK PREPARED '{name}'")
    audit(conn)


def test_prepare_fails_whole(conn, till, after):
    """A deferred constraint that fails at PREPARE takes the order, its movements and its key along."""
    conn.execute("CREATE TABLE sold (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    whole_order(till)
    till.execute("INSERT INTO sold VALUES (1), (1)")
    assert refused(till, f"PREPARE TRANSACTION '{till.info.dbname}_bad'").sqlstate == "23505"
    till.rollback()
    assert last_movement(conn) == after
    assert keys_kept(conn) == []
    order(till, (ONE, 1), p_idempotency_key="k1")
    till.commit()
    assert steps(conn, after=after) == [("sale", 10, 9)]
    audit(conn)


def test_savepoints_keep_and_undo_orders(conn, till, after):
    """Released ones stay, undone ones vanish with their keys, and with the ones released within them."""
    order(till, (ONE, 1), (TWO, 1), p_idempotency_key="kept")
    till.execute("SAVEPOINT one")
    order(till, (ONE, 2), p_idempotency_key="undone")
    till.execute("SAVEPOINT two")
    till.execute("UPDATE inventory SET quantity = quantity - 0.25")
    till.execute("RELEASE two")
    assert refused_order(till, (ONE, 2), (TWO, 9)).sqlstate == "IV001"
    till.execute("ROLLBACK TO one")
    till.execute("SAVEPOINT three")
    order(till, (TWO, 2), p_idempotency_key="undone")
    till.execute("RELEASE three")
    till.commit()
    assert keys_kept(conn) == ["kept", "undone"]
    assert steps(conn, ONE, after=after) == [("sale", 10, 9)]
    assert steps(conn, TWO, after=after) == [("sale", 5, 4), ("sale", 4, 2)]
    audit(conn)


def test_prepared_with_savepoints(conn, till, after):
    """Both at once: the order in an undone savepoint is not in what is prepared."""

    def work(till):
        order(till, (ONE, 1))
        till.execute("SAVEPOINT here")
        order(till, (ONE, 5), (TWO, 5))
        till.execute("ROLLBACK TO here")
        sell(till, TWO, 1)

    conn.execute(f"COMMIT PREPARED '{prepared(till, 'savepoints', work)}'")
    assert sorted(steps(conn, after=after)) == [("sale", 5, 4), ("sale", 10, 9)]
    audit(conn)


def test_attach_and_detach_in_a_transaction_that_is_rolled_back(conn, till, after):
    """The ledger a transaction made or left goes back with it; so do the opening movements."""
    till.execute("SELECT detach_inventory()")
    till.execute("UPDATE inventory SET quantity = 1")
    till.execute("SAVEPOINT here")
    attach(till)
    assert len(movements(till, after=after)) == 2
    till.execute("ROLLBACK TO here")
    assert last_movement(till) == after
    till.rollback()
    sell(till, ONE, 1)
    till.commit()
    assert steps(conn, after=after) == [("sale", 10, 9)]
    audit(conn)


def test_prepared_orders_outlive_a_crash(server):
    """The server is stopped as by a power cut: one is committed afterwards, one rolled back, and both were whole."""
    with Server(pg=server.pg, settings={"fsync": "on"}) as own:
        with psycopg.connect(own.dsn(), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION inventory_ext")
            shop(conn, {ONE: "10.00", TWO: "5.00", THREE: "1.00", item(4): "8.00"})
        for name, keys in (("committed", (ONE, TWO)), ("undone", (THREE, item(4)))):
            with psycopg.connect(own.dsn()) as till:
                order(till, *[(key, 1) for key in keys], p_reference=name, p_idempotency_key=name)
                till.execute(f"PREPARE TRANSACTION '{name}'")
                till.rollback()
        own.stop("immediate")
        own.start()
        with psycopg.connect(own.dsn(), autocommit=True) as conn:
            assert keys_kept(conn) == []
            conn.execute("COMMIT PREPARED 'committed'")
            conn.execute("ROLLBACK PREPARED 'undone'")
            assert stock_of(conn) == {ONE: 9, TWO: 4, THREE: 1, item(4): 8}
            assert keys_kept(conn) == ["committed"]
            assert {m.reference for m in movements(conn) if m.kind == "sale"} == {"committed"}
            assert (
                order(conn, (ONE, 1), (TWO, 1), p_reference="committed", p_idempotency_key="committed")["replayed"]
                is True
            )
            audit(conn)
