"""A stock table that was exchanged by renaming is not sold from any more.

Online schema changes copy a table and exchange the two by renaming. The attachment follows the table that was attached,
so sales went on from the old copy without an error. Every call raises stock_table_swapped, in warm and fresh sessions,
until the names are exchanged back or the new table is attached. A rename without a successor is followed.
"""

import pytest

from books import audit, call, keys_kept, refused_call, stripes_of
from selling_calls import SELLING, arguments, available, detach, refused_available, refused_make, stripe
from shop import (
    ONE, TWO, Aside, attach, create_role, item, left, refused, refused_attach, refused_sale, sell, shop, stock_of,
    stock_table, until, until_waiting,
)  # fmt: skip
from tenants import tenant

THREE = item(3)
COPY = "CREATE TABLE {new} (LIKE {old} INCLUDING ALL); INSERT INTO {new} SELECT * FROM {old};"
AWAY = "ALTER TABLE inventory RENAME TO inventory_old;"
HERE = "ALTER TABLE inventory_new RENAME TO inventory;"
BACK = "ALTER TABLE inventory RENAME TO inventory_new; ALTER TABLE inventory_old RENAME TO inventory;"


@pytest.fixture
def conn(db):
    """The session that exchanges the tables; it has sold."""
    conn = db.connect()
    shop(conn, {ONE: "10", TWO: "20", THREE: "300"}, type="integer")
    stripe(conn, THREE)
    sell(conn, TWO, 1)
    return conn


@pytest.fixture
def sessions(db, conn):
    """The exchanging session, one that has sold and been refused, and one that calls for the first time."""
    warm = db.connect()
    sell(warm, TWO, 1)
    sell(warm, THREE, 1)
    refused_sale(warm, TWO, 1000)
    return [conn, warm, db.connect()]


def copy(conn, new="inventory_new", old="inventory"):
    """A copy as such tools make it: all rows, keys and checks, none of our triggers."""
    until(lambda: left(conn, THREE, old) == available(conn, THREE), "the row shows the total")
    conn.execute(COPY.format(new=new, old=old))


def assert_swapped(*sessions, items=(ONE, TWO, THREE)):
    for session in sessions:
        for each in items:
            for function in SELLING:
                answer = refused_make(session, function, each, TWO if each == ONE else ONE)
                assert (answer.sqlstate, answer.reason) == ("55000", "stock_table_swapped"), (function, answer)
                assert answer.hint
        answers = [refused_available(session, items[0])]
        for name in ("stripe_inventory", "unstripe_inventory"):
            answers.append(refused(session, f"SELECT {name}(%s)", (items[0],)))
        assert {(a.sqlstate, a.reason) for a in answers} == {("55000", "stock_table_swapped")}


def assert_sells(*sessions):
    for session in sessions:
        for function in SELLING:
            call(session, function, **arguments(function, TWO, ONE))
        sell(session, THREE, 1)
        call(session, "restock_inventory", p_inventory_id=TWO, p_quantity=20)


@pytest.mark.parametrize(
    "steps", [f"BEGIN; {AWAY} {HERE} COMMIT", f"{AWAY};; {HERE}", f"BEGIN; {AWAY} COMMIT;; {HERE}"]
)
def test_a_table_that_was_swapped_by_renaming_is_not_sold_from(conn, sessions, steps):
    """In one transaction and in two; the old table keeps what it has, and the new one is not touched either."""
    copy(conn)
    before = stock_of(conn)
    for step in steps.split(";;"):
        conn.execute(step)
    assert_swapped(*sessions)
    assert stock_of(conn) == stock_of(conn, "inventory_old") == before


def test_between_the_two_renames_sales_follow_the_table(conn, sessions):
    """Nothing has the old name then: a plain rename."""
    copy(conn)
    conn.execute(AWAY)
    assert_sells(*sessions)
    conn.execute(HERE)
    assert_swapped(*sessions)


@pytest.mark.parametrize("back", [BACK, "BEGIN; " + BACK + " COMMIT", "DROP TABLE inventory",
                                  "ALTER TABLE inventory RENAME TO spare",
                                  "CREATE SCHEMA aside; ALTER TABLE inventory SET SCHEMA aside"])  # fmt: skip
def test_once_the_other_table_gives_up_the_name_sales_go_on(conn, sessions, back):
    """Exchanged back, dropped or moved away: without a new attach, in every session, and the books are right."""
    copy(conn)
    conn.execute(AWAY + HERE)
    assert_swapped(*sessions)
    conn.execute(back)
    assert_sells(*sessions)
    table = "inventory" if "inventory_old RENAME" in back else "inventory_old"
    until(lambda: left(conn, THREE, table) == available(conn, THREE), "the row shows the total")
    audit(conn, table)


