"""Two-phase commit: a prepared call is whole, holds what it must, and ends as it is decided, through a crash too.

Sales, orders with keys, deliveries, gathered stripes and savepoints are prepared and then committed or rolled back by
another session. Meanwhile their items, keys and stripes are held, and the sum of everything is exact afterwards.
"""

import time
from decimal import Decimal

import pytest

from accountant import at_rest, problems
from books import call_text, keys_kept, lines, order
from clients import ITEMS, PLAIN, STRIPED, connect, kill_everything, open_shop, server_with_a_shop, worker_pid
from shop import Aside, left, refused, sell, until, until_waiting

KEYED = "decrement_inventory_batch('{}', 'the order', 'the key')".format(lines((PLAIN[1], 2), (PLAIN[2], 1)))
# What each transaction does, statement by statement, and what it changes if it is committed.
TRANSACTIONS = {
    "a sale": ([f"SELECT decrement_inventory('{PLAIN[0]}', 1)"], {PLAIN[0]: -1}),
    "an order with a key": ([f"SELECT {KEYED}"], {PLAIN[1]: -2, PLAIN[2]: -1}),
    "a sale of a striped item": ([f"SELECT decrement_inventory('{STRIPED[0]}', 1)"], {STRIPED[0]: -1}),
    "a sale of a striped item with a key": (
        ["SELECT set_config('inventory_ext.idempotency_key', 'striped', true)",
         f"SELECT decrement_inventory('{STRIPED[0]}', 3)"], {STRIPED[0]: -3},
    ),
    "a delivery to a striped item": ([f"SELECT restock_inventory('{STRIPED[1]}', 50)"], {STRIPED[1]: 50}),
    "a sale that gathers stripes": ([f"SELECT decrement_inventory('{STRIPED[2]}', 700)"], {STRIPED[2]: -700}),
    "savepoints": (
        [f"SELECT decrement_inventory('{PLAIN[3]}', 1)",
         "SAVEPOINT undone",
         f"SELECT decrement_inventory('{PLAIN[3]}', 100)",
         f"SELECT decrement_inventory('{STRIPED[0]}', 5)",
         "ROLLBACK TO undone",
         f"SELECT transfer_inventory('{PLAIN[3]}', '{PLAIN[4]}', 2)"], {PLAIN[3]: -3, PLAIN[4]: 2},
    ),
    "a direct write": ([f"UPDATE inventory SET quantity = quantity + 7 WHERE id = '{PLAIN[5]}'"], {PLAIN[5]: 7}),
}  # fmt: skip


@pytest.fixture
def conn(db):
    conn = db.connect()
    open_shop(conn, stock=1000)
    return conn


def prepare(connection, name, statements):
    """Prepares a transaction in a session that then ends; returns its name, which is unique in the whole server."""
    name = f"{connection.info.dbname} {name}"
    with connection:
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PREPARE TRANSACTION '{name}'")
    return name


def decide(conn, ending, names):
    for name in names:
        conn.execute(f"{ending} PREPARED '{name}'")


def available(conn):
    return {one: conn.execute("SELECT available_inventory(%s)", (one,)).fetchone()[0] for one in ITEMS}


def changes(ending, names):
    """What all of these transactions change together."""
    total = dict.fromkeys(ITEMS, Decimal(0))
    for name in names if ending == "COMMIT" else []:
        for one, delta in TRANSACTIONS[name][1].items():
            total[one] += delta
    return total


def assert_changed(conn, before, expected):
    after = available(conn)
    assert {one: after[one] - before[one] for one in ITEMS} == expected
    assert problems(conn) == []


@pytest.mark.parametrize("name", TRANSACTIONS)
def test_a_prepared_transaction_changes_all_or_nothing(db, conn, name):
    """Before the decision nothing of it is seen, although the session that made it is gone."""
    before = available(conn)
    for ending in ("ROLLBACK", "COMMIT"):
        prepared = prepare(db.connect(), name, TRANSACTIONS[name][0])
        assert_changed(conn, before, changes("ROLLBACK", [name]))
        decide(conn, ending, [prepared])
        assert_changed(conn, before, changes(ending, [name]))


def assert_everything_is_held(conn):
    """Others cannot have what belongs to the prepared transactions, but the free stripes. Returns the units sold."""
    conn.execute("SET lock_timeout = '100ms'")
    waiting = [
        f"decrement_inventory('{PLAIN[0]}', 1)",
        KEYED,
        f"restock_inventory('{STRIPED[1]}', 1)",
        f"adjust_inventory('{STRIPED[0]}', 1)",
        f"stripe_inventory('{PLAIN[5]}', 8)",
        f"unstripe_inventory('{STRIPED[2]}')",
        "detach_inventory()",
    ]
    assert [refused(conn, f"SELECT {call}").sqlstate for call in waiting] == ["55P03"] * len(waiting)
    for _ in range(6):
        sell(conn, STRIPED[0], 1)
    conn.execute("RESET lock_timeout")
    return 6


def prepare_all(connection_of):
    return [prepare(connection_of(), name, statements) for name, (statements, _) in TRANSACTIONS.items()]


