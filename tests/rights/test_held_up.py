"""A role without rights neither holds up the work of others nor has the server do more than a call is worth.

What has nothing to do with the stock table does not wait for it; a role that may not stripe an item is refused before
any lock is taken; claims and headers are measured before they are read; there is one totals worker for a database; and
a schema whose name PostgreSQL reads as another one holds no stock table.
"""

import json
import time

import pytest

from books import call
from memory import MB, peak
from owner_shop import LEDGER, ONE, STOCK, TOTALS, TWO, Stranger, grant_execute, open_store
from shop import Aside, attach, fill, item, left, refused, refused_attach, refused_sale, sell, until

IMPATIENT = "SET lock_timeout = '2s'"


def impatient(conn):
    conn.execute(IMPATIENT)
    return conn


@pytest.mark.parametrize("table", [STOCK, LEDGER, TOTALS])
def test_a_lock_on_the_stock_table_does_not_hold_up_a_drop_of_something_else(db, table):
    """UPDATE on a table is the right to lock it; the guard of the ledger looks at every DROP of the database."""
    store = open_store(db)
    grantee, other = store.role("grantee"), store.role("other")
    store.admin.execute(f'CREATE SCHEMA other AUTHORIZATION "{other}"')
    store.owner.execute(f'GRANT USAGE ON SCHEMA store TO "{grantee}"; GRANT UPDATE ON {table} TO "{grantee}"')
    others = impatient(store.session("other"))
    others.execute("CREATE TABLE other.a (n integer, m integer); CREATE TABLE other.b (); CREATE SEQUENCE other.c")
    holder = store.session("grantee", autocommit=False)
    holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
    others.execute("ALTER TABLE other.a DROP COLUMN m")
    others.execute("DROP TABLE other.a")
    impatient(store.admin).execute("DROP TABLE other.b")
    others.execute("DROP SEQUENCE other.c")
    assert others.execute("SELECT to_regclass('other.a'), to_regclass('other.b')").fetchone() == (None, None)
    holder.rollback()
    refusal = refused(store.owner, f"DROP TABLE {LEDGER}")
    assert (refusal.sqlstate, refusal.reason) == ("55000", "companion_of_attached")
    sell(store.owner, ONE, 1)
    store.audit()


@pytest.mark.parametrize("rights", ["none", "SELECT"])
@pytest.mark.parametrize("function", ["stripe_inventory(%s, 2)", "unstripe_inventory(%s)"])
def test_who_may_not_stripe_an_item_neither_waits_nor_makes_others_wait(db, function, rights):
    """While a sale is open, and in caller mode."""
    store = open_store(db, p_run_as="caller")
    for name in ("clerk", "stranger"):
        grant_execute(store.admin, store.role(name))
        store.owner.execute(f'GRANT USAGE ON SCHEMA store TO "{store.role(name)}"')
    store.owner.execute(f'GRANT SELECT, UPDATE ON {STOCK} TO "{store.role("clerk")}"')
    if rights != "none":
        store.owner.execute(f'GRANT {rights} ON {STOCK} TO "{store.role("stranger")}"')
    seller, other = store.session("clerk", autocommit=False), impatient(store.session("clerk"))
    stranger = impatient(store.session("stranger"))
    for key in (ONE, TWO):
        sell(seller, key, 1)
    for key in (ONE, TWO, item(0xDEAD)):
        attempt = Aside(refused, stranger, f"SELECT {function}", (key,))
        sell(other, TWO, 1)
        assert attempt.result().sqlstate == "42501"
        sell(other, TWO, 1)
    seller.commit()
    assert left(store.admin, ONE, STOCK) == 99
    store.settled(93)
    store.audit()


def of_bytes(size, **members) -> str:
    """A JSON object that is so long."""
    empty = len(json.dumps({**members, "x": ""}))
    return json.dumps({**members, "x": "a" * (size - empty)})


