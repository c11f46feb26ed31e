"""The owner, who attaches, detaches, audits and reconciles, runs no code of a stranger either, nor waits in vain."""

import psycopg
import pytest

from attack_parties import outcome, statement
from owner_shop import LEDGER, ONE, STOCK, STRIPES, TOTALS, TWO, Stranger, assert_foreign, grant_execute, open_store
from shop import Aside, attach, left, refused_attach, refused_sale, sell, until_waiting
from striped import available
from waiting_calls import (
    BOUND, HIGH, PART, Held, add_partition, give_partition, partitioned, put_code, run, take_partition, with_code_of,
)  # fmt: skip

DEFERRABLE = "CREATE CONSTRAINT TRIGGER spy AFTER INSERT OR UPDATE OR DELETE ON {} DEFERRABLE FOR EACH ROW EXECUTE"


@pytest.mark.parametrize("table", [STOCK, STRIPES, TOTALS, LEDGER, PART])
def test_the_owner_who_detaches_does_not_run_a_deferrable_trigger_of_a_stranger(db, table):
    """Before, that it was deferrable hid whose it was; and the owner may run its own."""
    store = partitioned(db) if table == PART else open_store(db)
    stranger = Stranger(store, table)
    sell(store.clerk(), TWO, 30)
    store.settled(70)
    stranger.conn.execute(f"{DEFERRABLE.format(table)} FUNCTION tools.spy()")
    store.owner.execute("SELECT public.detach_inventory()")
    stranger.assert_nothing_ran()
    assert_foreign(refused_attach(store.owner, STOCK), table, "spy")
    store.owner.execute(f"DROP TRIGGER spy ON {table}")
    attach(store.owner, STOCK)
    assert available(store.admin, TWO) == 70
    store.audit()


def test_a_deferrable_trigger_of_the_owner_hides_none_of_a_stranger(db):
    store = open_store(db)
    stranger = Stranger(store, STRIPES)
    sell(store.clerk(), TWO, 30)
    store.settled(70)
    store.owner.execute(
        "CREATE FUNCTION store.own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        f"{DEFERRABLE.format(STOCK).replace('spy', 'own')} FUNCTION store.own()"
    )
    stranger.trigger(STRIPES)
    store.owner.execute("SELECT public.detach_inventory()")
    stranger.assert_nothing_ran()
    stranger.drop_trigger(STRIPES)
    store.owner.execute(f"DROP TRIGGER own ON {STOCK}")
    attach(store.owner, STOCK)
    assert available(store.admin, TWO) == 70


def test_stripes_that_were_left_are_not_merged_past_a_deferrable_trigger_of_a_stranger(db):
    store = open_store(db, p_run_as="caller")
    stranger = Stranger(store, STOCK)
    sell(store.admin, TWO, 30)
    store.settled(70)
    store.admin.execute("DROP EXTENSION inventory_ext CASCADE; CREATE EXTENSION inventory_ext")
    grant_execute(store.admin, store.owner_role)
    stranger.conn.execute(f"{DEFERRABLE.format(STOCK)} FUNCTION tools.spy()")
    assert_foreign(refused_attach(store.owner, STOCK, p_run_as="caller"), STOCK, "spy")
    stranger.assert_nothing_ran()


@pytest.mark.parametrize("by", ["owner", "superuser"])
def test_who_attaches_again_counts_no_items_of_a_partition_of_another_role(db, by):
    store = partitioned(db)
    stranger = with_code_of(store)
    give_partition(store.admin, stranger, planned=True)
    assert refused_attach(store.owner if by == "owner" else store.admin, STOCK).reason == "foreign_partition"
    stranger.assert_nothing_ran()
    take_partition(store)
    assert attach(store.owner, STOCK)["items"] == 2


def test_a_partition_that_comes_and_is_given_away_while_attach_waits_is_not_read(db):
    """Who may lock the new partition holds attach up there; the partition is given away, and code put there."""
    store = partitioned(db)
    stranger = with_code_of(store)
    store.owner.execute(f"SELECT public.detach_inventory(); CREATE TABLE {HIGH} (LIKE {STOCK} INCLUDING ALL)")
    store.owner.execute(f'GRANT SELECT, UPDATE ON {HIGH} TO "{stranger.role}"')
    conn, holder, giver = db.connect(user=store.owner_role), db.connect(user=store.owner_role), db.connect()
    locking, coding = (store.session("stranger") for _ in range(2))
    lock = f"BEGIN; LOCK TABLE {HIGH} IN ACCESS EXCLUSIVE MODE"
    holder.execute(f"BEGIN; LOCK TABLE {STOCK} IN SHARE UPDATE EXCLUSIVE MODE")
    attaching = Aside(attach, conn, STOCK)
    until_waiting(store.admin, conn)
    holder.execute(f"ALTER TABLE {STOCK} ATTACH PARTITION {HIGH} FOR VALUES FROM ('{BOUND}') TO (MAXVALUE)")
    locked = Aside(locking.execute, lock)
    until_waiting(store.admin, locking)
    holder.execute("COMMIT")
    locked.result()
    until_waiting(store.admin, conn)
    given = Aside(giver.execute, f'ALTER TABLE {HIGH} OWNER TO "{stranger.role}"')
    until_waiting(store.admin, giver)
    locked = Aside(coding.execute, lock)
    until_waiting(store.admin, coding)
    locking.execute("COMMIT")
    given.result()
    locked.result()
    coding.execute(f"ALTER TABLE {HIGH} ADD CONSTRAINT spy CHECK (tools.grab()) NOT VALID; COMMIT")
    attaching.result()
    stranger.assert_nothing_ran(but_as_itself=True)
    assert refused_sale(store.clerk(), ONE, 1).reason == "foreign_partition"


