"""The behaviour suites with other ids (tests/support/id_types.py): what runs there is what they say."""

import ast
import random
import uuid

import pytest

from books import audit, lines, movements, order, refused_order
from id_types import OTHER_TYPES, UUID_ALONE, Names
from shop import ONE, TWO, UNKNOWN, item, refused_sale, sell, shop, stock_of
from versions import TESTS

COLUMNS = """
    SELECT attrelid::regclass::text, format_type(atttypid, NULL) FROM pg_attribute
     WHERE attrelid IN ('inventory'::regclass, 'inventory_movement'::regclass, 'inventory_stripe'::regclass,
                        'inventory_stripe_total'::regclass) AND attname IN ('id', 'inventory_id') ORDER BY 1
"""


@pytest.mark.parametrize("item_type", ["uuid", *OTHER_TYPES], indirect=True)
def test_the_server_has_ids_of_the_type_and_the_test_has_uuids(db, item_type):
    conn = db.connect()
    shop(conn, {ONE: "10", TWO: "20"})
    tables = ("inventory", "inventory_movement", "inventory_stripe", "inventory_stripe_total")
    assert conn.execute(COLUMNS).fetchall() == [(table, item_type) for table in tables]
    raw = conn.execute("SELECT string_agg(ascii(left(id::text, 1))::text, ',' ORDER BY id) FROM inventory").fetchone()[
        0
    ]
    assert raw == {"uuid": "48,48", "bigint": "55,55", "text": "115,115"}[item_type]  # 0, 7, s

    assert sell(conn, ONE, "1.50")["inventory_id"] == str(ONE)
    assert [line["inventory_id"] for line in order(conn, (TWO, 1), (ONE, 1))["lines"]] == [str(TWO), str(ONE)]
    assert refused_sale(conn, UNKNOWN, 1).facts["inventory_id"] == str(UNKNOWN)
    assert [line["inventory_id"] for line in refused_order(conn, (TWO, 99)).facts["lines"]] == [str(TWO)]
    assert list(stock_of(conn)) and {type(key) for key in stock_of(conn)} == {uuid.UUID}
    assert {type(movement.item) for movement in movements(conn)} == {uuid.UUID}
    assert lines((ONE, 1)) == f'[{{"inventory_id": "{ONE}", "quantity": 1}}]'
    audit(conn)


@pytest.mark.parametrize("type", OTHER_TYPES)
def test_each_uuid_has_one_spelling_and_small_ones_keep_their_order(type):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, names = random.Random(seed), Names(type)
    small = sorted(item(rng.randrange(2**48)) for _ in range(200))
    large = [uuid.UUID(int=rng.getrandbits(128)) for _ in range(200)]
    spelled = [names.spell(key) for key in small + large]
    assert [names.read(text) for text in spelled] == small + large
    assert len(set(spelled)) == len(set(small + large))
    assert sorted(spelled[:200], key=int if type == "bigint" else str) == spelled[:200]
    for key, text in zip(small + large, spelled):
        assert names.sent(f"id = '{key}'") == f"id = '{text}'"
        assert names.received(f"id {text}, quantity 12.5") == f"id {key}, quantity 12.5"
    assert names.received("7 12 1000000000000000000 sku.x") == "7 12 1000000000000000000 sku.x"


def test_each_test_that_runs_for_uuids_alone_exists():
    """The list of id_types.py names nothing that has gone or has another name."""
    for place in UUID_ALONE:
        path, _, name = place.partition("::")
        tree = ast.parse((TESTS / path).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not name or name in functions, place