MOST = 2097152
MANY = '{"a": [' + ", ".join(["[[], []]"] * 300_000) + "]}"
TOO_LARGE = {
    "one byte too many": of_bytes(MOST + 1, sub="anna"),
    "many arrays": MANY,
    "one text": of_bytes(3_000_000, sub="anna"),
    "deep": "[" * 3_000_000,
    "no JSON": "x" * 3_000_000,
}


def assert_measured(conn, act):
    """Refused at once, and without memory for what is in it."""
    conn.execute("SET statement_timeout = '2s'")
    before, begin = peak(conn), time.monotonic()
    refusal = act()
    assert time.monotonic() - begin < 2
    assert peak(conn) - before < 16 * MB
    assert refusal.sqlstate == "22023" and refusal.hint
    assert len(refusal.message) + len(refusal.detail) < 2000


@pytest.mark.parametrize("kind", TOO_LARGE, ids=[name.replace(" ", "_") for name in TOO_LARGE])
def test_claims_that_are_too_large_are_not_read(db, kind):
    """A single client had the server parse megabytes for every sale; nothing is sold, with or without an order."""
    store = open_store(db)
    conn = store.clerk()
    sell(conn, ONE, 1)
    sell(conn, TWO, 1)
    begin = store.last_movement()
    conn.execute("SELECT set_config('request.jwt.claims', %s, false)", (TOO_LARGE[kind],))
    for key in (ONE, TWO):
        assert_measured(conn, lambda key=key: refused_sale(conn, key, 1))
    assert store.last_movement() == begin and left(store.admin, ONE, STOCK) == 99
    conn.execute("SELECT set_config('request.jwt.claims', '', false)")
    sell(conn, ONE, 1)
    store.settled(99)
    store.audit()


@pytest.mark.parametrize("size", [60000, MOST])
def test_claims_of_a_large_token_name_the_actor(db, size):
    store = open_store(db)
    conn = store.clerk()
    conn.execute("SELECT set_config('request.jwt.claims', %s, false)", (of_bytes(size, sub="anna"),))
    sell(conn, ONE, 1)
    assert [movement.actor for movement in store.movements(ONE)][-1] == "anna"
    store.audit()


@pytest.mark.parametrize("kind", TOO_LARGE, ids=[name.replace(" ", "_") for name in TOO_LARGE])
def test_headers_that_are_too_large_are_not_read(db, kind):
    """Where the key may come from them; where it may not, they are not read."""
    store = open_store(db)
    conn = store.clerk()
    sell(conn, ONE, 1)
    for read in ("on", "off"):
        conn.execute(f"SET inventory_ext.request_headers = {read}")
        with conn.transaction():
            conn.execute("SELECT set_config('request.headers', %s, true)", (TOO_LARGE[kind],))
            if read == "on":
                conn.execute("SAVEPOINT s")
                assert_measured(conn, lambda: refused_sale(conn, ONE, 1))
                conn.execute("ROLLBACK TO s")
            else:
                sell(conn, ONE, 1)
    assert left(store.admin, ONE, STOCK) == 98
    store.audit()


@pytest.mark.parametrize("size", [60000, MOST])
def test_a_key_in_large_headers_is_found(db, size):
    """The second call is a replay."""
    store = open_store(db)
    conn = store.clerk()
    conn.execute("SET inventory_ext.request_headers = on")
    answers = []
    for _ in range(2):
        with conn.transaction():
            headers = of_bytes(size, **{"idempotency-key": "key"})
            conn.execute("SELECT set_config('request.headers', %s, true)", (headers,))
            answers.append(call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1))
    assert answers[1] == {**answers[0], "replayed": True}
    assert left(store.admin, ONE, STOCK) == 101
    store.audit()


