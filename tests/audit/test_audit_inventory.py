"""audit_inventory places every fault between the two movements where it arose, and finds none where there is none."""

from decimal import Decimal

import pytest

from auditing import audit, history, kinds, movements, past_the_triggers, run
from shop import ONE, TWO, create_role, item, refused, sell, shop

THREE, FOUR, FIVE = item(3), item(4), item(5)


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {key: "20.00" for key in (ONE, TWO, THREE, FOUR)})
    return conn


def test_an_honest_shop_has_no_discrepancy(conn):
    history(conn)
    assert audit(conn) == []
    assert run(conn) == (False, 24, 4, 0, 24, 1)
    sell(conn, ONE, 3)
    assert audit(conn) == []
    assert run(conn)[4:] == (1, 2), "the second run seals what is new"
    assert audit(conn) == []
    assert run(conn)[4:] == (None, None), "nothing was new"
    assert audit(conn, full=True) == []
    assert run(conn)[:4] == (True, 25, 4, 0)


def test_a_write_with_the_triggers_off_is_found_after_the_last_movement(conn):
    chain = history(conn)[str(TWO)]
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'")
    expected = ("on_hand_drift", str(TWO), None, Decimal("15.00"), Decimal("11.00"), Decimal("-4.00"), chain[-1], None)
    for full in (False, True, False):
        assert audit(conn, full=full) == [expected], "also in later runs"


def test_a_write_with_the_triggers_off_is_found_between_two_movements_when_sales_went_on(conn):
    history(conn)
    audit(conn)
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'")
    sell(conn, TWO, 1)
    chain = movements(conn)[str(TWO)]
    expected = (
        "broken_chain", str(TWO), None, Decimal("15.00"), Decimal("11.00"), Decimal("-4.00"), chain[-2], chain[-1],
    )  # fmt: skip
    for full in (False, False, True):
        assert audit(conn, full=full) == [expected], "until it is reconciled"
    sell(conn, ONE, 1)
    sell(conn, TWO, 1)
    assert audit(conn) == [expected]
    assert run(conn)[4] == 1, "the other items are sealed, the broken chain is not"


def test_a_deleted_movement_is_found_before_it_was_sealed(conn):
    chain = history(conn)[str(THREE)]
    past_the_triggers(conn, f"DELETE FROM inventory_movement WHERE movement_id = {chain[2]}")
    [found] = audit(conn)
    assert found[0] == "broken_chain"
    assert found[-2:] == (chain[1], chain[3])


def test_a_deleted_movement_is_found_after_it_was_sealed(conn):
    chain = history(conn)[str(THREE)]
    audit(conn)
    past_the_triggers(conn, f"DELETE FROM inventory_movement WHERE movement_id = {chain[2]}")
    assert audit(conn) == [], "what is sealed is read again by a full audit"
    [found] = audit(conn, full=True)
    assert (found[0], *found[-2:]) == ("missing_movement", chain[1], chain[3])


def test_the_last_movement_deleted(conn):
    chain = history(conn)[str(THREE)]
    audit(conn)
    past_the_triggers(conn, f"DELETE FROM inventory_movement WHERE movement_id = {chain[-1]}")
    [found] = audit(conn, full=True)
    assert (found[0], *found[-2:]) == ("missing_movement", chain[-2], None)


def test_an_altered_movement(conn):
    chain = history(conn)[str(THREE)]
    audit(conn)
    past_the_triggers(conn, f"UPDATE inventory_movement SET actor = 'nobody' WHERE movement_id = {chain[3]}")
    [found] = audit(conn, full=True)
    assert (found[0], *found[-2:]) == ("altered_movement", chain[2], chain[3])


def test_an_altered_quantity_is_one_discrepancy(conn):
    chain = history(conn)[str(THREE)]
    audit(conn)
    past_the_triggers(
        conn, f"UPDATE inventory_movement SET new_quantity = new_quantity - 5 WHERE movement_id = {chain[3]}"
    )
    [found] = audit(conn, full=True)
    assert (found[0], *found[-2:]) == ("altered_movement", chain[2], chain[3])


