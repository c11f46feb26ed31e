"""One session of a random run: its settings, its transactions, and the results of its calls.

Results are kept for the books when their transaction commits, and forgotten with the savepoint that takes them back.
Where a result can be checked at once it is: an item that this transaction holds, and every reading and refusal under
REPEATABLE READ and SERIALIZABLE, must agree with the ledger of the snapshot.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter, deque
from decimal import Decimal

import psycopg

from call_books import Entry, changes_in, returned_result
from model_of_calls import COMING, MIXED, PLAIN, UNKNOWN, Author, Request, Statement, literal
from shop import exact_json

TOLERATED = {"IV001", "IV002", "IV003", "IV005", "22003", "40001", "40P01", "55P03"}
BY_STYLE = {"insufficient": "IV001", "unknown_item": "IV002", "key_reused": "IV003", "stale": "IV005"}
READ_COMMITTED, STABLE = "read committed", ("repeatable read", "serializable")
SETTINGS = [
    ("inventory_ext.row_lock", "auto", "update", "no_key_update"),
    ("inventory_ext.error_style", "sqlstate", "postgrest"),
    ("inventory_ext.reference", "left by an earlier statement"),
    ("inventory_ext.actor", "", "clerk {number}", "J\u00fcrgen"),
    ("request.jwt.claims", "", '{"role": "anon", "sub": "customer {number}"}'),
    ("search_path", "public", "decoys, public", "decoys", "pg_temp, public", "public, pg_catalog", ""),
    ("default_transaction_isolation", READ_COMMITTED, READ_COMMITTED, *STABLE),
    ("lock_timeout", "0", "0", "2s", "100ms"),
    ("plan_cache_mode", "auto", "force_generic_plan", "force_custom_plan"),
    ("jit", "off"),
    ("enable_seqscan", "on", "off"),
    ("enable_indexscan", "on", "off"),
    ("enable_nestloop", "on", "off"),
    ("enable_hashjoin", "on", "off"),
    ("quote_all_identifiers", "on", "off"),
    ("DateStyle", "ISO", "German"),
    ("extra_float_digits", "-15", "1"),
]


class Wrong(AssertionError):
    """What must not happen."""


class Session(threading.Thread):
    def __init__(self, shop, number: int, conn, user: str):
        super().__init__(daemon=True)
        self.shop, self.number, self.conn, self.user = shop, number, conn, user
        self.rng = random.Random(f"{shop.seed} {number}")
        self.author = Author(shop.world, self.rng, shop.requests, number)
        self.statements = 0
        self.level = self.default_level = READ_COMMITTED
        self.inside = False  # a transaction block
        self.depth = 0  # of savepoints
        self.holds_table = False  # after an item was striped or unstriped
        self.altered = False  # the last statement used a key again, with other arguments
        self.actor = user
        self.pending = []  # (reference or request, Entry or (result, actor)) of the open transaction
        self.entries: dict[str, Entry] = {}
        self.counts = Counter()
        self.trace = deque(maxlen=40)
        self.failure = None

    def run(self):
        try:
            while not self.shop.over.is_set():
                self.turn()
        except BaseException as error:  # shown by the run
            self.failure = error
            self.shop.over.set()
        finally:
            self.conn.close()

    def turn(self):
        self.author.crowded = self.rng.random() < 0.3
        if self.rng.random() < 0.08:
            self.change_a_setting()
        if self.rng.random() < 0.3:
            self.level = self.default_level
            self.attempt(self.author.statement())
            self.keep()
        else:
            self.transaction()

    # Settings.

    def change_a_setting(self):
        name, *choices = self.rng.choice(SETTINGS)
        choice = self.rng.choice(choices).replace("{number}", str(self.number))
        self.execute("SELECT set_config(%s, %s, false)", (name, choice))
        if name == "default_transaction_isolation":
            self.default_level = choice
        if name in ("inventory_ext.actor", "request.jwt.claims"):
            sources = "SELECT current_setting('inventory_ext.actor', true), current_setting('request.jwt.claims', true)"
            actor, claims = self.execute(sources)[0]
            self.actor = actor or (claims and json.loads(claims)["sub"]) or self.user

    # Transactions.

    def transaction(self):
        self.level = self.rng.choice((READ_COMMITTED, READ_COMMITTED, *STABLE))
        self.execute(f"BEGIN ISOLATION LEVEL {self.level}")
        self.inside, self.holds_table = True, False
        try:
            self.block(self.rng.randint(1, 4))
            if self.rng.random() < 0.1:
                self.execute("ROLLBACK")
                self.pending.clear()
                self.counts["transactions rolled back"] += 1
            else:
                self.execute("COMMIT")
                self.keep()
        except psycopg.Error as error:
            self.tolerate(error)
            self.execute("ROLLBACK")
            self.pending.clear()
            self.counts["transactions failed"] += 1
        self.inside, self.depth = False, 0

    def block(self, steps):
        for _ in range(steps):
            if self.holds_table and self.rng.random() < 0.8:
                return  # all others wait
            act = self.rng.random()
            if act < 0.3:
                self.savepoint(lambda: self.block(self.rng.randint(1, 2)))
            elif act < 0.42:
                self.program()
            elif act < 0.46:
                self.cursor()
            elif act < 0.5:
                self.key_that_outlives_a_savepoint()
            elif act < 0.56 and self.level in STABLE:
                self.compare_with_the_snapshot(self.rng.choice(PLAIN + MIXED))
            elif act < 0.6 and self.shop.world.foreign_key:
                one = literal(self.rng.choice(PLAIN + MIXED))
                self.execute(f"INSERT INTO public.order_line VALUES ({one}, 1)")
            elif self.depth or self.rng.random() < 0.3:
                self.run_statement(self.author.statement())
            else:
                self.savepoint(lambda: self.run_statement(self.author.statement()))

    def savepoint(self, act):
        """Kept, taken back, or taken back because of an error."""
        self.depth += 1
        name, kept, depth = f"mark{self.depth}", len(self.pending), self.depth
        self.execute(f"SAVEPOINT {name}")
        try:
            act()
        except psycopg.Error as error:
            if self.conn.closed or self.conn.info.transaction_status != psycopg.pq.TransactionStatus.INERROR:
                raise
            label = self.tolerate(error)
            was_alone = has_one_call(self.last_statement()) and len(self.pending) == kept
            self.undo_to(name, kept)
            if self.level in STABLE and label in ("IV001", "IV005") and was_alone:
                self.check_refusal(error)
        else:
            if self.rng.random() < 0.25:
                self.undo_to(name, kept)
            else:
                self.execute(f"RELEASE {name}")
        self.depth = depth - 1

    def last_statement(self):
        """The text of the last statement, without what counts its evaluations."""
        return next(sql for _, sql in reversed(self.trace) if "last_value" not in sql)

    def undo_to(self, name, kept):
        self.execute(f"ROLLBACK TO {name}")
        del self.pending[kept:]
        self.counts["savepoints rolled back"] += 1
        if self.rng.random() < 0.5:
            self.execute(f"RELEASE {name}")

    def keep(self):
        for reference, known in self.pending:
            if isinstance(reference, Request):
                reference.returned.append(known)
            else:
                self.entries[reference] = known
        self.counts["calls and writes kept"] += len(self.pending)
        self.pending.clear()

    # Statements.

    def execute(self, sql, parameters=None):
        self.trace.append(
            (self.level if self.inside else "autocommit", sql if parameters is None else (sql, parameters))
        )
        return rows_of(self.conn.execute(sql, parameters))

    def execute_together(self, *statements):
        """Several statements in one message; gives the rows of each."""
        for sql in statements:
            self.trace.append((self.level if self.inside else "autocommit", sql))
        cursor = self.conn.execute("; ".join(statements))
        rows = [rows_of(cursor)]
        while cursor.nextset():
            rows.append(rows_of(cursor))
        return rows

    def attempt(self, statement: Statement):
        """A statement that is a transaction of its own."""
        try:
            self.run_statement(statement)
        except psycopg.Error as error:
            self.tolerate(error)
            self.pending.clear()

    def new_reference(self):
        self.statements += 1
        return f"{self.number}-{self.statements}"

    def set_config(self, name, value):
        """Within a transaction for this transaction, else for the session."""
        local = "true" if self.inside else "false"
        return f"SELECT set_config('inventory_ext.{name}', '{value}', {local})"

    def setting(self, name, value):
        self.execute(self.set_config(name, value))

    def run_statement(self, statement: Statement):
        request = statement.request
        reference = request.reference if request else self.new_reference()
        self.counts[statement.form] += 1
        self.altered = statement.altered
        together = [self.set_config("reference", reference), statement.sql.replace("{reference}", reference)]
        if statement.net is not None:  # a sequence, which does not roll back, counts the evaluations of this session
            evaluated = f"SELECT last_value - (NOT is_called)::int FROM {self.author.evaluated}"
            together = [evaluated, *together, evaluated]
        first, *others = self.execute_together(*together)
        rows = others[1] if statement.net is not None else others[0]
        evaluated = others[2][0][0] - first[0][0] if statement.net is not None else None
        self.require(not self.altered, f"a used key, other arguments, and a result: {rows}")
        if statement.key_by_setting and self.inside:
            self.execute_together(self.set_config("idempotency_key", ""), self.set_config("request_headers", "off"))
        if not statement.distinct:
            self.require(len(set(rows)) <= 1, f"one evaluation, several results: {rows}")
            rows = rows[:1]
        if statement.lines:
            rows = [(line,) for line in rows[0][0].splitlines()]
        entry = Entry(actor=self.actor)
        for row in rows:
            for call, text in zip(statement.columns, row):
                self.note(call, text, entry)
        self.count_evaluations(statement, entry, evaluated, rows)
        if not request:
            self.pending.append((reference, entry))
        if statement.alone and self.inside and rows:
            self.check_what_is_held(statement.alone, rows[0][0])

    def count_evaluations(self, statement, entry, evaluated, rows):
        direct = statement.direct(rows) if statement.direct else []
        entry.changes += direct
        if statement.net is None:
            return
        self.counts["evaluations"] += evaluated
        again = "evaluated for each row of a join" if statement.form == "update by join" else "evaluated again"
        self.counts[again] += max(evaluated - max(len(rows), 1), 0)
        entry.net = Counter({one: evaluated * delta for one, delta in statement.net.items()})
        for change in direct:
            entry.net[change.item] += change.new - change.old

    def note(self, call, text, entry):
        """Keeps a result for the books: of a request with a key, or of this statement."""
        self.counts[call.function] += 1
        if call.function == "available_inventory":
            self.require(Decimal(text) >= 0, f"{call}: {text}")
            return
        if call.function == "purge_requests":
            self.require(text == "0", f"{text} keys are purged")
            return
        result = returned_result(text)
        self.require(result["success"] is True, text)
        self.holds_table |= call.function.endswith("stripe_inventory")
        if call.request:
            self.counts["replayed"] += "replayed" in result
            self.pending.append((call.request, (result, self.actor)))
            return
        self.require("replayed" not in result, f"a call without a key is replayed: {call} {text}")
        entry.changes += changes_in(call.function, result)

    # PL/pgSQL, cursors, keys.

    def program(self):
        """Calls in nested exception blocks of PL/pgSQL, some of which end with an exception of their own."""
        program = self.steps(0)
        ((results,),) = self.execute("SELECT public.attempt(%s::jsonb)::text", (json.dumps(bare(program)),))
        self.counts["exception blocks"] += 1
        self.settle(program, json.loads(results))
        self.setting("reference", "")

    def steps(self, depth):
        steps = []
        for _ in range(self.rng.randint(1, 3)):
            undo = self.rng.random() < 0.25
            if depth < 2 and self.rng.random() < 0.35:
                steps.append({"block": self.steps(depth + 1), "undo": undo})
                continue
            keyed = self.rng.random() < 0.25
            statement = (
                self.author.keyed(alter=0) if keyed else self.rng.choice((self.author.single, self.author.aggregate))()
            )
            reference = statement.request.reference if statement.request else self.new_reference()
            sql = statement.sql.replace("{reference}", reference)
            step = {"sql": sql, "reference": reference, "undo": undo, "statement": statement}
            if (
                statement.form == "alone"
                and statement.alone.function == "decrement_inventory"
                and not statement.request
            ):
                sale = (
                    statement.alone.arguments
                )  # assigned without a statement: PL/pgSQL evaluates such expressions itself
                step |= {"item": sale["p_inventory_id"].split("'")[1], "units": sale["p_quantity"]}
            steps.append(step)
        return steps

    def settle(self, steps, results):
        self.require(len(steps) == len(results), f"{results}")
        for step, result in zip(steps, results):
            if "error" in result:
                self.counts[
                    "in exception blocks: " + self.judge(result["error"], result["detail"], result["message"])
                ] += 1
            elif "undone" in result:
                self.counts["exception blocks undone"] += 1
            elif "block" in step:
                self.settle(step["block"], result["block"])
            else:
                statement, entry = step["statement"], Entry(actor=self.actor)
                texts = result["result"].splitlines() if statement.lines else [result["result"]]
                for text in texts:
                    self.note(statement.columns[0], text, entry)
                if not statement.request:
                    self.pending.append((step["reference"], entry))

    def cursor(self):
        """One statement evaluated row by row, with other statements between its rows."""
        call, columns = self.author.row_call()
        pairs = self.author.pairs(2, 4, pool=MIXED if "stripe" in call.function else None)
        rows = ", ".join(f"({literal(one)}, {units}::numeric)" for one, units in pairs)
        reference, entry = self.new_reference(), Entry(actor=self.actor)
        query = f"SELECT {call.sql(**columns)}::text FROM (VALUES {rows}) AS v (item, units)"
        self.execute_together(self.set_config("reference", reference), f"DECLARE listed CURSOR FOR {query}")
        self.pending.append((reference, entry))
        self.counts["cursors"] += 1
        for _ in pairs[:3]:
            _, rows = self.execute_together(self.set_config("reference", reference), "FETCH 1 FROM listed")
            for (text,) in rows:
                self.note(call, text, entry)
            if self.rng.random() < 0.6:
                between = self.author.striping() if self.rng.random() < 0.5 else self.author.call()
                self.run_statement(Statement("alone", f"SELECT {between}::text", [between]))
        self.execute("CLOSE listed")

    def key_that_outlives_a_savepoint(self):
        """A key set once for the transaction: its call is undone, made again, and then replayed."""
        call = self.rng.choice((self.author.sale, self.author.count, self.author.delivery))()
        request = self.shop.requests.new(call)
        key, reference = (
            self.set_config("idempotency_key", request.key),
            self.set_config("reference", request.reference),
        )
        self.execute_together(key, reference, "SAVEPOINT key", f"SELECT {call.sql()}::text")
        self.execute("ROLLBACK TO key")
        for _ in range(2):
            ((text,),) = self.execute(f"SELECT {call.sql()}::text")
            self.note(call, text, Entry())
        self.setting("idempotency_key", "")
        self.counts["keys that outlive a savepoint"] += 1

    # What can be checked at once.

    def require(self, condition, text):
        if not condition:
            raise Wrong(text)

    def check_what_is_held(self, call, text):
        """An item whose row, or all of whose stripes, this transaction holds has what the call left."""
        if (
            call.function not in ("decrement_inventory", "restock_inventory", "adjust_inventory")
            or self.rng.random() < 0.6
        ):
            return
        result = returned_result(text)
        if "replayed" in result or ("stripe" in result and call.function != "adjust_inventory"):
            return
        ((available,),) = self.execute(f"SELECT public.available_inventory({literal(result['inventory_id'])})")
        self.require(available == result["new_quantity"], f"{available} are available after {text}")
        self.counts["held items looked at"] += 1

    def compare_with_the_snapshot(self, one):
        ((available, recorded),) = self.execute(
            f"SELECT public.available_inventory({literal(one)}), (SELECT coalesce(sum(delta), 0)"
            f" FROM public.inventory_movement WHERE inventory_id = {literal(one)})"
        )
        self.require(
            available == recorded, f"{available} of {one} are available, by the ledger of the snapshot {recorded}"
        )
        self.counts["readings compared with the snapshot"] += 1

    def check_refusal(self, error):
        """The figures of a refusal are those of the snapshot, after the statement that was refused is taken back."""
        facts = exact_json(error.diag.message_detail)
        for line in facts.get("lines", [facts]):
            if line.get("reason") not in ("insufficient", "stale"):
                continue
            one = literal(line["inventory_id"])
            sums = f"SELECT coalesce(sum(delta), 0) FROM public.inventory_movement WHERE inventory_id = {one}"
            ((recorded,),) = self.execute(sums)
            named = line.get("available", line.get("found"))
            self.require(named == recorded, f"refused with {facts}, by the ledger of the snapshot {recorded}")
            self.counts["refusals compared with the snapshot"] += 1

    # Errors.

    def tolerate(self, error: psycopg.Error) -> str:
        diag = error.diag
        label = self.judge(diag.sqlstate, diag.message_detail, diag.message_primary)
        self.counts[label] += 1
        return label

    def judge(self, sqlstate, detail, message) -> str:
        """The SQLSTATE in the style sqlstate, if it is one that may come up; else the run fails."""
        facts = exact_json(detail) if detail and detail.startswith('{"reason"') else {}
        reason = facts.get("reason")
        if sqlstate and sqlstate.startswith("PT"):
            short = any(line["reason"] == "insufficient" for line in facts.get("lines", []))
            sqlstate = BY_STYLE.get(reason, sqlstate) if reason != "short_lines" else "IV001" if short else "IV002"
        for line in facts.get("lines", [facts]):
            if line.get("reason") == "insufficient":
                self.require(line["available"] < line["requested"], f"refused with {facts}")
            if line.get("reason") == "unknown_item":
                self.require(line["inventory_id"] in (UNKNOWN, *COMING), f"refused with {facts}")
        if (sqlstate, reason) == ("55000", "striped_item"):
            return "55000 striped_item"
        self.require(sqlstate in TOLERATED and (sqlstate != "IV003" or self.altered), f"{sqlstate} {message} {detail}")
        return sqlstate


def rows_of(cursor):
    return cursor.fetchall() if cursor.description else []


def has_one_call(sql):
    return isinstance(sql, str) and sql.startswith("SELECT") and sql.count("public.") == 1 and " v (item" not in sql


def bare(steps):
    """A program without what only its author needs."""
    return [
        step | {"block": bare(step["block"])}
        if "block" in step
        else {k: v for k, v in step.items() if k != "statement"}
        for step in steps
    ]
