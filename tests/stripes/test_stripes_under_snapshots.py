"""REPEATABLE READ and SERIALIZABLE with stripes: the value of the snapshot, or a serialization failure.

A session that took its snapshot before an item was striped or unstriped read a stale row (203 of 1,521 reads were
wrong), refused sales that its snapshot covers, and set a count over stock that it did not see. Restocks in such
transactions did not see each other and exceeded the column, after which the item could neither be unstriped nor
detached.
"""

import random
from decimal import Decimal

import psycopg
import pytest

from books import call, lines, refused_call, stripes_of
from shop import ONE, TWO, Aside, attach, item, left, refusal_of, refused, sell, shop, until, until_waiting
from striped import RC, RR, SERIALIZABLE, available, detach, in_books, in_isolation, standing_worker, stripe, unstripe

NEW = item(9)

STRIPE, UNSTRIPE = "SELECT stripe_inventory('{0}', {1})", f"SELECT unstripe_inventory('{ONE}')"
STRIPE_2, STRIPE_4, STRIPE_9 = (STRIPE.format(ONE, count) for count in (2, 4, 9))
SELL, SELL_ALL = f"SELECT decrement_inventory('{ONE}', 20)", f"SELECT decrement_inventory('{ONE}', 69)"
RESTOCK = f"SELECT restock_inventory('{ONE}', 20)"
REATTACH = "SELECT detach_inventory(); SELECT attach_inventory('inventory')"

# What other sessions do after the snapshot, to an item in its row and to one in four stripes.
WHOLE = [
    [STRIPE_4], [STRIPE_4, SELL], [SELL, STRIPE_4], [STRIPE_4, UNSTRIPE], [STRIPE_4, SELL, UNSTRIPE],
    [STRIPE_4, UNSTRIPE, SELL],
    [REATTACH], [REATTACH, STRIPE_4, SELL], [STRIPE_4, REATTACH, SELL], [SELL], [RESTOCK], [STRIPE_4, SELL_ALL],
]  # fmt: skip
STRIPED = [
    [UNSTRIPE], [UNSTRIPE, SELL], [SELL, UNSTRIPE], [RESTOCK, UNSTRIPE], [SELL], [RESTOCK], [STRIPE_9],
    [STRIPE_9, SELL],
    [SELL, STRIPE_9], [STRIPE_2], [UNSTRIPE, STRIPE_4], [UNSTRIPE, SELL, STRIPE_2], [REATTACH], [REATTACH, SELL],
    [REATTACH, STRIPE_9], [UNSTRIPE, SELL_ALL], [SELL_ALL, UNSTRIPE],
    [UNSTRIPE, f"DELETE FROM inventory WHERE id = '{ONE}'"],
]  # fmt: skip
LEVELS = pytest.mark.parametrize("level", [RR, SERIALIZABLE], ids=["repeatable read", "serializable"])


@pytest.fixture
def conn(db):
    return db.connect()


def snapshot(db, level, warm):
    """A session whose transaction has taken its snapshot and nothing else; a warm one knows the stripes from before."""
    session = in_isolation(db, level)
    if warm:
        available(session)
        session.commit()
    session.execute("SELECT 1")
    return session


def attempt(session, sql, undo=False):
    """One call in a savepoint: its result, or the SQLSTATE and the DETAIL."""
    try:
        with session.transaction(force_rollback=undo):
            return session.execute(sql).fetchone()[0]
    except psycopg.Error as error:
        return error.sqlstate, error.diag.message_detail


def is_40001(outcome):
    return isinstance(outcome, tuple) and outcome[0] == "40001"


