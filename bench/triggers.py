"""How a ledger is best written, row by row or at the end of the statement: `python -m bench.triggers [--pg 15]`.

row        an AFTER ROW trigger that inserts each movement (the twin)
statement  an AFTER STATEMENT trigger that inserts from the transition tables
noted      the extension: a row trigger notes, a statement trigger inserts; a single sale is inserted by the row trigger
"""

import argparse
import tempfile
from pathlib import Path

import psycopg

from bench import measure, orders, shops
from bench.run import SETTINGS
from bench.workloads import ASYNC, WORKLOADS, scripts
from dev.server import Server

SHOPS = {"row": "twin", "statement": "twin", "noted": "ext_ledger"}
ROUNDS, SECONDS = 5, 2


def open_all(server):
    databases = {name: shops.open_shops(server, [shop], suffix=f"_{name}")[shop] for name, shop in SHOPS.items()}
    with psycopg.connect(server.dsn(databases["statement"]), autocommit=True) as conn:
        conn.execute((shops.HERE / "contenders/twin_statement.sql").read_text())
    return databases


def lines_a_second(pgbench, databases, size):
    """One client, asynchronous commit; an order of one line is a single sale."""

    def one(name):
        measure.vacuum(pgbench.server, databases[name])
        if size == 1:
            return pgbench.run(databases[name], scripts(pgbench, SHOPS[name], WORKLOADS[0]), 1, SECONDS, ASYNC).tps
        files = orders.whole(pgbench, orders.FUNCTIONS[SHOPS[name]], size)
        return size * pgbench.run(databases[name], files, 1, SECONDS, ASYNC, "simple").tps

    return measure.rounds(databases, ROUNDS, one)


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.triggers", description="Row triggers against statement triggers")
    parser.add_argument("--pg", default="18", help="PostgreSQL version (18)")
    args = parser.parse_args()
    with Server(pg=args.pg, settings=SETTINGS) as server, tempfile.TemporaryDirectory(prefix="inventory_ext-") as scratch:
        pgbench = shops.Pgbench(server, Path(scratch))
        databases = open_all(server)
        for size in (1, 1000):
            found = lines_a_second(pgbench, databases, size)
            told = ", ".join("{} {:,.0f} ({:,.0f} to {:,.0f})".format(name, *measure.summary(rates)) for name, rates in found.items())
            print(f"orders of {size:,} lines, lines/s: {told}", flush=True)
        for database in databases.values():
            shops.check_ledger(server, database)


if __name__ == "__main__":
    main()
