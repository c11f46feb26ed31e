"""A cursor that has sold once, and then fails in a savepoint or a block that is undone: its first sale still counts.

PostgreSQL gives back what a failed cursor had locked, although the changes that it made before the savepoint stay part
of the transaction. Until that one ends, no session may detach or rewrite the table, or reckon with units that it has
taken.
"""

import time

import psycopg
import pytest

from accountant import at_rest
from books import audit
from shop import ONE, TWO, Aside, left, refusal_of, refused, sell, shop, until, until_waiting
from striped import available, detach, in_books, stripe, unstripe

WAYS = ("savepoint", "block")
SALE = f"decrement_inventory('{ONE}', n)"
# Each with a quantity that it takes, one that it refuses, how it refuses, what is left, and a companion that it writes.
CALLS = {
    "sale": (SALE, 7, 20_000, "IV001", 93, "inventory_movement"),
    "restock with key": (
        f"restock_inventory('{ONE}', n, NULL, 'key ' || n)",
        *(7, 2147483647, "22003", 107, "inventory_request"),
    ),
}


@pytest.fixture
def conn(db):
    return db.connect()


def cursor_that_fails(session, way, call=SALE, good=7, bad=20_000, sqlstate="IV001"):
    """In an open transaction: a cursor calls with one quantity, then with another, which is refused; that is undone."""
    query = f"SELECT ({call})::text FROM (VALUES ({good}), ({bad})) AS given (n)"
    if way == "savepoint":
        session.execute(f"DECLARE sales CURSOR FOR {query}")
        assert session.execute("FETCH sales").fetchone()
        session.execute("SAVEPOINT before")
        assert refused(session, "FETCH sales").sqlstate == sqlstate
        session.execute("ROLLBACK TO before")
    else:
        session.execute(
            f"""DO $do$
                DECLARE
                    sales CURSOR FOR {query};
                    answer text;
                BEGIN
                    OPEN sales;
                    FETCH sales INTO answer;
                    ASSERT answer IS NOT NULL;
                    BEGIN
                        FETCH sales INTO answer;
                        RAISE 'the second call was not refused';
                    EXCEPTION WHEN SQLSTATE '{sqlstate}' THEN NULL;
                    END;
                END $do$"""
        )


def opened(db, conn, striped=True, units="100", type="integer"):
    """The shop, ONE in two stripes or in its row, and a session with transactions."""
    shop(conn, {ONE: units, TWO: "100"}, type=type)
    if striped:
        stripe(conn, ONE, 2)
    return db.connect(autocommit=False)


def waits(session, sql, params=None):
    """The statement, tried, ends with its lock_timeout."""
    session.execute("SET lock_timeout = '200ms'")
    refusal = refused(session, sql, params)
    assert refusal.sqlstate == "55P03", f"it did not wait: {refusal}"
    session.execute("RESET lock_timeout")


