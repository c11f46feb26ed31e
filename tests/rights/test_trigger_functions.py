"""The extension's trigger functions run only in the triggers that attach made; anywhere else they refuse, and do
nothing else.

PUBLIC has EXECUTE on them. Before, any login crashed the server with one on a temporary table, took a lock on the
stock table, doubled movements, recorded rows that were never written, or hid an UPDATE for good.
"""

import itertools

import psycopg
import pytest

from books import audit, stripes_of
from owner_shop import KEYS, LEDGER, ONE, STOCK, STRIPES, TWO, open_store
from shop import Aside, item, left, refused, sell

THREE = item(3)
ROW_EVENTS = ("INSERT", "UPDATE", "DELETE")
# (timing, level, event) of every trigger that a table can have.
PLACEMENTS = [
    *itertools.product(("BEFORE", "AFTER"), ("ROW", "STATEMENT"), ROW_EVENTS),
    ("BEFORE", "STATEMENT", "TRUNCATE"),
    ("AFTER", "STATEMENT", "TRUNCATE"),
]
FUNCTIONS = [
    "inventory_movement_begin", "inventory_movement_record", "inventory_movement_flush", "inventory_movement_guard",
    "inventory_truncate_guard", "inventory_stripe_guard",
]  # fmt: skip
OUR_NAMES = [
    "0_inventory_movement_begin", "0_inventory_movement_record", "0_inventory_movement_flush",
    "0_inventory_movement_guard",
    "0_inventory_movement_truncate", "0_inventory_truncate", "0_inventory_stripe_guard", "0_inventory_stripe_truncate",
]  # fmt: skip
# Tables whose columns are named like the stock table's, the ledger's or the stripes', with the id of the striped item
# where it fits.
SHAPES = {
    "id as bigint": ("id bigint, quantity integer", "(4711, 1)"),
    "id as uuid": ("id uuid, quantity integer", f"('{TWO}', 1)"),
    "quantity as bigint": ("id uuid, quantity bigint", f"('{TWO}', 4711)"),
    "quantity as text": ("id uuid, quantity text", f"('{TWO}', 'many')"),
    "nulls": ("id uuid, quantity numeric", "(NULL, NULL)"),
    "columns of stripes": ("inventory_id uuid, stripe smallint, quantity numeric", f"('{TWO}', 1, 50)"),
    "columns of stripes as bigint": ("inventory_id bigint, stripe bigint, quantity bigint", "(4711, 1, 1)"),
    "another table": ("n integer", "(1)"),
}
WRITES = {
    "INSERT": "INSERT INTO {table} SELECT * FROM {table} LIMIT 1",
    "UPDATE": "UPDATE {table} SET {column} = {column}",
    "DELETE": "DELETE FROM {table}",
    "TRUNCATE": "TRUNCATE {table}",
}


@pytest.fixture
def store(db):
    return open_store(db, columns=", note text")


def trigger(conn, table, function, placement, name="x"):
    timing, level, event = placement
    conn.execute(
        f'CREATE TRIGGER "{name}" {timing} {event} ON {table} FOR EACH {level} EXECUTE FUNCTION public.{function}()'
    )


def assert_stray(refusal):
    assert (refusal.sqlstate, refusal.reason) == ("55000", "stray_trigger")


def test_the_list_of_trigger_functions_is_complete(store):
    """A trigger function that comes later belongs into these tests."""
    rows = store.admin.execute(
        "SELECT p.proname FROM pg_proc AS p JOIN pg_depend AS d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass "
        "JOIN pg_extension AS e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass "
        "WHERE e.extname = 'inventory_ext' AND p.prorettype = 'trigger'::regtype"
    )
    assert {name for (name,) in rows} >= set(FUNCTIONS)
    assert {name for (name,) in rows} <= set(FUNCTIONS) | {"inventory_request_guard"}


