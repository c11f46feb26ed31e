"""ALTER EXTENSION inventory_ext UPDATE: a shop of version 0.1.0 has the catalog of a fresh installation, and sells on.

shop-0.1.0.dump is what pg_dump wrote of a shop that a build of that version ran: a ledger, keys, a striped item, and
the grants of the owner. inventory_ext--0.1.0.sql is the installation script of that build. The library is always the
present one, as on a server where the package was replaced and the databases are not updated yet.
"""

import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from books import audit, call
from public_api import EXPECTED, public_api
from shop import attach, create_role, fill, item, left, refused, until

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "sql"
NAILS, SCREWS, HOOKS = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
UPDATE = "ALTER EXTENSION inventory_ext UPDATE"
CHANGED = [
    "adjust_inventory", "attach_inventory", "available_inventory", "detach_inventory", "restock_inventory",
    "stripe_inventory", "transfer_inventory", "unstripe_inventory",
]  # fmt: skip
# Everything of the extension and of the companions that a dump would show, and comments.
CATALOG = """
    SELECT pg_describe_object(d.classoid, d.objoid, d.objsubid) AS object, d.description
      FROM pg_description AS d
     WHERE (d.classoid, d.objoid) IN (
         SELECT classid, objid FROM pg_depend
          WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
            AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'inventory_ext'))
        OR d.objoid IN (SELECT oid FROM pg_class WHERE relname LIKE 'inventory\\_%')
     UNION ALL
    SELECT pg_describe_object(classoid, objoid, objsubid), privtype::text || ' ' || initprivs::text FROM pg_init_privs
     WHERE classoid <> 'pg_proc'::regclass OR objoid IN (
         SELECT objid FROM pg_depend WHERE classid = 'pg_proc'::regclass AND deptype = 'e'
            AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'inventory_ext'))
     ORDER BY 1, 2
"""


