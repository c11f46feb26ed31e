"""Counters: exact, whatever ends a call."""

import random
import threading
from collections import Counter

import psycopg
import pytest

from shop import ONE, TWO, UNKNOWN, Aside, create_role, item, refused, refused_sale, sell, until

SALE = "SELECT decrement_inventory(%s::uuid, %s::numeric)"


def test_a_sale_is_counted(conn, stats):
    sell(conn, ONE, 1)
    sell(conn, TWO, 2)
    row = stats.of("decrement_inventory")
    assert (row["calls"], row["successes"], row["failures"], row["movements"]) == (2, 2, 0, 2)
    assert row["refusals"] == {} and row["replays"] == 0
    assert 0 < row["mean_time"] <= row["max_time"] <= row["total_time"]


def test_refusals_are_counted_by_sqlstate(conn, stats):
    refused_sale(conn, ONE, 5000)
    refused_sale(conn, UNKNOWN, 1)
    refused_sale(conn, ONE, -1)
    row = stats.of("decrement_inventory")
    assert (row["calls"], row["failures"], row["refusals"]) == (2, 2, {"IV001": 1, "IV002": 1})
    # Its arguments were refused before its stock table was looked for.
    assert stats.of("decrement_inventory", None)["refusals"] == {"22023": 1}


def test_refusals_keep_their_sqlstate_behind_postgrest(conn, stats):
    conn.execute("SET inventory_ext.error_style = postgrest")
    refused_sale(conn, ONE, 5000)
    assert stats.of("decrement_inventory")["refusals"] == {"IV001": 1}


def test_errors_of_postgresql_keep_their_sqlstate(db, conn, stats):
    with db.connect(autocommit=False) as holder:
        sell(holder, ONE, 1)
        conn.execute("SET lock_timeout = '50ms'")
        assert refused_sale(conn, ONE, 1).sqlstate == "55P03"
        holder.rollback()
    conn.execute(
        """CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'never' USING ERRCODE = 'SH0P1'; END $$;
        CREATE TRIGGER never BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION never()"""
    )
    assert refused_sale(conn, ONE, 1).sqlstate == "SH0P1"
    row = stats.of("decrement_inventory")
    assert row["refusals"] == {"55P03": 1, "SH0P1": 1}
    assert (row["calls"], row["successes"]) == (3, 1)


def test_a_rolled_back_sale_is_counted(conn, stats):
    with conn.transaction(force_rollback=True):
        sell(conn, ONE, 1)
    assert stats.of("decrement_inventory")["successes"] == 1


def test_replays_are_counted(conn, stats):
    for _ in range(3):
        conn.execute("SELECT decrement_item(%s, 1, p_idempotency_key => 'k')", (str(ONE),))
    row = stats.of("decrement_item")
    assert (row["calls"], row["replays"], row["movements"]) == (3, 2, 1)


@pytest.mark.parametrize(
    ("function", "call", "movements"),
    [
        ("decrement_inventory_batch", "decrement_inventory_batch('[{\"inventory_id\": \"%1$s\", \"quantity\": 1},"
         " {\"inventory_id\": \"%2$s\", \"quantity\": 1}]'::jsonb)", 2),
        ("restock_inventory", "restock_inventory('%1$s', 5)", 1),
        ("adjust_inventory", "adjust_inventory('%1$s', 5)", 1),
        ("transfer_inventory", "transfer_inventory('%1$s', '%2$s', 5)", 2),
        ("stripe_inventory", "stripe_inventory('%1$s', 2)", 3),
        ("available_inventory", "available_inventory('%1$s')", 0),
        ("purge_requests", "purge_requests(interval '1 day')", 0),
        ("audit_inventory", "audit_inventory()", 0),
        ("inventory_at", "inventory_at('%1$s', now())", 0),
        ("inventory_changes", "inventory_changes()", 0),
    ],
)  # fmt: skip
def test_every_function_is_counted(conn, stats, function, call, movements):
    conn.execute("SELECT count(*) FROM " + call.replace("%1$s", str(ONE)).replace("%2$s", str(TWO)))
    row = stats.of(function)
    assert (row["calls"], row["successes"], row["movements"]) == (1, 1, movements)


def test_a_call_within_a_call_is_counted_apart(conn, stats):
    conn.execute(
        """CREATE FUNCTION kit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF pg_trigger_depth() = 1 THEN PERFORM restock_inventory(%s::uuid, 1); END IF; RETURN NULL; END $$;
        CREATE TRIGGER kit AFTER UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION kit()""".replace("%s", f"'{TWO}'")
    )
    sell(conn, ONE, 1)
    assert stats.of("decrement_inventory")["successes"] == 1
    assert stats.of("restock_inventory")["successes"] == 1


def test_histograms_add_up_to_the_calls(conn, stats):
    for number in range(50):
        sell(conn, item(1 + number % 20), 1)
    latency, locks = stats.latency("decrement_inventory"), stats.latency("decrement_inventory", "lock")
    assert sum(latency["histogram"]) == latency["calls"] == 50
    assert sum(locks["histogram"]) == locks["calls"] == 50
    assert latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max_time"]
    assert locks["mean_time"] < latency["mean_time"]


