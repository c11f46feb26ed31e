"""A whole order in one call: all of it or nothing, however much is short, and one answer that names every line.

What an order may look like is in test_order_input.py. Shortages are listed in the order in which the items are first
named, quantities with every digit. That a long order needs no more statements than a short one is counted by
PostgreSQL itself.
"""

import random
from decimal import Decimal

import psycopg
import pytest

from books import audit, call_text, keys_kept, last_movement, lines, movements, order, refused_order, steps
from dev.server import Server
from shop import (
    ONE,
    TWO,
    UNKNOWN,
    Aside,
    attach,
    create_role,
    fill,
    item,
    left,
    sell,
    shop,
    stock_of,
    until_waiting,
)

STOCK = {item(n): Decimal(quantity) for n, quantity in enumerate(("10.00", "20.50", "0.75", "40.00", "5.00"), start=1)}
A, B, C, D, E = STOCK


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, STOCK)
    return conn


def named(facts):
    """The lines of a refusal without their quantities: (reason, item)."""
    return [(line["reason"], line["inventory_id"]) for line in facts["lines"]]


def test_an_order_takes_every_line_and_answers_in_the_order_named(conn):
    """The exact text of the answer, and one movement a line with the order's reference and key."""
    after = last_movement(conn)
    items = lines((C, "0.25"), (A, 1), (B, "2.50"))
    text = call_text(conn, "decrement_inventory_batch", p_items=items, p_reference="order 7", p_idempotency_key="k7")
    assert text == (
        '{"success": true, "lines": ['
        f'{{"inventory_id": "{C}", "old_quantity": 0.75, "new_quantity": 0.50, "deducted": 0.25}}, '
        f'{{"inventory_id": "{A}", "old_quantity": 10.00, "new_quantity": 9.00, "deducted": 1}}, '
        f'{{"inventory_id": "{B}", "old_quantity": 20.50, "new_quantity": 18.00, "deducted": 2.50}}], "short": []}}'
    )
    assert stock_of(conn) == STOCK | {A: 9, B: 18, C: Decimal("0.50")}
    written = movements(conn, after=after)
    assert {(m.item, m.old, m.new) for m in written} == {(C, Decimal("0.75"), Decimal("0.50")), (A, 10, 9),
                                                         (B, Decimal("20.50"), 18)}  # fmt: skip
    assert {(m.kind, m.reference, m.key, m.actor) for m in written} == {("sale", "order 7", "k7", "postgres")}
    audit(conn)


@pytest.mark.parametrize(
    ("style", "sqlstate", "message"),
    [
        ("sqlstate", "IV001", "Insufficient inventory. Available: 0.75, Requested: 1"),
        ("postgrest", "PT409", "Insufficient inventory"),
    ],
)
def test_an_order_of_five_lines_with_the_third_short_changes_nothing(conn, style, sqlstate, message):
    """One error, which names that line; the stock, the ledger and the keys are as before."""
    conn.execute(f"SET inventory_ext.error_style = '{style}'")
    before = movements(conn)
    answer = refused_order(conn, (A, 1), (B, 1), (C, 1), (D, 1), (E, 1), p_reference="order 8", p_idempotency_key="k8")
    assert (answer.sqlstate, answer.message) == (sqlstate, message)
    assert answer.detail == (
        f'{{"reason": "short_lines", "lines": [{{"reason": "insufficient", "inventory_id": "{C}", "available": 0.75, '
        '"requested": 1}], "reference": "order 8"}'
    )
    assert answer.hint
    assert stock_of(conn) == STOCK
    assert movements(conn) == before
    assert keys_kept(conn) == []


@pytest.mark.parametrize(("style", "sqlstate"), [("sqlstate", "IV001"), ("postgrest", "PT409")])
def test_every_short_and_every_unknown_line_is_named(conn, style, sqlstate):
    """In the order first named; the message gives the figures of the first that is short."""
    conn.execute(f"SET inventory_ext.error_style = '{style}'")
    other = item(0xBEEF)
    answer = refused_order(conn, (UNKNOWN, 3), (E, "5.01"), (A, 1), (other, 1), (B, 21), (D, 40))
    assert answer.sqlstate == sqlstate
    assert named(answer.facts) == [
        ("unknown_item", str(UNKNOWN)), ("insufficient", str(E)), ("unknown_item", str(other)),
        ("insufficient", str(B)),
    ]  # fmt: skip
    assert [line.get("available") for line in answer.facts["lines"]] == [None, 5, None, Decimal("20.50")]
    assert [line["requested"] for line in answer.facts["lines"]] == [3, Decimal("5.01"), 1, 21]
    assert ("Available: 5.00, Requested: 5.01" in answer.message) == (style == "sqlstate")
    assert stock_of(conn) == STOCK


