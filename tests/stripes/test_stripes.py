"""Striped items: what each function answers and records, what readers see, who may do what, and how an item is put
together again."""

import random
from decimal import Decimal

import psycopg
import pytest

from books import audit, call, order, refused_call, refused_order, stripes_of
from shop import (
    ONE, TWO, UNKNOWN, Aside, allow_sales, attach, create_role, item, left, refused, refused_attach, refused_sale, sell,
    shop, stock_table, until, until_waiting,
)  # fmt: skip

THREE = item(3)


@pytest.fixture
def conn(db):
    return db.connect()


def stripe(conn, item=ONE, stripes=4):
    return call_by(conn, "SELECT stripe_inventory(%s, %s)", item, stripes)


def unstripe(conn, item=ONE):
    return call_by(conn, "SELECT unstripe_inventory(%s)", item)


def call_by(conn, sql, *arguments):
    return conn.execute(sql, arguments).fetchone()[0]


def available(conn, item=ONE):
    return call_by(conn, "SELECT available_inventory(%s)", item)


def kinds(conn, item=ONE, after=0):
    rows = conn.execute(
        "SELECT stripe, kind, old_quantity, new_quantity FROM inventory_movement"
        " WHERE inventory_id = %s AND movement_id > %s ORDER BY movement_id",
        (item, after),
    )
    return rows.fetchall()


def last(conn):
    return conn.execute("SELECT max(movement_id) FROM inventory_movement").fetchone()[0]


def shown(conn, quantity, item=ONE):
    """The row of the stock table comes to show this."""
    until(lambda: left(conn, item) == Decimal(quantity), f"the row shows {quantity}")


@pytest.mark.parametrize(
    ("type", "total", "stripes", "shares"),
    [
        ("integer", "10", 4, ["3", "3", "2", "2"]),
        ("smallint", "3", 5, ["1", "1", "1", "0", "0"]),
        ("bigint", "9000000000000000000", 2, ["4500000000000000000", "4500000000000000000"]),
        ("numeric(12,2)", "10.75", 3, ["4.75", "3.00", "3.00"]),
        ("numeric", "0.5", 2, ["0.5", "0.0"]),
        (
            "numeric",
            "9999999999999999999999999999",
            2,
            ["5000000000000000000000000000", "4999999999999999999999999999"],
        ),
    ],
)
def test_shares_are_full_units_and_the_rest_is_in_the_first(conn, type, total, stripes, shares):
    shop(conn, {ONE: total}, type=type)
    answer = conn.execute("SELECT stripe_inventory(%s, %s)::text", (ONE, stripes)).fetchone()[0]
    assert f'"quantity": {total}, "stripes": {stripes}' in answer
    held = stripes_of(conn, ONE)
    assert [str(held[n + 1]) for n in range(stripes)] == shares
    assert available(conn) == Decimal(total) == left(conn, ONE)
    unstripe(conn)
    assert stripes_of(conn, ONE) == {} and left(conn, ONE) == Decimal(total)
    audit(conn)


def test_every_function_answers_the_stripe_after_its_keys(conn):
    shop(conn, {ONE: "40", TWO: "40", THREE: "40"}, type="integer")
    stripe(conn, ONE), stripe(conn, TWO)
    sold = sell(conn, ONE, 2)
    assert list(sold) == ["success", "inventory_id", "old_quantity", "new_quantity", "deducted", "stripe"]
    assert (sold["old_quantity"], sold["new_quantity"]) == (10, 8)
    ordered = order(conn, (ONE, 3), (THREE, 1), (TWO, 1))["lines"]
    assert [list(line)[-1] for line in ordered] == ["stripe", "deducted", "stripe"]
    assert (ordered[0]["old_quantity"], ordered[0]["new_quantity"]) == (8, 5)
    restocked = call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=5)
    assert list(restocked)[-2:] == ["added", "stripe"] and restocked["new_quantity"] == 10
    moved = call(conn, "transfer_inventory", p_from=ONE, p_to=TWO, p_quantity=1)
    assert list(moved["from"])[-1] == list(moved["to"])[-1] == "stripe"
    counted = call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=20, p_expected_quantity=39)
    assert (counted["old_quantity"], counted["new_quantity"], counted["adjusted"]) == (39, 20, -19)
    assert list(counted)[-1] == "stripe" and sorted(stripes_of(conn, ONE).values()) == [5, 5, 5, 5]
    shown(conn, 20)
    shown(conn, 40, TWO)
    audit(conn)


