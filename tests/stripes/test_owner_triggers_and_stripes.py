"""Triggers of the owner that change stock while an item is cut into stripes or put together, and items that are away.

The total that goes between the row and the stripes is written to the row, and the owner's triggers fire on that. What
they take must be missing from the stripes or the row, or be refused with all that was to be done: no unit is made, and
none is lost.
"""

import json
from decimal import Decimal

import psycopg
import pytest

from books import audit, call, lines, stripes_of
from shop import ONE, TWO, attach, fill, left, refusal_of, refused, sell, shop
from striped import available, detach, in_books, shown, standing_worker, stripe, unstripe

# docs/correctness.md
ONE_KEPT = """
    CREATE FUNCTION one_kept() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_trigger_depth() = 1 THEN
            UPDATE inventory SET quantity = quantity - 1 WHERE id = NEW.id;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER one_kept AFTER UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION one_kept();
    CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO taken VALUES (NEW.id, OLD.quantity - NEW.quantity); RETURN NULL; END $$;
    CREATE TRIGGER zz_count AFTER UPDATE ON inventory FOR EACH ROW
        WHEN (pg_trigger_depth() = 1) EXECUTE FUNCTION count_it();
"""
# A trigger that changes stock by a call, and keeps count of what it takes.
CALLING = """
    CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_trigger_depth() = 1 THEN
            PERFORM decrement_inventory(NEW.id, 1);
            INSERT INTO taken VALUES (NEW.id, 1);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER take AFTER UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION take();
"""
KIT = """
    CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM decrement_inventory('{other}', OLD.quantity - NEW.quantity);
        INSERT INTO taken VALUES ('{other}', OLD.quantity - NEW.quantity);
        RETURN NULL;
    END $$;
    CREATE TRIGGER take AFTER UPDATE ON inventory FOR EACH ROW
        WHEN (NEW.id = '{item}' AND NEW.quantity < OLD.quantity) EXECUTE FUNCTION take();
"""
LOW = """
    CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM restock_inventory(NEW.inventory_id, 100);
        INSERT INTO taken VALUES (NEW.inventory_id, -100);
        RETURN NULL;
    END $$;
    CREATE TRIGGER low AFTER INSERT ON inventory_movement FOR EACH ROW
        WHEN (NEW.kind <> 'restock' AND NEW.new_quantity < 5) EXECUTE FUNCTION low();
"""
ACTS = {
    "stripe": f"stripe_inventory('{ONE}', 2)",
    "stripe again": f"stripe_inventory('{ONE}', 5)",
    "sell": f"decrement_inventory('{ONE}', 2)",
    "unstripe": f"unstripe_inventory('{ONE}')",
    "sell again": f"decrement_inventory('{ONE}', 2)",
    "stripe once more": f"stripe_inventory('{ONE}', 3)",
}


@pytest.fixture
def conn(db):
    return db.connect()


def opened(conn, code, ledger=True, units=100, striped=()):
    """The shop; some of its items are striped before the owner's code comes."""
    shop(conn, {ONE: units, TWO: units}, type="integer", p_ledger=ledger)
    conn.execute("CREATE TABLE taken (item uuid, units numeric)")
    for key in striped:
        stripe(conn, key, 3), shown(conn, key)
    conn.execute(code)


def done(conn, call) -> bool:
    """Whether the call was done; if not, its error has a name, and is none of the extension's own confusion."""
    try:
        conn.execute(f"SELECT ({call})::text")
    except psycopg.Error as error:
        refusal = refusal_of(error)
        assert refusal.sqlstate in ("IV001", "IV007", "55000", "55006"), (call, refusal)
        assert json.loads(refusal.detail)["reason"] not in ("internal", "unreadable_stock"), (call, refusal)
        return False
    return True


def done_together(conn, calls) -> bool:
    """Whether all calls were done and committed; if not, none was."""
    with conn.transaction():
        if all(done(conn, call) for call in calls):
            return True
        raise psycopg.Rollback
    return False


def attached(conn) -> bool:
    return conn.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0] == 1


