"""Only the triggers of the stock table write the ledger, and nothing is ever changed or taken out of it.

Not the owner and not a superuser, but for a superuser who turns triggers off for the session, as a restore does.
Detached, the ledger stays guarded; attached again, it goes on. Also: which tables attach makes, and what it finds in
their place.
"""

import psycopg
import pytest

from books import audit, call, last_movement, movements, steps
from shop import (
    ONE,
    TWO,
    attach,
    create_role,
    fill,
    item,
    left,
    refused,
    refused_attach,
    sell,
    shop,
    stock_of,
    stock_table,
)

FORGED = "(inventory_id, kind, old_quantity, new_quantity, actor) VALUES (gen_random_uuid(), 'sale', 1, 0, 'nobody')"
ATTACKS = {
    "INSERT": [
        f"INSERT INTO inventory_movement {FORGED}",
        f"INSERT INTO inventory_movement {FORGED} ON CONFLICT DO NOTHING",
        "INSERT INTO inventory_movement (inventory_id, kind, old_quantity, new_quantity, actor) "
        "SELECT inventory_id, kind, 1, 2, actor FROM inventory_movement WHERE false",
        "MERGE INTO inventory_movement USING (VALUES (1)) AS v ON false "
        "WHEN NOT MATCHED THEN INSERT (inventory_id, kind, old_quantity, new_quantity, actor) "
        "VALUES (gen_random_uuid(), 'sale', 1, 0, 'nobody')",
        f"WITH forged AS (INSERT INTO inventory_movement {FORGED} RETURNING *) SELECT * FROM forged",
    ],
    "UPDATE": [
        "UPDATE inventory_movement SET actor = 'somebody else'",
        "UPDATE inventory_movement SET new_quantity = 0 WHERE false",
        "MERGE INTO inventory_movement AS m USING (VALUES (1)) AS v (id) ON m.movement_id = v.id "
        "WHEN MATCHED THEN UPDATE SET new_quantity = 0",
    ],
    "DELETE": [
        "DELETE FROM inventory_movement",
        "MERGE INTO inventory_movement AS m USING (VALUES (1)) AS v (id) ON m.movement_id = v.id WHEN MATCHED THEN "
        "DELETE",
    ],
    "TRUNCATE": ["TRUNCATE inventory_movement", "TRUNCATE inventory_movement CASCADE"],
}
COPY = "COPY inventory_movement (inventory_id, kind, old_quantity, new_quantity, actor) FROM STDIN"


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "10.00", TWO: "5.00"})
    sell(conn, ONE, 1)
    return conn


@pytest.fixture
def owner(db, conn):
    """The owner of the stock table, no superuser."""
    name = create_role(conn, db, "owner")
    conn.execute(
        f'GRANT CREATE ON SCHEMA public TO "{name}"; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{name}"'
    )
    conn.execute(
        "SELECT detach_inventory(); DROP TABLE inventory, inventory_movement, inventory_request, "
        "inventory_stripe, inventory_stripe_total"
    )
    owner = db.connect(user=name)
    shop(owner, {ONE: "10.00", TWO: "5.00"})
    sell(owner, ONE, 1)
    return owner


def attack(session):
    """Tries everything that would write the ledger; all of it must be refused in the same words."""
    for operation, statements in ATTACKS.items():
        for sql in statements:
            answer = refused(session, sql)
            assert (answer.sqlstate, answer.message) == ("55000", "the ledger is append-only"), sql
            assert answer.facts == {"reason": "ledger_protected", "operation": operation, "table": "inventory_movement"}
            assert answer.hint
    with pytest.raises(psycopg.Error, match="the ledger is append-only"):
        with session.cursor().copy(COPY) as copy:
            copy.write_row((ONE, "sale", 1, 0, "nobody"))


@pytest.mark.parametrize("role", ["superuser", "owner"])
def test_no_role_writes_the_ledger(request, conn, role):
    """Before, between and after sales; the ledger is as it was, and goes on."""
    session = conn if role == "superuser" else request.getfixturevalue("owner")
    before = movements(session)
    attack(session)
    assert movements(session) == before
    sell(session, ONE, 1)
    attack(session)
    assert steps(session, ONE)[-2:] == [("sale", 10, 9), ("sale", 9, 8)]
    audit(session)


