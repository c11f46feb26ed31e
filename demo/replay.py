"""Replay 69,659 real sales over eight connections, once for each way of deducting stock, and count what got lost.

Every way gets a database of its own with a fresh stock table. What customers were told is counted by the connections,
what left the stock is read from the table afterwards: `units lost` is the difference. Nothing is slowed down or staged.
Ends with status 1 when the extension lost or oversold a unit, or when read-then-write lost none.
"""

import csv
import gzip
import json
import multiprocessing
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus

from dev.server import Server

HERE = Path(__file__).parent
CONNECTIONS = 8

TRY_BY_HAND = """\
CREATE TABLE cds (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), title text, quantity numeric(12,2) NOT NULL);
INSERT INTO cds (title, quantity) VALUES ('Kind of Blue', 11.52);
SELECT attach_inventory('cds');
SELECT decrement_inventory(id, 1) FROM cds WHERE title = 'Kind of Blue';
SELECT title, quantity FROM cds;
"""


class Sale(NamedTuple):
    product: uuid.UUID
    units: int
    order: str  # what one customer bought on one day


def load_sales(path: Path = HERE / "cdnow_sales.csv.gz") -> list[Sale]:
    """The sales in order of date. The set has no product codes: a product is a price point."""
    with gzip.open(path, "rt", newline="") as lines:
        return [
            Sale(
                product=uuid.uuid5(uuid.NAMESPACE_URL, f"cdnow:{row['unit_price_cents']}"),
                units=int(row["quantity"]),
                order=f"{row['sold_on']} {row['customer']}",
            )
            for row in csv.DictReader(lines)
        ]


def deal(sales: list[Sale]) -> list[list[Sale]]:
    """Deals the orders to the connections in turn, each order whole."""
    orders: dict[str, list[Sale]] = {}
    for sale in sales:
        orders.setdefault(sale.order, []).append(sale)
    hands = list(orders.values())
    return [list(chain.from_iterable(hands[number::CONNECTIONS])) for number in range(CONNECTIONS)]


def opening_stock(sales: list[Sale]) -> dict[uuid.UUID, int]:
    """Each product's whole demand, but only three quarters of it for every fifth product: those sell out."""
    demand: Counter[uuid.UUID] = Counter()
    for sale in sales:
        demand[sale.product] += sale.units
    return {
        product: units * 3 // 4 if number % 5 == 0 else units
        for number, (product, units) in enumerate(sorted(demand.items()))
    }


class Statement:
    """A prepared statement through libpq itself: a cursor costs the client as much again as the server works."""

    def __init__(self, connection: psycopg.Connection, sql: str):
        self.libpq = connection.pgconn
        self.name = sql.encode()
        self._checked(self.libpq.prepare(self.name, sql.encode()))

    def __call__(self, *arguments: object, refusal: str = "") -> str | None:
        """The first value of the answer; None where the server refused with the SQLSTATE `refusal`."""
        result = self.libpq.exec_prepared(self.name, [str(argument).encode() for argument in arguments])
        if result.error_field(DiagnosticField.SQLSTATE) == refusal.encode():
            return None
        self._checked(result)
        return result.get_value(0, 0).decode() if result.ntuples else ""

    def _checked(self, result) -> None:
        if result.status == ExecStatus.FATAL_ERROR:
            raise RuntimeError(result.error_message.decode())


def read_then_write(connection: psycopg.Connection, sales: list[Sale]) -> Iterator[bool]:
    """The original bug: the application reads the quantity, computes, and writes the result back."""
    read = Statement(connection, "SELECT quantity FROM inventory WHERE id = $1")
    write = Statement(connection, "UPDATE inventory SET quantity = $1 WHERE id = $2")
    for sale in sales:
        quantity = int(read(sale.product))
        enough = quantity >= sale.units
        if enough:
            write(quantity - sale.units, sale.product)
        yield enough


