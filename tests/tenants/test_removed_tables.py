"""Who removes its own table does not thereby reach the table of another.

With one table attached, EXECUTE is enough to sell from it. A tenant whose table was detached or dropped, by itself or
by others, sold from the stock of the tenant that was left, and read it in a transaction that was rolled back.
"""

import pytest

from books import call
from shop import ONE, Aside, attach, create_role, refused, refused_sale, sell, until, until_waiting
from tenants import EXECUTE, tenant

REMOVALS = {
    "detach": "SELECT detach_inventory('bert.inventory')",
    "drop": "DROP TABLE bert.inventory",
    "rename and detach": "ALTER TABLE bert.inventory RENAME TO gone; SELECT detach_inventory('bert.gone')",
    "another column": "ALTER TABLE bert.inventory RENAME quantity TO amount; SELECT detach_inventory('bert.inventory')",
}


@pytest.fixture
def anna(db):
    return tenant(db, db.connect(), "anna", {ONE: 100})


@pytest.fixture
def bert(db, anna):
    return tenant(db, anna.admin, "bert", {ONE: 500})


@pytest.mark.parametrize("path", ["bert,public", "public", "anna,bert"])
@pytest.mark.parametrize("removal", REMOVALS)
def test_the_other_tenant_cannot_be_sold_from(anna, bert, removal, path):
    owner = bert.session(bert.owner, path=path)
    till = bert.session(path=path)
    owner.execute("BEGIN; " + REMOVALS[removal])
    assert refused(owner, "SELECT public.available_inventory(%s::uuid)", (ONE,)).reason == "several_tables"
    owner.execute("ROLLBACK; " + REMOVALS[removal])
    for session in (owner, till, bert.session(path=path)):
        assert refused_sale(session, ONE, 1).facts == {"reason": "several_tables", "tables": []}
        session.execute("SET inventory_ext.stock_table = 'anna.inventory'")
        assert refused_sale(session, ONE, 1).sqlstate == "42501"
    assert anna.left(ONE) == 100
    assert sell(anna.session(path="public"), ONE, 1)["new_quantity"] == 99


def test_the_only_table_is_everybodys_again_once_all_were_detached(anna, bert, db):
    clerk = create_role(anna.admin, db, "clerk")
    anna.admin.execute(EXECUTE.format(f'"{clerk}"'))
    anna.admin.execute("SELECT detach_inventory('bert.inventory')")
    session = db.connect(user=clerk)
    assert refused_sale(session, ONE, 1).reason == "several_tables"
    anna.admin.execute("SELECT detach_inventory()")
    assert refused_sale(session, ONE, 1).reason == "not_attached"
    attach(anna.admin, "anna.inventory")
    assert sell(session, ONE, 1)["new_quantity"] == 99


def test_two_tables_that_were_attached_at_once_are_several(db):
    """Neither attach saw the other."""
    admin = db.connect()
    anna, bert = (tenant(db, admin, name, {ONE: 100}, attached=False) for name in ("anna", "bert"))
    first, second = anna.session(anna.owner), bert.session(bert.owner)
    first.execute("BEGIN; SELECT attach_inventory('anna.inventory')")
    second.execute("SELECT attach_inventory('bert.inventory')")
    first.execute("COMMIT")
    second.execute("SELECT detach_inventory('bert.inventory')")
    assert refused_sale(second, ONE, 1).reason == "several_tables"


@pytest.mark.parametrize("removal", ["DROP TABLE bert.inventory", "DROP SCHEMA bert CASCADE"])
def test_two_tables_that_were_attached_at_once_are_several_after_a_drop(db, removal):
    """No attach and no detach had seen both: the clerk of the dropped one sold from the other."""
    admin = db.connect()
    anna, bert = (tenant(db, admin, name, {ONE: 100}, attached=False) for name in ("anna", "bert"))
    first, second, till = anna.session(anna.owner), bert.session(bert.owner), bert.session()
    first.execute("BEGIN; SELECT attach_inventory('anna.inventory')")
    second.execute("SELECT attach_inventory('bert.inventory')")
    first.execute("COMMIT")
    admin.execute(removal)
    for session in (till, bert.session()):
        assert refused_sale(session, ONE, 1).reason == "several_tables"
    carl = tenant(db, admin, "carl", {ONE: 1})  # the row of the dropped table goes
    assert refused_sale(till, ONE, 1).reason == "several_tables"
    assert (anna.left(ONE), carl.left(ONE)) == (100, 1)


