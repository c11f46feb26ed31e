"""The tables of an attachment in a schema of their own, where tools that compare or drop what lies beside the stock
table do not meet them.
"""

import pytest

from books import audit, call, keys_kept, movements
from shop import ONE, TWO, attach, create_role, fill, left, notices, refused, refused_attach, sell, until
from tenants import tenant

COMPANIONS = ["inventory_movement", "inventory_request", "inventory_stripe", "inventory_stripe_total"]
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'r' ORDER BY 1"


@pytest.fixture
def conn(db):
    conn = db.connect()
    conn.execute("CREATE SCHEMA books; CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric)")
    fill(conn, {ONE: 100, TWO: 100})
    return conn


def tables(conn, schema):
    return [name for (name,) in conn.execute(TABLES, (schema,)).fetchall()]


def sell_everything(conn, schema="books"):
    sell(conn, ONE, 1)
    call(conn, "decrement_item", p_item=ONE, p_quantity=1, p_idempotency_key="k")
    conn.execute("SELECT stripe_inventory(%s::uuid, 2)", (TWO,))
    sell(conn, TWO, 1)
    until(lambda: left(conn, TWO) == 99, "the row shows the total")
    conn.execute("UPDATE inventory SET quantity = 50 WHERE id = %s", (ONE,))
    audit(conn, "inventory", f"{schema}.inventory_movement")
    assert keys_kept(conn, f"{schema}.inventory_request") == ["k"]


def test_all_companions_lie_there_and_work(conn):
    attach(conn, p_companion_schema="books")
    assert tables(conn, "books") == COMPANIONS
    assert "inventory" in tables(conn, "public") and not set(COMPANIONS) & set(tables(conn, "public"))
    sell_everything(conn)


@pytest.mark.parametrize("schema", [None, "books"])
def test_each_companion_and_each_column_has_a_comment(conn, schema):
    attach(conn, p_companion_schema=schema)
    silent = conn.execute(
        """SELECT c.relname, a.attname FROM pg_class AS c
             LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
            WHERE c.relname = ANY (%s)
              AND (obj_description(c.oid, 'pg_class') IS NULL OR col_description(c.oid, a.attnum) IS NULL)""",
        (COMPANIONS,),
    ).fetchall()
    assert silent == []


def test_a_renamed_schema_takes_the_companions_along(conn):
    attach(conn, p_companion_schema="books")
    sell(conn, ONE, 1)
    conn.execute("ALTER SCHEMA books RENAME TO records")
    sell_everything(conn, "records")


def test_companions_that_are_moved_are_found(conn):
    attach(conn)
    sell(conn, ONE, 1)
    for companion in COMPANIONS:
        conn.execute(f"ALTER TABLE {companion} SET SCHEMA books")
    sell_everything(conn)


def test_they_are_found_again_after_a_detach(conn):
    attach(conn, p_companion_schema="books")
    sell_everything(conn)
    conn.execute("SELECT detach_inventory()")
    conn.execute("UPDATE inventory SET quantity = 7 WHERE id = %s", (ONE,))
    attach(conn, p_companion_schema="books")
    audit(conn, "inventory", "books.inventory_movement")
    assert movements(conn, ONE, "books.inventory_movement")[-1].kind == "external"
    assert call(conn, "decrement_item", p_item=ONE, p_quantity=1, p_idempotency_key="k")["replayed"] is True


def test_they_cannot_be_dropped_while_the_table_is_attached(conn):
    attach(conn, p_companion_schema="books")
    for sql in (f"DROP TABLE books.{COMPANIONS[0]}", "DROP SCHEMA books CASCADE"):
        assert refused(conn, sql).reason == "companion_of_attached"
    conn.execute("SELECT detach_inventory(); DROP SCHEMA books CASCADE")


def test_the_same_attach_again_is_a_notice_and_another_schema_an_error(conn):
    conn.execute("CREATE SCHEMA other")
    attach(conn, p_companion_schema="books")
    heard = notices(conn)
    attach(conn, p_companion_schema="books")
    attach(conn)  # says nothing about the schema
    assert heard == ["NOTICE: public.inventory is attached already"] * 2
    assert refused_attach(conn, p_companion_schema="other").reason == "already_attached"


def test_a_schema_that_is_not_there_is_refused(conn):
    refusal = refused_attach(conn, p_companion_schema="nowhere")
    assert (refusal.sqlstate, refusal.reason, refusal.facts["schema"]) == ("3F000", "no_schema", "nowhere")
    conn.execute("CREATE SCHEMA nowhere")
    attach(conn, p_companion_schema="nowhere")
    assert tables(conn, "nowhere") == COMPANIONS


def test_the_owner_of_the_table_must_have_create_on_it(db, conn):
    owner = create_role(conn, db, "owner")
    conn.execute(f'ALTER TABLE inventory OWNER TO "{owner}"')
    assert refused_attach(conn, p_companion_schema="books").sqlstate == "42501"
    conn.execute(f'GRANT USAGE, CREATE ON SCHEMA books TO "{owner}"')
    attach(conn, p_companion_schema="books")
    conn.execute(f'REVOKE CREATE ON SCHEMA books FROM "{owner}"')
    sell_everything(conn)


