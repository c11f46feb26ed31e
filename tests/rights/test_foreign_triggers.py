"""TRIGGER on the stock table is not the owner's rights: owner mode refuses a trigger whose function belongs to a third
role.

`GRANT ALL` includes TRIGGER. Before, the grantee's function ran as the owner on the grantee's own sale. Functions of
the owner and of superusers are allowed; who owns the function is looked at again when it, the role or the table
changes hands.
"""

import pytest

from books import call, lines, refused_call
from owner_shop import KEYS, LEDGER, ONE, STOCK, STRIPES, TWO, heard_while, open_store
from shop import attach, create_role, refused, refused_attach, refused_sale, sell, shop
from tenants import tenant

PLACEMENTS = {
    "before_row": "BEFORE UPDATE ON {table} FOR EACH ROW",
    "after_row": "AFTER UPDATE ON {table} FOR EACH ROW",
    "before_statement": "BEFORE UPDATE ON {table} FOR EACH STATEMENT",
    "after_statement": "AFTER UPDATE ON {table} FOR EACH STATEMENT",
    "of_the_quantity": "AFTER UPDATE OF quantity ON {table} FOR EACH ROW",
    "with_rows": "AFTER UPDATE ON {table} REFERENCING NEW TABLE AS rows FOR EACH STATEMENT",
}
CALLS = {
    "decrement_inventory": {"p_inventory_id": ONE, "p_quantity": 1},
    "decrement_inventory_batch": {"p_items": lines((ONE, 1), (TWO, 1)), "p_idempotency_key": "k"},
    "restock_inventory": {"p_inventory_id": TWO, "p_quantity": 1},
    "adjust_inventory": {"p_inventory_id": ONE, "p_counted_quantity": 5},
    "transfer_inventory": {"p_from": ONE, "p_to": TWO, "p_quantity": 1},
}
FUNCTION = """
    CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE NOTICE 'foreign code runs as %', current_user;
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END $$;
"""


class Grantee:
    """A role with every right on the owner's tables, EXECUTE on our functions, and a schema of its own."""

    def __init__(self, store, tables=(STOCK,)):
        self.store, self.role = store, store.role("grantee")
        store.admin.execute(
            f'CREATE SCHEMA tools AUTHORIZATION "{self.role}"; GRANT USAGE ON SCHEMA store TO "{self.role}"'
        )
        store.admin.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{self.role}"')
        for table in tables:
            store.owner.execute(f'GRANT ALL ON {table} TO "{self.role}"')
        self.conn = store.session("grantee")
        self.conn.execute("GRANT USAGE ON SCHEMA tools TO PUBLIC")
        self.conn.execute(FUNCTION.format(name="tools.spy"))

    def trigger(self, placement="BEFORE UPDATE ON {table} FOR EACH ROW", table=STOCK, function="tools.spy"):
        self.conn.execute(f"CREATE TRIGGER spy {placement.format(table=table)} EXECUTE FUNCTION {function}()")


def assert_refused(refusal, owner, table=STOCK, trigger="spy"):
    assert (refusal.sqlstate, refusal.reason) == ("55000", "foreign_trigger")
    assert next(iter(refusal.facts)) == "reason" and refusal.hint
    assert refusal.facts["table"].rpartition(".")[2] == table.rpartition(".")[2]
    assert (refusal.facts["trigger"], refusal.facts["function_owner"]) == (trigger, owner)


@pytest.fixture
def store(db):
    return open_store(db)


@pytest.fixture
def grantee(store):
    return Grantee(store)


def refused_silently(conn, work):
    """The refusal, after it was made sure that no foreign code ran."""
    outcome = []
    heard = heard_while(conn, lambda: outcome.append(work()))
    assert heard == []
    return outcome[0]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_grantee_of_trigger_does_not_become_the_owner(store, grantee, placement):
    """Neither on its own sale nor on that of another; in sessions that sold before the trigger was there."""
    conns = [grantee.conn, store.clerk(), store.admin, store.owner]
    for conn in conns:
        sell(conn, ONE, 1)
    grantee.trigger(PLACEMENTS[placement])
    before = store.movements()
    for conn in conns:
        for item in (ONE, TWO):
            refusal = refused_silently(conn, lambda conn=conn, item=item: refused_sale(conn, item, 1))
            assert_refused(refusal, grantee.role)
    assert store.movements() == before
    store.owner.execute(f"DROP TRIGGER spy ON {STOCK}")
    for conn in conns:
        sell(conn, ONE, 1)
    store.audit()


