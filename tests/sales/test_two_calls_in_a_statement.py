"""Two calls in one statement give what two statements give.

A session caches which table is attached and which items are striped; the cache has to know what the same statement
did before. `SELECT unstripe_inventory(x), unstripe_inventory(x)` turned 100 units into 0, unstripe and a sale gave
an internal error, stripe and stripe a violation of a unique index. Here each pair of calls runs twice: in one
statement on an item, and in two statements of one transaction on its twin; the results, the stock, the stripes and
the movements must be the same.
"""

import psycopg
import pytest

from books import audit, last_movement
from shop import ONE, TWO, item, left, refusal_of, shop, until
from striped import RC, RR, SERIALIZABLE, available, in_books, stripe

CALLS = {
    "sell": "decrement_inventory('{item}', 3)",
    "sell most": "decrement_inventory('{item}', 97)",
    "order": """decrement_inventory_batch('[{{"inventory_id": "{item}", "quantity": 2}},
                                            {{"inventory_id": "{other}", "quantity": 1}}]')""",
    "restock": "restock_inventory('{item}', 5)",
    "restock with key": "restock_inventory('{item}', 5, NULL, 'key of {item} {pair}')",
    "adjust": "adjust_inventory('{item}', 50)",
    "transfer": "transfer_inventory('{item}', '{other}', 7)",
    "transfer back": "transfer_inventory('{other}', '{item}', 7)",
    "available": "available_inventory('{item}')",
}
SHAPES = {
    "stripe": "stripe_inventory('{item}', 4)",
    "stripe otherwise": "stripe_inventory('{item}', 2)",
    "unstripe": "unstripe_inventory('{item}')",
}
BOTH = CALLS | SHAPES
PAIRS = [(first, second) for first in BOTH for second in BOTH if {first, second} & set(SHAPES)]

# Each a sequence of calls, which one statement makes together.
LIFE = {
    "detach": ("detach_inventory()",),
    "attach": ("attach_inventory('inventory')",),
    "detach and attach": ("detach_inventory()", "attach_inventory('inventory')"),
    "detach and attach the other": ("detach_inventory()", "attach_inventory('other_stock')"),
}

SHOPS = {
    "striped, ledger": (True, True, RC),
    "whole, ledger": (False, True, RC),
    "striped, no ledger": (True, False, RC),
    "striped, repeatable read": (True, True, RR),
    "whole, serializable": (False, True, SERIALIZABLE),
}


@pytest.fixture
def conn(db):
    return db.connect()


def made(session, statements):
    """The texts of all results of one transaction, or its error; a serialization failure is repeated."""
    for _ in range(100):
        try:
            with session.transaction():
                return [value for sql in statements for value in session.execute(sql).fetchone()]
        except psycopg.Error as error:
            refusal = refusal_of(error)
            if refusal.sqlstate != "40001":
                return refusal.sqlstate, refusal.message, refusal.detail
    raise AssertionError("a hundred serialization failures")


def together(calls):
    return ["SELECT " + ", ".join(f"({call})::text" for call in calls)]


def apart(calls):
    return [f"SELECT ({call})::text" for call in calls]


def state(conn, number, ledger, after):
    """What an item is afterwards: its stock, its stripes, and the movements of each of them in their order."""
    stripes = conn.execute(
        "SELECT stripe, quantity FROM inventory_stripe WHERE inventory_id = %s ORDER BY 1", (number,)
    ).fetchall()
    moved = (
        "SELECT stripe, kind, old_quantity, new_quantity FROM inventory_movement"
        " WHERE inventory_id = %s AND movement_id > %s ORDER BY stripe, movement_id"
    )
    return {
        "available": available(conn, number),
        "row": None if stripes else left(conn, number),
        "stripes": stripes,
        "movements": conn.execute(moved, (number, after)).fetchall() if ledger else None,
    }


def named(outcome, names):
    """The outcome with the names of the items instead of their ids, which the twins do not share."""
    text = repr(outcome)
    for name, key in names.items():
        text = text.replace(str(key), name)
    return text


def set_back(conn, items, striped):
    """Every item has 100 units again, in three stripes or in its row."""
    steps = "PERFORM unstripe_inventory('{0}'); PERFORM adjust_inventory('{0}', 100);"
    steps += "PERFORM stripe_inventory('{0}', 3);" if striped else ""
    conn.execute("DO $$ BEGIN " + " ".join(steps.format(key) for key in items) + " END $$")


