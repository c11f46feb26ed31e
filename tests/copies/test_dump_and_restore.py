"""A dumped and restored database goes on selling: the attachment travels with it.

Plain and custom format, renamed columns, a table in another schema. In the restored database every oid and perhaps
every column number is another.
"""

import subprocess

import psycopg
import pytest

from shop import ONE, attach, refused_sale, sell, shop, stock_table


@pytest.fixture(params=["plain", "custom"])
def restored(db, request):
    """A function that dumps the test's database, restores it as another, and connects to that."""
    made = []

    def run(program, *arguments):
        command = [str(db.server.bindir / program), *arguments]
        done = subprocess.run(command, env=db.server.env(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stderr.lower(), done.stderr

    def restore(tmp_path):
        name, dump = f"{db.name}_copy", str(tmp_path / "dump")
        run("pg_dump", f"--format={request.param}", f"--file={dump}", db.name)
        run("createdb", "--template=template0", name)
        made.append(name)
        if request.param == "plain":
            run("psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--dbname={name}", f"--file={dump}")
        else:
            run("pg_restore", "--exit-on-error", f"--dbname={name}", dump)
        return psycopg.connect(db.server.dsn(name), autocommit=True)

    yield restore
    for name in made:
        with psycopg.connect(db.server.dsn(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_selling_goes_on_after_a_restore(db, restored, tmp_path):
    """The stock, its constraints and what is attached."""
    conn = db.connect()
    shop(conn, {ONE: "10.00"})
    sell(conn, ONE, "1")
    with restored(tmp_path) as copy:
        assert sell(copy, ONE, "1")["old_quantity"] == 9
        assert refused_sale(copy, ONE, "9").sqlstate == "IV001"
    assert sell(conn, ONE, "1")["old_quantity"] == 9


def test_renamed_and_renumbered_columns_are_found_after_a_restore(db, restored, tmp_path):
    """A rename after attach just works here; the restored database, which knows only names, must know the new ones."""
    conn = db.connect()
    conn.execute("CREATE SCHEMA store")
    conn.execute("CREATE TABLE store.inventory (gone text, id uuid PRIMARY KEY, quantity integer)")
    conn.execute("ALTER TABLE store.inventory DROP COLUMN gone")
    conn.execute("INSERT INTO store.inventory VALUES (%s, 10)", (ONE,))
    attach(conn, "store.inventory")
    conn.execute("ALTER TABLE store.inventory RENAME quantity TO on_hand")
    conn.execute("ALTER TABLE store.inventory RENAME id TO item")
    conn.execute('ALTER TABLE store.inventory RENAME TO "Stock"')
    assert sell(conn, ONE, "1")["new_quantity"] == 9
    with restored(tmp_path) as copy:
        assert sell(copy, ONE, "1")["new_quantity"] == 8


def test_a_database_without_an_attachment_is_restored_without_one(db, restored, tmp_path):
    """Nothing is attached by a restore that was not attached before."""
    conn = db.connect()
    shop(conn, {ONE: "10.00"})
    conn.execute("SELECT detach_inventory()")
    with restored(tmp_path) as copy:
        assert refused_sale(copy, ONE, "1").reason == "not_attached"
        stock_table(copy, {ONE: "3"}, table="other")
        attach(copy, "other")
        assert sell(copy, ONE, "1")["new_quantity"] == 2


def test_a_dump_of_a_shop_whose_table_is_gone_can_be_restored(db, restored, tmp_path):
    """The attachment names a table that was dropped: the restore must not fail over it."""
    conn = db.connect()
    shop(conn, {ONE: "10.00"})
    conn.execute("DROP TABLE inventory")
    with restored(tmp_path) as copy:
        assert refused_sale(copy, ONE, "1").sqlstate == "55000"
        copy.execute("SELECT detach_inventory()")
        stock_table(copy, {ONE: "3"})
        attach(copy)
        assert sell(copy, ONE, "1")["new_quantity"] == 2
