"""What a sale answers: five keys in one order, and every digit that the table holds.

The answers are compared as text, because a JSON reader that goes through floating point would hide lost digits.
"""

import json

import pytest

from shop import ONE, answer_text, attach, exact_json, fill, item, left, refused, refused_sale, sell, shop, stock_table


@pytest.fixture
def conn(db):
    return db.connect()


def test_the_answer_is_these_five_keys_in_this_order(conn):
    """The contract, to the letter."""
    shop(conn, {ONE: "11.52"})
    assert answer_text(conn, ONE, "1") == (
        '{"success": true, "inventory_id": "00000000-0000-0000-0000-000000000001", '
        '"old_quantity": 11.52, "new_quantity": 10.52, "deducted": 1}'
    )


def test_arguments_can_be_named_and_the_answer_is_json(conn):
    """RPC callers pass arguments by name and read a json value."""
    shop(conn, {ONE: "3"}, type="integer")
    row = conn.execute(
        "SELECT pg_typeof(answer)::text, answer ->> 'new_quantity' FROM "
        "(SELECT decrement_inventory(p_quantity => 2, p_inventory_id => %s) AS answer) AS call",
        (ONE,),
    ).fetchone()
    assert row == ("json", "1")


@pytest.mark.parametrize(
    ("type", "stock", "quantity", "old", "new"),
    [
        ("numeric(12,2)", "11.50", "0.50", "11.50", "11.00"),
        ("numeric(12,2)", "0.03", "0.01", "0.03", "0.02"),
        ("numeric(12,2)", "9999999999.99", "0.01", "9999999999.99", "9999999999.98"),
        ("numeric(12,2)", "5", "5", "5.00", "0.00"),
        ("numeric", "11.500", "0.5", "11.500", "11.000"),
        ("numeric", "1", "0.1", "1", "0.9"),
        ("numeric", "1234567890123456.789012345678", "0.000000000001", None, "1234567890123456.789012345677"),
        ("numeric", "9999999999999999999999999999", "1", None, "9999999999999999999999999998"),
        (
            "numeric",
            "0.0000000000000000000000000003",
            "0.0000000000000000000000000001",
            None,
            "0.0000000000000000000000000002",
        ),
        ("numeric", "9007199254740993", "1", None, "9007199254740992"),
        ("numeric(28,10)", "123456789012345678.0123456789", "0.0000000001", None, "123456789012345678.0123456788"),
        ("numeric(5,0)", "99999", "99998", "99999", "1"),
        ("numeric(3,5)", "0.00999", "0.00001", "0.00999", "0.00998"),
        ("smallint", "32767", "1", "32767", "32766"),
        ("integer", "2147483647", "2147483646", "2147483647", "1"),
        ("bigint", "9223372036854775807", "1", "9223372036854775807", "9223372036854775806"),
    ],
)
def test_every_digit_comes_back(conn, type, stock, quantity, old, new):
    """Exact both ways on every column type, to the edge of each; the answer prints what the table holds."""
    shop(conn, {ONE: stock}, type=type)
    text = answer_text(conn, ONE, quantity)
    held = conn.execute("SELECT quantity::text FROM inventory WHERE id = %s", (ONE,)).fetchone()[0]
    assert f'"old_quantity": {old or stock}, "new_quantity": {new}, "deducted": {quantity}}}' in text
    assert held == new


def test_a_negative_scale_keeps_multiples_and_refuses_the_rest(conn):
    """numeric(3,-2) keeps hundreds: 100 can be sold, 50 would be rounded and is refused."""
    shop(conn, {ONE: "12300"}, type="numeric(3,-2)")
    assert answer_text(conn, ONE, "100").endswith('"old_quantity": 12300, "new_quantity": 12200, "deducted": 100}')
    answer = refused_sale(conn, ONE, "50")
    assert (answer.sqlstate, answer.reason) == ("22003", "too_many_decimals")
    assert left(conn, ONE) == 12200


