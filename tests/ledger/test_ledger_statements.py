"""Statements that PostgreSQL carries out in ways of its own: cascades, several writes in one, results that are
not read on.

Each is followed, in the same transaction, by ordinary ones: what the ledger keeps about a running statement
must be gone when it ends, or the next statement's movements would wait for ever.
"""

import psycopg
import pytest

from books import audit, last_movement, movements, order, steps
from shop import ONE, TWO, attach, fill, item, sell, shop, stock_of

FAMILY = [item(n) for n in range(1, 13)]


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, dict.fromkeys(FAMILY, 100), type="integer")
    return conn


def goes_on(conn):
    """Ordinary changes of every sort are recorded as they should be."""
    after, before = last_movement(conn), stock_of(conn)
    one, other = sorted(before)[-2:]
    conn.execute("UPDATE inventory SET quantity = quantity - 1")
    sell(conn, one, 1)
    order(conn, (one, 1), (other, 1))
    assert len(movements(conn, after=after)) == len(before) + 3
    assert steps(conn, other, after=after) == [
        ("external", before[other], before[other] - 1), ("sale", before[other] - 1, before[other] - 2),
    ]  # fmt: skip
    audit(conn)


@pytest.mark.parametrize("deleted", ["CASCADE", "SET NULL"])
def test_a_stock_table_that_refers_to_itself(db, deleted):
    """Deletes and new ids run down the family, in the middle of the statement that caused them."""
    conn = db.connect()
    conn.execute(
        "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer, "
        f"parent uuid REFERENCES inventory ON DELETE {deleted} ON UPDATE CASCADE)"
    )
    for place, key in enumerate(FAMILY):
        conn.execute("INSERT INTO inventory VALUES (%s, 100, %s)", (key, FAMILY[place - 1] if place % 4 else None))
    attach(conn)
    after = last_movement(conn)
    with conn.transaction():
        conn.execute("DELETE FROM inventory WHERE id IN (%s, %s)", (FAMILY[0], FAMILY[4]))
        assert len(movements(conn, after=after)) == (8 if deleted == "CASCADE" else 2)
        assert {m.kind for m in movements(conn, after=after)} == {"closing"}
        goes_on(conn)
        conn.execute("UPDATE inventory SET id = %s WHERE id = %s", (item(99), FAMILY[8]))
        assert steps(conn, item(99))[0] == ("opening", 0, stock_of(conn)[item(99)])
        goes_on(conn)
    goes_on(conn)


def test_two_updates_in_one_statement(conn):
    """PostgreSQL fires the triggers at the end of the statement once for both."""
    after = last_movement(conn)
    with conn.transaction():
        conn.execute(
            "WITH a AS (UPDATE inventory SET quantity = quantity - 1 WHERE id = %s RETURNING 1),"
            "     b AS (UPDATE inventory SET quantity = quantity - 2 WHERE id = %s) SELECT * FROM a",
            (ONE, TWO),
        )
        assert sorted(steps(conn, after=after)) == [("external", 100, 98), ("external", 100, 99)]
        goes_on(conn)


def test_an_upsert_of_new_and_old_rows_and_one_of_none(conn):
    """Its statement triggers are those of INSERT and of UPDATE, in every case."""
    with conn.transaction():
        for source in ("VALUES (%s::uuid, 50), (%s, 60)", "SELECT %s::uuid, 1 WHERE %s::uuid IS NULL"):
            conn.execute(
                f"INSERT INTO inventory {source} ON CONFLICT (id) DO UPDATE SET quantity = EXCLUDED.quantity",
                (ONE, item(50)),
            )
            goes_on(conn)


def test_a_merge_of_every_sort_and_one_of_none(conn):
    with conn.transaction():
        for condition in ("true", "false"):
            conn.execute(
                "MERGE INTO inventory USING (SELECT %s::uuid, 5 UNION ALL SELECT %s, 6 UNION ALL SELECT %s, 0) AS "
                "feed (id, units) "
                f"ON inventory.id = feed.id AND {condition} "
                "WHEN MATCHED AND units = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET quantity = units "
                f"WHEN NOT MATCHED AND {condition} THEN INSERT VALUES (feed.id, units)",
                (ONE, item(60), TWO),
            )
            goes_on(conn)


