"""Tools that drop each table that a model does not have leave the ledger alone.

Where the companions, or the extension with its own tables, are in the schema that a tool reads, the
tool needs a filter. It needs none where both have schemas of their own that it does not read.
"""

import pytest
import selling
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, MetaData, Numeric, Table, Text, create_engine

from alembic_filter import AUDIT, COMPANIONS, include_name
from books import audit, call
from selling import FOLDER, environment, run
from shop import refused

KIT = ["node", "node_modules/drizzle-kit/bin.cjs"]

# The beginnings of lines of the project's files. Of the sequence there is something to declare beside the ledger only.
FILTER, CHECK = "  tablesFilter:", "  (table) => [check("
SEQUENCE = ("export const movementIds", "export const auditIds", "  minValue:", "  maxValue:", "})")

OWN_SCHEMAS = """
    DROP EXTENSION inventory_ext;
    CREATE SCHEMA inventory_api;
    CREATE EXTENSION inventory_ext SCHEMA inventory_api;
    CREATE SCHEMA stock_books;
    SET search_path = public, inventory_api"""

# All that a tool might change of tables, indexes and sequences.
EVERYTHING = """
    WITH ours AS (SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
                   WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
    SELECT attrelid::regclass::text, format('%s %s %s', attname, format_type(atttypid, atttypmod), attnotnull)
      FROM pg_attribute WHERE attrelid IN (TABLE ours) AND attnum > 0
    UNION ALL SELECT conrelid::regclass::text, format('%s %s', conname, pg_get_constraintdef(oid))
      FROM pg_constraint WHERE conrelid IN (TABLE ours)
    UNION ALL SELECT tgrelid::regclass::text, format('%s %s', pg_get_triggerdef(oid), tgenabled)
      FROM pg_trigger WHERE tgrelid IN (TABLE ours)
    UNION ALL SELECT seqrelid::regclass::text, s::text FROM pg_sequence AS s WHERE seqrelid IN (TABLE ours)"""


@pytest.fixture
def conn(db):
    return db.connect()


def open_shop(conn, id_type, stock, **options):
    """With the tables that the first audit and the archive create beside the ledger."""
    item = selling.open_shop(conn, id_type, stock + 1, **options)
    call(conn, "decrement_item", p_item=item, p_quantity=1)
    conn.execute("SELECT audit_inventory(), archive_movements(clock_timestamp())")
    return item


def open_shop_elsewhere(conn, id_type, stock):
    """The extension and the companions are in schemas of their own."""
    conn.execute(OWN_SCHEMAS)
    return open_shop(conn, id_type, stock, p_companion_schema="stock_books")


def open_shop_with_extension_beside(conn, id_type, stock):
    """The companions alone are in a schema of their own."""
    conn.execute("CREATE SCHEMA stock_books")
    return open_shop(conn, id_type, stock, p_companion_schema="stock_books")


def everything(conn):
    return set(conn.execute(EVERYTHING).fetchall())


def ledger_of(conn):
    """The name of the ledger, with its schema."""
    return conn.execute("SELECT movement_table::text FROM inventory_attachment").fetchone()[0]


def books_schema(conn):
    """NULL where the ledger is beside the stock table."""
    return conn.execute("SELECT to_regnamespace('stock_books')::text").fetchone()[0]


def assert_sells(conn, item):
    assert call(conn, "decrement_item", p_item=item, p_quantity=1)["deducted"] == 1
    audit(conn, ledger=ledger_of(conn))


@pytest.fixture
def project(db, tmp_path):
    """A function that gives a project's drizzle-kit, without the lines of its files that begin with these."""
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    url = f"postgresql://postgres@{db.server.host}:{db.server.port}/{db.name}"

    def make(*left_out):
        for file in ("drizzle.config.js", "drizzle_schema.js"):
            kept = [line for line in (FOLDER / file).read_text().splitlines(True) if not line.startswith(left_out)]
            (tmp_path / file).write_text("".join(kept))
        environment_of_kit = environment(db) | {"DATABASE_URL": url}
        return lambda *words: "".join(run([*KIT, *words], environment_of_kit, tmp_path))

    return make


def test_drizzle_pull_reads_the_stock_table_and_changes_nothing(conn, project, tmp_path):
    item = open_shop(conn, "bigint", 50)
    project()("pull")
    pulled = (tmp_path / "drizzle/schema.ts").read_text()
    assert 'pgTable("inventory",' in pulled and 'check("quantity_non_negative"' in pulled
    assert 'pgTable("inventory_movement"' not in pulled
    assert_sells(conn, item)


@pytest.mark.parametrize(
    ("open_one", "left_out"),
    [(open_shop, ()), (open_shop_elsewhere, (FILTER, *SEQUENCE))],
    ids=["with the filter", "in schemas of their own"],
)
def test_drizzle_push_adds_a_column_and_changes_nothing_else(conn, project, open_one, left_out):
    item = open_one(conn, "bigint", 50)
    kit = project(*left_out)
    assert_sells(conn, item)
    before = everything(conn)
    kit("push", "--force")
    assert everything(conn) ^ before == {("inventory", "name text f")}
    assert_sells(conn, item)
    assert "No changes detected" in kit("push", "--force")


