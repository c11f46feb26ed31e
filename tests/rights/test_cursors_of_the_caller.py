"""Cursors and deferred events of the caller are the caller's own: code of the owner cannot touch them.

A trigger that closes a cursor and opens one of the same name and text would have the caller read rows, and run code,
of the owner's choice; SET CONSTRAINTS would fire what the caller has deferred while the owner's search_path is set.
What is left open by code of the owner does not outlive the call either.
"""

import pytest

from books import keys_kept
from owner_shop import KEYS, ONE, STOCK, STRIPES, TWO, heard_while, hostile_store, open_store
from shop import attach, left, refused, refused_sale, sell

TODO = """
    CREATE TABLE {schema}.todo (id integer);
    INSERT INTO {schema}.todo SELECT generate_series({first}, {first} + 4);
    GRANT SELECT ON {schema}.todo TO PUBLIC;
"""
CLOSE = """
    CREATE FUNCTION store.close_all() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        found record;
        c refcursor;
    BEGIN
        FOR found IN SELECT name, statement FROM pg_catalog.pg_cursors
                      WHERE name <> '' AND statement LIKE '%todo%' AND statement NOT LIKE '%pg_cursors%' LOOP
            c := found.name;
            {close}
        END LOOP;
        RETURN NEW;
    END $$;
"""
WAYS = {
    "close": "CLOSE c;",
    "replace": "CLOSE c; IF found.statement LIKE 'DECLARE%' THEN EXECUTE found.statement; "
               "ELSE OPEN c FOR EXECUTE found.statement; END IF;",
    "close and catch": "BEGIN CLOSE c; EXCEPTION WHEN invalid_cursor_state THEN NULL; END;",
}  # fmt: skip


def store_that_closes(db, way="replace"):
    """The owner's triggers look for cursors on the caller's table; it has one of the same name, with other rows."""
    store = open_store(db)
    store.admin.execute("GRANT USAGE ON SCHEMA store TO PUBLIC;" + TODO.format(schema="public", first=1))
    store.owner.execute(TODO.format(schema="store", first=11) + CLOSE.format(close=WAYS[way]))
    for table in (STOCK, STRIPES):
        store.owner.execute(
            f"CREATE TRIGGER close_all BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION store.close_all()"
        )
    return store


def session(store, caller):
    return store.clerk() if caller == "clerk" else store.db.connect()


def cursors(conn) -> set[str]:
    """The names of the open cursors."""
    return {name for (name,) in conn.execute("SELECT name FROM pg_cursors WHERE name <> ''").fetchall()}


def assert_pinned(refusal):
    assert (refusal.sqlstate, refusal.message[:25]) == ("24000", "cannot drop pinned portal")


@pytest.mark.parametrize("caller", ["clerk", "superuser"])
@pytest.mark.parametrize("way", ["close", "replace"])
def test_a_declared_cursor_is_not_closed_by_the_owners_trigger(db, way, caller):
    """The sale fails; the cursor gives the caller's rows on, and the caller can close it and declare it again."""
    store = store_that_closes(db, way)
    conn = session(store, caller)
    for item in (ONE, TWO):
        with conn.transaction():
            conn.execute("DECLARE c CURSOR FOR SELECT id FROM todo ORDER BY id")
            assert conn.execute("FETCH c").fetchone()[0] == 1
            for _ in range(2):
                conn.execute("SAVEPOINT s")
                assert_pinned(refused_sale(conn, item, 1))
                conn.execute("ROLLBACK TO s")
            assert conn.execute("FETCH 2 FROM c").fetchall() == [(2,), (3,)]
            conn.execute("CLOSE c")
            sell(conn, item, 1)
            conn.execute("DECLARE c CURSOR FOR SELECT id FROM todo ORDER BY id")
            assert conn.execute("FETCH c").fetchone()[0] == 1
        assert cursors(conn) == set()
    assert left(store.admin, ONE, STOCK) == 99
    store.settled(99)
    store.audit()


