"""Who may sell, and as whom the work is done.

EXECUTE alone is enough to sell and its absence is enough not to. The statements run as the stock table's owner, never
as a superuser: the owner's own triggers are the witnesses. Attaching and detaching is for the table's owner.
"""

import pytest

from shop import (
    ONE,
    UNKNOWN,
    allow_sales,
    attach,
    create_role,
    left,
    refused,
    refused_attach,
    refused_sale,
    sell,
    shop,
    stock_table,
)

# Notes who runs it, and tries something that only a superuser may do.
WITNESS = """
    CREATE TABLE witness (ran_as name, is_super bool, read_authid bool);
    CREATE FUNCTION bear_witness() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE could bool := true;
    BEGIN
        BEGIN
            PERFORM 1 FROM pg_catalog.pg_authid;
        EXCEPTION WHEN insufficient_privilege THEN could := false;
        END;
        INSERT INTO witness SELECT current_user, rolsuper, could FROM pg_roles WHERE rolname = current_user;
        RETURN NEW;
    END $$;
    CREATE TRIGGER bear_witness {timing} ON inventory FOR EACH ROW EXECUTE FUNCTION bear_witness();
"""


@pytest.fixture
def conn(db):
    """The superuser."""
    return db.connect()


@pytest.fixture
def owner(conn, db):
    """An unprivileged role that may create tables in schema public and attach them."""
    owner = create_role(conn, db, "owner")
    conn.execute(f'GRANT CREATE ON SCHEMA public TO "{owner}"')
    conn.execute(f'GRANT EXECUTE ON FUNCTION attach_inventory, detach_inventory TO "{owner}"')
    return owner


@pytest.fixture
def clerk(conn, db):
    """A role with no right but EXECUTE on decrement_inventory."""
    clerk = create_role(conn, db, "clerk")
    allow_sales(conn, clerk)
    return clerk


@pytest.fixture
def owned(db, owner):
    """The owner's connection, with an attached stock table of ten units."""
    owned = db.connect(user=owner)
    shop(owned, {ONE: "10.00"})
    return owned


def test_execute_alone_is_enough_to_sell(db, owned, clerk):
    """The clerk can sell and can neither read nor write the table."""
    till = db.connect(user=clerk)
    assert sell(till, ONE, "4")["new_quantity"] == 6
    assert left(owned, ONE) == 6
    for statement in (
        "SELECT * FROM inventory",
        "UPDATE inventory SET quantity = 0",
        "INSERT INTO inventory VALUES (gen_random_uuid(), 1)",
        "DELETE FROM inventory",
    ):
        assert refused(till, statement).sqlstate == "42501"


def test_execute_is_enough_where_even_the_schema_is_closed(db, conn, owned, clerk, owner):
    """No USAGE on the stock table's schema is needed either."""
    conn.execute(f'CREATE SCHEMA vault AUTHORIZATION "{owner}"; ALTER TABLE inventory SET SCHEMA vault')
    till = db.connect(user=clerk)
    assert refused(till, "SELECT * FROM vault.inventory").sqlstate == "42501"
    assert sell(till, ONE, "4")["new_quantity"] == 6


@pytest.mark.parametrize(
    "call",
    [
        f"decrement_inventory('{ONE}', 1)",
        f"decrement_inventory('{UNKNOWN}', -1)",
        "attach_inventory('pg_class')",
        "detach_inventory()",
    ],
)
def test_without_execute_nothing_can_be_called(db, conn, owned, call):
    """EXECUTE is revoked from PUBLIC: 42501, before any argument is looked at."""
    stranger = db.connect(user=create_role(conn, db, "stranger"))
    assert refused(stranger, f"SELECT {call}").sqlstate == "42501"
    assert left(owned, ONE) == 10


def test_even_the_owner_of_the_table_needs_execute(db, owned):
    """Owning the stock is not the right to call."""
    assert refused_sale(owned, ONE, "1").sqlstate == "42501"


@pytest.mark.parametrize("timing", ["BEFORE UPDATE", "AFTER UPDATE"])
def test_a_trigger_of_the_owner_runs_as_the_owner(db, conn, owned, owner, clerk, timing):
    """For every caller (a clerk, a superuser) the owner's trigger runs as the owner, with the owner's rights only."""
    owned.execute(WITNESS.format(timing=timing))
    sell(db.connect(user=clerk), ONE, "1")
    sell(conn, ONE, "1")
    assert owned.execute("SELECT * FROM witness").fetchall() == [(owner, False, False)] * 2
    assert conn.execute("SELECT current_user").fetchone()[0] == "postgres"


@pytest.mark.parametrize(
    "escape", ["RESET ROLE", "SET ROLE postgres", "RESET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION DEFAULT"]
)
def test_a_trigger_of_the_owner_cannot_climb_to_the_calling_superuser(conn, owned, escape):
    """When a superuser sells, the owner's trigger must not be able to become that superuser."""
    owned.execute(
        f"""
        CREATE FUNCTION climb() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN {escape}; RETURN NEW; END $$;
        CREATE TRIGGER climb BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION climb()
        """
    )
    assert refused_sale(conn, ONE, "1").sqlstate == "42501"
    assert left(conn, ONE) == 10
    assert conn.execute("SELECT current_user, session_user").fetchone() == ("postgres", "postgres")
    conn.execute("SET ROLE postgres")