def test_three_in_three_stripes_satisfy_a_sale_of_three(conn):
    shop(conn, {ONE: "3"}, type="integer")
    stripe(conn, ONE, 3)
    begin = last(conn)
    assert sell(conn, ONE, 3)["deducted"] == 3
    assert [kind for _, kind, _, _ in kinds(conn, after=begin)] == ["transfer"] * 3 + ["sale"]
    refusal = refused_sale(conn, ONE, 1)
    assert (refusal.sqlstate, refusal.message) == ("IV001", "Insufficient inventory. Available: 0, Requested: 1")
    shown(conn, 0)
    audit(conn)


def test_what_came_in_at_one_stripe_spreads_to_those_that_sell(db, conn):
    shop(conn, {ONE: "0"}, type="integer")
    stripe(conn, ONE, 64)
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=10_000)
    tills = [db.connect() for _ in range(16)]
    for till in tills * 2:
        sell(till, ONE, 1)
    assert sum(quantity > 0 for quantity in stripes_of(conn, ONE).values()) > 8
    assert available(conn) == 10_000 - 32
    audit_when_shown(conn, 10_000 - 32)


def test_a_refusal_takes_no_lock_and_no_xid(conn):
    shop(conn, {ONE: "3"}, type="integer")
    stripe(conn)
    shown(conn, 3)
    refused_sale(conn, ONE, 4)
    with conn.transaction():
        for _ in range(20):
            conn.execute(
                "DO $$ BEGIN PERFORM decrement_inventory('00000000-0000-0000-0000-000000000001', 4);"
                " EXCEPTION WHEN SQLSTATE 'IV001' THEN NULL; END $$"
            )
        assert conn.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()[0] is None
        held = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
        assert conn.execute(held).fetchone()[0] == 0


def test_partial_and_skip_of_an_order(conn):
    shop(conn, {ONE: "7", TWO: "1"}, type="integer")
    stripe(conn)
    skipped = order(conn, (ONE, 8), (TWO, 1), p_on_shortage="skip")
    assert [line["inventory_id"] for line in skipped["lines"]] == [str(TWO)]
    assert skipped["short"][0]["available"] == 7
    taken = order(conn, (ONE, 8), p_on_shortage="partial")
    assert taken["lines"][0]["deducted"] == 7 and taken["short"][0]["deducted"] == 7
    refusal = refused_order(conn, (ONE, 1), (UNKNOWN, 1))
    assert [line["reason"] for line in refusal.facts["lines"]] == ["insufficient", "unknown_item"]
    shown(conn, 0)
    audit(conn)


def test_a_restock_that_the_column_cannot_hold_is_refused(conn):
    shop(conn, {ONE: "32000"}, type="smallint")
    stripe(conn)
    refusal = refused_call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=768)
    assert (refusal.sqlstate, refusal.reason) == ("22003", "overflow")
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=767)
    shown(conn, 32767)


@pytest.mark.parametrize("ledger", [True, False])
@pytest.mark.parametrize(
    "write",
    [
        "UPDATE inventory SET quantity = 5",
        "UPDATE inventory SET quantity = quantity - 1",
        "UPDATE inventory SET id = gen_random_uuid()",
        "DELETE FROM inventory",
        "TRUNCATE inventory",
        "UPDATE inventory_stripe SET quantity = 5",
        "DELETE FROM inventory_stripe",
        "TRUNCATE inventory_stripe",
        "INSERT INTO inventory_stripe VALUES (gen_random_uuid(), 1, 5)",
    ],
)
def test_native_writes_are_refused_with_a_hint_and_lose_nothing(conn, ledger, write):
    shop(conn, {ONE: "12"}, type="integer", columns=", name text", p_ledger=ledger)
    stripe(conn)
    refusal = refused(conn, write)
    assert refusal.sqlstate == "55000" and refusal.hint
    assert available(conn) == 12 == left(conn, ONE)
    conn.execute("UPDATE inventory SET name = 'hat', quantity = quantity")
    unstripe(conn)
    conn.execute("UPDATE inventory SET quantity = 5")
    assert available(conn) == 5


