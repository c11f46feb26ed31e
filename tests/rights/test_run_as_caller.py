"""p_run_as => 'caller': the stock is locked and updated with the caller's own rights.

Grants, column grants and row-level security decide what can be sold. What a caller may not see is unknown to it, in
the very same words, so that no caller can probe another tenant's stock.
"""

import pytest

from shop import (
    ONE,
    TWO,
    UNKNOWN,
    allow_sales,
    create_role,
    item,
    left,
    refused_attach,
    refused_sale,
    sell,
    shop,
    stock_of,
    stock_table,
)

THREE = item(3)


@pytest.fixture
def conn(db):
    """The superuser; the shop is attached to run as the caller."""
    conn = db.connect()
    shop(conn, {ONE: "10.00", TWO: "20.00", THREE: "30.00"}, columns=", tenant name, note text", p_run_as="caller")
    return conn


@pytest.fixture
def clerk(conn, db):
    clerk = create_role(conn, db, "clerk")
    allow_sales(conn, clerk)
    return clerk


@pytest.fixture
def till(db, clerk):
    return db.connect(user=clerk)


@pytest.fixture
def tenants(conn, db):
    """Two roles, each with one item of its own: ONE and TWO; THREE belongs to none."""
    roles = [create_role(conn, db, name) for name in ("red", "blue")]
    allow_sales(conn, *roles)
    for role, key in zip(roles, (ONE, TWO)):
        conn.execute(f'GRANT SELECT, UPDATE ON inventory TO "{role}"')
        conn.execute("UPDATE inventory SET tenant = %s WHERE id = %s", (role, key))
    conn.execute("ALTER TABLE inventory ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY own ON inventory USING (tenant = current_user)")
    return roles


def test_without_a_grant_on_the_table_execute_is_not_enough(conn, clerk, till):
    """42501, PostgreSQL's own, and nothing changed; with the grants the same session sells."""
    assert refused_sale(till, ONE, "1").sqlstate == "42501"
    conn.execute(f'GRANT SELECT ON inventory TO "{clerk}"')
    assert refused_sale(till, ONE, "1").sqlstate == "42501"
    assert left(conn, ONE) == 10
    conn.execute(f'GRANT UPDATE ON inventory TO "{clerk}"')
    assert sell(till, ONE, "1")["new_quantity"] == 9
    conn.execute(f'REVOKE UPDATE ON inventory FROM "{clerk}"')
    assert refused_sale(till, ONE, "1").sqlstate == "42501"
    assert left(conn, ONE) == 9


def test_grants_on_the_two_columns_are_enough(conn, clerk, till):
    """A caller who may read id and quantity and update quantity has every right that a sale needs."""
    conn.execute(f'GRANT SELECT (id, quantity), UPDATE (quantity) ON inventory TO "{clerk}"')
    assert sell(till, ONE, "1")["new_quantity"] == 9
    answer = refused_sale(till, ONE, "10")
    assert (answer.sqlstate, answer.facts["available"]) == ("IV001", 9)
    assert refused_sale(till, UNKNOWN, "1").sqlstate == "IV002"


def test_a_grant_on_another_column_is_not_enough(conn, clerk, till):
    """UPDATE on note allows to lock the row, and still not to change its quantity."""
    conn.execute(f'GRANT SELECT, UPDATE (note) ON inventory TO "{clerk}"')
    assert refused_sale(till, ONE, "1").sqlstate == "42501"
    assert left(conn, ONE) == 10


def test_each_tenant_sells_its_own_item_only(db, conn, tenants):
    """Row-level security decides, as in any statement of the tenant's own."""
    red, blue = (db.connect(user=role) for role in tenants)
    assert sell(red, ONE, "1")["new_quantity"] == 9
    assert sell(blue, TWO, "1")["new_quantity"] == 19
    assert refused_sale(red, TWO, "1").sqlstate == "IV002"
    assert refused_sale(blue, ONE, "1").sqlstate == "IV002"
    assert stock_of(conn) == {ONE: 9, TWO: 19, THREE: 30}


@pytest.mark.parametrize("style", ["sqlstate", "postgrest"])
@pytest.mark.parametrize("quantity", ["1", "1000000"])
def test_another_tenants_item_answers_exactly_like_an_unknown_one(db, conn, tenants, quantity, style):
    """Byte for byte but for the id: code, message, detail and hint, in stock or not."""
    red = db.connect(user=tenants[0])
    red.execute(f"SET inventory_ext.error_style = '{style}'")
    foreign = refused_sale(red, TWO, quantity)
    unknown = refused_sale(red, UNKNOWN, quantity)
    assert foreign.sqlstate == unknown.sqlstate == {"sqlstate": "IV002", "postgrest": "PT404"}[style]
    assert foreign.message == unknown.message
    assert foreign.detail == unknown.detail.replace(str(UNKNOWN), str(TWO))
    assert foreign.hint == unknown.hint


