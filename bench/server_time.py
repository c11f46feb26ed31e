"""What a call costs in the server: many calls in one statement, without a client, a network or a commit between them.

Each statement is a transaction that sells one unit of so many items, chosen at random, each once: their ids are in a
temporary table. The contender `…, sql` is the extension with inventory_ext.write_path = sql.
"""

import time

import psycopg

from bench import measure, shops

CALLS = 1000  # in a statement
WAYS = {
    "handwritten": ("handwritten", "auto"),
    "twin_plain": ("twin_plain", "auto"),
    "ext_plain": ("ext_plain", "auto"),
    "ext_plain, sql": ("ext_plain", "sql"),
    "twin": ("twin", "auto"),
    "ext_ledger": ("ext_ledger", "auto"),
    "ext_ledger, sql": ("ext_ledger", "sql"),
}
WANTED = f"""
CREATE TEMPORARY TABLE wanted AS
SELECT s AS statement, {shops.ITEM.format("n")} AS id
  FROM generate_series(0, 9) AS s
 CROSS JOIN LATERAL (SELECT n FROM generate_series(1, {shops.ITEMS}) AS n ORDER BY random() + 0 * s LIMIT {CALLS}) AS n;
ANALYZE wanted
"""


def statement(contender):
    call = shops.CALLS[contender].removeprefix("SELECT ").format("id")
    return f"SELECT count({call}::text) FROM wanted WHERE statement = %s"


def connect(server, database, path):
    options = f"-c synchronous_commit=off -c jit=off -c inventory_ext.write_path={path}"
    conn = psycopg.connect(server.dsn(database), autocommit=True, options=options)
    conn.execute("SELECT setseed(0.5)")
    conn.execute(WANTED)
    return conn


def measured(server, databases, count, seconds):
    """{way: microseconds a call} by rounds; the first statement of each session, which plans, is left out."""
    sessions = {way: connect(server, databases[name], path) for way, (name, path) in WAYS.items()}

    def one(way):
        sql = statement(WAYS[way][0])
        measure.vacuum(server, databases[WAYS[way][0]])
        sessions[way].execute(sql, (0,))
        statements, begin = 0, time.monotonic()
        while (took := time.monotonic() - begin) < seconds:
            statements += 1
            sessions[way].execute(sql, (statements % 10,))
        return took * 1e6 / (statements * CALLS)

    found = measure.rounds(WAYS, count, one)
    for session in sessions.values():
        session.close()
    return found
