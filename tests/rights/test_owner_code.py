"""Code of the table's owner, or of a grantee of TRIGGER, does not become the superuser who calls, nor the one the
worker is.

The owner is no superuser. Its triggers, CHECKs and rules run during calls of a superuser and in the totals worker,
and try everything that would outlive the restricted operation (owner_shop.py). Nothing of it may be left in the
caller's session.
"""

import pytest

from books import call, lines, stripes_of
from owner_shop import (
    KEYS,
    LEDGER,
    ONE,
    STOCK,
    STRIPES,
    TWO,
    WAYS_OUT,
    attempt_on_every_table,
    heard_while,
    hostile_store,
    open_store,
)
from shop import create_role, refused, refused_sale, sell, until

DONE = "done"


def by_sql(sql, *arguments):
    return lambda conn: conn.execute(sql, arguments)


def by_name(function, **arguments):
    return lambda conn: call(conn, function, **arguments)


CALLS = {
    "sale": by_sql("SELECT decrement_inventory(%s, 1)", ONE),
    "sale of a striped item": by_sql("SELECT decrement_inventory(%s, 1)", TWO),
    "sale that gathers stripes": by_sql("SELECT decrement_inventory(%s, 99)", TWO),
    "order": by_name("decrement_inventory_batch", p_items=lines((ONE, 1), (TWO, 1)), p_idempotency_key="k"),
    "restock": by_name("restock_inventory", p_inventory_id=ONE, p_quantity=1, p_idempotency_key="k"),
    "restock of a striped item": by_name("restock_inventory", p_inventory_id=TWO, p_quantity=1),
    "count": by_name("adjust_inventory", p_inventory_id=ONE, p_counted_quantity=7),
    "count of a striped item": by_name("adjust_inventory", p_inventory_id=TWO, p_counted_quantity=7),
    "transfer": by_name("transfer_inventory", p_from=ONE, p_to=TWO, p_quantity=1),
    "stripe": by_sql("SELECT stripe_inventory(%s, 3)", ONE),
    "unstripe": by_sql("SELECT unstripe_inventory(%s)", TWO),
    "detach": by_sql("SELECT detach_inventory()"),
    "attach": by_sql("SELECT attach_inventory(%s)", STOCK),
    "purge": by_sql("SELECT purge_requests('0')"),
}


@pytest.fixture
def store(db):
    return hostile_store(db)


@pytest.mark.parametrize("act", CALLS, ids=[name.replace(" ", "_") for name in CALLS])
def test_a_superuser_who_calls_does_not_make_the_owner_a_superuser(store, act):
    """Triggers of the owner on the stock table and on every companion, in every call of the superuser."""
    if act == "purge":
        store.owner.execute("SELECT restock_inventory(%s, 1, NULL, 'old')", (ONE,))
    if act == "attach":  # as after a time without the extension: attach writes the difference to the ledger
        store.owner.execute(f"SELECT detach_inventory(); UPDATE {STOCK} SET quantity = 5")
    attempt_on_every_table(store)
    CALLS[act](store.admin)
    store.assert_no_way_out()


@pytest.mark.parametrize("item", [ONE, TWO], ids=["whole", "striped"])
@pytest.mark.parametrize("caller", ["clerk", "member"])
def test_an_ordinary_caller_is_protected_in_the_same_way(store, item, caller):
    """A clerk, and a role that is a member of the owner's: the owner's code leaves nothing in their sessions either."""
    conn = store.clerk() if caller == "clerk" else store.session("member")
    if caller == "member":
        store.admin.execute(f'GRANT "{store.owner_role}" TO "{store.role("member")}"')
    attempt_on_every_table(store)
    sell(conn, item, 1)
    store.assert_no_way_out()
    assert conn.execute("SELECT count(*) FROM pg_prepared_statements WHERE name = 'leftover'").fetchone()[0] == 0
    assert conn.execute("SELECT count(*) FROM pg_listening_channels()").fetchone()[0] == 0
    assert conn.execute("SELECT count(*) FROM pg_cursors WHERE name = 'leftover'").fetchone()[0] == 0
    assert conn.execute("SELECT to_regclass('pg_temp.orders')").fetchone()[0] is None


