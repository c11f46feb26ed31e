"""Random calls against a plain model of a shop: every answer, every SQLSTATE and all of the stock must agree.

The model is a dict of decimals and the rules of the manual, in Python. The calls are good and bad, on several items,
under every column type and both error styles, in and out of transactions and savepoints, with restocks between them. A
failing run prints its seed and the shortest list of calls that fails.
"""

from decimal import Decimal, localcontext

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shop import answer_text, attach, exact_json, item, refusal_of, refused_sale, sell, shop, stock_of, stock_table

# type: (decimals kept, digits before the point; None for any)
COLUMNS = {
    "smallint": (0, None),
    "integer": (0, None),
    "bigint": (0, None),
    "numeric": (28, None),
    "numeric(12,2)": (2, 10),
    "numeric(6,3)": (3, 3),
    "numeric(5,0)": (0, 5),
    "numeric(4,-2)": (-2, 6),
    "numeric(2,4)": (4, -2),
}
GREATEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
STYLES = {"sqlstate": {}, "postgrest": {"IV001": "PT409", "IV002": "PT404"}}
ITEMS = [item(n) for n in range(1, 5)]
STRANGERS = [item(n) for n in (5, 99)]

# Quantities as a caller may write them: ordinary, at the edges of types, too precise, too great, and no numbers at all.
ordinary = st.decimals(min_value="0.01", max_value=200, places=2)
small = st.decimals(min_value="0.0001", max_value="0.02", places=4)
whole = st.integers(min_value=1, max_value=60).map(Decimal)
hundreds = st.integers(min_value=1, max_value=40).map(lambda n: Decimal(100 * n))
edges = st.sampled_from(
    [
        "0",
        "0.00",
        "-1",
        "-0.01",
        "0.005",
        "0.0001",
        "1.0",
        "1.000",
        "1e3",
        "99999",
        "100000",
        "32767",
        "32768",
        "2147483647",
        "2147483648",
        "9223372036854775807",
        "9223372036854775808",
        "9999999999.99",
        "10000000000",
        "999.999",
        "1e27",
        "1e28",
        "1e40",
        "-1e40",
        "1e-28",
        "1e-29",
        "9" * 28,
        "9" * 29,
        "0." + "3" * 28,
        "1." + "0" * 27,
        "NaN",
        "Infinity",
        "-Infinity",
    ]
)
quantities = st.one_of(ordinary, small, whole, hundreds, edges.map(Decimal), st.none())


def digits(value: Decimal) -> int:
    """Digits as written, without zeros before the first: those of 1.50 are three."""
    sign, coefficient, exponent = value.as_tuple()
    whole_digits = max(len(coefficient) + exponent, 0) if any(coefficient) else 0
    return whole_digits + max(-exponent, 0)


def decimals_needed(value: Decimal) -> int:
    """Decimals without trailing zeros: −2 for 300."""
    return -value.normalize().as_tuple().exponent


def expected(stock, type, key, quantity):
    """What the manual promises: the new quantity, or SQLSTATE and reason."""
    if key is None or quantity is None:
        return None, "22004", "null_argument"
    if not quantity.is_finite():
        return None, "22023", "not_finite"
    if digits(quantity) > 28:
        return None, "22003", "too_many_digits"
    if quantity <= 0:
        return None, "22023", "not_positive"
    kept, places = COLUMNS[type]
    if decimals_needed(quantity) > kept:
        return None, "22003", "too_many_decimals"
    if quantity > GREATEST.get(type, quantity) or (places is not None and quantity >= Decimal(10) ** places):
        return None, "22003", "too_many_digits"
    if key not in stock:
        return None, "IV002", "unknown_item"
    if stock[key] < quantity:
        return None, "IV001", "insufficient"
    new = stock[key] - quantity
    if type == "numeric" and digits(new.normalize()) > 28:
        # a column without a scale keeps the decimals of both: 1.0001 less 1e-28 has 29 digits; but 10.00 has two
        return None, "22003", "overflow"
    return new, None, None