def call_function(function: str, refusal: str, connection: psycopg.Connection, sales: list[Sale]) -> Iterator[bool]:
    """One call a sale; `refusal` is the SQLSTATE that means "not enough", any other error ends the demo."""
    call = Statement(connection, f"SELECT {function}($1, $2)")
    for sale in sales:
        yield call(sale.product, sale.units, refusal=refusal) is not None


def send_orders_twice(connection: psycopg.Connection, sales: list[Sale]) -> Iterator[bool]:
    """One call an order, sent a second time with the same key, as a network that lost the answer makes a client do."""
    call = Statement(connection, "SELECT decrement_inventory_batch($1, $2, $3, p_on_shortage => 'skip')")
    for order, lines in groupby(sales, key=attrgetter("order")):
        bought = list(lines)
        items = json.dumps([{"inventory_id": str(sale.product), "quantity": sale.units} for sale in bought])
        first, second = (call(items, order, order) for _ in range(2))
        if second != first[:-1] + ', "replayed": true}':
            raise RuntimeError(f"order {order} was not replayed: {first}, then {second}")
        short = {line["inventory_id"] for line in json.loads(first)["short"]}
        for sale in bought:
            yield str(sale.product) not in short


@dataclass(frozen=True)
class Way:
    name: str
    prepare: str  # SQL, run once its stock table stands
    serve: Callable[[psycopg.Connection, list[Sale]], Iterator[bool]]  # yields, sale by sale: told "sold" or not


READ_THEN_WRITE = Way("read-then-write", "", read_then_write)
HANDWRITTEN = (HERE / "handwritten.sql").read_text()
BY_HAND = Way("PL/pgSQL by hand", HANDWRITTEN, partial(call_function, "sell_by_hand", "P0001"))
EXTENSION = Way(
    "decrement_inventory",
    "CREATE EXTENSION IF NOT EXISTS inventory_ext; SELECT attach_inventory('inventory')",
    partial(call_function, "decrement_inventory", "IV001"),
)
ORDERS = Way("orders, sent twice", EXTENSION.prepare, send_orders_twice)
WAYS = [READ_THEN_WRITE, BY_HAND, EXTENSION, ORDERS]


@dataclass(frozen=True)
class Result:
    way: Way
    sales: int
    sold: int  # units that customers were told they have
    deducted: int  # units that left the stock table
    refused: int  # sales refused for want of stock
    oversold: int  # units sold beyond what the products had
    astray: int  # products whose stock isn't the opening stock less the units sold
    seconds: float

    @property
    def lost(self) -> int:
        return self.sold - self.deducted


def open_shop(connection: psycopg.Connection, way: Way, stock: dict[uuid.UUID, int]) -> None:
    connection.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer NOT NULL)")
    with connection.cursor().copy("COPY inventory (id, quantity) FROM STDIN") as copy:
        for item in stock.items():
            copy.write_row(item)
    connection.execute(way.prepare)


class Share(NamedTuple):
    """What one connection did."""

    told: Counter[uuid.UUID]  # units of each product that its customers were told they have
    refused: int
    started: float
    ended: float


def one_connection(dsn: str, way: Way, number: int, sales: list[Sale]) -> Share:
    """Serve this connection's share, in a process of its own; all connections start together."""
    told, refused = Counter(), 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        START.wait()
        started = time.monotonic()
        for done, (sale, sold) in enumerate(zip(sales, way.serve(connection, sales), strict=True), start=1):
            if sold:
                told[sale.product] += sale.units
            else:
                refused += 1
            DONE[number] = done
        return Share(told, refused, started, ended=time.monotonic())


def begin_worker(start, done) -> None:
    global START, DONE
    START, DONE = start, done
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # die at once and in silence: the parent tells what happened


