"""A request that is sent again is answered again and not carried out again.

The key may be an argument, a setting or an HTTP header, for every function that writes. What counts as the same
request, what a failed one leaves behind, how rivals with one key wait for each other, and how keys are forgotten.
Answers that are lost on their way are in test_lost_answers.py.
"""

import json
import threading

import pytest

from books import audit, call, call_text, keys_kept, last_movement, lines, movements, order, refused_call, refused_order
from shop import (
    ONE,
    TWO,
    UNKNOWN,
    Aside,
    create_role,
    refused,
    refused_sale,
    sell,
    shop,
    stock_of,
    until_waiting,
)

# One good call of every function that takes a key as an argument.
CALLS = {
    "decrement_inventory_batch": {"p_items": lines((ONE, 1), (TWO, "0.5"))},
    "restock_inventory": {"p_inventory_id": ONE, "p_quantity": "2.5"},
    "transfer_inventory": {"p_from": ONE, "p_to": TWO, "p_quantity": 3},
}
# Those that take it from the setting alone.
OTHERS = {
    "decrement_inventory": {"p_inventory_id": ONE, "p_quantity": 1},
    "adjust_inventory": {"p_inventory_id": ONE, "p_counted_quantity": 7},
}
KIND = {
    "decrement_inventory_batch": "sale", "restock_inventory": "restock", "transfer_inventory": "transfer",
    "decrement_inventory": "sale", "adjust_inventory": "adjustment",
}  # fmt: skip
STYLES = {"sqlstate": "IV003", "postgrest": "PT422"}


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "10.00", TWO: "5.00"})
    return conn


def replay(text):
    """The first answer as its retry must get it."""
    return text[:-1] + ', "replayed": true}'


@pytest.mark.parametrize("function", CALLS)
def test_a_retry_is_answered_and_not_carried_out(conn, function):
    """The same text with one key more, as often as it is asked; one set of movements, each with the key."""
    after = last_movement(conn)
    first = call_text(conn, function, **CALLS[function], p_reference="r", p_idempotency_key="k")
    stock, made = stock_of(conn), movements(conn, after=after)
    for _ in range(3):
        assert call_text(conn, function, **CALLS[function], p_reference="r", p_idempotency_key="k") == replay(first)
    assert stock_of(conn) == stock != {ONE: 10, TWO: 5}
    assert movements(conn, after=after) == made
    assert {(m.kind, m.reference, m.key) for m in made} == {(KIND[function], "r", "k")}
    assert keys_kept(conn) == ["k"]
    assert call_text(conn, function, **CALLS[function], p_reference="r", p_idempotency_key="l") != replay(first)
    audit(conn)


@pytest.mark.parametrize("function", CALLS | OTHERS)
@pytest.mark.parametrize("way", ["setting", "header"])
def test_the_key_may_come_as_a_setting_or_as_a_header(db, conn, function, way):
    """For callers who cannot pass one more argument; PostgREST sets request.headers for each request."""
    arguments = (CALLS | OTHERS)[function]
    till = db.connect(autocommit=False)
    if way == "header":
        till.execute("SET inventory_ext.request_headers = on")
        till.commit()

    def request(key):
        if way == "setting":
            till.execute("SELECT set_config('inventory_ext.idempotency_key', %s, true)", (key,))
        else:
            headers = json.dumps({"accept": "*/*", "idempotency-key": key})
            till.execute("SELECT set_config('request.headers', %s, true)", (headers,))
        text = call_text(till, function, **arguments)
        till.commit()
        return text

    after = last_movement(conn)
    first = request("order-1")
    stock = stock_of(conn)
    assert request("order-1") == replay(first)
    assert stock_of(conn) == stock
    assert {(m.kind, m.key) for m in movements(conn, after=after)} == {(KIND[function], "order-1")}
    assert "replayed" not in request("order-2")
    assert "replayed" not in call_text(till, function, **arguments), "SET LOCAL ends with its transaction"
    till.commit()
    assert keys_kept(conn) == ["order-1", "order-2"]
    audit(conn)


