"""Behind a pooler customers share sessions: what one sets must never become another's key, reference or actor.

PgBouncer stands between the clients and the server, with fewer server connections than clients. A key SET for the
session once made the next customers' sales "replayed": three customers were served and one unit was deducted. It is
an error now; a key that is set for the transaction, with set_config(…, true) or SET LOCAL, works as without a pooler.
"""

import random
from collections import Counter

import psycopg
import pytest

from accountant import problems
from books import keys_kept, lines, movements
from clients import PLAIN, STRIPED, clients_at_work, connect, open_shop, resent, send, server_with_a_shop, until_sold
from pgbouncer import pgbouncer
from shop import left, refused, sell, until

KEY, REFERENCE = "inventory_ext.idempotency_key", "inventory_ext.reference"
ONE = PLAIN[0]
# Every function that takes a key, without one of its own.
CALLS = {
    "decrement_inventory": f"decrement_inventory('{ONE}', 1)",
    "decrement_inventory striped": f"decrement_inventory('{STRIPED[0]}', 1)",
    "decrement_inventory_batch": f"decrement_inventory_batch('{lines((ONE, 1), (STRIPED[0], 1))}')",
    "restock_inventory": f"restock_inventory('{ONE}', 1)",
    "adjust_inventory": f"adjust_inventory('{ONE}', 5)",
    "transfer_inventory": f"transfer_inventory('{ONE}', '{PLAIN[1]}', 1)",
}


@pytest.fixture
def conn(db):
    """Directly connected."""
    conn = db.connect()
    open_shop(conn, stock=1000)
    return conn


@pytest.fixture
def one_session(db, conn):
    """Connects a further client of a pool with a single server connection, so that all of them share one session."""
    with pgbouncer(db.server, size=1) as pooler:
        yield lambda: pooler.connect(db.name)


def key_not_local(refusal):
    """Whether this is the error of a key that another transaction has set, with the remedy."""
    return (refusal.sqlstate, refusal.reason) == ("55000", "key_not_local") and f"set_config('{KEY}'" in refusal.hint


def sell_with(conn, **settings):
    """One unit, in a transaction with these settings."""
    with conn.transaction():
        for name, value in settings.items():
            conn.execute("SELECT set_config(%s, %s, true)", (f"inventory_ext.{name}", value))
        return sell(conn, ONE, 1)


# A key for the session


@pytest.mark.parametrize("setting", [f"SET {KEY} = 'first'", f"SELECT set_config('{KEY}', 'first', false)"])
def test_a_key_that_one_customer_set_for_the_session_does_not_replay_the_sales_of_others(conn, one_session, setting):
    """Three customers each buy one. None of them gets the result of another; none is served without a deduction."""
    customers = [one_session() for _ in range(3)]
    customers[0].execute(setting)
    for customer in customers * 2:
        assert key_not_local(refused(customer, f"SELECT decrement_inventory('{ONE}', 1)"))
    assert left(conn, ONE) == 1000
    assert keys_kept(conn) == []
    assert problems(conn) == []


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_function_takes_the_key_that_another_customer_left(conn, one_session, call):
    """The first customer even used it, in the transaction that set it. Its result belongs to this customer alone."""
    first, second = one_session(), one_session()
    with first.transaction():
        first.execute(f"SET {KEY} = 'first'")
        first.execute(f"SELECT {call}")
    after = conn.execute("SELECT count(*) FROM inventory_movement").fetchone()
    for customer in (second, first):
        assert key_not_local(refused(customer, f"SELECT {call}"))
    assert conn.execute("SELECT count(*) FROM inventory_movement").fetchone() == after
    assert second.execute("SELECT available_inventory(%s)", (ONE,)).fetchone()  # reading needs no key
    assert problems(conn) == []


def test_a_key_for_the_transaction_works_where_another_customer_left_one_in_the_session(conn, one_session):
    """So does an empty one, which means none. Afterwards the left one is an error again."""
    first, second = one_session(), one_session()
    first.execute(f"SET {KEY} = 'left behind'")
    assert "replayed" not in sell_with(second, idempotency_key="second")
    assert sell_with(second, idempotency_key="second")["replayed"] is True
    assert "replayed" not in sell_with(second, idempotency_key="left behind")
    assert "replayed" not in sell_with(second, idempotency_key="")
    assert key_not_local(refused(second, f"SELECT decrement_inventory('{ONE}', 1)"))
    second.execute(f"RESET {KEY}")
    assert "replayed" not in sell(first, ONE, 1)
    assert left(conn, ONE) == 996
    assert keys_kept(conn) == ["left behind", "second"]


