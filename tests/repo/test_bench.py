"""The benchmark runs, counts right, and what the manual shows of it is what was measured.

Every contender of every workload is run for a second and its books are balanced afterwards. No figure is asserted: a
clock decides nothing here. Charts are not drawn (that would need their library): each carries a digest of the figures
in it.
"""

import os
import re
import threading
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from bench import growth, orders, refusals, report, run, server_time, shops, tables, triggers
from bench.workloads import ASYNC, FULL, WORKLOADS, scripts

PG = os.environ.get("PG", "18")
CLIENTS = 4
SECONDS = 0  # and the one that a measurement leaves out


@pytest.fixture(scope="module")
def opened(server):
    """{contender: database}, each with its stock."""
    databases = shops.open_shops(server, suffix=f"_bench_{PG}")
    yield databases
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        for database in databases.values():
            conn.execute(f'DROP DATABASE "{database}" WITH (FORCE)')


@pytest.fixture
def pgbench(server, tmp_path):
    return shops.Pgbench(server, tmp_path)


KINDS = {re.sub(r"_\d+$", "", workload.name): workload for workload in WORKLOADS}  # the scripts do not know of clients


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("name", shops.CALLS)
def test_what_pgbench_counts_is_what_left_the_stock(server, opened, pgbench, name, kind):
    before = shops.left_in_stock(server, opened[name])
    done = pgbench.run(opened[name], scripts(pgbench, name, KINDS[kind]), CLIENTS, SECONDS, ASYNC)
    assert done.transactions > 0
    assert before - shops.left_in_stock(server, opened[name]) == done.transactions
    if name in shops.LEDGERS:
        shops.check_ledger(server, opened[name])


@pytest.mark.parametrize("name", ["twin", "ext_ledger"])
def test_an_order_sells_its_lines(server, opened, pgbench, name):
    before = shops.left_in_stock(server, opened[name])
    done = pgbench.run(
        opened[name], orders.whole(pgbench, orders.function_of(name), 10), CLIENTS, SECONDS, ASYNC, "simple"
    )
    assert before - shops.left_in_stock(server, opened[name]) == 10 * done.transactions > 0
    shops.check_ledger(server, opened[name])


def test_single_calls_in_one_transaction_sell_their_lines(server, opened, pgbench):
    before = shops.left_in_stock(server, opened["ext_ledger"])
    done = pgbench.run(opened["ext_ledger"], orders.singles(pgbench, "ext_ledger", 10), CLIENTS, SECONDS, ASYNC)
    assert before - shops.left_in_stock(server, opened["ext_ledger"]) == 10 * done.transactions > 0


@pytest.mark.parametrize("name", refusals.CONTENDERS)
def test_what_is_sold_out_is_refused(server, opened, pgbench, name):
    with psycopg.connect(server.dsn(opened[name])) as conn:
        (code,) = conn.execute(refusals.CALL).fetchone()
    assert code == ("P0001" if name == "handwritten" else "IV001")
    before = shops.left_in_stock(server, opened[name])
    assert (
        pgbench.run(opened[name], [pgbench.script("sold-out.sql", refusals.CALL)], CLIENTS, SECONDS, ASYNC).transactions
        > 0
    )
    assert shops.left_in_stock(server, opened[name]) == before


@pytest.mark.parametrize("name", ["ext_plain", "ext_ledger", "handwritten"])
def test_a_refused_call_leaves_no_wal_and_no_transaction_id(server, opened, name):
    """Counted by the server itself; the function written by hand is the control, whose row lock needs both."""
    found = refusals.traces(server, opened[name], name, calls=100)
    assert found["calls"] == found["refused"] == found["rolled_back"] == 100
    assert found["rows_written"] == 0
    left = found["wal_bytes"], found["transaction_ids"]
    assert min(left) >= 100 if name == "handwritten" else left == (0, 0)


def test_a_refusal_at_once_is_the_same_refusal_without_the_work(server, opened):
    with psycopg.connect(server.dsn(opened["handwritten"])) as conn:
        assert conn.execute(f"SELECT refused_at_once({refusals.ID}), refused({refusals.ID})").fetchone() == (
            "P0001",
            "P0001",
        )


