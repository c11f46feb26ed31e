"""Hot standbys: reads register no worker, writes are refused as PostgreSQL's own are, a promoted standby sells on.

A session's first read of a striped item used to register a background worker, which cannot start before a promotion:
seven sessions used up all workers of a standby.
"""

import statistics
import time

import psycopg
import pytest

from books import lines
from dev.server import Server
from servers import (
    PG,
    Shoppers,
    Standby,
    assert_counted_once,
    assert_nothing_crashed,
    at_rest,
    available,
    freeze_total,
    kill,
)
from shop import ONE, TWO, item, left, refused, sell, shop, until

THREE, FOUR = item(3), item(4)
STRIPED = [TWO, FOUR]


class Pair:
    """A primary with a shop, two of its items striped, and its standby."""

    def __init__(self, primary, standby):
        self.primary, self.standby = primary, standby

    def connect(self, autocommit=True):
        return psycopg.connect(self.primary.dsn("shop"), autocommit=autocommit)

    def read(self):
        return psycopg.connect(self.standby.dsn("shop"), autocommit=True)


def open_shop(server):
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("CREATE DATABASE shop")
    with psycopg.connect(server.dsn("shop"), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION inventory_ext")
        shop(conn, {ONE: 100_000, TWO: 100_000, THREE: 100_000, FOUR: 100_000}, type="integer")
        for striped in STRIPED:
            conn.execute("SELECT stripe_inventory(%s, 4)", (striped,))
        conn.execute("CREATE TABLE other (id uuid PRIMARY KEY, quantity integer)")


@pytest.fixture(scope="module")
def pair():
    with Server(pg=PG) as primary:
        open_shop(primary)
        # The primary keeps the versions of rows that a snapshot of the standby needs: else their removal waits for it.
        with Standby(primary, {"hot_standby_feedback": "on", "wal_receiver_status_interval": "1s"}) as standby:
            standby.catch_up()
            yield Pair(primary, standby)
            assert_nothing_crashed(primary, standby)


def seconds(conn, asked):
    begin = time.monotonic()
    available(conn, asked)
    return time.monotonic() - begin


def parallel_workers(conn):
    """(planned, launched) for a query that wants some."""
    conn.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0")
    conn.execute("SET enable_indexonlyscan = off; SET max_parallel_workers_per_gather = 2")
    plan = conn.execute("EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM pg_proc").fetchone()[0][0]["Plan"]
    while "Workers Planned" not in plan:
        plan = plan["Plans"][0]
    return plan["Workers Planned"], plan["Workers Launched"]


def test_reads_on_a_standby_register_no_worker_and_wait_for_none(pair):
    """Ten sessions, each of which reads a plain and a striped item; then a parallel query still gets its workers."""
    plain, striped = [], []
    for _ in range(10):
        with pair.read() as conn:
            plain.append(seconds(conn, ONE))
            striped.append(seconds(conn, TWO))
            assert available(conn, TWO) == 100_000
    with pair.read() as conn:
        planned, launched = parallel_workers(conn)
        assert 0 < planned == launched
    # A session that registered a worker waited a tenth of a second for it, by its first read.
    assert min(plain[:5]) + min(striped[:5]) < 0.1, f"{statistics.median(plain)} {statistics.median(striped)}"
    assert "background worker" not in pair.standby.log_path.read_text()


WRITES = {
    "sale": "SELECT decrement_inventory({item}, 1)",
    "order": "SELECT decrement_inventory_batch('{lines}')",
    "order with a key": "SELECT decrement_inventory_batch('{lines}', 'order 1', 'key 1')",
    "order that skips": "SELECT decrement_inventory_batch('{lines}', p_on_shortage => 'skip')",
    "delivery": "SELECT restock_inventory({item}, 1)",
    "delivery with a key": "SELECT restock_inventory({item}, 1, p_idempotency_key => 'key 1')",
    "count": "SELECT adjust_inventory({item}, 1)",
    "transfer out": "SELECT transfer_inventory({item}, {other}, 1)",
    "transfer in": "SELECT transfer_inventory({other}, {item}, 1)",
    "stripe": "SELECT stripe_inventory({item}, 2)",
    "unstripe": "SELECT unstripe_inventory({item})",
}
UPKEEP = {
    "purge": "SELECT purge_requests('1 day')",
    "purge all": "SELECT purge_requests('0 seconds')",
    "detach": "SELECT detach_inventory()",
    "attach": "SELECT attach_inventory('inventory')",
    "attach with other options": "SELECT attach_inventory('inventory', p_run_as => 'caller')",
    "attach of another table": "SELECT attach_inventory('other')",
}


def writes():
    cases = []
    for name, sql in WRITES.items():
        for kind, here, other in (("plain", ONE, THREE), ("striped", TWO, FOUR)):
            named = sql.format(item=f"'{here}'", other=f"'{other}'", lines=lines((here, 1)))
            cases.append(pytest.param(named, id=f"{name}, {kind}"))
    return cases + [pytest.param(sql, id=name) for name, sql in UPKEEP.items()]


@pytest.mark.parametrize("sql", writes())
def test_every_writing_function_is_refused_on_a_standby_with_25006(pair, sql):
    """As the manual says; stripe and unstripe used to fail with 55000 over a lock that a standby cannot take."""
    with pair.read() as conn:
        assert refused(conn, sql).sqlstate == "25006"
        assert available(conn, ONE) == available(conn, TWO) == 100_000


@pytest.mark.parametrize("sql", writes())
def test_every_writing_function_is_refused_in_a_read_only_transaction_with_25006(pair, sql):
    """On a primary the same: no lock is taken and nothing is waited for before the refusal."""
    with pair.connect() as conn, pair.connect(autocommit=False) as busy:
        busy.execute("SELECT decrement_inventory(%s, 1), decrement_inventory(%s, 1)", (THREE, FOUR))
        conn.execute("SET lock_timeout = '5s'; SET default_transaction_read_only = on")
        assert refused(conn, sql).sqlstate == "25006"
        assert available(conn, TWO) == 100_000
        busy.rollback()


def until_primary_knows(conn, reader):
    """Returns when the primary has heard of the snapshot of this session of the standby."""
    oldest = reader.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint").fetchone()[0]
    begin = conn.execute("SELECT clock_timestamp()").fetchone()[0]
    heard = "SELECT reply_time > %s AND backend_xmin::text::bigint <= %s FROM pg_stat_replication"
    until(lambda: conn.execute(heard, (begin, oldest)).fetchone() == (True,), "the primary knows of the snapshot")


def test_a_snapshot_on_a_standby_keeps_its_value_when_the_item_is_unstriped(pair):
    """The row that this snapshot sees is behind: what the item had is in the stripes that it sees."""
    with pair.connect() as conn, pair.read() as reader:
        with freeze_total(pair, FOUR):
            assert sell(conn, FOUR, 31)["deducted"] == 31
            pair.standby.catch_up()
            reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            assert left(reader, FOUR) == 100_000
            until_primary_knows(conn, reader)
        conn.execute("SELECT unstripe_inventory(%s)", (FOUR,))
        sell(conn, FOUR, 9)
        pair.standby.catch_up()
        assert available(reader, FOUR) == 99_969
        reader.execute("COMMIT")
        assert available(reader, FOUR) == left(reader, FOUR) == 99_960


def test_sessions_of_a_standby_follow_what_is_attached_and_striped_on_the_primary(pair):
    """A session that has read before the item was striped, put together, detached or attached again reads right."""
    with pair.connect() as conn, pair.read() as reader, pair.read() as snapshot:
        before = available(reader, THREE)
        for act in ("stripe_inventory({item}, 3)", "stripe_inventory({item}, 7)", "unstripe_inventory({item})"):
            conn.execute(f"SELECT {act}".format(item=f"'{THREE}'"))
            sell(conn, THREE, 1)
            before -= 1
            pair.standby.catch_up()
            assert available(reader, THREE) == before
        conn.execute("SELECT detach_inventory()")
        pair.standby.catch_up()
        assert refused(reader, "SELECT available_inventory(%s)", (THREE,)).reason == "not_attached"
        conn.execute("SELECT attach_inventory('inventory')")
        for striped in STRIPED:
            conn.execute("SELECT stripe_inventory(%s, 4)", (striped,))
        pair.standby.catch_up()
        assert available(reader, THREE) == available(snapshot, THREE) == before


def read_in_snapshots(pair, rounds):
    """What available_inventory says is what the stripes hold in the same snapshot, and the ledger says the same."""
    sums = (
        "SELECT (SELECT sum(quantity) FROM inventory_stripe WHERE inventory_id = %(item)s),"
        " (SELECT sum(delta) FROM inventory_movement WHERE inventory_id = %(item)s)"
    )
    with pair.read() as conn:
        for _ in range(rounds):
            for striped in STRIPED:
                conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                asked = available(conn, striped)
                assert conn.execute(sums, {"item": striped}).fetchone() == (asked, asked)
                conn.execute("COMMIT")


def test_a_promoted_standby_goes_on_exactly_while_orders_come_in():
    """The primary dies under load. Orders that it confirmed count once, others are sent again, totals become exact."""
    with Server(pg=PG) as primary:
        open_shop(primary)
        with Standby(primary) as standby, psycopg.connect(primary.dsn(), autocommit=True) as conn:
            pair, now = Pair(primary, standby), primary
            conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            conn.execute("SELECT pg_reload_conf()")
            in_step = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            until(lambda: conn.execute(in_step).fetchone() == (1,), "no commit is confirmed before the standby has it")
            warm = [pair.read() for _ in range(8)]
            with Shoppers(lambda: now.dsn("shop"), [ONE, TWO, THREE, FOUR]) as shoppers:
                shoppers.until_answered(50)
                read_in_snapshots(pair, 20)
                [available(session, TWO) for session in warm]
                kill(primary)
                # A promotion first applies what the dead primary has sent.
                standby.promote()
                now = standby
                shoppers.until_answered(50)
            for session in warm:
                assert sell(session, TWO, 1)["deducted"] == sell(session, ONE, 1)["deducted"] == 1
                session.close()
            assert_the_books_are_right(pair, shoppers.orders)
            assert_nothing_crashed(standby)


def assert_the_books_are_right(pair, orders):
    with pair.read() as conn:
        at_rest(conn)
        assert_counted_once(conn, orders)
        known = [each for each in orders if each.result]
        assert [each.send(conn)["replayed"] for each in known] == [True] * len(known)
        for each in orders:
            each.send(conn)
        at_rest(conn)
        assert_counted_once(conn, orders)
