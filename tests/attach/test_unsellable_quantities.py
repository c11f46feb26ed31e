"""What attach accepts can be sold, and what cannot be sold has a way out.

A quantity keeps 28 significant digits. Attach accepted rows with more, or with trailing zeros that were counted too;
then each call raised IV007, and one such item failed a whole order that was to skip it. Trailing zeros are no digits,
attach names the rows that do not fit, orders with skip or partial leave such an item out, and a count repairs it.
"""

import re
from decimal import Decimal, localcontext

import psycopg
import pytest

from books import audit, call, keys_kept, last_movement, lines, movements, order, refused_call, refused_order, steps
from selling_calls import SELLING, arguments, available, detach, refused_make, stripe, unstripe
from shop import (
    ONE, TWO, attach, fill, item, left, refused, refused_attach, refused_sale, sell, shop, stock_of, stock_table,
)  # fmt: skip

THREE = item(3)
LONG = "12345678901234567890.1234567890123"  # 33 significant digits
TINY = "0.00000000000000000000000000000000000012345"


@pytest.fixture
def conn(db):
    return db.connect()


def exact(number) -> Decimal:
    return Decimal(str(number))


def difference(new, old) -> Decimal:
    with localcontext(prec=200):
        return exact(new) - exact(old)


def spoil(conn, stored=LONG, key=ONE):
    """A direct write, which the table's own type allows and the ledger records."""
    conn.execute("UPDATE inventory SET quantity = %s::numeric WHERE id = %s", (stored, key))


# (type, quantity): at most 28 significant digits, zeros after them not counted.
FITTING = [
    ("numeric", "1.0000000000000000000000000000"),
    ("numeric", "12345.6789000000000000000000000000000000000000"),
    ("numeric", "250." + "0" * 60),
    ("numeric", "9999999999999999999999999999"),
    ("numeric", "9999999999999999999999999999.000000000000"),
    ("numeric", "99999999999999.99999999999999"),
    ("numeric", "99999999999999.999999999999990000000000"),
    ("numeric", "1000000000000000000000000000.0"),
    ("numeric(38,18)", "12000000000"),
    ("numeric(38,18)", "99999999999999999999"),
    ("numeric(38,18)", "9999999999.999999999999999999"),
    ("numeric(60,30)", "123456.5"),
    ("numeric(28,0)", "9999999999999999999999999999"),
    ("numeric(28,14)", "99999999999999.99999999999999"),
    ("numeric(10,-3)", "12345000"),
    ("numeric(6,-20)", "12345600000000000000000000"),
]
# More than 28, and no zeros among the last.
TOO_LONG = [
    ("numeric", "1234567890123456789012345678.9"),
    ("numeric", "99999999999999999999999999999"),
    ("numeric", "1.0000000000000000000000000001"),
    ("numeric", "0.12345678901234567890123456789"),
    ("numeric", "10000000000000000000000000000.5"),
    ("numeric", LONG),
    ("numeric", TINY.replace("12345", "1" * 29)),
    ("numeric(38,18)", "12345678901.000000000000000001"),
    ("numeric(29,0)", "12345678901234567890123456789"),
    ("numeric(40,-10)", "12345678901234567890123456789" + "0" * 10),
]
# At the limits of a number of 28 digits with at most 28 decimals: refused by name or sold, and nothing else.
BORDER = [
    ("numeric", "10000000000000000000000000000"),
    ("numeric", "79228162514264337593543950335"),
    ("numeric", "79228162514264337593543950336"),
    ("numeric", "1" + "0" * 40),
    ("numeric", "0.00000000000000000000000000001"),
    ("numeric", "7.9228162514264337593543950335"),
    ("numeric", TINY),
    ("numeric", "0." + "0" * 60),
    ("numeric", "5" + "0" * 200),
    ("numeric(3,-30)", "12" + "0" * 31),
    ("numeric(3,40)", "0." + "0" * 37 + "123"),
]


def smallest_step(type) -> str:
    """One unit that the column keeps."""
    found = re.fullmatch(r"numeric\((\d+),(-?\d+)\)", type)
    return str(10 ** max(0, -int(found[2]))) if found else "1"


