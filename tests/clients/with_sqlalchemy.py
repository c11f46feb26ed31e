"""Sells with SQLAlchemy 2 on psycopg 3, from threads; ids of type text."""

from till import BEHIND_PGBOUNCER, ITEM, SoldOut, sell_in_threads

# docs:begin
import json
from decimal import Decimal
from functools import partial

from sqlalchemy import JSON, create_engine, func, select
from sqlalchemy.exc import DBAPIError

exact = partial(json.loads, parse_float=Decimal)
options = {"prepare_threshold": None if BEHIND_PGBOUNCER else 5}
engine = create_engine("postgresql+psycopg://", json_deserializer=exact, connect_args=options, pool_size=8)


def sell(item, quantity, order, key):
    call = func.decrement_item(item, quantity, order, key, type_=JSON)
    try:
        with engine.begin() as connection:
            return connection.scalar(select(call))
    except DBAPIError as error:
        if error.orig.sqlstate != "IV001":
            raise
        raise SoldOut(exact(error.orig.diag.message_detail)) from error


# docs:end
sell_in_threads(sell, ITEM)
