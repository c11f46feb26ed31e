"""One call evaluated several times: joins that repeat an item, RETURNING, data-modifying CTEs, EvalPlanQual.

Each evaluation must find what the ones before it did. A join of items with their order lines unstriped an item
twice and set its stock to nothing; an UPDATE that waited for a row of another table and evaluated its condition
again did the same.
"""

import psycopg
import pytest

from books import call
from shop import ONE, TWO, Aside, left, shop, until_waiting
from striped import available, in_books, in_isolation, RR, stripe

# Each makes its calls once for each order line: one unit of ONE, two units of ONE, three units of TWO.
SHAPES = {
    "select": "SELECT {call} FROM lines",
    "join with the stock table": "SELECT {call} FROM inventory AS stock JOIN lines ON stock.id = lines.item",
    "condition": "SELECT count(*) FROM lines WHERE {call} <> ''",
    "condition under a lock": "SELECT line FROM lines WHERE {call} <> '' FOR UPDATE",
    "aggregate": "SELECT string_agg({call}, ',' ORDER BY lines.line) FROM lines",
    "group": "SELECT {call}, count(*) FROM lines GROUP BY 1",
    "order": "SELECT line FROM lines ORDER BY {call}",
    "lateral": "SELECT x.result FROM lines, LATERAL (SELECT {call} AS result OFFSET 0) AS x",
    "lateral function": "SELECT x FROM lines, LATERAL concat({call}) AS x",
    "subquery": "SELECT (SELECT {call}) FROM lines",
    "window": "SELECT sum(length({call})) OVER (ORDER BY line) FROM lines",
    "set operation": "SELECT {call} FROM lines WHERE line < 3 UNION ALL SELECT {call} FROM lines WHERE line >= 3",
    "materialized query": "WITH r AS MATERIALIZED (SELECT {call} AS x FROM lines) SELECT a.x FROM r AS a, r AS b",
    "insert": "INSERT INTO log SELECT {call} FROM lines",
    "insert returning": "INSERT INTO lines (line, item, n) SELECT line + 10, item, n FROM lines RETURNING {call}",
    "insert on conflict": "INSERT INTO lines TABLE lines ON CONFLICT (line) DO UPDATE SET result = {call_of_lines}",
    "update": "UPDATE lines SET result = {call}",
    "update under a condition": "UPDATE lines SET result = 'sold' WHERE {call} <> ''",
    "update returning": "UPDATE lines SET result = 'sold' RETURNING {call}",
    "update from stock": "UPDATE lines SET result = {call_of_lines} FROM inventory AS i WHERE i.id = lines.item",
    "delete under a condition": "DELETE FROM lines WHERE {call} <> ''",
    "delete returning": "DELETE FROM lines RETURNING {call}",
    "merge": "MERGE INTO lines USING (VALUES (1)) AS one (x) ON true WHEN MATCHED THEN UPDATE SET result = {call}",
    "merge, condition": "MERGE INTO lines USING (VALUES (1)) AS v ON true WHEN MATCHED AND {call} <> '' THEN DELETE",
    "writing query": "WITH sold AS (UPDATE lines SET result = 'sold' RETURNING {call} AS it) SELECT it FROM sold",
    "writing query that is not read": "WITH sold AS (DELETE FROM lines RETURNING {call}) SELECT 1",
    "two that write": "WITH a AS (DELETE FROM lines RETURNING *), b AS (INSERT INTO log SELECT {call} FROM a) TABLE a",
    "new table": "CREATE TABLE made AS SELECT {call} AS result FROM lines",
    "explain": "EXPLAIN (ANALYZE) SELECT {call} FROM lines",
    "loop": "DO $$ DECLARE t text; BEGIN FOR t IN SELECT {call} FROM lines LOOP RAISE DEBUG '%', t; END LOOP; END $$",
    "loop over lines": (
        "DO $$ DECLARE lines lines; BEGIN FOR lines IN TABLE lines LOOP PERFORM {call_of_lines}; END LOOP; END $$"
    ),
}

