"""Nothing that the owner's code sets, opens or leaves behind during a call stays in the session of the caller.

The owner's triggers on the stock table, the ledger, the keys and the stripes change settings and open cursors while a
clerk, a superuser or the owner itself sells. Afterwards every setting is the caller's own again, within the
transaction and after it.
"""

import pytest

from books import call
from owner_shop import KEYS, LEDGER, ONE, STOCK, STRIPES, TWO, hostile_store, open_store
from shop import refused, refused_sale, sell

# What the owner's code sets; each differs from what the caller has.
SET_BY_OWNER = {
    "search_path": "evil, pg_temp",
    "application_name": "theirs",
    "DateStyle": "German",
    "statement_timeout": "12345",
    "lock_timeout": "23456",
    "row_security": "off",
    "check_function_bodies": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "client_min_messages": "error",
    "inventory_ext.actor": "somebody else",
    "inventory_ext.reference": "another order",
    "inventory_ext.error_style": "postgrest",
    "shop.known": "theirs",
    "shop.unknown": "theirs",
}
CALLERS_OWN = {
    "search_path": "mine, public",
    "application_name": "till",
    "inventory_ext.actor": "anna",
    "shop.known": "mine",
}


def statements(template) -> str:
    return " ".join(template.format(name=name, value=value) for name, value in SET_BY_OWNER.items())


HOW = {
    "set_config for the session": statements("PERFORM set_config('{name}', '{value}', false);"),
    "set_config for the transaction": statements("PERFORM set_config('{name}', '{value}', true);"),
    "SET": statements("SET {name} = '{value}';").replace("'evil, pg_temp'", "evil, pg_temp"),
    "SET LOCAL": statements("SET LOCAL {name} = '{value}';").replace("'evil, pg_temp'", "evil, pg_temp"),
    "RESET ALL": "RESET ALL;",
    "SET in a block that is undone and in one that is kept":
        "BEGIN SET application_name = 'undone'; SET shop.known = 'undone'; RAISE 'undo'; EXCEPTION WHEN "
        "raise_exception THEN NULL; END;"
        "BEGIN SET application_name = 'kept'; SET shop.known = 'kept'; EXCEPTION WHEN raise_exception THEN NULL; END;",
    "a nested call, then SET":
        "PERFORM public.available_inventory('{two}'); SET search_path = evil; PERFORM "
        "public.available_inventory('{two}');"
        "SET application_name = 'theirs';".format(two=TWO),
}  # fmt: skip


def code_on_every_table(store, body):
    store.owner.execute(
        "CREATE FUNCTION store.meddle() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {body} RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END; END $$"
    )
    for table, timing in ((STOCK, "BEFORE"), (LEDGER, "AFTER"), (KEYS, "BEFORE"), (STRIPES, "AFTER")):
        store.owner.execute(
            f"CREATE TRIGGER meddle {timing} INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION "
            f"store.meddle()"
        )


def settings(conn) -> dict:
    """Every setting of a session; a placeholder that was made and taken back is empty, or not there."""
    rows = conn.execute("SELECT name, setting FROM pg_catalog.pg_settings").fetchall()
    ours = [name for name in SET_BY_OWNER if "." in name]
    custom = {name: conn.execute("SELECT current_setting(%s, true)", (name,)).fetchone()[0] or None for name in ours}
    return dict(rows) | custom


def differences(before, after) -> dict:
    return {name: (before.get(name), after.get(name)) for name in before | after if before.get(name) != after.get(name)}


WORK = {
    "whole": lambda conn: sell(conn, ONE, 1),
    "striped": lambda conn: sell(conn, TWO, 1),
    "gathers": lambda conn: sell(conn, TWO, 60),
    "key": lambda conn: call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=100, p_idempotency_key="k"),
    "replay": lambda conn: call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=100, p_idempotency_key="k"),
    "count": lambda conn: call(conn, "adjust_inventory", p_inventory_id=TWO, p_counted_quantity=77),
    "stripe": lambda conn: conn.execute("SELECT public.stripe_inventory(%s, 3)", (ONE,)),
    "unstripe": lambda conn: conn.execute("SELECT public.unstripe_inventory(%s)", (ONE,)),
}