@pytest.fixture
def old(db):
    """A session in a database of the old version with the shop."""
    with db.connect() as conn:
        conn.execute("DROP EXTENSION inventory_ext")
        conn.execute("DO $$ BEGIN CREATE ROLE keeper; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
        conn.execute("CREATE EXTENSION inventory_ext VERSION '0.1.0'")
    command = ["psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", db.name]
    done = subprocess.run(
        [*command, "-f", HERE / "shop-0.1.0.dump"], env=db.server.env(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return db.connect()


def updated(old):
    old.execute(UPDATE)
    return old


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT decrement_inventory('{NAILS}', 1)",
        f"SELECT restock_inventory('{NAILS}', 1)",
        f"SELECT adjust_inventory('{NAILS}', 1)",
        f"SELECT transfer_inventory('{NAILS}', '{SCREWS}', 1)",
        f"SELECT stripe_inventory('{NAILS}', 4)",
        f"SELECT unstripe_inventory('{HOOKS}')",
        f"SELECT available_inventory('{NAILS}')",
        f"""SELECT decrement_inventory_batch('[{{"inventory_id": "{NAILS}", "quantity": 1}}]')""",
        "SELECT attach_inventory('shop.inventory')",
        "SELECT detach_inventory()",
        "SELECT purge_requests('0')",
        "UPDATE shop.inventory SET quantity = 1",
    ],
)
def test_before_the_update_every_call_says_what_is_to_be_done(old, sql):
    """The C functions of the old catalog have other arguments: the new ones would have read what is not there."""
    books = "SELECT md5(string_agg(m::text, ' ' ORDER BY movement_id)) FROM shop.inventory_movement AS m"
    before = old.execute(books).fetchone()
    refusal = refused(old, sql)
    assert (refusal.sqlstate, refusal.reason) == ("55000", "outdated")
    assert refusal.hint.startswith(f"Run {UPDATE}")
    assert old.execute(books).fetchone() == before
    assert left(old, NAILS, "shop.inventory") == 875 / 100


def test_the_catalog_is_that_of_a_fresh_installation(old):
    found = public_api(updated(old))
    # The dump granted the functions to the owner of the shop, who is no part of the extension.
    assert re.sub(r"(PUBLIC: execute; )?keeper: execute", lambda m: "PUBLIC: execute" if m[1] else "none", found) == (
        EXPECTED.read_text()
    )


def test_comments_and_initial_rights_are_those_of_a_fresh_installation(old, db, template):
    found = updated(old).execute(CATALOG).fetchall()
    with db.connect() as fresh:
        fresh.execute("DROP SCHEMA shop CASCADE; DROP EXTENSION inventory_ext; CREATE EXTENSION inventory_ext")
        fresh.execute(
            "CREATE SCHEMA shop AUTHORIZATION keeper; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO keeper"
        )
        fresh.execute("SET ROLE keeper; CREATE TABLE shop.inventory (id uuid PRIMARY KEY, quantity numeric(12,2))")
        attach(fresh, "shop.inventory")
        fresh.execute("RESET ROLE")
        assert found == fresh.execute(CATALOG).fetchall()


def test_the_shop_goes_on_selling(old):
    conn = updated(old)
    assert call(conn, "decrement_inventory", p_inventory_id=NAILS, p_quantity="1.25")["new_quantity"] == 750 / 100
    order = {
        "p_items": f'[{{"inventory_id": "{NAILS}", "quantity": 1}}, {{"inventory_id": "{SCREWS}", "quantity": 0.5}}]'
    }
    key = {"p_reference": "order 7", "p_idempotency_key": "key-of-order-7"}
    assert call(conn, "decrement_inventory_batch", **order, **key)["replayed"] is True
    replayed = call(
        conn, "restock_inventory", p_inventory_id=SCREWS, p_quantity=4, p_reference="delivery 1",
        p_idempotency_key="key-of-delivery-1",
    )  # fmt: skip
    assert replayed["replayed"] is True
    assert call(conn, "decrement_item", p_item=HOOKS, p_quantity=9)["stripe"]
    until(lambda: left(conn, HOOKS, "shop.inventory") == 970, "the row of the striped item shows the total")
    conn.execute("UPDATE shop.inventory SET quantity = quantity + 1 WHERE name = 'nails'")
    conn.execute("SELECT unstripe_inventory(%s::uuid)", (HOOKS,))
    audit(conn, "shop.inventory", "shop.inventory_movement")
    conn.execute("SELECT detach_inventory()")
    attach(conn, "shop.inventory")
    audit(conn, "shop.inventory", "shop.inventory_movement")


def test_a_second_table_with_other_ids_can_be_attached(old):
    conn = updated(old)
    conn.execute("CREATE TABLE shelf (id bigint PRIMARY KEY, quantity integer)")
    fill(conn, {7: 3}, "shelf")
    attach(conn, "shelf")
    conn.execute("SET inventory_ext.stock_table = 'shelf'")
    assert call(conn, "decrement_item", p_item=7, p_quantity=1)["new_quantity"] == 2


def test_companions_get_comments_and_keep_those_that_they_have(old):
    old.execute("COMMENT ON COLUMN shop.inventory_movement.actor IS 'our till'")
    conn = updated(old)
    comments = dict(
        conn.execute(
            "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute "
            "WHERE attrelid = 'shop.inventory_movement'::regclass AND attnum > 0"
        ).fetchall()
    )
    assert comments.pop("actor") == "our till"
    assert all(comments.values())


# Rights


@pytest.fixture
def granted(old, db):
    """Roles with grants on the functions whose arguments change: one with the right to grant, and what it granted."""
    roles = {name: create_role(old, db, name) for name in ("till", "manager", "temp")}
    for function in CHANGED:
        old.execute(f'GRANT EXECUTE ON FUNCTION {function} TO "{roles["till"]}"')
        old.execute(f'GRANT EXECUTE ON FUNCTION {function} TO "{roles["manager"]}" WITH GRANT OPTION')
        old.execute(
            f'SET ROLE "{roles["manager"]}"; GRANT EXECUTE ON FUNCTION {function} TO "{roles["temp"]}"; RESET ROLE'
        )
    old.execute("GRANT EXECUTE ON FUNCTION available_inventory TO PUBLIC")
    return roles


def rights(conn):
    return conn.execute(
        """SELECT p.proname, a.grantee::regrole::text, a.is_grantable
             FROM pg_proc AS p, aclexplode(p.proacl) AS a
            WHERE p.proname = ANY (%s) AND a.grantee <> p.proowner ORDER BY 1, 2, 3""",
        (CHANGED,),
    ).fetchall()


def test_every_grant_is_restored(old, granted):
    before = rights(old)
    assert len(before) >= 4 * len(CHANGED) + 1
    assert rights(updated(old)) == before


def test_a_dump_after_the_update_has_the_grants(old, granted, db):
    """A grant in the script counts as a part of the extension: no dump has it, and a restored shop could not sell."""
    updated(old)
    done = subprocess.run(["pg_dump", "-d", db.name], env=db.server.env(), capture_output=True, text=True, check=True)
    for function in CHANGED:
        for role in granted.values():
            assert re.search(rf'GRANT ALL ON FUNCTION public.{function}\(.*\) TO "?{role}"?', done.stdout), (
                function,
                role,
            )


def test_nothing_is_left_of_the_update(old, granted):
    conn = updated(old)
    assert conn.execute("SELECT evtname FROM pg_event_trigger").fetchall() == [("inventory_drop_guard",)]
    assert conn.execute("SELECT count(*) FROM pg_proc WHERE proname = 'inventory_restore_grants'").fetchone() == (0,)
    for role in granted.values():
        conn.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_default_privileges_give_nothing_away(old, db):
    stranger = create_role(old, db, "stranger")
    old.execute(f'ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO "{stranger}"')
    updated(old)
    found = old.execute(
        "SELECT count(*) FROM pg_proc AS p, aclexplode(p.proacl) AS a WHERE a.grantee = %s::regrole", (f'"{stranger}"',)
    )
    assert found.fetchone() == (0,)


def test_the_owner_of_a_function_stays_its_owner(old, db):
    owner = create_role(old, db, "functions")
    old.execute(f'ALTER FUNCTION restock_inventory OWNER TO "{owner}"')
    updated(old)
    functions = "('restock_inventory', 'adjust_inventory')"
    sql = f"SELECT proowner::regrole::text FROM pg_proc WHERE proname IN {functions} ORDER BY 1"
    assert [name for (name,) in old.execute(sql).fetchall()] == ["postgres", owner]


# What stands in the way


@pytest.mark.parametrize(
    ("dependent", "name"),
    [
        ("CREATE VIEW shop.available AS SELECT available_inventory(id) AS n FROM shop.inventory", "shop.available"),
        ("CREATE TABLE t (n numeric DEFAULT available_inventory(gen_random_uuid()))", "default value"),
        (
            "CREATE FUNCTION shop.restock(uuid) RETURNS json LANGUAGE sql "
            "BEGIN ATOMIC SELECT restock_inventory($1, 1); END",
            "function shop.restock(uuid)",
        ),
    ],
    ids=["view", "default", "function"],
)
def test_what_depends_on_an_old_function_is_reported_and_nothing_changes(old, dependent, name):
    old.execute(dependent)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist) as blocked:
        old.execute(UPDATE)
    assert name in blocked.value.diag.message_detail
    assert "create them again" in blocked.value.diag.message_hint
    assert old.execute("SELECT extversion FROM pg_extension WHERE extname = 'inventory_ext'").fetchone() == ("0.1.0",)
    assert old.execute("SELECT count(*) FROM pg_type WHERE typname = 'inventory_key'").fetchone() == (0,)