def test_results_that_are_not_read_on(conn):
    """SQL functions whose UPDATE gives many rows and of which one is taken, and EXPLAIN ANALYZE, which shows none."""
    update = "UPDATE inventory SET quantity = quantity - 1 RETURNING id"
    conn.execute(f"CREATE FUNCTION first_of_them() RETURNS uuid LANGUAGE sql AS '{update}';"
                 f"CREATE FUNCTION all_of_them() RETURNS SETOF uuid LANGUAGE sql AS '{update}'")  # fmt: skip
    with conn.transaction():
        for sql in ("SELECT first_of_them()", "SELECT all_of_them() LIMIT 1", "SELECT * FROM all_of_them() LIMIT 1",
                    f"EXPLAIN ANALYZE {update}", f"COPY ({update}) TO STDOUT"):  # fmt: skip
            after = last_movement(conn)
            if sql.startswith("COPY"):
                with conn.cursor().copy(sql) as copy:
                    assert sum(1 for _ in copy) > 0
            else:
                conn.execute(sql)
            assert len(movements(conn, after=after)) == len(FAMILY), sql
            goes_on(conn)


def test_a_row_too_many_in_a_block_that_catches_it(conn):
    """PL/pgSQL stops the UPDATE in the middle and raises; the block undoes it, and the function goes on."""
    conn.execute(
        "DO $$ DECLARE v uuid; BEGIN "
        "BEGIN UPDATE inventory SET quantity = quantity - 1 RETURNING id INTO v; RAISE 'took one of many'; "
        "EXCEPTION WHEN too_many_rows THEN NULL; END; "
        "UPDATE inventory SET quantity = quantity - 5; END $$"
    )
    assert {step for step in steps(conn) if step[0] == "external"} == {("external", 100, 95)}
    goes_on(conn)


def test_a_function_in_an_update_that_writes_another_item(conn):
    """Its statement runs while the outer one has written some of its rows; and one that fails is caught within it."""
    conn.execute(
        f"CREATE FUNCTION one_less(units int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN "
        f"UPDATE inventory SET quantity = quantity - 3 WHERE id = '{ONE}'; "
        f"BEGIN UPDATE inventory SET quantity = -1 WHERE id = '{ONE}'; EXCEPTION WHEN check_violation THEN NULL; END; "
        "RETURN units - 1; END $$"
    )
    after = last_movement(conn)
    with conn.transaction():
        conn.execute("UPDATE inventory SET quantity = one_less(quantity) WHERE id <> %s", (ONE,))
        assert len(movements(conn, ONE, after=after)) == len(FAMILY) - 1
        assert len(movements(conn, after=after)) == 2 * (len(FAMILY) - 1)
        goes_on(conn)


def test_a_cancelled_and_a_failed_statement_in_savepoints(db, conn):
    """Ended in the middle of their rows, by a timeout or an error: nothing of them is left for the next statement."""
    till = db.connect(autocommit=False)
    till.execute("SET LOCAL statement_timeout = '300ms'")
    for sql, error in (
        (
            "UPDATE inventory SET quantity = quantity - 1 + CASE WHEN pg_sleep(60) IS NULL THEN 1 ELSE 0 END",
            psycopg.errors.QueryCanceled,
        ),
        ("UPDATE inventory SET quantity = quantity - 1 / (id::text NOT LIKE '%c')::int", psycopg.errors.DivisionByZero),
        (
            "INSERT INTO inventory SELECT gen_random_uuid(), 3 - n FROM generate_series(1, 9) AS n",
            psycopg.errors.CheckViolation,
        ),
    ):
        till.execute("SAVEPOINT here")
        with pytest.raises(error):
            till.execute(sql)
        till.execute("ROLLBACK TO here")
        goes_on(till)
    till.commit()
    audit(conn)


def test_partitions_are_written_through_the_table_and_directly_in_one_transaction(db):
    """A direct write has no statement on the stock table; both kinds take turns."""
    conn = db.connect()
    conn.execute(
        "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY RANGE (id);"
        f"CREATE TABLE low PARTITION OF inventory FOR VALUES FROM (MINVALUE) TO ('{item(7)}');"
        f"CREATE TABLE high PARTITION OF inventory FOR VALUES FROM ('{item(7)}') TO (MAXVALUE)"
    )
    fill(conn, dict.fromkeys(FAMILY, 100))
    attach(conn)
    with conn.transaction():
        for table in ("low", "inventory", "high"):
            after = last_movement(conn)
            conn.execute(f"UPDATE {table} SET quantity = quantity - 1")
            assert len(movements(conn, after=after)) == (12 if table == "inventory" else 6)
            goes_on(conn)
