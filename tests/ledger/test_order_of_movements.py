"""The movements of an item follow each other, in whichever order triggers and parts of a statement sell.

A ledger that had the later of two movements first was a broken chain, and attach, which goes on from the last movement
of an item, then posted a correction of a difference that there never was.
"""

import pytest

from books import audit, last_movement, lines, order, steps
from shop import ONE, TWO, attach, fill, item, left, sell, shop, stock_of
from striped import detach

MANY, LAST = 10_050, item(10_050)


@pytest.fixture
def conn(db):
    return db.connect()


def in_order(conn, stock):
    """This is the stock, each movement begins where the one before ended, and attach finds nothing to correct."""
    found = stock_of(conn)
    assert {key: found[key] for key in stock} == stock
    audit(conn)
    end = last_movement(conn)
    detach(conn), attach(conn)
    assert steps(conn, after=end) == []
    audit(conn)


def large_shop(conn):
    """100 units of each of more items than movements are kept back until their statement ends."""
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer)")
    conn.execute(
        "INSERT INTO inventory SELECT lpad(to_hex(n), 32, '0')::uuid, 100 FROM generate_series(1, %s) AS n", (MANY,)
    )
    attach(conn)


def partitioned_shop(conn):
    """100 units of ONE and TWO, in the one partition of the one partition."""
    conn.execute(
        """CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY HASH (id);
           CREATE TABLE middle PARTITION OF inventory FOR VALUES WITH (MODULUS 1, REMAINDER 0) PARTITION BY HASH (id);
           CREATE TABLE part PARTITION OF middle FOR VALUES WITH (MODULUS 1, REMAINDER 0)"""
    )
    fill(conn, {ONE: 100, TWO: 100})
    attach(conn)


def kit(conn, act, when, table="inventory", name="kit", timing="AFTER UPDATE"):
    """A trigger that acts for each row that meets a condition."""
    conn.execute(
        f"""CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {act}; RETURN NEW; END $$;
            CREATE TRIGGER "{name}" {timing} ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION act()"""
    )


def external_and_sale(key, conn):
    """The direct write of one unit, then a sale of one."""
    assert steps(conn, key) == [("opening", 0, 100), ("external", 100, 99), ("sale", 99, 98)]


@pytest.mark.parametrize("key", [item(10_000), LAST])
def test_a_call_beside_a_large_update(conn, key):
    large_shop(conn)
    conn.execute(
        "WITH taken AS (UPDATE inventory SET quantity = quantity - 1 RETURNING id)"
        " SELECT decrement_inventory(%s, 1) FROM (SELECT count(*) FROM taken) AS counted",
        (key,),
    )
    external_and_sale(key, conn)
    in_order(conn, {ONE: 99, key: 98, TWO: 99})


def test_two_large_updates_with_a_call_between(conn):
    large_shop(conn)
    conn.execute(
        "WITH taken AS (UPDATE inventory SET quantity = quantity - 1 RETURNING id),"
        " sold AS (SELECT decrement_inventory(%s, 1) FROM (SELECT count(*) FROM taken) AS counted),"
        " again AS (SELECT restock_inventory(%s, 5) FROM sold)"
        " SELECT decrement_inventory(%s, 2) FROM again",
        (LAST, LAST, LAST),
    )
    assert steps(conn, LAST)[1:] == [
        ("external", 100, 99), ("sale", 99, 98), ("restock", 98, 103), ("sale", 103, 101),
    ]  # fmt: skip
    conn.execute("UPDATE inventory SET quantity = quantity + 1")
    in_order(conn, {ONE: 100, LAST: 102})


