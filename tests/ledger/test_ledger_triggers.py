"""A user's own triggers change stock in the middle of a change of stock, and the ledger still tells what happened.

Each movement starts where the one before it on the same item ended, in the order in which the rows were written; what
our call wrote is its own kind, what the trigger wrote is `external`, or the kind of what the trigger called. The
triggers here act only on direct writes and calls of the test (depth 0), so that they do not call themselves.
"""

from decimal import Decimal

import pytest

from books import audit, call, last_movement, movements, order, steps
from shop import ONE, TWO, attach, fill, item, left, refused, sell, shop, stock_of

THREE = item(3)
SALE = "UPDATE inventory SET quantity = quantity - 1"
ORDER = f"""SELECT decrement_inventory_batch('[{{"inventory_id": "{THREE}", "quantity": 1}},
    {{"inventory_id": "{TWO}", "quantity": 1}}, {{"inventory_id": "{ONE}", "quantity": 1}}]')"""
EVERY_STATEMENT = pytest.mark.parametrize(
    ("statement", "kind"), [(SALE, "external"), (ORDER, "sale")], ids=["update", "order"]
)


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: 10, TWO: 10, THREE: 10})
    return conn


def trigger(conn, body, timing="AFTER UPDATE", name="user_code", each="ROW"):
    """A user's trigger that runs `body` for what a client itself writes."""
    conn.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {body}; RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END; END $$;"
        f"CREATE TRIGGER {name} {timing} ON inventory FOR EACH {each} WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION "
        f"{name}()"
    )


@pytest.mark.parametrize("timing", ["AFTER UPDATE", "BEFORE UPDATE"])
def test_another_item_changed_by_a_single_sale(conn, timing):
    """Selling one brings down another: the sale is the sale, the trigger's own write is external."""
    trigger(conn, f"UPDATE inventory SET quantity = quantity - 2 WHERE id = '{TWO}'", timing)
    after = last_movement(conn)
    assert sell(conn, ONE, 1)["new_quantity"] == 9
    assert sorted(m[:4] for m in movements(conn, after=after)) == [(ONE, "sale", 10, 9), (TWO, "external", 10, 8)]
    audit(conn)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [(f"SELECT decrement_inventory('{ONE}', 1)", "sale"), (f"SELECT restock_inventory('{ONE}', 1, 'r', 'k')",
     "restock"),
     (f"SELECT adjust_inventory('{ONE}', 4)", "adjustment"), (f"SELECT transfer_inventory('{ONE}', '{TWO}', 1)",
     "transfer"),
     (SALE, "external"), (ORDER, "sale")],
)  # fmt: skip
def test_the_same_item_changed_again_by_its_own_change(conn, statement, kind):
    """First the change itself, then what the trigger made of it."""
    trigger(conn, "UPDATE inventory SET quantity = quantity + 5 WHERE id = NEW.id")
    after = last_movement(conn)
    conn.execute(statement)
    for key in {m.item for m in movements(conn, after=after)}:
        own, second = movements(conn, key, after=after)
        assert (own.kind, own.old, second.kind, second.old, second.new) == (kind, 10, "external", own.new, own.new + 5)
    assert stock_of(conn)[ONE] != 10
    audit(conn)


@EVERY_STATEMENT
def test_a_row_changed_before_its_own_movement_is_noted(conn, statement, kind):
    """All rows of a statement are written before its row triggers fire: the trigger of one row writes another row
    again."""
    for source, target in ((ONE, TWO), (TWO, THREE), (THREE, ONE)):
        conn.execute(
            "DROP FUNCTION IF EXISTS user_code CASCADE; UPDATE inventory SET quantity = 10 WHERE quantity <> 10"
        )
        trigger(
            conn,
            f"IF NEW.id = '{source}' THEN UPDATE inventory SET quantity = quantity + 3 WHERE id = '{target}'; END IF",
        )
        after = last_movement(conn)
        conn.execute(statement)
        assert steps(conn, target, after=after) == [(kind, 10, 9), ("external", 9, 12)]
        audit(conn)


@EVERY_STATEMENT
def test_a_sale_within_the_trigger_of_another_row(conn, statement, kind):
    """A trigger that calls a function of ours: its movement stands behind those of the rows that were written
    before."""
    for source, target in ((ONE, TWO), (TWO, ONE), (THREE, ONE), (ONE, THREE)):
        conn.execute(
            "DROP FUNCTION IF EXISTS user_code CASCADE; UPDATE inventory SET quantity = 10 WHERE quantity <> 10"
        )
        trigger(conn, f"IF NEW.id = '{source}' THEN PERFORM decrement_inventory('{target}', 4); END IF")
        after = last_movement(conn)
        conn.execute(statement)
        assert steps(conn, target, after=after) == [(kind, 10, 9), ("sale", 9, 5)]
        audit(conn)