def locks(conn, session) -> set:
    """The tables that a session's transaction may write, and its advisory locks, in the words of pg_locks."""
    rows = conn.execute(
        "SELECT coalesce(relation::regclass::text, objid || '/' || objsubid), mode FROM pg_locks"
        " WHERE pid = %s AND granted AND (locktype = 'advisory'"
        " OR relation IN (SELECT oid FROM pg_class WHERE relkind = 'r'))",
        (session.info.backend_pid,),
    )
    return {(name, mode) for name, mode in rows.fetchall() if mode != "AccessShareLock"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("striped", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_the_transaction_keeps_the_locks_of_the_call_that_stays(db, conn, name, striped, way):
    """Those on the tables that it has written and on the striped item, as a call of its own would keep them."""
    seller = opened(db, conn, striped)
    call, good, bad, sqlstate, end, companion = CALLS[name]
    cursor_that_fails(seller, way, call, good, bad, sqlstate)
    held = locks(conn, seller)
    tables = {"inventory", "inventory_movement", companion} | ({"inventory_stripe"} if striped else set())
    assert {(table, "RowExclusiveLock") for table in tables} <= held
    kept = [mode for lock, mode in held if "/" in lock]
    assert ("ShareLock" in kept and "ExclusiveLock" in kept) == striped
    for table in tables:
        with conn.transaction(force_rollback=True):
            assert refused(conn, f"LOCK TABLE {table} IN SHARE MODE NOWAIT").sqlstate == "55P03", table
    seller.commit()
    in_books(conn, {ONE: end, TWO: 100})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("striped", [True, False])
def test_detach_waits_for_it(db, conn, striped, way):
    seller, other = opened(db, conn, striped), db.connect()
    cursor_that_fails(seller, way)
    waits(other, "SELECT detach_inventory()")
    detached = Aside(detach, other)
    until_waiting(conn, other)
    seller.commit()
    detached.result()
    assert left(conn, ONE) == 93
    audit(conn)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("alter", "striped"), [
    ("inventory ALTER COLUMN quantity TYPE bigint", False),
    ("inventory_movement ADD COLUMN seen timestamptz DEFAULT clock_timestamp()", False),
    ("inventory_request ADD COLUMN seen timestamptz DEFAULT clock_timestamp()", False),
    ("inventory_stripe ADD COLUMN seen timestamptz DEFAULT clock_timestamp()", True),
], ids=["stock", "ledger", "keys", "stripes"])  # fmt: skip
def test_a_rewrite_of_a_table_waits_for_it(db, conn, alter, striped, way):
    """An ALTER TABLE that did not wait copied the rows without what the sale had written, which was lost."""
    seller, other = opened(db, conn, striped), db.connect()
    call, good, bad, sqlstate, end, _ = CALLS["restock with key"]
    cursor_that_fails(seller, way, call, good, bad, sqlstate)
    try:
        other.execute("SET lock_timeout = '200ms'")
        other.execute(f"ALTER TABLE {alter}")
    except psycopg.Error as error:
        assert error.sqlstate == "55P03"
    seller.commit()
    in_books(conn, {ONE: end, TWO: 100})
    repeated = conn.execute("SELECT restock_inventory(%s, 7, NULL, 'key 7') ->> 'replayed'", (ONE,)).fetchone()[0]
    assert repeated == "true"
    other.execute("RESET lock_timeout")
    other.execute(f"ALTER TABLE {alter.replace('seen', 'seen_again')}")
    sell(conn, ONE, 1)
    in_books(conn, {ONE: end - 1, TWO: 100})


@pytest.mark.parametrize("way", WAYS)
def test_no_other_session_cuts_or_joins_stripes_beside_it(db, conn, way):
    seller, other = opened(db, conn), db.connect()
    cursor_that_fails(seller, way)
    waits(other, "SELECT unstripe_inventory(%s)", (ONE,))
    waits(other, "SELECT stripe_inventory(%s, 3)", (TWO,))
    waits(other, "SELECT adjust_inventory(%s, 50)", (ONE,))
    seller.commit()
    in_books(conn, {ONE: 93, TWO: 100})


@pytest.mark.parametrize("way", WAYS)
def test_the_worker_stays_for_it(db, conn, way):
    """It ends after two seconds without a change, and no worker would bring the row up to date after the commit."""
    seller = opened(db, conn)
    cursor_that_fails(seller, way)
    workers = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'inventory_ext totals'"
    until(lambda: conn.execute(workers, (db.name,)).fetchone()[0], "there is a worker")
    enough = time.monotonic() + 3.2
    while time.monotonic() < enough:
        assert conn.execute(workers, (db.name,)).fetchone()[0] == 1
        time.sleep(0.1)
    seller.commit()
    assert at_rest(conn, 5) == []
    assert left(conn, ONE) == 93
    audit(conn)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("wanted", "end"), [(60, 10), (80, 70)])
def test_a_sale_that_needs_all_stripes_waits_for_it(db, conn, way, wanted, end):
    """Seventy are left beside it: sixty can be had, eighty cannot, and either is known when it has committed."""
    seller, other = opened(db, conn), db.connect()
    cursor_that_fails(seller, way, good=30)
    waits(other, "SELECT decrement_inventory(%s, %s)", (ONE, wanted))
    sale = Aside(sell, other, ONE, wanted)
    until_waiting(conn, other)
    seller.commit()
    if end == 10:
        assert sale.result()["deducted"] == 60
    else:
        refusal = sale.refusal()
        assert (refusal.sqlstate, refusal.facts["available"]) == ("IV001", 70)
    in_books(conn, {ONE: end, TWO: 100})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("striped", [True, False])
