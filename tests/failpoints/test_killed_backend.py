"""A backend killed with -9 between two statements of an order leaves nothing behind, or everything.

The order stops at a named place (tests/support/failpoints.py) and is killed there. PostgreSQL then restarts all its
backends and recovers from its log.
"""

import os
import signal
from decimal import Decimal

import psycopg
import pytest

from failpoints import ADVISORY_LOCK, CALL, ITEMS, ORDER, PLACES, StoppedOrder, connect_again, wait_until_stopped


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