@pytest.mark.parametrize(
    ("act", "kind", "name"),
    [
        (f"PERFORM decrement_inventory('{LAST}', 1)", "sale", "kit"),
        (f"PERFORM decrement_inventory('{LAST}', 1)", "sale", "!kit"),
        (f"UPDATE inventory SET quantity = quantity - 1 WHERE id = '{LAST}'", "external", "kit"),
    ],
)
def test_a_trigger_of_an_early_row_of_a_large_update_sells_a_late_one(conn, act, kind, name):
    """For ONE, the first row, and once more for the 10,020th."""
    large_shop(conn)
    kit(conn, act, f"NEW.id IN ('{ONE}', '{item(10_020)}')", name=name)
    conn.execute("UPDATE inventory SET quantity = quantity - 1")
    assert steps(conn, LAST) == [("opening", 0, 100), ("external", 100, 99), (kind, 99, 98), (kind, 98, 97)]
    in_order(conn, {ONE: 99, TWO: 99, LAST: 97})


@pytest.mark.parametrize("table", ["part", "ONLY part", "middle", "inventory"])
@pytest.mark.parametrize("keys", [(ONE,), (ONE, TWO)], ids=["one row", "two rows"])
def test_a_call_beside_a_write_to_a_partition(conn, table, keys):
    """Every change is recorded; in a statement that names the partition, the manual promises no order."""
    partitioned_shop(conn)
    conn.execute(
        f"WITH taken AS (UPDATE {table} SET quantity = quantity - 1 WHERE id = ANY (%s) RETURNING id)"
        " SELECT decrement_inventory(id, 1) FROM taken ORDER BY id",
        (list(keys),),
    )
    for key in keys:
        assert sorted(steps(conn, key)) == [("external", 100, 99), ("opening", 0, 100), ("sale", 99, 98)]
        if table == "inventory":
            external_and_sale(key, conn)
    conn.execute("SELECT detach_inventory()")
    conn.execute("SELECT attach_inventory('inventory')")
    sums = conn.execute("SELECT inventory_id, sum(delta) FROM inventory_movement GROUP BY 1").fetchall()
    assert dict(sums) == {ONE: 100, TWO: 100} | {key: 98 for key in keys}
    if table == "inventory":
        in_order(conn, {ONE: 100, TWO: 100} | {key: 98 for key in keys})


@pytest.mark.parametrize(
    ("table", "on", "name"),
    [("part", "inventory", "kit"), ("inventory", "part", "!kit"), ("inventory", "inventory", "kit")],
)
def test_a_kit_in_a_partition(conn, table, on, name):
    """The row of ONE sells a unit of TWO, whose own row the same statement has changed."""
    partitioned_shop(conn)
    kit(conn, f"PERFORM decrement_inventory('{TWO}', 1)", f"NEW.id = '{ONE}'", on, name)
    conn.execute(f"UPDATE {table} SET quantity = quantity - 1")
    assert sorted(steps(conn, TWO)) == [("external", 100, 99), ("opening", 0, 100), ("sale", 99, 98)]
    if table == "inventory":
        in_order(conn, {ONE: 99, TWO: 98})


@pytest.mark.parametrize("name", ["own", "!own"])
def test_a_trigger_that_sells_its_own_row_first(conn, name):
    """One whose name sorts before "0_" fires before the change that caused it is noted."""
    partitioned_shop(conn)
    kit(conn, "PERFORM decrement_inventory(NEW.id, 1)", "pg_trigger_depth() = 0", name=name)
    conn.execute("UPDATE inventory SET quantity = quantity - 1")
    external_and_sale(ONE, conn), external_and_sale(TWO, conn)
    in_order(conn, {ONE: 98, TWO: 98})


# Each changes by more than one unit, and a trigger of the ledger answers each movement by one.
ACTS = {
    "sale": lambda conn: sell(conn, ONE, 2),
    "order": lambda conn: order(conn, (ONE, 2), (TWO, 3)),
    "order, reversed": lambda conn: order(conn, (TWO, 3), (ONE, 2)),
    "transfer": lambda conn: conn.execute("SELECT transfer_inventory(%s, %s, 4)", (ONE, TWO)),
    "update with a call": lambda conn: conn.execute(
        "WITH taken AS (UPDATE inventory SET quantity = quantity - 10 RETURNING id)"
        " SELECT decrement_inventory(id, 2) FROM taken"
    ),
    "update with an order": lambda conn: conn.execute(
        "WITH taken AS (UPDATE inventory SET quantity = quantity - 10 RETURNING id)"
        " SELECT decrement_inventory_batch(%s::jsonb) FROM (SELECT count(*) FROM taken) AS counted",
        (lines((ONE, 2), (TWO, 3)),),
    ),
    "update": lambda conn: conn.execute("UPDATE inventory SET quantity = quantity - 10"),
}
SAME, OTHER = "NEW.inventory_id", f"CASE NEW.inventory_id WHEN '{ONE}' THEN '{TWO}' ELSE '{ONE}' END::uuid"