def test_a_transaction_that_fails_with_its_cursor_open_ends_as_ever(db):
    """Without a savepoint; and a held cursor of an earlier transaction outlives the sale that failed."""
    store = store_that_closes(db)
    conn = store.clerk()
    for end in ("ROLLBACK", "COMMIT"):
        conn.execute("BEGIN")
        conn.execute("DECLARE c CURSOR FOR SELECT id FROM todo")
        assert_pinned(refused_sale(conn, ONE, 1))
        conn.execute(end)
        assert cursors(conn) == set()
    with conn.transaction():
        conn.execute("DECLARE held CURSOR WITH HOLD FOR SELECT id FROM todo ORDER BY id")
        conn.execute("FETCH held")
    for item in (ONE, TWO):
        assert_pinned(refused_sale(conn, item, 1))
    assert conn.execute("FETCH ALL FROM held").fetchall() == [(2,), (3,), (4,), (5,)]
    conn.execute("CLOSE held")
    sell(conn, ONE, 1)
    assert cursors(conn) == set() and left(store.admin, ONE, STOCK) == 99
    store.audit()


AROUND_A_SALE = """
    DO $$
    DECLARE
        c refcursor;
        n integer;
        seen integer[] := '{{{{}}}}';
        failed integer := 0;
    BEGIN
        {begin}
            seen := seen || n;
            BEGIN
                PERFORM decrement_inventory('{{item}}', 1);
            EXCEPTION WHEN invalid_cursor_state THEN
                failed := failed + 1;
            END;
        {end}
        PERFORM decrement_inventory('{{item}}', 1);
        RAISE NOTICE '% %', seen, failed;
    END $$
"""
ROWS = "SELECT id FROM todo ORDER BY id"
LOOP = AROUND_A_SALE.format(
    begin=f"OPEN c FOR {ROWS}; LOOP FETCH c INTO n; EXIT WHEN NOT FOUND;", end="END LOOP; CLOSE c;"
)
FOR_LOOP = AROUND_A_SALE.format(begin=f"FOR n IN {ROWS} LOOP", end="END LOOP;")


@pytest.mark.parametrize("caller", ["clerk", "superuser"])
@pytest.mark.parametrize("loop", [LOOP, FOR_LOOP], ids=["cursor", "for"])
@pytest.mark.parametrize("way", ["close", "replace"])
def test_a_loop_of_the_caller_goes_on_over_the_callers_rows(db, way, loop, caller):
    """Around sales that fail, each in a block of its own; a sale after the loop finds no cursor, and succeeds."""
    store = store_that_closes(db, way)
    conn = session(store, caller)
    for item in (ONE, TWO):
        assert heard_while(conn, lambda item=item: conn.execute(loop.format(item=item))) == ["{1,2,3,4,5} 5"]
    without_block = loop.format(item=ONE).replace("invalid_cursor_state", "no_data_found")
    assert_pinned(refused(conn, without_block))
    assert cursors(conn) == set() and left(store.admin, ONE, STOCK) == 99
    store.settled(99)
    store.audit()


def test_a_trigger_that_catches_the_error_sells_and_the_cursor_stays(db):
    """PL/pgSQL's OPEN in a block, DECLARE in SQL, and a loop over a query."""
    store = store_that_closes(db, "close and catch")
    conn = store.clerk()
    assert heard_while(conn, lambda: conn.execute(LOOP.format(item=ONE))) == ["{1,2,3,4,5} 0"]
    assert heard_while(conn, lambda: conn.execute(FOR_LOOP.format(item=TWO))) == ["{1,2,3,4,5} 0"]
    with conn.transaction():
        conn.execute("DECLARE c CURSOR FOR SELECT id FROM todo ORDER BY id")
        sell(conn, ONE, 1)
        assert conn.execute("FETCH ALL FROM c").fetchall() == [(1,), (2,), (3,), (4,), (5,)]
        conn.execute("CLOSE c")
        assert cursors(conn) == set()
    assert left(store.admin, ONE, STOCK) == 93
    store.settled(94)
    store.audit()