def test_the_header_counts_only_where_it_is_asked_for(conn):
    """Off by default; what is no header of that name, or no JSON, is no key."""

    def sell_with_header():
        with conn.transaction():
            conn.execute("""SET LOCAL request.headers = '{"idempotency-key": "k"}'""")
            return sell(conn, ONE, 1)

    assert sell_with_header()["new_quantity"] == 9
    assert sell_with_header()["new_quantity"] == 8
    conn.execute("SET inventory_ext.request_headers = on")
    assert sell_with_header()["new_quantity"] == 7
    assert sell_with_header() == {**sell_with_header(), "replayed": True}
    for headers in ("", "{}", "[]", "no json", '{"idempotency-key": ""}', '{"idempotency-key": 5}', '{"other": "k"}'):
        conn.execute("SELECT set_config('request.headers', %s, false)", (headers,))
        assert "replayed" not in sell(conn, ONE, "0.01")
    assert keys_kept(conn) == ["k"]


def test_an_argument_goes_before_the_setting_and_the_setting_before_the_header(conn):
    header = """SET LOCAL request.headers = '{"idempotency-key": "header"}'"""
    conn.execute("SET inventory_ext.request_headers = on")
    with conn.transaction():
        conn.execute(header)
        conn.execute("SET LOCAL inventory_ext.idempotency_key = 'setting'")
        call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1, p_idempotency_key="argument")
        call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1)
    with conn.transaction():
        conn.execute(header)
        call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1)
    assert [m.key for m in movements(conn) if m.kind == "restock"] == ["argument", "setting", "header"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("function", CALLS)
def test_the_same_key_with_other_arguments_is_refused(conn, style, function):
    """IV003, with the key and the function that used it; nothing changes, and the first request can still be
    repeated."""
    conn.execute(f"SET inventory_ext.error_style = '{style}'")
    good = CALLS[function] | {"p_reference": "r", "p_idempotency_key": "k"}
    first = call_text(conn, function, **good)
    stock = stock_of(conn)
    other = {
        "decrement_inventory_batch": [
            {"p_items": lines((ONE, 1), (TWO, "0.51"))}, {"p_items": lines((ONE, 1))}, {"p_on_shortage": "skip"},
            {"p_items": lines((ONE, "0.5"), (TWO, 1))}, {"p_items": lines((ONE, 1), (TWO, "0.5"), (UNKNOWN, 1))},
        ],
        "restock_inventory": [{"p_quantity": 2}, {"p_inventory_id": TWO}, {"p_inventory_id": UNKNOWN}],
        "transfer_inventory": [{"p_quantity": 2}, {"p_from": TWO, "p_to": ONE}, {"p_to": UNKNOWN}],
    }  # fmt: skip
    for change in [*other[function], {"p_reference": "s"}, {"p_reference": None}]:
        answer = refused_call(conn, function, **(good | change))
        assert (answer.sqlstate, answer.reason) == (STYLES[style], "key_reused")
        assert answer.message == "Idempotency key was used before with other arguments"
        assert (answer.facts["idempotency_key"], answer.facts["used_by"]) == ("k", function)
        assert answer.facts.get("reference") == (good | change)["p_reference"]
    assert stock_of(conn) == stock
    assert call_text(conn, function, **good) == replay(first)


class Undo(Exception):
    """Ends a transaction that has failed."""


def with_key(conn, work):
    """Runs work in a transaction of its own that has the key k."""
    with conn.transaction():
        conn.execute("SET LOCAL inventory_ext.idempotency_key = 'k'")
        return work()


def test_a_key_belongs_to_one_function(conn):
    """A restock and a sale may have the same arguments, and are not the same request."""
    with_key(conn, lambda: sell(conn, ONE, 1))

    def refused_with_key(work):
        answers = []
        with pytest.raises(Undo):
            with conn.transaction():
                conn.execute("SET LOCAL inventory_ext.idempotency_key = 'k'")
                answers.append(work())
                raise Undo
        return answers[0]

    for function, arguments in (CALLS | {"adjust_inventory": OTHERS["adjust_inventory"]}).items():
        answer = refused_with_key(lambda f=function, a=arguments: refused_call(conn, f, **a))
        assert (answer.sqlstate, answer.facts["used_by"]) == ("IV003", "decrement_inventory")
    assert refused_with_key(lambda: refused_sale(conn, ONE, 2)).sqlstate == "IV003"
    assert refused_with_key(lambda: refused_sale(conn, TWO, 1)).sqlstate == "IV003"
    assert with_key(conn, lambda: sell(conn, ONE, 1))["replayed"] is True


@pytest.mark.parametrize(
    ("function", "first", "again"),
    [
        ("decrement_inventory_batch", {"p_items": lines((ONE, 1), (TWO, 2))},
         {"p_items": lines((TWO, "2.00"), (ONE, "1.0"))}),
        ("decrement_inventory_batch", {"p_items": lines((ONE, 3))}, {"p_items": lines((ONE, 1), (ONE, '"2"'))}),
        ("decrement_inventory_batch", {"p_items": lines((ONE, 1))},
         {"p_items": lines((str(ONE).replace("-", ""), "1e0"))}),
        ("decrement_inventory_batch", {"p_items": lines((ONE, 1))},
         {"p_items": lines((ONE, 1)), "p_on_shortage": "abort"}),
        ("restock_inventory", {"p_inventory_id": ONE, "p_quantity": "1.0"},
         {"p_inventory_id": ONE, "p_quantity": "1.00"}),
        ("restock_inventory", {"p_inventory_id": ONE, "p_quantity": 100}, {"p_inventory_id": ONE, "p_quantity": "1e2"}),
        ("transfer_inventory", {"p_from": ONE, "p_to": TWO, "p_quantity": "0.5"},
         {"p_from": ONE, "p_to": TWO, "p_quantity": "0.50"}),
    ],
)  # fmt: skip
def test_the_same_request_in_other_words_is_the_same_request(conn, function, first, again):
    """Trailing zeros, the order of the items, lines that are summed, a default written out."""
    answer = call_text(conn, function, **first, p_idempotency_key="k")
    stock = stock_of(conn)
    assert call_text(conn, function, **again, p_idempotency_key="k") == replay(answer)
    assert stock_of(conn) == stock


@pytest.mark.parametrize(
    ("function", "bad"),
    [
        ("decrement_inventory_batch", {"p_items": lines((ONE, 1), (TWO, 6))}),
        ("decrement_inventory_batch", {"p_items": lines((UNKNOWN, 1))}),
        ("decrement_inventory_batch", {"p_items": "[]"}),
        ("restock_inventory", {"p_inventory_id": UNKNOWN, "p_quantity": 1}),
        ("restock_inventory", {"p_inventory_id": ONE, "p_quantity": "0.001"}),
        ("restock_inventory", {"p_inventory_id": ONE, "p_quantity": "9999999999"}),
        ("transfer_inventory", {"p_from": ONE, "p_to": TWO, "p_quantity": 11}),
    ],
)
def test_a_failed_call_leaves_no_key(conn, function, bad):
    """So a retry runs: the same key may then carry a good request, or the same one when there is stock."""
    refused_call(conn, function, **bad, p_idempotency_key="k")
    assert keys_kept(conn) == []
    assert "replayed" not in call(conn, function, **CALLS[function], p_idempotency_key="k")
    assert call(conn, function, **CALLS[function], p_idempotency_key="k")["replayed"] is True


def test_a_shortage_that_is_retried_after_a_restock_sells(conn):
    assert refused_order(conn, (TWO, 6), p_idempotency_key="k").sqlstate == "IV001"
    call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=1)
    assert order(conn, (TWO, 6), p_idempotency_key="k")["lines"][0]["new_quantity"] == 0
    assert order(conn, (TWO, 6), p_idempotency_key="k")["replayed"] is True


