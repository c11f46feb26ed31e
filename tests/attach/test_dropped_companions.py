"""The ledger, keys, stripes and totals of an attached table cannot be dropped by the way.

Schema tools drop with CASCADE what they do not know, and the history went with it, without an error. An event trigger
refuses it: detach first. It allows what takes the stock table along or comes after it, DROP EXTENSION, and all else,
for roles without any right too. Tests of what is allowed also make a refusal, so that they know the trigger works.
"""

import psycopg
import pytest

from books import audit, call, keys_kept, last_movement, stripes_of
from selling_calls import SELLING, available, detach, make, shop_owner, stripe, until_idle, worker
from shop import ONE, TWO, attach, create_role, refused, refused_sale, sell, shop, stock_table

COMPANIONS = ["inventory_movement", "inventory_request", "inventory_stripe", "inventory_stripe_total"]
COLUMNS = {
    "inventory_movement": [
        "movement_id", "inventory_id", "stripe", "kind", "old_quantity", "new_quantity", "delta", "reference",
        "idempotency_key", "actor", "xact_id", "occurred_at",
    ],
    "inventory_request": ["idempotency_key", "function_name", "arguments_hash", "answer", "created_at"],
    "inventory_stripe": ["inventory_id", "stripe", "quantity"],
    "inventory_stripe_total": ["inventory_id", "quantity"],
}  # fmt: skip


@pytest.fixture
def conn(db):
    """A shop with a history: a plain and a striped item, sales, a key."""
    conn = db.connect()
    open_shop(conn)
    return conn


def open_shop(conn, **options):
    shop(conn, {ONE: "100", TWO: "100"}, type="integer", **options)
    stripe(conn, TWO)
    sell(conn, ONE, 1)
    sell(conn, TWO, 1)
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="k")


def assert_refused(session, *statements):
    for sql in statements:
        answer = refused(session, sql)
        assert (answer.sqlstate, answer.reason) == ("55000", "companion_of_attached"), (sql, answer)
        assert "detach_inventory" in answer.hint


def assert_whole(conn, session=None):
    """Stock, stripes, ledger and keys are there, and every function works."""
    session = session or conn
    assert last_movement(conn) >= 8
    assert sum(stripes_of(conn, TWO).values()) == available(conn, TWO)
    replay = call(session, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="k")
    assert replay["replayed"] is True
    for function in SELLING:
        make(session, function, ONE, TWO)
    sell(session, TWO, 1)
    call(session, "restock_inventory", p_inventory_id=ONE, p_quantity=50)


def tables(conn, names=COMPANIONS) -> list[str]:
    rows = conn.execute("SELECT relname FROM pg_class WHERE relname = ANY (%s) AND relkind = 'r' ORDER BY 1", (names,))
    return [name for (name,) in rows]


@pytest.mark.parametrize("companion", COMPANIONS)
def test_a_companion_of_an_attached_table_cannot_be_dropped(db, conn, companion):
    """Plain, with CASCADE, beside other tables, in a block; by a session that never loaded the library."""
    conn.execute("CREATE TABLE other (id integer); CREATE VIEW seen AS SELECT * FROM inventory_movement")
    assert_refused(
        db.connect(),
        f"DROP TABLE {companion} CASCADE",
        f"DROP TABLE IF EXISTS {companion} CASCADE",
        f"DROP TABLE other, {companion} CASCADE",
        f"DROP TABLE IF EXISTS missing, {companion}, other CASCADE",
        f"DO $$ BEGIN DROP TABLE {companion} CASCADE; END $$",
        f"DO $$ BEGIN EXECUTE 'DROP TABLE public.{companion} CASCADE'; END $$",
        f"CREATE TABLE third (); DROP TABLE {companion} CASCADE",
    )
    conn.execute(f"DO $$ BEGIN DROP TABLE {companion} CASCADE; EXCEPTION WHEN SQLSTATE '55000' THEN NULL; END $$")
    assert_refused(conn, "DROP TABLE " + ", ".join(COMPANIONS) + " CASCADE")
    assert (tables(conn), tables(conn, ["other", "third"])) == (sorted(COMPANIONS), ["other"])
    assert_whole(conn)
    assert_whole(conn, db.connect())


