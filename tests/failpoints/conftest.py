"""A server of the build with the feature `failpoints`, and a shop on it."""

import psycopg
import pytest

from dev.server import Server
from failpoints import ITEMS


@pytest.fixture(scope="module")
def server():
    with Server(pg="18", tree="pg18-failpoints") as server:
        yield server


@pytest.fixture(params=[[], ITEMS[1:4]], ids=["whole", "striped"])
def shop(server, request):
    """A fresh database of five items with 10 each, some of them striped; gives a function that connects to it."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        connection.execute("CREATE DATABASE shop")

    def connect():
        return psycopg.connect(server.dsn("shop"), autocommit=True)

    with connect() as connection:
        connection.execute("CREATE EXTENSION inventory_ext")
        connection.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2))")
        connection.cursor().executemany("INSERT INTO inventory VALUES (%s, 10)", [[item] for item in ITEMS])
        connection.execute("SELECT attach_inventory('inventory')")
        for item in request.param:
            connection.execute("SELECT stripe_inventory(%s, 8)", [item])  # two have two, the others one
    return connect
