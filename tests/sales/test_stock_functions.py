"""Goods in, counts and transfers: restock_inventory, adjust_inventory and transfer_inventory.

Each answers with exact quantities and leaves one movement for each item it changed, of its own kind; refused, it leaves
nothing. Errors are checked in both styles, because both are promised for every function.
"""

from decimal import Decimal

import psycopg
import pytest

from books import audit, call, call_text, last_movement, movements, refused_call, steps
from shop import ONE, TWO, UNKNOWN, Aside, create_role, item, left, refused, sell, shop, stock_of, until_waiting

STYLES = {"sqlstate": {}, "postgrest": {"IV001": "PT409", "IV002": "PT404", "IV005": "PT409", "IV007": "PT500"}}
STOCK = {ONE: Decimal("10.50"), TWO: Decimal("5.00")}
FULL = "9999999999.99"


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, STOCK)
    return conn


@pytest.fixture(scope="module")
def refusals(server, template):
    """One database for refusals, which must leave it as it was."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE refused_changes TEMPLATE {template}")
    with psycopg.connect(server.dsn("refused_changes"), autocommit=True) as conn:
        shop(conn, STOCK)
        yield conn
        assert stock_of(conn) == STOCK
        assert steps(conn) == [("opening", 0, Decimal("10.50")), ("opening", 0, 5)]
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("DROP DATABASE refused_changes")


@pytest.fixture
def refusing(refusals):
    refusals.execute("RESET inventory_ext.error_style")
    return refusals


def test_goods_in_are_added_and_recorded(conn):
    """The exact text of the answer; one movement of kind restock with reference and key."""
    after = last_movement(conn)
    text = call_text(
        conn, "restock_inventory", p_inventory_id=ONE, p_quantity="2.5", p_reference="po 1", p_idempotency_key="r1"
    )
    assert text == (
        f'{{"success": true, "inventory_id": "{ONE}", "old_quantity": 10.50, "new_quantity": 13.00, "added": 2.5}}'
    )
    assert left(conn, ONE) == 13
    (movement,) = movements(conn, after=after)
    assert movement == (ONE, "restock", Decimal("10.50"), 13, "po 1", "r1", "postgres")
    audit(conn)


def test_a_count_sets_the_stock_and_says_by_how_much(conn):
    """Up, down and to nothing; with and without an expected quantity; the reason is the movement's reference."""
    after = last_movement(conn)
    text = call_text(
        conn,
        "adjust_inventory",
        p_inventory_id=ONE,
        p_counted_quantity="9",
        p_expected_quantity="10.5",
        p_reason="count",
    )
    assert text == (
        f'{{"success": true, "inventory_id": "{ONE}", "old_quantity": 10.50, "new_quantity": 9.00, "adjusted": -1.50}}'
    )
    assert call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity="20.01")["adjusted"] == Decimal(
        "11.01"
    )
    assert call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=0)["new_quantity"] == 0
    assert left(conn, ONE) == 0
    assert steps(conn, after=after) == [
        ("adjustment", Decimal("10.5"), 9), ("adjustment", 9, Decimal("20.01")), ("adjustment", Decimal("20.01"), 0),
    ]  # fmt: skip
    assert [m.reference for m in movements(conn, after=after)] == ["count", None, None]
    audit(conn)


@pytest.mark.parametrize("counted", ["10.5", "10.50", "10.500"])
def test_a_count_that_finds_what_the_stock_says_leaves_no_movement(conn, counted):
    """It succeeds with 0 adjusted, and the row is not written at all."""
    after, row = last_movement(conn), conn.execute("SELECT ctid, xmin FROM inventory WHERE id = %s", (ONE,)).fetchone()
    answer = call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=counted, p_expected_quantity="10.5")
    assert (answer["old_quantity"], answer["new_quantity"], answer["adjusted"]) == (Decimal("10.5"), Decimal("10.5"), 0)
    assert last_movement(conn) == after
    assert conn.execute("SELECT ctid, xmin FROM inventory WHERE id = %s", (ONE,)).fetchone() == row


