"""When a waiting sale is ended from outside, nothing is lost and, where a session is left, it goes on.

lock_timeout, statement_timeout, pg_cancel_backend, pg_terminate_backend of the waiter and of the holder. Each test
first sees the waiter wait, so that what it interrupts is the wait.
"""

import psycopg
import pytest

from shop import (
    ONE,
    Aside,
    allow_sales,
    create_role,
    left,
    refused,
    refused_sale,
    sell,
    shop,
    until,
    until_waiting,
)


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "10.00"})
    return conn


@pytest.fixture
def holder(db, conn):
    """A session that has sold 3 and not yet committed."""
    holder = db.connect(autocommit=False)
    sell(holder, ONE, "3")
    return holder


@pytest.fixture
def till(db, conn):
    """The session that will be interrupted: an unprivileged clerk's."""
    clerk = create_role(conn, db, "clerk")
    allow_sales(conn, clerk)
    return db.connect(user=clerk)


def assert_usable(till, conn, holder):
    """The till's session is itself again: its own role, its own rights, and it sells once the row is free."""
    assert till.execute("SELECT current_user = session_user").fetchone()[0] is True
    assert refused(till, "SELECT * FROM inventory").sqlstate == "42501"
    assert left(conn, ONE) == 10
    holder.commit()
    assert sell(till, ONE, "1") | {"inventory_id": None} == {
        "success": True,
        "inventory_id": None,
        "old_quantity": 7,
        "new_quantity": 6,
        "deducted": 1,
    }
    assert left(conn, ONE) == 6


def test_lock_timeout_gives_55p03_and_changes_nothing(conn, holder, till):
    """A caller who does not want to queue says so with lock_timeout."""
    till.execute("SET lock_timeout = '50ms'")
    assert refused_sale(till, ONE, "1").sqlstate == "55P03"
    till.execute("RESET lock_timeout")
    assert_usable(till, conn, holder)


def test_statement_timeout_gives_57014_and_changes_nothing(conn, holder, till):
    """The wait obeys statement_timeout."""
    till.execute("SET statement_timeout = '50ms'")
    assert refused_sale(till, ONE, "1").sqlstate == "57014"
    till.execute("RESET statement_timeout")
    assert_usable(till, conn, holder)


def test_cancel_while_waiting_gives_57014_and_changes_nothing(conn, holder, till):
    """pg_cancel_backend ends the wait and only the wait."""
    sale = Aside(sell, till, ONE, "1")
    until_waiting(conn, till)
    assert conn.execute("SELECT pg_cancel_backend(%s)", (till.info.backend_pid,)).fetchone()[0] is True
    assert sale.refusal().sqlstate == "57014"
    assert_usable(till, conn, holder)


def test_cancel_caught_by_a_savepoint_keeps_the_transaction(db, conn, till):
    """After a cancelled wait a transaction with a savepoint goes on, and keeps what it sold before."""
    conn.execute("INSERT INTO inventory SELECT 'aaaaaaaa-0000-0000-0000-000000000000', 5")
    holder = db.connect(autocommit=False)
    sell(holder, ONE, "3")
    till.autocommit = False
    sell(till, "aaaaaaaa-0000-0000-0000-000000000000", "2")
    till.execute("SAVEPOINT here")
    sale = Aside(sell, till, ONE, "1")
    until_waiting(conn, till)
    conn.execute("SELECT pg_cancel_backend(%s)", (till.info.backend_pid,))
    assert sale.refusal().sqlstate == "57014"
    till.execute("ROLLBACK TO here")
    holder.rollback()
    assert sell(till, ONE, "1")["old_quantity"] == 10
    till.commit()
    assert left(conn, ONE) == 9
    assert left(conn, "aaaaaaaa-0000-0000-0000-000000000000") == 3


def test_terminate_while_waiting_ends_that_session_and_nothing_else(db, conn, holder, till):
    """The waiter dies with 57P01; the holder's sale stands and the next session sells."""
    sale = Aside(sell, till, ONE, "1")
    until_waiting(conn, till)
    conn.execute("SELECT pg_terminate_backend(%s)", (till.info.backend_pid,))
    assert sale.refusal().sqlstate == "57P01"
    assert till.closed
    assert_usable(db.connect(user=till.info.user), conn, holder)


def test_terminating_the_holder_gives_its_units_back(conn, holder, till):
    """The holder's uncommitted 3 units return to the waiter, who sees all 10."""
    sale = Aside(sell, till, ONE, "8")
    until_waiting(conn, till)
    conn.execute("SELECT pg_terminate_backend(%s)", (holder.info.backend_pid,))
    answer = sale.result()
    assert (answer["old_quantity"], answer["new_quantity"]) == (10, 2)
    assert left(conn, ONE) == 2


def test_a_client_that_vanishes_after_its_sale_but_before_commit_loses_nothing(conn, holder):
    """A closed socket is a rollback: the unit comes back."""
    pid = holder.info.backend_pid
    holder.close()
    until(
        lambda: not conn.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone(),
        "the backend of the closed connection ends",
    )
    assert left(conn, ONE) == 10


def test_cancel_inside_a_trigger_of_the_owner_undoes_the_sale_and_restores_the_caller(db, conn, till):
    """The deduction was already made when the owner's trigger is cancelled: it is undone, and the role is the
    clerk's."""
    conn.execute(
        """
        CREATE TABLE gate (open bool);
        INSERT INTO gate VALUES (true);
        CREATE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM FROM gate FOR UPDATE; RETURN NULL; END $$;
        CREATE TRIGGER pass_gate AFTER UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION pass_gate()
        """
    )
    gatekeeper = db.connect(autocommit=False)
    gatekeeper.execute("SELECT FROM gate FOR UPDATE")
    sale = Aside(sell, till, ONE, "1")
    until_waiting(conn, till)
    conn.execute("SELECT pg_cancel_backend(%s)", (till.info.backend_pid,))
    assert sale.refusal().sqlstate == "57014"
    gatekeeper.rollback()
    assert till.execute("SELECT current_user = session_user").fetchone()[0] is True
    assert refused(till, "SELECT * FROM gate").sqlstate == "42501"
    assert left(conn, ONE) == 10
    assert sell(till, ONE, "1")["new_quantity"] == 9


def test_a_cancelled_wait_can_be_caught_in_plpgsql_only_by_name(conn, holder, till):
    """OTHERS does not catch a cancel; query_canceled does, and the block goes on as the clerk."""
    till.execute("SET statement_timeout = '50ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        till.execute(f"DO $$ BEGIN PERFORM decrement_inventory('{ONE}', 1); EXCEPTION WHEN OTHERS THEN NULL; END $$")
    till.execute("RESET statement_timeout")
    assert_usable(till, conn, holder)