def test_an_answer_of_any_length_is_repeated_to_the_letter(db, conn):
    """10,000 lines, some short: the retry costs no stock and is the same text."""
    text = lines(*[(ONE, "0.01")] * 500, *[(UNKNOWN, n + 1) for n in range(500)], (TWO, 9))
    arguments = {"p_items": text, "p_on_shortage": "partial", "p_idempotency_key": "long"}
    first = call_text(conn, "decrement_inventory_batch", **arguments)
    assert call_text(db.connect(), "decrement_inventory_batch", **arguments) == replay(first)


@pytest.mark.parametrize("function", CALLS)
def test_sixteen_at_once_with_one_key(db, conn, function):
    """One is carried out; the others wait for it, and get the same result, marked as replayed."""
    sessions = [db.connect() for _ in range(16)]
    start = threading.Barrier(len(sessions))
    after = last_movement(conn)

    def request(session):
        start.wait()
        return call_text(session, function, **CALLS[function], p_idempotency_key="one")

    answers = [waiting.result() for waiting in [Aside(request, session) for session in sessions]]
    (first,) = [answer for answer in answers if "replayed" not in answer]
    assert [answer for answer in answers if answer != first] == [replay(first)] * 15
    assert len(movements(conn, after=after)) == (1 if function == "restock_inventory" else 2)
    audit(conn)


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_rival_with_the_key_waits_until_the_first_has_ended(db, conn, ends):
    """It waits for the key and holds no item meanwhile; what it does then depends on how the first one ended."""
    holder, rivals = db.connect(autocommit=False), [db.connect() for _ in range(3)]
    first = call_text(holder, "restock_inventory", p_inventory_id=ONE, p_quantity=1, p_idempotency_key="k")
    waiting = [
        Aside(
            lambda rival=rival: call_text(
                rival, "restock_inventory", p_inventory_id=ONE, p_quantity=1, p_idempotency_key="k"
            )
        )
        for rival in rivals
    ]
    until_waiting(conn, *rivals)
    sell(conn, TWO, 1)
    getattr(holder, ends)()
    answers = [rival.result() for rival in waiting]
    if ends == "commit":
        assert answers == [replay(first)] * 3
    else:
        (done,) = [answer for answer in answers if "replayed" not in answer]
        assert [answer for answer in answers if answer != done] == [replay(done)] * 2
    assert stock_of(conn) == {ONE: 11, TWO: 4}
    audit(conn)


