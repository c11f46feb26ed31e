"""Tools that drop each table that a model does not have leave the ledger alone.

Where the tables of the extension and the companions are beside the stock table, the tools need a filter. They need none
where these have schemas of their own, which the tools do not read.
"""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, MetaData, Numeric, Table, Text, create_engine

from alembic_filter import COMPANIONS, include_name
from books import audit, call
from selling import FOLDER, environment, open_shop, run
from shop import refused

KIT = ["node", "node_modules/drizzle-kit/bin.cjs"]
FILTER, CHECK = "  tablesFilter:", "  (table) => [check("  # the beginnings of lines


@pytest.fixture
def conn(db):
    return db.connect()


def has_argument(conn, name):
    names = "SELECT proargnames FROM pg_proc WHERE proname = 'attach_inventory'"
    return name in conn.execute(names).fetchone()[0]


def open_shop_with_books_elsewhere(conn, id_type):
    """The extension and the companions are in schemas of their own."""
    if not has_argument(conn, "p_companion_schema"):
        pytest.skip("attach_inventory has no argument p_companion_schema")
    conn.execute(
        """DROP EXTENSION inventory_ext;
           CREATE SCHEMA inventory_api;
           CREATE EXTENSION inventory_ext SCHEMA inventory_api;
           CREATE SCHEMA stock_books;
           SET search_path = public, inventory_api"""
    )
    return open_shop(conn, id_type, 50, p_companion_schema="stock_books")


def ledger_of(conn):
    """The name of the ledger, with its schema."""
    return conn.execute("SELECT movement_table::text FROM inventory_attachment").fetchone()[0]


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


def columns(conn):
    names = "SELECT array_agg(attname::text) FROM pg_attribute WHERE attrelid = 'inventory'::regclass AND attnum > 0"
    return conn.execute(names).fetchone()[0]


def test_drizzle_pull_reads_the_stock_table_and_changes_nothing(conn, project, tmp_path):
    item = open_shop(conn, "bigint", 50)
    project()("pull")
    pulled = (tmp_path / "drizzle/schema.ts").read_text()
    assert 'pgTable("inventory",' in pulled and 'check("quantity_non_negative"' in pulled
    assert 'pgTable("inventory_movement"' not in pulled
    assert_sells(conn, item)


def test_drizzle_push_changes_the_stock_table_and_leaves_the_ledger(conn, project):
    item = open_shop(conn, "bigint", 50)
    kit = project()
    assert_sells(conn, item)
    kit("push", "--force")
    assert columns(conn) == ["id", "quantity", "name"]
    assert_sells(conn, item)
    assert "No changes detected" in kit("push", "--force")


def test_drizzle_push_without_the_filter_cannot_drop_the_ledger(conn, project):
    item = open_shop(conn, "bigint", 50)
    printed = project(FILTER)("push", "--force", "--verbose")  # with exit status 0
    assert 'DROP TABLE "inventory_movement"' in printed and "error: " in printed
    assert_sells(conn, item)


def test_drizzle_push_needs_no_filter_where_the_ledger_has_a_schema_of_its_own(conn, project):
    item = open_shop_with_books_elsewhere(conn, "bigint")
    kit = project(FILTER)
    kit("push", "--force")
    assert columns(conn) == ["id", "quantity", "name"]
    assert_sells(conn, item)
    assert "No changes detected" in kit("push", "--force")


def test_drizzle_push_of_a_model_without_the_check_stops_the_sales_until_the_next_attach(conn, project):
    """No unit is lost, and none is sold unchecked."""
    item = open_shop(conn, "bigint", 50)
    project(CHECK)("push", "--force")
    sale = "SELECT decrement_item(%s, 1)"
    assert refused(conn, sale, (item,)).reason == "check_dropped"
    conn.execute("SELECT detach_inventory(); SELECT attach_inventory('inventory')")
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


def test_alembic_needs_no_filter_where_the_ledger_has_a_schema_of_its_own(db, conn):
    open_shop_with_books_elsewhere(conn, "text")
    assert proposals(db) == [NEW_COLUMN]
