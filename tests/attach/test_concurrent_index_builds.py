"""CREATE INDEX CONCURRENTLY against attach, detach, stripe and unstripe, with transactions that have read or sold.

The index build waits for their snapshots, and what locks the table alone waits for the index build. Where an attach
held the stock table while it waited for the ledger, a sale closed the circle and was the victim of the deadlock.
"""

import random
import threading

import psycopg
import pytest

from books import call
from shop import ONE, TWO, Aside, attach, refusal_of, shop, until
from striped import RC, RR, available, in_books, in_isolation, stripe, unstripe

BUILDS = {
    "stock table": "CREATE INDEX CONCURRENTLY built ON inventory (note)",
    "ledger": "CREATE INDEX CONCURRENTLY built ON inventory_movement (reference)",
    "stripes": "CREATE INDEX CONCURRENTLY built ON inventory_stripe (quantity)",
    "keys": "CREATE INDEX CONCURRENTLY built ON inventory_request (created_at)",
    "key of the stock table": "REINDEX INDEX CONCURRENTLY inventory_pkey",
    "all of the ledger": "REINDEX TABLE CONCURRENTLY inventory_movement",
}
WAITERS = {
    "stripe": f"SELECT stripe_inventory('{ONE}', 3)",
    "stripe again": f"SELECT stripe_inventory('{TWO}', 5)",
    "unstripe": f"SELECT unstripe_inventory('{TWO}')",
    "detach": "SELECT detach_inventory()",
    "attach": "SELECT attach_inventory('inventory')",
}
# What the open transaction has done before the index build begins.
BEGINNINGS = {
    "snapshot": (RR, "SELECT 1"),
    "read in a snapshot": (RR, "SELECT count(*) FROM inventory"),
    "read": (RC, "SELECT count(*) FROM inventory"),
    "read the ledger": (RC, "SELECT count(*) FROM inventory_movement"),
    "available": (RR, f"SELECT available_inventory('{TWO}')"),
    "sold": (RC, f"SELECT decrement_inventory('{ONE}', 1)"),
    "sold from a stripe": (RC, f"SELECT decrement_inventory('{TWO}', 1)"),
}


def patient(db, timeout):
    """A session that looks for a deadlock after this time: the one that looks first, and finds one, is its victim."""
    conn = db.connect()
    conn.execute(f"SET deadlock_timeout = '{timeout}'")
    return conn


class Step:
    """A statement of its own session, and whether it has come to its end or waits for a lock."""

    def __init__(self, watcher, session, sql):
        self.watcher, self.session, self.error, self.ended = watcher, session, None, threading.Event()
        self.aside = Aside(self.run, sql)
        until(lambda: self.ended.is_set() or self.waits(), "the statement waits or ends")

    def run(self, sql):
        try:
            self.session.execute(sql)
        except psycopg.Error as error:
            self.error = error
        finally:
            self.ended.set()

    def waits(self):
        """A statement that tries for a lock again and again waits too; then it sleeps between two attempts."""
        seen = "SELECT wait_event_type IN ('Lock', 'Timeout', 'Extension') FROM pg_stat_activity WHERE pid = %s"
        return self.watcher.execute(seen, (self.session.info.backend_pid,)).fetchone()[0]

    def end(self):
        self.aside.result()
        return self.error and self.error.sqlstate


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("waiter", WAITERS)
def test_a_sale_is_not_the_victim(db, build, waiter):
    """An open transaction, an index build that waits for it, a call that waits for that: then the first one sells.

    The seller looks for a deadlock first, so it is the victim of any that it is part of. The build and the call may be
    in one without it, which they find out after their own deadlock_timeout; the test waits for that many times.
    """
    conn = db.connect()
    shop(conn, {ONE: "1000", TWO: "1000"}, type="integer", columns=", note text")
    stripe(conn, TWO, 3)
    builder, other = patient(db, "400ms"), patient(db, "400ms")
    stock, wrong = {ONE: 1000, TWO: 1000}, []
    for name, (level, sql) in BEGINNINGS.items():
        if waiter == "attach" and name in ("available", "sold", "sold from a stripe"):
            continue  # nothing is attached then
        seller = in_isolation(db, level)
        available(seller, ONE)
        seller.execute("SET deadlock_timeout = '50ms'")
        seller.commit()
        if waiter == "attach":
            conn.execute("SELECT detach_inventory()")
        seller.execute(sql)
        sold = {ONE: int(name == "sold"), TWO: int(name == "sold from a stripe")}
        steps = [Step(conn, builder, BUILDS[build]), Step(conn, other, WAITERS[waiter])]
        for key in (ONE, TWO):
            try:
                with seller.transaction():
                    sold[key] += int(call(seller, "decrement_inventory", p_inventory_id=key, p_quantity=1)["deducted"])
            except psycopg.Error as error:
                refusal = refusal_of(error)
                if not (refusal.sqlstate == "40001" and level == RR) and '"not_attached"' not in (refusal.detail or ""):
                    wrong.append((name, refusal.sqlstate, refusal.message, refusal.detail))
        seller.commit()
        seller.close()
        ends = [step.end() for step in steps]
        wrong += [(name, end) for end in ends if end not in (None, "40P01")]
        stock = {key: stock[key] - sold[key] for key in stock}
        set_back(conn)
    assert wrong == []
    in_books(conn, stock)


