"""audit_sales names every sale of which not as much was deducted as was sold, and nothing else."""

import csv
import gzip
import random
from collections import Counter
from decimal import Decimal
from itertools import islice

import pytest

from auditing import past_the_triggers
from books import order
from demo import replay
from shop import ONE, TWO, UNKNOWN, attach, create_role, item, refused, sell, shop
from striped import stripe

THREE = item(3)
SALES = 5_000
EACH = 5  # mistakes of each kind
KINDS = ("not_deducted", "not_sold", "quantity_differs", "deducted_twice")


def real_sales():
    """(number of the sale, price in cents, units) of the first sales of the demo; a product is a price point."""
    with gzip.open(replay.HERE / "cdnow_sales.csv.gz", "rt", newline="") as lines:
        rows = islice(csv.DictReader(lines), SALES)
        return [(int(row["sale"]), int(row["unit_price_cents"]), int(row["quantity"])) for row in rows]


def audit_sales(conn, since=None, table="orders", columns=("number", "item", "units")):
    """The rows, as (kind, reference, item, sold, deducted, movements)."""
    sql = "SELECT * FROM audit_sales(%s::text::regclass, %s, %s, %s, %s)"
    return conn.execute(sql, (table, *columns, since)).fetchall()


def found(conn, since=None, **names):
    """(kind, reference) of each row."""
    return [row[:2] for row in audit_sales(conn, since, **names)]


def deduct(conn, key, units, reference):
    conn.execute("SELECT decrement_item(%s, %s, %s)", (str(key), units, reference))


def write_down(conn, key, units, reference):
    conn.execute("INSERT INTO orders VALUES (%s, %s, %s)", (reference, key, units))


def make_mistakes(conn, sales, kinds):
    """Sells all, with the mistakes in `kinds` ({number of the sale: kind}); returns the rows that tell of them."""
    wanted = set()
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO orders VALUES (%s, %s, %s)", sales)
        call = "SELECT decrement_item(%s, %s, %s)"
        right = [(str(price), units, str(sale)) for sale, price, units in sales if kinds.get(sale) != "not_deducted"]
        cursor.executemany(call, right)
        for sale, price, units in sales:
            facts = (kinds.get(sale), str(sale), str(price))
            match kinds.get(sale):
                case "not_deducted":
                    wanted.add((*facts, units, None))
                case "not_sold":
                    cursor.execute("DELETE FROM orders WHERE number = %s", (sale,))
                    wanted.add((*facts, None, units))
                case "quantity_differs":
                    cursor.execute("UPDATE orders SET units = units + 1 WHERE number = %s", (sale,))
                    wanted.add((*facts, units + 1, units))
                case "deducted_twice":
                    cursor.execute(call, (str(price), units, str(sale)))
                    wanted.add((*facts, units, units * 2))
    return wanted


@pytest.mark.parametrize("type", ["text", "bigint"])
def test_twenty_mistakes_among_real_sales(db, type):
    conn, sales = db.connect(), real_sales()
    conn.execute(f"CREATE TABLE inventory (id {type} PRIMARY KEY, quantity integer)")
    conn.execute(f"CREATE TABLE orders (number integer, item {type}, units integer)")
    demand = Counter()
    for _, price, units in sales:
        demand[price] += units
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO inventory VALUES (%s, %s)", [(p, units + 1000) for p, units in demand.items()])
    attach(conn)
    seed = random.SystemRandom().getrandbits(32)
    print(f"mistakes with seed {seed}")
    chosen = random.Random(seed).sample([sale for sale, _, _ in sales], EACH * len(KINDS))
    wanted = make_mistakes(conn, sales, dict(zip(chosen, KINDS * EACH, strict=True)))
    rows = audit_sales(conn)
    assert {row[:5] for row in rows} == wanted
    assert len(rows) == len(wanted) == 20
    told = "SELECT coalesce(array_agg(movement_id ORDER BY movement_id), '{}') FROM inventory_movement"
    for _, reference, _, _, _, numbers in rows:
        mine = conn.execute(f"{told} WHERE reference = %s", (reference,)).fetchone()[0]
        assert sorted(numbers or []) == mine


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {key: "20.00" for key in (ONE, TWO, THREE)})
    conn.execute("CREATE TABLE orders (number text, item uuid, units numeric)")
    return conn


def test_a_right_shop_has_no_difference(conn):
    for number in range(5):
        deduct(conn, ONE, 2, f"order {number}")
        write_down(conn, ONE, 2, f"order {number}")
    assert audit_sales(conn) == []


def test_a_sale_that_was_not_deducted(conn):
    write_down(conn, ONE, 2, "order 1")
    assert audit_sales(conn) == [("not_deducted", "order 1", str(ONE), 2, None, None)]


