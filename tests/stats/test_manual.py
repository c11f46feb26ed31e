"""What docs/monitoring.md says of the statistics, besides what its examples show."""

import psycopg
import pytest

from shop import ONE, TWO, Aside, create_role, item, refused, refused_sale, sell, stock_table, until

SALE = "SELECT decrement_item(%s, 1, p_reference => %s)"
LINES = f'[{{"inventory_id": "{ONE}", "quantity": 1}}, {{"inventory_id": "{TWO}", "quantity": 1}}]'
ORDER = f"SELECT decrement_inventory_batch('{LINES}')"
# Where a bucket ends, in milliseconds, from its place in the array.
END = "2 ^ ((place - 1) / 4) * (4 + (place - 1) % 4) / 4000"


def test_more_sqlstates_than_are_counted_apart_are_counted_together(conn, stats):
    conn.execute(
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'no' USING ERRCODE = current_setting('shop.sqlstate'); END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )
    states = [f"SH0{number:02d}" for number in range(20)]
    for state in states:
        conn.execute("SELECT set_config('shop.sqlstate', %s, false)", (state,))
        assert refused_sale(conn, ONE, 1).sqlstate == state
    row = stats.of("decrement_inventory")
    assert row["refusals"] == dict.fromkeys(states[:12], 1) | {"other": 8}
    assert row["failures"] == row["calls"] == 20


def test_a_canceled_call_has_its_sqlstate(db, conn, stats):
    with db.connect(autocommit=False) as holder:
        sell(holder, ONE, 1)
        waiting = db.connect()
        call = Aside(waiting.execute, SALE, (str(ONE), "order 1"))
        until(lambda: len(stats.queue()) == 1, "it waits")
        waiting.cancel()
        assert call.refusal().sqlstate == "57014"
        holder.rollback()
    assert stats.of("decrement_item")["refusals"] == {"57014": 1}


def test_what_is_no_call_is_not_counted(db, conn, stats):
    """A call without EXECUTE never begins; a direct write calls none of the functions."""
    with db.connect(create_role(conn, db, "nobody")) as session:
        assert refused(session, "SELECT decrement_item('x', 1)").sqlstate == "42501"
    conn.execute("UPDATE inventory SET quantity = quantity - 1")
    assert refused(conn, "SELECT inventory_digest()").sqlstate == "55000"
    assert stats.conn.execute("SELECT * FROM inventory_stats").fetchall() == []


def test_the_time_of_a_call_is_part_of_the_call_around_it(conn, stats):
    conn.execute(
        f"""CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = '{ONE}' THEN PERFORM restock_inventory('{TWO}', 1); ELSE PERFORM pg_sleep(0.05); END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER slow AFTER UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION slow()"""
    )
    sell(conn, ONE, 1)
    inner, outer = stats.of("restock_inventory"), stats.of("decrement_inventory")
    assert (inner["calls"], outer["calls"]) == (1, 1)
    assert 50 <= inner["total_time"] <= outer["total_time"]


def test_a_statement_that_waits_for_several_items_is_one_wait(db, conn, stats):
    with db.connect(autocommit=False) as first, db.connect(autocommit=False) as second:
        sell(first, ONE, 1)
        sell(second, TWO, 1)
        call = Aside(db.connect().execute, ORDER)
        until(lambda: [row[4] for row in stats.queue()] == [[first.info.backend_pid]], "it waits for the first one")
        [(key, stripe, place, *_)] = stats.queue()
        assert (key, stripe, place) == (str(ONE), None, 1)
        first.commit()
        until(lambda: [row[4] for row in stats.queue()] == [[second.info.backend_pid]], "it waits for the second one")
        second.commit()
        call.result()
    assert stats.of("decrement_inventory_batch")["lock_waits"] == 1
    assert {row[0]: row[1] for row in stats.hot()} == {str(ONE): 1, str(TWO): 1}


def test_a_call_without_another_session_waits_for_nothing(db, conn, stats):
    for number in range(1, 6):
        with db.connect() as session:
            sell(session, item(number), 1)
    assert stats.of("decrement_inventory")["lock_waits"] == 0 and stats.hot() == []


