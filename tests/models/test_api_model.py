"""Random calls of the whole API, good and bad, beside the model in api_model.py: every answer, refusal and movement
agrees.

On every type of column and in both error styles, in and out of transactions and savepoints, with keys that are used
again, direct writes between the calls, and times in which the table is not attached. A failing run prints its seed and
the shortest list of calls that fails.
"""

from collections import defaultdict
from decimal import Decimal

import psycopg
import pytest
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

from api_model import COLUMNS, GREATEST, Model, Refused
from books import cast, keys_kept, movements
from shop import attach, exact_json, item, literal, refusal_of, stock_of, stock_table

STYLES = {
    "sqlstate": {}, "postgrest": {"IV001": "PT409", "IV002": "PT404", "IV003": "PT422", "IV005": "PT409"},
}  # fmt: skip
ITEMS = [item(n) for n in range(1, 5)]
STRANGERS = [item(5), item(99)]

ordinary = st.decimals(min_value="0.01", max_value=300, places=2)
small = st.decimals(min_value="0.0001", max_value="0.02", places=4)
whole = st.integers(min_value=1, max_value=90).map(Decimal)
hundreds = st.integers(min_value=1, max_value=60).map(lambda n: Decimal(100 * n))
edges = st.sampled_from([
    "0", "0.00", "-1", "0.005", "1.0", "1.000", "1e3", "99999", "32767", "32768", "2147483647", "2147483648",
    "9223372036854775807", "9999999999.99", "10000000000", "999.999", "1e27", "1e28", "-1e40", "1e-28", "1e-29",
    "9" * 28,
    "9" * 29, "1." + "0" * 27, "NaN", "Infinity", "-Infinity",
]).map(Decimal)  # fmt: skip
good = st.one_of(ordinary, small, whole, hundreds)
quantities = st.one_of(good, good, good, edges, st.none())
item_ids = st.sampled_from(ITEMS * 5 + STRANGERS + [None])
keys = st.sampled_from([None] * 4 + ["k1", "k2", "k3"])
references = st.sampled_from([None, "order 1", "order 2"])
on_shortage = st.sampled_from(["abort", "abort", "skip", "partial"])
WORDS = {"p_reference": references, "p_reason": references, "p_on_shortage": on_shortage}
CALLS = {
    function: st.fixed_dictionaries(arguments | {"p_idempotency_key": keys})
    for function, arguments in {
        "decrement_inventory": {"p_inventory_id": item_ids, "p_quantity": quantities},
        "restock_inventory": {"p_inventory_id": item_ids, "p_quantity": quantities, "p_reference": references},
        "adjust_inventory": {
            "p_inventory_id": item_ids, "p_counted_quantity": st.one_of(quantities, st.just(Decimal(0))),
            "p_reason": references,
            "p_expected_quantity": st.one_of(st.none(), st.none(), quantities),
        },
        "transfer_inventory": {"p_from": item_ids, "p_to": item_ids, "p_quantity": quantities,
        "p_reference": references},
        "decrement_inventory_batch": {
            "p_items": st.one_of(
                st.lists(st.tuples(st.sampled_from(ITEMS * 5 + STRANGERS), good), min_size=1, max_size=7),
                st.lists(st.tuples(item_ids, quantities), max_size=7),
            ),
            "p_reference": references, "p_on_shortage": on_shortage,
        },
    }.items()
}  # fmt: skip
BY_SETTING = {"decrement_inventory", "adjust_inventory"}


def element(key, units):
    """A line as JSON: what is no number is written as a text, which is how it can be sent."""
    number = "null" if units is None else f"{units}" if units.is_finite() else f'"{units}"'
    named = "null" if key is None else f'"{key}"'
    return f'{{"inventory_id": {named}, "quantity": {number}}}'