@pytest.mark.parametrize("style", STYLES)
def test_a_count_of_a_stock_that_has_changed_is_stale(refusing, style):
    """Compare and set: what was expected and what is there are named, and nothing changes."""
    refusing.execute(f"SET inventory_ext.error_style = '{style}'")
    answer = refused_call(
        refusing,
        "adjust_inventory",
        p_inventory_id=ONE,
        p_counted_quantity=3,
        p_expected_quantity="10.51",
        p_reason="c",
    )
    message = "Inventory has changed. Expected: 10.51, Found: 10.50" if style == "sqlstate" else "Inventory has changed"
    assert (answer.sqlstate, answer.message) == (STYLES[style].get("IV005", "IV005"), message)
    assert answer.detail == (
        f'{{"reason": "stale", "inventory_id": "{ONE}", "expected": 10.51, "found": 10.50, "reference": "c"}}'
    )
    assert answer.hint
    # Also where the count is right and only the expectation is not: the caller's picture was wrong.
    answer = refused_call(
        refusing, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity="10.5", p_expected_quantity=0
    )
    assert answer.reason == "stale"


def test_a_count_that_waits_compares_with_what_is_there_after_the_wait(db, conn):
    """A sale comes between: the expectation that was right when the call began is stale."""
    holder, clerk = db.connect(autocommit=False), db.connect()
    sell(holder, ONE, "0.50")
    count = Aside(
        lambda: call(clerk, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=8, p_expected_quantity="10.5")
    )
    until_waiting(conn, clerk)
    holder.commit()
    answer = count.refusal()
    assert (answer.sqlstate, answer.facts["found"]) == ("IV005", 10)
    assert left(conn, ONE) == 10


def test_a_transfer_moves_between_two_items(conn):
    """Both sides in one answer; two movements of kind transfer, with the same reference and key."""
    after = last_movement(conn)
    text = call_text(
        conn, "transfer_inventory", p_from=ONE, p_to=TWO, p_quantity="10.50", p_reference="t", p_idempotency_key="k"
    )
    assert text == (
        f'{{"success": true, "from": {{"inventory_id": "{ONE}", "old_quantity": 10.50, "new_quantity": 0.00}}, '
        f'"to": {{"inventory_id": "{TWO}", "old_quantity": 5.00, "new_quantity": 15.50}}, "transferred": 10.50}}'
    )
    assert stock_of(conn) == {ONE: 0, TWO: Decimal("15.50")}
    assert sorted(movements(conn, after=after)) == [
        (ONE, "transfer", Decimal("10.50"), 0, "t", "k", "postgres"),
        (TWO, "transfer", 5, Decimal("15.50"), "t", "k", "postgres"),
    ]
    call(conn, "transfer_inventory", p_from=TWO, p_to=ONE, p_quantity="0.01")
    assert stock_of(conn) == {ONE: Decimal("0.01"), TWO: Decimal("15.49")}
    audit(conn)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("source", "target", "missing"), [(UNKNOWN, ONE, UNKNOWN), (ONE, UNKNOWN, UNKNOWN),
                                                           (item(77), UNKNOWN, item(77))])  # fmt: skip
def test_a_transfer_from_or_to_an_unknown_item(refusing, style, source, target, missing):
    """The side that is unknown is named, the first where both are."""
    refusing.execute(f"SET inventory_ext.error_style = '{style}'")
    answer = refused_call(refusing, "transfer_inventory", p_from=source, p_to=target, p_quantity=1, p_reference="t 2")
    assert (answer.sqlstate, answer.message) == (STYLES[style].get("IV002", "IV002"), "Inventory item not found")
    assert answer.facts == {"reason": "unknown_item", "inventory_id": str(missing), "reference": "t 2"}


@pytest.mark.parametrize("style", STYLES)
def test_a_transfer_of_more_than_there_is(refusing, style):
    refusing.execute(f"SET inventory_ext.error_style = '{style}'")
    answer = refused_call(refusing, "transfer_inventory", p_from=TWO, p_to=ONE, p_quantity="5.01")
    assert answer.sqlstate == STYLES[style].get("IV001", "IV001")
    assert ("Available: 5.00, Requested: 5.01" in answer.message) == (style == "sqlstate")
    assert answer.facts == {
        "reason": "insufficient", "inventory_id": str(TWO), "available": 5, "requested": Decimal("5.01"),
    }  # fmt: skip


