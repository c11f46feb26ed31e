"""Stripes that were left are not overlooked because a table has another name now, and not taken for those of another.

They hold the stock of their items, and the rows lag behind. Stripes are found by their names and comments: a table that
was renamed while it was attached, and then lost its attachment, was attached without them, and what had been sold from
them came back.
"""

from decimal import Decimal

import pytest

from books import audit, call
from shop import attach, create_role, fill, refused_attach, stock_of

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
        "made_for": "shop.inventory", "items": 1, "quantity": Decimal("70.00"),
    }  # fmt: skip
    conn.execute("COMMENT ON TABLE books.inventory_stripe IS NULL")
    attach(conn, "shop.wares")
    audit(conn, "shop.wares", "shop.wares_movement")


def test_a_table_without_such_items_is_attached(conn):
    """They can not be its stripes: a shop with many tables is not held up by those of one that is put aside."""
    sell_and_lose(conn, None, "SELECT")
    conn.execute("ALTER TABLE shop.inventory RENAME TO former; " + TABLE.format("shop.wares"))
    fill(conn, {7: 5}, "shop.wares")
    attach(conn, "shop.wares")
    assert refused_attach(conn, "shop.former").facts["items"] == 1


def test_a_guest_cannot_make_stripes_look_like_its_own(db, conn):
    """A table of the former name, with a CHECK like ours, of another owner: the stock in the stripes stood still."""
    table = sell_and_lose(conn, None, "ALTER TABLE shop.inventory RENAME TO wares")
    guest = create_role(conn, db, "guest")
    conn.execute(f'GRANT ALL ON SCHEMA shop TO "{guest}"')
    db.connect(user=guest).execute(
        "CREATE TABLE shop.inventory (id int, q int, CONSTRAINT q_non_negative CHECK (id IS NOT NULL AND q >= 0))"
    )
    assert refused_attach(conn, table).reason == "stripes_of_unknown"


def test_a_long_name_of_the_quantity_column_is_no_obstacle(conn):
    """The CHECK, by which a table that was attached is known, has its name cut."""
    column = "q" * 60
    conn.execute(f"CREATE TABLE long (id bigint PRIMARY KEY, {column} integer); INSERT INTO long VALUES (1, 10)")
    attach(conn, "long", p_quantity_column=column)
    conn.execute("SELECT stripe_inventory(1, 2); " + LOST)
    attach(conn, "long", p_quantity_column=column)


def test_two_tables_of_one_owner_with_stripes_left_are_attached_at_once(db, conn):
    """Each looked into the stripes of the other, which were locked: a deadlock."""
    for table in ("one", "two"):
        conn.execute(TABLE.format(table) + f"; INSERT INTO {table} VALUES (1, 10)")
        attach(conn, table)
        conn.execute(f"SET inventory_ext.stock_table = {table}; SELECT stripe_inventory(1, 2)")
    conn.execute(LOST)
    sessions = {table: db.connect() for table in ("one", "two")}
    for session in sessions.values():
        session.execute("SET lock_timeout = '3s'; BEGIN")
    for table, session in sessions.items():
        attach(session, table)
    for session in sessions.values():
        session.execute("COMMIT")
    assert [stock_of(conn, table)[1] for table in sessions] == [10, 10]


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
