"""The whole API as a plain model: decimals, dicts, and the rules of the manual, without a database.

`Model.call` says what a call must answer or how it must be refused, and keeps stock, movements and idempotency keys as
the server should. Numbers keep their decimals as PostgreSQL's do, because 28 digits are counted as they are written.
The order of the checks is part of the contract: arguments, then the key, then what the column keeps, then the items.
"""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field
from decimal import Decimal, localcontext

# type: (decimals kept, digits before the point; None for any, decimals stored; None for those of the number)
COLUMNS = {
    "smallint": (0, None, 0),
    "integer": (0, None, 0),
    "bigint": (0, None, 0),
    "numeric": (28, None, None),
    "numeric(12,2)": (2, 10, 2),
    "numeric(6,3)": (3, 3, 3),
    "numeric(4,-2)": (-2, 6, 0),
    "numeric(2,4)": (4, -2, 4),
}
GREATEST = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
MAX_DIGITS = 28


@dataclass(frozen=True)
class Refused(Exception):
    sqlstate: str
    reason: str
    facts: dict = field(default_factory=dict)


def plain(value: Decimal) -> Decimal:
    """As PostgreSQL holds a numeric: no positive exponent."""
    return value.quantize(Decimal(1)) if value.is_finite() and value.as_tuple().exponent > 0 else value


def decimals(value: Decimal) -> int:
    return -plain(value).as_tuple().exponent


def digits(value: Decimal) -> int:
    """Digits as written, without zeros before the first: those of 1.50 are three."""
    _, coefficient, exponent = plain(value).as_tuple()
    whole_digits = max(len(coefficient) + exponent, 0) if any(coefficient) else 0
    return whole_digits - exponent


def plus(one: Decimal, other: Decimal) -> Decimal | None:
    """The sum; None where it has more digits than a quantity keeps, the zeros at its end not counted."""
    one, other = one.normalize(), other.normalize()
    scale = max(decimals(one), decimals(other))
    total = plain(one) + plain(other)
    return None if abs(total).scaleb(scale) >= Decimal(10) ** MAX_DIGITS else total


def quantity(value, argument, *, least=1):
    """Reads an argument: more than nothing, or at `least` 0 no less than nothing."""
    if value is None:
        raise Refused("22004", "null_argument", {"argument": argument})
    if not value.is_finite():
        raise Refused("22023", "not_finite", {"argument": argument})
    if digits(value) > MAX_DIGITS:
        raise Refused("22003", "too_many_digits", {"argument": argument})
    if value < 0 or (least and value == 0):
        raise Refused("22023", "not_positive" if least else "negative", {"argument": argument})
    return plain(value)


def given(value, argument):
    if value is None:
        raise Refused("22004", "null_argument", {"argument": argument})
    return value