def objections(session, value):
    """What a session does not get right whose snapshot has this much of ONE, and as much of TWO as it needs."""
    outcome = attempt(session, f"SELECT available_inventory('{ONE}')")
    if outcome != value and not (is_40001(outcome) and session.isolation_level == SERIALIZABLE):
        yield "available", outcome
    for sql in (
        f"SELECT decrement_inventory('{ONE}', {value + 1})",
        f"SELECT decrement_inventory_batch('{lines((TWO, 1), (ONE, value + 1))}')",
        f"SELECT transfer_inventory('{ONE}', '{TWO}', {value + 1})",
    ):
        outcome = attempt(session, sql, undo=True)
        if not is_40001(outcome) and not (outcome[0] == "IV001" and f'"available": {value},' in outcome[1]):
            yield sql, outcome
    covered = [
        f"SELECT decrement_inventory('{ONE}', 1)",
        f"SELECT decrement_inventory('{ONE}', {value})",
        f"SELECT decrement_inventory_batch('{lines((ONE, value), (TWO, 1))}')",
        f"SELECT transfer_inventory('{ONE}', '{TWO}', {value})",
        f"SELECT restock_inventory('{ONE}', 1)",
        f"SELECT transfer_inventory('{TWO}', '{ONE}', 1)",
        f"SELECT stripe_inventory('{ONE}', 3)",
        f"SELECT unstripe_inventory('{ONE}')",
        f"SELECT adjust_inventory('{ONE}', 5, {value})",
    ]
    for sql in covered:
        outcome = attempt(session, sql, undo=True)
        # The table may have been attached anew since.
        late = "stripe_inventory" in sql and isinstance(outcome, tuple) and outcome[0] == "25001"
        if not is_40001(outcome) and not late and not (isinstance(outcome, dict) and outcome["success"]):
            yield sql, outcome
    for word in ("skip", "partial"):
        outcome = attempt(
            session, f"SELECT decrement_inventory_batch('{lines((ONE, value))}', p_on_shortage => '{word}')", undo=True
        )
        if not is_40001(outcome) and not (isinstance(outcome, dict) and outcome["short"] == []):
            yield word, outcome


def set_back(conn, striped):
    """69 units of ONE and 100 of TWO; the row of a striped ONE still shows 100."""
    if not conn.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0]:
        attach(conn)
    conn.execute("INSERT INTO inventory VALUES (%s, 100) ON CONFLICT DO NOTHING", (ONE,))
    for key in (ONE, TWO):
        unstripe(conn, key)
        call(conn, "adjust_inventory", p_inventory_id=key, p_counted_quantity=100)
    if striped:
        stripe(conn, ONE, 4)


@LEVELS
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("striped", [True, False], ids=["striped", "whole"])
def test_what_a_snapshot_covers(db, conn, striped, warm, level):
    shop(conn, {ONE: "100", TWO: "100"}, type="integer")
    wrong = {}
    for changes in STRIPED if striped else WHOLE:
        set_back(conn, striped)
        if striped:
            with standing_worker(conn):
                found = one_case(db, conn, level, warm, changes)
        else:
            found = one_case(db, conn, level, warm, changes)
        if found:
            wrong["; ".join(changes).replace(str(ONE), "ONE")] = found
    assert wrong == {}


def one_case(db, conn, level, warm, changes):
    sell(conn, ONE, 31)
    session = snapshot(db, level, warm)
    for sql in changes:
        conn.execute(sql)
    found = list(objections(session, 69))
    session.rollback()
    after = conn.execute("SELECT count(*) FROM inventory WHERE id = %s", (ONE,)).fetchone()[0] and available(conn)
    sale = attempt(session, f"SELECT decrement_inventory('{ONE}', {after})") if after else None
    session.rollback()
    session.close()
    if after and not (isinstance(sale, dict) and sale["deducted"] == after):
        found.append(("the next transaction", sale))
    return found


