"""A row that is written without the executor is written as the executor would have written it.

Every test runs on both paths: what it asserts is what PostgreSQL does with an UPDATE and an INSERT. tests/models/
test_write_paths.py compares the two paths on random calls, and names the tables that take one or the other;
tests/copies/test_decoded_changes.py reads what is decoded of them.
"""

import psycopg
import pytest

from books import audit, call, order
from shop import Aside, attach, fill, left, refusal_of, refused, sell, shop, until_waiting
from shop import item as item_of

ONE, TWO, THREE = (item_of(number) for number in (1, 2, 3))
MANY = [item_of(number) for number in range(1, 301)]


@pytest.fixture(params=["auto", "sql"])
def conn(db, request):
    conn = db.connect(options=f"-c inventory_ext.write_path={request.param} -c track_functions=all")
    conn.path = request.param
    return conn


@pytest.fixture(autouse=True)
def the_path_is_taken(conn):
    """The trigger of the ledger runs on the other path alone."""
    yield
    if conn.closed or conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE or not movements(conn):
        return
    conn.execute("SET inventory_ext.error_style = DEFAULT; SELECT pg_stat_force_next_flush()")
    recorded = "SELECT count(*) FROM pg_stat_user_functions WHERE funcname = 'inventory_movement_record'"
    assert (conn.execute(recorded).fetchone()[0] > 0) == (conn.path == "sql" or getattr(conn, "both", False))


def movements(conn):
    return conn.execute("SELECT to_regclass('inventory_movement') IS NOT NULL").fetchone()[0]


def sell_in_all_ways(conn):
    """Each call that changes a row, three rows at least."""
    sell(conn, ONE, 1)
    order(conn, (ONE, 1), (TWO, 1), (THREE, 1))
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=3)
    call(conn, "adjust_inventory", p_inventory_id=TWO, p_counted_quantity=50)
    call(conn, "transfer_inventory", p_from=ONE, p_to=THREE, p_quantity=2)


def through_each_index(conn, table):
    """The rows of a table as each of its indexes has them."""
    names = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass AND indisvalid"
    conn.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
    for (index,) in conn.execute(names, (table,)).fetchall():
        method = "SELECT amname FROM pg_am JOIN pg_class AS c ON c.relam = pg_am.oid WHERE c.oid = %s::regclass"
        if conn.execute(method, (index,)).fetchone() == ("btree",):
            conn.execute("SELECT bt_index_check(%s::regclass, true)", (index,))


def pages(conn, table):
    return conn.execute("SELECT pg_relation_size(%s) / 8192", (table,)).fetchone()[0]


# Transactions


def test_nothing_is_written_in_a_read_only_transaction(conn):
    shop(conn, {ONE: 5})
    conn.execute("BEGIN READ ONLY")
    assert refused(conn, "SELECT decrement_inventory(%s, 1)", (ONE,)).sqlstate == "25006"
    conn.execute("ROLLBACK")
    sell(conn, ONE, 1)


@pytest.mark.parametrize(
    "read", ["sum(quantity) FROM inventory", "count(*) FROM inventory_movement WHERE kind = 'sale'"]
)
def test_a_write_skew_of_serializable_transactions_is_refused(db, conn, read):
    """Each sells one item after it has read all of them, or their sales: the second would have read something else."""
    shop(conn, {ONE: 5, TWO: 5})
    options = f"-c inventory_ext.write_path={conn.path} -c default_transaction_isolation=serializable"
    sessions = [db.connect(options=options) for _ in range(2)]
    for session in sessions:
        session.execute(f"BEGIN; SELECT {read}")
    with pytest.raises(psycopg.errors.SerializationFailure):
        for session, key in zip(sessions, (ONE, TWO)):
            sell(session, key, 1)
        for session in sessions:
            session.execute("COMMIT")
    for session in sessions:
        session.close()
    assert sum(left(conn, key) for key in (ONE, TWO)) >= 9
    audit(conn)
    sell(conn, ONE, 1)


def test_subtransactions_that_are_rolled_back_leave_nothing(conn):
    shop(conn, {key: 100 for key in (ONE, TWO, THREE)})
    before = conn.execute("SELECT id, quantity FROM inventory ORDER BY id").fetchall()
    conn.execute("BEGIN")
    for _ in range(3):
        conn.execute("SAVEPOINT s")
        sell_in_all_ways(conn)
        conn.execute("ROLLBACK TO s")
    conn.execute("COMMIT")
    assert conn.execute("SELECT id, quantity FROM inventory ORDER BY id").fetchall() == before
    sell_in_all_ways(conn)
    audit(conn)
    through_each_index(conn, "inventory_movement")