def test_a_prepared_transaction_keeps_them_too(db, conn, striped, way):
    """Also when the session is gone that had the cursor."""
    seller, other = opened(db, conn, striped), db.connect()
    cursor_that_fails(seller, way, good=30)
    seller.execute(f"PREPARE TRANSACTION '{db.name}'")
    seller.close()
    try:
        waits(other, "DO $$ BEGIN LOCK TABLE inventory IN SHARE MODE; END $$")
        waits(other, "SELECT detach_inventory()")
        waits(other, "SELECT adjust_inventory(%s, 50)", (ONE,))
    finally:
        conn.execute(f"COMMIT PREPARED '{db.name}'")
    assert refused(other, "SELECT decrement_inventory(%s, 80)", (ONE,)).facts["available"] == 70
    in_books(conn, {ONE: 70, TWO: 100})


@pytest.mark.parametrize("way", WAYS)
def test_a_second_delivery_waits_and_is_refused_beyond_the_limit(db, conn, way):
    """A smallint holds 32767: seven more fit, and seven more do not, whichever comes first."""
    seller, other = opened(db, conn, units="32760", type="smallint"), db.connect()
    cursor_that_fails(seller, way, f"restock_inventory('{ONE}', n)", sqlstate="22003")
    waits(other, "SELECT restock_inventory(%s, 7)", (ONE,))
    delivery = Aside(other.execute, "SELECT restock_inventory(%s, 7)", (ONE,))
    until_waiting(conn, other)
    seller.commit()
    refusal = delivery.refusal()
    assert (refusal.sqlstate, refusal.reason) == ("22003", "overflow")
    in_books(conn, {ONE: 32767, TWO: 100})
    unstripe(conn), detach(conn)
    assert left(conn, ONE) == 32767
    audit(conn)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_rolled_back_transaction_held_is_free(db, conn, way):
    """The transaction keeps its locks, and none of them is kept after it."""
    seller = opened(db, conn)
    for _ in range(3):
        cursor_that_fails(seller, way, good=30)
        seller.rollback()
        assert locks(conn, seller) == set()
    conn.execute("SET lock_timeout = '1s'")
    assert sell(conn, ONE, 80)["deducted"] == 80
    stripe(conn, ONE, 3), unstripe(conn)
    in_books(conn, {ONE: 20, TWO: 100})
    detach(conn)


SALE_OF_A_CRUMB = "SELECT decrement_inventory(%s, 0.0000001)"
DELIVERY = "SELECT restock_inventory(%s, 20)"


@pytest.mark.parametrize(("first", "second"), [(SALE_OF_A_CRUMB, DELIVERY), (DELIVERY, SALE_OF_A_CRUMB)])
def test_decimals_and_digits_that_come_at_once_leave_a_quantity(db, conn, first, second):
    """The sale leaves seven decimals, the delivery 22 digits before the point: together 29, of which 28 can be kept."""
    opener, other = opened(db, conn, units="999999999999999999990", type="numeric"), db.connect()
    opener.execute(first, (ONE,))
    other.execute("SET lock_timeout = '200ms'")
    refusal = refused(other, second, (ONE,))
    assert refusal.sqlstate in ("55P03", "22003")
    opener.commit()
    try:
        other.execute(second, (ONE,))
    except psycopg.Error as error:
        assert refusal_of(error).sqlstate == "22003"
    else:
        pytest.fail(f"the item has {available(conn)}")
    in_books(conn, {ONE: available(conn), TWO: 100})
    if first == SALE_OF_A_CRUMB:
        conn.execute("SELECT restock_inventory(%s, 1)", (ONE,))
    conn.execute("SELECT adjust_inventory(%s, 500.5)", (ONE,))
    conn.execute("SELECT restock_inventory(%s, 1)", (ONE,))
    assert unstripe(conn)["quantity"] == 501.5
    stripe(conn, ONE, 3), detach(conn)
    assert float(left(conn, ONE)) == 501.5
    audit(conn)
