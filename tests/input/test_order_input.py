"""What p_items may look like: everything else is refused before anything is locked, and the error names the element.

The matrix pairs one bad element with its reason; it is tried between two good ones, which must not be sold. Limits on
the number of lines, and who may raise them, are here too.
"""

import json

import psycopg
import pytest

from books import call, lines, movements, order, refused_call, refused_order
from shop import ONE, TWO, create_role, exact_json, item, refused, shop, stock_of

UUID = str(ONE)
STOCK = {ONE: 10, TWO: 20}
NINES = "9" * 28


@pytest.fixture(scope="module")
def refusing(server, template):
    """One database for all refusals, which must leave it as it was."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE malformed_orders TEMPLATE {template}")
    with psycopg.connect(server.dsn("malformed_orders"), autocommit=True) as conn:
        shop(conn, STOCK)
        yield conn
        assert stock_of(conn) == STOCK
        assert len(movements(conn)) == len(STOCK)
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("DROP DATABASE malformed_orders")


@pytest.fixture
def conn(db):
    """A database of the test's own, for what is sold."""
    conn = db.connect()
    shop(conn, STOCK)
    return conn


def refused_items(conn, text, **arguments):
    return refused_call(conn, "decrement_inventory_batch", p_items=text, **arguments)


@pytest.mark.parametrize(
    ("items", "type"),
    [("{}", "object"), (f'{{"inventory_id": "{UUID}", "quantity": 1}}', "object"), ('"text"', "string"), ("5",
     "number"),
     ("true", "boolean"), ("null", "null")],
)  # fmt: skip
def test_items_that_are_no_array(refusing, items, type):
    """The JSON type found is named."""
    answer = refused_items(refusing, items, p_reference="o-1")
    assert (answer.sqlstate, answer.message) == ("22023", "p_items must be an array of lines")
    assert answer.facts == {"reason": "not_an_array", "argument": "p_items", "type": type, "reference": "o-1"}
    assert answer.hint


def test_an_order_without_lines(refusing):
    answer = refused_items(refusing, "[]")
    assert (answer.sqlstate, answer.message, answer.reason) == ("22023", "p_items has no lines", "no_lines")


@pytest.mark.parametrize("argument", ["p_items", "p_on_shortage"])
def test_null_is_no_order(refusing, argument):
    """SQL NULL: never a silent NULL for an answer."""
    answer = refused_call(
        refusing,
        "decrement_inventory_batch",
        **({"p_items": lines((ONE, 1)), "p_on_shortage": "skip"} | {argument: None}),
    )
    assert (answer.sqlstate, answer.message) == ("22004", f"{argument} must not be null")
    assert (answer.reason, answer.facts["argument"]) == ("null_argument", argument)


@pytest.mark.parametrize("word", ["", "ABORT", "skip ", "ignore"])
def test_another_word_in_on_shortage(refusing, word):
    answer = refused_order(refusing, (ONE, 1), p_on_shortage=word)
    assert (answer.sqlstate, answer.reason) == ("22023", "unknown_word")
    assert answer.facts["value"] == word
    assert answer.facts["allowed"] == ["abort", "skip", "partial"]
    assert stock_of(refusing)[ONE] == 10


def with_quantity(quantity):
    return f'{{"inventory_id": "{UUID}", "quantity": {quantity}}}'


def with_id(key):
    return f'{{"inventory_id": {key}, "quantity": 1}}'


