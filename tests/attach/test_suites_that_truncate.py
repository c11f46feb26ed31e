"""Test suites of applications, as docs/testing-your-shop.md describes them: each test starts from known stock.

The statements are those of the page. The owner of the table is no superuser. In each round random calls leave stock,
movements, keys and stripes behind, with the totals worker at work; the next round must see none of it.
"""

import random
import re
from pathlib import Path

import psycopg
import pytest

from books import audit, call, keys_kept
from selling_calls import available, detach, shop_owner, stripe, worker
from shop import left, refused, stock_of, until

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/testing-your-shop.md"
BLOCKS = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
ROUNDS = 8


def block(begin: str, end: str) -> str:
    """The block of the page that begins and ends with these words."""
    (found,) = [sql for sql in BLOCKS if sql.startswith(begin) and sql.rstrip().endswith(end)]
    return found


CREATE = block("CREATE TABLE inventory", "'items';")
CLEAN = block("BEGIN;\nSELECT detach", "COMMIT;")
LOAD = block("INSERT INTO inventory", "'items';")
WITHOUT_TRUNCATE = re.sub(r"^TRUNCATE.*\n", "", CLEAN, flags=re.MULTILINE)
STOCK = {1: 10, 2: 20}


@pytest.fixture
def owner(db):
    """Has made the table as the page does, and attached it."""
    _, owner = shop_owner(db.connect(), db)
    owner.execute(CREATE)
    return owner


def starts_anew(conn):
    """Known stock, opening movements alone, no keys and no stripes."""
    assert stock_of(conn) == {key: available(conn, key) for key in STOCK} == STOCK
    opening = "SELECT inventory_id, kind, new_quantity, movement_id <= 2 FROM inventory_movement ORDER BY 1"
    assert conn.execute(opening).fetchall() == [(key, "opening", units, True) for key, units in STOCK.items()]
    assert keys_kept(conn) == []
    assert conn.execute("SELECT count(*) FROM inventory_stripe").fetchone() == (0,)


def sells(conn, choose) -> dict:
    """A round of random calls, which use the same keys in each round."""
    expected = dict(STOCK)
    for number in range(8):
        key = choose.choice(list(STOCK))
        if choose.random() < 0.4:
            stripe(conn, key, choose.randint(2, 5))
        units = choose.randint(1, 4)
        try:
            sold = call(conn, "decrement_item", p_item=key, p_quantity=units, p_idempotency_key=f"key {number}")
        except psycopg.Error as error:
            assert error.diag.sqlstate == "IV001"
            continue
        assert "replayed" not in sold
        expected[key] -= units
    assert {key: available(conn, key) for key in STOCK} == expected
    return expected


def rows_follow(conn, expected):
    until(lambda: {key: left(conn, key) for key in STOCK} == expected, "the rows show the totals")
    audit(conn)


def test_each_round_of_truncate_load_and_sell_starts_anew(db, owner):
    """With other sessions that stay connected, as an application under test does, and have sold in the round before."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    _, till = worker(db.connect(), db, "till")
    for _ in range(ROUNDS):
        starts_anew(owner)
        expected = sells(owner, choose)
        for key in STOCK:
            if expected[key]:
                expected[key] -= call(till, "decrement_item", p_item=key, p_quantity=1)["deducted"]
        if choose.random() < 0.5:
            rows_follow(owner, expected)
        owner.execute(CLEAN)
        assert stock_of(owner) == {}
        assert refused(till, "SELECT decrement_item(1, 1)").sqlstate == "55000"
        owner.execute(LOAD)


def test_a_cleaner_truncates_later_with_tables_that_refer_to_the_stock(owner):
    """The statements before the TRUNCATE by themselves; then a TRUNCATE of many tables, as cleaners send it."""
    owner.execute("CREATE TABLE order_line (item bigint REFERENCES inventory, units integer)")
    for _ in range(3):
        starts_anew(owner)
        stripe(owner, 1)
        owner.execute("INSERT INTO order_line VALUES (1, 2), (2, 1)")
        call(owner, "decrement_item", p_item=1, p_quantity=2, p_idempotency_key="checkout")
        refusal = refused(owner, "TRUNCATE order_line, inventory")
        assert (refusal.sqlstate, refusal.reason) == ("55000", "truncate_refused")
        owner.execute(WITHOUT_TRUNCATE)
        owner.execute("TRUNCATE order_line, inventory RESTART IDENTITY")
        owner.execute(LOAD)


@pytest.mark.parametrize("striped", [False, True])
def test_a_test_that_rolled_back_leaves_nothing_to_clean(db, owner, striped):
    """A suite of both kinds: tests that roll back between tests that truncate."""
    till = db.connect(user=owner.info.user, autocommit=False)
    for _ in range(3):
        if striped:
            stripe(till, 1)
        call(till, "decrement_item", p_item=1, p_quantity=10, p_idempotency_key="checkout")
        assert available(till, 1) == 0
        till.rollback()
        starts_anew(owner)
        owner.execute(CLEAN)
        owner.execute(LOAD)


def test_companions_that_are_not_dropped_remember_the_test_before(owner):
    """Why the page drops them: the key of an earlier test sells nothing in the next one."""
    call(owner, "decrement_item", p_item=1, p_quantity=3, p_idempotency_key="checkout")
    detach(owner)
    owner.execute("TRUNCATE inventory")
    owner.execute(LOAD)
    again = call(owner, "decrement_item", p_item=1, p_quantity=3, p_idempotency_key="checkout")
    assert again["replayed"] and stock_of(owner) == STOCK
    kinds = [kind for (kind,) in owner.execute("SELECT kind FROM inventory_movement ORDER BY movement_id")]
    assert kinds == ["opening", "opening", "sale", "external"]
    audit(owner)


def test_a_delete_needs_no_detach_but_the_keys_and_movements_stay(owner):
    """The other way that the page names, and what it leaves behind."""
    call(owner, "decrement_item", p_item=1, p_quantity=3, p_idempotency_key="checkout")
    owner.execute("DELETE FROM inventory")
    assert keys_kept(owner) == ["checkout"]
    audit(owner)
    owner.execute("INSERT INTO inventory VALUES (1, 10)")
    stripe(owner, 1)
    assert refused(owner, "DELETE FROM inventory").reason == "striped_item"


def test_without_a_ledger_there_is_one_companion_less(owner):
    owner.execute(CLEAN)
    for _ in range(3):
        owner.execute(
            "INSERT INTO inventory VALUES (1, 10), (2, 20); SELECT attach_inventory('inventory', p_ledger => false)"
        )
        stripe(owner, 2)
        assert call(owner, "decrement_item", p_item=2, p_quantity=20, p_idempotency_key="all")["success"]
        owner.execute(CLEAN.replace("inventory_movement, ", ""))


def test_databases_that_are_made_from_a_template_are_attached(db, owner):
    """Each has its own stock and its own totals worker."""
    owner.close()
    names = [f"{db.name}_{number}" for number in (1, 2)]
    with psycopg.connect(db.server.dsn(), autocommit=True) as admin:
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        until(lambda: admin.execute(sessions, (db.name,)).fetchone() == (0,), "no session is connected")
        for name in names:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {db.name}")
        try:
            for name in names:
                with psycopg.connect(db.server.dsn(name), autocommit=True) as conn:
                    starts_anew(conn)
                    rows_follow(conn, sells(conn, random.Random(1)))
        finally:
            for name in names:
                admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