@pytest.mark.parametrize(
    ("open_one", "left_out", "dropped"),
    [
        (open_shop, (FILTER,), 'DROP TABLE "inventory_movement"'),
        (open_shop, SEQUENCE, 'DROP SEQUENCE "public"."inventory_movement_movement_id_seq"'),
        (open_shop_with_extension_beside, (FILTER, *SEQUENCE), 'DROP TABLE "inventory_attachment"'),
    ],
    ids=["ledger", "sequence", "table of the extension"],
)
def test_drizzle_push_that_sees_what_is_ours_cannot_drop_it(conn, project, open_one, left_out, dropped):
    item = open_one(conn, "bigint", 50)
    before = everything(conn)
    printed = project(*left_out)("push", "--force", "--verbose")  # with exit status 0
    assert dropped in printed and "error: " in printed
    assert before - everything(conn) == set()
    assert_sells(conn, item)


@pytest.mark.parametrize(
    ("open_one", "left_out"),
    [(open_shop, ()), (open_shop_elsewhere, (FILTER, *SEQUENCE))],
    ids=["with the filter", "in schemas of their own"],
)
def test_drizzle_push_of_a_model_without_the_check_stops_the_sales_until_the_next_attach(
    conn, project, open_one, left_out
):
    """No unit is lost, and none is sold unchecked."""
    item = open_one(conn, "bigint", 50)
    project(CHECK, *left_out)("push", "--force")
    sale = "SELECT decrement_item(%s, 1)"
    assert refused(conn, sale, (item,)).reason == "check_dropped"
    conn.execute("SELECT detach_inventory()")
    conn.execute("SELECT attach_inventory('inventory', p_companion_schema => %s)", (books_schema(conn),))
    assert_sells(conn, item)


def proposals(db, **options):
    """What Alembic's autogenerate would do for a model with a new column: [(operation, table)]."""
    model = MetaData()
    quantity = Column("quantity", Numeric(28, 18), nullable=False)
    Table("inventory", model, Column("id", Text, primary_key=True), quantity, Column("name", Text))
    Table("shop_order", model, Column("reference", Text, primary_key=True))
    url = f"postgresql+psycopg://postgres@{db.server.host}:{db.server.port}/{db.name}"
    with create_engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        found = compare_metadata(context, model)
    return sorted((what, str(getattr(where[-1], "table", where[-1]))) for what, *where in found)


NEW_COLUMN = ("add_column", "inventory")


@pytest.mark.filterwarnings("ignore:Did not recognize type")
def test_alembic_without_the_filter_proposes_to_drop_the_ledger(db, conn):
    item = open_shop(conn, "text", 50)
    found = proposals(db)
    assert NEW_COLUMN in found
    assert {table for what, table in found if what == "remove_table"} == COMPANIONS
    assert refused(conn, "DROP TABLE inventory_movement").reason == "companion_of_attached"
    assert_sells(conn, item)


def test_alembic_with_the_filter_leaves_the_ledger(db, conn):
    open_shop(conn, "text", 50)
    assert proposals(db, include_name=include_name) == [NEW_COLUMN]


def test_alembic_needs_no_filter_where_the_ledger_and_the_extension_have_schemas_of_their_own(db, conn):
    open_shop_elsewhere(conn, "text", 50)
    assert proposals(db) == [NEW_COLUMN]


def test_alembic_sees_the_table_of_the_extension_beside_the_stock_table(db, conn):
    item = open_shop_with_extension_beside(conn, "text", 50)
    tables = [("remove_table", f"inventory_{name}") for name in ("attachment", "sharing")]
    assert proposals(db) == [NEW_COLUMN, *tables]
    assert refused(conn, "DROP TABLE inventory_attachment CASCADE").sqlstate == "2BP01"
    assert_sells(conn, item)
    assert proposals(db, include_name=include_name) == [NEW_COLUMN]


@pytest.mark.filterwarnings("ignore:Did not recognize type")
def test_alembic_that_reads_all_schemas_needs_the_filter_again(db, conn):
    open_shop_elsewhere(conn, "text", 50)
    seen = {table for what, table in proposals(db, include_schemas=True) if what == "remove_table"}
    assert {"stock_books.inventory_movement", "inventory_api.inventory_attachment"} <= seen
    assert proposals(db, include_schemas=True, include_name=include_name) == [NEW_COLUMN]


def test_a_shop_that_is_open_moves_its_ledger_and_the_extension_out_of_sight(db, conn):
    """As the manual says: the ledger and the keys go on."""
    item = open_shop(conn, "text", 50)
    sale = {"p_item": item, "p_quantity": 1, "p_idempotency_key": "key of order 7"}
    call(conn, "decrement_item", **sale)
    runs = "SELECT count(*), count(seal_number) FROM {}"
    [before] = conn.execute(runs.format("inventory_audit")).fetchall()
    conn.execute("SELECT detach_inventory()")
    conn.execute(OWN_SCHEMAS)
    for name in ("movement", *AUDIT, "request", "stripe", "stripe_total"):
        conn.execute(f"ALTER TABLE inventory_{name} SET SCHEMA stock_books")
    conn.execute("SELECT attach_inventory('inventory', p_companion_schema => 'stock_books')")
    assert call(conn, "decrement_item", **sale)["replayed"]
    assert_sells(conn, item)
    kinds = conn.execute("SELECT kind FROM stock_books.inventory_movement ORDER BY movement_id").fetchall()
    assert kinds == [("opening",), ("sale",), ("sale",)]
    assert before[1] > 0
    conn.execute("SELECT audit_inventory()")
    [after] = conn.execute(runs.format("stock_books.inventory_audit")).fetchall()
    assert after == (before[0] + 1, before[1] + 1)
    assert proposals(db) == [NEW_COLUMN]