# What is checked


def test_a_published_table_without_a_replica_identity_refuses_the_sale(conn):
    conn.execute("CREATE TABLE inventory (id uuid NOT NULL UNIQUE, quantity numeric(12,2))")
    fill(conn, {ONE: 5})
    attach(conn)
    sell(conn, ONE, 1)
    conn.execute("CREATE PUBLICATION p FOR TABLE inventory")
    refusal = refused(conn, "SELECT decrement_inventory(%s, 1)", (ONE,))
    assert refusal.sqlstate == "55000" and "replica identity" in refusal.message
    assert left(conn, ONE) == 4
    conn.execute("ALTER TABLE inventory REPLICA IDENTITY FULL")
    sell(conn, ONE, 1)
    audit(conn)


@pytest.mark.parametrize(
    ("column", "stored", "least", "most"),
    [
        ("numeric(6,2)", "7.00", "0.01", "9999.99"),
        ("numeric(5,0)", "7", "1", "99999"),
        ("numeric(38,20)", "7." + "0" * 20, "1", "123456789012"),
        ("numeric(40,30)", "7." + "0" * 30, "1", "9999999999"),
        ("numeric", "7", "0.0000000001", "99999999999999999"),
        ("smallint", "7", "1", "32767"),
        ("integer", "7", "1", "2147483647"),
        ("bigint", "7", "1", "9223372036854775807"),
    ],
)
def test_a_quantity_is_stored_as_its_column_stores_it(conn, column, stored, least, most):
    """With all decimals of the column, and never beyond its range."""
    shop(conn, {ONE: 8, TWO: 1}, type=column)

    def text(key):
        return conn.execute("SELECT quantity::text FROM inventory WHERE id = %s", (key,)).fetchone()[0]

    sell(conn, ONE, "1")
    assert text(ONE) == stored
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=least)
    call(conn, "adjust_inventory", p_inventory_id=TWO, p_counted_quantity=most)
    written = text(TWO)
    assert float(written) == float(most)
    scale = conn.execute("SELECT scale(quantity::numeric) FROM inventory WHERE id = %s", (TWO,)).fetchone()[0]
    assert scale == (int(column[:-1].split(",")[1]) if "," in column else 0 if column != "numeric" else scale)
    conn.both = column.startswith(("numeric(38", "numeric(40"))  # more digits than a quantity has
    if column != "numeric" and not conn.both:
        with pytest.raises(psycopg.Error) as beyond:
            call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=1)
        assert refusal_of(beyond.value).sqlstate in ("22003", "IV006"), refusal_of(beyond.value)
    assert text(TWO) == written
    audit(conn)


@pytest.mark.parametrize("lost", ["UPDATE", "INSERT"])
def test_an_owner_without_the_right_to_write_does_not_sell(db, conn, lost):
    """The owner is no superuser, and has taken the right from itself."""
    conn.execute(f"CREATE ROLE {db.name}_shop; GRANT ALL ON SCHEMA public TO {db.name}_shop")
    conn.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {db.name}_shop; SET ROLE {db.name}_shop")
    shop(conn, {ONE: 5, TWO: 5})
    table = {"UPDATE": "inventory", "INSERT": "inventory_movement"}[lost]
    conn.execute(f"REVOKE {lost} ON {table} FROM {db.name}_shop")
    for sale in ("SELECT decrement_inventory(%s, 1)", "SELECT restock_inventory(%s::uuid, 1)"):
        assert refused(conn, sale, (ONE,)).sqlstate == "42501"
    assert left(conn, ONE) == 5
    conn.execute(f"GRANT {lost} ON {table} TO {db.name}_shop")
    sell(conn, ONE, 1)
    audit(conn)
    conn.execute(f"RESET ROLE; GRANT {db.name}_shop TO postgres")
    conn.execute(f"SELECT detach_inventory(); DROP OWNED BY {db.name}_shop CASCADE; DROP ROLE {db.name}_shop")
    conn.both = False


