"""An item with very many movements is audited in little memory, and its faults are placed as those of a small one."""

import random

import pytest

from auditing import audit, digest, past_the_triggers, run, verify
from memory import MB, peak
from shop import ONE, TWO, refused, shop

# Its records have 50 MB; those of an item up to 16 MB are sorted in memory.
SALES = 400_000
FAULTS = 40


@pytest.fixture
def conn(db):
    """A shop whose first item was sold SALES times, by two stripes in turn and by its row before."""
    conn = db.connect()
    shop(conn, {ONE: SALES + 5, TWO: 20})
    sales = "INSERT INTO inventory_movement (inventory_id, stripe, kind, old_quantity, new_quantity, actor) SELECT"
    half, quarter = SALES // 2, SALES // 4
    past_the_triggers(
        conn,
        f"{sales} '{ONE}', NULL, 'sale', q, q - 1, 'till' FROM generate_series({SALES + 5}, {half + 6}, -1) AS q",
        f"UPDATE inventory SET quantity = {half + 5} WHERE id = '{ONE}'",
    )
    conn.execute("SELECT stripe_inventory(%s, 2)", (str(ONE),))
    first = conn.execute("SELECT quantity FROM inventory_stripe WHERE stripe = 1").fetchone()[0]
    past_the_triggers(
        conn,
        f"{sales} '{ONE}', s, 'sale', q - n, q - n - 1, 'till' FROM generate_series(0, {quarter - 1}) AS n,"
        f" (VALUES (1, {first}), (2, {half + 5 - first})) AS _ (s, q) ORDER BY n, s",
        f"UPDATE inventory_stripe SET quantity = quantity - {quarter}",
        f"UPDATE inventory SET quantity = 5 WHERE id = '{ONE}'",
    )
    conn.execute("VACUUM ANALYZE inventory_movement")
    return conn


def test_an_item_with_very_many_movements_needs_little_memory(db, conn):
    """Each movement needed 430 bytes: these, 172 MB, and 10,000,000 of an item more than a small server has."""
    for act in (
        lambda auditor: audit(auditor),
        lambda auditor: audit(auditor, ONE, full=True),
        lambda auditor: verify(auditor, digest(auditor)),
        lambda auditor: audit(auditor, full=True),
    ):
        with db.connect() as auditor:
            before = peak(auditor)
            assert act(auditor) == []
            assert peak(auditor) - before < 64 * MB
    newest, sealing = run(conn), conn.execute("SELECT max(sealed) FROM inventory_audit").fetchone()[0]
    assert newest[1] == sealing, "all movements are sealed, once, and read again"
    assert sealing > SALES


def test_faults_anywhere_in_a_large_item_are_placed_between_the_right_two_movements(conn):
    """Also where the pieces in which it is read begin and end: these are not known here, so there are many faults."""
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    assert audit(conn) == []
    chains = conn.execute("SELECT array_agg(movement_id ORDER BY movement_id) FROM inventory_movement GROUP BY stripe")
    chains = [chain for (chain,) in chains.fetchall() if len(chain) > FAULTS]
    assert len(chains) == 3
    expected, statements = [], []
    for chain in chains:
        # Neither the ends, nor two that are side by side.
        for place in random.Random(seed).sample(range(3, len(chain) - 3, 3), FAULTS):
            before, there, after = chain[place - 1 : place + 2]
            if place % 2:
                statements.append(f"DELETE FROM inventory_movement WHERE movement_id = {there}")
                expected.append(("missing_movement", before, after))
            else:
                statements.append(f"UPDATE inventory_movement SET actor = 'me' WHERE movement_id = {there}")
                expected.append(("altered_movement", before, there))
    past_the_triggers(conn, *statements)
    found = audit(conn, full=True)
    assert sorted((row[0], *row[-2:]) for row in found) == sorted(expected)
    assert len(verify(conn, digest(conn))) == len(expected)


def test_what_is_not_sealed_of_a_large_item_is_placed_too(conn):
    chain = conn.execute(
        "SELECT array_agg(movement_id ORDER BY movement_id) FROM inventory_movement WHERE stripe = 2"
    ).fetchone()[0]
    place = len(chain) // 2
    past_the_triggers(conn, f"DELETE FROM inventory_movement WHERE movement_id = {chain[place]}")
    for full in (False, True):
        [found] = audit(conn, full=full)
        assert (found[0], found[2], *found[-2:]) == ("broken_chain", 2, chain[place - 1], chain[place + 1])
    sealed = conn.execute("SELECT sum(sealed)::bigint FROM inventory_audit").fetchone()[0]
    movements = conn.execute("SELECT count(*) FROM inventory_movement").fetchone()[0]
    assert movements - sealed == len(chain) - place - 1, "the chains are sealed up to the break"


def test_files_of_a_large_item_count_for_the_limit_of_temporary_files(conn):
    """They end with the audit that is refused. 300 bytes for each movement are enough."""
    conn.execute("SET temp_file_limit = '40MB'")
    assert refused(conn, "SELECT * FROM audit_inventory()").sqlstate == "53400"
    files = "SELECT count(*) FROM pg_ls_tmpdir() WHERE name ~ %s"
    assert conn.execute(files, (rf"^pgsql_tmp{conn.info.backend_pid}\.",)).fetchone()[0] == 0
    conn.execute(f"SET temp_file_limit = '{300 * SALES // 1024}kB'")
    assert audit(conn) == []
    assert audit(conn, full=True) == [], "also with what was sealed"


