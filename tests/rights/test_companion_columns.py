"""A companion table is used only if its columns are those that attach made.

The values of a companion are read by type: a column of another type is memory read as something else. Each test changes
a companion as its owner may, or makes one before attach, and finds an error by name instead of a crash or a foreign
value.
"""

import pytest

from attack_parties import CALLS, COMPANIONS, clerk, outcome, owned_shop, reason, statement
from books import audit, call
from shop import ONE, TWO, Aside, attach, create_role, item, refused, refused_attach, sell, until_waiting

DOMAINS = """
    CREATE DOMAIN store.amount AS numeric CHECK (VALUE >= 0);
    CREATE DOMAIN store.item AS uuid;
    CREATE DOMAIN store.word AS text;
"""
UNGENERATED = "ALTER delta DROP EXPRESSION, "
# (companion, change, what undoes it); {t} is the companion.
TYPES = [
    ("stripe", "ALTER quantity TYPE integer", "ALTER quantity TYPE numeric"),
    ("stripe", "ALTER quantity TYPE bigint", "ALTER quantity TYPE numeric"),
    ("stripe", "ALTER quantity TYPE real", "ALTER quantity TYPE numeric"),
    ("stripe", "ALTER quantity TYPE numeric(12,2)", "ALTER quantity TYPE numeric"),
    ("stripe", "ALTER quantity TYPE store.amount", "ALTER quantity TYPE numeric"),
    ("stripe", "ALTER stripe TYPE integer", "ALTER stripe TYPE smallint"),
    ("stripe", "ALTER stripe TYPE bigint", "ALTER stripe TYPE smallint"),
    ("stripe", "ALTER inventory_id TYPE text", "ALTER inventory_id TYPE uuid USING inventory_id::uuid"),
    ("stripe", "ALTER inventory_id TYPE store.item", "ALTER inventory_id TYPE uuid"),
    ("stripe", "ALTER inventory_id TYPE bigint USING 4711, DROP CONSTRAINT inventory_stripe_pkey", None),
    ("stripe_total", "ALTER quantity TYPE integer", "ALTER quantity TYPE numeric"),
    ("stripe_total", "ALTER quantity TYPE numeric(10,0)", "ALTER quantity TYPE numeric"),
    ("stripe_total", "ALTER inventory_id TYPE bigint USING 4711", None),
    ("request", "ALTER function_name TYPE name", "ALTER function_name TYPE text"),
    ("request", "ALTER function_name TYPE varchar(40)", "ALTER function_name TYPE text"),
    ("request", "ALTER idempotency_key TYPE store.word", "ALTER idempotency_key TYPE text"),
    ("request", "ALTER idempotency_key TYPE name", "ALTER idempotency_key TYPE text"),
    ("request", "ALTER idempotency_key TYPE bytea USING idempotency_key::bytea", None),
    ("request", "ALTER arguments_hash TYPE text", "ALTER arguments_hash TYPE bytea USING arguments_hash::bytea"),
    ("request", "ALTER arguments_hash TYPE bigint USING 4711", None),
    ("request", "ALTER answer TYPE jsonb", "ALTER answer TYPE json"),
    ("request", "ALTER answer TYPE text", "ALTER answer TYPE json USING answer::json"),
    ("request", "ALTER created_at TYPE timestamp", "ALTER created_at TYPE timestamptz"),
    ("movement", "ALTER inventory_id TYPE text", "ALTER inventory_id TYPE uuid USING inventory_id::uuid"),
    ("movement", "ALTER stripe TYPE integer", "ALTER stripe TYPE smallint"),
    ("movement", "ALTER kind TYPE name", "ALTER kind TYPE text"),
    ("movement", "ALTER kind TYPE varchar(20)", "ALTER kind TYPE text"),
    ("movement", "ALTER reference TYPE varchar(3)", "ALTER reference TYPE text"),
    ("movement", "ALTER idempotency_key TYPE name", "ALTER idempotency_key TYPE text"),
    ("movement", "ALTER actor TYPE name", "ALTER actor TYPE text"),
    ("movement", "ALTER actor TYPE store.word", "ALTER actor TYPE text"),
    ("movement", "ALTER movement_id TYPE integer", "ALTER movement_id TYPE bigint"),
    ("movement", "ALTER occurred_at TYPE timestamp", "ALTER occurred_at TYPE timestamptz"),
    ("movement", "ALTER xact_id DROP DEFAULT, ALTER xact_id TYPE bigint USING 1", None),
    ("movement", UNGENERATED + "ALTER new_quantity TYPE integer", None),
    ("movement", UNGENERATED + "ALTER old_quantity TYPE numeric(12,2)", None),
    ("movement", UNGENERATED + "ALTER delta TYPE double precision", None),
]
NULLABLE = [
    (table, f"ALTER {column} DROP NOT NULL", f"ALTER {column} SET NOT NULL")
    for table, columns in {
        "stripe": "quantity",
        "stripe_total": "quantity",
        "request": "function_name arguments_hash created_at",
        "movement": "kind old_quantity new_quantity delta actor xact_id occurred_at",
    }.items()
    for column in columns.split()
] + [
    (
        "movement",
        "DROP CONSTRAINT inventory_movement_pkey, ALTER inventory_id DROP NOT NULL",
        "ADD CONSTRAINT inventory_movement_pkey PRIMARY KEY (inventory_id, movement_id)",
    )
]
GENERATED = [
    ("movement", "ALTER delta DROP EXPRESSION", None),
    ("movement", "ALTER movement_id DROP IDENTITY", "ALTER movement_id ADD GENERATED ALWAYS AS IDENTITY (START 1000)"),
    ("stripe", "ALTER stripe ADD GENERATED ALWAYS AS IDENTITY", "ALTER stripe DROP IDENTITY"),
]
NAMES = [
    ("stripe", "RENAME quantity TO amount", "RENAME amount TO quantity"),
    ("stripe", "RENAME inventory_id TO item", "RENAME item TO inventory_id"),
    ("request", "RENAME answer TO result", "RENAME result TO answer"),
    ("movement", "RENAME actor TO who", "RENAME who TO actor"),
    ("movement", "RENAME stripe TO part", "RENAME part TO stripe"),
]
CHANGES = TYPES + NULLABLE + GENERATED + NAMES
DROPPED = [
    (table, f"DROP {column} CASCADE", None)
    for table, columns in {
        "stripe": "inventory_id stripe quantity",
        "stripe_total": "inventory_id quantity",
        "request": "idempotency_key function_name arguments_hash answer created_at",
        "movement": "movement_id inventory_id stripe kind old_quantity new_quantity delta reference "
        "idempotency_key actor"
        " xact_id occurred_at",
    }.items()
    for column in columns.split()
]


