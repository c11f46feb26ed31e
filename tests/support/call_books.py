"""The books of many calls: what the ledger says beside what each call returned.

Every statement has a reference of its own, so that each movement of the ledger belongs to one `Entry`: what the
statement returned, how much each item must have changed, and by whom. The `Accountant` reads the ledger in the order of
its numbers and checks every chain on the way; `differences` compares it with the entries; `against_stock` with the
stock and the stripes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from shop import exact_json

MAX_PROBLEMS = 20
INTERNAL = "transfer"  # what moves between an item and its stripes, too
SETTING_UP = ("opening", INTERNAL)  # attach, and the first items that were striped


class Change(NamedTuple):
    """A movement as a call reports it. The kind `counted`, of a striped item, has the figures of the whole item."""

    kind: str
    item: str
    stripe: int | None
    old: Decimal
    new: Decimal


class Movement(NamedTuple):
    change: Change
    key: str | None
    actor: str
    total: Decimal  # of the item with all of its stripes, after the movement


@dataclass
class Entry:
    """What is known of one reference. `net` is None where only the reported changes are known."""

    changes: list[Change] = field(default_factory=list)
    net: Counter | None = None
    key: str | None = None
    actor: str | None = None


def changes_in(function: str, returned: dict) -> list[Change]:
    """The movements that a returned result speaks of."""

    def change(kind, part):
        stripe = part.get("stripe")
        return Change(kind, part["inventory_id"], stripe and int(stripe), part["old_quantity"], part["new_quantity"])

    match function:
        case "decrement_inventory":
            return [change("sale", returned)]
        case "decrement_inventory_batch":
            return [change("sale", line) for line in returned["lines"]]
        case "restock_inventory":
            return [change("restock", returned)]
        case "transfer_inventory":
            return [change("transfer", returned["from"]), change("transfer", returned["to"])]
        case "adjust_inventory":
            kind = "counted" if "stripe" in returned else "adjustment"
            return [change(kind, returned)] if returned["adjusted"] else []
    return []


class Accountant:
    """Reads the ledger of a shop at rest, each movement once."""

    def __init__(self, conn, table="public.inventory"):
        self.conn = conn
        self.table = table
        self.last = 0
        self.ends = defaultdict(Decimal)  # (item, stripe): where the chain ends
        self.totals = defaultdict(Decimal)
        self.problems = []

    def problem(self, text):
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)

    def read(self) -> dict[str | None, list[Movement]]:
        """The movements since the last reading, by reference."""
        found = defaultdict(list)
        with self.conn.transaction(), self.conn.cursor("movements") as cursor:
            cursor.itersize = 20_000
            cursor.execute(
                "SELECT movement_id, reference, kind, inventory_id::text, stripe, old_quantity, new_quantity, delta,"
                f" idempotency_key, actor FROM {self.table}_movement WHERE movement_id > %s ORDER BY movement_id",
                (self.last,),
            )
            for number, reference, kind, item, stripe, old, new, delta, key, actor in cursor:
                self.last = number
                self.check_chain(number, Change(kind, item, stripe, old, new), delta)
                self.totals[item] += delta
                found[reference].append(Movement(Change(kind, item, stripe, old, new), key, actor, self.totals[item]))
        return found

    def check_chain(self, number, change, delta):
        end = self.ends[change.item, change.stripe]
        if change.old != end:
            self.problem(f"movement {number} {change} begins where its chain has not ended: at {end}")
        if delta != change.new - change.old or min(change.old, change.new) < 0:
            self.problem(f"movement {number} {change} is negative or has a wrong delta: {delta}")
        self.ends[change.item, change.stripe] = change.new

    def against_stock(self):
        """Stock and stripes hold what the chains end at."""
        stock = dict(self.conn.execute(f"SELECT id::text, quantity::numeric FROM {self.table}").fetchall())
        stripes = self.conn.execute(f"SELECT inventory_id::text, stripe, quantity FROM {self.table}_stripe").fetchall()
        striped = {item for item, _, _ in stripes}
        held = {(item, stripe): quantity for item, stripe, quantity in stripes}
        whole = {(item, None): quantity for item, quantity in stock.items() if item not in striped}
        there = held | whole
        for place in there.keys() | self.ends.keys():
            there_now, end = there.get(place, Decimal(0)), self.ends.get(place, Decimal(0))
            if there_now != end or there_now < 0:
                self.problem(f"{place} has {there_now}, its chain ends at {end}")
        for item in striped - stock.keys():
            self.problem(f"{item} has stripes and no row")

    def totals_behind(self) -> list:
        """Striped items whose row does not show the sum of its stripes."""
        return self.conn.execute(
            f"SELECT id::text, stock.quantity, sum(s.quantity) FROM {self.table} AS stock JOIN {self.table}_stripe AS s"
            " ON s.inventory_id = stock.id GROUP BY id, stock.quantity HAVING stock.quantity <> sum(s.quantity)"
        ).fetchall()


def differences(ledger: dict[str | None, list[Movement]], entries: dict[str, Entry]) -> list[str]:
    """Where the ledger and what was returned disagree, each as a sentence."""
    problems = []
    for reference in ledger.keys() | entries.keys():
        entry, movements = entries.get(reference), ledger.get(reference, [])
        if entry is not None:
            problems += [f"{reference}: {problem}" for problem in compare(entry, movements)]
        elif reference is not None or any(movement.change.kind not in SETTING_UP for movement in movements):
            problems.append(f"{reference}: undone or refused, yet recorded: {movements[:4]}")
    return problems


def compare(entry: Entry, movements: list[Movement]) -> list[str]:
    problems = []
    for movement in movements:
        if movement.key != entry.key:
            problems.append(f"recorded with the key {movement.key}, not {entry.key}")
        if entry.actor is not None and movement.actor != entry.actor:
            problems.append(f"recorded for {movement.actor}, not {entry.actor}")
    rest = list(movements)
    for change in entry.changes:
        found = next((movement for movement in rest if is_that(change, movement)), None)
        if found is None:
            problems.append(f"returned {change}, recorded {[m.change for m in movements][:6]}")
        else:
            rest.remove(found)
    moved = Counter()
    for change in (movement.change for movement in (rest if entry.net is None else movements)):
        moved[change.item] += change.new - change.old
        if entry.net is None and change.kind != INTERNAL:
            problems.append(f"recorded {change}, which was never returned: {entry.changes[:6]}")
    wanted = entry.net or Counter()
    if any(moved[item] != wanted[item] for item in moved.keys() | wanted.keys()):
        problems.append(f"changed {dict(moved)} in all, not {dict(wanted)}: {[m.change for m in movements][:8]}")
    return problems


def is_that(change: Change, movement: Movement) -> bool:
    if change.kind != "counted":
        return change == movement.change
    kind, item, _, old, new = movement.change
    return (kind, item, new - old, movement.total) == ("adjustment", change.item, change.new - change.old, change.new)


def returned_result(text: str) -> dict:
    return exact_json(text)