def test_a_sale_of_an_item_that_the_shop_does_not_have(conn):
    write_down(conn, UNKNOWN, 2, "order 1")
    assert audit_sales(conn) == [("not_deducted", "order 1", str(UNKNOWN), 2, None, None)]


def test_a_deduction_that_the_sales_do_not_have(conn):
    deduct(conn, ONE, 2, "order 1")
    [row] = audit_sales(conn)
    assert row[:5] == ("not_sold", "order 1", str(ONE), None, 2)
    assert row[5] == [conn.execute("SELECT max(movement_id) FROM inventory_movement").fetchone()[0]]


@pytest.mark.parametrize("units", ["1", "3", "2.01"])
def test_another_quantity(conn, units):
    deduct(conn, ONE, 2, "order 1")
    write_down(conn, ONE, units, "order 1")
    assert audit_sales(conn)[0][:5] == ("quantity_differs", "order 1", str(ONE), Decimal(units), 2)


def test_quantities_of_other_scales_are_equal(conn):
    deduct(conn, ONE, "2.50", "order 1")
    write_down(conn, ONE, "2.5000", "order 1")
    assert audit_sales(conn) == []


@pytest.mark.parametrize("times", [2, 3])
def test_a_sale_that_several_transactions_deducted(conn, times):
    write_down(conn, ONE, 2, "order 1")
    for _ in range(times):
        deduct(conn, ONE, 2, "order 1")
    [row] = audit_sales(conn)
    assert row[:5] == ("deducted_twice", "order 1", str(ONE), 2, 2 * times)
    assert len(row[5]) == times


def test_a_transaction_that_deducted_twice_is_no_call_that_was_sent_again(conn):
    write_down(conn, ONE, 2, "order 1")
    with conn.transaction():
        deduct(conn, ONE, 2, "order 1")
        deduct(conn, ONE, 2, "order 1")
    assert audit_sales(conn)[0][:5] == ("quantity_differs", "order 1", str(ONE), 2, 4)


def test_two_transactions_of_which_only_one_has_the_quantity(conn):
    write_down(conn, ONE, 2, "order 1")
    deduct(conn, ONE, 2, "order 1")
    deduct(conn, ONE, 1, "order 1")
    assert found(conn) == [("quantity_differs", "order 1")]


def test_a_sale_that_was_delivered_in_two_parts(conn):
    write_down(conn, ONE, 5, "order 1")
    deduct(conn, ONE, 2, "order 1")
    deduct(conn, ONE, 3, "order 1")
    assert audit_sales(conn) == []


def test_lines_of_one_reference_and_item_are_summed(conn):
    for units in (2, 1, 4):
        write_down(conn, ONE, units, "order 1")
    write_down(conn, TWO, 1, "order 1")
    order(conn, (ONE, 3), (TWO, 1), (ONE, 4), p_reference="order 1")
    assert audit_sales(conn) == []
    write_down(conn, TWO, 1, "order 1")
    assert audit_sales(conn)[0][:5] == ("quantity_differs", "order 1", str(TWO), 2, 1)


def test_a_line_that_was_cancelled_before_anything_was_deducted(conn):
    """Two units sold and the same two taken back: nothing was sold, and nothing was deducted."""
    write_down(conn, ONE, 2, "order 1")
    write_down(conn, ONE, -2, "order 1")
    assert audit_sales(conn) == []


def test_striped_items(conn):
    stripe(conn, ONE, 4)
    for number in range(4):
        deduct(conn, ONE, 4, f"order {number}")
        write_down(conn, ONE, 4, f"order {number}")
    # What no single stripe has is gathered from several.
    deduct(conn, ONE, 4, "order 9")
    write_down(conn, ONE, 4, "order 9")
    assert audit_sales(conn) == []
    write_down(conn, ONE, 4, "order 10")
    assert found(conn) == [("not_deducted", "order 10")]


def test_what_has_no_reference_or_is_no_sale_is_not_compared(conn):
    sell(conn, ONE, 1)
    conn.execute(f"SELECT restock_inventory('{ONE}', 5, 'delivery 1')")
    conn.execute(f"SELECT adjust_inventory('{ONE}', 7, p_reason => 'broken')")
    conn.execute(f"UPDATE inventory SET quantity = 3 WHERE id = '{TWO}'")
    write_down(conn, ONE, 2, None)
    write_down(conn, None, 2, "order 1")
    assert audit_sales(conn) == []


def test_a_deduction_that_was_rolled_back_is_none(conn):
    write_down(conn, ONE, 2, "order 1")
    with pytest.raises(ZeroDivisionError), conn.transaction():
        deduct(conn, ONE, 2, "order 1")
        1 / 0  # noqa: B018
    assert found(conn) == [("not_deducted", "order 1")]


