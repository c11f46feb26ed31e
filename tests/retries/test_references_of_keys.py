"""A key stands for the reference of its request, and for the reason of a count, as well as for the arguments."""

import pytest

from books import call, lines, refused_call
from shop import ONE, TWO, shop
from striped import stripe


@pytest.fixture
def conn(db):
    return db.connect()


KEYED = {
    "decrement_inventory": {"p_inventory_id": ONE, "p_quantity": 1},
    "decrement_inventory_batch": {"p_items": lines((ONE, 1), (TWO, 1))},
    "restock_inventory": {"p_inventory_id": ONE, "p_quantity": 1},
    "adjust_inventory": {"p_inventory_id": ONE, "p_counted_quantity": 7},
    "transfer_inventory": {"p_from": ONE, "p_to": TWO, "p_quantity": 1},
    "stripe_inventory": {"p_inventory_id": ONE},
    "unstripe_inventory": {"p_inventory_id": ONE},
}


def keyed_call(conn, function, reference, execute):
    """One call in a transaction of its own, key and reference from settings."""
    with conn.transaction():
        conn.execute("SELECT set_config('inventory_ext.idempotency_key', 'k', true)")
        conn.execute("SELECT set_config('inventory_ext.reference', %s, true)", (reference or "",))
        return execute(conn, function, **KEYED[function])


@pytest.mark.parametrize("way", ["first", "striped"])
@pytest.mark.parametrize("function", KEYED)
def test_a_key_stands_for_its_reference_too(conn, function, way):
    """The same key with 'order 1' and then with 'order 2' is another request: the second customer does
    not get the result of the first."""
    shop(conn, {ONE: "10.00", TWO: "10.00"})
    if way == "striped":
        stripe(conn)
    first = keyed_call(conn, function, "order 1", call)
    assert first["success"] and "replayed" not in first
    for reference in ("order 2", None, "order 1 ", "order 11", "ORDER 1"):
        refusal = keyed_refusal(conn, function, reference)
        assert (refusal.sqlstate, refusal.reason) == ("IV003", "key_reused"), reference
    assert keyed_call(conn, function, "order 1", call)["replayed"] is True


@pytest.mark.parametrize("function", KEYED)
def test_a_key_without_a_reference_is_not_the_one_with(conn, function):
    shop(conn, {ONE: "10.00", TWO: "10.00"})
    keyed_call(conn, function, None, call)
    assert keyed_refusal(conn, function, "order 1").sqlstate == "IV003"
    assert keyed_call(conn, function, None, call)["replayed"] is True


def keyed_refusal(conn, function, reference):
    """The transaction is aborted by the refusal, and rolled back."""
    with conn.transaction(force_rollback=True):
        conn.execute("SELECT set_config('inventory_ext.idempotency_key', 'k', true)")
        conn.execute("SELECT set_config('inventory_ext.reference', %s, true)", (reference or "",))
        conn.execute("SAVEPOINT here")
        refusal = refused_call(conn, function, **KEYED[function])
        conn.execute("ROLLBACK TO here")
        return refusal


def test_the_reason_of_a_count_belongs_to_its_key(conn):
    shop(conn, {ONE: "10.00"})

    def count(reason, execute):
        with conn.transaction(force_rollback=execute is refused_call):
            conn.execute("SELECT set_config('inventory_ext.idempotency_key', 'k', true); SAVEPOINT here")
            result = execute(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=7, p_reason=reason)
            conn.execute("ROLLBACK TO here" if execute is refused_call else "RELEASE here")
            return result

    count("shelf 1", call)
    assert count("shelf 2", refused_call).sqlstate == "IV003"
    assert count("shelf 1", call)["replayed"] is True