def test_a_swap_counts_within_its_own_transaction_and_is_undone_with_it(db, conn):
    copy(conn)
    session = db.connect(autocommit=False)
    sell(session, ONE, 1)
    session.execute("SAVEPOINT here")
    session.execute(AWAY + HERE)
    session.execute("SAVEPOINT swapped")
    for each in (ONE, THREE):
        assert refused_sale(session, each, 1).reason == "stock_table_swapped"
        session.execute("ROLLBACK TO swapped")
    session.execute("ROLLBACK TO here")
    sell(session, ONE, 1)
    session.execute(AWAY + HERE)
    session.rollback()
    assert_sells(session)


def test_a_sale_that_waits_for_the_swap_is_refused_by_it(db, conn, sessions):
    """The lock is had after the exchange was committed; the cached name is of before."""
    copy(conn)
    conn.execute("BEGIN")
    conn.execute(AWAY + HERE)
    waiting = sessions[1:]
    asides = [Aside(sell, session, ONE, 1) for session in waiting]
    until_waiting(db.connect(), *waiting)
    conn.execute("COMMIT")
    assert {aside.refusal().reason for aside in asides} == {"stock_table_swapped"}


def test_a_new_table_under_the_name_that_was_attached_is_a_swap_however_it_came_there(conn, sessions):
    """Made anew, moved in from another schema, of another kind; once the name is free, sales go on."""
    conn.execute(AWAY)
    for made in (
        "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer)",
        "CREATE TABLE inventory AS SELECT * FROM inventory_old",
        "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY HASH (id)",
        "CREATE UNLOGGED TABLE inventory ()",
        "CREATE SCHEMA other; CREATE TABLE other.inventory (); ALTER TABLE other.inventory SET SCHEMA public",
    ):
        conn.execute(made)
        assert_swapped(*sessions, items=(ONE,))
        conn.execute("DROP TABLE inventory")
        for session in sessions:
            sell(session, TWO, 1)


@pytest.mark.parametrize("move", [
    "ALTER TABLE store.inventory SET SCHEMA archive; ALTER TABLE fresh.inventory SET SCHEMA store",
    "ALTER SCHEMA store RENAME TO store_old; ALTER SCHEMA fresh RENAME TO store",
    "BEGIN; ALTER SCHEMA store RENAME TO store_old; ALTER SCHEMA fresh RENAME TO store; COMMIT",
])  # fmt: skip
def test_a_swap_by_moving_or_renaming_schemas_is_a_swap(db, move):
    conn, warm = db.connect(), db.connect()
    conn.execute("CREATE SCHEMA store; CREATE SCHEMA fresh; CREATE SCHEMA archive")
    shop(conn, {ONE: "10", TWO: "20", THREE: "30"}, table="store.inventory", type="integer")
    sell(warm, ONE, 1)
    copy(conn, "fresh.inventory", "store.inventory")
    conn.execute(move)
    assert_swapped(conn, warm, db.connect())


def test_a_schema_that_is_renamed_without_a_successor_is_followed(db):
    """And one that only looks like it is none: a table of that name in another schema, first in the search_path."""
    conn, warm = db.connect(), db.connect()
    conn.execute("CREATE SCHEMA store; CREATE SCHEMA decoy")
    shop(conn, {ONE: "100", TWO: "200", THREE: "300"}, table="store.inventory", type="integer")
    stripe(conn, THREE)
    assert_sells(conn, warm)
    conn.execute("ALTER SCHEMA store RENAME TO shop")
    conn.execute("CREATE TABLE decoy.inventory (id uuid PRIMARY KEY, amount integer)")
    warm.execute("SET search_path = decoy, public; CREATE TEMP TABLE inventory (id uuid PRIMARY KEY, quantity integer)")
    assert_sells(conn, warm, db.connect())
    conn.execute("CREATE SCHEMA store; CREATE TABLE store.other (id uuid)")
    assert_sells(conn, warm, db.connect())
    conn.execute("CREATE TABLE store.inventory (id uuid PRIMARY KEY, quantity integer)")
    assert_swapped(conn, warm, db.connect())


