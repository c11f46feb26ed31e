"""Who waits for which item: hot items, the queue, the log."""

import os
import random
from contextlib import ExitStack

import psycopg
import pytest

from shop import ONE, TWO, UNKNOWN, Aside, item, refused_sale, sell, until, until_waiting

PG = os.environ.get("PG", "18")
SALE = "SELECT decrement_item(%s, 1, p_reference => %s)"


def queue_up(db, conn, stats, number, statement=SALE, key=ONE):
    """So many sessions that wait for one item, one after the other."""
    calls = []
    for place in range(number):
        session = db.connect()
        calls.append((session, Aside(session.execute, statement, (str(key), f"order {place}"))))
        until(lambda place=place: len(stats.queue()) == place + 1, "the next one waits")
    return calls


def test_a_planted_queue_of_five_is_shown_in_order_and_nothing_after(db, conn, stats):
    with db.connect(autocommit=False) as holder:
        sell(holder, ONE, 1)
        calls = queue_up(db, conn, stats, 5)
        queue = stats.queue()
        assert [row[0] for row in queue] == [str(ONE)] * 5
        assert [row[2] for row in queue] == [1, 2, 3, 4, 5]
        assert [row[3] for row in queue] == [session.info.backend_pid for session, _ in calls]
        assert [row[6] for row in queue] == [f"order {place}" for place in range(5)]
        assert queue[0][4] == [holder.info.backend_pid]
        waiting = [row[5] for row in queue]
        assert waiting == sorted(waiting, reverse=True) and waiting[-1].total_seconds() > 0
        holder.commit()
    for _, call in calls:
        call.result()
    assert stats.queue() == []
    row = stats.of("decrement_item")
    assert (row["successes"], row["lock_waits"]) == (5, 5)


def test_the_queue_keeps_its_order_while_it_moves_up(db, conn, stats):
    with db.connect(autocommit=False) as holder:
        sell(holder, ONE, 1)
        first = db.connect(autocommit=False)
        call = Aside(first.execute, SALE, (str(ONE), "first"))
        until(lambda: len(stats.queue()) == 1, "the first one waits")
        calls = queue_up_after(db, stats, 3)
        holder.commit()
        call.result()
        until(lambda: len(stats.queue()) == 3, "the first one has the item")
        until(lambda: stats.queue()[0][4] == [first.info.backend_pid], "the next one waits for it")
        assert [row[3] for row in stats.queue()] == [session.info.backend_pid for session, _ in calls]
        first.commit()
    for _, call in calls:
        call.result()


def queue_up_after(db, stats, number):
    calls = []
    for place in range(number):
        session = db.connect()
        calls.append((session, Aside(session.execute, SALE, (str(ONE), f"order {place}"))))
        until(lambda place=place: len(stats.queue()) == place + 2, "the next one waits")
    return calls


def test_a_planted_hot_item_comes_first(db, conn, stats):
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)

    def till(number):
        chosen, session = random.Random(seed + number), db.connect()
        for _ in range(60):
            hot = chosen.random() < 0.5
            session.execute(
                "SELECT decrement_inventory(%s, 1), pg_sleep(0.001)", (item(7 if hot else chosen.randint(8, 20)),)
            )

    for call in [Aside(till, number) for number in range(8)]:
        call.result()
    hot = stats.hot()
    assert hot[0][0] == str(item(7)), hot
    assert hot[0][1] > 20 and hot[0][2] > 2 * sum(row[2] for row in hot[1:]) / len(hot)


def test_the_most_refused_items_are_listed(conn, stats):
    for number, times in ((3, 5), (4, 2)):
        for _ in range(times):
            refused_sale(conn, item(number), 5_000)
    with pytest.raises(psycopg.Error):
        lines = f'[{{"inventory_id": "{item(4)}", "quantity": 5000}}, {{"inventory_id": "{item(5)}", "quantity": 1}}]'
        conn.execute("SELECT decrement_inventory_batch(%s::jsonb)", (lines,))
    assert {row[0]: row[3] for row in stats.hot()} == {str(item(3)): 5, str(item(4)): 3}


def test_an_order_of_several_lines_names_the_item_that_it_waited_for(db, conn, stats):
    with db.connect(autocommit=False) as holder:
        sell(holder, TWO, 1)
        call = Aside(db.connect().execute, ORDER, (order_of(1, 2, 3), "an order"))
        until(lambda: len(stats.queue()) == 1, "the order waits")
        conn.execute("SELECT pg_sleep(0.05)")
        holder.commit()
        call.result()
    assert [row[0] for row in stats.hot()] == [str(TWO)]
    assert stats.of("decrement_inventory_batch")["lock_waits"] == 1


def order_of(*numbers):
    return "[" + ", ".join(f'{{"inventory_id": "{item(number)}", "quantity": 1}}' for number in numbers) + "]"


