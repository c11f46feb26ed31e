"""No false alarm: whatever a shop does honestly, by calls and by statements, alone and at once, an audit finds nothing.

MOVEMENTS=1000000 in the environment makes the history that long.
"""

import os
import random
import threading

import psycopg
import pytest

from auditing import audit, digest, history, past_the_triggers, run, verify
from shop import ONE, TWO, Aside, item, sell, shop, until, until_waiting
from striped import RC, SERIALIZABLE, in_isolation

MOVEMENTS = int(os.environ.get("MOVEMENTS", "20000"))
ITEMS = 60
# One honest act, chosen by :what; items are numbered, and one may be gone, striped, short or new.
ACTS = """
CREATE FUNCTION act(what int, one uuid, other uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE
        WHEN what < 35 THEN PERFORM decrement_inventory(one, 1 + what % 3);
        WHEN what < 55 THEN PERFORM restock_inventory(one, 1 + what % 5);
        WHEN what < 62 THEN PERFORM transfer_inventory(one, other, 1);
        WHEN what < 68 THEN PERFORM adjust_inventory(one, what);
        WHEN what < 80 THEN PERFORM decrement_inventory_batch(json_build_array(
            json_build_object('inventory_id', one, 'quantity', 1),
            json_build_object('inventory_id', other, 'quantity', 2))::jsonb, 'order', NULL, 'partial');
        WHEN what < 84 THEN UPDATE inventory SET quantity = quantity + 1 WHERE id IN (one, other);
        WHEN what < 87 THEN DELETE FROM inventory WHERE id = one;
        WHEN what < 91 THEN INSERT INTO inventory VALUES (one, 30) ON CONFLICT DO NOTHING;
        WHEN what < 93 THEN UPDATE inventory SET id = gen_random_uuid() WHERE id = one;
        WHEN what < 95 THEN PERFORM stripe_inventory(one, 2 + what % 4);
        WHEN what < 97 THEN PERFORM unstripe_inventory(one);
        ELSE
            PERFORM decrement_inventory(one, 1);
            RAISE division_by_zero;
    END CASE;
EXCEPTION WHEN OTHERS THEN
    -- A refusal, and what it undoes, is as honest as a sale.
    IF SQLSTATE !~ '^(IV|22|23|55)' THEN RAISE; END IF;
END $$
"""


def act(conn, seed, acts):
    """So many random acts, each in a transaction of its own."""
    conn.execute(
        f"""DO $$ BEGIN
            PERFORM setseed({random.Random(seed).random()});
            FOR n IN 1 .. {acts} LOOP
                PERFORM act((random() * 99)::int, lpad(to_hex((1 + random() * {ITEMS})::int), 32, '0')::uuid,
                            lpad(to_hex((1 + random() * {ITEMS})::int), 32, '0')::uuid);
                COMMIT;
            END LOOP;
        END $$"""
    )


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {item(number): "50" for number in range(1, ITEMS + 1)})
    conn.execute(ACTS)
    return conn


def movements(conn):
    return conn.execute("SELECT count(*) FROM inventory_movement").fetchone()[0]


