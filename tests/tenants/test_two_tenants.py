"""Two tenants sell at once, from 16 connections, items with the same ids; the books of each are exact and its own.

Half of the connections belong to each tenant. Nothing of one is to be seen by the other: no row, no key, no text of an
error, no wait for a lock. The seed is printed.
"""

import os
import random
import threading
from decimal import Decimal

import psycopg
import pytest

from books import call, order
from shop import Aside, exact_json, item, refused_sale, sell, until_waiting
from tenants import tenant

SEED = int(os.environ.get("SEED") or random.SystemRandom().getrandbits(32))
CONNECTIONS, CALLS, ITEMS = 16, 150, 6
OPENING = 400
REFUSALS = {"IV001", "IV005"}


@pytest.fixture
def tenants(db):
    admin = db.connect()
    made = [tenant(db, admin, name, {item(n): OPENING for n in range(1, ITEMS + 1)}) for name in ("anna", "bert")]
    for one in made:
        one.session().execute("SELECT stripe_inventory(%s::uuid, 4)", (item(ITEMS),))
    return made


class Till(threading.Thread):
    """One connection of a tenant; notes what it was told, and every error that it must not see."""

    def __init__(self, one, number):
        super().__init__(daemon=True)
        self.tenant, self.random = one, random.Random(f"{SEED} {number}")
        self.number, self.change, self.strange = number, {}, []

    def run(self):
        with self.tenant.session() as session:
            for turn in range(CALLS):
                self.call(session, turn)

    def call(self, session, turn):
        chosen, units = item(self.random.randint(1, ITEMS)), self.random.randint(1, 9)
        other = item(self.random.randint(1, ITEMS))
        # The other tenant uses the same keys.
        key = self.random.choice([None, f"{self.number // 2}-{turn}"])
        kind = self.random.choice(["sell", "sell", "sell", "restock", "order", "transfer"])
        try:
            if kind == "sell":
                call(session, "decrement_item", p_item=chosen, p_quantity=units, p_idempotency_key=key)
                self.note({chosen: -units})
            elif kind == "restock":
                call(session, "restock_inventory", p_inventory_id=chosen, p_quantity=units, p_idempotency_key=key)
                self.note({chosen: units})
            elif kind == "order":
                order(session, (chosen, units), (other, 1), p_idempotency_key=key)
                self.note({chosen: -units})
                self.note({other: -1})
            elif chosen != other:
                call(session, "transfer_inventory", p_from=chosen, p_to=other, p_quantity=units)
                self.note({chosen: -units, other: units})
        except psycopg.Error as error:
            detail = exact_json(error.diag.message_detail or "{}")
            if error.sqlstate not in REFUSALS or "bert" in str(detail) + str(error):
                self.strange.append((error.sqlstate, str(error)))

    def note(self, changes):
        for key, change in changes.items():
            self.change[key] = self.change.get(key, 0) + change


def test_the_books_of_each_are_exact(tenants):
    print(f"SEED={SEED}")
    tills = [Till(tenants[number % 2], number) for number in range(CONNECTIONS)]
    for till in tills:
        till.start()
    for till in tills:
        till.join()
    assert [till.strange for till in tills if till.strange] == []
    for one in tenants:
        own = [till for till in tills if till.tenant is one]
        for number in range(1, ITEMS + 1):
            expected = OPENING + sum(till.change.get(item(number), 0) for till in own)
            available = one.session().execute("SELECT available_inventory(%s::uuid)", (item(number),)).fetchone()[0]
            assert (number, available) == (number, Decimal(expected))
        one.session().execute("SELECT unstripe_inventory(%s::uuid)", (item(ITEMS),))
        one.audit()
        actors = f"SELECT DISTINCT actor FROM {one.companion('movement')} WHERE kind <> 'opening'"
        assert one.admin.execute(actors).fetchall() == [(one.till,)]


@pytest.mark.parametrize("number", [1, ITEMS], ids=["ordinary item", "striped item"])
def test_no_tenant_waits_for_the_other(tenants, number):
    """Advisory locks of striped items named the item alone, so equal ids of two tables shared them."""
    anna, bert = tenants
    holder = anna.session()
    holder.execute("BEGIN")
    # All of a striped item, so that every stripe is held.
    sell(holder, item(number), OPENING if number == ITEMS else 1)
    waiting = Aside(sell, anna.session(), item(number), 1)
    other = bert.session()
    other.execute("SET lock_timeout = '100ms'")
    assert sell(other, item(number), OPENING)["success"]
    call(other, "restock_inventory", p_inventory_id=item(number), p_quantity=5)
    other.execute("SELECT unstripe_inventory(%s::uuid)", (item(number),))
    holder.execute("ROLLBACK")
    assert waiting.result()["success"]


def test_an_attach_of_one_does_not_hold_up_the_other(db, tenants):
    """A tenant that leaves its attach open held the lock on the configuration, which every attach took."""
    anna, bert = tenants
    first, second = anna.session(anna.owner), bert.session(bert.owner)
    second.execute("SET lock_timeout = '2s'")
    first.execute("BEGIN; SELECT detach_inventory('anna.inventory'); SELECT attach_inventory('anna.inventory')")
    second.execute("SELECT detach_inventory('bert.inventory')")
    second.execute("SELECT attach_inventory('bert.inventory')")
    sell(bert.session(), item(1), 1)
    second.execute("SELECT stripe_inventory(%s::uuid, 2)", (item(2),))
    first.execute("COMMIT")
    sell(anna.session(), item(1), 1)


def test_two_attaches_of_one_table_are_one(db):
    admin = db.connect()
    one = tenant(db, admin, "anna", {item(1): 5}, attached=False)
    first, second = one.session(one.owner), one.session(one.owner)
    first.execute("BEGIN; SELECT attach_inventory('anna.inventory')")
    waiting = Aside(second.execute, "SELECT attach_inventory('anna.inventory')")
    until_waiting(admin, second)
    first.execute("COMMIT")
    assert waiting.result().fetchone()[0]["items"] == 1
    assert one.kinds() == ["opening"]


def test_the_others_rows_keys_and_ledger_cannot_be_read(tenants):
    anna, bert = tenants
    call(bert.session(), "decrement_item", p_item=item(1), p_quantity=1, p_idempotency_key="secret")
    till = anna.session()
    for suffix in ("", "_movement", "_request", "_stripe", "_stripe_total"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            till.execute(f"SELECT * FROM bert.inventory{suffix}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        till.execute("SELECT * FROM inventory_attachment")
    assert (
        call(till, "decrement_item", p_item=item(1), p_quantity=1, p_idempotency_key="secret").get("replayed") is None
    )


def test_an_error_names_the_tables_of_its_own_tenant(tenants):
    anna, _ = tenants
    anna.admin.execute('ALTER TABLE anna.inventory DISABLE TRIGGER "0_inventory_movement_record"')
    refusal = refused_sale(anna.session(), item(1), 1)
    assert refusal.reason == "trigger_disabled"
    assert "bert" not in f"{refusal}"
