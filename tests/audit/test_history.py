"""The ledger along time: inventory_at, counts of a moment in the past, and readers that follow what changes."""

import json
import random
import threading
from contextlib import ExitStack
from decimal import Decimal

import psycopg
import pytest

from books import audit as assert_books_agree
from books import steps
from databases import Database
from dev.server import Server
from servers import PG, Standby, new_database
from servers import run as run_program
from shop import (
    ONE, TWO, UNKNOWN, Aside, attach, create_role, exact_json, item, left, refused, sell, shop, until, until_waiting,
)  # fmt: skip
from striped import available, stripe, unstripe

THREE, FOUR = item(3), item(4)
MOST = 10_000


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {key: "20.00" for key in (ONE, TWO, THREE)})
    return conn


def now(conn):
    return conn.execute("SELECT clock_timestamp()").fetchone()[0]


def stock_at(conn, key, moment):
    return conn.execute("SELECT inventory_at(%s, %s)", (str(key), moment)).fetchone()[0]


def some_change(conn, chance, striped):
    """One change of any kind, of one of three items, or a refusal; the number of stripes may change, too."""
    key, other = chance.sample([ONE, TWO, THREE], 2)
    calls = {
        "sale": ("SELECT decrement_item(%s, 0.25)", (str(key),)),
        "restock": ("SELECT restock_inventory(%s, 3)", (str(key),)),
        "count": ("SELECT adjust_inventory(%s, %s)", (str(key), chance.randint(5, 30))),
        "transfer": ("SELECT transfer_inventory(%s, %s, 0.5)", (str(key), str(other))),
        "order": (
            "SELECT decrement_inventory_batch(%s)",
            (json.dumps([{"inventory_id": str(one), "quantity": 1} for one in (key, other)]),),
        ),
    }
    if striped:
        calls["stripe"] = ("SELECT stripe_inventory(%s, %s)", (str(key), chance.randint(2, 5)))
        calls["merge"] = ("SELECT unstripe_inventory(%s)", (str(key),))
    else:
        calls["update"] = ("UPDATE inventory SET quantity = quantity + 1 WHERE id <> %s", (key,))
    try:
        conn.execute(*chance.choice(list(calls.values())))
    except psycopg.Error as error:
        assert error.sqlstate == "IV001", error


@pytest.mark.parametrize("striped", [False, True])
def test_stock_at_many_moments_is_what_it_was(conn, striped):
    seed = random.SystemRandom().getrandbits(32)
    print(f"changes with seed {seed}")
    chance, model = random.Random(seed), []
    for _ in range(120):
        some_change(conn, chance, striped)
        model.append((now(conn), {key: available(conn, key) for key in (ONE, TWO, THREE)}))
    for moment, stock in model:
        assert {key: stock_at(conn, key, moment) for key in stock} == stock, moment
    assert stock_at(conn, ONE, "infinity") == model[-1][1][ONE]


def test_an_item_that_comes_and_goes(db):
    conn = db.connect()
    before_attach = now(conn)
    shop(conn, {ONE: "20.00"})
    model = [(before_attach, None), ("-infinity", None), (now(conn), 20)]
    for statement, quantity in (
        (f"DELETE FROM inventory WHERE id = '{ONE}'", None),
        (f"INSERT INTO inventory VALUES ('{ONE}', 3)", 3),
        (f"UPDATE inventory SET id = '{TWO}' WHERE id = '{ONE}'", None),
        (f"UPDATE inventory SET id = '{ONE}', quantity = 8 WHERE id = '{TWO}'", 8),
        (f"SELECT stripe_inventory('{ONE}', 3)", 8),
        (f"SELECT unstripe_inventory('{ONE}')", 8),
        (f"DELETE FROM inventory WHERE id = '{ONE}'", None),
        (f"INSERT INTO inventory VALUES ('{ONE}', 0)", 0),
        ("DELETE FROM inventory", None),
    ):
        conn.execute(statement)
        model.append((now(conn), quantity))
    assert [stock_at(conn, ONE, moment) for moment, _ in model] == [quantity for _, quantity in model]


def test_the_moment_of_a_movement_counts(conn):
    sell(conn, ONE, 1)
    [moment] = conn.execute("SELECT max(occurred_at) FROM inventory_movement").fetchone()
    at = "SELECT inventory_at(%s, %s::timestamptz + %s::interval)"
    values = [conn.execute(at, (str(ONE), moment, shift)).fetchone()[0] for shift in ("-1 us", "0", "1 us")]
    assert values == [20, 19, 19]


