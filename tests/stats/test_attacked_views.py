"""Who watches the shops of others: code, locks and errors of an owner neither run, hold up nor hide anything."""

from contextlib import contextmanager, suppress

import psycopg
import pytest

from memory import MB, peak
from shop import Aside, create_role, refused, until, until_waiting

VIEWS = ("inventory_audits", "inventory_advice()", "inventory_lock_queue", "inventory_hot_items", "inventory_stats")
COLUMNS = (
    "kind, started_at, finished_at, is_full, checked_movements, checked_items, discrepancies, found, position,"
    " oldest_transaction, next_transaction, actor"
)
ORDER = (
    """SELECT decrement_inventory_batch('[{"inventory_id": 1, "quantity": 1}, {"inventory_id": 2, "quantity": 1}]')"""
)
TRAP = "CREATE OR REPLACE FUNCTION two.trap(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN {} RETURN 1; END $$"
NOTES = "RAISE NOTICE 'trapped as %', current_user;"


class Shop:
    """A second shop, of an owner of its own."""

    def __init__(self, db, conn):
        self.db, self.conn, self.role = db, conn, create_role(conn, db, "owner")
        conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{self.role}"')
        conn.execute(f'CREATE SCHEMA two AUTHORIZATION "{self.role}"; SELECT audit_inventory()')

    def session(self, autocommit=True):
        session = self.db.connect(self.role)
        session.execute("SET search_path = two, public")
        session.autocommit = autocommit
        return session

    @contextmanager
    def an_order_waits(self):
        """For its second item, which another session has."""
        with self.session(autocommit=False) as holder:
            holder.execute("SELECT decrement_item(2, 1)")
            waiting = self.session()
            call = Aside(waiting.execute, ORDER)
            until_waiting(self.conn, waiting)
            yield
            holder.rollback()
        call.result()

    @contextmanager
    def locked(self, table, mode):
        """A session has the lock, or is the first one that waits for it."""
        with self.session(autocommit=False) as session:
            call = Aside(session.execute, f"LOCK TABLE two.{table} IN {mode} MODE")
            wanted = "SELECT FROM pg_locks WHERE pid = %s AND relation = %s::regclass"
            until(lambda: self.conn.execute(wanted, (session.info.backend_pid, f"two.{table}")).rowcount, "it locks")
            yield call
            session.cancel()
            with suppress(psycopg.errors.QueryCanceled):
                call.result()
            session.rollback()


@pytest.fixture
def owner(db, conn, stats):
    owner = Shop(db, conn)
    session = owner.session()
    session.execute("CREATE TABLE inventory (id int PRIMARY KEY, quantity int NOT NULL) PARTITION BY RANGE (id)")
    session.execute("CREATE TABLE low PARTITION OF inventory FOR VALUES FROM (0) TO (10)")
    session.execute("CREATE TABLE high PARTITION OF inventory FOR VALUES FROM (10) TO (20)")
    session.execute("INSERT INTO inventory SELECT g, 100 FROM generate_series(1, 15) AS g")
    session.execute("SELECT attach_inventory('two.inventory'), audit_inventory()")
    session.execute(TRAP.format(""))
    owner.execute = session.execute
    return owner


def shown(session, view):
    """The stock tables that a view shows something of."""
    cursor = session.execute(f"SELECT * FROM {view}")
    column = [column.name for column in cursor.description].index("stock_table")
    return {row[column] for row in cursor.fetchall()}


def watch(db, watcher, patience="3s"):
    session = db.connect(watcher)
    session.execute(f"SET statement_timeout = '{patience}'")
    session.heard = []
    session.add_notice_handler(lambda notice: session.heard.append(notice.message_primary))
    return session


@pytest.fixture(params=["superuser", "watcher"])
def watcher(request, db, conn):
    if request.param == "superuser":
        return "postgres"
    role = create_role(conn, db, "watcher")
    conn.execute(f'GRANT pg_read_all_stats TO "{role}"')
    return role