@pytest.mark.parametrize(("style", "sqlstate"), [("sqlstate", "IV002"), ("postgrest", "PT404")])
def test_an_order_whose_only_fault_is_an_unknown_item_says_so(conn, style, sqlstate):
    """IV002, as for a single sale; the other line stays unsold."""
    conn.execute(f"SET inventory_ext.error_style = '{style}'")
    answer = refused_order(conn, (A, 1), (UNKNOWN, 1))
    assert (answer.sqlstate, answer.message) == (sqlstate, "Inventory item not found")
    assert named(answer.facts) == [("unknown_item", str(UNKNOWN))]
    assert stock_of(conn) == STOCK


def test_skip_leaves_out_what_is_short_or_unknown_and_names_it(conn):
    """The rest is sold; a short line takes nothing at all."""
    items = lines((C, 1), (A, 1), (UNKNOWN, 2), (E, 5))
    text = call_text(conn, "decrement_inventory_batch", p_items=items, p_on_shortage="skip")
    assert text == (
        '{"success": true, "lines": ['
        f'{{"inventory_id": "{A}", "old_quantity": 10.00, "new_quantity": 9.00, "deducted": 1}}, '
        f'{{"inventory_id": "{E}", "old_quantity": 5.00, "new_quantity": 0.00, "deducted": 5}}], "short": ['
        f'{{"reason": "insufficient", "inventory_id": "{C}", "available": 0.75, "requested": 1, "deducted": 0}}, '
        f'{{"reason": "unknown_item", "inventory_id": "{UNKNOWN}", "requested": 2}}]}}'
    )
    assert stock_of(conn) == STOCK | {A: 9, E: 0}
    audit(conn)


def test_partial_takes_what_is_there_and_says_how_much(conn):
    """A short line is sold to the last unit; where there is none, nothing is sold and no movement is made."""
    sell(conn, E, 5)
    after = last_movement(conn)
    answer = order(conn, (C, 1), (A, 1), (UNKNOWN, 2), (E, 5), p_on_shortage="partial")
    assert [(line["inventory_id"], line["old_quantity"], line["new_quantity"], line["deducted"])
            for line in answer["lines"]] == [
        (str(C), Decimal("0.75"), 0, Decimal("0.75")), (str(A), 10, 9, 1),
    ]  # fmt: skip
    assert [(line["inventory_id"], line.get("available"), line["requested"], line.get("deducted"))
            for line in answer["short"]] == [
        (str(C), Decimal("0.75"), 1, Decimal("0.75")), (str(UNKNOWN), None, 2, None), (str(E), 0, 5, 0),
    ]  # fmt: skip
    assert stock_of(conn) == STOCK | {A: 9, C: 0, E: 0}
    assert {m.item for m in movements(conn, after=after)} == {A, C}
    audit(conn)


@pytest.mark.parametrize("on_shortage", ["skip", "partial"])
def test_an_order_of_which_nothing_is_there_sells_nothing_and_succeeds(conn, on_shortage):
    """No line, no movement; every line is among the short ones."""
    sell(conn, E, 5)
    after = last_movement(conn)
    answer = order(conn, (E, 1), (UNKNOWN, 1), p_on_shortage=on_shortage)
    assert answer["success"] is True
    assert answer["lines"] == []
    assert [line["reason"] for line in answer["short"]] == ["insufficient", "unknown_item"]
    assert last_movement(conn) == after


def test_lines_on_one_item_are_summed(conn):
    """One line in the answer and one movement, where the item was first named, also with other lines between."""
    after = last_movement(conn)
    answer = order(conn, (E, "1.25"), (A, 1), (E, 2), (A, "0.50"), (E, "1.75"))
    assert [(line["inventory_id"], line["deducted"]) for line in answer["lines"]] == [
        (str(E), 5), (str(A), Decimal("1.50")),
    ]  # fmt: skip
    assert sorted(steps(conn, after=after)) == [("sale", 5, 0), ("sale", 10, Decimal("8.50"))]


def test_lines_that_are_short_only_together_are_short(conn):
    """Each of them alone would go; the sum is what is named."""
    answer = refused_order(conn, (E, 3), (A, 1), (E, "2.01"))
    assert answer.sqlstate == "IV001"
    assert [(line["requested"], line["available"]) for line in answer.facts["lines"]] == [(Decimal("5.01"), 5)]
    assert stock_of(conn) == STOCK