@LEVELS
@pytest.mark.parametrize("striped", [True, False], ids=["striped", "whole"])
def test_what_an_old_snapshot_commits_is_right(db, conn, striped, level):
    """A sale that succeeds although others changed the item since takes what is still there."""
    shop(conn, {ONE: "100", TWO: "100"}, type="integer")
    for changes in STRIPED[:-1] if striped else WHOLE:
        set_back(conn, striped)
        sell(conn, ONE, 31)
        session = snapshot(db, level, True)
        for sql in changes:
            conn.execute(sql)
        before = available(conn)
        outcome = attempt(session, f"SELECT decrement_inventory('{ONE}', 1)")
        session.commit()
        session.close()
        if isinstance(outcome, tuple):
            assert outcome[0] == "40001", (changes, outcome)
        in_books(conn, {ONE: before - (not isinstance(outcome, tuple)), TWO: 100})


@LEVELS
def test_an_item_that_is_newer_than_the_snapshot_is_unknown_to_it(db, conn, level):
    shop(conn, {ONE: "100"}, type="integer")
    stripe(conn)
    for warm in (True, False):
        session = snapshot(db, level, warm)
        conn.execute("INSERT INTO inventory VALUES (%s, 50)", (NEW,))
        stripe(conn, NEW, 3)
        for sql in (
            "available_inventory('{0}')",
            "decrement_inventory('{0}', 1)",
            "restock_inventory('{0}', 1)",
            "adjust_inventory('{0}', 1)",
            "unstripe_inventory('{0}')",
            """decrement_inventory_batch('[{{"inventory_id": "{0}", "quantity": 1}}]')""",
        ):
            outcome = attempt(session, "SELECT " + sql.format(NEW))
            assert isinstance(outcome, tuple) and outcome[0] in ("IV002", "40001"), (sql, outcome)
        session.rollback()
        unstripe(conn, NEW)
        conn.execute("DELETE FROM inventory WHERE id = %s", (NEW,))


STALE = [
    [SELL], [RESTOCK], [SELL, UNSTRIPE], [SELL, STRIPE_9], [UNSTRIPE, SELL, STRIPE_4], [SELL_ALL],
    [f"SELECT transfer_inventory('{TWO}', '{ONE}', 10)"], [f"SELECT adjust_inventory('{ONE}', 10)"],
    [f"SELECT decrement_inventory('{ONE}', 1)"],
]  # fmt: skip


@LEVELS
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_a_count_on_a_stale_snapshot_is_a_serialization_failure(db, conn, warm, level):
    """A "new_quantity" of 0 was returned while 10 units were there, a count of what the snapshot says too."""
    shop(conn, {ONE: "100", TWO: "100"}, type="integer")
    wrong = []
    for changes in STALE:
        set_back(conn, True)
        sell(conn, ONE, 31)
        session = snapshot(db, level, warm)
        for sql in changes:
            conn.execute(sql)
        now = available(conn)
        for arguments in ("0", "69", "75", "0, 69", "69, 69", f"{now}", f"{now}, 69"):
            outcome = attempt(session, f"SELECT adjust_inventory('{ONE}', {arguments})")
            wrong += [] if is_40001(outcome) else [(changes, arguments, outcome)]
        for expected in (68, now):  # not what the snapshot has
            outcome = attempt(session, f"SELECT adjust_inventory('{ONE}', 0, {expected})")
            stale = isinstance(outcome, tuple) and outcome[0] == "IV005" and '"found": 69' in outcome[1]
            wrong += [] if is_40001(outcome) or stale else [(changes, "0", expected, outcome)]
        session.rollback()
        call(session, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=now + 3, p_expected_quantity=now)
        session.commit()
        assert available(conn) == now + 3
        session.close()
    assert wrong == []


@LEVELS
def test_a_count_on_a_snapshot_that_is_not_stale_succeeds(db, conn, level):
    shop(conn, {ONE: "100"}, type="integer")
    stripe(conn)
    sell(conn, ONE, 31)
    until(lambda: left(conn, ONE) == 69, "the row shows the total")
    session = snapshot(db, level, True)
    assert call(session, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=50)["adjusted"] == -19
    session.commit()
    in_books(conn, {ONE: 50})