@pytest.mark.parametrize("quantity", [1, 1000], ids=["sold", "refused"])
def test_a_commit_in_a_procedure_ends_the_callers_cursor_as_ever(db, quantity):
    """A call before it changes nothing about that, whether it sold or not."""
    store = open_store(db)
    conn = store.db.connect()
    conn.execute(
        "CREATE PROCEDURE public.work() LANGUAGE plpgsql AS $$ "
        "DECLARE c refcursor := 'mine'; n integer; still integer; BEGIN "
        "OPEN c FOR SELECT generate_series(1, 5); FETCH c INTO n; "
        f"BEGIN PERFORM decrement_inventory('{ONE}', {quantity}); EXCEPTION WHEN SQLSTATE 'IV001' THEN NULL; END; "
        "FETCH c INTO n; COMMIT; SELECT count(*) INTO still FROM pg_cursors WHERE name = 'mine'; "
        "RAISE NOTICE 'at %, % left', n, still; END $$"
    )
    assert heard_while(conn, lambda: conn.execute("CALL work()")) == ["at 2, 0 left"]
    assert left(store.admin, ONE, STOCK) == (99 if quantity == 1 else 100)
    store.audit()


LEAVE = """
    CREATE TABLE store.opened (by name);
    CREATE FUNCTION store.leave() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        c refcursor := 'orders';
    BEGIN
        BEGIN
            OPEN c FOR SELECT store.grab();
            INSERT INTO store.opened VALUES (current_user);
        EXCEPTION WHEN duplicate_cursor THEN
            NULL;
        END;
        c := NULL;
        OPEN c FOR SELECT store.grab();
        RETURN NULL;
    END $$;
"""


@pytest.mark.parametrize("function", ["purge_requests", "attach_inventory", "detach_inventory"])
def test_cursors_of_the_owners_code_do_not_outlive_the_call(db, function):
    """A superuser who then fetches from a cursor of that name would run the owner's code as a superuser."""
    store = hostile_store(db)
    store.owner.execute(LEAVE + f"SELECT public.restock_inventory('{ONE}', 1, NULL, 'old')")
    if function == "attach_inventory":
        store.owner.execute(f"SELECT public.detach_inventory(); UPDATE {STOCK} SET quantity = 5")
    for table in [STOCK, *store.companions()]:
        store.owner.execute(
            f"CREATE TRIGGER leave BEFORE INSERT OR UPDATE OR DELETE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION store.leave()"
        )
    conn = store.db.connect()
    with conn.transaction():
        conn.execute("DECLARE mine CURSOR FOR SELECT generate_series(1, 3)")
        assert conn.execute("FETCH mine").fetchone()[0] == 1
        if function == "purge_requests":
            assert conn.execute("SELECT purge_requests('0')").fetchone()[0] == 1
        elif function == "detach_inventory":
            conn.execute("SELECT detach_inventory()")
        else:
            attach(conn, STOCK)
        assert cursors(conn) == {"mine"}
        assert conn.execute("FETCH mine").fetchone()[0] == 2
        conn.execute("DECLARE orders CURSOR FOR SELECT 'the orders'; CLOSE mine")
        assert conn.execute("FETCH orders").fetchone()[0] == "the orders"
    assert cursors(conn) == set() and not store.become_superuser()
    assert set(store.admin.execute("SELECT by FROM store.opened").fetchall()) == {(store.owner_role,)}
    attached = store.admin.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0]
    assert attached == (0 if function == "detach_inventory" else 1)
    assert function != "purge_requests" or keys_kept(store.admin, KEYS) == []
    if attached:
        store.settled(5 if function == "attach_inventory" else 100)
        store.audit()


DEFERRED = """
    CREATE TABLE {schema}.payroll (n integer);
    CREATE TABLE {schema}.fired (who name);
    CREATE FUNCTION {schema}.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO {schema}.fired VALUES (current_user);
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {schema}.payroll DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION {schema}.late();
    CREATE TABLE {schema}.seat (n integer UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
    INSERT INTO {schema}.seat VALUES (1);
    GRANT ALL ON {schema}.payroll, {schema}.fired, {schema}.seat TO PUBLIC;
"""
SET = {
    "all at once": "SET CONSTRAINTS ALL IMMEDIATE",
    "one at once": "SET CONSTRAINTS public.late IMMEDIATE",
    "all later": "SET CONSTRAINTS ALL DEFERRED",
}
CAUGHT = "BEGIN {set}; EXCEPTION WHEN insufficient_privilege THEN NULL; END"


def store_that_sets(db, code, **options):
    """The owner's triggers set the constraints of the transaction."""
    store = open_store(db, **options)
    store.admin.execute(DEFERRED.format(schema="public"))
    store.owner.execute(
        f"CREATE FUNCTION store.set() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {code}; RETURN NEW; END $$;"
        f"CREATE TRIGGER set BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.set();"
        f"CREATE TRIGGER set BEFORE UPDATE ON {STRIPES} FOR EACH ROW EXECUTE FUNCTION store.set()"
    )
    return store


