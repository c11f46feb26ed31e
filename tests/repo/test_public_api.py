"""The public API of the extension, as a file that is read in review: tests/repo/expected/public_api.txt.

All that CREATE EXTENSION makes is listed there: functions with arguments, defaults and rights, tables with columns and
constraints, settings with their defaults, and every other member by kind and name. A difference fails, so nothing
becomes public, or changes, by accident. When a change is meant, copy the file that the failure names over the expected
one.
"""

import difflib
import os
from pathlib import Path

import pytest

from rust_text import ROOT

EXPECTED = Path(__file__).parent / "expected/public_api.txt"

# Members in the order of their kinds and names. A table's row type, and array types, come with the table or the type.
MEMBERS = """
    SELECT d.classid, d.objid, o.type, o.identity
      FROM pg_depend d
      JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
      CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) o
     WHERE e.extname = 'inventory_ext' AND d.deptype = 'e'
       AND NOT EXISTS (SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
                        WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid
                          AND (c.relkind <> 'c' OR t.typcategory = 'A'))
     ORDER BY o.type, o.identity
"""

FUNCTION = """
    SELECT format('%s(%s) returns %s', p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)),
           format('%s, %s, %s, %s, %s%s%s',
                  l.lanname,
                  CASE p.provolatile WHEN 'v' THEN 'volatile' WHEN 's' THEN 'stable' ELSE 'immutable' END,
                  CASE p.proparallel WHEN 'u' THEN 'parallel unsafe' WHEN 'r' THEN 'parallel restricted'
                                     ELSE 'parallel safe' END,
                  CASE WHEN p.proisstrict THEN 'strict' ELSE 'called on null input' END,
                  CASE WHEN p.prosecdef THEN 'security definer' ELSE 'security invoker' END,
                  CASE WHEN p.proleakproof THEN ', leakproof' ELSE '' END,
                  ', set ' || array_to_string(p.proconfig, ', ')),
           p.proacl, p.proowner, 'f'
      FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.oid = :oid
"""

RELATION = """
    SELECT c.relname,
           CASE c.relpersistence WHEN 'p' THEN 'permanent' ELSE c.relpersistence::text END
               || CASE WHEN c.relrowsecurity THEN ', row-level security' ELSE '' END
               || CASE WHEN e.oid IS NOT NULL THEN format(', rows are dumped%s',
                       coalesce(' ' || nullif(e.extcondition[array_position(e.extconfig, c.oid)], ''), '')) ELSE '' END,
           c.relacl, c.relowner, CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END
      FROM pg_class c LEFT JOIN pg_extension e ON c.oid = ANY (e.extconfig) WHERE c.oid = :oid
"""

COLUMNS = """
    SELECT 1, a.attnum, format('%s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                               CASE WHEN a.attnotnull THEN ' not null' ELSE '' END,
                               ' default ' || pg_get_expr(d.adbin, d.adrelid))
      FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped
     UNION ALL
    SELECT 2, 0, format('constraint %s: %s', conname, pg_get_constraintdef(oid))
      FROM pg_constraint WHERE conrelid = :oid AND contype <> 'n'  -- NOT NULL stands with its column
     UNION ALL
    SELECT 3, 0, format('trigger: %s', pg_get_triggerdef(oid)) FROM pg_trigger WHERE tgrelid = :oid AND NOT tgisinternal
     ORDER BY 1, 2, 3
"""

# The owner's own rights go without saying; they also differ between versions of PostgreSQL.
RIGHTS = """
    SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
           || ': ' || string_agg(lower(privilege_type), ', ' ORDER BY privilege_type)
      FROM aclexplode(coalesce(%(acl)s::aclitem[], acldefault(%(kind)s::"char", %(owner)s)))
     WHERE grantee <> %(owner)s GROUP BY grantee ORDER BY 1
"""

SETTINGS = """
    SELECT format('%s %s', name, coalesce('= ' || boot_val, 'unset')),
           format('%s%s%s%s, set by %s', vartype, ' of ' || array_to_string(enumvals, ', '), ' in ' || unit,
                  CASE WHEN min_val IS NOT NULL THEN format(' from %s to %s', min_val, max_val) END,
                  CASE context WHEN 'user' THEN 'anyone' ELSE context END)
      FROM pg_settings WHERE name LIKE 'inventory\\_ext.%' ORDER BY name
"""


def rows(conn, sql, parameters=None):
    return conn.execute(sql, parameters).fetchall()


def rows_of(conn, sql, oid):
    """A query about one object; its text has % of its own, so the number is put in as text."""
    return conn.execute(sql.replace(":oid", str(oid))).fetchall()


def public_api(conn):
    """The whole public API as text."""
    conn.execute("LOAD 'inventory_ext'")  # its settings are known from then on
    version, relocatable, superuser, trusted = rows(
        conn,
        "SELECT v.version, v.relocatable, v.superuser, v.trusted FROM pg_available_extension_versions v"
        " JOIN pg_extension e ON e.extname = v.name AND e.extversion = v.version WHERE v.name = 'inventory_ext'",
    )[0]
    lines = [f"extension inventory_ext {version}"]
    lines += [f"    relocatable: {relocatable}, superuser: {superuser}, trusted: {trusted}", ""]
    for _, oid, kind, identity in rows(conn, MEMBERS):
        if kind == "function":
            lines += described(conn, kind, *rows_of(conn, FUNCTION, oid)[0])
        elif kind in ("table", "view", "sequence"):
            lines += described(conn, kind, *rows_of(conn, RELATION, oid)[0])
            lines += [f"    {line}" for _, _, line in rows_of(conn, COLUMNS, oid)]
        else:
            lines.append(f"{kind} {identity}")
        lines.append("")
    for name, about in rows(conn, SETTINGS):
        lines += [f"setting {name}", f"    {about}", ""]
    return "\n".join(lines)


