"""Single calls beside ordinary administration of a partitioned stock table: they wait, and none fails."""

import pytest

from shop import ONE, TWO, Aside, attach, fill, is_waiting, sell, until, until_waiting

CALLS = {
    "sale": f"SELECT decrement_inventory('{ONE}', 1)",
    "available": f"SELECT available_inventory('{ONE}')",
    "restock": f"SELECT restock_inventory('{ONE}', 1)",
    "stripe": f"SELECT stripe_inventory('{TWO}', 3)",
}


@pytest.fixture
def partitioned(db):
    conn = db.connect()
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY HASH (id)")
    for number in range(2):
        bounds = f"FOR VALUES WITH (MODULUS 2, REMAINDER {number})"
        conn.execute(f"CREATE TABLE p{number} PARTITION OF inventory {bounds}")
    fill(conn, {ONE: 100, TWO: 100})
    attach(conn)
    return conn


@pytest.mark.parametrize("call", CALLS)
def test_two_migrations_and_a_lock_on_a_partition_deadlock_with_no_call(partitioned, db, call):
    """The call waits for the first migration, looks the table up anew while a partition is locked, and is behind the
    second one then; a call that keeps locks on partitions from its look-up would deadlock."""
    conn, caller, vacuum, first, second = partitioned, *(db.connect() for _ in range(4))
    sell(caller, ONE, 1)
    first.execute("BEGIN; ALTER TABLE inventory ADD COLUMN a integer")
    calling = Aside(caller.execute, CALLS[call])
    until_waiting(conn, caller)
    locking = Aside(vacuum.execute, "BEGIN; LOCK TABLE p0 IN ACCESS EXCLUSIVE MODE")
    until_waiting(conn, vacuum)
    first.execute("COMMIT")
    locking.result()
    until_waiting(conn, caller)
    altering = Aside(second.execute, "ALTER TABLE inventory ADD COLUMN b integer")
    until_waiting(conn, second)
    vacuum.execute("COMMIT")
    calling.result()
    altering.result()


@pytest.mark.parametrize("call", ["sale", "restock"])
def test_a_call_that_looks_whether_totals_lag_does_not_deadlock_with_reindex(partitioned, db, call):
    """No worker runs, so the first call of a session looks, and waits for another partition; it read all of them."""
    conn, caller, holder, admin = partitioned, *(db.connect() for _ in range(3))
    conn.execute("SELECT stripe_inventory(%s, 2)", (TWO,))
    mine = conn.execute("SELECT tableoid::regclass::text FROM inventory WHERE id = %s", (ONE,)).fetchone()[0]
    other = "p1" if mine == "p0" else "p0"
    workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'inventory_ext totals'"
    until(lambda: conn.execute(workers + " AND datname = current_database()").fetchone()[0] == 0, "the worker ends")
    holder.execute(f"BEGIN; LOCK TABLE {other} IN SHARE MODE")
    calling = Aside(caller.execute, CALLS[call])
    until_waiting(conn, caller)
    reindexing = Aside(admin.execute, f"REINDEX TABLE {mine}")
    until(lambda: not reindexing.is_running() or is_waiting(conn, admin), "REINDEX is over, or waits")
    holder.execute("COMMIT")
    calling.result()
    reindexing.result()


@pytest.mark.parametrize("call", ["sale", "restock"])
def test_a_call_that_waits_for_a_row_does_not_deadlock_with_reindex_of_its_partition(partitioned, db, call):
    """It locked the partition more strongly when it wrote the row; REINDEX had its lock by then, and waited for it."""
    conn, caller, holder, admin = partitioned, *(db.connect() for _ in range(3))
    sell(caller, ONE, 1)
    partition = conn.execute("SELECT tableoid::regclass::text FROM inventory WHERE id = %s", (ONE,)).fetchone()[0]
    holder.execute("BEGIN")
    holder.execute("SELECT FROM inventory WHERE id = %s FOR UPDATE", (ONE,))
    calling = Aside(caller.execute, CALLS[call])
    until_waiting(conn, caller)
    reindexing = Aside(admin.execute, f"REINDEX TABLE {partition}")
    until_waiting(conn, admin)
    holder.execute("COMMIT")
    calling.result()
    reindexing.result()


def test_who_reads_what_is_available_waits_no_longer_than_a_select(partitioned, db):
    conn, holder = partitioned, db.connect()
    holder.execute("BEGIN; LOCK TABLE p0, p1 IN EXCLUSIVE MODE")
    conn.execute("SET lock_timeout = '5s'")
    assert conn.execute("SELECT quantity FROM inventory WHERE id = %s", (ONE,)).fetchone()[0] == 100
    assert conn.execute(CALLS["available"]).fetchone()[0] == 100
    holder.execute("COMMIT")
