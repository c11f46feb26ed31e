"""A sold-out item: how fast it is refused, alone and while another session holds its row, and what a refusal leaves
behind.

A refusal is an error, which would end a client of pgbench: every contender is called through the function `refused`,
which catches it. That costs a subtransaction, for all of them alike. `at_once` is the same where nothing is done but
to raise.
"""

import threading
import time

import psycopg

from bench import measure, shops
from bench.workloads import ASYNC

CONTENDERS = ["handwritten", "twin_plain", "ext_plain", "ext_ledger"]
CLIENTS = 64
ID = shops.ITEM.format(shops.SOLD_OUT)
CALL = f"SELECT refused({ID});\n"
AT_ONCE = "at_once"


def alone(pgbench, databases, count, seconds):
    """Refusals a second."""

    def one(name):
        if name == AT_ONCE:
            database, script = (
                databases["handwritten"],
                pgbench.script("at-once.sql", CALL.replace("refused", "refused_at_once")),
            )
        else:
            database, script = databases[name], pgbench.script("sold-out.sql", CALL)
        return pgbench.run(database, [script], CLIENTS, seconds, ASYNC).tps

    return measure.rounds([*CONTENDERS, AT_ONCE], count, one)


def held(pgbench, database, clients, seconds):
    """One session holds the row while the others ask for it: calls that ended meanwhile, and how long they took.

    The first second is left out, as always."""
    prefix = pgbench.scratch / f"held-{database}-{clients}"
    for log in pgbench.scratch.glob(f"{prefix.name}.*"):
        log.unlink()
    script = pgbench.script("sold-out.sql", CALL)
    more = ["--log", "--log-prefix", prefix]
    thread = threading.Thread(target=pgbench.run, args=(database, [script], clients, seconds, ASYNC, "prepared", more))
    with psycopg.connect(pgbench.server.dsn(database)) as holder:
        holder.execute(f"SELECT FROM inventory WHERE id = {ID} FOR UPDATE")
        begun = time.time()
        thread.start()
        thread.join(timeout=seconds + 2)  # whoever waits for the row is still there then
        released = time.time()
        holder.rollback()
    thread.join()
    took = sorted(ms for ended, ms in logged(pgbench.scratch, prefix.name) if begun + 1 < ended < released)
    if not took:
        return {"calls": 0, "seconds": seconds, "p99_ms": None, "slowest_ms": None}
    return {"calls": len(took), "seconds": seconds, "p99_ms": took[len(took) * 99 // 100], "slowest_ms": took[-1]}


def logged(folder, prefix):
    """(when it ended, milliseconds) of each transaction in the logs of pgbench's threads."""
    for log in folder.glob(f"{prefix}.*"):
        for line in log.read_text().splitlines():
            _, _, microseconds, _, epoch, fraction = line.split()[:6]
            yield int(epoch) + int(fraction) / 1e6, int(microseconds) / 1000


def traces(server, database, contender="ext_plain", calls=1000, tries=5):
    """What so many refused calls leave behind: the least of some tries, since other processes only add to it."""
    found = [traces_once(server, database, shops.CALLS[contender].format(ID), calls) for _ in range(tries)]
    return min(found, key=lambda one: (one["wal_bytes"], one["transaction_ids"], one["rows_written"]))


# WAL, transaction ids, and what the server's statistics have counted of this database.
PLACE = """
SELECT pg_current_wal_insert_lsn() - '0/0', pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       tup_inserted + tup_updated + tup_deleted, xact_rollback
  FROM pg_stat_database WHERE datname = current_database()
"""


def traces_once(server, database, call, calls):
    """A bare call each time, without the function around it."""
    with psycopg.connect(server.dsn(database), autocommit=True) as conn:

        def place():
            conn.execute("SELECT pg_stat_force_next_flush()")
            return conn.execute(PLACE).fetchone()

        refused(conn, call)  # what a first call loads is no part of it
        conn.execute("CHECKPOINT")
        before = place()
        count = sum(refused(conn, call) for _ in range(calls))
        wal, ids, rows, rolled_back = (int(now - then) for now, then in zip(place(), before))
    found = {"wal_bytes": wal, "transaction_ids": ids, "rows_written": rows, "rolled_back": rolled_back}
    return {"calls": calls, "refused": count} | found


def refused(conn, call):
    """Whether it was refused as short."""
    try:
        conn.execute(call)
    except psycopg.DatabaseError as error:
        return error.sqlstate in ("IV001", "P0001")
    return False
