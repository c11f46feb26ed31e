"""reconcile_inventory shows what puts an item right, then does it: history stays, the audit falls silent."""

from decimal import Decimal

import pytest

from auditing import audit, history, kinds, movements, past_the_triggers, run
from books import audit as assert_books_agree
from books import steps
from shop import (
    ONE, TWO, UNKNOWN, Aside, create_role, exact_json, item, left, refused, sell, shop, until_waiting,
)  # fmt: skip
from striped import available, stripe

THREE, FOUR, FIVE = item(3), item(4), item(5)


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {key: "20.00" for key in (ONE, TWO, THREE, FOUR)})
    history(conn)
    audit(conn)
    return conn


def reconcile(conn, key, **arguments):
    named = "".join(f", {name} => %({name})s" for name in arguments)
    sql = f"SELECT reconcile_inventory(%(p_item)s{named})::text"
    return exact_json(conn.execute(sql, {"p_item": str(key), **arguments}).fetchone()[0])


def refused_reconcile(conn, key, **arguments):
    named = "".join(f", {name} => %({name})s" for name in arguments)
    return refused(conn, f"SELECT reconcile_inventory(%(p_item)s{named})", {"p_item": key and str(key), **arguments})


def ledger(conn):
    """Every movement, as a text."""
    return [row for (row,) in conn.execute("SELECT m::text FROM inventory_movement AS m ORDER BY movement_id")]


def rows_and_stripes(conn):
    """Rows and stripes, without the rows of striped items: the totals worker writes these."""
    rows = "SELECT * FROM inventory AS i WHERE NOT EXISTS (SELECT FROM inventory_stripe WHERE inventory_id = i.id)"
    stripes = "SELECT inventory_id, stripe, quantity FROM inventory_stripe ORDER BY 1, 2"
    return conn.execute(f"{rows} ORDER BY id").fetchall(), conn.execute(stripes).fetchall()


def drift(conn, key, quantity):
    past_the_triggers(conn, f"UPDATE inventory SET quantity = {quantity} WHERE id = '{key}'")


def break_chain(conn, key, quantity=11):
    """A write that nothing recorded, and a sale after it."""
    drift(conn, key, quantity)
    sell(conn, key, 1)


def put_right(conn, key, **arguments):
    """Shows it, which changes nothing; then does the same steps, and the old movements stay as they were."""
    before, stock = ledger(conn), rows_and_stripes(conn)
    shown = reconcile(conn, key, **arguments)
    assert (shown["success"], shown["applied"], shown["run"]) == (True, False, None)
    assert (ledger(conn), rows_and_stripes(conn)) == (before, stock)
    done = reconcile(conn, key, p_apply=True, **arguments)
    assert (done["steps"], done["applied"]) == (shown["steps"], True)
    assert ledger(conn)[: len(before)] == before, "history was edited"
    kept = conn.execute("SELECT kind, inventory_id FROM inventory_audit WHERE run_id = %s", (done["run"],)).fetchone()
    assert kept == ("reconciliation", str(key))
    return done


def assert_right(conn):
    """No discrepancy is left, also when everything is read again; nothing more is to be done."""
    for full in (False, True, False):
        assert audit(conn, full=full) == []
    for (key,) in conn.execute("SELECT id FROM inventory").fetchall():
        assert reconcile(conn, key)["steps"] == []


def test_a_drift_is_recorded_as_a_correction(conn):
    drift(conn, TWO, 11)
    assert kinds(conn) == ["on_hand_drift"]
    done = put_right(conn, TWO)
    assert done["trust"] == "stock"
    assert done["inventory_id"] == str(TWO)
    assert done["steps"] == [
        {"step": "record", "stripe": None, "kind": "correction", "old_quantity": 15, "new_quantity": 11}
    ]
    assert steps(conn, TWO)[-1] == ("correction", Decimal("15.00"), Decimal("11.00"))
    assert left(conn, TWO) == 11
    assert_right(conn)
    sell(conn, TWO, 1)
    assert_right(conn)
    assert_books_agree(conn)