def test_a_rival_with_other_arguments_is_refused_after_the_wait(db, conn):
    """And runs, when the first rolls back."""
    for ends, outcome in (("rollback", "success"), ("commit", "IV003")):
        holder, rival = db.connect(autocommit=False), db.connect()
        order(holder, (ONE, 1), p_idempotency_key=ends)
        waiting = Aside(lambda: order(rival, (TWO, 1), p_idempotency_key=ends))
        until_waiting(conn, rival)
        getattr(holder, ends)()
        if outcome == "success":
            assert waiting.result()["success"] is True
        else:
            assert waiting.refusal().sqlstate == outcome
    assert stock_of(conn) == {ONE: 9, TWO: 4}


def test_within_one_transaction_and_its_savepoints(db, conn):
    """A retry in the same transaction is a replay; rolled back to a savepoint the key is free again."""
    till = db.connect(autocommit=False)
    till.execute("SAVEPOINT here")
    order(till, (ONE, 1), p_idempotency_key="k")
    assert order(till, (ONE, 1), p_idempotency_key="k")["replayed"] is True
    till.execute("ROLLBACK TO here")
    assert "replayed" not in order(till, (ONE, 2), p_idempotency_key="k")
    till.commit()
    assert stock_of(conn)[ONE] == 8


@pytest.mark.parametrize(("key", "bytes"), [("", 0), ("x" * 256, 256), ("ä" * 128, 256)])
def test_keys_and_references_have_a_length(conn, key, bytes):
    """22023 for empty and for more than 255 bytes, as an argument or as a header; the longest that is allowed works."""
    for argument in ("p_idempotency_key", "p_reference"):
        for function in CALLS:
            answer = refused_call(conn, function, **CALLS[function], **{argument: key})
            assert (answer.sqlstate, answer.reason) == ("22023", "text_length")
            assert (answer.facts["argument"], answer.facts["bytes"], answer.facts["max_bytes"]) == (
                argument,
                bytes,
                255,
            )
    assert keys_kept(conn) == []
    longest = "ä" * 127 + "x"
    order(conn, (ONE, 1), p_idempotency_key=longest, p_reference=longest)
    assert order(conn, (ONE, 1), p_idempotency_key=longest, p_reference=longest)["replayed"] is True


