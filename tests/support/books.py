"""What the tests of orders and of the ledger share: a call by named arguments, an order, the movements, and the audit.

`audit` is the test's own accountant: for every item, and for each stripe of it, the ledger's movements, in the order
of their numbers, start from nothing, each begins where the one before ended, and none is negative. The last ones of an
item and its stripes together end at what the stock table says; a striped item itself ends at nothing, its stripes at
what they hold.
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from shop import Refusal, exact_json, left, literal, refused, until

KEYS = ("p_inventory_id", "p_item", "p_from", "p_to")  # literals of no type, which become an inventory_key
TYPES = {
    "p_items": "jsonb", "p_older_than": "interval", "p_quantity": "numeric", "p_counted_quantity": "numeric",
    "p_expected_quantity": "numeric",
}  # fmt: skip


def cast(argument: str) -> str:
    """The cast of a text to the type of an argument."""
    return "" if argument in KEYS else f"::{TYPES.get(argument, 'text')}"


def statement(function: str, arguments: dict) -> str:
    """SELECT function(name => %(name)s::type, …) as text; psycopg fills it in."""
    named = ", ".join(f"{name} => %({name})s{cast(name)}" for name in arguments)
    return f"SELECT {function}({named})::text"


def call_text(conn, function: str, **arguments) -> str:
    """The answer of one call, as the server wrote it."""
    arguments = {name: literal(value) for name, value in arguments.items()}
    return conn.execute(statement(function, arguments), arguments).fetchone()[0]


def call(conn, function: str, **arguments) -> dict:
    """One call by named arguments; the answer with exact decimals."""
    return exact_json(call_text(conn, function, **arguments))


def refused_call(conn, function: str, **arguments) -> Refusal:
    arguments = {name: literal(value) for name, value in arguments.items()}
    return refused(conn, statement(function, arguments), arguments)


def lines(*pairs) -> str:
    """p_items of (item, quantity) pairs; a quantity is written as it is, as a JSON number."""
    elements = ", ".join(f'{{"inventory_id": "{key}", "quantity": {quantity}}}' for key, quantity in pairs)
    return f"[{elements}]"


def order(conn, *pairs, **arguments) -> dict:
    return call(conn, "decrement_inventory_batch", p_items=lines(*pairs), **arguments)


def refused_order(conn, *pairs, **arguments) -> Refusal:
    return refused_call(conn, "decrement_inventory_batch", p_items=lines(*pairs), **arguments)


class Movement(NamedTuple):
    item: object
    kind: str
    old: Decimal
    new: Decimal
    reference: str | None
    key: str | None
    actor: str


def movements(conn, item=None, table="inventory_movement", after=0) -> list[Movement]:
    """The ledger, or one item's part of it, oldest first; `after` leaves out what a test began with."""
    rows = conn.execute(
        f"SELECT inventory_id, kind, old_quantity, new_quantity, reference, idempotency_key, actor FROM {table} "
        "WHERE (%(item)s::text IS NULL OR inventory_id::text = %(item)s::text) AND movement_id > %(after)s "
        "ORDER BY movement_id",
        {"item": item, "after": after},
    )
    return [Movement(*row) for row in rows.fetchall()]


def steps(conn, item=None, table="inventory_movement", after=0) -> list[tuple]:
    """Only what happened: (kind, old, new)."""
    return [(m.kind, m.old, m.new) for m in movements(conn, item, table, after)]


def last_movement(conn, table="inventory_movement") -> int:
    return conn.execute(f"SELECT coalesce(max(movement_id), 0) FROM {table}").fetchone()[0]


def audit(conn, table="inventory", ledger="inventory_movement", id_column="id", quantity_column="quantity"):
    """Asserts that ledger and stock tell one story, for every item that either of them knows."""
    problems = conn.execute(
        f"""
        WITH chain AS (
            SELECT inventory_id AS item, movement_id, kind, old_quantity, new_quantity, delta,
                   lag(new_quantity, 1, 0) OVER (PARTITION BY inventory_id, stripe ORDER BY movement_id) AS before,
                   movement_id = max(movement_id) OVER (PARTITION BY inventory_id, stripe) AS is_last
              FROM {ledger}
        ), total AS (
            SELECT item, sum(delta) AS moved, (array_agg(kind ORDER BY movement_id DESC))[1] AS last_kind,
                   sum(new_quantity) FILTER (WHERE is_last) AS last_new
              FROM chain GROUP BY item
        ), stock AS (SELECT {id_column} AS item, {quantity_column}::numeric AS quantity FROM {table})
        SELECT 'movement ' || movement_id || ' starts from ' || old_quantity || ' and not from ' || before, item
          FROM chain WHERE old_quantity <> before
        UNION ALL
        SELECT 'movement ' || movement_id || ' is negative or its delta wrong', item FROM chain
         WHERE old_quantity < 0 OR new_quantity < 0 OR delta <> new_quantity - old_quantity
        UNION ALL
        SELECT 'ledger ends at ' || coalesce(last_new::text, 'nothing') || ', sum ' || coalesce(moved::text, 'none')
               || ', stock ' || coalesce(quantity::text, 'gone'), item
          FROM total FULL JOIN stock USING (item)
         WHERE moved IS DISTINCT FROM coalesce(quantity, 0) OR last_new IS DISTINCT FROM coalesce(quantity, 0)
            OR (quantity IS NULL) <> (last_kind = 'closing')
        """
    ).fetchall()
    assert problems == []


def stripes_of(conn, item, table="inventory_stripe") -> dict:
    """{number: quantity} of an item's stripes."""
    return dict(conn.execute(f"SELECT stripe, quantity FROM {table} WHERE inventory_id = %s", (item,)).fetchall())


def keys_kept(conn, table="inventory_request") -> list[str]:
    return [key for (key,) in conn.execute(f"SELECT idempotency_key FROM {table} ORDER BY 1").fetchall()]


def audit_soon(conn, table="inventory", ledger="inventory_movement"):
    """The same once the totals worker has shown what the stripes hold."""

    def agrees():
        try:
            audit(conn, table, ledger)
        except AssertionError:
            return False
        return True

    until(agrees, "the ledger agrees with the rows")


def audit_when_shown(conn, stock):
    """The totals in the rows come to be those, and then the ledger says the same."""
    for key, quantity in stock.items():
        until(lambda key=key, quantity=quantity: left(conn, key) == quantity, f"the row shows {quantity}")
    audit(conn)
