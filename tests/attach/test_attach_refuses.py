"""Tables that cannot hold stock are refused by attach, with a reason, and stay untouched.

Each case is a table on which a sale could not be exact, atomic or shared; next to it stands the nearest table that will
do, so that the refusal is about the flaw and nothing else.
"""

import pytest

from shop import ONE, attach, fill, refused_attach, refused_sale, sell

GOOD = "CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer)"


@pytest.fixture
def conn(db):
    return db.connect()


def test_the_table_all_cases_start_from_will_do(conn):
    """The control."""
    conn.execute(GOOD)
    fill(conn, {ONE: 3})
    attach(conn)
    assert sell(conn, ONE, 1)["new_quantity"] == 2


INDEXES = {
    "none": "",
    "not unique": "CREATE INDEX ON inventory (id)",
    "partial": "CREATE UNIQUE INDEX ON inventory (id) WHERE quantity > 0",
    "expression": "CREATE UNIQUE INDEX ON inventory ((id::text))",
    "several columns": "CREATE UNIQUE INDEX ON inventory (id, quantity)",
    "several columns, id last": "CREATE UNIQUE INDEX ON inventory (quantity, id)",
    "another column, id included": "CREATE UNIQUE INDEX ON inventory (quantity) INCLUDE (id)",
    "deferrable": "ALTER TABLE inventory ADD UNIQUE (id) DEFERRABLE",
    "deferred": "ALTER TABLE inventory ADD UNIQUE (id) DEFERRABLE INITIALLY DEFERRED",
    "exclusion": "ALTER TABLE inventory ADD EXCLUDE (id WITH =)",
}


@pytest.mark.parametrize("index", INDEXES, ids=[name.replace(" ", "_") for name in INDEXES])
def test_an_id_without_a_plain_unique_index_is_refused(conn, index):
    """Only a valid, immediate, complete unique index on the id alone makes the id name one row."""
    conn.execute("CREATE TABLE inventory (id uuid NOT NULL, quantity integer)")
    conn.execute(INDEXES[index])
    answer = refused_attach(conn)
    assert (answer.sqlstate, answer.reason) == ("55000", "id_not_unique")
    conn.execute("CREATE UNIQUE INDEX ON inventory (id)")
    attach(conn)


def test_an_invalid_unique_index_is_refused(conn):
    """CREATE UNIQUE INDEX CONCURRENTLY that failed leaves an index that guards nothing yet."""
    conn.execute("CREATE TABLE inventory (id uuid NOT NULL, quantity integer)")
    conn.execute("INSERT INTO inventory VALUES (%s, 1), (%s, 2)", (ONE, ONE))
    with pytest.raises(Exception, match="could not create unique index"):
        conn.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON inventory (id)")
    conn.execute("DELETE FROM inventory WHERE quantity = 2")
    assert conn.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'broken'::regclass").fetchone() == (False,)
    assert refused_attach(conn).reason == "id_not_unique"
    conn.execute("REINDEX INDEX broken")
    attach(conn)


def test_a_unique_index_on_one_partition_is_not_enough(conn):
    """Uniqueness must hold over the whole partitioned table."""
    conn.execute("CREATE TABLE inventory (id uuid NOT NULL, quantity integer) PARTITION BY HASH (id)")
    conn.execute("CREATE TABLE p PARTITION OF inventory FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    conn.execute("CREATE UNIQUE INDEX ON p (id)")
    assert refused_attach(conn).reason == "id_not_unique"
    conn.execute("CREATE UNIQUE INDEX ON inventory (id)")
    attach(conn)


def test_a_nullable_id_is_refused(conn):
    """An item without an id could never be sold."""
    conn.execute("CREATE TABLE inventory (id uuid UNIQUE, quantity integer)")
    answer = refused_attach(conn)
    assert (answer.sqlstate, answer.reason) == ("55000", "id_nullable")
    conn.execute("ALTER TABLE inventory ALTER id SET NOT NULL")
    attach(conn)


@pytest.mark.parametrize("type", ["bytea", "uuid[]", "oid", "name"])
def test_an_id_of_another_type_is_refused(conn, type):
    """An inventory_key is none of these."""
    conn.execute(f"CREATE TABLE inventory (id {type} PRIMARY KEY, quantity integer)")
    answer = refused_attach(conn)
    assert (answer.sqlstate, answer.reason) == ("42804", "id_type")


@pytest.mark.parametrize(
    "type", ["real", "double precision", "money", "text", "numeric[]", "numrange", "boolean", "oid"]
)
def test_a_quantity_of_another_type_is_refused(conn, type):
    """Only exact numbers are quantities."""
    conn.execute(f"CREATE TABLE inventory (id uuid PRIMARY KEY, quantity {type})")
    answer = refused_attach(conn)
    assert (answer.sqlstate, answer.reason) == ("42804", "quantity_type")
    conn.execute("ALTER TABLE inventory DROP quantity, ADD quantity integer")
    attach(conn)


def test_a_generated_quantity_is_refused(conn):
    """It cannot be written."""
    conn.execute(
        "CREATE TABLE inventory (id uuid PRIMARY KEY, bought integer, "
        "quantity integer GENERATED ALWAYS AS (bought * 2) STORED)"
    )
    assert refused_attach(conn).reason == "quantity_generated"
    attach(conn, p_quantity_column="bought")


@pytest.mark.parametrize(
    "options",
    [
        {"p_id_column": "no"},
        {"p_quantity_column": "no"},
        {"p_id_column": "ID"},
        {"p_quantity_column": '"quantity"'},
        {"p_quantity_column": ""},
        {"p_quantity_column": "ctid"},
        {"p_id_column": "tableoid"},
        {"p_quantity_column": "........pg.dropped.3........"},
        {"p_quantity_column": "quantity; DROP TABLE inventory"},
        {"p_quantity_column": "inventory"},
        {"p_quantity_column": "*"},
    ],
)
def test_a_column_that_does_not_exist_is_refused(conn, options):
    """Names are exact: no folding, no quoting, no system column, no dropped one, no SQL."""
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer, gone integer)")
    conn.execute("ALTER TABLE inventory DROP COLUMN gone")
    answer = refused_attach(conn, **options)
    assert (answer.sqlstate, answer.reason) == ("42703", "no_column")
    attach(conn)