def test_one_session_that_changes_role_sells_with_each_roles_rights(db, conn, tenants):
    """A pooled connection switches tenants with SET ROLE: a plan of one role is never used with another's rights."""
    red, blue = tenants
    pooled = db.connect()
    for _ in range(7):
        pooled.execute(f'SET ROLE "{red}"')
        assert sell(pooled, ONE, "1")["success"] is True
        assert refused_sale(pooled, TWO, "1").sqlstate == "IV002"
        pooled.execute(f'SET ROLE "{blue}"')
        assert sell(pooled, TWO, "1")["success"] is True
        assert refused_sale(pooled, ONE, "1").sqlstate == "IV002"
    pooled.execute("RESET ROLE")
    assert sell(pooled, THREE, "1")["success"] is True
    assert stock_of(conn) == {ONE: 3, TWO: 13, THREE: 29}


def test_a_policy_by_setting_follows_the_setting(db, conn, clerk, till):
    """Supabase-style policies read a setting of the transaction: each call is decided by its own value."""
    conn.execute(f'GRANT SELECT, UPDATE ON inventory TO "{clerk}"')
    conn.execute("UPDATE inventory SET tenant = 'a' WHERE id = %s", (ONE,))
    conn.execute("ALTER TABLE inventory ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY by_claim ON inventory USING (tenant = current_setting('shop.tenant', true))")
    for tenant, known in (("b", False), ("a", True), ("b", False), ("a", True)):
        till.execute("SELECT set_config('shop.tenant', %s, false)", (tenant,))
        if known:
            assert sell(till, ONE, "1")["success"] is True
        else:
            assert refused_sale(till, ONE, "1").sqlstate == "IV002"
    assert left(conn, ONE) == 8


def test_an_item_that_can_be_seen_but_not_updated_is_unknown_and_the_call_ends(conn, clerk, till):
    """The locking look finds nothing and the plain look finds enough: that must not go round for ever."""
    conn.execute(f'GRANT SELECT, UPDATE ON inventory TO "{clerk}"')
    conn.execute("ALTER TABLE inventory ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY see ON inventory FOR SELECT USING (true)")
    conn.execute(f"CREATE POLICY change ON inventory FOR UPDATE USING (id = '{TWO}')")
    till.execute("SET statement_timeout = '20s'")
    assert refused_sale(till, ONE, "1").sqlstate == "IV002"
    assert sell(till, TWO, "1")["new_quantity"] == 19
    # Short as well as closed: either may be reported, and nothing is sold.
    assert refused_sale(till, ONE, "11").sqlstate in ("IV001", "IV002")
    assert left(conn, ONE) == 10


def test_a_policy_that_forbids_the_new_quantity_is_obeyed(conn, clerk, till):
    """WITH CHECK keeps a floor of 5 units: PostgreSQL's own 42501, and nothing changed."""
    conn.execute(f'GRANT SELECT, UPDATE ON inventory TO "{clerk}"')
    conn.execute("ALTER TABLE inventory ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY keep_five ON inventory USING (true) WITH CHECK (quantity >= 5)")
    assert sell(till, ONE, "5")["new_quantity"] == 5
    assert refused_sale(till, ONE, "1").sqlstate == "42501"
    assert left(conn, ONE) == 5


def test_a_trigger_runs_as_the_caller(conn, clerk, till):
    """As with any UPDATE of the caller's own."""
    conn.execute(f'GRANT SELECT, UPDATE ON inventory TO "{clerk}"')
    conn.execute(
        """
        CREATE TABLE witness (ran_as name);
        GRANT INSERT ON witness TO PUBLIC;
        CREATE FUNCTION bear_witness() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.witness VALUES (current_user); RETURN NEW; END $$;
        CREATE TRIGGER bear_witness BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION bear_witness()
        """
    )
    sell(till, ONE, "1")
    assert conn.execute("SELECT ran_as FROM witness").fetchall() == [(clerk,)]


@pytest.mark.parametrize("value", ["nobody", "", "OWNER", None])
def test_any_other_p_run_as_is_refused(conn, value):
    """Only 'owner' and 'caller' mean something."""
    conn.execute("SELECT detach_inventory()")
    stock_table(conn, {}, table="other")
    assert refused_attach(conn, "other", p_run_as=value).sqlstate in ("22004", "22023")
    assert refused_sale(conn, ONE, "1").sqlstate == "55000"


def test_attaching_again_to_run_as_the_owner_is_an_error(conn):
    """Other options are another attachment."""
    assert refused_attach(conn, p_run_as="owner").sqlstate == "55000"