@pytest.mark.parametrize("companion", COMPANIONS)
def test_a_column_of_ours_cannot_be_dropped(db, conn, companion):
    """Each of them, also where PostgreSQL would take dependent columns along; a column that was added can."""
    session = db.connect()
    conn.execute(f"ALTER TABLE {companion} ADD COLUMN note text, ADD COLUMN other integer DEFAULT 5")
    for column in COLUMNS[companion]:
        assert_refused(
            session,
            f"ALTER TABLE {companion} DROP COLUMN {column} CASCADE",
            f"ALTER TABLE {companion} DROP COLUMN IF EXISTS {column} CASCADE",
            f"ALTER TABLE {companion} DROP COLUMN note, DROP COLUMN {column} CASCADE",
        )
    conn.execute(f"ALTER TABLE {companion} DROP COLUMN note")
    conn.execute(f"ALTER TABLE {companion} DROP COLUMN IF EXISTS other, DROP COLUMN IF EXISTS missing")
    left = conn.execute("SELECT attname::text FROM pg_attribute WHERE attrelid = %s::text::regclass AND attnum > 0"
                        " AND NOT attisdropped ORDER BY attnum", (companion,)).fetchall()  # fmt: skip
    assert [name for (name,) in left] == COLUMNS[companion]
    assert_whole(conn)


def test_renamed_and_moved_companions_are_still_companions(conn):
    """They are known by what they are; another table that now has the name is none."""
    conn.execute('CREATE SCHEMA archive; CREATE SCHEMA "Other One"')
    conn.execute("ALTER TABLE inventory_movement RENAME TO history; ALTER TABLE inventory_request SET SCHEMA archive")
    conn.execute('ALTER TABLE inventory_stripe_total SET SCHEMA "Other One"')
    assert_refused(
        conn, "DROP TABLE history", "DROP TABLE archive.inventory_request",
        'DROP TABLE "Other One".inventory_stripe_total', "ALTER TABLE history DROP COLUMN reference",
        "DROP SCHEMA archive CASCADE", 'DROP SCHEMA "Other One" CASCADE',
        "DROP SCHEMA archive, \"Other One\" CASCADE",
    )  # fmt: skip
    conn.execute("CREATE TABLE inventory_movement (id integer); DROP TABLE inventory_movement")
    conn.execute("CREATE VIEW inventory_request AS SELECT 1 AS n; DROP VIEW inventory_request")
    assert keys_kept(conn, "archive.inventory_request") == ["k"]
    conn.execute("ALTER TABLE history RENAME TO inventory_movement")
    assert_whole(conn)


def test_a_schema_that_the_stock_table_has_left_takes_no_companions_with_it(db):
    conn = db.connect()
    conn.execute("CREATE SCHEMA store; CREATE SCHEMA shop")
    shop(conn, {ONE: "100", TWO: "100"}, "store.inventory", type="integer")
    stripe(conn, TWO)
    conn.execute("ALTER TABLE store.inventory SET SCHEMA shop; CREATE TABLE store.other ()")
    assert_refused(conn, "DROP SCHEMA store CASCADE", "DROP SCHEMA IF EXISTS store, missing CASCADE")
    assert tables(conn, [*COMPANIONS, "other"]) == sorted([*COMPANIONS, "other"])
    for function in SELLING:
        make(conn, function, ONE, TWO)
    until_idle(conn)
    conn.execute("DROP SCHEMA store, shop CASCADE")
    assert tables(conn, ["inventory", *COMPANIONS]) == []
    assert refused_sale(conn, ONE, 1).reason == "stock_table_dropped"
    detach(conn)


def test_drop_owned_of_a_role_that_has_only_companions_is_refused(db, conn):
    """A companion of another owner is an error of each call anyway; its rows are not lost by it."""
    role = create_role(conn, db, "archivist")
    conn.execute(f'CREATE TABLE other (); ALTER TABLE other OWNER TO "{role}"')
    for companion in COMPANIONS:
        conn.execute(f'ALTER TABLE {companion} OWNER TO "{role}"')
        assert_refused(conn, f'DROP OWNED BY "{role}"', f'DROP OWNED BY "{role}" CASCADE')
        conn.execute(f"ALTER TABLE {companion} OWNER TO postgres")
    assert_whole(conn)
    conn.execute(f'DROP OWNED BY "{role}"')
    assert tables(conn, ["other"]) == []


def test_the_owner_is_refused_like_a_superuser_and_may_drop_the_whole(db):
    """DROP OWNED takes the stock table along; half of it does not."""
    root = db.connect()
    role, owner = shop_owner(root, db)
    open_shop(owner)
    for session in (owner, root):
        assert_refused(
            session, *(f"DROP TABLE {companion} CASCADE" for companion in COMPANIONS),
            "DROP TABLE inventory_movement, inventory_request, inventory_stripe, inventory_stripe_total",
        )  # fmt: skip
    assert_whole(root, owner)
    owner.execute("CREATE TABLE mine (id integer)")
    until_idle(root)
    owner.execute(f'DROP OWNED BY "{role}"')
    assert tables(root, ["inventory", "mine", *COMPANIONS]) == []
    detach(root)
    stock_table(root, {ONE: "5"})
    attach(root)
    sell(root, ONE, 1)


