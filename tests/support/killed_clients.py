"""Clients that make calls by the thousand while their backends are killed, and send what was lost again.

A `Client` sends its calls in batches: through a function that catches refusals, as a pipeline in one transaction,
several in one statement, or one by one. When a connection is lost it connects again and sends every call of the batch
that has a key once more; a call without a key is not repeated, and may have been done or not. `Killer` ends backends
and the totals worker.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from call_books import Entry, changes_in, returned_result
from model_of_calls import item

PLAIN = [item(n) for n in range(1, 121)]
STRIPED = [item(n) for n in range(201, 207)]
SWITCHED = [item(n) for n in range(301, 304)]  # striped and unstriped at any time
SCARCE = [item(n) for n in range(401, 405)]
ITEMS = PLAIN + STRIPED + SWITCHED + SCARCE
TRY_AGAIN = {"40001", "40P01", "55P03", "57014"}
REFUSED = {"IV001", "22003"}
PATIENCE_SECONDS = 120
NET_KNOWN = ("decrement_inventory", "restock_inventory", "transfer_inventory")
CLIENTS_AT_MOST = 16
CLIENT = "calling client"
WORKER = "inventory_ext totals"

RUN_CALLS = """
CREATE FUNCTION public.run_calls(p_calls jsonb) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE c jsonb; result text; results text[] := '{}'; one uuid; units numeric; reference text; key text;
BEGIN
    FOR c IN SELECT * FROM jsonb_array_elements(p_calls) LOOP
        one := c ->> 'item'; units := c ->> 'units'; reference := c ->> 'reference'; key := c ->> 'key';
        PERFORM set_config('inventory_ext.reference', reference, true);
        PERFORM set_config('inventory_ext.idempotency_key', coalesce(key, ''), true);
        BEGIN
            CASE c ->> 'function'
                WHEN 'decrement_inventory' THEN result := public.decrement_inventory(one, units);
                WHEN 'adjust_inventory' THEN result := public.adjust_inventory(one, units, NULL, reference);
                WHEN 'restock_inventory' THEN result := public.restock_inventory(one, units, reference, key);
                WHEN 'transfer_inventory' THEN
                    result := public.transfer_inventory(one, (c ->> 'target')::uuid, units, reference, key);
                WHEN 'decrement_inventory_batch' THEN
                    result := public.decrement_inventory_batch(c -> 'lines', reference, key, c ->> 'word');
            END CASE;
        EXCEPTION WHEN SQLSTATE 'IV001' OR SQLSTATE '22003' THEN
            result := SQLSTATE;
        END;
        results := results || result;
    END LOOP;
    RETURN results;
