"""The four parties against the audit: no rights are gained, nothing is lost, and no proof is false."""

import json

import psycopg
import pytest

from auditing import audit, digest, kinds, movements, past_the_triggers, replica, verify
from shop import create_role, refused

CALLS = [
    "inventory_changes()", "audit_inventory()", "audit_inventory(p_full => true)", "inventory_digest()",
    "verify_inventory(inventory_digest())", "inventory_at(1, now())", "reconcile_inventory(1)", "movement_proof(5)",
    "inventory_audit_report()", "archive_movements(now())", "schedule_inventory_audit()",
    "adjust_inventory(1, 50, p_counted_at => now())", "audit_sales('own_sales', 'ref', 'item', 'qty')",
]  # fmt: skip


@pytest.fixture
def owner(db):
    """The owner of a shop with history, who is no superuser; items 1 and 2 have seven movements each, all sealed."""
    with db.connect() as conn:
        role = create_role(conn, db, "owner")
        conn.execute(f'CREATE SCHEMA store AUTHORIZATION "{role}"; GRANT CREATE ON DATABASE {db.name} TO "{role}"')
        conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{role}"')
    session = db.connect(role)
    session.execute("SET search_path = store, public")
    session.execute("CREATE TABLE inventory (id int PRIMARY KEY, quantity int); INSERT INTO inventory VALUES (1, 100)")
    session.execute("INSERT INTO inventory VALUES (2, 100)")
    session.execute("SELECT attach_inventory('inventory')")
    for _ in range(6):
        session.execute("SELECT decrement_item(1, 1), decrement_item(2, 1)")
    assert audit(session) == []
    return session


def superuser(db):
    conn = db.connect()
    conn.execute("SET search_path = store, public; CREATE TEMP TABLE own_sales (ref text, item int, qty int)")
    return conn


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "trap",
    [
        "CREATE INDEX ON inventory_movement (kind) WHERE trap()",
        "CREATE STATISTICS trap ON (reference || trap()::text), kind FROM inventory_movement",
        "SELECT archive_movements(now()); ALTER TABLE inventory_movement_archive ADD CHECK (trap())",
    ],
)
def test_a_superuser_runs_no_code_of_the_owner(db, owner, call, trap):
    role = owner.info.user
    owner.execute(
        f"""CREATE FUNCTION grab() RETURNS void LANGUAGE plpgsql AS $$
        BEGIN EXECUTE 'ALTER ROLE "{role}" SUPERUSER'; END $$"""
    )
    owner.execute(
        """CREATE FUNCTION trap() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN
            IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN PERFORM store.grab(); END IF;
            RETURN true;
        END $$"""
    )
    owner.execute(trap)
    with superuser(db) as conn:
        try:
            conn.execute(f"SELECT {call}")
        except psycopg.Error as error:
            assert error.diag.sqlstate != "XX000"
        assert conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (role,)).fetchone() == (False,)