def callers_session(store, caller):
    conn = {
        "clerk": store.clerk,
        "superuser": store.db.connect,
        "owner": lambda: store.db.connect(user=store.owner_role),
    }[caller]()
    # The libraries are loaded, and their settings there.
    conn.execute("DO $$ BEGIN PERFORM available_inventory('%s'); END $$" % ONE)
    for name, value in CALLERS_OWN.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, value))
    return conn


@pytest.mark.parametrize("caller", ["clerk", "superuser", "owner"])
@pytest.mark.parametrize("how", HOW, ids=[name.replace(" ", "_") for name in HOW])
def test_settings_made_by_the_owners_code_end_with_the_call(db, how, caller):
    """After each call, in a transaction, after a savepoint that is undone, and after COMMIT and ROLLBACK."""
    store = open_store(db)
    code_on_every_table(store, HOW[how])
    conn = callers_session(store, caller)
    before = settings(conn)
    for name, work in WORK.items():
        work(conn)
        assert differences(before, settings(conn)) == {}, name
    for end in ("COMMIT", "ROLLBACK"):
        conn.execute("BEGIN; SET LOCAL shop.known = 'mine too'; SET LOCAL work_mem = '5MB'")
        within = settings(conn)
        sell(conn, TWO, 1)
        assert differences(within, settings(conn)) == {}, f"before {end}"
        conn.execute("SAVEPOINT s")
        sell(conn, ONE, 1)
        conn.execute("ROLLBACK TO s")
        assert differences(within, settings(conn)) == {}, f"after ROLLBACK TO, before {end}"
        conn.execute(end)
        assert differences(before, settings(conn)) == {}, f"after {end}"


def test_a_refused_call_takes_the_settings_back_too(db):
    """The owner's code has set them when the call fails."""
    store = open_store(db)
    code_on_every_table(store, HOW["SET"])
    store.owner.execute(f"ALTER TABLE {STOCK} ADD CHECK (quantity > 10)")
    conn = callers_session(store, "clerk")
    before = settings(conn)
    assert refused_sale(conn, ONE, 95).sqlstate == "23514"
    assert differences(before, settings(conn)) == {}
    conn.execute("BEGIN; SAVEPOINT s")
    assert refused_sale(conn, ONE, 95).sqlstate == "23514"
    conn.execute("ROLLBACK TO s")
    assert differences(before, settings(conn)) == {}
    conn.execute("COMMIT")
    assert differences(before, settings(conn)) == {}


def test_the_next_statement_of_a_superuser_is_not_hijacked(db):
    """The owner's trigger puts its own schema before pg_catalog; the superuser's next unqualified call found the
    look-alike."""
    store = hostile_store(db)
    store.owner.execute(
        "CREATE FUNCTION store.upper(text) RETURNS text LANGUAGE sql AS 'SELECT store.grab()::text';"
        "CREATE FUNCTION store.hijack() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM set_config('search_path', 'store, pg_catalog', false); RETURN NEW; END $$;"
        f"CREATE TRIGGER hijack BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.hijack()"
    )
    sell(store.admin, ONE, 1)
    assert store.admin.execute("SELECT upper('x'::text)").fetchone()[0] == "X"
    assert not store.become_superuser()


def test_the_callers_transaction_stays_writable(db):
    """SET TRANSACTION READ ONLY in the owner's code would have refused the rest of the caller's transaction."""
    store = open_store(db, p_ledger=False)
    store.owner.execute(
        "CREATE FUNCTION store.meddle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN SET LOCAL transaction_read_only = on; RETURN NULL; END $$;"
        f"CREATE TRIGGER meddle AFTER UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.meddle()"
    )
    conn = callers_session(store, "clerk")
    store.admin.execute(f'CREATE SCHEMA mine AUTHORIZATION "{store.role("clerk")}"')
    with conn.transaction():
        sell(conn, ONE, 1)
        conn.execute("CREATE TABLE mine.written (n integer)")


OPENED = {
    "refcursor": "c refcursor; BEGIN OPEN c FOR SELECT store.grab();",
    "named": "BEGIN EXECUTE 'DECLARE theirs CURSOR FOR SELECT store.grab()';",
    "named like the callers next": "c refcursor := 'report'; BEGIN OPEN c FOR SELECT store.grab();",
    "after a nested call": f"c refcursor; BEGIN OPEN c FOR SELECT store.grab(); PERFORM "
    f"public.available_inventory('{TWO}');",
    "in a block": "c refcursor; BEGIN BEGIN OPEN c FOR SELECT store.grab(); EXCEPTION WHEN OTHERS THEN NULL; END;",
}