@pytest.mark.parametrize("function", CALLS)
def test_every_call_is_refused(store, grantee, function):
    grantee.trigger()
    assert_refused(
        refused_silently(grantee.conn, lambda: refused_call(grantee.conn, function, **CALLS[function])), grantee.role
    )


@pytest.mark.parametrize("function", ["stripe_inventory", "unstripe_inventory", "available_inventory"])
def test_an_item_is_not_striped_or_put_together_either(store, grantee, function):
    grantee.trigger()
    for item in (ONE, TWO):
        refusal = refused_silently(
            store.owner, lambda item=item: refused(store.owner, f"SELECT public.{function}(%s)", (item,))
        )
        assert_refused(refusal, grantee.role)


def test_a_grantee_does_not_become_superuser_where_the_table_belongs_to_one(db):
    """With a function in pg_temp, so that the grantee needs no schema in which it may create something."""
    admin = db.connect()
    shop(admin, {ONE: 10}, type="integer")
    role = create_role(admin, db, "app")
    admin.execute(f'GRANT ALL ON inventory TO "{role}"; GRANT EXECUTE ON FUNCTION decrement_inventory TO "{role}"')
    app = db.connect(user=role)
    app.execute(
        "CREATE FUNCTION pg_temp.grab() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN EXECUTE 'ALTER ROLE \"{role}\" SUPERUSER'; RETURN NEW; END $$;"
        "CREATE TRIGGER spy BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION pg_temp.grab()"
    )
    assert_refused(refused_sale(app, ONE, 1), role, "inventory")
    assert_refused(refused_sale(admin, ONE, 1), role, "inventory")
    assert admin.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (role,)).fetchone()[0] is False
    app.close()  # and with it the temporary function and its trigger


@pytest.mark.parametrize("table", [LEDGER, KEYS, STRIPES])
def test_a_foreign_trigger_on_a_companion_is_refused(store, table):
    """They are written as the owner, too."""
    grantee = Grantee(store, [table])
    sell(grantee.conn, ONE, 1)
    grantee.trigger("BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW", table)
    for item in (ONE, TWO):
        assert_refused(
            refused_silently(grantee.conn, lambda item=item: refused_sale(grantee.conn, item, 1)), grantee.role, table
        )
    store.owner.execute(f"DROP TRIGGER spy ON {table}")
    sell(grantee.conn, TWO, 1)


@pytest.mark.parametrize("function", ["decrement_inventory", "restock_inventory"])
def test_a_foreign_trigger_on_a_partition_is_refused(db, function):
    """TRIGGER was granted on the one partition only."""
    store = open_store(db, partition_by="HASH (id)")
    grantee = Grantee(store, ["store.part"])
    sell(grantee.conn, ONE, 1)
    grantee.trigger(table="store.part")
    for item in (ONE, TWO):
        work = lambda item=item: refused_call(grantee.conn, function, p_inventory_id=item, p_quantity=1)  # noqa: E731
        assert_refused(refused_silently(grantee.conn, work), grantee.role, "store.part")
    store.owner.execute("DROP TRIGGER spy ON store.part")
    sell(grantee.conn, ONE, 1)


def test_a_partition_that_brings_a_foreign_trigger_along_is_refused(db):
    """Attached while sessions have the table cached."""
    store = open_store(db, partition_by="HASH (id)")
    grantee = Grantee(store)
    sell(grantee.conn, ONE, 1)
    store.owner.execute("ALTER TABLE store.inventory DETACH PARTITION store.part")
    store.owner.execute(f'GRANT TRIGGER ON store.part TO "{grantee.role}"')
    grantee.trigger(table="store.part")
    store.owner.execute(
        "ALTER TABLE store.inventory ATTACH PARTITION store.part FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
    )
    assert_refused(
        refused_silently(grantee.conn, lambda: refused_sale(grantee.conn, ONE, 1)), grantee.role, "store.part"
    )


