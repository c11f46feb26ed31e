"""Makes the tables and charts of docs/benchmark.md from bench/results/*.json: `python -m bench.report`.

A table stands in the manual between `<!-- table:NAME -->` and `<!-- /table -->`; the words around it are written by
hand.
"""

import hashlib
import json
import re
from pathlib import Path

from bench.measure import ratio, summary
from bench.counting import settled
from bench.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/benchmark.md"
CHARTS = ROOT / "docs/charts"
RESULTS = ROOT / "bench/results"
VERSIONS = ("18", "15")

# One replica, durable, no check of stock, measured on a machine such as this one: {lines an order: transfers/s, 32
# clients}.
TIGERBEETLE = {"1": 3_100, "10": 22_000, "100": 68_000, "1000": 157_000}

COLUMNS = ["raw", "handwritten", "twin_plain", "ext_plain", "twin", "ext_ledger", "striped"]
TRIGGERS = {"row": "row trigger", "statement": "statement trigger", "noted": "ext_ledger"}
PAIRS = [("ext_plain", "handwritten"), ("ext_ledger", "twin")]
TITLES = {workload.name: workload.title for workload in WORKLOADS}


def read(path):
    return json.loads(path.read_text())


def load():
    """{version: results} of the full runs there are."""
    paths = {version: RESULTS / f"pg{version}.json" for version in VERSIONS}
    return {version: read(path) for version, path in paths.items() if path.exists()}