def call_everything(conn, step):
    """Each function on ONE, which has at least ten steps; TWO is the partner."""
    more = {"p_quantity": step, "p_inventory_id": ONE}
    sold = call(conn, "decrement_inventory", **more)
    assert difference(sold["old_quantity"], sold["new_quantity"]) == exact(step)
    for word in ("abort", "skip", "partial"):
        answer = order(conn, (ONE, step), (TWO, step), p_on_shortage=word)
        assert (len(answer["lines"]), answer["short"]) == (2, [])
    has = available(conn, ONE)
    assert has == difference(sold["new_quantity"], int(step) * 3)
    moved = call(conn, "transfer_inventory", p_from=TWO, p_to=ONE, p_quantity=step)
    assert difference(moved["to"]["new_quantity"], has) == exact(step)
    call(conn, "transfer_inventory", p_from=ONE, p_to=TWO, p_quantity=step)
    assert call(conn, "restock_inventory", **more)["added"] == exact(step)
    counted = call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=f"{has:f}")
    assert counted["adjusted"] == -exact(step)
    answer = call(
        conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=f"{has:f}", p_expected_quantity=f"{has:f}"
    )
    assert answer["adjusted"] == 0


@pytest.mark.parametrize(("type", "quantity"), FITTING)
def test_a_quantity_of_28_significant_digits_can_be_sold_by_every_function(conn, type, quantity):
    """Striped or not; the first sale of an item that was 1.0000000000000000000000000000 raised IV007."""
    stock_table(conn, {ONE: quantity, TWO: str(10 * int(smallest_step(type)))}, type=type)
    attach(conn)
    step = smallest_step(type)
    answer = refused_sale(conn, TWO, str(11 * int(step)))
    assert (answer.sqlstate, answer.facts["available"]) == ("IV001", 10 * int(step))
    if exact(quantity) < 10 * int(step):
        call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=str(20 * int(step)))
    call_everything(conn, step)
    has = available(conn, ONE)
    stripe(conn, ONE, 3)
    assert available(conn, ONE) == has
    sell(conn, ONE, step)
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=step)
    unstripe(conn, ONE)
    assert left(conn, ONE) == has
    audit(conn)
    detach(conn)
    attach(conn)
    audit(conn)


def test_zero_with_many_decimals_is_zero(conn):
    shop(conn, {ONE: "0." + "0" * 70, TWO: "0"}, type="numeric")
    answer = refused_sale(conn, ONE, 1)
    assert (answer.sqlstate, answer.reason, answer.facts["available"]) == ("IV001", "insufficient", 0)
    assert call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity="0.25")["new_quantity"] == Decimal("0.25")
    audit(conn)


def test_a_sum_whose_digits_are_trailing_zeros_is_no_overflow(conn):
    """99 more of 1.000000000000000000000000000 is 100: three digits, and zeros that the column prints."""
    shop(conn, {ONE: "1.000000000000000000000000000", TWO: "5000"}, type="numeric")
    assert call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=99)["new_quantity"] == 100
    call(conn, "transfer_inventory", p_from=TWO, p_to=ONE, p_quantity=5000)
    assert call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=12345678)["new_quantity"] == 12345678
    assert sell(conn, ONE, "0.5")["new_quantity"] == Decimal("12345677.5")
    audit(conn)


def test_what_would_have_more_than_28_digits_is_still_refused_and_changes_nothing(conn):
    shop(conn, {ONE: "9999999999999999999999999999.000000", TWO: "10"}, type="numeric")
    for function, asked in (("restock_inventory", {"p_inventory_id": ONE, "p_quantity": 1}),
                            ("transfer_inventory", {"p_from": TWO, "p_to": ONE, "p_quantity": 1}),
                            ("decrement_inventory", {"p_inventory_id": ONE, "p_quantity": "0.5"})):  # fmt: skip
        answer = refused_call(conn, function, **asked)
        assert (answer.sqlstate, answer.reason) == ("22003", "overflow"), function
    assert stock_of(conn) == {ONE: Decimal("9999999999999999999999999999"), TWO: 10}
    sell(conn, ONE, 1)
    audit(conn)


@pytest.mark.parametrize("options", [{}, {"p_ledger": False}, {"p_run_as": "caller"}])
def test_attach_refuses_by_name_what_cannot_be_sold(conn, options):
    """Nothing is changed; once the row is put right the same table is attached."""
    for number, (type, quantity) in enumerate(TOO_LONG):
        table = f"stock{number}"
        stock_table(conn, {ONE: "0", TWO: quantity}, table, type)
        answer = refused_attach(conn, table, **options)
        assert (answer.sqlstate, answer.reason) == ("23514", "bad_rows"), quantity
        assert (answer.facts["rows"], answer.facts["column"]) == (1, "quantity")
        (named,) = answer.facts["first"]
        assert named["inventory_id"] == str(TWO)
        assert exact(named["quantity"]) == exact(quantity)
        assert answer.hint
        made = conn.execute(
            f"SELECT (SELECT count(*) FROM pg_trigger WHERE tgrelid = '{table}'::regclass),"
            f" (SELECT count(*) FROM pg_class WHERE relname LIKE '{table}\\_%' AND relkind = 'r')"
        )
        assert made.fetchone() == (0, 0)
        assert refused_sale(conn, TWO, 1).reason == "not_attached"
        conn.execute(f"UPDATE {table} SET quantity = 0")
        attach(conn, table, **options)
        assert refused_sale(conn, TWO, 1000 * int(smallest_step(type))).sqlstate == "IV001"
        detach(conn)


