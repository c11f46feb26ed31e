"""EXECUTE is not enough to run code as the owner: in all code that runs while we write, names mean the owner's objects.

Column DEFAULTs, domain CHECKs, casts, operators, generated columns, rules and policies of the owner call a function
that names another one without a schema; the caller has a look-alike first in its search_path. Before, the path was
pinned only for what a list of features foresaw. Triggers and plain CHECKs of the companions are in
test_code_on_companions.py.
"""

import pytest

from books import call, lines
from owner_shop import KEYS, LEDGER, ONE, STOCK, STRIPES, TWO, heard_while, open_store
from shop import create_role, item, sell, shop

THREE = item(3)

# helper() is the unqualified name. It says so, and what path it was found by.
OWNERS_FUNCTIONS = """
    CREATE FUNCTION store.helper(n numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE 'owner'; RETURN n; END $$;
    CREATE OR REPLACE FUNCTION store.touch(n numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RETURN helper(n); END $$;
    CREATE FUNCTION store.stamp() RETURNS numeric VOLATILE LANGUAGE plpgsql AS $$ BEGIN RETURN helper(1); END $$;
    CREATE FUNCTION store.touch_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM helper(1); RETURN NEW; END
    $$;
    CREATE DOMAIN store.qty AS numeric CHECK (store.touch(VALUE) IS NULL OR store.touch(VALUE) > -1);
    CREATE DOMAIN store.qty_of_qty AS store.qty;
    CREATE TYPE store.pair AS (quantity store.qty, other integer);
    CREATE TYPE store.grade AS (n numeric);
    CREATE FUNCTION store.to_grade(n numeric) RETURNS store.grade IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RETURN ROW(helper(n))::store.grade; END $$;
    CREATE CAST (numeric AS store.grade) WITH FUNCTION store.to_grade(numeric);
    CREATE FUNCTION store.more(a numeric, b numeric) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RETURN helper(a) > b; END $$;
    CREATE OPERATOR store.>>> (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = store.more);
"""
TRAP = """
    CREATE FUNCTION evil.helper(n numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE 'trap sprung as %', current_user; RETURN n; END $$;
    GRANT USAGE ON SCHEMA evil TO PUBLIC; GRANT EXECUTE ON FUNCTION evil.helper TO PUBLIC;
"""

# CREATE INDEX has a search_path of its own since PostgreSQL 17, so touch() is plain while the index is built.
PLAIN = OWNERS_FUNCTIONS[
    OWNERS_FUNCTIONS.index("CREATE OR REPLACE") : OWNERS_FUNCTIONS.index("CREATE FUNCTION store.stamp")
]


def building(index):
    return f"{PLAIN.replace('helper(n)', 'n')} {index}; {PLAIN}"


DROP_COLUMN = "ALTER TABLE {table} DROP COLUMN c"
DROP_CHECK = "ALTER TABLE {table} DROP CONSTRAINT c"
DROP_INDEX = "DROP INDEX store.i"
CODE = {
    "default": ("ALTER TABLE {table} ADD c numeric DEFAULT store.stamp()", DROP_COLUMN),
    "default of a constant": ("ALTER TABLE {table} ADD c numeric DEFAULT store.touch(1)", DROP_COLUMN),
    "default of a domain": ("ALTER TABLE {table} ADD c store.qty DEFAULT 1", DROP_COLUMN),
    "domain without a default": ("ALTER TABLE {table} ADD c store.qty", DROP_COLUMN),
    "domain over a domain": ("ALTER TABLE {table} ADD c store.qty_of_qty DEFAULT 1", DROP_COLUMN),
    "default of a composite type": ("ALTER TABLE {table} ADD c store.pair DEFAULT ROW(1, 2)::store.pair", DROP_COLUMN),
    "generated column": (
        "ALTER TABLE {table} ADD c numeric GENERATED ALWAYS AS (store.touch({number})) STORED", DROP_COLUMN),
    "generated column of a domain": (
        "ALTER TABLE {table} ADD c store.qty GENERATED ALWAYS AS ({number} * 2) STORED", DROP_COLUMN),
    "cast to a domain": ("ALTER TABLE {table} ADD CONSTRAINT c CHECK (({number})::store.qty > -1)", DROP_CHECK),
    "cast to an array of a domain": (
        "ALTER TABLE {table} ADD CONSTRAINT c CHECK (cardinality(ARRAY[{number}, 1]::store.qty[]) = 2)", DROP_CHECK),
    "cast to a composite type with a domain": (
        "ALTER TABLE {table} ADD CONSTRAINT c CHECK ((ROW({number}, 1)::store.pair) IS NOT NULL)", DROP_CHECK),
    "cast with a function": (
        "ALTER TABLE {table} ADD CONSTRAINT c CHECK (({number})::store.grade IS NOT NULL)", DROP_CHECK),
    "operator": ("ALTER TABLE {table} ADD CONSTRAINT c CHECK ({number} OPERATOR(store.>>>) -1)", DROP_CHECK),
    "index on a cast": (building("CREATE INDEX i ON {table} ((({number})::store.qty))"), DROP_INDEX),
    "index predicate with a cast": (
        building("CREATE INDEX i ON {table} ({column}) WHERE ({number})::store.qty > 0"), DROP_INDEX),
    "index predicate of a constant": (
        building("CREATE INDEX i ON {table} ({column}) WHERE store.touch(1) > 0"), DROP_INDEX),
    "trigger condition with a cast": (
        "CREATE TRIGGER t AFTER {event} ON {table} FOR EACH ROW WHEN ((NEW.{number})::store.qty > -1) "
        "EXECUTE FUNCTION store.touch_row()", "DROP TRIGGER t ON {table}"),
    "rule": ("CREATE RULE r AS ON {event} TO {table} DO ALSO SELECT store.touch(1)", "DROP RULE r ON {table}"),
    "rule with a cast": (
        "CREATE RULE r AS ON {event} TO {table} DO ALSO SELECT (NEW.{number})::store.qty", "DROP RULE r ON {table}"),
    "forced policy": (
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; "
        "CREATE POLICY p ON {table} USING (store.touch(1) = 1) WITH CHECK (store.touch(1) = 1)",
        "ALTER TABLE {table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY; DROP POLICY p ON {table}"),
}  # fmt: skip

