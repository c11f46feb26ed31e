"""archive_movements moves closed history out of the ledger; balances, audits and sales stay what they were."""

import random
import threading
from decimal import Decimal

import psycopg
import pytest

from accountant import problems
from auditing import audit, digest, history, kinds, movements, past_the_triggers, verify
from books import audit as assert_books_agree
from shop import ONE, TWO, Aside, attach, create_role, item, refused, sell, shop, stock_of, until, until_waiting
from striped import available, stripe, unstripe

THREE, FOUR = item(3), item(4)
COLUMNS = """movement_id, inventory_id, stripe, kind, old_quantity, new_quantity, delta, reference, idempotency_key,
    actor, xact_id::text, occurred_at"""


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {key: "20.00" for key in (ONE, TWO, THREE, FOUR)})
    history(conn)
    return conn


def now(conn):
    return conn.execute("SELECT clock_timestamp()").fetchone()[0]


def archive(conn, before=None):
    """Archives what was written before a moment; the default is now."""
    return conn.execute("SELECT archive_movements(coalesce(%s, clock_timestamp()))", (before,)).fetchone()[0]


def rows(conn, table="inventory_movement"):
    return conn.execute(f"SELECT {COLUMNS} FROM {table} ORDER BY movement_id").fetchall()


def count(conn, table="inventory_movement"):
    return conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def stock_at(conn, key, moment):
    return conn.execute("SELECT inventory_at(%s, %s)", (str(key), moment)).fetchone()[0]


def assert_intact(conn, digests=()):
    """No run finds anything, and every digest still holds."""
    for full in (False, True, False):
        assert audit(conn, full=full) == []
    for kept in [*digests, digest(conn)]:
        assert verify(conn, kept) == []
    assert_books_agree(conn)


def test_what_is_old_and_sealed_goes_as_it_was_and_the_balance_is_left(conn):
    before, stock = rows(conn), stock_of(conn)
    moment = now(conn)
    sell(conn, ONE, 1)
    young = rows(conn)[-1]
    done = archive(conn, moment)
    assert (done["success"], done["movements"], done["chains"], done["discrepancies"]) == (True, 24, 4, 0)
    assert rows(conn, "inventory_movement_archive") == before
    *left, last = rows(conn)
    assert last == young
    wanted = {row[1]: (row[0], row[1], row[-1], row[5]) for row in before}
    assert [(row[0], row[1], row[-1], row[5]) for row in left] == [*wanted.values()]
    assert {(row[3], row[4]) for row in left} == {("opening", 0)}
    assert stock_of(conn) == {**stock, ONE: stock[ONE] - 1}
    kept = conn.execute("SELECT kind, checked_movements FROM inventory_audit WHERE run_id = %s", (done["run"],))
    assert kept.fetchone() == ("archive", 24)


def test_audits_and_digests_go_on(conn):
    audit(conn)
    digests = [digest(conn)]
    for _ in range(3):
        history(conn, sales=2)
        archive(conn)
        assert_intact(conn, digests)
        digests.append(digest(conn))
    sell(conn, ONE, 1)
    assert_intact(conn, digests)


def test_a_digest_from_before_an_archiving_holds(conn):
    digests = []
    for _ in range(3):
        audit(conn)
        digests.append(digest(conn))
        archive(conn)
        history(conn, sales=1)
    assert [verify(conn, kept) for kept in digests] == [[]] * 3


def test_what_was_archived_is_still_compared_with_what_was_sealed(conn):
    archive(conn)
    [(number,)] = conn.execute(
        "SELECT movement_id FROM inventory_movement_archive WHERE inventory_id = %s ORDER BY 1 OFFSET 2 LIMIT 1", (TWO,)
    ).fetchall()
    past_the_triggers(conn, f"UPDATE inventory_movement_archive SET actor = 'nobody' WHERE movement_id = {number}")
    assert kinds(conn, full=True) == ["altered_movement"]
    assert verify(conn, digest(conn)) == [("altered_movement", number, str(TWO))]