def described(conn, kind, name, about, acl, owner, acl_kind):
    rights = rows(conn, RIGHTS, {"acl": acl, "owner": owner, "kind": acl_kind})
    others = "; ".join(right for (right,) in rights) or "none"
    name = name.replace("(p_", "(\n        p_").replace(", p_", ",\n        p_")  # an argument a line
    return [f"{kind} {name}", f"    {about}", f"    rights of others: {others}"]


def uncommented(conn):
    """Members, and settings, that say nothing about themselves."""
    members = [
        f"{kind} {identity}"
        for classid, oid, kind, identity in rows(conn, MEMBERS)
        if not rows(conn, "SELECT obj_description(%s, %s::regclass::name)", [oid, classid])[0][0]
    ]
    settings = rows(conn, r"SELECT name FROM pg_settings WHERE name LIKE 'inventory\_ext.%' AND short_desc = ''")
    return members + [f"setting {name}" for (name,) in settings]


def broken_rules(conn):
    """What holds for every function, besides the expected file: RPC callers depend on it."""
    rules = {
        "is overloaded: PostgREST answers 300": "count(*) OVER (PARTITION BY p.proname) > 1",
        "is not volatile": "p.provolatile <> 'v'",
        "is not parallel unsafe": "p.proparallel <> 'u'",
        "is strict: a NULL would be answered with a silent NULL": "p.proisstrict",
        "is security definer: a superuser owns it": "p.prosecdef",
        "has an argument whose name does not begin with p_": "p.pronargs <> (SELECT count(*)"
        " FROM unnest(p.proargnames[1:p.pronargs]) AS name WHERE name LIKE 'p\\_%')",
    }
    cases = ", ".join(f"CASE WHEN {broken} THEN '{rule}' END" for rule, broken in rules.items())
    return rows(
        conn,
        f"SELECT name || ' ' || rule FROM (SELECT p.proname AS name, unnest(ARRAY[{cases}]) AS rule"
        " FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'"
        " JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'inventory_ext'"
        " WHERE p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)"
        " AND p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'internal')) AS checked"
        " WHERE rule IS NOT NULL",
    )


@pytest.fixture
def conn(db):
    with db.connect() as connection:
        yield connection


def test_the_public_api_is_the_expected_one(conn):
    found, expected = public_api(conn), EXPECTED.read_text()
    if found != expected:
        result = ROOT / f".local/results/repo-{os.environ.get('PG', '18')}/public_api.txt"
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(found)
        difference = difflib.unified_diff(expected.splitlines(), found.splitlines(), "expected", "found", lineterm="")
        pytest.fail("\n".join([*difference, f"if that is meant: cp {result} {EXPECTED}"]), pytrace=False)


@pytest.mark.parametrize(
    "stranger",
    [
        "CREATE FUNCTION stranger(a int) RETURNS int LANGUAGE sql AS 'SELECT 1';"
        " ALTER EXTENSION inventory_ext ADD FUNCTION stranger(int)",
        "CREATE VIEW stranger AS SELECT 1 AS one; ALTER EXTENSION inventory_ext ADD VIEW stranger",
        "CREATE TYPE stranger AS ENUM ('a'); ALTER EXTENSION inventory_ext ADD TYPE stranger",
        "CREATE TYPE stranger AS (a int); ALTER EXTENSION inventory_ext ADD TYPE stranger",
        "CREATE SCHEMA stranger; ALTER EXTENSION inventory_ext ADD SCHEMA stranger",
        "GRANT EXECUTE ON FUNCTION decrement_inventory TO PUBLIC",
        "GRANT SELECT ON inventory_attachment TO pg_monitor",
        "ALTER FUNCTION decrement_inventory STABLE",
        "ALTER FUNCTION decrement_inventory SET search_path = public",
        "ALTER FUNCTION decrement_inventory SECURITY DEFINER",
        "ALTER TABLE inventory_attachment ADD COLUMN stranger int DEFAULT 7",
        "ALTER TABLE inventory_attachment ENABLE ROW LEVEL SECURITY",
        "ALTER EXTENSION inventory_ext DROP FUNCTION detach_inventory()",
        "CREATE OR REPLACE FUNCTION detach_inventory() RETURNS void STRICT LANGUAGE sql AS ''",
    ],
)
def test_a_change_of_the_public_api_is_seen(conn, stranger):
    assert public_api(conn) == EXPECTED.read_text(), "shown by test_the_public_api_is_the_expected_one"
    conn.execute(stranger)
    assert public_api(conn) != EXPECTED.read_text()


def test_every_public_object_has_a_comment(conn):
    conn.execute("LOAD 'inventory_ext'")
    assert uncommented(conn) == []
    conn.execute("COMMENT ON FUNCTION detach_inventory() IS NULL; COMMENT ON TABLE inventory_attachment IS NULL")
    assert uncommented(conn) == ["function public.detach_inventory()", "table public.inventory_attachment"]


def test_every_function_keeps_the_rules(conn):
    assert broken_rules(conn) == []
    conn.execute(
        "CREATE FUNCTION decrement_inventory(quantity int) RETURNS int STABLE STRICT SECURITY DEFINER PARALLEL SAFE"
        " LANGUAGE sql AS 'SELECT 1'; ALTER EXTENSION inventory_ext ADD FUNCTION decrement_inventory(int)"
    )
    assert len(broken_rules(conn)) == 7  # all six for the stranger, and the overload for both
