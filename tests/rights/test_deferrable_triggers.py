"""A deferrable trigger would run at commit, outside of our call: owner mode refuses a table with one.

Before, it ran with the caller's search_path, on PostgreSQL 15 as the caller (a superuser, or a clerk whose sale then
failed with 42501), also when the caller deferred it with SET CONSTRAINTS. Deferrable foreign keys and unique
constraints go on working.
"""

import psycopg
import pytest

from books import call, lines, refused_call
from owner_shop import KEYS, LEDGER, ONE, STOCK, STRIPES, TWO, heard_while, hostile_store, open_store
from shop import attach, item, left, refused, refused_attach, refused_sale, sell

THREE = item(3)
TIMINGS = ["DEFERRABLE INITIALLY DEFERRED", "DEFERRABLE INITIALLY IMMEDIATE", "DEFERRABLE"]

CODE = """
    CREATE TABLE IF NOT EXISTS store.ran (role name);
    CREATE OR REPLACE FUNCTION store.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE NOTICE 'late as %', current_user;
        INSERT INTO store.ran VALUES (current_user);
        RETURN NULL;
    END $$;
"""

REFUSED = {
    "sale": ("decrement_inventory", {"p_inventory_id": ONE, "p_quantity": 1}),
    "sale of a striped item": ("decrement_inventory", {"p_inventory_id": TWO, "p_quantity": 1}),
    "order": ("decrement_inventory_batch", {"p_items": lines((ONE, 1), (TWO, 1)), "p_on_shortage": "partial"}),
    "order with a key": ("decrement_inventory_batch", {"p_items": lines((TWO, 1)), "p_idempotency_key": "k"}),
    "restock": ("restock_inventory", {"p_inventory_id": ONE, "p_quantity": 1}),
    "restock of a striped item": ("restock_inventory", {"p_inventory_id": TWO, "p_quantity": 1}),
    "count": ("adjust_inventory", {"p_inventory_id": ONE, "p_counted_quantity": 1}),
    "count of a striped item": ("adjust_inventory", {"p_inventory_id": TWO, "p_counted_quantity": 1}),
    "transfer": ("transfer_inventory", {"p_from": ONE, "p_to": TWO, "p_quantity": 1}),
}


def late_trigger(store, table=STOCK, timing=TIMINGS[0], events="INSERT OR UPDATE OR DELETE", name="late"):
    """A constraint trigger of the owner, made while sessions have the table cached."""
    store.owner.execute(CODE)
    store.owner.execute(
        f"CREATE CONSTRAINT TRIGGER {name} AFTER {events} ON {table} {timing} FOR EACH ROW EXECUTE FUNCTION "
        f"store.late()"
    )


def ran(store):
    return [role for (role,) in store.admin.execute("SELECT role FROM store.ran").fetchall()]


def assert_refused(refusal, table=STOCK, trigger="late"):
    assert (refusal.sqlstate, refusal.reason) == ("55000", "deferrable_trigger")
    assert next(iter(refusal.facts)) == "reason" and refusal.hint
    assert refusal.facts["table"].rpartition(".")[2] == table.rpartition(".")[2]
    assert refusal.facts["trigger"] == trigger


@pytest.fixture
def store(db):
    return open_store(db)


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("caller", ["clerk", "superuser", "owner"])
def test_every_call_is_refused_from_the_next_on(store, timing, caller):
    """In sessions that sold before the trigger was there; nothing changes, and without the trigger they sell again."""
    conn = {"clerk": store.clerk, "superuser": store.db.connect, "owner": lambda: store.owner}[caller]()
    sell(conn, ONE, 1)
    sell(conn, TWO, 1)
    late_trigger(store, timing=timing)
    before = store.movements()
    for function, arguments in REFUSED.values():
        assert_refused(refused_call(conn, function, **arguments))
    with conn.transaction():
        conn.execute("SET CONSTRAINTS ALL DEFERRED; SAVEPOINT s")
        assert_refused(refused_sale(conn, ONE, 1))
        conn.execute("ROLLBACK TO s")
    assert (store.movements(), ran(store)) == (before, [])
    store.owner.execute(f"DROP TRIGGER late ON {STOCK}")
    assert sell(conn, ONE, 1)["new_quantity"] == 98
    sell(conn, TWO, 1)
    store.settled(98)
    store.audit()


@pytest.mark.parametrize("call", ["stripe_inventory", "unstripe_inventory", "available_inventory"])
def test_an_item_is_not_striped_or_put_together_either(store, call):
    late_trigger(store)
    for key in (ONE, TWO):
        assert_refused(refused(store.owner, f"SELECT public.{call}(%s)", (key,)))
    assert ran(store) == []


@pytest.mark.parametrize("table", [LEDGER, KEYS, STRIPES])
@pytest.mark.parametrize("timing", TIMINGS[:2])
def test_a_deferrable_trigger_on_a_companion_is_refused(store, table, timing):
    """Ledger, keys and stripes are written as the owner too."""
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    late_trigger(store, table, timing)
    assert_refused(refused_sale(clerk, ONE, 1), table)
    assert_refused(refused_sale(store.admin, TWO, 1), table)
    assert ran(store) == []
    store.owner.execute(f"DROP TRIGGER late ON {table}")
    sell(clerk, ONE, 1)
    sell(clerk, TWO, 1)