def test_a_balance_that_was_left_and_altered_is_found(conn):
    archive(conn)
    past_the_triggers(conn, f"UPDATE inventory_movement SET new_quantity = 12 WHERE inventory_id = '{TWO}'",
                      f"UPDATE inventory SET quantity = 12 WHERE id = '{TWO}'")  # fmt: skip
    assert "altered_movement" in kinds(conn, full=True)


def test_young_movements_stay(conn):
    moment = now(conn)
    young = movements(conn)
    history(conn, sales=3)
    archive(conn, moment)
    left = movements(conn)
    assert {key: chain[1:] for key, chain in left.items()} == {
        key: chain[6:] for key, chain in movements_of_both(conn).items()
    }
    assert {key: chain[0] for key, chain in left.items()} == {key: chain[-1] for key, chain in young.items()}


def movements_of_both(conn):
    both = "SELECT inventory_id, movement_id FROM inventory_movement{}"
    sql = f"SELECT inventory_id::text, array_agg(movement_id) FROM ({both} UNION {both} ORDER BY 2) AS m GROUP BY 1"
    return dict(conn.execute(sql.format("", "_archive")).fetchall())


def test_archiving_twice_leaves_nothing_more_to_do(conn):
    archive(conn)
    before = [rows(conn), rows(conn, "inventory_movement_archive")]
    done = archive(conn)
    assert (done["movements"], done["chains"]) == (0, 0)
    assert [rows(conn), rows(conn, done["archive"])] == before
    assert_intact(conn)


def test_a_second_archiving_keeps_the_originals_of_the_first(conn):
    archive(conn)
    first = rows(conn, "inventory_movement_archive")
    history(conn, sales=2)
    sold = [row for row in rows(conn) if row[3] == "sale"]
    archive(conn)
    assert rows(conn, "inventory_movement_archive") == first + sold
    assert_intact(conn)


def test_stock_at_every_moment_after_the_boundary_is_what_it_was(conn):
    boundary = now(conn)
    model = [(boundary, stock_of(conn))]
    for key in (ONE, TWO, ONE, THREE):
        sell(conn, key, 1)
        model.append((now(conn), stock_of(conn)))
    archive(conn, boundary)
    for moment, stock in model:
        assert {key: stock_at(conn, key, moment) for key in stock} == stock, moment


def test_stock_before_the_boundary_is_what_it_was_as_long_as_the_archive_is_there(db):
    conn = db.connect()
    shop(conn, {ONE: "20.00", TWO: "20.00"})
    model = [(now(conn), stock_of(conn))]
    for _ in range(4):
        sell(conn, ONE, 1)
        model.append((now(conn), stock_of(conn)))
    archive(conn)
    for moment, stock in model:
        assert stock_at(conn, ONE, moment) == stock[ONE], "NULL would say that the item was not there"


def test_goods_that_were_counted_before_the_boundary(conn):
    moment = now(conn)
    sell(conn, ONE, 3)
    archive(conn)
    counted = conn.execute("SELECT adjust_inventory(%s, 14, p_counted_at => %s)", (str(ONE), moment)).fetchone()[0]
    assert (counted["new_quantity"], counted["adjusted"]) == (11, -1)


def follow(conn, wanted, after=None):
    """Polls inventory_changes until so many movements were returned; gives their numbers and the next position."""
    read, sql = [], "SELECT inventory_changes(%s, 10)"

    def polled():
        nonlocal after
        page = conn.execute(sql, (after and psycopg.types.json.Json(after),)).fetchone()[0]
        read.extend(change["movement_id"] for change in page["changes"])
        after = page["next"]
        return len(read) >= wanted

    until(polled, f"{wanted} movements are returned")
    return read, after


def test_a_reader_of_changes_that_is_behind_the_archive_loses_no_movement(conn):
    """What was archived is either returned or the reader is told so; it is not left out in silence."""
    wanted = [row[0] for row in rows(conn)]
    read, after = follow(conn, 10)
    archive(conn)
    try:
        assert read + follow(conn, len(wanted) - len(read), after)[0] == wanted
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        assert "archive" in error.diag.message_detail


