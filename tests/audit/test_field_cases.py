"""What shops do to a ledger that is audited: rename, archive, set options, add columns; nothing is lost or made up."""

import pytest

from auditing import audit, digest, history, movements, past_the_triggers, verify
from shop import ONE, TWO, create_role, refused, sell, shop

AUDIT_TABLES = ("inventory_audit", "inventory_audit_chain", "inventory_audit_segment")
COMPANIONS = ("inventory_movement", "inventory_request", "inventory_stripe", "inventory_stripe_total")


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "100", TWO: "100"})
    history(conn, items=2, sales=6)
    return conn


def moment(conn):
    return conn.execute("SELECT clock_timestamp()").fetchone()[0]


def at(conn, key, when):
    return conn.execute("SELECT inventory_at(%s, %s)", (str(key), when)).fetchone()[0]


def renamed(conn, *tables):
    conn.execute("SELECT detach_inventory()")
    for table in tables:
        conn.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    conn.execute("SELECT attach_inventory('inventory')")


@pytest.mark.parametrize("call", ["audit_inventory()", "inventory_digest()", "archive_movements(now())"])
def test_audit_tables_that_were_left_beside_a_new_ledger_are_refused(conn, call):
    audit(conn)
    renamed(conn, "inventory_movement")
    sell(conn, ONE, 1)
    error = refused(conn, f"SELECT {call}")
    assert (error.sqlstate, error.reason) == ("55000", "audit_of_another_ledger")
    for table in AUDIT_TABLES:
        conn.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    assert audit(conn) == []


def test_stock_at_a_moment_of_a_striped_item_whose_archive_is_gone(conn):
    conn.execute("SELECT stripe_inventory(%s, 2)", (str(ONE),))
    sell(conn, ONE, 1)
    when = moment(conn)
    before = at(conn, ONE, when)
    for _ in range(2):
        sell(conn, ONE, 30)
    conn.execute("SELECT archive_movements(clock_timestamp())")
    assert at(conn, ONE, when) == before
    conn.execute("ALTER TABLE inventory_movement_archive RENAME TO kept")
    for call in ("inventory_at(%s, %s)", "adjust_inventory(%s, 93, p_counted_at => %s)"):
        error = refused(conn, f"SELECT {call}", (str(ONE), when))
        assert (error.sqlstate, error.reason) == ("55000", "archived"), call
    assert at(conn, ONE, moment(conn)) == 33


def test_stock_at_every_moment_of_a_change_of_stripes_is_the_whole(conn):
    for call in ("stripe_inventory(%s, 8)", "stripe_inventory(%s, 3)", "unstripe_inventory(%s)"):
        conn.execute(f"SELECT {call}", (str(ONE),))
    moments = conn.execute(
        "SELECT occurred_at FROM inventory_movement WHERE inventory_id = %s AND kind = 'transfer'", (ONE,)
    ).fetchall()
    assert len(moments) > 20
    assert {at(conn, ONE, when) for (when,) in moments} == {94}


@pytest.mark.parametrize("option", ["CACHE 10", "INCREMENT -1 MAXVALUE 1000000 NO MINVALUE", "CYCLE"])
def test_numbers_in_another_order_than_the_changes_are_refused(conn, option):
    sequence = conn.execute("SELECT pg_get_serial_sequence('inventory_movement', 'movement_id')").fetchone()[0]
    conn.execute(f"ALTER SEQUENCE {sequence} {option}")
    for call in ("audit_inventory()", "inventory_changes()"):
        error = refused(conn, f"SELECT {call}")
        assert (error.sqlstate, error.reason) == ("55000", "sequence_options"), call


def test_a_position_is_not_beyond_the_last_movement(conn):
    with conn.transaction(force_rollback=True):
        sell(conn, ONE, 1)
    page = conn.execute("SELECT inventory_changes()").fetchone()[0]
    assert page["next"]["movement"] == page["changes"][-1]["movement_id"] == max(movements(conn)[str(TWO)])


def test_a_reader_of_the_ledger_alone_goes_on_after_an_archiving(db, conn):
    reader = create_role(conn, db, "reader")
    conn.execute(f'GRANT EXECUTE ON FUNCTION inventory_changes TO "{reader}"')
    conn.execute(f'GRANT SELECT ON inventory_movement TO "{reader}"')
    before = conn.execute("SELECT inventory_changes() -> 'changes'").fetchone()[0]
    conn.execute("SELECT archive_movements(clock_timestamp())")
    with db.connect(reader) as session:
        assert session.execute("SELECT inventory_changes() -> 'changes'").fetchone()[0] == before


def test_an_audit_in_a_statement_that_writes_the_stock_is_refused(conn):
    sql = (
        "WITH w AS (UPDATE inventory SET quantity = quantity + 1 RETURNING id) "
        "SELECT a.kind FROM w, LATERAL audit_inventory(w.id) AS a"
    )
    assert refused(conn, sql).sqlstate == "55006"
    assert audit(conn) == []


def test_a_column_that_was_added_to_the_ledger_is_not_lost_by_archiving(conn):
    conn.execute("ALTER TABLE inventory_movement ADD COLUMN note text DEFAULT 'a note'")
    error = refused(conn, "SELECT archive_movements(clock_timestamp())")
    assert (error.sqlstate, error.reason) == ("55000", "column_not_archived")
    assert conn.execute("SELECT count(*) FROM inventory_movement WHERE note = 'a note'").fetchone()[0] == 14


def test_a_ledger_that_was_emptied_is_no_new_one(conn):
    audit(conn)
    kept = digest(conn)
    gone = sorted(sum(movements(conn).values(), []))
    past_the_triggers(conn, "DELETE FROM inventory_movement")
    assert sorted(found[1] for found in verify(conn, kept)) == gone
    assert [found[0] for found in audit(conn, full=True)] == ["missing_movement"] * 14
    error = refused(conn, "SELECT audit_inventory()")
    assert (error.sqlstate, error.reason) == ("55000", "audit_of_another_ledger")
