"""Each client sells 50 units to 64 attempts from eight workers at once, and repeats each sale whose result it lost.

The programs with_… of this folder are the clients. Their marked parts are the examples of docs/clients.md.
"""

from decimal import Decimal

import pytest

from books import audit, keys_kept
from selling import ATTEMPTS, CLIENTS, SOLD, UNIT, open_shop, report, route


@pytest.mark.parametrize("way", ["directly", "PgBouncer"])
@pytest.mark.parametrize("client", CLIENTS)
def test_fifty_units_are_sold_once_each_and_fourteen_attempts_are_refused(db, client, way):
    """With every digit, and each repeated request returns the first result."""
    command, id_type = CLIENTS[client]
    conn = db.connect()
    item = open_shop(conn, id_type, SOLD * UNIT)
    with route(db, way) as env:
        printed = report([*command, item, UNIT], env)
    assert Decimal(printed.pop("available")) == 0
    first = str((SOLD - 1) * UNIT)
    assert printed == {"sold": SOLD, "refused": ATTEMPTS - SOLD, "replayed": SOLD, "first": first}
    assert conn.execute("SELECT quantity FROM inventory").fetchall() == [(0,)]
    sales = conn.execute(
        "SELECT count(*), count(DISTINCT reference), count(DISTINCT idempotency_key), max(delta) = min(delta)"
        " FROM inventory_movement WHERE kind = 'sale' AND delta = %s AND idempotency_key = 'key of ' || reference",
        (-UNIT,),
    ).fetchone()
    assert sales == (SOLD, SOLD, SOLD, True)
    assert len(keys_kept(conn)) == SOLD
    orders = conn.execute("SELECT count(*) FROM shop_order").fetchone()[0]
    assert orders == (SOLD if client == "psycopg pipeline" else 0)
    audit(conn)