@pytest.mark.parametrize("shape", SHAPES, ids=[name.replace(" ", "_") for name in SHAPES])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_role_without_any_grant_gets_nothing_but_an_error(store, function, shape):
    """On a temporary table of its own, wherever a trigger can be; TWO is striped."""
    stranger = store.session("stranger")
    columns, values = SHAPES[shape]
    stranger.execute(f"CREATE TEMPORARY TABLE t ({columns}); INSERT INTO t VALUES {values}")
    column = columns.split()[0]
    for placement in PLACEMENTS:
        trigger(stranger, "t", function, placement)
        assert_stray(refused(stranger, WRITES[placement[2]].format(table="t", column=column)))
        stranger.execute("DROP TRIGGER x ON t")
        assert stranger.execute("SELECT count(*) FROM t").fetchone()[0] == 1
    store.audit()


@pytest.mark.parametrize(
    "table", ["inventory", "inventory_movement", "inventory_stripe", "inventory_stripe_total", "inventory_request"]
)
def test_the_names_of_our_tables_and_triggers_help_no_stranger(store, table):
    """A table of the same name in another schema, with every function under every name that attach uses."""
    stranger = store.session("stranger")
    stranger.execute(f"CREATE TEMPORARY TABLE {table} (id uuid, inventory_id uuid, stripe smallint, quantity numeric)")
    stranger.execute(f"INSERT INTO {table} VALUES ('{TWO}', '{TWO}', 1, 50)")
    for function, name in itertools.product(FUNCTIONS, OUR_NAMES):
        for placement in PLACEMENTS:
            if function.removeprefix("inventory_") not in name and placement[0] == "AFTER":
                continue  # half of the combinations of names that do not fit is enough
            with pytest.raises(psycopg.Error) as caught, stranger.transaction():
                trigger(stranger, table, function, placement, name)
                stranger.execute(WRITES[placement[2]].format(table=table, column="quantity"))
            assert caught.value.sqlstate == "55000" and '"stray_trigger"' in caught.value.diag.message_detail
    store.audit()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_lock_on_the_stock_table_is_waited_for_or_taken(store, function):
    """The owner holds the table for its DDL: a stranger's trigger neither waits behind it nor keeps the next sale
    waiting."""
    stranger = store.session("stranger")
    stranger.execute(f"CREATE TEMPORARY TABLE t (id uuid, quantity integer); INSERT INTO t VALUES ('{TWO}', 1)")
    stranger.execute("SET lock_timeout = '20s'")
    column = "quantity"
    with store.owner.transaction():
        for table in [STOCK, *store.companions()]:
            store.owner.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        for placement in PLACEMENTS:
            trigger(stranger, "t", function, placement)
            aside = Aside(stranger.execute, WRITES[placement[2]].format(table="t", column=column))
            assert_stray(aside.refusal())
            stranger.execute("DROP TRIGGER x ON t")


def test_a_trigger_of_a_stranger_holds_no_lock_until_its_transaction_ends(store):
    """INSERT with the stripe guard succeeded, and held RowExclusiveLock on the stock table; the owner's DDL and all
    sales waited."""
    stranger = store.session("stranger", autocommit=False)
    stranger.execute("CREATE TEMPORARY TABLE t (id integer)")
    trigger(stranger, "t", "inventory_stripe_guard", ("BEFORE", "ROW", "INSERT"))
    stranger.execute("SAVEPOINT s")
    try:
        stranger.execute("INSERT INTO t VALUES (1)")
    except psycopg.Error as error:
        assert error.sqlstate == "55000"
        stranger.execute("ROLLBACK TO s")
    sql = "SELECT count(*) FROM pg_locks WHERE pid = %s AND relation = ANY (%s::regclass[])"
    held = store.admin.execute(sql, (stranger.info.backend_pid, [STOCK, *store.companions()])).fetchone()[0]
    assert held == 0
    stranger.rollback()


def grantee_of(store, rights="SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER", tables=(STOCK,)):
    role = store.role("grantee")
    store.owner.execute(f'GRANT USAGE ON SCHEMA store TO "{role}"')
    for table in tables:
        store.owner.execute(f'GRANT {rights} ON {table} TO "{role}"')
    return store.session("grantee")


