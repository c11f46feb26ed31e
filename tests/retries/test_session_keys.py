"""An idempotency key that was not set in the current transaction does not count: it is an error.

Behind a transaction pooler sessions are shared. One customer's SET left a key behind, and the next customers' sales
were "replayed": three were served, one unit was deducted. A key counts where its own transaction has set it; a key of
an earlier transaction, of a role, a database or the start of the session raises key_not_local and changes nothing.
"""

import psycopg
import pytest

from books import audit, call, call_text, keys_kept, last_movement, movements, refused_call
from selling_calls import SELLING, arguments, available, make, refused_make, stripe, unstripe, worker
from shop import ONE, TWO, left, refused, refused_sale, sell, shop, stock_of

NAME = "inventory_ext.idempotency_key"
WITH_ARGUMENT = ("decrement_inventory_batch", "restock_inventory", "transfer_inventory")


@pytest.fixture
def conn(db):
    """The session that looks; the till's are the ones with keys."""
    conn = db.connect()
    shop(conn, {ONE: "100", TWO: "100"}, type="integer")
    return conn


@pytest.fixture
def till(db, conn):
    return db.connect()


@pytest.fixture(params=["loaded", "fresh"])
def new_session(request, db, conn):
    """Makes sessions that have called a function, or ones in which the setting is a placeholder when it is made."""

    def connect(**options):
        session = db.connect(**options)
        if request.param == "loaded":
            available(session, TWO)
        return session

    return connect


@pytest.fixture
def session(new_session):
    return new_session()


def assert_not_local(answer):
    assert (answer.sqlstate, answer.reason) == ("55000", "key_not_local"), answer
    assert "set_config(" in answer.hint and "true" in answer.hint


def assert_refused_in_every_function(session, conn):
    """Nothing is changed, no key is kept, and the error comes again and again."""
    before, after, kept = stock_of(conn), last_movement(conn), keys_kept(conn)
    for function in SELLING * 2:
        assert_not_local(refused_make(session, function, ONE, TWO))
    assert (stock_of(conn), last_movement(conn), keys_kept(conn)) == (before, after, kept)


def keyed(session, key, function="decrement_inventory"):
    """One transaction that sets its key locally, and its result."""
    with session.transaction():
        session.execute("SELECT set_config(%s, %s, true)", (NAME, key))
        return make(session, function, ONE, TWO)


def test_three_customers_behind_one_server_connection_are_not_replayed(conn, till):
    """The first one's SET is the others' error, and not their receipt; each unit that was sold is deducted."""
    till.execute("BEGIN")
    till.execute(f"SET {NAME} = 'order of the first'; SET inventory_ext.reference = 'order 1'")
    assert "replayed" not in sell(till, ONE, 1)
    till.execute("COMMIT")
    for _ in range(2):
        assert_not_local(refused_sale(till, ONE, 1))
    assert left(conn, ONE) == 99
    till.execute(f"RESET {NAME}")
    assert "replayed" not in sell(till, ONE, 1)
    assert "replayed" not in sell(till, ONE, 1)
    assert left(conn, ONE) == 97
    assert keys_kept(conn) == ["order of the first"]
    audit(conn)


EARLIER = [
    f"SET {NAME} = 'k'", f"SET SESSION {NAME} = 'k'", f"SET {NAME} TO k", f"SELECT set_config('{NAME}', 'k', false)",
    f"BEGIN; SET {NAME} = 'k'; COMMIT", f"BEGIN; SAVEPOINT a; SET {NAME} = 'k'; RELEASE a; COMMIT",
    f"BEGIN; SET {NAME} = 'k'; COMMIT AND CHAIN; COMMIT",
    f"DO $$ BEGIN PERFORM set_config('{NAME}', 'k', false); END $$",
    f"BEGIN; SET LOCAL {NAME} = 'other'; SET {NAME} = 'k'; COMMIT",
    f"BEGIN; SET {NAME} = 'k'; SET LOCAL {NAME} = 'other'; COMMIT",
]  # fmt: skip