@pytest.mark.parametrize("stripes", [None, -1, 0, 1, 257, 2**31 - 1])
def test_how_many_stripes(conn, stripes):
    shop(conn, {ONE: "12"}, type="integer")
    refusal = refused(conn, "SELECT stripe_inventory(%s, %s::int)", (ONE, stripes))
    assert refusal.sqlstate == ("22004" if stripes is None else "22023")


@pytest.mark.parametrize("function", ["stripe_inventory", "unstripe_inventory", "available_inventory"])
def test_unknown_items_nulls_and_no_table(conn, function):
    assert refused(conn, f"SELECT {function}(%s)", (ONE,)).reason == "not_attached"
    shop(conn, {ONE: "12"})
    assert refused(conn, f"SELECT {function}(NULL)").sqlstate == "22004"
    assert refused(conn, f"SELECT {function}(%s)", (UNKNOWN,)).sqlstate == "IV002"


def test_striping_again_cuts_anew_and_unstriping_twice_changes_nothing(conn):
    shop(conn, {ONE: "12"}, type="integer")
    stripe(conn, ONE, 2)
    sell(conn, ONE, 6)
    assert stripe(conn, ONE, 3) == {"success": True, "inventory_id": str(ONE), "quantity": 6, "stripes": 3}
    assert stripes_of(conn, ONE) == {1: 2, 2: 2, 3: 2}
    assert left(conn, ONE) == 6
    for _ in range(2):
        assert unstripe(conn) == {"success": True, "inventory_id": str(ONE), "quantity": 6}
    audit(conn)


def test_striping_is_undone_with_its_transaction(conn):
    shop(conn, {ONE: "12"}, type="integer")
    with pytest.raises(ZeroDivisionError), conn.transaction():
        stripe(conn)
        assert "stripe" in sell(conn, ONE, 1)
        raise ZeroDivisionError
    assert list(sell(conn, ONE, 1))[-1] == "deducted"
    stripe(conn)
    with pytest.raises(ZeroDivisionError), conn.transaction():
        unstripe(conn)
        assert list(sell(conn, ONE, 1))[-1] == "deducted"
        raise ZeroDivisionError
    assert "stripe" in sell(conn, ONE, 1)
    assert available(conn) == 10
    audit_when_shown(conn, 10)


def test_a_sale_undone_to_a_savepoint_gives_its_stripe_back(db, conn):
    shop(conn, {ONE: "2"}, type="integer")
    stripe(conn, ONE, 2)
    till = db.connect(autocommit=False)
    till.execute("SAVEPOINT s")
    sell(till, ONE, 2)
    till.execute("ROLLBACK TO s")
    assert sell(conn, ONE, 2)["deducted"] == 2
    till.commit()
    audit_when_shown(conn, 0)


def audit_when_shown(conn, quantity):
    shown(conn, quantity)
    audit(conn)


def test_a_prepared_sale_holds_its_stripe(db, conn):
    shop(conn, {ONE: "2"}, type="integer")
    stripe(conn, ONE, 2)
    till = db.connect()
    name = f"{till.info.dbname}_striped"
    till.execute("BEGIN")
    sell(till, ONE, 1)
    till.execute(f"PREPARE TRANSACTION '{name}'")
    rival = db.connect()
    both = Aside(sell, rival, ONE, 2)
    until_waiting(conn, rival)
    conn.execute(f"COMMIT PREPARED '{name}'")
    assert both.refusal().message == "Insufficient inventory. Available: 1, Requested: 2"
    audit_when_shown(conn, 1)