def test_the_reason_is_the_reference_of_the_correction(conn):
    drift(conn, TWO, 11)
    audit(conn)
    reconcile(conn, TWO, p_apply=True, p_reason="water in the cellar")
    last = "SELECT kind, reference, idempotency_key, actor FROM inventory_movement ORDER BY movement_id DESC LIMIT 1"
    assert conn.execute(last).fetchone() == ("correction", "water in the cellar", None, "postgres")


def test_a_reason_has_at_most_255_bytes(conn):
    drift(conn, TWO, 11)
    audit(conn)
    assert refused_reconcile(conn, TWO, p_apply=True, p_reason="x" * 256).sqlstate == "22023"
    reconcile(conn, TWO, p_apply=True, p_reason="x" * 255)
    assert_right(conn)


def test_a_break_is_acknowledged_and_the_chain_is_sealed_again(conn):
    break_chain(conn, TWO)
    chain = movements(conn)[str(TWO)]
    assert kinds(conn) == ["broken_chain"]
    done = put_right(conn, TWO)
    facts = {"step": "acknowledge", "stripe": None, "after_movement": chain[-2], "before_movement": chain[-1]}
    assert done["steps"] == [{**facts, "expected": 15, "actual": 11}]
    assert movements(conn)[str(TWO)] == chain, "a break is in the past: nothing is recorded"
    assert audit(conn) == []
    assert run(conn)[4] == 1, "the movement after the break is sealed"
    sell(conn, TWO, 1)
    assert audit(conn) == []
    assert run(conn)[4] == 1
    assert_right(conn)


def test_a_break_that_is_acknowledged_does_not_hide_the_next_one(conn):
    break_chain(conn, TWO)
    audit(conn)
    reconcile(conn, TWO, p_apply=True)
    break_chain(conn, TWO, 5)
    [found] = audit(conn)
    assert (found[0], found[-1]) == ("broken_chain", movements(conn)[str(TWO)][-1])
    reconcile(conn, TWO, p_apply=True)
    assert_right(conn)


def test_a_break_and_a_drift_of_one_item_are_put_right_together(conn):
    break_chain(conn, TWO)
    drift(conn, TWO, 4)
    assert sorted(kinds(conn)) == ["broken_chain", "on_hand_drift"]
    done = put_right(conn, TWO)
    assert sorted(step["step"] for step in done["steps"]) == ["acknowledge", "record"]
    assert left(conn, TWO) == 4
    assert_right(conn)


def test_a_break_and_a_drift_where_the_ledger_is_right(conn):
    break_chain(conn, TWO)
    drift(conn, TWO, 4)
    audit(conn)
    done = put_right(conn, TWO, p_trust="ledger")
    assert sorted(step["step"] for step in done["steps"]) == ["acknowledge", "write"]
    assert left(conn, TWO) == 10
    assert_right(conn)


def test_an_item_whose_row_is_gone_is_closed(conn):
    past_the_triggers(conn, f"DELETE FROM inventory WHERE id = '{FOUR}'")
    assert kinds(conn) == ["missing_item"]
    [step] = put_right(conn, FOUR)["steps"]
    assert (step["step"], step["kind"], step["old_quantity"], step["new_quantity"]) == ("record", "closing", 15, 0)
    assert_right(conn)
    conn.execute(f"INSERT INTO inventory VALUES ('{FOUR}', 3)")
    assert_right(conn)
    assert_books_agree(conn)


def test_a_row_that_nothing_recorded_is_opened(conn):
    past_the_triggers(conn, f"INSERT INTO inventory VALUES ('{FIVE}', 7)")
    assert kinds(conn) == ["unknown_item"]
    [step] = put_right(conn, FIVE)["steps"]
    assert (step["step"], step["kind"], step["old_quantity"], step["new_quantity"]) == ("record", "opening", 0, 7)
    sell(conn, FIVE, 2)
    assert_right(conn)
    assert_books_agree(conn)