def test_a_key_of_an_earlier_transaction_is_an_error_in_every_function(conn, new_session):
    """However it was set; RESET gives the session back."""
    for setting in EARLIER:
        with new_session() as session:
            session.execute(setting)
            assert_refused_in_every_function(session, conn)
            session.execute(f"RESET {NAME}")
            make(session, "adjust_inventory", ONE, TWO, 100)
            for function in SELLING:
                assert "replayed" not in make(session, function, ONE, TWO, 2)
    assert keys_kept(conn) == []


@pytest.mark.parametrize("where", ["role", "database", "role in database", "options", "every role"])
def test_a_key_that_a_session_starts_with_is_an_error_in_every_function(db, conn, new_session, where):
    """ALTER ROLE, ALTER DATABASE and the options of the connection: shared by all requests of all sessions."""
    role, _ = worker(conn, db, "clerk")
    with db.connect() as known:
        sell(known, TWO, 1)  # PostgreSQL lets a superuser set what it knows
        if where == "role":
            known.execute(f"ALTER ROLE \"{role}\" SET {NAME} = 'k'")
        elif where == "database":
            known.execute(f"ALTER DATABASE {db.name} SET {NAME} = 'k'")
        elif where == "role in database":
            known.execute(f"ALTER ROLE \"{role}\" IN DATABASE {db.name} SET {NAME} = 'k'")
        elif where == "every role":
            known.execute(f"ALTER ROLE ALL IN DATABASE {db.name} SET {NAME} = 'k'")
    options = {"options": f"-c {NAME}=k"} if where == "options" else {}
    session = new_session(user=role, **options)
    conn.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{role}"')
    assert_refused_in_every_function(session, conn)
    for back in (f"RESET {NAME}", f"SET {NAME} TO DEFAULT", "RESET ALL", "DISCARD ALL"):
        session.execute(back)
        assert_not_local(refused_sale(session, ONE, 1))
    assert "replayed" not in keyed(session, "mine")
    assert keyed(session, "mine")["replayed"] is True
    assert_refused_in_every_function(session, conn)
    session.execute(f"SET {NAME} = ''")
    assert "replayed" not in sell(session, ONE, 1)


def test_the_default_of_a_role_does_not_become_local_by_going_back_to_it(db, conn, new_session):
    """The transaction has run RESET, and the value is still the one that all requests share.

    Where the library is loaded after SET and SET LOCAL TO DEFAULT, PostgreSQL itself forgets the second: the key in
    force is then the one that this transaction has set.
    """
    role, _ = worker(conn, db, "clerk")
    conn.execute(f"ALTER ROLE \"{role}\" SET {NAME} = 'k'")
    for back in (f"RESET {NAME}", f"SET LOCAL {NAME} TO DEFAULT", f"SET {NAME} TO DEFAULT", "RESET ALL"):
        for local in ("", f"SET LOCAL {NAME} = 'mine';", f"SET {NAME} = 'mine';"):
            with new_session(user=role) as session:
                session.execute("BEGIN")
                session.execute(local + back)
                available(session, ONE)
                if session.execute(f"SHOW {NAME}").fetchone()[0] == "mine":
                    assert (local, back) == (f"SET {NAME} = 'mine';", f"SET LOCAL {NAME} TO DEFAULT")
                    assert "replayed" not in sell(session, ONE, 1)
                else:
                    assert_not_local(refused_sale(session, ONE, 1))
                session.execute("ROLLBACK")
    assert left(conn, ONE) == 100


