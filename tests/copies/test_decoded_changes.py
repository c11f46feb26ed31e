"""Logical decoding shows the same changes, whether a row was written by a statement or directly."""

import re

import psycopg
import pytest

from books import call, order
from databases import Database
from dev.server import Server
from servers import PG
from shop import attach, fill, item, sell

ONE, TWO, THREE = (item(number) for number in (1, 2, 3))
NUMBERS = r"movement_id\[bigint\]:\d+|xact_id\[xid8\]:'\d+'|occurred_at\[[^]]*\]:'[^']*'|stripe\[smallint\]:\d+"
SHAPES = {
    "a primary key": "id uuid PRIMARY KEY, quantity numeric(12,2), note text",
    "the whole row": "id uuid PRIMARY KEY, quantity numeric(12,2), note text",
    "another index": "id uuid NOT NULL UNIQUE, sku text NOT NULL UNIQUE DEFAULT gen_random_uuid(), quantity integer",
}
IDENTITIES = {"the whole row": "FULL", "another index": "USING INDEX inventory_sku_key"}


@pytest.fixture(scope="module")
def logical():
    with Server(pg=PG, settings={"wal_level": "logical", "max_replication_slots": "4"}) as server:
        yield server


def decoded(server, path, shape):
    """The changes that the plugin test_decoding shows of some calls."""
    name = f"decoded_{path}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {name}")
    conn = Database(server, name).connect(options=f"-c inventory_ext.write_path={path}")
    conn.execute(f"CREATE EXTENSION inventory_ext; CREATE TABLE inventory ({SHAPES[shape]})")
    fill(conn, {key: 100 for key in (ONE, TWO, THREE)})
    if "note" in SHAPES[shape]:
        conn.execute(
            "ALTER TABLE inventory ALTER note SET STORAGE external; UPDATE inventory SET note = repeat('x', 9999)"
        )
    if shape in IDENTITIES:
        conn.execute(f"ALTER TABLE inventory REPLICA IDENTITY {IDENTITIES[shape]}")
    attach(conn)
    if shape == "another index":
        conn.execute("UPDATE inventory SET sku = id::text")
    conn.execute("SELECT pg_create_logical_replication_slot('s', 'test_decoding')")
    sell(conn, ONE, 1)
    order(conn, (ONE, 1), (TWO, 2), (THREE, 3), p_reference="order 7")
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=5)
    with conn.transaction():
        call(conn, "adjust_inventory", p_inventory_id=TWO, p_counted_quantity=50)
        with conn.transaction(force_rollback=True):
            sell(conn, ONE, 9)
        call(conn, "transfer_inventory", p_from=ONE, p_to=THREE, p_quantity=2)
    changes = (
        "SELECT data FROM pg_logical_slot_get_changes('s', NULL, NULL, 'include-xids', '0') WHERE data LIKE 'table%%'"
    )
    lines = [line for (line,) in conn.execute(changes, ()).fetchall()]
    conn.execute("SELECT pg_drop_replication_slot('s')")
    conn.close()
    return lines


@pytest.mark.parametrize("shape", SHAPES)
def test_a_direct_write_is_decoded_like_a_statement(logical, shape):
    directly, by_statements = (decoded(logical, path, shape) for path in ("auto", "sql"))
    assert sum("inventory: UPDATE" in line for line in directly) == 1 + 3 + 1 + 1 + 2
    assert sum("inventory_movement: INSERT" in line for line in directly) == 1 + 3 + 1 + 1 + 2
    # An order written by a statement shows its rows in the order in which the plan reads them.
    assert sorted(re.sub(NUMBERS, "", line) for line in directly) == sorted(
        re.sub(NUMBERS, "", line) for line in by_statements
    )