def test_deductions_that_ended_before_a_moment_are_not_returned(conn):
    deduct(conn, ONE, 2, "old, not sold")
    deduct(conn, ONE, 2, "old, twice")
    deduct(conn, ONE, 2, "old and new, twice")
    deduct(conn, ONE, 1, "old, another quantity")
    deduct(conn, ONE, 1, "old and right")
    write_down(conn, ONE, 2, "old, twice")
    deduct(conn, ONE, 2, "old, twice")
    moment = conn.execute("SELECT clock_timestamp()").fetchone()[0]
    deduct(conn, ONE, 2, "old and new, twice")
    deduct(conn, ONE, 2, "new, not sold")
    for reference, units in (
        ("old and new, twice", 2), ("old, another quantity", 2), ("old and right", 1), ("not deducted", 3),
    ):  # fmt: skip
        write_down(conn, ONE, units, reference)
    later = [
        ("not_sold", "new, not sold"), ("not_deducted", "not deducted"), ("deducted_twice", "old and new, twice"),
    ]  # fmt: skip
    earlier = [
        ("quantity_differs", "old, another quantity"), ("not_sold", "old, not sold"), ("deducted_twice", "old, twice"),
    ]  # fmt: skip
    assert sorted(found(conn, moment)) == sorted(later)
    assert sorted(found(conn)) == sorted(found(conn, "-infinity")) == sorted(later + earlier)
    assert found(conn, "infinity") == [("not_deducted", "not deducted")]


def test_a_view_a_partitioned_table_and_a_temporary_table_of_sales(conn):
    deduct(conn, ONE, 2, "7")
    for number in (7, 8):
        write_down(conn, ONE, 2, number)
    conn.execute("CREATE VIEW paid AS SELECT number, item, units FROM orders")
    conn.execute("CREATE TABLE parts (number int, item uuid, units int) PARTITION BY RANGE (number)")
    conn.execute("CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (8)")
    conn.execute("CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (8) TO (9)")
    conn.execute("INSERT INTO parts SELECT number::int, item, units FROM orders")
    conn.execute("CREATE TEMPORARY TABLE today AS TABLE orders")
    for table in ("orders", "paid", "parts", "today"):
        assert found(conn, table=table) == [("not_deducted", "8")], table


def test_names_that_must_be_quoted(conn):
    conn.execute('CREATE SCHEMA "My Shop"')
    conn.execute("""CREATE TABLE "My Shop"."Order; Lines" ("No ""1" text, "select" uuid, "Größe'" int)""")
    conn.execute('INSERT INTO "My Shop"."Order; Lines" VALUES (%s, %s, 2)', ("order 1", ONE))
    rows = found(conn, table='"My Shop"."Order; Lines"', columns=('No "1', "select", "Größe'"))
    assert rows == [("not_deducted", "order 1")]


@pytest.mark.parametrize(
    ("type", "key", "columns"),
    [
        ("uuid", str(item(0xABC)), ("text", "varchar(40)", "uuid", "char(36)")),
        ("bigint", "9007199254740993", ("text", "bigint", "numeric")),
        ("integer", "-7", ("text", "smallint", "integer", "bigint")),
        ("text", "Tea 'n' \"Ü\"", ("text", "varchar(40)", "char(40)")),
        ("varchar(20)", "Tea", ("text", "varchar(40)", "char(40)", "name")),
    ],
)
def test_ids_references_and_quantities_of_other_types(db, type, key, columns):
    conn = db.connect()
    conn.execute(f"CREATE TABLE inventory (id {type} PRIMARY KEY, quantity integer)")
    conn.execute("INSERT INTO inventory VALUES (%s, 20)", (key,))
    attach(conn)
    deduct(conn, key, 2, "7")
    deduct(conn, key, 1, "8")
    for number, column in enumerate(columns):
        for reference in ("bigint", "text", "varchar(9)", "char(9)", "numeric"):
            for quantity in ("smallint", "bigint", "text", "real", "numeric(9,3)"):
                conn.execute(f"CREATE TABLE sold_{number} (number {reference}, item {column}, units {quantity})")
                conn.execute(f"INSERT INTO sold_{number} VALUES ('7', %s, '2'), ('8', %s, '2')", (key, key))
                rows = audit_sales(conn, table=f"sold_{number}")
                assert [row[:5] for row in rows] == [("quantity_differs", "8", key, 2, 1)], (reference, column)
                conn.execute(f"DROP TABLE sold_{number}")


