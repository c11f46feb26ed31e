"""How strongly a sale locks its row, which decides whether it can meet a foreign key.

With `auto` (the default) the strong lock is taken unless another table refers to the stock table. The strength is seen
from a second session: FOR KEY SHARE, what a foreign key takes, is let in by the weak lock and kept out by the strong.
"""

from decimal import Decimal

import pytest

from shop import ONE, TWO, attach, create_role, fill, left, refused, refused_sale, sell, shop

REFERENCE = "CREATE TABLE order_line (item uuid REFERENCES inventory, quantity numeric)"


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "10.00"}, columns=", sku text UNIQUE")
    return conn


@pytest.fixture
def till(db, conn):
    return db.connect(autocommit=False)


def strength(till, conn):
    """Sells one unit, looks from outside, and takes the sale back."""
    sell(till, ONE, "1")
    try:
        conn.execute("SELECT 1 FROM inventory WHERE id = %s FOR KEY SHARE NOWAIT", (ONE,))
        seen = "no_key_update"
    except Exception as error:
        assert error.diag.sqlstate == "55P03"
        seen = "update"
    assert refused(conn, "SELECT 1 FROM inventory FOR NO KEY UPDATE NOWAIT").sqlstate == "55P03"
    till.rollback()
    return seen


@pytest.mark.parametrize("referenced", [False, True])
@pytest.mark.parametrize(
    ("setting", "alone", "beside_orders"),
    [
        (None, "update", "no_key_update"),
        ("auto", "update", "no_key_update"),
        ("update", "update", "update"),
        ("no_key_update", "no_key_update", "no_key_update"),
    ],
)
def test_the_strength_follows_the_setting_and_the_foreign_keys(conn, till, setting, alone, beside_orders, referenced):
    """All eight cells of the table."""
    if referenced:
        conn.execute(REFERENCE)
    if setting:
        till.execute(f"SET inventory_ext.row_lock = '{setting}'")
        till.commit()
    assert strength(till, conn) == (beside_orders if referenced else alone)


def test_a_foreign_key_that_comes_or_goes_later_counts_from_the_next_sale(conn, till):
    """Sessions with everything prepared follow at once, in both directions."""
    assert strength(till, conn) == "update"
    conn.execute(REFERENCE)
    assert strength(till, conn) == "no_key_update"
    conn.execute("ALTER TABLE order_line DROP CONSTRAINT order_line_item_fkey")
    assert strength(till, conn) == "update"
    conn.execute("ALTER TABLE order_line ADD CONSTRAINT late FOREIGN KEY (item) REFERENCES inventory NOT VALID")
    assert strength(till, conn) == "no_key_update"
    conn.execute("DROP TABLE order_line")
    assert strength(till, conn) == "update"


def test_a_foreign_key_to_another_unique_column_counts_too(conn, till):
    """It locks the same row."""
    conn.execute("CREATE TABLE label (sku text REFERENCES inventory (sku))")
    assert strength(till, conn) == "no_key_update"


def test_a_foreign_key_from_the_stock_table_does_not_count(conn, till):
    """It is the other direction: none of our rows is locked for it."""
    conn.execute("CREATE TABLE supplier (id int PRIMARY KEY)")
    conn.execute("ALTER TABLE inventory ADD supplier int REFERENCES supplier")
    assert strength(till, conn) == "update"


