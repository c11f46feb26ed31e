"""Calls that the tests of plans, swapped tables, quantities, session keys and dropped companions share."""

from __future__ import annotations

from books import call, lines, refused_call
from shop import Refusal, create_role, refused, until

SELLING = (
    "decrement_inventory", "decrement_inventory_batch", "restock_inventory", "adjust_inventory", "transfer_inventory",
)  # fmt: skip


def arguments(function: str, item, other, quantity="1") -> dict:
    """Valid arguments of one selling function for `item`; a transfer goes to `other`."""
    return {
        "decrement_inventory": {"p_inventory_id": item, "p_quantity": quantity},
        "decrement_inventory_batch": {"p_items": lines((item, quantity))},
        "restock_inventory": {"p_inventory_id": item, "p_quantity": quantity},
        "adjust_inventory": {"p_inventory_id": item, "p_counted_quantity": quantity},
        "transfer_inventory": {"p_from": item, "p_to": other, "p_quantity": quantity},
    }[function]


def make(conn, function: str, item, other, quantity="1") -> dict:
    return call(conn, function, **arguments(function, item, other, quantity))


def refused_make(conn, function: str, item, other, quantity="1") -> Refusal:
    return refused_call(conn, function, **arguments(function, item, other, quantity))


def stripe(conn, item, stripes=4):
    conn.execute("SELECT stripe_inventory(%s, %s)", (item, stripes))


def unstripe(conn, item):
    conn.execute("SELECT unstripe_inventory(%s)", (item,))


def detach(conn):
    conn.execute("SELECT detach_inventory()")


def until_idle(conn):
    """Waits until no totals worker is there, which would wait for the locks of a DROP in another order."""
    workers = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_type = 'inventory_ext totals'"
    )
    until(lambda: conn.execute(workers).fetchone() == (0,), "the totals worker ends")


def available(conn, item):
    return conn.execute("SELECT available_inventory(%s)", (item,)).fetchone()[0]


def refused_available(conn, item) -> Refusal:
    return refused(conn, "SELECT available_inventory(%s)", (item,))


def worker(conn, db, name: str):
    """A role of this test with EXECUTE on every function in public, and a connection of it."""
    role = create_role(conn, db, name)
    conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{role}"')
    return role, db.connect(user=role)


def shop_owner(conn, db, name="owner"):
    """The same with CREATE on public: a role that may make and attach a stock table."""
    role, session = worker(conn, db, name)
    conn.execute(f'GRANT CREATE ON SCHEMA public TO "{role}"')
    return role, session