def test_no_predicate_of_the_owner_is_evaluated_when_audits_are_read(db, owner, watcher):
    """The planner of PostgreSQL would."""
    owner.execute("CREATE INDEX trap ON two.inventory_audit (run_id) WHERE two.trap(1) = 1")
    owner.execute(TRAP.format(NOTES + " RAISE 'trapped';"))
    with watch(db, watcher) as session:
        rows = session.execute("SELECT stock_table, discrepancies FROM inventory_audits ORDER BY 1").fetchall()
        assert rows == [("public.inventory", 0), ("two.inventory", 0)]
        assert session.heard == []


def of_another_kind(kind, rows):
    """A statement of the owner that puts rows beside the one of the audit."""
    values = COLUMNS.replace("kind", kind)
    table = "two.inventory_audit"
    return f"INSERT INTO {table} ({COLUMNS}) SELECT {values} FROM {table}, generate_series(1, {rows})"


def test_rows_of_other_kinds_do_not_hold_up_who_reads_the_audits(db, conn, owner, watcher):
    """An owner can put any number of them into the table of audits."""
    owner.execute(of_another_kind("'x'", 20_000))
    with watch(db, watcher) as session:
        rows = session.execute("SELECT stock_table, discrepancies FROM inventory_audits ORDER BY 1").fetchall()
    assert rows == [("public.inventory", 0), ("two.inventory", None)]


def test_texts_that_the_owner_has_blown_up_are_not_unpacked_when_audits_are_read(db, owner, watcher):
    """Two hundred of 100 MB would have ended the server on a small machine."""
    owner.execute(of_another_kind("repeat('x', 20000000)", 20))
    with watch(db, watcher) as session:
        before = peak(session)
        rows = session.execute("SELECT stock_table, discrepancies FROM inventory_audits ORDER BY 1").fetchall()
        assert rows == [("public.inventory", 0), ("two.inventory", 0)]
        assert peak(session) - before < 16 * MB


def test_an_index_that_the_owner_builds_anew_holds_up_no_view(db, owner, watcher):
    """Its table can be read meanwhile, by those who do not need the index; nor is the index held up."""
    audits = "SELECT stock_table, discrepancies FROM inventory_audits ORDER BY 1"
    with owner.session(autocommit=False) as session, watch(db, watcher) as reader:
        session.execute("REINDEX INDEX inventory_audit_pkey")
        for view in VIEWS:
            reader.execute(f"SELECT * FROM {view}")
        assert reader.execute(audits).fetchall() == [("public.inventory", 0), ("two.inventory", None)]
        session.rollback()
        reader.autocommit = False
        assert reader.execute(audits).fetchall() == [("public.inventory", 0), ("two.inventory", 0)]
        session.execute("SET lock_timeout = '3s'; REINDEX INDEX inventory_audit_pkey")


def test_no_predicate_of_the_owner_is_evaluated_when_the_queue_is_read(db, owner, watcher):
    owner.execute("CREATE INDEX trap ON two.low (id) WHERE two.trap(1) = 1")
    with owner.an_order_waits():
        owner.execute(TRAP.format(NOTES + " RAISE 'trapped';"))
        with watch(db, watcher) as session:
            rows = session.execute("SELECT stock_table, inventory_id FROM inventory_lock_queue").fetchall()
            assert rows == [("two.inventory", "2")]
            assert session.heard == []
        owner.execute(TRAP.format(""))


@pytest.mark.parametrize("sqlstate", ["57014", "57P01", "XX000"])
def test_an_error_of_one_owner_hides_no_other_shop(db, owner, watcher, sqlstate):
    """Whatever SQLSTATE it has: one of a cancel, too, can be raised by anybody."""
    owner.execute("CREATE INDEX trap ON two.inventory_stripe (stripe) WHERE two.trap(1) = 1")
    owner.execute(TRAP.format(f"RAISE 'trapped' USING ERRCODE = '{sqlstate}';"))
    with watch(db, watcher) as session:
        kinds = session.execute("SELECT stock_table, kind FROM inventory_advice()").fetchall()
        assert ("two.inventory", "unusable") in kinds
        assert shown(session, "inventory_audits") == {"public.inventory", "two.inventory"}


