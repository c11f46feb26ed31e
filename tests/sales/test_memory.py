"""Sales in one transaction must not make the backend grow, however many they are, nor must their movements.

The backend's memory is taken as PostgreSQL counts it and as the kernel does, before and after a loop over 10,000
items. PostgreSQL itself keeps one entry for every row version that the transaction made and replaced again, in a
memory context named Combo CIDs (42 bytes for each sale, and the same for a loop of plain UPDATEs), and 24 bytes for
every statement on a table that has triggers for statements, in one named AfterTriggerEvents:
test_what_is_left_out_is_postgresqls_own shows it with triggers that do nothing. These two contexts are left out;
everything else counts, the list of pairs that PostgreSQL keeps beside the first included.
"""

import re

import pytest

from memory import MB
from shop import item, left, shop

ITEMS = 10_000

LOOP = """DO $$ BEGIN
    FOR i IN 0 .. {calls} - 1 LOOP
        PERFORM decrement_inventory(
            ('00000000-0000-0000-0000-' || pg_catalog.lpad(pg_catalog.to_hex(i % {items}), 12, '0'))::uuid, 1);
    END LOOP;
END $$"""


def contexts(conn):
    """{name: bytes} of PostgreSQL's memory contexts."""
    return dict(
        conn.execute("SELECT name, sum(total_bytes)::bigint FROM pg_backend_memory_contexts GROUP BY name").fetchall()
    )


def memory(conn):
    """Bytes in all memory contexts but the two of PostgreSQL's own, and bytes the kernel has given, less the same."""
    counted = contexts(conn)
    own = counted.get("Combo CIDs", 0) + counted.get("AfterTriggerEvents", 0)
    with open(f"/proc/{conn.info.backend_pid}/status") as status:
        resident = int(re.search(r"RssAnon:\s+(\d+) kB", status.read())[1]) * 1024
    return sum(counted.values()) - own, resident - own


@pytest.mark.parametrize(("ledger", "calls", "limit"), [(False, 250_000, 4 * MB), (True, 100_000, 2 * MB)])
def test_sales_in_one_transaction_need_less_than_21_bytes_each(db, ledger, calls, limit):
    """All of them succeed, in one transaction, and nothing of a call outlives it: a million would need 16 MB, of which
    PostgreSQL's list of pairs is the most. With a ledger each call is twice the work, so there are fewer calls."""
    conn = db.connect()
    shop(conn, {item(n): 200 for n in range(ITEMS)}, type="integer", p_ledger=ledger)
    conn.execute("VACUUM ANALYZE inventory")
    conn.autocommit = False
    conn.execute(LOOP.format(calls=ITEMS, items=ITEMS))
    memory(conn)
    counted, resident = memory(conn)

    conn.execute(LOOP.format(calls=calls, items=ITEMS))

    counted_after, resident_after = memory(conn)
    assert left(conn, item(ITEMS - 1)) == 200 - 1 - calls // ITEMS
    assert conn.execute("SELECT sum(quantity) FROM inventory").fetchone()[0] == 200 * ITEMS - ITEMS - calls
    assert counted_after - counted < limit
    assert resident_after - resident < limit
    if ledger:
        assert conn.execute("SELECT count(*) FROM inventory_movement").fetchone() == (2 * ITEMS + calls,)


PLAIN = """
    CREATE TABLE plain (id uuid PRIMARY KEY, quantity integer);
    CREATE TABLE noted (id uuid, quantity integer);
    INSERT INTO plain SELECT id, quantity FROM inventory;
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO noted VALUES (NEW.id, NEW.quantity); RETURN NULL; END';
    CREATE TRIGGER one BEFORE UPDATE ON plain EXECUTE FUNCTION nothing();
    CREATE TRIGGER two AFTER UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION note();
    CREATE TRIGGER three AFTER UPDATE ON plain EXECUTE FUNCTION nothing();
    CREATE TRIGGER four BEFORE INSERT ON noted EXECUTE FUNCTION nothing()
"""


def test_what_is_left_out_is_postgresqls_own(db):
    """As many plain UPDATEs, on a table with triggers of the same kinds that are no business of ours, need as much of
    it."""
    conn = db.connect()
    shop(conn, {item(n): 200 for n in range(100)}, type="integer")
    conn.execute(PLAIN)
    conn.autocommit = False
    used = lambda: conn.execute(  # noqa: E731
        "SELECT coalesce(sum(used_bytes), 0)::bigint FROM pg_backend_memory_contexts WHERE name = 'AfterTriggerEvents'"
    ).fetchone()[0]
    grown = {}
    for what, statement in (
        ("sales", "PERFORM decrement_inventory({item}, 1)"),
        ("plain", "UPDATE plain SET quantity = quantity - 1 WHERE id = {item}"),
    ):
        one = "('00000000-0000-0000-0000-' || pg_catalog.lpad(pg_catalog.to_hex(i % 100), 12, '0'))::uuid"
        conn.execute(f"DO $$ BEGIN FOR i IN 1 .. 20 LOOP {statement.format(item=one)}; END LOOP; END $$")
        before = used()
        conn.execute(f"DO $$ BEGIN FOR i IN 1 .. 10000 LOOP {statement.format(item=one)}; END LOOP; END $$")
        grown[what] = used() - before
    assert 0 < grown["plain"]
    assert grown["sales"] <= grown["plain"] + 1024, grown


ID = "('00000000-0000-0000-0000-' || pg_catalog.lpad(pg_catalog.to_hex(i % 150), 12, '0'))::uuid"
REFUSED = {
    "sale": f"decrement_inventory({ID}, CASE WHEN i % 7 = 0 THEN 'NaN' WHEN i % 11 = 0 THEN 0.5 ELSE 2 END)",
    "order": f"decrement_inventory_batch(pg_catalog.jsonb_build_array("
    f"pg_catalog.jsonb_build_object('inventory_id', {ID}, 'quantity', 2)), 'order ' || i)",
    "restock": "restock_inventory(pg_catalog.gen_random_uuid(), 1, 'delivery ' || i)",
    "count": f"adjust_inventory({ID}, 7, 8, 'shelf ' || i)",
    "transfer": f"transfer_inventory({ID}, pg_catalog.gen_random_uuid(), 1, 'van ' || i)",
}


@pytest.mark.parametrize("call", REFUSED)
def test_refused_calls_in_one_transaction_leave_no_memory_behind(db, call):
    """50,000 shortages, unknown items and bad arguments, each caught in an EXCEPTION block: less than one MB in
    PostgreSQL's contexts, and less than four outside of them: an error must not jump over what is to be freed."""
    conn = db.connect()
    shop(conn, {item(n): 1 for n in range(100)}, type="integer")
    conn.autocommit = False
    refusals = """DO $$ BEGIN
        FOR i IN 1 .. {calls} LOOP
            BEGIN
                PERFORM {call};
                RAISE 'sold what was not there';
            EXCEPTION WHEN SQLSTATE 'IV001' OR SQLSTATE 'IV002' OR SQLSTATE 'IV005'
                OR SQLSTATE '22023' OR SQLSTATE '22003' THEN NULL;
            END;
        END LOOP;
    END $$"""
    conn.execute(refusals.format(calls=5000, call=REFUSED[call]))
    memory(conn)
    counted, resident = memory(conn)
    conn.execute(refusals.format(calls=50_000, call=REFUSED[call]))
    counted_after, resident_after = memory(conn)
    assert counted_after - counted < MB
    assert resident_after - resident < 4 * MB
    if call in ("sale", "restock"):  # the others look at the item under its lock
        assert conn.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
