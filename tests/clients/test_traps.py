"""Ways to call that look right and are not, as docs/clients.md lists them."""

import asyncio
import sys
from decimal import Decimal

import asyncpg
import psycopg
import pytest
from psycopg.types.json import set_json_loads

from books import audit, movements
from pgbouncer import pgbouncer
from selling import environment, open_shop, report
from shop import exact_json, item, left, refusal_of, refused, shop

ONE, MANY = item(1), "1234567890.000000000000000012"


@pytest.fixture
def conn(db):
    return db.connect()


# Numbers


@pytest.mark.parametrize("function", ["decrement_inventory", "decrement_item"])
def test_a_float_is_not_an_argument(conn, function):
    """PostgreSQL casts a numeric to double precision by itself, and not the other way."""
    shop(conn, {ONE: 10})
    refusal = refused(conn, f"SELECT {function}(%s, %s)", (ONE, 1.5))
    assert refusal.sqlstate == "42883"
    assert "type casts" in refusal.hint
    conn.execute(f"SELECT {function}(%s, %s)", (ONE, Decimal("1.5")))
    assert left(conn, ONE) == Decimal("8.5")
    audit(conn)


def test_asyncpg_sends_all_digits_of_a_float_and_the_call_is_refused(db, conn):
    shop(conn, {ONE: 10})

    async def sell(quantity):
        client = await asyncpg.connect(host=db.server.host, port=db.server.port, user="postgres", database=db.name)
        try:
            return await client.fetchval("SELECT decrement_item($1::uuid, $2)", ONE, quantity)
        finally:
            await client.close()

    with pytest.raises(asyncpg.PostgresError) as caught:
        asyncio.run(sell(0.1))
    assert (caught.value.sqlstate, exact_json(caught.value.detail)["reason"]) == ("22003", "too_many_digits")
    asyncio.run(sell(Decimal("0.1")))
    assert left(conn, ONE) == Decimal("9.9")


def test_json_becomes_floats_unless_the_client_is_set_up(conn):
    open_shop(conn, "bigint", MANY)
    sale = "SELECT decrement_item(5000000001, 1)"
    inexact = conn.execute(sale).fetchone()[0]["new_quantity"]
    assert isinstance(inexact, float) and Decimal(inexact) != Decimal(MANY) - 1
    set_json_loads(exact_json, conn)
    assert conn.execute(sale).fetchone()[0]["new_quantity"] == Decimal(MANY) - 2


def test_json_becomes_floats_in_javascript(db, conn):
    key = open_shop(conn, "bigint", MANY)
    printed = report(["node", "floats.js", key, "1"], environment(db))
    assert printed["number"] == "1234567889"
    assert exact_json(printed["text"])["new_quantity"] == Decimal(MANY) - 1


# Objects


@pytest.mark.parametrize("program", ["orm_django.py", "orm_sqlalchemy.py"])
def test_an_object_that_is_read_changed_and_saved_loses_a_sale(db, conn, program):
    """Of two sales, one is deducted; the ledger shows what happened. The call deducts both."""
    key = open_shop(conn, "bigint", 10)
    assert report([sys.executable, program, key], environment(db)) == {"saved": 9, "called": 7}
    kinds = conn.execute("SELECT kind FROM inventory_movement ORDER BY movement_id").fetchall()
    assert kinds == [("opening",), ("external",), ("sale",), ("sale",)]
    audit(conn)


# Poolers


def test_a_setting_of_the_session_reaches_another_client_of_the_pooler(db, conn):
    """An argument, and a setting of the transaction, reach only the sale they are meant for."""
    shop(conn, {ONE: 10})
    with pgbouncer(db.server, size=1) as pooler:
        anna, berta = pooler.connect(db.name), pooler.connect(db.name)
        anna.execute("SET inventory_ext.reference = 'order of anna'")
        berta.execute("SELECT decrement_item(%s, 1)", (ONE,))
        anna.execute("RESET inventory_ext.reference")
        anna.execute("SELECT decrement_item(%s, 1, 'argument of anna')", (ONE,))
        with anna.transaction():
            anna.execute("SET LOCAL inventory_ext.reference = 'transaction of anna'")
            anna.execute("SELECT decrement_item(%s, 1)", (ONE,))
        berta.execute("SELECT decrement_item(%s, 1)", (ONE,))
    references = [movement.reference for movement in movements(conn) if movement.kind == "sale"]
    assert references == ["order of anna", "argument of anna", "transaction of anna", None]


def test_a_named_prepared_statement_fails_behind_this_pgbouncer(db, conn):
    """Both clients give their first statement the same name. PgBouncer 1.21 keeps them apart; Debian 12 has 1.18."""
    shop(conn, {ONE: 10})
    with pgbouncer(db.server, size=1) as pooler:
        for threshold, error in ((0, "42P05"), (None, None)):
            clients = [psycopg.connect(pooler.dsn(db.name), autocommit=True) for _ in range(2)]
            states = []
            for client in clients:
                client.prepare_threshold = threshold
                try:
                    client.execute("SELECT decrement_item(%s, 1)", (ONE,))
                except psycopg.Error as raised:
                    states.append(refusal_of(raised).sqlstate)
                client.close()
            assert states == ([error] if error else [])
    assert left(conn, ONE) == 7


# Statements


def test_a_cte_that_nothing_reads_sells_nothing(conn):
    shop(conn, {ONE: 10})
    sale = f"WITH sold AS (SELECT decrement_item('{ONE}', 1) AS result)"
    assert conn.execute(f"{sale} SELECT 'done'").fetchone() == ("done",)
    assert left(conn, ONE) == 10
    assert conn.execute(f"{sale} SELECT result ->> 'deducted' FROM sold").fetchone() == ("1",)
    assert left(conn, ONE) == 9


# Keys


def sell_with_a_line(conn, line):
    """The client's own row and a sale with a key, in one transaction, as a client repeats it."""
    with conn.transaction():
        result = conn.execute(
            "SELECT decrement_item(%s, 1, p_reference => 'order 7', p_idempotency_key => 'a9f2-7')", (ONE,)
        ).fetchone()[0]
        if not (line == "unless replayed" and result.get("replayed")):
            conflict = "ON CONFLICT DO NOTHING" if line == "unique" else ""
            conn.execute(f"INSERT INTO order_line VALUES ('order 7', 1) {conflict}")


@pytest.mark.parametrize("line, lines", [("plain", 2), ("unless replayed", 1), ("unique", 1)])
def test_a_key_protects_the_stock_and_not_the_rows_of_the_client(conn, line, lines):
    shop(conn, {ONE: 10})
    unique = ", UNIQUE (reference)" if line == "unique" else ""
    conn.execute(f"CREATE TABLE order_line (reference text, quantity numeric{unique})")
    for _ in range(2):
        sell_with_a_line(conn, line)
    assert conn.execute("SELECT count(*) FROM order_line").fetchone()[0] == lines
    assert left(conn, ONE) == 9
    audit(conn)
