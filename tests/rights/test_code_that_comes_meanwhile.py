"""Code of a third role does not run as the owner where it comes while a call waits.

The call has looked at the tables before, and waits for something else: for the table of keys, or for a row. Meanwhile
a partition is given away, one of another role is added, or TRIGGER is granted, and the other role puts its code there.
"""

import psycopg
import pytest

from attack_parties import outcome, statement
from owner_shop import KEYS, ONE, STOCK, STRIPES, TOTALS, TWO, Stranger, assert_foreign, open_store
from shop import Aside, attach, is_waiting, refusal_of, sell, until, until_waiting
from striped import available
from waiting_calls import (
    Held, add_partition, give_partition, partitioned, put_code, take_partition, until_wanted,
    waiting_for_a_key, with_code_of,
)  # fmt: skip

LINES = '[{"inventory_id": "{other}", "quantity": 1}, {"inventory_id": "{item}", "quantity": 1}]'
CALLS = {
    "sale": "decrement_inventory('{item}', 1)",
    "order": f"decrement_inventory_batch('{LINES}')",
    "restock": "restock_inventory('{item}', 1)",
    "count": "adjust_inventory('{item}', 5)",
    "transfer": "transfer_inventory('{item}', '{other}', 1)",
}
# PostgreSQL runs an immutable function already when it plans a statement on a table that has it in a CHECK.
VOLATILITY = {"on_write": "VOLATILE", "on_planning": "IMMUTABLE"}


def grant_trigger(store, stranger, table):
    store.owner.execute(f'GRANT SELECT, TRIGGER ON {table} TO "{stranger.role}"')
    stranger.trigger(table)


def call_with_key(conn, sql):
    with conn.transaction():
        conn.execute("SELECT set_config('inventory_ext.idempotency_key', 'key', true)")
        return conn.execute(sql).fetchone()[0]


def keys_held(store, sql):
    """A call waits for the table of keys, which a session of the owner has locked as CREATE INDEX does."""
    clerk = store.clerk()
    for item in (ONE, TWO):
        sell(clerk, item, 1)
    store.settled(99)
    return Held(store, f"LOCK TABLE {KEYS} IN SHARE MODE", clerk, sql, call_with_key)


@pytest.mark.parametrize("item", [ONE, TWO], ids=["plain", "striped"])
@pytest.mark.parametrize("when", VOLATILITY)
@pytest.mark.parametrize("call", CALLS)
def test_a_partition_that_is_given_away_while_a_call_waits_is_not_written(db, call, when, item):
    store = partitioned(db)
    stranger = with_code_of(store, VOLATILITY[when])
    waiting = keys_held(store, statement(CALLS[call], item, TWO if item == ONE else ONE))
    give_partition(store.admin, stranger, planned=when == "on_planning")
    begin = store.last_movement()
    assert waiting.refusal().reason == "foreign_partition"
    stranger.assert_nothing_ran()
    assert store.last_movement() == begin
    take_partition(store)
    assert [available(store.admin, item) for item in (ONE, TWO)] == [99, 99]
    store.audit()


@pytest.mark.parametrize("item", [ONE, TWO], ids=["plain", "striped"])
@pytest.mark.parametrize("call", CALLS)
def test_a_partition_of_another_role_that_is_added_while_a_call_waits_is_not_planned(db, call, item):
    store = partitioned(db)
    stranger = with_code_of(store)
    waiting = keys_held(store, statement(CALLS[call], item, TWO if item == ONE else ONE))
    add_partition(store, stranger)
    begin = store.last_movement()
    assert waiting.refusal().reason == "foreign_partition"
    stranger.assert_nothing_ran()
    assert store.last_movement() == begin
    store.admin.execute("DROP TABLE store.high")
    assert [available(store.admin, item) for item in (ONE, TWO)] == [99, 99]
    store.audit()