def test_code_that_names_the_functions_goes_on(old):
    """A function whose body is a text depends on nothing; its calls are resolved anew."""
    old.execute(
        "CREATE FUNCTION shop.sell_two(p uuid) RETURNS json LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM restock_inventory(p, 1); RETURN decrement_inventory(p, 2); END $$"
    )
    updated(old)
    assert old.execute("SELECT shop.sell_two(%s)", (NAILS,)).fetchone()[0]["success"] is True


def test_an_update_that_fails_leaves_the_old_version(old):
    old.execute("CREATE TYPE inventory_key AS ENUM ()")
    with pytest.raises(psycopg.errors.DuplicateObject):
        old.execute(UPDATE)
    old.execute("DROP TYPE inventory_key")
    updated(old)
    assert call(old, "decrement_inventory", p_inventory_id=NAILS, p_quantity=1)["success"]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.4.0"])
def test_a_database_without_a_shop_is_updated(db, version):
    with db.connect() as conn:
        conn.execute(f"DROP EXTENSION inventory_ext; CREATE EXTENSION inventory_ext VERSION '{version}'")
        conn.execute(UPDATE)
        assert public_api(conn) == EXPECTED.read_text()
        conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer)")
        fill(conn, {item(1): 1})
        attach(conn)
        assert call(conn, "decrement_item", p_item=item(1), p_quantity=1)["new_quantity"] == 0
        counted = "SELECT stock_table, successes, movements FROM inventory_stats WHERE function = 'decrement_item'"
        assert conn.execute(counted).fetchall() == [("public.inventory", 1, 1)]


