"""Code of a third role does not run as the owner through a companion or a partition, whenever it comes to be there.

A stranger with TRIGGER on a companion creates its trigger while a call waits, or while nothing is attached; or it owns
a partition. The ledger, the keys and the stripes are neither children nor parents of other tables, and the triggers of
a partition are in force like those of the whole.
"""

import pytest

from attack_parties import CALLS, outcome, reason, statement
from owner_shop import KEYS, LEDGER, ONE, STOCK, STRIPES, TOTALS, TWO, Stranger, assert_foreign, open_store
from shop import Aside, attach, left, notices, refused_attach, refused_sale, sell, until, until_waiting
from striped import available, standing_worker

PART = "store.part"


def reasons(conn) -> set[str]:
    """The outcomes of every call, each once."""
    return {reason(outcome(conn, statement(call))) for call in CALLS.values()}


def bring_back(store, item=TWO, quantity=70):
    """Every unit is there, and ledger and row say so."""
    assert available(store.admin, item) == quantity
    until(lambda: left(store.admin, item, STOCK) == quantity, "the row shows the total")
    store.audit()


def partitioned(db):
    return open_store(db, partition_by="HASH (id)")


SALE, STRIPED_SALE = (statement("decrement_inventory('{item}', 1)", item) for item in (ONE, TWO))
KEYED = statement("restock_inventory('{item}', 1, NULL, 'key')")
RACES = {
    "sale": (LEDGER, "BEFORE INSERT ON {table} FOR EACH ROW", SALE),
    "keyed call": (KEYS, "BEFORE INSERT ON {table} FOR EACH ROW", KEYED),
    "striped sale": (STRIPES, "BEFORE UPDATE ON {table} FOR EACH STATEMENT", STRIPED_SALE),
    "sale from a partition": (PART, "BEFORE UPDATE ON {table} FOR EACH ROW", SALE),
    "purge": (KEYS, "BEFORE DELETE ON {table} FOR EACH STATEMENT", "SELECT purge_requests('1 day')"),
}


@pytest.mark.parametrize("session", ["has_called", "is_new"])
@pytest.mark.parametrize("race", RACES, ids=[name.replace(" ", "_") for name in RACES])
def test_a_trigger_that_commits_while_a_call_waits_for_its_table_does_not_run(db, race, session):
    """CREATE TRIGGER is open in the stranger's transaction: the call waits, and then sees the trigger."""
    table, placement, sql = RACES[race]
    store = partitioned(db) if table == PART else open_store(db)
    stranger, clerk = Stranger(store, table), store.clerk()
    if session == "has_called":
        clerk.execute(sql.replace("'key'", "'another key'"))
    begin = store.last_movement()
    stranger.conn.execute("BEGIN")
    stranger.trigger(table, placement)
    call = Aside(clerk.execute, sql)
    until_waiting(store.admin, clerk)
    stranger.conn.execute("COMMIT")
    assert_foreign(call.refusal(), table)
    stranger.assert_nothing_ran()
    assert store.last_movement() == begin
    stranger.drop_trigger(table)
    clerk.execute(sql)
    store.settled(available(store.admin, TWO))
    store.audit()


def test_a_trigger_on_the_totals_that_commits_while_the_worker_waits_does_not_run(db):
    """Whether the worker waits or the sale does; the row shows the total once the trigger is gone."""
    store = open_store(db)
    stranger, clerk = Stranger(store, TOTALS), store.clerk()
    stranger.conn.execute("BEGIN")
    stranger.trigger(TOTALS)
    sale = Aside(outcome, clerk, STRIPED_SALE)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    until(lambda: store.admin.execute(waits, (TOTALS,)).fetchone()[0], "a session waits for the totals")
    stranger.conn.execute("COMMIT")
    sold = sale.result()
    assert sold[0] == "OK" or reason(sold) == "55000 foreign_trigger"
    stranger.drop_trigger(TOTALS)
    sell(clerk, TWO, 1)
    store.settled(98 if sold[0] == "OK" else 99)
    stranger.assert_nothing_ran()
    store.audit()


