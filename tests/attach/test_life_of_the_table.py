"""The stock table lives on after attach: it is renamed, altered, broken and dropped.

A rename just works; what makes selling impossible is a clear 55000 that says what is missing, in the session that has
the table cached and in others, and never a crash; once put right, selling goes on.
"""

import pytest

from shop import ONE, TWO, UNKNOWN, attach, fill, left, refused, refused_sale, sell, shop, stock_table


@pytest.fixture
def conn(db):
    """The session that alters the table; it has sold, so it has the table cached."""
    conn = db.connect()
    shop(conn, {ONE: "10.00", TWO: "20.00"})
    sell(conn, TWO, "1")
    return conn


@pytest.fixture
def sessions(db, conn):
    """The altering session itself, one with a warm cache, and one that will call for the first time."""
    warm = db.connect()
    sell(warm, TWO, "1")
    refused_sale(warm, TWO, "1000")
    return [conn, warm, db.connect()]


@pytest.mark.parametrize(
    ("rename", "table", "columns"),
    [
        ("ALTER TABLE inventory RENAME TO stock", "stock", {}),
        ("CREATE SCHEMA store; ALTER TABLE inventory SET SCHEMA store", "store.inventory", {}),
        ("ALTER TABLE inventory RENAME COLUMN quantity TO on_hand", "inventory", {"quantity_column": "on_hand"}),
        ("ALTER TABLE inventory RENAME COLUMN id TO item", "inventory", {"id_column": "item"}),
        ('ALTER TABLE inventory RENAME TO "New ""Stock"""', '"New ""Stock"""', {}),
        (
            "ALTER TABLE inventory RENAME id TO q; ALTER TABLE inventory RENAME quantity TO id; "
            "ALTER TABLE inventory RENAME q TO quantity",
            "inventory",
            {"id_column": "quantity", "quantity_column": "id"},
        ),
    ],
)
def test_a_rename_just_works(conn, sessions, rename, table, columns):
    """Table, schema and columns are known by what they are, not by what they were called."""
    conn.execute(rename)
    for number, session in enumerate(sessions, start=1):
        assert sell(session, ONE, "1")["new_quantity"] == 10 - number
        assert refused_sale(session, UNKNOWN, "1").sqlstate == "IV002"
        assert refused_sale(session, ONE, "100").sqlstate == "IV001"
    assert left(conn, ONE, table, **columns) == 7


def test_a_renamed_schema_just_works(db, conn):
    """The schema's new name is taken up in place, even by a session whose transaction has already sold."""
    conn.execute("CREATE SCHEMA store; ALTER TABLE inventory SET SCHEMA store")
    till = db.connect(autocommit=False)
    sell(till, ONE, "1")
    conn.execute("ALTER SCHEMA store RENAME TO shop")
    assert sell(till, ONE, "1")["new_quantity"] == 8
    till.execute("SAVEPOINT here")
    assert refused_sale(till, UNKNOWN, "1").sqlstate == "IV002"
    till.execute("ROLLBACK TO here")
    till.commit()
    assert sell(conn, ONE, "1")["new_quantity"] == 7


def test_a_table_that_takes_the_old_name_stops_all_sales(conn, sessions):
    """After a swap by renaming it is not known which of the two is the shop's: neither is sold from."""
    conn.execute("ALTER TABLE inventory RENAME TO stock")
    for session in sessions:
        sell(session, ONE, "1")
    stock_table(conn, {ONE: "1000"})
    for session in sessions:
        assert refused_sale(session, ONE, "1").reason == "stock_table_swapped"
    assert (left(conn, ONE, "stock"), left(conn, ONE, "inventory")) == (7, 1000)


def broken(sessions, reason):
    for session in sessions:
        for _ in range(2):
            answer = refused_sale(session, ONE, "1")
            assert (answer.sqlstate, answer.reason) == ("55000", reason)
            assert answer.hint


def test_a_dropped_table_is_a_clear_error(conn, sessions):
    """55000 in every session; detach clears the way and another table can be attached."""
    conn.execute("DROP TABLE inventory")
    broken(sessions, "stock_table_dropped")
    stock_table(conn, {ONE: "3"})
    broken(sessions, "stock_table_dropped")
    conn.execute("SELECT detach_inventory()")
    attach(conn)
    for number, session in enumerate(sessions, start=1):
        assert sell(session, ONE, "1")["new_quantity"] == 3 - number


