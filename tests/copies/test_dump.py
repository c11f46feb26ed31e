"""A dump restored is the same shop: stock, ledger, keys, the user's own things, and selling goes on.

pg_dump and pg_restore of the server's own version, plain and custom format, into a fresh database or a fresh cluster.
The traps are columns that were dropped, renamed or exchanged, so that neither a column's number nor its old name is
the truth.
"""

import subprocess
from contextlib import contextmanager
from decimal import Decimal

import psycopg
import pytest

from books import audit, call, keys_kept, last_movement, movements, order, refused_order, steps
from dev.server import Server
from shop import ONE, TWO, attach, create_role, fill, item, left, refused, refused_sale, sell, shop, stock_of, until

FORMATS = ["plain", "custom"]


def tool(server, *command, **kwargs):
    """A client program that must say nothing on its error output."""
    done = subprocess.run(command, env=server.env(), capture_output=True, **kwargs)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b"", done.stderr.decode()
    return done.stdout


def dump(db, form, *options):
    return tool(db.server, "pg_dump", "-d", db.name, f"--format={form}", *options)


def restore(server, name, form, content, *options):
    """Into an existing database, all of it or nothing; any error fails."""
    if form == "plain":
        tool(
            server,
            "psql",
            "-X",
            "-q",
            "-o",
            "/dev/null",
            "-v",
            "ON_ERROR_STOP=1",
            "--single-transaction",
            "-d",
            name,
            input=content,
        )
    else:
        tool(server, "pg_restore", "--exit-on-error", "--single-transaction", "-d", name, *options, input=content)


@contextmanager
def new_database(server, name):
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
        yield
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def copy_of(db, form, server=None, content=None):
    """A connection to a new database with what the dump holds, in the same cluster or another."""
    server = server or db.server
    name = f"{db.name}_{form}"
    with new_database(server, name):
        restore(server, name, form, content or dump(db, form))
        with psycopg.connect(server.dsn(name), autocommit=True) as restored:
            yield restored


@pytest.fixture
def conn(db):
    """A shop in use, with things of the user's own on the stock table and on the ledger."""
    conn = db.connect()
    shop(conn, {ONE: "10.00", TWO: "5.00"}, columns=", name text DEFAULT 'a thing', shelf int")
    conn.execute(
        "CREATE INDEX by_name ON inventory (name);"
        "CREATE TABLE price_log (item uuid, ran_as text);"
        "CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO public.price_log VALUES (NEW.id, current_user); RETURN NEW; END $$;"
        "CREATE TRIGGER log_it AFTER UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION log_it();"
        "ALTER TABLE inventory ENABLE ROW LEVEL SECURITY; CREATE POLICY shelf ON inventory USING (shelf IS NULL);"
        "ALTER TABLE inventory_movement ADD COLUMN note text; CREATE INDEX by_reference ON inventory_movement "
        "(reference);"
        "ALTER TABLE inventory_movement ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON inventory_movement FOR SELECT "
        "USING (actor = current_user)"
    )
    sell(conn, ONE, 1)
    order(conn, (ONE, 1), (TWO, 1), p_reference="order 1", p_idempotency_key="k1")
    conn.execute("UPDATE inventory SET quantity = quantity + 0.50")
    return conn


def contents(conn):
    """All that must come through: rows, and the definitions of the user's things and of ours, by name."""
    tables = ("inventory", "inventory_movement", "inventory_request", "inventory_stripe", "price_log")
    rows = [conn.execute(f"SELECT t::text FROM (SELECT * FROM {table} ORDER BY 1) AS t").fetchall() for table in tables]
    catalog = conn.execute(
        "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal "
        "UNION ALL SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' "
        "UNION ALL SELECT tablename, policyname || qual FROM pg_policies "
        "UNION ALL SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace "
        "= 'public'::regnamespace "
        "UNION ALL SELECT relname, array_to_string(relacl, ',') FROM pg_class WHERE relnamespace = "
        "'public'::regnamespace "
        "UNION ALL SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = "
        "'public'::regnamespace AND relkind = 'r' "
        "ORDER BY 1, 2"
    ).fetchall()
    configured = conn.execute(
        "SELECT stock_table, movement_table, request_table, stripe_table, run_as FROM inventory_attachment"
    ).fetchall()
    return rows, catalog, configured


@pytest.mark.parametrize("form", FORMATS)
def test_a_restored_shop_is_the_same_and_goes_on(db, conn, form):
    """No error, no movement made by the restore, identity goes on, the guard stands, keys are still known."""
    with copy_of(db, form) as restored:
        assert contents(restored) == contents(conn)
        after = last_movement(restored)
        assert sell(restored, ONE, 1)["new_quantity"] == Decimal("7.50")
        assert (
            restored.execute(
                "SELECT min(movement_id) FROM inventory_movement WHERE movement_id > %s", (after,)
            ).fetchone()[0]
            > after
        )
        assert order(restored, (TWO, 1), (ONE, 1), p_reference="order 1", p_idempotency_key="k1")["replayed"] is True
        assert refused_order(restored, (ONE, 2), p_reference="order 1", p_idempotency_key="k1").sqlstate == "IV003"
        restored.execute("UPDATE inventory SET quantity = quantity - 1 WHERE id = %s", (TWO,))
        assert steps(restored, after=after) == [("sale", 8.5, 7.5), ("external", 4.5, 3.5)]
        assert refused(restored, "DELETE FROM inventory_movement").reason == "ledger_protected"
        assert refused(restored, "TRUNCATE inventory").reason == "truncate_refused"
        audit(restored)
    audit(conn)


