"""The behaviour suites once more with a stock table whose ids are bigint or text.

The tests are written with uuids. For another type the client translates, in both directions: what a test sends (the
type in its DDL and casts, the ids in its statements and parameters, `decrement_inventory` as `decrement_item`), and
what the server returns (columns, JSON, errors). The server, its table and its companions have ids of the other type
only. An id that a test compares is thus always a uuid; tests/sales/test_ids_of_any_type.py looks at the ids themselves.

A test runs with all cases for uuid, a parametrized one with one case for each other type, and any other test for one
of the other types, so that all of them need three minutes and not as long as the tests with uuids.
"""

from __future__ import annotations

import json
import random
import re
import uuid
from collections import defaultdict
from contextlib import contextmanager

import psycopg
from psycopg.adapt import Loader

from versions import TESTS

OTHER_TYPES = ("bigint", "text")
FOLDERS = ("sales", "input", "ledger", "stripes", "retries", "models")
FILES = (
    "attach/test_attach.py", "attach/test_life_of_the_table.py", "attach/test_dropped_companions.py",
    "attach/test_unsellable_quantities.py",
)  # fmt: skip
# Files and tests that run for uuid alone, and why.
UUID_ALONE = {
    "sales/test_ids_of_any_type.py": "has types of its own",
    "sales/test_ids_of_the_suites.py": "names the types by itself",
    "sales/test_native_writes.py": "is about rows, whatever their id",
    "models/test_write_paths.py": "has types of its own",
    "sales/test_memory.py": "measures memory, and makes its uuids in SQL",
    "sales/test_race.py": "a race of many seconds",
    "sales/test_two_calls_in_a_statement.py": "every pair of calls, for many seconds",
    "stripes/test_stripes_race.py": "a race of many seconds",
    "stripes/test_stripes_under_snapshots.py::test_snapshots_see_every_transfer_whole": "a race of many seconds",
    "models/test_invariants.py::test_a_day_of_orders_restocks_transfers_counts_and_sales":
        "a race of many seconds, and compares the text of ids",
    "attach/test_life_of_the_table.py::test_a_change_to_a_type_that_is_no_stock_is_a_clear_error": "changes a uuid",
    "attach/test_unsellable_quantities.py::test_attach_never_accepts_what_no_function_can_read":
        "reads the id in an error that it does not take apart",
    "ledger/test_ledger_statements.py::test_a_cancelled_and_a_failed_statement_in_savepoints":
        "divides by the last letter of an id",
    "retries/test_lost_answers.py": "connects through a proxy, and through servers of its own",
    "retries/test_poolers.py": "connects through a pooler",
    "models/test_random_calls.py": "many sessions for many seconds, with uuids in PL/pgSQL",
    "input/test_numbers_as_clients_write_them.py": "is about quantities",
    "input/test_input.py::test_statement_timeout_ends_the_reading_of_a_large_order": "is about the size of p_items",
    "input/test_input.py::test_an_order_is_counted_and_measured_before_it_is_converted": "is about the size of p_items",
    "input/test_input.py::test_a_shop_whose_clients_tried_a_nul_can_be_dumped_and_restored": "connects to a copy",
    "input/test_input.py::test_an_object_is_no_number_under_any_name_of_its_member": "the reason says uuid",
    "input/test_order_input.py::test_a_uuid_may_be_written_in_capitals_and_without_hyphens": "is about uuids",
    "ledger/test_ledger.py::test_a_bare_update_by_psql_is_recorded": "psql sends a uuid",
    "ledger/test_order_of_movements.py": "makes its uuids in SQL",
    "retries/test_session_keys.py::test_a_session_key_in_the_transaction_block_of_its_call_counts_there_alone":
        "sorts the functions by name",
}  # fmt: skip

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
BASE = 7 * 10**18  # bigint: far from every quantity, count and oid
SMALL = 5 * 10**17  # of these the bigint keeps the number; the others are numbered
RANDOM = {
    "bigint": f"({BASE} + {SMALL // 2} + floor(random() * 1e15)::bigint)",
    "text": "('sku.' || replace(gen_random_uuid()::text, '-', ''))",
}


