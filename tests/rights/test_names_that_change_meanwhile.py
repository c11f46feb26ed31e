"""A call that waits never goes on with another table that has taken the name of its own.

Statements find tables by their names. While a call waits, the owner renames the schema of the shop, and a stranger who
may create schemas gives the name to one of its own.
"""

import psycopg
import pytest

from attack_parties import statement
from owner_shop import KEYS, ONE, STOCK, STRIPES, TOTALS, TWO, open_store
from shop import left, sell, until
from striped import available
from waiting_calls import (
    Held, Usurper, partitioned, put_code, run, until_wanted, waiting_for_a_key, with_code_of,
)  # fmt: skip

SALE = statement("decrement_inventory('{item}', 1)")
LOCK = f"LOCK TABLE {STRIPES} IN ACCESS EXCLUSIVE MODE"
SHOPS = {"ordinary": open_store, "partitioned": partitioned}


@pytest.mark.parametrize("run_as", ["owner", "caller"])
@pytest.mark.parametrize("by", ["clerk", "superuser"])
@pytest.mark.parametrize("shop", SHOPS)
def test_the_first_call_of_a_session_sells_from_its_own_table(db, shop, by, run_as):
    """Before, it had read the name, waited for the stripes, and sold from the table of the stranger."""
    store = SHOPS[shop](db, p_run_as=run_as)
    usurper, conn = Usurper(store), store.clerk() if by == "clerk" else db.connect()
    store.owner.execute("GRANT USAGE ON SCHEMA store TO PUBLIC; GRANT ALL ON store.inventory TO PUBLIC")
    store.settled(100)
    held = Held(store, LOCK, conn, SALE)
    usurper.take_the_name()
    assert '"new_quantity": 99' in held.result()[0][0]
    usurper.assert_got_nothing()
    assert left(store.admin, ONE, "old.inventory") == 99
    usurper.give_it_back()
    store.audit()


READS = {
    "available": f"SELECT available_inventory('{TWO}')",
    "striped sale": statement("decrement_inventory('{item}', 1)", TWO),
    "order": statement("""decrement_inventory_batch('[{"inventory_id": "{item}", "quantity": 1}]')""", TWO),
}


@pytest.mark.parametrize("shop", SHOPS)
@pytest.mark.parametrize("read", READS)
def test_a_call_that_waits_for_the_stripes_is_told_to_call_again(db, read, shop):
    store = SHOPS[shop](db)
    usurper, clerk = Usurper(store), store.clerk()
    clerk.execute(READS[read])
    store.settled(available(store.admin, TWO))
    held = Held(store, LOCK, clerk, READS[read])
    usurper.take_the_name()
    refusal = held.refusal()
    assert (refusal.sqlstate, refusal.reason, refusal.hint) == (
        "55006",
        "renamed_meanwhile",
        "Call the function again.",
    )
    usurper.assert_got_nothing()
    assert refusal.hint == "Call the function again."
    clerk.execute(READS[read])
    usurper.assert_got_nothing()
    usurper.give_it_back()
    store.settled(available(store.admin, TWO))
    store.audit()


def test_the_totals_worker_writes_to_no_other_table(db):
    store = open_store(db)
    usurper = Usurper(store)
    store.settled(100)
    sell(store.clerk(), TWO, 7)
    holder = db.connect(user=store.owner_role)
    holder.execute(f"BEGIN; {LOCK}; ALTER TABLE {STRIPES} SET (fillfactor = 70)")
    until_wanted(store, STRIPES)
    usurper.take_the_name()
    holder.execute("COMMIT")
    until(lambda: left(store.admin, TWO, "old.inventory") == 93, "the row shows the total")
    usurper.assert_got_nothing()


@pytest.mark.parametrize("broken", [False, True])
def test_detach_writes_to_no_other_table(db, broken):
    """Before, stripes of a broken attachment were deleted, and their sum went to the table of the stranger."""
    store = open_store(db)
    usurper = Usurper(store)
    sell(store.clerk(), TWO, 30)
    store.settled(70)
    if broken:
        store.owner.execute('DROP TRIGGER "0_inventory_movement_record" ON store.inventory')
    conn = db.connect(user=store.owner_role)
    held = Held(store, f"LOCK TABLE {KEYS} IN ACCESS EXCLUSIVE MODE", conn, "SELECT detach_inventory()")
    usurper.take_the_name()
    held.result()
    usurper.assert_got_nothing()
    assert [left(store.admin, item, "old.inventory") for item in (ONE, TWO)] == [100, 70]
    assert run(store.admin, "SELECT count(*) FROM old.inventory_stripe") == [(0,)]


AUDITS = ["SELECT * FROM audit_inventory(p_full => true)", "SELECT archive_movements(now())"]


@pytest.mark.parametrize("by", ["owner", "superuser"])
@pytest.mark.parametrize("audit", AUDITS)
def test_an_audit_that_waits_for_another_one_reads_no_other_table(db, audit, by):
    store = open_store(db)
    usurper = Usurper(store)
    usurper.forge_ledger({"reference": "CASE WHEN tools.grab() THEN 'x' END"})
    store.owner.execute("SELECT audit_inventory()")
    conn = db.connect(user=store.owner_role) if by == "owner" else db.connect()
    held = Held(store, "SELECT audit_inventory()", conn, audit)
    usurper.take_the_name()
    assert held.refusal().reason == "renamed_meanwhile"
    usurper.assert_got_nothing()
    usurper.give_it_back()
    assert run(store.admin, "SELECT * FROM audit_inventory(p_full => true)") == []


