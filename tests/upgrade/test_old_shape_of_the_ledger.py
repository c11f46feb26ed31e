"""From 0.2.0 to 0.3.0: a ledger with the indexes of 0.2.0 is written as before, and gets the new ones by a script.

shop-0.2.0.dump is what pg_dump wrote of a shop that a build of that version ran: a ledger, keys, a striped item, and a
second table with bigint ids. inventory_ext--0.2.0.sql is the installation script of that build.
"""

import subprocess
import threading
from pathlib import Path

import psycopg
import pytest

from books import audit, call, order
from public_api import EXPECTED, public_api
from shop import attach, refused

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "sql/rebuild_ledger.sql"
NAILS, SCREWS, HOOKS = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
LEDGER = "shop.inventory_movement"
OLD = ["UNIQUE btree (movement_id) primary", "btree (inventory_id, movement_id)"]
NEW = ["UNIQUE btree (inventory_id, movement_id) primary", "brin (movement_id)", "brin (occurred_at)"]


@pytest.fixture
def old(db):
    """A session in a database of 0.2.0 with the shop."""
    with db.connect() as conn:
        conn.execute("DROP EXTENSION inventory_ext")
        conn.execute("DO $$ BEGIN CREATE ROLE keeper; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        conn.execute("CREATE EXTENSION inventory_ext VERSION '0.2.0'")
    psql(db, HERE / "shop-0.2.0.dump")
    return db.connect(options="-c inventory_ext.stock_table=shop.inventory")


def psql(db, script, *options, fails=False):
    command = ["psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", db.name, *options, "-f", script]
    done = subprocess.run(command, env=db.server.env(), capture_output=True, text=True)
    assert fails or (done.returncode, done.stderr) == (0, ""), done.stderr
    return done


def rebuild(db, ledger=LEDGER, **options):
    return psql(db, SCRIPT, "-v", f"ledger={ledger}", **options)


def indexes(conn, ledger=LEDGER):
    found = conn.execute(
        "SELECT concat_ws(' ', CASE WHEN indisunique THEN 'UNIQUE' END,"
        " regexp_replace(pg_get_indexdef(indexrelid), '.* USING ([^)]*\\)).*', '\\1'),"
        " CASE WHEN indisprimary THEN 'primary' END, CASE WHEN NOT indisvalid THEN 'invalid' END)"
        " FROM pg_index WHERE indrelid = %s::regclass",
        (ledger,),
    ).fetchall()
    return sorted(
        (definition for (definition,) in found), key=lambda each: ("brin" in each, "UNIQUE" not in each, each)
    )


def updated(conn):
    conn.execute("ALTER EXTENSION inventory_ext UPDATE")
    return conn


def sell_in_all_ways(conn):
    assert call(conn, "decrement_item", p_item=NAILS, p_quantity="0.25")["success"]
    order(conn, (NAILS, "0.25"), (SCREWS, "0.25"), (HOOKS, 3))
    call(conn, "restock_inventory", p_inventory_id=NAILS, p_quantity=1)
    call(conn, "decrement_item", p_item=HOOKS, p_quantity=2)
    conn.execute("UPDATE shop.inventory SET quantity = quantity + 1 WHERE name = 'screws'")


def test_the_old_shape_is_sold_from_after_the_update(old):
    """Before it every call says what is to be done."""
    refusal = refused(old, "SELECT decrement_item(%s, 1)", (NAILS,))
    assert refusal.reason == "outdated" and refusal.hint.startswith("Run ALTER EXTENSION inventory_ext UPDATE")
    notices = []
    old.add_notice_handler(lambda notice: notices.append((notice.message_primary, notice.message_hint)))
    updated(old)
    assert [message for message, _ in notices] == [
        "ledgers with the indexes of 0.2.0: shop.inventory_movement, shop.shelf_movement"
    ]
    assert "docs/ledger.md" in notices[0][1]
    sell_in_all_ways(old)
    assert indexes(old) == OLD
    old.execute("SELECT detach_inventory('shop.inventory'::regclass)")
    attach(old, "shop.inventory")
    sell_in_all_ways(old)
    assert indexes(old) == OLD
    old.execute("SELECT unstripe_inventory(%s::uuid)", (HOOKS,))
    audit(old, "shop.inventory", LEDGER)


def test_the_catalog_is_that_of_a_fresh_installation(db):
    with db.connect() as conn:
        conn.execute("DROP EXTENSION inventory_ext; CREATE EXTENSION inventory_ext VERSION '0.2.0'")
        assert public_api(updated(conn)) == EXPECTED.read_text()


def test_the_rebuilt_ledger_has_the_indexes_of_a_new_one(old, db):
    updated(old)
    rebuild(db)
    rebuild(db, "shop.shelf_movement")
    assert indexes(old) == indexes(old, "shop.shelf_movement") == NEW
    old.execute("CREATE TABLE shop.new (id uuid PRIMARY KEY, quantity integer)")
    attach(old, "shop.new")
    assert indexes(old, "shop.new_movement") == NEW
    sell_in_all_ways(old)
    old.execute("SELECT unstripe_inventory(%s::uuid)", (HOOKS,))
    audit(old, "shop.inventory", LEDGER)


def test_a_second_run_changes_nothing(old, db):
    rebuild(db)
    before = old.execute(
        "SELECT indexrelid FROM pg_index WHERE indrelid = %s::regclass ORDER BY 1", (LEDGER,)
    ).fetchall()
    rebuild(db)
    after = old.execute(
        "SELECT indexrelid FROM pg_index WHERE indrelid = %s::regclass ORDER BY 1", (LEDGER,)
    ).fetchall()
    assert before == after and len(after) == 3


def test_the_owner_of_the_shop_can_rebuild(old, db):
    psql(db, SCRIPT, "-v", f"ledger={LEDGER}", "-c", "SET ROLE keeper")
    assert indexes(old) == NEW


@pytest.mark.parametrize("path", ["auto", "sql"])
def test_sales_go_on_while_the_ledger_is_rebuilt(old, db, path):
    updated(old)
    old.execute("UPDATE shop.inventory SET quantity = 100000 WHERE name <> 'hooks'")
    call(old, "restock_inventory", p_inventory_id=HOOKS, p_quantity=100000)
    over, sold, errors = threading.Event(), [], []

    def till():
        options = f"-c inventory_ext.stock_table=shop.inventory -c inventory_ext.write_path={path}"
        with db.connect(options=options) as session:
            while not over.is_set():
                try:
                    sell_in_all_ways(session)
                    sold.append(1)
                except psycopg.Error as error:
                    errors.append(error)
                    return

    tills = [threading.Thread(target=till) for _ in range(4)]
    for each in tills:
        each.start()
    try:
        rebuild(db)
        begun = len(sold)
        while len(sold) < begun + 20 and not errors:
            over.wait(0.01)
    finally:
        over.set()
        for each in tills:
            each.join()
    assert not errors
    assert indexes(old) == NEW
    old.execute("SELECT unstripe_inventory(%s::uuid)", (HOOKS,))
    audit(old, "shop.inventory", LEDGER)
    old.execute("CREATE EXTENSION amcheck")
    old.execute("SELECT bt_index_check(%s::regclass, true)", ("shop.inventory_movement_pkey",))


def test_a_run_that_was_interrupted_is_continued(old, db):
    """The build of an index waits for a transaction that sells, is broken off, and leaves an invalid index."""
    updated(old)
    old.execute("BEGIN")
    sell_in_all_ways(old)
    builder = subprocess.Popen(
        ["psql", "-X", "-q", "-d", db.name, "-v", f"ledger={LEDGER}", "-f", SCRIPT], env=db.server.env()
    )
    watcher = db.connect()
    building = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE UNIQUE INDEX CONCURRENTLY%%' AND %s"
    waiting = "wait_event_type = 'Lock'"
    while not (found := watcher.execute(building.replace("%s", waiting)).fetchall()):
        assert builder.poll() is None
    watcher.execute("SELECT pg_cancel_backend(%s)", found[0])
    assert builder.wait() != 0
    old.execute("COMMIT")
    assert any("invalid" in each for each in indexes(old))
    sell_in_all_ways(old)
    rebuild(db)
    assert indexes(old) == NEW
    sell_in_all_ways(old)


def test_a_long_transaction_stops_the_script_and_not_the_sales(old, db):
    """The primary key is changed last. Who waits for that lock makes every sale wait behind it: two seconds at most."""
    updated(old)
    psql(db, SCRIPT, "-v", f"ledger={LEDGER}")
    key = "DROP CONSTRAINT inventory_movement_pkey, ADD PRIMARY KEY (movement_id)"
    old.execute(f"ALTER TABLE shop.inventory_movement {key}")
    old.execute("CREATE UNIQUE INDEX of_another_name ON shop.inventory_movement (inventory_id, movement_id)")
    reader, other = db.connect(), db.connect(options="-c inventory_ext.stock_table=shop.inventory")
    reader.execute("BEGIN; SELECT count(*) FROM shop.inventory_movement")
    failed = rebuild(db, fails=True)
    assert failed.returncode == 3 and "lock timeout" in failed.stderr
    sell_in_all_ways(other)
    reader.execute("COMMIT")
    rebuild(db)
    assert indexes(old) == NEW


def test_a_foreign_key_to_the_number_of_a_movement_stops_the_script(old, db):
    updated(old)
    old.execute(f"CREATE TABLE shop.note (movement_id bigint REFERENCES {LEDGER}, text text)")
    failed = rebuild(db, fails=True)
    assert failed.returncode == 3 and "other objects depend on it" in failed.stderr
    assert OLD[0] in indexes(old)
    sell_in_all_ways(old)