def stock_write(event):
    """A write of a grantee to the item that is not striped."""
    return {
        "INSERT": f"INSERT INTO {STOCK} VALUES ('{THREE}', 777)",
        "UPDATE": f"UPDATE {STOCK} SET quantity = 7 WHERE id = '{ONE}'",
        "DELETE": f"DELETE FROM {STOCK} WHERE id = '{ONE}'",
        "TRUNCATE": f"TRUNCATE {STOCK}",
    }[event]


@pytest.mark.parametrize("name", ["!x", "0_inventory_movement_recorded", "zz"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_on_the_stock_table_a_second_trigger_of_ours_is_refused(store, function, name):
    """A grantee of TRIGGER places each function anywhere, before and after our own triggers: no movement is doubled or
    made up."""
    grantee = grantee_of(store)
    before = store.movements()
    for placement in PLACEMENTS:
        trigger(grantee, STOCK, function, placement, name)
        refusal = refused(grantee, stock_write(placement[2]))
        # Our own guard of TRUNCATE may come first.
        assert refusal.sqlstate == "55000" and refusal.reason in {"stray_trigger", "truncate_refused"}
        assert refusal.reason == "stray_trigger" or placement[2] == "TRUNCATE"
        store.owner.execute(f'DROP TRIGGER "{name}" ON {STOCK}')
    assert store.movements() == before and left(store.admin, ONE, STOCK) == 100
    assert left(store.admin, THREE, STOCK) is None
    grantee.execute(stock_write("UPDATE"))
    store.audit()


@pytest.mark.parametrize("table", [LEDGER, KEYS, STRIPES])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_on_a_companion_a_second_trigger_of_ours_is_refused(store, function, table):
    """A sale writes the companions: it is refused, or sells with exact books; nothing is doubled or hidden."""
    grantee = grantee_of(store, "TRIGGER", [table])
    for placement, name in itertools.product(PLACEMENTS[:12], ("!x", "zz")):
        trigger(grantee, table, function, placement, name)
        for item_id in (ONE, TWO):
            try:
                sell(store.owner, item_id, 1)
            except psycopg.Error as error:
                assert error.sqlstate == "55000" and '"stray_trigger"' in error.diag.message_detail
        store.owner.execute(f'DROP TRIGGER "{name}" ON {table}')
    store.settled(sum(stripes_of(store.admin, TWO, STRIPES).values()))
    store.audit()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_on_a_partition_a_trigger_of_ours_under_our_own_name_neither_doubles_nor_hides(db, function):
    """The partition has clones of our row trigger only; a grantee adds the statement triggers, with our names, timing
    and events."""
    store = open_store(db, columns=", note text", partition_by="HASH (id)")
    grantee = grantee_of(store, tables=[STOCK, "store.part"])
    for name in OUR_NAMES:
        for timing, level in itertools.product(("BEFORE", "AFTER"), ("STATEMENT", "ROW")):
            try:
                grantee.execute(
                    f'CREATE TRIGGER "{name}" {timing} INSERT OR UPDATE OR DELETE ON store.part '
                    f"FOR EACH {level} EXECUTE FUNCTION public.{function}()"
                )
            except psycopg.errors.DuplicateObject:
                continue  # there is our own
            for write in (
                f"UPDATE store.part SET quantity = quantity + 1 WHERE id = '{ONE}'",
                f"UPDATE {STOCK} SET quantity = quantity + 1 WHERE id = '{ONE}'",
                "INSERT INTO store.part VALUES (gen_random_uuid(), 1)",
                "DELETE FROM store.part WHERE quantity = 1",
            ):
                try:
                    grantee.execute(write)
                except psycopg.Error as error:
                    assert error.sqlstate == "55000" and '"stray_trigger"' in error.diag.message_detail
            store.owner.execute(f'DROP TRIGGER "{name}" ON store.part')
            store.audit()


def test_our_triggers_copied_to_a_table_of_another_owner_refuse(store):
    """Name, timing, level and event are those of the stock table's own triggers; only the table is another."""
    store.admin.execute(f'CREATE SCHEMA other AUTHORIZATION "{store.role("other")}"')
    other = store.session("other")
    other.execute(
        f"CREATE TABLE other.inventory (id uuid PRIMARY KEY, quantity integer); INSERT INTO other.inventory VALUES "
        f"('{TWO}', 1)"
    )
    copies = store.admin.execute(
        "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = ANY (%s::regclass[]) AND NOT "
        "tgisinternal",
        ([STOCK, *store.companions()],),
    ).fetchall()
    assert len(copies) > 8
    for name, definition in copies:
        head, _, tail = definition.partition(" ON ")
        other.execute(f"{head} ON other.inventory {tail.partition(' ')[2]}")
        write = "TRUNCATE other.inventory" if "TRUNCATE" in head else "UPDATE other.inventory SET quantity = 2"
        assert_stray(refused(other, write))
        other.execute(f'DROP TRIGGER "{name}" ON other.inventory')
    store.audit()


@pytest.mark.parametrize("name", ["x", "0_inventory_movement_record"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_views_and_foreign_keys_are_no_way_in(store, function, name):
    """INSTEAD OF triggers of a view, and a partitioned table of the stranger's own."""
    store.admin.execute(f'CREATE SCHEMA other AUTHORIZATION "{store.role("other")}"')
    other = store.session("other")
    other.execute(
        f"CREATE VIEW other.v AS SELECT '{TWO}'::uuid AS id, 1 AS quantity;"
        "CREATE TABLE other.p (id uuid, quantity integer) PARTITION BY LIST (id); CREATE TABLE other.p1 PARTITION OF "
        "other.p DEFAULT"
    )
    for event in ROW_EVENTS:
        other.execute(
            f'CREATE TRIGGER "{name}" INSTEAD OF {event} ON other.v FOR EACH ROW EXECUTE FUNCTION public.{function}()'
        )
        assert_stray(refused(other, WRITES[event].format(table="other.v", column="quantity")))
        other.execute(f'DROP TRIGGER "{name}" ON other.v')
    other.execute(f'CREATE TRIGGER "{name}" AFTER INSERT ON other.p FOR EACH ROW EXECUTE FUNCTION public.{function}()')
    assert_stray(refused(other, f"INSERT INTO other.p VALUES ('{TWO}', 1)"))
    constraint = (
        f'CREATE CONSTRAINT TRIGGER "{name}" AFTER INSERT ON other.p1 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW'
    )
    other.execute(f'DROP TRIGGER "{name}" ON other.p; {constraint} EXECUTE FUNCTION public.{function}()')
    assert_stray(refused(other, f"INSERT INTO other.p1 VALUES ('{TWO}', 1)"))


UNDONE = """
    CREATE TEMPORARY TABLE pop (n integer);
    CREATE TRIGGER f {timing} INSERT ON pop FOR EACH {level} EXECUTE FUNCTION public.{function}();
    CREATE TEMPORARY TABLE sink (id uuid);
    CREATE FUNCTION pg_temp.undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        BEGIN INSERT INTO pop VALUES (1); RAISE 'undo'; EXCEPTION WHEN OTHERS THEN NULL; END;
        RETURN NULL;
    END $$;
    CREATE TRIGGER u AFTER INSERT ON sink FOR EACH ROW EXECUTE FUNCTION pg_temp.undo();
"""
HIDDEN = {
    "update": f"UPDATE {STOCK} SET quantity = quantity - 40 WHERE id = '{ONE}'",
    "delete": f"DELETE FROM {STOCK} WHERE id = '{ONE}'",
    "insert": f"INSERT INTO {STOCK} VALUES ('{THREE}', 5)",
}


@pytest.mark.parametrize("write", HIDDEN)
@pytest.mark.parametrize(
    "function", ["inventory_movement_flush", "inventory_movement_begin", "inventory_movement_record"]
)
def test_a_grantee_hides_no_change_with_a_trigger_on_a_table_of_its_own(store, function, write):
    """While its UPDATE runs, the trigger writes the noted changes inside a block that is undone, or takes the
    statement away."""
    level, timing = (
        ("ROW", "AFTER")
        if function.endswith("record")
        else ("STATEMENT", "BEFORE" if function.endswith("begin") else "AFTER")
    )
    grantee = grantee_of(store)
    grantee.execute(UNDONE.format(function=function, level=level, timing=timing))
    for _ in range(2):
        with grantee.transaction():
            grantee.execute(f"WITH w AS ({HIDDEN[write]} RETURNING id) INSERT INTO sink SELECT id FROM w")
            grantee.execute(f"UPDATE {STOCK} SET quantity = quantity + 1 WHERE id = '{ONE}'")
        store.audit()
        if write != "update":
            break


def test_a_row_with_a_combined_command_id_is_deleted_under_a_stray_trigger(store):
    """Inserted and updated in one transaction, the update rolled back: a BEFORE DELETE trigger read its header and
    crashed."""
    writer = store.db.connect(user=store.owner_role, autocommit=False)
    writer.execute(f"INSERT INTO {STOCK} VALUES ('{THREE}', 5); SAVEPOINT s")
    writer.execute(f"UPDATE {STOCK} SET note = 'y' WHERE id = '{THREE}'")
    writer.execute("ROLLBACK TO s")
    writer.commit()
    trigger(store.owner, STOCK, "inventory_movement_record", ("BEFORE", "ROW", "DELETE"))
    assert_stray(refused(store.owner, f"DELETE FROM {STOCK} WHERE id = '{THREE}'"))
    store.owner.execute(f"DROP TRIGGER x ON {STOCK}; DELETE FROM {STOCK} WHERE id = '{THREE}'")
    store.audit()


def test_our_own_trigger_made_anew_with_another_timing_is_refused(store):
    """The right name and table, but BEFORE for AFTER, ROW for STATEMENT, or one event less: nothing is guessed."""
    own, update = store.owner, f"UPDATE store.inventory SET quantity = 7 WHERE id = '{ONE}'"
    for definition, write in (
        ('"0_inventory_movement_record" BEFORE INSERT OR UPDATE OR DELETE ON store.inventory FOR EACH ROW '
         "EXECUTE FUNCTION public.inventory_movement_record()", update),
        ('"0_inventory_movement_record" AFTER INSERT OR UPDATE OR DELETE ON store.inventory FOR EACH STATEMENT '
         "EXECUTE FUNCTION public.inventory_movement_record()", update),
        ('"0_inventory_movement_flush" AFTER INSERT OR UPDATE OR DELETE ON store.inventory FOR EACH ROW '
         "EXECUTE FUNCTION public.inventory_movement_flush()", update),
        ('"0_inventory_movement_begin" AFTER INSERT OR UPDATE OR DELETE ON store.inventory FOR EACH STATEMENT '
         "EXECUTE FUNCTION public.inventory_movement_begin()", update),
        ('"0_inventory_truncate" AFTER TRUNCATE ON store.inventory FOR EACH STATEMENT '
         "EXECUTE FUNCTION public.inventory_truncate_guard()", "TRUNCATE store.inventory"),
        ('"0_inventory_movement_guard" BEFORE INSERT OR UPDATE OR DELETE ON store.inventory_movement FOR EACH ROW '
         "EXECUTE FUNCTION public.inventory_movement_guard()", update),
    ):  # fmt: skip
        table = definition.partition(" ON ")[2].partition(" ")[0]
        own.execute("BEGIN")
        own.execute(f"DROP TRIGGER {definition.partition(' ')[0]} ON {table}; CREATE TRIGGER {definition}")
        assert_stray(refused(own, write))
        own.execute("ROLLBACK")
    audit(store.admin, STOCK, LEDGER)


def test_a_database_without_a_stock_table_answers_in_the_same_way(db):
    """Nothing is attached: the functions on a stranger's table refuse as everywhere."""
    admin = db.connect()
    admin.execute(f"CREATE TABLE t (id bigint, quantity integer); INSERT INTO t VALUES (1, 1), (2, {2**30})")
    for function in FUNCTIONS:
        for placement in PLACEMENTS:
            trigger(admin, "t", function, placement)
            assert_stray(refused(admin, WRITES[placement[2]].format(table="t", column="quantity")))
            admin.execute("DROP TRIGGER x ON t")
