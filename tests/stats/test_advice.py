"""Advice: each piece shows where it is due, and only there."""

import pytest

from shop import ONE, TWO, Aside, create_role, item, refused, sell, until


def advice(conn):
    rows = conn.execute("SELECT kind, stock_table, inventory_id, advice, detail FROM inventory_advice()").fetchall()
    assert all(text.endswith(".") for _, _, _, text, _ in rows)
    return {(kind, key): detail for kind, table, key, _, detail in rows}


def test_a_healthy_shop_needs_none(conn, stats):
    for number in range(1, 21):
        sell(conn, item(number), 1)
    assert advice(conn) == {}


@pytest.mark.parametrize("key", [str(ONE), "a long id, " * 10], ids=["uuid", "long text"])
def test_an_item_that_calls_wait_for_is_to_be_striped_and_then_no_more(db, conn, stats, key):
    """Of a long id the statistics have the beginning."""
    if key != str(ONE):
        conn.execute("SELECT detach_inventory(); CREATE TABLE shelf (id text PRIMARY KEY, quantity int NOT NULL)")
        conn.execute("INSERT INTO shelf VALUES (%s, 1000), (%s, 1000)", (key, str(TWO)))
        conn.execute("SELECT attach_inventory('shelf')")

    def till():
        session = db.connect()
        for _ in range(40):
            session.execute("SELECT decrement_item(%s, 1), pg_sleep(0.01)", (key,))

    for call in [Aside(till) for _ in range(8)]:
        call.result()
    conn.execute("SELECT decrement_item(%s, 1)", (str(TWO),))
    found = advice(conn)
    assert list(found) == [("stripe", key[:64])]
    assert found["stripe", key[:64]]["lock_waits"] >= 100
    conn.execute("SELECT stripe_inventory(%s, 8)", (key,))
    assert advice(conn) == {}


def test_a_striped_item_that_no_call_waits_for_is_to_be_put_together(conn, stats):
    conn.execute("SELECT stripe_inventory(%s, 8)", (str(ONE),))
    assert advice(conn) == {}
    conn.execute("SELECT count(restock_inventory(%s, 1)) FROM generate_series(1, 10000)", (str(TWO),))
    assert list(advice(conn)) == [("unstripe", str(ONE))]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("CREATE INDEX ON inventory (quantity)", {("index", None), ("write_path", None)}),
        ("CREATE INDEX ON inventory (id) WHERE quantity > 3", {("index", None), ("write_path", None)}),
        ("CREATE INDEX ON inventory USING brin (id)", set()),
        ("DROP INDEX inventory_movement_occurred_at_idx", {("missing_brin", None)}),
        ("ALTER TABLE inventory ADD CHECK (quantity < 1e9)", {("write_path", None)}),
        (
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
            "CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON inventory DEFERRABLE FOR EACH ROW EXECUTE FUNCTION f()",
            {("deferrable_trigger", None), ("unusable", None), ("write_path", None)},
        ),
        (
            "UPDATE pg_class SET reltuples = 30000000 WHERE relname = 'inventory_movement'",
            {("archive", None)},
        ),
        ("UPDATE pg_class SET reltuples = 2000000 WHERE relname = 'inventory_request'", {("purge", None)}),
        ("ALTER TABLE inventory DISABLE TRIGGER ALL", {("unusable", None)}),
    ],
)
def test_what_is_wrong_with_a_table_is_said(conn, stats, change, expected):
    conn.execute(change)
    found = set(advice(conn))
    # Disabled triggers of ours are an obstacle, too.
    assert found - {("write_path", None)} == expected - {("write_path", None)}
    assert ("write_path", None) in found or ("write_path", None) not in expected


def test_updates_that_are_not_hot_want_a_fillfactor(conn, stats):
    conn.execute("CREATE TABLE other (id int PRIMARY KEY, quantity int, filler text) WITH (fillfactor = 100)")
    conn.execute("INSERT INTO other SELECT n, 100000, repeat('x', 900) FROM generate_series(1, 200) AS n")
    conn.execute("SELECT detach_inventory('inventory'), attach_inventory('other')")
    conn.execute("VACUUM FULL other")
    for _ in range(60):
        conn.execute("SELECT count(restock_inventory(n, 1)) FROM generate_series(1, 200) AS n")
    conn.execute("SELECT pg_stat_force_next_flush()")
    until(lambda: ("fillfactor", None) in advice(conn), "the statistics are there")


def test_one_table_that_cannot_be_read_hides_no_other(conn, stats):
    conn.execute("CREATE SCHEMA two; CREATE TABLE two.inventory (id uuid PRIMARY KEY, quantity int)")
    conn.execute("SELECT attach_inventory('two.inventory')")
    conn.execute("ALTER TABLE inventory RENAME COLUMN quantity TO amount; ALTER TABLE inventory DISABLE TRIGGER ALL")
    conn.execute("CREATE INDEX ON two.inventory (quantity)")
    rows = conn.execute("SELECT stock_table, kind FROM inventory_advice() ORDER BY 1, 2").fetchall()
    assert ("two.inventory", "index") in rows and ("public.inventory", "unusable") in rows


