"""What the tests of standbys, logical copies and dumps share: more servers, and orders that are sent again.

`Standby` is a hot standby of a running server. `subscribe` and `in_sync` make a logical copy and wait for it.
`Shoppers` are sessions that send orders with keys, each until it has a result, to the server that is open at that time;
`assert_counted_once` compares their results with the ledger.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from books import audit, order
from databases import BAD_SIGNS, Database
from dev.server import Server
from shop import left, until

PG = os.environ.get("PG", "18")

# What has to be published together; each of these has a primary key, which is its replica identity.
PUBLISHED = "inventory, inventory_movement, inventory_request, inventory_stripe, inventory_stripe_total"

_numbers = itertools.count(1)


def flushed(conn):
    """The position of all that is committed now, which is flushed: the totals worker commits without waiting for it."""
    conn.execute("SELECT pg_logical_emit_message(true, 'flush', '')")
    return conn.execute("SELECT pg_current_wal_flush_lsn()").fetchone()[0]


class Standby(Server):
    """A hot standby made by pg_basebackup; it follows its primary until it is promoted."""

    def __init__(self, primary, settings=None):
        super().__init__(primary.pg, primary.settings | (settings or {}), primary.tree)
        self.primary = primary

    def _make_data(self):
        options = ["-D", self.data, "-R", "-c", "fast", "-d", self.primary.dsn()]
        backup = self._run("pg_basebackup", *options)
        assert backup.returncode == 0, backup.stdout

    def catch_up(self):
        """Returns when all that the primary has committed so far can be read here."""
        with psycopg.connect(self.primary.dsn(), autocommit=True) as there:
            written = flushed(there)
        with psycopg.connect(self.dsn(), autocommit=True) as here:
            replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            until(lambda: here.execute(replayed, (written,)).fetchone()[0], "the standby has replayed what was written")

    def promote(self):
        """Ends the recovery, and returns when the server takes writes."""
        with psycopg.connect(self.dsn(), autocommit=True) as here:
            assert here.execute("SELECT pg_promote()").fetchone() == (True,)


def upgrade(old, new):
    """pg_upgrade of a cluster into a new one, which then runs; both belong to the same user."""
    old.stop()
    new.stop()
    folders = ["-b", old.bindir, "-B", new.bindir, "-d", old.data, "-D", new.data, "-s", new.socket_dir]
    done = new._run("pg_upgrade", *folders, "-U", "postgres", "-p", str(old.port), "-P", str(new.port))
    assert done.returncode == 0, done.stdout
    new.start()


def kill(server):
    """Ends a server as if its machine had died: nothing is flushed, no client gets a farewell."""
    os.killpg(server.process.pid, 9)
    server.process.wait()
    server.process = None


def assert_nothing_crashed(*servers):
    for server in servers:
        lines = server.log_path.read_text(errors="replace").splitlines()
        assert [line for line in lines if BAD_SIGNS.search(line)] == []


def run(server, program, *arguments, **options):
    """A client program of the server's version, which must succeed and warn of nothing; gives its output."""
    command = [str(server.bindir / program), *map(str, arguments)]
    done = subprocess.run(command, env=server.env(), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return done.stdout


@contextmanager
def new_database(server, options="TEMPLATE template0", name=None):
    """A database of its own, dropped afterwards with all that connects to it."""
    name = name or f"faults_{next(_numbers)}"
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} {options}")
        try:
            yield Database(server, name)
        finally:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def subscribe(publisher, subscriber, publication="shop", options=""):
    """Makes a subscription of that name, and returns when the first copy of all tables is done."""
    with subscriber.connect() as conn:
        conn.execute(
            f"CREATE SUBSCRIPTION {publication} CONNECTION '{publisher.dsn()}' PUBLICATION {publication}"
            f" WITH (slot_name = '{subscriber.name}' {options})"
        )
        copied = "SELECT count(*) > 0 AND count(*) = count(*) FILTER (WHERE srsubstate = 'r') FROM pg_subscription_rel"
        until(lambda: conn.execute(copied).fetchone()[0], "all tables are copied")


def in_sync(publisher, subscriber):
    """Returns when the subscriber has confirmed all that is committed on the publisher now."""
    with publisher.connect() as conn:
        written = flushed(conn)
        confirmed = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        until(
            lambda: conn.execute(confirmed, (written, subscriber.name)).fetchone()[0],
            "the subscriber has confirmed what was written",
        )


def leave_publisher(conn, subscription="shop"):
    """Ends a subscription whose publisher may be dead, so the slot there is not asked for."""
    conn.execute(f"ALTER SUBSCRIPTION {subscription} DISABLE")
    conn.execute(f"ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE)")
    conn.execute(f"DROP SUBSCRIPTION {subscription}")