# What the calls are, and what then is left of 100 units of ONE and of TWO.
ACTS = {
    "unstripe": (["unstripe_inventory({0}.item)"], [100, 100]),
    "stripe": (["stripe_inventory({0}.item, {0}.n + 3)"], [100, 100]),
    "unstripe and sell": (["unstripe_inventory({0}.item)", "decrement_inventory({0}.item, {0}.n)"], [97, 97]),
    "sell and stripe": (["decrement_inventory({0}.item, {0}.n)", "stripe_inventory({0}.item, 2)"], [97, 97]),
}


@pytest.fixture
def conn(db):
    return db.connect()


def expression(calls, table):
    return f"concat({', '.join(calls)})".format(table)


def order_lines(conn):
    """Lines of orders, as they were: one unit and two units of ONE, three units of TWO."""
    conn.execute(
        "DROP TABLE IF EXISTS lines, log, made; CREATE TABLE log (result text);"
        "CREATE TABLE lines (line integer PRIMARY KEY, item uuid, n integer, result text);"
        f"INSERT INTO lines VALUES (1, '{ONE}', 1), (2, '{ONE}', 2), (3, '{TWO}', 3)"
    )


def set_back(conn, striped):
    """A hundred units of ONE and of TWO, in three stripes each or in their rows."""
    steps = "PERFORM unstripe_inventory('{0}'); PERFORM adjust_inventory('{0}', 100);"
    steps += "PERFORM stripe_inventory('{0}', 3);" if striped else ""
    conn.execute("DO $$ BEGIN " + " ".join(steps.format(key) for key in (ONE, TWO)) + " END $$")


@pytest.mark.parametrize("shape", SHAPES)
def test_every_evaluation_counts(conn, shape):
    shop(conn, {ONE: "100", TWO: "100"}, type="integer")
    table = "a" if shape == "two that write" else "lines"
    for calls, end in ACTS.values():
        order_lines(conn)
        set_back(conn, True)
        conn.execute(SHAPES[shape].format(call=expression(calls, table), call_of_lines=expression(calls, "lines")))
        in_books(conn, dict(zip((ONE, TWO), end)))


@pytest.mark.parametrize("ledger", [True, False])
@pytest.mark.parametrize("striped", [True, False])
def test_unstriping_every_item_that_has_an_order_line_keeps_its_stock(conn, striped, ledger):
    """The second call for the item found its stripes in the cache and set the row to their sum, which was nothing."""
    shop(conn, {ONE: "100", TWO: "100"}, type="integer", p_ledger=ledger)
    if striped:
        stripe(conn, ONE), stripe(conn, TWO)
    order_lines(conn)
    conn.execute("SELECT unstripe_inventory(item) FROM lines")
    in_books(conn, {ONE: 100, TWO: 100}, ledger)
    conn.execute("SELECT detach_inventory()")
    assert (left(conn, ONE), left(conn, TWO)) == (100, 100)


# What is evaluated for a line of one unit, again for the same line of two units, and what is then left of 100.
TWICE = {
    "sell": ("decrement_inventory(item, n)", 97),
    "order": (
        "decrement_inventory_batch(jsonb_build_array(jsonb_build_object('inventory_id', item, 'quantity', n)))",
        97,
    ),
    "restock": ("restock_inventory(item, n)", 103),
    "adjust": ("adjust_inventory(item, available_inventory(item) - n)", 97),
    "transfer": (f"transfer_inventory(item, '{TWO}', n)", 97),
    "unstripe": ("unstripe_inventory(item)", 100),
    "stripe": ("stripe_inventory(item, n + 1)", 100),
    "unstripe and sell": ("concat(unstripe_inventory(item), decrement_inventory(item, n))", 97),
    "sell and unstripe": ("concat(decrement_inventory(item, n), unstripe_inventory(item))", 97),
    "stripe and sell": ("concat(stripe_inventory(item, 4), decrement_inventory(item, n))", 97),
    "unstripe and stripe": ("concat(unstripe_inventory(item), stripe_inventory(item, 4))", 100),
    "sell everything": ("decrement_inventory(item, available_inventory(item) - 1 + n / 2)", 0),
    "detach and attach": ("concat(detach_inventory(), attach_inventory('inventory'))", 100),
}
WAITING = {
    "condition": "UPDATE lines SET result = '' WHERE line = 1 AND ({call})::text <> '' AND nextval('evaluated') > 0",
    "value": "UPDATE lines SET result = concat({call}, nextval('evaluated')) WHERE line = 1",
    "lock": "SELECT line FROM lines WHERE line = 1 AND ({call})::text <> '' AND nextval('evaluated') > 0 FOR UPDATE",
    "deletion": "DELETE FROM lines WHERE line = 1 AND ({call})::text <> '' AND nextval('evaluated') > 0",
}


