"""ALTER DEFAULT PRIVILEGES opens nothing of the extension and nothing that attach makes.

Managed services set default privileges that grant everything to roles of the web, and a single one of them is ordinary.
A REVOKE from PUBLIC does not take such a grant away. Where an object must be restored with them, as a dump of a shop
is, the triggers of the companions refuse the writes.
"""

import itertools
import subprocess

import psycopg
import pytest

from attack_parties import COMPANIONS
from books import audit, call, keys_kept, lines, stripes_of
from shop import ONE, TWO, attach, create_role, fill, refusal_of, refused, sell, shop, stock_of

KINDS = ("TABLES", "SEQUENCES", "FUNCTIONS")
# What a database may have been set up with; {r} is a role of the web, {s} a schema.
DEFAULTS = {
    "as Supabase": [f"IN SCHEMA {{s}} GRANT ALL ON {kind} TO {{r}}" for kind in KINDS],
    "for all schemas": [f"GRANT ALL ON {kind} TO {{r}}" for kind in KINDS],
    "with grant option": [f"GRANT ALL ON {kind} TO {{r}} WITH GRANT OPTION" for kind in KINDS],
    "to PUBLIC": [f"{where} GRANT ALL ON {kind} TO PUBLIC" for kind in KINDS for where in ("", "IN SCHEMA {s}")],
    "functions only": ["GRANT EXECUTE ON FUNCTIONS TO {r}"],
    "functions of a schema": ["IN SCHEMA {s} GRANT EXECUTE ON FUNCTIONS TO {r}"],
    "reading only": ["GRANT SELECT ON TABLES TO {r}"],
    "one of many": [
        "IN SCHEMA {s} GRANT DELETE, TRIGGER ON TABLES TO {r}",
        "GRANT TRUNCATE, REFERENCES ON TABLES TO PUBLIC",
    ],
    "sequences only": ["GRANT USAGE, UPDATE ON SEQUENCES TO {r}"],
}
MEMBERS = """
    SELECT p.oid::regprocedure::text, p.prorettype::regtype::text AS type, p.proowner AS owner,
           coalesce(p.proacl, acldefault('f', p.proowner)) AS acl
      FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'inventory_ext'
"""


@pytest.fixture
def conn(db):
    """The superuser, in a database without the extension."""
    conn = db.connect()
    conn.execute("DROP EXTENSION inventory_ext")
    return conn


@pytest.fixture
def anon(conn, db):
    return create_role(conn, db, "anon")


def set_defaults(conn, defaults, role, schema="public", of=""):
    """ALTER DEFAULT PRIVILEGES, for what `of` makes: a role, or the current one."""
    of = f'FOR ROLE "{of}" ' if of else ""
    for default in DEFAULTS[defaults]:
        conn.execute(f"ALTER DEFAULT PRIVILEGES {of}" + default.format(r=f'"{role}"', s=schema))


def grants_on_functions(conn) -> list:
    """(function, grantee) of every EXECUTE on a function of the extension that its owner has not, but PUBLIC on
    triggers, and those who read statistics on what they read."""
    return conn.execute(
        f"""SELECT oid, a.grantee::regrole::text FROM ({MEMBERS}) AS f, aclexplode(f.acl) AS a
             WHERE a.grantee <> f.owner AND NOT (f.type = 'trigger' AND a.grantee = 0)
               AND NOT (a.grantee = 'pg_read_all_stats'::regrole
                        AND f.oid::text ~ 'inventory_(stats_\\w+|advice)\\(')"""
    ).fetchall()


def companion_grants(conn) -> list:
    return [grant for grant in grants_on_tables(conn, "inventory\\_%") if grant[0] != "inventory_attachment"]


