"""What one call locks: a few entries of the lock table that all sessions share, however many stripes it needs.

An order over 60 items of 256 stripes took 15,000 entries; other sessions then failed with 53200.
"""

import os
import random
import threading

import psycopg
import pytest

from books import lines
from dev.server import Server
from shop import ONE, TWO, Aside, item, refusal_of, shop
from striped import available, stripe

ITEMS = [item(number) for number in range(1, 61)]
# With so few connections and locks the shared table has room for some hundred entries, and a little more in reserve.
SMALL = {
    "max_connections": "20",
    "max_locks_per_transaction": "10",
    "max_prepared_transactions": "0",
    "autovacuum": "off",
}


@pytest.fixture(scope="module")
def narrow():
    """A server with a small lock table, and 60 striped items of 256 units in it, a unit in each stripe."""
    with Server(pg=os.environ.get("PG", "18"), settings=SMALL) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION inventory_ext")
            shop(conn, {key: "256" for key in ITEMS}, type="integer", p_ledger=False)
            for key in ITEMS:
                stripe(conn, key, 256)
        yield running


@pytest.fixture
def session(narrow):
    with psycopg.connect(narrow.dsn()) as conn:
        available(conn)  # reading the catalogs for the first time locks them until the transaction ends
        conn.commit()
        yield conn
        conn.rollback()


@pytest.fixture
def watcher(narrow):
    with psycopg.connect(narrow.dsn(), autocommit=True) as conn:
        yield conn


def entries(watcher, session) -> int:
    """How many entries of the lock table a session holds."""
    return watcher.execute("SELECT count(*) FROM pg_locks WHERE pid = %s", (session.info.backend_pid,)).fetchone()[0]


def batch(quantity, word="abort"):
    return (
        f"SELECT decrement_inventory_batch('{lines(*((key, quantity) for key in ITEMS))}', p_on_shortage => '{word}')"
    )


EVERY = f"unnest('{{{', '.join(map(str, ITEMS))}}}'::uuid[]) AS i"
ALL_ITEMS = {
    "one unit of each": batch(1),
    "half of each": batch(128),
    "all of each": batch(256),
    "more than there is": batch(10_000, "partial"),
    "more than there is, skipped": batch(10_000, "skip"),
    "a count of each": f"SELECT count(adjust_inventory(i, 100)) FROM {EVERY}",
    "a count of each, twice": f"SELECT count(adjust_inventory(i, n)) FROM {EVERY}, generate_series(100, 101) AS n",
    "a count that changes nothing": f"SELECT count(adjust_inventory(i, 256)) FROM {EVERY}",
    "sales of half": f"SELECT count(decrement_inventory(i, 128)) FROM {EVERY}",
    "sales, again and again": f"SELECT count(decrement_inventory(i, 2)) FROM {EVERY}, generate_series(1, 20)",
    "restocks": f"SELECT count(restock_inventory(i, 5)) FROM {EVERY}, generate_series(1, 5)",
    "transfers of nearly all": f"SELECT count(transfer_inventory(i, '{ONE}', 250)) FROM {EVERY} WHERE i <> '{ONE}'",
}


@pytest.mark.parametrize("name", ALL_ITEMS)
def test_a_call_over_all_stripes_of_sixty_items_holds_few_locks(session, watcher, name):
    """Per item its own lock and those of a stripe or two; besides a fixed number for tables and indexes."""
    session.execute(ALL_ITEMS[name])
    assert entries(watcher, session) <= 4 * len(ITEMS) + 60


def test_one_item_that_is_gathered_or_counted_holds_few_locks(session, watcher):
    for sql in (
        f"SELECT decrement_inventory('{ONE}', 200)",
        f"SELECT adjust_inventory('{ONE}', 5000)",
        f"SELECT restock_inventory('{ONE}', 3)",
        f"SELECT transfer_inventory('{ONE}', '{TWO}', 3000)",
        f"SELECT decrement_inventory_batch('{lines((ONE, 1900), (TWO, 3000))}')",
    ):
        session.execute(sql)
        assert entries(watcher, session) <= 60, sql


def test_while_a_call_runs_it_locks_no_more_than_it_keeps(narrow, watcher):
    """It holds few locks even for a moment: the most that another session sees at any time during the calls."""
    most, over = [0], threading.Event()

    def watch():
        with psycopg.connect(narrow.dsn(), autocommit=True) as looker:
            while not over.is_set():
                most[0] = max(
                    most[0], looker.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()[0]
                )

    looking = Aside(watch)
    with psycopg.connect(narrow.dsn()) as session:
        for sql in (batch(256), batch(10_000, "partial"), ALL_ITEMS["a count of each"]) * 2:
            session.execute(sql)
            session.rollback()
    over.set()
    looking.result()
    assert 0 < most[0] <= 4 * len(ITEMS)


def test_a_refused_order_keeps_no_lock(session, watcher):
    session.execute("SAVEPOINT s")
    with pytest.raises(psycopg.Error) as caught:
        session.execute(batch(257))
    assert caught.value.sqlstate == "IV001"
    session.execute("ROLLBACK TO s")
    assert entries(watcher, session) <= 60


def test_bystanders_create_tables_while_orders_and_counts_are_open(narrow):
    """None fails with 53200, out of shared memory; neither do the calls."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")

    def orders(rng):
        with psycopg.connect(narrow.dsn()) as session:
            for _ in range(8):
                try:
                    session.execute(rng.choice([batch(100), batch(10_000, "partial"), ALL_ITEMS["a count of each"]]))
                    session.execute("SELECT pg_sleep(0.02)")
                except psycopg.Error as error:
                    assert error.sqlstate in ("IV001",), refusal_of(error)
                session.rollback()

    def bystander(number):
        with psycopg.connect(narrow.dsn(), autocommit=True) as session:
            for _ in range(40):
                session.execute(
                    f"CREATE TABLE beside{number} (i integer PRIMARY KEY, t text UNIQUE); DROP TABLE beside{number}"
                )

    for aside in [Aside(orders, random.Random(seed + n)) for n in range(2)] + [Aside(bystander, n) for n in range(3)]:
        aside.result()


def test_stripe_unstripe_and_detach_of_many_items_hold_few_locks(narrow, watcher):
    with psycopg.connect(narrow.dsn()) as session:
        session.execute(f"SELECT count(unstripe_inventory(i)), count(stripe_inventory(i, 200)) FROM {EVERY}")
        assert entries(watcher, session) <= 150
        session.execute("SELECT detach_inventory()")
        assert entries(watcher, session) <= 150
        session.rollback()
    assert available(watcher, ONE) == 256
