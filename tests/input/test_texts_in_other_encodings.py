"""Texts of a client in a database that is not UTF8 come back as they were: actor, reference, key, error facts.

The code once could read a setting without converting it, and no test failed: Jürgen sold in a LATIN1 database as a
name of two characters more, or not at all. Names of tables and columns are in test_encodings.py.
"""

import json

import pytest

from books import call, keys_kept, movements, refused_call
from shop import ONE, TWO, UNKNOWN, refused, refused_sale, sell, shop

NAMES = {
    "LATIN1": "Jürgen Größe", "LATIN9": "Jürgen 5 €", "WIN1251": "Юрий", "EUC_JP": "在庫",
    "UTF8": "Jürgen Łódź 在庫 😀",
}  # fmt: skip


@pytest.fixture
def database(in_encoding):
    """A function that gives a superuser's connection to a database of an encoding, with two items attached."""

    def connect(encoding):
        conn = in_encoding(encoding)
        shop(conn, {ONE: "10.00", TWO: "10.00"})
        return conn

    return connect


@pytest.fixture
def conn(database):
    return database("LATIN1")


@pytest.fixture
def name():
    return NAMES["LATIN1"]


def last(conn):
    return movements(conn)[-1]


def set_local(conn, setting, value):
    conn.execute("SELECT set_config(%s, %s, true)", (setting, value))


WRITES = {
    "sale": lambda conn: sell(conn, ONE, 1),
    "order": lambda conn: call(
        conn, "decrement_inventory_batch", p_items=f'[{{"inventory_id": "{ONE}", "quantity": 1}}]'
    ),
    "direct write": lambda conn: conn.execute("UPDATE inventory SET quantity = 9 WHERE id = %s", (ONE,)),
    "sale from a stripe": lambda conn: (conn.execute("SELECT stripe_inventory(%s, 2)", (ONE,)), sell(conn, ONE, 1)),
}


@pytest.mark.parametrize("write", WRITES)
def test_the_actor_comes_back_as_it_was_set(conn, name, write):
    with conn.transaction():
        set_local(conn, "inventory_ext.actor", name)
        WRITES[write](conn)
    assert last(conn).actor == name


def test_the_actor_of_a_token_comes_back(conn, name):
    with conn.transaction():
        set_local(conn, "request.jwt.claims", json.dumps({"role": "clerk", "sub": name}, ensure_ascii=False))
        sell(conn, ONE, 1)
    assert last(conn).actor == name


def test_the_actor_of_a_token_with_escapes_comes_back(conn, name):
    with conn.transaction():
        set_local(conn, "request.jwt.claims", json.dumps({"sub": name}))
        sell(conn, ONE, 1)
    assert last(conn).actor == name


def test_the_role_is_the_actor_by_its_name(db, conn, name):
    role = f"{db.name} {name}"
    conn.execute(f'CREATE ROLE "{role}"; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{role}"')
    try:
        conn.execute(f'SET ROLE "{role}"')
        sell(conn, ONE, 1)
    finally:
        conn.execute(f'RESET ROLE; DROP OWNED BY "{role}"; DROP ROLE "{role}"')
    assert last(conn).actor == role


@pytest.mark.parametrize("way", ["argument", "setting"])
def test_the_reference_comes_back(conn, name, way):
    with conn.transaction():
        if way == "setting":
            set_local(conn, "inventory_ext.reference", name)
        arguments = {"p_reference": name} if way == "argument" else {}
        call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1, **arguments)
    assert last(conn).reference == name
    call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=7, p_reason=name)
    assert last(conn).reference == name