def grants_on_tables(conn, like: str) -> list:
    """(relation, grantee, right) of all that another role than the owner may do with tables and sequences of such a
    name, but those who read statistics with the views."""
    return conn.execute(
        """SELECT c.relname, a.grantee::regrole::text, a.privilege_type
             FROM pg_class c,
                  aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
                                                                      c.relowner))) AS a
            WHERE c.relname LIKE %s AND c.relkind IN ('r', 'S', 'v') AND a.grantee <> c.relowner
              AND (c.relkind, a.grantee, a.privilege_type) <> ('v', 'pg_read_all_stats'::regrole, 'SELECT')
            UNION ALL
           SELECT c.relname || '.' || t.attname, a.grantee::regrole::text, a.privilege_type
             FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid,
                  aclexplode(t.attacl) AS a WHERE c.relname LIKE %s""",
        (like, like),
    ).fetchall()


@pytest.mark.parametrize(("defaults", "schema"), [*((name, "public") for name in DEFAULTS), ("as Supabase", "tools")])
def test_create_extension_leaves_no_grant_that_default_privileges_made(conn, anon, defaults, schema):
    """Neither EXECUTE on a function nor any right on the configuration, in the schema public and in another one."""
    conn.execute(f'CREATE SCHEMA IF NOT EXISTS {schema}; GRANT ALL ON SCHEMA {schema} TO "{anon}"')
    set_defaults(conn, defaults, anon, schema)
    conn.execute(f"CREATE EXTENSION inventory_ext SCHEMA {schema}")
    assert grants_on_functions(conn) == []
    assert set(grants_on_tables(conn, "inventory_attachment%")) <= {
        ("inventory_attachment", "pg_database_owner", "SELECT")
    }
    for (function,) in conn.execute(f"SELECT f.oid FROM ({MEMBERS}) AS f WHERE f.type <> 'trigger'").fetchall():
        held = conn.execute("SELECT has_function_privilege(%s, %s, 'EXECUTE')", (anon, function)).fetchone()[0]
        assert not held, function


def test_default_privileges_of_another_superuser_count_no_more(conn, db, anon):
    """The extension belongs to the superuser who creates it, with the default privileges of that role."""
    admin = create_role(conn, db, "admin", "LOGIN SUPERUSER")
    for defaults in ("for all schemas", "as Supabase"):
        set_defaults(conn, defaults, anon, of=admin)
    try:
        with db.connect(user=admin) as session:
            session.execute("CREATE EXTENSION inventory_ext")
        assert grants_on_functions(conn) == []
        assert [grant for grant in grants_on_tables(conn, "inventory%") if grant[1] != "pg_database_owner"] == []
    finally:
        conn.execute(f'ALTER ROLE "{admin}" NOSUPERUSER')


def test_a_fresh_role_may_execute_no_function(conn, db):
    """All functions of the extension but those that return a trigger: there is no overload and no new one that was
    forgotten."""
    conn.execute("CREATE EXTENSION inventory_ext")
    fresh = create_role(conn, db, "fresh")
    held = conn.execute(
        f"SELECT f.oid FROM ({MEMBERS}) AS f WHERE f.type <> 'trigger' "
        f"AND has_function_privilege(%s, f.oid, 'EXECUTE')",
        (fresh,),
    ).fetchall()
    assert held == []
    assert len(conn.execute(MEMBERS).fetchall()) > 11


def test_where_public_gets_no_execute_by_default_an_owner_can_still_attach(conn, db):
    """The common hardening takes EXECUTE from PUBLIC; the trigger functions have it all the same, for the owner's
    triggers."""
    conn.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC; CREATE EXTENSION inventory_ext")
    owner = create_role(conn, db, "owner")
    conn.execute(
        f'CREATE SCHEMA store AUTHORIZATION "{owner}"; GRANT EXECUTE ON FUNCTION attach_inventory TO "{owner}"'
    )
    with db.connect(user=owner) as session:
        shop(session, {ONE: 10}, "store.inventory")
    assert sell(conn, ONE, 1)["new_quantity"] == 9
    assert {grantee for _, grantee in grants_on_functions(conn)} == {owner}