def test_a_grant_on_another_column_locks_a_row_and_sells_nothing(db, conn):
    """SELECT FOR UPDATE asks for UPDATE on any column."""
    role = f"{db.name}_shop"
    conn.execute(f"CREATE ROLE {role}; GRANT ALL ON SCHEMA public TO {role}")
    conn.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}; SET ROLE {role}")
    shop(conn, {ONE: 5}, columns=", name text")
    conn.execute(f"REVOKE UPDATE ON inventory FROM {role}; GRANT UPDATE (name) ON inventory TO {role}")
    for sale in ("SELECT decrement_inventory(%s, 1)", "SELECT restock_inventory(%s::uuid, 1)"):
        assert refused(conn, sale, (ONE,)).sqlstate == "42501"
    conn.execute(f"GRANT UPDATE (quantity) ON inventory TO {role}")
    sell(conn, ONE, 1)
    conn.execute(f"RESET ROLE; SELECT detach_inventory(); DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_column_grant_of_the_owner_is_enough(db, conn):
    role = f"{db.name}_shop"
    conn.execute(f"CREATE ROLE {role}; GRANT ALL ON SCHEMA public TO {role}")
    conn.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {role}; SET ROLE {role}")
    shop(conn, {ONE: 5})
    conn.execute(f"REVOKE UPDATE ON inventory FROM {role}; GRANT UPDATE (quantity) ON inventory TO {role}")
    sell(conn, ONE, 1)
    audit(conn)
    conn.execute(f"RESET ROLE; SELECT detach_inventory(); DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_deferred_foreign_key_of_a_new_row_is_still_checked_at_commit(conn):
    """PostgreSQL looks at the newest version of a row: a sale of it must not make the check forget that it is new."""
    conn.execute("CREATE TABLE kinds (id integer PRIMARY KEY)")
    shop(conn, {ONE: 5}, columns=", kind integer REFERENCES kinds DEFERRABLE INITIALLY DEFERRED")
    conn.both = True  # the row is new: statements write it
    sell(conn, ONE, 1)
    conn.execute("BEGIN")
    conn.execute("INSERT INTO inventory VALUES (%s, 5, 7)", (TWO,))
    sell(conn, TWO, 1)
    order(conn, (ONE, 1), (TWO, 1))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        conn.execute("COMMIT")
    conn.execute("BEGIN")
    conn.execute("UPDATE inventory SET kind = 7")
    sell(conn, ONE, 1)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        conn.execute("COMMIT")
    assert left(conn, ONE) == 4
    audit(conn)


def test_a_deferred_foreign_key_in_a_subtransaction_is_still_checked(conn):
    conn.execute("CREATE TABLE kinds (id integer PRIMARY KEY)")
    shop(conn, {ONE: 5}, columns=", kind integer REFERENCES kinds DEFERRABLE INITIALLY DEFERRED")
    conn.both = True
    conn.execute("BEGIN; SAVEPOINT a")
    conn.execute("INSERT INTO inventory VALUES (%s, 5, 7)", (TWO,))
    conn.execute("RELEASE a; SAVEPOINT b")
    sell(conn, TWO, 1)
    conn.execute("RELEASE b")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        conn.execute("COMMIT")
    sell(conn, ONE, 1)


def test_a_deferred_foreign_key_of_a_frozen_row_is_still_checked(conn):
    """COPY FREEZE: the row looks old, and its transaction is this one. (An orphan was committed.)"""
    conn.both = True
    conn.execute("CREATE TABLE kinds (id integer PRIMARY KEY); INSERT INTO kinds VALUES (1)")
    conn.execute("BEGIN")
    conn.execute(
        "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2),"
        " kind integer REFERENCES kinds DEFERRABLE INITIALLY DEFERRED)"
    )
    attach(conn)
    with conn.cursor().copy("COPY inventory FROM stdin (FREEZE)") as copy:
        copy.write_row((ONE, 10, 77))
    sell(conn, ONE, 1)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        conn.execute("COMMIT")


def test_a_column_of_the_ledger_that_the_owner_requires_is_required(conn):
    """NULL was stored in a NOT NULL column: an owner who wants a reference for every sale."""
    shop(conn, {}, columns=", name text")
    conn.both = True
    conn.execute("ALTER TABLE inventory_movement ALTER reference SET NOT NULL")
    conn.execute("SET inventory_ext.reference = 'first delivery'")
    fill(conn, {ONE: 5, TWO: 5, THREE: 5})
    conn.execute("RESET inventory_ext.reference")
    for sale in (f"SELECT decrement_inventory('{ONE}', 1)", f"SELECT restock_inventory('{ONE}'::uuid, 1)"):
        assert refused(conn, sale).sqlstate == "23502"
    order(conn, (ONE, 1), (TWO, 1), p_reference="order 7")
    assert left(conn, ONE) == 4
    audit(conn)


def test_zeros_at_the_end_are_kept_beyond_28_digits(conn):
    conn.both = True  # such a row is written by statements
    zeros = "0" * 29
    shop(conn, {ONE: f"7.{zeros}"}, type="numeric")
    sell(conn, ONE, 1)
    assert conn.execute("SELECT quantity::text FROM inventory").fetchone() == (f"6.{zeros}",)
    found = conn.execute("SELECT old_quantity::text, delta::text FROM inventory_movement WHERE kind = 'sale'")
    assert found.fetchone() == (f"7.{zeros}", f"-1.{zeros}")
    audit(conn)


def test_a_constraint_that_was_not_validated_refuses_an_old_row(conn):
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2), name text)")
    fill(conn, {ONE: 5})
    conn.execute("ALTER TABLE inventory ADD CONSTRAINT named CHECK (name IS NOT NULL) NOT VALID")
    attach(conn)
    conn.both = True
    assert refused(conn, "SELECT decrement_inventory(%s, 1)", (ONE,)).sqlstate == "23514"
    conn.execute("UPDATE inventory SET name = 'x'")
    sell(conn, ONE, 1)
    audit(conn)