@pytest.mark.parametrize("whole", [
    "DROP TABLE inventory, {all} CASCADE", "DROP TABLE {all}, inventory CASCADE",
    "DROP TABLE inventory CASCADE; DROP TABLE {all}",
    "DROP TABLE inventory; DROP TABLE inventory_stripe, inventory_movement CASCADE; DROP TABLE IF EXISTS {all}",
    "DROP SCHEMA store CASCADE",
])  # fmt: skip
def test_the_stock_table_may_go_with_its_companions_or_before_them(db, whole):
    """In one command in either order, and in two; when it is rolled back all is as it was."""
    conn = db.connect(autocommit=False)
    conn.execute("CREATE SCHEMA store; SET search_path = store, public")
    open_shop(conn)
    conn.commit()
    conn.execute("SET search_path = store, public")
    conn.commit()
    whole = whole.format(all=", ".join(COMPANIONS))
    assert_refused(conn, f"DROP TABLE {', '.join(COMPANIONS)}; DROP TABLE inventory")
    conn.rollback()
    watcher = db.connect()
    until_idle(watcher)
    conn.execute(whole)
    assert tables(conn) == []
    conn.rollback()
    assert_whole(conn)
    conn.commit()
    assert_refused(conn, "DROP TABLE inventory_movement CASCADE")
    conn.rollback()
    until_idle(watcher)
    conn.execute(whole)
    conn.commit()
    assert tables(conn, ["inventory", *COMPANIONS]) == []
    conn.execute("CREATE SCHEMA IF NOT EXISTS store")
    assert refused_sale(conn, ONE, 1).reason == "stock_table_dropped"
    conn.rollback()
    detach(conn)
    conn.commit()


def test_after_detach_everything_may_go_and_before_its_commit_too(db, conn):
    every = ", ".join(COMPANIONS)
    assert_refused(conn, f"DROP TABLE {every}")
    conn.execute("BEGIN")
    detach(conn)
    conn.execute(f"DROP TABLE {every}")
    conn.execute("ROLLBACK")
    assert_whole(conn)
    assert_refused(conn, f"DROP TABLE {every}", "ALTER TABLE inventory_movement DROP COLUMN actor")
    detach(conn)
    until_idle(conn)
    conn.execute("ALTER TABLE inventory_movement DROP COLUMN actor; DROP TABLE inventory_stripe CASCADE")
    conn.execute("DROP TABLE inventory_movement, inventory_request, inventory_stripe_total")
    assert tables(conn) == []
    attach(conn)
    sell(conn, ONE, 1)
    audit(conn)
    assert_refused(conn, "DROP TABLE inventory_movement")


def test_companions_of_a_table_that_is_no_longer_attached_are_free(conn):
    """Another table is attached by now; its own companions are guarded."""
    assert_refused(conn, "DROP TABLE inventory_movement")
    detach(conn)
    shop(conn, {ONE: "10", TWO: "10"}, "cellar", type="integer")
    conn.execute("ALTER TABLE inventory_request DROP COLUMN answer; DROP TABLE inventory_movement CASCADE")
    conn.execute("DROP TABLE inventory_stripe, inventory_stripe_total, inventory_request, inventory")
    assert_refused(conn, "DROP TABLE cellar_movement", "DROP TABLE cellar_request", "DROP TABLE cellar_stripe CASCADE",
                   "DROP TABLE cellar_stripe_total")  # fmt: skip
    sell(conn, ONE, 1)
    audit(conn, "cellar", "cellar_movement")


@pytest.mark.parametrize("options", [{"p_ledger": False}, {"p_run_as": "caller"}])
def test_the_same_without_a_ledger_and_with_the_rights_of_the_caller(db, options):
    conn = db.connect()
    open_shop(conn, **options)
    for companion in tables(conn):
        column = COLUMNS[companion][0]
        assert_refused(conn, f"DROP TABLE {companion} CASCADE", f"ALTER TABLE {companion} DROP COLUMN {column} CASCADE")
    assert len(tables(conn)) == (3 if options == {"p_ledger": False} else 4)
    sell(conn, TWO, 1)
    assert keys_kept(conn) == ["k"]


