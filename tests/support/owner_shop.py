"""What the tests of an owner's own code share: a shop whose owner is no superuser, and code that tries to become one.

The tables are in the schema `store`, which belongs to the owner: ONE is an ordinary item, TWO is striped.
`store.attempt(place)` tries in turn everything that would outlive a security-restricted operation or change the role,
catches each error and writes the outcome to `store.outcome`; its last way out is code that runs at commit as the
session's user, who is a superuser in these tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from books import audit, movements, steps
from shop import ONE, TWO, attach, create_role, fill, left, notices, sell, until

STOCK, LEDGER, KEYS, STRIPES = (
    "store.inventory",
    "store.inventory_movement",
    "store.inventory_request",
    "store.inventory_stripe",
)
TOTALS = "store.inventory_stripe_total"

# CLOSE ALL comes first: later it would close the cursor that is to be left behind.
WAYS_OUT = [
    "CLOSE ALL",
    "DISCARD PLANS",
    "SET ROLE postgres",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION postgres",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET SESSION AUTHORIZATION",
    "SELECT set_config('role', 'postgres', true)",
    "SELECT set_config('session_authorization', 'postgres', false)",
    "SET session_replication_role = replica",
    "CREATE TEMPORARY TABLE orders (n integer)",
    "CREATE TEMPORARY VIEW prices AS SELECT 1 AS price",
    "CREATE TEMPORARY SEQUENCE numbers",
    "PREPARE leftover AS SELECT store.grab()",
    "LISTEN leftover",
    "INSERT INTO store.later VALUES (1)",
    "DECLARE leftover CURSOR WITH HOLD FOR SELECT store.grab()",
]

CODE = """
    CREATE TABLE store.outcome (place text, way text, sqlstate text, role name);
    CREATE TABLE store.later (n integer);
    GRANT USAGE ON SCHEMA store TO PUBLIC;
    GRANT ALL ON store.outcome, store.later TO PUBLIC;
    CREATE FUNCTION store.grab() RETURNS integer LANGUAGE plpgsql AS $$
    BEGIN
        IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
            EXECUTE 'ALTER ROLE "{owner}" SUPERUSER';
        END IF;
        RETURN 1;
    END $$;
    CREATE FUNCTION store.grab_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM store.grab(); RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER later AFTER INSERT ON store.later DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION store.grab_row();
    CREATE FUNCTION store.attempt(place text) RETURNS boolean LANGUAGE plpgsql AS $$
    DECLARE
        way text;
    BEGIN
        FOREACH way IN ARRAY {ways} LOOP
            BEGIN
                EXECUTE way;
                INSERT INTO store.outcome VALUES (place, way, 'done', current_user);
            EXCEPTION WHEN OTHERS THEN
                INSERT INTO store.outcome VALUES (place, way, SQLSTATE, current_user);
            END;
        END LOOP;
        RETURN true;
    END $$;
    CREATE FUNCTION store.attempt_row() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM store.attempt(TG_TABLE_NAME || ' ' || TG_WHEN || ' ' || TG_OP);
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END $$;
"""


@dataclass
class Store:
    """The shop: a superuser's session, the owner's session, and sessions of other roles."""

    db: object
    admin: object
    owner: object
    roles: dict = field(default_factory=dict)

    @property
    def owner_role(self) -> str:
        return self.owner.info.user

    def role(self, name, attributes="LOGIN") -> str:
        """A role of this test, made at first use."""
        if name not in self.roles:
            self.roles[name] = create_role(self.admin, self.db, name, attributes)
        return self.roles[name]

    def session(self, name, **options):
        """A new session of such a role."""
        return self.db.connect(user=self.role(name), **options)

    def clerk(self, **options):
        """A session that has EXECUTE on the public functions, and no other right."""
        grant_execute(self.admin, self.role("clerk"))
        return self.session("clerk", **options)

    def become_superuser(self) -> bool:
        """Whether the owner, or another role of the test that is to be ordinary, is a superuser by now."""
        sql = "SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname = ANY (%s)"
        return self.admin.execute(sql, ([self.owner_role, *self.roles.values()],)).fetchone()[0] > 0

    def outcomes(self) -> list[tuple]:
        """(way, SQLSTATE, role) of everything that was attempted, each once."""
        sql = "SELECT DISTINCT way, sqlstate, role FROM store.outcome ORDER BY 1, 2, 3"
        return self.admin.execute(sql).fetchall()

    def assert_no_way_out(self):
        """Every way out was tried, as the owner, and refused as PostgreSQL refuses it in a maintenance command."""
        tried = {way: (sqlstate, role) for way, sqlstate, role in self.outcomes()}
        wrong = {way: tried.get(way) for way in WAYS_OUT if tried.get(way) != ("42501", self.owner_role)}
        assert not wrong, f"superuser: {self.become_superuser()}, not refused as the owner: {wrong}"
        assert len(self.outcomes()) == len(WAYS_OUT) and not self.become_superuser()

    def settled(self, quantity, item=TWO):
        """Waits until the row of a striped item shows this total."""
        until(lambda: left(self.admin, item, STOCK) == quantity, f"the row shows {quantity}")

    def audit(self):
        audit(self.admin, STOCK, LEDGER)

    def movements(self, item=None, after=0):
        return movements(self.admin, item, LEDGER, after)

    def steps(self, item=None, after=0):
        return steps(self.admin, item, LEDGER, after)

    def last_movement(self) -> int:
        return self.admin.execute(f"SELECT coalesce(max(movement_id), 0) FROM {LEDGER}").fetchone()[0]

    def companions(self) -> list[str]:
        """The companions that there are."""
        names = [LEDGER, KEYS, STRIPES, TOTALS]
        return [name for name in names if self.admin.execute("SELECT to_regclass(%s)", (name,)).fetchone()[0]]


def grant_execute(admin, role):
    """EXECUTE on every function of the extension that can be called."""
    admin.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{role}"')


def open_store(db, columns="", partition_by="", bounds="WITH (MODULUS 1, REMAINDER 0)", **options) -> Store:
    """The shop, attached by its owner: 100 of ONE, and 100 of TWO, which is striped. The bounds are those of its only
    partition."""
    admin = db.connect()
    store = Store(db, admin, None)
    owner = create_role(admin, db, "owner")
    grant_execute(admin, owner)
    admin.execute(f'CREATE SCHEMA store AUTHORIZATION "{owner}"')
    store.owner = conn = db.connect(user=owner)
    conn.execute("SET search_path = store, public")
    if partition_by:
        conn.execute(
            f"CREATE TABLE {STOCK} (id uuid PRIMARY KEY, quantity integer{columns}) PARTITION BY {partition_by}"
        )
        conn.execute(f"CREATE TABLE store.part PARTITION OF store.inventory FOR VALUES {bounds}")
    else:
        conn.execute(f"CREATE TABLE {STOCK} (id uuid PRIMARY KEY, quantity integer{columns})")
    fill(conn, {ONE: 100, TWO: 100}, STOCK)
    attach(conn, STOCK, **options)
    conn.execute("SELECT stripe_inventory(%s, 2)", (TWO,))
    return store


def hostile_store(db, **options) -> Store:
    """The shop, and the code that attempts to get out; nothing calls it yet."""
    store = open_store(db, **options)
    ways = "ARRAY[" + ", ".join("'" + way.replace("'", "''") + "'" for way in WAYS_OUT) + "]"
    store.owner.execute(CODE.format(owner=store.owner_role, ways=ways))
    return store


def attempt_on_every_table(store):
    """Triggers that attempt it on every write to the stock table and to its companions."""
    for table in [STOCK, *store.companions()]:
        for name, timing in (("attempt_before", "BEFORE"), ("attempt_after", "AFTER")):
            store.owner.execute(
                f"CREATE TRIGGER {name} {timing} INSERT OR UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION store.attempt_row()"
            )


STRANGERS_CODE = """
    GRANT USAGE ON SCHEMA tools TO PUBLIC;
    CREATE FUNCTION tools.grab() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        RAISE WARNING 'code of a stranger runs as %', current_user;
        IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
            EXECUTE 'ALTER ROLE "{role}" SUPERUSER';
        END IF;
        RETURN true;
    END $$;
    CREATE FUNCTION tools.spy() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM tools.grab();
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END $$;
"""
ANY_WRITE = "BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH STATEMENT"


class Stranger:
    """A role with TRIGGER on some tables of the owner, and code that tries to make it a superuser."""

    def __init__(self, store, *tables):
        self.store, self.role = store, store.role("stranger")
        store.admin.execute(f'CREATE SCHEMA tools AUTHORIZATION "{self.role}"')
        store.admin.execute(f'GRANT USAGE ON SCHEMA store TO "{self.role}"')
        for table in tables:
            store.owner.execute(f'GRANT SELECT, TRIGGER ON {table} TO "{self.role}"')
        self.conn = store.session("stranger")
        self.conn.execute(STRANGERS_CODE.format(role=self.role))
        self._log = store.db.server.log_path
        self._begin = self._log.stat().st_size

    def trigger(self, table, placement=ANY_WRITE):
        """Its name comes before those of the extension's triggers."""
        self.conn.execute(f'CREATE TRIGGER "!spy" {placement.format(table=table)} EXECUTE FUNCTION tools.spy()')

    def drop_trigger(self, table):
        self.store.owner.execute(f'DROP TRIGGER "!spy" ON {table}')

    def has_run_its_code(self):
        """Its own runs of its code, up to here, are its own matter."""
        self._begin = self._log.stat().st_size

    def runs(self) -> list[str]:
        """What the server has logged of runs of its code, each of which ends with the role that ran it."""
        logged = self._log.read_bytes()[self._begin :].decode(errors="replace")
        return [line for line in logged.splitlines() if "WARNING:  code of a stranger runs as" in line]

    def assert_nothing_ran(self, but_as_itself=False):
        """As no role at all, in no session and not in the totals worker."""
        ran = self.runs()
        if but_as_itself:
            ran = [line for line in ran if not line.endswith(f"runs as {self.role}")]
        assert not ran, ran
        assert not self.store.become_superuser()


