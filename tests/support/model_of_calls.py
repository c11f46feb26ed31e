"""Random calls, and the statements in which an application could make them.

`Author` writes statements: one call, several calls in one select list, calls for the rows of a join with duplicates,
LATERAL, calls in an UPDATE, MERGE or SELECT FOR UPDATE of another table that PostgreSQL evaluates twice when a row
changed meanwhile, calls inside a direct write to the stock table, and direct writes alone. A statement knows which call
each of its columns returns, and what each evaluation must change, so that the books can be checked exactly
(call_books.py).
"""

from __future__ import annotations

import itertools
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from call_books import Change


def item(number: int) -> str:
    return str(uuid.UUID(int=(0x4000 << 64) | (0x8 << 60) | number))


PLAIN = [item(n) for n in range(1, 40, 3)]  # written directly, never striped
MIXED = [item(n) for n in range(2, 40, 3)]  # striped and unstriped at any time
COMING = [item(n) for n in range(3, 12, 3)]  # inserted and deleted
UNKNOWN = item(99)
SHARED_ROWS = range(1, 6)


@dataclass(frozen=True)
class World:
    """How the stock table of a run is made."""

    type: str
    step: Decimal  # quantities are multiples of it
    largest: Decimal  # what the column holds
    run_as: str
    foreign_key: bool
    trigger: bool
    partitioned: bool

    @classmethod
    def drawn(cls, rng):
        type, step, largest = rng.choice([
            ("smallint", "1", "32767"), ("integer", "1", "2147483647"), ("bigint", "1", "9223372036854775807"),
            ("numeric(6,2)", "0.25", "9999.99"), ("numeric(6,2)", "0.25", "9999.99"),
            ("numeric(14,3)", "0.125", "99999999999.999"),
            ("numeric", "0.001", "1000000000000"),
        ])  # fmt: skip
        return cls(
            type, Decimal(step), Decimal(largest), rng.choice(("owner", "owner", "caller")), rng.random() < 0.4,
            rng.random() < 0.3, rng.random() < 0.25,
        )  # fmt: skip

    def quantity(self, rng):
        return self.step * rng.choice((1, 1, 1, 2, 2, 3, 5, 8, 30))

    def delivery(self, rng):
        """Mostly what a few sales take; now and then so much that two of them do not fit."""
        large = rng.random() < 0.06
        return self.step * (int(self.largest / self.step * Decimal("0.6")) if large else rng.choice((5, 10, 20, 60)))


@dataclass(eq=False)
class Call:
    """One call. `net` is what it changes of each item if it succeeds, None where that depends on the stock."""

    function: str
    arguments: dict[str, str]  # as SQL
    net: Counter | None = None
    request: Request | None = None
    reference_by: str | None = None  # the argument that takes the reference

    def sql(self, reference=None, **columns) -> str:
        """The call as an expression. `reference` becomes an argument where there is one; columns replace arguments."""
        arguments = self.arguments | columns
        if reference and self.reference_by:
            arguments |= {self.reference_by: f"'{reference}'"}
        named = ", ".join(f"{name} => {value}" for name, value in arguments.items())
        return f"public.{self.function}({named})"

    def __str__(self):
        return self.sql()


@dataclass(eq=False)
class Request:
    """A call with a key, which any session may send, any number of times."""

    call: Call
    key: str
    reference: str
    returned: list[tuple[dict, str]] = field(default_factory=list)  # of committed transactions: result, actor
    first_may_be_dropped = False  # PostgreSQL may evaluate it twice, and return the second result only


class Requests:
    """All requests with a key of one run."""

    def __init__(self, rng):
        self.rng = rng
        self.all: list[Request] = []
        self.numbers = itertools.count(1)

    def new(self, call: Call) -> Request:
        number = next(self.numbers)
        request = Request(call, f"key-{number}", f"request-{number}")
        call.request = request
        self.all.append(request)
        return request

    def again(self, rng) -> Request | None:
        """Mostly one of the latest, which may be on its way in another session."""
        latest = self.all[-12:] if rng.random() < 0.8 else self.all[-500:]
        return rng.choice(latest) if latest else None


