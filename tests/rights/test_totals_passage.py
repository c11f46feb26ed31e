"""What the owner's code writes while our own statement runs is never taken for that statement.

The totals worker's UPDATE is no movement, and a sale may write stripes: code that runs at the very same depth of
triggers (a CHECK, a generated column, an index, a BEFORE trigger's function) passed as the worker's or the sale's own
write, and left no movement.
"""

import pytest

from owner_shop import LEDGER, ONE, STOCK, STRIPES, TWO, open_store
from books import call, lines, stripes_of
from shop import left, refused_sale, sell

# Only the worker writes 99 to the row of TWO, which is striped.
SNEAK = """
    CREATE FUNCTION store.write_other() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {inner}; END $$;
    CREATE FUNCTION store.sneak(item uuid, n integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$
    BEGIN
        IF item = '{two}' AND n = 99 THEN PERFORM store.write_other(); END IF;
        RETURN n;
    END $$;
    CREATE FUNCTION store.sneak_row() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM store.sneak(NEW.id, NEW.quantity); RETURN NEW; END $$;
"""
PLACES = {
    "check": f"ALTER TABLE {STOCK} ADD CHECK (store.sneak(id, quantity) >= 0)",
    "generated column": f"ALTER TABLE {STOCK} ADD g integer GENERATED ALWAYS AS (store.sneak(id, quantity)) STORED",
    "index": f"CREATE INDEX i ON {STOCK} ((store.sneak(id, quantity)))",
    "index predicate": f"CREATE INDEX i ON {STOCK} (quantity) WHERE store.sneak(id, quantity) > 0",
    "condition": f"CREATE TRIGGER t BEFORE UPDATE ON {STOCK} FOR EACH ROW WHEN (store.sneak(NEW.id, NEW.quantity) < 0) "
                 "EXECUTE FUNCTION store.sneak_row()",
    "before trigger": f"CREATE TRIGGER t BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.sneak_row()",
    "after trigger": f"CREATE TRIGGER t AFTER UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.sneak_row()",
}  # fmt: skip
INNER = {
    "update": f"UPDATE store.inventory SET quantity = 1 WHERE id = '{ONE}' AND quantity <> 1",
    "delete": f"DELETE FROM store.inventory WHERE id = '{ONE}'",
    "insert": "INSERT INTO store.inventory SELECT '00000000-0000-0000-0000-000000000005', 5 ON CONFLICT (id) DO "
    "NOTHING",
}


def sneak(store, inner):
    store.owner.execute(SNEAK.format(inner=inner, two=TWO))


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("place", PLACES, ids=[name.replace(" ", "_") for name in PLACES])
def test_another_item_written_while_the_worker_writes_a_total_is_recorded(db, place, inner):
    """It changed the stock without a movement: the ledger said 100, the row 1."""
    store = open_store(db)
    sneak(store, INNER[inner])
    store.owner.execute(PLACES[place])
    begin = store.last_movement()
    sell(store.owner, TWO, 1)
    store.settled(99)
    written = {"update": (ONE, "external", 100, 1), "delete": (ONE, "closing", 100, 0)}.get(inner)
    others = [movement[:4] for movement in store.movements(after=begin) if movement.item != TWO]
    assert others == [written] if written else [step[1:] for step in others] == [("opening", 0, 5)]
    store.audit()


@pytest.mark.parametrize("ledger", [True, False])
@pytest.mark.parametrize("place", ["check", "generated column", "before trigger"])
def test_another_striped_item_cannot_be_written_meanwhile(db, place, ledger):
    """Its row shows the sum of its stripes: a direct write is refused, also from inside the worker's UPDATE."""
    store = open_store(db, p_ledger=ledger)
    store.owner.execute("SELECT public.stripe_inventory(%s, 2)", (ONE,))
    store.owner.execute("CREATE TABLE store.answer (sqlstate text)")
    sneak(
        store,
        f"BEGIN UPDATE store.inventory SET quantity = 1 WHERE id = '{ONE}'; INSERT INTO store.answer VALUES ('done'); "
        "EXCEPTION WHEN OTHERS THEN INSERT INTO store.answer VALUES (SQLSTATE); END",
    )
    store.owner.execute(PLACES[place])
    sell(store.owner, TWO, 1)
    store.settled(99)
    assert set(store.admin.execute("SELECT sqlstate FROM store.answer").fetchall()) == {("55000",)}
    assert left(store.admin, ONE, STOCK) == 100
    assert store.admin.execute("SELECT available_inventory(%s)", (ONE,)).fetchone()[0] == 100


STRIPE_PLACES = {
    "check": f"ALTER TABLE {STRIPES} ADD CHECK (store.theft(inventory_id, quantity) >= 0)",
    "generated column": f"ALTER TABLE {STRIPES} ADD g numeric GENERATED ALWAYS AS (store.theft(inventory_id, "
    f"quantity)) STORED",
    "index": f"CREATE INDEX i ON {STRIPES} ((store.theft(inventory_id, quantity)))",
    "before trigger": f"CREATE TRIGGER t BEFORE UPDATE ON {STRIPES} FOR EACH ROW EXECUTE FUNCTION store.theft_row()",
    "early statement trigger": f'CREATE TRIGGER "!t" BEFORE UPDATE ON {STRIPES} EXECUTE FUNCTION store.theft_row()',
}
THEFTS = {
    "update": f"UPDATE store.inventory_stripe SET quantity = 1 WHERE inventory_id = '{ONE}'",
    "delete": f"DELETE FROM store.inventory_stripe WHERE inventory_id = '{ONE}'",
    "insert": f"INSERT INTO store.inventory_stripe (inventory_id, stripe, quantity) VALUES ('{ONE}', 3, 50)",
}