PLACES = {
    "before_row": f"CREATE TRIGGER t BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.attempt_row()",
    "after_row": f"CREATE TRIGGER t AFTER UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.attempt_row()",
    "before_statement": f"CREATE TRIGGER t BEFORE UPDATE ON {STOCK} EXECUTE FUNCTION store.attempt_row()",
    "after_statement": f"CREATE TRIGGER t AFTER UPDATE ON {STOCK} EXECUTE FUNCTION store.attempt_row()",
    "condition": f"CREATE TRIGGER t AFTER UPDATE ON {STOCK} FOR EACH ROW WHEN (store.attempt('condition') IS NULL) "
                 "EXECUTE FUNCTION store.attempt_row()",
    "check": f"ALTER TABLE {STOCK} ADD CHECK (store.attempt('check')) NOT VALID",
    "rule": f"CREATE RULE r AS ON UPDATE TO {STOCK} DO ALSO SELECT store.attempt('rule')",
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_the_owner_of_the_table_does_not_become_superuser_through_the_totals_worker(store, place):
    """The owner's code runs when the worker writes a total, and again at the worker's commit if it could leave
    something behind."""
    store.owner.execute(PLACES[place])
    sell(store.owner, TWO, 1)
    store.settled(99)
    store.assert_no_way_out()


@pytest.mark.parametrize("place", ["before_row", "check"])
def test_the_worker_protects_itself_also_where_calls_run_as_the_caller(db, place):
    store = hostile_store(db, p_run_as="caller")
    store.owner.execute(PLACES[place])
    sell(store.owner, TWO, 1)
    store.settled(99)
    store.assert_no_way_out()


def test_with_the_callers_rights_a_superuser_is_protected_like_in_owner_mode(db):
    """The owner's code never runs as the superuser who calls, although calls run as the caller."""
    store = hostile_store(db, p_run_as="caller")
    attempt_on_every_table(store)
    for item in (ONE, TWO):
        store.admin.execute("TRUNCATE store.outcome")
        sell(store.admin, item, 1)
        store.assert_no_way_out()


def test_with_the_callers_rights_the_companions_are_written_in_a_restricted_operation(db):
    """A clerk with grants on the stock table: what runs as the owner, on ledger, keys and stripes, is restricted."""
    store = hostile_store(db, p_run_as="caller")
    clerk = store.clerk()
    store.owner.execute(f'GRANT SELECT, UPDATE ON {STOCK} TO "{store.role("clerk")}"')
    attempt_on_every_table(store)
    store.owner.execute(f"DROP TRIGGER attempt_before ON {STOCK}; DROP TRIGGER attempt_after ON {STOCK}")
    call(clerk, "restock_inventory", p_inventory_id=ONE, p_quantity=1, p_idempotency_key="k")
    sell(clerk, TWO, 1)
    store.assert_no_way_out()


NESTED = {
    "a read": "PERFORM public.available_inventory(NEW.id)",
    "a sale": f"PERFORM public.decrement_inventory('{TWO}', 1)",
    "a sale that is refused": f"BEGIN PERFORM public.decrement_inventory('{TWO}', 1000); "
                              "EXCEPTION WHEN SQLSTATE 'IV001' THEN NULL; END",
    "a call with a key": f"PERFORM public.restock_inventory('{TWO}', 1, NULL, 'inner')",
    "a sale that is undone": f"BEGIN PERFORM public.decrement_inventory('{TWO}', 1); RAISE 'undo'; "
                             "EXCEPTION WHEN raise_exception THEN NULL; END",
    "a wrong argument": f"BEGIN PERFORM public.decrement_inventory('{TWO}', -1); "
                        "EXCEPTION WHEN OTHERS THEN NULL; END",
}  # fmt: skip


@pytest.mark.parametrize("nested", NESTED, ids=[name.replace(" ", "_") for name in NESTED])
def test_the_restriction_lasts_after_a_nested_call(store, nested):
    """The trigger calls the extension, then tries to get out, while a superuser sells."""
    store.owner.execute(
        f"CREATE FUNCTION store.nested() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {NESTED[nested]}; "
        "PERFORM store.attempt('nested'); RETURN NEW; END $$;"
        f"CREATE TRIGGER nested BEFORE UPDATE ON {STOCK} FOR EACH ROW WHEN (NEW.id = '{ONE}') EXECUTE FUNCTION "
        f"store.nested()"
    )
    sell(store.admin, ONE, 1)
    store.assert_no_way_out()
    assert store.admin.execute("SELECT current_user, session_user").fetchone() == ("postgres", "postgres")


def test_a_call_by_a_superuser_that_fails_gives_the_session_back(store):
    """After an error in the owner's code the session is the superuser's, and can do what a restricted operation
    cannot."""
    store.owner.execute(
        "CREATE FUNCTION store.stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM store.attempt('stop'); "
        "RAISE 'stop'; END $$;"
        f"CREATE TRIGGER stop BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.stop()"
    )
    with store.admin.transaction():
        store.admin.execute("SAVEPOINT s")
        assert refused_sale(store.admin, ONE, 1).message == "stop"
        store.admin.execute("ROLLBACK TO s")
        assert store.admin.execute("SELECT current_user, session_user").fetchone() == ("postgres", "postgres")
        for leftover in ("pg_cursors", "pg_prepared_statements"):
            assert store.admin.execute(f"SELECT count(*) FROM {leftover} WHERE name = 'leftover'").fetchone()[0] == 0
        store.admin.execute(
            "CREATE TEMPORARY TABLE orders (n integer); LISTEN mine; SET LOCAL ROLE pg_monitor; RESET ROLE"
        )
        store.admin.execute("DECLARE mine CURSOR WITH HOLD FOR SELECT 1")
    assert not store.become_superuser()


GRANTEES_CODE = """
    CREATE FUNCTION tools.grab() RETURNS integer LANGUAGE plpgsql AS $$
    BEGIN
        RAISE LOG 'code of the grantee runs as %', current_user;
        IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
            EXECUTE 'ALTER ROLE "{grantee}" SUPERUSER';
        END IF;
        RETURN 1;
    END $$;
    CREATE FUNCTION tools.leave_cursor() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM tools.grab();
        EXECUTE 'DECLARE leftover CURSOR WITH HOLD FOR SELECT tools.grab()';
        RETURN NEW;
    EXCEPTION WHEN OTHERS THEN
        RETURN NEW;
    END $$;
    GRANT USAGE ON SCHEMA tools TO PUBLIC;
    CREATE TRIGGER leave BEFORE UPDATE ON store.inventory FOR EACH ROW EXECUTE FUNCTION tools.leave_cursor();
"""


def worker_has_looked(conn, since):
    """The totals worker has done something after that moment, or has ended."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type LIKE "
        "'inventory_ext%%' "
        "AND (state_change IS NULL OR state_change <= %s)"
    )
    return conn.execute(sql, (since,)).fetchone()[0] == 0


@pytest.mark.parametrize("run_as", ["owner", "caller"])
def test_a_grantee_of_trigger_does_not_become_superuser_or_owner_through_the_totals_worker(db, run_as):
    """The sale is committed before the grantee makes its trigger; the worker writes the total afterwards."""
    store = hostile_store(db, p_run_as=run_as)
    grantee = store.role("grantee")
    store.admin.execute(f'CREATE SCHEMA tools AUTHORIZATION "{grantee}"')
    store.owner.execute(f'GRANT TRIGGER ON {STOCK} TO "{grantee}"')
    log = db.server.log_path
    begin = log.stat().st_size
    with db.connect(autocommit=False) as holder:  # a row that is locked is left to the next look
        holder.execute(f"SELECT FROM {STOCK} FOR NO KEY UPDATE")
        sell(store.owner, TWO, 1)
        store.session("grantee").execute(GRANTEES_CODE.format(grantee=grantee))
    since = store.admin.execute("SELECT clock_timestamp()").fetchone()[0]
    until(lambda: worker_has_looked(store.admin, since), "the worker looks")
    store.owner.execute(f"DROP TRIGGER leave ON {STOCK}")
    sell(store.owner, TWO, 1)
    until(lambda: total_is_right(store), "the total is right")
    assert not store.become_superuser()
    assert "code of the grantee runs as" not in log.read_bytes()[begin:].decode(errors="replace")


def total_is_right(store):
    shown = store.admin.execute(f"SELECT quantity FROM {STOCK} WHERE id = %s", (TWO,)).fetchone()[0]
    return shown == sum(stripes_of(store.admin, TWO, STRIPES).values())


# What may be looked up or folded before a statement is executed, and so before the role is switched.
PLANNED = {
    "index predicate of a constant": f"CREATE INDEX i ON {STOCK} (id) WHERE store.note(1) > 0",
    "index on an expression": f"CREATE INDEX i ON {STOCK} ((store.note(quantity)))",
    "check": f"ALTER TABLE {STOCK} ADD CHECK (store.note(quantity) >= 0)",
    "check of a constant": f"ALTER TABLE {STOCK} ADD CHECK (store.note(1) = 1)",
    "statistics": f"CREATE STATISTICS store.s ON (store.note(quantity)), quantity FROM {STOCK}; ANALYZE {STOCK}",
    "policy": f"ALTER TABLE {STOCK} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; "
              f"CREATE POLICY p ON {STOCK} USING (store.note(1) = 1)",
    "default of the ledger": f"ALTER TABLE {LEDGER} ADD n integer DEFAULT store.note(1)",
    "default of the keys": f"ALTER TABLE {KEYS} ADD n integer DEFAULT store.note(1)",
    "index predicate of the stripes": f"CREATE INDEX i ON {STRIPES} (stripe) WHERE store.note(1) > 0",
    "check of the stripes": f"ALTER TABLE {STRIPES} ADD CHECK (store.note(1) = 1)",
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANNED, ids=[name.replace(" ", "_") for name in PLANNED])
def test_what_runs_while_a_statement_is_planned_runs_as_the_owner(store, kind):
    """An IMMUTABLE function of constants is called by the planner. (The build before did this right; it must stay
    so.)"""
    store.owner.execute(
        "CREATE FUNCTION store.note(n integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE NOTICE 'runs as %', current_user; PERFORM store.grab(); RETURN n; END $$"
    )
    store.owner.execute(PLANNED[kind])
    heard = []
    for act in [*CALLS.values(), by_sql("SELECT available_inventory(%s)", TWO)]:
        admin = store.db.connect()
        admin.execute("SET inventory_ext.reference = 'planned'")
        heard += heard_while(admin, lambda act=act, admin=admin: run_or_refuse(act, admin))
    assert set(heard) <= {f"runs as {store.owner_role}"}
    assert not store.become_superuser()


def run_or_refuse(act, conn):
    """Some calls are refused once others have emptied or detached the shop: here only the identity counts."""
    try:
        act(conn)
    except Exception as error:
        assert getattr(error, "sqlstate", None), error


def test_the_owners_own_sales_are_not_restricted(store):
    """Its own code in its own session may make temporary tables, prepared statements and cursors, as in any UPDATE."""
    attempt_on_every_table(store)
    sell(store.owner, ONE, 1)
    done = {way for way, outcome, _ in store.outcomes() if outcome == DONE}
    assert {way for way in WAYS_OUT if way.startswith(("CREATE TEMP", "PREPARE", "INSERT"))} <= done
    assert not store.become_superuser()


def test_a_superuser_that_was_the_owner_of_the_table_is_restricted_after_it_is_handed_over(db):
    """The session has sold as the owner, unrestricted; the table then belongs to another role."""
    store = open_store(db)
    boss = create_role(store.admin, db, "boss", "LOGIN SUPERUSER")
    for table in [STOCK, *store.companions()]:
        store.admin.execute(f'ALTER TABLE {table} OWNER TO "{boss}"')
    conn = db.connect(user=boss)
    sell(conn, ONE, 1)
    for table in [STOCK, *store.companions()]:
        conn.execute(f'ALTER TABLE {table} OWNER TO "{store.owner_role}"')
    store.owner.execute(
        "CREATE FUNCTION store.hold() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN EXECUTE 'DECLARE leftover CURSOR WITH HOLD FOR SELECT 1'; RETURN NEW; END $$;"
        f"CREATE TRIGGER hold BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.hold()"
    )
    assert refused(conn, "SELECT decrement_inventory(%s, 1)", (ONE,)).sqlstate == "42501"