# The column, the most it holds, and the smallest amount.
COLUMNS = [("smallint", 32767, "1"), ("numeric(5,2)", Decimal("999.99"), "0.01"), ("integer", 2**31 - 1, "1")]
ALL_LEVELS = pytest.mark.parametrize(
    "level", [RC, RR, SERIALIZABLE], ids=["read committed", "repeatable read", "serializable"]
)
INFLOWS = {
    "restock": "SELECT restock_inventory('{one}', {n})",
    "transfer": "SELECT transfer_inventory('{two}', '{one}', {n})",
    "adjust": "SELECT adjust_inventory('{one}', available_inventory('{one}') + {n})",
}


def nearly_full(conn, type, most, room, two=800):
    shop(conn, {ONE: str(most - room), TWO: str(two)}, type=type)
    stripe(conn, ONE, 4)


def still_usable(conn, most):
    """The item is not more than its column holds, and all that puts it together works."""
    quantity = available(conn)
    assert 0 <= quantity <= most
    in_books(conn, {ONE: quantity, TWO: available(conn, TWO)})
    assert Decimal(str(unstripe(conn)["quantity"])) == quantity
    stripe(conn, ONE, 3)
    detach(conn)
    assert left(conn, ONE) == quantity
    attach(conn)
    in_books(conn, {ONE: quantity, TWO: available(conn, TWO)})


@ALL_LEVELS
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column[0])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_two_restocks_never_exceed_the_column(db, conn, column, level, end):
    """The second waits for the first, and is refused when that commits."""
    type, most, _ = column
    nearly_full(conn, type, most, 300)
    first, second = snapshot(db, level, True), snapshot(db, level, True)
    call(first, "restock_inventory", p_inventory_id=ONE, p_quantity=200)
    other = Aside(attempt, second, f"SELECT restock_inventory('{ONE}', 200)")
    until_waiting(conn, second)
    getattr(first, end)()
    outcome = other.result()
    second.commit()
    if end == "rollback":
        assert isinstance(outcome, dict) and outcome["added"] == 200
    elif level == RC:
        assert outcome[0] == "22003" and '"reason": "overflow"' in outcome[1]
    else:
        assert outcome[0] in ("22003", "40001"), outcome
    assert available(conn) == most - 100
    still_usable(conn, most)


@ALL_LEVELS
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column[0])
@pytest.mark.parametrize("inflow", INFLOWS)
def test_many_snapshots_that_do_not_see_each_other_never_exceed_the_column(db, conn, column, level, inflow):
    type, most, _ = column
    nearly_full(conn, type, most, 300)
    sessions = [snapshot(db, level, number % 2 == 0) for number in range(6)]
    done = 0
    for session in sessions:
        outcome = attempt(session, INFLOWS[inflow].format(one=ONE, two=TWO, n=100))
        session.commit()
        if isinstance(outcome, tuple):
            assert outcome[0] in ("22003", "40001"), outcome
        else:
            done += 1
    assert available(conn) == most - 300 + 100 * done and done <= 3
    still_usable(conn, most)


@ALL_LEVELS
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column[0])
def test_several_restocks_of_one_transaction_never_exceed_the_column(db, conn, column, level):
    type, most, least = column
    nearly_full(conn, type, most, 300)
    session = snapshot(db, level, True)
    restock = f"SELECT restock_inventory('{ONE}', " + "{})"
    assert attempt(session, restock.format(200))["added"] == 200
    assert attempt(session, restock.format(200))[0] == "22003"
    session.execute("SAVEPOINT s")
    assert attempt(session, f"SELECT transfer_inventory('{TWO}', '{ONE}', 100)")["transferred"] == 100
    assert attempt(session, restock.format(least))[0] == "22003"
    session.execute("ROLLBACK TO s")
    assert attempt(session, restock.format(99))["added"] == 99
    assert attempt(session, restock.format(2))[0] == "22003"
    assert attempt(session, f"SELECT decrement_inventory('{ONE}', 1)")["deducted"] == 1
    assert attempt(session, restock.format(2))["added"] == 2
    assert attempt(session, restock.format(least))[0] == "22003"
    session.commit()
    assert available(conn) == most
    assert refused(conn, restock.format(least)).reason == "overflow"
    still_usable(conn, most)