def test_calls_that_are_timed_in_the_server_sell(server, opened):
    before = {name: shops.left_in_stock(server, opened[name]) for name, _ in server_time.WAYS.values()}
    found = server_time.measured(server, opened, 1, 0.2)
    assert found.keys() == server_time.WAYS.keys() and all(us > 0 for (us,) in found.values())
    for name in before:
        sold = before[name] - shops.left_in_stock(server, opened[name])
        assert sold > 0 and sold % server_time.CALLS == 0, name
        if name in shops.LEDGERS:
            shops.check_ledger(server, opened[name])


def test_the_contender_by_statements_is_one(server, opened):
    """The trigger of the ledger runs for it alone."""
    calls = "SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = 'inventory_movement_record'"
    recorded = []
    for way in ("ext_ledger", "ext_ledger, sql"):
        name, path = server_time.WAYS[way]
        with server_time.connect(server, opened[name], path) as conn:
            conn.execute("SET track_functions = 'all'")
            conn.execute(server_time.statement(name), (0,))
            conn.execute("SELECT pg_stat_force_next_flush()")
            recorded.append(int(conn.execute(calls).fetchone()[0]))
    assert recorded == [0, server_time.CALLS]


def test_a_day_of_a_long_ledger_reads_that_day(server):
    database = shops.open_shops(server, ["ext_ledger"], suffix=f"_day_{PG}")["ext_ledger"]
    with psycopg.connect(server.dsn(database), autocommit=True) as conn:
        growth.long_ledger(conn, 365_000)
    found = growth.a_day(server, database)
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
    assert found["rows"] == 1000 and found["pages_read"] < found["pages"] / 10, found


def test_one_client_shares_a_core_with_its_session(server, opened, pgbench):
    """Seen while it runs; with one core there is nothing to share."""
    done, seen = [], []

    def run():
        done.append(pgbench.run(opened["raw"], scripts(pgbench, "raw", WORKLOADS[0]), 1, SECONDS, ASYNC))

    thread = threading.Thread(target=run)
    thread.start()
    with psycopg.connect(server.dsn(opened["raw"]), autocommit=True) as conn:
        while thread.is_alive():
            sessions = conn.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'").fetchall()
            with suppress(ProcessLookupError):
                seen += [os.sched_getaffinity(pid) for (pid,) in sessions]
    thread.join()
    assert done and {max(os.sched_getaffinity(0))} in seen


def test_only_who_takes_no_lock_is_refused_while_the_row_is_held(opened, pgbench):
    # The first second is left out; on a busy machine the next may pass before a session has begun.
    assert refusals.held(pgbench, opened["ext_ledger"], 1, 4)["calls"] > 0
    assert refusals.held(pgbench, opened["handwritten"], 1, 1)["calls"] == 0


# What PL/pgSQL is compared with must promise the same.

ONE = "'00000000-0000-0000-0000-000000000001'"
TWIN_REFUSES = {
    f"SELECT twin_decrement({ONE}, NULL)": "22004",
    f"SELECT twin_decrement({ONE}, 'NaN')": "22023",
    f"SELECT twin_decrement({ONE}, 'Infinity')": "22023",
    f"SELECT twin_decrement({ONE}, -1)": "22023",
    f"SELECT twin_decrement({ONE}, 0.005)": "22003",
    "SELECT twin_decrement(gen_random_uuid(), 1)": "IV002",
    "SELECT twin_batch('[]')": "22023",
    f"""SELECT twin_batch(replace(
        '[{{"inventory_id": "#", "quantity": -1}}, {{"inventory_id": "#", "quantity": 2}}]',
        '#', {ONE})::jsonb)""": "22023",
    """SELECT twin_batch(format('[{"inventory_id": "%s", "quantity": 1}]', gen_random_uuid())::jsonb)""": "IV002",
    "DELETE FROM inventory_movement": "55000",
    "UPDATE inventory SET quantity = 'NaN'": "23514",
}


@pytest.mark.parametrize("sql", TWIN_REFUSES)
def test_the_twin_refuses(server, opened, sql):
    with psycopg.connect(server.dsn(opened["twin"])) as conn, pytest.raises(psycopg.Error) as refused:
        conn.execute(sql)
    assert refused.value.sqlstate == TWIN_REFUSES[sql]