@pytest.mark.parametrize(("type", "quantity"), [("numeric(12,2)", "1.000"), ("integer", "1.0"), ("smallint", "1.00")])
def test_zeros_after_the_last_digit_are_no_further_decimals(conn, type, quantity):
    """1.000 is 1: nothing would be rounded, so nothing is refused."""
    shop(conn, {ONE: "7"}, type=type)
    answer = sell(conn, ONE, quantity)
    assert (answer["old_quantity"], answer["new_quantity"], answer["deducted"]) == (7, 6, 1)
    assert left(conn, ONE) == 6


@pytest.mark.parametrize("type", ["bigint", "numeric(12,2)"])
def test_a_one_with_27_zeros_behind_the_point_is_sold_from_eleven(conn, type):
    """It was refused: the difference at 27 decimals has 29 digits, though the column keeps none of those zeros."""
    shop(conn, {ONE: "11"}, type=type)
    assert sell(conn, ONE, "1." + "0" * 27)["new_quantity"] == 10
    restocked = "SELECT restock_inventory(%s, %s::numeric)"
    conn.execute(restocked, (ONE, "1." + "0" * 27))
    order = [{"inventory_id": str(ONE), "quantity": "1." + "0" * 27}, {"inventory_id": str(ONE), "quantity": "10"}]
    conn.execute("SELECT decrement_inventory_batch(%s::jsonb)", (json.dumps(order),))
    assert left(conn, ONE) == 0


def test_a_difference_that_needs_more_than_28_digits_is_refused_not_rounded(conn):
    """10^20 less 10^-10 has 30 digits. Rounding it would sell something and deduct nothing."""
    shop(conn, {ONE: "100000000000000000000"}, type="numeric")
    answer = refused_sale(conn, ONE, "0.0000000001")
    assert answer.sqlstate in ("22003", "IV007"), answer
    assert conn.execute("SELECT quantity::text FROM inventory").fetchone()[0] == "100000000000000000000"
    assert sell(conn, ONE, "1")["new_quantity"] == 99999999999999999999


def test_stock_of_more_than_28_digits_is_refused_not_rounded(conn):
    """A stored quantity of 31 digits is not cut to 28: the sale fails and says what is stored."""
    stock_table(conn, {}, type="numeric")
    attach(conn)
    fill(conn, {ONE: "1234567890123456789012345678901"})
    answer = refused_sale(conn, ONE, "1")
    assert (answer.sqlstate, answer.reason) == ("IV007", "unreadable_stock")
    assert "1234567890123456789012345678901" in answer.detail
    assert conn.execute("SELECT quantity::text FROM inventory").fetchone()[0] == "1234567890123456789012345678901"


def test_a_sale_of_every_item_in_one_statement(conn):
    """The function may be called a row at a time over the stock table itself: each row is sold from once."""
    shop(conn, {item(n): n for n in range(1, 40)}, type="integer")
    before = conn.execute("SELECT sum(quantity) FROM inventory").fetchone()[0]
    rows = conn.execute("SELECT decrement_inventory(id, 1)::text FROM inventory").fetchall()
    assert len(rows) == 39
    assert all(exact_json(text)["deducted"] == 1 for (text,) in rows)
    assert conn.execute("SELECT sum(quantity) FROM inventory").fetchone()[0] == before - 39


def test_two_sales_of_one_item_in_one_statement_see_each_other(conn):
    """Each call looks anew: the second starts from what the first left, and a third that is short undoes all."""
    shop(conn, {ONE: "5"}, type="integer")
    rows = conn.execute("SELECT decrement_inventory(%s, n)::text FROM (VALUES (1), (2)) AS v(n)", (ONE,)).fetchall()
    assert [exact_json(text)["new_quantity"] for (text,) in rows] == [4, 2]
    answer = refused(conn, "SELECT decrement_inventory(%s, n) FROM (VALUES (1), (2)) AS v(n)", (ONE,))
    assert (answer.sqlstate, answer.facts["available"]) == ("IV001", 1)
    assert left(conn, ONE) == 2