def test_there_is_one_totals_worker_also_when_the_owners_code_gives_up_locks(db):
    """Its lock is that of the session, which pg_advisory_unlock_all() gives up; each sale then started another one."""
    store = open_store(db)
    store.owner.execute(
        "CREATE FUNCTION store.unlock() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_advisory_unlock_all(); RETURN NEW; END $$;"
        f"CREATE TRIGGER unlock BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.unlock()"
    )
    workers = (
        "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity "
        "WHERE datname = current_database() AND backend_type = 'inventory_ext totals'"
    )
    clerks, seen = [store.clerk(), store.clerk()], []

    def is_written(total):
        seen.append(store.admin.execute(workers).fetchone()[0])
        return left(store.admin, TWO, STOCK) == total

    for number in range(1, 9):
        sell(clerks[number % 2], TWO, 1)
        until(lambda number=number: is_written(100 - number), "the row shows the total")
    assert max(map(len, seen)) == 1
    assert {pid for pids in seen for pid in pids} == set(seen[-1])
    store.audit()


USER = '"$user"'
CALLS_HELPER = """
    CREATE FUNCTION {schema}.helper() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'own'; END $$;
    CREATE FUNCTION {schema}.help() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM helper(); RETURN NEW; END $$;
    CREATE TRIGGER help BEFORE UPDATE ON {schema}.inventory FOR EACH ROW EXECUTE FUNCTION {schema}.help();
"""
HELPER = """
    CREATE FUNCTION "{schema}".helper() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM tools.grab(); END $$;
    GRANT USAGE ON SCHEMA "{schema}" TO PUBLIC
"""


def schema_named_as_the_owner(store, stranger):
    """It belongs to the stranger, and has a function of the name that the owner's trigger calls."""
    store.admin.execute(f'CREATE SCHEMA "{store.owner_role}" AUTHORIZATION "{stranger.role}"')
    stranger.conn.execute(HELPER.format(schema=store.owner_role))


def test_a_table_in_a_schema_that_reads_as_another_is_not_attached(db):
    """In a search_path "$user" is the schema that is named as the role, and not the one of this name."""
    store = open_store(db)
    stranger = Stranger(store)
    schema_named_as_the_owner(store, stranger)
    store.owner.execute("SELECT public.detach_inventory()")
    store.admin.execute(f'CREATE SCHEMA {USER} AUTHORIZATION "{store.owner_role}"')
    store.owner.execute(f"CREATE TABLE {USER}.inventory (id uuid PRIMARY KEY, quantity integer)")
    fill(store.owner, {ONE: 10}, f"{USER}.inventory")
    store.owner.execute(CALLS_HELPER.format(schema=USER))
    for conn in (store.owner, store.admin):
        for run_as in ("owner", "caller"):
            refusal = refused_attach(conn, f"{USER}.inventory", p_run_as=run_as)
            assert refusal.sqlstate in ("55000", "42602") and refusal.reason and refusal.hint
    stranger.assert_nothing_ran()
    assert store.admin.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0] == 0
    attach(store.owner, STOCK)
    store.settled(100)


def test_a_schema_that_is_renamed_so_runs_no_function_of_another_schema(db):
    """After attach; under its old name the shop sells, and calls the owner's function."""
    store = open_store(db)
    stranger = Stranger(store)
    schema_named_as_the_owner(store, stranger)
    store.owner.execute(CALLS_HELPER.format(schema="store"))
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    store.admin.execute(f"ALTER SCHEMA store RENAME TO {USER}")
    sold = 1
    for conn in (clerk, store.clerk(), store.admin):
        for key in (ONE, TWO):
            try:
                sell(conn, key, 1)
                sold += key == ONE
            except Exception as error:
                assert getattr(error, "sqlstate", None) in ("55000", "42602", "42883"), error
    stranger.assert_nothing_ran()
    store.admin.execute(f"ALTER SCHEMA {USER} RENAME TO store")
    assert left(store.admin, ONE, STOCK) == 100 - sold
    sell(clerk, ONE, 1)
    sell(clerk, TWO, 1)
    store.settled(store.admin.execute("SELECT available_inventory(%s)", (TWO,)).fetchone()[0])
    stranger.assert_nothing_ran()
    store.audit()