@pytest.mark.parametrize(
    ("type", "key", "written"),
    [("uuid", str(item(0xABC)), str(item(0xABC)).upper()), ("bigint", "7", "007"), ("uuid", str(item(5)), item(5).hex)],
)
def test_an_id_that_the_sales_write_in_another_way(db, type, key, written):
    conn = db.connect()
    conn.execute(f"CREATE TABLE inventory (id {type} PRIMARY KEY, quantity integer)")
    conn.execute("INSERT INTO inventory VALUES (%s, 20)", (key,))
    conn.execute("CREATE TABLE orders (number text, item text, units integer)")
    attach(conn)
    deduct(conn, written, 2, "order 1")
    write_down(conn, written, 2, "order 1")
    assert audit_sales(conn) == []


def test_a_column_that_is_not_there(conn):
    conn.execute("ALTER TABLE orders ADD COLUMN gone int")
    conn.execute("ALTER TABLE orders DROP COLUMN gone")
    right = ("number", "item", "units")
    for place in range(3):
        for name in ("gone", "Number", "", "number, item", "........pg.dropped.4........"):
            columns = [*right[:place], name, *right[place + 1 :]]
            error = refused(conn, "SELECT audit_sales('orders', %s, %s, %s)", columns)
            assert (error.sqlstate, error.reason) == ("42703", "no_column"), columns
            assert error.facts["column"] == name


def test_malformed_arguments(conn):
    arguments = ["'orders'", "'number'", "'item'", "'units'"]
    for place in range(4):
        call = ", ".join([*arguments[:place], "NULL", *arguments[place + 1 :]])
        assert refused(conn, f"SELECT audit_sales({call})").sqlstate == "22004", call
    assert refused(conn, "SELECT audit_sales(4000000000::oid::regclass, 'a', 'b', 'c')").sqlstate == "42P01"


def test_a_shop_without_a_ledger(db):
    conn = db.connect()
    shop(conn, {ONE: 20}, p_ledger=False)
    conn.execute("CREATE TABLE orders (number text, item uuid, units numeric)")
    error = refused(conn, "SELECT audit_sales('orders', 'number', 'item', 'units')")
    assert (error.sqlstate, error.reason) == ("55000", "no_ledger")


@pytest.fixture
def member(db, conn):
    """A member of the owner of the stock table, who may call audit_sales."""
    owner, member = (create_role(conn, db, name) for name in ("owner", "member"))
    conn.execute(f'GRANT "{owner}" TO "{member}"')
    for (table,) in conn.execute("SELECT oid::regclass::text FROM pg_class WHERE relname LIKE 'inventory%' AND "
                                 "relkind = 'r' AND relname NOT IN ('inventory_attachment', 'inventory_sharing')"
                                 ).fetchall():  # fmt: skip
        conn.execute(f'ALTER TABLE {table} OWNER TO "{owner}"')
    conn.execute(f'GRANT EXECUTE ON FUNCTION audit_sales TO "{member}"')
    return member


def test_the_sales_are_read_with_the_rights_of_the_caller(db, conn, member):
    write_down(conn, ONE, 2, "order 1")
    with db.connect(member) as session:
        error = refused(session, "SELECT audit_sales('orders', 'number', 'item', 'units')")
        assert error.sqlstate == "42501"
        conn.execute(f'GRANT SELECT (number, item) ON orders TO "{member}"')
        assert refused(session, "SELECT audit_sales('orders', 'number', 'item', 'units')").sqlstate == "42501"
        conn.execute(f'GRANT SELECT (units) ON orders TO "{member}"')
        assert found(session) == [("not_deducted", "order 1")]


def test_the_row_security_of_the_sales_is_that_of_the_caller(db, conn, member):
    for number in (1, 2):
        write_down(conn, ONE, 2, f"order {number}")
    conn.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    conn.execute(f'GRANT SELECT ON orders TO "{member}"')
    conn.execute(f"""CREATE POLICY mine ON orders TO "{member}" USING (number = 'order 2')""")
    assert len(found(conn)) == 2
    with db.connect(member) as session:
        assert found(session) == [("not_deducted", "order 2")]


def test_code_in_a_view_of_sales_runs_as_the_caller(db, conn, member):
    conn.execute("CREATE FUNCTION who() RETURNS text LANGUAGE sql RETURN current_user::text")
    conn.execute(f"CREATE VIEW paid AS SELECT who() AS number, '{ONE}'::uuid AS item, 1 AS units")
    conn.execute(f'GRANT SELECT ON paid TO "{member}"')
    with db.connect(member) as session:
        assert found(session, table="paid") == [("not_deducted", member)]


def test_a_movement_that_was_deleted_is_a_sale_that_was_not_deducted(conn):
    deduct(conn, ONE, 2, "order 1")
    write_down(conn, ONE, 2, "order 1")
    past_the_triggers(conn, "DELETE FROM inventory_movement WHERE reference = 'order 1'")
    assert found(conn) == [("not_deducted", "order 1")]
