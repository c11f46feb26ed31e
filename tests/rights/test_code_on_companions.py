"""Rights that a small change of the code gave away without any other test failing.

Code of the owner on the ledger, the keys and the stripes finds the owner's objects, never look-alikes of the caller; it
stays inside its security context also after it has called one of our functions; no function can be called before it is
granted.
"""

import pytest

from books import call, lines, refused_call
from shop import ONE, TWO, create_role, fill, item, refused, sell, shop

THREE = item(3)

TOUCH = """
    CREATE OR REPLACE FUNCTION store.touch(n numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RETURN helper(n); END $$;
"""
# helper() is the unqualified name; with a constant it would be run once, when the statement is planned.
OWNERS_FUNCTIONS = f"""
    CREATE FUNCTION store.helper(n numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE 'owner'; RETURN n; END $$;
    {TOUCH}
    CREATE FUNCTION store.touch_row() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM helper(random()::numeric); RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END; END $$;
    CREATE FUNCTION store.touch_statement() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM helper(random()::numeric); RETURN NULL; END $$;
"""
TRAP = """
    CREATE FUNCTION evil.helper(n numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE 'trap sprung as %', current_user; RETURN n; END $$;
    GRANT USAGE ON SCHEMA evil TO PUBLIC; GRANT EXECUTE ON FUNCTION evil.helper TO PUBLIC;
"""
# The table, what is written to it, and a number in its rows.
COMPANIONS = {
    "ledger": ("store.inventory_movement", "INSERT", "{}new_quantity"),
    "keys": ("store.inventory_request", "INSERT OR UPDATE", "length({}function_name)"),
    "stripes": ("store.inventory_stripe", "UPDATE", "{}quantity"),
}
CODE = {
    "row trigger": "CREATE TRIGGER t BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION store.touch_row()",
    "late row trigger": "CREATE TRIGGER t AFTER {events} ON {table} FOR EACH ROW EXECUTE FUNCTION store.touch_row()",
    "statement trigger": "CREATE TRIGGER t AFTER {events} ON {table} EXECUTE FUNCTION store.touch_statement()",
    "trigger condition": "CREATE TRIGGER t AFTER {events} ON {table} FOR EACH ROW WHEN (store.touch({new_number}) < 0) "
                         "EXECUTE FUNCTION store.touch_statement()",
    "check": "ALTER TABLE {table} ADD CONSTRAINT c CHECK (store.touch({number}) >= 0)",
    # CREATE INDEX has a search_path of its own since PostgreSQL 17, so touch() is plain while the index is built.
    "index": f"{TOUCH.replace('helper(n)', 'n')}; CREATE INDEX i ON {{table}} ((store.touch({{number}}))); {TOUCH}",
}  # fmt: skip


def code_on(companion, kind):
    table, events, number = COMPANIONS[companion]
    return CODE[kind].format(table=table, events=events, number=number.format(""), new_number=number.format("NEW."))


@pytest.fixture
def conn(db):
    """The superuser."""
    return db.connect()


@pytest.fixture
def owner(db, conn):
    """The owner of the schema store and of everything in it, no superuser."""
    name = create_role(conn, db, "owner")
    conn.execute(f'CREATE SCHEMA store AUTHORIZATION "{name}"')
    conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{name}"')
    owner = db.connect(user=name)
    owner.execute("SET search_path = store, public")
    owner.execute(OWNERS_FUNCTIONS)
    return owner


@pytest.fixture
def till(db, conn):
    """The hostile caller, with its trap first in search_path; it may sell, and nothing else."""
    name = create_role(conn, db, "clerk")
    conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{name}"')
    conn.execute(f'CREATE SCHEMA evil AUTHORIZATION "{name}"')
    till = db.connect(user=name)
    till.execute(TRAP)
    till.execute("SET search_path = evil, public")
    return till


def heard_while(session, work):
    """What the owner's code, or the trap, said meanwhile."""
    heard = []
    handler = lambda diag: heard.append(diag.message_primary)  # noqa: E731
    session.add_notice_handler(handler)
    work()
    session.remove_notice_handler(handler)
    return heard


def open_shop(owner, till, run_as):
    shop(owner, {ONE: 100, TWO: 100, THREE: 100}, table="store.inventory", type="integer", p_run_as=run_as)
    owner.execute("SELECT stripe_inventory(%s, 4)", (TWO,))
    if run_as == "caller":
        name = till.info.user
        owner.execute(f'GRANT USAGE ON SCHEMA store TO "{name}"; GRANT SELECT, UPDATE ON store.inventory TO "{name}"')


