"""Sessions that have the stock table cached hear at once of a detach and of another attach.

Once a detach and a re-attach have committed, no sale that begins afterwards may come from the old table: not in
autocommit, not in the middle of a transaction, not after having sold before. A detach may wait for a running sale, and
it does not split one transaction between two tables without its knowing.
"""

import threading

import psycopg
import pytest

from shop import ONE, Aside, attach, left, refusal_of, refused_sale, sell, shop, stock_table, until, until_waiting


@pytest.fixture
def conn(db):
    """The session that attaches and detaches."""
    conn = db.connect()
    shop(conn, {ONE: 100}, type="integer", table="old")
    stock_table(conn, {ONE: 1000}, type="numeric(12,2)", table="new")
    return conn


def switch(conn, table="new"):
    """Detach and attach in one transaction."""
    with conn.transaction():
        conn.execute("SELECT detach_inventory()")
        attach(conn, table)


def test_a_cached_session_in_autocommit_sells_from_the_new_table(db, conn):
    """The plainest case, back and forth."""
    till = db.connect()
    for round in range(3):
        assert sell(till, ONE, 1)["old_quantity"] == 100 - round
        switch(conn, "new")
        assert sell(till, ONE, 1)["old_quantity"] == 1000 - round
        switch(conn, "old")


def test_a_detach_alone_is_heard_at_once(db, conn):
    """Between detach and the next attach there is no stock table for anybody."""
    till = db.connect()
    sell(till, ONE, 1)
    conn.execute("SELECT detach_inventory()")
    assert refused_sale(till, ONE, 1).reason == "not_attached"
    attach(conn, "new")
    assert sell(till, ONE, "0.5")["new_quantity"] == 999.5


def test_an_open_transaction_that_has_not_sold_yet_sells_from_the_new_table(db, conn):
    """Cached by an earlier transaction; the open one has begun, and has even taken a snapshot. It has not read the old
    table: for that the detach would wait, as any DROP TRIGGER does."""
    till = db.connect(autocommit=False)
    sell(till, ONE, 1)
    till.commit()
    till.execute("SELECT count(*) FROM pg_class")
    switch(conn)
    assert sell(till, ONE, 1)["old_quantity"] == 1000
    till.commit()
    assert (left(conn, ONE, "old"), left(conn, ONE, "new")) == (99, 999)


def test_an_open_transaction_that_has_sold_is_never_split_unawares(db, conn):
    """Either the detach waits for it, and it goes on selling from the old table; or the detach has committed, and its
    next sale comes from the new one. What may not be is a committed switch and a sale from the old table."""
    till = db.connect(autocommit=False)
    sell(till, ONE, 1)
    other = db.connect()
    switching = Aside(switch, other)
    waits = lambda: conn.execute(  # noqa: E731
        "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'", (other.info.backend_pid,)
    ).fetchone()
    committed = lambda: conn.execute(  # noqa: E731
        "SELECT 1 FROM pg_constraint WHERE conrelid = 'new'::regclass AND contype = 'c'"
    ).fetchone()
    until(lambda: waits() or committed(), "the switch waits or has committed")
    expected = 1000 if committed() else 99
    assert sell(till, ONE, 1)["old_quantity"] == expected
    till.commit()
    switching.result()
    assert sell(till, ONE, 1)["old_quantity"] == (999 if expected == 1000 else 1000)


def test_an_open_transaction_whose_sale_was_rolled_back_to_a_savepoint(db, conn):
    """The savepoint took the lock with it: the switch may go through, and the next sale must notice."""
    till = db.connect(autocommit=False)
    sell(till, ONE, 1)
    till.commit()
    till.execute("SELECT 1")
    till.execute("SAVEPOINT here")
    sell(till, ONE, 1)
    till.execute("ROLLBACK TO here")
    conn.execute("SET lock_timeout = '20s'")
    switch(conn)
    assert sell(till, ONE, 1)["old_quantity"] == 1000
    till.commit()
    assert (left(conn, ONE, "old"), left(conn, ONE, "new")) == (99, 999)


def test_a_refused_sale_in_an_open_transaction_and_then_a_switch(db, conn):
    """The same after a shortage that a savepoint caught."""
    till = db.connect(autocommit=False)
    till.execute("SAVEPOINT here")
    assert refused_sale(till, ONE, 500).sqlstate == "IV001"
    till.execute("ROLLBACK TO here")
    conn.execute("SET lock_timeout = '20s'")
    switch(conn)
    assert sell(till, ONE, 500)["old_quantity"] == 1000
    till.rollback()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_with_an_old_snapshot_sells_from_the_new_table_too(db, conn, level):
    """The attachment is not data of the snapshot: what counts is what is attached now."""
    till = db.connect(autocommit=False)
    till.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
    till.execute("SELECT 1 FROM pg_class LIMIT 1").fetchall()
    switch(conn)
    assert sell(till, ONE, 1)["old_quantity"] == 1000
    till.commit()
    assert (left(conn, ONE, "old"), left(conn, ONE, "new")) == (100, 999)