@pytest.mark.parametrize("kind", SHOPS)
def test_each_pair_of_calls(db, conn, kind):
    striped, ledger, level = SHOPS[kind]
    items = [item(number) for number in range(1, 5)]
    shop(conn, {key: "100" for key in items}, type="integer", p_ledger=ledger)
    session = db.connect()
    session.isolation_level = level
    wrong = {}
    for pair, (first, second) in enumerate(PAIRS):
        set_back(conn, items, striped)
        begin = last_movement(conn) if ledger else 0
        ends = []
        for make, (key, other) in ((together, items[:2]), (apart, items[2:])):
            calls = [BOTH[name].format(item=key, other=other, pair=pair) for name in (first, second)]
            outcome = made(session, make(calls))
            end = outcome, state(conn, key, ledger, begin), state(conn, other, ledger, begin)
            ends.append(named(end, {"ITEM": key, "OTHER": other}))
        if ends[0] != ends[1]:
            wrong[first, second] = ends
    assert wrong == {}
    until(lambda: all(left(conn, key) == available(conn, key) for key in items), "the rows show the totals")
    if ledger:
        audit(conn)


COMPANIONS = ("_movement", "_request", "_stripe", "_stripe_total")


def opened_again(conn, striped, ledger):
    """New tables with the same items in other quantities, the first of them attached; older ones are dropped."""
    for (table,) in conn.execute("SELECT stock_table::oid FROM inventory_attachment").fetchall():
        conn.execute("SELECT detach_inventory(%s::oid::regclass)", (table,))
    tables = [table + suffix for table in ("inventory", "other_stock") for suffix in ("", *COMPANIONS)]
    conn.execute(
        f"DROP TABLE IF EXISTS {', '.join(tables)}; CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer);"
        f"INSERT INTO inventory VALUES ('{ONE}', 100), ('{TWO}', 100);"
        "CREATE TABLE other_stock (id uuid PRIMARY KEY, quantity integer);"
        "INSERT INTO other_stock SELECT id, 1000 FROM inventory;"
        f"SELECT attach_inventory('inventory', p_ledger => {ledger})"
    )
    if striped:
        stripe(conn, ONE, 3), stripe(conn, TWO, 3)


def whole_state(conn):
    """Both tables, their stripes and ledgers, and which is attached."""
    found = {}
    for name in ("inventory", "other_stock"):
        for suffix, columns in (
            ("_movement", "inventory_id, stripe, kind, old_quantity, new_quantity"),
            ("_stripe", "*"),
        ):
            order = "inventory_id, stripe" + (", movement_id" if suffix == "_movement" else "")
            if conn.execute("SELECT to_regclass(%s)", (name + suffix,)).fetchone()[0]:
                found[name + suffix] = conn.execute(f"SELECT {columns} FROM {name}{suffix} ORDER BY {order}").fetchall()
        if not found.get(name + "_stripe"):  # the row of a striped item may lag
            found[name] = conn.execute(f"SELECT id, quantity FROM {name} ORDER BY 1").fetchall()
    found["attached"] = conn.execute("SELECT stock_table::text FROM inventory_attachment ORDER BY 1").fetchall()
    if len(found["attached"]) == 1:
        found["available"] = available(conn, ONE), available(conn, TWO)
    return found


@pytest.mark.parametrize("life", LIFE)
@pytest.mark.parametrize(("striped", "ledger"), [(True, True), (False, False)])
def test_each_pair_with_attach_and_detach(db, conn, striped, ledger, life):
    session = db.connect()
    known = ("sell", "restock with key", "available", "stripe", "unstripe")
    one = {name: (BOTH[name].format(item=ONE, other=TWO, pair=0),) for name in known}
    pairs = [((life, name), LIFE[life] + calls) for name, calls in (one | LIFE).items()]
    pairs += [((name, life), calls + LIFE[life]) for name, calls in one.items()]
    wrong = {}
    for names, calls in pairs:
        ends = []
        for make in (apart, together):
            opened_again(conn, striped, ledger)
            available(session)  # the session knows the table
            ends.append(named((made(session, make(calls)), whole_state(conn)), {}))
        if ends[0] != ends[1]:
            wrong[names] = ends
    assert wrong == {}