def table(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def rate(figures):
    return f"{summary(figures)[0]:,.0f}"


def spread(found, digits=2):
    median, least, greatest = found
    if least == greatest:
        return f"{median:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{median:,.0f}"
    return f"{median:,.{digits}f} ({least:,.{digits}f} to {greatest:,.{digits}f})"


def tps(results, workload, commit, name):
    return results["sales"].get(workload, {}).get(commit, {}).get(name, {}).get("tps")


# (target, at least, one, other), each side (workload, commit, contender)
SALES_TARGETS = (
    [
        (f"one client, async: {one} / {other}", asked, ("one_client", "async", one), ("one_client", "async", other))
        for one, other, asked in (
            ("ext_plain", "handwritten", 1.10),
            ("ext_ledger", "twin", 1.10),
            ("ext_plain", "raw", 0.80),
        )
    ]
    + [
        (
            f"{title}: ext_ledger / handwritten",
            asked,
            (workload, "async", "ext_ledger"),
            (workload, "async", "handwritten"),
        )
        for title, workload, asked in (
            ("one client, async", "one_client", 1.0),
            ("64 clients, 10,000 items, async", "uniform_64", 0.95),
            ("one hot item, 64 clients, async", "hot_64", 1.15),
        )
    ]
    + [
        (
            f"one hot item, 64 clients, {commit}: ext_plain / handwritten",
            asked,
            ("hot_64", commit, "ext_plain"),
            ("hot_64", commit, "handwritten"),
        )
        for commit, asked in (("async", 1.15), ("sync", 1.00))
    ]
)

SALES_TARGETS += [
    (
        f"one striped item, 64 clients, {commit}: striped / ext_ledger over 10,000 items",
        0.85,
        ("uniform_64", commit, "striped"),
        ("uniform_64", commit, "ext_ledger"),
    )
    for commit in ("async", "sync", "sync_1ms")
] + [
    (
        f"one hot item, 64 clients, {commit}: striped / handwritten",
        asked,
        ("hot_64", commit, "striped"),
        ("hot_64", commit, "handwritten"),
    )
    for commit, asked in (("sync", 5), ("sync_1ms", 12))
]


SERVER_TARGETS = [
    ("ext_plain", "handwritten", 0.60),
    ("ext_ledger", "handwritten", 0.90),
    ("ext_ledger", "twin", 0.50),
]


def goals(results):
    """Each target: text, what is asked, (median, least, greatest) or None where it was not measured, whether more is
    better."""
    spent = results.get("server_time")
    for one, other, asked in SERVER_TARGETS:
        found = ratio(spent[one], spent[other]) if spent else None
        yield f"server time: {one} / {other}", asked, found, False
    first = results["first_calls"]
    yield (
        "first call of a session: ext_ledger / handwritten",
        2,
        ratio(first["ext_ledger"], first["handwritten"]),
        False,
    )
    for text, asked, one, other in SALES_TARGETS:
        ours, theirs = tps(results, *one), tps(results, *other)
        yield text, asked, ratio(ours, theirs) if ours and theirs else None, True
    lag = results.get("lag")
    yield (
        "a striped item, 64 clients: longest time between two totals shown, ms",
        1000,
        summary([max(lag["gaps_ms"])]) if lag else None,
        False,
    )
    refused = results["refusals"]
    yield (
        "sold out, 64 clients: ext_plain / handwritten",
        5,
        ratio(refused["alone"]["ext_plain"], refused["alone"]["handwritten"]),
        True,
    )
    yield (
        "sold out, 64 clients: ext_plain / nothing but the error",
        0.55,
        ratio(refused["alone"]["ext_plain"], refused["alone"]["at_once"]),
        True,
    )
    for name, trace in refused["traces"].items():
        yield f"WAL bytes of {trace['calls']:,} refused calls, {name}", 0, summary([trace["wal_bytes"]]), False
        yield (
            f"transaction ids of {trace['calls']:,} refused calls, {name}",
            0,
            summary([trace["transaction_ids"]]),
            False,
        )
    slowest = refused["held"]["ext_plain"]["1"]["slowest_ms"]
    yield "refused while the row is held, slowest, ms", 10, summary([slowest]) if slowest is not None else None, False
    for size, asked in (("10", 3), ("1000", 10)):
        figures = results["orders"][size]
        yield (
            f"an order of {int(size):,} lines / as many calls",
            asked,
            ratio(figures["ext_ledger"], figures["calls"]),
            True,
        )
    wal = results["durable"]["1000"]["1"]["ext_ledger"]["wal"]
    yield "WAL bytes a line, orders of 1,000 lines, 1 client", 350, summary(wal), False
    grown = results["growth"]
    for kind in ("items", "movements"):
        small, large = (pick(name for name in grown if name.startswith(kind)) for pick in (smallest, largest))
        text = f"time a call, {names_of(large)} {kind} / {names_of(small)}"
        yield text, 1.3, ratio(grown[small]["tps"], grown[large]["tps"]), False


def size_of(name):
    return int(name.split("_")[1])


def smallest(names):
    return min(names, key=size_of)


def largest(names):
    return max(names, key=size_of)


def names_of(name):
    return f"{int(name.split('_')[1]):,}"


def targets(results):
    rows = []
    for text, asked, found, more in goals(results):
        sign = "≥" if more else "≤"
        if found is None:
            rows.append([text, f"{sign} {asked}", "not measured", ""])
            continue
        reached = found[0] >= asked if more else found[0] <= asked
        rows.append([text, f"{sign} {asked}", spread(found), "yes" if reached else "no"])
    return table(["target", "asked", "measured", "reached"], rows)


def sales_table(results):
    names = [name for name in COLUMNS if any(name in f for w in results["sales"].values() for f in w.values())]
    rows = []
    for workload, commits in results["sales"].items():
        for commit, figures in commits.items():
            cells = (rate(figures[name]["tps"]) if name in figures else "" for name in names)
            rows.append([TITLES[workload], commit, *cells])
    return table(["sales a second", "commit", *names], rows)


def ratios_table(results):
    rows = []
    for workload, commits in results["sales"].items():
        for commit in commits:
            found = [
                ratio(tps(results, workload, commit, one), tps(results, workload, commit, other))
                for one, other in PAIRS
            ]
            rows.append([TITLES[workload], commit, *map(spread, found)])
    return table(["sales a second, one against another", "commit", *(f"{one} / {other}" for one, other in PAIRS)], rows)


def refusals_table(results):
    refused, rows = results["refusals"], []
    for name, figures in refused["alone"].items():
        held = refused["held"].get(name)
        if not held:
            rows.append(["nothing but the error", rate(figures), "", "", ""])
            continue
        cells = [f"{held[clients]['calls'] / held[clients]['seconds']:,.0f}" for clients in ("1", "64")]
        slowest = held["1"]["slowest_ms"]
        rows.append([name, rate(figures), *cells, "waits" if slowest is None else f"{slowest:.1f} ms"])
    head = [
        "refusals a second",
        "64 clients",
        "row held, 1 client",
        "row held, 64 clients",
        "row held, 1 client: slowest",
    ]
    return table(head, rows)


def orders_table(results):
    rows = [
        [
            f"{int(size):,}",
            *(rate(figures[name]) for name in ("ext_ledger", "twin", "calls")),
            *(spread(ratio(figures["ext_ledger"], figures[other])) for other in ("calls", "twin")),
        ]
        for size, figures in results["orders"].items()
    ]
    return table(
        [
            "lines an order",
            "ext_ledger, lines/s",
            "twin, lines/s",
            "single calls, lines/s",
            "order / calls",
            "ext_ledger / twin",
        ],
        rows,
    )


def durable_table(results):
    rows = []
    for size, by_clients in results["durable"].items():
        for clients, found in by_clients.items():
            known = f"{TIGERBEETLE[size]:,}" if clients == "32" and size in TIGERBEETLE else ""
            pair = [found["ext_ledger"], found["twin"]]
            rows.append(
                [f"{int(size):,}", clients, *(rate(f["lines"]) for f in pair), known, *(rate(f["wal"]) for f in pair)]
            )
    head = ["lines an order", "clients", "ext_ledger, lines/s", "twin, lines/s", "TigerBeetle, transfers/s"]
    return table([*head, "ext_ledger, WAL bytes a line", "twin, WAL bytes a line"], rows)


def anatomy_table(results):
    titles = {
        "ext_plain": "without a ledger",
        "ext_ledger_no_key": "a ledger without its primary key",
        "ext_ledger_no_brin": "a ledger without its BRIN indexes",
        "ext_ledger": "the ledger",
    }
    found = results["anatomy"]
    titles = {name: title for name, title in titles.items() if name in found}
    rows = [[title, rate(found[name]["lines"]), rate(found[name]["wal"])] for name, title in titles.items()]
    return table(["orders of 1,000 lines, 1 client, durable", "lines/s", "WAL bytes a line"], rows)


def growth_table(results):
    grown, rows = results["growth"], []
    for name, found in grown.items():
        kind = name.split("_")[0]
        small = grown[smallest(other for other in grown if other.startswith(kind))]
        times = spread(ratio(small["tps"], found["tps"])) if found is not small else "1"
        rows.append(
            [f"{names_of(name)} {kind}", rate(found["tps"]), times, rate(found["wal"]), f"{found['loaded_s']:,.0f}"]
        )
    return table(["size", "calls/s", "time a call, against the smallest", "WAL bytes a call", "seconds to load"], rows)


def day_table(results):
    found = results["day"]
    share = f"{found['pages_read'] / found['pages']:.2%}"
    cells = [f"{found[name]:,}" for name in ("rows", "pages", "pages_read")]
    head = ["movements of a day", "pages of the ledger", "pages read", "share", "ms"]
    return table(head, [[*cells, share, f"{found['ms']:,.0f}"]])


def audit_table(results):
    found = results["audit"]
    megabytes = [f"{found[name] / 2**20:.0f}" for name in ("memory_first", "memory_full")]
    rows = [
        ["a query by hand", spread(summary(found["by_hand"]), 1), "1", ""],
        ["an audit before anything was sealed", spread(summary(found["unsealed"]), 1),
         spread(ratio(found["unsealed"], found["by_hand"])), ""],
        ["a query by hand that compares hashes", spread(summary(found["by_hand_sealed"]), 1), "1", ""],
        ["a full audit, which compares seals", spread(summary(found["full"]), 1),
         spread(ratio(found["full"], found["by_hand_sealed"])), megabytes[1]],
        ["the first audit, which seals all", f"{found['first']:.1f}", "", megabytes[0]],
        ["an audit after 1,000 new movements", f"{found['incremental']:.2f}", "", ""],
    ]  # fmt: skip
    head = [f"{found['movements']:,} movements of {found['items']:,} items", "s", "against by hand", "MB of its own"]
    return table(head, rows)


def statistics_table(results):
    found = results["statistics"]
    rows = []
    for name, figures in found["one_client"].items():
        on, off = summary(figures["on"]), summary(figures["off"])
        cost = spread(summary(figures["cost"]), 3)
        rows.append([f"1 client, µs a call, {name}", spread(on, 1), spread(off, 1), cost])
    many = found["many_clients"]
    cost = spread(ratio(many["off"], many["on"]))
    rows.append(["64 clients, sales a second, ext_ledger", *(rate(many[way]) for way in ("on", "off")), cost])
    return table(["", "counted", "not counted", "cost"], rows)


def from_cold_table(results):
    rounds = results["statistics"]["from_cold"]
    head = ["64 durable clients, sales in second", *(str(second) for second in range(1, 8)), "against many items"]
    rows = []
    titles = {"off": "one item", "hot": "one item, auto_stripe = on", "uniform": "10,000 items"}
    for name, title in titles.items():
        seconds = [summary([figures[name][second] for figures in rounds])[0] for second in range(7)]
        shares = [settled(figures[name]) / settled(figures["uniform"]) for figures in rounds]
        rows.append([title, *(f"{sales:,.0f}" for sales in seconds), spread(summary(shares))])
    return table(head, rows)


def server_time_table(results):
    found = results["server_time"]
    rows = [
        [
            name.replace(", sql", ", write_path = sql"),
            spread(summary(figures), 1),
            spread(ratio(figures, found["handwritten"])) if name != "handwritten" else "1",
        ]
        for name, figures in found.items()
    ]
    return table(["server time of a call", "µs", "against handwritten"], rows)


def more_rounds(results):
    """The sales at one client may have had more rounds than the rest."""
    count = len(tps(results, "one_client", "async", "raw"))
    return f", {count} of the sales of one client" if count > results["rounds"] else ""


def again(results):
    """The parts that were measured later."""
    parts = results.get("again", {}).items()
    return "".join(f"; {part} at commit {later['commit']}, {later['date']}" for part, later in parts)


def machine_table(results):
    settings = ", ".join(f"{name} = {value}" for name, value in results["settings"].items())
    memory = f"{results['memory_gb']} GB; pgbench runs on the same cores"
    kind = "a quick run: rough figures; " if results["quick"] else ""
    rows = [
        ["machine", f"{results['cpu']}, {results['cores']} cores, {memory}"],
        ["disk", f"a page is durable after {results['fsync_ms']} ms (median); kernel {results['kernel']}"],
        ["server", results["postgresql"]],
        ["settings", f"{settings}; for growth shared_buffers = {results['growth_shared_buffers']}"],
        ["inventory_ext", f"{results['extension']}, commit {results['commit']}, {results['date']}{again(results)}"],
        [
            "rounds",
            f"{kind}{results['rounds']} rounds{more_rounds(results)}, interleaved, of {results['slice_s']} s and a "
            "first second that is left out",
        ],
    ]
    return table(["measured on", ""], rows).replace("---:", "---")


def first_calls_table(results):
    rows = [[name, spread(summary(took), 1)] for name, took in results["first_calls"].items()]
    return table(["the first call of a session", "ms"], rows)


def triggers_table(results):
    found = results["triggers"]
    rows = [
        [f"{int(size):,}", *(spread(summary(figures[name]), 0) for name in TRIGGERS)] for size, figures in found.items()
    ]
    return table(["lines an order", *(f"{title}, lines/s" for title in TRIGGERS.values())], rows)


def tables_table(results):
    """A table of a database with one stock table, and the last of many."""
    found = results["tables"]
    one, many = found["1"], next(figures for count, figures in found.items() if count != "1")
    count = next(count for count in found if count != "1")
    rows = [
        ["first call of a session, ms", spread(summary(one["first_ms"]), 1), spread(summary(many["first_ms"]), 1)],
        ["sales a second, one client", rate(one["tps"]), rate(many["tps"])],
    ]
    ratios = [spread(ratio(many["first_ms"], one["first_ms"])), spread(ratio(many["tps"], one["tps"]))]
    head = ["", "the only table", f"the last of {int(count):,}", "ratio"]
    return table(head, [[*row, found] for row, found in zip(rows, ratios)])


TABLES = {
    "server_time": server_time_table,
    "audit": audit_table,
    "statistics": statistics_table,
    "from-cold": from_cold_table,
    "day": day_table,
    "tables": tables_table,
    "first_calls": first_calls_table,
    "triggers": triggers_table,
    "machine": machine_table,
    "targets": targets,
    "sales": sales_table,
    "ratios": ratios_table,
    "refusals": refusals_table,
    "orders": orders_table,
    "durable": durable_table,
    "anatomy": anatomy_table,
    "growth": growth_table,
}


# What a run of some parts may not have.
NEEDS = {
    "audit": ["audit"],
    "statistics": ["statistics"],
    "from-cold": ["statistics"],
    "triggers": ["triggers"],
    "day": ["day"],
    "server_time": ["server_time"],
}


def tables(results):
    """A quick run leaves the triggers out."""
    return {name: make(results) for name, make in TABLES.items() if results.keys() >= set(NEEDS.get(name, ()))}


def rendered(text, results):
    """The page with every table made anew."""

    def one(found):
        name, version = found[1].rsplit("-", 1)
        is_measured = version in results and results[version].keys() >= set(NEEDS.get(name, ()))
        body = TABLES[name](results[version]) if is_measured else "Not measured yet."
        return f"<!-- table:{found[1]} -->\n{body}\n<!-- /table -->"

    return re.sub(r"<!-- table:(\S+) -->\n.*?<!-- /table -->", one, text, flags=re.S)


def ratio_bars(results):
    """{label: {pair: (median, least, greatest)}} of the chart of sales."""
    return {
        f"{TITLES[workload]}, {commit}": {
            f"{one} / {other}": ratio(tps(results, workload, commit, one), tps(results, workload, commit, other))
            for one, other in PAIRS
        }
        for workload, commits in results["sales"].items()
        for commit in commits
    }


def order_bars(results):
    return {
        f"{int(size):,} lines": {
            f"ext_ledger / {what}": ratio(figures["ext_ledger"], figures[other])
            for other, what in (("calls", "single calls"), ("twin", "twin"))
        }
        for size, figures in results["orders"].items()
    }


def server_bars(results):
    """{label: {bar: (median, least, greatest)}} in microseconds."""
    found = results["server_time"]
    rows = {
        "without a ledger": {"by hand": "handwritten", "inventory_ext": "ext_plain"},
        "the same guarantees": {"by hand": "twin_plain", "inventory_ext": "ext_plain"},
        "with a ledger": {"by hand": "twin", "inventory_ext": "ext_ledger"},
    }
    return {label: {name: summary(found[way]) for name, way in bars.items()} for label, bars in rows.items()}


CHART_KINDS = {
    "server_time": (server_bars, "microseconds a sale takes in the server"),
    "sales": (ratio_bars, "sales a second, times the other's"),
    "orders": (order_bars, "lines a second, times the other's"),
}


def charts(results):
    """{file: (bars, title, digest of the bars)}; the digest stands in the file, so that an old chart is noticed."""
    found = {}
    for version, figures in results.items():
        for kind, (bars_of, title) in CHART_KINDS.items():
            if not figures.keys() >= set(NEEDS.get(kind, ())):
                continue
            bars = bars_of(figures)
            digest = hashlib.sha256(json.dumps(bars, sort_keys=True).encode()).hexdigest()
            found[CHARTS / f"{kind}-pg{version}.svg"] = bars, f"PostgreSQL {version}: {title}", digest
    return found


def draw(path, bars, title, digest):
    import matplotlib

    matplotlib.use("svg")
    # a grey that can be read on white and on black, on no background of its own; the same figures give the same file
    grey = "#7d8590"
    matplotlib.rcParams.update({"svg.hashsalt": "inventory_ext", "text.color": grey, "axes.labelcolor": grey})
    matplotlib.rcParams.update({"xtick.color": grey, "ytick.color": grey, "axes.edgecolor": grey})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 0.52 * len(bars) + 1.3))
    names = list(next(iter(bars.values())))
    for place, (name, color) in enumerate(zip(names, ("#3f7fd0", "#d9822b"))):
        found = [row[name] for row in bars.values()]
        errors = [[m - least for m, least, _ in found], [greatest - m for m, _, greatest in found]]
        heights = [number + 0.38 * place for number in range(len(bars))]
        axes.barh(heights, [m for m, _, _ in found], 0.36, xerr=errors, color=color, ecolor=grey, label=name)
    if "times" in title:
        axes.axvline(1, color=grey, linewidth=1)
    axes.set_yticks([number + 0.19 for number in range(len(bars))], list(bars))
    axes.invert_yaxis()
    axes.set_xlabel(f"{title} (median; least and greatest of the rounds)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=2)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(
        path, transparent=True, bbox_inches="tight", metadata={"Date": None, "Description": f"figures {digest}"}
    )
    pyplot.close(figure)


def publish():
    results = load()
    PAGE.write_text(rendered(PAGE.read_text(), results))
    for path, (bars, title, digest) in charts(results).items():
        draw(path, bars, title, digest)


if __name__ == "__main__":
    publish()
    print(f"{PAGE.relative_to(ROOT)} and {CHARTS.relative_to(ROOT)}: made from {RESULTS.relative_to(ROOT)}")