@pytest.mark.parametrize("where", ["ALTER DATABASE", "ALTER ROLE", "connect_query"])
def test_a_key_that_every_server_connection_begins_with_is_an_error(db, conn, where):
    """Set for the database, the role, or by the pooler itself when it connects."""
    sell(conn, PLAIN[1], 1)  # so that the setting is known to this session
    scope = {"ALTER DATABASE": f"DATABASE {db.name}", "ALTER ROLE": f"ROLE postgres IN DATABASE {db.name}"}
    if where in scope:
        conn.execute(f"ALTER {scope[where]} SET {KEY} = 'everybody'")
    with pgbouncer(db.server, connect_query=None if where in scope else f"SET {KEY} = 'everybody'") as pooler:
        for number in range(3):
            customer = pooler.connect(db.name)
            assert key_not_local(refused(customer, f"SELECT decrement_inventory('{ONE}', 1)"))
            assert "replayed" not in sell_with(customer, idempotency_key=f"customer {number}")
    assert left(conn, ONE) == 997


def test_a_key_among_the_startup_options_is_an_error(db, conn):
    """Of a direct connection; PgBouncer does not pass options on."""
    with db.connect(options=f"-c {KEY}=everybody") as customer:
        assert key_not_local(refused(customer, f"SELECT decrement_inventory('{ONE}', 1)"))
        assert "replayed" not in sell_with(customer, idempotency_key="mine")
    with pgbouncer(db.server, ignore_startup_parameters="options") as pooler:
        with pooler.connect(db.name, options=f"-c {KEY}=everybody") as customer:
            assert "replayed" not in sell(customer, ONE, 1)
            assert "replayed" not in sell(customer, ONE, 1)
    assert left(conn, ONE) == 997
    assert keys_kept(conn) == ["mine"]


# A key for the transaction


@pytest.mark.parametrize("how", ["set_config", "SET LOCAL"])
def test_three_customers_with_keys_of_their_own_get_three_units(conn, one_session, how):
    """Each is answered from memory for its own key only, whichever session it is given."""
    setting = {"set_config": f"SELECT set_config('{KEY}', '%s', true)", "SET LOCAL": f"SET LOCAL {KEY} = '%s'"}[how]
    customers = {name: one_session() for name in ("anna", "berta", "clara")}
    for round in range(2):
        for name, customer in customers.items():
            with customer.transaction():
                customer.execute(setting % name)
                result = sell(customer, ONE, 1)
            assert ("replayed" in result) == (round == 1)
            assert result["old_quantity"] == 1000 - list(customers).index(name)
    assert left(conn, ONE) == 997
    assert keys_kept(conn) == sorted(customers)


def test_a_key_set_in_one_statement_with_the_sale_counts_under_statement_pooling(db, conn):
    """Where every statement may go to another session, set_config and the call share one."""
    sale = f"SELECT set_config('{KEY}', %s, true), decrement_inventory('{ONE}', 1)"
    with pgbouncer(db.server, pool_mode="statement", size=1) as pooler:
        first, second = pooler.connect(db.name), pooler.connect(db.name)
        results = [customer.execute(sale, (key,)).fetchone()[1] for customer, key in
                   ((first, "a"), (second, "b"), (first, "a"))]  # fmt: skip
        assert ["replayed" in result for result in results] == [False, False, True]
        assert "replayed" not in sell(second, ONE, 1)
    assert left(conn, ONE) == 997


def test_a_key_counts_on_a_server_connection_that_never_loaded_the_library(db, conn):
    """SET LOCAL comes before the first call of the session, when the setting is a mere name."""
    with pgbouncer(db.server, size=1) as pooler:
        for round in range(2):
            for key in ("a", "b"):
                conn.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
                )
                customer = until(lambda: fresh_customer(pooler, db.name), "the pooler connects again")
                with customer.transaction():
                    customer.execute(f"SET LOCAL {KEY} = '{key}'")
                    assert ("replayed" in sell(customer, ONE, 1)) == (round == 1)
                customer.close()
    assert left(conn, ONE) == 998


