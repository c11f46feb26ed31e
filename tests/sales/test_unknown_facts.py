"""A fact of DETAIL that no statement has read, or that is no quantity, is null: once it was shown as 0.

Each case makes a call fail where one of the quantities is unknown, and reads the whole DETAIL.
"""

from decimal import Decimal

import pytest

from books import refused_call
from shop import ONE, refused, shop, stock_of

MOST = "9" * 28


def test_a_difference_of_too_many_digits_is_null(db):
    """28 digits minus half a unit need 29: the delta of the count is no quantity."""
    conn = db.connect()
    shop(conn, {ONE: MOST}, type="numeric")
    refusal = refused_call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity="0.5")
    assert (refusal.sqlstate, refusal.facts) == (
        "22003",
        {"reason": "overflow", "inventory_id": str(ONE), "old_quantity": Decimal(MOST), "delta": None},
    )
    assert stock_of(conn) == {ONE: Decimal(MOST)}


def test_the_sum_of_stripes_that_is_no_quantity_is_null(db):
    """Only a superuser who disables the triggers can write such stripes."""
    conn = db.connect()
    shop(conn, {ONE: "10"}, type="numeric")
    conn.execute("SELECT stripe_inventory(%s, 2)", (ONE,))
    conn.execute("SET session_replication_role = replica")
    conn.execute(f"UPDATE inventory_stripe SET quantity = {MOST}")
    conn.execute("RESET session_replication_role")
    refusal = refused_call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=5)
    assert (refusal.sqlstate, refusal.facts) == (
        "22003",
        {"reason": "overflow", "inventory_id": str(ONE), "old_quantity": None, "delta": None},
    )


@pytest.mark.parametrize("function", ["stripe_inventory", "unstripe_inventory"])
def test_a_total_that_a_trigger_changes_has_no_requested_quantity(db, function):
    conn = db.connect()
    shop(conn, {ONE: "10"})
    if function == "unstripe_inventory":
        conn.execute("SELECT stripe_inventory(%s, 2)", (ONE,))
    conn.execute(
        """CREATE FUNCTION one_more() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN NEW.quantity := NEW.quantity + 1; RETURN NEW; END $$;
           CREATE TRIGGER one_more BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION one_more()"""
    )
    refusal = refused(conn, f"SELECT {function}('{ONE}')")
    assert (refusal.sqlstate, refusal.facts["requested"]) == ("IV007", None)
    assert (refusal.facts["old_quantity"], refusal.facts["new_quantity"]) == (10, 11)


def test_a_repair_that_a_trigger_changes_has_no_old_quantity(db):
    """The row held more digits than a quantity has, so the quantity before the count is unknown."""
    conn = db.connect()
    shop(conn, {ONE: "10"}, type="numeric")
    conn.execute(f"UPDATE inventory SET quantity = {MOST}.5")
    conn.execute(
        """CREATE FUNCTION one_more() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN NEW.quantity := NEW.quantity + 1; RETURN NEW; END $$;
           CREATE TRIGGER one_more BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION one_more()"""
    )
    refusal = refused_call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=5)
    assert (refusal.sqlstate, refusal.facts) == (
        "IV007",
        {
            "reason": "verification_failed",
            "inventory_id": str(ONE),
            "old_quantity": None,
            "new_quantity": 6,
            "requested": None,
        },
    )
    assert stock_of(conn) == {ONE: Decimal(f"{MOST}.5")}