def test_attach_refuses_a_foreign_trigger(store, grantee):
    """By the owner and by a superuser; with the caller's rights the table is attached, and the code runs as the role
    that sells."""
    store.owner.execute("SELECT detach_inventory()")
    grantee.trigger()
    for conn in (store.owner, store.admin):
        assert_refused(refused_silently(conn, lambda conn=conn: refused_attach(conn, STOCK)), grantee.role)
    attach(store.owner, STOCK, p_run_as="caller")
    assert heard_while(grantee.conn, lambda: sell(grantee.conn, ONE, 1)) == [f"foreign code runs as {grantee.role}"]


def test_with_the_callers_rights_foreign_code_never_runs_as_a_superuser(db):
    """A superuser who sells is treated as in owner mode."""
    store = open_store(db, p_run_as="caller")
    grantee = Grantee(store)
    grantee.trigger()
    for item in (ONE, TWO):
        assert_refused(
            refused_silently(store.admin, lambda item=item: refused_sale(store.admin, item, 1)), grantee.role
        )


@pytest.mark.parametrize("place", ["condition", "condition_of_a_domain"])
def test_the_condition_of_a_trigger_is_foreign_code_too(store, grantee, place):
    """The trigger's function is PostgreSQL's own; what the grantee wrote stands in its WHEN clause."""
    grantee.conn.execute(
        "CREATE FUNCTION tools.peek(n integer) RETURNS boolean LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE NOTICE 'foreign code runs as %', current_user; RETURN true; END $$;"
        "CREATE DOMAIN tools.peeked AS integer CHECK (tools.peek(VALUE)); GRANT EXECUTE ON FUNCTION tools.peek TO "
        "PUBLIC"
    )
    condition = {"condition": "tools.peek(NEW.quantity)", "condition_of_a_domain": "NEW.quantity::tools.peeked > -1"}[
        place
    ]
    sell(grantee.conn, ONE, 1)
    grantee.conn.execute(
        f"CREATE TRIGGER spy BEFORE UPDATE ON {STOCK} FOR EACH ROW WHEN ({condition}) "
        "EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()"
    )
    for conn in (grantee.conn, store.admin):
        refusal = refused_silently(conn, lambda conn=conn: refused_sale(conn, ONE, 1))
        assert (refusal.sqlstate, refusal.reason) == ("55000", "foreign_trigger")


def test_a_function_that_is_given_away_makes_its_trigger_foreign(store, grantee):
    """The owner's own trigger; then ALTER FUNCTION OWNER TO, while sessions have the table cached."""
    store.owner.execute(FUNCTION.format(name="store.note"))
    store.owner.execute(f"CREATE TRIGGER spy BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.note()")
    conns = [grantee.conn, store.admin]
    for conn in conns:
        assert heard_while(conn, lambda conn=conn: sell(conn, ONE, 1)) == [f"foreign code runs as {store.owner_role}"]
    store.admin.execute(f'ALTER FUNCTION store.note OWNER TO "{grantee.role}"')
    for conn in conns:
        assert_refused(refused_silently(conn, lambda conn=conn: refused_sale(conn, ONE, 1)), grantee.role)
    store.admin.execute(f'ALTER FUNCTION store.note OWNER TO "{store.owner_role}"')
    for conn in conns:
        assert heard_while(conn, lambda conn=conn: sell(conn, ONE, 1)) == [f"foreign code runs as {store.owner_role}"]