@dataclass
class Statement:
    """SQL that makes calls. `{reference}` in its text is the place of the reference."""

    form: str
    sql: str
    columns: list[Call] = field(default_factory=list)  # the call whose result each returned column is
    net: Counter | None = None  # of one evaluation; the statement is counted then
    direct: Callable | None = None  # gives the changes of a direct write, from its rows
    distinct: bool = True  # each row is an evaluation of its own
    lines: bool = False  # one text, a result in each line
    request: Request | None = None
    key_by_setting: bool = False
    altered: bool = False  # the key of another call, which must be refused

    @property
    def alone(self) -> Call | None:
        return self.columns[0] if self.form == "alone" else None


def literal(id_):
    return f"'{id_}'::pg_catalog.uuid"


def values(pairs, name="v"):
    rows = ", ".join(f"({literal(one)}, {units}::pg_catalog.numeric)" for one, units in pairs)
    return f"(VALUES {rows}) AS {name} (item, units)"


class Author:
    """Writes the calls and statements of one session."""

    def __init__(self, world: World, rng: random.Random, requests: Requests, session: int):
        self.world, self.rng, self.requests = world, rng, requests
        self.evaluated = f"public.evaluated_{session}"
        self.crowded = False  # onto the first items

    # Calls.

    def item(self, direct=False):
        chance = self.rng.random()
        if direct:
            return self.rng.choice(PLAIN)
        if chance < 0.01:
            return UNKNOWN
        if chance < 0.05:
            return self.rng.choice(COMING)
        pool = MIXED if chance < 0.6 else PLAIN
        return pool[int(len(pool) * self.rng.random() ** (3 if self.crowded else 1))]

    def call(self, stripes=0.02) -> Call:
        """Any of the functions; so often one that stripes or unstripes."""
        if self.rng.random() < stripes:
            return self.striping()
        makers = (self.sale, self.order, self.delivery, self.count, self.transfer, self.reading, self.purge)
        return self.rng.choices(makers, (34, 20, 20, 8, 14, 4, 1))[0]()

    def sale(self):
        one, units = self.item(), self.world.quantity(self.rng)
        arguments = {"p_inventory_id": literal(one), "p_quantity": str(units)}
        return Call("decrement_inventory", arguments, Counter({one: -units}))

    def delivery(self):
        one, units = self.item(), self.world.delivery(self.rng)
        arguments = {"p_inventory_id": literal(one), "p_quantity": str(units)}
        return Call("restock_inventory", arguments, Counter({one: units}), reference_by="p_reference")

    def count(self):
        arguments = {
            "p_inventory_id": literal(self.item()),
            "p_counted_quantity": str(self.world.step * self.rng.randrange(120)),
        }
        if self.rng.random() < 0.2:
            arguments["p_expected_quantity"] = str(self.world.step * self.rng.randrange(60))
        return Call("adjust_inventory", arguments, reference_by="p_reason")

    def transfer(self):
        source, target = self.item(), self.item()
        while source == target:
            target = self.item()
        units = self.world.quantity(self.rng)
        arguments = {"p_from": literal(source), "p_to": literal(target), "p_quantity": str(units)}
        return Call(
            "transfer_inventory", arguments, Counter({source: -units, target: units}), reference_by="p_reference"
        )

    def order(self):
        pairs = [(self.item(), self.world.quantity(self.rng)) for _ in range(self.rng.randint(1, 6))]
        word = self.rng.choice(("abort", "abort", "skip", "partial"))
        net = None
        if word == "abort":
            net = Counter()
            for one, units in pairs:
                net[one] -= units
        items = json.dumps([{"inventory_id": one, "quantity": str(units)} for one, units in pairs])
        arguments = {"p_items": f"'{items}'", "p_on_shortage": f"'{word}'"}
        return Call("decrement_inventory_batch", arguments, net, reference_by="p_reference")

    def reading(self):
        return Call("available_inventory", {"p_inventory_id": literal(self.item())}, Counter())

    def purge(self):
        """Of keys that are older than any here."""
        return Call("purge_requests", {"p_older_than": "'1 day'"}, Counter())

    def striping(self):
        arguments = {"p_inventory_id": literal(self.rng.choice(MIXED))}
        if self.rng.random() < 0.5:
            return Call("unstripe_inventory", arguments, Counter())
        stripes = self.rng.choice((2, 3, 4, 8, 16))
        return Call("stripe_inventory", arguments | {"p_stripes": str(stripes)}, Counter())

    def calls(self, least, most, **options):
        """Several, mostly in the order of their items, so that not all of them deadlock."""
        calls = [self.call(**options) for _ in range(self.rng.randint(least, most))]
        if self.rng.random() < 0.7:
            calls.sort(key=lambda call: min(call.net or {UNKNOWN}, default=UNKNOWN))
        if self.rng.random() < 0.3:  # two calls on one item, as an application repeats itself
            calls.append(self.rng.choice(calls))
        return calls

    def row_call(self) -> tuple[Call, dict[str, str]]:
        """A call of one item whose arguments come from the columns of v; its net change is not known beforehand."""
        makers = (self.sale, self.delivery, self.count, self.reading, self.striping)
        call = self.rng.choices(makers, (5, 3, 2, 1, 1))[0]()
        call.net = None
        columns = {"p_inventory_id": "v.item"}
        if call.function in ("decrement_inventory", "restock_inventory"):
            columns["p_quantity"] = "v.units"
        return call, columns

    def pairs(self, least=2, most=5, pool=None):
        """Items with quantities, some of them twice."""
        chosen = [(self.rng.choice(pool) if pool else self.item(), self.world.quantity(self.rng))
                  for _ in range(self.rng.randint(least, most))]  # fmt: skip
        if self.rng.random() < 0.5:
            chosen.append(self.rng.choice(chosen))
        return sorted(chosen) if self.rng.random() < 0.7 else chosen

    # Statements.

    def statement(self) -> Statement:
        forms = {
            self.single: 30, self.keyed: 10, self.side_by_side: 12, self.joined: 8, self.lateral: 4, self.common: 3,
            self.aggregate: 4, self.inserted: 3, self.first_row: 2, self.updates_shared: 10, self.updates_by_join: 3,
            self.locks_shared: 4, self.condition: 4, self.merges: 3, self.direct: 8, self.direct_with_call: 3,
        }  # fmt: skip
        return self.rng.choices(list(forms), list(forms.values()))[0]()

    def text(self, call: Call, **columns) -> str:
        """A call with its own reference if it has a key, else with that of the statement, by argument or by setting."""
        if call.request:
            return call.sql(call.request.reference, **columns)
        return call.sql("{reference}" if self.rng.random() < 0.5 else None, **columns)

    def single(self):
        call = self.call()
        return Statement("alone", f"SELECT {self.text(call)}::text", [call])

    def keyed(self, alter=0.15):
        """A request with a key, by argument or setting; perhaps one that was sent before, or one to be refused."""
        request = self.requests.again(self.rng) if self.rng.random() < 0.4 else None
        if request is None:
            call = self.rng.choice((self.sale, self.order, self.delivery, self.count, self.transfer))()
            request = self.requests.new(call)
        call, altered = request.call, bool(request.returned) and self.rng.random() < alter
        if altered:
            call = self.altered(call)
        by_setting = call.function in ("decrement_inventory", "adjust_inventory") or self.rng.random() < 0.3
        columns = {} if by_setting else {"p_idempotency_key": f"'{request.key}'"}
        sql = f"SELECT {call.sql(request.reference, **columns)}::text"
        if by_setting:
            settings = f"set_config('inventory_ext.idempotency_key', '{request.key}', true)"
            if self.rng.random() < 0.3:
                header = json.dumps({"idempotency-key": request.key})
                settings = f"set_config('request.headers', '{header}', true)"
                settings += " || set_config('inventory_ext.request_headers', 'on', true)"
            sql += f" FROM (SELECT {settings} OFFSET 0) AS setting (key) WHERE key IS NOT NULL"
        return Statement("alone", sql, [call], request=request, key_by_setting=by_setting, altered=altered)

    def altered(self, call):
        """The same call with another quantity, or another call."""
        name = next((name for name in ("p_quantity", "p_counted_quantity") if name in call.arguments), None)
        if name is None:
            return self.transfer()
        changed = str(Decimal(call.arguments[name]) + self.world.step)
        return Call(call.function, call.arguments | {name: changed}, reference_by=call.reference_by)

    def side_by_side(self):
        """Several calls in one select list, some with keys; some as sub-selects."""
        calls = self.calls(2, 4, stripes=0.06)
        for call in dict.fromkeys(calls):
            takes_key = call.function in ("decrement_inventory_batch", "restock_inventory", "transfer_inventory")
            if takes_key and self.rng.random() < 0.2:
                self.requests.new(call)
        texts = []
        for call in calls:
            columns = {"p_idempotency_key": f"'{call.request.key}'"} if call.request else {}
            text = f"{self.text(call, **columns)}::text"
            texts.append(f"(SELECT {text})" if self.rng.random() < 0.2 else text)
        return Statement("side by side", f"SELECT {', '.join(texts)}", calls)

    def joined(self):
        """Once for each row, rows that a join repeats included."""
        call, columns = self.row_call()
        pairs = self.pairs(pool=MIXED if call.function.endswith("stripe_inventory") else None)
        source = values(pairs)
        if self.rng.random() < 0.5:
            source += f" JOIN {values(pairs[:2] * 2, 'w')} ON w.item = v.item"
        return Statement("joined", f"SELECT {self.text(call, **columns)}::text FROM {source}", [call])

    def lateral(self):
        call, columns = self.row_call()
        other, other_columns = self.row_call()
        pool = MIXED if "stripe" in call.function + other.function else None
        sql = (
            f"SELECT a.result::text, b.result::text FROM {values(self.pairs(1, 3, pool))}, "
            f"LATERAL (SELECT {self.text(call, **columns)} OFFSET 0) AS a (result), "
            f"LATERAL {self.text(other, **other_columns)} AS b (result)"
        )
        return Statement("lateral", sql, [call, other])

    def common(self):
        """A common table expression is evaluated once, however many rows read it."""
        call, other = self.call(0.06), self.call(0.06)
        sql = (
            f"WITH a AS MATERIALIZED (SELECT {self.text(call)} AS result), "
            f"b AS (SELECT {self.text(other)} AS result FROM a) "
            "SELECT a.result::text, b.result::text FROM b, a, generate_series(1, 2)"
        )
        return Statement("common table expression", sql, [call, other], distinct=False)

    def aggregate(self):
        call, columns = self.row_call()
        pairs = self.pairs(pool=MIXED if call.function.endswith("stripe_inventory") else None)
        sql = f"SELECT string_agg({self.text(call, **columns)}::text, E'\\n') FROM {values(pairs)}"
        return Statement("aggregate", sql, [call], lines=True)

    def inserted(self):
        call, columns = self.row_call()
        pairs = self.pairs(pool=MIXED if call.function.endswith("stripe_inventory") else None)
        rows = f"SELECT {self.text(call, **columns)}::text FROM {values(pairs)}"
        sql = f"INSERT INTO public.kept (result) {rows} RETURNING result"
        return Statement("insert", sql, [call])

    def first_row(self):
        call, columns = self.row_call()
        pairs = self.pairs(pool=MIXED if call.function.endswith("stripe_inventory") else None)
        return Statement("limit", f"SELECT {self.text(call, **columns)}::text FROM {values(pairs)} LIMIT 1", [call])

    # Statements whose calls PostgreSQL may evaluate more than once: a sequence counts the evaluations.

    def counted_call(self):
        while True:
            call = self.call(0.06)
            if call.net is not None and UNKNOWN not in call.net:
                return call

    def shared_row(self):
        return self.rng.choice(SHARED_ROWS)

    def updates_shared(self):
        call, columns = self.counted_call(), {}
        if call.reference_by == "p_reference" and self.rng.random() < 0.2:
            request = self.requests.new(call)
            request.first_may_be_dropped = True
            columns = {"p_idempotency_key": f"'{request.key}'"}
        rows = f"= {self.shared_row()}" if self.rng.random() < 0.8 else f"IN ({self.shared_row()}, {self.shared_row()})"
        sql = (
            f"UPDATE public.shared SET n = n + 1, hits = nextval('{self.evaluated}'), "
            f"result = {self.text(call, **columns)}::text WHERE id {rows} RETURNING result"
        )
        return Statement("rechecked update", sql, [call], net=Counter() if call.request else call.net)

    def updates_by_join(self):
        """Two rows for each row of the target: PostgreSQL evaluates both and writes one."""
        call = self.counted_call()
        sql = (
            f"UPDATE public.shared AS s SET n = s.n + 1, hits = nextval('{self.evaluated}'), "
            f"result = {self.text(call)}::text "
            f"FROM (VALUES (1), (2)) AS twice (time) WHERE s.id = {self.shared_row()} RETURNING s.result"
        )
        return Statement("update by join", sql, [call], net=call.net)

    def locks_shared(self):
        call = self.counted_call()
        sql = (
            f"SELECT {self.text(call)}::text, nextval('{self.evaluated}') FROM public.shared "
            f"WHERE id = {self.shared_row()} FOR UPDATE"
        )
        return Statement("rechecked lock", sql, [call], net=call.net)

    def condition(self):
        call = self.counted_call()
        sql = (
            f"UPDATE public.shared SET n = n + 1 WHERE id = {self.shared_row()} AND nextval('{self.evaluated}') > 0 "
            f"AND {self.text(call)}::text <> ''"
        )
        return Statement("rechecked condition", sql, net=call.net)

    def merges(self):
        call = self.counted_call()
        sql = (
            f"MERGE INTO public.shared AS s USING (VALUES ({self.shared_row()})) AS v (id) ON s.id = v.id "
            f"WHEN MATCHED THEN UPDATE SET n = s.n + 1, hits = nextval('{self.evaluated}'), "
            f"result = {self.text(call)}::text"
        )
        return Statement("merge", sql, net=call.net)

    # Direct writes.

    def direct(self):
        one, units = self.item(direct=True), self.world.quantity(self.rng)
        match self.rng.randrange(8):
            case 0:
                coming = self.rng.choice(COMING)
                row = f"{literal(coming)}, {units}"
                sql = f"INSERT INTO public.inventory VALUES ({row}) ON CONFLICT DO NOTHING RETURNING quantity"
                return Statement(
                    "direct",
                    sql,
                    direct=lambda rows: [Change("opening", coming, None, Decimal(0), new) for (new,) in rows],
                )
            case 1:
                coming = self.rng.choice(COMING)
                sql = f"DELETE FROM public.inventory WHERE id = {literal(coming)} RETURNING quantity"
                return Statement(
                    "direct",
                    sql,
                    direct=lambda rows: [Change("closing", coming, None, old, Decimal(0)) for (old,) in rows],
                )
            case 2:
                where, delta = f"= ANY (ARRAY[{literal(one)}, {literal(self.item(direct=True))}])", units
            case 3:  # refused with striped_item where it is striped
                where, delta = f"= {literal(self.rng.choice(MIXED))}", units
            case 4 | 5:
                where, delta = f"= {literal(one)} AND quantity >= {units}", -units
            case _:
                where, delta = f"= {literal(one)}", units
        sql = (
            f"UPDATE public.inventory SET quantity = quantity + ({delta}) WHERE id {where} RETURNING id::text, quantity"
        )
        return Statement("direct", sql, direct=lambda rows: externals(rows, delta))

    def direct_with_call(self):
        """A call within a direct write to another row of the stock table."""
        one, delta = self.item(direct=True), self.world.quantity(self.rng)
        call = self.counted_call()
        while "stripe" in call.function or one in call.net:
            call = self.counted_call()
        sql = (
            f"UPDATE public.inventory SET quantity = quantity + {delta} WHERE id = {literal(one)} "
            f"AND nextval('{self.evaluated}') > 0 AND {self.text(call)}::text <> '' RETURNING id::text, quantity"
        )
        return Statement("direct with a call", sql, net=call.net, direct=lambda rows: externals(rows, delta))


def externals(rows, delta):
    return [Change("external", one, None, new - delta, Decimal(new)) for one, new in rows]
