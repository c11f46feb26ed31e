"""An accountant who checks the books of a shop, and whether they agree with the results that its clients got.

`problems` returns all that does not fit: a chain of the ledger with a gap, stock that differs from the ledger, an
acknowledged request that is missing or was applied twice, a refused one that left something behind, and the row of a
striped item that does not show its stripes at rest.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict

BOOKS = """
    WITH chain AS (
        SELECT inventory_id AS item, stripe, movement_id, old_quantity, new_quantity, delta,
               lag(new_quantity, 1, 0) OVER (PARTITION BY inventory_id, stripe ORDER BY movement_id) AS before,
               movement_id = max(movement_id) OVER (PARTITION BY inventory_id, stripe) AS is_last
          FROM inventory_movement
    ), moved AS (SELECT item, sum(delta) AS total FROM chain GROUP BY item),
    held AS (SELECT inventory_id AS item, sum(quantity) AS quantity FROM inventory_stripe GROUP BY 1),
    stock AS (SELECT id AS item, coalesce(held.quantity, inventory.quantity) AS quantity
                FROM inventory LEFT JOIN held ON held.item = id)
    SELECT format('movement %s starts from %s, the one before ended at %s', movement_id, old_quantity, before), item
      FROM chain WHERE old_quantity <> before
    UNION ALL
    SELECT format('movement %s is negative or its delta is wrong', movement_id), item
      FROM chain WHERE old_quantity < 0 OR new_quantity < 0 OR delta <> new_quantity - old_quantity
    UNION ALL
    SELECT format('the ledger adds up to %s, the stock is %s', moved.total, stock.quantity), item
      FROM moved FULL JOIN stock USING (item) WHERE moved.total IS DISTINCT FROM stock.quantity
    UNION ALL
    SELECT format('stripe %s holds %s, its last movement says %s', s.stripe, s.quantity, c.new_quantity), s.inventory_id
      FROM inventory_stripe s LEFT JOIN chain c ON c.item = s.inventory_id AND c.stripe = s.stripe AND c.is_last
     WHERE coalesce(c.new_quantity, 0) <> s.quantity OR s.quantity < 0
"""
BEHIND = """
    SELECT id, quantity, stripes FROM inventory
      JOIN (SELECT inventory_id AS id, sum(quantity) AS stripes FROM inventory_stripe GROUP BY 1) s USING (id)
     WHERE quantity <> stripes
"""


def problems(conn, clients=()) -> list[str]:
    """What is wrong with the books, with every client's result, and with the rows of striped items at rest."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        found = [f"{problem} ({one})" for problem, one in conn.execute(BOOKS).fetchall()]
        if clients:
            found += mistakes(conn, clients)
    conn.execute("SELECT available_inventory(id) FROM inventory LIMIT 1").fetchall()  # any call starts the worker
    return found + [f"the row shows {shown}, the stripes hold {held} ({one})" for one, shown, held in at_rest(conn)]


def at_rest(conn, seconds=10) -> list:
    """The striped items whose rows do not show their stripes; waits until there are none, for some seconds at most."""
    give_up = time.monotonic() + seconds
    while (behind := conn.execute(BEHIND).fetchall()) and time.monotonic() < give_up:
        time.sleep(0.02)
    return behind


def mistakes(conn, clients):
    """Compares each request with the movements of its reference."""
    movements = defaultdict(list)
    for reference, *movement in conn.execute(
        "SELECT reference, inventory_id, stripe, old_quantity, new_quantity FROM inventory_movement"
        " WHERE reference IS NOT NULL"
    ):
        movements[reference].append(tuple(movement))
    for request in (request for client in clients for request in client.requests):
        rows, changed = movements.pop(request.reference, []), Counter()
        for one, _, old, new in rows:
            changed[one] += new - old
        changed = {one: delta for one, delta in changed.items() if delta}  # zero: moved between stripes
        if request.result is not None:
            if changed != request.deltas:
                yield f"acknowledged, but the ledger has {changed}: {request}"
            for part in parts_of(request):
                figures = (part.get("stripe"), part["old_quantity"], part["new_quantity"])
                if [row[1:] for row in rows if str(row[0]) == part["inventory_id"]].count(figures) != 1:
                    yield f"the figures {part} are not those of one movement: {request}"
        elif changed and (request.error or changed != request.deltas):
            yield f"refused or half applied, the ledger has {changed}: {request}"
    names = {client.name for client in clients}
    strangers = [reference for reference in movements if reference.rpartition("-")[0] in names]
    yield from (f"movements of a request that no client sent: {reference}" for reference in strangers)


def parts_of(request):
    match request.function:
        case "order":
            return request.result["lines"]
        case "transfer":
            return [request.result["from"], request.result["to"]]
    return [request.result]