@pytest.mark.parametrize(
    ("table", "by"),
    [(LEDGER, "owner"), (LEDGER, "superuser"), (KEYS, "superuser"), (STRIPES, "owner"), (TOTALS, "superuser")],
)
def test_attach_refuses_a_foreign_trigger_on_what_an_earlier_attach_left(db, table, by):
    """The stock has changed meanwhile, so that attach would write to the ledger."""
    store = open_store(db)
    stranger = Stranger(store, table)
    conn = store.owner if by == "owner" else store.admin
    store.owner.execute(f"SELECT public.detach_inventory(); UPDATE {STOCK} SET quantity = quantity + 1")
    stranger.trigger(table)
    assert_foreign(refused_attach(conn, STOCK), table)
    stranger.assert_nothing_ran()
    assert store.admin.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0] == 0
    stranger.drop_trigger(table)
    attach(conn, STOCK)
    bring_back(store, ONE, 101)
    stranger.assert_nothing_ran()


@pytest.mark.parametrize(
    ("table", "by"), [(STRIPES, "owner"), (STRIPES, "superuser"), (TOTALS, "owner"), (LEDGER, "superuser")]
)
def test_detach_runs_no_foreign_trigger_and_loses_no_unit(db, table, by):
    """Stripes that it leaves are named in a WARNING; attached again, once the trigger is gone, the item is whole."""
    store = open_store(db)
    stranger = Stranger(store, table)
    conn = store.owner if by == "owner" else store.admin
    sell(store.clerk(), TWO, 30)
    stranger.trigger(table)
    heard = notices(conn)
    conn.execute("SELECT public.detach_inventory()")
    stranger.assert_nothing_ran()
    if store.admin.execute(f"SELECT count(*) FROM {STRIPES}").fetchone()[0]:
        assert [line for line in heard if line.startswith("WARNING")]
    else:
        assert left(store.admin, TWO, STOCK) == 70
    assert_foreign(refused_attach(conn, STOCK), table)
    stranger.assert_nothing_ran()
    stranger.drop_trigger(table)
    attach(conn, STOCK)
    bring_back(store)
    assert sell(store.clerk(), TWO, 70)["new_quantity"] == 0
    bring_back(store, TWO, 0)


def give_partition(store, stranger):
    """The partition to the stranger, who puts code in a CHECK."""
    store.admin.execute(f'ALTER TABLE {PART} OWNER TO "{stranger.role}"')
    stranger.conn.execute(f"ALTER TABLE {PART} ADD CONSTRAINT spy CHECK (tools.grab()) NOT VALID")


def take_partition(store):
    store.admin.execute(f'ALTER TABLE {PART} DROP CONSTRAINT spy; ALTER TABLE {PART} OWNER TO "{store.owner_role}"')


def test_nothing_is_sold_from_a_partition_of_another_role(db):
    """Every call of a session that has called before, of a new one, of the owner, a superuser and the stranger."""
    store = partitioned(db)
    stranger, clerk = Stranger(store), store.clerk()
    sell(clerk, ONE, 30)
    sell(clerk, TWO, 30)
    store.settled(70)
    give_partition(store, stranger)
    begin = store.last_movement()
    store.admin.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{stranger.role}"')
    for conn in (clerk, store.clerk(), store.owner, store.admin, stranger.conn):
        assert reasons(conn) == {"55000 foreign_partition"}
    assert refused_sale(clerk, TWO, 1).reason == "foreign_partition"
    stranger.assert_nothing_ran()
    assert store.last_movement() == begin
    take_partition(store)
    sell(clerk, ONE, 1)
    sell(clerk, TWO, 1)
    bring_back(store, TWO, 69)


def test_the_totals_worker_does_not_write_to_a_partition_of_another_role(db):
    """The sale is committed before the partition is given away; the row is brought up to date once it is back."""
    store = partitioned(db)
    stranger = Stranger(store)
    with standing_worker(store.admin, item=TWO):
        sell(store.admin, TWO, 30)
        give_partition(store, stranger)
    since = store.admin.execute("SELECT clock_timestamp()").fetchone()[0]
    looking = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'inventory_ext totals' AND NOT (state = 'idle' AND state_change > %s)"
    )
    until(lambda: store.admin.execute(looking, (since,)).fetchone()[0] == 0, "the worker looks")
    stranger.assert_nothing_ran()
    take_partition(store)
    sell(store.admin, ONE, 1)
    sell(store.admin, TWO, 1)
    bring_back(store, TWO, 69)