def assert_the_key_is_decided(conn, ending):
    """After COMMIT the same order is answered from memory; after ROLLBACK it is done now."""
    assert ("the key" in keys_kept(conn)) == (ending == "COMMIT")
    again = order(conn, (PLAIN[1], 2), (PLAIN[2], 1), p_reference="the order", p_idempotency_key="the key")
    assert ("replayed" in again) == (ending == "COMMIT")


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_all_of_them_at_once_hold_their_items_keys_and_stripes(db, conn, ending):
    """The calls of others wait, and obey lock_timeout; a striped item is sold from its free stripes."""
    before = available(conn)
    prepared = prepare_all(db.connect)
    sold = assert_everything_is_held(conn)
    decide(conn, ending, prepared)
    expected = changes(ending, TRANSACTIONS)
    expected[STRIPED[0]] -= sold
    assert_changed(conn, before, expected)
    assert_the_key_is_decided(conn, ending)


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_stripe_inventory_can_be_prepared(db, conn, ending):
    """A sale of the item waits for the decision, and then finds the stripes, or the row."""
    prepared = prepare(db.connect(), "stripe", [f"SELECT stripe_inventory('{PLAIN[0]}', 4)"])
    till = db.connect()
    sale = Aside(call_text_of_a_sale, till)
    until_waiting(conn, till)
    decide(conn, ending, [prepared])
    assert ('"stripe"' in sale.result()) == (ending == "COMMIT")
    assert available(conn)[PLAIN[0]] == 999
    assert problems(conn) == []


def call_text_of_a_sale(conn):
    return call_text(conn, "decrement_inventory", p_inventory_id=PLAIN[0], p_quantity=1)


def test_the_worker_stays_while_a_prepared_sale_of_stripes_is_undecided(db, conn):
    """So that the row is exact a moment after the decision, without any further call."""
    prepared = prepare(db.connect(), "late", [f"SELECT decrement_inventory('{STRIPED[0]}', 7)"])
    time.sleep(3)  # longer than the worker stays for nothing
    decide(conn, "COMMIT", [prepared])
    assert at_rest(conn) == []
    assert left(conn, STRIPED[0]) == 993


# Through a crash of the server


@pytest.fixture(scope="module")
def own():
    with server_with_a_shop(fsync="on") as server:
        yield server


def crash(server):
    kill_everything(server)
    server.start()


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_prepared_transactions_outlive_a_crash_with_all_they_hold(own, ending):
    """After the restart everything is held as before, and each is decided as if nothing had happened."""
    with connect(own) as conn:
        conn.execute("SELECT purge_requests('0')")
        conn.execute("SELECT adjust_inventory(id, 1000) FROM inventory")
        before = available(conn)
    prepared = prepare_all(lambda: connect(own))
    crash(own)
    with connect(own) as conn:
        assert conn.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone()[0] == len(TRANSACTIONS)
        sold = assert_everything_is_held(conn)
        decide(conn, ending, prepared)
        expected = changes(ending, TRANSACTIONS)
        expected[STRIPED[0]] -= sold
        assert_changed(conn, before, expected)
        assert_the_key_is_decided(conn, ending)
        assert problems(conn) == []


@pytest.mark.parametrize("caller", ["a session that called before the decision", "a new session"])
def test_a_sale_committed_after_a_crash_is_shown_once_functions_are_called(own, caller):
    """Neither the worker nor the session that sold is there any more. Calls about another item are enough."""
    prepared = prepare(connect(own), "late", [f"SELECT decrement_inventory('{STRIPED[0]}', 7)"])
    crash(own)
    with connect(own) as conn, connect(own) as early, connect(own) as new:
        shown = left(conn, STRIPED[0])
        early.execute("SELECT available_inventory(%s)", (PLAIN[0],))
        decide(conn, "COMMIT", [prepared])
        session = new if caller == "a new session" else early
        until(lambda: sell(session, PLAIN[0], 1) and at_rest(conn, seconds=0.1) == [], "the row shows the sale")
        assert left(conn, STRIPED[0]) == shown - 7
        assert problems(conn) == []


def test_attach_and_detach_can_be_prepared_and_outlive_a_crash(own):
    """Decided after the crash: the table is detached, and then attached again, with exact books."""
    with connect(own) as conn:
        before = available(conn)
    detached = prepare(connect(own), "detach", ["SELECT detach_inventory()"])
    crash(own)
    with connect(own) as conn:
        decide(conn, "COMMIT", [detached])
        assert refused(conn, "SELECT decrement_inventory(%s, 1)", (PLAIN[0],)).reason == "not_attached"
        assert worker_pid(conn) is None
    attached = prepare(connect(own), "attach", ["SELECT attach_inventory('inventory')"])
    crash(own)
    with connect(own) as conn:
        decide(conn, "COMMIT", [attached])
        assert available(conn) == before
        sell(conn, PLAIN[0], 1)
        assert problems(conn) == []
        with connect(own) as other:
            assert sell(other, STRIPED[0], 1)["deducted"] == 1
        assert problems(conn) == []
