"""Numbers in the spellings of JSON encoders and drivers: exact, or refused with the reason; a float is refused.

The stock is a numeric without limits, so that every digit of a sale is in its result.
"""

from decimal import Decimal

import pytest

from books import audit, call, movements, refused_call
from shop import ONE, TWO, exact_json, refused, shop, stock_of

WRITTEN = {
    "1e-7": "0.0000001", "1E2": "100", "1e2": "100", "1e+2": "100", "0.1e1": "1", "1.50": "1.50", "12": "12",
    "0.30": "0.30", "2.5E-3": "0.0025", "1e0": "1", "123456789.000000001": "123456789.000000001",
    "0.1": "0.1", "1e-10": "0.0000000001", "9007199254740993": "9007199254740993",
    "1.000000001e5": "100000.0001",
}  # fmt: skip
STRINGS = [*WRITTEN, "1E-7", "0.5e1", "+1", "+1e+1", "1.e1", ".5e1"]
NONSENSE = [
    "", " ", "one", "1,5", "1.2.3", "1e", "e1", "1e2.5", "1e--2", "0x10", "1_000", "1/2", "1 2", "½", "\u0661", "--1",
    "1e2e2", "$1", "1kg", "null", "true", "[1]", "NaN1", "\\u0000",
]  # fmt: skip


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "1" + "0" * 17, TWO: "5"}, type="numeric")
    return conn


def items(quantity: str) -> str:
    return f'[{{"inventory_id": "{ONE}", "quantity": {quantity}}}]'


def sold_exactly(conn, text: str, units: str):
    before = stock_of(conn)[ONE]
    (line,) = call(conn, "decrement_inventory_batch", p_items=text)["lines"]
    assert (line["old_quantity"], line["new_quantity"]) == (before, before - Decimal(units))
    assert str(line["deducted"]) == str(Decimal(units))
    assert stock_of(conn) == {ONE: before - Decimal(units), TWO: 5}
    audit(conn)


@pytest.mark.parametrize("written", WRITTEN)
def test_a_json_number_is_exact(conn, written):
    sold_exactly(conn, items(written), WRITTEN[written])


@pytest.mark.parametrize("written", STRINGS)
def test_a_json_string_is_exact(conn, written):
    sold_exactly(conn, items(f'"{written}"'), format(Decimal(written), "f"))


@pytest.mark.parametrize("written", WRITTEN)
def test_an_argument_is_exact(conn, written):
    """As text that a driver sends without a type, and as a literal; p_quantity is a numeric, and reads it."""
    before = stock_of(conn)[ONE]
    for sql in (
        f"SELECT decrement_item('{ONE}', '{written}')::text",
        f"SELECT decrement_item('{ONE}', {written})::text",
    ):
        sold = exact_json(conn.execute(sql).fetchone()[0])
        assert str(sold["deducted"]) == str(Decimal(WRITTEN[written]))
    assert stock_of(conn)[ONE] == before - 2 * Decimal(WRITTEN[written])
    audit(conn)


def test_spellings_of_one_item_are_summed_exactly(conn):
    """0.1 and 0.2 are three tenths, and not 0.30000000000000004."""
    lines = ", ".join(f'{{"inventory_id": "{ONE}", "quantity": {n}}}' for n in ("0.1", '"0.2"', "1e-7", "0.1e1"))
    (line,) = call(conn, "decrement_inventory_batch", p_items=f"[{lines}]")["lines"]
    assert line["deducted"] == Decimal("1.3000001")
    audit(conn)


@pytest.mark.parametrize("written", NONSENSE)
def test_a_string_that_is_no_number_is_refused_with_its_element(conn, written):
    """22023, and the element; as an argument it is PostgreSQL's own 22P02. Nothing is sold, nor recorded."""
    before = len(movements(conn))
    refusal = refused_call(conn, "decrement_inventory_batch", p_items=items(f'"{written}"'))
    if written == "\\u0000":
        assert refusal.sqlstate == "22P05"  # jsonb has no such character
    else:
        assert (refusal.sqlstate, refusal.reason) == ("22023", "not_a_number")
        assert (refusal.facts["element"], refusal.facts["line"]["quantity"]) == (0, written)
    if written not in ("0x10", "1_000"):  # PostgreSQL 16 and later read these as numbers
        refusal = refused_call(conn, "decrement_item", p_item=ONE, p_quantity=written)
        assert refusal.sqlstate == "22P02" and f'"{written}"' in refusal.message
    assert stock_of(conn) == {ONE: 10**17, TWO: 5} and len(movements(conn)) == before