class Names:
    """The ids of one type: the spelling of each uuid, and back. The order of small uuids stays."""

    def __init__(self, type: str):
        self.type = type
        self.large = []  # uuids that a bigint has no room for
        self.spelled = r"\b7\d{18}\b" if type == "bigint" else r"\bsku\.[0-9a-f]{32}\b"

    def spell(self, key: uuid.UUID) -> str:
        if self.type == "text":
            return f"sku.{key.hex}"
        if key.int < SMALL:
            return str(BASE + key.int)
        if key not in self.large:
            self.large.append(key)
        return str(BASE + SMALL + self.large.index(key))

    def read(self, spelled: str) -> uuid.UUID:
        if self.type == "text":
            return uuid.UUID(spelled.removeprefix("sku."))
        number = int(spelled) - BASE
        return uuid.UUID(int=number) if number < SMALL else self.large[number - SMALL]

    def sent(self, text: str) -> str:
        """A statement or a parameter with the ids of the type."""
        return re.sub(UUID, lambda found: self.spell(uuid.UUID(found[0])), text)

    def statement(self, sql: str) -> str:
        sql = sql.replace("decrement_inventory(uuid, numeric)", "decrement_item(inventory_key, numeric, text, text)")
        # Arguments by name; the call of another function has its own p_inventory_id.
        sql = re.sub(
            r"\bdecrement_inventory\(((?:(?!_inventory\().)*?)\bp_inventory_id\b", r"decrement_item(\1p_item", sql
        )
        sql = re.sub(r"\bdecrement_inventory\b", "decrement_item", sql)
        sql = sql.replace("gen_random_uuid()", RANDOM[self.type])
        return self.sent(re.sub(r"\buuid\b", self.type, sql))

    def parameters(self, value):
        if isinstance(value, uuid.UUID):
            return int(self.spell(value)) if self.type == "bigint" else self.spell(value)
        if isinstance(value, str):
            return self.statement(value) if "decrement_inventory(" in value else self.sent(value)
        if isinstance(value, dict):
            return {name: self.parameters(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.parameters(one) for one in value)
        return value

    def received(self, text: str) -> str:
        """What the server wrote, with uuids; a number in JSON becomes a string."""
        if self.type == "bigint":
            text = re.sub(rf'(": ){self.spelled}', lambda found: f'": "{self.read(found[0][3:])}"', text)
        text = re.sub(self.spelled, lambda found: str(self.read(found[0])), text)
        text = re.sub(r"\bp_item\b", "p_inventory_id", text)
        return re.sub(r"\bdecrement_item\b", "decrement_inventory", text)

    def value(self, text: str):
        """A column of the type."""
        return self.read(text) if re.fullmatch(self.spelled, text) else self.received(text)


class Cursor(psycopg.Cursor):
    def execute(self, query, params=None, **options):
        return self.connection.translated(super().execute, query, params, **options)

    def executemany(self, query, params_seq, **options):
        return self.connection.translated(super().executemany, query, list(params_seq), **options)

    @contextmanager
    def copy(self, statement, params=None, **options):
        names = self.connection.names
        with super().copy(names.statement(statement), names.parameters(params), **options) as copy:
            write, write_row = copy.write, copy.write_row
            copy.write = lambda data: write(names.sent(data) if isinstance(data, str) else data)
            copy.write_row = lambda row: write_row(names.parameters(row))
            yield copy


class ServerCursor(psycopg.ServerCursor):
    def execute(self, query, params=None, **options):
        return self.connection.translated(super().execute, query, params, **options)


class Connection(psycopg.Connection):
    """A client whose tests speak of uuids and whose server has ids of another type."""

    names: Names

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.cursor_factory, self.server_cursor_factory = Cursor, ServerCursor

    def translated(self, execute, query, params, **options):
        if isinstance(query, str):
            query = self.names.statement(query)
        try:
            return execute(query, self.names.parameters(params), **options)
        except psycopg.Error as error:
            error.received = self.names.received
            raise


def connect(names: Names, dsn: str, **options) -> Connection:
    class Text(Loader):
        def load(self, data):
            return names.value(bytes(data).decode())

    class Number(Loader):
        def load(self, data):
            return names.value(text) if re.fullmatch(names.spelled, text := bytes(data).decode()) else int(text)

    class Json(Loader):
        def load(self, data):
            return json.loads(names.received(bytes(data).decode()))

    conn = Connection.connect(dsn, **options)
    conn.names = names
    for type in ("text", "varchar"):
        conn.adapters.register_loader(type, Text)
    if names.type == "bigint":
        conn.adapters.register_loader("int8", Number)
    for type in ("json", "jsonb"):
        conn.adapters.register_loader(type, Json)
    return conn


# Which tests run for which type.


def runs_for_other_types(path, name: str) -> bool:
    path = path.relative_to(TESTS)
    if str(path) in UUID_ALONE or f"{path}::{name}" in UUID_ALONE:
        return False
    return path.parts[0] in FOLDERS or str(path) in FILES


def choose_types(items, types):
    """Gives (chosen, others): all cases for uuid and, always the same ones, a few for these types."""
    cases, chosen = defaultdict(lambda: defaultdict(list)), set()
    for item in items:
        type = item.callspec.params.get("item_type") if hasattr(item, "callspec") else None
        if type in OTHER_TYPES:
            cases[item.path, item.originalname][type].append(item)
        else:
            chosen.add(item)
    for (path, name), found in cases.items():
        rng = random.Random(f"{path.name} {name}")
        single = len(found[OTHER_TYPES[0]]) == 1
        for type in (rng.choice(OTHER_TYPES),) if single else OTHER_TYPES:
            if type in types:
                chosen.add(rng.choice(found[type]))
    return [item for item in items if item in chosen], [item for item in items if item not in chosen]
