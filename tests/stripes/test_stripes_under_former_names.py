"""Stripes that were left are not overlooked because a table has another name now, and not taken for those of another.

They hold the stock of their items, and the rows lag behind. Stripes are found by their names and comments: a table that
was renamed while it was attached, and then lost its attachment, was attached without them, and what had been sold from
them came back.
"""

import pytest

from books import audit, call
from shop import attach, fill, refused_attach, stock_of

TABLE = "CREATE TABLE {} (id bigint PRIMARY KEY, quantity numeric(12,2))"
LOST = "DROP EXTENSION inventory_ext; CREATE EXTENSION inventory_ext"


@pytest.fixture
def conn(db):
    """A shop with a striped item of 100 units, of which 30 are sold: its row shows 100 for ever."""
    conn = db.connect()
    conn.execute("CREATE SCHEMA shop; CREATE SCHEMA books; " + TABLE.format("shop.inventory"))
    fill(conn, {1: 100, 2: 50}, "shop.inventory")
    return conn


def sell_and_lose(conn, companions, rename):
    """A sale whose total has not been written when the attachment is lost."""
    attach(conn, "shop.inventory", p_companion_schema=companions)
    conn.execute("SELECT stripe_inventory(1, 4)")
    conn.execute(rename)
    (table, stripes, totals) = conn.execute(
        "SELECT stock_table::text, stripe_table::text, total_table::text FROM inventory_attachment"
    ).fetchone()
    call(conn, "decrement_item", p_item=1, p_quantity=30)
    conn.execute(LOST)
    for shown in (table, totals):
        conn.execute(f"UPDATE {shown} SET quantity = 100 WHERE {'id' if shown == table else 'inventory_id'} = 1")
    assert conn.execute(f"SELECT sum(quantity) FROM {stripes}").fetchone() == (70,)
    return table


RENAMES = {
    "the schema": ("ALTER SCHEMA shop RENAME TO shop2", "ALTER SCHEMA shop2 RENAME TO shop"),
    "the table": ("ALTER TABLE shop.inventory RENAME TO wares", "ALTER TABLE shop.wares RENAME TO inventory"),
    "another schema": (
        "CREATE SCHEMA other; ALTER TABLE shop.inventory SET SCHEMA other",
        "ALTER TABLE other.inventory SET SCHEMA shop",
    ),
}


@pytest.mark.parametrize("companions", [None, "books"])
@pytest.mark.parametrize("rename", RENAMES)
def test_a_table_with_another_name_is_not_attached_without_its_stripes(conn, companions, rename):
    there, back = RENAMES[rename]
    table = sell_and_lose(conn, companions, there)
    if companions is None and rename == "the schema":
        attach(conn, table)  # its companions moved along
        assert stock_of(conn, table)[1] == 70
        return
    for home in (companions, None, "shop2" if rename == "the schema" else "shop"):
        refusal = refused_attach(conn, table, p_companion_schema=home)
        assert refusal.reason in ("stripes_of_unknown", "companion_of_another"), refusal
        assert "give " in refusal.hint
    assert stock_of(conn, table)[1] == 100
    conn.execute(back)
    attach(conn, "shop.inventory", p_companion_schema=companions)
    assert stock_of(conn, "shop.inventory") == {1: 70, 2: 50}
    audit(conn, "shop.inventory", f"{companions or 'shop'}.inventory_movement")


@pytest.mark.parametrize("companions", [None, "books"])
@pytest.mark.parametrize("first", ["the new table", "the old table"])
def test_a_new_table_of_the_name_does_not_take_the_stripes_of_the_old_one(conn, companions, first):
    """The new row became 70, and the old one stayed at 100."""
    sell_and_lose(conn, companions, "ALTER TABLE shop.inventory RENAME TO former")
    conn.execute(TABLE.format("shop.inventory"))
    fill(conn, {1: 100}, "shop.inventory")
    attempts = [("shop.inventory", "stripes_of_another"), ("shop.former", "stripes_of_unknown")]
    for table, reason in attempts if first == "the new table" else reversed(attempts):
        refusal = refused_attach(conn, table, p_companion_schema=companions)
        assert (refusal.sqlstate, refusal.reason) == ("55000", reason)
    conn.execute("ALTER TABLE shop.inventory RENAME TO anew; ALTER TABLE shop.former RENAME TO inventory")
    attach(conn, "shop.inventory", p_companion_schema=companions)
    assert stock_of(conn, "shop.inventory") == {1: 70, 2: 50}
    attach(conn, "shop.anew")
    assert stock_of(conn, "shop.anew") == {1: 100}


def test_the_stripes_of_a_table_that_is_gone_for_good_are_dropped_first(conn):
    sell_and_lose(conn, "books", "SELECT")
    conn.execute("DROP TABLE shop.inventory; " + TABLE.format("shop.wares"))
    fill(conn, {1: 7}, "shop.wares")
    refusal = refused_attach(conn, "shop.wares")
    assert refusal.facts == {
        "reason": "stripes_of_unknown", "table": "shop.wares", "stripes": "books.inventory_stripe",
        "made_for": "shop.inventory",
    }  # fmt: skip
    conn.execute("DROP TABLE books.inventory_stripe")
    attach(conn, "shop.wares")
    audit(conn, "shop.wares", "shop.wares_movement")


def test_the_stripes_of_other_tables_are_none_of_its(conn):
    """Of one that is attached, also under another name; and of one that lost its attachment and has its name."""
    for schema in ("one", "two", "three"):
        conn.execute(f"CREATE SCHEMA {schema}; " + TABLE.format(f"{schema}.inventory"))
        fill(conn, {1: 10}, f"{schema}.inventory")
    for table in ("one", "two"):
        attach(conn, f"{table}.inventory")
        conn.execute(f"SET search_path = {table}, public; SELECT stripe_inventory(1, 2)")
        call(conn, "decrement_item", p_item=1, p_quantity=1)
    conn.execute("ALTER SCHEMA two RENAME TO second")
    attach(conn, "three.inventory")
    conn.execute("SELECT detach_inventory('three.inventory'); " + LOST)
    attach(conn, "second.inventory")
    attach(conn, "three.inventory")
    attach(conn, "one.inventory")
    assert [stock_of(conn, f"{schema}.inventory")[1] for schema in ("one", "second", "three")] == [9, 9, 10]