# Rows


def test_columns_that_were_dropped_and_added_keep_their_values(conn):
    """Old rows have no value of a column that was added later with a default, nor of one that was dropped."""
    conn.execute(
        "CREATE TABLE inventory (gone text DEFAULT 'gone', id uuid PRIMARY KEY, a int DEFAULT 1, quantity numeric(9,3))"
    )
    fill(conn, {key: 100 for key in (ONE, TWO, THREE)})
    conn.execute("ALTER TABLE inventory DROP gone")
    attach(conn)
    conn.execute(
        "ALTER TABLE inventory ADD late text DEFAULT 'late', ADD none int, ADD note text DEFAULT repeat('x', 50)"
    )
    sell_in_all_ways(conn)
    conn.execute("ALTER TABLE inventory DROP a, ADD later int DEFAULT 7")
    sell_in_all_ways(conn)
    rows = conn.execute("SELECT id, late, none, note, later FROM inventory ORDER BY id").fetchall()
    assert rows == [(key, "late", None, "x" * 50, 7) for key in (ONE, TWO, THREE)]
    audit(conn)


def test_the_value_of_a_dropped_column_goes_with_the_next_sale(conn):
    """It stayed for good, out of line or in the row, which then was too large to be sold from."""
    shop(conn, {key: 100 for key in (ONE, TWO, THREE)}, columns=", secret text, wide text")
    conn.both = True  # the UPDATE of the test
    conn.execute("ALTER TABLE inventory ALTER secret SET STORAGE external, ALTER wide SET STORAGE plain")
    conn.execute("UPDATE inventory SET secret = repeat('long ', 10000), wide = repeat('w', 7800)")
    toast = conn.execute("SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'inventory'").fetchone()[0]
    conn.execute("ALTER TABLE inventory DROP secret, DROP wide, ADD z char(400) DEFAULT 'z'")
    conn.execute("ALTER TABLE inventory ALTER z SET STORAGE plain")
    sell_in_all_ways(conn)
    conn.execute("VACUUM inventory")
    assert conn.execute(f"SELECT count(*) FROM {toast}").fetchone() == (0,)
    audit(conn)


