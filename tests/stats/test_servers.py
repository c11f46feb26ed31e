"""Statistics and the life of a server: where their memory comes from, when they begin at zero, and when it is full.

Before PostgreSQL 17 the memory is there only if the library is in shared_preload_libraries. Each test has a server of
its own.
"""

import os
import signal

import psycopg
import pytest

from databases import Database
from dev.server import Server
from servers import PG, assert_nothing_crashed
from shop import ONE, TWO, item, sell, shop, until

NEEDS_PRELOAD = int(PG) < 17
PRELOADED = {"shared_preload_libraries": "inventory_ext"}
NEEDED = PRELOADED if NEEDS_PRELOAD else {}
VIEWS = ("inventory_stats", "inventory_latency", "inventory_hot_items", "inventory_lock_queue")
PLACES = 1_024
ORDER = f'[{{"inventory_id": "{ONE}", "quantity": 1}}, {{"inventory_id": "{TWO}", "quantity": 1}}]'
CALLS = f"""
    SELECT decrement_inventory('{ONE}', 1);
    SELECT decrement_item('{ONE}', 1, 'order 1', 'key 1');
    SELECT decrement_item('{ONE}', 1, 'order 1', 'key 1');
    SELECT decrement_inventory_batch('{ORDER}');
    SELECT restock_inventory('{ONE}', 5);
    SELECT adjust_inventory('{ONE}', 100);
    SELECT transfer_inventory('{ONE}', '{TWO}', 5);
    SELECT stripe_inventory('{TWO}', 2);
    SELECT decrement_inventory('{TWO}', 1);
    SELECT unstripe_inventory('{TWO}');
    SELECT available_inventory('{ONE}');
    SELECT purge_requests('1 day');
    SELECT audit_inventory();
    SELECT inventory_at('{ONE}', now());
    SELECT inventory_changes();
    SELECT reconcile_inventory('{ONE}');
    SELECT verify_inventory(inventory_digest());
    SELECT archive_movements(now() - interval '1 day');
    SELECT inventory_advice();
    SELECT * FROM inventory_audits;
    SELECT reset_inventory_stats()
"""


def database(server, name="shop"):
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
    db = Database(server, name)
    with db.connect() as conn:
        conn.execute("CREATE EXTENSION inventory_ext")
        shop(conn, {item(number): "1000" for number in range(1, 4)})
    return db


def info(conn):
    return conn.execute("SELECT available, reason, stats_reset, not_counted FROM inventory_stats_info").fetchone()


def calls(conn, function="decrement_inventory"):
    found = conn.execute("SELECT sum(calls)::int FROM inventory_stats WHERE function = %s", (function,))
    return found.fetchone()[0] or 0


def rows(conn):
    return {view: conn.execute(f"SELECT count(*) FROM {view}").fetchone()[0] for view in VIEWS}


def run_all(conn):
    for call in CALLS.split(";"):
        conn.execute(call)


def test_a_server_without_the_library_preloaded():
    """From 17 on that is how it is used; before, there are no statistics, and all else works."""
    with Server(pg=PG) as server:
        with database(server).connect() as conn:
            run_all(conn)
            sell(conn, ONE, 1)
            if NEEDS_PRELOAD:
                assert info(conn) == (False, "inventory_ext is not in shared_preload_libraries", None, None)
                assert rows(conn) == dict.fromkeys(VIEWS, 0)
            else:
                assert info(conn)[:2] == (True, None)
                assert (calls(conn), calls(conn, "archive_movements")) == (1, 0)
        assert_nothing_crashed(server)


def test_a_server_with_the_library_preloaded():
    """On every version; each database and each session has the same memory."""
    with Server(pg=PG, settings=PRELOADED) as server:
        one, two = database(server, "one"), database(server, "two")
        with one.connect() as conn, one.connect() as other, two.connect() as elsewhere:
            run_all(conn)
            assert rows(conn) == dict.fromkeys(VIEWS, 0), "the last call resets"
            sell(conn, ONE, 1)
            sell(other, ONE, 1)
            sell(elsewhere, ONE, 1)
            assert info(conn)[:2] == info(elsewhere)[:2] == (True, None)
            assert (calls(conn), calls(other), calls(elsewhere)) == (2, 2, 1)
        assert_nothing_crashed(server)


