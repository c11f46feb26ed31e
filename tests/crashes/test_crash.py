"""The server crashes under load: what was acknowledged is there, once, and what was re-sent is not done twice.

A crash is an immediate stop or SIGKILL of all processes, with fsync on. Each client sends the requests whose results
it did not get again with their keys; then its results are compared with the ledger.
"""

import pytest

from accountant import at_rest, problems
from clients import PLAIN, STRIPED, clients_at_work, connect, kill_everything, resent, server_with_a_shop, until_sold
from shop import left, sell


@pytest.fixture(scope="module")
def server():
    with server_with_a_shop(fsync="on", max_wal_size="64MB") as server:
        yield server


CRASHES = {"immediate stop": lambda server: server.stop("immediate"), "kill -9 of everything": kill_everything}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_under_load_loses_and_repeats_nothing(server, crash):
    """The books are exact to the unit, for plain and striped items, with and without keys."""
    with clients_at_work(lambda: server.dsn("shop")) as clients:
        until_sold(clients, 500)
        CRASHES[crash](server)
        server.start()
        until_sold(clients, 300)
    assert resent(clients) > 0
    with connect(server) as conn:
        assert problems(conn, clients) == []


@pytest.mark.parametrize("crash", CRASHES)
def test_the_first_call_after_a_crash_brings_the_rows_up_to_date(server, crash):
    """The crash comes before the worker has written the total. One call about another item starts it again."""
    keeps_row = connect(server)
    with connect(server) as conn:
        assert at_rest(conn) == []
        keeps_row.execute("BEGIN")
        keeps_row.execute("SELECT FROM inventory WHERE id = %s FOR UPDATE", (STRIPED[0],))
        shown = left(conn, STRIPED[0])
        sell(conn, STRIPED[0], 5)
    CRASHES[crash](server)
    server.start()
    with connect(server) as conn:
        assert left(conn, STRIPED[0]) == shown
        conn.execute("SELECT available_inventory(%s)", (PLAIN[0],))
        assert at_rest(conn) == []
        assert left(conn, STRIPED[0]) == shown - 5
        assert problems(conn) == []