# The table, what a sale does to it, a number in its rows, a column for an index.
TABLES = {
    "stock": (STOCK, "UPDATE", "quantity::numeric", "id"),
    "ledger": (LEDGER, "INSERT", "new_quantity", "kind"),
    "keys": (KEYS, "INSERT", "length(function_name)::numeric", "created_at"),
    "stripes": (STRIPES, "UPDATE", "quantity", "stripe"),
}
SEEN_AT_INSERT = ("default", "domain without", "domain over")
NOT_HEARD = {("forced policy", "ledger"), ("forced policy", "keys"), ("forced policy", "stripes")}


def filled(template, place):
    table, event, number, column = TABLES[place]
    new = number.replace("length(", "length(NEW.") if "length(" in number else f"NEW.{number}"
    return template.replace("NEW.{number}", new).format(table=table, event=event, number=number, column=column)


def acts(conn, round):
    """Every public function on whole and striped items, with keys that are new in each round; errors are for the
    caller."""
    key = f"round {round} "
    yield lambda: sell(conn, ONE, 1)
    yield lambda: sell(conn, TWO, 1)
    yield lambda: call(
        conn, "decrement_inventory_batch", p_items=lines((ONE, 1), (TWO, 1)), p_idempotency_key=key + "order"
    )
    yield lambda: call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=5, p_idempotency_key=key + "restock")
    yield lambda: call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=5, p_idempotency_key=key + "restock")
    yield lambda: call(
        conn, "transfer_inventory", p_from=TWO, p_to=ONE, p_quantity=3, p_idempotency_key=key + "transfer"
    )
    yield lambda: call(conn, "adjust_inventory", p_inventory_id=TWO, p_counted_quantity=100)
    yield lambda: conn.execute("SELECT public.stripe_inventory(%s, 3)", (ONE,))
    yield lambda: conn.execute("SELECT public.unstripe_inventory(%s)", (ONE,))
    yield lambda: conn.execute("SELECT public.available_inventory(%s)", (TWO,))
    yield lambda: conn.execute("SELECT public.purge_requests('0')")


@pytest.fixture
def store(db):
    store = open_store(db)
    store.owner.execute(OWNERS_FUNCTIONS)
    return store


def till(store):
    """The hostile caller: EXECUTE only, its trap first in search_path."""
    conn = store.clerk()
    if conn.execute("SELECT to_regnamespace('evil')").fetchone()[0] is None:
        store.admin.execute(f'CREATE SCHEMA evil AUTHORIZATION "{store.role("clerk")}"')
        conn.execute(TRAP)
    conn.execute("SET search_path = evil, public")
    return conn


def heard_in_round(conn, round):
    heard = []
    for act in acts(conn, round):
        heard += heard_while(conn, act)
    return heard


