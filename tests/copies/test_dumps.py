"""Dumps and other copies of whole databases: who may make them, and that a shop made from one has every unit and key.

pg_dump and pg_restore of the server's own version, into the same cluster and into a younger one. A dump holds the row
of a striped item as it is, perhaps behind: the stripes count, also where the attachment does not come along.
"""

from contextlib import contextmanager

import psycopg
import pytest

from books import keys_kept, last_movement, order, steps, stripes_of
from databases import Database
from dev.server import Server
from servers import (
    PG,
    PUBLISHED,
    Shoppers,
    assert_counted_once,
    assert_nothing_crashed,
    at_rest,
    available,
    freeze_total,
    new_database,
    run,
    upgrade,
)
from shop import ONE, TWO, Aside, attach, create_role, item, left, refused, sell, shop, stock_of

THREE, FOUR = item(3), item(4)
ITEMS, STRIPED = [ONE, TWO, THREE, FOUR], [TWO, FOUR]
FORMS = ["plain", "custom", "directory"]


@pytest.fixture(scope="module")
def younger():
    """Another cluster, which has hardly begun to count its transactions."""
    with Server(pg=PG) as server:
        yield server
        assert_nothing_crashed(server)


@pytest.fixture
def conn(db):
    """A shop of which two items are striped, and whose total of one of them stays behind by 31."""
    conn = db.connect()
    open_shop(conn)
    order(conn, (ONE, 1), (FOUR, 1), p_reference="order 1", p_idempotency_key="key 1")
    at_rest(conn)
    with freeze_total(db, TWO):
        sell(conn, TWO, 31)
        yield conn


def open_shop(conn):
    shop(conn, {key: 100_000 for key in ITEMS})
    for key in STRIPED:
        conn.execute("SELECT stripe_inventory(%s, 4)", (key,))


def dump(db, form, path, *options):
    run(db.server, "pg_dump", f"--format={form}", "-f", path, *options, db.name)


def restore(db, form, path, *options):
    if form == "plain":
        run(db.server, "psql", "-Xqo/dev/null", "-vON_ERROR_STOP=1", "-1", "-d", db.name, "-f", path)
    else:
        run(db.server, "pg_restore", "--exit-on-error", *options, "-d", db.name, path)


@contextmanager
def copy_of(db, path, form="custom", server=None):
    """A new database with what a dump of this one holds."""
    dump(db, form, path)
    with new_database(server or db.server) as copy:
        restore(copy, form, path)
        yield copy


def contents(conn):
    """All rows of the shop, of each table as one text."""
    rows = "SELECT string_agg(t::text, '|' ORDER BY t::text) FROM {} AS t"
    return {table: conn.execute(rows.format(table)).fetchone()[0] for table in PUBLISHED.split(", ")}


def assert_sells_on(conn, behind=99_969):
    """Every unit and every key is there, and what is sold comes after what was."""
    after = last_movement(conn)
    assert available(conn, TWO) == behind
    assert order(conn, (ONE, 1), (FOUR, 1), p_reference="order 1", p_idempotency_key="key 1")["replayed"] is True
    for key in ITEMS:
        assert sell(conn, key, 1)["deducted"] == 1
    assert [kind for kind, *_ in steps(conn, after=after)] == ["sale"] * 4
    at_rest(conn)
    assert stock_of(conn) == {ONE: 99_998, TWO: behind - 1, THREE: 99_999, FOUR: 99_998}


@pytest.mark.parametrize("form", FORMS)
def test_a_shop_restored_with_a_total_behind_has_every_unit(db, conn, younger, tmp_path, form):
    """In the same cluster and in a younger one: rows are as they were, and the total gets exact by itself."""
    for server in (db.server, younger):
        with copy_of(db, tmp_path / f"{form}-{server.port}", form, server) as copy, copy.connect() as restored:
            assert contents(restored) == contents(conn)
            assert left(restored, TWO) == 100_000
            assert_sells_on(restored)


LOSES_THE_ATTACHMENT = {
    "detach": "SELECT detach_inventory()",
    "CHECK renamed": "ALTER TABLE inventory RENAME CONSTRAINT quantity_non_negative TO mine; SELECT detach_inventory()",
    "DROP EXTENSION": "DROP EXTENSION inventory_ext; CREATE EXTENSION inventory_ext",
}


@pytest.mark.parametrize("by", LOSES_THE_ATTACHMENT)
def test_a_restored_shop_that_is_attached_anew_gets_no_unit_back(db, conn, tmp_path, by):
    """After a detach, healthy or not, and after DROP and CREATE EXTENSION: the stripes count, not the row."""
    with copy_of(db, tmp_path / "dump") as copy, copy.connect() as restored:
        assert left(restored, TWO) == 100_000
        restored.execute(LOSES_THE_ATTACHMENT[by])
        attach(restored)
        assert left(restored, TWO) == available(restored, TWO) == 99_969
        assert_sells_on(restored)