@pytest.fixture
def owner(conn, db):
    """A role that may attach and has a schema of its own."""
    conn.execute("CREATE EXTENSION inventory_ext")
    owner = create_role(conn, db, "owner")
    conn.execute(f'CREATE SCHEMA store AUTHORIZATION "{owner}"')
    conn.execute(f'GRANT EXECUTE ON FUNCTION attach_inventory, detach_inventory, stripe_inventory TO "{owner}"')
    return owner


@pytest.mark.parametrize(
    ("defaults", "by"), [*((name, "the owner") for name in DEFAULTS), ("as Supabase", "a superuser")]
)
def test_attach_leaves_no_grant_that_default_privileges_made(db, conn, owner, anon, defaults, by):
    """On ledger, keys, stripes, their totals and the sequence, whether the owner attaches or a superuser."""
    conn.execute(f'GRANT ALL ON SCHEMA store TO "{anon}"')
    set_defaults(conn, defaults, anon, "store", of=owner)
    set_defaults(conn, defaults, anon, "store")
    session = db.connect(user=owner)
    session.execute("CREATE TABLE store.inventory (id uuid PRIMARY KEY, quantity integer)")
    fill(session, {ONE: 10, TWO: 10}, "store.inventory")
    before = grants_on_tables(conn, "inventory")
    attach(session if by == "the owner" else conn, "store.inventory")
    session.execute("SELECT stripe_inventory(%s, 2)", (ONE,))
    assert [grant for grant in grants_on_tables(conn, "inventory\\_%") if grant[1] != "pg_database_owner"] == []
    assert grants_on_tables(conn, "inventory") == before, "the stock table itself is its owner's to grant"


WRITES = {
    "inventory_request": [
        "INSERT INTO {t} (idempotency_key, function_name, arguments_hash, answer) "
        "VALUES ('forged', 'restock_inventory', '', '1')",
        "INSERT INTO {t} SELECT 'copy', function_name, arguments_hash, answer FROM {t}",
        "UPDATE {t} SET answer = '{{\"success\": false}}'",
        "DELETE FROM {t}",
        "DELETE FROM {t} WHERE false",
        "TRUNCATE {t}",
        "COPY {t} (idempotency_key, function_name, arguments_hash) FROM STDIN",
        "MERGE INTO {t} USING (SELECT 1) AS x ON true WHEN MATCHED THEN DELETE",
    ],
    "inventory_stripe": [
        "INSERT INTO {t} SELECT inventory_id, 7, 1000 FROM {t} LIMIT 1",
        "UPDATE {t} SET quantity = 0",
        "DELETE FROM {t}",
        "TRUNCATE {t}",
    ],
    "inventory_stripe_total": [
        "INSERT INTO {t} VALUES (gen_random_uuid(), 1000)",
        "UPDATE {t} SET quantity = 0",
        "DELETE FROM {t}",
        "TRUNCATE {t}",
    ],
    "inventory_movement": [
        "INSERT INTO {t} (inventory_id, kind, old_quantity, new_quantity, actor) "
        "VALUES (gen_random_uuid(), 'sale', 1, 0, 'me')",
        "UPDATE {t} SET actor = 'me'",
        "DELETE FROM {t}",
        "TRUNCATE {t}",
    ],
}
GUARDS = {
    "inventory_request": "requests_protected", "inventory_stripe": "stripes_protected",
    "inventory_stripe_total": "stripes_protected", "inventory_movement": "ledger_protected",
}  # fmt: skip


def refused_write(conn, sql):
    """How a write is refused; COPY is refused when it begins."""
    if not sql.startswith("COPY"):
        return refused(conn, sql)
    with pytest.raises(psycopg.Error) as caught, conn.cursor().copy(sql):
        pass
    return refusal_of(caught.value)


def supabase(conn, anon, schema="public"):
    conn.execute(f'GRANT USAGE ON SCHEMA {schema} TO "{anon}"')
    set_defaults(conn, "as Supabase", anon, schema)