def set_back(conn):
    if not conn.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0]:
        attach(conn)
    unstripe(conn, ONE), stripe(conn, TWO, 3)
    conn.execute("DROP INDEX IF EXISTS built")


def test_sales_meet_no_deadlock_while_indexes_are_built_and_items_striped(db):
    """Sales of one call, some in a transaction that has read before, beside index builds, stripes and attaches."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    conn = db.connect()
    shop(conn, {ONE: "100000", TWO: "100000"}, type="integer", columns=", note text")
    stripe(conn, TWO, 4)
    over, victims, sold = threading.Event(), [], {ONE: 0, TWO: 0}
    lock = threading.Lock()

    def sell_on(rng):
        session = in_isolation(db, RC)
        session.execute("SET deadlock_timeout = '100ms'")
        session.commit()
        while not over.is_set():
            key = rng.choice((ONE, TWO))
            try:
                if rng.random() < 0.5:
                    session.execute("SELECT count(*) FROM inventory")
                call(session, "decrement_inventory", p_inventory_id=key, p_quantity=1)
                session.commit()
                with lock:
                    sold[key] += 1
            except psycopg.Error as error:
                session.rollback()
                if error.sqlstate != "55000":
                    victims.append((error.sqlstate, error.diag.message_primary, error.diag.message_detail))

    def build_on(rng):
        session = patient(db, "500ms")
        for _ in range(16):
            try:
                session.execute("DROP INDEX IF EXISTS built")
                session.execute(BUILDS[rng.choice(list(BUILDS))])
            except psycopg.Error as error:
                assert error.sqlstate in ("40P01", "42P07"), error

    def change_on(rng, acts):
        session = patient(db, "500ms")
        while not over.is_set():
            try:
                session.execute(rng.choice(acts))
            except psycopg.Error as error:
                assert error.sqlstate in ("40P01", "55000"), error

    beside = [Aside(sell_on, random.Random(seed + n)) for n in range(4)]
    beside.append(
        Aside(change_on, random.Random(seed + 4), [sql for name, sql in WAITERS.items() if "tach" not in name])
    )
    beside.append(
        Aside(change_on, random.Random(seed + 5), ["SELECT detach_inventory()", "SELECT attach_inventory('inventory')"])
    )
    try:
        build_on(random.Random(seed + 6))
    finally:
        over.set()
    for aside in beside:
        aside.result()
    set_back(conn)
    assert victims == []
    in_books(conn, {key: 100_000 - amount for key, amount in sold.items()})