def test_two_tables_of_one_name_do_not_share_a_ledger(db):
    """They would have: the second attach found the companions of the first by their names."""
    admin = db.connect()
    admin.execute("CREATE SCHEMA books; CREATE SCHEMA more; GRANT ALL ON SCHEMA books, more TO PUBLIC")
    anna = tenant(db, admin, "anna", {ONE: 10}, p_companion_schema="books")
    bert = tenant(db, admin, "bert", {ONE: 500}, attached=False)
    admin.execute(f'GRANT "{anna.owner}" TO "{bert.owner}"; ALTER TABLE bert.inventory OWNER TO "{anna.owner}"')
    refusal = refused_attach(admin, "bert.inventory", p_companion_schema="books")
    assert (refusal.sqlstate, refusal.reason) == ("42P07", "companion_of_another")
    assert [m.new for m in movements(admin, table="books.inventory_movement")] == [10]
    admin.execute(f'GRANT USAGE ON SCHEMA bert TO "{anna.owner}"')
    attach(admin, "bert.inventory", p_companion_schema="more")
    assert [m.new for m in movements(admin, table="more.inventory_movement")] == [500]


def test_the_companions_of_a_detached_table_are_not_taken_for_those_of_another(db):
    """A key of the first table replayed its result, and nothing was sold from the second."""
    admin = db.connect()
    admin.execute("CREATE SCHEMA books")
    for schema, quantity in (("anna", 10), ("bert", 500)):
        admin.execute(
            f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.inventory (id uuid PRIMARY KEY, quantity numeric)"
        )
        fill(admin, {ONE: quantity}, f"{schema}.inventory")
    attach(admin, "anna.inventory", p_companion_schema="books")
    call(admin, "decrement_item", p_item=ONE, p_quantity=1, p_idempotency_key="order-1")
    admin.execute("SELECT detach_inventory()")
    refusal = refused_attach(admin, "bert.inventory", p_companion_schema="books")
    assert (refusal.sqlstate, refusal.reason) == ("42P07", "companion_of_another")
    admin.execute("ALTER SCHEMA anna RENAME TO anna_2026")
    assert refused_attach(admin, "anna_2026.inventory", p_companion_schema="books").reason == "companion_of_another"
    admin.execute("ALTER SCHEMA anna_2026 RENAME TO anna")
    attach(admin, "anna.inventory", p_companion_schema="books")
    admin.execute("ALTER SCHEMA anna RENAME TO anna_2026; SELECT detach_inventory()")  # notes the present name
    attach(admin, "anna_2026.inventory", p_companion_schema="books")
    audit(admin, "anna_2026.inventory", "books.inventory_movement")


def test_a_schema_of_temporary_tables_is_refused(conn):
    """The ledger, the keys and the stripes would have gone with the session."""
    conn.execute("CREATE TEMPORARY TABLE t ()")
    (schema,) = conn.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()").fetchone()
    for name in (schema, schema.replace("temp", "toast_temp")):
        assert refused_attach(conn, p_companion_schema=name).sqlstate in ("42809", "3F000")
    assert refused_attach(conn, p_companion_schema=schema).reason == "temporary_schema"


@pytest.mark.parametrize("other", [None, "more"])
def test_stripes_in_another_schema_are_not_left_behind(conn, other):
    """The row lags behind its stripes: an attachment without them would sell the units in between once more."""
    conn.execute("CREATE SCHEMA more")
    attach(conn, p_companion_schema="books")
    conn.execute("SELECT stripe_inventory(%s::uuid, 2)", (TWO,))
    sell(conn, TWO, 5)
    conn.execute("DROP EXTENSION inventory_ext; CREATE EXTENSION inventory_ext")
    refusal = refused_attach(conn, p_companion_schema=other)
    assert (refusal.sqlstate, refusal.reason) == ("55000", "stripes_elsewhere")
    assert refusal.facts["stripes"] == "books.inventory_stripe"
    attach(conn, p_companion_schema="books")
    assert left(conn, TWO) == 95
    audit(conn, "inventory", "books.inventory_movement")


def test_stripes_that_a_broken_attachment_left_there_are_merged(conn):
    attach(conn, p_companion_schema="books", p_ledger=False)
    conn.execute("SELECT stripe_inventory(%s::uuid, 2)", (TWO,))
    sell(conn, TWO, 10)
    conn.execute("ALTER TABLE inventory DROP CONSTRAINT quantity_non_negative; SELECT detach_inventory()")
    assert left(conn, TWO) == 90


def test_a_nullable_name_is_the_schema_of_the_table(conn):
    attach(conn, p_companion_schema=None)
    assert set(COMPANIONS) < set(tables(conn, "public"))


@pytest.mark.parametrize("schema", ['a "quoted" one', "$user", "Größe"])
def test_any_name_of_a_schema_will_do(conn, schema):
    quoted = '"' + schema.replace('"', '""') + '"'
    conn.execute(f"CREATE SCHEMA {quoted}")
    attach(conn, p_companion_schema=schema)
    assert tables(conn, quoted) == COMPANIONS
    sell_everything(conn, quoted)