def test_what_inventory_at_refuses(db, conn):
    error = refused(conn, "SELECT inventory_at(%s, now())", (str(UNKNOWN),))
    assert error.sqlstate == "IV002"
    assert refused(conn, "SELECT inventory_at(NULL, now())").sqlstate == "22004"
    assert refused(conn, f"SELECT inventory_at('{ONE}', NULL)").sqlstate == "22004"
    assert refused(conn, "SELECT inventory_at('tea', now())").sqlstate == "22P02"
    conn.execute("SELECT detach_inventory()")
    attach(conn, p_ledger=False)
    for call in (f"inventory_at('{ONE}', now())", "inventory_changes()"):
        error = refused(conn, f"SELECT {call}")
        assert (error.sqlstate, error.reason) == ("55000", "no_ledger")


def changes(conn, after=None, limit=MOST):
    """One page: the movements, and the next position."""
    sql, cursor = "SELECT inventory_changes(%s::json, %s)", None if after is None else json.dumps(after)
    page = conn.execute(sql, (cursor, limit)).fetchone()[0]
    assert set(page) == {"changes", "next"}
    assert len(page["changes"]) <= limit
    return page["changes"], page["next"]


def numbers(found):
    return [change["movement_id"] for change in found]


def ledger(conn):
    return [number for (number,) in conn.execute("SELECT movement_id FROM inventory_movement ORDER BY 1").fetchall()]


def read_up_to(conn, wanted, after=None, limit=MOST):
    """Polls until as many movements were returned; other sessions of the server may have to end first."""
    read = []

    def polled():
        nonlocal after
        found, after = changes(conn, after, limit)
        read.extend(numbers(found))
        return len(read) >= wanted

    until(polled, f"{wanted} movements are returned")
    return read, after


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_pages_of_any_size_give_every_movement_once_and_in_order(conn, limit):
    for _ in range(4):
        for key in (ONE, TWO, THREE):
            sell(conn, key, 1)
        conn.execute("INSERT INTO inventory VALUES (gen_random_uuid(), 5)")
        with pytest.raises(ZeroDivisionError), conn.transaction():
            sell(conn, ONE, 1)
            1 / 0  # noqa: B018
    wanted = ledger(conn)
    read, after = read_up_to(conn, len(wanted), limit=limit)
    assert read == wanted
    assert [changes(conn, after, limit)[0] for _ in range(3)] == [[]] * 3
    sell(conn, ONE, 1)
    assert read_up_to(conn, 1, after, limit)[0] == ledger(conn)[-1:]


def test_numbers_that_nothing_has_are_passed_over(conn):
    conn.execute("SELECT setval(pg_get_serial_sequence('inventory_movement', 'movement_id'), 5000000)")
    sell(conn, ONE, 1)
    wanted = ledger(conn)
    assert wanted[-1] > 5_000_000
    assert read_up_to(conn, len(wanted), limit=2)[0] == wanted


def test_a_change_has_the_facts_of_its_movement(conn):
    _, after = read_up_to(conn, 3)
    conn.execute("SELECT decrement_item(%s, 1.50, 'order 7', 'key 7')", (str(ONE),))
    [found] = until(lambda: changes(conn, after)[0], "the sale is returned")
    transaction = found.pop("xact_id")
    row = conn.execute(
        "SELECT to_jsonb(m) - 'xact_id' = %s::jsonb, m.xact_id::text FROM inventory_movement AS m"
        " ORDER BY movement_id DESC LIMIT 1",
        (json.dumps(found),),
    )
    assert row.fetchone() == (True, transaction)
    assert (found["kind"], found["reference"], found["idempotency_key"]) == ("sale", "order 7", "key 7")


def test_a_movement_that_commits_late_is_returned_then(db, conn):
    _, after = read_up_to(conn, 3)
    first = ledger(conn)[-1]
    with db.connect(autocommit=False) as late:
        sell(late, ONE, 1)
        for _ in range(5):
            sell(conn, TWO, 1)
            found, after = changes(conn, after)
            assert found == [], "what is later than a movement that is not yet committed"
        late.commit()
    wanted = [number for number in ledger(conn) if number > first]
    assert read_up_to(conn, 6, after)[0] == wanted