@pytest.mark.parametrize("form", FORMATS)
def test_striped_items_are_restored_striped(db, conn, form):
    """The stripes are the stock, and stay guarded; a worker goes on showing their total."""
    conn.execute("SELECT stripe_inventory(%s, 4)", (ONE,))
    with copy_of(db, form) as restored:
        assert contents(restored) == contents(conn)
        answer = sell(restored, ONE, 7)
        assert answer["deducted"] == 7 and "stripe" in answer
        assert refused(restored, f"UPDATE inventory SET quantity = 1 WHERE id = '{ONE}'").reason == "striped_item"
        assert refused(restored, "DELETE FROM inventory_stripe").reason == "stripes_protected"
        until(lambda: left(restored, ONE) == Decimal("1.50"), "the row shows the total")
        audit(restored)
    audit(conn)


def test_a_dump_of_a_restored_shop_is_the_same_dump(db, conn):
    """Nothing is lost or added on the way: the second dump differs from the first in no line that means anything."""
    first = dump(db, "plain")
    with copy_of(db, "plain", content=first) as restored:
        second = dump(type(db)(db.server, restored.info.dbname), "plain")

    def said(text):
        return [
            line
            for line in text.decode().splitlines()
            if line and not line.startswith(("--", r"\restrict", r"\unrestrict"))
        ]

    assert said(second) == said(first)


@pytest.mark.parametrize("form", FORMATS)
def test_data_alone_is_restored_without_the_triggers(db, conn, form):
    """--data-only --disable-triggers, into a database with the schema: the ledger is copied, not written anew."""
    name = f"{db.name}_data"
    schema, data = dump(db, form, "--schema-only"), dump(db, form, "--data-only", "--disable-triggers")
    with new_database(db.server, name), psycopg.connect(db.server.dsn(name), autocommit=True) as restored:
        restore(db.server, name, form, schema)
        restore(db.server, name, form, data, "--data-only", "--disable-triggers")
        assert contents(restored) == contents(conn)
        sell(restored, ONE, 1)
        audit(restored)


@pytest.mark.parametrize("form", FORMATS)
def test_a_dropped_column_before_the_quantity(db, form):
    """In a fresh cluster the columns have other numbers than in the old one: it is still the same column that is
    sold."""
    conn = db.connect()
    conn.execute(
        "CREATE TABLE inventory (old_count int, id uuid PRIMARY KEY, older int, tax numeric DEFAULT 7, quantity "
        "numeric(12,2))"
    )
    conn.execute("ALTER TABLE inventory DROP COLUMN old_count, DROP COLUMN older")
    fill(conn, {ONE: "10.00"})
    attach(conn)
    sell(conn, ONE, 1)
    content = dump(db, form)
    with Server(pg=db.server.pg) as fresh, copy_of(db, form, fresh, content) as restored:
        assert sell(restored, ONE, 1)["new_quantity"] == 8
        order(restored, (ONE, 2))
        restored.execute("UPDATE inventory SET tax = 19")
        assert restored.execute("SELECT id, tax, quantity FROM inventory").fetchall() == [(ONE, 19, 6)]
        assert steps(restored) == [("opening", 0, 10), ("sale", 10, 9), ("sale", 9, 8), ("sale", 8, 6)]
        audit(restored)


@pytest.mark.parametrize("form", FORMATS)
def test_a_renamed_quantity_whose_old_name_another_column_has_taken(db, form):
    """quantity became on_hand and ordered became quantity: before and after a restore it is on_hand that is sold."""
    conn = db.connect()
    shop(conn, {ONE: "10.00"}, columns=", ordered numeric(12,2) DEFAULT 1000, key uuid DEFAULT gen_random_uuid()")
    conn.execute("ALTER TABLE inventory RENAME quantity TO on_hand; ALTER TABLE inventory RENAME ordered TO quantity;"
                 "ALTER TABLE inventory RENAME id TO item; ALTER TABLE inventory RENAME key TO id")  # fmt: skip
    assert sell(conn, ONE, 1)["new_quantity"] == 9
    with copy_of(db, form) as restored:
        assert sell(restored, ONE, 1)["new_quantity"] == 8
        order(restored, (ONE, 2))
        restored.execute("UPDATE inventory SET quantity = 5, id = gen_random_uuid()")
        restored.execute("UPDATE inventory SET on_hand = on_hand - 1")
        assert restored.execute("SELECT item, on_hand, quantity FROM inventory").fetchall() == [(ONE, 5, 5)]
        assert steps(restored, ONE)[-3:] == [("sale", 9, 8), ("sale", 8, 6), ("external", 6, 5)]
        audit(restored, id_column="item", quantity_column="on_hand")