LEDGER = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
       pg_get_expr(d.adbin, d.adrelid)
  FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = 'inventory_movement'::regclass AND a.attnum > 0
UNION ALL
SELECT 'index', pg_get_indexdef(indexrelid), indisunique, '', '', NULL
  FROM pg_index WHERE indrelid = 'inventory_movement'::regclass
 ORDER BY 1, 2
"""


def test_the_twin_keeps_the_same_ledger(server, opened):
    kept = {}
    for name in ("twin", "ext_ledger"):
        with psycopg.connect(server.dsn(opened[name])) as conn:
            kept[name] = conn.execute(LEDGER).fetchall()
    assert len(kept["twin"]) == 12 + 3
    assert kept["twin"] == kept["ext_ledger"]


def test_both_triggers_of_the_twin_and_the_extension_write_every_line(pgbench):
    found = triggers.measured(pgbench, 1, 2)  # balances the books of each
    assert found["1"].keys() == found["1000"].keys() == triggers.SHOPS.keys()


def test_the_last_of_many_tables_is_measured_against_the_only_one(server, pgbench):
    found = tables.measured(pgbench, 1, SECONDS + 1, calls=1, many=7)
    assert {count: len(figures["first_ms"]) for count, figures in found.items()} == {"1": 1, "7": 1}
    for count in (1, 7):
        with psycopg.connect(server.dsn(f"tables_{count}"), autocommit=True) as conn:
            others = " + ".join(f"(SELECT count(*) FROM tenant_{n}.inventory_movement)" for n in range(1, count)) or "0"
            assert conn.execute(f"SELECT {others}").fetchone()[0] == tables.ITEMS * (count - 1), "the last one sold"
            assert (
                conn.execute(f"SELECT count(*) FROM tenant_{count}.inventory_movement").fetchone()[0] > tables.ITEMS + 1
            )
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute(f"DROP DATABASE tables_{count} WITH (FORCE)")


@pytest.mark.parametrize("less", orders.LESS)
def test_a_ledger_with_less_in_it_is_written_too(server, opened, less):
    movements = "SELECT count(*) FROM inventory_movement WHERE kind = 'sale'"
    with psycopg.connect(server.dsn(opened["ext_ledger"])) as conn:
        conn.execute(orders.LESS[less])
        before = conn.execute(movements).fetchone()[0]
        conn.execute("SELECT decrement_inventory_batch(%s::jsonb)", (orders.as_json([1, 2, 3]),))
        assert conn.execute(movements).fetchone()[0] == before + 3
        conn.rollback()


def test_each_step_belongs_to_a_part_that_can_be_measured_alone(server, tmp_path):
    steps = [
        step
        for kind in (run.Shops(server, FULL, False, tmp_path), run.Growth(server, FULL, tmp_path))
        for step in kind.plan()
    ]
    assert {step.part for step in steps} == {*run.PARTS, None}


def test_the_twin_tells_a_sale_from_another_change(server, opened):
    with psycopg.connect(server.dsn(opened["twin"])) as conn:
        for sql in (
            f"SELECT twin_decrement({ONE}, 1)",
            f"UPDATE inventory SET quantity = quantity - 1 WHERE id = {ONE}",
        ):
            conn.execute(sql)
        kinds = conn.execute("SELECT kind FROM inventory_movement ORDER BY movement_id DESC LIMIT 2").fetchall()
        conn.rollback()
    assert kinds == [("external",), ("sale",)]


# The manual


def test_the_tables_of_the_manual_are_what_was_measured():
    page = report.PAGE.read_text()
    assert report.rendered(page, report.load()) == page, "python -m bench.report makes them"
    shown = set(re.findall(r"<!-- table:(\S+) -->", page))
    assert shown == {f"{table}-{version}" for table in report.TABLES for version in report.VERSIONS}


def test_the_charts_are_of_these_figures():
    for path, (_, _, digest) in report.charts(report.load()).items():
        assert digest in Path(path).read_text(), "python -m bench.report draws them"


def test_a_figure_that_was_changed_is_seen():
    page = report.PAGE.read_text()
    changed = re.sub(r"(\| one client, async: ext_plain / raw \| ≥ 0\.8 \| )\d", r"\g<1>9", page, count=1)
    assert changed != page
    assert report.rendered(changed, report.load()) == page
