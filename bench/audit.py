"""The audit of a long ledger, against a query by hand that checks the same, with the memory of the backend."""

import threading
import time

import psycopg

from bench import measure, shops
from bench.growth import BRIN, KEY

# What a careful owner would write: each movement begins where the one before ended, and the last one ends at the stock.
BY_HAND = """
SELECT count(*) FILTER (WHERE old_quantity <> ended), count(*) FILTER (WHERE next IS NULL AND new_quantity <> quantity)
  FROM (SELECT inventory_id, old_quantity, new_quantity, lag(new_quantity, 1, 0) OVER chain AS ended,
               lead(movement_id) OVER chain AS next
          FROM inventory_movement WINDOW chain AS (PARTITION BY inventory_id, stripe ORDER BY movement_id)) AS movement
  LEFT JOIN inventory ON inventory.id = movement.inventory_id AND movement.next IS NULL
"""
# The same, and each movement is what it was when its hash was kept; this is what an audit checks once it has sealed.
HASH = "pg_catalog.sha256(pg_catalog.convert_to(movement::text, 'UTF8'))"
KEEP_HASHES = f"""
CREATE TABLE kept (movement_id bigint PRIMARY KEY, hash bytea NOT NULL);
INSERT INTO kept SELECT movement_id, {HASH} FROM inventory_movement AS movement;
VACUUM (ANALYZE) kept
"""
BY_HAND_SEALED = f"""
SELECT count(*) FILTER (WHERE old_quantity <> ended), count(*) FILTER (WHERE next IS NULL AND new_quantity <> quantity),
       count(*) FILTER (WHERE kept.hash IS DISTINCT FROM movement.hash)
  FROM (SELECT inventory_id, movement_id, old_quantity, new_quantity, lag(new_quantity, 1, 0) OVER chain AS ended,
               lead(movement_id) OVER chain AS next, {HASH} AS hash
          FROM inventory_movement AS movement WINDOW chain AS (PARTITION BY inventory_id, stripe ORDER BY movement_id)
       ) AS movement
  LEFT JOIN inventory ON inventory.id = movement.inventory_id AND movement.next IS NULL
  FULL JOIN kept USING (movement_id)
"""
FEW = 1_000  # movements before an incremental run


def load(server, items, movements):
    """A shop with an honest history: every movement sells one unit."""
    database = shops.open_shops(server, ["ext_ledger"], items, "_audit")["ext_ledger"]
    item = shops.ITEM.format(f"(1 + n % {items})")
    with psycopg.connect(server.dsn(database), autocommit=True) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(f"ALTER TABLE inventory_movement DROP CONSTRAINT {KEY}")
        for column in BRIN:
            conn.execute(f"DROP INDEX inventory_movement_{column}_idx")
        conn.execute(
            "INSERT INTO inventory_movement (inventory_id, kind, old_quantity, new_quantity, reference, actor)"
            f" SELECT {item}, 'sale', {shops.PLENTY} - n / {items}, {shops.PLENTY} - n / {items} - 1, 'order ' || n,"
            f" 'till' FROM generate_series(0, {movements - 1}) AS n"
        )
        sold = "(SELECT count(*) FROM inventory_movement AS m WHERE m.inventory_id = inventory.id AND kind = 'sale')"
        conn.execute("SET maintenance_work_mem = '1GB'")
        conn.execute(f"ALTER TABLE inventory_movement ADD CONSTRAINT {KEY} PRIMARY KEY (inventory_id, movement_id)")
        for column in BRIN:
            conn.execute(f"CREATE INDEX inventory_movement_{column}_idx ON inventory_movement USING brin ({column})")
        conn.execute(f"UPDATE inventory SET quantity = quantity - {sold}")
        conn.execute("RESET session_replication_role")
        conn.execute("VACUUM (ANALYZE) inventory_movement")
        conn.execute("VACUUM (ANALYZE) inventory")
    return database


class Memory(threading.Thread):
    """The most memory that a backend has of its own, in bytes."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path, self.most, self.done = f"/proc/{pid}/status", 0, threading.Event()
        self.start()

    def run(self):
        while not self.done.wait(0.02):
            with open(self.path) as status:
                kilobytes = next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))
            self.most = max(self.most, 1024 * kilobytes)

    def stop(self):
        self.done.set()
        self.join()
        return self.most


def timed(conn, sql):
    """(seconds, bytes of memory) of one statement."""
    memory = Memory(conn.info.backend_pid)
    begin = time.monotonic()
    rows = conn.execute(sql).fetchall()
    seconds = time.monotonic() - begin
    return seconds, memory.stop(), rows


def run(server, items, movements, rounds):
    """Every figure, by rounds."""
    database = load(server, items, movements)
    measure.checkpoint(server)
    found = {"items": items, "movements": movements, "unsealed": [], "by_hand": [], "full": [], "memory_full": 0}
    found["by_hand_sealed"] = []

    def connect():
        return psycopg.connect(server.dsn(database), autocommit=True)

    for _ in range(rounds):
        with connect() as conn:
            conn.execute("SET default_transaction_read_only = on")
            found["unsealed"].append(timed(conn, "SELECT kind FROM audit_inventory()")[0])
        with connect() as conn:
            seconds, _, rows = timed(conn, BY_HAND)
            assert rows == [(0, 0)], "the history is honest"
            found["by_hand"].append(seconds)
    with connect() as conn:
        seconds, memory, rows = timed(conn, "SELECT kind FROM audit_inventory()")
        assert rows == [], "an honest ledger has no discrepancy"
        found |= {"first": seconds, "memory_first": memory}
    with connect() as conn:
        for statement in KEEP_HASHES.split(";"):
            conn.execute(statement)
    for _ in range(rounds):
        with connect() as conn:
            conn.execute("SET default_transaction_read_only = on")
            seconds, memory, _ = timed(conn, "SELECT kind FROM audit_inventory(p_full => true)")
            found["full"].append(seconds)
            found["memory_full"] = max(found["memory_full"], memory)
        with connect() as conn:
            seconds, _, rows = timed(conn, BY_HAND_SEALED)
            assert rows == [(0, 0, 0)], "the history is what it was"
            found["by_hand_sealed"].append(seconds)
    with connect() as conn:
        conn.execute(
            f"SELECT count(decrement_inventory({shops.ITEM.format('n')}, 1)) FROM generate_series(1, {FEW}) AS n"
        )
        found["incremental"] = timed(conn, "SELECT kind FROM audit_inventory()")[0]
    return found
