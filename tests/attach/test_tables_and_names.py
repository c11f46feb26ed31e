"""Any table that can hold stock, of any name, with any neighbours, in any physical shape.

Quoted, mixed-case, very long and non-ASCII names; partitioned tables; generated columns, foreign keys and unique
indexes of the user; rewrites of the table's file. In each, one sale changes one row and only it.
"""

import pytest

from shop import (
    ONE,
    TWO,
    UNKNOWN,
    answer_text,
    attach,
    create_role,
    fill,
    item,
    left,
    refused,
    refused_sale,
    sell,
    shop,
    stock_of,
)


@pytest.fixture
def conn(db):
    return db.connect()


NAMES = {
    "plain": ("shop", "inventory", "id", "quantity"),
    "mixed case": ("MyShop", "Inventory", "ItemId", "Quantity"),
    "spaces and quotes": ('my "best" shop', "it's; DROP TABLE x; --", 'id "the"', "qty, id"),
    "key words": ("select", "table", "user", "order"),
    "backslash and percent": ("a\\b", "100%s", "$1", "%I"),
    "unicode": ("Größe", "Артикул 📦", "标识", "Anzahl_übrig"),
    "63 bytes": ("s" * 63, "t" * 63, "i" * 63, "q" * 63),
    "63 bytes of two-byte letters": ("ß" * 31 + "s", "ü" * 31 + "t", "ä" * 31 + "i", "x" + "ö" * 31),
    "columns that look like our own": ("stockroom", "stock", "stock", "ctid_"),
    "dots": ("a.b", "c.d", "e.f", "g.h"),
}


@pytest.mark.parametrize("name", NAMES, ids=[name.replace(" ", "_") for name in NAMES])
@pytest.mark.parametrize("partitioned", [False, True], ids=["ordinary", "partitioned"])
def test_any_name_works(conn, name, partitioned):
    """Attach, sell, refuse, rename nothing: names are quoted wherever they stand."""
    schema, table, key, quantity = ('"' + part.replace('"', '""') + '"' for part in NAMES[name])
    where = f"{schema}.{table}"
    conn.execute(f"CREATE SCHEMA {schema}")
    by_hash = f"PARTITION BY HASH ({key})" if partitioned else ""
    # No parameters are passed, so that psycopg leaves every % alone.
    conn.execute(f"CREATE TABLE {where} ({key} uuid PRIMARY KEY, {quantity} numeric(12,2)) {by_hash}")
    if partitioned:
        conn.execute(f'CREATE TABLE {schema}."p" PARTITION OF {where} FOR VALUES WITH (MODULUS 1, REMAINDER 0)')
    conn.execute(f"INSERT INTO {where} VALUES ('{ONE}', 10), ('{TWO}', 20)")
    attach(conn, where, p_id_column=NAMES[name][2], p_quantity_column=NAMES[name][3])

    assert answer_text(conn, ONE, "4").endswith('"old_quantity": 10.00, "new_quantity": 6.00, "deducted": 4}')
    assert refused_sale(conn, ONE, "6.01").sqlstate == "IV001"
    answer = refused_sale(conn, ONE, "0.001")
    assert (answer.sqlstate, answer.facts["column"]) == ("22003", NAMES[name][3])
    assert refused_sale(conn, UNKNOWN, "1").sqlstate == "IV002"
    assert conn.execute(f"SELECT {quantity} FROM {where} ORDER BY {key}").fetchall() == [(6,), (20,)]
    assert refused(conn, f"UPDATE {where} SET {quantity} = -1").sqlstate == "23514"


def test_the_check_is_named_after_the_quantity_column(conn):
    """So that it can be found, and is recognised by the next attach."""
    shop(conn, {ONE: "1"})
    assert conn.execute(
        "SELECT conname, convalidated FROM pg_constraint WHERE conrelid = 'inventory'::regclass AND contype = 'c'"
    ).fetchall() == [("quantity_non_negative", True)]


