"""Sells with asyncpg; ids of type uuid."""

import asyncio
from uuid import UUID

from till import BEHIND_PGBOUNCER, ITEM, SoldOut, sell_in_tasks

# docs:begin
import json
from decimal import Decimal
from functools import partial

import asyncpg

exact = partial(json.loads, parse_float=Decimal)


async def prepare(connection):
    await connection.set_type_codec("json", schema="pg_catalog", encoder=json.dumps, decoder=exact)


def open_pool():
    cache = 0 if BEHIND_PGBOUNCER else 100
    return asyncpg.create_pool(init=prepare, min_size=8, max_size=8, statement_cache_size=cache)


async def sell(pool, item, quantity, order, key):
    call = "SELECT decrement_item($1::uuid, $2, p_reference => $3, p_idempotency_key => $4)"
    try:
        return await pool.fetchval(call, item, quantity, order, key)
    except asyncpg.PostgresError as error:
        if error.sqlstate != "IV001":
            raise
        raise SoldOut(exact(error.detail)) from error


# docs:end
async def main():
    async with open_pool() as pool:
        await sell_in_tasks(lambda *attempt: sell(pool, *attempt), UUID(ITEM))


asyncio.run(main())