def test_a_reader_of_changes_goes_on_after_the_archive(conn):
    read, after = follow(conn, 24)
    archive(conn)
    sell(conn, ONE, 1)
    assert follow(conn, 1, after)[0] == [rows(conn)[-1][0]]


def test_sales_that_were_archived_are_no_mistakes(conn):
    conn.execute("CREATE TABLE orders (number text, item uuid, units integer)")
    for number in range(3):
        conn.execute("INSERT INTO orders VALUES (%s, %s, 1)", (f"order {number}", TWO))
        conn.execute("SELECT decrement_item(%s, 1, %s)", (str(TWO), f"order {number}"))
    sql = "SELECT kind, reference FROM audit_sales('orders', 'number', 'item', 'units')"
    assert conn.execute(sql).fetchall() == []
    archive(conn)
    assert conn.execute(sql).fetchall() == []


def test_striped_items(conn):
    stripe(conn, ONE, 3)
    for _ in range(6):
        sell(conn, ONE, 1)
    moment, held = now(conn), available(conn, ONE)
    sell(conn, ONE, 1)
    archive(conn, moment)
    assert stock_at(conn, ONE, moment) == held
    assert_striped_intact(conn, held - 1)
    for _ in range(3):
        sell(conn, ONE, 1)
    archive(conn)
    assert_striped_intact(conn, held - 4)
    unstripe(conn, ONE)
    archive(conn)
    assert_intact(conn)
    stripe(conn, ONE, 5)
    sell(conn, ONE, 1)
    archive(conn)
    assert_striped_intact(conn, held - 5)


def assert_striped_intact(conn, held):
    assert available(conn, ONE) == stock_at(conn, ONE, now(conn)) == held
    for full in (False, True):
        assert audit(conn, full=full) == []
    assert verify(conn, digest(conn)) == []
    assert problems(conn) == []


def test_items_that_were_deleted_stay_deleted(conn):
    conn.execute(f"DELETE FROM inventory WHERE id = '{FOUR}'")
    archive(conn)
    [last] = [row for row in rows(conn) if row[1] == FOUR]
    assert (last[3], last[4], last[5]) == ("closing", 0, 0)
    assert stock_at(conn, FOUR, now(conn)) is None
    assert_intact(conn)
    conn.execute(f"INSERT INTO inventory VALUES ('{FOUR}', 3)")
    assert_intact(conn)
    archive(conn)
    assert stock_at(conn, FOUR, now(conn)) == 3
    assert_intact(conn)


def test_what_comes_after_a_break_stays(conn):
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'")
    sell(conn, TWO, 1)
    sell(conn, TWO, 1)
    chain = movements(conn)[str(TWO)]
    found = audit(conn)
    assert [one[0] for one in found] == ["broken_chain"]
    done = archive(conn)
    assert done["discrepancies"] == 1
    assert movements(conn)[str(TWO)] == chain[-3:], "the balance before the break, and what is not verified"
    for full in (False, True):
        assert audit(conn, full=full) == found
    conn.execute("SELECT reconcile_inventory(%s, p_apply => true)", (str(TWO),))
    archive(conn)
    assert movements(conn)[str(TWO)] == chain[-1:]
    assert [audit(conn, full=full) for full in (False, True)] == [[], []]


def test_a_drift_is_reported_after_as_before(conn):
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'")
    found = audit(conn)
    assert archive(conn)["discrepancies"] == 1
    for full in (False, True):
        assert audit(conn, full=full) == found


@pytest.mark.parametrize("times", [1, 2])
def test_without_the_archive_there_is_no_false_alarm(conn, times):
    for _ in range(times):
        archive(conn)
        history(conn, sales=2)
    conn.execute("DROP TABLE inventory_movement_archive")
    for full in (False, True):
        assert audit(conn, full=full) == []
    assert verify(conn, digest(conn)) == []
    assert_books_agree(conn)