@pytest.mark.parametrize("caller", ["clerk", "superuser"])
@pytest.mark.parametrize("opened", OPENED, ids=[name.replace(" ", "_") for name in OPENED])
def test_cursors_left_open_by_the_owners_code_are_closed(db, opened, caller):
    """The caller's own cursors stay open, at the row where they were."""
    store = hostile_store(db)
    store.owner.execute(
        "CREATE FUNCTION store.open() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ DECLARE {OPENED[opened]} RETURN NEW; END $$;"
        f"CREATE TRIGGER open BEFORE UPDATE ON {STOCK} FOR EACH ROW WHEN (NEW.id = '{ONE}') EXECUTE FUNCTION "
        f"store.open();"
        f"CREATE TRIGGER open BEFORE UPDATE ON {STRIPES} FOR EACH STATEMENT EXECUTE FUNCTION store.open()"
    )
    conn = store.clerk() if caller == "clerk" else store.admin
    for item in (ONE, TWO):
        with conn.transaction():
            conn.execute("DECLARE mine CURSOR FOR SELECT generate_series(1, 3)")
            conn.execute('DECLARE "mine too" CURSOR WITH HOLD FOR SELECT generate_series(1, 3)')
            assert conn.execute("FETCH mine").fetchone()[0] == 1
            sell(conn, item, 1)
            names = {name for (name,) in conn.execute("SELECT name FROM pg_cursors").fetchall()}
            assert names - {""} == {"mine", "mine too"}
            conn.execute("DECLARE report CURSOR FOR SELECT 'the report'")
            assert conn.execute("FETCH report").fetchone()[0] == "the report"
            assert conn.execute("FETCH mine").fetchone()[0] == 2
        assert conn.execute('FETCH ALL FROM "mine too"').fetchall() == [(1,), (2,), (3,)]
        conn.execute('CLOSE "mine too"')
    assert not store.become_superuser()


def test_the_owners_code_cannot_close_or_move_the_callers_cursors(db):
    """CLOSE is refused in a restricted operation; a cursor of the caller with a known name is still where it was."""
    store = open_store(db)
    code_on_every_table(store, "BEGIN EXECUTE 'CLOSE ALL'; EXCEPTION WHEN insufficient_privilege THEN NULL; END;")
    conn = store.clerk()
    with conn.transaction():
        conn.execute("DECLARE mine CURSOR FOR SELECT generate_series(1, 3)")
        conn.execute("PREPARE mine AS SELECT 7")
        sell(conn, ONE, 1)
        sell(conn, TWO, 1)
        assert conn.execute("FETCH ALL FROM mine").fetchall() == [(1,), (2,), (3,)]
        assert conn.execute("EXECUTE mine").fetchone()[0] == 7


@pytest.mark.parametrize("caller", ["clerk", "superuser"])
def test_temporary_objects_of_the_caller_are_not_replaced(db, caller):
    """The owner's code can neither drop, nor fill, nor make a temporary table in the caller's session."""
    store = open_store(db)
    conn = store.clerk() if caller == "clerk" else store.admin
    conn.execute("CREATE TEMPORARY TABLE orders (n integer); INSERT INTO orders VALUES (1)")
    code_on_every_table(
        store,
        "BEGIN INSERT INTO pg_temp.orders VALUES (2); EXCEPTION WHEN OTHERS THEN NULL; END;"
        "BEGIN DROP TABLE pg_temp.orders; EXCEPTION WHEN OTHERS THEN NULL; END;"
        "BEGIN DISCARD TEMP; EXCEPTION WHEN OTHERS THEN NULL; END;"
        "BEGIN CREATE TEMPORARY TABLE customers (n integer); EXCEPTION WHEN OTHERS THEN NULL; END;",
    )
    sell(conn, ONE, 1)
    sell(conn, TWO, 1)
    assert conn.execute("SELECT n FROM orders").fetchall() == [(1,)]
    assert refused(conn, "SELECT * FROM pg_temp.customers").sqlstate == "42P01"