def test_partitions_columns_and_indexes_of_the_stock_table_are_not_concerned(db):
    conn = db.connect()
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer, note text) PARTITION BY RANGE (id)")
    middle = "'10000000-0000-0000-0000-000000000000'"
    conn.execute(f"CREATE TABLE low PARTITION OF inventory FOR VALUES FROM (MINVALUE) TO ({middle})")
    conn.execute(f"CREATE TABLE high PARTITION OF inventory FOR VALUES FROM ({middle}) TO (MAXVALUE)")
    conn.execute(f"INSERT INTO inventory VALUES ('{ONE}', 10)")
    attach(conn)
    assert_refused(conn, "DROP TABLE inventory_stripe")
    conn.execute("CREATE INDEX extra ON inventory_movement (occurred_at); DROP INDEX extra")
    conn.execute("CREATE VIEW seen AS SELECT * FROM inventory_movement; DROP VIEW seen")
    conn.execute("ALTER TABLE inventory_movement ADD CONSTRAINT known CHECK (true)")
    conn.execute("ALTER TABLE inventory_movement DROP CONSTRAINT known")
    conn.execute("DROP TABLE high; ALTER TABLE inventory DROP COLUMN note")
    sell(conn, ONE, 1)
    audit(conn)


TRIGGER = """
    SELECT p.oid::regprocedure::text, p.oid, n.nspname, p.proowner, p.proacl::text, t.evtenabled::text, t.evtname::text
      FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE t.evtevent = 'sql_drop'
"""


def test_the_function_of_the_event_trigger_can_be_executed_by_its_owner_alone(db):
    """With any default privileges; a call by hand is an error; function and trigger belong to the extension."""
    conn = db.connect()
    role = create_role(conn, db, "anyone")
    conn.execute("DROP EXTENSION inventory_ext")
    conn.execute(f'ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC, "{role}"')
    conn.execute(f'ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO "{role}"')
    conn.execute("CREATE EXTENSION inventory_ext")
    rows = conn.execute(TRIGGER).fetchall()
    assert len(rows) == 1, rows
    name, oid, _, owner, acl, enabled, trigger = rows[0]
    assert enabled != "D"
    assert acl is not None, "a function without an ACL belongs to PUBLIC"
    granted = "SELECT grantee FROM pg_proc, aclexplode(proacl) WHERE oid = %s AND grantee <> proowner"
    assert conn.execute(granted, (oid,)).fetchall() == []
    assert not conn.execute("SELECT has_function_privilege(%s, %s::oid, 'EXECUTE')", (role, oid)).fetchone()[0]
    assert refused(db.connect(user=role), f"SELECT {name}").sqlstate in ("42501", "0A000")
    assert refused(conn, f"SELECT {name}").sqlstate in ("0A000", "39P03", "39P01", "55000")
    for catalog, member in (("pg_proc", oid), ("pg_event_trigger", None)):
        found = conn.execute(
            "SELECT count(*) FROM pg_depend WHERE deptype = 'e' AND classid = %s::text::regclass AND objid ="
            " COALESCE(%s::oid, (SELECT oid FROM pg_event_trigger WHERE evtname = %s))", (catalog, member, trigger),
        ).fetchone()  # fmt: skip
        assert found == (1,), catalog
    assert refused(conn, f'DROP EVENT TRIGGER "{trigger}"').sqlstate == "2BP01"
    conn.execute(f'ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC, "{role}";'
                 f'ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON FUNCTIONS FROM "{role}"')  # fmt: skip