def test_archiving_again_after_the_archive_was_dropped(conn):
    for _ in range(3):
        archive(conn)
        conn.execute("DROP TABLE inventory_movement_archive")
        history(conn, sales=2)
    archive(conn)
    for full in (False, True):
        assert audit(conn, full=full) == []
    assert verify(conn, digest(conn)) == []
    conn.execute("DROP TABLE inventory_movement_archive")
    assert_intact(conn)


def test_an_archive_that_was_renamed_to_keep_it(conn):
    archive(conn)
    conn.execute("ALTER TABLE inventory_movement_archive RENAME TO archive_of_last_year")
    history(conn, sales=2)
    assert_intact(conn)
    archive(conn)
    assert count(conn, "archive_of_last_year") == 24
    assert_intact(conn)


def test_a_transaction_that_was_rolled_back_archives_nothing(db, conn):
    before = rows(conn)
    with db.connect(autocommit=False) as other:
        archive(other)
        other.rollback()
    assert rows(conn) == before
    assert conn.execute("SELECT to_regclass('inventory_movement_archive')").fetchone() == (None,)
    assert_intact(conn)


def test_a_movement_that_is_not_yet_committed_stays(db, conn):
    with db.connect(autocommit=False) as late:
        sell(late, ONE, 1)
        archive(conn)
        late.commit()
    assert movements(conn)[str(ONE)][1:] == [max(movements(conn)[str(ONE)])]
    assert_intact(conn)


def test_a_sale_does_not_wait_for_an_archiving_that_is_not_committed(db, conn):
    with db.connect(autocommit=False) as accountant, db.connect() as seller:
        archive(accountant)
        seller.execute("SET lock_timeout = '2s'")
        for key in (ONE, TWO):
            sell(seller, key, 1)
        accountant.commit()
    assert_intact(conn)


@pytest.mark.parametrize("call", ["archive_movements(now())", "count(*) FROM audit_inventory()"])
def test_a_transaction_whose_snapshot_is_older_than_the_last_sales(db, conn, call):
    audit(conn)
    with db.connect(autocommit=False) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT count(*) FROM inventory")
        sell(conn, ONE, 1)
        sell(conn, TWO, 1)
        try:
            old.execute(f"SELECT {call}")
            old.commit()
        except psycopg.Error:  # it may be refused
            old.rollback()
    assert_intact(conn)


@pytest.mark.parametrize(("type", "key"), [("bigint", 9007199254740993), ("text", 'O\'Brien "Ü"')])
def test_ids_of_other_types(db, type, key):
    conn = db.connect()
    conn.execute(f"CREATE TABLE inventory (id {type} PRIMARY KEY, quantity integer)")
    conn.execute("INSERT INTO inventory VALUES (%s, 20)", (key,))
    attach(conn)
    for _ in range(3):
        conn.execute("SELECT decrement_item(%s, 1, 'order Ü')", (str(key),))
    before = rows(conn)
    assert archive(conn)["movements"] == 4
    assert rows(conn, "inventory_movement_archive") == before
    assert_intact(conn)


def test_two_archivings_at_once(db, conn):
    with db.connect(autocommit=False) as one, db.connect() as other:
        archive(one)
        waiting = Aside(archive, other)
        until_waiting(conn, other)
        one.commit()
        assert waiting.result()["movements"] == 0
    assert_intact(conn)


def sell_until(db, over, sold, errors):
    """Sells one unit again and again, of an item that chance picks."""
    try:
        with db.connect() as session:
            while not over.is_set():
                key = item(random.randint(1, 4))
                sell(session, key, "0.01")
                sold.append(key)
    except Exception as error:  # shown by the test
        errors.append(error)