def test_a_header_that_an_earlier_transaction_left_is_no_key(conn, new_session):
    """A program that sets request.headers for the session leaves its key to the next customer, as with our own
    setting."""
    headers, name = """'{"idempotency-key": "k"}'""", "request.headers"
    session = new_session()
    session.execute(f"SET inventory_ext.request_headers = on; SET {name} = {headers}")
    for begin in (
        "BEGIN",
        f"BEGIN; SAVEPOINT a; SET LOCAL {name} = {headers}; ROLLBACK TO a",
        f"BEGIN; SET LOCAL {name} = {headers}; ROLLBACK; BEGIN",
        f"BEGIN; RESET {name}; ROLLBACK; BEGIN",
    ):
        session.execute(begin)
        assert_not_local(refused_sale(session, ONE, 1))
        session.execute("ROLLBACK")
    assert left(conn, ONE) == 100
    for level, replayed in (("LOCAL", False), ("SESSION", True)):
        with session.transaction():
            session.execute(f"SET {level} {name} = {headers}")
            assert ("replayed" in sell(session, ONE, 1)) == replayed
    assert_not_local(refused_sale(session, ONE, 1))
    session.execute(f"RESET {name}")
    assert "replayed" not in sell(session, ONE, 1)
    assert left(conn, ONE) == 98


CURRENT = [
    "SET LOCAL {n} = '{k}'", "SELECT set_config('{n}', '{k}', true)", "SET {n} = '{k}'",
    "SELECT set_config('{n}', '{k}', false)", "SAVEPOINT a; SET LOCAL {n} = '{k}'; RELEASE a",
    "SAVEPOINT a; SET {n} = '{k}'; RELEASE a", "SET LOCAL {n} = '{k}'; SAVEPOINT a; SET LOCAL {n} = 'l'; ROLLBACK TO a",
    "SET {n} = '{k}'; SAVEPOINT a; SET {n} = 'l'; ROLLBACK TO a; RELEASE a",
    "DO $$ BEGIN PERFORM set_config('{n}', '{k}', true); END $$",
    "SET LOCAL {n} = ''; SET LOCAL {n} = '{k}'", "RESET {n}; SET LOCAL {n} = '{k}'",
]  # fmt: skip


@pytest.mark.parametrize("left_behind", ["nothing", "the same key", "the key of another"])
def test_a_key_of_the_current_transaction_counts_after_an_earlier_one_left_another(conn, new_session, left_behind):
    """Also where both keys are the same text. The key of the session is an error before and after."""
    for number, setting in enumerate(CURRENT):
        key, first = f"key {number:02}", None
        session = new_session()
        if left_behind != "nothing":
            session.execute(f"SET {NAME} = '{key if left_behind == 'the same key' else 'of another'}'")
            assert_not_local(refused_sale(session, ONE, 1))
        for _ in range(2):
            session.execute("BEGIN")
            session.execute(setting.format(n=NAME, k=key))
            text = call_text(session, "decrement_inventory", p_inventory_id=ONE, p_quantity=1)
            assert first is None or text == first[:-1] + ', "replayed": true}', setting
            first = first or text
            session.execute("COMMIT")
        is_local = "LOCAL" in setting or "true" in setting
        if not is_local or (left_behind != "nothing" and not setting.startswith("RESET")):
            assert_not_local(refused_sale(session, ONE, 1))
        else:
            assert "replayed" not in sell(session, TWO, 1)
        session.close()
    assert left(conn, ONE) == 100 - len(CURRENT)
    assert keys_kept(conn) == [f"key {number:02}" for number in range(len(CURRENT))]


def test_a_session_key_in_the_transaction_block_of_its_call_counts_there_alone(conn, till):
    """SET without LOCAL, and the call in the same block; the same session is refused from the next transaction on."""
    for function in SELLING:
        with till.transaction():
            till.execute(f"SET {NAME} = '{function}'")
            first = make(till, function, ONE, TWO, 2)
            assert make(till, function, ONE, TWO, 2) == first | {"replayed": True}
        assert_refused_in_every_function(till, conn)
        with till.transaction():
            assert_not_local(refused_in_savepoint(till, function))
            till.execute(f"SET {NAME} = '{function}'")
            assert make(till, function, ONE, TWO, 2) == first | {"replayed": True}
    assert keys_kept(conn) == sorted(SELLING)


