"""A thousand calls are cut short, and the counters, the queue, the locks and the stock still agree with what is known.

Tills sell, are refused, and wait for each other on a few items, one of which is striped. Sessions are ended
(`pg_terminate_backend`) and calls are canceled (`pg_cancel_backend`) at random moments. What a till cannot know is the
result of the call in which that happened; each sale has a reference of its own, so the ledger says what became of it.
"""

import itertools
import json
import random
import threading
import time
from collections import Counter, defaultdict
from decimal import Decimal

import psycopg
import pytest

from shop import Aside, item, sell, until

KILLS = 1_000
TILLS = 12
PLAIN = [item(number) for number in range(1, 5)]
STRIPED = item(5)
ITEMS = [*PLAIN, STRIPED]
OPENING = 1_000_000
TOO_MUCH = 5_000_000
PATIENCE_SECONDS = 50
SALE = "SELECT decrement_item(%s, %s, %s)"
ORDER = "SELECT decrement_inventory_batch(%s::jsonb, %s)"
FUNCTIONS = ("decrement_item", "decrement_inventory_batch")


class Known:
    """What the tills know, of all of them together."""

    def __init__(self):
        self.lock = threading.Lock()
        self.results = Counter()  # (function, SQLSTATE or "ok"): calls of which the result is known
        self.unknown = Counter()  # function: calls that were cut short
        self.kills = Counter()
        self.sold = {}  # reference: {item: quantity}, committed
        self.in_doubt = {}  # the same, where the session ended before it was known

    def note(self, counter, key):
        with self.lock:
            counter[key] += 1


class Till:
    """Sessions, one after the other, of one till, until enough calls were cut short."""

    def __init__(self, db, known, number, seed):
        self.db, self.known, self.number = db, known, number
        self.random = random.Random(f"{seed} {number}")
        self.references = (f"{number}-{count}" for count in itertools.count(1))
        self.function = None  # of the call that runs

    def run(self, over):
        while not over.is_set():
            session = None
            try:
                session = self.db.connect(application_name="till")
                while not over.is_set():
                    self.turn(session)
            except psycopg.OperationalError as error:
                if error.sqlstate not in (None, "57P01"):
                    raise
                self.known.note(self.known.kills, "sessions")
                if self.function:
                    self.known.note(self.known.unknown, self.function)
                    self.function = None
            finally:
                if session:
                    session.close()

    def turn(self, session):
        chance, reference = self.random.random(), next(self.references)
        if chance < 0.15:
            self.call(session, SALE, (str(self.random.choice(ITEMS)), TOO_MUCH, reference))
            return
        if chance < 0.35:
            lines = {key: self.random.randint(1, 3) for key in self.random.sample(ITEMS, self.random.randint(1, 3))}
            wanted = [{"inventory_id": str(key), "quantity": quantity} for key, quantity in lines.items()]
            act = ORDER, (json.dumps(wanted), reference)
        else:
            lines = {self.random.choice(ITEMS): self.random.randint(1, 3)}
            [(key, quantity)] = lines.items()
            act = SALE, (str(key), quantity, reference)
        self.known.in_doubt[reference] = lines
        if self.sell(session, act, hold=chance > 0.7):
            self.known.sold[reference] = lines
        del self.known.in_doubt[reference]

    def sell(self, session, act, hold):
        """Whether the sale was committed. A till that holds on to its items makes others wait."""
        if not hold:
            return self.call(session, *act)
        try:
            with session.transaction():
                sold = self.call(session, *act, within=True)
                session.execute("SELECT pg_sleep(%s)", (self.random.random() * 0.005,))
            return sold
        except psycopg.errors.QueryCanceled:
            self.known.note(self.known.kills, "calls")
            undo(session)
            return False

    def call(self, session, statement, arguments, within=False):
        self.function = "decrement_item" if statement is SALE else "decrement_inventory_batch"
        try:
            session.execute(statement, arguments)
            outcome = "ok"
        except psycopg.errors.QueryCanceled:
            # It may have been canceled before the function began, or after it had returned.
            self.known.note(self.known.unknown, self.function)
            self.function = None
            if within:
                raise
            self.known.note(self.known.kills, "calls")
            return False
        except psycopg.Error as error:
            if error.sqlstate != "IV001":
                raise
            outcome = error.sqlstate
        self.known.note(self.known.results, (self.function, outcome))
        self.function = None
        return outcome == "ok"