def test_a_trigger_on_the_ledger_cannot_forge_a_movement(owner):
    """While a movement is written the guard is open for that movement alone: even the owner's own trigger adds none."""
    forge = f"INSERT INTO inventory_movement {FORGED}"
    for timing, each in (("BEFORE", "ROW"), ("AFTER", "ROW"), ("BEFORE", "STATEMENT"), ("AFTER", "STATEMENT")):
        owner.execute(
            f"CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {forge}; RETURN NEW; END $$;"
            f"CREATE TRIGGER forge {timing} INSERT ON inventory_movement FOR EACH {each} "
            "WHEN (pg_trigger_depth() < 2) EXECUTE FUNCTION forge()"
        )
        for sql in (f"SELECT decrement_inventory('{ONE}', 1)", "UPDATE inventory SET quantity = quantity + 1"):
            assert refused(owner, sql).reason == "ledger_protected", (timing, each, sql)
        owner.execute("DROP FUNCTION forge CASCADE")
    audit(owner)


def test_only_a_superuser_turns_the_guard_off(conn, owner):
    """session_replication_role = replica, as a restore or a replica does; never the owner."""
    assert refused(owner, "SET session_replication_role = replica").sqlstate == "42501"
    conn.execute("SET session_replication_role = replica")
    conn.execute("UPDATE inventory_movement SET actor = 'corrected' WHERE kind = 'sale'")
    conn.execute(f"INSERT INTO inventory_movement {FORGED}")
    conn.execute("DELETE FROM inventory_movement WHERE actor = 'nobody'")
    conn.execute("RESET session_replication_role")
    assert [m.actor for m in movements(conn) if m.kind == "sale"] == ["corrected"]
    attack(conn)


def test_a_stranger_sees_and_touches_nothing(db, conn):
    """The ledger and the keys are their owner's; grants are the owner's to give."""
    clerk = create_role(conn, db, "clerk")
    till = db.connect(user=clerk)
    for table in ("inventory_movement", "inventory_request", "inventory_attachment"):
        assert refused(till, f"SELECT FROM {table}").sqlstate == "42501"
    conn.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON inventory_movement TO "{clerk}"')
    assert len(movements(till)) == 3
    assert refused(till, "DELETE FROM inventory_movement").sqlstate == "55000"
    assert refused(till, f"INSERT INTO inventory_movement {FORGED}").sqlstate == "55000"


def test_the_stock_table_cannot_be_truncated(conn):
    """Neither by itself nor with another table; after detach it can."""
    conn.execute("CREATE TABLE product (id int PRIMARY KEY); ALTER TABLE inventory ADD product int REFERENCES product")
    for sql in ("TRUNCATE inventory", "TRUNCATE product, inventory", "TRUNCATE product CASCADE"):
        answer = refused(conn, sql)
        assert (answer.sqlstate, answer.reason) == ("55000", "truncate_refused")
        assert answer.facts["table"] == "inventory"
    assert left(conn, ONE) == 9
    conn.execute("SELECT detach_inventory(); TRUNCATE inventory")
    attach(conn)
    assert steps(conn, ONE)[-1] == ("closing", 9, 0)
    audit(conn)


def test_a_partition_of_the_stock_table_cannot_be_truncated(db):
    """Its items would go without a movement."""
    conn = db.connect()
    conn.execute(
        "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY RANGE (id);"
        "CREATE TABLE part PARTITION OF inventory FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
    )
    fill(conn, {ONE: 10})
    attach(conn)
    assert refused(conn, "TRUNCATE part").reason == "truncate_refused"
    assert left(conn, ONE) == 10
    conn.execute("SELECT detach_inventory(); TRUNCATE part")