@pytest.mark.parametrize(
    ("sql", "end"),
    [
        ("SELECT adjust_inventory('{0}', available_inventory('{0}') - 1)", 99),
        ("SELECT decrement_inventory('{0}', (unstripe_inventory('{0}') ->> 'quantity')::numeric)", 0),
        ("SELECT decrement_inventory('{0}', (stripe_inventory('{0}', 7) ->> 'quantity')::numeric - 1)", 1),
        ("SELECT restock_inventory('{0}', available_inventory('{0}')), available_inventory('{0}')", 200),
        ("SELECT CASE WHEN unstripe_inventory('{0}') IS NOT NULL THEN decrement_inventory('{0}', 1) END", 99),
        (
            "SELECT coalesce(nullif(stripe_inventory('{0}')::text, unstripe_inventory('{0}')::text), 'same')",
            100,
        ),
        (
            "SELECT ARRAY[unstripe_inventory('{0}'), stripe_inventory('{0}', 9), unstripe_inventory('{0}')]::text[]",
            100,
        ),
        (
            "SELECT unstripe_inventory('{0}'), detach_inventory(), attach_inventory('inventory'),"
            " stripe_inventory('{0}')",
            100,
        ),
        (
            "VALUES (unstripe_inventory('{0}')), (stripe_inventory('{0}', 2)), (decrement_inventory('{0}', 60)),"
            " (unstripe_inventory('{0}'))",
            40,
        ),
        (
            "SELECT unstripe_inventory('{0}') UNION ALL SELECT decrement_inventory('{0}', 60)"
            " UNION ALL SELECT stripe_inventory('{0}', 2)",
            40,
        ),
        ("SELECT unstripe_inventory('{0}') FROM generate_series(1, 5)", 100),
        ("SELECT stripe_inventory('{0}', n) FROM generate_series(2, 6) AS n", 100),
    ],
)
@pytest.mark.parametrize("striped", [True, False])
def test_calls_within_the_expressions_of_one_statement(conn, sql, end, striped):
    shop(conn, {ONE: "100"}, type="integer")
    if striped:
        stripe(conn, ONE, 3)
    conn.execute(sql.format(ONE))
    in_books(conn, {ONE: end})


@pytest.mark.parametrize("calls", [
    "stripe_inventory('{0}', 4)", "unstripe_inventory('{0}')",
    "stripe_inventory('{0}', 4), decrement_inventory('{0}', 9)",
    "unstripe_inventory('{0}'), decrement_inventory('{0}', 9)", "unstripe_inventory('{0}'), stripe_inventory('{0}', 2)",
    "detach_inventory()", "detach_inventory(), attach_inventory('inventory')", "decrement_inventory('{0}', 100)",
])  # fmt: skip
@pytest.mark.parametrize(
    "then", ["decrement_inventory('{0}', 60)", "unstripe_inventory('{0}')", "stripe_inventory('{0}', 5)"]
)
@pytest.mark.parametrize("striped", [True, False])
def test_what_an_undone_block_did_is_not_remembered(conn, calls, then, striped):
    """A block of PL/pgSQL that fails after its calls, in one statement with a call that succeeds."""
    shop(conn, {ONE: "100"}, type="integer")
    if striped:
        stripe(conn, ONE, 3)
    calls, then = calls.format(ONE), then.format(ONE)
    conn.execute(
        f"""CREATE FUNCTION try_it() RETURNS text LANGUAGE plpgsql AS $$
            BEGIN
                BEGIN PERFORM {calls}, 1 / (random() * 0)::int;
                EXCEPTION WHEN division_by_zero OR SQLSTATE 'IV001' THEN RETURN 'undone'; END;
                RETURN 'done';
            END $$"""
    )
    end = 40 if "decrement" in then else 100
    row = conn.execute(f"SELECT try_it(), ({then})::text, try_it(), available_inventory('{ONE}')").fetchone()
    assert (row[0], row[2], row[3]) == ("undone", "undone", end)
    in_books(conn, {ONE: end})


def test_a_cursor_goes_on_after_the_item_was_striped_and_unstriped(conn):
    """Its query is one statement; other statements of the session run between two rows of it."""
    shop(conn, {ONE: "100"}, type="integer")
    with conn.transaction(), conn.cursor(name="sales") as sales:
        sales.execute("SELECT decrement_inventory(%s, n) FROM generate_series(1, 4) AS n", (ONE,))
        between = ["SELECT stripe_inventory(%s, 3)", "SELECT unstripe_inventory(%s)", "SELECT stripe_inventory(%s, 2)"]
        assert sales.fetchone()[0]["deducted"] == 1
        for number, sql in enumerate(between, start=2):
            conn.execute(sql, (ONE,))
            assert sales.fetchone()[0]["deducted"] == number
    in_books(conn, {ONE: 90})