def test_an_open_attach_of_one_does_not_hold_up_another(db):
    """The second table of all noted that there are several: the third waited for it, with its own table locked."""
    admin = db.connect()
    anna, bert, carl = (tenant(db, admin, name, {ONE: 9}, attached=name == "anna") for name in ("anna", "bert", "carl"))
    waiting, other = bert.session(bert.owner), carl.session(carl.owner)
    waiting.execute("BEGIN; SELECT attach_inventory('bert.inventory')")
    other.execute("SET lock_timeout = '2s'; SELECT attach_inventory('carl.inventory')")
    other.execute("SELECT detach_inventory('carl.inventory')")
    anna.session(anna.owner).execute("SET lock_timeout = '2s'; SELECT detach_inventory('anna.inventory')")
    waiting.execute("COMMIT")
    assert sell(bert.session(), ONE, 1)["new_quantity"] == 8


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("call_made", ["attach_inventory('anna.inventory')", "detach_inventory('bert.inventory')"])
def test_the_attachment_is_not_changed_on_an_older_snapshot(anna, level, call_made, db):
    """The openings were those of the snapshot: what was committed since was missing from the ledger."""
    bert = tenant(db, anna.admin, "bert", {ONE: 500})
    anna.admin.execute("SELECT detach_inventory('anna.inventory')")
    anna.admin.execute(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM anna.inventory")
    refusal = refused(anna.admin, f"SELECT {call_made}")
    assert (refusal.sqlstate, refusal.reason) == ("25001", "one_snapshot")
    anna.admin.execute("ROLLBACK; BEGIN ISOLATION LEVEL READ COMMITTED")
    anna.admin.execute(f"SELECT {call_made}; COMMIT")
    bert.audit()


def test_a_table_that_was_attached_after_the_snapshot_is_not_striped(db, anna):
    """The note that it has stripes found no row, and its totals were never brought up to date."""
    bert = tenant(db, anna.admin, "bert", {ONE: 500}, attached=False)
    owner = bert.session(bert.owner)
    owner.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
    attach(anna.admin, "bert.inventory")
    assert refused(owner, "SELECT stripe_inventory(%s::uuid, 2)", (ONE,)).sqlstate in ("25001", "40001")
    owner.execute("ROLLBACK")
    owner.execute("SELECT stripe_inventory(%s::uuid, 2)", (ONE,))
    sell(bert.session(), ONE, 1)
    until(lambda: bert.left(ONE) == 499, "the row shows the total")


# The same rows in two attachments


def partitioned(conn):
    conn.execute(
        """CREATE TABLE whole (id integer PRIMARY KEY, quantity integer NOT NULL) PARTITION BY RANGE (id);
           CREATE TABLE part (id integer PRIMARY KEY, quantity integer NOT NULL);
           INSERT INTO part VALUES (1, 100)"""
    )
    return "ALTER TABLE whole ATTACH PARTITION part FOR VALUES FROM (0) TO (100)"


def test_a_partition_that_is_attached_itself_does_not_become_part_of_another(db):
    """Both sold the same hundred units, one from stripes and one from the row."""
    conn = db.connect()
    become = partitioned(conn)
    for table in ("whole", "part"):
        attach(conn, table, p_ledger=False)
    sessions = {table: db.connect(options=f"-c inventory_ext.stock_table={table}") for table in ("whole", "part")}
    sessions["part"].execute("SELECT stripe_inventory(1, 2)")
    call(sessions["part"], "decrement_item", p_item=1, p_quantity=1)
    conn.execute(become)
    for session in sessions.values():
        assert refused(session, "SELECT decrement_item(1, 1)").reason == "related_attached"
    conn.execute("ALTER TABLE whole DETACH PARTITION part")
    assert call(sessions["part"], "decrement_item", p_item=1, p_quantity=99)["success"]


def test_a_whole_and_its_partition_cannot_be_attached_at_once(db):
    conn = db.connect()
    conn.execute(partitioned(conn))
    for first, second in (("part", "whole"), ("whole", "part")):
        one, other = db.connect(), db.connect()
        one.execute(f"BEGIN; SELECT attach_inventory('{first}', p_ledger => false)")
        waiting = Aside(attach, other, second)
        until_waiting(conn, other)
        one.execute("COMMIT")
        assert waiting.refusal().reason == "part_of_attached"
        conn.execute(f"SELECT detach_inventory(); ALTER TABLE {first} DROP CONSTRAINT quantity_non_negative")


def test_a_table_that_was_dropped_and_made_anew_is_attached_with_its_companions(anna, bert):
    owner = bert.session(bert.owner)
    sell(bert.session(), ONE, 1)
    owner.execute(
        "DROP TABLE bert.inventory; CREATE TABLE bert.inventory (id uuid PRIMARY KEY, quantity numeric(12,2))"
    )
    owner.execute("INSERT INTO bert.inventory VALUES (%s, 7)", (ONE,))
    attach(owner, "bert.inventory")
    assert sell(bert.session(), ONE, 1)["new_quantity"] == 6
    bert.audit()


# Messages that anyone can cause


def test_a_change_of_another_role_or_schema_does_not_make_calls_read_the_catalog_anew(anna, db):
    """Two roles without a right, which changed themselves all the time, made a sale take seconds."""
    nobody = create_role(anna.admin, db, "nobody")
    anna.admin.execute(f'CREATE SCHEMA elsewhere AUTHORIZATION "{nobody}"')
    till, other = anna.session(), db.connect(user=nobody)

    def scans():
        sell(till, ONE, 1)
        till.execute("SELECT pg_stat_force_next_flush()")
        till.execute("SELECT 1")
        sql = "SELECT seq_scan + idx_scan FROM pg_stat_all_tables WHERE relid = 'public.inventory_attachment'::regclass"
        return anna.admin.execute(sql).fetchone()[0]

    before = scans()
    for number in range(5):
        other.execute("ALTER ROLE CURRENT_USER PASSWORD NULL")
        other.execute("GRANT USAGE ON SCHEMA elsewhere TO PUBLIC; ALTER SCHEMA elsewhere OWNER TO CURRENT_USER")
        assert scans() == before
    anna.admin.execute(f'ALTER ROLE "{anna.owner}" SUPERUSER')
    assert scans() > before