@pytest.mark.parametrize("name", ["inventory_ext.idempotency_key", "inventory_ext.reference"])
def test_settings_have_the_same_length(conn, name):
    with pytest.raises(Undo), conn.transaction():
        conn.execute("SELECT set_config(%s, repeat('x', 256), true)", (name,))
        assert refused_sale(conn, ONE, 1).reason == "text_length"
        raise Undo
    with conn.transaction():
        conn.execute("SELECT set_config(%s, repeat('x', 255), true)", (name,))
        assert sell(conn, ONE, 1)["success"] is True


def test_keys_are_forgotten_by_age(db, conn):
    """How many is answered; what is newer stays; a forgotten key runs again."""
    for key in ("a", "b", "c"):
        order(conn, (ONE, 1), p_idempotency_key=key)
    conn.execute("ALTER TABLE inventory_request DISABLE TRIGGER USER")
    conn.execute(
        "UPDATE inventory_request SET created_at = created_at - interval '31 days' WHERE idempotency_key <> 'b'"
    )
    conn.execute("ALTER TABLE inventory_request ENABLE TRIGGER USER")
    assert call(conn, "purge_requests", p_older_than="32 days") == 0
    assert call(conn, "purge_requests", p_older_than="30 days") == 2
    assert keys_kept(conn) == ["b"]
    assert "replayed" not in order(conn, (ONE, 1), p_idempotency_key="a")
    assert order(conn, (ONE, 1), p_idempotency_key="b")["replayed"] is True
    assert call(conn, "purge_requests", p_older_than="0 seconds") == 2
    assert keys_kept(conn) == []


def test_what_purge_requests_refuses(db, conn):
    """NULL, a negative age, and a role without EXECUTE; nothing is forgotten."""
    order(conn, (ONE, 1), p_idempotency_key="k")
    answer = refused_call(conn, "purge_requests", p_older_than=None)
    assert (answer.sqlstate, answer.message) == ("22004", "p_older_than must not be null")
    for age in ("-1 second", "-30 days"):
        answer = refused_call(conn, "purge_requests", p_older_than=age)
        assert (answer.sqlstate, answer.message) == ("22023", "p_older_than must not be negative")
    clerk = db.connect(user=create_role(conn, db, "clerk"))
    assert refused(clerk, "SELECT purge_requests('1 day')").sqlstate == "42501"
    assert keys_kept(conn) == ["k"]
    conn.execute("SELECT detach_inventory()")
    assert refused_call(conn, "purge_requests", p_older_than="1 day").reason == "not_attached"


def test_keys_outlive_detach_and_the_extension(conn):
    """They belong to the stock table, as the ledger does."""
    order(conn, (ONE, 1), p_idempotency_key="k")
    conn.execute("SELECT detach_inventory(); DROP EXTENSION inventory_ext; CREATE EXTENSION inventory_ext")
    conn.execute("SELECT attach_inventory('inventory')")
    assert order(conn, (ONE, 1), p_idempotency_key="k")["replayed"] is True


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_key_used_meanwhile_is_a_serialization_failure_and_then_a_replay(db, conn, level):
    """Native 40001: this transaction cannot see the answer; its retry can."""
    till = db.connect(autocommit=False)
    till.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
    till.execute("SELECT count(*) FROM inventory")
    order(conn, (ONE, 1), p_idempotency_key="k")
    assert refused_order(till, (ONE, 1), p_idempotency_key="k").sqlstate == "40001"
    till.rollback()
    assert order(till, (ONE, 1), p_idempotency_key="k")["replayed"] is True
    till.rollback()
    assert stock_of(conn)[ONE] == 9