def test_detach_puts_all_items_together_and_attach_goes_on(conn):
    shop(conn, {ONE: "12", TWO: "5"}, type="integer")
    stripe(conn, ONE), stripe(conn, TWO)
    sell(conn, ONE, 5), sell(conn, TWO, 1)
    conn.execute("SELECT detach_inventory()")
    assert (left(conn, ONE), left(conn, TWO)) == (7, 4)
    assert stripes_of(conn, ONE) == {}
    attach(conn)
    assert list(sell(conn, ONE, 1))[-1] == "deducted"
    audit(conn)


def test_stripes_left_by_drop_extension_contradict_a_row_that_was_written_since(conn):
    """The row was sold from without the extension; attach finds the stock neither twice nor too little, and the HINT
    leads on."""
    shop(conn, {ONE: "12"}, type="integer")
    stripe(conn)
    sell(conn, ONE, 2)
    shown(conn, 10)
    conn.execute("DROP EXTENSION inventory_ext")
    conn.execute("UPDATE inventory SET quantity = 8")
    conn.execute("CREATE EXTENSION inventory_ext")
    answer = refused_attach(conn)
    assert (answer.sqlstate, answer.reason) == ("55000", "stripes_differ")
    assert [answer.facts[figure] for figure in ("row", "last_total", "stripes")] == [8, 10, 10]
    conn.execute("UPDATE inventory SET quantity = 10")
    attach(conn)
    call_by(conn, "SELECT adjust_inventory(%s, %s)", ONE, 8)
    assert available(conn) == 8 and stripes_of(conn, ONE) == {}
    audit(conn)


def test_the_extension_can_be_dropped_while_items_are_striped(conn):
    shop(conn, {ONE: "12"}, type="integer", p_ledger=False)
    stripe(conn)
    sell(conn, ONE, 2)
    shown(conn, 10)
    conn.execute("DROP EXTENSION inventory_ext")
    conn.execute("UPDATE inventory SET quantity = 1; TRUNCATE inventory_stripe")


def test_without_a_ledger(conn):
    shop(conn, {ONE: "12"}, type="integer", p_ledger=False)
    stripe(conn)
    assert sell(conn, ONE, 7)["deducted"] == 7
    shown(conn, 5)
    conn.execute("SELECT detach_inventory()")
    assert left(conn, ONE) == 5
    conn.execute("UPDATE inventory SET quantity = 4")


def test_in_a_partitioned_table(conn):
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY HASH (id)")
    for n in range(3):
        conn.execute(f"CREATE TABLE part{n} PARTITION OF inventory FOR VALUES WITH (MODULUS 3, REMAINDER {n})")
    conn.execute("INSERT INTO inventory VALUES (%s, 12)", (ONE,))
    attach(conn)
    stripe(conn)
    sell(conn, ONE, 7)
    shown(conn, 5)
    assert refused(conn, "UPDATE inventory SET quantity = 3").reason == "striped_item"
    for n in range(3):
        conn.execute(f"UPDATE part{n} SET quantity = quantity")
    unstripe(conn)
    audit(conn)


