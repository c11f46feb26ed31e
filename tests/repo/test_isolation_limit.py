"""An isolation test that waits for ever ends soon, on each server.

With the variable of one version alone, the other waited for six minutes at each step that hung: with a row lock that
was broken on purpose, the suite said nothing for ten minutes.
"""

import os
import subprocess

from dev.test import step_limit


HANGS = """
setup { CREATE TABLE item (id integer); }
teardown { DROP TABLE item; }
session first
step hold { BEGIN; LOCK TABLE item; }
step free { COMMIT; }
session second
step wait { SELECT count(*) FROM item; }
step next { SELECT 1; }
permutation hold wait next free
"""


def test_a_step_that_waits_too_long_is_cancelled(server, db):
    program = server.libdir / "pgxs/src/test/isolation/isolationtester"
    where = f"host={server.host} port={server.port} user=postgres dbname={db.name}"
    env = os.environ | server.env() | step_limit(2)
    db.connect().execute(f"ALTER DATABASE {db.name} SET lock_timeout = 0")  # the limit is the tester's own
    done = subprocess.run([program, where], input=HANGS, env=env, capture_output=True, text=True)
    assert "isolationtester: canceling step wait after 2 seconds" in done.stdout
    assert "canceling statement due to user request" in done.stdout
