"""A sale is part of its caller's transaction: it is kept or undone with it, whole, in every way a transaction can end.

Savepoints, EXCEPTION blocks, ROLLBACK, a later failure, and two-phase commit, seen from the selling session and from
others that wait.
"""

from decimal import Decimal

import pytest

from shop import (
    ONE,
    TWO,
    UNKNOWN,
    Aside,
    left,
    refused,
    refused_sale,
    sell,
    shop,
    until_waiting,
)


@pytest.fixture
def conn(db):
    """The onlooker, in autocommit."""
    conn = db.connect()
    shop(conn, {ONE: "10.00", TWO: "5.00"})
    return conn


@pytest.fixture
def till(db, conn):
    """The selling session, in transactions."""
    return db.connect(autocommit=False)


def test_a_sale_is_seen_by_its_own_transaction_and_by_others_after_commit(conn, till):
    """Two sales in one transaction add up; an onlooker sees none of it until the commit."""
    assert sell(till, ONE, "1")["new_quantity"] == 9
    assert sell(till, ONE, "2")["old_quantity"] == 9
    assert left(till, ONE) == 7
    assert left(conn, ONE) == 10
    till.commit()
    assert left(conn, ONE) == 7


def test_rollback_undoes_the_sale(conn, till):
    """A sale that answered success is undone with its transaction."""
    assert sell(till, ONE, "4")["success"] is True
    till.rollback()
    assert left(conn, ONE) == 10
    assert sell(till, ONE, "10")["new_quantity"] == 0


def test_rollback_to_savepoint_undoes_only_what_came_after_it(conn, till):
    """The sale before the savepoint stays, the ones after it go, and selling goes on from there."""
    sell(till, ONE, "1")
    till.execute("SAVEPOINT here")
    sell(till, ONE, "2")
    till.execute("SAVEPOINT deeper")
    sell(till, TWO, "5")
    till.execute("ROLLBACK TO here")
    assert left(till, TWO) == 5
    assert sell(till, ONE, "3") | {"inventory_id": ""} == {
        "success": True,
        "inventory_id": "",
        "old_quantity": 9,
        "new_quantity": 6,
        "deducted": 3,
    }
    till.commit()
    assert (left(conn, ONE), left(conn, TWO)) == (6, 5)


@pytest.mark.parametrize(
    ("key", "quantity", "sqlstate"), [(ONE, "11", "IV001"), (UNKNOWN, "1", "IV002"), (ONE, "NaN", "22023")]
)
def test_a_refusal_after_a_savepoint_costs_only_the_savepoint(conn, till, key, quantity, sqlstate):
    """The earlier sale of the transaction survives a refusal that is rolled back to a savepoint."""
    sell(till, ONE, "1")
    till.execute("SAVEPOINT here")
    assert refused_sale(till, key, quantity).sqlstate == sqlstate
    till.execute("ROLLBACK TO here")
    assert sell(till, TWO, "1")["new_quantity"] == 4
    till.commit()
    assert (left(conn, ONE), left(conn, TWO)) == (9, 4)


def test_a_refusal_aborts_the_transaction_and_everything_in_it(conn, till):
    """Without a savepoint the whole order is undone: the session then works again."""
    sell(till, ONE, "1")
    assert refused_sale(till, TWO, "6").sqlstate == "IV001"
    assert refused_sale(till, ONE, "1").sqlstate == "25P02"
    till.rollback()
    assert (left(conn, ONE), left(conn, TWO)) == (10, 5)
    assert sell(till, ONE, "1")["old_quantity"] == 10


def test_an_exception_block_can_catch_a_shortage_and_sell_what_is_there(conn):
    """PL/pgSQL sees the SQLSTATE and the facts in DETAIL, and goes on in the same transaction."""
    sold = conn.execute(
        """
        CREATE FUNCTION sell_up_to(p_id uuid, p_quantity numeric) RETURNS json LANGUAGE plpgsql AS $$
        DECLARE facts text;
        BEGIN
            RETURN decrement_inventory(p_id, p_quantity);
        EXCEPTION WHEN SQLSTATE 'IV001' THEN
            GET STACKED DIAGNOSTICS facts = PG_EXCEPTION_DETAIL;
            RETURN decrement_inventory(p_id, (facts::json ->> 'available')::numeric);
        END $$;
        SELECT sell_up_to('%s', 12) ->> 'deducted'
        """
        % ONE
    )
    sold.nextset()
    assert sold.fetchone()[0] == "10.00"
    assert left(conn, ONE) == 0