@pytest.mark.parametrize("partitioning", ["HASH", "RANGE"])
def test_a_sale_from_a_partitioned_table_changes_one_row_of_one_partition(conn, partitioning):
    """Rows of different partitions share physical addresses: only the row with the id may change."""
    conn.execute(f"CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY {partitioning} (id)")
    for part in range(4):
        bounds = {
            "HASH": f"WITH (MODULUS 4, REMAINDER {part})",
            "RANGE": f"FROM ('{item(part * 10)}') TO ('{item(part * 10 + 10)}')",
        }[partitioning]
        conn.execute(f"CREATE TABLE inventory_{part} PARTITION OF inventory FOR VALUES {bounds}")
    stock = {item(n): 100 + n for n in range(40)}
    fill(conn, stock)
    attach(conn)
    for number, key in enumerate(stock):
        answer = sell(conn, key, number + 1)
        assert answer["old_quantity"] == stock[key]
        stock[key] -= number + 1
        assert stock_of(conn) == stock
    assert refused_sale(conn, item(5), 1000).sqlstate == "IV001"
    assert refused_sale(conn, item(99), 1).sqlstate == "IV002"


def test_partitions_can_come_and_go_while_selling(db, conn):
    """A new partition's items can be sold at once, a detached one's are unknown; tills keep their sessions."""
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY RANGE (id)")
    conn.execute(f"CREATE TABLE low PARTITION OF inventory FOR VALUES FROM ('{item(0)}') TO ('{item(100)}')")
    fill(conn, {ONE: 10})
    attach(conn)
    till = db.connect()
    sell(till, ONE, 1)
    assert refused_sale(till, item(100), 1).sqlstate == "IV002"
    conn.execute(f"CREATE TABLE high PARTITION OF inventory FOR VALUES FROM ('{item(100)}') TO ('{item(200)}')")
    fill(conn, {item(100): 5})
    assert sell(till, item(100), 2)["new_quantity"] == 3
    assert refused(conn, "UPDATE high SET quantity = -1").sqlstate == "23514"
    conn.execute("ALTER TABLE inventory DETACH PARTITION low")
    assert refused_sale(till, ONE, 1).sqlstate == "IV002"
    assert left(conn, ONE, "low") == 9


def test_statement_triggers_of_a_partitioned_table_fire_once(conn):
    """The statement is on the parent; row triggers fire on the partition that holds the row."""
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY HASH (id)")
    for part in range(3):
        conn.execute(f"CREATE TABLE p{part} PARTITION OF inventory FOR VALUES WITH (MODULUS 3, REMAINDER {part})")
    fill(conn, {item(n): 10 for n in range(9)})
    attach(conn)
    conn.execute(
        """
        CREATE TABLE seen (what text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO seen VALUES (TG_LEVEL); RETURN NULL; END $$;
        CREATE TRIGGER s AFTER UPDATE ON inventory FOR EACH STATEMENT EXECUTE FUNCTION note();
        CREATE TRIGGER r AFTER UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION note()
        """
    )
    for n in range(9):
        sell(conn, item(n), 1)
    assert conn.execute("SELECT what, count(*) FROM seen GROUP BY what ORDER BY what").fetchall() == [
        ("ROW", 9),
        ("STATEMENT", 9),
    ]


def test_generated_columns_follow_the_sale(conn):
    """A stored total is recomputed by PostgreSQL as with any UPDATE; PostgreSQL 18's virtual ones as well."""
    conn.execute(
        "CREATE TABLE inventory (id uuid PRIMARY KEY, price numeric DEFAULT 2.5, quantity numeric(12,2), "
        "value numeric GENERATED ALWAYS AS (price * quantity) STORED)"
    )
    fill(conn, {ONE: "10"})
    if conn.info.server_version >= 180000:
        conn.execute("ALTER TABLE inventory ADD doubled numeric GENERATED ALWAYS AS (2 * quantity) VIRTUAL")
    attach(conn)
    sell(conn, ONE, "4")
    assert left(conn, ONE, quantity_column="value") == 15
    if conn.info.server_version >= 180000:
        assert left(conn, ONE, quantity_column="doubled") == 12