@pytest.mark.parametrize("by", ["owner", "superuser"])
def test_detach_and_attach_do_not_write_to_a_partition_of_another_role(db, by):
    """A striped item is put together once the partition is the owner's again."""
    store = partitioned(db)
    stranger = Stranger(store)
    conn = store.owner if by == "owner" else store.admin
    sell(store.clerk(), TWO, 30)
    give_partition(store, stranger)
    reason(outcome(conn, "SELECT public.detach_inventory()"))
    stranger.assert_nothing_ran()
    if not store.admin.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0]:
        refusal = refused_attach(conn, STOCK)
        assert (refusal.sqlstate, refusal.reason) == ("55000", "foreign_partition")
    stranger.assert_nothing_ran()
    take_partition(store)
    if store.admin.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0]:
        conn.execute("SELECT public.detach_inventory()")
    attach(conn, STOCK)
    bring_back(store)
    stranger.assert_nothing_ran()


def cloned_triggers(store) -> list[str]:
    sql = "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass AND tgparentid <> 0 ORDER BY 1"
    return [name for (name,) in store.admin.execute(sql, (PART,)).fetchall()]


@pytest.mark.parametrize("how", ["DISABLE TRIGGER USER", 'DISABLE TRIGGER "{name}"', 'ENABLE REPLICA TRIGGER "{name}"'])
def test_a_trigger_that_is_disabled_on_a_partition_is_missed_like_one_of_the_whole(db, how):
    """Before, sales went on and were not in the ledger."""
    store = partitioned(db)
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    begin = store.last_movement()
    names = cloned_triggers(store)
    assert names
    for name in names if "{name}" in how else [None]:
        store.owner.execute(f"ALTER TABLE {PART} {how.format(name=name)}")
        for conn in (clerk, store.owner):
            assert reasons(conn) == {"55000 trigger_disabled"}, name
        facts = refused_sale(clerk, ONE, 1).facts
        assert facts["table"].rpartition(".")[2] == "part" and facts["trigger"] in ([name] if name else names)
        store.owner.execute(f"ALTER TABLE {PART} ENABLE TRIGGER USER")
    assert store.last_movement() == begin
    assert sell(clerk, ONE, 1)["new_quantity"] == 98
    sell(clerk, TWO, 1)
    bring_back(store, TWO, 99)


BASES = {
    LEDGER: "actor text NOT NULL",
    KEYS: "idempotency_key text NOT NULL",
    STRIPES: "quantity numeric NOT NULL",
    TOTALS: "quantity numeric NOT NULL",
}


def assert_is_not_used(db, table, change, change_back):
    """Until the change is taken back, no call uses the companion; then selling goes on from what the stock was."""
    store = open_store(db)
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    sell(clerk, TWO, 1)
    store.owner.execute(change)
    for conn in (clerk, store.owner):
        assert reasons(conn) == {"55000 companion_changed"}
    for conn in (store.clerk(), store.admin):
        assert refused_sale(conn, ONE, 1).reason == "companion_changed"
    assert refused_sale(clerk, TWO, 1).facts["table"].rpartition(".")[2] == table.rpartition(".")[2]
    store.owner.execute(change_back)
    assert [available(store.admin, item) for item in (ONE, TWO)] == [99, 99]
    sell(clerk, ONE, 1)
    sell(clerk, TWO, 1)
    bring_back(store, TWO, 98)


@pytest.mark.parametrize("table", BASES)
def test_a_companion_that_inherits_from_another_table_is_not_written(db, table):
    """Writes to the other table would go past the triggers that protect the companion."""
    create = f"CREATE TABLE store.base ({BASES[table]})"
    inherit = f"ALTER TABLE {table} INHERIT store.base"
    assert_is_not_used(db, table, f"{create}; {inherit}", f"ALTER TABLE {table} NO INHERIT store.base")


KIDS = {
    LEDGER: "INSERT INTO store.kid (movement_id, inventory_id, kind, old_quantity, new_quantity, actor) "
            f"VALUES (999999, '{ONE}', 'sale', 100, 1, 'nobody')",
    KEYS: "SELECT 1",
    STRIPES: f"INSERT INTO store.kid (inventory_id, stripe, quantity) VALUES ('{TWO}', 1, 1000)",
    TOTALS: f"INSERT INTO store.kid (inventory_id, quantity) VALUES ('{TWO}', 1000)",
}  # fmt: skip


@pytest.mark.parametrize("table", KIDS)
def test_a_companion_with_a_child_is_not_read(db, table):
    """The rows of the child would count as the companion's."""
    create = f"CREATE TABLE store.kid () INHERITS ({table}); {KIDS[table]}"
    assert_is_not_used(db, table, create, "DROP TABLE store.kid")
