"""The disk fills up in the middle of the business: a call takes place or fails with 53100, and nothing is half done.

A disk that is full is made by full_disk.c, which the server preloads: files of one folder do not grow while a switch
is on. So these tests need no file system of their own and no rights of root, only the C compiler with which the
extension is built.
"""

import subprocess
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from accountant import problems
from books import keys_kept, lines, stripes_of
from clients import (
    PLAIN,
    STRIPED,
    acknowledged,
    clients_at_work,
    connect,
    kill_everything,
    resent,
    server_with_a_shop,
    until_sold,
)
from dev.server import Server
from shop import until

SOURCE = Path(__file__).parents[1] / "support/full_disk.c"


class ServerOnASmallDisk(Server):
    """Its folders can be filled."""

    def _prepare(self):
        self.library, self.switch = self.folder / "full_disk.so", self.folder / "full_disk"
        subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", self.library, SOURCE, "-ldl"], check=True)
        super()._prepare()

    def _libraries(self):
        return super()._libraries() | {"LD_PRELOAD": str(self.library), "FULL_DISK": str(self.switch)}

    @contextmanager
    def full(self, folder):
        """Within the block no file grows in this folder of the data folder."""
        text = self.folder / "full_disk.new"
        text.write_text(f"{self.data / folder}/")
        text.rename(self.switch)
        try:
            yield
        finally:
            self.switch.unlink()


@pytest.fixture(scope="module")
def server():
    with server_with_a_shop(ServerOnASmallDisk, min_wal_size="32MB", max_wal_size="32MB") as server:
        yield server


@pytest.fixture
def conn(server):
    with connect(server) as conn:
        yield conn


def refused_by_the_disk(clients):
    return sum(client.errors["53100"] for client in clients)


def goes_on(server):
    """Starts the server where it has ended by itself."""
    if server.process is None or server.process.poll() is not None:
        server.process = None
        server.start()
    return True


# One session

CALLS = {
    "a sale": f"decrement_inventory('{PLAIN[0]}', 1)",
    "a sale of a striped item": f"decrement_inventory('{STRIPED[0]}', 1)",
    "an order": f"decrement_inventory_batch('{lines((PLAIN[0], 1), (STRIPED[0], 2), (PLAIN[1], 1))}')",
    "a transfer": f"transfer_inventory('{PLAIN[0]}', '{STRIPED[0]}', 1)",
}


def state(conn):
    """Everything a call may change."""
    stock = conn.execute("SELECT id, available_inventory(id) FROM inventory ORDER BY 1").fetchall()
    ledger = conn.execute("SELECT count(*), max(movement_id), sum(delta) FROM inventory_movement").fetchone()
    return stock, stripes_of(conn, STRIPED[0]), ledger, keys_kept(conn)


def call_with_key(conn, call, key):
    with conn.transaction():
        conn.execute("SELECT set_config('inventory_ext.idempotency_key', %s, true)", (key,))
        return conn.execute(f"SELECT {call}").fetchone()[0]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_for_which_there_is_no_room_changes_nothing(server, conn, name):
    """Calls succeed while the pages have room. The first that does not fit fails whole; its session goes on."""
    call = CALLS[name]
    with server.full("base"):
        with pytest.raises(psycopg.errors.DiskFull):
            for number in range(5000):
                key, before = f"{name} {number}", state(conn)
                call_with_key(conn, call, key)
        assert state(conn) == before
    assert "replayed" not in call_with_key(conn, call, key)
    assert call_with_key(conn, call, key)["replayed"] is True
    assert problems(conn) == []


# Many sessions


def test_a_full_disk_under_load_leaves_exact_books(server, conn):
    """Clients repeat their requests. Once there is room again, all of them fit, and the rows show the stripes."""
    with clients_at_work(lambda: server.dsn("shop")) as clients:
        until_sold(clients, 100)
        with server.full("base"):
            enough = refused_by_the_disk(clients) + 100
            until(lambda: refused_by_the_disk(clients) >= enough, "the clients have met a full disk")
        until_sold(clients, 100)
    assert problems(conn, clients) == []


def test_a_crash_while_the_disk_is_full_loses_nothing(server):
    """The server may not even start while there is no room; once there is, all that was acknowledged is there."""
    with clients_at_work(lambda: server.dsn("shop")) as clients:
        until_sold(clients, 100)
        with server.full("base"):
            until(lambda: refused_by_the_disk(clients) >= 50, "the clients have met a full disk")
            kill_everything(server)
            try:
                server.start()
            except RuntimeError:  # recovery needs room
                pass
        goes_on(server)
        until_sold(clients, 100)
    assert resent(clients) > 0
    with connect(server) as conn:
        assert problems(conn, clients) == []


def test_no_room_for_the_write_ahead_log_loses_nothing(server):
    """PostgreSQL panics, and ends if recovery needs a further segment. Afterwards the clients get their results."""
    begin = server.log_path.stat().st_size
    with clients_at_work(lambda: server.dsn("shop")) as clients:
        until_sold(clients, 50)
        with server.full("pg_wal"), connect(server) as conn:
            until(lambda: panicked(server, begin) or next_segment(conn), "the log has no room")
        enough = acknowledged(clients) + 100
        until(lambda: goes_on(server) and acknowledged(clients) >= enough, "the clients go on")
    assert resent(clients) > 0
    with connect(server) as conn:
        assert problems(conn, clients) == []


def panicked(server, begin):
    with open(server.log_path, "rb") as log:
        log.seek(begin)
        return b"PANIC" in log.read()


def next_segment(conn):
    """Uses up the segments of the log that are there already."""
    try:
        conn.execute("SELECT pg_switch_wal()")
    except psycopg.Error:
        pass