def test_an_exception_block_undoes_the_sale_inside_it(conn):
    """A sale before the failing statement of the block is undone with the block; one outside it is kept."""
    conn.execute(
        f"""DO $$
        BEGIN
            PERFORM decrement_inventory('{ONE}', 1);
            BEGIN
                PERFORM decrement_inventory('{ONE}', 2);
                PERFORM decrement_inventory('{TWO}', 3);
                PERFORM 1 / 0;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
        END $$"""
    )
    assert (left(conn, ONE), left(conn, TWO)) == (9, 5)


def test_a_later_failure_of_the_same_statement_undoes_the_sale(conn):
    """All of a statement or none of it."""
    assert refused(conn, "SELECT decrement_inventory(%s, 1), 1 / (random() * 0)::int", (ONE,)).sqlstate == "22012"
    assert left(conn, ONE) == 10


def test_a_sale_inside_a_trigger_of_an_order_table_is_part_of_the_insert(conn):
    """An order line that cannot be served is not written; one that can be is written with its deduction."""
    conn.execute(
        """
        CREATE TABLE order_line (item uuid, quantity numeric);
        CREATE FUNCTION serve() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM decrement_inventory(NEW.item, NEW.quantity); RETURN NEW; END $$;
        CREATE TRIGGER serve BEFORE INSERT ON order_line FOR EACH ROW EXECUTE FUNCTION serve()
        """
    )
    conn.execute("INSERT INTO order_line VALUES (%s, 3)", (ONE,))
    assert refused(conn, "INSERT INTO order_line VALUES (%s, 1), (%s, 6)", (ONE, TWO)).sqlstate == "IV001"
    assert conn.execute("SELECT count(*) FROM order_line").fetchone()[0] == 1
    assert (left(conn, ONE), left(conn, TWO)) == (7, 5)


@pytest.mark.parametrize(("ending", "expected"), [("COMMIT PREPARED", "6.00"), ("ROLLBACK PREPARED", "10.00")])
def test_two_phase_commit_decides_the_sale(db, conn, till, ending, expected):
    """The prepared sale holds its row: a rival waits, and then sells from what the decision left."""
    gid = f"{db.name}_order"
    sell(till, ONE, "4")
    till.execute(f"PREPARE TRANSACTION '{gid}'")
    till.close()
    assert left(conn, ONE) == 10

    rival = db.connect()
    sale = Aside(sell, rival, ONE, "1")
    until_waiting(conn, rival)
    conn.execute(f"{ending} '{gid}'")

    answer = sale.result()
    assert answer["old_quantity"] == Decimal(expected)
    assert left(conn, ONE) == Decimal(expected) - 1


def test_a_prepared_last_unit_is_refused_to_a_rival_after_commit(db, conn, till):
    """Ten were left and a prepared transaction takes all: the waiting rival hears the truth, after the decision."""
    gid = f"{db.name}_all"
    sell(till, ONE, "10")
    till.execute(f"PREPARE TRANSACTION '{gid}'")
    rival = db.connect()
    sale = Aside(sell, rival, ONE, "1")
    until_waiting(conn, rival)
    conn.execute(f"COMMIT PREPARED '{gid}'")
    answer = sale.refusal()
    assert (answer.sqlstate, answer.facts["available"]) == ("IV001", 0)


