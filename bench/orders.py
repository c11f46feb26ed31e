"""Orders: many lines in one call against as many calls in one transaction, and how many lines a second are durable.

The client has a core of its own, as it has in life: what an order saves is the way there and back for each line.
"""

import json
import random
import uuid

import psycopg

from bench import measure, shops
from bench.workloads import ASYNC, SYNC

VARIANTS = 20  # different orders of one size


def lines(size, seed):
    """Distinct items in the order of their ids, so that single calls in one transaction cannot deadlock."""
    return sorted(random.Random(f"{size} {seed}").sample(range(1, shops.ITEMS + 1), size))


def as_json(numbers):
    return json.dumps([{"inventory_id": str(uuid.UUID(int=number)), "quantity": 1} for number in numbers])


def whole(pgbench, function, size):
    """The order in one call. The client sends its text each time, so each call reads it (pgbench -M simple)."""
    return [
        pgbench.script(f"{function}-{size}-{seed}.sql", f"SELECT {function}('{as_json(lines(size, seed))}');\n")
        for seed in range(VARIANTS)
    ]


def singles(pgbench, contender, size):
    """The same lines as single calls in one transaction, each prepared."""
    found = []
    for seed in range(5 if size < 1000 else 1):
        calls = "".join(f"\\set n {number}\n{shops.call(contender, ':n')};\n" for number in lines(size, seed))
        found.append(pgbench.script(f"singles-{contender}-{size}-{seed}.sql", f"BEGIN;\n{calls}COMMIT;\n"))
    return found


def function_of(contender):
    """The function that takes a whole order."""
    return "twin_batch" if contender == "twin" else "decrement_inventory_batch"


def against_single_calls(pgbench, databases, size, count, seconds):
    """Lines a second with one client: the order of the extension, of the twin, and single calls of the extension."""

    def one(name):
        if name == "calls":
            scripts, database, mode = singles(pgbench, "ext_ledger", size), databases["ext_ledger"], "prepared"
        else:
            scripts, database, mode = whole(pgbench, function_of(name), size), databases[name], "simple"
        measure.vacuum(pgbench.server, database)
        return size * pgbench.run(database, scripts, 1, seconds, ASYNC, mode, one_core=False).tps

    return measure.rounds(["ext_ledger", "twin", "calls"], count, one)


def durable(pgbench, databases, size, clients, count, seconds):
    """{name: {"lines": lines a second, "wal": WAL bytes a line}} by rounds; each order is on disk before it is
    answered."""

    def one(name):
        scripts = whole(pgbench, function_of(name), size)
        measure.vacuum(pgbench.server, databases[name])
        return metered(pgbench, databases[name], scripts, size, clients, seconds)

    for name in databases:  # right after a checkpoint whole pages go to the WAL
        one(name)
    found = measure.rounds(list(databases), count, one)
    return {name: {"lines": [a for a, _ in pairs], "wal": [b for _, b in pairs]} for name, pairs in found.items()}


def metered(pgbench, database, scripts, size, clients, seconds):
    """Lines a second, and WAL bytes a line: all that was written meanwhile, by the lines that were sold."""
    with psycopg.connect(pgbench.server.dsn(database), autocommit=True) as conn:
        where = "SELECT pg_current_wal_insert_lsn()"
        begin = conn.execute(where).fetchone()[0]
        done = pgbench.run(database, scripts, clients, seconds, SYNC, "simple", one_core=False)
        written = conn.execute(f"SELECT pg_wal_lsn_diff(({where}), %s)", (begin,)).fetchone()[0]
    return size * done.tps, float(written) / (size * done.transactions)


# What is taken away from a ledger to see what it costs.
LESS = {
    "ext_ledger_no_brin": "DROP INDEX inventory_movement_movement_id_idx, inventory_movement_occurred_at_idx",
    "ext_ledger_no_key": "ALTER TABLE inventory_movement DROP CONSTRAINT inventory_movement_pkey",
}


def anatomy(pgbench, size, count, seconds):
    """Durable lines with and without what a ledger costs, from databases of its own."""
    names = {"ext_ledger": "ext_ledger"} | dict.fromkeys(LESS, "ext_ledger") | {"ext_plain": "ext_plain"}
    databases = {
        name: shops.open_shops(pgbench.server, [shop], suffix=f"_anatomy_{number}")[shop]
        for number, (name, shop) in enumerate(names.items())
    }
    for name, less in LESS.items():
        with psycopg.connect(pgbench.server.dsn(databases[name]), autocommit=True) as conn:
            conn.execute(less)
    measure.checkpoint(pgbench.server)
    return durable(pgbench, databases, size, 1, count, seconds)
