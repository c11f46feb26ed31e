"""Every statement that writes stripes is verified, and an owner's trigger inside it is judged by itself.

A trigger that changes, drops or repeats the write of a stripe fails the call with IV007. Goods that come in at several
stripes at once do not exceed the column together. Each test fails on a small change of the code that all other tests
once let pass; so do those of test_undone_blocks.py, test_references_of_keys.py and test_number_of_searches.py.
"""

import psycopg
import pytest

from books import audit, audit_when_shown, call, last_movement, lines, movements, refused_call, steps, stripes_of
from owner_shop import owners_trigger
from shop import ONE, TWO, Aside, item, left, refused, refused_sale, sell, shop, until

THREE = item(3)


@pytest.fixture
def conn(db):
    return db.connect()


def stripe(conn, key=ONE, stripes=4):
    return conn.execute("SELECT stripe_inventory(%s, %s)", (key, stripes)).fetchone()[0]


def available(conn, key=ONE):
    return conn.execute("SELECT available_inventory(%s)", (key,)).fetchone()[0]


# What a trigger on the stripes can make of a write, and whether it meets what comes in or what goes out.
INCREASES = {
    "one off each increase": "IF NEW.quantity > OLD.quantity THEN NEW.quantity := NEW.quantity - 1; END IF",
    "one more at each increase": "IF NEW.quantity > OLD.quantity THEN NEW.quantity := NEW.quantity + 1; END IF",
    "no increase at all": "IF NEW.quantity > OLD.quantity THEN NEW.quantity := OLD.quantity; END IF",
    "increases dropped": "IF NEW.quantity > OLD.quantity THEN RETURN NULL; END IF",
}
DECREASES = {
    "one off each decrease": "IF NEW.quantity < OLD.quantity AND NEW.quantity > 0 "
    "THEN NEW.quantity := NEW.quantity - 1; END IF",
    "one back at each decrease": "IF NEW.quantity < OLD.quantity THEN NEW.quantity := NEW.quantity + 1; END IF",
    "no decrease at all": "IF NEW.quantity < OLD.quantity THEN NEW.quantity := OLD.quantity; END IF",
    "decreases dropped": "IF NEW.quantity < OLD.quantity THEN RETURN NULL; END IF",
}
# The decreases of a move alone: what a sale takes, it takes from a stripe that has more.
GIVES = {
    "one kept by each that gives": "IF NEW.quantity < OLD.quantity AND OLD.quantity <= 3 "
    "THEN NEW.quantity := NEW.quantity + 1; END IF",
    "all kept by those that give": "IF NEW.quantity < OLD.quantity AND OLD.quantity <= 3 "
    "THEN NEW.quantity := OLD.quantity; END IF",
    "gifts dropped": "IF NEW.quantity < OLD.quantity AND OLD.quantity <= 3 THEN RETURN NULL; END IF",
}
TAKES = {
    "sale": ("decrement_inventory", {"p_inventory_id": ONE}),
    "order": ("decrement_inventory_batch", {}),
    "transfer": ("transfer_inventory", {"p_from": ONE, "p_to": TWO}),
}


def take(name, quantity):
    """One of the calls that take so much of ONE."""
    function, arguments = TAKES[name]
    if function == "decrement_inventory_batch":
        return function, {"p_items": lines((ONE, quantity), (TWO, 1))}
    return function, arguments | {"p_quantity": quantity}


def assert_refused_as_changed(conn, function, arguments, had=12):
    """IV007, and everything is as it was."""
    before, held = movements(conn), stripes_of(conn, ONE)
    refusal = refused_call(conn, function, **arguments)
    assert (refusal.sqlstate, refusal.reason) == ("IV007", "verification_failed")
    assert refusal.facts["inventory_id"] == str(ONE)
    assert available(conn) == had == sum(held.values())
    assert stripes_of(conn, ONE) == held and movements(conn) == before


