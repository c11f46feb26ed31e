"""The tables of the extension are written as its owner, a superuser: no code of anybody runs on that.

The rights on them can be granted by accident, as with GRANT ALL ON ALL TABLES: whoever then made a trigger on one of
them became superuser at the next attach.
"""

import pytest

from shop import ONE, attach, create_role, fill, refused, sell
from tenants import tenant

TABLES = ("inventory_attachment", "inventory_sharing")


@pytest.fixture
def anna(db):
    return tenant(db, db.connect(), "anna", {ONE: 100})


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("events", ["BEFORE INSERT OR UPDATE OR DELETE", "AFTER INSERT OR UPDATE OR DELETE"])
def test_a_trigger_on_a_table_of_the_extension_is_not_run(db, anna, table, events):
    mallory = create_role(anna.admin, db, "mallory")
    anna.admin.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{mallory}"; CREATE SCHEMA m')
    anna.admin.execute(f'GRANT ALL ON SCHEMA m TO "{mallory}"')
    session = db.connect(user=mallory)
    session.execute(
        f"""CREATE FUNCTION m.f() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN EXECUTE 'ALTER ROLE "{mallory}" SUPERUSER'; RETURN NEW; END $$;
            CREATE TRIGGER t {events} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION m.f()"""
    )
    bert = tenant(db, anna.admin, "bert", {ONE: 5}, attached=False)
    calls = ["attach_inventory('bert.inventory')", "detach_inventory('anna.inventory')"]
    owners = [bert.session(bert.owner), anna.session(anna.owner)]
    for owner, call in zip(owners, calls, strict=True):
        refusal = refused(owner, f"SELECT {call}")
        assert (refusal.sqlstate, refusal.reason) == ("55000", "configuration_trigger")
        assert refusal.facts["table"] == table
    assert refused(owners[1], "SELECT stripe_inventory(%s::uuid, 2)", (ONE,)).reason == "configuration_trigger"
    assert anna.admin.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (mallory,)).fetchone() == (False,)
    assert sell(anna.session(), ONE, 1)["new_quantity"] == 99
    anna.admin.execute(f"DROP TRIGGER t ON {table}")
    for owner, call in zip(owners, calls, strict=True):
        owner.execute(f"SELECT {call}")


def test_default_privileges_open_nothing_in_a_schema_whose_name_is_quoted(db):
    """The block that takes them back compared the name with the quoted one, and found no object."""
    conn = db.connect()
    mallory = create_role(conn, db, "mallory")
    conn.execute('DROP EXTENSION inventory_ext; CREATE SCHEMA "Inv"')
    conn.execute(f'GRANT USAGE ON SCHEMA "Inv" TO "{mallory}"')
    for kind in ("TABLES", "FUNCTIONS"):
        conn.execute(f'ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO "{mallory}"')
    conn.execute('CREATE EXTENSION inventory_ext SCHEMA "Inv"; SET search_path = public, "Inv"')
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer)")
    fill(conn, {ONE: 5})
    attach(conn)
    session = db.connect(user=mallory, options="-c search_path=public,Inv")
    for call in ("decrement_inventory(%s::uuid, 1)", "restock_inventory(%s::uuid, 1)", "available_inventory(%s::uuid)"):
        assert refused(session, f'SELECT "Inv".{call}', (ONE,)).sqlstate == "42501"
    for table in TABLES:
        assert refused(session, f'SELECT FROM "Inv".{table}').sqlstate == "42501"