def test_detached_the_ledger_stays_guarded_and_attached_it_goes_on(conn):
    """What happened meanwhile is found: a changed stock, an item gone, a new one; what did not change has no
    movement."""
    fill(conn, {item(3): "7.00", item(4): "1.00"})
    conn.execute("SELECT detach_inventory()")
    attack(conn)
    before = last_movement(conn)
    conn.execute("UPDATE inventory SET quantity = 2 WHERE id = %s", (ONE,))
    conn.execute("DELETE FROM inventory WHERE id = %s", (TWO,))
    fill(conn, {item(5): "3.50"})
    assert last_movement(conn) == before
    conn.execute("SET inventory_ext.reference = 'inventory of the year'")
    assert attach(conn)["items"] == 4
    conn.execute("RESET inventory_ext.reference")
    assert sorted(m[:5] for m in movements(conn, after=before)) == [
        (ONE, "external", 9, 2, "inventory of the year"), (TWO, "closing", 5, 0, "inventory of the year"),
        (item(5), "opening", 0, 3.5, "inventory of the year"),
    ]  # fmt: skip
    sell(conn, item(4), 1)
    audit(conn)
    attack(conn)


def test_an_item_that_came_back_while_detached_is_opened_again(conn):
    """Closed at the first attach without it, opened at the next one with it."""
    for change in ("DELETE FROM inventory WHERE quantity = 5", f"INSERT INTO inventory VALUES ('{TWO}', 6)"):
        conn.execute("SELECT detach_inventory()")
        conn.execute(change)
        attach(conn)
    assert steps(conn, TWO) == [("opening", 0, 5), ("closing", 5, 0), ("opening", 0, 6)]
    audit(conn)


def test_a_ledger_left_out_for_a_while_is_caught_up(conn):
    """Attached without a ledger the old one rests, guarded; attached with it, it goes on."""
    conn.execute("SELECT detach_inventory()")
    attach(conn, p_ledger=False)
    before = last_movement(conn)
    sell(conn, ONE, 2)
    assert last_movement(conn) == before
    attack(conn)
    assert refused_attach(conn).reason == "already_attached"
    conn.execute("SELECT detach_inventory()")
    attach(conn)
    assert steps(conn, after=before) == [("external", 9, 7)]
    audit(conn)


def test_the_ledgers_triggers_refuse_any_other_table(conn):
    """A copy of the trigger elsewhere must not write into this ledger."""
    conn.execute("CREATE TABLE other (LIKE inventory); CREATE TRIGGER t AFTER INSERT ON other FOR EACH ROW "
                 "EXECUTE FUNCTION inventory_movement_record()")  # fmt: skip
    answer = refused(conn, "INSERT INTO other SELECT * FROM inventory")
    assert (answer.sqlstate, answer.reason, answer.facts["table"]) == ("55000", "stray_trigger", "other")
    for function in ("inventory_movement_record", "inventory_movement_flush", "inventory_movement_guard"):
        assert refused(conn, f"SELECT {function}()").sqlstate == "39P01"


@pytest.mark.parametrize("suffix", ["movement", "request", "stripe"])
@pytest.mark.parametrize(
    "taken",
    [
        "CREATE TABLE {0} (id int)",
        "CREATE VIEW {0} AS SELECT 1 AS one",
        "CREATE SEQUENCE {0}",
        "CREATE TYPE {0} AS (a int)",
    ],
)
def test_a_name_that_is_taken_by_another_relation_is_refused(db, suffix, taken):
    """42P07, it is named, and nothing has changed: no constraint, no table, no trigger."""
    conn = db.connect()
    stock_table(conn, {ONE: 1})
    conn.execute(taken.format(f"inventory_{suffix}"))
    answer = refused_attach(conn)
    assert (answer.sqlstate, answer.reason) == ("42P07", "name_taken")
    assert answer.facts["relation"] == f"public.inventory_{suffix}"
    assert conn.execute(
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'inventory'::regclass AND contype = 'c'"
    ).fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM inventory_attachment").fetchone() == (0,)
    for other in {"movement", "request", "stripe"} - {suffix}:
        assert conn.execute("SELECT to_regclass(%s)", (f"inventory_{other}",)).fetchone() == (None,)