def test_two_tables_and_two_databases_are_counted_apart(db, conn, stats):
    conn.execute("CREATE SCHEMA two; CREATE TABLE two.inventory (id uuid PRIMARY KEY, quantity int)")
    conn.execute("INSERT INTO two.inventory VALUES (%s, 9)", (ONE,))
    conn.execute("SELECT attach_inventory('two.inventory')")
    sell(conn, ONE, 1)
    conn.execute("SET search_path = two, public")
    sell(conn, ONE, 1)
    sell(conn, ONE, 1)
    assert stats.of("decrement_inventory")["calls"] == 1
    assert stats.of("decrement_inventory", "two.inventory")["calls"] == 2
    conn.execute("DROP SCHEMA two CASCADE")
    assert stats.of("decrement_inventory", "two.inventory") is None
    assert stats.of("decrement_inventory")["calls"] == 1


def test_a_reset_sets_all_to_zero(conn, stats):
    sell(conn, ONE, 1)
    refused_sale(conn, ONE, 5000)
    before = stats.info()[2]
    stats.conn.execute("SELECT reset_inventory_stats()")
    assert stats.of("decrement_inventory") is None and stats.hot() == []
    assert stats.info()[2] > before


def test_nothing_is_counted_where_that_is_off(conn, stats):
    conn.execute("SET inventory_ext.track = off")
    sell(conn, ONE, 1)
    assert stats.of("decrement_inventory") is None
    stats.conn.execute("SET inventory_ext.track = off")
    assert stats.info()[:2] == (False, "inventory_ext.track is off")


def test_members_of_pg_read_all_stats_read_and_others_do_not(db, conn, stats):
    reader, stranger = create_role(conn, db, "reader"), create_role(conn, db, "stranger")
    conn.execute(f'GRANT pg_read_all_stats TO "{reader}"')
    views = ["inventory_" + name for name in ("stats", "latency", "hot_items", "lock_queue", "stats_info")]
    with db.connect(reader) as session:
        for view in views:
            session.execute(f"SELECT * FROM {view}")
        assert refused(session, "SELECT reset_inventory_stats()").sqlstate == "42501"
    with db.connect(stranger) as session:
        for view in views:
            assert refused(session, f"SELECT * FROM {view}").sqlstate == "42501"
    with db.connect(reader) as session:
        session.execute("SELECT * FROM inventory_stats")
        for setting in ("track = off", "log_refusals = off", "log_lock_wait = 1"):
            assert refused(session, f"SET inventory_ext.{setting}").sqlstate == "42501"


def test_counts_are_exact_beside_64_sessions_with_errors_and_kills(db, conn, stats):
    """A session that is killed may not know the result of one call; the server knows how many there were."""
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)
    lock, seen, unknown = threading.Lock(), Counter(), Counter()

    def till(number):
        chosen = random.Random(seed + number)
        for _ in range(4):
            session = db.connect()
            try:
                for _ in range(12):
                    quantity = chosen.choice([1, 1, 1, 5_000, -1])
                    try:
                        session.execute(SALE, (item(chosen.randint(1, 20)), quantity))
                        outcome = "ok"
                    except psycopg.errors.DatabaseError as error:
                        if error.sqlstate is None or error.sqlstate.startswith("57"):
                            raise
                        outcome = error.sqlstate
                    with lock:
                        seen[outcome] += 1
            except psycopg.OperationalError:
                with lock:
                    unknown["calls"] += 1
            finally:
                session.close()

    tills = [Aside(till, number) for number in range(64)]
    killer, kills = db.connect(), 0
    while any(one._thread.is_alive() for one in tills):
        killed = killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = %s"
            " AND backend_type = 'client backend' AND query LIKE 'SELECT decrement%%' ORDER BY random() LIMIT 2",
            (db.name,),
        ).rowcount
        kills += killed
    for one in tills:
        one.result()
    assert kills > 20 and seen["ok"] > 200 and seen["IV001"] > 50

    def counted():
        rows = [stats.of("decrement_inventory"), stats.of("decrement_inventory", None)]
        found = Counter()
        for row in rows:
            found.update(row["refusals"])
            found["ok"] += row["successes"]
            assert row["calls"] == row["successes"] + row["failures"]
        return found

    found = counted()
    extra = found.total() - seen.total()
    assert 0 <= extra <= unknown["calls"], (found, seen, unknown)
    for outcome, count in seen.items():
        assert count <= found[outcome] <= count + unknown["calls"], outcome
    for measure in ("call", "lock"):
        latency = stats.latency("decrement_inventory", measure)
        assert sum(latency["histogram"]) == latency["calls"]


def test_a_killed_call_is_counted_when_its_process_ends(db, conn, stats):
    with db.connect(autocommit=False) as holder:
        sell(holder, ONE, 1)
        for _ in range(10):
            victim = db.connect()
            pid = victim.info.backend_pid
            call = Aside(victim.execute, SALE, (ONE, 1))
            until(lambda: [row[3] for row in stats.queue()] == [pid], "the call waits")
            conn.execute("SELECT pg_terminate_backend(%s)", (pid,))
            with pytest.raises(psycopg.errors.AdminShutdown):
                call.result()
            until(lambda: stats.queue() == [], "its place in the queue is free")
        holder.rollback()
    row = stats.of("decrement_inventory")
    assert (row["calls"], row["successes"], row["refusals"]) == (11, 1, {"57P01": 10})