class Model:
    def __init__(self, type, stock):
        self.type = type
        self.kept, self.places, self.stored = COLUMNS[type]
        self.keys = {}  # key: (function, arguments, answer)
        self.chains = defaultdict(list)  # item: [(kind, old, new, reference, key)]
        self.stock = {}
        for key, units in stock.items():
            self.insert(key, units)

    def copy(self):
        return deepcopy(self)

    def as_stored(self, value):
        return plain(value) if self.stored is None else value.quantize(Decimal(1).scaleb(-self.stored))

    def misfit(self, value):
        """Why the column cannot keep the value, or None."""
        if value and -value.normalize().as_tuple().exponent > self.kept:
            return "too_many_decimals"
        too_great = value > GREATEST.get(self.type, value)
        if too_great or (self.places is not None and value >= Decimal(10) ** self.places):
            return "too_many_digits"
        return None

    def require_fit(self, value, argument, **facts):
        reason = self.misfit(value)
        if reason:
            raise Refused("22003", reason, {"argument": argument, **facts})

    # What is done to the stock outside of the API.

    def move(self, key, kind, new, reference=None, idempotency_key=None):
        old, new = self.stock.get(key, Decimal(0)), self.as_stored(new)
        self.chains[key].append((kind, old, new, reference, idempotency_key))
        self.stock[key] = new
        return old, new

    def insert(self, key, units):
        self.move(key, "opening", units)

    def write(self, key, units):
        if key in self.stock and self.stock[key] != units:
            self.move(key, "external", units)
        elif key in self.stock:
            self.stock[key] = self.as_stored(units)

    def delete(self, key):
        self.move(key, "closing", Decimal(0))
        del self.stock[key]

    def catch_up(self):
        """What an attach finds where the ledger says something else than the stock."""
        for key in self.stock.keys() | self.chains.keys():
            kind, _, last, *_ = self.chains[key][-1] if self.chains[key] else ("closing", None, Decimal(0))
            now = self.stock.get(key)
            if now is None and kind != "closing":
                self.chains[key].append(("closing", last, Decimal(0), None, None))
            elif now is not None and kind == "closing":
                self.chains[key].append(("opening", Decimal(0), now, None, None))
            elif now is not None and now != last:
                self.chains[key].append(("external", last, now, None, None))

    # The API.

    def call(self, function, arguments):
        """The answer, after doing it; or raises Refused and leaves the model as it was."""
        with localcontext() as context:
            context.prec = 100
            key = arguments.get("p_idempotency_key")
            reference = arguments.get("p_reference", arguments.get("p_reason"))
            request, act = getattr(self, function)(**{k: v for k, v in arguments.items() if k != "p_idempotency_key"})
            if key is not None and key in self.keys:
                used_by, said, answer = self.keys[key]
                if (used_by, said) != (function, request):
                    raise Refused("IV003", "key_reused", {"used_by": used_by})
                return answer | {"replayed": True}
            answer, changes = act()
            for item, kind, new in changes:
                self.move(item, kind, new, reference, key)
            if key is not None:
                self.keys[key] = (function, request, answer)
            return answer

    def known(self, key):
        if key not in self.stock:
            raise Refused("IV002", "unknown_item", {"inventory_id": str(key)})
        return self.stock[key]

    def changed(self, key, delta):
        """The new quantity, where column and quantity can hold it."""
        new = plus(self.stock[key], delta)
        if new is None or (new > self.stock[key] and self.misfit(new)):
            raise Refused("22003", "overflow", {"inventory_id": str(key)})
        return self.as_stored(new)

    def decrement_inventory(self, p_inventory_id, p_quantity):
        key = given(p_inventory_id, "p_inventory_id")
        wanted = quantity(p_quantity, "p_quantity")

        def act():
            self.require_fit(wanted, "p_quantity")
            old = self.known(key)
            if old < wanted:
                raise Refused("IV001", "insufficient", {"available": old, "requested": wanted})
            new = self.changed(key, -wanted)
            return self.side(key, old, new, deducted=wanted), [(key, "sale", new)]

        return (key, wanted), act

    @staticmethod
    def side(key, old, new, **more):
        return {"success": True, "inventory_id": str(key), "old_quantity": old, "new_quantity": new, **more}

    def restock_inventory(self, p_inventory_id, p_quantity, p_reference):
        key = given(p_inventory_id, "p_inventory_id")
        added = quantity(p_quantity, "p_quantity")

        def act():
            self.require_fit(added, "p_quantity")
            old, new = self.known(key), self.changed(key, added)
            return self.side(key, old, new, added=added), [(key, "restock", new)]

        return (key, added, p_reference), act

    def adjust_inventory(self, p_inventory_id, p_counted_quantity, p_expected_quantity, p_reason):
        key = given(p_inventory_id, "p_inventory_id")
        counted = quantity(p_counted_quantity, "p_counted_quantity", least=0)
        expected = p_expected_quantity
        if expected is not None:
            expected = quantity(expected, "p_expected_quantity", least=0)

        def act():
            self.require_fit(counted, "p_counted_quantity")
            old = self.known(key)
            if expected is not None and expected != old:
                raise Refused("IV005", "stale", {"expected": expected, "found": old})
            delta = plus(counted, -old)
            if delta is None:
                raise Refused("22003", "overflow", {"inventory_id": str(key)})
            new = old if counted == old else self.changed(key, delta)
            return self.side(key, old, new, adjusted=delta), [(key, "adjustment", new)] if new != old else []

        return (key, counted, expected, p_reason), act

    def transfer_inventory(self, p_from, p_to, p_quantity, p_reference):
        source, target = given(p_from, "p_from"), given(p_to, "p_to")
        moved = quantity(p_quantity, "p_quantity")
        if source == target:
            raise Refused("22023", "same_item", {"inventory_id": str(source)})

        def act():
            self.require_fit(moved, "p_quantity")
            available, other = self.known(source), self.known(target)
            if available < moved:
                raise Refused("IV001", "insufficient", {"available": available, "requested": moved})
            grown, left = self.changed(target, moved), self.changed(source, -moved)
            sides = [
                {"inventory_id": str(key), "old_quantity": old, "new_quantity": new}
                for key, old, new in ((source, available, left), (target, other, grown))
            ]
            answer = {"success": True, "from": sides[0], "to": sides[1], "transferred": moved}
            return answer, [(source, "transfer", left), (target, "transfer", grown)]

        return (source, target, moved, p_reference), act

    def decrement_inventory_batch(self, p_items, p_reference, p_on_shortage):
        if not p_items:
            raise Refused("22023", "no_lines")
        sums, first = {}, {}
        for element, (key, units) in enumerate(p_items):
            where = {"element": element}
            if key is None:
                raise Refused("22023", "no_inventory_id", where)
            if units is None:
                raise Refused("22023", "no_quantity", where)
            try:
                units = quantity(units, "p_items")
            except Refused as refusal:
                raise Refused(refusal.sqlstate, refusal.reason, where) from None
            total = plus(sums[key], units) if key in sums else units
            if total is None:
                raise Refused("22003", "too_many_digits", where)
            sums[key] = total
            first.setdefault(key, element)
        request = (frozenset(sums.items()), p_reference, p_on_shortage)
        return request, lambda: self.order(sums, first, p_on_shortage)

    def order(self, sums, first, on_shortage):
        for key, wanted in sums.items():
            self.require_fit(wanted, "p_items", element=first[key])
        lines, short, changes = [], [], []
        for key, wanted in sums.items():
            old = self.stock.get(key)
            if old is None:
                short.append({"reason": "unknown_item", "inventory_id": str(key), "requested": wanted})
                continue
            taken = wanted if old >= wanted else old if on_shortage == "partial" else Decimal(0)
            if taken < wanted:
                short.append({"reason": "insufficient", "inventory_id": str(key), "available": old,
                              "requested": wanted, "deducted": taken})  # fmt: skip
            if taken:
                changes.append((key, old, taken))
        if on_shortage == "abort" and short:
            named = [{name: value for name, value in line.items() if name != "deducted"} for line in short]
            sqlstate = "IV001" if any(line["reason"] == "insufficient" for line in short) else "IV002"
            raise Refused(sqlstate, "short_lines", {"lines": named})
        moves = []
        for key, old, taken in changes:
            new = self.changed(key, -taken)
            lines.append({"inventory_id": str(key), "old_quantity": old, "new_quantity": new, "deducted": taken})
            moves.append((key, "sale", new))
        return {"success": True, "lines": lines, "short": short}, moves