BAD_ELEMENTS = [
    ("null", "not_an_object"), ("7", "not_an_object"), ('"x"', "not_an_object"), ("true", "not_an_object"),
    ("[]", "not_an_object"), (f'["{UUID}", 1]', "not_an_object"),
    ("{}", "no_inventory_id"), ('{"quantity": 1}', "no_inventory_id"), (with_id("null"), "no_inventory_id"),
    (with_id('""'), "not_a_uuid"), (with_id('"x"'), "not_a_uuid"), (with_id("5"), "not_a_uuid"),
    (with_id("[]"), "not_a_uuid"), (with_id(f'"{UUID[:-1]}"'), "not_a_uuid"), (with_id(f'"{UUID}0"'), "not_a_uuid"),
    (with_id(f'"{UUID[:-1]}g"'), "not_a_uuid"), (with_id(f'" {UUID}"'), "not_a_uuid"),
    (with_id('"' + UUID.replace("-", "_") + '"'), "not_a_uuid"),
    (f'{{"inventory_id": "{UUID}"}}', "no_quantity"), (with_quantity("null"), "no_quantity"),
    (with_quantity("true"), "not_a_number"), (with_quantity("[1]"), "not_a_number"),
    (with_quantity("{}"), "not_a_number"), (with_quantity('""'), "not_a_number"),
    (with_quantity('"one"'), "not_a_number"), (with_quantity('" 1"'), "not_a_number"),
    (with_quantity('"1,5"'), "not_a_number"), (with_quantity('"1.2.3"'), "not_a_number"),
    (with_quantity('"0x10"'), "not_a_number"), (with_quantity('"--1"'), "not_a_number"),
    (with_quantity('"."'), "not_a_number"),
    (with_quantity('"NaN"'), "not_finite"), (with_quantity('"Infinity"'), "not_finite"),
    (with_quantity('"-Infinity"'), "not_finite"),
    (with_quantity("0"), "not_positive"), (with_quantity("0.00"), "not_positive"), (with_quantity("-1"),
    "not_positive"),
    (with_quantity('"-0.01"'), "not_positive"), (with_quantity("-0"), "not_positive"),
    (f'{{"inventory_id": "{UUID}", "quantity": 1, "price": 2}}', "unknown_key"),
    (f'{{"inventory_id": "{UUID}", "Quantity": 1}}', "unknown_key"), (f'{{"id": "{UUID}", "quantity": 1}}',
    "unknown_key"),
]  # fmt: skip


@pytest.mark.parametrize(("element", "reason"), BAD_ELEMENTS)
def test_a_bad_element_is_named(refusing, element, reason):
    """22023 with the element's place, counted from 0, and the element itself; the good lines beside it are not sold."""
    before = movements(refusing)
    good = lines((TWO, 1))[1:-1]
    answer = refused_items(refusing, f"[{good}, {element}, {good}]", p_reference="o-2", p_on_shortage="skip")
    assert (answer.sqlstate, answer.message) == ("22023", "p_items has a line that cannot be read")
    facts = answer.facts
    assert (facts["reason"], facts["argument"], facts["element"], facts["reference"]) == (reason, "p_items", 1, "o-2")
    assert facts["line"] == exact_json(element)
    assert answer.hint
    assert stock_of(refusing) == STOCK
    assert movements(refusing) == before


@pytest.mark.parametrize(
    ("quantity", "reason"),
    [("9" * 29, "too_many_digits"), ('"0.' + "3" * 29 + '"', "too_many_digits"), ("1e40", "too_many_digits"),
     ("1e-29", "too_many_digits"), ("0.005", "too_many_decimals"), ('"1.001"', "too_many_decimals"),
     ("10000000000", "too_many_digits")],
)  # fmt: skip
def test_a_quantity_with_more_digits_than_can_be_kept_is_named(refusing, quantity, reason):
    """22003, as everywhere, with the element: 28 digits are kept, and two decimals by numeric(12,2)."""
    answer = refused_items(refusing, f"[{lines((TWO, 1))[1:-1]}, {with_quantity(quantity)}]", p_on_shortage="partial")
    assert (answer.sqlstate, answer.reason) == ("22003", reason)
    assert answer.facts["element"] == 1
    assert stock_of(refusing) == STOCK


def test_a_sum_with_more_digits_than_can_be_kept_names_the_element_that_is_too_much(db):
    """Each line fits, the sum does not."""
    conn = db.connect()
    shop(conn, {ONE: NINES, TWO: "5"}, type="numeric")
    answer = refused_order(conn, (TWO, 1), (ONE, NINES), (TWO, 1), (ONE, 1))
    assert (answer.sqlstate, answer.reason, answer.facts["element"]) == ("22003", "too_many_digits", 3)


@pytest.mark.parametrize(("type", "most"), [("smallint", 2**15 - 1), ("integer", 2**31 - 1), ("bigint", 2**63 - 1)])
def test_whole_number_columns_name_what_they_cannot_keep(db, type, most):
    """Fractions and more than the type holds; the greatest value itself is only short."""
    conn = db.connect()
    shop(conn, {ONE: 5}, type=type)
    for quantity, reason in (("0.5", "too_many_decimals"), (most + 1, "too_many_digits")):
        answer = refused_order(conn, (ONE, 1), (TWO, quantity))
        assert (answer.sqlstate, answer.reason, answer.facts["element"]) == ("22003", reason, 1)
    assert refused_order(conn, (ONE, most)).sqlstate == "IV001"
    assert order(conn, (ONE, "5.00"))["lines"][0]["new_quantity"] == 0