@pytest.mark.parametrize("table", ["inventory_audit", "inventory_audit_chain", "inventory_audit_segment"])
def test_a_trigger_of_a_guest_on_a_table_of_the_audit_is_refused(db, owner, table):
    with db.connect() as conn:
        guest = create_role(conn, db, "guest")
        conn.execute(f'GRANT CREATE ON DATABASE {db.name} TO "{guest}"')
    owner.execute(f'GRANT USAGE ON SCHEMA store TO "{guest}"; GRANT TRIGGER ON {table} TO "{guest}"')
    with db.connect(guest) as session:
        session.execute("CREATE SCHEMA of_guest; GRANT USAGE ON SCHEMA of_guest TO PUBLIC")
        session.execute("CREATE FUNCTION of_guest.t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
        session.execute(f"CREATE TRIGGER t AFTER INSERT ON store.{table} EXECUTE FUNCTION of_guest.t()")
    owner.execute("SELECT decrement_item(1, 1)")
    error = refused(owner, "SELECT audit_inventory()")
    assert (error.sqlstate, error.reason) == ("55000", "foreign_trigger")


def test_a_trigger_that_keeps_movements_out_of_the_archive_loses_none(owner):
    owner.execute("SELECT archive_movements('2000-01-01')")
    owner.execute(
        """CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER nothing BEFORE INSERT ON inventory_movement_archive FOR EACH ROW EXECUTE FUNCTION nothing()"""
    )
    before = movements(owner)
    error = refused(owner, "SELECT archive_movements(now())")
    assert (error.sqlstate, error.reason) == ("55000", "not_archived")
    assert movements(owner) == before


LIE = """
    CREATE TABLE lying (yes boolean);
    INSERT INTO lying VALUES (true);
    CREATE FUNCTION lie() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN (SELECT yes FROM store.lying);
    END $$
"""


def test_an_index_that_lies_hides_no_inserted_movement(db, owner):
    kept = digest(owner)
    owner.execute(LIE)
    columns = (
        "movement_id, inventory_id, stripe, kind, old_quantity, new_quantity, reference, idempotency_key, actor, "
        "xact_id, occurred_at"
    )
    owner.execute(f"CREATE INDEX liar ON inventory_movement (movement_id) INCLUDE ({columns}) WHERE lie()")
    owner.execute("UPDATE lying SET yes = false")
    with superuser(db) as conn:
        with replica(conn):
            conn.execute(
                "INSERT INTO inventory_movement (movement_id, inventory_id, kind, old_quantity, new_quantity, actor) "
                "OVERRIDING SYSTEM VALUE VALUES (4, 1, 'sale', 98, 98, 'nobody')"
            )
        conn.execute("UPDATE lying SET yes = true")
        conn.execute("VACUUM ANALYZE inventory_movement")
        conn.execute("SET enable_seqscan = off")
        assert ("inserted_movement", 4, "1") in verify(conn, kept)


def test_chosen_movements_of_the_archive_cannot_be_removed(db, owner):
    chain = movements(owner)["1"]
    owner.execute("SELECT archive_movements(now())")
    kept = digest(owner)
    gone = [chain[2], chain[4], chain[-1]]
    owner.execute("DELETE FROM inventory_movement_archive WHERE inventory_id = 1 AND movement_id = ANY (%s)", (gone,))
    assert {found[1] for found in verify(owner, kept)} >= set(gone[:2])


def test_a_hand_made_archive_excuses_no_altered_movement(db, owner):
    kept = digest(owner)
    altered = movements(owner)["1"][3]
    owner.execute("SELECT archive_movements('2000-01-01')")
    owner.execute(
        "INSERT INTO inventory_movement_archive (movement_id, inventory_id, kind, old_quantity, new_quantity, actor, "
        "xact_id, occurred_at) SELECT movement_id, inventory_id, kind, old_quantity, new_quantity, actor, xact_id, "
        "occurred_at FROM inventory_movement WHERE movement_id = %s",
        (altered,),
    )
    with superuser(db) as conn:
        past_the_triggers(
            conn,
            "UPDATE inventory_movement SET old_quantity = 0, actor = 'thief', kind = 'opening', "
            f"reference = 'archive, seal 1' WHERE movement_id = {altered}",
        )
    assert altered in [found[1] for found in verify(owner, kept)]


def test_a_row_of_another_stripe_in_the_archive_hides_nothing(owner):
    hidden = movements(owner)["1"][3]
    before = owner.execute("SELECT inventory_at(1, now())").fetchone()
    owner.execute("SELECT archive_movements('2000-01-01')")
    owner.execute(
        "INSERT INTO inventory_movement_archive (movement_id, inventory_id, stripe, kind, old_quantity, new_quantity, "
        "actor, xact_id, occurred_at) VALUES (%s, 1, 5, 'sale', 0, 0, 'nobody', '1', now())",
        (hidden,),
    )
    assert owner.execute("SELECT inventory_at(1, now())").fetchone() == before
    assert "inserted_movement" in kinds(owner, full=True)
    changes = owner.execute("SELECT inventory_changes()").fetchone()[0]["changes"]
    assert hidden in [change["movement_id"] for change in changes if change["stripe"] is None]


def test_a_chain_that_is_sealed_again_is_found(db, owner):
    with superuser(db) as conn:
        altered = movements(conn)["1"][3]
        past_the_triggers(conn, f"UPDATE inventory_movement SET actor = 'thief' WHERE movement_id = {altered}")
    owner.execute("DELETE FROM inventory_audit_chain WHERE inventory_id = 1")
    owner.execute("DELETE FROM inventory_audit WHERE false")
    audit(owner)
    owner.execute("UPDATE inventory_audit SET position = 0")
    audit(owner)
    assert {found[0] for found in audit(owner, full=True)} & {"altered_seal", "altered_movement"}


def test_a_report_of_huge_quantities_ends(db, owner):
    owner.execute(
        "UPDATE inventory_audit SET discrepancies = 1, "
        'found = \'[{"inventory_id": 1, "difference": 1e308}, {"inventory_id": 1, "difference": 1e308}]\''
    )
    owner.execute("SET statement_timeout = '10s'")
    assert "Stock of 1" in owner.execute("SELECT inventory_audit_report()").fetchone()[0]
    with superuser(db) as conn:
        past_the_triggers(conn, "UPDATE inventory_movement SET new_quantity = 1e400 WHERE movement_id = 5")
    assert "Stock of 1" in owner.execute("SELECT inventory_audit_report()").fetchone()[0]


def test_stock_at_a_moment_needs_the_rights_of_stock_now(db):
    with db.connect() as conn:
        clerk = create_role(conn, db, "clerk")
        conn.execute("CREATE TABLE inventory (id int PRIMARY KEY, quantity int); INSERT INTO inventory VALUES (1, 5)")
        conn.execute("INSERT INTO inventory VALUES (2, 95)")
        conn.execute("SELECT attach_inventory('inventory', p_run_as => 'caller')")
        conn.execute("ALTER TABLE inventory ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON inventory USING (id = 1)")
        conn.execute(f'GRANT SELECT, UPDATE ON inventory TO "{clerk}"')
        conn.execute(f'GRANT EXECUTE ON FUNCTION inventory_at, available_inventory TO "{clerk}"')
    with db.connect(clerk) as session:
        assert session.execute("SELECT inventory_at(1, now())").fetchone() == (5,)
        for call in ("available_inventory(2)", "inventory_at(2, now())"):
            assert refused(session, f"SELECT {call}").sqlstate == "IV002", call


def test_a_position_is_no_oracle_for_who_may_not_read_the_ledger(db, owner):
    with db.connect() as conn:
        clerk = create_role(conn, db, "clerk")
        conn.execute(f'GRANT EXECUTE ON FUNCTION public.inventory_changes TO "{clerk}"')
    position = owner.execute("SELECT inventory_changes() -> 'next'").fetchone()[0]
    owner.execute(f'GRANT USAGE ON SCHEMA store TO "{clerk}"')
    with db.connect(clerk) as session:
        session.execute("SET search_path = store, public")
        for seen in (position["seen"], [position["seen"][0], "0" * 16]):
            error = refused(session, "SELECT inventory_changes(%s)", (json.dumps({**position, "seen": seen}),))
            assert error.sqlstate == "42501"


def test_policies_on_the_ledger_are_obeyed_for_readers(db, owner):
    with db.connect() as conn:
        clerk = create_role(conn, db, "clerk")
        conn.execute(f'GRANT EXECUTE ON FUNCTION public.inventory_changes TO "{clerk}"')
    owner.execute(f'GRANT USAGE ON SCHEMA store TO "{clerk}"; GRANT SELECT ON inventory_movement TO "{clerk}"')
    with db.connect(clerk) as session:
        session.execute("SET search_path = store, public")
        assert len(session.execute("SELECT inventory_changes()").fetchone()[0]["changes"]) == 14
        owner.execute("ALTER TABLE inventory_movement ENABLE ROW LEVEL SECURITY")
        owner.execute("CREATE POLICY p ON inventory_movement USING (inventory_id = 1)")
        error = refused(session, "SELECT inventory_changes()")
        assert (error.sqlstate, error.reason) == ("42501", "rows_hidden")


def test_a_name_with_a_backslash_is_no_sql(db):
    conn = db.connect()
    conn.execute("""CREATE TABLE "x\\';SELECT 1/0 oid--" (id int PRIMARY KEY, quantity int)""")
    conn.execute("""SELECT attach_inventory('"x\\\\'';SELECT 1/0 oid--"'::text::regclass)""".replace("\\\\", "\\"))
    conn.execute("SET standard_conforming_strings = off; SET backslash_quote = on")
    assert audit(conn) == []


def test_a_name_with_a_newline_makes_no_second_line_of_a_crontab(db):
    conn = db.connect()
    conn.execute('CREATE TABLE "a\n* * * * * id #" (id int PRIMARY KEY, quantity int)')
    conn.execute("SELECT attach_inventory('\"a\n* * * * * id #\"')")
    error = refused(conn, "SELECT schedule_inventory_audit()")
    assert (error.sqlstate, error.reason) == ("22023", "control_characters")


def test_a_relation_of_a_guest_in_the_place_of_the_archive_stops_no_reader(db, owner):
    with db.connect() as conn:
        guest = create_role(conn, db, "guest")
    owner.execute(f'GRANT USAGE, CREATE ON SCHEMA store TO "{guest}"')
    with db.connect(guest) as session:
        session.execute("CREATE TABLE store.inventory_movement_archive (a int)")
    assert owner.execute("SELECT inventory_at(1, now())").fetchone() == (94,)
    assert audit(owner) == []
    owner.execute("SELECT adjust_inventory(1, 94, p_counted_at => now())")
    error = refused(owner, "SELECT archive_movements(now())")
    assert (error.sqlstate, error.reason) == ("42P07", "audit_table")


@pytest.mark.parametrize(
    ("altered", "call"),
    [
        ("found = '7'", "reconcile_inventory(1, p_apply => true, p_reason => 'found')"),
        ("found = '{\"a\": 1}'", "inventory_audit_report()"),
        ("acknowledged = '7'", "audit_inventory()"),
        ('acknowledged = \'[{"item": "1", "stripe": 99999999, "movement": 1}]\'', "audit_inventory()"),
        ("seal_number = 9223372036854775807", "audit_inventory()"),
        ("seal_number = 9223372036854775807", "archive_movements(now())"),
    ],
)
def test_an_altered_run_is_named_and_no_internal_error(owner, altered, call):
    owner.execute("ALTER TABLE inventory DISABLE TRIGGER USER; UPDATE inventory SET quantity = 90 WHERE id = 1")
    owner.execute("ALTER TABLE inventory ENABLE TRIGGER USER")
    assert kinds(owner) == ["on_hand_drift"]
    owner.execute(f"UPDATE inventory_audit SET {altered} WHERE run_id = (SELECT max(run_id) FROM inventory_audit)")
    error = refused(owner, f"SELECT {call}")
    assert (error.sqlstate, error.reason) == ("55000", "altered_run"), call
    with owner.transaction():
        for table in ("audit", "audit_chain", "audit_segment"):
            owner.execute(f"ALTER TABLE inventory_{table} RENAME TO old_{table}")
    assert kinds(owner) == ["on_hand_drift"]
