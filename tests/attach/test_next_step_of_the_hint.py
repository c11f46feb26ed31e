"""A table whose id cannot name an item is refused with a HINT; following it literally leads to a table that sells.

The statement is taken from the HINT as it is printed, with names in place of its dots.
"""

import random
import re

import pytest

from books import audit, call
from shop import attach, exact_json, nondeterministic_collation, refused, refused_attach

COMPOSITE = "sku text, place integer, {quantity}, PRIMARY KEY (sku, place)"
FLAWED = {
    "composite key": ("sku", COMPOSITE, "'cup', 1"),
    "composite key, second column": ("place", COMPOSITE, "'cup', 1"),
    "real": ("id", "id real PRIMARY KEY, {quantity}", "0.1"),
    "double precision": ("id", "id double precision PRIMARY KEY, {quantity}", "0.1"),
    "numeric": ("id", "id numeric PRIMARY KEY, {quantity}", "0.1"),
    "timestamp": ("id", "id timestamptz PRIMARY KEY, {quantity}", "'2026-01-01'"),
    "deferrable": ("id", "id uuid PRIMARY KEY DEFERRABLE, {quantity}", "gen_random_uuid()"),
    "deferred, bigint": ("id", "id bigint NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED, {quantity}", "7"),
    "no index, text": ("id", "id text NOT NULL, {quantity}", "'cup'"),
    "collation": ("id", "id text COLLATE same PRIMARY KEY, {quantity}", "'cup'"),
}
REASONS = {
    "composite key": "id_not_unique", "composite key, second column": "id_not_unique", "real": "id_type",
    "double precision": "id_type", "numeric": "id_type", "timestamp": "id_type", "deferrable": "id_not_unique",
    "deferred, bigint": "id_not_unique", "no index, text": "id_not_unique", "collation": "id_collation",
}  # fmt: skip
SQLSTATES = {"id_type": "42804", "id_not_unique": "55000", "id_collation": "42P22"}


@pytest.fixture(params=FLAWED, ids=lambda name: name.replace(" ", "_"))
def flaw(request):
    return request.param


@pytest.fixture
def conn(db, flaw):
    """A table with this flaw and one row."""
    conn = db.connect()
    _, columns, key = FLAWED[flaw]
    if flaw == "collation":
        nondeterministic_collation(conn)
    conn.execute(f"CREATE TABLE inventory ({columns.format(quantity='quantity integer')})")
    conn.execute(f"INSERT INTO inventory VALUES ({key}, 5)")
    return conn


def statement_in(hint, *names):
    """The statement that the HINT names, with these names for its dots."""
    statement = re.search(r"ALTER TABLE .*gen_random_uuid\(\)", hint)[0]
    assert statement.count("...") == len(names)
    for name in names:
        statement = statement.replace("...", name, 1)
    return statement


def test_the_statement_of_the_hint_gives_a_table_that_sells(conn, flaw):
    column, reason = FLAWED[flaw][0], REASONS[flaw]
    refusal = refused_attach(conn, p_id_column=column)
    assert (refusal.sqlstate, refusal.reason) == (SQLSTATES[reason], reason)
    assert refusal.facts["column"] == column
    assert conn.execute("SELECT to_regclass('inventory_movement')").fetchone() == (None,)

    conn.execute(statement_in(refusal.hint, "inventory", "item"))
    attach(conn, p_id_column="item")
    (key,) = conn.execute("SELECT item FROM inventory").fetchone()
    for sql in ("SELECT decrement_item(%s, 2)::text", "SELECT decrement_inventory(%s, 2)::text"):
        assert exact_json(conn.execute(sql, (key,)).fetchone()[0])["deducted"] == 2
    assert refused(conn, "SELECT decrement_item(%s, 2)", (key,)).sqlstate == "IV001"
    call(conn, "restock_inventory", p_inventory_id=key, p_quantity=3)
    audit(conn, id_column="item")


def test_rows_that_come_later_get_an_id_by_themselves(conn, flaw):
    """The DEFAULT of the HINT: the shop's own INSERT, which does not know the new column, goes on."""
    conn.execute(statement_in(refused_attach(conn, p_id_column=FLAWED[flaw][0]).hint, "inventory", "item"))
    attach(conn, p_id_column="item")
    conn.execute("DELETE FROM inventory")
    columns = ", ".join(["sku, place" if "sku" in FLAWED[flaw][1] else "id", "quantity"])
    conn.execute(f"INSERT INTO inventory ({columns}) VALUES ({FLAWED[flaw][2]}, 8)")
    (key,) = conn.execute("SELECT item FROM inventory").fetchone()
    assert call(conn, "decrement_item", p_item=key, p_quantity=1)["new_quantity"] == 7
    audit(conn, id_column="item")


def test_the_other_step_of_the_hint_is_an_index(db):
    """A plain unique index on the id alone, beside the deferrable one."""
    conn = db.connect()
    conn.execute("CREATE TABLE inventory (id bigint PRIMARY KEY DEFERRABLE, quantity integer)")
    conn.execute("INSERT INTO inventory VALUES (7, 5)")
    assert "unique index on the id column alone" in refused_attach(conn).hint
    conn.execute("CREATE UNIQUE INDEX ON inventory (id)")
    attach(conn)
    assert call(conn, "decrement_item", p_item=7, p_quantity=5)["new_quantity"] == 0
    audit(conn)


def test_many_rows_get_ids_of_their_own(db):
    """ADD COLUMN with the DEFAULT of the HINT gives each existing row another uuid."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    conn = db.connect()
    conn.execute("CREATE TABLE inventory (sku text, place integer, quantity integer, PRIMARY KEY (sku, place))")
    conn.execute("INSERT INTO inventory SELECT 'cup', n, 10 FROM generate_series(1, 1000) AS n")
    conn.execute(statement_in(refused_attach(conn, p_id_column="sku").hint, "inventory", "item"))
    assert attach(conn, p_id_column="item")["items"] == 1000
    keys = [key for (key,) in conn.execute("SELECT item FROM inventory").fetchall()]
    sold = random.Random(seed).sample(keys, 50)
    for key in sold:
        call(conn, "decrement_item", p_item=key, p_quantity=4)
    left = dict(conn.execute("SELECT item, quantity FROM inventory").fetchall())
    assert left == {key: 6 if key in sold else 10 for key in keys}
    audit(conn, id_column="item")