ACTS = {
    "sale": ("decrement_inventory", {"p_inventory_id": ONE, "p_quantity": 1}),
    "sale from a stripe": ("decrement_inventory", {"p_inventory_id": TWO, "p_quantity": 1}),
    "sale from gathered stripes": ("decrement_inventory", {"p_inventory_id": TWO, "p_quantity": 60}),
    "order": ("decrement_inventory_batch", {"p_items": lines((ONE, 1), (TWO, 1)), "p_idempotency_key": "order"}),
    "restock": ("restock_inventory", {"p_inventory_id": ONE, "p_quantity": 5, "p_idempotency_key": "restock"}),
    "restock of stripes": ("restock_inventory", {"p_inventory_id": TWO, "p_quantity": 5, "p_idempotency_key": "again"}),
    "transfer": ("transfer_inventory", {"p_from": ONE, "p_to": TWO, "p_quantity": 1, "p_idempotency_key": "transfer"}),
    "count": ("adjust_inventory", {"p_inventory_id": THREE, "p_counted_quantity": 7}),
    "count of stripes": ("adjust_inventory", {"p_inventory_id": TWO, "p_counted_quantity": 70}),
}
HEARD_IN = {
    "ledger": set(ACTS),
    "keys": {"order", "restock", "restock of stripes", "transfer"},
    "stripes": {
        "sale from a stripe",
        "sale from gathered stripes",
        "order",
        "restock of stripes",
        "transfer",
        "count of stripes",
    },
}


@pytest.mark.parametrize("run_as", ["owner", "caller"])
@pytest.mark.parametrize("kind", CODE)
@pytest.mark.parametrize("companion", COMPANIONS)
def test_code_on_a_companion_finds_the_owners_objects(owner, till, companion, kind, run_as):
    """The caller's helper() ran as the owner: the path was not pinned for what stands on ledger, keys or stripes."""
    open_shop(owner, till, run_as)
    sell(till, ONE, 1), sell(till, TWO, 1)
    owner.execute(code_on(companion, kind))
    for act, (function, arguments) in ACTS.items():
        heard = heard_while(till, lambda: call(till, function, **arguments))
        assert set(heard) == ({"owner"} if act in HEARD_IN[companion] else set()), act


@pytest.mark.parametrize("kind", CODE)
def test_code_on_the_ledger_finds_the_owners_objects_when_a_grantee_writes_directly(owner, till, kind):
    """The movement of a direct UPDATE is written as the owner of the ledger too."""
    open_shop(owner, till, "caller")
    till.execute("UPDATE store.inventory SET quantity = 90 WHERE id = %s", (ONE,))
    owner.execute(code_on("ledger", kind))
    write = "UPDATE store.inventory SET quantity = quantity - 1 WHERE id <> %s"
    heard = heard_while(till, lambda: till.execute(write, (TWO,)))
    assert set(heard) == {"owner"}


@pytest.mark.parametrize("run_as", ["owner", "caller"])
def test_code_on_the_keys_finds_the_owners_objects_when_they_are_purged(owner, till, run_as):
    open_shop(owner, till, run_as)
    call(till, "restock_inventory", p_inventory_id=ONE, p_quantity=1, p_idempotency_key="k")
    owner.execute(
        "CREATE TRIGGER t BEFORE DELETE ON store.inventory_request FOR EACH ROW EXECUTE FUNCTION store.touch_row()"
    )
    heard = heard_while(till, lambda: till.execute("SELECT purge_requests('0')"))
    assert heard == ["owner"]


@pytest.mark.parametrize("run_as", ["owner", "caller"])
def test_code_on_the_stripes_finds_the_owners_objects_when_they_come_and_go(owner, till, run_as):
    open_shop(owner, till, run_as)
    owner.execute(
        "CREATE TRIGGER t BEFORE INSERT OR DELETE ON store.inventory_stripe FOR EACH ROW "
        "EXECUTE FUNCTION store.touch_row()"
    )
    for sql in ("SELECT stripe_inventory(%s, 2)", "SELECT stripe_inventory(%s, 3)", "SELECT unstripe_inventory(%s)"):
        assert set(heard_while(till, lambda sql=sql: till.execute(sql, (THREE,)))) == {"owner"}, sql