@pytest.mark.parametrize("name", TAKES)
@pytest.mark.parametrize("body", INCREASES | GIVES)
def test_stock_that_is_moved_between_stripes_arrives_whole(conn, name, body):
    """Three in each of four stripes; six are gathered, and the trigger takes a part of what is moved:
    a success was reported."""
    shop(conn, {ONE: "12", TWO: "12"}, type="integer")
    stripe(conn)
    owners_trigger(conn, (INCREASES | GIVES)[body])
    assert_refused_as_changed(conn, *take(name, 6))


@pytest.mark.parametrize("body", ["one off each increase", "one more at each increase", "one kept by each that gives"])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("decrement_inventory_batch", {"p_items": lines((ONE, 20)), "p_on_shortage": "partial"}),
        ("adjust_inventory", {"p_inventory_id": ONE, "p_counted_quantity": 20}),
        ("adjust_inventory", {"p_inventory_id": ONE, "p_counted_quantity": 8, "p_expected_quantity": 12}),
    ],
    ids=["all that is there", "counted more", "counted less"],
)
def test_stock_that_is_gathered_and_spread_arrives_whole(conn, function, arguments, body):
    """A count moves everything into one stripe and spreads it again; a partial order takes everything."""
    shop(conn, {ONE: "12"}, type="integer")
    stripe(conn)
    owners_trigger(conn, (INCREASES | GIVES)[body])
    assert_refused_as_changed(conn, function, arguments)


@pytest.mark.parametrize("ledger", [True, False])
@pytest.mark.parametrize("body", INCREASES)
def test_stock_that_a_sale_moves_to_its_own_stripe_arrives_whole(db, conn, body, ledger):
    """What came in at one stripe is shared with the stripe of the session that sells."""
    shop(conn, {ONE: "0"}, type="integer", p_ledger=ledger)
    stripe(conn, ONE, 64)
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1000)
    owners_trigger(conn, INCREASES[body])
    held = stripes_of(conn, ONE)
    refusal = refused_sale(db.connect(), ONE, 1)
    assert (refusal.sqlstate, refusal.reason) == ("IV007", "verification_failed")
    assert available(conn) == 1000 and stripes_of(conn, ONE) == held


def test_the_trigger_is_live(conn):
    """The control: without the condition for which it was made, the same trigger changes nothing, and the sale goes
    through."""
    shop(conn, {ONE: "12", TWO: "12"}, type="integer")
    stripe(conn)
    owners_trigger(conn, "IF NEW.quantity > 1000 THEN NEW.quantity := NEW.quantity - 1; END IF")
    assert sell(conn, ONE, 6)["deducted"] == 6
    assert available(conn) == 6
    audit_when_shown(conn, {ONE: 6})


@pytest.mark.parametrize("name", TAKES)
@pytest.mark.parametrize("body", DECREASES)
def test_a_sale_from_a_stripe_is_verified(conn, name, body):
    """One is taken from a stripe that has three; the trigger makes something else of it."""
    shop(conn, {ONE: "12", TWO: "12"}, type="integer")
    stripe(conn)
    owners_trigger(conn, DECREASES[body])
    assert_refused_as_changed(conn, *take(name, 1))


@pytest.mark.parametrize("body", INCREASES)
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("restock_inventory", {"p_inventory_id": ONE, "p_quantity": 5}),
        ("transfer_inventory", {"p_from": TWO, "p_to": ONE, "p_quantity": 5}),
    ],
)
def test_goods_that_come_in_at_a_stripe_are_verified(conn, function, arguments, body):
    shop(conn, {ONE: "12", TWO: "12"}, type="integer")
    stripe(conn)
    owners_trigger(conn, INCREASES[body])
    assert_refused_as_changed(conn, function, arguments)