def test_an_inserted_movement(conn):
    chain = history(conn)[str(THREE)]
    # A number that a call which was rolled back has left.
    with pytest.raises(ZeroDivisionError), conn.transaction():
        sell(conn, THREE, 1)
        1 / 0  # noqa: B018
    sell(conn, THREE, 1)
    audit(conn)
    forged = movements(conn)[str(THREE)][-1] - 1
    past_the_triggers(
        conn,
        "INSERT INTO inventory_movement (movement_id, inventory_id, kind, old_quantity, new_quantity, actor) "
        f"OVERRIDING SYSTEM VALUE VALUES ({forged}, '{THREE}', 'sale', 15, 15, 'nobody')",
    )
    [found] = audit(conn, full=True)
    assert (found[0], *found[-2:]) == ("inserted_movement", chain[-1], forged)


def test_a_stripe_that_was_altered(conn):
    history(conn)
    conn.execute("SELECT stripe_inventory(%s, 2)", (str(ONE),))
    assert audit(conn) == []
    past_the_triggers(conn, f"UPDATE inventory_stripe SET quantity = 1 WHERE inventory_id = '{ONE}' AND stripe = 2")
    [found] = audit(conn)
    assert found[:6] == ("stripe_drift", str(ONE), 2, Decimal("7.00"), Decimal("1.00"), Decimal("-6.00"))


def test_the_lag_of_a_total_is_none(db, conn):
    conn.execute("SELECT stripe_inventory(%s, 4)", (str(ONE),))
    with db.connect(autocommit=False) as other:
        for _ in range(3):
            sell(other, ONE, 1)
            assert audit(other) == []


def test_a_row_that_is_gone_and_a_row_that_nothing_recorded(conn):
    history(conn)
    past_the_triggers(conn, f"DELETE FROM inventory WHERE id = '{FOUR}'", f"INSERT INTO inventory VALUES ('{FIVE}', 7)")
    missing, unknown = audit(conn)
    assert missing[:6] == ("missing_item", str(FOUR), None, Decimal("15.00"), None, Decimal("-15.00"))
    assert unknown[:6] == ("unknown_item", str(FIVE), None, None, Decimal("7.00"), Decimal("7.00"))


def test_items_that_come_and_go_honestly(conn):
    history(conn)
    conn.execute(f"DELETE FROM inventory WHERE id = '{FOUR}'")
    conn.execute(f"INSERT INTO inventory VALUES ('{FIVE}', 7)")
    conn.execute(f"UPDATE inventory SET id = '{item(6)}' WHERE id = '{THREE}'")
    assert audit(conn) == []
    conn.execute(f"INSERT INTO inventory VALUES ('{FOUR}', 2)")
    conn.execute(f"DELETE FROM inventory WHERE id = '{FIVE}'")
    assert audit(conn) == []
    assert audit(conn, full=True) == []


def test_an_item_that_was_striped_and_merged_several_times(conn):
    for stripes in (3, 5):
        conn.execute("SELECT stripe_inventory(%s, %s)", (str(ONE), stripes))
        for _ in range(4):
            sell(conn, ONE, 1)
        assert audit(conn) == []
    conn.execute("SELECT unstripe_inventory(%s)", (str(ONE),))
    assert audit(conn) == []
    assert audit(conn, full=True) == []


def test_stock_restored_from_an_older_backup(conn):
    conn.execute("CREATE TABLE backup AS SELECT * FROM inventory")
    chains = history(conn)
    past_the_triggers(conn, "DELETE FROM inventory", "INSERT INTO inventory SELECT * FROM backup")
    found = audit(conn)
    assert [one[0] for one in found] == ["on_hand_drift"] * 4
    assert {one[1]: one[6] for one in found} == {key: chain[-1] for key, chain in chains.items()}


def test_one_item_is_audited_alone(conn):
    history(conn)
    past_the_triggers(conn, "UPDATE inventory SET quantity = 1")
    assert [found[1] for found in audit(conn, TWO)] == [str(TWO)]
    assert run(conn)[:4] == (False, 6, 1, 1)
    # The run on one item does not hide the others.
    assert len(audit(conn)) == 4


def test_a_discrepancy_names_who_made_the_movement_before_which_it_arose(conn):
    history(conn)
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'")
    conn.execute("SELECT decrement_item(%s, 1, 'order 7')", (str(TWO),))
    [(detail, since, until)] = conn.execute("SELECT detail, since, until FROM audit_inventory()").fetchall()
    assert (detail["kind"], detail["reference"], detail["actor"]) == ("sale", "order 7", "postgres")
    assert since < until


