"""The answer is lost on its way, or the call dies: the retry with the same key deducts once, or for the first time.

A proxy stands between client and server: it passes the request on and cuts the line before the answer comes back.
Also: a socket closed right after the statement was sent, a backend killed before the commit, and what DETAIL and the
server's log say of an order that failed.
"""

import re
import socket
import threading

import psycopg
import pytest

from books import audit, call, keys_kept, last_movement, lines, movements, order, refused_call, refused_order
from dev.server import Server
from shop import ONE, TWO, UNKNOWN, Aside, literal, refused_sale, shop, stock_of, until, until_waiting

ORDER = {"p_items": lines((ONE, 1), (TWO, 2)), "p_reference": "order 1", "p_idempotency_key": "k"}
SQL = f"""SELECT decrement_inventory_batch('{ORDER["p_items"]}', 'order 1', 'k')"""


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "10.00", TWO: "5.00"})
    return conn


class Proxy:
    """One connection, passed on both ways until `cut_answers`: then requests still go through, answers do not."""

    def __init__(self, host, port):
        self._cut = threading.Event()
        self.swallowed = threading.Event()
        self._server = socket.create_connection((host, port))
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        self._thread.start()

    def cut_answers(self):
        self._cut.set()

    def _serve(self, listener):
        client, _ = listener.accept()
        listener.close()
        self._client = client
        threading.Thread(target=self._requests, daemon=True).start()
        while data := self._server.recv(65536):
            if self._cut.is_set():
                self.swallowed.set()
                client.shutdown(socket.SHUT_RDWR)
                client.close()
                return
            client.sendall(data)

    def _requests(self):
        try:
            while data := self._client.recv(65536):
                self._server.sendall(data)
        except OSError:  # the line was cut
            pass

    def close(self):
        self._server.close()


@pytest.fixture
def proxy(db):
    proxy = Proxy(db.server.host, db.server.port)
    yield proxy
    proxy.close()


def retried_once(db, conn, after):
    """The retry is a replay, and the shop has sold one order."""
    answer = call(db.connect(), "decrement_inventory_batch", **ORDER)
    assert answer["replayed"] is True
    assert [line["new_quantity"] for line in answer["lines"]] == [9, 3]
    assert stock_of(conn) == {ONE: 9, TWO: 3}
    assert len(movements(conn, after=after)) == 2
    audit(conn)


def test_an_answer_lost_in_autocommit(db, conn, proxy):
    """The server has sold and committed; the client sees only a broken line."""
    after = last_movement(conn)
    till = psycopg.connect(db.dsn(), host="127.0.0.1", port=proxy.port, autocommit=True, sslmode="disable")
    proxy.cut_answers()
    with pytest.raises(psycopg.OperationalError):
        call(till, "decrement_inventory_batch", **ORDER)
    assert proxy.swallowed.is_set()
    retried_once(db, conn, after)


def test_a_commit_whose_confirmation_is_lost(db, conn, proxy):
    """The order was answered, the COMMIT was sent, and the client cannot know whether it arrived."""
    after = last_movement(conn)
    till = psycopg.connect(db.dsn(), host="127.0.0.1", port=proxy.port, sslmode="disable")
    assert call(till, "decrement_inventory_batch", **ORDER)["success"] is True
    assert keys_kept(conn) == []
    proxy.cut_answers()
    with pytest.raises(psycopg.OperationalError):
        till.commit()
    assert proxy.swallowed.is_set()
    retried_once(db, conn, after)


def test_a_client_that_hangs_up_right_after_the_commit_was_sent(db, conn):
    """Its socket is closed with the COMMIT in it; the server carries it out all the same."""
    after = last_movement(conn)
    till = psycopg.connect(db.dsn())
    assert call(till, "decrement_inventory_batch", **ORDER)["success"] is True
    till.pgconn.send_query(b"COMMIT")
    till.pgconn.flush()
    till.pgconn.finish()
    until(lambda: keys_kept(conn) == ["k"], "the COMMIT is carried out")
    retried_once(db, conn, after)


def test_a_client_that_hangs_up_while_its_order_waits(db, conn):
    """The statement was sent and waits for a row: however it ends, the retry makes it one order."""
    after = last_movement(conn)
    holder = db.connect(autocommit=False)
    holder.execute("SELECT FROM inventory WHERE id = %s FOR UPDATE", (ONE,))
    till = psycopg.connect(db.dsn(), autocommit=True)
    pid = till.info.backend_pid
    till.pgconn.send_query(SQL.encode())
    till.pgconn.flush()
    until_waiting(conn, till)
    till.pgconn.finish()
    retry = Aside(lambda: call(db.connect(), "decrement_inventory_batch", **ORDER))
    holder.rollback()
    retry.result()
    until(
        lambda: not conn.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchall(), "the first one ends"
    )
    retried_once(db, conn, after)


