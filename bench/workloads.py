"""What is measured: workloads as data, and the pgbench scripts that make them."""

from collections import Counter
from dataclasses import dataclass

from bench import shops
from demo.replay import load_sales

ASYNC = {"synchronous_commit": "off"}
SYNC = {"synchronous_commit": "on"}
# A commit that takes a millisecond more, as on a disk or a replica that is slower than this one.
SYNC_1MS = {"synchronous_commit": "on", "commit_delay": "1000", "commit_siblings": "0"}
COMMITS = {"async": ASYNC, "sync": SYNC, "sync_1ms": SYNC_1MS}


@dataclass(frozen=True)
class Workload:
    name: str
    clients: int
    title: str
    commits: tuple[str, ...]
    quick: tuple[str, ...] = ()
    more_rounds: int = 0  # where what is compared lies close together

    @property
    def is_hot(self):
        return self.name.startswith("hot")


WORKLOADS = [
    Workload("one_client", 1, "1 client, 10,000 items", ("async", "sync"), ("async",), 2),
    Workload("uniform_8", 8, "8 clients, 10,000 items", ("async",)),
    Workload("uniform_64", 64, "64 clients, 10,000 items", ("async", "sync", "sync_1ms"), ("sync",)),
    Workload("hot_8", 8, "8 clients, one item", ("async",)),
    Workload("hot_64", 64, "64 clients, one item", ("async", "sync", "sync_1ms"), ("sync",)),
    Workload("cdnow_64", 64, "64 clients, the skew of real sales", ("async", "sync")),
]


@dataclass(frozen=True)
class Size:
    """How much is measured; the quick run is for seeing that all works, its figures are rough."""

    seconds: int = 2
    rounds: int = 3
    lines: tuple[int, ...] = (1, 10, 100, 1000)
    durable_lines: tuple[int, ...] = (1, 10, 100, 1000, 8000)
    many_items: int = 10_000_000
    movements: int = 20_000_000
    audited: int = 10_000_000


FULL = Size()
QUICK = Size(
    seconds=1, rounds=2, lines=(10, 1000), durable_lines=(1000,), many_items=300_000, movements=500_000, audited=200_000
)  # fmt: skip


def scripts(pgbench, contender, workload):
    """The scripts of a workload for one contender, as pgbench takes them (file@weight)."""
    if workload.name.startswith("cdnow"):
        return cdnow_scripts(pgbench, contender)
    number = shops.HOT if workload.is_hot or contender == "striped" else ":n"
    draw = "" if number == shops.HOT else f"\\set n random(1, {shops.ITEMS})\n"
    kind = "hot" if number == shops.HOT else "uniform"
    return [pgbench.script(f"{contender}-{kind}.sql", f"{draw}{shops.call(contender, number)};\n")]


def cdnow_scripts(pgbench, contender):
    """Draws items as often as the real sales do. One script, since pgbench prepares every script in every session."""
    sold = Counter(sale.product for sale in load_sales()).most_common()
    begins = [(0, 1)]  # (first draw, item)
    for number, (_, count) in enumerate(sold[:-1], start=2):
        begins.append((begins[-1][0] + count, number))
    total = sum(count for _, count in sold)
    text = f"\\set r random(0, {total - 1})\n\\set n {nested(begins)}\n{shops.call(contender, ':n')};\n"
    return [pgbench.script(f"{contender}-cdnow.sql", text)]


def nested(begins):
    """The item of a draw, as pgbench computes it: halves of halves, since pgbench has no tables."""
    if len(begins) == 1:
        return str(begins[0][1])
    middle = len(begins) // 2
    return f"case when :r < {begins[middle][0]} then {nested(begins[:middle])} else {nested(begins[middle:])} end"