def test_at_most_five_of_the_rows_are_named_beside_the_negative_ones(conn):
    """Seven rows of two kinds, in a table of many good ones."""
    bad = {item(number): LONG for number in range(10, 15)} | {item(20): "-1", item(21): "NaN"}
    stock_table(conn, {item(number): "1.5" for number in range(100, 200)} | bad, type="numeric")
    answer = refused_attach(conn)
    assert (answer.reason, answer.facts["rows"], len(answer.facts["first"])) == ("bad_rows", 7, 5)
    assert [row["inventory_id"] for row in answer.facts["first"]] == [str(item(number)) for number in range(10, 15)]


def test_rows_of_partitions_and_of_a_second_attach_are_looked_at_too(conn):
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric) PARTITION BY HASH (id)")
    for part in range(2):
        conn.execute(f"CREATE TABLE part{part} PARTITION OF inventory FOR VALUES WITH (MODULUS 2, REMAINDER {part})")
    fill(conn, {ONE: LONG, TWO: LONG, THREE: "3"})
    assert refused_attach(conn).facts["rows"] == 2
    conn.execute("UPDATE inventory SET quantity = 3")
    attach(conn)
    sell(conn, ONE, 1)
    detach(conn)
    spoil(conn)
    assert refused_attach(conn).facts["first"][0]["inventory_id"] == str(ONE)
    conn.execute(f"UPDATE inventory SET quantity = 7 WHERE id = '{ONE}'")
    attach(conn)
    audit(conn)


def test_attach_never_accepts_what_no_function_can_read(conn):
    """Either the row is refused by name, or every function reads it: shortage and overflow are the only errors."""
    for number, (type, quantity) in enumerate(BORDER):
        table = f"stock{number}"
        step = smallest_step(type) if type != "numeric(3,40)" else "0." + "0" * 36 + "1"
        stock_table(conn, {ONE: quantity, TWO: "0"}, table, type)
        try:
            attach(conn, table)
        except psycopg.Error as error:
            assert (error.sqlstate, "bad_rows" in error.diag.message_detail) == ("23514", True), (quantity, error)
            assert str(ONE) in error.diag.message_detail
            continue
        for function in SELLING:
            try:
                call(conn, function, **arguments(function, ONE, TWO, step))
            except psycopg.Error as error:
                assert error.sqlstate in ("IV001", "22003"), (quantity, function, error)
        for act in ("stripe_inventory", "available_inventory", "unstripe_inventory", "available_inventory"):
            conn.execute(f"SELECT {act}(%s)", (ONE,))
        audit(conn, table, f"{table}_movement")
        detach(conn)


DAMAGE = {
    "update": f"UPDATE inventory SET quantity = {LONG} WHERE id = '{ONE}'",
    "insert": f"DELETE FROM inventory WHERE id = '{ONE}'; INSERT INTO inventory VALUES ('{ONE}', {LONG})",
    "upsert": f"INSERT INTO inventory VALUES ('{ONE}', 1) ON CONFLICT (id) DO UPDATE SET quantity = {LONG}",
    "moved": f"UPDATE inventory SET id = '{item(9)}' WHERE id = '{ONE}';"
             f"UPDATE inventory SET id = '{ONE}', quantity = {LONG} WHERE id = '{item(9)}'",
    "third": f"UPDATE inventory SET quantity = 1.00 / 3 * 3.00000000000000000000000001 WHERE id = '{ONE}'",
}  # fmt: skip


@pytest.fixture(params=["update", "insert"])
def spoiled(request, conn):
    """ONE is unreadable, TWO and THREE are not."""
    shop(conn, {ONE: "10.5", TWO: "20", THREE: "30"}, type="numeric")
    sell(conn, ONE, "0.5")
    conn.execute(DAMAGE[request.param])
    return conn