def test_a_restart_begins_at_zero():
    with Server(pg=PG, settings=NEEDED) as server:
        db = database(server)
        with db.connect() as conn:
            sell(conn, ONE, 1)
            assert calls(conn) == 1
            before = info(conn)[2]
        server.stop()
        server.start()
        with db.connect() as conn:
            assert rows(conn) == dict.fromkeys(VIEWS, 0)
            assert info(conn)[2] > before
            sell(conn, ONE, 1)
            assert calls(conn) == 1


def test_a_crash_begins_at_zero():
    """PostgreSQL ends all processes, and makes its shared memory anew, when one is killed."""
    with Server(pg=PG, settings=NEEDED) as server:
        db = database(server)
        witness, victim = db.connect(), db.connect()
        sell(victim, ONE, 1)
        victim.execute("BEGIN")
        sell(victim, ONE, 1)
        assert calls(witness) == 2
        before = info(witness)[2]
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        until(lambda: not answers(witness), "the crash ends the other session")
        conn = until(lambda: connection(db), "the server is back")
        assert rows(conn) == dict.fromkeys(VIEWS, 0)
        assert info(conn)[2] > before
        assert conn.execute("SELECT * FROM inventory_stats_locking()").fetchall() == []
        sell(conn, ONE, 1)
        assert calls(conn) == 1
        conn.close()


def answers(conn):
    try:
        return conn.execute("SELECT true").fetchone()[0]
    except psycopg.OperationalError:
        return False


def connection(db):
    try:
        return db.connect()
    except psycopg.OperationalError:
        return None