@pytest.mark.parametrize("key", [ONE, TWO])
def test_every_stripe_of_an_order_is_verified(conn, key):
    """The trigger changes one of two lines only."""
    shop(conn, {ONE: "12", TWO: "12"}, type="integer")
    stripe(conn, ONE), stripe(conn, TWO)
    owners_trigger(conn, f"IF NEW.inventory_id = '{key}' THEN NEW.quantity := NEW.quantity - 1; END IF")
    refusal = refused_call(conn, "decrement_inventory_batch", p_items=lines((TWO, 1), (ONE, 1)))
    assert (refusal.sqlstate, refusal.facts["inventory_id"]) == ("IV007", str(key))
    assert (available(conn, ONE), available(conn, TWO)) == (12, 12)


@pytest.mark.parametrize(
    "body",
    [
        "NEW.quantity := NEW.quantity - 1",
        "NEW.quantity := NEW.quantity + 1",
        "IF NEW.stripe = 2 THEN RETURN NULL; END IF",
    ],
)
def test_the_stripes_that_an_item_is_cut_into_are_verified(conn, body):
    """Twelve units were cut into stripes that held eight."""
    shop(conn, {ONE: "12"}, type="integer")
    owners_trigger(conn, body, "BEFORE INSERT")
    refusal = refused(conn, "SELECT stripe_inventory(%s, 4)", (ONE,))
    assert (refusal.sqlstate, refusal.reason) == ("IV007", "verification_failed")
    assert available(conn) == 12 == left(conn, ONE) and stripes_of(conn, ONE) == {}
    audit(conn)


@pytest.mark.parametrize("sql", ["SELECT unstripe_inventory(%s)", "SELECT stripe_inventory(%s, 8)"])
def test_a_stripe_that_stays_when_an_item_is_put_together_is_noticed(conn, sql):
    """The trigger kept one of four stripes; nine of twelve units were put together, and three stayed in a stripe."""
    shop(conn, {ONE: "12"}, type="integer")
    stripe(conn)
    owners_trigger(conn, "IF OLD.stripe = 2 THEN RETURN NULL; END IF; RETURN OLD", "BEFORE DELETE")
    refusal = refused(conn, sql, (ONE,))
    assert (refusal.sqlstate, refusal.reason) == ("IV007", "verification_failed")
    assert available(conn) == 12 == left(conn, ONE) == sum(stripes_of(conn, ONE).values())


@pytest.mark.parametrize("body", ["NEW.quantity := NEW.quantity - 1", "RETURN NULL"])
@pytest.mark.parametrize("sql", ["SELECT stripe_inventory(%s, 4)", "SELECT unstripe_inventory(%s)"])
def test_the_total_that_is_written_to_the_row_is_verified(conn, sql, body):
    shop(conn, {ONE: "12"}, type="integer")
    if "unstripe" in sql:
        stripe(conn)
    held = stripes_of(conn, ONE)
    owners_trigger(conn, body, table="inventory")
    refusal = refused(conn, sql, (ONE,))
    # Another total than ours may also be taken for a direct write to a striped item.
    assert refusal.reason == "verification_failed" or (held and refusal.reason == "striped_item")
    assert available(conn) == 12 == left(conn, ONE) and stripes_of(conn, ONE) == held


def goes_on_or_waits(watcher, aside, session):
    """What a session does: "waits" for a lock, or "ended" without."""
    pid = session.info.backend_pid
    blocked = "SELECT cardinality(pg_blocking_pids(%s)) > 0"

    def seen():
        if not aside._thread.is_alive():
            return "ended"
        return "waits" if watcher.execute(blocked, (pid,)).fetchone()[0] else None

    return until(seen, f"backend {pid} waits or ends")


