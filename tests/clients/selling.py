"""Runs the client programs of this folder against a test's server, directly or through PgBouncer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple


from dev.server import LOCAL
from pgbouncer import pgbouncer
from shop import attach, fill

FOLDER = Path(__file__).resolve().parent
TOKIO = LOCAL / "clients/tokio/debug/inventory_ext_tokio_client"
JDBC = LOCAL / "jdbc/usr/share/java/postgresql.jar"

# As many digits as no float has: a client that reads or sends one anywhere is found out.
UNIT = Decimal("1.000000000000000001")
SOLD, ATTEMPTS = 50, 64

ITEMS = {"uuid": "11111111-1111-4111-8111-111111111111", "bigint": "5000000001", "text": "Größe \"L\", sku '7'"}


class Client(NamedTuple):
    command: list
    id_type: str


CLIENTS = {
    "psycopg pool": Client([sys.executable, "with_psycopg_pool.py"], "bigint"),
    "psycopg async": Client([sys.executable, "with_psycopg_async.py"], "uuid"),
    "psycopg pipeline": Client([sys.executable, "with_psycopg_pipeline.py"], "text"),
    "asyncpg": Client([sys.executable, "with_asyncpg.py"], "uuid"),
    "SQLAlchemy": Client([sys.executable, "with_sqlalchemy.py"], "text"),
    "Django": Client([sys.executable, "with_django.py"], "bigint"),
    "node-postgres": Client(["node", "with_node_postgres.js"], "text"),
    "drizzle": Client(["node", "with_drizzle.js"], "bigint"),
    "tokio-postgres": Client([TOKIO], "bigint"),
    "JDBC": Client(["java", "-cp", JDBC, "WithJdbc.java"], "uuid"),
}


def open_shop(conn, id_type, stock, **options):
    """An attached table "inventory" with one item, whose id is returned as text, and a table of orders."""
    conn.execute("CREATE TABLE shop_order (reference text PRIMARY KEY)")
    conn.execute(f"CREATE TABLE inventory (id {id_type} PRIMARY KEY, quantity numeric(28,18) NOT NULL)")
    fill(conn, {ITEMS[id_type]: stock})
    attach(conn, **options)
    return ITEMS[id_type]


def environment(db, pooler=None):
    """What libpq and its likes read; BEHIND_PGBOUNCER is for our programs."""
    mine = {"PGHOST": db.server.host, "PGPORT": str((pooler or db.server).port), "PGUSER": "postgres"}
    others = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return others | mine | {"PGDATABASE": db.name} | ({"BEHIND_PGBOUNCER": "1"} if pooler else {})


@contextmanager
def route(db, name):
    """The environment of a program that connects "directly" or through "PgBouncer"."""
    if name == "directly":
        yield environment(db)
    else:
        with pgbouncer(db.server) as pooler:  # four sessions for eight workers
            yield environment(db, pooler)


def run(command, env, folder=FOLDER):
    """What a program prints, and what it complains of; it must succeed."""
    command = [str(word) for word in command]
    assert shutil.which(command[0]), f"{command[0]} is missing: get it with: dev/setup.sh clients"
    done = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def report(command, env, folder=FOLDER):
    """The one line of JSON that a program prints."""
    return json.loads(run(command, env, folder)[0])
