"""The contenders: each a database of its own with the same stock.

raw          a prepared UPDATE … RETURNING with the quantity in its condition
handwritten  the plain PL/pgSQL function with FOR UPDATE
twin_plain   PL/pgSQL with the guarantees of inventory_ext, without a ledger
twin         the same with the ledger
ext_plain    inventory_ext without a ledger
ext_ledger   inventory_ext as it is attached by default
striped      the same, with the hot item in stripes; it sells that item alone
"""

import os
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psycopg

HERE = Path(__file__).parent
ITEMS = 10_000
PLENTY = 10**12
SOLD_OUT = ITEMS + 1  # one more item, of which there is nothing
HOT = 1

ITEM = "lpad(to_hex({}::int), 32, '0')::uuid"
RAW = "UPDATE inventory SET quantity = quantity - 1 WHERE id = {} AND quantity >= 1 RETURNING quantity"
CALLS = {
    "raw": RAW,
    "handwritten": "SELECT sell_by_hand({}, 1)",
    "twin_plain": "SELECT twin_decrement({}, 1)",
    "twin": "SELECT twin_decrement({}, 1)",
    "ext_plain": "SELECT decrement_inventory({}, 1)",
    "ext_ledger": "SELECT decrement_inventory({}, 1)",
    "striped": "SELECT decrement_inventory({}, 1)",
}
CONTENDERS = tuple(CALLS)
LEDGERS = ("twin", "ext_ledger", "striped")
STRIPES = 64  # as many as sessions

# A refusal is an error, which would end a client of pgbench: every contender is called through the same small function.
REFUSED = """
CREATE FUNCTION refused(p_inventory_id uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    {call};
    RETURN 'sold';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END;
$$
"""

# What the same call costs where nothing is done but to refuse: as fast as a refusal can be seen through pgbench.
AT_ONCE = """
CREATE FUNCTION refused_at_once(p_inventory_id uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Insufficient inventory. Available: %, Requested: %', 0, 1;
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END;
$$
"""


def call(contender, number):
    """The sale of one unit of an item, as SQL for a pgbench script."""
    return CALLS[contender].format(ITEM.format(number))


def open_shops(server, names=CONTENDERS, items=ITEMS, suffix=""):
    """Makes the databases; answers {contender: database}."""
    databases = {}
    for name in names:
        databases[name] = name + suffix
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute(f'CREATE DATABASE "{name}{suffix}"')
        with psycopg.connect(server.dsn(name + suffix), autocommit=True) as conn:
            stock(conn, name, items)
    return databases


def stock(conn, name, items):
    """The stock table: the same rows and columns, and one CHECK, for everybody."""
    # attach_inventory and the twin bring a CHECK of their own
    check = "CHECK (quantity >= 0)" if name in ("raw", "handwritten") else ""
    conn.execute(
        f"CREATE TABLE inventory (id uuid PRIMARY KEY, name text NOT NULL, quantity numeric(18,2) NOT NULL {check})"
    )
    conn.execute(
        f"INSERT INTO inventory SELECT {ITEM.format('n')}, 'item ' || n,"
        f" CASE WHEN n <= {items} THEN {PLENTY} ELSE 0 END"
        f"  FROM generate_series(1, {items + 1}) AS n"
    )
    if name == "handwritten":
        conn.execute((HERE.parent / "demo/handwritten.sql").read_text())
        conn.execute(AT_ONCE)
    elif name.startswith("twin"):
        conn.execute((HERE / "contenders/twin.sql").read_text())
        if name == "twin":
            conn.execute((HERE / "contenders/twin_ledger.sql").read_text())
    elif name.startswith("ext") or name == "striped":
        conn.execute("CREATE EXTENSION inventory_ext")
        conn.execute("SELECT attach_inventory('inventory', p_ledger => %s)", (name != "ext_plain",))
    if name == "striped":
        conn.execute(f"SELECT stripe_inventory({ITEM.format(HOT)}, %s)", (STRIPES,))
    if name != "raw":
        conn.execute(REFUSED.format(call=CALLS[name].format("p_inventory_id").replace("SELECT", "PERFORM", 1)))
    conn.execute("VACUUM ANALYZE")


def stock_of(database):
    """What there is, as SQL: the row of a striped item shows what its stripes held a moment ago."""
    if not database.startswith("striped"):
        return "inventory AS i"
    stripes = "(SELECT inventory_id AS id, sum(quantity) AS quantity FROM inventory_stripe GROUP BY 1)"
    return (
        "(SELECT id, coalesce(s.quantity, i.quantity) AS quantity FROM inventory AS i"
        f" LEFT JOIN {stripes} AS s USING (id)) AS i"
    )