@pytest.mark.parametrize("on", ["the partitioned table", "one partition"])
def test_a_deferrable_trigger_on_partitions_is_refused(db, on):
    """A trigger of one partition is no trigger of the partitioned table."""
    store = open_store(db, partition_by="HASH (id)")
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    table = STOCK if on == "the partitioned table" else "store.part"
    late_trigger(store, table)
    refusal = refused_sale(clerk, ONE, 1)
    assert_refused(refusal, refusal.facts["table"])
    assert refusal.facts["table"].rpartition(".")[2] in {table.rpartition(".")[2], "part"}
    assert ran(store) == []
    store.owner.execute(f"DROP TRIGGER late ON {table}")
    sell(clerk, ONE, 1)


def test_a_partition_of_a_partition_that_comes_later_is_refused(db):
    """Two levels down, attached while sessions have the table cached."""
    store = open_store(db, partition_by="HASH (id)")
    clerk = store.clerk()
    store.owner.execute(
        "CREATE TABLE store.tree (id uuid PRIMARY KEY, quantity integer NOT NULL) PARTITION BY LIST (id);"
        "CREATE TABLE store.leaf (id uuid PRIMARY KEY, quantity integer NOT NULL);"
    )
    late_trigger(store, "store.leaf")
    store.owner.execute("ALTER TABLE store.tree ATTACH PARTITION store.leaf DEFAULT")
    sell(clerk, ONE, 1)
    check = "CONSTRAINT quantity_non_negative CHECK (id IS NOT NULL AND quantity >= 0)"
    store.owner.execute(
        f"SELECT detach_inventory(); DROP TABLE store.part; ALTER TABLE store.tree ADD {check}; "
        "ALTER TABLE store.inventory ATTACH PARTITION store.tree FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    )
    assert_refused(refused_attach(store.owner, STOCK), "leaf")


@pytest.mark.parametrize("timing", TIMINGS)
def test_attach_refuses_a_table_with_a_deferrable_trigger(store, timing):
    """Before anything is made or changed; with the caller's rights the table is attached."""
    store.owner.execute("SELECT detach_inventory()")
    late_trigger(store, timing=timing)
    assert_refused(refused_attach(store.owner, STOCK))
    assert_refused(refused_attach(store.admin, STOCK))
    attach(store.owner, STOCK, p_run_as="caller")


def test_detach_is_possible_so_that_the_hint_can_be_followed(store):
    """Also while an item is striped; the stripes' units are not lost."""
    sell(store.owner, TWO, 1)
    late_trigger(store)
    store.owner.execute("SELECT detach_inventory()")
    store.owner.execute("SELECT attach_inventory('store.inventory', p_run_as => 'caller')")
    assert store.admin.execute("SELECT available_inventory(%s)", (TWO,)).fetchone()[0] == 99


def test_a_constraint_trigger_that_is_not_deferrable_runs_within_the_call(store):
    """As the owner, with the owner's names, before the call returns; also after SET CONSTRAINTS ALL DEFERRED."""
    late_trigger(store, timing="NOT DEFERRABLE")
    clerk = store.clerk()
    with clerk.transaction():
        clerk.execute("SET CONSTRAINTS ALL DEFERRED")
        heard = heard_while(clerk, lambda: sell(clerk, ONE, 1))
    assert heard == [f"late as {store.owner_role}"]
    store.audit()


@pytest.mark.parametrize("item", [ONE, TWO], ids=["whole", "striped"])
def test_with_the_callers_rights_it_never_runs_as_a_superuser(db, item):
    """Neither as the superuser who calls, nor as the worker; the clerk's sale is not the superuser's affair."""
    store = hostile_store(db, p_run_as="caller")
    store.owner.execute(f"DROP TRIGGER later ON store.later; CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON {STOCK} "
                        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION store.grab_row()")  # fmt: skip
    try:
        sell(store.admin, item, 1)
    except psycopg.Error as error:
        assert error.sqlstate in {"55000", "42501"}
    assert not store.become_superuser()
    sell(store.owner, ONE, 1)
    assert not store.become_superuser()


def test_with_the_callers_rights_it_runs_as_whoever_sells(db):
    """As for an UPDATE of the caller's own: at commit, as the caller."""
    store = open_store(db, p_run_as="caller")
    late_trigger(store)
    store.owner.execute(
        f"GRANT USAGE ON SCHEMA store TO PUBLIC; GRANT INSERT ON store.ran TO PUBLIC; GRANT SELECT, UPDATE ON {STOCK} "
        f"TO PUBLIC"
    )
    clerk = store.clerk()
    assert sell(clerk, ONE, 1)["new_quantity"] == 99
    assert ran(store) == [clerk.info.user]
    store.audit()


KEYS_OF_OTHERS = {
    "an order line": "CREATE TABLE store.line (item uuid REFERENCES store.inventory {timing}); "
                     f"INSERT INTO store.line VALUES ('{ONE}'), ('{TWO}')",
    "a line that follows a new id": "CREATE TABLE store.line (item uuid REFERENCES store.inventory ON UPDATE CASCADE "
        "{timing}); "
                                    f"INSERT INTO store.line VALUES ('{ONE}'), ('{TWO}')",
    "the product of the item": "CREATE TABLE store.product (id uuid PRIMARY KEY); "
                               f"INSERT INTO store.product VALUES ('{ONE}'), ('{TWO}'); "
                               "ALTER TABLE store.inventory ADD FOREIGN KEY (id) REFERENCES store.product {timing}",
    "a unique column": "ALTER TABLE store.inventory ADD sku text UNIQUE {timing}",
    "a unique quantity": "ALTER TABLE store.inventory ADD UNIQUE (id, quantity) {timing}",
    "an exclusion": "ALTER TABLE store.inventory ADD EXCLUDE USING btree (id WITH =) {timing}",
}  # fmt: skip


@pytest.mark.parametrize("timing", TIMINGS[:2])
@pytest.mark.parametrize("kind", KEYS_OF_OTHERS, ids=[name.replace(" ", "_") for name in KEYS_OF_OTHERS])
def test_deferrable_constraints_go_on_working(store, kind, timing):
    """Foreign keys and unique constraints are PostgreSQL's own triggers: sales by any role, striped or not, as
    before."""
    store.owner.execute(KEYS_OF_OTHERS[kind].format(timing=timing))
    conns = [store.clerk(), store.admin, store.owner]
    for conn in conns:
        with conn.transaction():
            conn.execute("SET CONSTRAINTS ALL DEFERRED")
            sell(conn, ONE, 1)
            sell(conn, TWO, 1)
        call(conn, "decrement_inventory_batch", p_items=lines((ONE, 1), (TWO, 1)))
        call(conn, "adjust_inventory", p_inventory_id=TWO, p_counted_quantity=90)
    store.settled(90)
    assert left(store.admin, ONE, STOCK) == 100 - 2 * len(conns)
    store.owner.execute("SELECT public.unstripe_inventory(%s), public.stripe_inventory(%s, 3)", (TWO, ONE))
    store.audit()


def test_a_deferred_key_of_the_ledger_itself_cannot_be_queued_for_another_role(store):
    """Each movement would queue an event, which a security-restricted operation must not: documented 42501; the owner
    may."""
    store.owner.execute(
        f"ALTER TABLE store.inventory_movement ADD m uuid REFERENCES {STOCK} DEFERRABLE INITIALLY DEFERRED"
    )
    for conn in (store.clerk(), store.admin):
        assert refused_sale(conn, ONE, 1).sqlstate == "42501"
    assert sell(store.owner, ONE, 1)["deducted"] == 1
    store.audit()


def test_an_order_line_inserted_in_the_same_transaction_keeps_its_deferred_key(store):
    """A clerk's own deferred foreign-key check, queued before and after a sale, runs at commit and still finds a wrong
    item."""
    store.owner.execute(
        f"CREATE TABLE store.line (item uuid REFERENCES {STOCK} DEFERRABLE INITIALLY DEFERRED); GRANT USAGE ON SCHEMA "
        f"store TO PUBLIC;"
        "GRANT INSERT ON store.line TO PUBLIC"
    )
    clerk = store.clerk()
    with clerk.transaction():
        clerk.execute("INSERT INTO store.line VALUES (%s)", (ONE,))
        sell(clerk, ONE, 1)
        clerk.execute("INSERT INTO store.line VALUES (%s)", (TWO,))
        sell(clerk, TWO, 1)
    clerk.execute("BEGIN")
    clerk.execute("INSERT INTO store.line VALUES (%s)", (THREE,))
    sell(clerk, ONE, 1)
    assert refused(clerk, "COMMIT").sqlstate == "23503"
    assert left(store.admin, ONE, STOCK) == 99
    store.settled(99)
    store.audit()


def test_a_row_of_this_transaction_with_a_deferred_key_of_its_own(store):
    """PostgreSQL queues the check again for a row that the transaction inserted: documented 42501, the owner itself
    may."""
    store.owner.execute(
        "CREATE TABLE store.product (id uuid PRIMARY KEY); INSERT INTO store.product SELECT id FROM store.inventory;"
        f"ALTER TABLE {STOCK} ADD FOREIGN KEY (id) REFERENCES store.product DEFERRABLE INITIALLY DEFERRED"
    )
    for conn, own in ((store.owner, True), (store.admin, False)):
        conn.execute("BEGIN")
        conn.execute(f"INSERT INTO {STOCK} VALUES (%s, 5)", (THREE,))
        if own:
            sell(conn, THREE, 1)
        else:
            assert refused_sale(conn, THREE, 1).sqlstate == "42501"
        conn.execute("ROLLBACK")
    sell(store.admin, ONE, 1)
    store.audit()
