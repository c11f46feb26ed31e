"""Sells with Django 5, from threads; ids of type bigint. The whole project is this file."""

import os

from till import ITEM, SoldOut, sell_in_threads

# docs:begin
import json
from decimal import Decimal
from functools import partial

from django.conf import settings
from django.db import DatabaseError, connection

exact = partial(json.loads, parse_float=Decimal)


def sell(item, quantity, order, key):
    # ::text, because Django reads json with floats
    call = "SELECT decrement_item(%s, %s, p_reference => %s, p_idempotency_key => %s)::text"
    try:
        with connection.cursor() as cursor:
            cursor.execute(call, (item, quantity, order, key))
            return exact(cursor.fetchone()[0])
    except DatabaseError as error:
        server = error.__cause__  # the error of psycopg
        if server.sqlstate != "IV001":
            raise
        raise SoldOut(exact(server.diag.message_detail)) from error


# docs:end
database = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": os.environ["PGDATABASE"],
    "OPTIONS": {"pool": {"min_size": 8, "max_size": 8}},
    "DISABLE_SERVER_SIDE_CURSORS": True,  # for a pooler in transaction mode
}
settings.configure(DATABASES={"default": database})
sell_in_threads(sell, int(ITEM))
connection.close_pool()
