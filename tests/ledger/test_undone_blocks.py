"""A block of an owner's trigger that ends well inside a block that is undone leaves no movement in the ledger."""

import pytest

from books import audit, audit_when_shown, last_movement, movements
from owner_shop import owners_trigger
from shop import ONE, TWO, item, sell, shop
from striped import stripe

THREE = item(3)


@pytest.fixture
def conn(db):
    return db.connect()


KEPT_IN_UNDONE = {
    "update": f"UPDATE inventory SET quantity = quantity + 5 WHERE id = '{THREE}'",
    "two updates": "UPDATE inventory SET quantity = quantity + 5; "
    f"UPDATE inventory SET quantity = 1 WHERE id = '{ONE}'",
    "sale": f"PERFORM decrement_inventory('{THREE}', 2)",
    "order": f"""PERFORM decrement_inventory_batch('[{{"inventory_id": "{ONE}", "quantity": 2}},
        {{"inventory_id": "{THREE}", "quantity": 2}}]', 'inner')""",
    "delete": f"DELETE FROM inventory WHERE id = '{THREE}'",
    "insert": "INSERT INTO inventory VALUES (gen_random_uuid(), 3)",
    "block in a block": f"""BEGIN UPDATE inventory SET quantity = 3 WHERE id = '{THREE}';
        EXCEPTION WHEN division_by_zero THEN NULL; END""",
}
STATEMENTS = {
    "update": ("UPDATE inventory SET quantity = quantity - 1", "external"),
    "order": (
        f"""SELECT decrement_inventory_batch('[{{"inventory_id": "{THREE}", "quantity": 1}},
        {{"inventory_id": "{TWO}", "quantity": 1}}, {{"inventory_id": "{ONE}", "quantity": 1}}]')""",
        "sale",
    ),
}


@pytest.mark.parametrize("name", STATEMENTS)
@pytest.mark.parametrize("inner", KEPT_IN_UNDONE)
def test_a_kept_block_inside_an_undone_block_leaves_no_movement(conn, inner, name):
    """The inner block ends well, the outer one does not: what the inner one changed is undone, and no movement
    is left of it."""
    shop(conn, {ONE: 10, TWO: 10, THREE: 10})
    body = f"""IF NEW.id = '{TWO}' THEN
        BEGIN
            BEGIN {KEPT_IN_UNDONE[inner]}; EXCEPTION WHEN division_by_zero THEN NULL; END;
            RAISE 'undo';
        EXCEPTION WHEN raise_exception THEN NULL;
        END; END IF"""
    owners_trigger(conn, body, "AFTER UPDATE", "inventory", when="WHEN (pg_trigger_depth() = 0)")
    after = last_movement(conn)
    sql, kind = STATEMENTS[name]
    with conn.transaction():
        conn.execute("SAVEPOINT one; SAVEPOINT two; RELEASE two")
        conn.execute(sql)
    assert sorted(m[:4] for m in movements(conn, after=after)) == [(key, kind, 10, 9) for key in (ONE, TWO, THREE)]
    audit(conn)


def test_a_kept_block_of_an_undone_block_on_stripes_leaves_no_movement(conn):
    """The same where the statement writes stripes."""
    shop(conn, {ONE: 12, TWO: 10})
    stripe(conn)
    body = f"""BEGIN
            BEGIN UPDATE inventory SET quantity = quantity + 5 WHERE id = '{TWO}';
            EXCEPTION WHEN division_by_zero THEN NULL; END;
            RAISE 'undo';
        EXCEPTION WHEN raise_exception THEN NULL; END"""
    owners_trigger(conn, body, "AFTER UPDATE", when="WHEN (pg_trigger_depth() = 0)")
    after = last_movement(conn)
    sell(conn, ONE, 6)
    assert {m.item for m in movements(conn, after=after)} == {ONE}
    audit_when_shown(conn, {ONE: 6, TWO: 10})
