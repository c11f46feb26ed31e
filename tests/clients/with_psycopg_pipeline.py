"""Sells with the pipeline mode of psycopg 3: order and sale in one round trip, from threads; ids of type text."""

from till import BEHIND_PGBOUNCER, ITEM, SoldOut, sell_in_threads

import json
from decimal import Decimal
from functools import partial

import psycopg
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool

exact = partial(json.loads, parse_float=Decimal)
set_json_loads(exact)
options = {"autocommit": True, "prepare_threshold": None if BEHIND_PGBOUNCER else 5}
pool = ConnectionPool(kwargs=options, min_size=8, open=True)


# docs:begin
def sell(item, quantity, order, key):
    call = "SELECT decrement_item(%s, %s, p_reference => %s, p_idempotency_key => %s)"
    try:
        # the statements of one pipeline belong together: a refusal undoes the order, too
        with pool.connection() as connection, connection.pipeline(), connection.transaction():
            connection.execute("INSERT INTO shop_order VALUES (%s) ON CONFLICT DO NOTHING", (order,))
            result = connection.execute(call, (item, quantity, order, key))
        return result.fetchone()[0]
    except psycopg.Error as error:
        if error.sqlstate != "IV001":
            raise
        raise SoldOut(exact(error.diag.message_detail)) from error


# docs:end
with pool:
    sell_in_threads(sell, ITEM)