def test_a_role_of_the_web_can_neither_call_nor_read_nor_write(db, conn, anon):
    """The whole attack: the project grants anon everything by default, then the extension comes and a table is
    attached."""
    supabase(conn, anon)
    conn.execute("CREATE EXTENSION inventory_ext")
    shop(conn, {ONE: "10.00", TWO: "10.00"})
    conn.execute(f"REVOKE ALL ON inventory FROM \"{anon}\"; SELECT stripe_inventory('{TWO}', 2)")
    first = call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="delivery")
    web = db.connect(user=anon)
    for what in (
        f"decrement_inventory('{ONE}', 4)", f"decrement_inventory_batch('{lines((ONE, 1))}', 'order 7', 'probe')",
        f"restock_inventory('{ONE}', 4)", f"adjust_inventory('{ONE}', 1000)",
        f"transfer_inventory('{ONE}', '{TWO}', 1)",
        f"available_inventory('{ONE}')", f"stripe_inventory('{ONE}', 4)", f"unstripe_inventory('{TWO}')",
        "purge_requests('0')", "attach_inventory('inventory')", "detach_inventory()",
    ):  # fmt: skip
        assert refused(web, f"SELECT {what}").sqlstate == "42501", what
    for table, writes in WRITES.items():
        for sql in ["SELECT count(*) FROM {t}", "DO 'BEGIN LOCK TABLE {t} IN ACCESS EXCLUSIVE MODE; END'", *writes]:
            assert refused_write(web, sql.format(t=table)).sqlstate == "42501", sql
    for sql in (
        "UPDATE inventory_attachment SET run_as = 'owner'",
        "DELETE FROM inventory_attachment", "TABLE inventory_attachment",
        "INSERT INTO inventory_attachment SELECT * FROM inventory_attachment", "TRUNCATE inventory_attachment",
        "SELECT nextval('inventory_movement_movement_id_seq')",
        "SELECT setval('inventory_movement_movement_id_seq', 1)",
    ):  # fmt: skip
        assert refused(web, sql).sqlstate == "42501", sql
    again = call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="delivery")
    assert again == {**first, "replayed": True}
    assert stock_of(conn) == {ONE: 15, TWO: 10}
    audit(conn)


def test_one_ordinary_default_privilege_does_not_close_the_shop(db, conn, owner, anon):
    """GRANT … ON TABLES TO webapp: a DELETE of the keys made a retry sell again, a trigger on them ran at every
    sale."""
    session = db.connect(user=owner)
    session.execute(f'GRANT USAGE ON SCHEMA store TO "{anon}"')
    session.execute(
        f'ALTER DEFAULT PRIVILEGES IN SCHEMA store GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON TABLES TO "{anon}"'
    )
    shop(session, {ONE: 10}, "store.inventory")
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="k")
    web = db.connect(user=anon)
    assert refused(web, "DELETE FROM store.inventory_request").sqlstate == "42501"
    assert refused(web, "SELECT idempotency_key FROM store.inventory_request").sqlstate == "42501"
    web.execute("CREATE FUNCTION pg_temp.stop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    for table in COMPANIONS:
        sql = (
            f"CREATE TRIGGER stop BEFORE INSERT OR UPDATE ON store.{table} FOR EACH ROW EXECUTE FUNCTION pg_temp.stop()"
        )
        assert refused(web, sql).sqlstate == "42501"
    assert call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="k")["replayed"] is True
    assert sell(conn, ONE, 1)["new_quantity"] == 14


_copies = itertools.count(1)


