"""Stock tables whose ids are bigint, integer, text or varchar: every function, retries, stripes, races and the ledger.

Each test runs for each type; the books are audited at the end.
"""

import json
import random
import threading
import uuid
from decimal import Decimal

import psycopg
import pytest

from books import audit, audit_when_shown, call, refused_call
from shop import attach, exact_json, fill, nondeterministic_collation, refused, refused_attach, stock_of

IDS = {
    "uuid": [uuid.UUID(f"{first}-0000-4000-8000-000000000001") for first in ("aaaaaaaa", "0aaaaaaa", "ffffffff")],
    "integer": [7, -3, 2147483647],
    "bigint": [5000000000, -3, 10],
    "text": ["sku-1", 'Größe "L"', "10"],
    "varchar(40)": ["b", "A", "a"],
}


@pytest.fixture(params=IDS, ids=lambda id_type: id_type.split("(")[0])
def id_type(request):
    return request.param


@pytest.fixture
def ids(id_type):
    return IDS[id_type]


@pytest.fixture
def conn(db, id_type, ids):
    conn = db.connect()
    conn.execute(f"CREATE TABLE inventory (id {id_type} PRIMARY KEY, quantity numeric(12,2))")
    fill(conn, {ids[0]: "10", ids[1]: "20", ids[2]: "0.50"})
    attach(conn)
    return conn


def json_id(key):
    """As results print it, read by exact_json."""
    return Decimal(key) if isinstance(key, int) else str(key)


def dumped(key):
    """As p_items names it."""
    return json.dumps(key if isinstance(key, int) else str(key))


def item(conn, key, quantity, **arguments):
    """decrement_item with the id as a value of its own type."""
    named = "".join(f", {name} => %({name})s" for name in arguments)
    sql = f"SELECT decrement_item(%(key)s, %(quantity)s::numeric{named})::text"
    return exact_json(conn.execute(sql, {"key": key, "quantity": quantity, **arguments}).fetchone()[0])


def test_every_function_takes_the_id(conn, ids):
    one, two, three = ids
    assert item(conn, one, "1.50") == {
        "success": True, "inventory_id": json_id(one), "old_quantity": 10, "new_quantity": Decimal("8.50"),
        "deducted": Decimal("1.50"),
    }  # fmt: skip
    assert call(conn, "restock_inventory", p_inventory_id=one, p_quantity=3)["inventory_id"] == json_id(one)
    assert call(conn, "adjust_inventory", p_inventory_id=two, p_counted_quantity=7)["old_quantity"] == 20
    moved = call(conn, "transfer_inventory", p_from=one, p_to=three, p_quantity=4)
    assert [moved[side]["inventory_id"] for side in ("from", "to")] == [json_id(one), json_id(three)]
    assert conn.execute("SELECT available_inventory(id) FROM inventory ORDER BY quantity").fetchall() == [
        (Decimal("4.50"),), (Decimal("7.00"),), (Decimal("7.50"),),
    ]  # fmt: skip
    conn.execute("UPDATE inventory SET quantity = quantity + 1 WHERE id = %s", (two,))
    conn.execute("DELETE FROM inventory WHERE id = %s", (three,))
    kinds = conn.execute("SELECT kind FROM inventory_movement WHERE inventory_id = %s ORDER BY movement_id", (three,))
    assert [kind for (kind,) in kinds] == ["opening", "transfer", "closing"]
    audit(conn)


def test_an_order_names_ids_as_strings_or_numbers(conn, id_type, ids):
    """Lines on one item are summed, however it is spelled; the result prints it as the table's type does."""
    one, two, _ = ids
    spelled = [f'"{one}"', str(one)] if isinstance(one, int) else [f'"{one}"', f'"{one}"']
    other = dumped(two)
    lines = ", ".join(f'{{"inventory_id": {key}, "quantity": 1}}' for key in [*spelled, other])
    sold = call(conn, "decrement_inventory_batch", p_items=f"[{lines}]")
    deducted = {line["inventory_id"]: line["deducted"] for line in sold["lines"]}
    assert deducted == {json_id(one): 2, json_id(two): 1}
    refusal = refused_call(conn, "decrement_inventory_batch", p_items='[{"inventory_id": [], "quantity": 1}]')
    assert (refusal.sqlstate, refusal.reason) == ("22023", "not_a_uuid" if id_type == "uuid" else "not_an_id")
    audit(conn)


