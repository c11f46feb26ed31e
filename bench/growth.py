"""Growth: what a call costs when there are many items, and when the ledger is long, against a small shop in the same
rounds."""

import time

import psycopg

from bench import measure, shops
from bench.workloads import ASYNC

KEY = "inventory_movement_pkey"
BRIN = ("movement_id", "occurred_at")
DAYS = 365  # of history
DAY = f"""
SELECT count(*), sum(delta) FROM inventory_movement
 WHERE occurred_at >= date_trunc('day', now()) - interval '{DAYS // 2} days'
   AND occurred_at < date_trunc('day', now()) - interval '{DAYS // 2 - 1} days'
"""


def long_ledger(conn, movements):
    """The history of a year: loaded by a superuser with triggers off, indexes made afterwards."""
    conn.execute("SET session_replication_role = replica")
    conn.execute(f"ALTER TABLE inventory_movement DROP CONSTRAINT {KEY}")
    for column in BRIN:
        conn.execute(f"DROP INDEX inventory_movement_{column}_idx")
    item = shops.ITEM.format(f"(1 + n % {shops.ITEMS})")
    conn.execute(
        "INSERT INTO inventory_movement (inventory_id, kind, old_quantity, new_quantity, actor, occurred_at)"
        f" SELECT {item}, 'external', {shops.PLENTY}, {shops.PLENTY}, 'history',"
        f" now() - interval '{DAYS} days' * (1 - n / {movements}.0) FROM generate_series(1, {movements}) AS n"
    )
    conn.execute("SET maintenance_work_mem = '1GB'")
    conn.execute(f"ALTER TABLE inventory_movement ADD CONSTRAINT {KEY} PRIMARY KEY (inventory_id, movement_id)")
    for column in BRIN:
        conn.execute(f"CREATE INDEX inventory_movement_{column}_idx ON inventory_movement USING brin ({column})")
    conn.execute("SET session_replication_role = origin")
    conn.execute("VACUUM (ANALYZE) inventory_movement")


def a_day(server, database):
    """What it takes to read the movements of one day: pages read of those there are, and the milliseconds."""
    with psycopg.connect(server.dsn(database), autocommit=True) as conn:
        rows = conn.execute(DAY).fetchone()[0]
        found = conn.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {DAY}").fetchone()[0][0]
        pages = conn.execute("SELECT pg_relation_size('inventory_movement') / 8192").fetchone()[0]
    read = found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"]
    return {"rows": rows, "pages_read": read, "pages": int(pages), "ms": found["Execution Time"]}


def sizes(size):
    """{name: (items, movements loaded beforehand)}."""
    return {
        "items_1000": (1000, 0),
        "items_100000": (100_000, 0),
        f"items_{size.many_items}": (size.many_items, 0),
        "movements_0": (shops.ITEMS, 0),
        f"movements_{size.movements}": (shops.ITEMS, size.movements),
    }


def load(server, name, items, movements):
    """Makes one shop; answers its database and the seconds it took."""
    begin = time.monotonic()
    database = shops.open_shops(server, ["ext_ledger"], items, f"_{name}")["ext_ledger"]
    if movements:
        with psycopg.connect(server.dsn(database), autocommit=True) as conn:
            long_ledger(conn, movements)
    return database, round(time.monotonic() - begin, 1)


def warm(conn):
    """Stock, and all indexes, into memory; of the ledger itself only the end is written to."""
    conn.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
    conn.execute("SELECT pg_prewarm('inventory')")
    conn.execute(
        "SELECT sum(pg_prewarm(indexrelid)) FROM pg_index"
        " WHERE indrelid IN ('inventory'::regclass, 'inventory_movement'::regclass)"
    )


def run(pgbench, databases, items, count, seconds):
    """{name: {"tps": …, "wal": WAL bytes a call}} by rounds; one client, items drawn uniformly."""
    server = pgbench.server
    measure.checkpoint(server)
    for database in databases.values():
        with psycopg.connect(server.dsn(database), autocommit=True) as conn:
            warm(conn)

    def one(name):
        text = f"\\set n random(1, {items[name]})\n{shops.call('ext_ledger', ':n')};\n"
        script = pgbench.script(f"growth-{items[name]}.sql", text)
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            begin = conn.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
            done = pgbench.run(databases[name], [script], 1, seconds, ASYNC)
            written = conn.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)", (begin,)).fetchone()[0]
        return done.tps, float(written) / done.transactions

    for name in databases:
        one(name)
    found = measure.rounds(list(databases), count, one)
    return {name: {"tps": [a for a, _ in pairs], "wal": [b for _, b in pairs]} for name, pairs in found.items()}