@pytest.mark.parametrize("companion", ["ledger", "stripes"])
def test_code_on_a_companion_finds_the_owners_objects_at_attach_and_detach(conn, owner, till, companion):
    """A superuser, with the trap first in search_path, attaches the owner's table again."""
    open_shop(owner, till, "owner")
    events = {"ledger": "INSERT", "stripes": "INSERT OR UPDATE OR DELETE"}[companion]
    table = COMPANIONS[companion][0]
    owner.execute(f"CREATE TRIGGER t BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION store.touch_row()")
    conn.execute("SET search_path = evil, public")

    def attach_again():
        conn.execute("SELECT detach_inventory()")
        conn.execute("UPDATE store.inventory SET quantity = 50 WHERE id = %s", (ONE,))
        conn.execute("SELECT attach_inventory('store.inventory')")

    assert set(heard_while(conn, attach_again)) == {"owner"}


def test_the_trap_is_live(owner, till):
    """The control: the same trigger, on a table of the caller's own, does fall into the caller's trap."""
    owner.execute(f'GRANT USAGE ON SCHEMA store TO "{till.info.user}"')
    till.execute("CREATE TABLE evil.mine (n integer)")
    till.execute("CREATE TRIGGER t BEFORE INSERT ON evil.mine FOR EACH ROW EXECUTE FUNCTION store.touch_row()")
    heard = heard_while(till, lambda: till.execute("INSERT INTO evil.mine VALUES (1)"))
    assert heard == [f"trap sprung as {till.info.user}"]


ESCAPES = [
    "RESET ROLE", "SET ROLE postgres", "SET LOCAL ROLE postgres", "SET ROLE NONE", "RESET SESSION AUTHORIZATION",
    "SET SESSION AUTHORIZATION DEFAULT", "SET SESSION AUTHORIZATION postgres", "RESET ALL; RESET ROLE",
    "PERFORM set_config('role', 'none', false)", "PERFORM set_config('role', 'postgres', true)",
]  # fmt: skip
NESTED = {
    "read": f"PERFORM public.available_inventory('{THREE}')",
    "read of stripes": f"PERFORM public.available_inventory('{TWO}')",
    "sale": f"PERFORM public.decrement_inventory('{THREE}', 1)",
    "refusal": f"BEGIN PERFORM public.decrement_inventory('{THREE}', 1000); "
    "EXCEPTION WHEN SQLSTATE 'IV001' THEN NULL; END",
    "order": f"""PERFORM public.decrement_inventory_batch('[{{"inventory_id": "{THREE}", "quantity": 1}}]')""",
    "restock": f"PERFORM public.restock_inventory('{THREE}', 1, 'r', 'inner')",
    "count": f"PERFORM public.adjust_inventory('{THREE}', 7)",
    "transfer": f"PERFORM public.transfer_inventory('{THREE}', '{item(4)}', 1)",
    "purge": "PERFORM public.purge_requests('1 year')",
    "direct write": f"UPDATE store.inventory SET quantity = quantity - 1 WHERE id = '{THREE}'",
    "direct write of a new item": "INSERT INTO store.inventory VALUES (gen_random_uuid(), 1)",
    "read in a block": f"BEGIN PERFORM public.available_inventory('{THREE}'); "
    "EXCEPTION WHEN division_by_zero THEN NULL; END",
    "two reads": f"PERFORM public.available_inventory('{THREE}'); PERFORM public.available_inventory('{THREE}')",
}
PLACES = {
    "stock": ("BEFORE UPDATE ON store.inventory", "sale"),
    "stock, late": ("AFTER UPDATE ON store.inventory", "sale"),
    "ledger": ("BEFORE INSERT ON store.inventory_movement", "sale"),
    "keys": ("BEFORE INSERT ON store.inventory_request", "restock"),
    "stripes": ("BEFORE UPDATE ON store.inventory_stripe", "sale from a stripe"),
}


def climb(owner, place, nested, escape):
    """The owner's trigger calls one of our functions, once, and then tries to become the user of the session."""
    owner.execute(
        f"""
        CREATE FUNCTION store.climb() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF current_setting('store.busy', true) IS DISTINCT FROM 'yes' THEN
                PERFORM set_config('store.busy', 'yes', true);
                {NESTED[nested]};
                {escape};
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER climb {PLACES[place][0]} FOR EACH ROW EXECUTE FUNCTION store.climb()
        """
    )