def test_hashes_are_not_compressed_in_vain(conn):
    """PostgreSQL would try it with every segment."""
    assert audit(conn) == []
    column = "attrelid = 'inventory_audit_segment'::regclass AND attname = 'movements'"
    assert conn.execute(f"SELECT attstorage FROM pg_attribute WHERE {column}").fetchone() == ("e",)


def test_an_archive_that_was_dropped_needs_no_more_memory(db, conn):
    """Each movement of it is missing, until the one that archiving has left is read."""
    assert audit(conn) == []
    conn.execute("SELECT archive_movements(now())")
    conn.execute("DROP TABLE inventory_movement_archive")
    with db.connect() as auditor:
        before = peak(auditor)
        assert audit(auditor, full=True) == []
        assert peak(auditor) - before < 64 * MB


def test_all_movements_removed_is_told_in_little_memory(db, conn):
    assert audit(conn) == []
    past_the_triggers(conn, f"DELETE FROM inventory_movement WHERE inventory_id = '{ONE}' AND movement_id % 2 = 0")
    with db.connect() as auditor:
        before = peak(auditor)
        found = auditor.execute("SELECT count(*) FROM audit_inventory(p_full => true)").fetchone()[0]
        assert peak(auditor) - before < 128 * MB
    assert found == 100_000, "as many as are returned"
    counted = conn.execute("SELECT discrepancies FROM inventory_audit ORDER BY run_id DESC LIMIT 1").fetchone()[0]
    assert counted == pytest.approx(SALES // 2, abs=5)


def test_the_ledger_is_read_once_for_all_that_is_wrong_with_it(conn):
    """It was read once for each discrepancy: a full audit took minutes where very much was wrong."""
    assert audit(conn) == []
    past_the_triggers(conn, "UPDATE inventory_movement SET actor = 'me' WHERE movement_id % 4000 = 0")
    scans = "SELECT coalesce(seq_scan, 0) FROM pg_stat_user_tables WHERE relname = 'inventory_movement'"
    conn.execute("SELECT pg_stat_force_next_flush()")
    before = conn.execute(scans).fetchone()[0]
    found = conn.execute("SELECT detail FROM audit_inventory(p_full => true)").fetchall()
    assert len(found) == SALES // 4000
    assert all((detail["kind"], detail["actor"]) == ("sale", "me") and detail["movement"] for (detail,) in found)
    conn.execute("SELECT pg_stat_force_next_flush()")
    assert conn.execute(scans).fetchone()[0] - before < 10


def test_very_long_values_that_an_owner_has_planted_are_unpacked_one_by_one(db, conn):
    past_the_triggers(
        conn,
        f"UPDATE inventory_movement SET reference = repeat('x', 30000000) WHERE inventory_id = '{TWO}'"
        " OR movement_id IN (SELECT movement_id FROM inventory_movement WHERE stripe = 1 LIMIT 30)",
    )
    with db.connect() as auditor:
        before = peak(auditor)
        assert audit(auditor) == []
        assert peak(auditor) - before < 256 * MB


def test_very_many_movements_of_one_number_are_cancelled(conn):
    """An owner without the primary key of the ledger can plant them; the audit of a superuser was not cancelled."""
    assert audit(conn) == []
    past_the_triggers(
        conn,
        "ALTER TABLE inventory_movement DROP CONSTRAINT inventory_movement_pkey",
        "INSERT INTO inventory_movement (movement_id, inventory_id, kind, old_quantity, new_quantity, actor) OVERRIDING"
        f" SYSTEM VALUE SELECT 5, '{ONE}', 'sale', n, n - 1, 'me' FROM generate_series(1, 200000) AS n",
    )
    [found] = audit(conn, full=True)
    assert found[0] == "inserted_movement"


@pytest.mark.parametrize("bytes_each", [40_000_000, 160_000])
def test_segments_that_an_owner_has_planted_are_reported_in_little_memory(db, conn, bytes_each):
    """Zeros take no room on disk."""
    assert audit(conn) == []
    seal = digest(conn)
    conn.execute(
        f"INSERT INTO inventory_audit_segment SELECT 1, 1000 + n, '{TWO}', 0, 5, 1000000 + n, '0', '', '', '',"
        f" decode(repeat('00', {bytes_each}), 'hex') FROM generate_series(1, {400_000_000 // bytes_each}) AS n"
    )
    with db.connect() as auditor:
        before = peak(auditor)
        assert {found[0] for found in audit(auditor, full=True)} >= {"altered_seal"}
        assert verify(auditor, seal) != []
        assert peak(auditor) - before < 256 * MB


def test_very_long_seals_that_an_owner_has_planted_are_unpacked_one_by_one(db, conn):
    assert audit(conn) == []
    seal = digest(conn)
    columns = (
        "kind, started_at, finished_at, is_full, checked_movements, checked_items, discrepancies, found, position,"
        " oldest_transaction, next_transaction, actor, sealed, sealed_at, previous_seal"
    )
    conn.execute(
        f"INSERT INTO inventory_audit ({columns}, seal_number, seal, root)"
        f" SELECT {columns}, 1000 + n, seal, decode(repeat('00', 30000000), 'hex')"
        " FROM inventory_audit, generate_series(1, 30) AS n"
    )
    with db.connect() as auditor:
        before = peak(auditor)
        assert verify(auditor, seal) == [], "they are later than the digest"
        assert peak(auditor) - before < 256 * MB