def test_a_row_that_came_back_after_its_closing_is_opened_again(conn):
    conn.execute(f"DELETE FROM inventory WHERE id = '{FOUR}'")
    past_the_triggers(conn, f"INSERT INTO inventory VALUES ('{FOUR}', 7)")
    assert kinds(conn) == ["unknown_item"]
    put_right(conn, FOUR)
    assert steps(conn, FOUR)[-1] == ("opening", 0, 7)
    assert_right(conn)


def test_a_stripe_that_was_altered_is_corrected(conn):
    stripe(conn, ONE, 2)
    past_the_triggers(conn, f"UPDATE inventory_stripe SET quantity = 1 WHERE inventory_id = '{ONE}' AND stripe = 2")
    assert kinds(conn) == ["stripe_drift"]
    [step] = put_right(conn, ONE)["steps"]
    assert step.pop("old_quantity") == 7
    assert step == {"step": "record", "stripe": 2, "kind": "correction", "new_quantity": 1}
    assert_right(conn)
    sums = "SELECT sum(delta) FROM inventory_movement WHERE inventory_id = %s"
    assert conn.execute(sums, (ONE,)).fetchone()[0] == available(conn, ONE) == 9
    sell(conn, ONE, 1)
    assert_right(conn)


def test_stripes_that_were_all_removed(conn):
    stripe(conn, ONE, 2)
    past_the_triggers(conn, f"DELETE FROM inventory_stripe WHERE inventory_id = '{ONE}'")
    assert sorted(kinds(conn)) == ["on_hand_drift", "stripe_drift", "stripe_drift"]
    put_right(conn, ONE)
    assert_right(conn)
    assert_books_agree(conn)


def test_a_break_in_the_chain_of_a_stripe_is_acknowledged(conn):
    stripe(conn, ONE, 2)
    past_the_triggers(conn, f"UPDATE inventory_stripe SET quantity = 3 WHERE inventory_id = '{ONE}'")
    for _ in range(4):
        sell(conn, ONE, 1)
    assert set(kinds(conn)) == {"broken_chain"}
    assert {step["step"] for step in put_right(conn, ONE)["steps"]} == {"acknowledge"}
    assert_right(conn)
    sell(conn, ONE, 1)
    assert_right(conn)


def test_a_striped_item_whose_row_is_gone(conn):
    stripe(conn, ONE, 2)
    past_the_triggers(conn, f"DELETE FROM inventory WHERE id = '{ONE}'")
    for full in (False, True):
        assert kinds(conn, full=full) == ["missing_item"]


def test_a_striped_item_whose_row_and_stripes_are_gone(conn):
    stripe(conn, ONE, 2)
    past_the_triggers(
        conn, f"DELETE FROM inventory WHERE id = '{ONE}'", f"DELETE FROM inventory_stripe WHERE inventory_id = '{ONE}'"
    )
    assert sorted(kinds(conn)) == ["missing_item", "stripe_drift", "stripe_drift"]
    put_right(conn, ONE)
    assert_right(conn)
    conn.execute(f"INSERT INTO inventory VALUES ('{ONE}', 3)")
    assert_right(conn)


def test_a_trigger_that_changes_what_is_written_back_undoes_it(conn):
    drift(conn, TWO, 11)
    audit(conn)
    conn.execute(
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN NEW.quantity := NEW.quantity - 1; RETURN NEW; END'"
    )
    conn.execute("CREATE TRIGGER change BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION change()")
    before = ledger(conn)
    assert refused_reconcile(conn, TWO, p_trust="ledger", p_apply=True).sqlstate == "IV007"
    assert (left(conn, TWO), ledger(conn)) == (11, before)


