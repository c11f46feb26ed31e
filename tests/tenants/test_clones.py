"""A tenant is made from another: by DDL, from a dump of its schema, or with the whole database.

A copy has the columns, the rows and even the triggers of its original, and no row in the configuration: until it is
attached it is nobody's stock, and the original's stock is not sold in its place.
"""

import subprocess

import psycopg
import pytest

from books import audit, call, movements
from shop import ONE, TWO, attach, refused, refused_sale, sell, until
from tenants import Tenant, tenant


@pytest.fixture
def anna(db):
    one = tenant(db, db.connect(), "anna", {ONE: 10, TWO: 10})
    till = one.session()
    sell(till, ONE, 1)
    call(till, "decrement_item", p_item=TWO, p_quantity=1, p_idempotency_key="k")
    till.execute("SELECT stripe_inventory(%s::uuid, 2)", (TWO,))
    return one


def of_schema(anna, name) -> Tenant:
    return Tenant(anna.db, anna.admin, name, anna.owner, anna.till)


@pytest.fixture
def dumped(anna):
    """The schema `copy`, restored from a dump of the schema `anna` in which every name was replaced."""
    env = anna.db.server.env()
    dump = subprocess.run(
        ["pg_dump", "-n", "anna", "-d", anna.db.name], env=env, capture_output=True, text=True, check=True
    )
    renamed = dump.stdout.replace("anna.", "copy.").replace("SCHEMA anna", "SCHEMA copy")
    command = ["psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", anna.db.name]
    done = subprocess.run(command, env=env, input=renamed, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return of_schema(anna, "copy")


@pytest.fixture
def made_by_ddl(anna):
    anna.admin.execute(
        f"""CREATE SCHEMA copy AUTHORIZATION "{anna.owner}"; GRANT USAGE ON SCHEMA copy TO "{anna.till}";
            SET ROLE "{anna.owner}";
            CREATE TABLE copy.inventory (LIKE anna.inventory INCLUDING ALL);
            INSERT INTO copy.inventory SELECT * FROM anna.inventory;
            RESET ROLE"""
    )
    return of_schema(anna, "copy")


@pytest.mark.parametrize("way", ["dumped", "made_by_ddl"])
def test_a_copy_is_attached_before_it_sells(request, anna, way):
    copy = request.getfixturevalue(way)
    till = copy.session(path="copy,anna")
    assert refused_sale(till, ONE, 1).reason == "shadowed_table"
    attach(copy.session(copy.owner), "copy.inventory")
    assert sell(till, ONE, 2)["new_quantity"] == 7
    assert sell(anna.session(), ONE, 1)["new_quantity"] == 8
    for one in (anna, copy):
        one.session().execute("SELECT unstripe_inventory(%s::uuid)", (TWO,))
        one.audit()


def test_the_ledger_and_the_keys_of_a_dumped_schema_go_on(anna, dumped):
    before = len(dumped.kinds())
    attach(dumped.session(dumped.owner), "copy.inventory")
    assert dumped.kinds()[:before] == anna.kinds()[:before]
    replayed = call(dumped.session(), "decrement_item", p_item=TWO, p_quantity=1, p_idempotency_key="k")
    assert replayed["replayed"] is True


def test_native_writes_of_a_copy_are_refused_until_it_is_attached(dumped):
    """Its triggers came along; they find no attachment."""
    refusal = refused(dumped.admin, f"UPDATE {dumped.stock} SET quantity = 3 WHERE id = '{ONE}'")
    assert (refusal.sqlstate, refusal.reason) == ("55000", "stray_trigger")
    attach(dumped.session(dumped.owner), dumped.stock)
    dumped.admin.execute(f"UPDATE {dumped.stock} SET quantity = 3 WHERE id = '{ONE}'")
    dumped.session().execute("SELECT unstripe_inventory(%s::uuid)", (TWO,))
    dumped.audit()


@pytest.fixture
def two(db):
    """Two tenants, of which one keeps its companions in another schema."""
    admin = db.connect()
    admin.execute("CREATE SCHEMA books; GRANT ALL ON SCHEMA books TO PUBLIC")
    anna = tenant(db, admin, "anna", {ONE: 10, TWO: 10})
    bert = tenant(db, admin, "bert", {1: 500, 2: 500}, id_type="bigint", p_companion_schema="books")
    anna.session().execute("SELECT stripe_inventory(%s::uuid, 2)", (TWO,))
    bert.session().execute("SELECT stripe_inventory(2, 2)")
    return anna, bert


def sell_both(conn, first=9):
    conn.execute("SET search_path = anna, public")
    assert sell(conn, ONE, 1)["new_quantity"] == first
    sell(conn, TWO, 1)
    conn.execute("SET search_path = bert, public")
    call(conn, "decrement_item", p_item=1, p_quantity=1)
    call(conn, "decrement_item", p_item=2, p_quantity=1)
    shown = (
        "SELECT (SELECT quantity FROM anna.inventory WHERE id = %s), (SELECT quantity FROM bert.inventory WHERE id = 2)"
    )
    until(lambda: conn.execute(shown, (TWO,)).fetchone() == (9, 499), "the totals of both are shown")
    audit(conn, "anna.inventory", "anna.inventory_movement")
    audit(conn, "bert.inventory", "books.inventory_movement")


def test_a_restored_database_has_both(two, db):
    anna, _ = two
    env, restored = db.server.env(), f"{db.name}_restored"
    dump = subprocess.run(["pg_dump", "-d", db.name], env=env, capture_output=True, text=True, check=True)
    anna.admin.execute(f"CREATE DATABASE {restored}")
    try:
        command = ["psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", restored]
        done = subprocess.run(command, env=env, input=dump.stdout, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        with psycopg.connect(db.server.dsn(restored), autocommit=True) as conn:
            sell_both(conn)
            assert [m.kind for m in movements(conn, table="books.inventory_movement") if m.item == 1] == [
                "opening",
                "sale",
            ]
    finally:
        anna.admin.execute(f"DROP DATABASE {restored} WITH (FORCE)")


def test_a_database_made_from_it_has_both(two, db):
    anna, bert = two
    copy = f"{db.name}_copy"
    anna.admin.close()
    with psycopg.connect(db.server.dsn(), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (db.name,))
        admin.execute(f"CREATE DATABASE {copy} TEMPLATE {db.name}")
        try:
            with psycopg.connect(db.server.dsn(copy), autocommit=True) as conn:
                sell_both(conn)
        finally:
            admin.execute(f"DROP DATABASE {copy} WITH (FORCE)")
    with db.connect() as conn:
        sell_both(conn)
