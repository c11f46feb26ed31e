"""Clients that sell while something goes wrong; accountant.py compares their results with the books afterwards.

A client sends one request after another and notes each result. If the connection is lost before the result arrives,
the client connects again and sends the same request with the same key; a request without a key is not repeated, and
either result of it is right.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal

import psycopg

from dev.server import Server
from shop import attach, exact_json, item, stock_table, until

PG = os.environ.get("PG", "18")
PLAIN = [item(number) for number in range(1, 7)]
STRIPED = [item(number) for number in range(101, 104)]
SCARCE = [item(number) for number in range(201, 203)]  # run out during the test
ITEMS = PLAIN + STRIPED + SCARCE
# A request that ends with one of these has changed nothing, and is sent again.
TRY_AGAIN = {"40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "58030"}
_runs = itertools.count(1)
NAMED = {"application_name": "client", "connect_timeout": 10}
IDLE = psycopg.pq.TransactionStatus.IDLE


@contextmanager
def server_with_a_shop(server_class=Server, **settings):
    """A server of the test's own, to be crashed, with a shop in its database "shop"."""
    with server_class(pg=PG, settings=settings) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE shop")
        with connect(server) as conn:
            conn.execute("CREATE EXTENSION inventory_ext")
            open_shop(conn)
        yield server


def connect(server, **options):
    """A session of the database "shop"."""
    return psycopg.connect(server.dsn("shop"), autocommit=True, connect_timeout=10, **options)


def open_shop(conn, stock=100000, scarce=500, stripes=4):
    """The items above; the striped ones are striped."""
    stock_table(conn, dict.fromkeys(PLAIN + STRIPED, stock) | dict.fromkeys(SCARCE, scarce), type="numeric(14,2)")
    attach(conn)
    for striped in STRIPED:
        conn.execute("SELECT stripe_inventory(%s, %s)", (striped, stripes))


@dataclass
class Request:
    function: str
    reference: str
    key: str | None
    arguments: tuple
    deltas: dict  # {item: what the request changes}
    attempts: int = 0
    result: dict | None = None  # once it is acknowledged
    error: str | None = None  # the SQLSTATE of a refusal


def random_request(rng: random.Random, reference: str) -> Request:
    """A sale, an order, a delivery or a transfer; one sale in four has no key."""
    key = f"key-{reference}-{rng.getrandbits(64):x}"
    usual = SCARCE if rng.random() < 0.1 else PLAIN + STRIPED
    quantity = Decimal(rng.choice(("1", "2", "3", "0.5", "0.25")))
    function = rng.choices(("sell", "order", "restock", "transfer"), (45, 30, 10, 15))[0]
    if function == "order":
        lines = {one: Decimal(rng.choice(("1", "2", "0.5"))) for one in rng.sample(ITEMS, rng.randrange(1, 5))}
        return Request(function, reference, key, (lines,), {one: -units for one, units in lines.items()})
    if function == "transfer":
        giver, taker = rng.sample(ITEMS, 2)
        return Request(function, reference, key, (giver, taker, quantity), {giver: -quantity, taker: quantity})
    one = rng.choice(usual)
    if function == "restock":
        return Request(function, reference, key, (one, quantity), {one: quantity})
    return Request(function, reference, key if rng.random() < 0.75 else None, (one, quantity), {one: -quantity})


def send(conn, request: Request) -> dict:
    """Sends a request once, as one transaction of a session in autocommit."""
    named = (request.reference, request.key)
    match request.function:
        case "sell":
            with conn.transaction():
                for name, value in (("reference", request.reference), ("idempotency_key", request.key)):
                    conn.execute("SELECT set_config(%s, %s, true)", (f"inventory_ext.{name}", value or ""))
                row = conn.execute("SELECT decrement_inventory(%s, %s)::text", request.arguments).fetchone()
                return exact_json(row[0])
        case "order":
            lines = [{"inventory_id": str(one), "quantity": str(units)} for one, units in request.arguments[0].items()]
            sql, arguments = "decrement_inventory_batch(%s::jsonb, %s, %s)", (json.dumps(lines), *named)
        case "restock":
            sql, arguments = "restock_inventory(%s, %s, %s, %s)", (*request.arguments, *named)
        case "transfer":
            sql, arguments = "transfer_inventory(%s, %s, %s, %s, %s)", (*request.arguments, *named)
    return exact_json(conn.execute(f"SELECT {sql}::text", arguments).fetchone()[0])