@pytest.mark.parametrize("suffix", ["movement", "request", "stripe"])
def test_a_ledger_of_another_owner_is_refused(db, conn, suffix):
    """A role that can create tables in the schema must not be able to put a ledger of its own in place."""
    thief = create_role(conn, db, "thief")
    conn.execute(f'SELECT detach_inventory(); ALTER TABLE inventory_{suffix} OWNER TO "{thief}"')
    answer = refused_attach(conn)
    assert (answer.sqlstate, answer.reason) == ("42P07", "name_taken")
    conn.execute(f"ALTER TABLE inventory_{suffix} OWNER TO postgres")
    attach(conn)
    audit(conn)


@pytest.mark.parametrize("drop", ["inventory_movement", "inventory_request", "inventory_stripe"])
def test_a_companion_that_was_dropped_is_a_clear_error(db, conn, drop):
    """55000 for sales and for direct writes, in other sessions too; detach and attach make it anew."""
    till = db.connect()
    sell(till, ONE, 1)
    conn.execute(f"SET session_replication_role = replica; DROP TABLE {drop}; RESET session_replication_role")
    for session in (conn, till):
        answer = refused(session, f"SELECT decrement_inventory('{ONE}', 1)")
        assert (answer.sqlstate, answer.reason) == ("55000", f"{drop.split('_')[1]}_table_dropped")
        assert refused(session, "UPDATE inventory SET quantity = 1").sqlstate == "55000"
    conn.execute("SELECT detach_inventory()")
    attach(conn)
    sell(till, ONE, 1)
    audit(conn)


@pytest.mark.parametrize(
    ("schema", "table", "ledger"),
    [("public", "x" * 63, "x" * 54 + "_movement"), ("public", "ä" * 31, "ä" * 27 + "_movement"),
     ('My "Shop"', 'the "stock"; --', 'the "stock"; --_movement'), ("public", "Order", "Order_movement"),
     ("store", "select", "select_movement")],
)  # fmt: skip
def test_long_and_quoted_names(db, schema, table, ledger):
    """The ledger stands beside the stock table, named after it, cut between two characters where a name ends."""
    conn = db.connect()

    def quoted(name):
        return '"' + name.replace('"', '""') + '"'

    conn.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
    stock, book = (f"{quoted(schema)}.{quoted(name)}" for name in (table, ledger))
    stock_table(conn, {ONE: "10.00", TWO: "5.00"}, stock, columns=', "Odd ""Name" text')
    conn.execute(f'ALTER TABLE {stock} RENAME quantity TO "on hand ""now"""')
    attach(conn, stock, p_quantity_column='on hand "now"')
    sell(conn, ONE, 1)
    call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")
    conn.execute(f'UPDATE {stock} SET "on hand ""now""" = 3, "Odd ""Name" = \'x\'')
    assert steps(conn, ONE, table=book) == [("opening", 0, 10), ("sale", 10, 9), ("external", 9, 3)]
    audit(conn, stock, book, quantity_column='"on hand ""now"""')
    conn.execute("SELECT detach_inventory()")
    attach(conn, stock, p_quantity_column='on hand "now"')
    assert len(movements(conn, table=book)) == 6


def test_the_columns_of_the_ledger_tell_when_and_in_which_transaction(db, conn):
    """delta is computed, xact_id is the transaction's, occurred_at the clock's and not the transaction's start."""
    till = db.connect(autocommit=False)
    xid, began = till.execute("SELECT pg_current_xact_id(), now()").fetchone()
    sell(till, ONE, 2)
    sell(till, TWO, 1)
    rows = till.execute(
        "SELECT delta, xact_id, occurred_at, stripe FROM inventory_movement ORDER BY movement_id DESC LIMIT 2"
    ).fetchall()
    assert [row[0] for row in rows] == [-1, -2]
    assert {row[1] for row in rows} == {xid}
    assert rows[0][2] > rows[1][2] > began
    assert {row[3] for row in rows} == {None}
    till.rollback()
    assert stock_of(conn)[ONE] == 9