WAITING = [
    "SELECT * FROM audit_inventory(p_full => true)",
    "SELECT archive_movements(now())",
    f"SELECT reconcile_inventory('{ONE}', 'stock', true)",
]


@pytest.mark.parametrize("by", ["owner", "superuser"])
@pytest.mark.parametrize("audit", WAITING)
@pytest.mark.parametrize("what", ["another audit", "the row"])
def test_a_partition_that_comes_while_an_audit_waits_is_not_read(db, audit, by, what):
    store = partitioned(db)
    stranger = with_code_of(store)
    sell(store.owner, ONE, 1)
    store.owner.execute("SELECT audit_inventory()")
    conn = db.connect(user=store.owner_role) if by == "owner" else db.connect()
    if what == "another audit":
        held = Held(store, "SELECT audit_inventory()", conn, audit)
    elif "reconcile" in audit:
        held = Held(store, f"SELECT FROM {STOCK} WHERE id = '{ONE}' FOR UPDATE", conn, audit)
    else:
        return  # Audits do not wait for rows.
    add_partition(store, stranger)
    assert held.refusal().reason == "foreign_partition"
    stranger.assert_nothing_ran()


READERS = {
    "changes": "SELECT inventory_changes(NULL)",
    "digest": "SELECT inventory_digest()",
    "report": "SELECT inventory_audit_report()",
    "proof": "SELECT movement_proof(1)",
    "audit": f"SELECT audit_inventory('{ONE}')",
    "reconcile": f"SELECT reconcile_inventory('{ONE}', 'stock')",
}