def test_with_the_callers_rights_policies_decide(db, conn):
    stock_table(conn, {ONE: "12", TWO: "12"}, type="integer", columns=", tenant text DEFAULT 'anna'")
    conn.execute("ALTER TABLE inventory ENABLE ROW LEVEL SECURITY")
    anna, bert = create_role(conn, db, "anna"), create_role(conn, db, "bert")
    conn.execute(f"UPDATE inventory SET tenant = '{anna}' WHERE id = '{ONE}'")
    conn.execute("CREATE POLICY mine ON inventory USING (tenant = current_user)")
    attach(conn, p_run_as="caller")
    for role in (anna, bert):
        allow_sales(conn, role)
        conn.execute(f'GRANT SELECT, UPDATE ON inventory TO "{role}"')
        conn.execute(
            f'GRANT EXECUTE ON FUNCTION available_inventory, restock_inventory, decrement_inventory_batch TO "{role}"'
        )
    stripe(conn)
    ours, theirs = db.connect(user=anna), db.connect(user=bert)
    assert sell(ours, ONE, 7)["deducted"] == 7
    assert available(ours) == 5
    for attempt in ("decrement_inventory", "restock_inventory"):
        assert refused_call(theirs, attempt, p_inventory_id=ONE, p_quantity=1).sqlstate == "IV002"
    assert refused(theirs, "SELECT available_inventory(%s)", (ONE,)).sqlstate == "IV002"
    assert refused_order(theirs, (ONE, 1)).sqlstate == "IV002"
    assert refused(ours, "SELECT * FROM inventory_stripe").sqlstate == "42501"
    shown(conn, 5)


def test_sales_need_no_right_on_the_tables(db, conn):
    shop(conn, {ONE: "12"}, type="integer")
    stripe(conn)
    clerk = create_role(conn, db, "clerk")
    allow_sales(conn, clerk)
    till = db.connect(user=clerk)
    assert sell(till, ONE, 12)["deducted"] == 12
    assert refused(till, "SELECT stripe_inventory(%s)", (ONE,)).sqlstate == "42501"


def test_renamed_tables_and_schemas_are_followed(conn):
    shop(conn, {ONE: "12"}, type="integer")
    stripe(conn)
    conn.execute(
        'CREATE SCHEMA "Lager"; ALTER TABLE inventory SET SCHEMA "Lager";'
        'ALTER TABLE inventory_stripe RENAME TO "Streifen"'
    )
    assert sell(conn, ONE, 5)["deducted"] == 5
    conn.execute('ALTER TABLE "Lager".inventory RENAME quantity TO "Menge"')
    assert sell(conn, ONE, 6)["deducted"] == 6
    until(lambda: left(conn, ONE, '"Lager".inventory', "id", '"Menge"') == 1, "the row shows 1")


def test_random_calls_keep_stripes_and_total_together(conn):
    """One session, all functions in any order; after each the stripes add up to what a plain model says."""
    seed = 20261125
    print(f"seed {seed}")
    rng = random.Random(seed)
    shop(conn, {ONE: "50.00", TWO: "50.00"})
    model = {ONE: Decimal(50), TWO: Decimal(50)}
    for _ in range(400):
        act, key, size = rng.randrange(8), rng.choice((ONE, TWO)), Decimal(rng.randrange(1, 2500)) / 100
        other = TWO if key == ONE else ONE
        if act <= 2:
            check(model[key] >= size, conn, "decrement_inventory", p_inventory_id=key, p_quantity=size)
            model[key] -= size if model[key] >= size else 0
        elif act == 3:
            call(conn, "restock_inventory", p_inventory_id=key, p_quantity=size)
            model[key] += size
        elif act == 4:
            call(conn, "adjust_inventory", p_inventory_id=key, p_counted_quantity=size, p_expected_quantity=model[key])
            model[key] = size
        elif act == 5:
            check(model[key] >= size, conn, "transfer_inventory", p_from=key, p_to=other, p_quantity=size)
            moved = size if model[key] >= size else 0
            model[key], model[other] = model[key] - moved, model[other] + moved
        elif act == 6:
            stripe(conn, key, rng.randrange(2, 20))
        else:
            unstripe(conn, key)
        assert {key: available(conn, key) for key in model} == model
    for key, quantity in model.items():
        shown(conn, quantity, key)
    audit(conn)


def check(possible, conn, function, **arguments):
    if possible:
        call(conn, function, **arguments)
    else:
        assert refused_call(conn, function, **arguments).sqlstate == "IV001"