def selling(db, act, sessions=4):
    """Runs `act` while sessions sell, and returns what they have sold."""
    over, sold, errors = threading.Event(), [], []
    threads = [threading.Thread(target=sell_until, args=(db, over, sold, errors)) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    try:
        act()
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert errors == []
    return sold


def test_sales_go_on_while_history_is_archived(db):
    conn = db.connect()
    shop(conn, {item(number): "100000.00" for number in range(1, 5)})
    stripe(conn, ONE, 3)
    left = []

    def work():
        for turn in range(12):
            left.append(archive(conn)["movements"])
            assert kinds(conn, full=turn % 4 == 3) == []

    sold = selling(db, work)
    assert sum(left) > 0
    for number in range(1, 5):
        assert available(conn, item(number)) == Decimal("100000.00") - Decimal("0.01") * sold.count(item(number))
    assert problems(conn) == []
    for full in (False, True):
        assert audit(conn, full=full) == []
    kept = "SELECT count(*) FROM (SELECT movement_id FROM {} WHERE kind = 'sale') AS m"
    parts = [conn.execute(kept.format(f"inventory_movement{suffix}")).fetchone()[0] for suffix in ("", "_archive")]
    assert sum(parts) == len(sold), "every sale is in the ledger or in the archive"


def test_attach_again_after_an_archiving_records_nothing(conn):
    archive(conn)
    before = rows(conn)
    conn.execute("SELECT detach_inventory()")
    attach(conn)
    assert rows(conn) == before
    sell(conn, ONE, 1)
    assert_intact(conn)


LEDGER_TABLES = ("movement", "movement_archive", "audit", "audit_chain", "audit_segment")


def rename_away(conn, turn):
    """The ledger, its audit and its archive go together; the next attach begins a new ledger."""
    with conn.transaction():
        conn.execute("LOCK TABLE inventory IN ACCESS EXCLUSIVE MODE")
        conn.execute("SELECT detach_inventory()")
        for table in LEDGER_TABLES:
            conn.execute(f"ALTER TABLE IF EXISTS inventory_{table} RENAME TO old{turn}_{table}")
        attach(conn)


def test_a_ledger_that_was_renamed_away_leaves_a_new_one_that_is_right(conn):
    audit(conn)
    archive(conn)
    sell(conn, ONE, 1)
    before, stock = rows(conn), stock_of(conn)
    rename_away(conn, 1)
    assert rows(conn, "old1_movement") == before
    assert {row[1]: row[5] for row in rows(conn)} == stock
    assert {row[3] for row in rows(conn)} == {"opening"}
    assert_intact(conn)
    history(conn, sales=1)
    archive(conn)
    assert_intact(conn)


def test_a_ledger_that_is_renamed_away_under_load_loses_nothing(db):
    conn = db.connect()
    shop(conn, {item(number): "100000.00" for number in range(1, 5)})

    def work():
        for turn in range(1, 6):
            assert kinds(conn) == []
            archive(conn)
            rename_away(conn, turn)

    sold = selling(db, work)
    assert len(sold) > 0
    assert_intact(conn)
    assert problems(conn) == []
    tables = [table for (table,) in conn.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND "
                                                 "relname ~ '_movement(_archive)?$'").fetchall()]  # fmt: skip
    sales = [conn.execute(f"SELECT count(*) FROM {table} WHERE kind = 'sale'").fetchone()[0] for table in tables]
    assert sum(sales) == len(sold)
    for turn in range(1, 6):
        ends = "SELECT inventory_id, (array_agg(new_quantity ORDER BY movement_id DESC))[1] FROM {} GROUP BY 1"
        begins = "SELECT inventory_id, new_quantity FROM {} WHERE kind = 'opening' AND reference IS NULL"
        # The opening of an item that was not sold since stays in the ledger: nothing is archived of it.
        following = (
            [f"old{turn + 1}_movement_archive", f"old{turn + 1}_movement"] if turn < 5 else ["inventory_movement"]
        )
        opened = [opening for table in following for opening in conn.execute(begins.format(table)).fetchall()]
        assert sorted(opened) == sorted(conn.execute(ends.format(f"old{turn}_movement")).fetchall())