def test_a_transfer_to_itself_is_refused(refusing):
    answer = refused_call(refusing, "transfer_inventory", p_from=ONE, p_to=ONE, p_quantity=1)
    assert (answer.sqlstate, answer.message) == ("22023", "p_from and p_to must be different items")
    assert (answer.reason, answer.facts["inventory_id"]) == ("same_item", str(ONE))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("function", "arguments"),
    [("restock_inventory", {"p_quantity": 1}), ("adjust_inventory", {"p_counted_quantity": 0}),
     ("adjust_inventory", {"p_counted_quantity": 1, "p_expected_quantity": 1})],
)  # fmt: skip
def test_an_unknown_item_is_neither_restocked_nor_counted(refusing, style, function, arguments):
    """Never made by the way: an item comes to be by an INSERT."""
    refusing.execute(f"SET inventory_ext.error_style = '{style}'")
    answer = refused_call(refusing, function, p_inventory_id=UNKNOWN, **arguments)
    assert answer.sqlstate == STYLES[style].get("IV002", "IV002")
    assert answer.facts == {"reason": "unknown_item", "inventory_id": str(UNKNOWN)}


GOOD = {
    "restock_inventory": {"p_inventory_id": ONE, "p_quantity": 1},
    "adjust_inventory": {"p_inventory_id": ONE, "p_counted_quantity": 1},
    "transfer_inventory": {"p_from": ONE, "p_to": TWO, "p_quantity": 1},
}
QUANTITY = {
    "restock_inventory": "p_quantity",
    "adjust_inventory": "p_counted_quantity",
    "transfer_inventory": "p_quantity",
}


@pytest.mark.parametrize(("function", "argument"), [(f, a) for f, arguments in GOOD.items() for a in arguments])
def test_null_is_refused_by_name(refusing, function, argument):
    answer = refused_call(refusing, function, **(GOOD[function] | {argument: None}))
    assert (answer.sqlstate, answer.message) == ("22004", f"{argument} must not be null")
    assert (answer.reason, answer.facts["argument"]) == ("null_argument", argument)


NO_QUANTITY = [
    ("NaN", "22023", "not_finite"), ("Infinity", "22023", "not_finite"), ("-Infinity", "22023", "not_finite"),
    ("-1", "22023", "not_positive"), ("0", "22023", "not_positive"), ("0.005", "22003", "too_many_decimals"),
    ("10000000000", "22003", "too_many_digits"), ("9" * 29, "22003", "too_many_digits"),
    ("1e-29", "22003", "too_many_digits"),
]  # fmt: skip
# A count may be nothing, and is only never negative.
NO_COUNT = [(q, state, reason.replace("not_positive", "negative")) for q, state, reason in NO_QUANTITY if q != "0"]


@pytest.mark.parametrize(
    ("function", "quantity", "sqlstate", "reason"),
    [(function, *case) for function in GOOD for case in (NO_COUNT if function == "adjust_inventory" else NO_QUANTITY)],
)
def test_what_is_no_quantity_is_refused_by_name(refusing, function, quantity, sqlstate, reason):
    """The argument and the value are named, and what to do."""
    argument = QUANTITY[function]
    answer = refused_call(refusing, function, **(GOOD[function] | {argument: quantity}))
    assert (answer.sqlstate, answer.reason, answer.facts["argument"]) == (sqlstate, reason, argument)
    assert answer.message.startswith(argument)
    assert "value" in answer.facts
    assert answer.hint


@pytest.mark.parametrize(("expected", "sqlstate"), [("NaN", "22023"), ("-1", "22023"), ("9" * 29, "22003")])
def test_an_expected_quantity_that_is_none_is_refused_by_name(refusing, expected, sqlstate):
    answer = refused_call(
        refusing, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=1, p_expected_quantity=expected
    )
    assert (answer.sqlstate, answer.facts["argument"]) == (sqlstate, "p_expected_quantity")