@pytest.mark.parametrize("timing", ["BEFORE UPDATE", "AFTER UPDATE"])
@pytest.mark.parametrize("level", ["STATEMENT", "ROW"])
def test_a_trigger_on_the_stripes_may_write_a_row_of_the_order(conn, timing, level):
    """The row had moved from the place that was locked: every such order failed with an error of PostgreSQL's heap."""
    shop(conn, {ONE: 100, TWO: 100}, columns=", note text")
    conn.both = True
    conn.execute("SELECT stripe_inventory(%s::uuid, 2)", (TWO,))
    conn.execute(
        "CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE inventory SET note = "
        f"concat(note, 'x') WHERE id = '{ONE}'; RETURN NEW; END $$;"
        f"CREATE TRIGGER zz {timing} ON inventory_stripe FOR EACH {level} EXECUTE FUNCTION seen()"
    )
    order(conn, (ONE, 1), (TWO, 1))
    call(conn, "transfer_inventory", p_from=TWO, p_to=ONE, p_quantity=1)
    call(conn, "transfer_inventory", p_from=ONE, p_to=TWO, p_quantity=1)
    assert left(conn, ONE) == 99
    assert conn.execute("SELECT available_inventory(%s::uuid)", (TWO,)).fetchone() == (99,)
    conn.execute("SELECT unstripe_inventory(%s::uuid)", (TWO,))
    audit(conn)


def test_a_value_stored_out_of_line_is_kept_and_not_copied(conn):
    shop(conn, {key: 100 for key in (ONE, TWO, THREE)}, columns=", note text")
    conn.execute("ALTER TABLE inventory ALTER note SET STORAGE external")
    conn.execute("UPDATE inventory SET note = repeat('long ', 10000)")
    toast = conn.execute("SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'inventory'").fetchone()[0]
    chunks = lambda: conn.execute(f"SELECT count(*), count(DISTINCT chunk_id) FROM {toast}").fetchone()  # noqa: E731
    before = chunks()
    for _ in range(5):
        sell_in_all_ways(conn)
    assert chunks() == before and before[1] == 3
    assert conn.execute("SELECT DISTINCT md5(note) = md5(repeat('long ', 10000)) FROM inventory").fetchall() == [
        (True,)
    ]
    conn.both = True  # the UPDATE of the test
    audit(conn)


def test_a_row_that_moves_to_another_page_is_in_every_index(conn):
    """The pages are full: no update is HOT."""
    columns = ", sku text UNIQUE DEFAULT gen_random_uuid(), n integer DEFAULT 7, pad char(1500) DEFAULT ''"
    shop(conn, {key: 100 for key in MANY[:60]}, columns=columns)
    conn.execute("CREATE INDEX ON inventory (n, sku) INCLUDE (id); CREATE INDEX ON inventory USING hash (n)")
    conn.execute("CREATE INDEX ON inventory USING brin (n)")
    for _ in range(3):
        order(conn, *((key, 1) for key in MANY[:60]))
        sell_in_all_ways(conn)
    through_each_index(conn, "inventory")
    conn.execute("SET enable_seqscan = off")
    assert conn.execute("SELECT count(*) FROM inventory WHERE n = 7").fetchone() == (60,)
    assert conn.execute("SELECT count(quantity) FROM inventory WHERE id = ANY (%s)", (MANY[:60],)).fetchone() == (60,)
    audit(conn)


def test_an_update_that_no_index_notices_is_hot(conn):
    shop(conn, {key: 100 for key in (ONE, TWO, THREE)}, columns=", name text DEFAULT 'x'")
    conn.execute("CREATE INDEX ON inventory (name)")
    for _ in range(5):
        sell_in_all_ways(conn)
    conn.execute("SELECT pg_stat_force_next_flush()")
    counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'inventory'"
    updated, hot = conn.execute(counts).fetchone()
    assert updated == 5 * 8 and hot > 0.9 * updated


def test_an_index_that_is_built_while_sales_go_on_is_complete(db, conn):
    """CREATE INDEX CONCURRENTLY waits for the sale; afterwards the index has what was sold meanwhile."""
    shop(conn, {key: 100 for key in (ONE, TWO, THREE)}, columns=", n integer DEFAULT 7")
    builder = db.connect()
    conn.execute("BEGIN")
    sell_in_all_ways(conn)
    built = Aside(builder.execute, "CREATE INDEX CONCURRENTLY ON inventory (n)")
    until_waiting(db.connect(), builder)
    sell_in_all_ways(conn)
    conn.execute("COMMIT")
    built.result()
    sell_in_all_ways(conn)
    through_each_index(conn, "inventory")
    audit(conn)


# The ledger