def test_buckets_end_where_the_manual_says(conn, stats):
    for _ in range(20):
        sell(conn, ONE, 1)
    row = stats.conn.execute(
        f"""SELECT cardinality(histogram), min_end, max_end, max_time, mean_time, p50 FROM inventory_latency,
                   LATERAL (SELECT min({END}) AS min_end, max({END}) AS max_end
                              FROM unnest(histogram) WITH ORDINALITY AS h (n, place) WHERE n > 0) AS used
             WHERE function = 'decrement_inventory' AND measure = 'call'"""
    ).fetchone()
    buckets, shortest, longest, max_time, mean, median = (float(number) for number in row)
    assert buckets == 106
    assert max_time < longest <= max_time * 1.26, "the longest call is in the last bucket that has one"
    assert shortest * 0.79 < mean < longest and shortest <= median <= max_time
    last = stats.conn.execute(f"SELECT {END} FROM (VALUES (105)) AS last (place)").fetchone()[0]
    assert 67_000 < last < 68_000, "what takes longer is in the bucket after it"


def test_long_ids_and_references_are_cut(db, stats):
    """64 bytes are kept, and no character is cut in two."""
    long, shop = "é" * 100, db.connect()
    stock_table(shop, {}, "shelf")
    shop.execute("ALTER TABLE shelf ALTER id TYPE text; INSERT INTO shelf VALUES (repeat('é', 100), 10)")
    shop.execute("DROP SCHEMA IF EXISTS two; SELECT detach_inventory('inventory'); SELECT attach_inventory('shelf')")
    with db.connect(autocommit=False) as holder:
        holder.execute(SALE, (long, "first"))
        call = Aside(db.connect().execute, SALE, (long, "a" + long))
        until(lambda: len(stats.queue()) == 1, "it waits")
        [(key, _, _, _, _, _, reference)] = stats.queue()
        assert (key, reference) == ("é" * 32, "a" + "é" * 31)
        holder.commit()
        call.result()
    assert [row[0] for row in stats.hot()] == ["é" * 32]


@pytest.mark.parametrize(
    ("first", "second"),
    [("restock_inventory(%s, 1)", "restock_inventory(%s, 1)"), ("decrement_item(%s, 1)", "adjust_inventory(%s, 50)")],
)
def test_the_striped_item_as_a_whole_is_stripe_0(db, conn, stats, first, second):
    """Deliveries wait for each other; a count waits for all sales."""
    conn.execute("SELECT stripe_inventory(%s, 2)", (str(ONE),))
    with db.connect(autocommit=False) as holder:
        holder.execute(f"SELECT {first}", (str(ONE),))
        call = Aside(db.connect().execute, f"SELECT {second}", (str(ONE),))
        [row] = until(stats.queue, "it waits")
        holder.commit()
        call.result()
    assert row[:3] == (str(ONE), 0, 1)


def test_the_lists_are_those_of_the_server(db, conn, stats, template):
    """Items of another database push out those of this one, where the list is full. The server may have a heavier item
    of a third database, which keeps one of the two places."""
    other = f"{db.name}_other"
    admin = psycopg.connect(db.server.dsn(), autocommit=True)
    conn.execute("ALTER SYSTEM SET inventory_ext.hot_items = 2")
    conn.execute("SELECT pg_reload_conf()")
    try:
        until(lambda: conn.execute("SHOW inventory_ext.hot_items").fetchone() == ("2",), "reloaded")
        refused_sale(conn, ONE, 5_000)
        admin.execute(f"CREATE DATABASE {other} TEMPLATE {template}")
        with psycopg.connect(db.server.dsn(other), autocommit=True) as session:
            stock_table(session, {ONE: 1, TWO: 1})
            session.execute("SELECT attach_inventory('inventory')")
            until(lambda: session.execute("SHOW inventory_ext.hot_items").fetchone() == ("2",), "reloaded")
            for _ in range(5):
                refused_sale(session, ONE, 5_000)
                refused_sale(session, TWO, 5_000)
            shown = session.execute("SELECT count(*) FROM inventory_hot_items WHERE refusals > 0").fetchone()[0]
        assert shown in (1, 2) and stats.hot() == []
    finally:
        conn.execute("ALTER SYSTEM RESET inventory_ext.hot_items")
        conn.execute("SELECT pg_reload_conf()")
        admin.execute(f"DROP DATABASE IF EXISTS {other} WITH (FORCE)")
        admin.close()


@pytest.mark.parametrize("function", ["reset_inventory_stats()", "inventory_advice()", "inventory_stats_calls()"])
def test_nobody_else_may_call_the_functions(db, conn, function):
    with db.connect(create_role(conn, db, "nobody")) as session:
        assert refused(session, f"SELECT {function}").sqlstate == "42501"
