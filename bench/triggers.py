"""How a ledger is best written, row by row or at the end of the statement.

row        an AFTER ROW trigger that inserts each movement (the twin)
statement  an AFTER STATEMENT trigger that inserts from the transition tables
noted      the extension, writing by statements: a row trigger notes, a statement trigger inserts; a single sale is
           inserted by the row trigger
"""

import psycopg

from bench import measure, orders, shops
from bench.workloads import ASYNC, WORKLOADS, scripts

SHOPS = {"row": "twin", "statement": "twin", "noted": "ext_ledger"}


def open_all(server):
    databases = {name: shops.open_shops(server, [shop], suffix=f"_{name}")[shop] for name, shop in SHOPS.items()}
    with psycopg.connect(server.dsn(databases["statement"]), autocommit=True) as conn:
        conn.execute((shops.HERE / "contenders/twin_statement.sql").read_text())
    with psycopg.connect(server.dsn(databases["noted"]), autocommit=True) as conn:
        conn.execute(f'ALTER DATABASE "{databases["noted"]}" SET inventory_ext.write_path = sql')
    return databases


def lines_a_second(pgbench, databases, size, count, seconds):
    """One client, asynchronous commit; an order of one line is a single sale."""

    def one(name):
        measure.vacuum(pgbench.server, databases[name])
        if size == 1:
            return pgbench.run(databases[name], scripts(pgbench, SHOPS[name], WORKLOADS[0]), 1, seconds, ASYNC).tps
        files = orders.whole(pgbench, orders.function_of(SHOPS[name]), size)
        return size * pgbench.run(databases[name], files, 1, seconds, ASYNC, "simple").tps

    return measure.rounds(databases, count, one)


def measured(pgbench, count, seconds):
    """{lines an order: {trigger: [lines a second]}}, from databases of its own, whose books are balanced at the end."""
    databases = open_all(pgbench.server)
    found = {str(size): lines_a_second(pgbench, databases, size, count, seconds) for size in (1, 1000)}
    for database in databases.values():
        shops.check_ledger(pgbench.server, database)
    return found
