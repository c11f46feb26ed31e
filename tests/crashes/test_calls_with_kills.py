"""Calls by the thousand while backends are killed: none that was acknowledged is lost, none is done twice.

Clients send batches of calls and send what was lost again with its keys (killed_clients.py); meanwhile their backends
are terminated, cancelled and killed with SIGKILL, which restarts the whole server, and so is the totals worker. After
each part of the calls the shop rests, and every result is compared with the ledger, every chain with the stock, every
key with its call.

    CALLS=1000000 SEED=1 python -m pytest tests/crashes/test_calls_with_kills.py
"""

import logging
import os
import random
import re
import threading
import time
from collections import Counter

import psycopg
import pytest

from call_books import Accountant, differences
from databases import BAD_SIGNS
from dev.server import Server
from killed_clients import CLIENT, ITEMS, RUN_CALLS, SCARCE, STRIPED, WORKER, Client, Killer
from shop import attach, until

CALLS = int(os.environ.get("CALLS", "20000"))
CLIENTS = int(os.environ.get("SESSIONS", "8"))
SEED = int(os.environ.get("SEED") or random.SystemRandom().getrandbits(32))
PART = 20_000 if CALLS > 100_000 else 10_000
CALLS_BETWEEN_CRASHES = max(CALLS // 60, 6_000)
PROGRESS_SECONDS = 10
REST_SECONDS = 15
ACTIVE = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'"
SETTINGS = {"deadlock_timeout": "10ms", "max_connections": "60", "checkpoint_timeout": "60s", "max_wal_size": "512MB"}


class Shop:
    """The server, the clients, and what is known of their calls so far."""

    def __init__(self, server):
        self.superuser = server.dsn("shop")
        self.dsn = server.dsn("shop", "clerk")
        self.server = server
        self.calls = self.goal = 0
        self.lock = threading.Lock()
        self.over = False
        self.keys = 0
        self.open()
        self.accountant = Accountant(self.connect())
        self.clients = [Client(self, number, f"{SEED} {number}") for number in range(CLIENTS)]
        self.killer = Killer(self, f"{SEED} killer", CALLS_BETWEEN_CRASHES)
        for thread in (*self.clients, self.killer):
            thread.start()

    def connect(self):
        return psycopg.connect(self.superuser, autocommit=True)

    def open(self):
        with psycopg.connect(self.server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE shop")
            conn.execute("CREATE ROLE owner LOGIN")
            conn.execute("CREATE ROLE clerk LOGIN")
        with self.connect() as conn:
            conn.execute("CREATE EXTENSION inventory_ext; GRANT CREATE ON SCHEMA public TO owner")
            conn.execute(
                "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2));"
                "ALTER TABLE inventory OWNER TO owner"
            )
            for one in ITEMS:
                conn.execute("INSERT INTO inventory VALUES (%s, %s)", (one, 300 if one in SCARCE else 100_000))
            attach(conn)
            for one in STRIPED:
                conn.execute("SELECT stripe_inventory(%s, 6)", (one,))
            conn.execute(RUN_CALLS)
            conn.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO clerk")

    def count(self, calls):
        with self.lock:
            self.calls += calls

    def enough(self):
        return self.calls >= self.goal

    def work(self, goal):
        """Makes calls until so many are made, while the killer kills; then all clients rest."""
        self.goal = goal
        self.killer.may_kill.set()
        for client in self.clients:
            client.is_idle.clear()
            client.may_work.set()
        shown = time.monotonic()
        while not all(client.is_idle.wait(0.1) for client in self.clients):
            if time.monotonic() > shown + PROGRESS_SECONDS:
                shown = time.monotonic()
                print(f"  {self.calls} calls, {dict(self.killer.counts)}", flush=True)
        self.killer.may_kill.clear()
        failures = [thread.failure for thread in (*self.clients, self.killer) if thread.failure]
        if failures:
            raise failures[0]

    def check(self):
        """Compares the jobs since the last check with the ledger, and the ledger with the stock."""
        self.until_there()
        with self.connect() as conn:
            until(
                lambda: conn.execute(ACTIVE, (CLIENT,)).fetchone() == (0,), "calls whose clients hung up come to an end"
            )
            self.leave_a_row_behind(conn)
            self.accountant.conn = conn
            ledger = self.accountant.read()
            self.accountant.against_stock()
            entries = {}
            for client in self.clients:
                for job in client.jobs:
                    entry = job.entry(job.reference in ledger)
                    if entry:
                        entries[job.reference] = entry
                    self.keys += job.result is not None and job.key is not None
                    settled = (job.result is not None) + (job.refused is not None) + job.in_doubt
                    assert settled == 1, f"neither done nor refused, or both: {job}"
                client.jobs.clear()
            problems = self.accountant.problems + differences(ledger, entries)
            kept = conn.execute("SELECT count(*) FROM inventory_request").fetchone()[0]
            if kept != self.keys:
                problems.append(f"{kept} keys are kept, {self.keys} calls with a key have a result")
            if problems:
                pytest.fail(f"seed {SEED}\n" + "\n".join(problems[:20]), pytrace=False)
            self.check_totals(conn)

    def leave_a_row_behind(self, conn):
        """A last sale of a striped item, and the worker is ended before it has seen it."""
        client = self.clients[0]
        for one in STRIPED:
            client.send([client.sale(one)], client.single)
        conn.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = %s", (WORKER,))

    def until_there(self):
        """Returns when the server takes connections, after the last crash."""
        give_up = time.monotonic() + 60
        while True:
            try:
                return self.connect().close()
            except psycopg.OperationalError:
                assert time.monotonic() < give_up, "the server does not come back"
                time.sleep(0.05)

    def check_totals(self, conn):
        """Calls of a session that is there already start the worker again; then the rows show what the stripes hold."""
        give_up = time.monotonic() + REST_SECONDS
        while behind := self.accountant.totals_behind():
            assert time.monotonic() < give_up, f"seed {SEED}: rows that do not show their stripes at rest: {behind}"
            self.clients[0].reads()
            time.sleep(0.05)

    def close(self):
        self.over = True
        self.killer.may_kill.set()
        for client in self.clients:
            client.may_work.set()
        for thread in (*self.clients, self.killer):
            thread.join(30)


def check_log(server, kills):
    """No process ended but those that were killed here, and none left anything behind."""
    lines = server.log_path.read_text(errors="replace").splitlines()
    signals = [line for line in lines if re.search("was terminated by signal", line)]
    bad = [line for line in lines if BAD_SIGNS.search(line) and line not in signals]
    assert not bad, bad[:10]
    assert all("signal 9" in line for line in signals) and len(signals) <= kills, signals[:10]


@pytest.mark.timeout(600 + CALLS // 100)
def test_random_calls_while_backends_are_killed_keep_exact_books():
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # which warns of every pipeline that is lost
    print(f"seed {SEED}: repeat with SEED={SEED} CALLS={CALLS} SESSIONS={CLIENTS}", flush=True)
    with Server(pg=os.environ.get("PG", "18"), settings=SETTINGS) as server:
        shop = Shop(server)
        started = time.monotonic()
        try:
            while shop.calls < CALLS:
                shop.work(min(shop.calls + PART, CALLS))
                shop.check()
                print(f"{shop.calls} calls in {time.monotonic() - started:.0f} s: books exact", flush=True)
        finally:
            shop.close()
        kills = shop.killer.counts
        print(dict(kills), dict(sum((client.counts for client in shop.clients), Counter())))
        crashes = kills[f"SIGKILL {CLIENT}"] + kills[f"SIGKILL {WORKER}"]
        assert crashes >= 2 and kills["terminated"] >= 10 and kills["worker ended"] >= 1, f"too few kills: {kills}"
        check_log(server, crashes)
