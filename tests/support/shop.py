"""What the client tests share: a stock table, a sale, a refusal, and a session that works beside another.

Answers are read from their JSON text with every digit, never through a float. `Aside` runs one statement of one
connection in a thread; `until_waiting` returns once the server says that this connection waits for a lock. The short
pauses in the polling decide nothing: a condition that never comes true fails the test.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from dataclasses import dataclass
from decimal import Decimal

import psycopg
import pytest

PATIENCE_SECONDS = 30


def item(number: int) -> uuid.UUID:
    """The uuid that ends in this number."""
    return uuid.UUID(int=number)


ONE, TWO, UNKNOWN = item(1), item(2), item(0xDEAD)


def stock_table(conn, stock, table="inventory", type="numeric(12,2)", columns=""):
    """Creates a stock table and fills it with {item: quantity}."""
    conn.execute(f"CREATE TABLE {table} (id uuid PRIMARY KEY, quantity {type}{columns})")
    fill(conn, stock, table)


def fill(conn, stock, table="inventory", id_column="id", quantity_column="quantity"):
    """Inserts {item: quantity}; a quantity is given as text and cast by the column."""
    with conn.cursor() as cur:
        cur.executemany(
            f"INSERT INTO {table} ({id_column}, {quantity_column}) VALUES (%s, %s)",
            [(key, literal(quantity)) for key, quantity in stock.items()],
        )


def literal(quantity):
    """Text of unknown type, so that the column's type reads it."""
    return None if quantity is None else str(quantity)


def attach(conn, table="inventory", **options):
    """attach_inventory with named arguments; answers its JSON as a dict."""
    named = "".join(f", {name} => %({name})s" for name in options)
    row = conn.execute(f"SELECT attach_inventory(%(p_table)s::text::regclass{named})", {"p_table": table, **options})
    return row.fetchone()[0]


def shop(conn, stock, table="inventory", type="numeric(12,2)", columns="", **options):
    """A stock table, filled and attached."""
    stock_table(conn, stock, table, type, columns)
    attach(conn, table, **options)


def answer_text(conn, item_id, quantity) -> str:
    """The answer of one sale, as the server wrote it."""
    return conn.execute(
        "SELECT decrement_inventory(%s::uuid, %s::numeric)::text", (item_id, literal(quantity))
    ).fetchone()[0]


def sell(conn, item_id, quantity) -> dict:
    """One sale; the answer with exact decimals."""
    return exact_json(answer_text(conn, item_id, quantity))


def exact_json(text: str) -> dict:
    """JSON with every number as a Decimal."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def left(conn, item_id, table="inventory", id_column="id", quantity_column="quantity"):
    """What the stock table says is left of an item."""
    row = conn.execute(f"SELECT {quantity_column} FROM {table} WHERE {id_column} = %s", (item_id,)).fetchone()
    return None if row is None else row[0]


def stock_of(conn, table="inventory") -> dict:
    """The whole stock table as {item: quantity}."""
    return dict(conn.execute(f"SELECT id, quantity FROM {table}").fetchall())


@dataclass(frozen=True)
class Refusal:
    """A server's error, in the parts that the contract fixes."""

    sqlstate: str
    message: str
    detail: str | None
    hint: str | None

    @property
    def facts(self) -> dict:
        return exact_json(self.detail)

    @property
    def reason(self) -> str:
        return self.facts["reason"]


def refusal_of(error: psycopg.Error) -> Refusal:
    diag = error.diag
    received = getattr(error, "received", str)  # for ids of another type
    texts = (diag.message_primary, diag.message_detail, diag.message_hint)
    return Refusal(diag.sqlstate, *(text and received(text) for text in texts))


def refused(conn, sql, params=None) -> Refusal:
    """Runs a statement that must fail, and answers how."""
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(sql, params)
    assert caught.value.diag.sqlstate, f"not an error of the server: {caught.value!r}"
    return refusal_of(caught.value)


def refused_sale(conn, item_id, quantity) -> Refusal:
    return refused(conn, "SELECT decrement_inventory(%s::uuid, %s::numeric)", (item_id, literal(quantity)))


def refused_attach(conn, table="inventory", **options) -> Refusal:
    with pytest.raises(psycopg.Error) as caught:
        attach(conn, table, **options)
    return refusal_of(caught.value)


class Aside:
    """A piece of work in a thread of its own, so that it can wait for a lock while the test goes on."""

    def __init__(self, work, *arguments):
        self._outcome = None
        self._error = None
        self._thread = threading.Thread(target=self._run, args=(work, arguments), daemon=True)
        self._thread.start()

    def _run(self, work, arguments):
        try:
            self._outcome = work(*arguments)
        except BaseException as error:  # handed to the test by result() or error()
            self._error = error

    def _join(self):
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the other session never came to an end"

    def is_running(self):
        return self._thread.is_alive()

    def result(self):
        self._join()
        if self._error is not None:
            raise self._error
        return self._outcome

    def refusal(self) -> Refusal:
        self._join()
        assert isinstance(self._error, psycopg.Error), f"expected an error, got {self._outcome!r} {self._error!r}"
        return refusal_of(self._error)


def until(condition, what: str):
    """Polls a condition until it is true; fails the test when it never is."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up, f"never happened: {what}"
        time.sleep(0.005)


def until_waiting(watcher, *connections):
    """Returns once the server reports that each of these connections waits for a lock."""
    for conn in connections:
        pid = conn.info.backend_pid
        until(
            lambda pid=pid: watcher.execute("SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted", (pid,)).fetchone(),
            f"backend {pid} waits for a lock",
        )


def is_waiting(watcher, conn) -> bool:
    """Whether the server reports that a connection waits for a lock."""
    waits = "SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted"
    return watcher.execute(waits, (conn.info.backend_pid,)).fetchone() is not None


def create_role(conn, db, name: str, attributes="LOGIN") -> str:
    """A role of this test's own; roles belong to the whole server, so the name carries the database's."""
    role = f"{db.name}_{name}"
    conn.execute(f'CREATE ROLE "{role}" {attributes}')
    return role


def allow_sales(conn, *roles):
    """EXECUTE on decrement_inventory and nothing else."""
    for role in roles:
        conn.execute(f'GRANT EXECUTE ON FUNCTION decrement_inventory(uuid, numeric) TO "{role}"')


def notices(conn) -> list[str]:
    """A list that fills with the connection's notices, as 'SEVERITY: message'."""
    heard: list[str] = []
    conn.add_notice_handler(lambda diag: heard.append(f"{diag.severity}: {diag.message_primary}"))
    return heard


def nondeterministic_collation(conn, name="same"):
    """A server without ICU has none: there, the catalog says it of a collation that is one of libc's."""
    try:
        conn.execute(f"CREATE COLLATION {name} (provider = icu, locale = 'und', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:
        conn.execute(f"CREATE COLLATION {name} (provider = libc, locale = 'C')")
        conn.execute("UPDATE pg_collation SET collisdeterministic = false WHERE collname = %s", (name,))