def test_a_movement_that_commits_late_when_nobody_else_writes(db, conn):
    _, after = read_up_to(conn, 3)
    with db.connect(autocommit=False) as late:
        sell(late, ONE, 1)
        for _ in range(3):
            found, after = changes(conn, after)
            assert found == []
        late.commit()
    assert read_up_to(conn, 1, after)[0] == ledger(conn)[-1:], "it was passed over"


def test_the_oldest_of_two_transactions_that_commit_late(db, conn):
    _, after = read_up_to(conn, 3)
    with db.connect(autocommit=False) as one, db.connect(autocommit=False) as other:
        one.execute("SELECT pg_current_xact_id()")
        sell(other, TWO, 1)
        found, after = changes(conn, after)
        one.rollback()
        for _ in range(3):
            found, after = changes(conn, after)
            assert found == []
        sell(conn, THREE, 1)
        found, after = changes(conn, after)
        assert found == []
        other.commit()
    assert read_up_to(conn, 2, after)[0] == ledger(conn)[-2:]


def test_a_transaction_that_began_earlier_and_sells_later(db, conn):
    _, after = read_up_to(conn, 3)
    with db.connect(autocommit=False) as late:
        late.execute("SELECT pg_current_xact_id()")
        sell(conn, TWO, 1)
        read = []
        for _ in range(3):
            found, after = changes(conn, after)
            read += numbers(found)
        sell(late, ONE, 1)
        sell(conn, TWO, 1)
        for _ in range(3):
            found, after = changes(conn, after)
            read += numbers(found)
        late.commit()
    more, _ = read_up_to(conn, 3 - len(read), after)
    assert read + more == ledger(conn)[-3:]


def test_a_transaction_that_is_rolled_back_holds_nothing_up_afterwards(db, conn):
    _, after = read_up_to(conn, 3)
    with db.connect(autocommit=False) as late:
        sell(late, ONE, 1)
        sell(conn, TWO, 1)
        found, after = changes(conn, after)
        assert found == []
        late.rollback()
    assert read_up_to(conn, 1, after)[0] == ledger(conn)[-1:]


def test_a_reader_in_a_long_transaction_of_its_own(db, conn):
    with db.connect(autocommit=False) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        read, after = read_up_to(reader, 3)
        sell(conn, ONE, 1)
        for _ in range(3):
            found, after = changes(reader, after)
            read += numbers(found)
        reader.rollback()
        more, _ = read_up_to(reader, 4 - len(read), after) if len(read) < 4 else ([], after)
    assert read + more == ledger(conn)


def sell_many(db, number, errors, sales=60):
    """Single sales, orders, and transactions that stay open for a while or are rolled back."""
    chance = random.Random(number)
    try:
        with db.connect(autocommit=False) as session:
            for _ in range(sales):
                for key in sorted(chance.sample([ONE, TWO, THREE], chance.randint(1, 3))):
                    sell(session, key, "0.01")
                if chance.random() < 0.3:
                    session.execute("SELECT pg_sleep(%s)", (chance.random() / 50,))
                session.rollback() if chance.random() < 0.2 else session.commit()
    except Exception as error:  # shown by the test
        errors.append(error)