def test_calls_that_find_no_place_work_and_their_number_is_known():
    """Ten functions of each table fill the places; those of a dropped table become free when one is wanted."""
    with Server(pg=PG, settings=NEEDED) as server:
        db = database(server)
        with db.connect() as conn:
            fill_places(conn, tables=PLACES // 10 + 1)
            entries, most = conn.execute("SELECT entries, entries_max FROM inventory_stats_info").fetchone()
            lost = info(conn)[3]
            assert (entries, most) == (PLACES, PLACES) and lost > 0
            counted = conn.execute("SELECT sum(calls) FROM inventory_stats").fetchone()[0]
            conn.execute("CREATE TABLE one_more (LIKE inventory INCLUDING ALL); SELECT attach_inventory('one_more')")
            conn.execute("SET inventory_ext.stock_table = 'one_more'")
            conn.execute("INSERT INTO one_more VALUES (%s, 9)", (ONE,))
            assert sell(conn, ONE, 1)["new_quantity"] == 8
            assert info(conn)[3] == lost + 1
            conn.execute("DROP TABLE one_more, t1")
            assert conn.execute("SELECT sum(calls) FROM inventory_stats").fetchone()[0] == counted - 10
            assert conn.execute("SELECT entries FROM inventory_stats_info").fetchone() == (PLACES,)
            conn.execute("SELECT reset_inventory_stats()")
            assert rows(conn)["inventory_stats"] == 0
            assert info(conn)[3] == lost + 1, "those of the server are not those of this database alone"
            conn.execute("RESET inventory_ext.stock_table; CREATE TABLE another (LIKE t2 INCLUDING ALL)")
            conn.execute("SELECT attach_inventory('another'); SET inventory_ext.stock_table = 'another'")
            conn.execute("INSERT INTO another VALUES (%s, 9)", (ONE,))
            # A session looks again for places after a second.
            conn.execute("SELECT pg_sleep(1.1)")
            sell(conn, ONE, 1)
            stats = "SELECT calls FROM inventory_stats WHERE stock_table = 'public.another'"
            assert conn.execute(stats).fetchall() == [(1,)]


def test_places_of_databases_that_are_gone_become_free():
    with Server(pg=PG, settings=NEEDED) as server:
        db = database(server)
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE gone")
        with psycopg.connect(server.dsn("gone"), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION inventory_ext")
            fill_places(conn, tables=PLACES // 10 + 1)
            assert info(conn)[3] > 0
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("DROP DATABASE gone WITH (FORCE)")
        with db.connect() as conn:
            sell(conn, ONE, 1)
            assert conn.execute(
                "SELECT calls FROM inventory_stats WHERE function = 'decrement_inventory'"
            ).fetchone() == (1,)


def test_a_call_that_fails_before_its_table_is_known_finds_a_place_of_a_database_that_is_gone():
    """Before, such calls were counted only while there were places that nothing had had."""
    with Server(pg=PG, settings=NEEDED) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE gone")
            admin.execute("CREATE DATABASE bare")
            with psycopg.connect(server.dsn("gone"), autocommit=True) as conn:
                conn.execute("CREATE EXTENSION inventory_ext")
                fill_places(conn, tables=PLACES // 10 + 1)
                lost = info(conn)[3]
            admin.execute("DROP DATABASE gone WITH (FORCE)")
        with psycopg.connect(server.dsn("bare"), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION inventory_ext")
            with pytest.raises(psycopg.Error):
                sell(conn, ONE, 1)
            assert conn.execute("SELECT stock_table, calls FROM inventory_stats").fetchall() == [(None, 1)]
            assert info(conn)[3] == lost > 0


def test_a_table_whose_drop_is_rolled_back_keeps_its_counters_where_all_places_are_taken():
    """The transaction that had dropped it took that for a fact, and freed its place."""
    with Server(pg=PG, settings=NEEDED) as server:
        db = database(server)
        with db.connect() as conn:
            sell(conn, ONE, 1)
            fill_places(conn, tables=PLACES // 10 + 1)
            with conn.transaction(force_rollback=True):
                conn.execute("SELECT detach_inventory('inventory'); DROP TABLE inventory CASCADE")
                for number in range(1, 6):
                    conn.execute(f"SET LOCAL inventory_ext.stock_table = 't{number}'")
                    conn.execute("SELECT inventory_changes()")
            assert info(conn)[3] > 0, "they found no place"
            calls = "SELECT calls FROM inventory_stats WHERE function = 'decrement_inventory' AND stock_table = %s"
            assert conn.execute(calls, ("public.inventory",)).fetchone() == (1,)


def fill_places(conn, tables):
    """Calls of ten functions for each of so many tables; a refused call takes a place, too."""
    conn.execute(
        """CREATE FUNCTION fill_places(tables int) RETURNS void LANGUAGE plpgsql AS $$
        DECLARE
            one uuid := gen_random_uuid();
            call text;
        BEGIN
            FOR number IN 1 .. tables LOOP
                EXECUTE format('CREATE TABLE t%s (id uuid PRIMARY KEY, quantity int)', number);
                PERFORM attach_inventory(format('t%s', number)::regclass);
                PERFORM set_config('inventory_ext.stock_table', format('t%s', number), true);
                FOREACH call IN ARRAY ARRAY[
                    'decrement_inventory($1, 1)', 'decrement_item($1, 1)', 'restock_inventory($1, 1)',
                    'adjust_inventory($1, 1)', 'stripe_inventory($1, 2)', 'unstripe_inventory($1)',
                    'available_inventory($1)', 'inventory_at($1, now())', 'purge_requests(''1 day'')',
                    'inventory_changes()'
                ] LOOP
                    BEGIN
                        EXECUTE 'SELECT ' || call USING one;
                    EXCEPTION WHEN SQLSTATE 'IV002' THEN
                        NULL;
                    END;
                END LOOP;
            END LOOP;
        END $$"""
    )
    conn.execute("SELECT fill_places(%s)", (tables,))


def test_settings_of_superusers_that_a_client_passes_in_its_options():
    """Before the library is loaded PostgreSQL keeps any value of a setting that it does not know, and then drops it."""
    for settings in ({}, PRELOADED):
        with Server(pg=PG, settings=settings) as server:
            db = database(server)
            with db.connect() as conn:
                conn.execute("CREATE ROLE till LOGIN; GRANT EXECUTE ON FUNCTION decrement_inventory TO till")
                conn.execute("ALTER DATABASE shop SET inventory_ext.max_batch_lines = 5")

            def connect(server=server):
                options = "-c inventory_ext.max_batch_lines=20000"
                return psycopg.connect(server.dsn("shop"), user="till", options=options, autocommit=True)

            if settings:
                with pytest.raises(psycopg.OperationalError, match="permission denied to set parameter"):
                    connect()
                with psycopg.connect(server.dsn("shop"), user="till", autocommit=True) as till:
                    assert limit_of(till) == "5"
            else:
                with connect() as till:
                    assert limit_of(till) == "10000", "neither that of the client nor that of the database"


def limit_of(conn):
    sell(conn, ONE, 1)
    return conn.execute("SHOW inventory_ext.max_batch_lines").fetchone()[0]