def replay(dsn: str, way: Way, sales: list[Sale], progress: Callable[[Way, int, int], None]) -> Result:
    """Replay the sales, dealt in turn to the connections, in the database that `dsn` names."""
    stock = opening_stock(sales)
    context = multiprocessing.get_context("fork")
    start, done = context.Barrier(CONNECTIONS), context.RawArray("i", CONNECTIONS)
    with psycopg.connect(dsn, autocommit=True) as connection:
        open_shop(connection, way, stock)
        with ProcessPoolExecutor(CONNECTIONS, context, begin_worker, (start, done)) as pool:
            futures = [pool.submit(one_connection, dsn, way, number, hand) for number, hand in enumerate(deal(sales))]
            try:
                while (waited := wait(futures, timeout=0.2)).not_done:
                    for future in waited.done:
                        future.result()  # raises what a worker raised
                    if sum(done) < len(sales):
                        progress(way, sum(done), len(sales))
                shares = [future.result() for future in futures]
            except BaseException:
                for worker in multiprocessing.active_children():
                    worker.terminate()
                raise
        closing = dict(connection.execute("SELECT id, quantity FROM inventory").fetchall())
    progress(way, len(sales), len(sales))
    told = sum((share.told for share in shares), Counter())
    return Result(
        way=way,
        sales=len(sales),
        sold=told.total(),
        deducted=sum(stock.values()) - sum(closing.values()),
        refused=sum(share.refused for share in shares),
        oversold=sum(max(0, units - stock[product]) for product, units in told.items()),
        astray=sum(closing[product] != units - told[product] for product, units in stock.items()),
        seconds=max(share.ended for share in shares) - min(share.started for share in shares),
    )


def show_progress(way: Way, done: int, total: int) -> None:
    """One line a way: brought up to date in place on a terminal, printed once at the end elsewhere."""
    line = f"  {way.name:<20} {done:>6,} of {total:,} sales"
    if sys.stdout.isatty():
        print(f"\r{line}", end="\n" if done == total else "", flush=True)
    elif done == total:
        print(line, flush=True)


def table(results: list[Result]) -> str:
    row = "{:<19}  {:>6}  {:>10}  {:>14}  {:>10}  {:>7}  {:>7}".format
    lines = [row("way", "sales", "units sold", "units deducted", "units lost", "refused", "seconds")]
    for r in results:
        figures = (f"{figure:,}" for figure in (r.sales, r.sold, r.deducted, r.lost, r.refused))
        lines.append(row(r.way.name, *figures, f"{r.seconds:.1f}"))
    return "\n".join(lines)


def verdict(results: list[Result]) -> tuple[bool, str]:
    (bug,) = (result for result in results if result.way is READ_THEN_WRITE)
    ours = [result for result in results if result.way in (EXTENSION, ORDERS)]
    if any(result.lost or result.oversold or result.astray for result in ours):
        word = "WRONG"  # the extension does not do what it is for
    else:
        word = "RIGHT" if bug.lost else "NOT SHOWN"  # where the bug lost nothing either, the run proves nothing
    ways = ", ".join(f"{r.way.name} lost {r.lost:,} units and oversold {r.oversold:,}" for r in reversed(results))
    return word == "RIGHT", f"{word}: {ways}."


def main() -> int:
    sales = load_sales()
    results = []
    with Server(pg="18", settings={"synchronous_commit": "off"}) as server:
        dsn = f"host={server.socket_dir} port={server.port} user=postgres"  # a third cheaper than TCP, for every way
        with psycopg.connect(dsn, autocommit=True) as connection:
            (fsync, commit) = (connection.execute(f"SHOW {n}").fetchone()[0] for n in ("fsync", "synchronous_commit"))
            print(f"{len(sales):,} real sales over {CONNECTIONS} connections, once for each way, on a throwaway server")
            print(f"whose commits are not made durable (fsync = {fsync}, synchronous_commit = {commit}):", flush=True)
            for number, way in enumerate(WAYS, start=1):
                connection.execute(f"CREATE DATABASE way_{number}")
                results.append(replay(f"{dsn} dbname=way_{number}", way, sales, show_progress))
    right, line = verdict(results)
    print(f"\n{table(results)}\n\n{line}\n\nTry it by hand: `make psql`, then\n\n{TRY_BY_HAND}", end="")
    return 0 if right else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nbroken off; the server is stopped")