def refused_in_savepoint(till, function):
    till.execute("SAVEPOINT refused")
    answer = refused_make(till, function, ONE, TWO, 2)
    till.execute("ROLLBACK TO refused")
    return answer


def test_statements_that_are_sent_together_are_one_transaction(conn, till):
    """A simple query of two statements is one transaction; two queries are two."""
    till.execute(f"SET {NAME} = 'k'; SELECT decrement_inventory('{ONE}', 1)")
    assert_not_local(refused_sale(till, ONE, 1))
    till.execute(f"SELECT set_config('{NAME}', 'l', true), decrement_inventory('{ONE}', 1)")
    assert_not_local(refused_sale(till, ONE, 1))
    till.execute(f"SELECT set_config('{NAME}', 'm', false), decrement_inventory('{ONE}', 1)")
    assert_not_local(refused_sale(till, ONE, 1))
    assert (keys_kept(conn), left(conn, ONE)) == (["k", "l", "m"], 97)


WITHIN = [
    f"SET LOCAL {NAME} = 'mine'", f"SET {NAME} = 'mine'", f"SET LOCAL {NAME} = 'old'", f"SET {NAME} = 'old'",
    f"RESET {NAME}", f"SET LOCAL {NAME} = ''", f"SET LOCAL {NAME} TO DEFAULT",
    f"SAVEPOINT b; SET LOCAL {NAME} = 'mine'; RELEASE b",
]  # fmt: skip


def test_a_savepoint_that_brings_the_key_of_the_session_back_does_not_make_it_local(conn, new_session):
    """ROLLBACK TO assigns the old value within the current transaction: it is no key of that transaction."""
    for within in WITHIN:
        session = new_session()
        session.execute(f"SET {NAME} = 'old'")
        session.execute("BEGIN; SAVEPOINT a")
        session.execute(within)
        if "mine" in within:
            assert "replayed" not in sell(session, ONE, 1)
        session.execute("ROLLBACK TO a")
        assert_not_local(refused_sale(session, ONE, 1))
        session.execute("ROLLBACK TO a; RELEASE a")
        assert_not_local(refused_sale(session, ONE, 1))
        session.execute("ROLLBACK")
        assert_not_local(refused_sale(session, ONE, 1))
        session.close()
    assert (left(conn, ONE), keys_kept(conn)) == (100, [])


def test_a_block_that_catches_its_error_brings_the_key_of_the_session_back(conn, session):
    """The same in PL/pgSQL, where a block with EXCEPTION is a savepoint."""
    session.execute(f"SET {NAME} = 'old'")
    answer = refused(
        session,
        f"""DO $$ BEGIN
        BEGIN
            PERFORM set_config('{NAME}', 'mine', true);
            PERFORM decrement_inventory('{ONE}', 1);
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
        PERFORM decrement_inventory('{ONE}', 1);
    END $$""",
    )
    assert_not_local(answer)
    assert (left(conn, ONE), keys_kept(conn)) == (100, [])


def test_a_rolled_back_set_leaves_the_key_of_before(conn, session):
    session.execute(f"BEGIN; SET {NAME} = 'k'; ROLLBACK")
    assert "replayed" not in sell(session, ONE, 1)
    session.execute(f"SET {NAME} = 'old'")
    session.execute(f"BEGIN; SET {NAME} = 'k'; ROLLBACK")
    assert_not_local(refused_sale(session, ONE, 1))
    session.execute(f"BEGIN; RESET {NAME}; ROLLBACK")
    assert_not_local(refused_sale(session, ONE, 1))
    session.execute("BEGIN")
    with pytest.raises(psycopg.Error):
        session.execute(f"SET LOCAL {NAME} = 'k'; SELECT 1 / 0")
    session.execute("ROLLBACK")
    assert_not_local(refused_sale(session, ONE, 1))
    assert keys_kept(conn) == []


