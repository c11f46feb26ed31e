"""Sells with psycopg 3 in asyncio; ids of type uuid."""

import asyncio
import json
from decimal import Decimal
from functools import partial
from uuid import UUID

from till import BEHIND_PGBOUNCER, ITEM, SoldOut, sell_in_tasks

import psycopg
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool

exact = partial(json.loads, parse_float=Decimal)
set_json_loads(exact)
options = {"autocommit": True, "prepare_threshold": None if BEHIND_PGBOUNCER else 5}
# docs:begin
pool = AsyncConnectionPool(kwargs=options, min_size=8, open=False)  # opened by `async with pool`


async def sell(item, quantity, order, key):
    call = "SELECT decrement_item(%s, %s, p_reference => %s, p_idempotency_key => %s)"
    try:
        async with pool.connection() as connection:
            result = await connection.execute(call, (item, quantity, order, key))
            return (await result.fetchone())[0]
    except psycopg.Error as error:
        if error.sqlstate != "IV001":
            raise
        raise SoldOut(exact(error.diag.message_detail)) from error


# docs:end
async def main():
    async with pool:
        await sell_in_tasks(sell, UUID(ITEM))


asyncio.run(main())
