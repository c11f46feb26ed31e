"""What the tests of waiting calls share: a session that holds a table or a row, and a call that waits for it."""

from __future__ import annotations

from owner_shop import LEDGER, ONE, STOCK, Stranger, open_store
from shop import Aside, sell, until, until_waiting

PART, HIGH = "store.part", "store.high"
BOUND = "80000000-0000-0000-0000-000000000000"


def partitioned(db, **options):
    """The shop, whose items are in one partition; there is none for high ids."""
    return open_store(db, partition_by="RANGE (id)", bounds=f"FROM (MINVALUE) TO ('{BOUND}')", **options)


def with_code_of(store, volatility="IMMUTABLE"):
    """A stranger whose code PostgreSQL runs when it plans, too; it may create tables in the schema of the shop."""
    stranger = Stranger(store)
    stranger.conn.execute(f"ALTER FUNCTION tools.grab() {volatility}")
    store.admin.execute(f'GRANT CREATE ON SCHEMA store TO "{stranger.role}"')
    return stranger


def put_code(stranger, table, planned=True, column="id", name="spy"):
    stranger.conn.execute(f"ALTER TABLE {table} ADD CONSTRAINT spy CHECK (tools.grab()) NOT VALID")
    if planned:
        stranger.conn.execute(f"CREATE INDEX {name} ON {table} ({column}) WHERE tools.grab()")
        stranger.has_run_its_code()


def give_partition(admin, stranger, planned=False):
    admin.execute(f'ALTER TABLE {PART} OWNER TO "{stranger.role}"')
    put_code(stranger, PART, planned)


def take_partition(store):
    give_back = f'ALTER TABLE {PART} OWNER TO "{store.owner_role}"'
    store.admin.execute(f"ALTER TABLE {PART} DROP CONSTRAINT spy; DROP INDEX IF EXISTS store.spy; {give_back}")


def add_partition(store, stranger):
    """Given to the stranger by a superuser, who alone may; then the stranger puts its code there."""
    conn = store.db.connect(user=store.owner_role)
    conn.execute(f"CREATE TABLE {HIGH} (LIKE {STOCK} INCLUDING ALL)")
    conn.execute(f"ALTER TABLE {STOCK} ATTACH PARTITION {HIGH} FOR VALUES FROM ('{BOUND}') TO (MAXVALUE)")
    store.db.connect().execute(f'ALTER TABLE {HIGH} OWNER TO "{stranger.role}"')
    put_code(stranger, HIGH)


def run(conn, sql):
    return conn.execute(sql).fetchall()


class Held:
    """A statement that waits for a session which holds a lock."""

    def __init__(self, store, hold, conn, sql, run=run):
        self.store, self.holder = store, store.db.connect(user=store.owner_role)
        self.holder.execute(f"BEGIN; {hold}")
        self.call = Aside(run, conn, sql)
        until_waiting(store.db.connect(), conn)

    def result(self):
        self.holder.execute("COMMIT")
        return self.call.result()

    def refusal(self):
        self.holder.execute("COMMIT")
        return self.call.refusal()


def waiting_for_a_key(store, sql, sessions):
    """The second session waits for the key that the first one has used in its open transaction."""
    one, two = sessions
    for conn in sessions:
        sell(conn, ONE, 1)
        conn.execute("BEGIN; SELECT set_config('inventory_ext.idempotency_key', 'key', true)")
    run(one, sql)
    call = Aside(run, two, sql)
    until_waiting(store.admin, two)
    return call


def until_wanted(store, table, sessions=1):
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    until(lambda: store.admin.execute(waits, (table,)).fetchone()[0] >= sessions, f"sessions wait for {table}")


class Usurper:
    """A stranger with a schema of its own, whose tables are called as those of the shop: it takes the shop's name."""

    TABLES = f"""
        CREATE SCHEMA evil;
        GRANT USAGE ON SCHEMA evil TO PUBLIC;
        CREATE TABLE evil.inventory (id uuid PRIMARY KEY, quantity integer);
        INSERT INTO evil.inventory VALUES ('{ONE}', 50), ('00000000-0000-0000-0000-000000000002', 50);
        CREATE TABLE evil.inventory_stripe (inventory_id uuid, stripe smallint, quantity numeric);
        GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC;
    """

    def __init__(self, store):
        self.store, self.stranger = store, with_code_of(store)
        grant = f'GRANT CREATE ON DATABASE {store.db.name} TO "{self.stranger.role}", "{store.owner_role}"'
        store.admin.execute(grant)
        self.stranger.conn.execute(self.TABLES)
        self.stranger.trigger("evil.inventory")
        put_code(self.stranger, "evil.inventory_stripe", column="inventory_id")

    def forge_ledger(self, columns):
        """A view in place of the ledger, with one movement, whose reference is code."""
        kinds = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass"
        found = self.store.admin.execute(f"{kinds} AND attnum > 0 AND NOT attisdropped", (LEDGER,)).fetchall()
        selected = ", ".join(f"({columns.get(name, 'NULL')})::{type} AS {name}" for name, type in found)
        self.stranger.conn.execute(
            f"CREATE VIEW evil.inventory_movement AS SELECT {selected}; GRANT ALL ON evil.inventory_movement TO PUBLIC"
        )

    def take_the_name(self):
        self.store.db.connect(user=self.store.owner_role).execute("ALTER SCHEMA store RENAME TO old")
        self.stranger.conn.execute("ALTER SCHEMA evil RENAME TO store")
        self.stranger.has_run_its_code()

    def give_it_back(self):
        self.stranger.conn.execute("ALTER SCHEMA store RENAME TO evil")
        self.store.db.connect(user=self.store.owner_role).execute("ALTER SCHEMA old RENAME TO store")

    def assert_got_nothing(self):
        self.stranger.assert_nothing_ran()
        rows = "SELECT array_agg(quantity) FROM store.inventory"
        assert self.store.admin.execute(rows).fetchone()[0] == [50, 50]