@pytest.mark.parametrize("options", [{"p_quantity_column": "id"}, {"p_id_column": "quantity"}])
def test_one_column_cannot_be_both(conn, options):
    """A whole number could be either."""
    conn.execute("CREATE TABLE inventory (id bigint PRIMARY KEY, quantity bigint UNIQUE NOT NULL)")
    refusal = refused_attach(conn, **options)
    assert (refusal.sqlstate, refusal.reason) == ("42804", "same_column")


RELATIONS = {
    "view": "CREATE VIEW inventory AS SELECT * FROM base",
    "materialized view": "CREATE MATERIALIZED VIEW inventory AS SELECT * FROM base; "
    "CREATE UNIQUE INDEX ON inventory (id)",
    "foreign table": "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere; "
    "CREATE FOREIGN TABLE inventory (id uuid NOT NULL, quantity integer) SERVER nowhere",
    "sequence": "CREATE SEQUENCE inventory",
    "index": "CREATE INDEX inventory ON base (quantity)",
    "composite type": "CREATE TYPE inventory AS (id uuid, quantity integer)",
    "temporary table": "CREATE TEMPORARY TABLE inventory (id uuid PRIMARY KEY, quantity integer)",
}


@pytest.mark.parametrize("relation", RELATIONS, ids=[name.replace(" ", "_") for name in RELATIONS])
def test_what_is_not_an_ordinary_or_partitioned_table_is_refused(conn, relation):
    """A stock table has rows of its own that every session can lock."""
    conn.execute("CREATE TABLE base (id uuid PRIMARY KEY, quantity integer)")
    conn.execute(RELATIONS[relation])
    assert refused_attach(conn).sqlstate == "42809"
    assert refused_sale(conn, ONE, 1).sqlstate == "55000"
    attach(conn, "base")


def test_a_table_with_inheritance_children_is_refused(conn):
    """Its rows and its children's may share an id, and no unique index spans them."""
    conn.execute(GOOD)
    conn.execute("CREATE TABLE child () INHERITS (inventory)")
    assert refused_attach(conn).sqlstate == "42809"
    conn.execute("DROP TABLE child")
    attach(conn)


def test_a_child_added_later_never_loses_its_own_rows_to_a_sale(conn):
    """A child with the same id appears after attach: a sale touches the stock table's row, or none."""
    conn.execute(GOOD)
    fill(conn, {ONE: 10})
    attach(conn)
    sell(conn, ONE, 1)
    conn.execute("CREATE TABLE child () INHERITS (inventory)")
    conn.execute("INSERT INTO child VALUES (%s, 100)", (ONE,))
    assert sell(conn, ONE, 2)["old_quantity"] == 9
    assert conn.execute("SELECT quantity FROM ONLY inventory").fetchall() == [(7,)]
    assert conn.execute("SELECT quantity FROM child").fetchall() == [(100,)]
    conn.execute("INSERT INTO child VALUES (%s, 100)", ("ffffffff-ffff-ffff-ffff-ffffffffffff",))
    assert refused_sale(conn, "ffffffff-ffff-ffff-ffff-ffffffffffff", 1).sqlstate == "IV002"


@pytest.mark.parametrize("table", ["0", "4294967295"])
def test_an_oid_that_is_no_table_is_refused(conn, table):
    """regclass accepts any number."""
    assert refused_attach(conn, table).sqlstate in ("42P01", "42809")


@pytest.mark.parametrize("table", ["pg_catalog.pg_class", "information_schema.tables"])
def test_a_system_catalog_is_refused(conn, table):
    """Not a stock table by any name."""
    assert refused_attach(conn, table).sqlstate in ("42703", "42809", "42501")


@pytest.mark.parametrize("type", ["integer", "bigint"])
def test_a_bad_row_is_named_by_a_number_where_ids_are_numbers(conn, type):
    """As every other result and error prints it."""
    conn.execute(f"CREATE TABLE inventory (id {type} PRIMARY KEY, quantity integer)")
    conn.execute("INSERT INTO inventory VALUES (102, -3)")
    assert refused_attach(conn).facts["first"] == [{"inventory_id": 102, "quantity": -3}]
