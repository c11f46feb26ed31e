"""The race that sold five and deducted one, and a shop full of connections.

The sales truly run at once: in the small test every session is seen waiting for the same row before the first may go
on; in the large one 64 connections sell 20,000 times. What is asserted is arithmetic over the results of the callers.
"""

import random
import threading
from collections import defaultdict
from decimal import Decimal

import psycopg
import pytest

from shop import ONE, Aside, allow_sales, create_role, item, left, refusal_of, sell, shop, stock_of, until_waiting

SEED = 20260923


@pytest.fixture
def conn(db):
    return db.connect()


def test_five_concurrent_sales_of_one_from_11_52_leave_6_52(db, conn):
    """The original bug, on the original figures: each of five waiting sales must see the one before it."""
    shop(conn, {ONE: "11.52"})
    holder = db.connect(autocommit=False)
    holder.execute("SELECT 1 FROM inventory WHERE id = %s FOR UPDATE", (ONE,))
    tills = [db.connect() for _ in range(5)]
    sales = [Aside(sell, till, ONE, "1") for till in tills]
    until_waiting(conn, *tills)
    holder.commit()

    answers = sorted((sale.result() for sale in sales), key=lambda answer: -answer["old_quantity"])

    assert [str(answer["old_quantity"]) for answer in answers] == ["11.52", "10.52", "9.52", "8.52", "7.52"]
    assert [str(answer["new_quantity"]) for answer in answers] == ["10.52", "9.52", "8.52", "7.52", "6.52"]
    assert left(conn, ONE) == Decimal("6.52")


def test_the_same_five_lose_four_units_when_the_application_subtracts(db, conn):
    """The control: the rig above does reproduce the bug when quantity is read, subtracted and written back."""
    shop(conn, {ONE: "11.52"})
    tills = [db.connect() for _ in range(5)]
    read = [left(till, ONE) for till in tills]
    for till, quantity in zip(tills, read):
        till.execute("UPDATE inventory SET quantity = %s WHERE id = %s", (quantity - 1, ONE))
    assert left(conn, ONE) == Decimal("10.52")


def test_64_connections_sell_20000_times_and_every_unit_is_accounted_for(db, conn):
    """Σ deducted + Σ left = Σ opening for each item, never below zero, and no refusal that was not true."""
    rng = random.Random(SEED)
    stock = {item(n): Decimal(rng.randrange(500, 400_000)) / 100 for n in range(1, 51)}
    shop(conn, stock)
    clerk = create_role(conn, db, "clerk")
    allow_sales(conn, clerk)
    threads, sales_each = 64, 20_000 // 64 + 1
    connections = [db.connect(user=clerk) for _ in range(threads)]
    start = threading.Barrier(threads)

    def till(number):
        own = random.Random(SEED + number)
        start.wait()
        results = []
        for _ in range(sales_each):
            # Squaring crowds the sales onto the first items, so that some sell out and others never do.
            key = item(1 + int(50 * own.random() ** 2))
            wanted = Decimal(own.choice((1, 25, 50, 100, 100, 125, 333, 700, 2000))) / 100
            try:
                results.append((key, wanted, sell(connections[number], key, wanted)))
            except psycopg.Error as error:
                results.append((key, wanted, refusal_of(error)))
        return results

    by_item = defaultdict(list)
    for session in [Aside(till, number) for number in range(threads)]:
        for key, wanted, outcome in session.result():
            by_item[key].append((wanted, outcome))

    final = stock_of(conn)
    assert sum(len(outcomes) for outcomes in by_item.values()) == threads * sales_each >= 20_000
    refusals = sum(check_item(stock[key], final[key], outcomes) for key, outcomes in by_item.items())
    assert refusals > 1000, "too few refusals for the test to say anything about them"
    assert any(quantity > 10 for quantity in final.values()), "everything sold out, nothing left to account for"


def check_item(opening, final, outcomes) -> int:
    """Accounts for one item and answers how many sales of it were refused.

    The stock only falls, so the sales form one chain from the opening quantity to the final one, and a truthful refusal
    names a quantity of that chain which is less than was asked for.
    """
    sold = [(wanted, answer) for wanted, answer in outcomes if isinstance(answer, dict)]
    refused = [(wanted, answer) for wanted, answer in outcomes if not isinstance(answer, dict)]
    expected = opening
    for wanted, answer in sorted(sold, key=lambda sale: -sale[1]["old_quantity"]):
        assert answer["success"] is True
        assert answer["old_quantity"] == expected
        assert answer["deducted"] == wanted
        expected = answer["new_quantity"]
        assert answer["old_quantity"] - wanted == expected
    assert expected == final >= 0
    assert sum(wanted for wanted, _ in sold) + final == opening

    held = {opening} | {answer["new_quantity"] for _, answer in sold}
    for wanted, answer in refused:
        assert answer.sqlstate == "IV001", answer
        facts = answer.facts
        assert facts["requested"] == wanted
        assert facts["available"] in held
        assert final <= facts["available"] < wanted
        assert answer.message == f"Insufficient inventory. Available: {facts['available']}, Requested: {wanted}"
    return len(refused)


def test_a_session_never_reads_more_stock_than_it_read_before(db, conn):
    """With sales alone the stock falls: what one session hears, in answers and refusals, may only fall too."""
    shop(conn, {ONE: "150.00"})
    start = threading.Barrier(8)

    def till(connection, number):
        own = random.Random(SEED + number)
        start.wait()
        heard = []
        while not heard or heard[-1] > 0:
            try:
                heard.append(sell(connection, ONE, own.choice(("0.25", "1", "3")))["new_quantity"])
            except psycopg.Error as error:
                answer = refusal_of(error)
                assert answer.sqlstate == "IV001", answer
                heard.append(answer.facts["available"])
        return heard

    connections = [db.connect() for _ in range(8)]
    for session in [Aside(till, connection, number) for number, connection in enumerate(connections)]:
        heard = session.result()
        assert heard == sorted(heard, reverse=True)
    assert left(conn, ONE) == 0


def test_sales_that_roll_back_leave_no_trace_among_those_that_commit(db, conn):
    """16 connections sell in transactions and savepoints, half of which roll back: only committed sales count."""
    stock = {item(n): Decimal(500) for n in range(1, 9)}
    shop(conn, stock)

    def till(connection, number):
        own = random.Random(SEED + number)
        committed = defaultdict(Decimal)
        for _ in range(40):
            pending = defaultdict(Decimal)
            # Items in one order in every session: this test is about rollback, not about deadlock.
            for key in sorted(own.sample(sorted(stock), 3)):
                connection.execute("SAVEPOINT line")
                try:
                    taken = sell(connection, key, own.choice(("0.5", "1.25", "4")))["deducted"]
                except psycopg.Error as error:
                    assert refusal_of(error).sqlstate == "IV001"
                    connection.execute("ROLLBACK TO line")
                    continue
                if own.random() < 0.3:
                    connection.execute("ROLLBACK TO line")
                else:
                    pending[key] += taken
            if own.random() < 0.5:
                connection.rollback()
                continue
            connection.commit()
            for key, taken in pending.items():
                committed[key] += taken
        return committed

    deducted = defaultdict(Decimal)
    connections = [db.connect(autocommit=False) for _ in range(16)]
    for session in [Aside(till, connection, number) for number, connection in enumerate(connections)]:
        for key, taken in session.result().items():
            deducted[key] += taken
    assert {key: quantity + deducted[key] for key, quantity in stock_of(conn).items()} == stock
    assert sum(deducted.values()) > 0
