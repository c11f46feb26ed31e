"""A call or a write on one stock table whose code writes another: each movement is recorded where it belongs, as what
it is.

Code of the owner runs at the same depth of triggers in both tables, and items of both have the same ids: a write of the
other table passed as the sale's own, with its kind and reference, or as the worker's own, without a movement.
"""

import pytest

from books import call, movements
from shop import ONE, TWO, attach, fill, left, refused, sell, until

HERE, THERE = "here.inventory", "there.inventory"
WRITES = {
    "update": f"UPDATE {THERE} SET quantity = quantity - 2 WHERE id = '{ONE}'",
    "sale": f"SET LOCAL inventory_ext.stock_table = '{THERE}'; PERFORM public.decrement_inventory('{ONE}', 2)",
}
PLACES = {
    "check": f"ALTER TABLE {HERE} ADD CHECK (public.elsewhere(id, quantity))",
    "generated column": f"ALTER TABLE {HERE} ADD g boolean GENERATED ALWAYS AS (public.elsewhere(id, quantity)) STORED",
    "before row": f"CREATE TRIGGER t BEFORE UPDATE ON {HERE} FOR EACH ROW EXECUTE FUNCTION public.elsewhere_row()",
    "after row": f"CREATE TRIGGER t AFTER UPDATE ON {HERE} FOR EACH ROW EXECUTE FUNCTION public.elsewhere_row()",
    "after statement": f"CREATE TRIGGER t AFTER UPDATE ON {HERE} EXECUTE FUNCTION public.elsewhere_row()",
    "before statement": f"CREATE TRIGGER t BEFORE UPDATE ON {HERE} EXECUTE FUNCTION public.elsewhere_row()",
}


@pytest.fixture
def conn(db):
    conn = db.connect()
    for schema in ("here", "there"):
        conn.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.inventory (id uuid PRIMARY KEY, quantity numeric)")
        fill(conn, {ONE: 100, TWO: 100}, f"{schema}.inventory")
        attach(conn, f"{schema}.inventory")
    conn.execute(f"SET inventory_ext.stock_table = '{HERE}'")
    return conn


def elsewhere(conn, write):
    """Code that writes the other table once a transaction, in the same way wherever it stands."""
    body = f"""
        IF current_setting('shop.done', true) IS DISTINCT FROM 'yes' THEN
            PERFORM set_config('shop.done', 'yes', true);
            {write};
            SET LOCAL inventory_ext.stock_table = '{HERE}';
        END IF;"""
    conn.execute(f"CREATE FUNCTION public.write_elsewhere() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    conn.execute(
        "CREATE FUNCTION public.elsewhere(item uuid, n numeric) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM public.write_elsewhere(); RETURN true; END $$"
    )
    conn.execute(
        "CREATE FUNCTION public.elsewhere_row() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM public.write_elsewhere(); RETURN NEW; END $$"
    )


def recorded(conn, schema):
    """(item, kind, old, new, reference) after the opening."""
    found = movements(conn, table=f"{schema}.inventory_movement")
    return [(one.item, one.kind, one.old, one.new, one.reference) for one in found if one.kind != "opening"]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("place", PLACES, ids=[name.replace(" ", "_") for name in PLACES])
@pytest.mark.parametrize("outer", ["sale", "order", "update"])
def test_each_table_has_its_own_movement(conn, place, write, outer):
    elsewhere(conn, WRITES[write])
    conn.execute("SET shop.done = 'yes'")
    conn.execute(PLACES[place])
    conn.execute("RESET shop.done; BEGIN; SET LOCAL inventory_ext.reference = 'r'")
    if outer == "sale":
        sell(conn, ONE, 5)
    elif outer == "order":
        items = f'[{{"inventory_id": "{ONE}", "quantity": 5}}, {{"inventory_id": "{TWO}", "quantity": 1}}]'
        call(conn, "decrement_inventory_batch", p_items=items)
    else:
        conn.execute(f"UPDATE {HERE} SET quantity = quantity - 5 WHERE id = '{ONE}'")
    conn.execute("COMMIT")
    kind = "external" if outer == "update" else "sale"
    here = [(ONE, kind, 100, 95, "r")] + ([(TWO, kind, 100, 99, "r")] if outer == "order" else [])
    assert recorded(conn, "here") == here
    assert recorded(conn, "there") == [(ONE, "external" if write == "update" else "sale", 100, 98, "r")]


