"""A backend killed with -9 between two statements of an order leaves nothing behind, or everything.

Runs on a build with the feature `failpoints` (see src/failpoint.rs), which no release has. The order stops at a named
place, on an advisory lock that the test holds; the test sees it wait there and kills it. PostgreSQL then restarts all
its backends and recovers from its log.
"""

import json
import os
import signal
import threading
from decimal import Decimal

import psycopg
import pytest

from dev.server import Server

PLACES = ["key_claimed", "locked", "written", "answer_kept"]
ADVISORY_LOCK = 4711  # the one of src/failpoint.rs
ITEMS = [f"00000000-0000-4000-8000-{number:012d}" for number in range(1, 6)]
ORDER = json.dumps([{"inventory_id": item, "quantity": 2} for item in ITEMS])
CALL = "SELECT decrement_inventory_batch(%s::jsonb, 'order-1', 'key-1')"


@pytest.fixture(scope="module")
def server():
    with Server(pg="18", tree="pg18-failpoints") as server:
        yield server


@pytest.fixture(params=[[], ITEMS[1:4]], ids=["whole", "striped"])
def shop(server, request):
    """A fresh database of five items with 10 each, some of them striped; gives a function that connects to it."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        connection.execute("CREATE DATABASE shop")

    def connect():
        return psycopg.connect(server.dsn("shop"), autocommit=True)

    with connect() as connection:
        connection.execute("CREATE EXTENSION inventory_ext")
        connection.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2))")
        connection.cursor().executemany("INSERT INTO inventory VALUES (%s, 10)", [[item] for item in ITEMS])
        connection.execute("SELECT attach_inventory('inventory')")
        for item in request.param:
            connection.execute("SELECT stripe_inventory(%s, 8)", [item])  # two have two, the others one
    return connect


class StoppedOrder:
    """An order in a session of its own that waits at a place."""

    def __init__(self, connect, place):
        self.connection = connect()
        self.pid = self.connection.info.backend_pid
        self.connection.execute("SELECT set_config('inventory_ext.failpoint', %s, false)", [place])
        self.answer = self.error = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            self.answer = self.connection.execute(CALL, [ORDER]).fetchone()[0]
        except psycopg.Error as error:
            self.error = error


def wait_until_stopped(watcher, pid):
    waits = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
    while watcher.execute(waits, [pid]).fetchone() != ("advisory",):
        pass


def connect_again(connect, witness):
    """A connection of after the recovery. The crash ends the witness too; before that the server has not noticed it."""
    with pytest.raises(psycopg.OperationalError):
        while True:
            witness.execute("SELECT 1")
    while True:
        try:
            return connect()
        except psycopg.OperationalError:
            continue


def books(connection):
    """Stock, the sum of the ledger's deltas, and the keys."""
    stock = dict(connection.execute("SELECT id::text, available_inventory(id) FROM inventory").fetchall())
    sums = "SELECT inventory_id::text, sum(delta) FROM inventory_movement GROUP BY 1"
    ledger = dict(connection.execute(sums).fetchall())
    keys = [key for (key,) in connection.execute("SELECT idempotency_key FROM inventory_request")]
    return stock, ledger, keys


@pytest.mark.parametrize("place", PLACES)
def test_an_order_killed_between_its_statements_leaves_nothing(shop, place):
    holder = shop()
    holder.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
    order = StoppedOrder(shop, place)
    wait_until_stopped(holder, order.pid)
    os.kill(order.pid, signal.SIGKILL)
    order.thread.join()
    assert isinstance(order.error, psycopg.OperationalError)
    with connect_again(shop, holder) as connection:
        stock, ledger, keys = books(connection)
        assert stock == ledger == dict.fromkeys(ITEMS, Decimal("10.00"))
        assert keys == []
        # The client knows nothing of its order and sends it again: it is sold once.
        answer = connection.execute(CALL, [ORDER]).fetchone()[0]
        assert "replayed" not in answer and len(answer["lines"]) == len(ITEMS)
        stock, ledger, keys = books(connection)
        assert stock == ledger == dict.fromkeys(ITEMS, Decimal("8.00"))
        assert keys == ["key-1"]


@pytest.mark.parametrize("place", PLACES)
def test_an_order_that_was_stopped_and_goes_on_is_whole(shop, place):
    with shop() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        order = StoppedOrder(shop, place)
        wait_until_stopped(holder, order.pid)
        holder.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])
        order.thread.join()
        assert order.error is None and len(order.answer["lines"]) == len(ITEMS)
        stock, ledger, keys = books(holder)
        assert stock == ledger == dict.fromkeys(ITEMS, Decimal("8.00"))
        assert keys == ["key-1"]
        order.connection.close()
