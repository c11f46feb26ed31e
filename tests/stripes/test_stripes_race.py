"""64 sessions sell a striped item down to exactly zero, again and again, with mixed sizes and goods that come in
meanwhile.

Nothing may be sold twice and nothing refused that is there: every session sells until it is refused a single unit, so
a unit that is left at the end was falsely refused to the last of them.
"""

import random
import threading
from decimal import Decimal

import psycopg
import pytest

from books import audit, call, stripes_of
from shop import ONE, Aside, exact_json, refusal_of, sell, shop, until

SEED = 20261124
SESSIONS, ROUNDS = 64, 40


@pytest.fixture
def conn(db):
    return db.connect()


def available(conn, item=ONE):
    return conn.execute("SELECT available_inventory(%s)", (item,)).fetchone()[0]


def shown(conn, item=ONE):
    return conn.execute("SELECT quantity FROM inventory WHERE id = %s", (item,)).fetchone()[0]


def test_64_sessions_sell_a_striped_item_to_exactly_zero(db, conn):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    shop(conn, {ONE: "0"}, type="numeric(12,2)")
    sessions = [db.connect() for _ in range(SESSIONS)]
    for number in range(ROUNDS):
        one_round(conn, sessions, random.Random(rng.random()))
        if number % 10 == 9:
            audit(conn)
    audit(conn)


def one_round(conn, sessions, rng):
    opening, stripes = Decimal(rng.randrange(0, 40_000)) / 100, rng.choice((2, 3, 8, 16, 64))
    call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=opening)
    conn.execute("SELECT stripe_inventory(%s, %s)", (ONE, stripes))
    start = threading.Barrier(len(sessions))
    tills = [
        Aside(till, session, start, random.Random(rng.random()), number) for number, session in enumerate(sessions)
    ]
    results = [till.result() for till in tills]
    sold = sum(answer["deducted"] for sales, _ in results for answer in sales)
    came = sum(came for _, came in results)
    assert available(conn) == 0, f"{available(conn)} left of {opening} in {stripes} stripes, and refused to all"
    assert sold == opening + came
    for sales, _ in results:
        for answer in sales:
            assert answer["old_quantity"] - answer["deducted"] == answer["new_quantity"] >= 0
            assert 1 <= answer["stripe"] <= stripes
    assert all(quantity == 0 for quantity in stripes_of(conn, ONE).values())
    until(lambda: shown(conn) == 0, "the row shows the total")


def till(session, start, rng, number):
    """Sells until a hundredth of a unit is refused; every eighth session brings goods in between."""
    start.wait()
    sales, came, size = [], Decimal(0), None
    brings = rng.randrange(1, 6) if number % 8 == 0 else None
    while True:
        if brings is not None and len(sales) >= brings:
            came += Decimal(rng.randrange(1, 3000)) / 100
            call(session, "restock_inventory", p_inventory_id=ONE, p_quantity=came)
            brings = None
        size = size or Decimal(rng.choice((1, 50, 100, 100, 175, 300, 1200))) / 100
        try:
            sales.append(sale(session, size, rng))
            size = None
        except psycopg.Error as error:
            refusal = refusal_of(error)
            assert refusal.sqlstate == "IV001", refusal
            if size == Decimal("0.01"):
                if brings is None:
                    return sales, came
                brings = 0
                continue
            size = Decimal("0.01") if size <= 1 else Decimal(rng.choice((1, 50))) / 100


def sale(session, size, rng):
    """A sale, or an order of one line; both answer the same keys."""
    if rng.random() < 0.8:
        return sell(session, ONE, size)
    items = f'[{{"inventory_id": "{ONE}", "quantity": {size}}}]'
    text = session.execute("SELECT decrement_inventory_batch(%s::jsonb)::text", (items,)).fetchone()[0]
    return exact_json(text)["lines"][0]


def test_orders_of_several_striped_items_never_deadlock(db, conn):
    """32 sessions, orders over four striped and two other items in any order, transfers and counts between: no
    40P01."""
    print(f"seed {SEED}")
    items = [ONE.__class__(int=n) for n in range(1, 7)]
    shop(conn, {key: "300" for key in items}, type="integer")
    for key in items[:4]:
        conn.execute("SELECT stripe_inventory(%s, 4)", (key,))
    sessions = [db.connect() for _ in range(32)]
    start = threading.Barrier(len(sessions))

    def work(session, rng):
        start.wait()
        sold = moved = 0
        for _ in range(40):
            act = rng.random()
            try:
                if act < 0.7:
                    chosen = rng.sample(items, rng.randrange(1, 6))
                    lines = ", ".join(
                        f'{{"inventory_id": "{key}", "quantity": {rng.randrange(1, 4)}}}' for key in chosen
                    )
                    answer = call(session, "decrement_inventory_batch", p_items=f"[{lines}]", p_on_shortage="partial")
                    sold += sum(line["deducted"] for line in answer["lines"])
                elif act < 0.85:
                    source, target = rng.sample(items, 2)
                    moved += call(session, "transfer_inventory", p_from=source, p_to=target, p_quantity=1)[
                        "transferred"
                    ]
                elif act < 0.95:
                    sold -= call(session, "restock_inventory", p_inventory_id=rng.choice(items), p_quantity=2)["added"]
                else:
                    sold -= call(session, "adjust_inventory", p_inventory_id=rng.choice(items), p_counted_quantity=20)[
                        "adjusted"
                    ]
            except psycopg.Error as error:
                assert refusal_of(error).sqlstate == "IV001", refusal_of(error)
        return sold, moved

    results = [Aside(work, session, random.Random(SEED + n)) for n, session in enumerate(sessions)]
    results = [session.result() for session in results]
    assert sum(moved for _, moved in results) > 0
    assert sum(available(conn, key) for key in items) == 1800 - sum(sold for sold, _ in results)
    until(lambda: all(shown(conn, key) == available(conn, key) for key in items), "the rows show the totals")
    audit(conn)