@EVERY_STATEMENT
def test_an_order_within_the_trigger_of_another_row(conn, statement, kind):
    """The inner order has its own reference; the outer one's goes on after it."""
    trigger(
        conn,
        f'IF NEW.id = \'{TWO}\' THEN PERFORM decrement_inventory_batch(\'[{{"inventory_id": "{ONE}", "quantity": 2}}, '
        f'{{"inventory_id": "{THREE}", "quantity": 2}}]\', \'inner\'); END IF',
    )
    after = last_movement(conn)
    conn.execute("SET inventory_ext.reference = 'outer'")
    conn.execute(statement)
    assert [(m.kind, m.old, m.new, m.reference) for m in movements(conn, ONE, after=after)] == [
        (kind, 10, 9, "outer"), ("sale", 9, 7, "inner"),
    ]  # fmt: skip
    assert len(movements(conn, after=after)) == 5
    audit(conn)


@EVERY_STATEMENT
@pytest.mark.parametrize("inner", [f"UPDATE inventory SET quantity = quantity + 5 WHERE id = '{THREE}'",
                                   f"PERFORM decrement_inventory('{ONE}', 2)"])  # fmt: skip
def test_a_trigger_that_undoes_its_own_change_loses_no_other_change(conn, statement, kind, inner):
    """The EXCEPTION block rolls back what it wrote; the statement's own movements stay, all of them."""
    trigger(conn, f"BEGIN {inner}; RAISE 'undo'; EXCEPTION WHEN raise_exception THEN NULL; END")
    after = last_movement(conn)
    conn.execute(statement)
    assert sorted(m[:4] for m in movements(conn, after=after)) == [(key, kind, 10, 9) for key in (ONE, TWO, THREE)]
    audit(conn)


@EVERY_STATEMENT
def test_a_trigger_whose_block_is_kept(conn, statement, kind):
    """The same without an error: both are recorded."""
    trigger(conn, f"IF NEW.id = '{TWO}' THEN BEGIN UPDATE inventory SET quantity = quantity + 5 WHERE id = '{THREE}'; "
                  "EXCEPTION WHEN raise_exception THEN NULL; END; END IF")  # fmt: skip
    after = last_movement(conn)
    conn.execute(statement)
    assert steps(conn, THREE, after=after) == [(kind, 10, 9), ("external", 9, 14)]
    assert len(movements(conn, after=after)) == 4
    audit(conn)


@EVERY_STATEMENT
def test_a_statement_trigger_changes_stock(conn, statement, kind):
    """After all rows of the statement, and after their movements."""
    trigger(conn, f"UPDATE inventory SET quantity = quantity + 5 WHERE id = '{TWO}'", each="STATEMENT")
    after = last_movement(conn)
    conn.execute(statement)
    assert steps(conn, TWO, after=after) == [(kind, 10, 9), ("external", 9, 14)]
    audit(conn)


@pytest.mark.parametrize("inner", [f"UPDATE inventory SET quantity = quantity - 4 WHERE id = '{TWO}'",
                                   f"PERFORM decrement_inventory('{TWO}', 4)"])  # fmt: skip
def test_a_row_that_keeps_its_quantity_has_a_trigger_that_changes_another(conn, inner):
    """The first row of the statement leaves no movement; the second has changed before the trigger of the first
    fires."""
    conn.execute("ALTER TABLE inventory ADD name text")
    for source in (ONE, THREE):
        conn.execute(
            "DROP FUNCTION IF EXISTS user_code CASCADE; UPDATE inventory SET quantity = 10 WHERE quantity <> 10"
        )
        trigger(conn, f"IF NEW.id = '{source}' THEN {inner}; END IF")
        after = last_movement(conn)
        conn.execute(
            "UPDATE inventory SET name = 'x', quantity = quantity - CASE WHEN id = %s THEN 1 ELSE 0 END", (TWO,)
        )
        assert [step[1:] for step in steps(conn, after=after)] == [(10, 9), (9, 5)]
        audit(conn)


def test_a_trigger_whose_name_sorts_first(conn):
    """A user may name a trigger so that it fires before the ledger's own."""
    conn.execute(
        "CREATE FUNCTION early() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN UPDATE inventory SET quantity = quantity + 5 WHERE id = NEW.id; RETURN NEW; END $$;"
        'CREATE TRIGGER "!early" AFTER UPDATE ON inventory FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE '
        "FUNCTION early()"
    )
    after = last_movement(conn)
    sell(conn, ONE, 1)
    order(conn, (TWO, 1), (THREE, 1))
    for key in (ONE, TWO, THREE):
        assert steps(conn, key, after=after) == [("sale", 10, 9), ("external", 9, 14)]
    audit(conn)


def test_a_deferred_trigger_changes_stock_at_commit(conn):
    """When our call has long ended: external, and in time for the ledger."""
    conn.execute("SELECT detach_inventory()")
    attach(conn, p_run_as="caller")
    conn.execute(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN UPDATE inventory SET quantity = quantity + 1 WHERE id = '{TWO}'; RETURN NEW; END $$;"
        "CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON inventory DEFERRABLE INITIALLY DEFERRED FOR EACH ROW "
        f"WHEN (OLD.id = '{ONE}') EXECUTE FUNCTION late()"
    )
    after = last_movement(conn)
    order(conn, (ONE, 1), (THREE, 1))
    assert steps(conn, TWO, after=after) == [("external", 10, 11)]
    audit(conn)


