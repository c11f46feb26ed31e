"""All that CREATE EXTENSION makes, as text: functions with arguments, defaults and rights, tables and views with
columns, constraints and rights, settings with their defaults, and every other member by kind and name.

tests/repo/expected/public_api.txt is that text of a fresh installation.
"""

from pathlib import Path

EXPECTED = Path(__file__).parents[1] / "repo/expected/public_api.txt"

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
               || coalesce(', with ' || array_to_string(c.reloptions, ', '), '')
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