def test_the_function_of_a_superuser_who_is_one_no_more_is_foreign(store, grantee):
    """A superuser's function may stand there; from the sale after its owner is demoted on it may not."""
    helper = store.role("helper", "LOGIN SUPERUSER")
    made = store.session("helper")
    made.execute(FUNCTION.format(name="store.note"))
    made.execute(f"CREATE TRIGGER spy BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.note()")
    conns = [grantee.conn, store.admin, store.owner]
    for conn in conns:
        assert heard_while(conn, lambda conn=conn: sell(conn, ONE, 1)) == [f"foreign code runs as {store.owner_role}"]
    store.admin.execute(f'ALTER ROLE "{helper}" NOSUPERUSER')
    for conn in conns:
        assert_refused(refused_silently(conn, lambda conn=conn: refused_sale(conn, ONE, 1)), helper)
    store.admin.execute(f'ALTER ROLE "{helper}" SUPERUSER')
    for conn in conns:
        sell(conn, ONE, 1)
    store.admin.execute(f'ALTER ROLE "{helper}" NOSUPERUSER')


def test_a_table_that_changes_hands_leaves_the_functions_of_its_old_owner_behind(store):
    """They are foreign to the new owner, who would otherwise run them; once the functions are handed over it sells."""
    store.owner.execute(FUNCTION.format(name="store.note"))
    store.owner.execute(f"CREATE TRIGGER spy BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.note()")
    clerk, heir, old = store.clerk(), store.role("heir"), store.owner_role
    sell(clerk, ONE, 1)
    store.admin.execute(f'GRANT USAGE, CREATE ON SCHEMA store TO "{heir}"')
    for table in [STOCK, *store.companions()]:
        store.admin.execute(f'ALTER TABLE {table} OWNER TO "{heir}"')
    assert_refused(refused_silently(clerk, lambda: refused_sale(clerk, ONE, 1)), old)
    store.admin.execute(f'ALTER FUNCTION store.note OWNER TO "{heir}"')
    assert heard_while(clerk, lambda: sell(clerk, ONE, 1)) == [f"foreign code runs as {heir}"]


def test_functions_of_the_owner_and_of_superusers_are_allowed(store):
    """Also PostgreSQL's own trigger functions; each runs as the owner of the table."""
    store.admin.execute(FUNCTION.format(name="public.by_admin"))
    store.owner.execute(FUNCTION.format(name="store.by_owner"))
    store.owner.execute(
        f"CREATE TRIGGER a BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.by_owner();"
        f"CREATE TRIGGER b AFTER UPDATE ON {STOCK} FOR EACH STATEMENT EXECUTE FUNCTION public.by_admin();"
        f"CREATE TRIGGER c BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();"
        f"CREATE TRIGGER a BEFORE INSERT ON {LEDGER} FOR EACH ROW EXECUTE FUNCTION public.by_admin()"
    )
    for conn in (store.clerk(), store.admin, store.owner):
        assert (
            heard_while(conn, lambda conn=conn: sell(conn, ONE, 1)) == [f"foreign code runs as {store.owner_role}"] * 3
        )
        sell(conn, TWO, 1)
        call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=1)
    store.settled(100)
    store.audit()


def test_a_function_that_changes_hands_is_seen_where_the_table_was_found_by_its_former_name(db):
    """The lookup of who has the former name replaced what the session was watching: the function ran as the owner."""
    admin = db.connect()
    store = tenant(db, admin, "store", {ONE: 10})
    admin.execute(
        f"""ALTER SCHEMA store RENAME TO former; CREATE SCHEMA store AUTHORIZATION "{store.owner}";
            CREATE SCHEMA tools; GRANT USAGE ON SCHEMA tools TO PUBLIC; SET search_path = former, public"""
    )
    admin.execute(FUNCTION.format(name="tools.spy"))
    with db.connect(user=store.owner) as owner:
        owner.execute("CREATE TABLE store.inventory (id uuid PRIMARY KEY, quantity numeric)")
        attach(owner, "store.inventory")
        owner.execute("CREATE TRIGGER spy AFTER UPDATE ON former.inventory FOR EACH ROW EXECUTE FUNCTION tools.spy()")
    warm = store.session(store.owner, path="former")
    warm.execute("UPDATE former.inventory SET quantity = quantity")  # the first lookup is that of a trigger
    sell(warm, ONE, 1)
    admin.execute(f'ALTER FUNCTION tools.spy() OWNER TO "{create_role(admin, db, "mallory")}"')
    for session in (warm, store.session(store.owner, path="former")):
        assert refused_sale(session, ONE, 1).reason == "foreign_trigger"
