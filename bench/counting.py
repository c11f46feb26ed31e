"""What it costs to count calls; and an item that is hot from one moment to the next, which divides itself."""

import statistics
import time

import psycopg

from bench import measure, server_time, shops
from bench.workloads import ASYNC, SYNC, WORKLOADS, scripts

WAYS = {"on": {"inventory_ext.track": "on"}, "off": {"inventory_ext.track": "off"}}
ONE_CLIENT = ("ext_plain", "ext_ledger")
CLIENTS = 64
PARTS, PAIRS = 2, 60  # of each round with one client; and of statements in a part that count and do not
COLD_SECONDS = 8


def one_client(server, databases, parts, pairs=PAIRS):
    """{contender: {way: [microseconds a call], "cost": [ratio]}} by parts: the medians of statements of 1,000 calls in
    one session, in turn, and of the ratio of each pair. The noise of the machine lasts longer than a pair."""
    found = {}
    for name in ONE_CLIENT:
        medians = {way: [] for way in (*WAYS, "cost")}
        with server_time.connect(server, databases[name], "auto") as conn:
            for part in range(parts + 1):
                measure.vacuum(server, databases[name])
                figures = one_part(conn, server_time.statement(name), pairs)
                if part > 0:  # the first calls of a session plan
                    for way, medium in figures.items():
                        medians[way].append(medium)
        found[name] = medians
    return found


def one_part(conn, sql, pairs):
    figures = {way: [] for way in WAYS}
    for number in range(pairs):
        for way in sorted(WAYS, reverse=number % 2):
            conn.execute(f"SET inventory_ext.track = {way}")
            begin = time.monotonic()
            conn.execute(sql, (number % 10,))
            figures[way].append((time.monotonic() - begin) * 1e6 / server_time.CALLS)
    ratios = [on / off for on, off in zip(figures["on"], figures["off"], strict=True)]
    return {way: statistics.median(one) for way, one in figures.items()} | {"cost": statistics.median(ratios)}


def many_clients(pgbench, database, rounds, seconds):
    """{way: [tps]}: 64 clients that sell 10,000 items."""
    workload = next(workload for workload in WORKLOADS if workload.name == "uniform_64")
    files = scripts(pgbench, "ext_ledger", workload)

    def one(way):
        measure.vacuum(pgbench.server, database)
        return pgbench.run(database, files, CLIENTS, seconds, ASYNC | WAYS[way]).tps

    return measure.rounds(WAYS, rounds, one)


def from_cold(pgbench, database, rounds):
    """[{uniform, hot, off}]: transactions in each second of 64 clients that begin to sell one item at once, and what
    they reach on 10,000 items, and on the same item where it does not divide itself."""
    hot, uniform = (
        next(workload for workload in WORKLOADS if workload.name == name) for name in ("hot_64", "uniform_64")
    )

    def seconds_of(workload, auto_stripe):
        measure.vacuum(pgbench.server, database)
        commit = SYNC | {"inventory_ext.auto_stripe": auto_stripe}
        files = scripts(pgbench, "ext_ledger", workload)
        reports, _ = pgbench.slice(database, files, CLIENTS, COLD_SECONDS, commit, "prepared", (), True)
        return [tps for tps, _ in reports]

    found = []
    for _ in range(rounds):
        figures = {"uniform": seconds_of(uniform, "off"), "off": seconds_of(hot, "off")}
        figures["hot"] = seconds_of(hot, "on")
        with psycopg.connect(pgbench.server.dsn(database), autocommit=True) as conn:
            item = shops.ITEM.format(shops.HOT)
            stripes = f"SELECT count(*) FROM inventory_stripe WHERE inventory_id = {item}"
            assert conn.execute(stripes).fetchone()[0] > 0, "the hot item has divided itself"
            conn.execute(f"SELECT unstripe_inventory({item})")
        found.append(figures)
    return found


def run(pgbench, databases, size):
    """Every figure."""
    return {
        "one_client": one_client(pgbench.server, databases, PARTS * size.rounds),
        "many_clients": many_clients(pgbench, databases["ext_ledger"], 3 * size.rounds, size.seconds),
        "from_cold": from_cold(pgbench, databases["ext_ledger"], size.rounds),
    }


def settled(seconds):
    """The mean of the seconds after the second one."""
    return statistics.mean(seconds[2:])