def test_a_retry_returns_the_first_result(conn, ids):
    one, two, _ = ids
    first = item(conn, one, 1, p_idempotency_key="till 3, receipt 8", p_reference="receipt 8")
    again = item(conn, one, 1, p_idempotency_key="till 3, receipt 8", p_reference="receipt 8")
    assert again == {**first, "replayed": True}
    for other in ((two, 1), (one, 2)):
        sql = "SELECT decrement_item(%s, %s::numeric, 'receipt 8', 'till 3, receipt 8')"
        assert refused(conn, sql, other).sqlstate == "IV003"
    counted = call(conn, "adjust_inventory", p_inventory_id=one, p_counted_quantity=5, p_idempotency_key="count")
    conn.execute("UPDATE inventory SET quantity = quantity + 1 WHERE id = %s", (one,))
    again = call(conn, "adjust_inventory", p_inventory_id=one, p_counted_quantity=5, p_idempotency_key="count")
    assert again == {**counted, "replayed": True}
    assert stock_of(conn)[one] == 6
    audit(conn)


def test_an_unknown_id_and_a_key_that_is_none(conn, id_type, ids):
    unknown = {"uuid": "eeeeeeee-0000-4000-8000-00000000000e"}.get(id_type, "404")
    refusal = refused(conn, "SELECT decrement_item(%s, 1)", (unknown,))
    assert (refusal.sqlstate, refusal.reason) == ("IV002", "unknown_item")
    for key in ("", "1.5", "9" * 30, "x", "x" * 256):
        refusal = refused(conn, "SELECT decrement_item(%s, 1)", (key,))
        if len(key) > 255:
            assert (refusal.sqlstate, refusal.reason) == ("22023", "text_length")
        elif id_type in ("text", "varchar(40)"):
            assert (refusal.sqlstate, refusal.reason) == ("IV002", "unknown_item")
        else:
            assert (refusal.sqlstate, refusal.reason) == ("22P02", "not_an_id")
            assert refusal.facts == {"reason": "not_an_id", "argument": "p_item", "value": key, "type": id_type}
    assert refused(conn, "SELECT decrement_item(NULL, 1)").sqlstate == "22004"


def test_decrement_inventory_is_for_uuids(conn, id_type):
    sql = "SELECT decrement_inventory('aaaaaaaa-0000-4000-8000-000000000001', 1)"
    if id_type == "uuid":
        conn.execute(sql)
        return
    refusal = refused(conn, sql)
    assert (refusal.sqlstate, refusal.reason) == ("55000", "no_uuids")
    assert refusal.hint == "Call decrement_item, which takes an id of any type."


def test_stripes_are_sold_and_merged(conn, ids):
    one, two, _ = ids
    for key in (one, two):
        conn.execute("SELECT stripe_inventory(%s, 4)", (key,))
    assert item(conn, two, 19)["deducted"] == 19
    lines = ", ".join(f'{{"inventory_id": {dumped(key)}, "quantity": 1}}' for key in (one, two))
    assert len(call(conn, "decrement_inventory_batch", p_items=f"[{lines}]")["lines"]) == 2
    refusal = refused(conn, "UPDATE inventory SET quantity = 1 WHERE id = %s", (one,))
    assert (refusal.reason, refusal.facts["inventory_id"]) == ("striped_item", json_id(one))
    audit_when_shown(conn, {one: Decimal(9), two: Decimal(0), ids[2]: Decimal("0.50")})
    conn.execute("SELECT detach_inventory()")
    assert stock_of(conn) == {one: 9, two: 0, ids[2]: Decimal("0.50")}
    attach(conn)
    audit(conn)