def test_a_refused_call_can_still_be_prepared_when_it_was_caught(db, conn, till):
    """Nothing that a refusal leaves behind (a lock, a snapshot, a plan) stands in the way of PREPARE TRANSACTION."""
    gid = f"{db.name}_caught"
    sell(till, TWO, "1")
    till.execute("SAVEPOINT here")
    assert refused_sale(till, ONE, "11").sqlstate == "IV001"
    till.execute("ROLLBACK TO here")
    till.execute(f"PREPARE TRANSACTION '{gid}'")
    conn.execute(f"COMMIT PREPARED '{gid}'")
    assert (left(conn, ONE), left(conn, TWO)) == (10, 4)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_stricter_level_sells_when_no_session_interferes(conn, till, level):
    """The function is not for READ COMMITTED alone."""
    till.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
    sell(till, ONE, "1")
    assert sell(till, ONE, "1")["new_quantity"] == 8
    till.commit()
    assert left(conn, ONE) == 8


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_stricter_level_gets_the_native_40001_and_a_retry_succeeds(db, conn, till, level):
    """A row that changed after the snapshot is PostgreSQL's own serialization failure, passed through untouched."""
    till.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
    till.execute("SELECT 1 FROM inventory").fetchall()
    sell(db.connect(), ONE, "1")
    answer = refused_sale(till, ONE, "1")
    assert answer.sqlstate == "40001"
    assert answer.message.startswith("could not serialize access")
    till.rollback()
    assert left(conn, ONE) == 9
    till.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
    sell(till, ONE, "1")
    till.commit()
    assert left(conn, ONE) == 8


def test_a_read_only_transaction_cannot_sell(conn, till):
    """25006, PostgreSQL's own code, and nothing changed."""
    till.execute("SET TRANSACTION READ ONLY")
    assert refused_sale(till, ONE, "1").sqlstate == "25006"
    till.rollback()
    assert left(conn, ONE) == 10
    assert sell(till, ONE, "1")["new_quantity"] == 9


def test_a_sale_of_an_item_inserted_by_the_same_transaction(conn, till):
    """New goods can be sold before they are committed, and vanish with their transaction."""
    till.execute("INSERT INTO inventory VALUES (%s, 3)", (UNKNOWN,))
    assert sell(till, UNKNOWN, "3")["new_quantity"] == 0
    assert refused_sale(conn, UNKNOWN, "1").sqlstate == "IV002"
    till.rollback()
    assert refused_sale(conn, UNKNOWN, "1").sqlstate == "IV002"


def test_a_sale_sees_what_its_own_transaction_wrote_before(conn, till):
    """A restock or a deletion earlier in the transaction counts at once."""
    till.execute("UPDATE inventory SET quantity = quantity + 90 WHERE id = %s", (ONE,))
    assert sell(till, ONE, "100")["old_quantity"] == 100
    till.execute("DELETE FROM inventory WHERE id = %s", (TWO,))
    assert refused_sale(till, TWO, "1").sqlstate == "IV002"
    till.rollback()
    assert (left(conn, ONE), left(conn, TWO)) == (10, 5)


def test_a_procedure_may_commit_between_its_sales(conn):
    """Each transaction of a CALL is one of its own: what was committed stays, what was rolled back goes."""
    conn.execute(
        f"""
        CREATE PROCEDURE sell_in_steps() LANGUAGE plpgsql AS $$
        BEGIN
            FOR n IN 1 .. 4 LOOP
                PERFORM decrement_inventory('{ONE}', 1);
                IF n % 2 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
            END LOOP;
            PERFORM decrement_inventory('{TWO}', 99);
        END $$
        """
    )
    assert refused(conn, "CALL sell_in_steps()").sqlstate == "IV001"
    assert (left(conn, ONE), left(conn, TWO)) == (8, 5)


def test_a_query_that_would_like_to_be_parallel_sells_as_well(conn):
    """The function is marked PARALLEL UNSAFE: PostgreSQL must not hand it to a worker."""
    setting = "debug_parallel_query" if conn.info.server_version >= 160000 else "force_parallel_mode"
    conn.execute(f"SET {setting} = on; SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0")
    rows = conn.execute("SELECT decrement_inventory(id, 1) ->> 'deducted' FROM inventory").fetchall()
    assert rows == [("1",), ("1",)]
    assert (left(conn, ONE), left(conn, TWO)) == (9, 4)