@pytest.mark.parametrize("wait", WAITING)
@pytest.mark.parametrize("striped", [True, False])
def test_a_call_that_is_evaluated_again_after_a_wait(db, conn, wait, striped):
    """Another session holds the order line and makes it two units; PostgreSQL then evaluates the call once more."""
    shop(conn, {ONE: "100", TWO: "100"}, type="integer")
    holder, session = db.connect(autocommit=False), db.connect()
    for act, (sql, end) in TWICE.items():
        order_lines(conn)
        set_back(conn, striped)
        conn.execute("DROP SEQUENCE IF EXISTS evaluated; CREATE SEQUENCE evaluated")
        available(session)
        holder.execute("UPDATE lines SET n = 2 WHERE line = 1")
        waiting = Aside(session.execute, WAITING[wait].format(call=sql))
        until_waiting(conn, session)
        holder.commit()
        waiting.result()
        assert conn.execute("SELECT last_value FROM evaluated").fetchone()[0] == 2, act
        in_books(conn, {ONE: end, TWO: 103 if act == "transfer" else 100})


@pytest.mark.parametrize("act", ["unstripe", "unstripe and sell", "stripe and sell", "sell"])
@pytest.mark.parametrize("ledger", [True, False])
def test_the_holder_of_the_line_sells_too(db, conn, ledger, act):
    """Between the two evaluations the session that is waited for sells the item, and commits that with the line."""
    shop(conn, {ONE: "100", TWO: "100"}, type="integer", p_ledger=ledger)
    stripe(conn, ONE, 3)
    order_lines(conn)
    conn.execute("CREATE SEQUENCE evaluated")
    sql, end = TWICE[act]
    holder, session = db.connect(autocommit=False), db.connect()
    available(session)
    holder.execute("UPDATE lines SET n = 2 WHERE line = 1")
    if act == "sell":
        call(holder, "decrement_inventory", p_inventory_id=ONE, p_quantity=20)
    waiting = Aside(session.execute, WAITING["condition"].format(call=sql))
    until_waiting(conn, session)
    call(holder, "decrement_inventory", p_inventory_id=TWO, p_quantity=5) if act == "sell" else None
    holder.commit()
    waiting.result()
    in_books(conn, {ONE: end - 20, TWO: 95} if act == "sell" else {ONE: end, TWO: 100}, ledger)


def test_under_repeatable_read_the_wait_ends_with_40001_and_undoes_both_calls(db, conn):
    shop(conn, {ONE: "100"}, type="integer")
    stripe(conn, ONE, 3)
    order_lines(conn)
    holder, session = db.connect(autocommit=False), in_isolation(db, RR)
    holder.execute("UPDATE lines SET n = 2 WHERE line = 1")
    waiting = Aside(
        session.execute, "UPDATE lines SET result = concat(unstripe_inventory(item), decrement_inventory(item, n))"
    )
    until_waiting(conn, session)
    holder.commit()
    assert waiting.refusal().sqlstate == "40001"
    session.rollback()
    in_books(conn, {ONE: 100})