def test_a_sale_from_a_small_stripe_cannot_leave_a_total_of_more_digits_than_are_kept(conn):
    """The stripe could hold what was left of it, the total could not be read any more, and the item not sold."""
    shop(conn, {ONE: "2"}, type="numeric")
    stripe(conn, ONE, 2)
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity="9" * 19)
    tiny = "0." + "0" * 19 + "1"
    for refusal in (refused_sale(conn, ONE, tiny), refused_order(conn, (ONE, tiny))):
        assert (refusal.sqlstate, refusal.reason) == ("22003", "overflow")
    assert sell(conn, ONE, "0.00000001")["deducted"] == Decimal("0.00000001")
    assert available(conn) == Decimal("10000000000000000000.99999999")


def old_snapshot(db):
    session = db.connect(autocommit=False)
    session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    session.execute("SELECT 1")
    return session


@pytest.mark.parametrize("function", ["decrement_inventory", "restock_inventory"])
def test_more_stripes_than_the_snapshot_knows_are_a_serialization_failure_and_no_bug(db, conn, function):
    """A restock whose own stripe is newer than its transaction answered XX000, 'a stripe is missing'."""
    shop(conn, {ONE: "6"}, type="integer")
    stripe(conn, ONE, 2)
    sessions = [old_snapshot(db) for _ in range(6)]
    stripe(conn, ONE, 256)
    for session in sessions:
        assert refused_call(session, function, p_inventory_id=ONE, p_quantity=1).sqlstate == "40001"


def test_what_is_available_to_a_snapshot_older_than_the_stripes(db, conn):
    """The sum of no stripes was an XX000."""
    shop(conn, {ONE: "6"}, type="integer")
    session = old_snapshot(db)
    stripe(conn)
    sell(conn, ONE, 1)
    assert (available(session), available(conn)) == (6, 5)


def test_striping_a_second_item_without_a_ledger_does_not_lock_readers_out(db, conn):
    """The guard was dropped and made again, under ACCESS EXCLUSIVE."""
    shop(conn, {ONE: "6", TWO: "6"}, type="integer", p_ledger=False)
    stripe(conn)
    reader = db.connect(autocommit=False)
    reader.execute("SELECT * FROM inventory")
    conn.execute("SET lock_timeout = '20s'")
    stripe(conn, TWO)
    assert refused(conn, "UPDATE inventory SET quantity = 1").reason == "striped_item"


def test_partitions_of_a_table_without_a_ledger_are_not_truncated(conn):
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY HASH (id)")
    conn.execute("CREATE TABLE part PARTITION OF inventory FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    conn.execute("INSERT INTO inventory VALUES (%s, 12)", (ONE,))
    attach(conn, p_ledger=False)
    stripe(conn)
    assert refused(conn, "TRUNCATE part").reason == "truncate_refused"
    conn.execute("SELECT detach_inventory(); TRUNCATE part")


def test_a_row_that_was_taken_away_with_the_triggers_off_does_not_keep_the_table_attached(conn):
    shop(conn, {ONE: "12", TWO: "5"}, type="integer")
    stripe(conn, ONE), stripe(conn, TWO)
    sell(conn, TWO, 1)
    conn.execute(
        f"SET session_replication_role = replica; DELETE FROM inventory WHERE id = '{ONE}';"
        "RESET session_replication_role"
    )
    conn.execute("SELECT detach_inventory()")
    assert left(conn, TWO) == 4
    attach(conn)
    assert stripes_of(conn, ONE) == {}
    audit(conn)


def test_detach_reads_the_whole_table_also_where_the_owner_forces_row_security_on_himself(db, conn):
    stock_table(conn, {ONE: "12"}, type="integer")
    owner = create_role(conn, db, "owner")
    conn.execute(f'GRANT CREATE ON SCHEMA public TO "{owner}"; ALTER TABLE inventory OWNER TO "{owner}"')
    attach(conn)
    stripe(conn)
    sell(conn, ONE, 5)
    conn.execute("ALTER TABLE inventory ENABLE ROW LEVEL SECURITY; ALTER TABLE inventory FORCE ROW LEVEL SECURITY")
    shown(conn, 7)
    conn.execute("SELECT detach_inventory()")
    assert left(conn, ONE) == 7 and stripes_of(conn, ONE) == {}