@pytest.mark.parametrize("way", ["argument", "setting", "header"])
def test_the_key_comes_back_and_is_the_same_key_in_every_way(conn, name, way):
    def restock():
        with conn.transaction():
            arguments = {"p_idempotency_key": name} if way == "argument" else {}
            if way == "setting":
                set_local(conn, "inventory_ext.idempotency_key", name)
            if way == "header":
                set_local(conn, "inventory_ext.request_headers", "on")
                set_local(conn, "request.headers", json.dumps({"idempotency-key": name}, ensure_ascii=False))
            return call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1, **arguments)

    assert "replayed" not in restock()
    assert last(conn).key == name and keys_kept(conn) == [name]
    assert restock()["replayed"] is True
    replay = call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1, p_idempotency_key=name)
    assert replay["replayed"] is True
    other = refused_call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key=name)
    assert (other.sqlstate, other.facts["idempotency_key"]) == ("IV003", name)


def test_errors_name_texts_as_they_were_given(conn, name):
    """The reference of a refused sale, an element of an order, a word that is not known."""
    with conn.transaction(force_rollback=True):
        set_local(conn, "inventory_ext.reference", name)
        conn.execute("SAVEPOINT here")
        refusal = refused_sale(conn, ONE, 1000)
        conn.execute("ROLLBACK TO here")
    assert (refusal.sqlstate, refusal.facts["reference"]) == ("IV001", name)
    items = json.dumps([{"inventory_id": name, "quantity": 1}], ensure_ascii=False)
    refusal = refused_call(conn, "decrement_inventory_batch", p_items=items)
    assert (refusal.reason, refusal.facts["line"]["inventory_id"]) == ("not_a_uuid", name)
    items = json.dumps([{"inventory_id": str(ONE), "quantity": 1}])
    refusal = refused_call(conn, "decrement_inventory_batch", p_items=items, p_on_shortage=name)
    assert (refusal.reason, refusal.facts["value"]) == ("unknown_word", name)
    refusal = refused_call(conn, "restock_inventory", p_inventory_id=UNKNOWN, p_quantity=1, p_reference=name)
    assert (refusal.sqlstate, refusal.facts["reference"]) == ("IV002", name)


def test_errors_name_tables_as_they_are_called(conn, name):
    conn.execute(f'CREATE TABLE "{name}" (id uuid, quantity numeric)')
    conn.execute(f'CREATE TRIGGER t BEFORE TRUNCATE ON "{name}" EXECUTE FUNCTION inventory_movement_guard()')
    refusal = refused(conn, f'TRUNCATE "{name}"')
    assert refusal.sqlstate == "55000" and refusal.facts["table"].endswith(name)


def test_schema_and_table_may_have_such_a_name(conn, name):
    conn.execute("SELECT detach_inventory()")
    conn.execute(f'CREATE SCHEMA "{name}"')
    conn.execute(f'CREATE TABLE "{name}"."{name}" (id uuid PRIMARY KEY, quantity numeric(12,2))')
    conn.execute(f'INSERT INTO "{name}"."{name}" VALUES (\'{ONE}\', 10)')
    conn.execute("SELECT attach_inventory(%s::text::regclass)", (f'"{name}"."{name}"',))
    with conn.transaction():
        set_local(conn, "inventory_ext.actor", name)
        assert sell(conn, ONE, 1)["new_quantity"] == 9
    rows = conn.execute(f'SELECT actor FROM "{name}"."{name}_movement" ORDER BY movement_id').fetchall()
    assert rows[-1] == (name,)


@pytest.mark.parametrize("encoding", NAMES)
def test_texts_come_back_in_every_encoding(database, encoding):
    """Actor and key from settings, the reference as an argument, a reference in an error."""
    conn, name = database(encoding), NAMES[encoding]
    with conn.transaction():
        set_local(conn, "inventory_ext.actor", name)
        set_local(conn, "inventory_ext.idempotency_key", name)
        call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1, p_reference=name)
    movement = last(conn)
    assert (movement.actor, movement.key, movement.reference, keys_kept(conn)) == (name, name, name, [name])
    refusal = refused_call(conn, "restock_inventory", p_inventory_id=UNKNOWN, p_quantity=1, p_reference=name)
    assert (refusal.sqlstate, refusal.facts["reference"]) == ("IV002", name)