def fresh_customer(pooler, name):
    """A client whose server connection lives."""
    customer = pooler.connect(name)
    try:
        customer.execute("SELECT 1")
        return customer
    except psycopg.OperationalError:
        return None


# Many clients


def send_with_actor(conn, request):
    """As the till does it: SET LOCAL for everything, and an actor of the client's own."""
    client = request.reference.rpartition("-")[0]
    with conn.transaction():
        conn.execute(f"SET LOCAL inventory_ext.actor = '{client}'")
        if request.function != "sell":
            return send(conn, request)
        conn.execute(f"SET LOCAL {REFERENCE} = '{request.reference}'")
        if request.key:
            conn.execute(f"SET LOCAL {KEY} = '{request.key}'")
        return sell(conn, *request.arguments)


def test_no_key_reference_or_actor_passes_from_one_client_to_another(db, conn):
    """Ten clients with keys, references and actors share four sessions with one that has nothing of these."""
    with pgbouncer(db.server) as pooler:
        bare = pooler.connect(db.name)
        with clients_at_work(lambda: pooler.dsn(db.name), count=10, send=send_with_actor) as clients:
            for _ in range(150):
                sell(bare, random.choice(PLAIN), 1)
            until_sold(clients, 300)
    assert problems(conn, clients) == []
    kinds = Counter()
    for movement in movements(conn):
        if movement.reference:
            assert movement.actor == movement.reference.rpartition("-")[0]
        elif movement.kind == "sale":
            assert (movement.key, movement.actor) == (None, "postgres")
            kinds["bare"] += 1
    assert kinds["bare"] == 150


def test_server_connections_that_are_ended_behind_the_pooler_leave_exact_books(db, conn):
    """The clients lose their connections to the pooler, and send their requests again."""
    end = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
           AND state <> 'idle'
    """
    with pgbouncer(db.server) as pooler, clients_at_work(lambda: pooler.dsn(db.name)) as clients:
        for _ in range(8):
            until_sold(clients, 20)
            conn.execute(end)
    assert resent(clients) > 0
    assert problems(conn, clients) == []


def test_a_crash_behind_the_pooler_loses_and_repeats_nothing():
    """The pooler stays, and connects again once the server is there."""
    with server_with_a_shop() as server, pgbouncer(server, server_login_retry="0.1") as pooler:
        with clients_at_work(lambda: pooler.dsn("shop")) as clients:
            until_sold(clients, 100)
            server.stop("immediate")
            server.start()
            until_sold(clients, 100)
        assert resent(clients) > 0
        with connect(server) as conn:
            assert problems(conn, clients) == []


# Session pooling


NO_KEY_TOO_MANY = f"SELECT set_config('{KEY}', '', true), decrement_inventory('{ONE}', 9999)"


def test_discard_all_between_two_clients_takes_key_reference_and_style_along(db, conn):
    """The pooler's reset query of a session pool. A client's key of the session is an error for this client too."""
    with pgbouncer(db.server, pool_mode="session", size=1, server_reset_query="DISCARD ALL") as pooler:
        for number in range(3):
            with pooler.connect(db.name) as first:
                for setting in (f"{KEY} = 'left'", f"{REFERENCE} = 'left'", "inventory_ext.error_style = 'postgrest'"):
                    first.execute(f"SET {setting}")
                assert key_not_local(refused(first, f"SELECT decrement_inventory('{ONE}', 1)"))
                assert sell_with(first, idempotency_key=f"first {number}")["deducted"] == 1
                assert refused(first, NO_KEY_TOO_MANY).sqlstate == "PT409"
            with pooler.connect(db.name) as second:
                assert "replayed" not in sell(second, ONE, 1)
                assert "replayed" not in sell(second, STRIPED[0], 1)
                assert refused(second, f"SELECT decrement_inventory('{ONE}', 9999)").sqlstate == "IV001"
    assert left(conn, ONE) == 994
    assert {m.reference for m in movements(conn) if m.kind == "sale"} == {None, "left"}
    assert problems(conn) == []