@pytest.fixture
def restored(db):
    """Dumps the test's database and restores it into one that `prepare` has set up."""
    made = []

    def program(name, *arguments, **more):
        done = subprocess.run(
            [str(db.server.bindir / name), *arguments], env=db.server.env(), capture_output=True, text=True, **more
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def restore(prepare):
        name = f"{db.name}_copy{next(_copies)}"
        with psycopg.connect(db.server.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            connection.execute(f"ALTER DATABASE {name} SET lock_timeout = '60s'")
        made.append(name)
        copy = psycopg.connect(db.server.dsn(name), autocommit=True)
        prepare(copy)
        program(
            "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", name, input=program("pg_dump", db.name)
        )
        return copy

    yield restore
    for name in made:
        with psycopg.connect(db.server.dsn(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def opened(conn, db, anon, restored):
    """The copy of a shop in a database whose default privileges gave anon everything: (superuser, anon)."""
    conn.execute("CREATE EXTENSION inventory_ext")
    shop(conn, {ONE: "10.00", TWO: "10.00"})
    conn.execute("SELECT stripe_inventory(%s, 2)", (TWO,))
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="delivery")
    copy = restored(lambda copy: supabase(copy, anon))
    return copy, psycopg.connect(db.server.dsn(copy.info.dbname, anon), autocommit=True)


def test_a_restore_under_other_default_privileges_opens_no_function_and_no_configuration(opened, anon):
    """CREATE EXTENSION runs in the copy, so its functions and its table have the rights of a new one."""
    copy, _ = opened
    assert grants_on_functions(copy) == []
    assert [grant for grant in grants_on_tables(copy, "inventory_attachment%") if grant[1] != "pg_database_owner"] == []


@pytest.mark.parametrize("table", COMPANIONS)
def test_the_guards_hold_where_a_restore_has_opened_a_companion(opened, table):
    """Each write is refused by name to the role of the web and to the owner, and a retry is still answered."""
    copy, web = opened
    kept = keys_kept(copy), stripes_of(copy, TWO), stock_of(copy)
    for session in (web, copy):
        for sql in WRITES[table]:
            found = refused_write(session, sql.format(t=table))
            assert (found.sqlstate, found.reason) == ("55000", GUARDS[table]), sql
    assert (keys_kept(copy), stripes_of(copy, TWO), stock_of(copy)) == kept
    again = call(copy, "restock_inventory", p_inventory_id=ONE, p_quantity=5, p_idempotency_key="delivery")
    assert (again["replayed"], again["new_quantity"]) == (True, 15)
    audit(copy)


@pytest.mark.parametrize("table", COMPANIONS)
def test_a_trigger_that_a_restore_let_a_stranger_make_runs_in_no_call(opened, table):
    """TRIGGER comes with the default privileges: the stranger's function would run as the owner of the companion."""
    copy, web = opened
    web.execute(
        f"""CREATE FUNCTION pg_temp.climb() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'runs as %', current_user; END $$;
            CREATE TRIGGER climb BEFORE INSERT OR UPDATE OR DELETE ON {table}
                FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.climb()"""
    )
    for what in (
        f"decrement_inventory('{ONE}', 1)",
        f"decrement_inventory('{TWO}', 1)", f"restock_inventory('{ONE}', 1, NULL, 'new')",
    ):  # fmt: skip
        found = refused(copy, f"SELECT {what}")
        assert (found.sqlstate, found.reason, found.facts["trigger"]) == ("55000", "foreign_trigger", "climb")
    web.execute("DROP FUNCTION pg_temp.climb CASCADE")
    sell(copy, TWO, 1)


def test_grants_on_purpose_survive_detach_and_attach(db, conn, owner, anon):
    """A right on an existing companion was a decision of the owner; it stays, also where default privileges would give
    more."""
    session = db.connect(user=owner)
    shop(session, {ONE: 10}, "store.inventory")
    session.execute(
        f"""GRANT SELECT ON store.inventory_movement TO "{anon}"; GRANT USAGE ON SCHEMA store TO "{anon}";
            GRANT SELECT (idempotency_key) ON store.inventory_request TO "{anon}";
            GRANT SELECT ON store.inventory_stripe TO PUBLIC"""
    )
    before = grants_on_tables(conn, "inventory%")
    set_defaults(conn, "for all schemas", anon, of=owner)
    session.execute("SELECT detach_inventory()")
    attach(session, "store.inventory")
    assert grants_on_tables(conn, "inventory%") == before
    assert db.connect(user=anon).execute("SELECT kind FROM store.inventory_movement").fetchall() == [("opening",)]