def test_a_movement_that_commits_late_is_not_left_out(db, conn):
    history(conn)
    with db.connect(autocommit=False) as late:
        sell(late, ONE, 1)
        sell(conn, TWO, 1)
        assert audit(conn) == []
        sell(conn, TWO, 1)
        assert audit(conn) == []
        late.commit()
    assert audit(conn) == []
    last = conn.execute("SELECT sum(sealed) FROM inventory_audit").fetchone()[0]
    assert last == conn.execute("SELECT count(*) FROM inventory_movement").fetchone()[0]


def test_without_a_ledger_there_is_nothing_to_audit(db):
    conn = db.connect()
    shop(conn, {ONE: "1"}, p_ledger=False)
    for call in ("audit_inventory()", "inventory_digest()", "verify_inventory('{}')", "movement_proof(1)"):
        error = refused(conn, f"SELECT {call}")
        assert (error.sqlstate, error.reason) in {("55000", "no_ledger"), ("22023", "malformed_digest")}, call


def test_only_members_of_the_owner_audit(db, conn):
    owner, member, guest = (create_role(conn, db, name) for name in ("owner", "member", "guest"))
    conn.execute(f'GRANT "{owner}" TO "{member}"')
    conn.execute(f'GRANT CREATE ON SCHEMA public TO "{owner}"')
    tables = conn.execute(
        "SELECT relname FROM pg_class WHERE relname LIKE 'inventory%' AND relkind = 'r' AND "
        "relname NOT IN ('inventory_attachment', 'inventory_sharing')"
    ).fetchall()
    for (table,) in tables:
        conn.execute(f'ALTER TABLE {table} OWNER TO "{owner}"')
    calls = (
        "audit_inventory",
        "inventory_digest",
        "verify_inventory",
        "movement_proof",
        "audit_sales",
        "reconcile_inventory",
    )
    for call in calls:
        conn.execute(f'GRANT EXECUTE ON FUNCTION {call} TO "{guest}", "{member}", "{owner}"')
    for call in (
        "audit_inventory()",
        "inventory_digest()",
        f"reconcile_inventory('{ONE}')",
        "movement_proof(1)",
        "audit_sales('inventory', 'id', 'id', 'quantity')",
        'verify_inventory(\'{"seal": 1, "hash": "' + "0" * 64 + "\"}')",
    ):
        error = refused(db.connect(guest), f"SELECT {call}")
        assert (error.sqlstate, error.reason) == ("42501", "not_owner"), call
    with db.connect(member) as session:
        assert kinds(session) == []
        assert kinds(session, full=True) == []
    owners = conn.execute(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class"
        " WHERE relname LIKE 'inventory_audit%' AND relkind = 'r'"
    ).fetchall()
    assert owners == [(owner,)]


def test_a_read_only_session_audits_and_keeps_nothing(db, conn):
    history(conn)
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'")
    with db.connect() as reader:
        reader.execute("SET default_transaction_read_only = on")
        assert kinds(reader) == ["on_hand_drift"]
    assert conn.execute("SELECT to_regclass('inventory_audit')").fetchone() == (None,)


def test_a_younger_partition_that_was_truncated(db):
    conn = db.connect()
    conn.execute("CREATE TABLE inventory (id int PRIMARY KEY, quantity int) PARTITION BY RANGE (id)")
    conn.execute("CREATE TABLE old_items PARTITION OF inventory FOR VALUES FROM (0) TO (10)")
    conn.execute("INSERT INTO inventory VALUES (1, 5)")
    conn.execute("SELECT attach_inventory('inventory')")
    conn.execute("CREATE TABLE new_items PARTITION OF inventory FOR VALUES FROM (10) TO (20)")
    conn.execute("INSERT INTO inventory VALUES (11, 7), (12, 8)")
    conn.execute("SELECT decrement_item(11, 2)")
    assert audit(conn) == []
    last = conn.execute("SELECT inventory_id, max(movement_id) FROM inventory_movement GROUP BY 1").fetchall()
    conn.execute("TRUNCATE new_items")
    found = audit(conn)
    assert [one[:5] for one in found] == [
        ("missing_item", "11", None, Decimal(5), None), ("missing_item", "12", None, Decimal(8), None),
    ]  # fmt: skip
    assert [one[6] for one in found] == [dict(last)[11], dict(last)[12]]