ORDER = "SELECT decrement_inventory_batch(%s::jsonb, %s)"


@pytest.mark.parametrize("kind", ["ordinary", "partitioned"])
def test_an_order_of_several_lines_is_in_the_queue_of_the_item_that_it_waits_for(db, conn, stats, kind):
    """And in that of the next one, when it waits for that."""
    if kind == "partitioned":
        conn.execute("SELECT detach_inventory(); DROP TABLE inventory CASCADE")
        conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity int NOT NULL) PARTITION BY HASH (id)")
        for place in range(3):
            name = f"inventory_{place}"
            conn.execute(f"CREATE TABLE {name} PARTITION OF inventory FOR VALUES WITH (MODULUS 3, REMAINDER {place})")
        conn.execute("INSERT INTO inventory SELECT lpad(g::text, 32, '0')::uuid, 9 FROM generate_series(1, 9) AS g")
        conn.execute("DROP TABLE IF EXISTS inventory_movement, inventory_request, inventory_stripe,"
                     " inventory_stripe_total CASCADE; SELECT attach_inventory('inventory')")  # fmt: skip
    with db.connect(autocommit=False) as first, db.connect(autocommit=False) as second:
        sell(first, TWO, 1)
        sell(second, item(4), 1)
        order, sale = db.connect(), db.connect()
        calls = [Aside(order.execute, ORDER, (order_of(1, 2, 3, 4), "an order"))]
        until(lambda: len(stats.queue()) == 1, "the order waits")
        calls.append(Aside(sale.execute, SALE, (str(TWO), "a sale")))
        until(lambda: len(stats.queue()) == 2, "the sale waits")
        queue = [(key, place, pid, reference) for key, _, place, pid, _, _, reference in stats.queue()]
        assert queue == [
            (str(TWO), 1, order.info.backend_pid, "an order"),
            (str(TWO), 2, sale.info.backend_pid, "a sale"),
        ]
        first.commit()
        until(lambda: [row[0] for row in stats.queue() if row[6] == "an order"] == [str(item(4))], "it waits again")
        second.commit()
    for call in calls:
        call.result()
    assert stats.queue() == []


@pytest.mark.parametrize("length", [1, 5])
def test_the_list_of_hot_items_is_bounded_and_keeps_the_heaviest(db, conn, stats, length):
    admin = db.connect()
    admin.execute(f"ALTER SYSTEM SET inventory_ext.hot_items = {length}")
    admin.execute("SELECT pg_reload_conf()")
    try:
        with db.connect() as session:
            until(lambda: session.execute("SHOW inventory_ext.hot_items").fetchone() == (str(length),), "reloaded")
            for number in [9] * 30 + list(range(1, 21)) + [9] * 5:
                refused_sale(session, item(number), 5_000)
            hot = session.execute("SELECT inventory_id, refusals FROM inventory_hot_items").fetchall()
        assert len(hot) <= length
        assert length == 1 or str(item(9)) in {row[0] for row in hot}
    finally:
        admin.execute("ALTER SYSTEM RESET inventory_ext.hot_items")
        admin.execute("SELECT pg_reload_conf()")


def test_a_wait_for_a_stripe_is_in_the_queue(db, conn, stats):
    conn.execute("SELECT stripe_inventory(%s, 2)", (str(ONE),))
    with db.connect(autocommit=False) as first, db.connect(autocommit=False) as second:
        one, two = (stripe_of_a_sale(session, ONE) for session in (first, second))
        assert {one, two} == {1, 2}
        third = db.connect()
        call = Aside(third.execute, SALE, (str(ONE), "third"))
        until(lambda: len(stats.queue()) == 1, "the third one waits")
        [(key, stripe, place, pid, blocked_by, _, reference)] = stats.queue()
        assert (key, place, pid, reference) == (str(ONE), 1, third.info.backend_pid, "third")
        assert stripe in (1, 2) and blocked_by[0] in (first.info.backend_pid, second.info.backend_pid)
        first.commit()
        second.commit()
        call.result()
    assert stats.hot()[0][0] == str(ONE)


def waits_of(conn, session):
    """What pg_stat_activity says that a session waits for."""
    sql = "SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = %s"
    return conn.execute(sql, (session.info.backend_pid,)).fetchone()


SELL, RESTOCK, COUNT = (
    f"SELECT {call}" for call in ("decrement_item(%s, 1)", "restock_inventory(%s, 1)", "adjust_inventory(%s, 5)")
)


