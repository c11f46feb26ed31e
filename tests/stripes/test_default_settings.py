"""Settings that a database, a role or the whole server gives every new session do not stop the totals worker.

The worker is a session too: it once took over the isolation level, read-only mode and timeouts of its database,
failed, and the rows of striped items showed more than there was, for good. Here each default is set, striped items
are sold, and the row must be exact at rest, again and again. The sessions that sell were connected before, so the
defaults are the worker's alone.
"""

import time

import pytest

from accountant import at_rest, problems
from clients import PG, STRIPED, connect, open_shop, server_with_a_shop, worker_pid
from shop import left, sell, until

STOPPING = [
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("lock_timeout", "10ms"),
    ("session_replication_role", "replica"),
    ("role", "pg_monitor"),
]
OTHER_TIMEOUTS = ["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
TIMEOUTS = {"lock_timeout": ["lock_timeout"], "other timeouts": OTHER_TIMEOUTS}
if int(PG) >= 17:
    STOPPING.append(("transaction_timeout", "50ms"))
    TIMEOUTS["transaction_timeout"] = ["transaction_timeout"]
# All of these at once: each changes how something is read, planned or written.
STRANGE = [
    *[(name, "10ms") for name in OTHER_TIMEOUTS],
    ("row_security", "off"),
    ("search_path", "decoy"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_nestloop", "off"),
    ("work_mem", "64kB"),
    ("synchronous_commit", "on"),
    ("transform_null_equals", "on"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("array_nulls", "off"),
    ("bytea_output", "escape"),
    ("datestyle", "SQL, DMY"),
    ("extra_float_digits", "-15"),
    ("client_encoding", "LATIN1"),
    ("default_transaction_deferrable", "on"),
    ("log_statement", "all"),
    ("inventory_ext.reference", "the database's"),
    ("inventory_ext.actor", "the database's"),
    ("inventory_ext.idempotency_key", "the database's"),
    ("inventory_ext.error_style", "postgrest"),
    ("inventory_ext.row_lock", "update"),
]
SCOPES = {"database": "ALTER DATABASE {db} SET", "role": "ALTER ROLE postgres IN DATABASE {db} SET"}


@pytest.fixture
def conn(db):
    """Connected before any default is set; and no worker runs that would be older than the defaults."""
    conn = db.connect()
    open_shop(conn)
    sell(conn, STRIPED[0], 1)
    assert at_rest(conn) == []
    end_worker(conn)
    return conn


def end_worker(conn):
    conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'inventory_ext totals'")
    until(lambda: worker_pid(conn) is None, "the worker ends")


def set_defaults(conn, settings, scope="database"):
    for name, value in settings:
        conn.execute(f"{SCOPES[scope].format(db=conn.info.dbname)} {name} = '{value.replace(chr(39), chr(39) * 2)}'")


def until_worker_waits(conn):
    """Returns once the worker's transaction has begun and waits for a lock."""
    waits = """
        SELECT FROM pg_stat_activity
         WHERE backend_type = 'inventory_ext totals' AND datname = current_database() AND wait_event_type = 'Lock'
    """
    until(lambda: conn.execute(waits).rowcount, "the worker waits for a lock")


def assert_the_row_follows(conn, times=2):
    """Sells, waits until the row is exact, and sells again: the worker goes on, or is started once more."""
    for _ in range(times):
        before = left(conn, STRIPED[0])
        sell(conn, STRIPED[0], 3)
        assert at_rest(conn) == []
        assert left(conn, STRIPED[0]) == before - 3


@pytest.mark.parametrize(("name", "value"), STOPPING)
def test_the_row_is_exact_at_rest_under_every_setting_of_the_database(conn, name, value):
    """One default at a time."""
    set_defaults(conn, [(name, value)])
    assert_the_row_follows(conn)
    assert problems(conn) == []


def test_settings_that_change_how_statements_are_read_do_not_change_the_totals(conn):
    """Among them a search_path of which the first schema has operators and functions of the same names."""
    conn.execute(
        """
        CREATE SCHEMA decoy;
        CREATE FUNCTION decoy.differs(numeric, numeric) RETURNS bool LANGUAGE sql RETURN false;
        CREATE OPERATOR decoy.<> (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = decoy.differs);
        CREATE FUNCTION decoy.nothing(numeric, numeric) RETURNS numeric LANGUAGE sql RETURN 0;
        CREATE AGGREGATE decoy.sum(numeric) (SFUNC = decoy.nothing, STYPE = numeric, INITCOND = '0')
        """
    )
    set_defaults(conn, STRANGE)
    assert_the_row_follows(conn)
    assert problems(conn) == []


def test_a_deferrable_serializable_transaction_by_default_does_not_make_the_worker_wait(db, conn):
    """With read only, such a transaction waits before it begins, here for one that stays open."""
    set_defaults(conn, [("default_transaction_isolation", "serializable"), ("default_transaction_deferrable", "on")])
    with db.connect(autocommit=False, options="-c default_transaction_deferrable=off") as writer:
        writer.execute("CREATE TABLE written AS SELECT 1 AS one")
        set_defaults(conn, [("default_transaction_read_only", "on")])
        assert_the_row_follows(conn)
        writer.rollback()
    assert problems(conn) == []


@pytest.mark.parametrize("scope", SCOPES)
def test_the_row_is_exact_at_rest_with_all_of_them_together(conn, scope):
    """Set for the database, or for the role that the worker logs in as."""
    conn.execute("CREATE SCHEMA decoy")
    set_defaults(conn, STOPPING + STRANGE, scope)
    assert_the_row_follows(conn)
    assert problems(conn) == []


# Timeouts, while the worker waits


@pytest.mark.parametrize("locked", ["inventory", "inventory_stripe"])
@pytest.mark.parametrize("names", TIMEOUTS.values(), ids=TIMEOUTS)
def test_a_timeout_does_not_end_a_worker_that_waits_for_a_table(db, conn, names, locked):
    """The table is locked for much longer than the timeout. Afterwards the row becomes exact without a further call."""
    with db.connect(autocommit=False) as holder:
        set_defaults(conn, [(name, "10ms") for name in names])
        # Until the table is locked, the worker finds the row locked and does not write it.
        holder.execute("SELECT FROM inventory WHERE id = %s FOR UPDATE", (STRIPED[0],))
        sell(conn, STRIPED[0], 3)
        holder.execute(f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")
        time.sleep(0.7)  # the worker looks at least once, and waits for the table
        holder.rollback()
    assert at_rest(conn) == []
    assert problems(conn) == []


# Isolation levels, while others write


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_default_isolation_level_does_not_make_the_worker_fail_where_others_write_the_row(db, conn, level):
    """The row changes after the worker's transaction has begun and before it reads the row. No call follows."""
    conn.execute("ALTER TABLE inventory ADD COLUMN note text")
    with db.connect(autocommit=False) as writer:
        set_defaults(conn, [("default_transaction_isolation", level)])
        writer.execute("UPDATE inventory SET note = 'new' WHERE id = %s", (STRIPED[0],))
        sell(conn, STRIPED[0], 3)
        writer.execute("LOCK TABLE inventory IN ACCESS EXCLUSIVE MODE")
        until_worker_waits(conn)
        writer.commit()
    assert at_rest(conn) == []
    assert problems(conn) == []


# What the owner's code in the worker sees


@pytest.mark.parametrize("scope", SCOPES)
def test_the_owners_triggers_run_in_the_worker_under_the_usual_settings(conn, scope):
    """They fire although session_replication_role is replica by default, may write, and see READ COMMITTED."""
    conn.execute(
        """
        CREATE TABLE seen (quantity numeric, isolation text, read_only text, replication text);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO public.seen VALUES (NEW.quantity, current_setting('transaction_isolation'),
                current_setting('transaction_read_only'), current_setting('session_replication_role'));
            RETURN NULL;
        END $$;
        CREATE TRIGGER see AFTER UPDATE OF quantity ON inventory FOR EACH ROW EXECUTE FUNCTION see()
        """
    )
    set_defaults(conn, [setting for setting in STOPPING if setting[0] != "role"], scope)
    sell(conn, STRIPED[0], 2)
    assert at_rest(conn) == []
    expected = (left(conn, STRIPED[0]), "read committed", "off", "origin")
    until(lambda: conn.execute("SELECT * FROM seen").fetchall() == [expected], "the trigger has run in the worker")


# The whole server


def test_the_row_is_exact_at_rest_under_every_setting_of_postgresql_conf(monkeypatch):
    """The same defaults for all databases, from the start. The sessions that sell undo them for themselves."""
    kept = {"role", "session_replication_role"}  # the first cannot be set there, the second would disable the ledger
    defaults = {name: value for name, value in STOPPING if name not in kept} | dict.fromkeys(OTHER_TIMEOUTS, "10ms")
    undone = {"default_transaction_isolation": "read\\ committed", "default_transaction_read_only": "off"}
    monkeypatch.setenv("PGOPTIONS", " ".join(f"-c {name}={undone.get(name, 0)}" for name in defaults))
    with server_with_a_shop(**defaults, default_transaction_deferrable="on") as server:
        with connect(server) as conn:
            assert_the_row_follows(conn, times=3)
            assert problems(conn) == []