def fired(conn, schema="public") -> list[str]:
    return [who for (who,) in conn.execute(f"SELECT who FROM {schema}.fired").fetchall()]


@pytest.mark.parametrize(("caller", "run_as"), [("clerk", "owner"), ("superuser", "owner"), ("superuser", "caller")])
@pytest.mark.parametrize("way", SET, ids=[name.replace(" ", "_") for name in SET])
def test_the_owners_code_cannot_set_the_constraints_of_anothers_transaction(db, way, caller, run_as):
    """The sale fails with 42501; what is deferred stays so until the commit, and then runs as the caller."""
    store = store_that_sets(db, SET[way], p_run_as=run_as)
    conn = session(store, caller)
    with conn.transaction():
        conn.execute("INSERT INTO payroll VALUES (1)")
        for item in (ONE, TWO):
            conn.execute("SAVEPOINT s")
            assert refused_sale(conn, item, 1).sqlstate == "42501"
            conn.execute("ROLLBACK TO s")
        assert fired(conn) == []
    assert fired(conn) == [conn.info.user]
    assert left(store.admin, ONE, STOCK) == 100
    store.owner.execute(f"DROP TRIGGER set ON {STOCK}; DROP TRIGGER set ON {STRIPES}")
    sell(conn, TWO, 1)
    store.settled(99)
    store.audit()


@pytest.mark.parametrize("caller", ["clerk", "superuser"])
@pytest.mark.parametrize("way", SET, ids=[name.replace(" ", "_") for name in SET])
def test_a_trigger_that_catches_the_refusal_sells_and_changes_no_constraint(db, way, caller):
    """What the caller has deferred is not fired by the sale; what is checked at once is still checked at once."""
    store = store_that_sets(db, CAUGHT.format(set=SET[way]))
    conn = session(store, caller)
    with conn.transaction():
        conn.execute("INSERT INTO payroll VALUES (1)")
        sell(conn, ONE, 1)
        sell(conn, TWO, 1)
        assert fired(conn) == []
        conn.execute("SAVEPOINT s")
        assert refused(conn, "INSERT INTO seat VALUES (1)").sqlstate == "23505"
        conn.execute("ROLLBACK TO s")
        conn.execute("INSERT INTO payroll VALUES (2)")
        assert fired(conn) == []
    assert fired(conn) == [conn.info.user] * 2
    assert left(store.admin, ONE, STOCK) == 99
    store.settled(99)
    store.audit()


@pytest.mark.parametrize("caller", ["clerk", "superuser"])
def test_the_caller_may_set_its_own_constraints(db, caller):
    """Before, between and after sales, which work while an event of the caller waits."""
    store = open_store(db)
    store.admin.execute(DEFERRED.format(schema="public"))
    conn = session(store, caller)
    with conn.transaction():
        conn.execute("INSERT INTO payroll VALUES (1)")
        sell(conn, ONE, 1)
        sell(conn, TWO, 1)
        assert fired(conn) == []
        conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        assert fired(conn) == [conn.info.user]
        sell(conn, ONE, 1)
        conn.execute("SET CONSTRAINTS late DEFERRED; INSERT INTO payroll VALUES (2)")
        sell(conn, TWO, 1)
        assert fired(conn) == [conn.info.user]
    assert fired(conn) == [conn.info.user] * 2
    store.settled(98)
    store.audit()


@pytest.mark.parametrize("run_as", ["owner", "caller"])
def test_the_owners_code_may_set_the_constraints_of_the_owners_own_transaction(db, run_as):
    """As in any UPDATE of the owner's."""
    store = store_that_sets(db, SET["all at once"], p_run_as=run_as)
    store.owner.execute(DEFERRED.format(schema="store"))
    with store.owner.transaction():
        store.owner.execute("INSERT INTO store.payroll VALUES (1)")
        assert fired(store.owner, "store") == []
        sell(store.owner, ONE, 1)
        assert fired(store.owner, "store") == [store.owner_role]
    assert left(store.admin, ONE, STOCK) == 99
    store.audit()