@pytest.mark.parametrize("kind", CODE, ids=[name.replace(" ", "_") for name in CODE])
def test_code_of_the_owner_finds_the_owners_objects(store, kind):
    """On the stock table, the ledger, the keys and the stripes in turn; one session has all of them cached, one comes
    anew."""
    add, remove = CODE[kind]
    warm = till(store)
    assert heard_in_round(warm, "warm") == []
    for place in TABLES:
        if kind.startswith("rule") and place == "keys":
            continue  # PostgreSQL itself refuses ON CONFLICT on a table with rules
        store.owner.execute(filled(add, place))
        heard = heard_in_round(warm, place) + heard_in_round(till(store), f"{place} again")
        assert set(heard) <= {"owner"}, place
        if not (kind.startswith(SEEN_AT_INSERT) and place == "stock") and (kind, place) not in NOT_HEARD:
            assert heard, f"the code on {place} was never heard"
        store.owner.execute(filled(remove, place))
    store.settled(100)
    store.audit()


@pytest.mark.parametrize(
    "kind", ["default", "default of a domain", "generated column of a domain", "cast to a domain", "rule"]
)
def test_the_companions_are_pinned_also_where_calls_run_as_the_caller(db, kind):
    """With the caller's rights the stock table is the caller's affair, but the companions are written as their
    owner."""
    store = open_store(db, p_run_as="caller")
    store.owner.execute(OWNERS_FUNCTIONS)
    conn = till(store)
    store.owner.execute(f'GRANT USAGE ON SCHEMA store TO "{store.role("clerk")}"')
    store.owner.execute(f'GRANT SELECT, UPDATE ON {STOCK} TO "{store.role("clerk")}"')
    for place in ("ledger", "stripes") if kind == "rule" else ("ledger", "keys", "stripes"):
        store.owner.execute(filled(CODE[kind][0], place))
    assert set(heard_in_round(conn, "all")) == {"owner"}


@pytest.mark.parametrize(
    "kind", ["default", "default of a domain", "generated column of a domain", "cast to a domain", "rule"]
)
def test_the_ledger_is_pinned_for_a_grantee_who_writes_to_the_stock_table(store, kind):
    """INSERT, UPDATE and DELETE by a role with grants on the stock table: their movements are written as the owner."""
    conn = till(store)
    store.owner.execute(f'GRANT USAGE ON SCHEMA store TO "{store.role("clerk")}"')
    store.owner.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON {STOCK} TO "{store.role("clerk")}"')
    store.owner.execute(filled(CODE[kind][0], "ledger"))

    def write():
        conn.execute(f"INSERT INTO {STOCK} VALUES (%s, 5), (gen_random_uuid(), 6)", (THREE,))
        conn.execute(f"UPDATE {STOCK} SET quantity = quantity + 1 WHERE id NOT IN (%s, %s)", (ONE, TWO))
        conn.execute(f"DELETE FROM {STOCK} WHERE id = %s", (THREE,))

    assert set(heard_while(conn, write)) == {"owner"}
    store.audit()


@pytest.mark.parametrize(
    "kind", ["default", "default of a domain", "generated column of a domain", "cast to a domain", "rule"]
)
def test_attach_by_a_superuser_finds_the_owners_objects(store, kind):
    """The ledger and the stripes of an earlier attach carry the code; a superuser attaches, with the look-alike first
    in its path."""
    till(store)
    store.owner.execute("SELECT detach_inventory(); UPDATE store.inventory SET quantity = 50")
    for place in ("ledger", "keys", "stripes"):
        store.owner.execute(filled(CODE[kind][0], place))
    store.admin.execute("SET search_path = evil, public")
    heard = heard_while(store.admin, lambda: store.admin.execute("SELECT attach_inventory('store.inventory')"))
    heard += heard_while(store.admin, lambda: store.admin.execute("SELECT stripe_inventory(%s, 2)", (TWO,)))
    heard += heard_while(store.admin, lambda: store.admin.execute("SELECT detach_inventory()"))
    assert set(heard) == {"owner"}


SUPERUSERS_CODE = {
    "default of the ledger": "ALTER TABLE inventory_movement ADD shift text DEFAULT stamp()",
    "default of the keys": "ALTER TABLE inventory_request ADD shift text DEFAULT stamp()",
    "domain on the ledger": "ALTER TABLE inventory_movement ADD shift shift_name DEFAULT 'early'",
    "domain on the keys": "ALTER TABLE inventory_request ADD shift shift_name DEFAULT 'early'",
    "domain in a check of the stripes": "ALTER TABLE inventory_stripe ADD CHECK (stripe::text::shift_name IS NOT NULL)",
    "domain in a check of the stock": "ALTER TABLE inventory ADD CHECK (quantity::text::shift_name IS NOT NULL)",
    "generated column of the stock": "ALTER TABLE inventory ADD shift shift_name GENERATED ALWAYS AS (quantity || "
    "'x') STORED",
}