def test_an_expected_quantity_finer_than_the_column_is_only_stale(refusing):
    """It is compared, not written."""
    answer = refused_call(
        refusing, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=1, p_expected_quantity="10.505"
    )
    assert answer.sqlstate == "IV005"


@pytest.mark.parametrize(
    ("type", "full", "one"),
    [("numeric(12,2)", FULL, "0.01"), ("smallint", "32767", "1"), ("integer", "2147483647", "1"),
     ("bigint", "9223372036854775807", "1"), ("numeric", "9" * 28, "1"), ("numeric(4,-2)", "999900", "100")],
)  # fmt: skip
def test_more_than_the_column_can_hold_is_refused_and_named(db, type, full, one):
    """22003 with the item and its stock, from a restock and from a transfer; the last unit that fits is taken."""
    conn = db.connect()
    shop(conn, {ONE: full, TWO: full}, type=type)
    for function, arguments in (
        ("restock_inventory", {"p_inventory_id": TWO}),
        ("transfer_inventory", {"p_from": ONE, "p_to": TWO}),
    ):
        answer = refused_call(conn, function, **arguments, p_quantity=one, p_reference="much")
        assert (answer.sqlstate, answer.reason) == ("22003", "overflow")
        assert answer.facts == {
            "reason": "overflow", "inventory_id": str(TWO), "old_quantity": Decimal(full), "delta": Decimal(one),
            "reference": "much",
        }  # fmt: skip
    assert stock_of(conn) == {ONE: Decimal(full), TWO: Decimal(full)}
    sell(conn, TWO, one)
    call(conn, "transfer_inventory", p_from=ONE, p_to=TWO, p_quantity=one)
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=one)
    call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=0)
    assert call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=full)["new_quantity"] == Decimal(full)
    assert stock_of(conn) == {ONE: Decimal(full), TWO: Decimal(full)}
    audit(conn)


@pytest.mark.parametrize("striped", [(), (ONE,), (TWO,), (ONE, TWO)], ids=["whole", "one", "two", "both"])
@pytest.mark.parametrize(("source", "target"), [(ONE, TWO), (TWO, ONE)], ids=["up", "down"])
def test_a_transfer_names_a_full_target_before_an_empty_source(db, source, target, striped):
    """Whichever of the two is locked first, the shortage is what the caller hears."""
    conn = db.connect()
    shop(conn, {source: "0.50", target: FULL})
    for key in striped:
        conn.execute("SELECT stripe_inventory(%s, 4)", (key,))
    answer = refused_call(conn, "transfer_inventory", p_from=source, p_to=target, p_quantity="0.51")
    assert (answer.sqlstate, answer.reason) == ("IV001", "insufficient")
    answer = refused_call(conn, "transfer_inventory", p_from=source, p_to=target, p_quantity="0.50")
    assert (answer.sqlstate, answer.reason, answer.facts["inventory_id"]) == ("22003", "overflow", str(target))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("function", GOOD)
def test_a_change_that_a_trigger_changes_is_undone(db, conn, style, function):
    """IV007, and the ledger is as before."""
    conn.execute(f"SET inventory_ext.error_style = '{style}'")
    conn.execute(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.quantity := NEW.quantity + 0.01; RETURN NEW; END $$;"
        "CREATE TRIGGER t BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION meddle()"
    )
    after = last_movement(conn)
    answer = refused_call(conn, function, **GOOD[function])
    assert (answer.sqlstate, answer.reason) == (STYLES[style].get("IV007", "IV007"), "verification_failed")
    assert stock_of(conn) == STOCK
    assert last_movement(conn) == after


def test_execute_is_needed_for_each_function(db, conn):
    """Only the roles that the owner names; the right to one function is not the right to another."""
    clerk = create_role(conn, db, "clerk")
    till = db.connect(user=clerk)
    for function, arguments in GOOD.items():
        assert refused_call(till, function, **arguments).sqlstate == "42501"
        conn.execute(f'GRANT EXECUTE ON FUNCTION {function} TO "{clerk}"')
        assert call(till, function, **arguments)["success"] is True
    assert {m.actor for m in movements(conn) if m.kind != "opening"} == {clerk}
    assert refused(till, "SELECT * FROM inventory_movement").sqlstate == "42501"
    audit(conn)