def check_ledger(server, database):
    """Opening and movements make the stock, or the figures are worth nothing."""
    with psycopg.connect(server.dsn(database)) as conn:
        wrong = conn.execute(
            f"SELECT count(*) FROM {stock_of(database)}"
            "  LEFT JOIN (SELECT inventory_id, sum(delta) AS quantity FROM inventory_movement GROUP BY 1) AS m"
            " ON m.inventory_id = i.id"
            " WHERE i.quantity IS DISTINCT FROM coalesce(m.quantity, 0)"
        ).fetchone()[0]
    if wrong:
        raise RuntimeError(f"{database}: the ledger and the stock differ on {wrong} items")


def left_in_stock(server, database):
    with psycopg.connect(server.dsn(database)) as conn:
        return conn.execute(f"SELECT sum(quantity) FROM {stock_of(database)}").fetchone()[0]


class Slice(NamedTuple):
    """What pgbench says about one slice: (tps, latency in ms) of each second that counts, and all transactions."""

    seconds: list[tuple[float, float]]
    transactions: int

    @property
    def tps(self):
        return sum(tps for tps, _ in self.seconds) / len(self.seconds)

    @property
    def latency_ms(self):
        return sum(tps * ms for tps, ms in self.seconds) / (self.tps * len(self.seconds)) if self.tps else None


PROCESSED = "number of transactions actually processed: "
REPORT = re.compile(r"^progress: \S+ s, (\S+) tps, lat (\S+) ms", re.M)


class Pgbench:
    """Runs pgbench on one server; the settings of the commit go through PGOPTIONS."""

    def __init__(self, server, scratch):
        self.server, self.scratch = server, Path(scratch)

    def script(self, name, text):
        path = self.scratch / name
        path.write_text(text)
        return path

    def run(self, database, scripts, clients, seconds, commit, mode="prepared", more=(), one_core=True):
        """One slice; any error of any client ends the benchmark.

        It runs a second longer, and that first second is left out of tps and latency, for every contender: in it each
        session loads and plans what it calls, once. first_calls tells what that costs. pgbench omits the report of a
        second in which it ends: then the slice is taken again, a second longer. The transactions are those of all
        tries: that is what left the stock.
        """
        transactions = 0
        for longer in (1, 2, 3):
            how = (commit, mode, more, one_core)
            reports, done = self.slice(database, scripts, clients, seconds + longer, *how)
            transactions += done
            if len(reports) > seconds:
                return Slice(reports[1 : seconds + 1], transactions)
        raise RuntimeError(f"pgbench reported {len(reports)} seconds of {seconds + longer} on {database}")

    def slice(self, database, scripts, clients, seconds, commit, mode, more, one_core):
        """Runs pgbench for so many seconds; returns (tps, latency in ms) of each, and all transactions."""
        files = [word for script in scripts for word in ("-f", script)]
        command = [
            self.server.bindir / "pgbench",
            *("-n", "-M", mode, "-c", clients, "-j", min(clients, 2), "-T", seconds),
        ]
        command += ["-P", 1, "-h", self.server.socket_dir, *more, *files, database]
        options = " ".join(f"-c {name}={value}" for name, value in commit.items())
        env = self.server.env() | {"PGOPTIONS": options}
        command = [str(word) for word in command]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            if clients == 1 and one_core and hasattr(os, "sched_setaffinity"):
                self.share_a_core(process, database)
            out, told = process.communicate()
        if process.returncode or "aborted" in told:
            raise RuntimeError(f"pgbench failed on {database}:\n{told[-2000:]}")
        transactions = next(line[len(PROCESSED) :] for line in out.splitlines() if line.startswith(PROCESSED))
        reports = [(float(tps), float(ms)) for tps, ms in REPORT.findall(told)]
        return reports, int(transactions.split("/")[0])

    def share_a_core(self, process, database):
        """One client and its session take turns, so they lose nothing on one core; on two, each call waits for the
        other core to wake up, which in a virtual machine takes longer than a sale and is never the same."""
        core = {max(os.sched_getaffinity(0))}
        sessions = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'pgbench'"
        with suppress(ProcessLookupError), psycopg.connect(self.server.dsn(), autocommit=True) as conn:
            os.sched_setaffinity(process.pid, core)
            seen = set()
            while process.poll() is None:
                now = set(conn.execute(sessions, (database,)))
                # in two looks: pgbench opens a connection to look around before that of its client
                for (pid,) in now & seen:
                    os.sched_setaffinity(pid, core)
                    return
                seen = now
                time.sleep(0.05)


def first_calls(server, databases, count):
    """{name: [ms]}: the first call of a new session, in turn: what it takes to load the library, to look up and to
    plan."""
    found = {name: [] for name in databases}
    for _ in range(count):
        for name, database in databases.items():
            with psycopg.connect(server.dsn(database), autocommit=True) as conn:
                begin = time.monotonic()
                conn.execute(call(name, HOT))
                found[name].append((time.monotonic() - begin) * 1000)
    return found