@pytest.mark.parametrize("code", SUPERUSERS_CODE, ids=[name.replace(" ", "_") for name in SUPERUSERS_CODE])
def test_execute_does_not_make_a_clerk_a_superuser(db, code):
    """The table belongs to the superuser; a clerk sells with its own tag() first in search_path."""
    admin = db.connect()
    shop(admin, {ONE: 100}, type="integer")
    admin.execute(
        "CREATE FUNCTION public.tag(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';"
        "CREATE FUNCTION public.stamp() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN tag('x'); END $$;"
        "CREATE FUNCTION public.ok(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN tag($1) IS NOT "
        "NULL; END $$;"
        "CREATE DOMAIN public.shift_name AS text CHECK (public.ok(VALUE))"
    )
    if "stripes" in code:
        admin.execute("SELECT stripe_inventory(%s, 2)", (ONE,))
    admin.execute(SUPERUSERS_CODE[code])
    clerk = create_role(admin, db, "clerk")
    admin.execute(
        f'GRANT EXECUTE ON FUNCTION restock_inventory TO "{clerk}"; CREATE SCHEMA evil AUTHORIZATION "{clerk}"'
    )
    conn = db.connect(user=clerk)
    conn.execute(
        "CREATE FUNCTION evil.tag(text) RETURNS text LANGUAGE plpgsql AS "
        f"$$ BEGIN EXECUTE 'ALTER ROLE \"{clerk}\" SUPERUSER'; RETURN $1; END $$; SET search_path = evil, public"
    )
    call(conn, "restock_inventory", p_inventory_id=ONE, p_quantity=1, p_idempotency_key="k")
    assert admin.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (clerk,)).fetchone()[0] is False


def test_a_temporary_type_of_the_caller_is_not_the_owners(store):
    """Types and tables in pg_temp come first in a path that does not name it; the owner's code casts to a bare name."""
    conn = till(store)
    conn.execute(
        "CREATE FUNCTION evil.trap(numeric) RETURNS boolean LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE NOTICE 'trap sprung as %', current_user; RETURN true; END $$; GRANT EXECUTE ON FUNCTION "
        "evil.trap TO PUBLIC;"
        "CREATE DOMAIN pg_temp.qty AS numeric CHECK (evil.trap(VALUE));"
        "CREATE TEMPORARY TABLE rates (rate numeric); INSERT INTO rates VALUES (666); GRANT ALL ON rates TO PUBLIC"
    )
    store.owner.execute(
        "CREATE TABLE store.rates (rate numeric); INSERT INTO store.rates VALUES (1);"
        "CREATE FUNCTION store.rate() RETURNS numeric LANGUAGE plpgsql AS "
        "$$ DECLARE q qty := 5; BEGIN RAISE NOTICE 'rate %', (SELECT rate FROM rates); RETURN q::qty; END $$"
    )
    for place in ("ledger", "keys"):
        store.owner.execute(filled("ALTER TABLE {table} ADD c numeric DEFAULT store.rate()", place))
    assert set(heard_in_round(conn, "all")) == {"owner", "rate 1"}


def test_the_path_that_the_owners_code_sees_is_the_same_everywhere(store):
    """pg_catalog first, the stock table's schema, pg_temp last; nothing of the caller's, on every table and for every
    caller."""
    store.owner.execute(
        "CREATE FUNCTION store.path() RETURNS text LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE NOTICE 'as % with %', current_user, current_setting('search_path'); RETURN ''; END $$;"
        "CREATE FUNCTION store.path_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM store.path(); RETURN "
        "NEW; END $$;"
        f"CREATE TRIGGER path BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.path_row();"
        f"CREATE TRIGGER path BEFORE UPDATE ON {STRIPES} FOR EACH ROW EXECUTE FUNCTION store.path_row();"
        f"ALTER TABLE {LEDGER} ADD p text DEFAULT store.path(); ALTER TABLE {KEYS} ADD p text DEFAULT store.path()"
    )
    store.admin.execute("SET search_path = public, pg_temp")
    own = store.db.connect(user=store.owner_role)
    own.execute("SET search_path = public")
    heard = set()
    for n, conn in enumerate((till(store), store.admin, own)):
        heard |= set(heard_in_round(conn, n))
    heard.discard("owner")
    [seen] = heard
    role, _, path = seen.partition(" with ")
    assert role == f"as {store.owner_role}"
    assert path.removeprefix("pg_catalog, ") == "store, pg_temp"