@pytest.mark.parametrize("reader", READERS)
def test_a_table_of_the_audit_that_was_looked_at_is_not_given_away_while_its_reader_waits(db, reader):
    """Before, its new owner put code there, which ran as the owner of the shop."""
    store = open_store(db)
    stranger = with_code_of(store)
    sell(store.owner, ONE, 1)
    store.owner.execute("SELECT audit_inventory()")
    conn = db.connect(user=store.owner_role)
    held = Held(store, "LOCK TABLE store.inventory_audit_segment IN ACCESS EXCLUSIVE MODE", conn, READERS[reader])
    store.admin.execute("SET lock_timeout = '300ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        store.admin.execute(f'ALTER TABLE store.inventory_audit OWNER TO "{stranger.role}"')
    held.result()
    stranger.assert_nothing_ran()


def test_the_archive_is_not_given_away_while_its_reader_waits(db):
    store = open_store(db)
    stranger = with_code_of(store)
    archive = "store.inventory_movement_archive"
    sell(store.owner, ONE, 1)
    store.owner.execute("SELECT archive_movements(now())")
    clerk, giver = store.clerk(), db.connect()
    held = Held(store, f"LOCK TABLE {archive} IN ACCESS EXCLUSIVE MODE", clerk, f"SELECT inventory_at('{ONE}', now())")
    given = Aside(giver.execute, f'ALTER TABLE {archive} OWNER TO "{stranger.role}"')
    until_waiting(store.admin, giver)
    assert held.result() == [(99,)]
    given.result()
    put_code(stranger, archive, column="inventory_id")
    outcome(clerk, f"SELECT inventory_at('{ONE}', now())")
    stranger.assert_nothing_ran()


def test_a_member_of_the_owner_reconciles_nothing_on_a_partition_of_another_role(db):
    """With the rights of the caller, which are the member's; before, the code ran as the owner."""
    store = partitioned(db, p_run_as="caller")
    stranger = with_code_of(store)
    sell(store.owner, ONE, 1)
    store.owner.execute("SELECT audit_inventory()")
    member = store.role("member")
    store.admin.execute(f'GRANT "{store.owner_role}" TO "{member}"')
    grant_execute(store.admin, member)
    give_partition(store.admin, stranger, planned=True)
    found = outcome(store.session("member"), f"SELECT reconcile_inventory('{ONE}', 'stock')::text")
    assert found[0] == "ERROR" and "foreign_partition" in found[3]
    assert not [line for line in stranger.runs() if line.endswith(f"runs as {store.owner_role}")]


@pytest.mark.parametrize("partitions", [False, True])
def test_with_the_rights_of_the_caller_triggers_may_come_while_a_call_waits(db, partitions):
    """Such a call was refused, with a HINT that it followed already; the next one was not."""
    store = (partitioned if partitions else open_store)(db, p_run_as="caller")
    stranger = Stranger(store)
    store.owner.execute(
        "CREATE FUNCTION store.own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        f"CREATE TRIGGER own AFTER UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.own()"
    )
    clerk = store.clerk()
    store.owner.execute(f"GRANT USAGE ON SCHEMA store TO PUBLIC; GRANT SELECT, UPDATE ON {STOCK} TO PUBLIC")
    sell(clerk, ONE, 1)
    clerk.execute("BEGIN; SELECT set_config('inventory_ext.idempotency_key', 'key', true)")
    held = Held(store, f"SELECT FROM {STOCK} WHERE id = '{ONE}' FOR UPDATE", clerk,
                statement("decrement_inventory('{item}', 1)"))  # fmt: skip
    store.admin.execute(f'ALTER FUNCTION store.own() OWNER TO "{stranger.role}"')
    assert '"new_quantity": 98' in held.result()[0][0]
    clerk.execute("COMMIT")
    assert left(store.admin, ONE, STOCK) == 98


TRIGGERS = {
    "superuser": "public.check_primary_key('id', 'tools.view', 'id')",
    "owner": "store.note('tools.notes')",
}


@pytest.mark.parametrize("function", [*TRIGGERS, "condition"])
def test_arguments_of_a_trigger_are_no_code_of_who_may_create_triggers(db, function):
    """The functions of superusers and of the owner are trusted, not what a stranger has them run."""
    store = open_store(db)
    stranger = Stranger(store, STOCK)
    store.admin.execute("CREATE EXTENSION refint SCHEMA public")
    stranger.conn.execute(
        f"CREATE VIEW tools.view AS SELECT '{ONE}'::uuid AS id WHERE tools.grab();"
        "CREATE TABLE tools.notes (n integer); GRANT ALL ON tools.view, tools.notes TO PUBLIC"
    )
    stranger.trigger("tools.notes")
    store.owner.execute(
        """GRANT USAGE ON SCHEMA store TO PUBLIC;
        CREATE FUNCTION store.note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN EXECUTE format('INSERT INTO %s VALUES (1)', TG_ARGV[0]); RETURN NEW; END $$;
        CREATE FUNCTION store.number(condition text) RETURNS bigint LANGUAGE plpgsql AS $$
        DECLARE number bigint;
        BEGIN EXECUTE 'SELECT count(*) WHERE ' || condition INTO number; RETURN number; END $$"""
    )
    placement = f"BEFORE UPDATE ON {STOCK} FOR EACH ROW"
    if function == "condition":
        create = f"{placement} WHEN (store.number('tools.grab()') > 9) EXECUTE FUNCTION store.note()"
    else:
        create = f"{placement} EXECUTE FUNCTION {TRIGGERS[function]}"
    stranger.conn.execute(f'CREATE TRIGGER "!spy" {create}')
    for conn in (store.clerk(), store.owner):
        refusal = Aside(conn.execute, statement("decrement_inventory('{item}', 1)")).refusal()
        assert_foreign(refusal, STOCK)
        assert refusal.facts["arguments"] is True
    stranger.assert_nothing_ran()
    # The HINT.
    store.owner.execute(f'REVOKE TRIGGER ON {STOCK} FROM "{stranger.role}"')
    stranger.drop_trigger(STOCK)
    sell(store.clerk(), ONE, 1)
    stranger.assert_nothing_ran()


def test_triggers_with_arguments_are_the_owners_where_no_other_role_may_create_any(db):
    store = open_store(db, columns=", changed timestamptz")
    store.admin.execute("CREATE EXTENSION moddatetime SCHEMA public")
    store.owner.execute(
        f"CREATE TRIGGER changed BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION moddatetime('changed')"
    )
    sell(store.clerk(), ONE, 1)
    assert run(store.admin, f"SELECT changed IS NOT NULL FROM {STOCK} WHERE id = '{ONE}'") == [(True,)]


def test_archiving_does_not_deadlock_with_reindex_of_the_ledger(db):
    """It had read the ledger, waited for the archive, and then made its lock on the ledger stronger."""
    store = open_store(db)
    sell(store.owner, ONE, 1)
    archive = "SELECT archive_movements(now()) ->> 'success'"
    run(store.owner, archive)
    sell(store.owner, ONE, 1)
    conn, admin = db.connect(user=store.owner_role), db.connect()
    held = Held(store, "LOCK TABLE store.inventory_movement_archive IN SHARE MODE", conn, archive)
    reindexing = Aside(admin.execute, f"REINDEX TABLE {LEDGER}")
    until_waiting(store.admin, admin)
    assert held.result() == [("true",)]
    reindexing.result()
