"""What holds for every client test: no session of it waits for ever.

A test that gets its locks wrong, or an extension that does, must end as a failure and not as a hang. The limit is set on
the test's own database; it is far above any wait that a test intends, and tests of lock_timeout set their own.
"""

import psycopg
import pytest


@pytest.fixture(autouse=True)
def nobody_waits_for_ever(request):
    if "db" in request.fixturenames:
        db = request.getfixturevalue("db")
        with psycopg.connect(db.server.dsn(), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {db.name} SET lock_timeout = '60s'")