def test_foreign_keys_in_both_directions_keep_working(conn):
    """The stock table refers to a product and is referred to by order lines."""
    conn.execute("CREATE TABLE product (sku text PRIMARY KEY); INSERT INTO product VALUES ('a')")
    shop(conn, {ONE: "10"}, columns=", sku text DEFAULT 'a' REFERENCES product")
    conn.execute("CREATE TABLE order_line (item uuid REFERENCES inventory ON DELETE CASCADE, quantity numeric)")
    conn.execute("INSERT INTO order_line VALUES (%s, 4)", (ONE,))
    sell(conn, ONE, "4")
    assert refused(conn, "DELETE FROM product").sqlstate == "23503"
    assert refused(conn, "INSERT INTO order_line VALUES (%s, 1)", (UNKNOWN,)).sqlstate == "23503"
    conn.execute("DELETE FROM inventory")
    assert conn.execute("SELECT count(*) FROM order_line").fetchone()[0] == 0
    assert refused_sale(conn, ONE, "1").sqlstate == "IV002"


def test_a_unique_index_with_included_columns_will_do(conn):
    """INCLUDE adds payload, not key columns."""
    conn.execute("CREATE TABLE inventory (id uuid NOT NULL, quantity integer, note text)")
    conn.execute("CREATE UNIQUE INDEX ON inventory (id) INCLUDE (note)")
    fill(conn, {ONE: 3})
    attach(conn)
    assert sell(conn, ONE, 1)["new_quantity"] == 2


def test_the_id_need_not_be_the_primary_key_nor_the_first_column(conn):
    """Many tables have a bigint key of their own and the uuid beside it."""
    conn.execute(
        "CREATE TABLE inventory (gone text, quantity smallint, no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "public_id uuid NOT NULL UNIQUE); ALTER TABLE inventory DROP COLUMN gone"
    )
    fill(conn, {ONE: 3, TWO: 4}, id_column="public_id")
    attach(conn, p_id_column="public_id")
    assert sell(conn, TWO, 1)["new_quantity"] == 3
    assert left(conn, ONE, id_column="public_id") == 3


@pytest.mark.parametrize(
    "rewrite",
    [
        "VACUUM FULL inventory",
        "CLUSTER inventory USING inventory_pkey",
        "ALTER TABLE inventory ADD extra text DEFAULT gen_random_uuid()::text",
        "ALTER TABLE inventory SET UNLOGGED",
        "REINDEX TABLE CONCURRENTLY inventory",
        "ALTER TABLE inventory DROP COLUMN note",
        "ANALYZE inventory",
    ],
)
def test_a_rewrite_of_the_table_between_two_sales_changes_nothing(db, conn, rewrite):
    """New files, new indexes, dropped neighbours: a session with everything cached goes on selling."""
    shop(conn, {item(n): 10 for n in range(1, 200)}, type="integer", columns=", note text")
    till = db.connect()
    for _ in range(6):
        sell(till, ONE, 1)
    conn.execute("DELETE FROM inventory WHERE id > %s AND id < %s", (item(10), item(150)))
    conn.execute(rewrite)
    assert sell(till, ONE, 1)["old_quantity"] == 4
    assert sell(till, item(160), 1)["old_quantity"] == 10
    assert refused_sale(till, item(20), 1).sqlstate == "IV002"


def test_truncate_leaves_every_item_unknown(db, conn):
    """An emptied table has no items; refilled, it has. Where a ledger is kept, TRUNCATE is refused."""
    shop(conn, {ONE: 10}, type="integer", p_ledger=False)
    till = db.connect()
    sell(till, ONE, 1)
    conn.execute("TRUNCATE inventory")
    assert refused_sale(till, ONE, 1).sqlstate == "IV002"
    fill(conn, {ONE: 2})
    assert sell(till, ONE, 1)["new_quantity"] == 1


def test_settings_of_a_role_and_of_a_database_are_obeyed(db, conn):
    """error_style is an ordinary setting: ALTER ROLE and ALTER DATABASE choose it for a whole application."""
    shop(conn, {ONE: 1}, type="integer")
    api = create_role(conn, db, "api")
    conn.execute(f'GRANT EXECUTE ON FUNCTION decrement_inventory TO "{api}"')
    conn.execute(f"ALTER ROLE \"{api}\" SET inventory_ext.error_style = 'postgrest'")
    assert refused_sale(db.connect(user=api), ONE, 2).sqlstate == "PT409"
    assert refused_sale(db.connect(), ONE, 2).sqlstate == "IV001"
    conn.execute(f"ALTER DATABASE \"{db.name}\" SET inventory_ext.error_style = 'postgrest'")
    assert refused_sale(db.connect(), ONE, 2).sqlstate == "PT409"