def test_a_reader_beside_eight_sellers_gets_every_movement_once(db, conn):
    conn.execute("SELECT restock_inventory(id::text, 10000) FROM inventory")
    stripe(conn, ONE, 4)
    errors, read, after, chance = [], [], None, random.Random()
    threads = [threading.Thread(target=sell_many, args=(db, number, errors)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found, after = changes(conn, after, chance.choice([1, 5, 50, MOST]))
        read += numbers(found)
    for thread in threads:
        thread.join()
    assert errors == []
    wanted = ledger(conn)
    more = read_up_to(conn, len(wanted) - len(read), after)[0] if len(read) < len(wanted) else []
    assert read + more == wanted


def test_a_reader_needs_select_on_the_ledger(db, conn):
    reader = create_role(conn, db, "reader")
    conn.execute(f'GRANT EXECUTE ON FUNCTION inventory_changes, inventory_at TO "{reader}"')
    with db.connect(reader) as session:
        assert refused(session, "SELECT inventory_changes()").sqlstate == "42501"
        conn.execute(f'GRANT SELECT ON inventory_movement TO "{reader}"')
        assert len(read_up_to(session, 3)[0]) == 3
        assert stock_at(session, ONE, now(conn)) == 20


MALFORMED = [
    "null", "1", "[]", "{}", '"x"', '{"movement": "1", "seen": null, "pending": null, "system": ""}',
    '{"movement": 1, "seen": [1], "pending": null, "system": ""}',
    '{"movement": 1, "seen": null, "pending": 3, "system": ""}', '{"movement": 1, "seen": null, "pending": null}',
    '{"movement": 1.5, "seen": null, "pending": null, "system": ""}',
    '{"movement": 92233720368547758070, "seen": null, "pending": null, "system": ""}',
]  # fmt: skip


@pytest.mark.parametrize("position", MALFORMED)
def test_a_malformed_position(conn, position):
    error = refused(conn, "SELECT inventory_changes(%s::json)", (position,))
    assert (error.sqlstate, error.reason) == ("22023", "malformed_position")


def test_the_range_of_the_limit(conn):
    for limit in (0, -1, MOST + 1, -(2**31), 2**31 - 1):
        error = refused(conn, "SELECT inventory_changes(NULL, %s)", (limit,))
        assert (error.sqlstate, error.reason) == ("22023", "limit"), limit
    assert refused(conn, "SELECT inventory_changes(NULL, NULL)").sqlstate == "22004"
    assert len(read_up_to(conn, 3, limit=MOST)[0]) == 3


@pytest.fixture(scope="module")
def other_server():
    with Server(pg=PG, settings={"full_page_writes": "off"}) as running:
        yield running


def dump(db, path):
    run_program(db.server, "pg_dump", "--format=custom", "-f", path, db.name)
    return path


@pytest.fixture
def restore(other_server):
    """A function that restores a dump on another server, or on the one that is given, and connects to it."""
    with ExitStack() as copies:

        def connect(path, server=other_server):
            copy = copies.enter_context(new_database(server))
            run_program(server, "pg_restore", "--exit-on-error", "-d", copy.name, path)
            return copy.connect()

        yield connect


@pytest.mark.parametrize("where", ["another server", "the same server"])
def test_a_position_goes_on_in_a_restored_database(db, conn, restore, tmp_path, where):
    for _ in range(3):
        sell(conn, ONE, 1)
    read, after = read_up_to(conn, 6)
    sell(conn, TWO, 1)
    wanted = ledger(conn)[-1:]
    path = dump(db, tmp_path / "dump")
    with restore(path) if where == "another server" else restore(path, db.server) as copy:
        more, after = read_up_to(copy, 1, after)
        assert more == wanted
        for _ in range(3):
            sell(copy, ONE, 1)
        more, after = read_up_to(copy, 3, after)
        assert more == ledger(copy)[-3:]


def test_a_position_that_waits_goes_on_in_a_restored_database(db, conn, restore, tmp_path):
    """In the younger cluster none of the transactions runs that the position waits for, and numbers of theirs count."""
    _, after = read_up_to(conn, 3)
    with db.connect(autocommit=False) as late:
        sell(late, ONE, 1)
        sell(conn, TWO, 1)
        found, after = changes(conn, after)
        assert found == []
        path = dump(db, tmp_path / "dump")
        late.commit()
    with restore(path) as copy:
        sell(copy, THREE, 1)
        wanted = ledger(copy)[3:]
        assert len(wanted) == 2
        assert read_up_to(copy, 2, after)[0] == wanted


@pytest.mark.parametrize("sales", [0, 2, 3, 8])
def test_a_position_younger_than_the_backup_is_refused(db, conn, restore, tmp_path, sales):
    path = dump(db, tmp_path / "dump")
    for _ in range(3):
        sell(conn, ONE, 1)
    _, after = read_up_to(conn, 6)
    with restore(path) as copy:
        for _ in range(sales):
            sell(copy, TWO, 1)
        for _ in range(3):
            error = refused(copy, "SELECT inventory_changes(%s::json)", (json.dumps(after),))
            assert (error.sqlstate, error.reason) == ("55000", "position_of_another_ledger")
        assert read_up_to(copy, 3 + sales)[0] == ledger(copy)


@pytest.mark.parametrize("number", ["of nothing", "of an opening"])
def test_a_position_younger_than_the_backup_whose_last_number_is_there(db, conn, restore, tmp_path, number):
    path = dump(db, tmp_path / "dump")
    sell(conn, ONE, 1)
    _, after = read_up_to(conn, 4)
    with restore(path) as copy:
        if number == "of an opening":
            copy.execute(f"INSERT INTO inventory VALUES ('{FOUR}', 5)")
        else:
            with pytest.raises(ZeroDivisionError), copy.transaction():
                sell(copy, TWO, 1)
                1 / 0  # noqa: B018
        sell(copy, TWO, 1)
        assert (ledger(conn)[3] in ledger(copy)) == (number == "of an opening")
        error = refused(copy, "SELECT inventory_changes(%s::json)", (json.dumps(after),))
        assert (error.sqlstate, error.reason) == ("55000", "position_of_another_ledger")


def test_a_reader_on_a_standby_gets_every_movement_once(other_server):
    """There the sequence of the ledger is ahead of the numbers that were given out."""
    with new_database(other_server) as database, Standby(other_server) as standby:
        conn = database.connect()
        conn.execute("CREATE EXTENSION inventory_ext")
        shop(conn, {ONE: "20.00"})
        read, after = [], None
        with Database(standby, database.name).connect() as reader:
            for _ in range(4):
                sell(conn, ONE, 1)
                standby.catch_up()
                for _ in range(3):
                    found, after = changes(reader, after)
                    read += numbers(found)
            until(lambda: reader.execute("SELECT count(*) FROM inventory_movement").fetchone() == (5,), "all is there")
            assert read + read_up_to(reader, 5 - len(read), after)[0] == ledger(conn)
        conn.close()


def count_at(conn, counted, moment, key=ONE, **arguments):
    named = "".join(f", {name} => %({name})s" for name in arguments)
    sql = f"SELECT adjust_inventory(%(key)s, %(counted)s, p_counted_at => %(moment)s{named})::text"
    values = {"key": str(key), "counted": Decimal(counted), "moment": moment, **arguments}
    return exact_json(conn.execute(sql, values).fetchone()[0])


def refused_count(conn, counted, moment, key=ONE, **arguments):
    named = "".join(f", {name} => %({name})s" for name in arguments)
    sql = f"SELECT adjust_inventory(%(key)s, %(counted)s, p_counted_at => %(moment)s{named})"
    return refused(conn, sql, {"key": str(key), "counted": Decimal(counted), "moment": moment, **arguments})


def counted_and_sold(conn, sales=3):
    """The moment of a count, and sales after it."""
    moment = now(conn)
    for _ in range(sales):
        sell(conn, ONE, 1)
    return moment


@pytest.mark.parametrize(("counted", "adjusted"), [("18.50", "-1.50"), ("25", "5"), ("20", "0"), ("3", "-17")])
def test_a_count_is_applied_as_a_difference_to_the_stock_of_its_moment(conn, counted, adjusted):
    moment = counted_and_sold(conn)
    before = len(steps(conn))
    done = count_at(conn, counted, moment, p_reason="stocktaking")
    new = 17 + Decimal(adjusted)
    assert (done["old_quantity"], done["new_quantity"], done["adjusted"]) == (17, new, Decimal(adjusted))
    assert left(conn, ONE) == new
    assert len(steps(conn)) == before + (Decimal(adjusted) != 0), "a count that equals the stock leaves no movement"
    assert_books_agree(conn)


def test_the_expected_quantity_is_that_of_the_moment(conn):
    moment = counted_and_sold(conn)
    error = refused_count(conn, "18", moment, p_expected_quantity=17)
    assert error.sqlstate == "IV005"
    assert 20 in error.facts.values(), "the stock of the moment"
    assert count_at(conn, "18", moment, p_expected_quantity=20)["new_quantity"] == 15


def test_more_was_sold_since_than_was_counted(conn):
    moment = counted_and_sold(conn)
    assert refused_count(conn, "2", moment).sqlstate == "IV001"
    assert left(conn, ONE) == 17


def test_moments_that_cannot_be_those_of_a_count(db):
    conn = db.connect()
    early = now(conn)
    shop(conn, {ONE: "20.00", TWO: "20.00"})
    conn.execute(f"DELETE FROM inventory WHERE id = '{TWO}'")
    gone = now(conn)
    conn.execute(f"INSERT INTO inventory VALUES ('{TWO}', 3)")
    late = conn.execute("SELECT clock_timestamp() + interval '1 hour'").fetchone()[0]
    for key, moment in ((ONE, early), (ONE, late), (ONE, "infinity"), (ONE, "-infinity"), (TWO, gone)):
        error = refused_count(conn, "5", moment, key)
        assert (error.sqlstate, error.reason) == ("22023", "counted_at"), (key, moment)
    assert refused_count(conn, "5", now(conn), UNKNOWN).sqlstate == "IV002"


def test_without_a_ledger_there_is_no_past(db):
    conn = db.connect()
    shop(conn, {ONE: "20.00"}, p_ledger=False)
    error = refused_count(conn, "5", now(conn))
    assert (error.sqlstate, error.reason) == ("55000", "no_ledger")
    assert conn.execute("SELECT adjust_inventory(%s, 5)", (str(ONE),)).fetchone()[0]["new_quantity"] == 5


def test_a_count_of_a_striped_item(conn):
    stripe(conn, ONE, 4)
    moment = counted_and_sold(conn, 5)
    done = count_at(conn, "18", moment)
    assert (done["old_quantity"], done["new_quantity"], done["adjusted"]) == (15, 13, -2)
    assert available(conn, ONE) == stock_at(conn, ONE, now(conn)) == 13
    unstripe(conn, ONE)
    assert count_at(conn, "20", moment)["adjusted"] == 0
    assert_books_agree(conn)


def test_a_count_of_a_moment_before_the_item_was_striped(conn):
    moment = counted_and_sold(conn)
    stripe(conn, ONE, 3)
    assert count_at(conn, "21", moment)["new_quantity"] == 18


def test_a_count_with_a_key_is_applied_once(conn):
    moment = counted_and_sold(conn)
    done = count_at(conn, "18", moment, p_idempotency_key="count 1")
    sell(conn, ONE, 1)
    again = count_at(conn, "18", moment, p_idempotency_key="count 1")
    assert (again["old_quantity"], again["new_quantity"]) == (done["old_quantity"], done["new_quantity"])
    assert left(conn, ONE) == 14
    later = now(conn)
    assert refused_count(conn, "18", later, p_idempotency_key="count 1").sqlstate == "IV003", "another moment"
    error = refused(conn, f"SELECT adjust_inventory('{ONE}', 18, p_idempotency_key => 'count 1')")
    assert error.sqlstate == "IV003", "a count of now is another call"
    conn.execute(f"SELECT adjust_inventory('{ONE}', 18, p_idempotency_key => 'count 2')")
    assert refused_count(conn, "18", moment, p_idempotency_key="count 2").sqlstate == "IV003"


def test_a_key_knows_its_moment_in_every_time_zone(conn):
    moment = counted_and_sold(conn)
    count_at(conn, "18", moment, p_idempotency_key="count 1")
    conn.execute("SET timezone = 'Asia/Kolkata'; SET datestyle = 'German'")
    assert count_at(conn, "18", moment, p_idempotency_key="count 1")["new_quantity"] == 15
    assert left(conn, ONE) == 15


def test_a_sale_that_was_written_before_the_count_and_commits_after_it(db, conn):
    with db.connect(autocommit=False) as late, db.connect() as counter:
        sell(late, ONE, 1)
        moment = now(conn)
        waiting = Aside(count_at, counter, "19", moment)
        until_waiting(conn, counter)
        late.commit()
        assert waiting.result()["adjusted"] == 0
    assert left(conn, ONE) == 19


def test_a_count_whose_item_is_sold_all_the_time(db, conn):
    """Sales go on while goods are counted: every count of the true stock adjusts nothing."""
    over, errors = threading.Event(), []
    conn.execute("SELECT restock_inventory(%s, 1000000)", (ONE,))  # However fast they sell.

    def sell_on():
        try:
            with db.connect() as session:
                while not over.is_set():
                    sell(session, ONE, "0.01")
        except Exception as error:  # shown by the test
            errors.append(error)

    threads = [threading.Thread(target=sell_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            moment = now(conn)
            # What was written before that moment is committed once the row can be locked.
            conn.execute("SELECT FROM inventory WHERE id = %s FOR UPDATE", (ONE,))
            counted = stock_at(conn, ONE, moment)
            assert count_at(conn, counted, moment)["adjusted"] == 0
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert errors == []
    assert_books_agree(conn)