@pytest.mark.parametrize("stage", ["waiting for an item", "before the commit"])
def test_a_backend_that_dies_before_the_commit_leaves_no_key(db, conn, stage):
    """Terminated with its order half way: nothing is sold, and the waiting retry runs as the first."""
    after = last_movement(conn)
    holder, till, rival = db.connect(autocommit=False), db.connect(autocommit=False), db.connect()
    if stage == "waiting for an item":
        holder.execute("SELECT FROM inventory WHERE id = %s FOR UPDATE", (TWO,))
        dying = Aside(lambda: call(till, "decrement_inventory_batch", **ORDER))
        until_waiting(conn, till)
    else:
        assert call(till, "decrement_inventory_batch", **ORDER)["success"] is True
    retry = Aside(lambda: call(rival, "decrement_inventory_batch", **ORDER))
    until_waiting(conn, rival)
    conn.execute("SELECT pg_terminate_backend(%s)", (till.info.backend_pid,))
    if stage == "waiting for an item":
        assert dying.refusal().sqlstate == "57P01"
    holder.rollback()
    answer = retry.result()
    assert "replayed" not in answer
    assert [line["new_quantity"] for line in answer["lines"]] == [9, 3]
    retried_once(db, conn, after)


def test_a_crash_of_the_server_keeps_a_key_and_its_order_together(server, template):
    """Both are there after recovery or neither is: a committed order is replayed, one in progress runs again."""
    with Server(pg=server.pg, settings={"fsync": "on"}) as own:
        with psycopg.connect(own.dsn(), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION inventory_ext")
            shop(conn, {ONE: "10.00", TWO: "5.00"})
            order(conn, (ONE, 1), p_idempotency_key="committed")
            open_till = psycopg.connect(own.dsn())
            order(open_till, (TWO, 1), p_idempotency_key="in progress")
            own.stop("immediate")
        own.start()
        with psycopg.connect(own.dsn(), autocommit=True) as conn:
            assert keys_kept(conn) == ["committed"]
            assert order(conn, (ONE, 1), p_idempotency_key="committed")["replayed"] is True
            assert "replayed" not in order(conn, (TWO, 1), p_idempotency_key="in progress")
            assert stock_of(conn) == {ONE: 9, TWO: 4}
            audit(conn)


FAILURES = {
    "short order": ("decrement_inventory_batch", {"p_items": lines((ONE, 99))}, "IV001"),
    "unknown item": ("restock_inventory", {"p_inventory_id": UNKNOWN, "p_quantity": 1}, "IV002"),
    "short transfer": ("transfer_inventory", {"p_from": ONE, "p_to": TWO, "p_quantity": 99}, "IV001"),
    "decimals": ("restock_inventory", {"p_inventory_id": ONE, "p_quantity": "0.001"}, "22003"),
    "not a number": ("transfer_inventory", {"p_from": ONE, "p_to": TWO, "p_quantity": "NaN"}, "22023"),
    "same item": ("transfer_inventory", {"p_from": ONE, "p_to": ONE, "p_quantity": 1}, "22023"),
    "null": ("restock_inventory", {"p_inventory_id": ONE, "p_quantity": None}, "22004"),
    "bad line": ("decrement_inventory_batch", {"p_items": '[{"inventory_id": "x"}]'}, "22023"),
    "bad word": ("decrement_inventory_batch", {"p_items": lines((ONE, 1)), "p_on_shortage": "x"}, "22023"),
    "no items": ("decrement_inventory_batch", {"p_items": None}, "22004"),
}


@pytest.mark.parametrize(("function", "arguments", "sqlstate"), FAILURES.values(), ids=FAILURES)
def test_a_failed_call_can_be_traced_to_its_order(db, conn, function, arguments, sqlstate):
    """DETAIL and the server's log name the reference; without one there is none."""
    reference = f"order {db.name} {sqlstate} {len(arguments)}"
    answer = refused_call(conn, function, **arguments, p_reference=reference)
    assert (answer.sqlstate, answer.facts["reference"]) == (sqlstate, reference)
    logged = db.server.log_path.read_text(errors="replace")
    assert re.search(rf'DETAIL: .*"reference": "{re.escape(reference)}"', logged)
    assert "reference" not in refused_call(conn, function, **arguments).facts


def test_a_reference_by_setting_is_in_the_error_too(conn):
    """For decrement_inventory, which has no argument for it, and for a count, whose reason is the reference."""
    conn.execute("SET inventory_ext.reference = 'order 2'")
    for key, quantity in ((ONE, 99), (UNKNOWN, 1), (ONE, "NaN"), (ONE, None), (ONE, "0.001")):
        assert refused_sale(conn, key, quantity).facts["reference"] == "order 2"
    assert refused_order(conn, (ONE, 99)).facts["reference"] == "order 2"
    assert refused_order(conn, (ONE, 99), p_reference="order 3").facts["reference"] == "order 3"
    for counted in (-1, "NaN", None):
        answer = refused_call(
            conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=counted, p_reason="count 4"
        )
        assert answer.facts["reference"] == "count 4"
    assert literal(stock_of(conn)[ONE]) == "10.00"