def assert_the_climb_fails(session, place, name):
    function, arguments = ACTS[PLACES[place][1]]
    assert refused_call(session, function, **arguments).sqlstate == "42501"
    assert session.execute("SELECT current_user, session_user").fetchone() == (name, name)


@pytest.fixture
def owned(owner):
    shop(owner, {ONE: 100, TWO: 100}, table="store.inventory", type="integer")
    fill(owner, {THREE: 100, item(4): 100}, "store.inventory")
    owner.execute("SELECT stripe_inventory(%s, 4)", (TWO,))
    return owner


@pytest.mark.parametrize(
    ("place", "nested"),
    [("stock", nested) for nested in NESTED]
    + [(place, nested) for place in PLACES for nested in ("read", "sale") if place != "stock"],
)
def test_a_nested_call_does_not_end_the_security_context(conn, owned, place, nested):
    """After it, RESET ROLE made the owner's trigger the superuser who sells."""
    climb(owned, place, nested, "RESET ROLE")
    assert_the_climb_fails(conn, place, "postgres")


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_way_out_of_the_security_context_is_open_after_a_nested_call(conn, owned, escape):
    climb(owned, "stock", "read", escape)
    assert_the_climb_fails(conn, "stock", "postgres")


@pytest.mark.parametrize("place", PLACES)
def test_a_nested_call_does_not_make_the_owner_the_clerk_who_sells(owned, till, place):
    """The caller's own rights are safe from the owner in the same way."""
    climb(owned, place, "read", "RESET ROLE")
    assert_the_climb_fails(till, place, till.info.user)


@pytest.mark.parametrize("nested", ["read of stripes", "sale", "purge"])
@pytest.mark.parametrize("place", ["ledger", "keys", "stripes"])
def test_a_nested_call_does_not_end_the_security_context_where_sales_have_the_callers_rights(
    conn, owner, till, place, nested
):
    """Code on the companions runs as their owner in that mode too."""
    open_shop(owner, till, "caller")
    climb(owner, place, nested, "RESET ROLE")
    assert_the_climb_fails(till, place, till.info.user)
    assert_the_climb_fails(conn, place, "postgres")


FUNCTIONS = """
    SELECT p.oid::regprocedure::text, p.prorettype::regtype::text, p.oid
      FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
       AND e.extname = 'inventory_ext'
     ORDER BY 1
"""


@pytest.mark.parametrize("schema", ["public", "inventory_functions"])
def test_a_fresh_role_has_execute_on_no_function_but_those_of_triggers(db, conn, schema):
    """One REVOKE was left out of the script, and any login could call that function."""
    if schema != "public":
        conn.execute(f"DROP EXTENSION inventory_ext; CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO PUBLIC;"
                     f"CREATE EXTENSION inventory_ext SCHEMA {schema}")  # fmt: skip
    stranger = create_role(conn, db, "stranger")
    functions = conn.execute(FUNCTIONS).fetchall()
    assert len([name for name, result, _ in functions if result == "json"]) >= 7
    for name, result, oid in functions:
        may = (
            "SELECT has_function_privilege(%s, %s::oid, 'EXECUTE'), "
            "has_function_privilege('public', %s::oid, 'EXECUTE')"
        )
        expected = (True, True) if result == "trigger" else (False, False)
        assert conn.execute(may, (stranger, oid, oid)).fetchone() == expected, name


def test_a_fresh_role_can_call_no_function(db, conn):
    """The same, tried: 42501 before any argument is looked at."""
    shop(conn, {ONE: 10})
    session = db.connect(user=create_role(conn, db, "stranger"))
    calls = """
        SELECT format('SELECT %%s(%%s)', p.oid::regproc,
                      (SELECT string_agg('NULL::' || format_type(type, NULL), ', ' ORDER BY n)
                         FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, n)))
          FROM pg_proc AS p
          JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
         WHERE p.proname ~ 'inventory|requests' AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
           AND NOT p.proisstrict  -- PostgreSQL computes a strict function of NULL without calling it
    """
    found = [sql for (sql,) in conn.execute(calls.replace("%%", "%")).fetchall()]
    assert len(found) >= 11
    for sql in found:
        assert refused(session, sql).sqlstate == "42501", sql