def test_the_caller_is_itself_again_after_a_sale_and_after_a_refusal(db, owned, clerk):
    """The identity is restored on every way out, inside a transaction as well."""
    till = db.connect(user=clerk, autocommit=False)
    for quantity in ("1", "100"):
        till.execute("SAVEPOINT here")
        try:
            sell(till, ONE, quantity)
        except Exception as error:
            assert error.diag.sqlstate == "IV001"
            till.execute("ROLLBACK TO here")
        assert till.execute("SELECT current_user, session_user").fetchone() == (clerk, clerk)
        till.execute("SAVEPOINT peek")
        assert refused(till, "SELECT * FROM inventory").sqlstate == "42501"
        till.execute("ROLLBACK TO peek")
    till.execute(f'SET ROLE "{clerk}"; RESET ROLE')


def test_a_change_of_owner_counts_at_once(db, conn, owned, owner, clerk):
    """A till that has sold before runs as the new owner with its next sale."""
    owned.execute(WITNESS.format(timing="AFTER UPDATE"))
    till = db.connect(user=clerk)
    sell(till, ONE, "1")
    heir = create_role(conn, db, "heir")
    conn.execute(f'ALTER TABLE inventory OWNER TO "{heir}"; GRANT INSERT ON witness TO "{heir}"')
    assert refused_sale(till, ONE, "1").reason == "companion_changed"
    for suffix in ("movement", "request", "stripe", "stripe_total"):
        conn.execute(f'ALTER TABLE inventory_{suffix} OWNER TO "{heir}"')
    conn.execute(f'ALTER FUNCTION bear_witness() OWNER TO "{heir}"')
    sell(till, ONE, "1")
    assert [row[0] for row in conn.execute("SELECT ran_as FROM witness").fetchall()] == [owner, heir]


def test_an_owner_who_revokes_a_right_from_itself_is_obeyed(db, conn, owned, owner, clerk):
    """The statements run with the owner's actual rights: without UPDATE the owner's shop is shut."""
    till = db.connect(user=clerk)
    sell(till, ONE, "1")
    owned.execute(f'REVOKE UPDATE ON inventory FROM "{owner}"')
    assert refused_sale(till, ONE, "1").sqlstate == "42501"
    assert left(conn, ONE) == 9


def test_forced_row_level_security_binds_the_owner_too(db, conn, owned, owner, clerk):
    """FORCE ROW LEVEL SECURITY is the owner's wish about itself: what it hides is unknown."""
    owned.execute("ALTER TABLE inventory ENABLE ROW LEVEL SECURITY; ALTER TABLE inventory FORCE ROW LEVEL SECURITY")
    till = db.connect(user=clerk)
    assert refused_sale(till, ONE, "1").sqlstate == "IV002"
    owned.execute("CREATE POLICY all_of_it ON inventory USING (quantity > 5)")
    assert sell(till, ONE, "1")["new_quantity"] == 9


def test_ordinary_row_level_security_does_not_bind_sales_as_owner(db, owned, clerk):
    """With p_run_as => 'owner' policies are for direct readers; the sale is decided by the owner's rights."""
    owned.execute("ALTER TABLE inventory ENABLE ROW LEVEL SECURITY")
    assert sell(db.connect(user=clerk), ONE, "1")["new_quantity"] == 9


def test_attach_needs_ownership_of_the_table(db, conn, owner):
    """EXECUTE on attach_inventory is not enough, nor are all grants on the table; a member of the owner may."""
    stock_table(conn, {ONE: "1"})
    conn.execute(f'GRANT ALL ON inventory TO "{owner}"')
    session = db.connect(user=owner)
    assert refused_attach(session).sqlstate == "42501"
    assert (
        conn.execute(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 'inventory'::regclass AND contype = 'c'"
        ).fetchone()[0]
        == 0
    )
    holder = create_role(conn, db, "holder", "NOLOGIN")
    conn.execute(f'GRANT CREATE ON SCHEMA public TO "{holder}"; ALTER TABLE inventory OWNER TO "{holder}"')
    conn.execute(f'GRANT "{holder}" TO "{owner}"')
    attach(session)
    assert sell(conn, ONE, "1")["new_quantity"] == 0


def test_detach_needs_ownership_of_the_table(db, conn, owned):
    """A role that may not attach the table may not detach it: the shop would be shut by a stranger."""
    rival = create_role(conn, db, "rival")
    conn.execute(f'GRANT EXECUTE ON FUNCTION detach_inventory TO "{rival}"')
    assert refused(db.connect(user=rival), "SELECT detach_inventory()").sqlstate == "42501"
    assert sell(conn, ONE, "1")["new_quantity"] == 9
    owned.execute("SELECT detach_inventory()")
    assert refused_sale(conn, ONE, "1").sqlstate == "55000"


def test_the_config_table_cannot_be_written_by_a_caller(db, conn, owned, owner, clerk):
    """Which table is sold from is recorded by attach alone: no role but a superuser may write it."""
    config = [
        name
        for (name,) in conn.execute(
            "SELECT objid::regclass::text FROM pg_depend JOIN pg_class ON pg_class.oid = objid "
            "WHERE classid = 'pg_class'::regclass AND deptype = 'e' AND relkind = 'r'"
        ).fetchall()
    ]
    assert config, "the extension keeps its attachment somewhere"
    for user in (owner, clerk):
        session = db.connect(user=user)
        for table in config:
            assert refused(session, f"DELETE FROM {table}").sqlstate == "42501"
            assert refused(session, f"INSERT INTO {table} DEFAULT VALUES").sqlstate == "42501"