def test_the_script_to_0_5_0_is_the_text_that_an_installation_has():
    """Both make the statistics: a change of one alone would give two catalogs of one version."""
    script = (SCRIPTS / "inventory_ext--0.4.0--0.5.0.sql").read_text()
    statistics = (SCRIPTS / "statistics.sql").read_text()
    head = script.removesuffix(statistics)
    assert len(head) < len(script), "it does not end with the text of sql/statistics.sql"
    assert [line for line in head.splitlines() if line and not line.startswith("--")] == []


@pytest.mark.parametrize(
    "sql", ["SELECT attach_inventory('inventory')", "SELECT available_inventory(1)", "SELECT audit_inventory()"]
)
def test_before_the_update_from_0_4_0_every_call_says_what_is_to_be_done(bare, sql):
    """Its functions have the arguments of today: the version alone tells them apart."""
    bare.execute("CREATE EXTENSION inventory_ext VERSION '0.4.0'; CREATE TABLE inventory (id int, quantity int)")
    refusal = refused(bare, sql)
    assert (refusal.sqlstate, refusal.reason) == ("55000", "outdated")
    assert refusal.hint.startswith(f"Run {UPDATE}")


def test_the_statistics_are_open_to_members_of_pg_read_all_stats_after_an_update(bare, db):
    reader, stranger = create_role(bare, db, "reader"), create_role(bare, db, "stranger")
    bare.execute(f'GRANT pg_read_all_stats TO "{reader}"')
    bare.execute(f"CREATE EXTENSION inventory_ext VERSION '0.4.0'; {UPDATE}")
    with db.connect(reader) as session:
        assert session.execute("SELECT available FROM inventory_stats_info").fetchone() == (True,)
    with db.connect(stranger) as session:
        assert refused(session, "SELECT available FROM inventory_stats_info").sqlstate == "42501"


@pytest.fixture
def bare(db):
    """A session in a database of the old version without a shop."""
    conn = db.connect()
    conn.execute("DROP EXTENSION inventory_ext")
    return conn


DEFAULTS = "ALTER DEFAULT PRIVILEGES GRANT ALL ON {} TO {}"


@pytest.mark.parametrize("schema", ["public", '"Inv"'])
def test_default_privileges_open_nothing_that_the_update_makes(bare, db, schema):
    """A table of the update kept them: a trigger on it ran as the superuser who owns the extension."""
    mallory = create_role(bare, db, "mallory")
    bare.execute(
        f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE EXTENSION inventory_ext SCHEMA {schema} VERSION '0.1.0'"
    )
    old = f"SELECT has_function_privilege('{mallory}', '{schema}.decrement_inventory(uuid, numeric)', 'EXECUTE')"
    assert bare.execute(old).fetchone() == (False,)
    for kind in ("TABLES", "FUNCTIONS"):
        bare.execute(DEFAULTS.format(kind, f'"{mallory}"'))
    bare.execute(UPDATE)
    found = bare.execute(
        """SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend AS d
            LEFT JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
            LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
            CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, c.relacl)) AS acl
            WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND acl.grantee = %s::regrole""",
        (f'"{mallory}"',),
    ).fetchall()
    assert found == []


def test_the_grants_of_a_quoted_schema_are_kept(bare, db):
    till = create_role(bare, db, "till")
    bare.execute('CREATE SCHEMA "In v"; CREATE EXTENSION inventory_ext SCHEMA "In v" VERSION \'0.1.0\'')
    bare.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA "In v" TO "{till}"')
    bare.execute(UPDATE)
    granted = bare.execute(
        """SELECT p.proname FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS acl
            WHERE p.pronamespace = '"In v"'::regnamespace AND acl.grantee = %s::regrole""",
        (f'"{till}"',),
    ).fetchall()
    assert {name for (name,) in granted} >= set(CHANGED)