BRINGS = {
    "restock": ("restock_inventory", {"p_inventory_id": ONE, "p_quantity": 500}),
    "transfer": ("transfer_inventory", {"p_from": TWO, "p_to": ONE, "p_quantity": 500}),
    "count": ("adjust_inventory", {"p_inventory_id": ONE, "p_counted_quantity": 32500}),
}


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize(
    ("type", "first", "second"),
    [
        ("smallint", "restock", "restock"), ("numeric(7,2)", "restock", "restock"), ("smallint", "transfer", "restock"),
        ("smallint", "restock", "transfer"), ("smallint", "count", "restock"), ("smallint", "restock", "count"),
    ],
)  # fmt: skip
def test_goods_that_come_in_at_once_do_not_exceed_the_column_together(db, conn, type, first, second, ends):
    """Each fits, both do not: the second waits for the first, and is decided by how it ends."""
    begin = 32000 if type == "smallint" else 99200
    shop(conn, {ONE: begin, TWO: "5000"}, type=type)
    stripe(conn)
    holder, rival = db.connect(autocommit=False), db.connect()
    function, arguments = bring(first, begin)
    call(holder, function, **arguments)
    function, arguments = bring(second, begin)
    waiting = Aside(lambda: call(rival, function, **arguments))
    assert goes_on_or_waits(conn, waiting, rival) == "waits"
    getattr(holder, ends)()
    if ends == "commit" and second != "count":
        refusal = waiting.refusal()
        assert (refusal.sqlstate, refusal.reason) == ("22003", "overflow")
        assert refusal.facts["old_quantity"] == begin + 500
    else:
        waiting.result()
    assert available(conn) == begin + 500
    audit_when_shown(conn, {ONE: begin + 500})


def bring(name, begin):
    function, arguments = BRINGS[name]
    return function, arguments | ({"p_counted_quantity": begin + 500} if name == "count" else {})


def test_many_restocks_at_once_fill_the_column_to_the_last_unit(db, conn):
    """Sixteen sessions bring 100 each, and the column holds seven more of them: seven are taken and nine refused."""
    shop(conn, {ONE: "32000"}, type="smallint")
    stripe(conn, ONE, 16)
    asides = [
        Aside(lambda till=till: refused_or(till, "restock_inventory", p_inventory_id=ONE, p_quantity=100))
        for till in [db.connect() for _ in range(16)]
    ]
    results = [aside.result() for aside in asides]
    assert sorted(results) == ["22003"] * 9 + ["success"] * 7
    assert available(conn) == 32700
    audit_when_shown(conn, {ONE: 32700})


def refused_or(conn, function, **arguments):
    """The SQLSTATE of a call that may fail, or "success"."""
    try:
        call(conn, function, **arguments)
    except psycopg.Error as error:
        return error.diag.sqlstate
    return "success"


@pytest.mark.parametrize("timing", ["BEFORE UPDATE", "AFTER UPDATE"])
@pytest.mark.parametrize("inner", [f"UPDATE inventory SET quantity = quantity - 1 WHERE id = '{TWO}'",
                                   f"PERFORM decrement_inventory('{TWO}', 1)"], ids=["update", "sale"])  # fmt: skip
def test_what_a_trigger_changes_while_the_worker_writes_a_total_is_recorded(conn, timing, inner):
    """A total is no movement; what the owner's trigger does to another item meanwhile is one, and it was lost."""
    shop(conn, {ONE: "12", TWO: "20"}, type="integer")
    stripe(conn)
    owners_trigger(conn, inner, timing, "inventory", when=f"WHEN (OLD.id = '{ONE}' AND NEW.quantity <> OLD.quantity)")
    after = last_movement(conn)
    sell(conn, ONE, 4)
    until(lambda: left(conn, ONE) == 8, "the row shows the total")
    kind = "sale" if "PERFORM" in inner else "external"
    assert steps(conn, TWO, after=after) == [(kind, 20, 19)]
    audit(conn)