END $$
"""


@dataclass(eq=False, slots=True)
class Job:
    """One call: what is asked, and what became of it."""

    function: str
    reference: str
    key: str | None
    arguments: dict
    net: Counter | None
    result: dict | None = None
    refused: str | None = None
    in_doubt: bool = False

    def entry(self, recorded: bool) -> Entry | None:
        """What the ledger must say. A call in doubt was done as a whole or not at all."""
        if self.result is not None:
            return Entry(changes_in(self.function, self.result), None, self.key)
        return Entry(net=self.net) if self.in_doubt and recorded else None


class Client(threading.Thread):
    """One session of the shop, until enough calls are made."""

    def __init__(self, shop, number: int, seed: str):
        super().__init__(daemon=True)
        self.shop, self.number, self.rng = shop, number, random.Random(seed)
        self.home = PLAIN[number::CLIENTS_AT_MOST]
        self.large = False  # a batch is being written that would hold many items
        self.conn = None
        self.jobs: list[Job] = []
        self.made = 0
        self.counts = Counter()
        self.failure = None
        self.may_work, self.is_idle = threading.Event(), threading.Event()

    def run(self):
        try:
            while self.may_work.wait() and not self.shop.over:
                if self.shop.enough():
                    self.may_work.clear()
                    self.is_idle.set()
                else:
                    self.turn()
        except BaseException as error:  # shown by the test
            self.failure = error
            self.is_idle.set()
        finally:
            if self.conn:
                self.conn.close()

    def turn(self):
        chance = self.rng.random()
        if chance < 0.004:
            self.stripes()
        elif chance < 0.02:
            self.reads()
        elif chance < 0.15:
            self.send([self.job()], self.single)
        elif chance < 0.35:
            self.send(
                self.several(8, ("restock_inventory", "transfer_inventory", "decrement_inventory_batch")), self.list
            )
        elif chance < 0.5:
            self.send(
                self.several(10, ("decrement_inventory", "restock_inventory", "decrement_inventory_batch")),
                self.pipeline,
            )
        elif chance < 0.54:
            self.send(self.several(12), self.hang_up)
        else:
            self.send(self.several(24), self.function)

    # What is asked.

    def several(self, most, functions=None):
        """Mostly in the order of their items, large batches about this client's own items: else all would deadlock."""
        count = self.rng.randint(2, most)
        self.large = count > 3
        jobs = [self.job(functions) for _ in range(count)]
        self.large = False
        if self.rng.random() < 0.95:
            jobs.sort(key=lambda job: job.arguments.get("item") or job.arguments["lines"][0]["inventory_id"])
        return jobs

    def item(self, sale=False):
        if self.large and self.rng.random() < 0.97:
            return self.rng.choice(STRIPED if sale and self.rng.random() < 0.15 else self.home)
        chance = self.rng.random()
        pool = PLAIN if chance < 0.7 else STRIPED if chance < 0.9 else SWITCHED if chance < 0.95 else SCARCE
        return self.rng.choice(pool)

    def job(self, functions=None):
        functions = functions or (
            *["decrement_inventory"] * 9, *["decrement_inventory_batch"] * 5, *["restock_inventory"] * 3,
            *["transfer_inventory"] * 2, "adjust_inventory",
        )  # fmt: skip
        function, units = self.rng.choice(functions), Decimal(self.rng.choice((1, 1, 2, 3, "0.25")))
        one = self.item(sale=function == "decrement_inventory")
        self.made += 1
        reference = f"{self.number}-{self.made}"
        keyed = function not in NET_KNOWN or self.rng.random() < 0.8
        key = f"k-{reference}-{self.rng.getrandbits(48):x}" if keyed else None
        arguments, net = {"item": one, "units": str(units)}, Counter()
        match function:
            case "decrement_inventory":
                net[one] -= units
            case "restock_inventory":
                net[one] += units
            case "transfer_inventory":
                target = self.item()
                while target == one:
                    target = self.item()
                arguments["target"] = target
                net.update({one: -units, target: units})
            case "adjust_inventory":
                arguments["units"], net = str(self.rng.randrange(400)), None
            case "decrement_inventory_batch":
                lines = [{"inventory_id": self.item(), "quantity": str(units)} for _ in range(self.rng.randint(1, 5))]
                lines.sort(key=lambda line: line["inventory_id"])
                arguments, net = {"lines": lines, "word": self.rng.choice(("skip", "partial", "abort"))}, None
        return Job(function, reference, key, arguments, net)

    def sale(self, one):
        """One unit of an item."""
        self.made += 1
        reference = f"{self.number}-{self.made}"
        return Job(
            "decrement_inventory", reference, f"k-{reference}", {"item": one, "units": "1"}, Counter({one: Decimal(-1)})
        )

    # How it is sent.

    def send(self, jobs, way):
        """Until each job has a result, is refused, or is in doubt for ever."""
        self.jobs += jobs
        while jobs:
            conn = self.connected()
            try:
                way(conn, jobs)
                break
            except psycopg.Error as error:
                state = error.sqlstate
                self.counts[state or "lost"] += 1
                if conn.closed or state is None or state.startswith(("57P", "08")):
                    self.lost(jobs)
                    jobs = [job for job in jobs if job.key]
                    self.counts["sent again"] += len(jobs)
                    if way == self.hang_up or self.rng.random() < 0.5:
                        way = self.function
                elif state in REFUSED and way != self.function:
                    way = self.function  # which finds out whose refusal it was
                elif state not in TRY_AGAIN:
                    raise
        self.shop.count(len(jobs))

    def lost(self, jobs):
        self.conn.close()
        self.conn = None
        for job in jobs:
            job.in_doubt = job.key is None

    def connected(self):
        give_up = time.monotonic() + PATIENCE_SECONDS
        while self.conn is None or self.conn.closed:
            try:
                self.conn = psycopg.connect(self.shop.dsn, autocommit=True, application_name=CLIENT, connect_timeout=10)
            except psycopg.OperationalError:
                assert time.monotonic() < give_up, "the server does not come back"
                time.sleep(0.02)
        return self.conn

    def settle(self, jobs, texts):
        for job, text in zip(jobs, texts, strict=True):
            if text in REFUSED:
                job.refused = text
                self.counts[text] += 1
            else:
                job.result = returned_result(text)
                self.counts["replayed"] += "replayed" in job.result
        self.counts["calls"] += len(jobs)

    def function(self, conn, jobs):
        self.settle(jobs, conn.execute("SELECT public.run_calls(%s::jsonb)", (self.as_json(jobs),)).fetchone()[0])

    def hang_up(self, conn, jobs):
        """Sent, and the line closed before the results arrive; the server carries it out all the same."""
        conn.pgconn.send_query_params(b"SELECT public.run_calls($1::jsonb)", [self.as_json(jobs).encode()])
        conn.pgconn.flush()
        conn.close()
        self.counts["hung up"] += 1
        raise psycopg.OperationalError("the client hung up")

    def as_json(self, jobs):
        calls = [
            {"function": job.function, "reference": job.reference, "key": job.key, **job.arguments} for job in jobs
        ]
        return json.dumps(calls)

    def single(self, conn, jobs):
        """The call alone, as its own transaction; the settings go with it."""
        sql, values = self.call(jobs[0])
        self.settle(
            jobs, [conn.execute(f"SELECT {sql}::text {SETTINGS}", {**values, **settings_of(jobs[0])}).fetchone()[0]]
        )

    def list(self, conn, jobs):
        """Several calls in one select list."""
        sqls, values = [], {}
        for number, job in enumerate(jobs):
            sql, named = self.call(job, f"_{number}")
            sqls.append(f"{sql}::text")
            values |= named
        self.settle(jobs, conn.execute(f"SELECT {', '.join(sqls)}", values).fetchone())

    def pipeline(self, conn, jobs):
        """Each call a statement, all of them one transaction, sent without waiting."""
        with conn.pipeline(), conn.transaction():
            cursors = []
            for job in jobs:
                sql, values = self.call(job)
                cursors.append(conn.execute(f"SELECT {sql}::text {SETTINGS}", {**values, **settings_of(job)}))
        self.settle(jobs, [cursor.fetchone()[0] for cursor in cursors])

    def call(self, job, suffix=""):
        """The expression of a call, and the values of its parameters."""
        values = {name + suffix: value for name, value in job.arguments.items()}
        values |= {f"reference{suffix}": job.reference, f"key{suffix}": job.key}
        one, units = f"%(item{suffix})s::uuid", f"%(units{suffix})s::numeric"
        tail = f"%(reference{suffix})s, %(key{suffix})s"
        match job.function:
            case "decrement_inventory":
                return f"public.decrement_inventory({one}, {units})", values
            case "adjust_inventory":
                return f"public.adjust_inventory({one}, {units}, NULL, %(reference{suffix})s)", values
            case "restock_inventory":
                return f"public.restock_inventory({one}, {units}, {tail})", values
            case "transfer_inventory":
                return f"public.transfer_inventory({one}, %(target{suffix})s::uuid, {units}, {tail})", values
        values[f"lines{suffix}"] = json.dumps(job.arguments["lines"])
        return f"public.decrement_inventory_batch(%(lines{suffix})s::jsonb, {tail}, %(word{suffix})s)", values

    # What needs no key.

    def stripes(self):
        """Stripes or unstripes an item, in a transaction of its own; the stock is the same if it was not done."""
        self.made += 1
        job = Job("stripe_inventory", f"{self.number}-{self.made}", None, {}, Counter())
        self.jobs.append(job)
        one = self.rng.choice(SWITCHED)
        call = (
            "public.unstripe_inventory(%(item)s)",
            f"public.stripe_inventory(%(item)s, {self.rng.choice((2, 4, 8))})",
        )
        self.without_key(f"SELECT {self.rng.choice(call)}::text {SETTINGS}", {"item": one, **settings_of(job)})
        job.in_doubt = True
        self.shop.count(1)

    def reads(self):
        rows = self.without_key("SELECT public.available_inventory(%(item)s)", {"item": self.rng.choice(ITEMS)})
        assert not rows or rows[0][0] >= 0, rows
        self.shop.count(1)

    def without_key(self, sql, values):
        try:
            return self.connected().execute(sql, values).fetchall()
        except psycopg.Error as error:
            self.counts[error.sqlstate or "lost"] += 1
            lost = self.conn.closed or error.sqlstate is None or error.sqlstate.startswith(("57P", "08"))
            if lost:
                self.lost([])
            elif error.sqlstate not in TRY_AGAIN:
                raise
            return []