@pytest.mark.parametrize("timing", ["AFTER", "BEFORE"])
@pytest.mark.parametrize("function", ["restock_inventory", "decrement_inventory"])
@pytest.mark.parametrize("target", [SAME, OTHER], ids=["same item", "other item"])
def test_a_trigger_of_the_ledger_that_changes_stock(conn, timing, function, target):
    """Each movement of an act is answered by one unit more or less, of the item or of the other."""
    shop(conn, {ONE: 1000, TWO: 1000}, type="integer")
    is_act = "abs(NEW.new_quantity - NEW.old_quantity) <> 1"
    kit(conn, f"PERFORM {function}({target}, 1)", is_act, "inventory_movement", timing=f"{timing} INSERT")
    wrong = {}
    for name, act in ACTS.items():
        begin = last_movement(conn)
        act(conn)
        changes = [new - old for _, old, new in steps(conn, after=begin)]
        answers = [change for change in changes if abs(change) == 1]
        if 2 * len(answers) != len(changes) or set(answers) != {1 if function == "restock_inventory" else -1}:
            wrong[name] = changes
        try:
            audit(conn)
        except AssertionError:
            wrong[name, "books"] = steps(conn, after=begin)
            break
    assert wrong == {}
    in_order(conn, {ONE: left(conn, ONE), TWO: left(conn, TWO)})


@pytest.mark.parametrize("timing", ["AFTER", "BEFORE"])
def test_a_trigger_of_the_ledger_and_a_kit(conn, timing):
    """A direct update of ONE sells a unit of TWO by a trigger, and what the ledger gets of ONE restocks TWO by five."""
    shop(conn, {ONE: 100, TWO: 100}, type="integer")
    kit(conn, f"PERFORM decrement_inventory('{TWO}', 1)", f"NEW.id = '{ONE}'")
    conn.execute(
        f"""CREATE FUNCTION bring() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN PERFORM restock_inventory('{TWO}', 5); RETURN NEW; END $$;
            CREATE TRIGGER bring {timing} INSERT ON inventory_movement FOR EACH ROW
                WHEN (NEW.inventory_id = '{ONE}' AND NEW.kind = 'external') EXECUTE FUNCTION bring()"""
    )
    conn.execute("UPDATE inventory SET quantity = quantity - 1 WHERE id = %s", (ONE,))
    assert [kind for kind, *_ in steps(conn, TWO)] == ["opening", "sale", "restock"]
    in_order(conn, {ONE: 99, TWO: 104})


@pytest.mark.parametrize("timing", ["AFTER", "BEFORE"])
def test_an_error_of_a_trigger_of_the_ledger_is_not_remembered(conn, timing):
    """It is caught, and then movements are written and answered as before."""
    shop(conn, {ONE: 100, TWO: 100}, type="integer")
    act = f"PERFORM decrement_inventory('{TWO}', 1); IF NEW.reference = 'fail' THEN RAISE 'failed'; END IF"
    kit(conn, act, f"NEW.inventory_id = '{ONE}'", "inventory_movement", timing=f"{timing} INSERT")
    conn.execute(
        f"""DO $$ BEGIN
            BEGIN
                PERFORM decrement_inventory_batch('{lines((ONE, 2), (TWO, 2))}', 'fail');
            EXCEPTION WHEN raise_exception THEN NULL; END;
            UPDATE inventory SET quantity = quantity - 2;
        END $$"""
    )
    order(conn, (ONE, 2), (TWO, 2))
    in_order(conn, {ONE: 96, TWO: 94})
