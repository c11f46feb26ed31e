"""What holds for every client test: no session of it waits for ever, and no backend crashes or leaks.

A test that gets its locks wrong, or an extension that does, must end as a failure and not as a hang. The limit is set on
the test's own database; it is far above any wait that a test intends, and tests of lock_timeout set their own.
"""

import re

import psycopg
import pytest

# What PostgreSQL writes when a backend dies, or when code that it called did not clean up behind itself.
BAD_SIGNS = re.compile(r"terminated by signal|PANIC|TRAP:|panicked|leak|was not closed|left non-empty SPI stack")


@pytest.fixture(autouse=True)
def nobody_waits_for_ever(request):
    if "db" in request.fixturenames:
        db = request.getfixturevalue("db")
        with psycopg.connect(db.server.dsn(), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {db.name} SET lock_timeout = '60s'")


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
