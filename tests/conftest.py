"""Fixtures for all pytest suites: one throwaway server a session, one fresh database a test.

No session of a test waits without a limit, and no backend may crash or leak: a test that gets its locks wrong, or an
extension that does, must end as a failure and not as a hang. The limit is set on the test's own database; it is far
above any wait that a test intends, and tests of lock_timeout set their own.

PG=15 in the environment picks the server version (default 18). The extension must be installed in that server's tree:
`dev/build.sh 18` does it, and `make pytest` or `make check-repo` does it by itself.
"""

import itertools
import os
import random
import time

import psycopg
import pytest
from hypothesis import settings

from databases import BAD_SIGNS, Database
from dev.server import Server, keep_servers_in_memory
from id_types import OTHER_TYPES, Names, choose_types, runs_for_other_types
from versions import choose_cases

# No deadline: how long an example takes says nothing about right or wrong.
settings.register_profile("inventory_ext", print_blob=True, derandomize=False, deadline=None)
settings.load_profile("inventory_ext")

keep_servers_in_memory()


def pytest_addoption(parser):
    text = "run at most so many cases of a parametrized test, except where they depend on the server (versions.py)"
    parser.addoption("--cases", type=int, metavar="N", help=text)


def pytest_generate_tests(metafunc):
    """The behaviour suites run for ids of several types (id_types.py)."""
    test = metafunc.definition
    if "db" in metafunc.fixturenames and runs_for_other_types(test.path, test.originalname):
        metafunc.parametrize("item_type", ["uuid", *OTHER_TYPES], indirect=True, scope="function")


def pytest_collection_modifyitems(config, items):
    # With --cases, another server runs the rest; the type of an id does not depend on its version.
    items[:], others = choose_types(items, OTHER_TYPES if not config.option.cases else ())
    config.hook.pytest_deselected(items=others)
    if config.option.cases:
        items[:], others = choose_cases(items, config.option.cases)
        config.hook.pytest_deselected(items=others)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Every run tries other examples; its seed is shown, so that a failing run can be repeated."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = os.environ.get("HYPOTHESIS_SEED") or str(random.SystemRandom().getrandbits(32))


def pytest_report_header(config):
    seed = config.option.hypothesis_seed
    return f"PostgreSQL {os.environ.get('PG', '18')}; hypothesis seed {seed}, repeat with HYPOTHESIS_SEED={seed}"


@pytest.fixture(scope="session")
def server():
    """Before 17 calls are counted only where the library is preloaded; from then on it is not, as on most servers."""
    pg = os.environ.get("PG", "18")
    preload = {"shared_preload_libraries": "inventory_ext"} if int(pg) < 17 else {}
    with Server(pg=pg, settings={"full_page_writes": "off"} | preload) as running:
        yield running


@pytest.fixture(scope="session")
def template(server):
    """A database with the extension in schema public, to make the others from."""
    name = "template_inventory"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    with psycopg.connect(server.dsn(name), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION inventory_ext")
    return name


_numbers = itertools.count(1)


@pytest.fixture
def item_type(request):
    """The type of the ids of the stock table."""
    return getattr(request, "param", "uuid")


@pytest.fixture
def db(server, template, item_type):
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        # Copying files costs half of what the default costs, which writes every page to the WAL as well.
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        connection.execute(f"ALTER DATABASE {name} SET lock_timeout = '20s'")
        yield Database(server, name, Names(item_type) if item_type in OTHER_TYPES else None)
        end_sessions(connection, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def in_encoding(db):
    """A function that gives a connection to a new database of an encoding, with the extension in it."""
    made = []

    def connect(encoding, client="UTF8"):
        name = f"{db.name}_{encoding.lower()}"
        with psycopg.connect(db.server.dsn(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
        conn = psycopg.connect(db.server.dsn(name), autocommit=True, client_encoding=client)
        made.append((name, conn))
        conn.execute("CREATE EXTENSION inventory_ext")
        return conn

    yield connect
    for name, conn in made:
        conn.close()
        with psycopg.connect(db.server.dsn(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def end_sessions(connection, name):
    """DROP DATABASE ends them, too, but looks for the last of them only every 100 ms."""
    give_up = time.monotonic() + 5
    others = "FROM pg_stat_activity WHERE datname = %s"
    connection.execute(f"SELECT pg_terminate_backend(pid) {others}", (name,))
    while connection.execute(f"SELECT 1 {others} LIMIT 1", (name,)).fetchone() and time.monotonic() < give_up:
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def nothing_crashed_or_leaked(request):
    """Reads what the server logged during the test."""
    if "db" not in request.fixturenames:
        yield
        return
    log = request.getfixturevalue("db").server.log_path
    begin = log.stat().st_size
    yield
    with open(log, "rb") as lines:
        lines.seek(begin)
        bad = [line for line in lines.read().decode(errors="replace").splitlines() if BAD_SIGNS.search(line)]
    assert not bad