def test_each_function_names_the_item_that_cannot_be_read(spoiled):
    """IV007 with the item and what is stored; nothing is changed, and an order that must be whole fails by name."""
    before, after = stock_of(spoiled), last_movement(spoiled)
    for function in ("decrement_inventory", "restock_inventory", "transfer_inventory"):
        answer = refused_make(spoiled, function, ONE, TWO)
        assert (answer.sqlstate, answer.reason) == ("IV007", "unreadable_stock"), function
        assert answer.facts["inventory_id"] == str(ONE)
        assert exact(answer.facts["stored"]) == exact(LONG)
        assert answer.hint
    answers = [
        refused_call(spoiled, "transfer_inventory", p_from=TWO, p_to=ONE, p_quantity=1),
        refused(spoiled, "SELECT stripe_inventory(%s, 4)", (ONE,)),
        refused_sale(spoiled, ONE, "1000000000000000000000000000"),
    ]
    for answer in answers:
        assert (answer.sqlstate, answer.reason, answer.facts["inventory_id"]) == ("IV007", "unreadable_stock", str(ONE))
    for word in ({}, {"p_on_shortage": "abort"}):
        answer = refused_order(spoiled, (TWO, 1), (ONE, 1), (THREE, 1), **word)
        assert "unreadable_stock" in answer.detail and str(ONE) in answer.detail
    assert (stock_of(spoiled), last_movement(spoiled)) == (before, after)


@pytest.mark.parametrize("word", ["skip", "partial"])
def test_an_order_that_may_leave_lines_out_leaves_the_unreadable_item_out(spoiled, word):
    """The others are sold; the line is listed among the short ones, in its place, and nothing of it is taken."""
    answer = order(spoiled, (TWO, 1), (ONE, 2), (THREE, 100), (item(99), 1), (ONE, 1), p_on_shortage=word)
    taken = [TWO] if word == "skip" else [TWO, THREE]
    assert [line["inventory_id"] for line in answer["lines"]] == [str(key) for key in taken]
    named = [(line["reason"], line["inventory_id"], line["requested"]) for line in answer["short"]]
    assert named == [
        ("unreadable_stock", str(ONE), 3), ("insufficient", str(THREE), 100), ("unknown_item", str(item(99)), 1),
    ]  # fmt: skip
    assert answer["short"][0].get("deducted", 0) == 0
    assert left(spoiled, ONE) == exact(LONG)
    alone = order(spoiled, (ONE, 1), p_on_shortage=word)
    assert (alone["success"], alone["lines"], alone["short"][0]["reason"]) == (True, [], "unreadable_stock")
    audit(spoiled)


def test_such_an_order_is_repeated_by_its_key(spoiled):
    wanted = {"p_items": lines((TWO, 1), (ONE, 2)), "p_on_shortage": "skip", "p_idempotency_key": "k"}
    first = call(spoiled, "decrement_inventory_batch", **wanted)
    call(spoiled, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=5)
    assert call(spoiled, "decrement_inventory_batch", **wanted) == first | {"replayed": True}
    assert (left(spoiled, TWO), left(spoiled, ONE), keys_kept(spoiled)) == (19, 5, ["k"])


@pytest.mark.parametrize("counted", ["0", "7", "7.25", "9999999999999999999999999999"])
def test_a_count_repairs_an_unreadable_item(spoiled, counted):
    """Exact figures in the result and in the ledger, whose chain is unbroken; then everything works again."""
    answer = call(spoiled, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=counted, p_reason="counted")
    assert answer["success"] is True
    assert exact(answer["old_quantity"]) == exact(LONG)
    assert exact(answer["new_quantity"]) == exact(counted)
    assert exact(answer["adjusted"]) == difference(counted, LONG)
    assert left(spoiled, ONE) == exact(counted)
    last = movements(spoiled, ONE)[-1]
    assert (last.kind, last.old, last.new, last.reference) == ("adjustment", exact(LONG), exact(counted), "counted")
    audit(spoiled)
    call(spoiled, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity="50")
    call_everything(spoiled, "1")
    stripe(spoiled, ONE)
    sell(spoiled, ONE, 1)
    unstripe(spoiled, ONE)
    audit(spoiled)


@pytest.mark.parametrize("options", [{}, {"p_ledger": False}, {"p_run_as": "caller"}])
def test_the_repair_works_however_the_item_came_to_be_unreadable(conn, options):
    shop(conn, {ONE: "10.1234567890123456", TWO: "20"}, type="numeric", **options)
    for way, damage in DAMAGE.items():
        conn.execute(damage)
        stored = left(conn, ONE)
        assert refused_sale(conn, ONE, 1).reason == "unreadable_stock", way
        answer = call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity="3.5")
        assert (exact(answer["old_quantity"]), answer["new_quantity"]) == (stored, Decimal("3.5"))
        assert sell(conn, ONE, "0.5")["new_quantity"] == 3
        if options != {"p_ledger": False}:
            audit(conn)