@pytest.mark.parametrize("schema", ["public", "closed"])
def test_a_role_without_any_right_drops_what_it_has(db, schema):
    """Tables, columns, functions, temporary tables, each way in which they go; with the schema open or closed."""
    conn = db.connect()
    if schema == "closed":
        conn.execute("DROP EXTENSION inventory_ext; CREATE SCHEMA closed; CREATE EXTENSION inventory_ext SCHEMA closed;"
                     "REVOKE ALL ON SCHEMA closed FROM PUBLIC")  # fmt: skip
    conn.execute(f'SET search_path = public, "{schema}"')
    open_shop(conn)
    conn.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    role = create_role(conn, db, "anyone")
    conn.execute(f'CREATE SCHEMA own AUTHORIZATION "{role}"; GRANT TEMPORARY ON DATABASE {db.name} TO "{role}"')
    anyone = db.connect(user=role)
    anyone.execute("SET search_path = own")
    for place in ("", "TEMPORARY"):
        anyone.execute(f"CREATE {place} TABLE inventory_movement (movement_id integer, actor text, note text)")
        anyone.execute(f"CREATE {place} TABLE inventory_stripe (quantity integer)")
        anyone.execute(f"CREATE {place} VIEW seen AS SELECT * FROM inventory_stripe")
        anyone.execute("ALTER TABLE inventory_movement DROP COLUMN actor, DROP COLUMN movement_id")
        anyone.execute("DROP TABLE inventory_movement; DROP TABLE inventory_stripe CASCADE")
    anyone.execute("CREATE FUNCTION f() RETURNS integer LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION f()")
    anyone.execute("CREATE TYPE t AS ENUM ('a'); DROP TYPE t; CREATE SEQUENCE s; DROP SEQUENCE s")
    anyone.execute("BEGIN; CREATE TEMP TABLE gone (id integer) ON COMMIT DROP; COMMIT")
    for discard in ("DISCARD TEMP", "DISCARD ALL"):
        anyone.execute("CREATE TEMP TABLE left_over (id serial)")
        anyone.execute(discard)
    anyone.execute("SET search_path = own; CREATE TABLE a (id integer PRIMARY KEY)")
    anyone.execute("CREATE TABLE b (a integer REFERENCES a)")
    anyone.execute("DROP TABLE a CASCADE; CREATE TABLE inventory (id integer); CREATE TEMP TABLE at_exit (id integer)")
    answer = refused(anyone, "DROP TABLE public.inventory_movement")
    assert answer.sqlstate == "42501"
    anyone.execute("DROP OWNED BY CURRENT_USER CASCADE")
    anyone.close()
    assert tables(conn) == sorted(COMPANIONS)
    assert_refused(conn, "DROP TABLE inventory_movement")
    assert_whole(conn)


def test_a_clerk_with_temporary_tables_sells_and_drops_them(db, conn):
    """In the transaction of a sale too, and by a role that may execute the functions; the sale is kept."""
    role, clerk = worker(conn, db, "clerk")
    conn.execute(f'GRANT TEMPORARY ON DATABASE {db.name} TO "{role}"')
    with clerk.transaction():
        clerk.execute("CREATE TEMP TABLE basket (id uuid) ON COMMIT DROP; CREATE TEMP TABLE other (id uuid)")
        sell(clerk, ONE, 1)
        clerk.execute("DROP TABLE other")
        sell(clerk, TWO, 1)
    assert_refused(conn, "DROP TABLE inventory_movement")
    assert_whole(conn)


def test_the_extension_may_be_dropped_and_made_again_and_the_database_dropped(db, conn):
    """DROP EXTENSION keeps the tables, which are then free; the trigger comes again with the extension."""
    assert_refused(conn, "DROP TABLE inventory_request")
    conn.execute("DROP EXTENSION inventory_ext")
    assert tables(conn) == sorted(COMPANIONS)
    assert conn.execute("SELECT count(*) FROM pg_event_trigger").fetchone() == (0,)
    conn.execute("BEGIN; DROP TABLE inventory_request; ROLLBACK")
    conn.execute("CREATE EXTENSION inventory_ext")
    conn.execute("BEGIN; DROP TABLE inventory_request; ROLLBACK")
    attach(conn)
    assert keys_kept(conn) == ["k"]
    assert_refused(conn, "DROP TABLE inventory_request", "DROP TABLE inventory_movement")
    conn.execute("DROP EXTENSION inventory_ext CASCADE")
    conn.execute("CREATE SCHEMA tools; CREATE EXTENSION inventory_ext SCHEMA tools; SET search_path = public, tools")
    attach(conn)
    assert_refused(conn, "DROP TABLE inventory_request", "ALTER TABLE inventory_movement DROP COLUMN actor")
    conn.execute("DROP SCHEMA tools CASCADE")
    conn.execute(f"DROP TABLE {', '.join(COMPANIONS)}")
    with psycopg.connect(db.server.dsn(), autocommit=True) as other:
        other.execute(f"CREATE DATABASE {db.name}_dropped TEMPLATE template_inventory")
        other.execute(f"DROP DATABASE {db.name}_dropped WITH (FORCE)")


def test_a_schema_with_extension_stock_and_companions_may_go_as_a_whole(db, conn):
    """Also the extension's own schema with the companions in it: the extension goes, as by DROP EXTENSION."""
    assert_refused(conn, "DROP TABLE inventory_stripe_total")
    until_idle(conn)
    conn.execute("BEGIN; DROP SCHEMA public CASCADE")
    assert tables(conn, ["inventory", *COMPANIONS]) == []
    conn.execute("ROLLBACK")
    assert_whole(conn)
    conn.execute("BEGIN; DROP EXTENSION inventory_ext; DROP TABLE inventory_movement; ROLLBACK")
    assert_whole(conn)