def assert_foreign(refusal, table, trigger="!spy"):
    assert refusal.sqlstate == "55000", refusal
    assert refusal.reason == "foreign_trigger"
    assert refusal.facts["table"].rpartition(".")[2] == table.rpartition(".")[2]
    assert refusal.facts["trigger"] == trigger and refusal.hint


def owners_trigger(conn, body, timing="BEFORE UPDATE", table="inventory_stripe", each="ROW", when=""):
    """A trigger of the table's owner, with this body."""
    conn.execute(
        f"CREATE FUNCTION owners_code() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$;"
        f"CREATE TRIGGER owners_code {timing} ON {table} FOR EACH {each} {when} EXECUTE FUNCTION owners_code()"
    )


def heard_while(conn, work) -> list[str]:
    """The notices of a session while it works, without their severity."""
    heard = notices(conn)
    before = len(heard)
    work()
    return [line.partition(": ")[2] for line in heard[before:]]


__all__ = [
    "KEYS", "LEDGER", "ONE", "STOCK", "STRIPES", "TOTALS", "TWO", "WAYS_OUT", "Store", "Stranger", "assert_foreign",
    "attempt_on_every_table", "grant_execute", "heard_while", "hostile_store", "open_store",
    "owners_trigger", "sell",
]  # fmt: skip