def test_a_sale_that_waits_for_a_detach_sells_from_what_is_attached_afterwards(db, conn):
    """The detacher has not yet committed when the sale begins."""
    till = db.connect()
    sell(till, ONE, 1)
    other = db.connect(autocommit=False)
    other.execute("SELECT detach_inventory()")
    sale = Aside(sell, till, ONE, 1)
    until_waiting(conn, till)
    attach(other, "new")
    other.commit()
    assert sale.result()["old_quantity"] == 1000
    assert left(conn, ONE, "old") == 99


def test_a_sale_that_waits_for_a_drop_hears_that_the_table_is_gone(db, conn):
    """DROP TABLE is uncommitted when the sale begins: afterwards a clear 55000, no crash."""
    till = db.connect()
    sell(till, ONE, 1)
    other = db.connect(autocommit=False)
    other.execute("DROP TABLE old")
    sale = Aside(sell, till, ONE, 1)
    until_waiting(conn, till)
    other.commit()
    answer = sale.refusal()
    assert (answer.sqlstate, answer.reason) == ("55000", "stock_table_dropped")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("ALTER TABLE old RENAME quantity TO on_hand", None),
        ("ALTER TABLE old RENAME TO older", None),
        ("ALTER TABLE old ALTER quantity TYPE numeric(12,2)", None),
        ("ALTER TABLE old DROP COLUMN quantity", "check_dropped"),
        ("ALTER TABLE old DROP CONSTRAINT old_pkey", "unique_index_missing"),
    ],
)
def test_a_sale_that_waits_for_an_alteration_acts_on_its_result(db, conn, change, expected):
    """The table changes while a sale with everything prepared is waiting at its door."""
    till = db.connect()
    sell(till, ONE, 1)
    other = db.connect(autocommit=False)
    other.execute(change)
    sale = Aside(sell, till, ONE, 1)
    until_waiting(conn, till)
    other.commit()
    if expected:
        answer = sale.refusal()
        assert (answer.sqlstate, answer.reason) == ("55000", expected)
    else:
        assert sale.result()["new_quantity"] == 98


def test_a_session_keeps_no_lock_on_a_companion_that_it_has_only_read(db, conn):
    """It deadlocked where it then waited for another table, in whose transaction this one was attached again."""
    till = db.connect(autocommit=False)
    sell(till, ONE, 1)
    held = (
        "SELECT relation::regclass::text, mode FROM pg_locks WHERE pid = %s AND relation IN"
        " (SELECT oid FROM pg_class WHERE relname LIKE 'old%%' AND relkind = 'r') ORDER BY 1, 2"
    )
    assert conn.execute(held, (till.info.backend_pid,)).fetchall() == [
        ("old", "RowExclusiveLock"), ("old", "RowShareLock"), ("old_movement", "RowExclusiveLock"),
    ]  # fmt: skip


def test_switching_under_fire_loses_and_invents_nothing(db, conn):
    """Six tills sell while the stock table is switched to and fro 40 times: each sale came from one table, wholly, and
    the only refusal heard is that nothing was attached at that moment."""
    tills = [db.connect() for _ in range(6)]
    done = threading.Event()

    def sells(till):
        sold, refusals = 0, []
        while not done.is_set():
            try:
                sell(till, ONE, 1)
                sold += 1
            except psycopg.Error as error:
                refusals.append(refusal_of(error))
        return sold, refusals

    conn.execute("UPDATE old SET quantity = 1000000")
    conn.execute("UPDATE new SET quantity = 1000000")
    sessions = [Aside(sells, till) for till in tills]
    try:
        for number in range(40):
            if number % 4:
                switch(conn, "new" if number % 2 else "old")
            else:
                conn.execute("SELECT detach_inventory()")
                attach(conn, "old")
    finally:
        done.set()
    outcomes = [session.result() for session in sessions]
    sold = sum(number for number, _ in outcomes)
    assert sold > 0
    assert left(conn, ONE, "old") + left(conn, ONE, "new") == 2_000_000 - sold
    heard = {answer for _, refusals in outcomes for answer in refusals}
    assert {answer.sqlstate for answer in heard} <= {"55000"}, heard
    assert {answer.reason for answer in heard} <= {"not_attached"}