FOR_GOOD = [change for change in CHANGES if change[2] is None]
TABLES = ("stripe", "stripe_total", "request", "movement")


def named(change):
    return " ".join(change[:2])


def undoable(table):
    changes = [change[1:] for change in CHANGES if change[0] == table and change[2]]
    assert changes
    return changes


@pytest.fixture
def conn(db):
    """The superuser."""
    return db.connect()


@pytest.fixture
def owner(conn, db):
    """The owner's connection; ONE is striped, TWO is not."""
    owner = owned_shop(conn, db)
    owner.execute(DOMAINS)
    return owner


@pytest.fixture
def till(conn, db, owner):
    """A clerk's connection that has sold before, so that it has cached the attachment."""
    till = db.connect(user=clerk(conn, db))
    for key in (ONE, TWO):
        sell(till, key, 1)
    call(till, "restock_inventory", p_inventory_id=ONE, p_quantity=2, p_idempotency_key="k")
    return till


def alter(conn, table, change):
    conn.execute(f"ALTER TABLE store.inventory_{table} {change}")


def refused_by_every_call(session, change):
    """Each function, on the striped item and on the other one, and a call that only repeats a key."""
    for name, what in CALLS.items():
        for key, other in ((ONE, TWO), (TWO, ONE)):
            found = outcome(session, statement(what, key, other))
            assert reason(found) == "55000 companion_changed", (change, name)
    found = outcome(session, "SELECT restock_inventory(%s, 2, p_idempotency_key => 'k')", (ONE,))
    assert reason(found) == "55000 companion_changed", change