FUNCTION = """
    CREATE FUNCTION keyed_sale(item uuid, units numeric) RETURNS json LANGUAGE {language}
    SET inventory_ext.idempotency_key = 'of the function' AS $$ {body} $$
"""
BODIES = {
    "sql": "SELECT decrement_inventory(item, units)",
    "plpgsql": "BEGIN RETURN decrement_inventory(item, units); END",
}


@pytest.mark.parametrize("language", BODIES)
@pytest.mark.parametrize("left_behind", ["old", "of the function"])
def test_a_set_clause_of_a_function_counts_within_it_and_not_after_it(conn, till, language, left_behind):
    """It is set when the function is entered, in the transaction of the call; the return brings the old value back."""
    sell(till, TWO, 1)
    till.execute(FUNCTION.format(language=language, body=BODIES[language]))
    till.execute(f"SET {NAME} = '{left_behind}'")
    for replayed in (False, True):
        answer = till.execute("SELECT keyed_sale(%s, 1)", (ONE,)).fetchone()[0]
        assert answer.get("replayed", False) is replayed
    assert keys_kept(conn) == ["of the function"]
    with till.transaction():
        till.execute("SELECT keyed_sale(%s, 1)", (ONE,))
        assert_not_local(refused_in_savepoint(till, "decrement_inventory"))
        till.execute(f"SET LOCAL {NAME} = 'mine'")
        till.execute("SELECT keyed_sale(%s, 1)", (ONE,))
        assert "replayed" not in sell(till, ONE, 1)
        assert sell(till, ONE, 1)["replayed"] is True
    assert keys_kept(conn) == ["mine", "of the function"]


def test_a_function_that_sets_other_things_does_not_make_a_key_of_the_session_local(conn, till):
    till.execute(FUNCTION.replace(f"{NAME} = 'of the function'", "search_path = public, pg_temp")
                 .format(language="plpgsql", body=BODIES["plpgsql"]))  # fmt: skip
    till.execute(f"SET {NAME} = 'old'")
    assert_not_local(refused(till, "SELECT keyed_sale(%s, 1)", (ONE,)))
    till.execute("BEGIN; SET LOCAL search_path = public; SET inventory_ext.actor = 'a'")
    till.execute("SET LOCAL inventory_ext.reference = 'r'")
    assert_not_local(refused_sale(till, ONE, 1))
    till.execute("ROLLBACK")
    assert keyed(till, "mine")["success"] is True


def test_a_procedure_that_commits_leaves_its_key_behind(conn, till):
    """Each transaction of a procedure needs its own key."""
    till.execute(f"""CREATE PROCEDURE sell_twice(local boolean) LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('{NAME}', 'k', local);
        PERFORM decrement_inventory('{ONE}', 1);
        COMMIT;
        PERFORM decrement_inventory('{ONE}', 1);
    END $$""")
    assert_not_local(refused(till, "CALL sell_twice(false)"))
    assert (left(conn, ONE), keys_kept(conn)) == (99, ["k"])
    till.execute(f"RESET {NAME}; SELECT purge_requests('0 seconds')")
    till.execute("CALL sell_twice(true)")
    assert (left(conn, ONE), keys_kept(conn)) == (97, ["k"])