def test_a_cancel_ends_the_statement_and_leaves_nothing_behind(db, conn, owner, watcher):
    """The subtransaction in which a table is looked at was left open: the session stayed in a failed transaction."""
    owner.execute("CREATE INDEX trap ON two.inventory_stripe (stripe) WHERE two.trap(1) = 1")
    owner.execute(TRAP.format("PERFORM pg_sleep(60);"))
    with watch(db, watcher, "300ms") as session:
        for _ in range(2):
            assert refused(session, "SELECT * FROM inventory_advice()").sqlstate == "57014"
            assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert locks(conn, session) == []
        assert session.execute("SELECT 1").fetchone() == (1,)


def locks(conn, session):
    sql = "SELECT relation::regclass::text, mode FROM pg_locks WHERE pid = %s AND locktype = 'relation'"
    return conn.execute(sql, (session.info.backend_pid,)).fetchall()


@pytest.mark.parametrize(
    ("table", "mode"),
    [
        ("inventory_movement", "SHARE"),
        ("inventory_movement", "ACCESS EXCLUSIVE"),
        ("inventory_stripe", "ACCESS EXCLUSIVE"),
        ("inventory_stripe_total", "ACCESS EXCLUSIVE"),
        ("inventory_request", "ACCESS EXCLUSIVE"),
        ("inventory_audit", "ACCESS EXCLUSIVE"),
        ("high", "ACCESS EXCLUSIVE"),
    ],
)
def test_no_view_waits_for_a_table_that_somebody_has_locked(db, owner, table, mode):
    with owner.an_order_waits(), owner.locked(table, mode), watch(db, "postgres") as session:
        for view in VIEWS:
            session.execute(f"SELECT * FROM {view}")
        assert "public.inventory" in shown(session, "inventory_audits")
        queue = session.execute("SELECT stock_table, inventory_id FROM inventory_lock_queue").fetchall()
        assert queue == [("two.inventory", "2")]


def test_who_watches_in_an_open_transaction_holds_up_nobody(db, conn, owner, watcher):
    owner.execute("ALTER TABLE two.inventory DROP CONSTRAINT quantity_non_negative")
    with db.connect(watcher, autocommit=False) as session:
        for view in VIEWS:
            session.execute(f"SELECT * FROM {view}")
        held = [table for table, _ in locks(conn, session)]
        ours = ("inventory", "inventory_movement", "inventory_request", "inventory_stripe", "inventory_audit")
        assert [table for table in held if table.startswith("two.") or table in ours] == []


def test_a_wait_for_a_table_is_not_one_for_the_item(conn, stats, owner):
    with owner.locked("high", "ACCESS EXCLUSIVE") as call:
        call.result()
        session = owner.session()
        sale = Aside(session.execute, "SELECT decrement_item(12, 1)")
        until_waiting(conn, session)
        assert stats.queue() == []
        session.cancel()
        assert sale.refusal().sqlstate == "57014"


def test_one_item_with_a_long_id_has_one_queue(db, conn, stats):
    key = "a long id, " * 10
    conn.execute("SELECT detach_inventory(); CREATE TABLE shelf (id text PRIMARY KEY, quantity int NOT NULL)")
    conn.execute("INSERT INTO shelf VALUES ('a', 10), (%s, 10)", (key,))
    conn.execute("SELECT attach_inventory('shelf')")
    with db.connect(autocommit=False) as holder:
        holder.execute("SELECT decrement_item(%s, 1)", (key,))
        lines = f'[{{"inventory_id": "a", "quantity": 1}}, {{"inventory_id": "{key}", "quantity": 1}}]'
        calls = [Aside(db.connect().execute, "SELECT decrement_item(%s, 1)", (key,))]
        until(lambda: len(stats.queue()) == 1, "the sale waits")
        calls.append(Aside(db.connect().execute, "SELECT decrement_inventory_batch(%s::jsonb)", (lines,)))
        until(lambda: len(stats.queue()) == 2, "the order waits")
        assert [(row[0], row[2]) for row in stats.queue()] == [(key[:64], 1), (key[:64], 2)]
        holder.rollback()
    for call in calls:
        call.result()
