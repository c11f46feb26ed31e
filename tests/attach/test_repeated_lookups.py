"""A session that looks the stock table up again holds no lock while it waits for the table.

It once kept the lock on the ledger, and deadlocked with a session that locks the stock table, then the ledger: REASSIGN
OWNED did, against the totals worker.
"""

import pytest

from books import audit
from shop import ONE, Aside, create_role, sell, shop, until_waiting


@pytest.mark.parametrize("sold_before", [True, False], ids=["cached", "first call"])
def test_a_lookup_that_is_repeated_does_not_deadlock_with_a_lock_on_table_and_ledger(db, sold_before):
    admin, holder, other = db.connect(), db.connect(autocommit=False), db.connect(autocommit=False)
    shop(admin, {ONE: 10})
    till = db.connect()
    if sold_before:
        sell(till, ONE, 1)
    holder.execute("LOCK TABLE inventory_movement IN ACCESS EXCLUSIVE MODE")
    sale = Aside(sell, till, ONE, 1)
    until_waiting(admin, till)  # it has the stock table, and waits for the ledger
    locked = Aside(other.execute, "LOCK TABLE inventory IN ACCESS EXCLUSIVE MODE")
    until_waiting(admin, other)
    create_role(admin, db, "newcomer")  # every session reads the attachment again
    holder.commit()
    locked.result()
    other.execute("LOCK TABLE inventory_movement IN ACCESS EXCLUSIVE MODE")
    other.commit()
    assert sale.result()["old_quantity"] == (9 if sold_before else 10)
    audit(admin)