def exact(conn, units, ledger=True, key=ONE):
    """So many units, less those that triggers took, are what every place says, at one moment."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        taken = conn.execute("SELECT coalesce(sum(units), 0) FROM taken WHERE item = %s", (key,)).fetchone()[0]
        stripes = stripes_of(conn, key)
        found = {"stock": sum(stripes.values()) if stripes else left(conn, key)}
        if attached(conn):
            found["available"] = available(conn, key)
        if ledger:
            sum_of_moves = "SELECT sum(delta) FROM inventory_movement WHERE inventory_id = %s"
            found["ledger"] = conn.execute(sum_of_moves, (key,)).fetchone()[0]
    assert found == dict.fromkeys(found, units - taken), f"{units} units, the trigger took {taken}"


def broken_chains(conn):
    """Movements that do not begin where the one before has ended, of items and of their stripes."""
    return conn.execute(
        "SELECT inventory_id, stripe, kind, ended, old_quantity FROM (SELECT *, lag(new_quantity, 1, 0)"
        " OVER (PARTITION BY inventory_id, stripe ORDER BY movement_id) AS ended FROM inventory_movement) AS chain"
        " WHERE ended <> old_quantity"
    ).fetchall()


def detached_exact(conn, units, ledger, keys=(ONE,)):
    """Everything is in the rows, and no stripe is left."""
    assert not attached(conn)
    for key in keys:
        assert stripes_of(conn, key) == {}
        exact(conn, units, ledger, key)
    if ledger:
        audit(conn)


@pytest.mark.parametrize("striped", [(), (ONE,)], ids=["whole", "striped"])
@pytest.mark.parametrize("ledger", [True, False], ids=["ledger", "no ledger"])
@pytest.mark.parametrize("code", [ONE_KEPT, CALLING], ids=["one kept", "a call"])
def test_a_trigger_that_takes_a_unit_of_what_is_written(conn, code, ledger, striped):
    """In every call, done or refused, the unit is taken once from what the item has, and the table can be detached."""
    opened(conn, code, ledger, striped=striped)
    units = 100
    for act in ACTS.values():
        if done(conn, act) and act.startswith("decrement"):
            units -= 2
        exact(conn, units, ledger)
        assert not ledger or broken_chains(conn) == []
    if code == CALLING:
        done(conn, "detach_inventory()")
        exact(conn, units, ledger)
        conn.execute("DROP TRIGGER take ON inventory")
    if attached(conn):
        detach(conn)
    detached_exact(conn, units, ledger)


@pytest.mark.parametrize("ledger", [True, False], ids=["ledger", "no ledger"])
def test_one_kept_does_not_keep_the_table_attached(conn, ledger):
    """Attached again, the table sells on as it did."""
    opened(conn, ONE_KEPT, ledger, striped=(ONE, TWO))
    for key in (ONE, TWO):
        sell(conn, key, 3)
    detach(conn)
    detached_exact(conn, 97, ledger, (ONE, TWO))
    conn.execute("DROP TRIGGER one_kept ON inventory; DROP TRIGGER zz_count ON inventory")
    attach(conn, p_ledger=ledger)
    rest = left(conn, ONE)
    stripe(conn, ONE, 4), sell(conn, ONE, 1)
    in_books(conn, {ONE: rest - 1, TWO: left(conn, TWO)}, ledger)


@pytest.mark.parametrize("calls", [
    ("detach_inventory()",), ("unstripe_inventory('{item}')", "unstripe_inventory('{other}')"),
    ("unstripe_inventory('{other}')", "unstripe_inventory('{item}')"),
    ("stripe_inventory('{item}', 2)", "stripe_inventory('{other}', 2)", "detach_inventory()"),
])  # fmt: skip
@pytest.mark.parametrize(
    ("item", "other", "ledger"), [(ONE, TWO, True), (TWO, ONE, True), (ONE, TWO, False)],
    ids=["from ONE", "from TWO", "no ledger"],
)  # fmt: skip
def test_a_kit_of_striped_items_in_the_transaction_that_sells(conn, item, other, calls, ledger):
    """Its total is written there and then, which sells as many of the other item: once, and from what it has."""
    opened(conn, KIT.format(item=item, other=other), ledger, striped=(ONE, TWO))
    calls = ["decrement_inventory('{item}', 10)", *calls]
    units = 90 if done_together(conn, [sql.format(item=item, other=other) for sql in calls]) else 100
    exact(conn, units, ledger, item)
    exact(conn, 100, ledger, other)
    assert not ledger or broken_chains(conn) == []
    conn.execute("DROP TRIGGER take ON inventory")
    if attached(conn):
        detach(conn)
    exact(conn, 100, ledger, other)
    detached_exact(conn, units, ledger, (item,))


def low_shop(conn):
    opened(conn, "", units=90, striped=(ONE,))
    conn.execute(LOW)
    assert stripes_of(conn, ONE) == {1: 30, 2: 30, 3: 30}


def test_a_count_of_an_item_that_is_restocked_meanwhile_tells_the_truth(conn):
    """A trigger on the ledger restocks what sank below five, and gathering the stripes leaves empty ones."""
    low_shop(conn)
    adjusted = Decimal(0)
    try:
        answer = call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=50)
    except psycopg.Error as error:
        assert error.sqlstate == "IV007"
    else:
        adjusted = answer["adjusted"]
        assert answer["new_quantity"] == 50
        assert adjusted == 50 - answer["old_quantity"]
    posted = "SELECT coalesce(sum(delta), 0) FROM inventory_movement WHERE kind = 'adjustment'"
    assert conn.execute(posted).fetchone()[0] == adjusted
    exact(conn, 90 + adjusted)
    assert broken_chains(conn) == []


@pytest.mark.parametrize("calls", [
    ("unstripe_inventory('{0}')", "stripe_inventory('{0}', 4)", "unstripe_inventory('{0}')"),
    ("stripe_inventory('{0}', 4)", "stripe_inventory('{0}', 30)", "unstripe_inventory('{0}')"),
    ("decrement_inventory('{0}', 58)", "decrement_inventory('{0}', 20)", "unstripe_inventory('{0}')"),
])  # fmt: skip
def test_a_ledger_that_restocks_while_stripes_come_and_go(conn, calls):
    """Each is done or refused by name, and the deliveries of the trigger are all there."""
    low_shop(conn)
    units = 90
    for sql in calls:
        sql = sql.format(ONE)
        if done(conn, sql) and sql.startswith("decrement"):
            units -= 58 if "58" in sql else 20
        exact(conn, units)
        assert broken_chains(conn) == []
    conn.execute("DROP TRIGGER low ON inventory_movement")
    detach(conn)
    detached_exact(conn, units, ledger=True)


AWAY = "ALTER TABLE inventory DETACH PARTITION part"
BACK = f"ALTER TABLE inventory ATTACH PARTITION part FOR VALUES FROM (MINVALUE) TO ('{TWO}')"


def partitioned_shop(conn):
    """ONE, of which 5 of 100 are sold, in two stripes and in a partition of its own."""
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY RANGE (id)")
    conn.execute(f"CREATE TABLE part PARTITION OF inventory FOR VALUES FROM (MINVALUE) TO ('{TWO}')")
    conn.execute("CREATE TABLE rest PARTITION OF inventory DEFAULT")
    fill(conn, {ONE: 100, TWO: 100})
    attach(conn)
    stripe(conn, ONE, 2), sell(conn, ONE, 5), shown(conn)


@pytest.mark.parametrize("run_as", ["owner", "caller"])
def test_a_striped_item_whose_partition_is_away_is_unknown(db, conn, run_as):
    """Its stripes were sold on, of an item that the stock table no longer has."""
    partitioned_shop(conn)
    if run_as == "caller":
        detach(conn), attach(conn, p_run_as="caller"), stripe(conn, ONE, 2)
    sellers = [conn, db.connect()]
    for seller in sellers:
        assert available(seller) == 95
    conn.execute(AWAY)
    found = {}
    for seller in sellers:
        for sql in (
            "decrement_inventory('{0}', 5)", "decrement_inventory('{0}', 1000)", "restock_inventory('{0}', 7)",
            "adjust_inventory('{0}', 50)", "adjust_inventory('{0}', 95)", "transfer_inventory('{0}', '{1}', 1)",
            "transfer_inventory('{1}', '{0}', 1)", "available_inventory('{0}')", "unstripe_inventory('{0}')",
            "stripe_inventory('{0}', 4)", "restock_inventory('{0}', 7, NULL, 'key')",
        ):  # fmt: skip
            refusal = sqlstate_of(seller, f"SELECT ({sql.format(ONE, TWO)})::text")
            if refusal != ("IV002", "unknown_item"):
                found[sql] = refusal
        for pairs in ([(ONE, 1)], [(ONE, 1), (TWO, 1)]):
            refusal = sqlstate_of(seller, "SELECT decrement_inventory_batch(%s::jsonb)::text", (lines(*pairs),))
            if refusal != ("IV002", "short_lines"):
                found[len(pairs)] = refusal
    assert found == {}
    partly = call(conn, "decrement_inventory_batch", p_items=lines((ONE, 1), (TWO, 1)), p_on_shortage="skip")
    assert [line["inventory_id"] for line in partly["lines"]] == [str(TWO)]
    assert [line["reason"] for line in partly["short"]] == ["unknown_item"]
    conn.execute(BACK)
    in_books(conn, {ONE: 95, TWO: 99})


def sqlstate_of(conn, sql, params=None):
    """The SQLSTATE and the reason of a statement that may fail."""
    try:
        return "00000", conn.execute(sql, params).fetchone()[0]
    except psycopg.Error as error:
        return error.sqlstate, json.loads(error.diag.message_detail or "{}").get("reason")


DETACH, ATTACH = "SELECT detach_inventory()", "SELECT attach_inventory('inventory')"


@pytest.mark.parametrize("lagging", [False, True], ids=["shown", "lagging"])
@pytest.mark.parametrize("steps", [
    (AWAY, DETACH, ATTACH, BACK), (AWAY, DETACH, BACK, ATTACH), (AWAY, BACK, DETACH, ATTACH),
    (AWAY, DETACH, ATTACH, DETACH, ATTACH, BACK), (AWAY, DETACH, ATTACH, DETACH, BACK, ATTACH),
    (AWAY, "DROP EXTENSION inventory_ext", "CREATE EXTENSION inventory_ext", ATTACH, BACK),
], ids=["back at the end", "back between", "back before", "twice", "twice, back between", "drop"])  # fmt: skip
def test_no_unit_is_gone_with_a_partition_that_comes_back(db, conn, steps, lagging):
    """Also where the row in the partition does not show the last sales, which the stripes alone know."""
    partitioned_shop(conn)
    if lagging:
        with standing_worker(conn):
            sell(db.connect(), ONE, 20)
            assert left(conn, ONE) == 95
            conn.execute(AWAY)
        steps = steps[1:]
    for sql in steps:
        conn.execute(sql)
    units = 75 if lagging else 95
    assert (available(conn), available(conn, TWO)) == (units, 100)
    detach(conn)
    assert (left(conn, ONE), left(conn, TWO)) == (units, 100)
    attach(conn)
    sell(conn, ONE, 1)
    in_books(conn, {ONE: units - 1, TWO: 100})


def test_an_item_that_comes_in_place_of_one_that_is_away(conn):
    """A row of the same id in another partition is not sold from the stripes of the one that is away."""
    partitioned_shop(conn)
    conn.execute(AWAY)
    refusal = None
    try:
        conn.execute("INSERT INTO inventory VALUES (%s, 5)", (ONE,))
    except psycopg.Error as error:
        refusal = error.sqlstate
    if refusal:
        assert refusal == "55000"
        assert refused(conn, "SELECT decrement_inventory(%s, 6)", (ONE,)).sqlstate == "IV002"
        conn.execute(BACK)
        in_books(conn, {ONE: 95, TWO: 100})
    else:
        assert available(conn) == 5
        assert refused(conn, "SELECT decrement_inventory(%s, 6)", (ONE,)).sqlstate == "IV001"
        unstripe(conn)
        assert left(conn, ONE) == 5