def test_a_repair_by_an_expected_quantity_that_is_wrong_changes_nothing(spoiled):
    """IV005 says what is stored, with all its digits, so that the next count can be right."""
    after = last_movement(spoiled)
    for expected in ("10", "0", "9999999999999999999999999999"):
        answer = refused_call(
            spoiled, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=5, p_expected_quantity=expected
        )
        assert (answer.sqlstate, answer.reason) == ("IV005", "stale")
        assert exact(answer.facts["found"]) == exact(LONG)
    asked = {"p_inventory_id": ONE, "p_counted_quantity": 5, "p_expected_quantity": LONG}
    answer = refused_call(spoiled, "adjust_inventory", **asked)
    assert (answer.sqlstate, answer.reason, answer.facts["argument"]) == (
        "22003", "too_many_digits", "p_expected_quantity",
    )  # fmt: skip
    assert (left(spoiled, ONE), last_movement(spoiled)) == (exact(LONG), after)


def test_a_repair_is_one_request_under_its_key_and_is_undone_with_its_transaction(db, spoiled):
    till = db.connect(autocommit=False)
    till.execute("SET LOCAL inventory_ext.idempotency_key = 'repair'")
    call(till, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=5)
    till.rollback()
    assert refused_sale(spoiled, ONE, 1).reason == "unreadable_stock"
    for replayed in (False, True):
        till.execute("SET LOCAL inventory_ext.idempotency_key = 'repair'")
        answer = call(till, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=5)
        assert (answer.get("replayed", False), answer["new_quantity"]) == (replayed, 5)
        till.commit()
    assert steps(spoiled, ONE)[-1] == ("adjustment", exact(LONG), 5)
    audit(spoiled)


def test_a_direct_write_repairs_the_item_too_and_one_that_changes_nothing_is_no_movement(spoiled):
    after = last_movement(spoiled)
    spoiled.execute(f"UPDATE inventory SET quantity = quantity WHERE id = '{ONE}'")
    spoiled.execute(f"UPDATE inventory SET quantity = {LONG}00000 WHERE id = '{ONE}'")
    assert last_movement(spoiled) == after
    spoiled.execute(f"UPDATE inventory SET quantity = 5.00000000000000000000000000000000000 WHERE id = '{ONE}'")
    assert sell(spoiled, ONE, 2)["new_quantity"] == 3
    audit(spoiled)


def test_zeros_that_a_direct_write_leaves_behind_do_not_make_an_item_unreadable(conn):
    """Units that are converted forth and back lengthen the scale each time; the value keeps its few digits."""
    shop(conn, {ONE: "100", TWO: "20"}, type="numeric")
    for _ in range(8):
        conn.execute(f"UPDATE inventory SET quantity = quantity * 0.12500000 WHERE id = '{ONE}'")
        conn.execute(f"UPDATE inventory SET quantity = quantity * 8.00000000 WHERE id = '{ONE}'")
    assert conn.execute(f"SELECT scale(quantity) > 60 FROM inventory WHERE id = '{ONE}'").fetchone() == (True,)
    call_everything(conn, "1")
    stripe(conn, ONE, 7)
    assert refused_sale(conn, ONE, 1000).sqlstate == "IV001"
    sell(conn, ONE, 90)
    unstripe(conn, ONE)
    audit(conn)


def test_detach_works_with_an_unreadable_item_and_the_next_attach_names_it(spoiled):
    stripe(spoiled, TWO)
    sell(spoiled, TWO, 5)
    detach(spoiled)
    assert (left(spoiled, TWO), left(spoiled, ONE)) == (15, exact(LONG))
    answer = refused_attach(spoiled)
    assert (answer.reason, answer.facts["rows"], answer.facts["first"][0]["inventory_id"]) == ("bad_rows", 1, str(ONE))
    spoiled.execute(f"UPDATE inventory SET quantity = 4 WHERE id = '{ONE}'")
    attach(spoiled)
    call_everything(spoiled, "1")
    audit(spoiled)


@pytest.mark.parametrize("style", ["sqlstate", "postgrest"])
def test_the_error_of_an_unreadable_item_has_its_style(spoiled, style):
    spoiled.execute(f"SET inventory_ext.error_style = '{style}'")
    answer = refused_sale(spoiled, ONE, 1)
    assert (answer.sqlstate, answer.reason) == ({"sqlstate": "IV007", "postgrest": "PT500"}[style], "unreadable_stock")
    assert call(spoiled, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=4)["new_quantity"] == 4