def undo(session):
    """The ROLLBACK of a canceled transaction may be canceled, too, and then the transaction is still there."""
    while session.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        try:
            session.rollback()
        except psycopg.errors.QueryCanceled:
            pass


def kill_some(session, chosen):
    how = chosen.choice(["pg_terminate_backend", "pg_cancel_backend"])
    session.execute(
        f"SELECT {how}(pid) FROM pg_stat_activity"
        " WHERE application_name = 'till' AND datname = current_database() AND state = 'active'"
        " ORDER BY random() LIMIT 2"
    )
    time.sleep(chosen.random() * 0.03)


def run_tills(db, known, seed):
    over, killer, chosen = threading.Event(), db.connect(), random.Random(seed)
    threads = [Aside(Till(db, known, number, seed).run, over) for number in range(TILLS)]
    give_up = time.monotonic() + PATIENCE_SECONDS
    try:
        while known.kills.total() < KILLS:
            assert time.monotonic() < give_up, known.kills
            assert all(thread._thread.is_alive() for thread in threads), "a till has ended"
            kill_some(killer, chosen)
    finally:
        over.set()
        for thread in threads:
            thread.result()
    until(lambda: not sessions(killer), "the processes of all tills have ended")


def sessions(conn):
    sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'till' AND datname = current_database()"
    return conn.execute(sql).fetchall()


def counted(conn):
    """{function: {SQLSTATE or "ok": calls}}, and each row agrees with itself."""
    found = defaultdict(Counter)
    rows = conn.execute("SELECT function, calls, successes, failures, refusals, movements FROM inventory_stats")
    for function, calls, successes, failures, refusals, movements in rows.fetchall():
        assert calls == successes + failures
        assert failures == sum(refusals.values())
        found[function] += Counter(refusals) + Counter(ok=successes)
        assert function != "decrement_item" or movements >= successes
    return found


def histograms_that_differ(conn):
    return conn.execute(
        """SELECT l.function, l.measure FROM inventory_latency AS l
             JOIN inventory_stats AS s ON s.function = l.function AND s.stock_table IS NOT DISTINCT FROM l.stock_table
            WHERE (SELECT sum(calls) FROM unnest(l.histogram) AS calls) <> l.calls
               OR l.calls > s.calls OR (l.measure = 'call' AND l.calls <> s.calls)
               OR NOT (l.p50 <= l.p95 AND l.p95 <= l.p99 AND l.p99 <= l.max_time)"""
    ).fetchall()


def locks_left(conn):
    """Advisory locks of this database, and locks of processes that are gone."""
    return conn.execute(
        """SELECT locktype, pid, mode FROM pg_locks AS l
            WHERE (locktype = 'advisory'
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
               OR (pid IS NOT NULL AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = l.pid))"""
    ).fetchall()


def assert_counted_exactly(found, known):
    for function in FUNCTIONS:
        seen = Counter({outcome: count for (of, outcome), count in known.results.items() if of == function})
        unknown = known.unknown[function]
        assert 0 <= found[function].total() - seen.total() <= unknown, (function, found[function], seen, unknown)
        for outcome, count in seen.items():
            assert count <= found[function][outcome] <= count + unknown, (function, outcome)
    ended = sum(found[function]["57P01"] + found[function]["57014"] for function in FUNCTIONS)
    assert KILLS / 4 < ended <= known.unknown.total(), "many were cut short between their begin and their end"