def test_an_order_writes_one_movement_for_each_line_in_every_index(conn):
    shop(conn, {key: 100 for key in MANY})
    answer = order(conn, *((key, 1) for key in MANY), p_reference="order 7", p_idempotency_key="key 7")
    assert len(answer["lines"]) == 300
    through_each_index(conn, "inventory_movement")
    found = conn.execute(
        "SELECT count(*), count(DISTINCT movement_id), min(reference), min(idempotency_key), count(DISTINCT xact_id),"
        " min(delta), max(delta), bool_and(occurred_at BETWEEN now() - interval '1 hour' AND clock_timestamp())"
        " FROM inventory_movement WHERE kind = 'sale'"
    )
    assert found.fetchone() == (300, 300, "order 7", "key 7", 1, -1, -1, True)
    audit(conn)


def test_a_long_reference_is_stored_out_of_line(conn):
    """A row of the ledger can be wider than a page."""
    shop(conn, {key: 100 for key in (ONE, TWO, THREE)})
    conn.execute("ALTER TABLE inventory_movement ALTER actor SET STORAGE external")
    actor = "ä" * 100
    conn.execute("SELECT set_config('inventory_ext.actor', %s, false)", (actor,))
    sell_in_all_ways(conn)
    sold = "SELECT DISTINCT actor FROM inventory_movement WHERE kind <> 'opening'"
    assert conn.execute(sold).fetchall() == [(actor,)]
    audit(conn)


def test_statistics_count_updates_and_inserts(conn):
    shop(conn, {key: 100 for key in (ONE, TWO, THREE)})
    conn.execute("SELECT pg_stat_force_next_flush()")
    sell_in_all_ways(conn)
    conn.execute("SELECT pg_stat_force_next_flush()")
    counts = "SELECT relname, n_tup_ins, n_tup_upd FROM pg_stat_user_tables WHERE relname LIKE 'inventory%%' AND %s"
    found = {name: (inserted, updated) for name, inserted, updated in conn.execute(counts, (True,)).fetchall()}
    assert found["inventory"] == (3, 8)
    assert found["inventory_movement"] == (3 + 8, 0)


@pytest.mark.parametrize("conn", ["auto"], indirect=True)
def test_movements_are_added_at_the_end_of_the_ledger(conn):
    """A BRIN index by time would read old pages that hold new movements. (A statement takes the space that is free.)"""
    shop(conn, {key: 100_000 for key in MANY})
    for _ in range(20):
        order(conn, *((key, 1) for key in MANY))
    conn.execute("ALTER TABLE inventory_movement DISABLE TRIGGER USER")
    conn.execute("DELETE FROM inventory_movement WHERE kind = 'sale' AND movement_id < 4000")
    conn.execute("ALTER TABLE inventory_movement ENABLE TRIGGER USER")
    conn.execute("VACUUM inventory_movement")
    last = conn.execute("SELECT max(ctid) FROM inventory_movement").fetchone()[0]
    sell(conn, ONE, 1)
    order(conn, (ONE, 1), (TWO, 1))
    newest = (
        "SELECT min(ctid) > %s::tid FROM (SELECT ctid FROM inventory_movement ORDER BY movement_id DESC LIMIT 3) AS n"
    )
    assert conn.execute(newest, (last,)).fetchone() == (True,)
    through_each_index(conn, "inventory_movement")


def test_what_was_sold_in_a_moment_reads_the_pages_of_that_moment(conn):
    shop(conn, {key: 100_000_000 for key in MANY})
    conn.execute("ALTER TABLE inventory_movement DISABLE TRIGGER USER")
    conn.execute(
        "INSERT INTO inventory_movement (inventory_id, kind, old_quantity, new_quantity, actor, occurred_at)"
        " SELECT '00000000-0000-0000-0000-000000000001', 'sale', 1, 1, 'history', now() - interval '1 year' + n * "
        "interval '1 minute' FROM generate_series(1, 300000) AS n"
    )
    conn.execute("ALTER TABLE inventory_movement ENABLE TRIGGER USER")
    order(conn, *((key, 1) for key in MANY))
    conn.execute("VACUUM ANALYZE inventory_movement")
    for condition in (
        "occurred_at > now() - interval '1 hour'",
        "movement_id > (SELECT last_value - 300 FROM inventory_movement_movement_id_seq)",
    ):
        sql = f"SELECT count(*) FROM inventory_movement WHERE {condition}"
        assert conn.execute(sql).fetchone()[0] >= 300
        plan = conn.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {sql}").fetchone()[0][0]["Plan"]
        read = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        assert read < pages(conn, "inventory_movement") / 10, plan