def test_tables_restored_without_their_attachment_are_attached_by_their_stripes(db, conn, tmp_path):
    """pg_dump of the tables alone leaves the attachment out. Attach adds the stripes up, and keys are known."""
    tables = [f"--table={table}" for table in PUBLISHED.split(", ")]
    dump(db, "custom", tmp_path / "dump", *tables)
    with new_database(db.server) as copy, copy.connect() as restored:
        restored.execute("CREATE EXTENSION inventory_ext")
        restore(copy, "custom", tmp_path / "dump")
        assert attach(restored)["items"] == 4
        assert left(restored, TWO) == 99_969
        assert stripes_of(restored, TWO) == {}
        assert_sells_on(restored)


@pytest.mark.parametrize("form", ["plain", "custom"])
def test_schema_and_data_are_restored_one_after_the_other(db, conn, younger, tmp_path, form):
    """--schema-only, then --data-only --disable-triggers: nothing is recorded anew, and no guard stands in the way."""
    schema, data = tmp_path / "schema", tmp_path / "data"
    dump(db, form, schema, "--schema-only")
    dump(db, form, data, "--data-only", "--disable-triggers")
    for server in (db.server, younger):
        with new_database(server) as copy, copy.connect() as restored:
            restore(copy, form, schema)
            restore(copy, form, data, "--data-only", "--disable-triggers")
            assert contents(restored) == contents(conn)
            assert_sells_on(restored)


def test_clean_is_refused_while_attached_and_restores_after_detach(db, conn, tmp_path):
    """pg_restore --clean drops the ledger: of an attached table that is refused, and the living shop stays as it is."""
    path = tmp_path / "dump"
    with copy_of(db, path) as copy, copy.connect() as living:
        living.execute("SELECT restock_inventory(%s, 7)", (ONE,))
        clean = ["pg_restore", "--clean", "--if-exists", "--single-transaction", "-d", copy.name, path]
        before = living.execute("SELECT * FROM inventory_movement ORDER BY 1").fetchall()
        with pytest.raises(AssertionError, match="companion_of_attached"):
            run(copy.server, *clean)
        assert living.execute("SELECT * FROM inventory_movement ORDER BY 1").fetchall() == before
        assert sell(living, ONE, 7)["deducted"] == 7
        living.execute("SELECT detach_inventory()")
        run(copy.server, *clean)
        assert_sells_on(living)


@pytest.mark.parametrize(("jobs", "anew"), [(1, False), (3, True)], ids=["as it is", "parallel, attached anew"])
def test_a_dump_made_while_orders_come_in_is_a_shop_of_one_moment(db, younger, tmp_path, jobs, anew):
    """An item is striped and put together meanwhile. The copy knows its keys, and sells the other orders once."""
    path, dumped = tmp_path / "dump", []
    with db.connect() as conn:
        open_shop(conn)
    with Shoppers(db.dsn, ITEMS) as shoppers, freeze_total(db, TWO):
        shoppers.until_answered(20)
        restriping = Aside(restripe, db, dumped)
        try:
            dump(db, "directory", path, f"--jobs={jobs}")
        finally:
            dumped.append(True)
        assert restriping.result() > 0
        shoppers.until_answered(20)
    with new_database(younger) as copy, copy.connect() as restored:
        restore(copy, "directory", path, f"--jobs={jobs}")
        if anew:
            restored.execute("DROP EXTENSION inventory_ext; CREATE EXTENSION inventory_ext")
            attach(restored)
        at_rest(restored)
        known = keys_kept(restored)
        replayed = [each.key for each in shoppers.orders if each.send(restored).get("replayed")]
        assert sorted(replayed) == known != []
        assert_counted_once(restored, shoppers.orders)
        at_rest(restored)
        ordered = {key: sum(dict(each.pairs).get(key, 0) for each in shoppers.orders) for key in ITEMS}
        assert stock_of(restored) == {key: 100_000 - ordered[key] for key in ITEMS}


def restripe(db, over):
    """Stripes an item and puts it together again and again; gives how often."""
    rounds = 0
    with db.connect() as conn:
        while not over:
            conn.execute("SELECT stripe_inventory(%s, 3)", (ONE,))
            conn.execute("SELECT unstripe_inventory(%s)", (ONE,))
            rounds += 1
    return rounds


def test_template_copies_sell_on_by_themselves(db, conn, tmp_path):
    """CREATE DATABASE … TEMPLATE of a shop whose total is behind, and of one whose totals worker is still connected."""
    with copy_of(db, tmp_path / "dump") as original:
        with new_database(db.server, f"TEMPLATE {original.name}") as first:
            with first.connect() as copied:
                assert left(copied, TWO) == 100_000
                assert_sells_on(copied)
            with new_database(db.server, f"TEMPLATE {first.name}") as second, second.connect() as copied:
                assert sell(copied, TWO, 1)["deducted"] == 1
                at_rest(copied)
        with new_database(db.server, f"TEMPLATE {original.name}") as third, third.connect() as copied:
            copied.execute("DROP EXTENSION inventory_ext; CREATE EXTENSION inventory_ext")
            attach(copied)
            assert left(copied, TWO) == 99_969
        with original.connect() as untouched:
            assert_sells_on(untouched)


