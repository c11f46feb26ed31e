"""The public API of the extension, as a file that is read in review: tests/repo/expected/public_api.txt.

All that CREATE EXTENSION makes is listed there: functions with arguments, defaults and rights, tables and views with
columns, constraints and rights, settings with their defaults, and every other member by kind and name. A difference
fails, so nothing becomes public, or changes, by accident. When a change is meant, copy the file that the failure names
over the expected one.
"""

import difflib
import os

import pytest

from public_api import EXPECTED, MEMBERS, public_api, rows
from rust_text import ROOT


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
        "GRANT SELECT ON inventory_stats TO PUBLIC",
        "REVOKE SELECT ON inventory_stats FROM pg_read_all_stats",
        "ALTER VIEW inventory_stats RENAME COLUMN calls TO stranger",
        "ALTER VIEW inventory_stats SET (security_barrier)",
        "ALTER FUNCTION decrement_inventory STABLE",
        "ALTER FUNCTION decrement_inventory SET search_path = public",
        "ALTER FUNCTION decrement_inventory SECURITY DEFINER",
        "ALTER TABLE inventory_attachment ADD COLUMN stranger int DEFAULT 7",
        "ALTER TABLE inventory_attachment ENABLE ROW LEVEL SECURITY",
        "ALTER EXTENSION inventory_ext DROP FUNCTION detach_inventory(regclass)",
        "CREATE OR REPLACE FUNCTION detach_inventory(p_table regclass DEFAULT NULL) RETURNS void STRICT LANGUAGE sql "
        "AS ''",
    ],
)
def test_a_change_of_the_public_api_is_seen(conn, stranger):
    assert public_api(conn) == EXPECTED.read_text(), "shown by test_the_public_api_is_the_expected_one"
    conn.execute(stranger)
    assert public_api(conn) != EXPECTED.read_text()


def test_every_public_object_has_a_comment(conn):
    conn.execute("LOAD 'inventory_ext'")
    assert uncommented(conn) == []
    conn.execute(
        "COMMENT ON FUNCTION detach_inventory(regclass) IS NULL; COMMENT ON TABLE inventory_attachment IS NULL"
    )
    assert uncommented(conn) == [
        "function public.detach_inventory(pg_catalog.regclass)",
        "table public.inventory_attachment",
    ]


def test_every_function_keeps_the_rules(conn):
    assert broken_rules(conn) == []
    conn.execute(
        "CREATE FUNCTION decrement_inventory(quantity int) RETURNS int STABLE STRICT SECURITY DEFINER PARALLEL SAFE"
        " LANGUAGE sql AS 'SELECT 1'; ALTER EXTENSION inventory_ext ADD FUNCTION decrement_inventory(int)"
    )
    assert len(broken_rules(conn)) == 7  # all six for the stranger, and the overload for both