def test_the_row_is_written_back_to_what_the_ledger_says_without_a_movement(conn):
    drift(conn, TWO, 11)
    audit(conn)
    before = ledger(conn)
    done = put_right(conn, TWO, p_trust="ledger")
    assert done["steps"] == [{"step": "write", "old_quantity": 11, "new_quantity": 15}]
    assert left(conn, TWO) == 15
    assert ledger(conn) == before, "the triggers recorded the write, or a movement was posted"
    assert_right(conn)
    conn.execute(f"UPDATE inventory SET quantity = 9 WHERE id = '{TWO}'")
    assert steps(conn, TWO)[-1] == ("external", 15, 9), "the next change is recorded"


@pytest.mark.parametrize("write_path", ["auto", "sql"])
@pytest.mark.parametrize("trust", ["stock", "ledger"])
@pytest.mark.parametrize("type", ["smallint", "integer", "bigint", "numeric", "numeric(12,3)"])
def test_every_type_of_quantity_on_both_write_paths(db, type, trust, write_path):
    conn = db.connect()
    shop(conn, {ONE: 20, TWO: 20}, type=type)
    history(conn, items=2)
    audit(conn)
    drift(conn, ONE, 11)
    break_chain(conn, TWO)
    assert sorted(kinds(conn)) == ["broken_chain", "on_hand_drift"]
    conn.execute(f"SET inventory_ext.write_path = {write_path}")
    put_right(conn, ONE, p_trust=trust)
    put_right(conn, TWO, p_trust=trust)
    assert left(conn, ONE) == (11 if trust == "stock" else 15)
    assert_right(conn)
    sell(conn, ONE, 1)
    assert_right(conn)


@pytest.mark.parametrize(("type", "key"), [("bigint", 9007199254740993), ("text", 'O\'Brien "x"')])
def test_ids_of_other_types(db, type, key):
    conn = db.connect()
    conn.execute(f"CREATE TABLE inventory (id {type} PRIMARY KEY, quantity integer)")
    conn.execute("INSERT INTO inventory VALUES (%s, 20)", (key,))
    conn.execute("SELECT attach_inventory('inventory')")
    conn.execute("SELECT decrement_item(%s, 1)", (str(key),))
    past_the_triggers(conn, "UPDATE inventory SET quantity = 5")
    conn.execute("SELECT decrement_item(%s, 1)", (str(key),))
    past_the_triggers(conn, "UPDATE inventory SET quantity = 2")
    assert sorted(kinds(conn)) == ["broken_chain", "on_hand_drift"]
    assert put_right(conn, key)["inventory_id"] == key
    assert_right(conn)


def test_an_item_that_has_moved_since_its_audit_is_refused(conn):
    drift(conn, TWO, 11)
    audit(conn)
    drift(conn, TWO, 12)
    error = refused_reconcile(conn, TWO, p_apply=True)
    assert (error.sqlstate, error.reason) == ("55000", "item_moved")
    audit(conn, TWO)
    sell(conn, TWO, 1)
    for trust in ("stock", "ledger"):
        error = refused_reconcile(conn, TWO, p_apply=True, p_trust=trust)
        assert (error.sqlstate, error.reason) == ("55000", "item_moved")
    assert left(conn, TWO) == 11
    audit(conn, TWO)
    reconcile(conn, TWO, p_apply=True)
    assert_right(conn)


def test_sales_of_other_items_do_not_matter(conn):
    drift(conn, TWO, 11)
    audit(conn)
    sell(conn, ONE, 1)
    reconcile(conn, TWO, p_apply=True)
    assert_right(conn)


def test_a_sale_that_is_not_yet_committed_is_waited_for_and_then_the_item_has_moved(db, conn):
    drift(conn, TWO, 11)
    audit(conn)
    with db.connect(autocommit=False) as seller, db.connect() as other:
        sell(seller, TWO, 1)
        waiting = Aside(lambda: reconcile(other, TWO, p_apply=True))
        until_waiting(conn, other)
        seller.commit()
        error = waiting.refusal()
    assert (error.sqlstate, error.reason) == ("55000", "item_moved")