def test_an_upgraded_cluster_sells_on():
    """pg_upgrade takes every object of the extension over by itself, and the total that was behind gets exact."""
    with Server(pg=PG) as old, Server(pg=PG) as new:
        with psycopg.connect(old.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE shop")
        db = Database(old, "shop")
        with db.connect() as conn:
            conn.execute("CREATE EXTENSION inventory_ext")
            open_shop(conn)
            order(conn, (ONE, 1), (FOUR, 1), p_reference="order 1", p_idempotency_key="key 1")
            holder = freeze_total(db, TWO)
            sell(conn, TWO, 31)
        upgrade(old, new)  # the holder's row is held until the old cluster stops
        holder.close()
        with psycopg.connect(new.dsn("shop"), autocommit=True) as upgraded:
            assert left(upgraded, TWO) == 100_000
            assert_sells_on(upgraded)
            assert refused(upgraded, "DROP TABLE inventory_movement CASCADE").reason == "companion_of_attached"
        assert_nothing_crashed(old, new)


@pytest.fixture
def owner_role(db):
    """The owner of the database and of its stock table, who is no superuser; another of its roles is a member of it."""
    with db.connect() as conn:
        role = create_role(conn, db, "owner_role")
        member = create_role(conn, db, "member")
        conn.execute(f'GRANT "{role}" TO "{member}"; ALTER DATABASE {db.name} OWNER TO "{role}"')
        conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{role}"')
    with db.connect(user=role) as owner:
        open_shop(owner)
        order(owner, (ONE, 1), (FOUR, 1), p_reference="order 1", p_idempotency_key="key 1")
        sell(owner, TWO, 31)
    return role


@pytest.mark.parametrize("member", [False, True], ids=["owner", "member of the owner"])
def test_the_owner_of_the_database_dumps_it_without_being_superuser(db, owner_role, tmp_path, member):
    """The dump is whole: restored by a superuser it sells, keeps its owner, and is dumped by that owner again."""
    who = owner_role.replace("owner_role", "member") if member else owner_role
    dump(db, "custom", tmp_path / "dump", f"--username={who}")
    with new_database(db.server, f'TEMPLATE template0 OWNER "{owner_role}"') as copy:
        restore(copy, "custom", tmp_path / "dump")
        with copy.connect(user=owner_role) as restored:
            assert_sells_on(restored)
        dump(copy, "custom", tmp_path / "again", f"--username={who}")


def test_the_owner_of_the_database_may_read_the_attachment_and_nothing_more(db, owner_role):
    """And no other role may even read it."""
    with db.connect(user=owner_role) as owner:
        assert owner.execute("SELECT stock_table::text FROM inventory_attachment").fetchall() == [("inventory",)]
        for sql in (
            "UPDATE inventory_attachment SET run_as = 'caller'",
            "DELETE FROM inventory_attachment",
            "INSERT INTO inventory_attachment SELECT * FROM inventory_attachment",
            "TRUNCATE inventory_attachment",
            "DO 'BEGIN LOCK TABLE inventory_attachment IN SHARE MODE; END'",
        ):
            assert refused(owner, sql).sqlstate == "42501", sql
        owner.execute("GRANT SELECT ON inventory_attachment TO PUBLIC")  # only a WARNING: nothing is granted
    with db.connect() as conn:
        stranger = create_role(conn, db, "stranger")
    with db.connect(user=stranger) as conn:
        assert refused(conn, "SELECT FROM inventory_attachment").sqlstate == "42501"


GUARDED = {
    "inventory_movement": "actor",
    "inventory_request": "answer",
    "inventory_stripe": "quantity",
    "inventory_stripe_total": "quantity",
}


def test_a_restore_under_other_default_privileges_opens_nothing_for_writing(db, conn, tmp_path):
    """Defaults of the new database grant a role all rights on new tables and functions, as hosted platforms do."""
    path, web = tmp_path / "dump", create_role(conn, db, "web")
    dump(db, "custom", path)
    with new_database(db.server) as copy, copy.connect() as restored:
        for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
            restored.execute(f'ALTER DEFAULT PRIVILEGES GRANT ALL ON {kind} TO "{web}"')
        restore(copy, "custom", path)
        with copy.connect(user=web) as visitor:
            for table, column in GUARDED.items():
                for sql in (
                    f"INSERT INTO {table} DEFAULT VALUES", f"UPDATE {table} SET {column} = {column}",
                    f"DELETE FROM {table}", f"TRUNCATE {table}",
                ):  # fmt: skip
                    assert refused(visitor, sql).sqlstate in ("55000", "42501"), sql
            assert refused(visitor, "SELECT FROM inventory_attachment").sqlstate == "42501"
            for call in ("decrement_inventory(%s, 1)", "available_inventory(%s)", "unstripe_inventory(%s)"):
                assert refused(visitor, f"SELECT {call}", (TWO,)).sqlstate == "42501"
        assert_sells_on(restored)
