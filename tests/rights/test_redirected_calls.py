"""A caller turns the calls of a function that others wrote to a stock table of its own choice.

Where several tables are attached, a call means the one that a setting or the search_path of the caller says. A SECURITY
DEFINER function inherits both from its caller: as the manual shows, it pins them.
"""

import pytest

from books import call
from shop import ONE, create_role, refused, refused_sale, sell
from tenants import EXECUTE, tenant

WRAPPER = """
    CREATE FUNCTION anna.sell(item uuid) RETURNS json LANGUAGE sql SECURITY DEFINER {pinned}
    AS 'SELECT public.decrement_inventory(item, 1)'
"""
PINNED = "SET search_path = pg_catalog, pg_temp SET inventory_ext.stock_table = 'anna.inventory'"
REDIRECTIONS = {
    "setting": "SET inventory_ext.stock_table = 'mallory.inventory'",
    "search_path": "SET search_path = mallory, public",
    "setting of the transaction": "BEGIN; SET LOCAL inventory_ext.stock_table = 'mallory.inventory'",
}


@pytest.fixture
def anna(db):
    return tenant(db, db.connect(), "anna", {ONE: 100})


@pytest.fixture
def mallory(db, anna):
    """Another owner of a stock table, who lets everybody use it, and may call a function of anna's."""
    made = tenant(db, anna.admin, "mallory", {ONE: 5})
    made.session(made.owner).execute("GRANT USAGE ON SCHEMA mallory TO PUBLIC")
    anna.admin.execute(f'GRANT USAGE ON SCHEMA anna TO "{made.owner}"')
    return made


def wrapped(anna, pinned):
    owner = anna.session(anna.owner)
    # The setting is known to a session that has called a function; before, only a superuser may name it.
    owner.execute("SELECT available_inventory(%s)", (ONE,))
    owner.execute(WRAPPER.format(pinned=pinned))
    owner.execute("GRANT EXECUTE ON FUNCTION anna.sell TO PUBLIC")


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_a_function_that_pins_nothing_sells_what_its_caller_says(anna, mallory, redirection):
    """Why the manual says to pin: the caller is told that anna sold, and anna's stock is untouched."""
    wrapped(anna, "")
    session = mallory.session(mallory.owner)
    session.execute(REDIRECTIONS[redirection])
    session.execute("SELECT anna.sell(%s)", (ONE,))
    session.execute("COMMIT")
    assert (anna.left(ONE), mallory.left(ONE)) == (100, 4)


@pytest.mark.parametrize("redirection", REDIRECTIONS)
def test_a_function_that_pins_its_table_cannot_be_turned(anna, mallory, redirection):
    wrapped(anna, PINNED)
    session = mallory.session(mallory.owner)
    session.execute(REDIRECTIONS[redirection])
    session.execute("SELECT anna.sell(%s)", (ONE,))
    session.execute("COMMIT")
    assert (anna.left(ONE), mallory.left(ONE)) == (99, 5)


def test_a_table_of_a_stranger_in_the_path_is_not_sold_from_where_the_database_pins_its_own(db, anna, mallory):
    """A role that may attach, and create in a schema of the path, could put a table of its own before anna's."""
    admin = anna.admin
    clerk = create_role(admin, db, "clerk")
    admin.execute(EXECUTE.format(f'"{clerk}"'))
    admin.execute(f'GRANT USAGE ON SCHEMA anna TO "{clerk}"')
    admin.execute(f"ALTER DATABASE {db.name} SET search_path = mallory, anna, public")
    assert sell(db.connect(user=clerk), ONE, 1)["new_quantity"] == 4
    admin.execute(f"ALTER DATABASE {db.name} SET inventory_ext.stock_table = 'anna.inventory'")
    assert sell(db.connect(user=clerk), ONE, 1)["new_quantity"] == 99


@pytest.mark.parametrize("several", [False, True])
def test_a_guest_cannot_hold_up_sales_with_a_look_alike(db, anna, several, request):
    """Whoever may create tables in a schema of everybody's path could make every call say that a table is shadowed."""
    if several:
        request.getfixturevalue("mallory")
    guest = create_role(anna.admin, db, "guest")
    anna.admin.execute(f'CREATE SCHEMA common; GRANT USAGE, CREATE ON SCHEMA common TO "{guest}", PUBLIC')
    db.connect(user=guest).execute("CREATE TABLE common.inventory (id uuid PRIMARY KEY, quantity numeric)")
    assert sell(anna.session(path="common,anna"), ONE, 1)["new_quantity"] == 99


def test_a_copy_that_a_member_of_the_owner_has_made_is_not_passed_over(db, anna):
    """The role that migrates copies the schema and owns the copy: the stock of the old one was sold."""
    migrator = create_role(anna.admin, db, "migrator")
    anna.admin.execute(
        f'GRANT "{anna.owner}" TO "{migrator}"; CREATE SCHEMA copy; GRANT USAGE ON SCHEMA copy TO PUBLIC'
    )
    anna.admin.execute(f'GRANT CREATE ON SCHEMA copy TO "{migrator}"')
    db.connect(user=migrator).execute("CREATE TABLE copy.inventory (id uuid PRIMARY KEY, quantity numeric)")
    assert refused_sale(anna.session(path="copy,anna"), ONE, 1).reason == "shadowed_table"


def test_a_grantee_without_usage_reaches_no_table_of_another(db, anna, mallory):
    clerk = create_role(anna.admin, db, "clerk")
    anna.admin.execute(EXECUTE.format(f'"{clerk}"'))
    session = db.connect(user=clerk)
    session.execute("SET inventory_ext.stock_table = 'anna.inventory'")
    assert refused_sale(session, ONE, 1).sqlstate == "42501"
    session.execute("SET inventory_ext.stock_table = 'anna.nothing'")
    assert refused_sale(session, ONE, 1).sqlstate == "42501", "what there is in the schema is not told"
    session.execute("RESET inventory_ext.stock_table; SET search_path = anna, public")
    assert refused_sale(session, ONE, 1).facts == {"reason": "several_tables", "tables": ["mallory.inventory"]}
    assert anna.left(ONE) == 100


def test_code_of_one_owner_runs_with_the_path_of_its_own_table(anna, mallory):
    """A trigger of mallory's calls a function: it means mallory's table, whoever sells, and cannot act as anna."""
    owner = mallory.session(mallory.owner)
    owner.execute(
        """CREATE FUNCTION mallory.again() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
               IF pg_trigger_depth() < 2 THEN
                   BEGIN
                       SET LOCAL inventory_ext.stock_table = 'anna.inventory';
                       PERFORM public.decrement_inventory(NEW.id, 50);
                   EXCEPTION WHEN insufficient_privilege THEN
                       SET LOCAL inventory_ext.stock_table = '';
                       PERFORM public.decrement_inventory(NEW.id, 1);
                   END;
               END IF;
               RETURN NEW;
           END $$"""
    )
    owner.execute(
        "CREATE TRIGGER again AFTER UPDATE ON mallory.inventory FOR EACH ROW EXECUTE FUNCTION mallory.again()"
    )
    anna.admin.execute(f'REVOKE USAGE ON SCHEMA anna FROM "{mallory.owner}"')
    superuser = anna.admin
    superuser.execute("SET search_path = mallory, anna, public")
    call(superuser, "decrement_inventory", p_inventory_id=ONE, p_quantity=1)
    assert (anna.left(ONE), mallory.left(ONE)) == (100, 3)
    assert (
        refused(superuser, "SET inventory_ext.stock_table = 'a'; SELECT available_inventory(NULL)").sqlstate == "22004"
    )