@pytest.mark.parametrize(("by", "run_as"), [("clerk", "owner"), ("superuser", "caller")])
def test_a_partition_that_is_given_away_while_others_are_looked_at_is_not_read(db, by, run_as):
    """A partition is locked when the call looks at it; meanwhile two more come, of which the last is locked."""
    store = partitioned(db, p_run_as=run_as)
    stranger = with_code_of(store)
    one, two = (store.clerk() if by == "clerk" else db.connect() for _ in range(2))
    call = waiting_for_a_key(store, statement(CALLS["sale"]), (one, two))
    bounds = [f"'{digit}0000000-0000-0000-0000-000000000000'" for digit in "89a"] + ["MAXVALUE"]
    owner, holders = db.connect(user=store.owner_role), [db.connect(user=store.owner_role) for _ in range(2)]

    def make(number):
        owner.execute(f"CREATE TABLE store.p{number} (LIKE {STOCK} INCLUDING ALL)")
        between = f"FROM ({bounds[number]}) TO ({bounds[number + 1]})"
        owner.execute(f"ALTER TABLE {STOCK} ATTACH PARTITION store.p{number} FOR VALUES {between}")

    make(0)
    holders[0].execute("BEGIN; LOCK TABLE store.p0 IN ACCESS EXCLUSIVE MODE")
    one.execute("ROLLBACK")
    until_wanted(store, "store.p0")
    make(1)
    make(2)
    holders[1].execute("BEGIN; LOCK TABLE store.p2 IN ACCESS EXCLUSIVE MODE")
    holders[0].execute("COMMIT")
    until_wanted(store, "store.p2")
    given = Aside(db.connect().execute, f'ALTER TABLE store.p1 OWNER TO "{stranger.role}"')
    until_wanted(store, "store.p1")  # The call has locked it before it looks at it.
    holders[1].execute("COMMIT")
    assert '"new_quantity": 97' in call.result()[0][0]
    two.execute("COMMIT")
    given.result()
    stranger.assert_nothing_ran()


@pytest.mark.parametrize("call", CALLS)
def test_a_trigger_on_the_stripes_that_is_granted_while_a_call_waits_does_not_run(db, call):
    store = open_store(db)
    stranger = Stranger(store)
    waiting = keys_held(store, statement(CALLS[call], TWO, ONE))
    grant_trigger(store, stranger, STRIPES)
    begin = store.last_movement()
    assert_foreign(waiting.refusal(), STRIPES)
    stranger.assert_nothing_ran()
    assert store.last_movement() == begin
    stranger.drop_trigger(STRIPES)
    assert available(store.admin, TWO) == 99
    store.audit()


def test_a_trigger_on_the_keys_that_is_granted_while_a_call_waits_for_them_does_not_run(db):
    """The stranger may write keys, locks their table, is granted TRIGGER, and creates its trigger."""
    store = open_store(db)
    stranger = Stranger(store)
    store.owner.execute(f'GRANT SELECT, UPDATE ON {KEYS} TO "{stranger.role}"')
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    stranger.conn.execute(f"BEGIN; LOCK TABLE {KEYS} IN SHARE MODE")
    call = Aside(call_with_key, clerk, statement(CALLS["sale"]))
    until_waiting(store.admin, clerk)
    grant_trigger(store, stranger, KEYS)
    stranger.conn.execute("COMMIT")
    assert_foreign(call.refusal(), KEYS)
    stranger.assert_nothing_ran()
    stranger.drop_trigger(KEYS)
    assert available(store.admin, ONE) == 99


CUTS = ["stripe_inventory('{item}', 3)", "unstripe_inventory('{item}')"]


@pytest.mark.parametrize("table", [STRIPES, TOTALS])
@pytest.mark.parametrize("cut", CUTS, ids=["stripe", "unstripe"])
def test_a_trigger_that_is_granted_while_an_item_is_to_be_cut_does_not_run(db, cut, table):
    """The cut waits for the row, which a session of the owner has locked."""
    store = open_store(db)
    stranger, clerk = Stranger(store), store.clerk()
    store.owner.execute(f"BEGIN; SELECT 1 FROM {STOCK} FOR UPDATE")
    call = Aside(clerk.execute, statement(cut, TWO))
    until_waiting(store.admin, clerk)
    other_owner = store.db.connect(user=store.owner_role)
    other_owner.execute(f'GRANT SELECT, TRIGGER ON {table} TO "{stranger.role}"')
    stranger.trigger(table)
    store.owner.execute("COMMIT")
    assert_foreign(call.refusal(), table)
    stranger.assert_nothing_ran()
    stranger.drop_trigger(table)
    assert available(store.admin, TWO) == 100
    store.audit()


def test_a_trigger_on_the_totals_that_is_granted_while_the_worker_waits_does_not_run(db):
    """The worker waits for the stripes, whose table a session of the owner has locked."""
    store = open_store(db)
    stranger = Stranger(store)
    sell(store.clerk(), TWO, 1)
    holder = store.db.connect(user=store.owner_role)
    holder.execute(f"BEGIN; LOCK TABLE {STRIPES} IN ACCESS EXCLUSIVE MODE")
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    until_wanted(store, STRIPES)
    grant_trigger(store, stranger, TOTALS)
    holder.execute("COMMIT")
    until(lambda: store.admin.execute(waits, (STRIPES,)).fetchone()[0] == 0, "the worker goes on")
    stranger.drop_trigger(TOTALS)
    sell(store.clerk(), TWO, 1)
    store.settled(98)
    stranger.assert_nothing_ran()