@pytest.mark.parametrize("table", TABLES)
def test_no_call_uses_a_companion_while_its_columns_are_changed(db, owner, till, table):
    """Of a session that has sold before, and of a new one; nor does a direct write. Once the column is as it was, the
    shop is open again and the books are exact."""
    for change, undo in undoable(table):
        alter(owner, table, change)
        refused_by_every_call(till, change)
        with db.connect(user=till.info.user) as fresh:
            assert reason(outcome(fresh, statement("decrement_inventory('{item}', 1)"))) == "55000 companion_changed"
        direct = outcome(owner, "UPDATE store.inventory SET quantity = 50 WHERE id = %s RETURNING quantity", (TWO,))
        assert reason(direct) == "55000 companion_changed", change
        alter(owner, table, undo)
        sell(till, ONE, 1)
        sell(till, TWO, 1)
    owner.execute("SELECT unstripe_inventory(%s)", (ONE,))
    audit(owner, "store.inventory", "store.inventory_movement")


@pytest.mark.parametrize("change", FOR_GOOD, ids=named)
def test_no_call_reads_a_companion_whose_values_became_something_else(db, owner, till, change):
    """The values cannot come back: an id that became a number would be an address of the owner's choice."""
    table, broken, _ = change
    alter(owner, table, broken)
    refused_by_every_call(till, broken)
    with db.connect(user=till.info.user) as fresh:
        refused_by_every_call(fresh, broken)


@pytest.mark.parametrize("change", [TYPES[0], TYPES[2], TYPES[7], TYPES[13], TYPES[25]], ids=named)
def test_a_change_that_commits_while_a_call_waits_for_the_table_is_noticed(db, conn, owner, till, change):
    """The call has checked the columns before it waits; what it reads afterwards is of the new type."""
    table, broken, _ = change
    owner.autocommit = False
    alter(owner, table, broken)
    waiting = Aside(lambda: outcome(till, "SELECT restock_inventory(%s, 2, p_idempotency_key => 'k')", (ONE,)))
    sale = db.connect(user=till.info.user)
    selling = Aside(lambda: outcome(sale, "SELECT decrement_inventory(%s, 1)::text", (ONE,)))
    until_waiting(conn, till if table == "request" else sale)
    owner.commit()
    for found in (waiting.result(), selling.result()):
        assert reason(found) == "55000 companion_changed"
    assert conn.execute("SELECT 1").fetchone() == (1,)


def refused_by_attach(owner, table, change):
    found = refused_attach(owner, "store.inventory")
    assert (found.sqlstate, found.reason) == ("42P07", "name_taken"), change
    assert found.facts["relation"] == f"store.inventory_{table}", change


@pytest.mark.parametrize("table", TABLES)
def test_attach_takes_no_companion_of_another_make(conn, owner, table):
    """A table of that name that an earlier attach left and that was changed since is refused, and nothing is
    attached."""
    owner.execute("SELECT detach_inventory()")
    for change, undo in undoable(table):
        alter(owner, table, change)
        refused_by_attach(owner, table, change)
        alter(owner, table, undo)
    assert conn.execute("SELECT count(*) FROM inventory_attachment").fetchone() == (0,)
    attach(owner, "store.inventory")
    assert sell(owner, ONE, 1)["new_quantity"] == 99
    audit(owner, "store.inventory", "store.inventory_movement")


@pytest.mark.parametrize("table", TABLES)
def test_attach_takes_no_companion_that_lost_a_column(db, owner, table):
    """Each column in turn, in a transaction that is rolled back."""
    owner.execute("SELECT detach_inventory()")
    owner.autocommit = False
    for change in [change for other, change, _ in DROPPED + FOR_GOOD if other == table]:
        owner.execute("SAVEPOINT whole")
        alter(owner, table, change)
        owner.execute("SAVEPOINT changed")
        refused_by_attach(owner, table, change)
        owner.execute("ROLLBACK TO whole")
    attach(owner, "store.inventory")


