"""A PgBouncer in front of a test's server: few server connections that many clients share, as in production.

The program is Debian's, unpacked by dev/setup.sh. It refuses to run as root, so root runs it as another user, from a
copy that this user can read.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import psycopg

from dev.server import LOCAL, other_user
from shop import until

TREE = LOCAL / "pgbouncer"


class PgBouncer:
    """Any database of the server, through `size` server connections a database."""

    host = "127.0.0.1"

    def __init__(self, folder, server_port, pool_mode, size, connect_query, settings):
        self.folder = folder
        with socket.socket() as free:
            free.bind((self.host, 0))
            self.port = free.getsockname()[1]
        options = {
            "listen_addr": self.host, "listen_port": self.port, "unix_socket_dir": "", "auth_type": "any",
            "pool_mode": pool_mode, "default_pool_size": size, "max_client_conn": 200,
            "logfile": folder / "log", "ignore_startup_parameters": "extra_float_digits", **settings,
        }  # fmt: skip
        query = "connect_query='{}'".format(connect_query.replace("'", "''")) if connect_query else ""
        lines = ["[databases]", f"* = host={self.host} port={server_port} user=postgres {query}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in options.items()]
        self.configuration = folder / "pgbouncer.ini"
        self.configuration.write_text("\n".join(lines) + "\n")

    def start(self, program):
        libraries = ":".join(map(str, program.parents[1].glob("lib/*-linux-gnu")))
        user = {}
        if os.geteuid() == 0:
            account = other_user()
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        environment = os.environ | {"LD_LIBRARY_PATH": libraries}
        with open(self.folder / "output", "wb") as output:
            self.process = subprocess.Popen(
                [program, self.configuration],
                env=environment, stdout=output, stderr=output, start_new_session=True, **user,
            )  # fmt: skip
        until(self.accepts, "PgBouncer accepts connections")

    def accepts(self):
        assert self.process.poll() is None, (self.folder / "output").read_text() + (self.folder / "log").read_text()
        try:
            socket.create_connection((self.host, self.port)).close()
        except OSError:
            return False
        return True

    def dsn(self, dbname, user="postgres"):
        return f"host={self.host} port={self.port} dbname={dbname} user={user}"

    def connect(self, dbname, **options):
        """Without prepared statements of the protocol, which a transaction pooler of this version does not follow."""
        return psycopg.connect(self.dsn(dbname), autocommit=True, prepare_threshold=None, **options)


@contextmanager
def pgbouncer(server, pool_mode="transaction", size=4, connect_query=None, **settings):
    """A pooler that runs during the block; further arguments are lines of its configuration."""
    program = TREE / "usr/sbin/pgbouncer"
    assert program.exists(), "PgBouncer is missing: get it with: dev/setup.sh pgbouncer"
    with tempfile.TemporaryDirectory(prefix="inventory_ext-pgbouncer-", dir="/tmp") as folder:
        shutil.copytree(TREE, Path(folder, "tree"), symlinks=True)
        pooler = PgBouncer(Path(folder), server.port, pool_mode, size, connect_query, settings)
        pooler.start(Path(folder, "tree/usr/sbin/pgbouncer"))
        try:
            yield pooler
        finally:
            pooler.process.terminate()
            pooler.process.wait()