def test_members_of_pg_read_all_stats_get_advice_and_see_audits_and_others_do_not(db, conn, stats):
    conn.execute("SELECT count(*) FROM audit_inventory()")
    reader, stranger = create_role(conn, db, "reader"), create_role(conn, db, "stranger")
    conn.execute(f'GRANT pg_read_all_stats TO "{reader}"')
    with db.connect(reader) as session:
        assert advice(session) == {}
        [(table, ended, discrepancies)] = session.execute("SELECT * FROM inventory_audits").fetchall()
        assert (table, discrepancies) == ("public.inventory", 0) and ended is not None
    with db.connect(stranger) as session:
        assert refused(session, "SELECT * FROM inventory_advice()").sqlstate == "42501"
        assert refused(session, "SELECT * FROM inventory_audits").sqlstate == "42501"


def test_audits_of_every_table_are_shown_and_a_hostile_one_hides_no_other(db, conn, stats):
    """The table of audits belongs to the owner of the shop, who can put another in its place."""
    conn.execute("SELECT count(*) FROM audit_inventory()")
    role = create_role(conn, db, "owner")
    conn.execute(f'CREATE SCHEMA two AUTHORIZATION "{role}"')
    conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{role}"')
    with db.connect(role) as owner:
        owner.execute("SET search_path = two, public")
        owner.execute("CREATE TABLE inventory (id int PRIMARY KEY, quantity int); SELECT attach_inventory('inventory')")
        assert stats.conn.execute("SELECT count(*) FROM inventory_audits WHERE last_audit IS NULL").fetchone() == (1,)
        owner.execute(
            """CREATE FUNCTION two.trap(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                IF session_user <> current_user OR current_setting('is_superuser') = 'on' THEN
                    RAISE 'trapped as %', current_user; END IF; RETURN true; END $$;
            CREATE TABLE two.inventory_audit (run_id int, kind text, finished_at text, discrepancies text);
            INSERT INTO two.inventory_audit VALUES (1, 'audit', 'yesterday', 'none');
            ALTER TABLE two.inventory_audit ENABLE ROW LEVEL SECURITY;
            CREATE POLICY p ON two.inventory_audit USING (two.trap(run_id));
            ALTER TABLE two.inventory_audit FORCE ROW LEVEL SECURITY"""
        )
    rows = stats.conn.execute("SELECT stock_table, last_audit IS NULL FROM inventory_audits ORDER BY 1").fetchall()
    assert rows == [("public.inventory", False), ("two.inventory", True)]


HOSTILE = {
    "an enum with a cast": """
        CREATE TYPE "{owner}_kind" AS ENUM ('audit');
        CREATE FUNCTION to_text("{owner}_kind") RETURNS text LANGUAGE plpgsql AS
            'BEGIN INSERT INTO seen SELECT current_user; RETURN ''audit''; END';
        CREATE CAST ("{owner}_kind" AS text) WITH FUNCTION to_text AS IMPLICIT;
        ALTER TABLE inventory_audit ALTER kind TYPE "{owner}_kind" USING 'audit'""",
    "a domain": """
        CREATE FUNCTION checks(bigint) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN INSERT INTO seen SELECT current_user; RETURN true; END';
        CREATE DOMAIN found AS bigint CHECK (checks(VALUE));
        ALTER TABLE inventory_audit ALTER discrepancies TYPE found""",
    "a view in its place": """
        CREATE FUNCTION shows() RETURNS bigint LANGUAGE plpgsql AS
            'BEGIN INSERT INTO seen SELECT current_user; RETURN 0; END';
        ALTER TABLE inventory_audit RENAME TO aside;
        CREATE VIEW inventory_audit AS SELECT *, shows() AS more FROM aside""",
    "a policy": """
        CREATE FUNCTION permits() RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN INSERT INTO seen SELECT current_user; RETURN true; END';
        ALTER TABLE inventory_audit ENABLE ROW LEVEL SECURITY;
        ALTER TABLE inventory_audit FORCE ROW LEVEL SECURITY;
        CREATE POLICY seen ON inventory_audit USING (permits())""",
    "an operator": """
        CREATE FUNCTION same(text, text) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN INSERT INTO seen SELECT current_user; RETURN true; END';
        CREATE OPERATOR two.= (FUNCTION = same, LEFTARG = text, RIGHTARG = text)""",
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_code_of_an_owner_runs_when_the_audits_are_watched(db, conn, stats, hostile):
    """A superuser, or a member of pg_read_all_stats, looks at the audits of everybody."""
    owner, watcher = create_role(conn, db, "owner"), create_role(conn, db, "watcher")
    conn.execute(f'GRANT pg_read_all_stats TO "{watcher}"; CREATE SCHEMA two AUTHORIZATION "{owner}"')
    conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{owner}"')
    with db.connect(owner) as session:
        session.execute("SET search_path = two, public")
        session.execute("CREATE TABLE inventory (id int PRIMARY KEY, quantity int); CREATE TABLE seen (who name)")
        session.execute("GRANT ALL ON seen TO PUBLIC; SELECT attach_inventory('inventory'); SELECT audit_inventory()")
        session.execute(HOSTILE[hostile].format(owner=owner))
        session.execute("TRUNCATE seen")
    for role in ("NONE", f'"{watcher}"'):
        conn.execute(f"SET ROLE {role}; SET search_path = two, pg_catalog, public")
        tables = [table for table, *_ in conn.execute("SELECT * FROM public.inventory_audits").fetchall()]
        assert sorted(tables) == ["public.inventory", "two.inventory"]
        conn.execute("RESET ROLE; RESET search_path")
    assert conn.execute("SELECT * FROM two.seen").fetchall() == []