def test_a_long_element_is_not_repeated_in_full(refusing):
    """The error stays readable: the beginning of the element is enough to find it."""
    answer = refused_items(refusing, json.dumps([{"inventory_id": "x" * 100_000, "quantity": 1}]))
    assert (answer.reason, answer.facts["element"]) == ("not_a_uuid", 0)
    assert len(answer.detail) < 1000


def test_deep_nesting_is_refused_and_not_a_crash(conn):
    """PostgreSQL stores it as jsonb; as an order it is only malformed."""
    deep = "[" * 2000 + "]" * 2000
    assert refused_items(conn, deep).sqlstate == "22023"
    assert refused_items(conn, f'[{{"inventory_id": {deep}, "quantity": 1}}]').sqlstate == "22023"
    assert order(conn, (ONE, 1))["success"] is True


@pytest.mark.parametrize("spelling", [UUID.upper(), UUID.replace("-", "")])
def test_a_uuid_may_be_written_in_capitals_and_without_hyphens(conn, spelling):
    """As PostgreSQL reads it; two spellings are one item, and the answer has PostgreSQL's."""
    answer = order(conn, (spelling, 1), (UUID, 2))
    assert [(line["inventory_id"], line["deducted"]) for line in answer["lines"]] == [(UUID, 3)]


@pytest.mark.parametrize("quantity", ["2", "2.00", "2e0", '"2"', '"2.0"'])
def test_a_quantity_may_be_a_number_or_a_text(conn, quantity):
    """A text, for clients whose numbers are binary fractions."""
    assert order(conn, (ONE, quantity))["lines"][0]["new_quantity"] == 8


def test_more_lines_than_allowed_are_refused_by_number(conn):
    """54000 with both numbers; elements count before they are summed; nothing is read or locked."""
    answer = refused_order(conn, *[(ONE, "0.01")] * 10_001)
    assert (answer.sqlstate, answer.message) == ("54000", "p_items has too many lines")
    assert answer.facts == {"reason": "too_many_lines", "lines": 10_001, "max_lines": 10_000}
    assert answer.hint
    conn.execute("SET inventory_ext.max_batch_lines = 2")
    assert refused_order(conn, (ONE, 1), (ONE, 1), (ONE, 1)).facts["max_lines"] == 2
    assert order(conn, (ONE, 1), (ONE, 1))["lines"][0]["new_quantity"] == 8
    conn.execute("SET inventory_ext.max_batch_lines = 10001")
    assert (
        refused_order(conn, *[(ONE, "0.01")] * 10_001).message
        == "Insufficient inventory. Available: 8.00, Requested: 100.01"
    )


def test_only_a_superuser_raises_the_limit(db, conn):
    """It relaxes a check, so neither the caller nor the owner of the table may; a superuser can for a role."""
    clerk = create_role(conn, db, "clerk")
    conn.execute(f'GRANT EXECUTE ON FUNCTION decrement_inventory_batch TO "{clerk}"')
    till = db.connect(user=clerk)
    assert order(till, (ONE, 1))["success"] is True
    for sql in ("SET inventory_ext.max_batch_lines = 20000", "SET LOCAL inventory_ext.max_batch_lines = 1",
                "SELECT set_config('inventory_ext.max_batch_lines', '20000', false)"):  # fmt: skip
        assert refused(till, sql).sqlstate == "42501"
    conn.execute(f'ALTER ROLE "{clerk}" SET inventory_ext.max_batch_lines = 1')
    assert refused_order(db.connect(user=clerk), (ONE, 1), (ONE, 1)).facts["max_lines"] == 1


def test_the_limit_itself_has_limits(conn):
    """Between one and a million."""
    for value in (0, -1, 1_000_001):
        assert refused(conn, f"SET inventory_ext.max_batch_lines = {value}").sqlstate == "22023"
    call(conn, "decrement_inventory_batch", p_items=lines((item(1), 1)))