class Api(RuleBasedStateMachine):
    """The shop over a real connection, beside its model."""

    db = None  # set by the test

    @initialize(type=st.sampled_from(sorted(COLUMNS)), data=st.data())
    def opens(self, type, data):
        kept, places, _ = COLUMNS[type]
        self.unit = Decimal(1).scaleb(-min(kept, 4))
        most = min(
            int(GREATEST.get(type, 10**9) / self.unit), 10 ** (6 if places is None else places + min(kept, 4)) - 1
        )
        self.most = most * self.unit
        units = st.one_of(st.integers(0, min(most, 500)), st.integers(0, most), st.sampled_from([0, most - 1, most]))
        self.openings = units.map(lambda n: n * self.unit)
        stock = {key: data.draw(self.openings, label="opening") for key in ITEMS}
        self.model = Model(type, stock)
        self.conn = self.db.connect()
        self.conn.execute("DROP TABLE IF EXISTS inventory, inventory_movement, inventory_request")
        stock_table(self.conn, stock, type=type)
        attach(self.conn)
        self.style = "sqlstate"
        self.asked = []  # requests with a key, to repeat
        self.marks = []  # what ROLLBACK would give back: of the transaction, then of each savepoint

    def teardown(self):
        if hasattr(self, "conn"):
            if self.marks:
                self.conn.execute("ROLLBACK")
            self.conn.execute("SELECT detach_inventory()")
            self.conn.close()

    def call(self, function, arguments):
        """One call of both; where the key has no argument it comes as a setting, for this statement alone."""
        sent = dict(arguments)
        if function == "decrement_inventory_batch":
            sent["p_items"] = "[" + ", ".join(element(*line) for line in arguments["p_items"]) + "]"
        setting = sent.pop("p_idempotency_key", None) if function in BY_SETTING else None
        sent = {name: literal(value) for name, value in sent.items()}
        named = ", ".join(f"{name} => %({name})s{cast(name)}" for name in sent)
        sql = (
            f"SELECT {function}({named})::text FROM (SELECT set_config('inventory_ext.idempotency_key', %(setting)s, "
            "true)"
            " OFFSET 0) AS s (key) WHERE key IS NOT NULL"
        )
        try:
            with self.conn.transaction():
                got = exact_json(self.conn.execute(sql, sent | {"setting": setting or ""}).fetchone()[0])
        except psycopg.Error as error:
            got = refusal_of(error)
        try:
            wanted = self.model.call(function, arguments)
        except Refused as refused:
            assert not isinstance(got, dict), f"done what must be refused with {refused}: {got}"
            assert (got.sqlstate, got.reason) == (
                STYLES[self.style].get(refused.sqlstate, refused.sqlstate),
                refused.reason,
            )
            assert refused.facts.items() <= got.facts.items()
            assert got.hint
        else:
            assert got == wanted, got

    def calls(self, function, arguments):
        """A rule for each function; a request with a key may be repeated later."""
        if arguments["p_idempotency_key"]:
            self.asked.append((function, arguments))
        self.call(function, arguments)

    sells = rule(arguments=CALLS["decrement_inventory"])(
        lambda self, arguments: self.calls("decrement_inventory", arguments)
    )
    restocks = rule(arguments=CALLS["restock_inventory"])(
        lambda self, arguments: self.calls("restock_inventory", arguments)
    )
    counts = rule(arguments=CALLS["adjust_inventory"])(
        lambda self, arguments: self.calls("adjust_inventory", arguments)
    )
    transfers = rule(arguments=CALLS["transfer_inventory"])(
        lambda self, arguments: self.calls("transfer_inventory", arguments)
    )

    @rule(arguments=CALLS["decrement_inventory_batch"])
    def orders(self, arguments):
        self.calls("decrement_inventory_batch", arguments)

    @rule(data=st.data(), differs=st.booleans())
    @precondition(lambda self: self.asked)
    def repeats(self, data, differs):
        """A request with a key once more, or another with its key: done meanwhile, undone, refused, or used for
        another."""
        function, arguments = data.draw(st.sampled_from(self.asked), label="again")
        if function == "decrement_inventory_batch":
            arguments = arguments | {"p_items": data.draw(st.permutations(arguments["p_items"]), label="in this order")}
        if differs:
            changes = sorted({*WORDS, "p_quantity", "p_counted_quantity"} & arguments.keys())
            change = data.draw(st.sampled_from(changes), label="with another")
            arguments = arguments | {change: data.draw(WORDS.get(change, good), label=change)}
        self.call(function, arguments)

    @rule(keys=st.lists(st.sampled_from(ITEMS), min_size=1, max_size=4), units=st.integers(-1, 1), data=st.data())
    def orders_about_what_is_left(self, keys, units, data):
        """All of it, one unit less, and one unit more than there is."""
        asked = [(key, self.model.stock.get(key, Decimal(0)) + units * self.unit) for key in keys]
        word = data.draw(on_shortage, label="on shortage")
        self.call("decrement_inventory_batch", {"p_items": asked, "p_reference": None, "p_on_shortage": word})

    @rule(key=st.sampled_from(ITEMS), units=st.integers(-1, 1))
    def counts_about_what_is_there(self, key, units):
        """The count that finds what the stock says, and those that miss it by one."""
        there = self.model.stock.get(key, Decimal(0))
        arguments = {"p_inventory_id": key, "p_counted_quantity": there + units * self.unit, "p_reason": None}
        self.call("adjust_inventory", arguments | {"p_expected_quantity": there})

    @rule(key=st.sampled_from(ITEMS), other=st.sampled_from(ITEMS), units=st.integers(-1, 1))
    def fills_up(self, key, other, units):
        """Restocks and moves as much as the column just holds, one unit less, and one more."""
        room = self.most - self.model.stock.get(key, Decimal(0)) + units * self.unit
        self.call("restock_inventory", {"p_inventory_id": key, "p_quantity": room, "p_reference": None})
        self.call("transfer_inventory", {"p_from": other, "p_to": key, "p_quantity": self.unit, "p_reference": None})

    @rule(key=st.sampled_from(ITEMS), data=st.data())
    def writes_directly(self, key, data):
        units = data.draw(self.openings, label="quantity")
        self.conn.execute("UPDATE inventory SET quantity = %s::numeric WHERE id = %s", (str(units), key))
        self.model.write(key, units)

    @rule(key=st.sampled_from(ITEMS), data=st.data())
    def drops_or_brings_back_an_item(self, key, data):
        if key in self.model.stock:
            self.conn.execute("DELETE FROM inventory WHERE id = %s", (key,))
            self.model.delete(key)
        else:
            units = data.draw(self.openings, label="quantity")
            self.conn.execute("INSERT INTO inventory VALUES (%s, %s::numeric)", (key, str(units)))
            self.model.insert(key, units)

    @rule(data=st.data(), keys=st.sets(st.sampled_from(ITEMS), max_size=2))
    def changes_stock_while_detached(self, data, keys):
        """Attached again, the ledger catches up: one movement for each item that differs."""
        self.conn.execute("SELECT detach_inventory()")
        for key in sorted(keys):
            self.conn.execute("DELETE FROM inventory WHERE id = %s", (key,))
            self.model.stock.pop(key, None)
            if data.draw(st.booleans(), label="stays"):
                units = data.draw(self.openings, label="quantity")
                self.conn.execute("INSERT INTO inventory VALUES (%s, %s::numeric)", (key, str(units)))
                self.model.stock[key] = self.model.as_stored(units)
        attach(self.conn)
        self.model.catch_up()

    @rule(style=st.sampled_from(sorted(STYLES)))
    @precondition(lambda self: not self.marks)
    def changes_the_error_style(self, style):
        self.conn.execute(f"SET inventory_ext.error_style = '{style}'")
        self.style = style

    @rule()
    def purges_keys(self):
        purged = self.conn.execute("SELECT purge_requests('0 seconds')").fetchone()[0]
        assert purged == len(self.model.keys)
        self.model.keys.clear()

    @rule()
    @precondition(lambda self: len(self.marks) < 3)
    def begins_or_marks(self):
        self.conn.execute(f"SAVEPOINT mark{len(self.marks)}" if self.marks else "BEGIN")
        self.marks.append(self.model.copy())

    @rule(keep=st.booleans())
    @precondition(lambda self: self.marks)
    def ends_or_releases(self, keep):
        before = self.marks.pop()
        if self.marks:
            self.conn.execute(f"{'RELEASE' if keep else 'ROLLBACK TO'} mark{len(self.marks)}")
        else:
            self.conn.execute("COMMIT" if keep else "ROLLBACK")
        if not keep:
            self.model = before

    @invariant()
    def everything_agrees(self):
        if hasattr(self, "conn"):
            assert stock_of(self.conn) == self.model.stock
            chains = defaultdict(list)
            for movement in movements(self.conn):
                chains[movement.item].append(movement[1:6])
            assert chains == {key: chain for key, chain in self.model.chains.items() if chain}
            assert keys_kept(self.conn) == sorted(self.model.keys)


@pytest.mark.timeout(1200)  # what fails is shortened, which takes its time
def test_random_calls_of_the_whole_api_agree_with_a_plain_model(db):
    """Hypothesis plays the shop, and shortens each failure that it finds."""
    Api.db = db
    run_state_machine_as_test(
        Api,
        settings=settings(
            max_examples=40, stateful_step_count=60, suppress_health_check=list(HealthCheck), print_blob=True
        ),
    )