def test_a_write_of_the_other_table_is_not_taken_for_the_workers_total(conn):
    """Same id, same quantity, at the same depth, while the worker writes the total of the item here."""
    conn.execute("SELECT stripe_inventory(%s::uuid, 2)", (ONE,))
    elsewhere(conn, f"UPDATE {THERE} SET quantity = 99 WHERE id = '{ONE}' AND quantity = 100")
    conn.execute("SET shop.done = 'yes'")
    conn.execute(PLACES["check"])
    conn.execute("RESET shop.done")
    sell(conn, ONE, 1)
    until(lambda: left(conn, ONE, HERE) == 99, "the row shows the total")
    assert left(conn, ONE, THERE) == 99
    assert [step[:4] for step in recorded(conn, "there")] == [(ONE, "external", 100, 99)]


def test_movements_of_both_tables_go_with_the_block_that_is_undone(conn):
    conn.execute(
        f"""DO $$ BEGIN
            UPDATE {HERE} SET quantity = 90 WHERE id = '{ONE}';
            BEGIN
                UPDATE {HERE} SET quantity = 80 WHERE id = '{ONE}';
                UPDATE {THERE} SET quantity = 80 WHERE id = '{ONE}';
                RAISE EXCEPTION 'undo';
            EXCEPTION WHEN raise_exception THEN NULL; END;
            UPDATE {THERE} SET quantity = 70 WHERE id = '{ONE}';
        END $$"""
    )
    assert [step[2:4] for step in recorded(conn, "here")] == [(100, 90)]
    assert [step[2:4] for step in recorded(conn, "there")] == [(100, 70)]


def test_one_statement_writes_both_tables(conn):
    """Two data-modifying CTEs: the triggers of both fire at the end of the statement."""
    conn.execute(
        f"""WITH one AS (UPDATE {HERE} SET quantity = quantity - 1 RETURNING 1),
                 other AS (UPDATE {THERE} SET quantity = quantity - 2 RETURNING 1)
            SELECT count(*) FROM one, other"""
    )
    assert sorted(step[2:4] for step in recorded(conn, "here")) == [(100, 99)] * 2
    assert sorted(step[2:4] for step in recorded(conn, "there")) == [(100, 98)] * 2


def test_triggers_of_ours_on_a_third_table_are_strangers(conn):
    conn.execute("CREATE TABLE third (id uuid, quantity numeric)")
    conn.execute(
        'CREATE TRIGGER "0_inventory_movement_record" AFTER INSERT ON third FOR EACH ROW '
        "EXECUTE FUNCTION inventory_movement_record()"
    )
    assert refused(conn, "INSERT INTO third VALUES (gen_random_uuid(), 1)").reason == "stray_trigger"


def test_a_row_that_moves_between_both_tables_closes_here_and_opens_there(conn):
    conn.execute(f"DELETE FROM {THERE} WHERE id = '{ONE}'")
    conn.execute(
        f"WITH gone AS (DELETE FROM {HERE} WHERE id = '{ONE}' RETURNING *) INSERT INTO {THERE} SELECT * FROM gone"
    )
    assert [step[1:4] for step in recorded(conn, "here")] == [("closing", 100, 0)]
    opened = [step for step in movements(conn, ONE, "there.inventory_movement") if step.kind == "opening"]
    assert [(step.old, step.new) for step in opened] == [(0, 100), (0, 100)]