def test_a_foreign_key_to_a_partitioned_stock_table_counts(db):
    """References to a partitioned table lock rows of its partitions."""
    conn, till = db.connect(), db.connect(autocommit=False)
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric) PARTITION BY HASH (id)")
    conn.execute("CREATE TABLE p PARTITION OF inventory FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    conn.execute("INSERT INTO inventory VALUES (%s, 10)", (ONE,))
    conn.execute("SELECT attach_inventory('inventory')")
    assert strength(till, conn) == "update"
    conn.execute(REFERENCE)
    assert strength(till, conn) == "no_key_update"


def test_set_local_ends_with_the_transaction(conn, till):
    """An ordinary setting, for anybody."""
    till.execute("SET LOCAL inventory_ext.row_lock = 'no_key_update'")
    assert strength(till, conn) == "no_key_update"
    assert strength(till, conn) == "update"


def test_unknown_values_and_unknown_settings_are_refused(db, conn):
    """A typing error must not silently mean the default."""
    clerk = create_role(conn, db, "clerk")
    conn.execute(f'GRANT EXECUTE ON FUNCTION decrement_inventory TO "{clerk}"')
    till = db.connect(user=clerk)
    sell(till, ONE, "1")
    assert refused(till, "SET inventory_ext.row_lock = 'share'").sqlstate == "22023"
    assert refused(till, "SET inventory_ext.error_style = 'json'").sqlstate == "22023"
    assert refused(till, "SET inventory_ext.row_locks = 'update'").sqlstate == "42602"
    assert till.execute("SHOW inventory_ext.row_lock").fetchone() == ("auto",)
    assert till.execute("SHOW inventory_ext.error_style").fetchone() == ("sqlstate",)


def test_settings_made_before_the_first_call_of_a_session_are_obeyed(db, conn):
    """The library is not loaded yet when a client sets them first."""
    till = db.connect()
    till.execute("SET inventory_ext.error_style = 'postgrest'")
    till.execute("SET inventory_ext.row_lock = 'no_key_update'")
    assert refused_sale(till, ONE, "11").sqlstate == "PT409"
    till.autocommit = False
    assert strength(till, conn) == "no_key_update"
    assert left(conn, ONE) == 10


def test_a_refusal_takes_no_row_lock_and_no_transaction_id(conn, till):
    """A sold-out item is refused without a lock, without an XID and without waiting for the session that holds the
    row."""
    holder = conn
    till.execute("SAVEPOINT here")
    for quantity in ("10.01", "100"):
        assert refused_sale(till, ONE, quantity).sqlstate == "IV001"
        till.execute("ROLLBACK TO here")
    assert refused_sale(till, "dddddddd-0000-0000-0000-000000000000", "1").sqlstate == "IV002"
    till.execute("ROLLBACK TO here")
    for quantity in ("-1", "NaN", "0.001", None):
        assert refused_sale(till, ONE, quantity).sqlstate.startswith("22")
        till.execute("ROLLBACK TO here")
    assert till.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
    holder.execute("SELECT 1 FROM inventory FOR UPDATE NOWAIT")
    sell(till, ONE, "1")
    assert till.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() != (None,)


def test_a_refusal_in_an_exception_block_assigns_no_transaction_id(conn, till):
    """PL/pgSQL's block opens a subtransaction, which alone assigns none either."""
    till.execute(
        f"""DO $$ BEGIN
            PERFORM decrement_inventory('{ONE}', 10.01);
            RAISE 'sold what was not there';
        EXCEPTION WHEN SQLSTATE 'IV001' THEN NULL;
        END $$"""
    )
    assert till.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)


def test_a_sold_out_item_is_refused_while_another_session_holds_its_row(db, conn, till):
    """The refusal must not queue behind the holder: a short lock_timeout would turn such a wait into 55P03."""
    holder = db.connect(autocommit=False)
    holder.execute("SELECT 1 FROM inventory WHERE id = %s FOR UPDATE", (ONE,))
    till.execute("SET lock_timeout = '2s'")
    till.execute("SAVEPOINT here")
    answer = refused_sale(till, ONE, "10.01")
    assert (answer.sqlstate, answer.facts["available"]) == ("IV001", 10)
    till.execute("ROLLBACK TO here")
    # The control: what could be sold does wait.
    assert refused_sale(till, ONE, "10").sqlstate == "55P03"


def test_an_item_seen_short_is_judged_anew_each_time(conn, till):
    """A session looks first at what it saw short last: what others do to it meanwhile counts, and so do other items."""
    till.autocommit = True
    for wanted, there in (("11", "10.00"), ("10.01", "10.00")):
        assert refused_sale(till, ONE, wanted).facts["available"] == Decimal(there)
    conn.execute("UPDATE inventory SET quantity = 20 WHERE id = %s", (ONE,))
    conn.execute("INSERT INTO inventory (id, quantity) VALUES (%s, 5)", (TWO,))
    assert sell(till, ONE, "11")["new_quantity"] == 9
    for _ in range(2):
        assert refused_sale(till, ONE, "11").facts["available"] == 9
    assert sell(till, TWO, "5")["new_quantity"] == 0
    assert sell(till, ONE, "9")["new_quantity"] == 0
    assert refused_sale(till, ONE, "1").sqlstate == "IV001"
    conn.execute("DELETE FROM inventory WHERE id = %s", (ONE,))
    assert refused_sale(till, ONE, "1").sqlstate == "IV002"
    assert refused_sale(till, TWO, "1").sqlstate == "IV001"


def test_a_repeated_refusal_reads_its_row_once(conn):
    """The first goes to lock the row and finds nothing to lock; those that follow begin with the look that refuses."""
    conn.execute("SET enable_seqscan = off")
    reads = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'inventory'"

    def counted():
        conn.execute("SELECT pg_stat_force_next_flush()")
        return conn.execute(reads).fetchone()[0]

    assert refused_sale(conn, ONE, "11").sqlstate == "IV001"
    before = counted()
    for _ in range(10):
        assert refused_sale(conn, ONE, "11").sqlstate == "IV001"
    assert counted() - before == 10


def test_a_foreign_key_to_a_partition_counts(db):
    """It was not seen: a sale waited for an order line, and two sessions that inserted one and then sold deadlocked."""
    conn, till = db.connect(), db.connect(autocommit=False)
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2)) PARTITION BY HASH (id)")
    conn.execute("CREATE TABLE part PARTITION OF inventory FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    fill(conn, {ONE: 10})
    attach(conn)
    assert strength(till, conn) == "update"
    conn.execute("CREATE TABLE order_line (item uuid REFERENCES part)")
    assert strength(till, conn) == "no_key_update"
    conn.execute("DROP TABLE order_line")
    assert strength(till, conn) == "update"
