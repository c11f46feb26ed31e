"""Runs the files of monitoring/ for a database on a throwaway server: the exporter and a Prometheus that reads it.

`with monitored(server, "shop") as prometheus:` gives both, each on a free port of 127.0.0.1, and ends them afterwards.
The programs are Debian's, unpacked by `dev/setup.sh monitoring`. The files are used as they are, but for addresses.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psycopg

from dev.server import LOCAL

PROGRAMS = LOCAL / "monitoring/usr/bin"
FILES = Path(__file__).resolve().parent.parent / "monitoring"
ROLE = "inventory_monitor"
HOST = "127.0.0.1"
# As monitoring/ has them.
DATABASE_ADDRESS = f"{ROLE}@localhost:5432/shop?"
EXPORTER_ADDRESS = "localhost:9237"

_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment is not for these


class Program:
    """A program that serves HTTP on a free port; `ready` is a path that it answers when it is up."""

    def __init__(self, folder, name, ready, arguments_of):
        self.folder, self.name, self.ready, self.arguments_of = folder, name, ready, arguments_of
        assert (PROGRAMS / name).exists(), f"{name} is missing: get it with: dev/setup.sh monitoring"

    def start(self, port=None):
        for _ in range(5):  # another process may take the port meanwhile
            self.port = port or _free_port()
            # it ends with Python, however Python ends
            command = ["setpriv", "--pdeathsig", "KILL", PROGRAMS / self.name, *self.arguments_of(self.port)]
            with open(self.log_path, "wb") as log:
                self.process = subprocess.Popen(
                    command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            while self.process.poll() is None:
                with contextlib.suppress(OSError):
                    self.read(self.ready)
                    return
                time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start:\n{self.log_path.read_text(errors='replace')}")

    def stop(self):
        self.process.kill()
        self.process.wait()

    @property
    def log_path(self):
        return self.folder / f"{self.name}.log"

    @property
    def address(self):
        return f"{HOST}:{self.port}"

    def read(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with _http.open(f"http://{self.address}/{path}?{query}", timeout=30) as response:
            return response.read().decode()


class Prometheus(Program):
    """The HTTP interface, as far as it is used here. `exporter` is the program that it reads."""

    def __init__(self, folder, exporter):
        self.exporter = exporter
        options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]
        super().__init__(
            folder, "prometheus", "-/ready", lambda port: [*options, f"--web.listen-address={HOST}:{port}"]
        )

    def ask(self, path, **parameters):
        try:
            answer = json.loads(self.read(f"api/v1/{path}", **parameters))
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {error.read().decode()}") from None
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, promql):
        """[(labels, value)]"""
        found = self.ask("query", query=promql)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(row["metric"], float(row["value"][1])) for row in found["result"]]

    def query_range(self, promql, start, end, step):
        """[(labels, [(time, value)])]"""
        found = self.ask("query_range", query=promql, start=start, end=end, step=step)["result"]
        return [(row["metric"], [(at, float(value)) for at, value in row["values"]]) for row in found]

    def alerts(self, name, state="firing"):
        """The alerts of that name and state: their labels."""
        found = [alert for alert in self.ask("alerts")["alerts"] if alert["state"] == state]
        return [alert["labels"] for alert in found if alert["labels"]["alertname"] == name]


def create_role(conn):
    """The role of the exporter, as docs/operations.md creates it."""
    conn.execute(f"CREATE ROLE {ROLE} LOGIN; GRANT pg_read_all_stats TO {ROLE}")


@contextmanager
def exporter(server, database):
    """The exporter, during the block; the role is there."""
    address = f"{ROLE}@{HOST}:{server.port}/{urllib.parse.quote(database, safe='')}?"
    with _running() as run:
        yield run(_exporter, address)


@contextmanager
def monitored(server, database):
    """Prometheus, during the block, and the exporter that it reads; the role is created where it is not there."""
    with psycopg.connect(server.dsn(database), autocommit=True) as conn:
        if not conn.execute("SELECT to_regrole(%s)", (ROLE,)).fetchone()[0]:
            create_role(conn)
    with exporter(server, database) as read, _running() as run:
        yield run(_prometheus, read)


def _exporter(folder, database_address):
    shutil.copy(FILES / "sql_exporter.yml", folder)
    _change(folder / "sql_exporter.yml", DATABASE_ADDRESS, database_address)
    options = ["-config.file", "sql_exporter.yml", "-web.listen-address"]
    return Program(folder, "prometheus-sql-exporter", "healthz", lambda port: [*options, f"{HOST}:{port}"])


def _prometheus(folder, exporter):
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(FILES / name, folder)
    _change(folder / "prometheus.yml", EXPORTER_ADDRESS, exporter.address)
    return Prometheus(folder, exporter)


@contextmanager
def _running():
    """A function that starts a program in a folder of its own; both are gone after the block."""
    with tempfile.TemporaryDirectory(prefix="inventory_ext-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        started = []

        def run(program, *arguments):
            started.append(program(Path(folder), *arguments))
            started[-1].start()
            return started[-1]

        try:
            yield run
        finally:
            for program in started:
                program.stop()


def _change(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has not one {old}"
    path.write_text(text.replace(old, new))


def _free_port():
    with socket.socket() as free:
        free.bind((HOST, 0))
        return free.getsockname()[1]