def test_eight_sessions_sell_in_any_order_and_none_deadlocks(db, conn, ids):
    """Orders and transfers name the items in random order; the lock order is that of the ids."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    conn.execute("UPDATE inventory SET quantity = 1000")
    errors = []

    def till(number):
        choose = random.Random(seed + number)
        with db.connect() as session:
            for _ in range(20):
                first, second = choose.sample(ids, 2)
                pair = [dumped(key) for key in (first, second)]
                lines = ", ".join(f'{{"inventory_id": {key}, "quantity": 1}}' for key in pair)
                try:
                    call(session, "decrement_inventory_batch", p_items=f"[{lines}]")
                    call(session, "transfer_inventory", p_from=first, p_to=second, p_quantity=2)
                except psycopg.Error as error:
                    errors.append(error)

    tills = [threading.Thread(target=till, args=(number,)) for number in range(8)]
    for thread in tills:
        thread.start()
    for thread in tills:
        thread.join()
    assert errors == []
    assert sum(stock_of(conn).values()) == 3000 - 8 * 20 * 2
    audit(conn)


def test_a_partitioned_table(db, id_type, ids):
    conn = db.connect()
    conn.execute(
        f"""CREATE TABLE inventory (id {id_type} PRIMARY KEY, quantity integer) PARTITION BY HASH (id);
            CREATE TABLE inventory_0 PARTITION OF inventory FOR VALUES WITH (MODULUS 2, REMAINDER 0);
            CREATE TABLE inventory_1 PARTITION OF inventory FOR VALUES WITH (MODULUS 2, REMAINDER 1)"""
    )
    fill(conn, dict.fromkeys(ids, 10))
    attach(conn)
    for key in ids:
        assert item(conn, key, 4)["new_quantity"] == 6
    conn.execute("SELECT stripe_inventory(%s, 2)", (ids[0],))
    assert item(conn, ids[0], 5)["deducted"] == 5
    conn.execute("SELECT unstripe_inventory(%s)", (ids[0],))
    audit(conn)


@pytest.mark.parametrize("other_type", ["real", "numeric", "char(8)", "smallint", "date"])
def test_an_id_of_another_type_is_refused_with_the_next_step(db, other_type):
    conn = db.connect()
    conn.execute(f"CREATE TABLE inventory (id {other_type} PRIMARY KEY, quantity integer)")
    refusal = refused_attach(conn)
    assert (refusal.sqlstate, refusal.reason) == ("42804", "id_type")
    assert "ADD COLUMN ... uuid UNIQUE NOT NULL DEFAULT gen_random_uuid()" in refusal.hint
    conn.execute("ALTER TABLE inventory ADD COLUMN key uuid UNIQUE NOT NULL DEFAULT gen_random_uuid()")
    assert attach(conn, p_id_column="key")["success"]


def test_a_collation_that_is_not_deterministic_is_refused(db):
    conn = db.connect()
    nondeterministic_collation(conn)
    conn.execute("CREATE TABLE inventory (id text COLLATE same PRIMARY KEY, quantity integer)")
    refusal = refused_attach(conn)
    assert (refusal.sqlstate, refusal.reason) == ("42P22", "id_collation")


def test_text_ids_of_another_collation_are_found(db):
    """The companions have the collation of the database; every comparison takes that of the column."""
    conn = db.connect()
    conn.execute('CREATE TABLE inventory (id text COLLATE "C" PRIMARY KEY, quantity integer)')
    fill(conn, {"B": 5, "a": 5})
    attach(conn)
    conn.execute("SELECT stripe_inventory('a', 2)")
    assert item(conn, "B", 1)["new_quantity"] == 4
    assert item(conn, "a", 2)["deducted"] == 2
    call(conn, "transfer_inventory", p_from="B", p_to="a", p_quantity=1)
    conn.execute("SELECT detach_inventory()")
    attach(conn)
    assert stock_of(conn) == {"B": 3, "a": 4}
    audit(conn)


def test_an_id_that_no_key_can_name_is_refused(db):
    """It was attached and inserted, and then nobody could sell it: a key has at most 255 bytes."""
    conn = db.connect()
    longest, longer = "ä" * 127 + "x", "ä" * 128
    conn.execute("CREATE TABLE inventory (id text PRIMARY KEY, quantity integer)")
    fill(conn, {longest: 5, longer: 5})
    refusal = refused_attach(conn)
    facts = {"reason": "id_length", "bytes": 256, "max_bytes": 255}
    assert (refusal.sqlstate, refusal.facts) == ("22023", facts)
    conn.execute("DELETE FROM inventory WHERE id = %s", (longer,))
    attach(conn)
    assert item(conn, longest, 1)["new_quantity"] == 4
    for sql in ("INSERT INTO inventory VALUES (%s, 5)", "UPDATE inventory SET id = %s"):
        refusal = refused(conn, sql, (longer,))
        assert (refusal.sqlstate, refusal.facts) == ("22023", facts)
    assert stock_of(conn) == {longest: 4}
    audit(conn)
    with conn.transaction():
        conn.execute("SET LOCAL session_replication_role = replica")
        conn.execute("INSERT INTO inventory VALUES (%s, 5)", (longer + "ä",))
    conn.execute("UPDATE inventory SET id = 'short' WHERE id = %s", (longer + "ä",))  # one that is there can go
    conn.execute("DELETE FROM inventory WHERE id = 'short'")


@pytest.mark.parametrize(("encoding", "odd", "other"), [("SQL_ASCII", "\\xff", r"\xFF"), ("WIN1252", "\\x81", r"\x81")])
def test_an_id_that_is_no_text_is_not_taken_for_another(in_encoding, encoding, odd, other):
    """Its bytes became an escape, which may be the id of another item: that one was sold."""
    conn = in_encoding(encoding)
    conn.execute("CREATE TABLE inventory (id text PRIMARY KEY, quantity integer)")
    conn.execute(f"INSERT INTO inventory VALUES (E'{odd}', 100)")
    conn.execute("INSERT INTO inventory VALUES (%s, 101)", (other,))
    conn.execute("SELECT attach_inventory('inventory', p_ledger => false)")
    for sql in (
        f"SELECT decrement_item(E'{odd}', 1)",
        'SELECT decrement_inventory_batch(format(\'[{"inventory_id": %s, "quantity": 1}]\', '
        f"to_json(E'{odd}'::text))::jsonb)",
    ):
        assert refused(conn, sql).sqlstate in ("22021", "22023")
    sold = conn.execute("SELECT decrement_item(%s, 1)", (other,)).fetchone()[0]
    assert sold["new_quantity"] == 100
    assert conn.execute("SELECT quantity FROM inventory ORDER BY quantity").fetchall() == [(100,), (100,)]


def test_a_collation_that_is_no_longer_deterministic_ends_the_sales(db):
    """Two ids that it takes for one are two items in the companions."""
    conn = db.connect()
    nondeterministic_collation(conn)
    conn.execute("CREATE TABLE inventory (id text PRIMARY KEY, quantity integer)")
    fill(conn, {"a": 5})
    attach(conn, p_ledger=False)
    session = db.connect()
    assert item(session, "a", 1)["new_quantity"] == 4
    conn.execute("ALTER TABLE inventory ALTER COLUMN id TYPE text COLLATE same")
    for each in (session, db.connect()):
        refusal = refused_call(each, "decrement_item", p_item="a", p_quantity=1)
        assert (refusal.sqlstate, refusal.reason) == ("55000", "id_collation_changed")
    conn.execute('ALTER TABLE inventory ALTER COLUMN id TYPE text COLLATE "C"')
    assert item(session, "a", 1)["new_quantity"] == 3
