"""How late the stock table shows the total of a striped item, while 64 clients sell it."""

import threading
import time

import psycopg

from bench import shops
from bench.workloads import ASYNC, WORKLOADS, scripts

CLIENTS = 64


def measured(pgbench, database, seconds):
    """The times for which the row showed the same total although the item was sold all the while."""
    workload = next(workload for workload in WORKLOADS if workload.name == "hot_64")
    changes, over = [], threading.Event()

    def watch():
        shown = f"SELECT quantity FROM inventory WHERE id = {shops.ITEM.format(shops.HOT)}"
        with psycopg.connect(pgbench.server.dsn(database), autocommit=True) as conn:
            before = None
            while not over.is_set():
                now = conn.execute(shown).fetchone()[0]
                if now != before:
                    changes.append(time.monotonic())
                    before = now
                time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = pgbench.run(database, scripts(pgbench, "striped", workload), CLIENTS, seconds, ASYNC)
    finally:
        over.set()
        watcher.join()
    # The first is what was shown before anything was sold, the last may be the total at rest.
    gaps = [later - earlier for earlier, later in zip(changes[1:], changes[2:])]
    return {"gaps_ms": [round(gap * 1000, 1) for gap in gaps], "tps": done.tps, "clients": CLIENTS}