def test_sales_are_compared_with_the_ledger_of_the_shop_alone(db):
    """Before, a row was reported that the stranger had made up."""
    store = open_store(db)
    usurper = Usurper(store)
    forged = {
        "movement_id": "1", "inventory_id": f"'{ONE}'", "kind": "'sale'", "old_quantity": "5", "new_quantity": "4",
        "delta": "-1", "reference": "CASE WHEN tools.grab() THEN 'forged' END", "occurred_at": "now()",
    }  # fmt: skip
    usurper.forge_ledger(forged)
    store.admin.execute("CREATE TABLE public.sold (reference text, item uuid, quantity numeric)")
    store.admin.execute(f'ALTER TABLE public.sold OWNER TO "{store.owner_role}"')
    audit = "SELECT * FROM audit_sales('public.sold', 'reference', 'item', 'quantity')"
    held = Held(store, "LOCK TABLE public.sold IN ACCESS EXCLUSIVE MODE", db.connect(), audit)
    usurper.take_the_name()
    assert held.refusal().reason == "renamed_meanwhile"
    usurper.assert_got_nothing()


CONFIGURATION = """
    ALTER SCHEMA public RENAME TO extension; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC;
    CREATE TABLE public.inventory_sharing (stock_table regclass PRIMARY KEY);
    CREATE TABLE public.inventory_attachment (
        stock_table regclass PRIMARY KEY, stock_schema name, stock_name name, check_name name, id_column name,
        quantity_column name, run_as text, movement_table regclass, request_table regclass, stripe_table regclass,
        total_table regclass, attached_at timestamptz DEFAULT now(), striped boolean DEFAULT false
    );
    GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
"""
WAITS = {
    "first sale": ("clerk", STOCK, SALE),
    "detach": ("owner", STOCK, "SELECT {}.detach_inventory()"),
    "detach, later": ("owner", KEYS, "SELECT {}.detach_inventory()"),
    "attach": ("owner", STOCK, "SELECT attach_inventory('store.inventory')"),
}


@pytest.mark.parametrize("code", ["index", "trigger"])
@pytest.mark.parametrize("call", WAITS)
def test_who_owns_the_schema_of_the_extension_is_no_superuser_for_it(db, call, code):
    """The owner of the database owns `public`. Before, code on a table that had taken the name of the extension's ran
    as the owner of the extension, who is a superuser."""
    store = open_store(db)
    stranger = with_code_of(store, "IMMUTABLE" if code == "index" else "VOLATILE")
    store.admin.execute(f'ALTER DATABASE {db.name} OWNER TO "{stranger.role}"')
    who, table, sql = WAITS[call]
    if call == "attach":
        store.owner.execute("SELECT detach_inventory()")
    conn = store.clerk() if who == "clerk" else db.connect(user=store.owner_role)
    held = Held(store, f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE", conn, sql.format("public"))
    stranger.conn.execute(CONFIGURATION)
    store.admin.execute("INSERT INTO public.inventory_attachment SELECT * FROM extension.inventory_attachment")
    if code == "trigger":
        stranger.trigger("public.inventory_attachment")
        stranger.trigger("public.inventory_sharing")
    else:
        put_code(stranger, "public.inventory_attachment", column="stock_table")
    assert held.refusal().reason == "renamed_meanwhile"
    stranger.assert_nothing_ran()
    stranger.conn.execute("DROP SCHEMA public CASCADE; ALTER SCHEMA extension RENAME TO public")
    run(conn, sql.format("public"))
    stranger.assert_nothing_ran()


def test_names_are_compared_after_the_comparison_itself_has_waited(db):
    """A grant on the table is a reason to compare; that waits for the totals, and meanwhile the name is taken."""
    store = open_store(db)
    usurper = Usurper(store)
    put_code(usurper.stranger, "evil.inventory", name="spy_too")
    store.settled(100)
    one, two = store.clerk(), store.clerk()
    call = waiting_for_a_key(store, SALE, (one, two))
    owner, holder = (db.connect(user=store.owner_role) for _ in range(2))
    owner.execute("GRANT SELECT ON store.inventory TO pg_monitor")
    holder.execute(f"BEGIN; LOCK TABLE {TOTALS} IN ACCESS EXCLUSIVE MODE")
    one.execute("ROLLBACK")
    until_wanted(store, TOTALS)
    usurper.take_the_name()
    holder.execute("COMMIT")
    assert call.refusal().reason == "renamed_meanwhile"
    usurper.stranger.assert_nothing_ran()


def test_keys_whose_name_another_table_has_taken_are_not_written(db):
    """Before, the first call of a session wrote its key to the table of the stranger, where no retry would find it."""
    store = open_store(db)
    clerk = store.clerk()
    store.settled(100)
    clerk.execute("BEGIN; SELECT set_config('inventory_ext.idempotency_key', 'key', true)")
    held = Held(store, LOCK, clerk, SALE)
    conn = db.connect(user=store.owner_role)
    conn.execute("SET lock_timeout = '200ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):  # What the call reads it has locked before it waits.
        conn.execute(f"ALTER TABLE {KEYS} RENAME TO away")
    held.result()
    clerk.execute("COMMIT")
    assert run(store.admin, f"SELECT idempotency_key FROM {KEYS}") == [("key",)]