# Made before attach, by a role that may attach: {s} is the stock table.
PRECREATED = {
    "item bigint": "CREATE TABLE {s}_stripe (inventory_id bigint, stripe smallint, quantity numeric)",
    "all bigint": "CREATE TABLE {s}_stripe (inventory_id bigint, stripe bigint, quantity bigint)",
    "quantity text": "CREATE TABLE {s}_stripe (inventory_id uuid NOT NULL, stripe smallint NOT NULL, "
    "quantity text NOT NULL)",
    "total bigint": "CREATE TABLE {s}_stripe_total (inventory_id uuid PRIMARY KEY, quantity bigint NOT NULL)",
    "total nullable": "CREATE TABLE {s}_stripe_total (inventory_id uuid PRIMARY KEY, quantity numeric)",
    "total generated": "CREATE TABLE {s}_stripe_total (inventory_id uuid PRIMARY KEY, "
    "quantity numeric NOT NULL GENERATED ALWAYS AS (4711) STORED)",
    "quantity generated": "CREATE TABLE {s}_stripe (inventory_id uuid NOT NULL, stripe smallint NOT NULL, "
    "quantity numeric NOT NULL GENERATED ALWAYS AS (stripe * 100) STORED, PRIMARY KEY (inventory_id, stripe))",
    "keys by number": "CREATE TABLE {s}_request (idempotency_key bigint PRIMARY KEY, function_name bigint NOT NULL, "
    "arguments_hash bigint NOT NULL, answer bigint, created_at bigint NOT NULL)",
    "keys nullable": "CREATE TABLE {s}_request (idempotency_key text PRIMARY KEY, function_name text, "
    "arguments_hash bytea, "
    "answer json, created_at timestamptz)",
    "ledger by number": "CREATE TABLE {s}_movement (movement_id bigint, inventory_id bigint, "
    "stripe bigint, kind bigint, "
    "old_quantity bigint, new_quantity bigint, delta bigint, reference bigint, idempotency_key bigint, "
    "actor bigint, xact_id bigint, occurred_at bigint)",
    "delta not generated": "CREATE TABLE {s}_movement (movement_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
    "inventory_id uuid NOT NULL, stripe smallint, kind text NOT NULL, old_quantity numeric NOT NULL, "
    "new_quantity numeric NOT NULL, delta numeric NOT NULL DEFAULT 0, reference text, "
    "idempotency_key text, actor text NOT NULL, xact_id xid8 NOT NULL DEFAULT pg_current_xact_id(), "
    "occurred_at timestamptz NOT NULL DEFAULT clock_timestamp())",
    "view": "CREATE VIEW {s}_stripe AS SELECT NULL::uuid AS inventory_id, "
    "1::smallint AS stripe, 5::numeric AS quantity",
    "view of totals": "CREATE VIEW {s}_stripe_total AS SELECT NULL::uuid AS inventory_id, 5::numeric AS quantity",
    "view of keys": "CREATE VIEW {s}_request AS SELECT ''::text AS idempotency_key, ''::text AS function_name, "
    "''::bytea AS arguments_hash, '1'::json AS answer, now() AS created_at",
    "materialized view": "CREATE MATERIALIZED VIEW {s}_movement AS SELECT 1::bigint AS movement_id",
    "sequence": "CREATE SEQUENCE {s}_stripe_total",
    "index": "CREATE INDEX inventory_stripe_total ON {s} (quantity)",
    "composite type": "CREATE TYPE {s}_request AS (idempotency_key text)",
    "partitioned": "CREATE TABLE {s}_stripe_total (inventory_id uuid PRIMARY KEY, quantity numeric NOT NULL) "
    "PARTITION BY HASH (inventory_id)",
}


@pytest.mark.parametrize("made", PRECREATED)
def test_attach_refuses_a_relation_that_was_made_before_under_the_name_of_a_companion(conn, owner, made):
    """A role that may attach can prepare one: the values would be read as uuid, numeric and text at an address of
    choice."""
    owner.execute("SELECT detach_inventory()")
    conn.execute("".join(f"DROP TABLE IF EXISTS store.{table};" for table in COMPANIONS))
    owner.execute(PRECREATED[made].format(s="store.inventory"))
    found = refused_attach(owner, "store.inventory")
    assert (found.sqlstate, found.reason) == ("42P07", "name_taken")
    assert conn.execute("SELECT count(*) FROM inventory_attachment").fetchone() == (0,)


def test_attach_refuses_companions_of_another_owner(conn, db, owner):
    """Each of them; also where its columns are right and the other owner granted everything."""
    stranger = create_role(conn, db, "stranger")
    owner.execute("SELECT detach_inventory()")
    for table in COMPANIONS:
        conn.execute(f'ALTER TABLE store.{table} OWNER TO "{stranger}"; GRANT ALL ON store.{table} TO PUBLIC')
        found = refused_attach(owner, "store.inventory")
        assert (found.sqlstate, found.reason, found.facts["relation"]) == ("42P07", "name_taken", f"store.{table}")
        conn.execute(f'ALTER TABLE store.{table} OWNER TO "{owner.info.user}"')
    attach(owner, "store.inventory")


