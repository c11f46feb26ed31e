"""Every change of stock is in the ledger, of every role and statement: one movement for each item and statement.

The kinds of our own calls are in test_orders.py and test_stock_functions.py; here are direct writes of every sort, and
who the ledger says it was. What user triggers do inside a change is in test_ledger_triggers.py, who may touch the
ledger in test_ledger_guard.py.
"""

import subprocess
from decimal import Decimal

import psycopg
import pytest

from books import audit, call, last_movement, movements, order, steps
from shop import (
    ONE,
    TWO,
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
    stock_table,
)

THREE = item(3)


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "10.00", TWO: "5.00"}, columns=", name text DEFAULT 'a thing', tax numeric DEFAULT 1")
    return conn


@pytest.fixture
def after(conn):
    """The number of the last movement before the test's own."""
    return last_movement(conn)


def test_attach_records_what_is_there(conn):
    """An opening movement for every row, with who attached it."""
    assert movements(conn) == [
        (ONE, "opening", 0, 10, None, None, "postgres"), (TWO, "opening", 0, 5, None, None, "postgres"),
    ]  # fmt: skip
    audit(conn)


def test_a_bare_update_by_psql_is_recorded(db, conn, after):
    """A person at a prompt, with nothing of ours in hand."""
    sql = f"UPDATE inventory SET quantity = quantity - 2.5 WHERE id = '{ONE}'"
    psql = ["psql", "-X", "-d", db.name, "-c", sql]
    done = subprocess.run(psql, env=db.server.env(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "UPDATE 1"
    assert movements(conn, after=after) == [(ONE, "external", 10, Decimal("7.50"), None, None, "postgres")]
    audit(conn)


def test_an_orm_writes_all_columns_and_only_a_changed_quantity_is_a_movement(conn, after):
    """UPDATE … SET every column: the quantity may come back as it was, or in another spelling of the same number."""
    update = "UPDATE inventory SET id = %s, quantity = %s, name = %s, tax = %s WHERE id = %s"
    conn.execute(update, (ONE, Decimal("10.00"), "renamed", 2, ONE))
    conn.execute(update, (ONE, Decimal("10"), "renamed again", 3, ONE))
    conn.execute("UPDATE inventory SET name = 'all', quantity = quantity")
    assert last_movement(conn) == after
    conn.execute(update, (ONE, Decimal("9.99"), "sold one cent", 2, ONE))
    assert steps(conn, after=after) == [("external", 10, Decimal("9.99"))]
    audit(conn)


def test_insert_on_conflict_do_update_is_recorded(conn, after):
    """A row that is new is an opening, one that was there an external change, one left alone nothing."""
    upsert = (
        "INSERT INTO inventory (id, quantity) VALUES (%s, 7), (%s, 8), (%s, 5) "
        "ON CONFLICT (id) DO UPDATE SET quantity = EXCLUDED.quantity"
    )
    conn.execute(upsert, (THREE, ONE, TWO))
    assert sorted(movements(conn, after=after)) == [
        (ONE, "external", 10, 8, None, None, "postgres"), (THREE, "opening", 0, 7, None, None, "postgres"),
    ]  # fmt: skip
    conn.execute("INSERT INTO inventory (id, quantity) VALUES (%s, 99) ON CONFLICT (id) DO NOTHING", (ONE,))
    assert len(movements(conn, after=after)) == 2
    audit(conn)


def test_merge_is_recorded(conn, after):
    """MERGE inserts, updates and deletes in one statement."""
    conn.execute(
        "MERGE INTO inventory USING (VALUES (%s::uuid, 1), (%s::uuid, 0), (%s::uuid, 3)) AS feed (id, quantity) "
        "ON inventory.id = feed.id "
        "WHEN MATCHED AND feed.quantity = 0 THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET quantity = inventory.quantity + feed.quantity "
        "WHEN NOT MATCHED THEN INSERT (id, quantity) VALUES (feed.id, feed.quantity)",
        (ONE, TWO, THREE),
    )
    assert sorted((m.item, m.kind, m.old, m.new) for m in movements(conn, after=after)) == [
        (ONE, "external", 10, 11), (TWO, "closing", 5, 0), (THREE, "opening", 0, 3),
    ]  # fmt: skip
    audit(conn)


def test_copy_of_more_rows_than_are_kept_in_memory_is_recorded(conn, after):
    """25,000 rows: noted and written in portions, each once, in the order of the rows."""
    keys = [item(n) for n in range(100, 25_100)]
    with conn.cursor().copy("COPY inventory (id, quantity) FROM STDIN") as copy:
        for number, key in enumerate(keys):
            copy.write_row((key, f"{number}.25"))
    written = movements(conn, after=after)
    assert [m.item for m in written] == keys
    assert {m.kind for m in written} == {"opening"}
    audit(conn)
    conn.execute("UPDATE inventory SET quantity = quantity + 1")
    assert len(movements(conn, after=after)) == 2 * len(keys) + 2
    audit(conn)


def test_a_copy_that_fails_leaves_nothing(conn, after):
    """A bad row after 15,000 good ones: what was written in portions goes too, and the session works on."""
    with pytest.raises(psycopg.Error, match="quantity_non_negative"):
        with conn.cursor().copy("COPY inventory (id, quantity) FROM STDIN") as copy:
            for number in range(15_000):
                copy.write_row((item(1000 + number), "1"))
            copy.write_row((item(999_999), "-1"))
    assert last_movement(conn) == after
    sell(conn, ONE, 1)
    assert steps(conn, after=after) == [("sale", 10, 9)]


def test_delete_is_a_closing_and_an_item_may_come_back(conn, after):
    """What was left is written off; the same id may open again, and its history goes on."""
    conn.execute("DELETE FROM inventory WHERE id = %s", (ONE,))
    fill(conn, {ONE: "3.00"})
    sell(conn, ONE, 1)
    assert steps(conn, ONE, after=after) == [("closing", 10, 0), ("opening", 0, 3), ("sale", 3, 2)]
    audit(conn)


def test_a_changed_id_closes_one_item_and_opens_another(conn, after):
    """Also when the quantity changes with it."""
    conn.execute("UPDATE inventory SET id = %s WHERE id = %s", (THREE, ONE))
    conn.execute("UPDATE inventory SET id = %s, quantity = quantity + 1 WHERE id = %s", (item(4), TWO))
    assert [(m.item, m.kind, m.old, m.new) for m in movements(conn, after=after)] == [
        (ONE, "closing", 10, 0), (THREE, "opening", 0, 10), (TWO, "closing", 5, 0), (item(4), "opening", 0, 6),
    ]  # fmt: skip
    assert refused_sale(conn, ONE, 1).sqlstate == "IV002"
    assert sell(conn, THREE, 1)["new_quantity"] == 9
    audit(conn)


def test_an_update_of_many_rows_is_a_movement_for_each(conn, after):
    """Only those whose quantity changes."""
    fill(conn, {item(n): n for n in range(10, 110)})
    after = last_movement(conn)
    conn.execute("UPDATE inventory SET quantity = greatest(quantity, 50)")
    written = movements(conn, after=after)
    assert {m.item for m in written} == {ONE, TWO} | {item(n) for n in range(10, 50)}
    assert {(m.kind, m.new) for m in written} == {("external", 50)}
    audit(conn)


def test_writes_through_a_view_a_function_and_a_cte_are_recorded(conn, after):
    """However the statement is dressed, it is the table that is written."""
    conn.execute("CREATE VIEW shelf AS SELECT id, quantity AS units FROM inventory WHERE quantity > 0")
    conn.execute("UPDATE shelf SET units = units - 1 WHERE id = %s", (ONE,))
    conn.execute(
        "CREATE FUNCTION old_way(p uuid) RETURNS void LANGUAGE sql AS "
        "'UPDATE inventory SET quantity = quantity - 2 WHERE id = p'"
    )
    conn.execute("SELECT old_way(%s)", (ONE,))
    conn.execute(
        "WITH u AS (UPDATE inventory SET quantity = quantity - 3 WHERE id = %s RETURNING *) SELECT * FROM u", (ONE,)
    )
    conn.execute("DO $$ DECLARE c CURSOR FOR SELECT id FROM inventory FOR UPDATE; BEGIN FOR r IN c LOOP "
                 "UPDATE inventory SET quantity = quantity + 1 WHERE CURRENT OF c; END LOOP; END $$")  # fmt: skip
    assert steps(conn, ONE, after=after) == [
        ("external", 10, 9),
        ("external", 9, 7),
        ("external", 7, 4),
        ("external", 4, 5),
    ]
    audit(conn)


def test_two_writes_in_one_statement_are_recorded_each(conn, after):
    """A data-modifying WITH: its triggers fire together, at the end of the whole statement."""
    conn.execute(
        "WITH sold AS (UPDATE inventory SET quantity = quantity - 1 WHERE id = %s), "
        "     gone AS (DELETE FROM inventory WHERE id = %s) "
        "INSERT INTO inventory (id, quantity) VALUES (%s, 4)",
        (ONE, TWO, THREE),
    )
    assert sorted((m.item, m.kind, m.new) for m in movements(conn, after=after)) == [
        (ONE, "external", 9), (TWO, "closing", 0), (THREE, "opening", 4),
    ]  # fmt: skip
    audit(conn)


def test_what_a_foreign_key_deletes_is_recorded(db):
    """Stock that goes with its product, when several products go at once."""
    conn = db.connect()
    conn.execute("CREATE TABLE product (id int PRIMARY KEY)")
    shop(conn, {}, columns=", product int REFERENCES product ON DELETE CASCADE ON UPDATE CASCADE")
    conn.execute("INSERT INTO product SELECT generate_series(1, 5)")
    conn.execute("INSERT INTO inventory SELECT gen_random_uuid(), n, (n - 1) / 2 + 1 FROM generate_series(1, 10) AS n")
    after = last_movement(conn)
    conn.execute("UPDATE product SET id = id + 100")
    assert last_movement(conn) == after
    conn.execute("DELETE FROM product WHERE id < 104")
    assert sorted(steps(conn, after=after)) == [("closing", n, 0) for n in range(1, 7)]
    audit(conn)


@pytest.mark.parametrize("type", ["smallint", "integer", "bigint", "numeric"])
def test_every_type_of_quantity_is_recorded_exactly(db, type):
    """Whole numbers, and digits that no floating-point number holds."""
    conn = db.connect()
    digits = "12345678901234567.8901234567" if type == "numeric" else "12345"
    shop(conn, {ONE: digits, TWO: 0}, type=type)
    conn.execute("UPDATE inventory SET quantity = quantity - 1 WHERE id = %s", (ONE,))
    sell(conn, ONE, 1)
    order(conn, (ONE, 1))
    whole = Decimal(digits)
    assert steps(conn, ONE) == [
        ("opening", 0, whole), ("external", whole, whole - 1), ("sale", whole - 1, whole - 2), ("sale", whole - 2,
        whole - 3),
    ]  # fmt: skip
    audit(conn)


def test_a_partition_may_be_written_directly(db):
    """Sales and direct writes, through the table and to its partitions, are one ledger."""
    conn = db.connect()
    conn.execute(
        "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY RANGE (id);"
        f"CREATE TABLE low PARTITION OF inventory FOR VALUES FROM (MINVALUE) TO ('{item(100)}');"
        f"CREATE TABLE high PARTITION OF inventory FOR VALUES FROM ('{item(100)}') TO (MAXVALUE)"
    )
    fill(conn, {ONE: 10, item(200): 20})
    attach(conn)
    after = last_movement(conn)
    conn.execute("UPDATE low SET quantity = quantity - 1")
    conn.execute("INSERT INTO high VALUES (%s, 3)", (item(201),))
    conn.execute("DELETE FROM high WHERE quantity = 20")
    sell(conn, ONE, 2)
    with conn.cursor().copy("COPY low FROM STDIN") as copy:
        copy.write_row((TWO, 5))
    conn.execute("UPDATE inventory SET id = %s WHERE id = %s", (item(202), TWO))  # the row moves to the other partition
    conn.execute("UPDATE inventory SET quantity = quantity + 1")
    assert [(m.item, m.kind, m.old, m.new) for m in movements(conn, after=after)][:5] == [
        (ONE, "external", 10, 9), (item(201), "opening", 0, 3), (item(200), "closing", 20, 0), (ONE, "sale", 9, 7),
        (TWO, "opening", 0, 5),
    ]  # fmt: skip
    assert steps(conn, item(202), after=after) == [("opening", 0, 5), ("external", 5, 6)]
    audit(conn)


def test_rolled_back_subtransactions_take_their_movements_along(conn, after):
    """In PL/pgSQL: what an EXCEPTION block undoes vanishes, what a block keeps stays, in the order made."""
    conn.execute(
        f"""
        DO $$ BEGIN
            UPDATE inventory SET quantity = quantity - 1 WHERE id = '{ONE}';
            BEGIN
                UPDATE inventory SET quantity = quantity - 2;
                BEGIN
                    PERFORM decrement_inventory('{ONE}', 3);
                    RAISE 'undo the sale';
                EXCEPTION WHEN raise_exception THEN
                    PERFORM decrement_inventory('{ONE}', 0.5);
                END;
                BEGIN
                    PERFORM restock_inventory('{TWO}', 4);
                EXCEPTION WHEN division_by_zero THEN NULL;
                END;
                PERFORM 1 / 0;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
            BEGIN
                UPDATE inventory SET quantity = quantity - 0.25 WHERE id = '{ONE}';
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
        END $$
        """
    )
    assert steps(conn, after=after) == [("external", 10, 9), ("external", 9, Decimal("8.75"))]
    audit(conn)


def test_a_failed_statement_leaves_no_movement_in_the_next_one(db, conn, after):
    """The rows of a statement that fails late are forgotten with it, in a savepoint and without one."""
    till = db.connect(autocommit=False)
    till.execute("SAVEPOINT here")
    with pytest.raises(psycopg.Error, match="quantity_non_negative"):
        till.execute("UPDATE inventory SET quantity = quantity - 7")
    till.execute("ROLLBACK TO here")
    till.execute("UPDATE inventory SET quantity = quantity - 5")
    till.commit()
    assert sorted(steps(conn, after=after)) == [("external", 5, 0), ("external", 10, 5)]
    audit(conn)


def test_without_a_ledger_nothing_is_recorded_and_everything_sells(db):
    """p_ledger => false: no ledger, no triggers on the stock table; orders and keys work all the same."""
    conn = db.connect()
    shop(conn, {ONE: "10", TWO: "5"}, p_ledger=False)
    assert conn.execute("SELECT to_regclass('inventory_movement'), to_regclass('inventory_request')").fetchone() == (
        None, "inventory_request",
    )  # fmt: skip
    assert conn.execute("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'inventory'::regclass").fetchone() == (0,)
    sell(conn, ONE, 1)
    order(conn, (ONE, 1), (TWO, 1), p_idempotency_key="k")
    assert order(conn, (ONE, 1), (TWO, 1), p_idempotency_key="k")["replayed"] is True
    call(conn, "transfer_inventory", p_from=ONE, p_to=TWO, p_quantity=1)
    conn.execute("UPDATE inventory SET quantity = quantity + 1")
    assert stock_of(conn) == {ONE: 8, TWO: 6}
    conn.execute("TRUNCATE inventory")


def test_who_it_was(db, conn, after):
    """The setting goes before the JWT's sub, that before the role; the role is the caller's, not the table owner's."""
    clerk = create_role(conn, db, "clerk")
    conn.execute(
        f'GRANT EXECUTE ON FUNCTION decrement_inventory, restock_inventory TO "{clerk}";'
        f' GRANT SELECT, UPDATE ON inventory TO "{clerk}"'
    )
    till = db.connect(user=clerk)
    actors = []

    def act():
        sell(till, ONE, "0.01")
        call(till, "restock_inventory", p_inventory_id=TWO, p_quantity="0.01")
        till.execute("UPDATE inventory SET quantity = quantity + 0.01 WHERE id = %s", (ONE,))
        named = {m.actor for m in movements(conn, after=after)[-3:]}
        assert len(named) == 1
        actors.extend(named)

    act()
    for claims in ('{"sub": "user-17", "role": "web"}', '{"role": "web"}', "not json", '{"sub": ""}', ""):
        till.execute("SELECT set_config('request.jwt.claims', %s, false)", (claims,))
        act()
    till.execute("SET request.jwt.claims = '{\"sub\": \"user-17\"}'; SET inventory_ext.actor = 'till 4'")
    act()
    till.execute("SET inventory_ext.actor = ''")
    act()
    assert actors == [clerk, "user-17", clerk, clerk, clerk, clerk, "till 4", "user-17"]
    audit(conn)


def test_what_it_belongs_to(db, conn, after):
    """The argument goes before the setting; SET LOCAL ends with its transaction; a direct write has one too."""
    till = db.connect(autocommit=False)
    till.execute("SET LOCAL inventory_ext.reference = 'order 5'")
    sell(till, ONE, 1)
    order(till, (ONE, 1))
    order(till, (ONE, 1), p_reference="order 6")
    till.execute("UPDATE inventory SET quantity = quantity - 1 WHERE id = %s", (ONE,))
    till.commit()
    sell(till, ONE, 1)
    till.commit()
    assert [m.reference for m in movements(conn, after=after)] == ["order 5", "order 5", "order 6", "order 5", None]


def test_with_the_callers_rights_the_ledger_is_still_the_owners(db):
    """A clerk who may write two columns of the stock, and nothing of the ledger: every change is recorded all the
    same."""
    conn = db.connect()
    stock_table(conn, {ONE: "10", TWO: "5"})
    attach(conn, p_run_as="caller")
    after = last_movement(conn)
    clerk = create_role(conn, db, "clerk")
    conn.execute(
        f'GRANT SELECT, UPDATE (quantity) ON inventory TO "{clerk}";'
        f'GRANT EXECUTE ON FUNCTION decrement_inventory, decrement_inventory_batch, transfer_inventory TO "{clerk}"'
    )
    till = db.connect(user=clerk)
    sell(till, ONE, 1)
    order(till, (ONE, 1), (TWO, 1), p_idempotency_key="k")
    assert order(till, (TWO, 1), (ONE, 1), p_idempotency_key="k")["replayed"] is True
    call(till, "transfer_inventory", p_from=ONE, p_to=TWO, p_quantity=1)
    till.execute("UPDATE inventory SET quantity = quantity + 1")
    assert {m.actor for m in movements(conn, after=after)} == {clerk}
    assert [m.kind for m in movements(conn, ONE, after=after)] == ["sale", "sale", "transfer", "external"]
    assert left(conn, ONE) == 8
    audit(conn)


def test_a_null_that_the_ledger_cannot_record_is_not_written(conn):
    """It was reported as an internal error. The owner has dropped NOT NULL; the CHECK lets a NULL pass."""
    conn.execute("ALTER TABLE inventory ALTER quantity DROP NOT NULL")
    refusal = refused(conn, "UPDATE inventory SET quantity = NULL")
    assert (refusal.sqlstate, refusal.reason) == ("23502", "null_in_stock")
    assert left(conn, ONE) == 10