QUANTITIES = {
    "decrement_inventory": (f"'{ONE}', {{}}", "9.9"),
    "decrement_inventory, by name": (f"p_inventory_id => '{ONE}', p_quantity => {{}}", "9.9"),
    "decrement_item": (f"'{ONE}', {{}}", "9.9"),
    "restock_inventory": (f"'{ONE}', {{}}", "10.1"),
    "adjust_inventory": (f"'{ONE}', {{}}", "0.1"),
    "adjust_inventory, expected": (f"'{ONE}', 1, {{}}", "1"),
    "transfer_inventory": (f"'{ONE}', '{TWO}', {{}}", "9.9"),
}  # each a call, and the stock that it leaves of 10, or of an expected 0.1, where the argument is 0.1
OTHERS = {
    "decrement_item, item": "{}, 1", "available_inventory": "{}", "unstripe_inventory": "{}",
    "stripe_inventory": f"'{ONE}', {{}}", "decrement_inventory_batch": "{}", "purge_requests": "{}",
}  # fmt: skip
FLOATS = {case: arguments for case, (arguments, _) in QUANTITIES.items()} | OTHERS


@pytest.mark.parametrize("type", ["double precision", "real"])
@pytest.mark.parametrize("case", FLOATS)
def test_a_float_is_refused_by_every_function(conn, case, type):
    """There is no cast that PostgreSQL would take by itself; its HINT names casts. Nothing is sold, nor recorded."""
    function, before = case.split(",")[0], len(movements(conn))
    refusal = refused(conn, f"SELECT {function}({FLOATS[case].format(f'1.5::{type}')})")
    assert refusal.sqlstate == "42883"
    assert type in refusal.message and "type casts" in refusal.hint
    assert stock_of(conn) == {ONE: 10**17, TWO: 5} and len(movements(conn)) == before


@pytest.mark.parametrize("parameter", [0.1, 1.5, 1e-7])
def test_a_parameter_that_a_driver_binds_as_a_float_is_refused(conn, parameter):
    """psycopg binds a Python float as double precision. With a cast in the statement it sells the decimal."""
    before = stock_of(conn)[ONE]
    assert refused(conn, "SELECT decrement_item(%s, %s)", (ONE, parameter)).sqlstate == "42883"
    assert stock_of(conn)[ONE] == before
    sold = conn.execute("SELECT decrement_item(%s, %s::numeric)::text", (ONE, parameter)).fetchone()[0]
    assert exact_json(sold)["deducted"] == Decimal(repr(parameter))
    assert stock_of(conn)[ONE] == before - Decimal(repr(parameter))
    audit(conn)


@pytest.mark.parametrize("case", QUANTITIES)
def test_with_a_cast_to_numeric_every_quantity_is_exact(conn, case):
    stock = "0.1" if "expected" in case else "10"
    conn.execute("UPDATE inventory SET quantity = %s WHERE id = %s", (stock, ONE))
    arguments, left = QUANTITIES[case]
    conn.execute(f"SELECT {case.split(',')[0]}({arguments.format('0.1::double precision::numeric')})")
    assert stock_of(conn)[ONE] == Decimal(left)
    audit(conn)


def test_a_cast_of_a_double_has_lost_digits_before_the_call(conn):
    """Why a float is refused: the cast, and so an overload, would sell another quantity than the client had."""
    for written, kept in (("9007199254740993", "9007199254740990"), ("123456789.000000001", "123456789")):
        sold = conn.execute("SELECT decrement_item(%s, %s::float8::numeric)::text", (ONE, written)).fetchone()[0]
        assert str(exact_json(sold)["deducted"]) == str(Decimal(kept))
    audit(conn)