def test_a_drop_that_is_rolled_back_is_no_drop(db, conn):
    """In the session that dropped it the error comes and goes with the transaction."""
    session = db.connect(autocommit=False)
    sell(session, ONE, "1")
    session.commit()
    session.execute("DROP TABLE inventory")
    session.execute("SAVEPOINT here")
    assert refused_sale(session, ONE, "1").reason == "stock_table_dropped"
    session.rollback()
    assert sell(session, ONE, "1")["new_quantity"] == 8


@pytest.mark.parametrize("column", ["id", "quantity"])
def test_a_dropped_column_is_a_clear_error(conn, sessions, column):
    """Also when another column has taken the name since: only attach can say that it is the same thing."""
    conn.execute(f"ALTER TABLE inventory DROP COLUMN {column}")
    broken(sessions, "check_dropped")
    type = {"id": "uuid DEFAULT gen_random_uuid() PRIMARY KEY", "quantity": "integer DEFAULT 7"}[column]
    conn.execute(f"ALTER TABLE inventory ADD COLUMN {column} {type}")
    broken(sessions, "check_dropped")
    conn.execute("SELECT detach_inventory()")
    attach(conn)
    key = conn.execute("SELECT id FROM inventory LIMIT 1").fetchone()[0]
    for session in sessions:
        assert sell(session, key, "1")["success"] is True


def test_a_dropped_unique_index_is_a_clear_error(conn, sessions):
    """Without it an id might name two rows; when it is back, selling goes on without a new attach."""
    conn.execute("ALTER TABLE inventory DROP CONSTRAINT inventory_pkey")
    broken(sessions, "unique_index_missing")
    conn.execute("CREATE UNIQUE INDEX by_id ON inventory (id)")
    for session in sessions:
        sell(session, ONE, "1")
    assert left(conn, ONE) == 7


def test_any_other_unique_index_may_take_over(conn, sessions):
    """The index is exchanged without a gap: nothing to complain about."""
    conn.execute("CREATE UNIQUE INDEX by_id ON inventory (id)")
    conn.execute("ALTER TABLE inventory DROP CONSTRAINT inventory_pkey")
    for session in sessions:
        sell(session, ONE, "1")
    assert left(conn, ONE) == 7


@pytest.mark.parametrize(
    ("type", "unfit", "fit"),
    [
        ("integer", "0.5", "1"),
        ("bigint", "0.5", "1"),
        ("smallint", "0.5", "1"),
        ("numeric(12,3)", "0.0005", "0.005"),
        ("numeric", "1e-29", "0.00001"),
        ("numeric(3,1)", "0.05", "0.5"),
    ],
)
def test_a_change_to_another_quantity_type_counts_at_once(conn, sessions, type, unfit, fit):
    """The limits of the new type are obeyed by every session, cached or not."""
    conn.execute(f"ALTER TABLE inventory ALTER quantity TYPE {type}")
    for session in sessions:
        assert refused_sale(session, ONE, unfit).sqlstate == "22003"
        answer = sell(session, ONE, fit)
        assert answer["old_quantity"] - answer["new_quantity"] == answer["deducted"]


CHECK = "CHECK (id IS NOT NULL AND quantity >= 0 AND quantity < 'Infinity')"


@pytest.mark.parametrize(
    ("change", "reason", "back"),
    [
        ("ALTER quantity TYPE double precision", "column_type_changed", "ALTER quantity TYPE numeric(12,2)"),
        (
            "DROP CONSTRAINT quantity_non_negative, ALTER quantity TYPE text",
            "check_dropped",
            f"ALTER quantity TYPE numeric(12,2) USING quantity::numeric, ADD CONSTRAINT quantity_non_negative {CHECK}",
        ),
        (
            "ALTER id TYPE bytea USING uuid_send(id)",
            "column_type_changed",
            "ALTER id TYPE uuid USING encode(id, 'hex')::uuid",
        ),
        ("ALTER id TYPE text", "companion_changed", "ALTER id TYPE uuid USING id::uuid"),
    ],
)
def test_a_change_to_a_type_that_is_no_stock_is_a_clear_error(conn, sessions, change, reason, back):
    """Never a crash, never arithmetic on the wrong type; the type put back, selling goes on."""
    conn.execute(f"ALTER TABLE inventory {change}")
    broken(sessions, reason)
    conn.execute(f"ALTER TABLE inventory {back}")
    for session in sessions:
        sell(session, ONE, "1")
    assert left(conn, ONE) == 7