@ALL_LEVELS
def test_a_sale_that_may_still_be_undone_makes_no_room(db, conn, level):
    nearly_full(conn, "smallint", 32767, 100)
    seller, session = snapshot(db, level, True), snapshot(db, level, True)
    sell(seller, ONE, 1000)
    outcome = attempt(session, f"SELECT restock_inventory('{ONE}', 200)")
    session.commit()
    assert isinstance(outcome, tuple) and outcome[0] in ("22003", "40001"), outcome
    seller.rollback()
    still_usable(conn, 32767)


@LEVELS
def test_snapshots_see_every_transfer_whole(db, conn, level):
    """Two items are transferred, striped and unstriped all the time; in one snapshot their sum never changes."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    shop(conn, {ONE: "100", TWO: "100"}, type="integer")
    over, wrong, reads = [], [], []

    def write(rng, session):
        for _ in range(120):
            one, two = rng.sample((ONE, TWO), 2)
            try:
                if rng.random() < 0.5:
                    call(session, "transfer_inventory", p_from=one, p_to=two, p_quantity=rng.randrange(1, 60))
                elif rng.random() < 0.5:
                    stripe(session, one, rng.randrange(2, 6))
                else:
                    unstripe(session, one)
            except psycopg.Error as error:
                assert error.sqlstate == "IV001", refusal_of(error)

    def read(rng, session):
        while not over:
            try:
                session.execute("SELECT pg_sleep(%s)", (rng.random() / 100,))  # its snapshot is taken before
                seen = [available(session, key) for key in rng.sample((ONE, TWO), 2)]
                again = [available(session, key) for key in (ONE, TWO)]
                reads.append(1)
                if sum(seen) != 200 or sum(again) != 200:
                    wrong.append((seen, again))
                sale = attempt(session, f"SELECT decrement_inventory('{ONE}', {again[0]})") if again[0] else None
                if isinstance(sale, tuple) and sale[0] != "40001":
                    wrong.append((again, sale))
            except psycopg.errors.SerializationFailure:
                pass
            finally:
                session.rollback()

    writers = [Aside(write, random.Random(seed + n), db.connect()) for n in range(2)]
    readers = [Aside(read, random.Random(seed - n), in_isolation(db, level)) for n in range(1, 4)]
    for aside in writers:
        aside.result()
    over.append(True)
    for aside in readers:
        aside.result()
    assert reads and wrong == []
    assert available(conn, ONE) + available(conn, TWO) == 200
    in_books(conn, {key: available(conn, key) for key in (ONE, TWO)})


def test_refused_calls_of_a_snapshot_hold_no_stripe(db, conn):
    """What a serialization failure or a refusal had locked is free after its savepoint."""
    shop(conn, {ONE: "100"}, type="integer")
    stripe(conn, ONE, 2)
    session = snapshot(db, RR, True)
    sell(conn, ONE, 10), sell(conn, ONE, 60)
    for sql in (f"SELECT decrement_inventory('{ONE}', 100)", f"SELECT adjust_inventory('{ONE}', 0)"):
        outcome = attempt(session, sql)
        assert is_40001(outcome), outcome
    conn.execute("SET lock_timeout = '5s'")
    assert sell(conn, ONE, 30)["deducted"] == 30
    assert sum(stripes_of(conn, ONE).values()) == 0
    assert refused_call(conn, "decrement_inventory", p_inventory_id=ONE, p_quantity=1).sqlstate == "IV001"
    session.rollback()