@pytest.mark.parametrize("role", ["origin", "replica"])
def test_grants_are_those_of_the_roles_that_made_them(bare, db, role):
    """They became grants of the role that updates: what their maker lost, its grantees kept."""
    first, second, third = (create_role(bare, db, name) for name in ("first", "second", "third"))
    bare.execute("CREATE EXTENSION inventory_ext VERSION '0.1.0'")
    chain = [("postgres", first, " WITH GRANT OPTION"), (first, second, " WITH GRANT OPTION"), (second, third, "")]
    for grantor, grantee, option in chain:
        bare.execute(f'SET ROLE "{grantor}"')
        bare.execute(f'GRANT EXECUTE ON FUNCTION restock_inventory TO "{grantee}"{option}; RESET ROLE')
    bare.execute(f"SET session_replication_role = {role}; {UPDATE}; RESET session_replication_role")
    grants = """SELECT acl.grantor::regrole::text, acl.grantee::regrole::text
                  FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS acl
                 WHERE p.proname = 'restock_inventory' AND acl.grantee <> p.proowner"""
    assert set(bare.execute(grants).fetchall()) == {(grantor, grantee) for grantor, grantee, _ in chain}
    left_over = "SELECT current_user::text, count(*) FROM pg_event_trigger WHERE evtname LIKE '%restore%'"
    assert bare.execute(left_over).fetchone() == ("postgres", 0)
    bare.execute(f'REVOKE ALL ON FUNCTION restock_inventory FROM "{first}" CASCADE')
    assert bare.execute(grants).fetchall() == []


@pytest.mark.parametrize("schema", ['"100%shop"', "public"])
def test_a_grantor_that_cannot_be_taken_on_does_not_stop_the_update(bare, db, schema):
    """The role that updates is a member of a superuser, and no superuser itself: it cannot become the grantor."""
    admin, manager, till = (create_role(bare, db, name) for name in ("admin", "manager", "till"))
    bare.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    bare.execute(f"CREATE EXTENSION inventory_ext SCHEMA {schema} VERSION '0.1.0'")
    restock = f"{schema}.restock_inventory"
    bare.execute(f'GRANT postgres TO "{admin}"; GRANT EXECUTE ON FUNCTION {restock} TO "{manager}" WITH GRANT OPTION')
    bare.execute(f'GRANT USAGE ON SCHEMA {schema} TO "{manager}"; SET ROLE "{manager}"')
    bare.execute(f'GRANT EXECUTE ON FUNCTION {restock} TO "{till}"; RESET ROLE')
    bare.execute(f'REVOKE USAGE ON SCHEMA {schema} FROM "{manager}"')
    session = db.connect(user=admin)
    session.execute(f"SET ROLE postgres; {UPDATE}")
    assert session.execute("SELECT current_user::text").fetchone() == ("postgres",)
    grantees = """SELECT acl.grantee::regrole::text FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS acl
                   WHERE p.proname = 'restock_inventory' AND acl.grantee <> p.proowner"""
    assert {grantee for (grantee,) in bare.execute(grantees).fetchall()} == {manager, till}


@pytest.mark.parametrize("version", ["0.2.0", "0.3.0"])
def test_the_grants_of_a_function_that_gains_an_argument_are_kept(bare, db, version):
    clerk, till = (create_role(bare, db, name) for name in ("clerk", "till"))
    bare.execute(f"CREATE EXTENSION inventory_ext VERSION '{version}'")
    bare.execute(f'GRANT EXECUTE ON FUNCTION adjust_inventory TO "{clerk}" WITH GRANT OPTION')
    with db.connect(clerk) as session:
        session.execute(f'GRANT EXECUTE ON FUNCTION adjust_inventory TO "{till}"')
    bare.execute(UPDATE)
    found = bare.execute(
        "SELECT pg_get_userbyid(a.grantor), pg_get_userbyid(a.grantee), a.is_grantable FROM pg_proc AS p, aclexplode("
        "p.proacl) AS a WHERE p.proname = 'adjust_inventory' AND a.grantee <> p.proowner ORDER BY 2"
    ).fetchall()
    assert found == [("postgres", clerk, True), (clerk, till, False)]
    dump = subprocess.run(["pg_dump", db.name], env=db.server.env(), capture_output=True, text=True, check=True).stdout
    granted = [line for line in dump.splitlines() if line.startswith("GRANT ALL ON FUNCTION public.adjust_inventory(")]
    assert len(granted) == 2, "the grants are in a dump"