class Shop(RuleBasedStateMachine):
    """The shop over a real connection, beside its model."""

    db = None  # set by the test

    @initialize(type=st.sampled_from(sorted(COLUMNS)), data=st.data())
    def opens(self, type, data):
        self.type = type
        kept, places = COLUMNS[type]
        unit = Decimal(1).scaleb(-min(kept, 4))
        most = min(
            int(GREATEST.get(type, 10**9) / unit), 10**6 if places is None else 10 ** (places + min(kept, 4)) - 1
        )
        self.stock = {key: data.draw(st.integers(0, most), label="opening") * unit for key in ITEMS}
        self.conn = self.db.connect()
        self.conn.execute("DROP TABLE IF EXISTS inventory")
        stock_table(self.conn, self.stock, type=type)
        attach(self.conn)
        self.style = "sqlstate"
        self.marks = []  # what ROLLBACK would give back: of the transaction, then of each savepoint

    def teardown(self):
        if hasattr(self, "conn"):
            if self.marks:
                self.conn.execute("ROLLBACK")
            self.conn.execute("SELECT detach_inventory()")
            self.conn.close()

    @rule(key=st.sampled_from(ITEMS * 4 + STRANGERS + [None]), quantity=quantities)
    def sells(self, key, quantity):
        with localcontext() as context:
            context.prec = 80
            new, sqlstate, reason = expected(self.stock, self.type, key, quantity)
        if self.marks:
            self.conn.execute("SAVEPOINT call")
        try:
            text = answer_text(self.conn, key, format(quantity, "f") if quantity is not None else None)
        except psycopg.Error as error:
            if self.marks:
                self.conn.execute("ROLLBACK TO call")
            self.refuses(refusal_of(error), key, quantity, sqlstate, reason)
        else:
            assert sqlstate is None, f"sold what must be refused with {sqlstate}: {text}"
            answer = exact_json(text)
            assert list(answer) == ["success", "inventory_id", "old_quantity", "new_quantity", "deducted"]
            assert answer["success"] is True and answer["inventory_id"] == str(key)
            assert (answer["old_quantity"], answer["new_quantity"]) == (self.stock[key], new)
            assert answer["deducted"] == quantity
            self.stock[key] = new

    @rule(key=st.sampled_from(ITEMS), units=st.integers(-1, 1))
    def sells_about_what_is_left(self, key, units):
        """All of it, one unit less, and one unit more than there is."""
        unit = Decimal(1).scaleb(-min(COLUMNS[self.type][0], 4))
        self.sells(key, self.stock.get(key, Decimal(0)) + units * unit)

    def refuses(self, answer, key, quantity, sqlstate, reason):
        assert sqlstate is not None, f"refused what must be sold: {answer}"
        assert answer.sqlstate == STYLES[self.style].get(sqlstate, sqlstate), answer
        assert answer.reason == reason, answer
        assert answer.hint
        if reason == "insufficient":
            assert answer.facts["available"] == self.stock[key]
            assert answer.facts["requested"] == quantity
            assert ("Available" in answer.message) == (self.style == "sqlstate")

    @rule(key=st.sampled_from(ITEMS), quantity=st.integers(0, 900))
    def restocks(self, key, quantity):
        """A direct write, as the application does it."""
        unit = Decimal(1).scaleb(-min(COLUMNS[self.type][0], 4))
        places = COLUMNS[self.type][1]
        quantity = (
            min(quantity, 10 ** (places + min(COLUMNS[self.type][0], 4)) - 1 if places is not None else 900) * unit
        )
        self.conn.execute("UPDATE inventory SET quantity = %s::numeric WHERE id = %s", (str(quantity), key))
        if key in self.stock:
            self.stock[key] = quantity

    @rule(key=st.sampled_from(ITEMS))
    def drops_or_brings_back_an_item(self, key):
        if key in self.stock:
            self.conn.execute("DELETE FROM inventory WHERE id = %s", (key,))
            del self.stock[key]
        else:
            self.conn.execute("INSERT INTO inventory VALUES (%s, 0)", (key,))
            self.stock[key] = Decimal(0)

    @rule(style=st.sampled_from(sorted(STYLES)))
    @precondition(lambda self: not self.marks)
    def changes_the_error_style(self, style):
        self.conn.execute(f"SET inventory_ext.error_style = '{style}'")
        self.style = style

    @rule()
    @precondition(lambda self: len(self.marks) < 3)
    def begins_or_marks(self):
        self.conn.execute(f"SAVEPOINT mark{len(self.marks)}" if self.marks else "BEGIN")
        self.marks.append(dict(self.stock))

    @rule(keep=st.booleans())
    @precondition(lambda self: self.marks)
    def ends_or_releases(self, keep):
        before = self.marks.pop()
        if self.marks:
            self.conn.execute(f"{'RELEASE' if keep else 'ROLLBACK TO'} mark{len(self.marks)}")
        else:
            self.conn.execute("COMMIT" if keep else "ROLLBACK")
        if not keep:
            self.stock = before

    @invariant()
    def the_stock_agrees(self):
        if hasattr(self, "conn"):
            assert stock_of(self.conn) == self.stock


def test_a_sale_that_would_leave_29_digits_is_refused_and_one_that_leaves_28_is_not(db):
    """A random call found that the model, and no other test, did not know of it."""
    conn = db.connect()
    shop(conn, {ITEMS[0]: "1.0001", ITEMS[1]: "0.0001"}, type="numeric")
    refusal = refused_sale(conn, ITEMS[0], "0." + "0" * 27 + "1")
    assert (refusal.sqlstate, refusal.reason) == ("22003", "overflow")
    assert sell(conn, ITEMS[1], "0." + "0" * 27 + "1")["new_quantity"] == Decimal("0.0000999999999999999999999999")
    assert stock_of(conn)[ITEMS[0]] == Decimal("1.0001")


def test_random_calls_agree_with_a_plain_model(db):
    """Hypothesis plays the shop, and shortens each failure that it finds."""
    Shop.db = db
    run_state_machine_as_test(
        Shop,
        settings=settings(
            max_examples=75, stateful_step_count=40, suppress_health_check=list(HealthCheck), print_blob=True
        ),
    )


def test_zeros_at_the_end_of_a_difference_are_no_digits(db):
    """Random calls found that the model refused it: 10 with 27 decimals has 29 digits, of which 28 are written."""
    conn = db.connect()
    shop(conn, {ITEMS[0]: "11.0000"}, type="numeric")
    sold = exact_json(answer_text(conn, ITEMS[0], "1." + "0" * 27))
    assert (sold["old_quantity"], sold["new_quantity"], sold["deducted"]) == (11, 10, 1)
    assert stock_of(conn) == {ITEMS[0]: 10}