@pytest.mark.parametrize("theft", THEFTS)
@pytest.mark.parametrize("place", STRIPE_PLACES, ids=[name.replace(" ", "_") for name in STRIPE_PLACES])
def test_stripes_of_another_item_cannot_be_written_while_a_sale_writes_stripes(db, place, theft):
    """The guard let through every statement at the depth of the sale's own statement."""
    store = open_store(db)
    store.owner.execute("SELECT public.stripe_inventory(%s, 2)", (ONE,))
    store.owner.execute(
        f"CREATE FUNCTION store.steal() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {THEFTS[theft]}; "
        "EXCEPTION WHEN SQLSTATE '55000' THEN RAISE NOTICE 'refused'; END $$;"
        "CREATE FUNCTION store.theft(item uuid, n numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN "
        f"IF item = '{TWO}' AND n = 49 THEN PERFORM store.steal(); END IF; RETURN n; END $$;"
        "CREATE FUNCTION store.theft_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF pg_trigger_depth() < 3 "
        "AND current_setting('shop.stolen', true) IS DISTINCT FROM 'yes' THEN PERFORM set_config('shop.stolen', "
        "'yes', true); "
        "PERFORM store.steal(); END IF; RETURN NEW; END $$"
    )
    store.owner.execute(STRIPE_PLACES[place])
    sell(store.owner, TWO, 1)
    assert stripes_of(store.admin, ONE, STRIPES) == {1: 50, 2: 50}
    assert store.admin.execute("SELECT available_inventory(%s)", (ONE,)).fetchone()[0] == 100
    store.settled(99)
    store.audit()


FORGED = (
    "INSERT INTO store.inventory_movement (inventory_id, kind, old_quantity, new_quantity, actor) "
    "VALUES (gen_random_uuid(), 'sale', 1, 0, 'forger')"
)
FORGERIES = {
    "default": f"ALTER TABLE {LEDGER} ADD c text DEFAULT store.forge()",
    "immutable default": f"ALTER TABLE {LEDGER} ADD c text DEFAULT NULL; "
                         f"ALTER TABLE {LEDGER} ALTER c SET DEFAULT store.forge_while_planning()",
    "check": f"ALTER TABLE {LEDGER} ADD CHECK (store.forge() IS NOT NULL) NOT VALID",
    "early trigger": f'CREATE TRIGGER "!f" BEFORE INSERT ON {LEDGER} EXECUTE FUNCTION store.forge_row()',
    "row trigger": f"CREATE TRIGGER f BEFORE INSERT ON {LEDGER} FOR EACH ROW EXECUTE FUNCTION store.forge_row()",
    "late trigger": f"CREATE TRIGGER zf AFTER INSERT ON {LEDGER} EXECUTE FUNCTION store.forge_row()",
    "trigger of the stock": f"CREATE TRIGGER f BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION "
        f"store.forge_row()",
}  # fmt: skip


@pytest.mark.parametrize("caught", [True, False])
@pytest.mark.parametrize("place", FORGERIES, ids=[name.replace(" ", "_") for name in FORGERIES])
def test_no_movement_is_forged_while_a_movement_is_written(db, place, caught):
    """The permit of our own INSERT is for that INSERT; the sale is made with its own movement alone, or refused as a
    whole."""
    store = open_store(db)
    body = f"BEGIN {FORGED}; EXCEPTION WHEN SQLSTATE '55000' THEN NULL; END;" if caught else f"{FORGED};"
    store.owner.execute(
        "CREATE FUNCTION store.forge() RETURNS text LANGUAGE plpgsql AS $$ BEGIN "
        "IF current_setting('shop.forging', true) IS DISTINCT FROM 'yes' THEN PERFORM set_config('shop.forging', "
        "'yes', true); "
        f"{body} END IF; RETURN 'x'; END $$;"
        "CREATE FUNCTION store.forge_while_planning() RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN "
        "store.forge(); END $$;"
        "CREATE FUNCTION store.forge_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM store.forge(); RETURN "
        "NEW; END $$"
    )
    with store.owner.transaction():
        store.owner.execute("SET LOCAL shop.forging = 'yes'")
        store.owner.execute(FORGERIES[place])
    clerk = store.clerk()
    for item in (ONE, TWO):
        for work in (
            lambda item=item: sell(clerk, item, 1),
            lambda item=item: call(clerk, "decrement_inventory_batch", p_items=lines((item, 1))),
            lambda: store.owner.execute(f"UPDATE {STOCK} SET quantity = quantity - 1 WHERE id = '{ONE}'"),
        ):
            try:
                work()
            except Exception as error:
                assert error.sqlstate in {"55000", "54001"}
    assert [movement for movement in store.movements() if movement.actor == "forger"] == []
    # The worker's own session forges, too, and ends by the error; the next sale starts another.
    store.owner.execute("DROP FUNCTION store.forge_row(), store.forge() CASCADE")
    sell(clerk, TWO, 1)
    store.settled(sum(stripes_of(store.admin, TWO, STRIPES).values()))
    store.audit()


def test_a_check_that_fails_in_the_worker_leaves_the_books_right(db):
    """The owner's code raises an error there: the total lags, no unit is lost, and available_inventory is right."""
    store = open_store(db)
    store.owner.execute(f"ALTER TABLE {STOCK} ADD CONSTRAINT c CHECK (quantity <> 99)")
    sell(store.owner, TWO, 1)
    assert store.admin.execute("SELECT available_inventory(%s)", (TWO,)).fetchone()[0] == 99
    assert refused_sale(store.owner, TWO, 100).facts["available"] == 99
    store.owner.execute(f"ALTER TABLE {STOCK} DROP CONSTRAINT c")
    sell(store.owner, TWO, 1)
    store.settled(98)
    store.audit()