def assert_archives_all_or_nothing(conn, ledger="inventory_movement"):
    """What leaves the ledger is in the archive, as it was; or the call is refused."""
    before = rows(conn, ledger)
    try:
        done = archive(conn)
    except psycopg.Error:
        assert rows(conn, ledger) == before
        return
    archived = rows(conn, done["archive"])
    assert [row for row in before if row not in archived and row not in rows(conn, ledger)] == [], "they are lost"


def test_an_archive_that_was_left_beside_a_new_ledger_swallows_no_movement(conn):
    archive(conn)
    conn.execute("ALTER TABLE inventory_movement_archive RENAME TO kept")
    rename_away(conn, 1)
    conn.execute("ALTER TABLE kept RENAME TO inventory_movement_archive")
    history(conn, sales=2)
    assert_archives_all_or_nothing(conn)


def test_two_stock_tables_with_long_names_do_not_share_an_archive(db):
    conn = db.connect()
    for table in (f"{'x' * 46}1", f"{'x' * 46}2"):
        shop(conn, {ONE: "20.00"}, table=table)
        conn.execute(f"SET inventory_ext.stock_table = {table}")
        sell(conn, ONE, 1)
        assert audit(conn) == []
        assert_archives_all_or_nothing(conn, f"{table}_movement")


def test_stock_tables_with_long_names_that_can_be_attached_can_be_audited(db):
    conn = db.connect()
    for table in (f"{'x' * 49}1", f"{'x' * 49}2"):
        shop(conn, {ONE: "20.00"}, table=table)
        conn.execute(f"SET inventory_ext.stock_table = {table}")
        assert [audit(conn), audit(conn, full=True)] == [[], []]


def test_malformed_arguments(conn):
    assert refused(conn, "SELECT archive_movements(NULL)").sqlstate == "22004"
    for moment in ("'infinity'", "clock_timestamp() + interval '1 minute'"):
        error = refused(conn, f"SELECT archive_movements({moment})")
        assert (error.sqlstate, error.reason) == ("22023", "future")
    assert archive(conn, "-infinity")["movements"] == 0


def test_a_relation_in_the_place_of_the_archive(conn):
    conn.execute("CREATE TABLE inventory_movement_archive (note text)")
    before = rows(conn)
    assert refused(conn, "SELECT archive_movements(now())").sqlstate == "42P07"
    assert rows(conn) == before


def test_only_a_member_of_the_owner_archives(db, conn):
    owner, member, guest = (create_role(conn, db, name) for name in ("owner", "member", "guest"))
    conn.execute(f'GRANT "{owner}" TO "{member}"')
    conn.execute(f'GRANT CREATE ON SCHEMA public TO "{owner}"')
    for (table,) in conn.execute("SELECT oid::regclass::text FROM pg_class WHERE relname LIKE 'inventory%' AND "
                                 "relkind = 'r' AND relname NOT IN ('inventory_attachment', 'inventory_sharing')"
                                 ).fetchall():  # fmt: skip
        conn.execute(f'ALTER TABLE {table} OWNER TO "{owner}"')
    conn.execute(f'GRANT EXECUTE ON FUNCTION archive_movements TO "{member}", "{guest}"')
    with db.connect(guest) as session:
        error = refused(session, "SELECT archive_movements(now())")
        assert (error.sqlstate, error.reason) == ("42501", "not_owner")
    with db.connect(member) as session:
        assert archive(session)["movements"] == 24
    facts = "SELECT pg_get_userbyid(relowner), relacl FROM pg_class WHERE relname = 'inventory_movement_archive'"
    assert conn.execute(facts).fetchone() == (owner, None)
    assert {row[9] for row in rows(conn)} == {member}


def test_a_read_only_session_and_a_shop_without_a_ledger(db, conn):
    with db.connect() as reader:
        reader.execute("SET default_transaction_read_only = on")
        assert refused(reader, "SELECT archive_movements(now())").sqlstate == "25006"
    conn.execute("SELECT detach_inventory()")
    attach(conn, p_ledger=False)
    error = refused(conn, "SELECT archive_movements(now())")
    assert (error.sqlstate, error.reason) == ("55000", "no_ledger")
