"""A call that stops at a named place between two of its statements, on a build with the feature `failpoints`.

No release has that feature (src/pg/failpoint.rs). The call waits at the place for an advisory lock that the test holds;
the test sees it wait there, and ends its process, or lets it go on.
"""

import json
import threading

import psycopg
import pytest

PLACES = ["key_claimed", "locked", "written", "answer_kept"]
ADVISORY_LOCK = 4711  # the one of src/pg/failpoint.rs
ITEMS = [f"00000000-0000-4000-8000-{number:012d}" for number in range(1, 6)]
ORDER = json.dumps([{"inventory_id": item, "quantity": 2} for item in ITEMS])
CALL = "SELECT decrement_inventory_batch(%s::jsonb, 'order-1', 'key-1')"


class StoppedOrder:
    """An order in a session of its own that waits at a place."""

    def __init__(self, connect, place):
        self.connection = connect()
        self.pid = self.connection.info.backend_pid
        self.connection.execute("SELECT set_config('inventory_ext.failpoint', %s, false)", [place])
        self.answer = self.error = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            self.answer = self.connection.execute(CALL, [ORDER]).fetchone()[0]
        except psycopg.Error as error:
            self.error = error


def wait_until_stopped(watcher, pid):
    waits = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
    while watcher.execute(waits, [pid]).fetchone() != ("advisory",):
        pass


def connect_again(connect, witness):
    """A connection of after the recovery. The crash ends the witness too; before that the server has not noticed it."""
    with pytest.raises(psycopg.OperationalError):
        while True:
            witness.execute("SELECT 1")
    while True:
        try:
            return connect()
        except psycopg.OperationalError:
            continue