@pytest.mark.parametrize(
    ("hold", "wait", "name"),
    [
        ((SELL, SELL), SELL, "InventoryStripe"),
        ((RESTOCK,), RESTOCK, "InventoryStripe"),
        ((COUNT,), SELL, "InventoryItem"),
        ((SELL,), COUNT, "InventoryItem"),
    ],
)
def test_a_wait_for_a_striped_item_has_a_name_of_its_own(db, conn, stats, hold, wait, name):
    expected = ("Extension", name) if int(PG) >= 17 else ("Lock", "advisory")
    conn.execute("CREATE TABLE shop_closed ()")
    conn.execute("SELECT stripe_inventory(%s, 2)", (str(ONE),))
    with ExitStack() as stack:
        holders = [stack.enter_context(db.connect(autocommit=False)) for _ in hold]
        for holder, statement in zip(holders, hold, strict=True):
            holder.execute(statement, (str(ONE),))
        waiting, ended = (stack.enter_context(db.connect()) for _ in range(2))

        def begins_to_wait(session):
            until(lambda: waits_of(conn, session) == ("Client", "ClientRead"), "it waits for nothing")
            call = Aside(session.execute, wait, (str(ONE),))
            until(lambda: len(stats.queue()) == 1, "it waits")
            assert waits_of(conn, session) == expected
            assert stats.queue()[0][4][0] in [holder.info.backend_pid for holder in holders]
            return call

        for _ in range(2):
            call = begins_to_wait(waiting)
            waiting.cancel()
            assert call.refusal().sqlstate == "57014"
        call = begins_to_wait(ended)
        conn.execute("SELECT pg_terminate_backend(%s, 5000)", (ended.info.backend_pid,))
        assert call.refusal().sqlstate == "57P01"
        assert waits_of(conn, ended) is None
        call = begins_to_wait(waiting)
        for holder in holders:
            holder.commit()
        call.result()
        until(lambda: waits_of(conn, waiting) == ("Client", "ClientRead"), "it is over")
        blocker = stack.enter_context(db.connect(autocommit=False))
        blocker.execute("LOCK TABLE shop_closed")
        call = Aside(waiting.execute, "SELECT FROM shop_closed")
        until(lambda: waits_of(conn, waiting) == ("Lock", "relation"), "it waits under PostgreSQL's own name again")
        blocker.commit()
        call.result()


def test_two_that_wait_for_each_other_under_these_names_are_found(db, conn):
    for key in (ONE, TWO):
        conn.execute("SELECT stripe_inventory(%s, 2)", (str(key),))
    with db.connect(autocommit=False) as one, db.connect(autocommit=False) as other:
        one.execute(COUNT, (str(ONE),))
        other.execute(COUNT, (str(TWO),))
        call = Aside(sell, one, TWO, 1)
        until_waiting(conn, one)
        try:
            sell(other, ONE, 1)
        except psycopg.errors.DeadlockDetected:
            other.rollback()
            call.result()
        else:
            assert call.refusal().sqlstate == "40P01"


def stripe_of_a_sale(session, key):
    return int(session.execute("SELECT decrement_item(%s, 1) ->> 'stripe'", (str(key),)).fetchone()[0])


def log_since(db, begin):
    return db.server.log_path.read_bytes()[begin:].decode(errors="replace")


def test_a_slow_wait_is_logged_with_item_and_reference(db, conn, stats):
    with db.connect(autocommit=False) as holder:
        sell(holder, ONE, 1)
        begin = db.server.log_path.stat().st_size
        waiting = db.connect()
        waiting.execute("SET inventory_ext.log_lock_wait = '20ms'")
        call = Aside(waiting.execute, SALE, (str(ONE), "order 7"))
        until(lambda: len(stats.queue()) == 1, "it waits")
        conn.execute("SELECT pg_sleep(0.05)")
        holder.commit()
        call.result()
    sell(waiting, TWO, 1)
    text = log_since(db, begin)
    lines = [line for line in text.splitlines() if "inventory_ext waited" in line]
    assert len(lines) == 1, text
    assert str(ONE) in text and "order 7" in text


@pytest.mark.parametrize("style", ["sqlstate", "postgrest"])
def test_refusals_are_kept_out_of_the_log_and_nothing_else_is(db, conn, stats, style):
    conn.execute(f"SET inventory_ext.error_style = {style}")
    for logged in ("on", "off"):
        conn.execute(f"SET inventory_ext.log_refusals = {logged}")
        begin = db.server.log_path.stat().st_size
        refused_sale(conn, ONE, 5_000)
        refused_sale(conn, UNKNOWN, 1)
        with pytest.raises(psycopg.Error):
            conn.execute("SELECT 1/0")
        text = log_since(db, begin)
        assert text.count("ERROR:") == (3 if logged == "on" else 2), text
        assert "division by zero" in text
        assert ("insufficient" in text.lower()) == (logged == "on")
    assert stats.of("decrement_inventory")["refusals"] == {"IV001": 2, "IV002": 2}
