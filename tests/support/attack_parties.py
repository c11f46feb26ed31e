"""What the tests of companions, rights and input share: the owner's shop in a schema of its own, its clerks, and one
call of every function that sells, counts or cuts an item.

`outcome` runs a call and returns what the caller learns from it, so that two calls can be compared word for word.
"""

from __future__ import annotations

import json
import re

import psycopg

from shop import ONE, TWO, UNKNOWN, attach, create_role, fill, refusal_of

EXECUTE = """
    decrement_inventory, decrement_inventory_batch, restock_inventory, adjust_inventory, transfer_inventory,
    stripe_inventory, unstripe_inventory, available_inventory, purge_requests
"""
COMPANIONS = ("inventory_movement", "inventory_request", "inventory_stripe", "inventory_stripe_total")

FIGURES = re.compile(r'"(old_quantity|new_quantity|stripe)": [0-9.]+,? ?')
_LINE = '[{"inventory_id": "{item}", "quantity": 1}]'
_OTHER = '[{"inventory_id": "{other}", "quantity": 1}, {"inventory_id": "{item}", "quantity": 1}]'
# {item} stands for the item in question, {other} for another one that the caller may sell.
SALES = {
    "decrement": "decrement_inventory('{item}', 1)",
    "decrement too much": "decrement_inventory('{item}', 1000000)",
    "order": f"decrement_inventory_batch('{_LINE}')",
    "order with another item": f"decrement_inventory_batch('{_OTHER}')",
    "order, skip": f"decrement_inventory_batch('{_LINE}', p_on_shortage => 'skip')",
    "order, partial": f"decrement_inventory_batch('{_OTHER}', p_on_shortage => 'partial')",
    "restock": "restock_inventory('{item}', 1)",
    "restock too much": "restock_inventory('{item}', 2147483647)",
    "adjust": "adjust_inventory('{item}', 5)",
    "adjust to what is there": "adjust_inventory('{item}', 100)",
    "adjust, expecting": "adjust_inventory('{item}', 5, 7)",
    "transfer from": "transfer_inventory('{item}', '{other}', 1)",
    "transfer to": "transfer_inventory('{other}', '{item}', 1)",
    "transfer from, too much": "transfer_inventory('{item}', '{other}', 1000000)",
}
READS = {"available": "available_inventory('{item}')"}
CUTS = {"stripe": "stripe_inventory('{item}', 2)", "unstripe": "unstripe_inventory('{item}')"}
CALLS = SALES | READS | CUTS


def statement(call: str, item=ONE, other=TWO) -> str:
    return f"SELECT ({call})::text".replace("{item}", str(item)).replace("{other}", str(other))


def owned_shop(conn, db, stock=None, type="integer", columns=", note text", striped=(ONE,), **options):
    """A schema and table of a role that is no superuser, attached; returns the owner's connection."""
    owner = create_role(conn, db, "owner")
    conn.execute(f'CREATE SCHEMA store AUTHORIZATION "{owner}"')
    conn.execute(f'GRANT EXECUTE ON FUNCTION attach_inventory, detach_inventory, {EXECUTE} TO "{owner}"')
    conn = db.connect(user=owner)
    conn.execute(f"CREATE TABLE store.inventory (id uuid PRIMARY KEY, quantity {type}{columns})")
    fill(conn, stock or {ONE: 100, TWO: 100}, "store.inventory")
    attach(conn, "store.inventory", **options)
    for key in striped:
        conn.execute("SELECT stripe_inventory(%s, 2)", (key,))
    return conn


def clerk(conn, db, name="clerk") -> str:
    """A role that may execute everything but attach and detach, and has no right on any table."""
    role = create_role(conn, db, name)
    conn.execute(f'GRANT EXECUTE ON FUNCTION {EXECUTE} TO "{role}"')
    return role


def outcome(conn, sql, params=None):
    """("OK", the result) or ("ERROR", SQLSTATE, message, DETAIL, HINT)."""
    try:
        return "OK", conn.execute(sql, params).fetchone()[0]
    except psycopg.Error as error:
        return failed(error)


def failed(error: psycopg.Error) -> tuple:
    refusal = refusal_of(error)
    assert refusal.sqlstate, f"not an error of the server: {error!r}"
    return "ERROR", refusal.sqlstate, refusal.message, refusal.detail, refusal.hint


def reason(found) -> str:
    """The SQLSTATE and the reason of an outcome, for a short comparison."""
    if found[0] == "OK":
        return f"OK {found[1]}"
    facts = json.loads(found[3]) if found[3] and found[3].startswith("{") else {}
    return f"{found[1]} {facts.get('reason', found[2])}"


def learned(conn, call, item=UNKNOWN, other=TWO) -> tuple:
    """What a caller learns about an item: the id itself and the figures of the other item are taken out; nothing is
    kept."""
    with conn.transaction(force_rollback=True):
        found = outcome(conn, statement(call, item, other))
    return tuple(part and FIGURES.sub("", part.replace(str(item), "THE ITEM")) for part in found)


def with_key(conn, key, sql, params=None):
    """The outcome of a call in a transaction of its own, with the idempotency key as a setting of that transaction."""
    try:
        with conn.transaction():
            conn.execute("SELECT set_config('inventory_ext.idempotency_key', %s, true)", (key,))
            return "OK", conn.execute(sql, params).fetchone()[0]
    except psycopg.Error as error:
        return failed(error)