@dataclass
class Client:
    """Sends random requests in a thread of its own until it is stopped."""

    dsn: object  # a function, because a server that starts again may have another port
    name: str
    seed: int
    send: object = send
    requests: list[Request] = field(default_factory=list)
    errors: Counter = field(default_factory=Counter)
    acknowledged: int = 0
    failure: BaseException | None = None

    def __post_init__(self):
        self.stopped, self.given_up, self.conn = threading.Event(), threading.Event(), None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        rng = random.Random(f"{self.seed}-{self.name}")
        try:
            while not self.stopped.is_set():
                request = random_request(rng, f"{self.name}-{len(self.requests)}")
                self.requests.append(request)
                self.finish(request)
        except BaseException as error:  # the test reads it
            self.failure = error
        finally:
            self.disconnect()

    def finish(self, request):
        """Sends a request until there is a result, a refusal, or no way to ask again."""
        while not self.given_up.is_set():
            if self.conn is None and not self.connected():
                continue
            request.attempts += 1
            try:
                request.result = self.send(self.conn, request)
                self.acknowledged += 1
                return
            except psycopg.Error as error:
                self.errors[error.sqlstate or "lost"] += 1
                if self.conn.info.transaction_status != IDLE:  # closed, or the ROLLBACK was cancelled
                    self.disconnect()
                    if request.key is None:
                        return
                elif error.sqlstate not in TRY_AGAIN or (request.key is None and self.stopped.is_set()):
                    assert error.sqlstate in TRY_AGAIN | {"IV001"}, f"{request}: {error.sqlstate} {error}"
                    request.error = error.sqlstate
                    return
                time.sleep(0.01)

    def connected(self):
        try:
            self.conn = psycopg.connect(self.dsn(), autocommit=True, prepare_threshold=None, **NAMED)
        except psycopg.Error:
            time.sleep(0.05)
        return self.conn is not None

    def disconnect(self):
        if self.conn is not None:
            self.conn.close()
        self.conn = None


@contextmanager
def clients_at_work(dsn, count=8, send=send):
    """Clients that sell during the block, and then finish what they are at. SEED=… repeats their requests."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().getrandbits(32))
    print(f"the clients' requests: SEED={seed}")
    clients = [Client(dsn, f"client{number}-{next(_runs)}", seed, send) for number in range(count)]
    for client in clients:
        client.thread.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.stopped.set()
        for client in clients:
            client.thread.join(60)
        stuck = [client.name for client in clients if client.thread.is_alive()]
        for client in clients:
            client.given_up.set()
    assert not stuck
    assert [client.failure for client in clients if client.failure] == []


def acknowledged(clients) -> int:
    return sum(client.acknowledged for client in clients)


def until_sold(clients, more):
    """Returns once the clients have this many further results."""
    enough = acknowledged(clients) + more
    until(lambda: acknowledged(clients) >= enough, f"{more} further requests are acknowledged")


def resent(clients) -> int:
    """How many requests lost their connection, or their server, and were acknowledged in the end."""
    return sum(request.attempts > 1 and request.result is not None for client in clients for request in client.requests)


def kill_everything(server):
    """SIGKILL for the server and all its processes at once: only what is on disk, or in the system's cache, is left."""
    postmaster = server.process.pid
    os.kill(postmaster, signal.SIGSTOP)  # it starts no other process meanwhile
    with open(f"/proc/{postmaster}/task/{postmaster}/children") as children:
        pids = [postmaster, *map(int, children.read().split())]
    for pid in filter(is_running, pids):
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    while any(map(is_running, pids)):
        time.sleep(0.01)
    server.process = None


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def worker_pid(conn):
    """The totals worker of the session's database, or None."""
    row = conn.execute(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'inventory_ext totals' AND datname = current_database()"
    ).fetchone()
    return row and row[0]