def test_an_empty_key_is_no_key_wherever_it_comes_from(db, conn):
    """The defence of an application that empties the setting: sales without a key, and no error."""
    role, _ = worker(conn, db, "clerk")
    conn.execute(f"ALTER ROLE \"{role}\" SET {NAME} = ''")
    started = db.connect(user=role)
    options = db.connect(options=f"-c {NAME}=")
    reset = db.connect()
    reset.execute(f"SET {NAME} = 'old'")
    assert_not_local(refused_sale(reset, ONE, 1))
    reset.execute(f"SET {NAME} = ''")
    for session in (started, options, reset):
        make(session, "adjust_inventory", ONE, TWO, 100)
        for function in SELLING:
            assert "replayed" not in make(session, function, ONE, TWO, 3)
    reset.execute(f"SET {NAME} = 'old'")
    with reset.transaction():
        reset.execute(f"SET LOCAL {NAME} = ''")
        assert "replayed" not in sell(reset, TWO, 1)
    assert_not_local(refused_sale(reset, TWO, 1))
    assert keys_kept(conn) == []


def test_an_argument_goes_before_a_key_that_is_left_in_the_session(conn, till):
    """A caller who passes the key of the request is served, also after another one left a key behind."""
    till.execute(f"SET {NAME} = 'of another'")
    for function in WITH_ARGUMENT:
        asked = arguments(function, ONE, TWO) | {"p_idempotency_key": f"my {function}"}
        first = call(till, function, **asked)
        assert call(till, function, **asked) == first | {"replayed": True}
        assert_not_local(refused_make(till, function, ONE, TWO))
        assert_not_local(refused_call(till, function, **asked | {"p_idempotency_key": None}))
    assert keys_kept(conn) == [f"my {function}" for function in sorted(WITH_ARGUMENT)]


def test_striped_items_are_sold_by_the_same_rule(conn, till):
    stripe(till, ONE)
    till.execute(f"SET {NAME} = 'old'")
    for function in SELLING:
        assert_not_local(refused_make(till, function, ONE, TWO))
    assert keyed(till, "mine")["deducted"] == 1
    assert keyed(till, "mine")["replayed"] is True
    assert available(till, ONE) == 99
    till.execute(f"RESET {NAME}")
    unstripe(till, ONE)
    assert left(conn, ONE) == 99


def test_the_error_has_a_json_detail_the_reference_and_one_style(conn, till):
    """55000 in both styles; the message has no text of another request in it."""
    till.execute(f"SET {NAME} = 'secret of another'; SET inventory_ext.reference = 'order 7'")
    for style in ("sqlstate", "postgrest"):
        till.execute(f"SET inventory_ext.error_style = '{style}'")
        answer = refused_sale(till, ONE, 1)
        assert_not_local(answer)
        assert "secret" not in answer.message
        assert list(answer.facts)[0] == "reason"


def test_reference_and_actor_of_the_session_are_not_concerned(conn, till):
    """They name what is done, and decide nothing: a session may keep them, beside keys that are local."""
    till.execute("SET inventory_ext.reference = 'till 3'; SET inventory_ext.actor = 'Anna'")
    sell(till, ONE, 1)
    keyed(till, "mine")
    assert [(m.reference, m.actor, m.key) for m in movements(conn) if m.kind == "sale"] == [
        ("till 3", "Anna", None), ("till 3", "Anna", "mine"),
    ]  # fmt: skip
    till.execute(f"SET {NAME} = 'old'")
    assert_not_local(refused_sale(till, ONE, 1))


def test_a_prepared_statement_and_a_cursor_obey_the_transaction_they_run_in(conn, till):
    """Plans are kept across transactions; the key is looked at in each call."""
    till.execute(f"PREPARE sale AS SELECT decrement_inventory('{ONE}', 1)")
    with till.transaction():
        till.execute(f"SET {NAME} = 'k'")
        till.execute("EXECUTE sale")
        till.execute(f"DECLARE sales CURSOR FOR SELECT decrement_inventory('{ONE}', 1) FROM generate_series(1, 3)")
        assert till.execute("FETCH 1 FROM sales").fetchone()[0]["replayed"] is True
    assert_not_local(refused(till, "EXECUTE sale"))
    till.execute(f"RESET {NAME}")
    till.execute("EXECUTE sale")
    assert left(conn, ONE) == 98