@pytest.mark.parametrize("form", FORMATS)
def test_an_owners_shop_in_a_schema_of_its_own(db, form):
    """The owner is no superuser, the extension is elsewhere, names need quotes; owners and grants are restored with
    it."""
    conn = db.connect()
    owner_role, clerk = (create_role(conn, db, name) for name in ("owner", "clerk"))
    conn.execute(
        f"DROP EXTENSION inventory_ext; CREATE SCHEMA tools; CREATE EXTENSION inventory_ext SCHEMA tools;"
        f'CREATE SCHEMA "My Shop" AUTHORIZATION "{owner_role}";'
        f'GRANT USAGE ON SCHEMA tools TO "{owner_role}", "{clerk}";'
        f'GRANT EXECUTE ON FUNCTION tools.attach_inventory TO "{owner_role}"; GRANT EXECUTE ON FUNCTION '
        f'tools.decrement_inventory TO "{clerk}"'
    )
    owner = db.connect(user=owner_role)
    owner.execute("SET search_path = tools")
    shop(owner, {ONE: "10.00"}, '"My Shop"."Stock"')
    ledger = '"My Shop"."Stock_movement"'
    with copy_of(db, form) as restored:
        with psycopg.connect(db.server.dsn(restored.info.dbname, clerk), autocommit=True) as till:
            till.execute("SET search_path = tools")
            assert sell(till, ONE, 1)["new_quantity"] == 9
        assert steps(restored, table=ledger) == [("opening", 0, 10), ("sale", 10, 9)]
        assert movements(restored, table=ledger)[-1].actor == clerk
        audit(restored, '"My Shop"."Stock"', ledger)


@pytest.mark.parametrize("form", FORMATS)
def test_a_partitioned_shop(db, form):
    """Row triggers of partitions come with those of the table; the guards against TRUNCATE come back too."""
    conn = db.connect()
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY HASH (id)")
    for n in range(2):
        conn.execute(f"CREATE TABLE p{n} PARTITION OF inventory FOR VALUES WITH (MODULUS 2, REMAINDER {n})")
    stock = {item(n): n for n in range(1, 11)}
    fill(conn, stock)
    attach(conn)
    with copy_of(db, form) as restored:
        assert len(movements(restored)) == 10
        order(restored, *[(key, 1) for key in stock])
        for table in ("inventory", "p0", "p1"):
            assert refused(restored, f"TRUNCATE {table}").reason == "truncate_refused"
        restored.execute("UPDATE p0 SET quantity = quantity + 1; UPDATE inventory SET quantity = quantity + 1")
        audit(restored)
        restored.execute("DROP EXTENSION inventory_ext")
        assert len(stock_of(restored)) == 10


def test_a_shop_without_a_ledger_and_one_that_is_detached(db):
    """What is not attached is not restored as attached; the resting ledger comes through guarded."""
    conn = db.connect()
    shop(conn, {ONE: 10}, p_ledger=False)
    with copy_of(db, "plain") as restored:
        sell(restored, ONE, 1)
        assert restored.execute("SELECT to_regclass('inventory_movement')").fetchone() == (None,)
    conn.execute("SELECT detach_inventory()")
    attach(conn)
    conn.execute("SELECT detach_inventory()")
    with copy_of(db, "custom") as restored:
        assert refused_sale(restored, ONE, 1).reason == "not_attached"
        assert refused(restored, "DELETE FROM inventory_movement").reason == "ledger_protected"
        attach(restored)
        assert steps(restored) == [("opening", 0, 10)]
        audit(restored)


def test_drop_extension_keeps_stock_and_ledger_and_a_new_one_goes_on(db, conn):
    """No CASCADE is needed, nothing of the user's goes; what happened in between is an external movement."""
    before, (rows, catalog, _) = last_movement(conn), contents(conn)
    keys = keys_kept(conn)
    conn.execute("DROP EXTENSION inventory_ext")
    assert conn.execute("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '0_inventory%'").fetchone() == (0,)
    conn.execute("UPDATE inventory SET name = 'still here', quantity = quantity - 1 WHERE id = %s", (ONE,))
    assert last_movement(conn) == before
    conn.execute("CREATE EXTENSION inventory_ext")
    assert refused_sale(conn, ONE, 1).reason == "not_attached"
    attach(conn)
    sell(conn, ONE, 1)
    assert steps(conn, after=before) == [("external", 8.5, 7.5), ("sale", 7.5, 6.5)]
    assert keys_kept(conn) == keys
    assert contents(conn)[1] == catalog
    assert contents(conn)[0][2] == rows[2]
    assert call(conn, "purge_requests", p_older_than="0 seconds") == len(keys)
    assert left(conn, ONE) == Decimal("6.50")
    audit(conn)