def assert_sold_exactly(conn, known):
    ledger = defaultdict(dict)
    sales = "SELECT reference, inventory_id, -sum(delta) FROM inventory_movement WHERE kind = 'sale' GROUP BY 1, 2"
    for reference, key, quantity in conn.execute(sales).fetchall():
        ledger[reference][key] = quantity
    assert {reference: ledger[reference] for reference in known.sold} == known.sold
    in_doubt = {reference: ledger[reference] for reference in ledger if reference not in known.sold}
    assert in_doubt == {reference: known.in_doubt[reference] for reference in in_doubt}
    deducted = Counter()
    for lines in ledger.values():
        deducted.update(lines)
    for key in ITEMS:
        left = conn.execute("SELECT available_inventory(%s)", (str(key),)).fetchone()[0]
        assert left == Decimal(OPENING) - deducted[key]


@pytest.fixture
def shop_of_few_items(conn, stats):
    conn.execute("DELETE FROM inventory WHERE id <> ALL (%s)", (ITEMS,))
    conn.execute("UPDATE inventory SET quantity = %s", (OPENING,))
    conn.execute("SELECT stripe_inventory(%s, 3)", (str(STRIPED),))
    stats.conn.execute("SELECT reset_inventory_stats()")
    return conn


def test_nothing_is_lost_in_a_thousand_kills(db, shop_of_few_items, stats):
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    conn, known = shop_of_few_items, Known()
    run_tills(db, known, seed)
    print(dict(known.kills), dict(known.results), dict(known.unknown))
    assert known.kills["sessions"] > KILLS / 4 and known.kills["calls"] > KILLS / 4
    assert len(known.sold) > KILLS / 2 and known.results["decrement_item", "IV001"] > KILLS / 20

    found = counted(conn)
    assert_counted_exactly(found, known)
    assert histograms_that_differ(conn) == []
    assert {row[0] for row in stats.hot()} <= {str(key) for key in ITEMS}
    assert stats.of("decrement_item")["lock_waits"] > KILLS / 10, "they waited for each other"
    assert stats.queue() == []
    until(lambda: locks_left(conn) == [], "no lock is left")
    assert_sold_exactly(conn, known)

    with db.connect() as session:
        session.execute(SALE, (str(PLAIN[0]), 1, "the next day"))
    assert counted(conn)["decrement_item"] - found["decrement_item"] == Counter(ok=1)


@pytest.mark.parametrize("how", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_call_that_was_cut_short_takes_no_lock_any_more(db, conn, stats, how):
    """A place that still named its process would be read as a wait once another process has that number."""
    with db.connect(autocommit=False) as holder:
        sell(holder, PLAIN[0], 1)
        waiting = db.connect()
        call = Aside(waiting.execute, SALE, (str(PLAIN[0]), 1, "cut short"))
        until(lambda: len(stats.queue()) == 1, "the call waits")
        conn.execute(f"SELECT {how}(%s)", (waiting.info.backend_pid,))
        with pytest.raises((psycopg.errors.AdminShutdown, psycopg.errors.QueryCanceled)):
            call.result()
        taken = "SELECT pid, inventory_id FROM inventory_stats_locking()"
        until(lambda: conn.execute(taken).fetchall() == [], "no process takes a lock")
        holder.rollback()


@pytest.mark.parametrize(("setting", "sqlstate"), [("lock_timeout", "55P03"), ("statement_timeout", "57014")])
def test_a_wait_that_ends_in_an_error_is_a_wait(db, conn, stats, setting, sqlstate):
    """Where calls give up, nobody gets the lock: the item is hot all the same."""
    with db.connect(autocommit=False) as holder:
        sell(holder, PLAIN[0], 1)
        waiting = db.connect()
        waiting.execute(f"SET {setting} = '50ms'")
        stats.conn.execute("SELECT reset_inventory_stats()")
        for count in range(3):
            with pytest.raises(psycopg.Error):
                waiting.execute(SALE, (str(PLAIN[0]), 1, f"given up {count}"))
        holder.rollback()
    row = stats.of("decrement_item")
    assert row["refusals"] == {sqlstate: 3}
    assert row["lock_waits"] == 3 and row["lock_time"] >= 100
    assert [hot[:2] for hot in stats.hot()] == [(str(PLAIN[0]), 3)]