@pytest.mark.parametrize(
    ("change", "back"),
    [
        ("RENAME CONSTRAINT quantity_non_negative TO other", "RENAME CONSTRAINT other TO quantity_non_negative"),
        ("DROP CONSTRAINT quantity_non_negative", f"ADD CONSTRAINT quantity_non_negative {CHECK}"),
        (
            "DROP CONSTRAINT quantity_non_negative",
            f"ADD CONSTRAINT quantity_non_negative {CHECK} NOT VALID, VALIDATE CONSTRAINT quantity_non_negative",
        ),
    ],
)
def test_a_lost_check_is_a_clear_error(conn, sessions, change, back):
    """It says which columns are attached, and without it stock could go below zero; put back, selling goes on."""
    conn.execute(f"ALTER TABLE inventory {change}")
    broken(sessions, "check_dropped")
    conn.execute(f"ALTER TABLE inventory {back}")
    for session in sessions:
        sell(session, ONE, "1")
    assert left(conn, ONE) == 7


@pytest.mark.parametrize(
    "weaker",
    [
        "CHECK (quantity >= 0)",
        "CHECK (quantity >= 0 AND id IS NOT NULL)",
        f"{CHECK} NOT VALID",
        "UNIQUE (id, quantity)",
    ],
)
def test_a_constraint_of_the_name_that_says_something_else_is_not_taken_for_the_check(conn, sessions, weaker):
    """Id first, quantity second, validated: anything else does not say which columns are attached."""
    conn.execute("ALTER TABLE inventory DROP CONSTRAINT quantity_non_negative")
    conn.execute(f"ALTER TABLE inventory ADD CONSTRAINT quantity_non_negative {weaker}")
    broken(sessions, {"CHECK (quantity >= 0 AND id IS NOT NULL)": "column_type_changed"}.get(weaker, "check_dropped"))


@pytest.mark.parametrize("detached", [False, True])
def test_another_table_can_be_attached_after_the_first_was_dropped(conn, detached):
    """No dead end: detach works for a table that is gone, and is not needed."""
    stock_table(conn, {ONE: "3"}, table="other")
    conn.execute("DROP TABLE inventory")
    if detached:
        conn.execute("SELECT detach_inventory()")
    attach(conn, "other")
    assert sell(conn, ONE, "1")["new_quantity"] == 2
    assert conn.execute("SELECT stock_table::text FROM inventory_attachment").fetchall() == [("other",)]


def test_drop_extension_keeps_the_table_and_create_extension_starts_anew(db, conn, sessions):
    """The stock is the user's: dropping the extension takes only functions; no session crashes on its old cache."""
    conn.execute("DROP EXTENSION inventory_ext")
    assert left(conn, ONE) == 10
    for session in sessions:
        assert refused_sale(session, ONE, "1").sqlstate == "42883"
    conn.execute("CREATE EXTENSION inventory_ext")
    for session in sessions:
        assert refused_sale(session, ONE, "1").reason == "not_attached"
    attach(conn)
    for number, session in enumerate(sessions, start=1):
        assert sell(session, ONE, "1")["new_quantity"] == 10 - number


@pytest.mark.parametrize("schema", ["tools", '"My Tools"'])
def test_the_extension_works_from_any_schema(db, conn, schema):
    """CREATE EXTENSION … SCHEMA s: the functions are there, the schema need not be in any search_path."""
    conn.execute(
        f"DROP EXTENSION inventory_ext; CREATE SCHEMA {schema}; CREATE EXTENSION inventory_ext SCHEMA {schema}"
    )
    conn.execute("SET search_path = pg_catalog")
    assert refused(conn, f"SELECT {schema}.decrement_inventory('{ONE}', 1)").sqlstate == "55000"
    conn.execute(f"SELECT {schema}.attach_inventory('public.inventory')")
    answer = conn.execute(f"SELECT {schema}.decrement_inventory('{ONE}', 1) ->> 'new_quantity'").fetchone()
    assert answer == ("9.00",)
    conn.execute(f"SELECT {schema}.detach_inventory()")
    assert refused(conn, f"SELECT {schema}.decrement_inventory('{ONE}', 1)").sqlstate == "55000"


@pytest.mark.parametrize("reset", ["DISCARD ALL", "DISCARD PLANS", "RESET ALL", "DEALLOCATE ALL"])
def test_a_pooler_may_reset_the_session_between_calls(conn, reset):
    """Connection poolers send these; the cache survives or is rebuilt."""
    sell(conn, ONE, "1")
    conn.execute(reset)
    assert sell(conn, ONE, "1")["new_quantity"] == 8


def test_items_can_be_added_and_removed_at_any_time(conn, sessions):
    """The table stays the user's own."""
    fill(conn, {UNKNOWN: "5"})
    for session in sessions:
        sell(session, UNKNOWN, "1")
    conn.execute("DELETE FROM inventory WHERE id = %s", (UNKNOWN,))
    for session in sessions:
        assert refused_sale(session, UNKNOWN, "1").sqlstate == "IV002"