def move_sequence(conn):
    """Identity columns are not replicated: new movements must come after the ones that were copied."""
    conn.execute(
        "SELECT setval(pg_get_serial_sequence('inventory_movement', 'movement_id'),"
        " (SELECT max(movement_id) FROM inventory_movement))"
    )


@contextmanager
def two_databases(here, there):
    """A publisher and a subscriber to be."""
    with new_database(here) as publisher, new_database(there) as subscriber:
        try:
            yield publisher, subscriber
        finally:
            forget_copy(publisher, subscriber)


def forget_copy(publisher, subscriber):
    """Ends what is left of a subscription, so that both databases can be dropped."""
    with subscriber.connect() as conn:
        names = "SELECT subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = %s"
        for (name,) in conn.execute(names, (subscriber.name,)).fetchall():
            leave_publisher(conn, name)
    with publisher.connect() as conn:
        slot, name = "FROM pg_replication_slots WHERE slot_name = %s", (subscriber.name,)
        until(lambda: not conn.execute(f"SELECT {slot} AND active", name).fetchone(), "the slot is idle")
        conn.execute(f"SELECT pg_drop_replication_slot(slot_name) {slot}", name)


@dataclass
class Order:
    """An order with a key; `result` stays None until the server has answered."""

    key: str
    pairs: list
    result: dict | None = None

    def send(self, conn):
        self.result = order(conn, *self.pairs, p_reference=self.key, p_idempotency_key=self.key)
        return self.result


class Shoppers:
    """Sessions that order all the time. An order whose result was lost is sent again with its key by a new connection.

    `dsn` is a function, so that they move to another server in the midst of their orders. The end of the `with`
    statement ends them; after that `orders` has all of them, and those without a result may have been done or not.
    """

    def __init__(self, dsn, items, sessions=4):
        self.seed = random.SystemRandom().getrandbits(32)
        self.dsn, self.items, self.orders, self.errors = dsn, items, [], []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._order, args=(n,), daemon=True) for n in range(sessions)]

    def __enter__(self):
        print(f"orders with seed {self.seed}")
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a session never came to an end"
        assert self.errors == []

    def until_answered(self, count):
        """Returns when so many more orders have a result; fails at once where a session was refused one."""
        goal = self.answered() + count
        until(lambda: self.errors or self.answered() >= goal, f"{count} more orders have a result")
        assert self.errors == []

    def answered(self):
        return sum(each.result is not None for each in self.orders)

    def _order(self, number):
        chance = random.Random(f"{self.seed}-{number}")
        conn = None
        try:
            for count in itertools.count(1):
                wanted = chance.sample(self.items, chance.randint(1, 3))
                this = Order(f"{number}-{count}", [(item, chance.randint(1, 3)) for item in wanted])
                self.orders.append(this)
                while this.result is None:
                    if self._over.is_set():
                        return
                    conn = self._send(this, conn)
        except Exception as error:  # shown by the session that ends them
            self.errors.append(error)
        finally:
            if conn:
                conn.close()

    def _send(self, this, conn):
        try:
            conn = conn or psycopg.connect(self.dsn(), autocommit=True, connect_timeout=5)
            this.send(conn)
            return conn
        except psycopg.OperationalError:
            if conn is None or conn.closed:
                self._over.wait(0.02)
                return None
            raise


def assert_counted_once(conn, orders):
    """What has a result stands in the ledger exactly once; anything else wholly or not at all."""
    moved = {}
    rows = "SELECT reference, inventory_id, sum(delta) FROM inventory_movement WHERE reference <> '' GROUP BY 1, 2"
    for key, item, delta in conn.execute(rows).fetchall():
        moved.setdefault(key, {})[item] = -delta
    for each in orders:
        wanted = dict(each.pairs)
        allowed = [wanted] if each.result else [wanted, None]
        assert moved.get(each.key) in allowed, f"order {each.key}: wanted {wanted}, moved {moved.get(each.key)}"


def available(conn, item):
    return conn.execute("SELECT available_inventory(%s)", (item,)).fetchone()[0]


def at_rest(conn):
    """Totals become exact without a further sale, and then ledger and stock agree."""
    for (item,) in conn.execute("SELECT DISTINCT inventory_id FROM inventory_stripe").fetchall():
        until(lambda item=item: left(conn, item) == available(conn, item), "the row shows the total")
    audit(conn)


def freeze_total(db, item):
    """A connection that holds the item's row, so that its total stays behind until the connection is closed."""
    conn = db.connect(autocommit=False)
    conn.execute("SELECT FROM inventory WHERE id = %s FOR NO KEY UPDATE", (item,))
    return conn