# Statements that write the stock table itself while they call, and what they add to the item; None: they delete it.
SELF = {
    "update": ("UPDATE inventory SET note = {call}::text WHERE id = '{item}'", 0),
    "update under a condition": ("UPDATE inventory SET note = 'x' WHERE id = '{item}' AND {call} IS NOT NULL", 0),
    "update returning": ("UPDATE inventory SET note = 'x' WHERE id = '{item}' RETURNING {call}", 0),
    "update of the quantity": ("UPDATE inventory SET quantity = quantity + 9 WHERE id = '{item}' RETURNING {call}", 9),
    "upsert": (
        "INSERT INTO inventory VALUES ('{item}', 9)"
        " ON CONFLICT (id) DO UPDATE SET quantity = inventory.quantity + 9 RETURNING {call}", 9,
    ),
    "insert": ("INSERT INTO inventory VALUES (gen_random_uuid(), 100) RETURNING {call}", 0),
    "delete": ("DELETE FROM inventory WHERE id = '{item}' RETURNING {call}", None),
    "writing query": (
        "WITH w AS (UPDATE inventory SET quantity = quantity + 9 WHERE id = '{item}' RETURNING id)"
        " SELECT {call} FROM w", 9,
    ),
    "insert in a writing query": (
        "WITH w AS (INSERT INTO inventory VALUES (gen_random_uuid(), 100) RETURNING id) SELECT {call} FROM w", 0,
    ),
    "merge": (
        "MERGE INTO inventory USING (VALUES (1)) AS v ON id = '{item}'"
        " WHEN MATCHED THEN UPDATE SET note = {call}::text", 0,
    ),
}  # fmt: skip
# What is made of a quantity.
SELF_ACTS = {
    "decrement_inventory(id, 1)": lambda quantity: quantity - 1,
    "restock_inventory(id, 1)": lambda quantity: quantity + 1,
    "adjust_inventory(id, 7)": lambda quantity: 7,
    "stripe_inventory(id, 3)": lambda quantity: quantity,
    "unstripe_inventory(id)": lambda quantity: quantity,
    "concat(unstripe_inventory(id), stripe_inventory(id, 2))": lambda quantity: quantity,
    "detach_inventory()": lambda quantity: quantity,
}
REFUSED = ("55006", "55000", "27000", "21000", "IV002")


@pytest.mark.parametrize("ledger", [True, False])
@pytest.mark.parametrize("shape", SELF)
def test_a_statement_that_writes_the_stock_table_and_calls_leaves_exact_books(conn, shape, ledger):
    """Such a statement is refused as a whole, or what it does is right; never is stock lost or a movement missing."""
    wrong = []
    sql, added = SELF[shape]
    for act, made in SELF_ACTS.items():
        for key in (ONE, TWO):
            half_striped(conn, ledger)
            try:
                conn.execute(sql.format(call=act, item=key))
            except psycopg.Error as error:
                assert error.sqlstate in REFUSED, error
                expected = 100
            else:
                new = shape.startswith("insert")
                expected = 100 if new else None if added is None else made(100 + added)
            wrong += [(act, key.int, problem) for problem in problems(conn, key, expected, ledger)]
    assert wrong == []


def half_striped(conn, ledger):
    """A new stock table with 100 units of ONE and of TWO, the latter in three stripes; the one before is dropped."""
    if attached(conn):
        conn.execute("SELECT detach_inventory()")
    conn.execute(
        "DROP TABLE IF EXISTS inventory, inventory_movement, inventory_request, inventory_stripe;"
        "DROP TABLE IF EXISTS inventory_stripe_total;"
        "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer, note text);"
        f"INSERT INTO inventory VALUES ('{ONE}', 100), ('{TWO}', 100);"
        f"SELECT attach_inventory('inventory', p_ledger => {ledger}); SELECT stripe_inventory('{TWO}', 3)"
    )


def attached(conn):
    return conn.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0] == 1


def problems(conn, key, expected, ledger):
    """What is wrong with the books after an act on one item, of which this much is expected."""
    stock = dict(conn.execute("SELECT id, quantity FROM inventory").fetchall())
    if attached(conn):
        stock = {item: available(conn, item) for item in stock}
    found = [] if stock.get(key) == expected else [f"{stock.get(key)} instead of {expected}"]
    if ledger:
        moved = "SELECT inventory_id, sum(delta) FROM inventory_movement GROUP BY 1 HAVING sum(delta) <> 0"
        moved = dict(conn.execute(moved).fetchall())
        found += [f"stock {stock}, movements {moved}"] if moved != stock else []
    stripes = dict(conn.execute("SELECT inventory_id, sum(quantity) FROM inventory_stripe GROUP BY 1").fetchall())
    found += [f"stripes without an item: {stripes}"] if set(stripes) - set(stock) else []
    return found