@pytest.mark.parametrize("timing", ["BEFORE UPDATE", "AFTER UPDATE"])
def test_what_a_trigger_changes_while_an_item_is_put_together_is_recorded(conn, timing):
    """The same within the caller's own transaction."""
    shop(conn, {ONE: "12", TWO: "20"}, type="integer")
    stripe(conn)
    inner = f"UPDATE inventory SET quantity = quantity - 1 WHERE id = '{TWO}'"
    owners_trigger(conn, inner, timing, "inventory", when=f"WHEN (OLD.id = '{ONE}' AND NEW.quantity <> OLD.quantity)")
    after = last_movement(conn)
    with conn.transaction():
        sell(conn, ONE, 4)
        conn.execute("SELECT unstripe_inventory(%s)", (ONE,))
    assert steps(conn, TWO, after=after) == [("external", 20, 19)]
    assert (left(conn, ONE), left(conn, TWO)) == (8, 19)
    audit(conn)


@pytest.mark.parametrize("ledger", [True, False])
def test_a_trigger_cannot_write_another_striped_item_while_a_total_is_written(conn, ledger):
    """The guard is open for our own statement, at its depth: what a trigger writes inside of it is refused as
    always."""
    shop(conn, {ONE: "12", TWO: "20"}, type="integer", p_ledger=ledger)
    stripe(conn, ONE), stripe(conn, TWO)
    inner = f"UPDATE inventory SET quantity = quantity - 1 WHERE id = '{TWO}'"
    with conn.transaction(force_rollback=True):
        sell(conn, ONE, 4)
        # Made here, so that the worker does not meet it.
        owners_trigger(conn, inner, "AFTER UPDATE", "inventory", when=f"WHEN (OLD.id = '{ONE}')")
        conn.execute("SAVEPOINT here")
        refusal = refused(conn, "SELECT unstripe_inventory(%s)", (ONE,))
        conn.execute("ROLLBACK TO here")
    assert (refusal.sqlstate, refusal.reason) == ("55000", "striped_item")
    assert refusal.facts["inventory_id"] == str(TWO)
    assert available(conn, TWO) == 20


@pytest.mark.parametrize("ledger", [True, False])
@pytest.mark.parametrize("timing", ["BEFORE UPDATE", "AFTER UPDATE"])
@pytest.mark.parametrize(
    ("write", "operation"),
    [
        ("UPDATE inventory_stripe SET quantity = quantity + 5 WHERE stripe <> NEW.stripe", "UPDATE"),
        ("DELETE FROM inventory_stripe WHERE stripe <> NEW.stripe", "DELETE"),
        ("INSERT INTO inventory_stripe VALUES (NEW.inventory_id, 100, 5)", "INSERT"),
    ],
    ids=["update", "delete", "insert"],
)
def test_a_trigger_on_the_stripes_cannot_write_stripes_while_a_sale_does(conn, ledger, timing, write, operation):
    shop(conn, {ONE: "12"}, type="integer", p_ledger=ledger)
    stripe(conn)
    owners_trigger(conn, write, timing, when="WHEN (pg_trigger_depth() = 0)")
    for wanted in (1, 6):
        refusal = refused_sale(conn, ONE, wanted)
        assert (refusal.sqlstate, refusal.reason) == ("55000", "stripes_protected")
        assert refusal.facts["operation"] == operation
    assert available(conn) == 12


@pytest.mark.parametrize("ledger", [True, False])
def test_a_trigger_that_fires_before_the_guard_cannot_write_stripes_either(conn, ledger):
    """Its name sorts before that of the guard, so the permit of our own statement is not used yet."""
    shop(conn, {ONE: "12"}, type="integer", p_ledger=ledger)
    stripe(conn)
    conn.execute(
        "CREATE FUNCTION early() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE inventory_stripe SET quantity = quantity + 5; RETURN NULL; END $$;"
        'CREATE TRIGGER "!early" BEFORE UPDATE ON inventory_stripe WHEN (pg_trigger_depth() = 0) '
        "EXECUTE FUNCTION early()"
    )
    for wanted in (1, 6):
        refusal = refused_sale(conn, ONE, wanted)
        assert (refusal.sqlstate, refusal.reason) == ("55000", "stripes_protected")
    assert available(conn) == 12