def present(conn):
    """The companions there are."""
    return [table for table in COMPANIONS if conn.execute("SELECT to_regclass(%s)", (f"store.{table}",)).fetchone()[0]]


def test_columns_of_the_owners_own_do_no_harm(db, conn, owner, till):
    """Added at the end, with a default, NOT NULL, generated, or after a column that was dropped: sales, keys, stripes,
    attach."""
    for table in present(conn):
        owner.execute(
            f"""ALTER TABLE store.{table} ADD gone text; ALTER TABLE store.{table} DROP gone;
                ALTER TABLE store.{table} ADD shift text NOT NULL DEFAULT 'early', ADD note text,
                    ADD twice integer GENERATED ALWAYS AS (length(note) * 2) STORED"""
        )
    for session in (till, db.connect(user=till.info.user)):
        sell(session, ONE, 1)
        sell(session, TWO, 1)
    again = call(till, "restock_inventory", p_inventory_id=ONE, p_quantity=2, p_idempotency_key="k")
    assert again["replayed"] is True
    call(till, "restock_inventory", p_inventory_id=ONE, p_quantity=2, p_idempotency_key="l")
    owner.execute("SELECT detach_inventory()")
    attach(owner, "store.inventory")
    owner.execute("SELECT stripe_inventory(%s, 3)", (ONE,))
    sell(till, ONE, 1)
    owner.execute("SELECT unstripe_inventory(%s)", (ONE,))
    audit(owner, "store.inventory", "store.inventory_movement")
    assert {row[0] for row in owner.execute("SELECT shift FROM store.inventory_movement").fetchall()} == {"early"}


def test_a_column_that_was_dropped_and_added_again_is_found_by_name_or_refused(conn, owner):
    """Its number is another one: a value read by position would be that of its neighbour."""
    owner.execute("SELECT detach_inventory()")
    owner.execute("ALTER TABLE store.inventory_movement DROP reference, DROP actor")
    owner.execute("ALTER TABLE store.inventory_movement ADD reference text, ADD actor text NOT NULL DEFAULT 'unknown'")
    owner.execute("ALTER TABLE store.inventory_request DROP answer, DROP function_name")
    owner.execute(
        "ALTER TABLE store.inventory_request ADD answer json, ADD function_name text NOT NULL DEFAULT 'unknown'"
    )
    found = outcome(owner, "SELECT attach_inventory('store.inventory')::text")
    if found[0] == "ERROR":
        assert reason(found) == "42P07 name_taken"
        return
    first = call(owner, "restock_inventory", p_inventory_id=ONE, p_quantity=1, p_reference="r", p_idempotency_key="k")
    again = call(owner, "restock_inventory", p_inventory_id=ONE, p_quantity=1, p_reference="r", p_idempotency_key="k")
    assert again == {**first, "replayed": True}
    last = owner.execute(
        "SELECT reference, actor FROM store.inventory_movement ORDER BY movement_id DESC LIMIT 1"
    ).fetchone()
    assert last == ("r", owner.info.user)
    audit(owner, "store.inventory", "store.inventory_movement")


def test_stripes_of_another_type_cannot_be_planted_by_taking_the_guard_away(conn, owner):
    """The owner disables the guard of the stripes and writes to them: what the values are is checked all the same."""
    owner.execute('ALTER TABLE store.inventory_stripe DISABLE TRIGGER "0_inventory_stripe_guard"')
    owner.execute(
        "ALTER TABLE store.inventory_stripe DROP CONSTRAINT inventory_stripe_pkey, "
        "ALTER inventory_id TYPE bigint USING 4711"
    )
    found = refused(owner, "INSERT INTO store.inventory_stripe VALUES (4711, 1, 1)")
    assert found.sqlstate == "55000"
    for key in (ONE, TWO, item(4711)):
        found = outcome(owner, statement("available_inventory('{item}')", key))
        assert found[:2] == ("ERROR", "55000")