@pytest.mark.parametrize("by", ["owner", "superuser"])
def test_a_partition_that_is_given_away_while_detach_waits_is_not_written(db, by):
    """Detach waits for a stripe, whose row a session of the owner has locked."""
    store = partitioned(db)
    stranger = Stranger(store)
    conn = store.owner if by == "owner" else store.admin
    sell(store.clerk(), TWO, 30)
    store.settled(70)
    holder, giver = store.db.connect(user=store.owner_role), store.db.connect()
    holder.execute(f"BEGIN; SELECT 1 FROM {STRIPES} FOR UPDATE")
    detach = Aside(outcome, conn, "SELECT public.detach_inventory()")
    until_waiting(giver, conn)
    given, watcher = Aside(give_partition, giver, stranger), store.db.connect()
    until(lambda: not given.is_running() or is_waiting(watcher, giver), "the partition is given away, or waits")
    holder.execute("COMMIT")
    assert detach.result()[0] == "OK"
    given.result()
    stranger.assert_nothing_ran()
    take_partition(store)
    attach(store.owner, STOCK)
    assert available(store.admin, TWO) == 70
    store.audit()


@pytest.mark.parametrize("table", [STRIPES, TOTALS])
def test_a_companion_that_is_given_away_while_a_call_waits_is_not_written(db, table):
    store = open_store(db)
    stranger = with_code_of(store)
    waiting = keys_held(store, statement(CALLS["sale"], TWO))
    store.admin.execute(f'ALTER TABLE {table} OWNER TO "{stranger.role}"')
    put_code(stranger, table, planned=True, column="inventory_id")
    assert waiting.refusal().reason == "companion_changed"
    stranger.assert_nothing_ran()
    store.admin.execute(f"ALTER TABLE {table} DROP CONSTRAINT spy; DROP INDEX store.spy")
    store.admin.execute(f'ALTER TABLE {table} OWNER TO "{store.owner_role}"')
    assert available(store.admin, TWO) == 99
    store.audit()


def test_names_that_are_quoted_otherwise_are_the_same(db):
    """A setting quotes every name; the tables have changed while the call waited, and are called as before."""
    store = open_store(db)
    clerk, holder = store.clerk(), store.db.connect(user=store.owner_role)
    sell(clerk, ONE, 1)
    holder.execute(f"BEGIN; SELECT 1 FROM {STOCK} FOR UPDATE")
    clerk.execute("SET quote_all_identifiers = on")
    call = Aside(sell, clerk, ONE, 1)
    until_waiting(store.admin, clerk)
    holder.execute(f"COMMENT ON TABLE {KEYS} IS 'changed'; ANALYZE {STRIPES}; COMMIT")
    assert call.result()["new_quantity"] == 98


@pytest.mark.parametrize("table", [KEYS, STRIPES])
def test_a_table_that_takes_the_name_of_a_companion_while_a_call_waits_is_not_written(db, table):
    store = open_store(db)
    waiting = keys_held(store, statement(CALLS["sale"], TWO))
    conn = waiting.holder if table == KEYS else store.owner
    conn.execute(f"ALTER TABLE {table} RENAME TO away")
    conn.execute(f"CREATE TABLE {table} (LIKE store.away INCLUDING ALL); INSERT INTO {table} SELECT * FROM store.away")
    refusal = waiting.refusal()
    assert (refusal.sqlstate, refusal.reason) == ("55006", "renamed_meanwhile")
    assert refusal.facts["table"] == "store.away"
    store.admin.execute(f"DROP TABLE {table}; ALTER TABLE store.away RENAME TO {table.partition('.')[2]}")
    assert available(store.admin, TWO) == 99
    store.audit()


READS = [
    "SELECT audit_inventory(p_full => true)",
    "SELECT audit_inventory('{item}')",
    "SELECT available_inventory('{item}')",
    "SELECT inventory_at('{item}', now())",
    "SELECT inventory_audit_report()",
    "SELECT count(*) FROM inventory_advice()",
    "SELECT reconcile_inventory('{item}', 'stock')",
    "SELECT inventory_changes(NULL)",
    "SELECT inventory_digest()",
]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(("by", "run_as"), [("owner", "owner"), ("superuser", "owner"), ("superuser", "caller")])
def test_who_audits_plans_nothing_on_a_partition_of_another_role(db, by, read, run_as):
    store = partitioned(db, p_run_as=run_as)
    stranger = with_code_of(store)
    sell(store.owner, ONE, 1)
    store.owner.execute("SELECT audit_inventory()")
    give_partition(store.admin, stranger, planned=True)
    conn = store.owner if by == "owner" else store.admin
    try:
        conn.execute(read.replace("{item}", str(ONE)))
    except psycopg.Error as error:
        assert refusal_of(error).reason == "foreign_partition"
        assert run_as == "owner" or "p_run_as" not in refusal_of(error).hint
    else:
        assert "advice" in read or "changes" in read
    stranger.assert_nothing_ran()