def test_quantities_of_28_digits_keep_every_one(db):
    """Nothing passes through a floating-point number, on the way in or out."""
    conn = db.connect()
    much = "123456789012345678901234.5678"
    shop(conn, {ONE: much, TWO: much}, type="numeric")
    text = call_text(conn, "decrement_inventory_batch", p_items=lines((TWO, "0.0001"), (ONE, much)))
    assert '"old_quantity": 123456789012345678901234.5678, "new_quantity": 123456789012345678901234.5677' in text
    assert f'"new_quantity": 0.0000, "deducted": {much}' in text
    assert stock_of(conn) == {ONE: 0, TWO: Decimal("123456789012345678901234.5677")}
    audit(conn)


@pytest.mark.parametrize("type", ["smallint", "integer", "bigint", "numeric", "numeric(12,2)", "numeric(4,-2)"])
def test_orders_on_every_type_of_quantity_column(db, type):
    """Whole numbers are written and answered as such."""
    conn = db.connect()
    shop(conn, {ONE: 500, TWO: 700}, type=type)
    answer = order(conn, (ONE, 100), (TWO, '"200"'), (ONE, "100.0"))
    assert [(line["old_quantity"], line["new_quantity"], line["deducted"]) for line in answer["lines"]] == [
        (500, 300, 200), (700, 500, 200),
    ]  # fmt: skip
    assert stock_of(conn) == {ONE: 300, TWO: 500}
    assert refused_order(conn, (ONE, 100), (TWO, 600)).sqlstate == "IV001"
    audit(conn)


def test_orders_on_a_partitioned_stock_table(db):
    """The items of one order lie in several partitions, some with their columns in another order."""
    conn = db.connect()
    conn.execute(
        "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2)) PARTITION BY HASH (id);"
        "CREATE TABLE part_0 PARTITION OF inventory FOR VALUES WITH (MODULUS 3, REMAINDER 0);"
        "CREATE TABLE part_1 (quantity numeric(12,2), gone int, id uuid NOT NULL); ALTER TABLE part_1 DROP COLUMN gone;"
        "ALTER TABLE inventory ATTACH PARTITION part_1 FOR VALUES WITH (MODULUS 3, REMAINDER 1);"
        "CREATE TABLE part_2 PARTITION OF inventory FOR VALUES WITH (MODULUS 3, REMAINDER 2)"
    )
    stock = {item(n): Decimal(n) for n in range(1, 61)}
    fill(conn, stock)
    attach(conn)
    after = last_movement(conn)
    answer = order(conn, *[(key, "0.50") for key in reversed(stock)], p_reference="all")
    assert [line["inventory_id"] for line in answer["lines"]] == [str(key) for key in reversed(stock)]
    assert stock_of(conn) == {key: quantity - Decimal("0.50") for key, quantity in stock.items()}
    assert {(m.kind, m.reference) for m in movements(conn, after=after)} == {("sale", "all")}
    assert refused_order(conn, (item(60), 1), (item(1), 1)).sqlstate == "IV001"
    audit(conn)


def test_orders_of_ten_thousand_lines(db):
    """10,000 items in any order, then 10,000 lines on 50 items: answered in the order named, recorded line by line."""
    conn = db.connect()
    rng = random.Random(10_000)
    keys = [item(n) for n in range(1, 10_001)]
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2))")
    with conn.cursor().copy("COPY inventory FROM STDIN") as copy:
        for key in keys:
            copy.write_row((key, "200.00"))
    attach(conn)
    rng.shuffle(keys)
    answer = order(conn, *[(key, Decimal(rng.randrange(1, 10_000)) / 100) for key in keys], p_reference="long")
    assert [line["inventory_id"] for line in answer["lines"]] == [str(key) for key in keys]
    assert all(line["old_quantity"] - line["deducted"] == line["new_quantity"] for line in answer["lines"])
    assert answer["short"] == []

    few = keys[:50]
    answer = order(conn, *[(few[n % 50], "0.01") for n in range(10_000)])
    assert [(line["inventory_id"], line["deducted"]) for line in answer["lines"]] == [(str(key), 2) for key in few]
    assert len(movements(conn)) == 10_000 + 10_000 + 50
    audit(conn)