SETTINGS = (
    "FROM (SELECT set_config('inventory_ext.reference', %(reference)s, true), "
    "set_config('inventory_ext.idempotency_key', %(setting)s, true) OFFSET 0) AS s (reference, key) "
    "WHERE reference IS NOT NULL"
)


def settings_of(job):
    return {"reference": job.reference, "setting": job.key or ""}


class Killer(threading.Thread):
    """Ends backends of clients that work, and the worker: mostly with pg_terminate_backend, sometimes with SIGKILL."""

    def __init__(self, shop, seed: str, calls_between_crashes: int):
        super().__init__(daemon=True)
        self.shop, self.rng, self.between = shop, random.Random(seed), calls_between_crashes
        self.next_crash = calls_between_crashes // 2
        self.may_kill = threading.Event()
        self.counts = Counter()
        self.failure = None

    def run(self):
        conn = None
        try:
            while not self.shop.over:
                self.may_kill.wait()
                try:
                    if conn is None or conn.closed:
                        conn = psycopg.connect(self.shop.superuser, autocommit=True, connect_timeout=10)
                    self.kill(conn)
                except psycopg.OperationalError:  # the crash ended this session too
                    conn = None
                time.sleep(self.rng.uniform(0.02, 0.2))
        except BaseException as error:  # shown by the test
            self.failure = error

    def kill(self, conn):
        victim = (
            "(SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name = %s"
            " AND state = 'active' ORDER BY random() LIMIT 1)"
        )
        worker = "(SELECT pid FROM pg_stat_activity WHERE backend_type = %s)"
        chance = self.rng.random()
        if self.shop.calls >= self.next_crash:
            chosen, name = (worker, WORKER) if chance < 0.3 else (victim, CLIENT)
            row = conn.execute(chosen, (name,)).fetchone()
            if row:
                os.kill(row[0], signal.SIGKILL)
                self.counts[f"SIGKILL {name}"] += 1
                self.next_crash = self.shop.calls + self.between
        elif chance < 0.12:
            # While one ends, another may be there that waits for its place.
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = %s"
            self.counts["worker ended"] += any(done for (done,) in conn.execute(ended, (WORKER,)).fetchall())
        elif chance < 0.2:
            self.counts["cancelled"] += bool(
                conn.execute(f"SELECT pg_cancel_backend({victim})", (CLIENT,)).fetchone()[0]
            )
        else:
            self.counts["terminated"] += bool(
                conn.execute(f"SELECT pg_terminate_backend({victim})", (CLIENT,)).fetchone()[0]
            )