def test_random_acts(conn):
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    kept = []
    while movements(conn) < MOVEMENTS:
        act(conn, seed, max(500, MOVEMENTS // 20))
        seed += 1
        assert audit(conn) == []
        kept.append(digest(conn))
    assert audit(conn, full=True) == []
    assert verify(conn, kept[len(kept) // 2]) == []
    sealed = conn.execute("SELECT sum(sealed)::bigint FROM inventory_audit").fetchone()[0]
    assert sealed == movements(conn), "every movement is sealed, once"


def test_sixteen_sessions_act_while_audits_run(db, conn):
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    sellers = [Aside(lambda number: act(db.connect(), seed + number, 150), number) for number in range(16)]
    audits = 0
    while any(seller._thread.is_alive() for seller in sellers):
        assert audit(conn, full=audits % 3 == 2) == []
        audits += 1
    for seller in sellers:
        seller.result()
    assert audits > 3
    assert audit(conn) == []
    assert audit(conn, full=True) == []
    assert conn.execute("SELECT sum(sealed)::bigint FROM inventory_audit").fetchone()[0] == movements(conn)


def test_an_audit_in_an_open_transaction_blocks_no_sale_and_no_change_of_stripes(db, conn):
    with db.connect(autocommit=False) as auditor:
        assert audit(auditor) == []
        conn.execute("SET lock_timeout = '5s'")
        sell(conn, ONE, 1)
        conn.execute("SELECT stripe_inventory(%s, 4)", (str(TWO),))
        sell(conn, TWO, 1)
        conn.execute("SELECT unstripe_inventory(%s)", (str(TWO),))
        conn.execute("UPDATE inventory SET quantity = quantity + 1")
        assert audit(auditor) == [], "also in the snapshot of its next statement"
        auditor.commit()
    assert audit(conn) == []


def test_the_next_audit_waits_for_the_transaction_of_the_one_before(db, conn):
    with db.connect(autocommit=False) as first, db.connect() as second:
        audit(first)
        later = Aside(audit, second)
        until_waiting(conn, second)
        first.commit()
        assert later.result() == []
    assert conn.execute("SELECT count(*), count(seal) FROM inventory_audit").fetchone() == (2, 1)


@pytest.mark.parametrize(("level", "fails"), [(SERIALIZABLE, True), (RC, False)])
def test_an_audit_in_a_serializable_transaction_can_fail_a_serializable_sale(db, conn, level, fails):
    """The shop reads when it was audited last, and sells; the audit reads the stock. Neither may be the first."""
    audit(conn)
    shop_session, auditor = in_isolation(db, SERIALIZABLE), in_isolation(db, level)
    shop_session.execute("SELECT max(run_id) FROM inventory_audit").fetchone()
    assert audit(auditor) == []
    sell(shop_session, ONE, 1)
    auditor.commit()
    if fails:
        with pytest.raises(psycopg.errors.SerializationFailure):
            shop_session.commit()
    else:
        shop_session.commit()
    sold = conn.execute("SELECT count(*) FROM inventory_movement WHERE kind = 'sale'").fetchone()[0]
    assert sold == (0 if fails else 1)
    assert audit(conn, full=True) == []


def test_an_audit_that_is_rolled_back_leaves_nothing(db, conn):
    with db.connect(autocommit=False) as auditor:
        audit(auditor)
        auditor.rollback()
    assert conn.execute("SELECT to_regclass('inventory_audit')").fetchone() == (None,)
    history(conn)
    assert audit(conn) == []
    assert run(conn)[4] == movements(conn)


LONG = (
    "INSERT INTO inventory_movement (inventory_id, kind, old_quantity, new_quantity, actor) "
    "SELECT inventory_id, 'sale', new_quantity, new_quantity, 'till' FROM inventory_movement, generate_series(1, 3000)"
)


@pytest.mark.parametrize("limit", ["statement_timeout = '60ms'", "temp_file_limit = '100kB'"])
def test_an_audit_that_is_broken_off_leaves_nothing(db, conn, limit):
    past_the_triggers(conn, LONG)
    with db.connect() as auditor:
        auditor.execute(f"SET {limit}")
        with pytest.raises((psycopg.errors.QueryCanceled, psycopg.errors.ConfigurationLimitExceeded)):
            audit(auditor)
    assert conn.execute("SELECT to_regclass('inventory_audit')").fetchone() == (None,)
    assert audit(conn) == []
    assert run(conn)[4] == movements(conn)


def test_an_audit_whose_session_is_killed_leaves_nothing(db, conn):
    past_the_triggers(conn, LONG)
    auditor = db.connect()
    running = Aside(audit, auditor)
    pid = auditor.info.backend_pid
    until(
        lambda: conn.execute(
            "SELECT 1 FROM pg_locks WHERE pid = %s AND locktype = 'advisory' AND granted", (pid,)
        ).fetchone(),
        "the audit has begun",
    )
    conn.execute("SELECT pg_terminate_backend(%s)", (pid,))
    with pytest.raises(psycopg.OperationalError):
        running.result()
    until(lambda: not conn.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone(), "it is gone")
    assert conn.execute("SELECT to_regclass('inventory_audit')").fetchone() == (None,)
    assert audit(conn) == []


def test_two_first_audits_at_once_make_the_tables_once(db, conn):
    barrier = threading.Barrier(2)

    def first(session):
        barrier.wait()
        return audit(session)

    sessions = [db.connect(), db.connect()]
    for running in [Aside(first, session) for session in sessions]:
        assert running.result() == []
    assert conn.execute("SELECT count(*) FROM inventory_audit").fetchone() == (2,)