def test_triggers_that_insert_and_delete_items(conn):
    """A sale to the last unit deletes the item; an item's deletion brings a successor."""
    trigger(conn, "IF NEW.quantity = 0 THEN DELETE FROM inventory WHERE id = NEW.id; END IF")
    trigger(conn, "INSERT INTO inventory VALUES (gen_random_uuid(), OLD.quantity)", "BEFORE DELETE", "successor")
    after = last_movement(conn)
    order(conn, (ONE, 10), (TWO, 10), (THREE, 1))
    conn.execute("DELETE FROM inventory WHERE id = %s", (THREE,))
    assert steps(conn, ONE, after=after) == [("sale", 10, 0), ("closing", 0, 0)]
    assert steps(conn, THREE, after=after) == [("sale", 10, 9), ("closing", 9, 0)]
    assert list(stock_of(conn).values()) == [9]
    audit(conn)


def test_a_trigger_that_fails_fails_the_sale(conn):
    """And leaves nothing: no movement, no stock, and no note that the next call would write."""
    trigger(conn, f"IF NEW.id = '{TWO}' THEN RAISE 'not today'; END IF")
    before = movements(conn)
    assert refused(conn, ORDER).message == "not today"
    assert refused(conn, SALE).message == "not today"
    assert movements(conn) == before
    sell(conn, ONE, 1)
    assert steps(conn, after=last_movement(conn) - 1) == [("sale", 10, 9)]
    audit(conn)


def test_a_trigger_on_the_ledger_sees_every_movement(conn):
    """A user may watch the ledger, and even change other stock because of it."""
    conn.execute(
        "CREATE TABLE seen (kind text, delta numeric);"
        "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO seen SELECT NEW.kind, NEW.new_quantity - NEW.old_quantity; "
        f"IF NEW.kind = 'sale' THEN UPDATE inventory SET quantity = quantity + 1 WHERE id = '{THREE}'; END IF; "
        "RETURN NEW; END $$;"
        "CREATE TRIGGER watch AFTER INSERT ON inventory_movement FOR EACH ROW EXECUTE FUNCTION watch()"
    )
    after = last_movement(conn)
    sell(conn, ONE, 1)
    order(conn, (ONE, 2), (TWO, 3))
    assert sorted(conn.execute("SELECT kind, delta FROM seen").fetchall()) == sorted(
        (m.kind, m.new - m.old) for m in movements(conn, after=after)
    )
    assert steps(conn, THREE, after=after) == [("external", 10, 11), ("external", 11, 12), ("external", 12, 13)]
    audit(conn)


def test_row_triggers_on_a_partitioned_stock_table(db):
    """The same, where every row may lie in another table."""
    conn = db.connect()
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2)) PARTITION BY HASH (id)")
    for n in range(3):
        conn.execute(f"CREATE TABLE p{n} PARTITION OF inventory FOR VALUES WITH (MODULUS 3, REMAINDER {n})")
    fill(conn, {ONE: 10, TWO: 10, THREE: 10})
    attach(conn)
    trigger(conn, f"IF NEW.id = '{TWO}' THEN UPDATE inventory SET quantity = quantity + 3 WHERE id <> '{TWO}'; "
                  f"PERFORM decrement_inventory('{ONE}', 2); "
                  "BEGIN UPDATE inventory SET quantity = 1; RAISE 'undo'; EXCEPTION WHEN raise_exception THEN NULL;"
                  " END; END IF")  # fmt: skip
    for statement, kind in ((SALE, "external"), (ORDER, "sale")):
        conn.execute("ALTER TABLE inventory DISABLE TRIGGER user_code; UPDATE inventory SET quantity = 10 WHERE "
                     "quantity <> 10;"
                     "ALTER TABLE inventory ENABLE TRIGGER user_code")  # fmt: skip
        after = last_movement(conn)
        conn.execute(statement)
        assert steps(conn, ONE, after=after) == [(kind, 10, 9), ("external", 9, 12), ("sale", 12, 10)]
        assert steps(conn, TWO, after=after) == [(kind, 10, 9)]
        assert steps(conn, THREE, after=after) == [(kind, 10, 9), ("external", 9, 12)]
        audit(conn)


def test_a_trigger_that_repeats_the_key_of_the_call_it_stands_in(conn):
    """The key belongs to the call that is still running: 55000, and nothing is left of either."""
    trigger(conn, f"PERFORM restock_inventory('{TWO}', 1, NULL, 'k')")
    answer = refused(conn, f"SELECT restock_inventory('{TWO}', 1, NULL, 'k')")
    assert (answer.sqlstate, answer.reason, answer.facts["idempotency_key"]) == ("55000", "key_in_use", "k")
    assert stock_of(conn) == {ONE: 10, TWO: 10, THREE: 10}
    conn.execute("DROP TRIGGER user_code ON inventory")
    assert (
        call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")["new_quantity"] == 11
    )
    assert left(conn, TWO) == Decimal(11)
    audit(conn)