def test_an_order_that_waits_sees_what_the_one_before_it_left(db, conn):
    """It waits for a row, and then finds it short: the quantities in its refusal are those after the wait."""
    holder, till = db.connect(autocommit=False), db.connect()
    order(holder, (A, 4), (E, 5))
    waiting = Aside(refused_order, till, (D, 1), (E, 1), (A, 6))
    until_waiting(conn, till)
    holder.commit()
    answer = waiting.result()
    assert named(answer.facts) == [("insufficient", str(E))]
    assert answer.facts["lines"][0]["available"] == 0
    assert stock_of(conn) == STOCK | {A: 6, E: 0}


def test_an_order_that_a_trigger_changes_is_undone(conn):
    """IV007 names the line whose row does not hold what was written."""
    conn.execute(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.quantity := NEW.quantity - 1; RETURN NEW; END $$;"
        f"CREATE TRIGGER t BEFORE UPDATE ON inventory FOR EACH ROW WHEN (OLD.id = '{D}') EXECUTE FUNCTION meddle()"
    )
    answer = refused_order(conn, (A, 1), (D, 1), (B, 1), p_reference="order 9")
    assert (answer.sqlstate, answer.facts["inventory_id"]) == ("IV007", str(D))
    assert (answer.facts["old_quantity"], answer.facts["new_quantity"], answer.facts["requested"]) == (40, 38, 1)
    assert answer.facts["reference"] == "order 9"
    assert stock_of(conn) == STOCK
    audit(conn)


def test_the_items_of_another_tenant_are_unknown_items(db):
    """With the caller's rights row-level security decides, in the words for items that do not exist."""
    conn = db.connect()
    shop(conn, {ONE: "5"}, columns=", tenant text DEFAULT current_user", p_run_as="caller")
    clerk = create_role(conn, db, "clerk")
    conn.execute(
        "ALTER TABLE inventory ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON inventory USING (tenant = current_user);"
        f'GRANT SELECT, UPDATE (quantity) ON inventory TO "{clerk}";'
        f'GRANT EXECUTE ON FUNCTION decrement_inventory_batch TO "{clerk}"'
    )
    conn.execute("INSERT INTO inventory VALUES (%s, 7, %s)", (TWO, clerk))
    till = db.connect(user=clerk)
    answer = refused_order(till, (TWO, 1), (ONE, 1))
    assert (answer.sqlstate, named(answer.facts)) == ("IV002", [("unknown_item", str(ONE))])
    assert "available" not in answer.facts["lines"][0]
    assert order(till, (ONE, 1), (TWO, 2), p_on_shortage="skip")["lines"][0]["new_quantity"] == 5
    assert (left(conn, ONE), left(conn, TWO)) == (5, 5)
    assert (movements(conn)[-1].item, movements(conn)[-1].actor) == (TWO, clerk)


@pytest.fixture(scope="module")
def counting_server(server):
    """A server that counts statements, those within functions too."""
    settings = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "all"}
    with Server(pg=server.pg, settings=settings) as counting:
        yield counting


@pytest.mark.parametrize("partitions", [0, 4])
def test_a_long_order_needs_no_more_statements_than_a_short_one(counting_server, partitions):
    """Executions as PostgreSQL counts them, for 2 lines and for 2,000: of an order, with its ledger and its key."""
    with psycopg.connect(counting_server.dsn(), autocommit=True) as conn:
        conn.execute(
            "DROP EXTENSION IF EXISTS inventory_ext, pg_stat_statements CASCADE;"
            "DROP TABLE IF EXISTS inventory, inventory_movement, inventory_request;"
            "CREATE EXTENSION pg_stat_statements; CREATE EXTENSION inventory_ext"
        )
        by = " PARTITION BY HASH (id)" if partitions else ""
        conn.execute(f"CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2)){by}")
        for n in range(partitions):
            conn.execute(
                f"CREATE TABLE p{n} PARTITION OF inventory FOR VALUES WITH (MODULUS {partitions}, REMAINDER {n})"
            )
        keys = [item(n) for n in range(1, 2001)]
        fill(conn, dict.fromkeys(keys, 100))
        attach(conn)
        order(conn, (keys[0], 1), p_idempotency_key="first")  # plans are made, caches are warm

        def executions(count):
            conn.execute("SELECT pg_stat_statements_reset()")
            answer = order(conn, *[(key, 1) for key in keys[:count]], p_idempotency_key=f"{count} lines")
            assert len(answer["lines"]) == count
            return conn.execute("SELECT sum(calls)::int FROM pg_stat_statements").fetchone()[0]

        few, many = executions(2), executions(2000)
        assert few >= 5, "key, lock, write, ledger and answer must have been counted"
        assert many == few
        audit(conn)
