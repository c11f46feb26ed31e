"""A million sales in one transaction must not make the backend grow.

The backend's memory is taken as PostgreSQL counts it and as the kernel does, before and after a loop over 10,000 items.
PostgreSQL itself keeps one entry for every row version that the transaction made and replaced again, in a memory context
named Combo CIDs (42 MB here, and the same for a loop of plain UPDATEs). That one context is left out; everything else counts,
the list of pairs that PostgreSQL keeps beside it included.
"""

import re

from shop import item, left, shop

CALLS, ITEMS = 1_000_000, 10_000
LIMIT = 16 * 1024 * 1024

LOOP = """DO $$ BEGIN
    FOR i IN 0 .. {calls} - 1 LOOP
        PERFORM decrement_inventory(
            ('00000000-0000-0000-0000-' || pg_catalog.lpad(pg_catalog.to_hex(i % {items}), 12, '0'))::uuid, 1);
    END LOOP;
END $$"""


def memory(conn):
    """Bytes in all memory contexts but PostgreSQL's own Combo CIDs, and bytes the kernel has given, less the same."""
    everything, combo = conn.execute(
        "SELECT sum(total_bytes)::bigint, coalesce(sum(total_bytes) FILTER (WHERE name = 'Combo CIDs'), 0)::bigint "
        "FROM pg_backend_memory_contexts"
    ).fetchone()
    with open(f"/proc/{conn.info.backend_pid}/status") as status:
        resident = int(re.search(r"RssAnon:\s+(\d+) kB", status.read())[1]) * 1024
    return everything - combo, resident - combo


def test_a_million_sales_in_one_transaction_need_less_than_16_mb(db):
    """All of them succeed, in one transaction, and nothing of a call outlives it."""
    conn = db.connect()
    shop(conn, {item(n): 200 for n in range(ITEMS)}, type="integer")
    conn.execute("VACUUM ANALYZE inventory")
    conn.autocommit = False
    conn.execute(LOOP.format(calls=ITEMS, items=ITEMS))
    memory(conn)
    counted, resident = memory(conn)

    conn.execute(LOOP.format(calls=CALLS, items=ITEMS))

    counted_after, resident_after = memory(conn)
    assert left(conn, item(ITEMS - 1)) == 200 - 1 - CALLS // ITEMS
    assert conn.execute("SELECT sum(quantity) FROM inventory").fetchone()[0] == 200 * ITEMS - ITEMS - CALLS
    assert counted_after - counted < LIMIT
    assert resident_after - resident < LIMIT


def test_refused_calls_in_one_transaction_leave_no_memory_behind(db):
    """50,000 shortages, unknown items and bad arguments, each caught in an EXCEPTION block: less than one MB in all."""
    conn = db.connect()
    shop(conn, {item(n): 1 for n in range(100)}, type="integer")
    conn.autocommit = False
    refusals = """DO $$ BEGIN
        FOR i IN 1 .. {calls} LOOP
            BEGIN
                PERFORM decrement_inventory(
                    ('00000000-0000-0000-0000-' || pg_catalog.lpad(pg_catalog.to_hex(i % 150), 12, '0'))::uuid,
                    CASE WHEN i % 7 = 0 THEN 'NaN' WHEN i % 11 = 0 THEN 0.5 ELSE 2 END);
                RAISE 'sold what was not there';
            EXCEPTION WHEN SQLSTATE 'IV001' OR SQLSTATE 'IV002' OR SQLSTATE '22023' OR SQLSTATE '22003' THEN NULL;
            END;
        END LOOP;
    END $$"""
    conn.execute(refusals.format(calls=5000))
    memory(conn)
    counted, _ = memory(conn)
    conn.execute(refusals.format(calls=50_000))
    counted_after, _ = memory(conn)
    assert counted_after - counted < 1024 * 1024
    assert conn.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