def test_a_sale_waits_for_a_reconciliation_and_follows_it(db, conn):
    drift(conn, TWO, 11)
    audit(conn)
    with db.connect(autocommit=False) as accountant, db.connect() as seller:
        reconcile(accountant, TWO, p_apply=True)
        waiting = Aside(sell, seller, TWO, 1)
        until_waiting(conn, seller)
        accountant.commit()
        assert waiting.result()["old_quantity"] == 11
    assert_right(conn)


def test_an_item_that_was_never_audited_is_refused(db):
    conn = db.connect()
    shop(conn, {ONE: "20.00"})
    drift(conn, ONE, 11)
    assert len(reconcile(conn, ONE)["steps"]) == 1, "it is shown all the same"
    error = refused_reconcile(conn, ONE, p_apply=True)
    assert (error.sqlstate, error.reason) == ("55000", "not_audited")
    assert left(conn, ONE) == 11


def test_an_audit_of_another_item_is_none(db):
    conn = db.connect()
    shop(conn, {ONE: "20.00", TWO: "20.00"})
    drift(conn, ONE, 11)
    audit(conn, TWO)
    error = refused_reconcile(conn, ONE, p_apply=True)
    assert (error.sqlstate, error.reason) == ("55000", "not_audited")


def test_where_nothing_is_wrong_there_is_no_step(conn):
    before, runs = ledger(conn), conn.execute("SELECT count(*) FROM inventory_audit").fetchone()
    for trust in ("stock", "ledger"):
        done = reconcile(conn, TWO, p_apply=True, p_trust=trust)
        assert (done["steps"], done["applied"], done["run"]) == ([], False, None)
    assert ledger(conn) == before
    assert conn.execute("SELECT count(*) FROM inventory_audit").fetchone() == runs


def test_a_reconciliation_that_is_done_is_not_done_again(conn):
    drift(conn, TWO, 11)
    audit(conn)
    reconcile(conn, TWO, p_apply=True)
    assert reconcile(conn, TWO, p_apply=True)["steps"] == []


def test_what_was_rolled_back_is_as_before(db, conn):
    break_chain(conn, TWO)
    drift(conn, TWO, 4)
    found = audit(conn)
    with db.connect(autocommit=False) as other:
        reconcile(other, TWO, p_apply=True)
        other.rollback()
    assert audit(conn) == found


def test_the_ledger_cannot_bring_back_a_row_or_a_stripe(conn):
    stripe(conn, ONE, 2)
    past_the_triggers(
        conn,
        f"DELETE FROM inventory WHERE id = '{FOUR}'",
        f"INSERT INTO inventory VALUES ('{FIVE}', 7)",
        f"UPDATE inventory_stripe SET quantity = 1 WHERE inventory_id = '{ONE}' AND stripe = 2",
    )
    assert len(audit(conn)) == 3
    before = ledger(conn)
    for key in (ONE, FOUR, FIVE):
        for apply in (False, True):
            error = refused_reconcile(conn, key, p_trust="ledger", p_apply=apply)
            assert (error.sqlstate, error.reason) == ("0A000", "not_reconcilable"), key
    assert ledger(conn) == before


def test_malformed_arguments(conn):
    for trust in ("rows", "", "STOCK"):
        assert refused_reconcile(conn, TWO, p_trust=trust).sqlstate == "22023"
    for argument in ("p_trust", "p_apply"):
        assert refused(conn, f"SELECT reconcile_inventory('{TWO}', {argument} => NULL)").sqlstate == "22004"
    assert refused(conn, "SELECT reconcile_inventory(NULL)").sqlstate == "22004"
    assert refused(conn, "SELECT reconcile_inventory('tea')").sqlstate == "22P02"


def test_an_item_that_neither_side_knows_needs_no_step(conn):
    assert reconcile(conn, UNKNOWN)["steps"] == []


def test_a_read_only_session_is_shown_the_steps_and_posts_none(db, conn):
    drift(conn, TWO, 11)
    audit(conn)
    with db.connect() as reader:
        reader.execute("SET default_transaction_read_only = on")
        assert len(reconcile(reader, TWO)["steps"]) == 1
        assert refused_reconcile(reader, TWO, p_apply=True).sqlstate == "25006"