def test_names_that_are_not_tables_are_no_swap(conn, sessions):
    """A view of the old name is how applications are kept running through a rename; one table of the name ends it."""
    conn.execute("ALTER TABLE inventory RENAME TO stock")
    for made, gone in (
        ("CREATE VIEW inventory AS SELECT * FROM stock", "DROP VIEW inventory"),
        ("CREATE SEQUENCE inventory", "DROP SEQUENCE inventory"),
        ("CREATE TYPE inventory AS (id uuid)", "DROP TYPE inventory"),
        ("CREATE INDEX inventory ON stock (quantity)", "DROP INDEX inventory"),
        ("CREATE TEMP TABLE inventory (id uuid)", "DROP TABLE inventory"),
        ('CREATE TABLE "Inventory" (id uuid)', 'DROP TABLE "Inventory"'),
    ):
        conn.execute(made)
        assert_sells(*sessions)
        conn.execute(gone)
    stock_table(conn, {ONE: "1000"})
    assert_swapped(*sessions)
    assert left(conn, ONE) == 1000


@pytest.mark.parametrize("name", ["Stock Room", 'st"ock', "größe", "x" * 63, "%I.%s", "a.b"])
def test_any_name_is_watched(db, name):
    conn, warm = db.connect(), db.connect()
    quoted = '"' + name.replace('"', '""') + '"'
    conn.execute(f"CREATE TABLE {quoted} (id uuid PRIMARY KEY, quantity integer)")
    conn.execute(f"INSERT INTO {quoted} VALUES ('{ONE}', 10), ('{TWO}', 10)")
    conn.execute("SELECT attach_inventory((SELECT oid FROM pg_class WHERE relname = %s)::regclass)", (name,))
    sell(warm, ONE, 1)
    conn.execute(f"ALTER TABLE {quoted} RENAME TO moved")
    sell(warm, ONE, 1)
    conn.execute(f"CREATE TABLE {quoted} (id uuid)")
    assert_swapped(conn, warm, db.connect(), items=(ONE, TWO))


def test_detach_and_attach_of_the_new_table_loses_nothing(conn, sessions):
    """Stock, ledger, keys and the way back: the HINT is followed, and the new table goes on where the old one ended."""
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="before")
    copy(conn)
    conn.execute(AWAY + HERE)
    assert_swapped(*sessions)
    refusal = refused_attach(conn)
    assert (refusal.sqlstate, refusal.reason) == ("42P07", "companion_in_use")
    assert refusal.hint.startswith(
        "If the table takes the place of that one, call detach_inventory with that one first"
    )
    conn.execute("SELECT detach_inventory(%s::text::regclass)", (refusal.facts["attached"],))
    attach(conn)
    audit(conn)
    assert sum(stripes_of(conn, THREE).values()) in (0, 299)
    assert (left(conn, ONE), left(conn, TWO), available(conn, THREE)) == (15, 18, 299)
    for session in sessions:
        again = call(session, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="before")
        assert again["replayed"] is True
        sell(session, THREE, 1)
        sell(session, ONE, 1)
    assert keys_kept(conn) == ["before"]
    until(lambda: left(conn, THREE) == 296, "the row shows the total")
    audit(conn)
    assert stock_of(conn) == {ONE: 12, TWO: 18, THREE: 296}
    assert left(conn, ONE, "inventory_old") == 15


def test_units_sold_after_the_copy_was_made_do_not_come_back(db, conn):
    """The row of a striped item is behind its stripes when the copy is made: the copy must not win over the stripes."""
    conn.execute("BEGIN")
    sell(conn, THREE, 30)
    conn.execute("LOCK TABLE inventory IN ACCESS EXCLUSIVE MODE")
    conn.execute(COPY.format(new="inventory_new", old="inventory") + AWAY + HERE)
    conn.execute("COMMIT")
    assert left(conn, THREE) == 300
    assert refused_sale(db.connect(), THREE, 1).reason == "stock_table_swapped"
    detach(conn)
    attach(conn)
    assert available(conn, THREE) == 270
    audit(conn)


def test_detach_and_attach_of_the_old_table_under_its_new_name_goes_on(conn, sessions):
    """The other way out: the table that was attached is meant, not the one that has its name now."""
    conn.execute(AWAY)
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer)")
    assert_swapped(*sessions)
    detach(conn)
    # Its stripes have the former name, and the new table has not been attached: whose are they?
    refusal = refused_attach(conn, "inventory_old")
    assert (refusal.sqlstate, refusal.reason) == ("55000", "stripes_of_unknown")
    conn.execute(BACK)
    attach(conn)
    conn.execute(AWAY + HERE)
    detach(conn)
    attach(conn, "inventory_old")
    stripe(conn, THREE)
    assert_sells(*sessions)
    until(lambda: left(conn, THREE, "inventory_old") == available(conn, THREE), "the row shows the total")
    audit(conn, "inventory_old", "inventory_old_movement")
    conn.execute("ALTER TABLE inventory_old RENAME TO third; ALTER TABLE inventory RENAME TO inventory_old")
    assert_swapped(*sessions)


