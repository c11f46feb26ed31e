"""Runs the benchmark: `python -m bench.run [--pg 15] [--quick] [--only orders]`; `make bench` builds first.

A plan of steps, each with the seconds it is expected to take. Figures are kept as measured, round by round, in one
JSON file; bench.report makes tables and charts of it. Nothing is asserted about a clock. What is compared is always
measured in one step, so a part can be measured again; the file says of which commit it is then.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, NamedTuple

from bench import audit, counting, growth, lag, measure, orders, refusals, report, server_time, shops, tables, triggers
from bench.workloads import COMMITS, FULL, QUICK, WORKLOADS, scripts
from dev.server import LOCAL, TREES, Server

SETTINGS = {
    "shared_buffers": "2GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_connections": "200",
    "max_prepared_transactions": "0",
    "fsync": "on",
}
# Before 17 there is shared memory for statistics only there.
PRELOADED = {"shared_preload_libraries": "inventory_ext"}
SLICE_MORE = 1.4  # seconds that a slice takes beyond its own: the first, which is left out; connections, VACUUM


PARTS = ("server_time", "sales", "refusals", "orders", "tables", "statistics", "growth", "audit")


class Step(NamedTuple):
    part: str | None  # None: whatever is measured
    title: str
    seconds: float
    act: Callable[[], None]


class Shops:
    """The first server: everything but growth."""

    def __init__(self, server, size, quick, scratch):
        self.server, self.size, self.quick = server, size, quick
        self.pgbench = shops.Pgbench(server, scratch)
        self.results = {"sales": {}, "refusals": {}, "orders": {}, "durable": {}}
        self.databases = {}

    def rounds(self, workload):
        return self.size.rounds + (0 if self.quick else workload.more_rounds)

    def slices(self, number):
        return number * (self.size.seconds + SLICE_MORE)

    def plan(self):
        steps = [Step(None, "seven shops are opened", 6, self.open)]
        seconds = self.slices(len(server_time.WAYS) * (2 + self.size.rounds))
        steps.append(Step("server_time", "what a call costs in the server", seconds, self.server_time))
        for workload in WORKLOADS:
            for commit in workload.quick if self.quick else workload.commits:
                names = self.names(workload, commit)
                seconds = self.slices(len(names) * self.rounds(workload))
                steps.append(Step("sales", f"{workload.title}, {commit}", seconds, self.sales(workload, commit)))
        steps.append(Step("sales", "how late a total is shown", 3 * self.size.seconds + 3, self.lag))
        steps.append(Step("refusals", "a sold-out item", self.slices(5 * self.size.rounds + 8), self.refusals))
        for lines in self.size.lines:
            steps.append(
                Step("orders", f"orders of {lines} lines", self.slices(3 * self.size.rounds), self.orders(lines))
            )
        for lines in self.size.durable_lines:
            for clients in (1, 32):
                title = f"durable orders of {lines} lines, {clients} clients"
                steps.append(Step("orders", title, self.slices(2 * self.size.rounds), self.durable(lines, clients)))
        steps.append(
            Step(
                "orders",
                "what a line is made of",
                self.slices((2 + len(orders.LESS)) * (self.size.rounds + 1)) + 8,
                self.anatomy,
            )
        )
        if not self.quick:
            steps.append(
                Step("orders", "row or statement trigger", self.slices(6 * self.size.rounds) + 6, self.triggers)
            )
        many = 100 if self.quick else tables.MANY
        seconds = 10 + many / 40 + self.slices(2 * self.size.rounds)
        steps.append(Step("tables", f"{many:,} stock tables", seconds, self.tables(many)))
        rounds = self.size.rounds
        seconds = 20 * rounds + self.slices(6 * rounds) + 3 * rounds * (counting.COLD_SECONDS + 1)
        steps.append(Step("statistics", "what counting costs, and stripes by themselves", seconds, self.statistics))
        steps.append(Step(None, "stock and ledger are compared", 5, self.check))
        return steps

    def open(self):
        self.databases = shops.open_shops(self.server)
        self.results["circumstances"] = measure.circumstances(self.server, "ext_plain", self.pgbench.scratch)

    def server_time(self):
        measure.checkpoint(self.server)
        rounds = self.size.rounds + (0 if self.quick else 2)
        found = server_time.measured(self.server, self.databases, rounds, self.size.seconds)
        self.results["server_time"] = found
        self.results["first_calls"] = shops.first_calls(self.server, self.databases, 15)

    def names(self, workload, commit):
        """The twin without a ledger only shows what guarantees cost: once, and not when the disk decides. The striped
        item is sold beside one item that is not, and beside many."""
        left_out = set() if workload.is_hot or workload.name == "uniform_64" else {"striped"}
        left_out |= set() if commit == "async" else {"twin_plain"}
        return [name for name in shops.CONTENDERS if name not in left_out]

    def sales(self, workload, commit):
        def one(name):
            measure.vacuum(self.server, self.databases[name])
            files = scripts(self.pgbench, name, workload)
            return self.pgbench.run(self.databases[name], files, workload.clients, self.size.seconds, COMMITS[commit])

        def act():
            names = self.names(workload, commit)
            measure.checkpoint(self.server)
            found = measure.rounds(names, self.rounds(workload), one)
            self.results["sales"].setdefault(workload.name, {})[commit] = {
                name: {"tps": [s.tps for s in figures], "latency_ms": [s.latency_ms for s in figures]}
                for name, figures in found.items()
            }

        return act

    def lag(self):
        self.results["lag"] = lag.measured(self.pgbench, self.databases["striped"], 3 * self.size.seconds)

    def refusals(self):
        measure.checkpoint(self.server)
        found = self.results["refusals"]
        found["alone"] = refusals.alone(self.pgbench, self.databases, self.size.rounds, self.size.seconds)
        found["held"] = {
            name: {
                str(clients): refusals.held(self.pgbench, self.databases[name], clients, self.size.seconds)
                for clients in (1, refusals.CLIENTS)
            }
            for name in ("handwritten", "twin_plain", "ext_plain", "ext_ledger")
        }
        found["traces"] = {
            name: refusals.traces(self.server, self.databases[name]) for name in ("ext_plain", "ext_ledger")
        }

    def orders(self, lines):
        def act():
            measure.checkpoint(self.server)
            found = orders.against_single_calls(
                self.pgbench, self.databases, lines, self.size.rounds, self.size.seconds
            )
            self.results["orders"][str(lines)] = found

        return act

    def durable(self, lines, clients):
        def act():
            measure.checkpoint(self.server)
            pair = {name: self.databases[name] for name in ("ext_ledger", "twin")}
            found = orders.durable(self.pgbench, pair, lines, clients, self.size.rounds, self.size.seconds)
            self.results["durable"].setdefault(str(lines), {})[str(clients)] = found

        return act

    def anatomy(self):
        self.results["anatomy"] = orders.anatomy(self.pgbench, 1000, self.size.rounds, self.size.seconds)

    def triggers(self):
        self.results["triggers"] = triggers.measured(self.pgbench, self.size.rounds, self.size.seconds)

    def tables(self, many):
        def act():
            self.results["tables"] = tables.measured(self.pgbench, self.size.rounds, self.size.seconds, many=many)

        return act

    def statistics(self):
        measure.checkpoint(self.server)
        self.results["statistics"] = counting.run(self.pgbench, self.databases, self.size)

    def check(self):
        for name in shops.LEDGERS:
            shops.check_ledger(self.server, self.databases[name])


class Growth:
    """The second server, which has more memory."""

    def __init__(self, server, size, scratch):
        self.server, self.size = server, size
        self.pgbench = shops.Pgbench(server, scratch)
        self.databases, self.loading, self.results = {}, {}, {}

    def plan(self):
        steps = []
        for name, (items, movements) in growth.sizes(self.size).items():
            title = f"growth: loads {items:,} items, {movements:,} movements"
            steps.append(Step("growth", title, 1 + items * 13e-6 + movements * 7e-6, self.load(name, items, movements)))
        slices = 5 * (self.size.rounds + 1) * (self.size.seconds + SLICE_MORE)
        steps.append(Step("growth", "growth: sales in turn", slices + 10, self.measure))
        return [*steps, Step("audit", f"audit: {self.size.audited:,} movements", self.size.audited * 35e-6, self.audit)]

    def load(self, name, items, movements):
        def act():
            self.databases[name], self.loading[name] = growth.load(self.server, name, items, movements)

        return act

    def measure(self):
        items = {name: items for name, (items, _) in growth.sizes(self.size).items()}
        found = growth.run(self.pgbench, self.databases, items, self.size.rounds, self.size.seconds)
        self.results["growth"] = {name: figures | {"loaded_s": self.loading[name]} for name, figures in found.items()}
        longest = report.largest(name for name in items if name.startswith("movements"))
        self.results["day"] = growth.a_day(self.server, self.databases[longest])

    def audit(self):
        self.results["audit"] = audit.run(self.server, self.size.audited // 100, self.size.audited, self.size.rounds)


def growth_settings():
    return SETTINGS | {"shared_buffers": "6GB" if measure.memory_gb() >= 14 else "2GB"}


def run(pg, quick, scratch, only=None):
    """Both servers, one after the other; answers what goes into the JSON file, or one part of it."""
    size, begin = QUICK if quick else FULL, time.monotonic()

    def wanted(steps):
        return [step for step in steps if only is None or step.part in (only, None)]

    with Server(pg=pg, settings=SETTINGS | (PRELOADED if int(pg) < 17 else {})) as server:
        first = Shops(server, size, quick, scratch)
        steps, later = wanted(first.plan()), wanted(Growth(server, size, scratch).plan())
        progress = measure.Progress([step.seconds for step in steps + later])
        take(steps, progress)
    found = first.results
    if later:
        with Server(pg=pg, settings=growth_settings()) as server:
            last = Growth(server, size, scratch)
            take(wanted(last.plan()), progress)
        found |= last.results
    circumstances = found.pop("circumstances")
    if only:
        return {name: figures for name, figures in found.items() if figures}, circumstances
    results = {"pg": pg, "quick": quick, "slice_s": size.seconds, "rounds": size.rounds} | circumstances | found
    took = {"took_s": round(time.monotonic() - begin), "growth_shared_buffers": growth_settings()["shared_buffers"]}
    return results | took


def again(path, pg, quick, only, scratch):
    """A part of an earlier run, measured anew."""
    before = report.read(path)
    found, circumstances = run(pg, quick, scratch, only)
    other = {only: {name: circumstances[name] for name in ("commit", "date")}}
    return before | found | {"again": before.get("again", {}) | other}


def take(steps, progress):
    for step in steps:
        progress.step(step.title)
        step.act()


def path_of(pg, quick):
    if quick:
        return LOCAL / f"results/bench-quick-pg{pg}.json"
    return report.RESULTS / f"pg{pg}.json"


def main():
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Measures inventory_ext against others")
    parser.add_argument("--pg", default="18", choices=sorted(TREES), help="PostgreSQL version (18)")
    parser.add_argument(
        "--quick", action="store_true", help="a few minutes: shows that all runs; the figures are rough"
    )
    parser.add_argument("--only", choices=PARTS, help="one part, into the figures of an earlier run")
    args = parser.parse_args()
    path = path_of(args.pg, args.quick)
    (LOCAL / "bench-work").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=LOCAL / "bench-work") as scratch:
        if args.only:
            results = again(path, args.pg, args.quick, args.only, scratch)
        else:
            results = run(args.pg, args.quick, scratch)
        measure.write_json(path, results)
    results = report.read(path)
    for name, table in report.tables(results).items():
        print(f"\n{name}\n\n{table}")
    print(f"\nfigures: {path.relative_to(Path(__file__).parent.parent)}")
    if not args.quick:
        report.publish()
        print("tables: docs/benchmark.md; charts: docs/charts/")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nbroken off; the server is stopped")