def test_a_member_of_the_owner_is_the_actor_and_a_guest_is_refused(db, conn):
    drift(conn, TWO, 11)
    audit(conn)
    owner, member, guest = (create_role(conn, db, name) for name in ("owner", "member", "guest"))
    conn.execute(f'GRANT "{owner}" TO "{member}"')
    for (table,) in conn.execute("SELECT oid::regclass::text FROM pg_class WHERE relname LIKE 'inventory%' AND "
                                 "relkind = 'r' AND relname NOT IN ('inventory_attachment', 'inventory_sharing')"
                                 ).fetchall():  # fmt: skip
        conn.execute(f'ALTER TABLE {table} OWNER TO "{owner}"')
    conn.execute(f'GRANT EXECUTE ON FUNCTION reconcile_inventory TO "{member}", "{guest}"')
    with db.connect(guest) as session:
        error = refused_reconcile(session, TWO, p_apply=True)
        assert (error.sqlstate, error.reason) == ("42501", "not_owner")
    with db.connect(member) as session:
        assert reconcile(session, TWO, p_apply=True)["applied"] is True
    actors = "SELECT actor FROM inventory_movement ORDER BY movement_id DESC LIMIT 1"
    assert conn.execute(actors).fetchone() == (member,)
    assert conn.execute("SELECT actor FROM inventory_audit ORDER BY run_id DESC LIMIT 1").fetchone() == (member,)
    assert_right(conn)


def test_a_drift_beside_a_movement_that_was_altered_is_put_right_after_a_full_audit(conn):
    chain = movements(conn)[str(TWO)]
    past_the_triggers(conn, f"UPDATE inventory_movement SET actor = 'nobody' WHERE movement_id = {chain[3]}")
    drift(conn, TWO, 11)
    assert sorted(kinds(conn, full=True)) == ["altered_movement", "on_hand_drift"]
    reconcile(conn, TWO, p_apply=True)
    assert audit(conn) == []
    assert kinds(conn, full=True) == ["altered_movement"], "what was altered stays reported"


def test_an_item_of_which_history_was_archived(conn):
    conn.execute("SELECT archive_movements(clock_timestamp())")
    drift(conn, TWO, 11)
    assert kinds(conn) == ["on_hand_drift"]
    done = put_right(conn, TWO)
    assert [step["step"] for step in done["steps"]] == ["record"]
    assert_right(conn)


def test_one_of_very_many_items_that_are_wrong(db):
    conn = db.connect()
    conn.execute("CREATE TABLE inventory (id bigint PRIMARY KEY, quantity integer)")
    conn.execute("INSERT INTO inventory SELECT n, 20 FROM generate_series(1, 1100) AS n")
    conn.execute("SELECT attach_inventory('inventory')")
    audit(conn)
    past_the_triggers(conn, "UPDATE inventory SET quantity = 11")
    assert len(audit(conn)) == 1100
    for key in range(1, 1101):
        assert reconcile(conn, key, p_apply=True)["applied"] is True
    assert audit(conn) == []


def test_more_breaks_of_an_item_than_an_audit_keeps_are_put_right_in_turns(conn):
    """It could never be reconciled: what the audit had kept was not all that was found."""
    past_the_triggers(
        conn,
        "INSERT INTO inventory_movement (inventory_id, kind, old_quantity, new_quantity, actor)"
        f" SELECT '{ONE}', 'sale', 2 * n, 2 * n - 1, 'me' FROM generate_series(1, 10019) AS n",
        f"UPDATE inventory SET quantity = 20037 WHERE id = '{ONE}'",
    )
    for wrong, put_right_now in ((10_019, 10_000), (19, 19)):
        assert len(audit(conn, full=True)) == wrong
        assert len(reconcile(conn, ONE)["steps"]) == put_right_now
        assert len(reconcile(conn, ONE, p_apply=True)["steps"]) == put_right_now
    assert_right(conn)
