"""Many stock tables in one database, as where each tenant has a schema: what a session's first call and a sale cost in
the last of 1,000, against the only table of another database, in the same rounds."""

import time

import psycopg

from bench import measure, shops
from bench.workloads import ASYNC

MANY = 1000
ITEMS = 100
CLIENTS = 1
CALL = "SELECT decrement_item({}, 1)".format(shops.ITEM.format(1))


def load(server, count):
    """A database with so many attached tables, each in a schema of its own; answers its name and the seconds it
    took."""
    begin, name = time.monotonic(), f"tables_{count}"
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
    with psycopg.connect(server.dsn(name), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION inventory_ext")
        for number in range(1, count + 1):
            table = f"tenant_{number}.inventory"
            conn.execute(
                f"CREATE SCHEMA tenant_{number};"
                f"CREATE TABLE {table} (id uuid PRIMARY KEY, quantity numeric(18,2) NOT NULL);"
                f"INSERT INTO {table} SELECT {shops.ITEM.format('n')}, {shops.PLENTY}"
                f"  FROM generate_series(1, {ITEMS}) AS n;"
                f"SELECT attach_inventory('{table}')"
            )
        conn.execute("VACUUM ANALYZE")
    return name, round(time.monotonic() - begin, 1)


def chosen(count):
    """The settings of a session that means the last table."""
    return {"search_path": f"tenant_{count}"}


def measured(pgbench, rounds, seconds, calls=15, many=MANY):
    """{number of tables: {"first_ms", "tps", "loaded_s"}}."""
    server, sizes = pgbench.server, (1, many)
    databases = {count: load(server, count) for count in sizes}
    found = {str(count): {"first_ms": [], "loaded_s": databases[count][1]} for count in sizes}
    for _ in range(calls):
        for count in sizes:
            options = f"-c search_path={chosen(count)['search_path']},public"
            with psycopg.connect(server.dsn(databases[count][0]), autocommit=True, options=options) as conn:
                begin = time.monotonic()
                conn.execute(CALL)
                found[str(count)]["first_ms"].append((time.monotonic() - begin) * 1000)
    script = pgbench.script("tenant.sql", CALL.replace("decrement_item", "public.decrement_item") + ";\n")

    def one(count):
        return pgbench.run(databases[count][0], [script], CLIENTS, seconds, ASYNC | chosen(count))

    for count, slices in measure.rounds(sizes, rounds, one).items():
        found[str(count)]["tps"] = [each.tps for each in slices]
    return found