def test_a_second_swap_is_refused_like_the_first(conn, sessions):
    copy(conn)
    conn.execute(AWAY + HERE)
    detach(conn)
    attach(conn)
    conn.execute("DROP TABLE inventory_old")
    assert_sells(*sessions)
    copy(conn)
    conn.execute(AWAY + HERE)
    assert_swapped(*sessions)


@pytest.mark.parametrize("options", [{"p_ledger": False}, {"p_run_as": "caller"}])
def test_a_swap_is_refused_without_a_ledger_and_with_the_rights_of_the_caller(db, options):
    conn, warm = db.connect(), db.connect()
    shop(conn, {ONE: "10", TWO: "20"}, type="integer", **options)
    stripe(conn, TWO)
    sell(warm, ONE, 1)
    sell(warm, TWO, 1)
    conn.execute("CREATE TABLE inventory_new (id uuid PRIMARY KEY, quantity integer)")
    conn.execute(AWAY + HERE)
    assert_swapped(conn, warm, db.connect(), items=(ONE, TWO))
    assert stock_of(conn) == {}


def test_the_swap_of_a_partitioned_table_by_an_ordinary_one(db):
    conn, warm = db.connect(), db.connect()
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY HASH (id)")
    conn.execute("CREATE TABLE part PARTITION OF inventory FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    conn.execute(f"INSERT INTO inventory VALUES ('{ONE}', 10), ('{TWO}', 10)")
    attach(conn)
    sell(warm, ONE, 1)
    conn.execute("CREATE TABLE inventory_new AS SELECT * FROM inventory")
    conn.execute("ALTER TABLE inventory_new ADD PRIMARY KEY (id)")
    conn.execute(AWAY + HERE)
    assert_swapped(conn, warm, db.connect(), items=(ONE, TWO))
    detach(conn)
    attach(conn)
    sell(warm, ONE, 1)
    assert (left(conn, ONE), left(conn, ONE, "inventory_old")) == (8, 9)
    audit(conn)


def test_a_retry_is_not_answered_from_the_keys_of_a_swapped_table(conn, sessions):
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="k")
    copy(conn)
    conn.execute(AWAY + HERE)
    for session in sessions:
        answer = refused_call(session, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="k")
        assert answer.reason == "stock_table_swapped"


def test_a_guest_that_takes_the_name_of_a_renamed_schema_holds_up_no_sale(db):
    """Anybody who may create a schema could give it the former name of one, with a table of the same name."""
    admin = db.connect()
    anna = tenant(db, admin, "anna", {ONE: 10})
    guest = create_role(admin, db, "guest")
    admin.execute(f'ALTER SCHEMA anna RENAME TO shop; GRANT CREATE ON DATABASE "{db.name}" TO "{guest}"')
    warm = anna.session(path="shop")
    sell(warm, ONE, 1)
    db.connect(user=guest).execute("CREATE SCHEMA anna; CREATE TABLE anna.inventory (id uuid, quantity numeric)")
    for session in (warm, anna.session(path="shop"), anna.session(path="anna,shop")):
        sell(session, ONE, 1)
    admin.execute(f'DROP SCHEMA anna CASCADE; CREATE SCHEMA anna AUTHORIZATION "{anna.owner}"')
    db.connect(user=anna.owner).execute("CREATE TABLE anna.inventory (id uuid, quantity numeric)")
    assert refused_sale(warm, ONE, 1).reason == "stock_table_swapped"


def test_a_swap_by_a_member_of_the_owner_is_seen(db):
    """The new table belonged to the role that migrates, not to the owner, and the old one was sold from."""
    admin = db.connect()
    anna = tenant(db, admin, "anna", {ONE: 10})
    migrator = create_role(admin, db, "migrator")
    admin.execute(f'GRANT "{anna.owner}" TO "{migrator}"; ALTER SCHEMA anna OWNER TO postgres')
    admin.execute(f'GRANT ALL ON SCHEMA anna TO "{migrator}", "{anna.owner}"')
    session = db.connect(user=migrator)
    session.execute(
        "ALTER TABLE anna.inventory RENAME TO former; CREATE TABLE anna.inventory (id uuid, quantity numeric)"
    )
    assert refused_sale(anna.session(), ONE, 1).reason == "stock_table_swapped"
