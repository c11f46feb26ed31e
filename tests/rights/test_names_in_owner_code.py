"""Code of the owner that runs during a sale finds the owner's objects, never the caller's look-alikes.

A trigger, a trigger on one partition, a CHECK, a generated column, an index expression, a policy: each calls a function
whose body names another function without a schema. The caller has one of the same name in its own schema, first in
search_path. The code is added while the caller's session already has the stock table cached, and taken away again.
"""

import pytest

from shop import ONE, allow_sales, create_role, item, refused, sell, shop

# helper() is the unqualified name; touch() calls it. IMMUTABLE, so that it may stand in an index and a generated
# column.
TOUCH = """
    CREATE OR REPLACE FUNCTION store.touch(n numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RETURN helper(n); END $$;
"""
OWNERS_FUNCTIONS = f"""
    CREATE FUNCTION store.helper(n numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE 'owner'; RETURN n; END $$;
    {TOUCH}
    CREATE FUNCTION store.touch_row() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM helper(NEW.quantity); RETURN NEW; END $$;
    CREATE FUNCTION store.touch_statement() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM helper(0); RETURN NULL; END $$;
"""

TRAP = """
    CREATE FUNCTION evil.helper(n numeric) RETURNS numeric IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN RAISE NOTICE 'trap sprung as %', current_user; RETURN n; END $$;
    GRANT EXECUTE ON FUNCTION evil.helper TO PUBLIC;
"""


def building(index):
    """CREATE INDEX has a search_path of its own since PostgreSQL 17, so touch() is plain while the index is built."""
    return f"{TOUCH.replace('helper(n)', 'n')}; {index}; {TOUCH}"


CODE = {
    "row trigger": (
        "CREATE TRIGGER t BEFORE UPDATE ON store.inventory FOR EACH ROW EXECUTE FUNCTION store.touch_row()",
        "DROP TRIGGER t ON store.inventory",
    ),
    "statement trigger": (
        "CREATE TRIGGER t AFTER UPDATE ON store.inventory EXECUTE FUNCTION store.touch_statement()",
        "DROP TRIGGER t ON store.inventory",
    ),
    "trigger condition": (
        "CREATE TRIGGER t AFTER UPDATE ON store.inventory FOR EACH ROW "
        "WHEN (store.touch(NEW.quantity) < 0) EXECUTE FUNCTION store.touch_statement()",
        "DROP TRIGGER t ON store.inventory",
    ),
    "trigger that was disabled": (
        "CREATE TRIGGER t BEFORE UPDATE ON store.inventory FOR EACH ROW EXECUTE FUNCTION store.touch_row(); "
        "ALTER TABLE store.inventory DISABLE TRIGGER t; ALTER TABLE store.inventory ENABLE TRIGGER t",
        "DROP TRIGGER t ON store.inventory",
    ),
    "check": (
        "ALTER TABLE store.inventory ADD CONSTRAINT c CHECK (store.touch(quantity) >= 0)",
        "ALTER TABLE store.inventory DROP CONSTRAINT c",
    ),
    "check under the name that attach uses": (
        "ALTER TABLE store.inventory DROP CONSTRAINT quantity_non_negative, "
        "ADD CONSTRAINT quantity_non_negative CHECK (id IS NOT NULL AND store.touch(quantity) >= 0)",
        "ALTER TABLE store.inventory DROP CONSTRAINT quantity_non_negative, "
        "ADD CONSTRAINT quantity_non_negative CHECK (id IS NOT NULL AND quantity >= 0)",
    ),
    "generated column": (
        "ALTER TABLE store.inventory ADD g numeric GENERATED ALWAYS AS (store.touch(quantity)) STORED",
        "ALTER TABLE store.inventory DROP COLUMN g",
    ),
    "index expression": (
        building("CREATE INDEX i ON store.inventory ((store.touch(quantity)))"),
        "DROP INDEX store.i",
    ),
    "index predicate": (
        building("CREATE INDEX i ON store.inventory (id) WHERE store.touch(quantity) > 0"),
        "DROP INDEX store.i",
    ),
    "policy forced on the owner": (
        "ALTER TABLE store.inventory ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; "
        "CREATE POLICY p ON store.inventory USING (store.touch(quantity) >= 0)",
        "ALTER TABLE store.inventory DISABLE ROW LEVEL SECURITY; DROP POLICY p ON store.inventory",
    ),
    "rule": (
        "CREATE RULE r AS ON UPDATE TO store.inventory DO ALSO SELECT store.touch(NEW.quantity)",
        "DROP RULE r ON store.inventory",
    ),
}

ON_A_PARTITION = {
    "trigger": (
        "CREATE TRIGGER t BEFORE UPDATE ON store.part FOR EACH ROW EXECUTE FUNCTION store.touch_row()",
        "DROP TRIGGER t ON store.part",
    ),
    "check": (
        "ALTER TABLE store.part ADD CONSTRAINT c CHECK (store.touch(quantity) >= 0)",
        "ALTER TABLE store.part DROP CONSTRAINT c",
    ),
    "index expression": (
        building("CREATE INDEX i ON store.part ((store.touch(quantity)))"),
        "DROP INDEX store.i",
    ),
}


@pytest.fixture
def conn(db):
    return db.connect()


@pytest.fixture
def owner(db, conn):
    name = create_role(conn, db, "owner")
    conn.execute(f'CREATE SCHEMA store AUTHORIZATION "{name}"; GRANT EXECUTE ON FUNCTION attach_inventory TO "{name}"')
    owner = db.connect(user=name)
    owner.execute("SET search_path = store, public")
    owner.execute(OWNERS_FUNCTIONS)
    return owner


@pytest.fixture
def till(db, conn, owner):
    """The hostile caller, with its trap first in search_path."""
    name = create_role(conn, db, "clerk")
    allow_sales(conn, name)
    conn.execute(f'CREATE SCHEMA evil AUTHORIZATION "{name}"; GRANT USAGE ON SCHEMA evil TO PUBLIC')
    till = db.connect(user=name)
    till.execute(TRAP)
    till.execute("SET search_path = evil, public")
    return till


def heard_while(till, work):
    """What the owner's code, or the trap, said while the caller sold."""
    heard = []
    handler = lambda diag: heard.append(diag.message_primary)  # noqa: E731
    till.add_notice_handler(handler)
    work()
    till.remove_notice_handler(handler)
    return heard


def assert_only_the_owner_is_heard(owner, till, code):
    add, remove = code
    assert heard_while(till, lambda: sell(till, ONE, 1)) == []
    owner.execute(add)
    heard = heard_while(till, lambda: sell(till, ONE, 1))
    assert heard and set(heard) == {"owner"}
    heard = heard_while(till, lambda: refused(till, "SELECT decrement_inventory(%s, 100000)", (ONE,)))
    assert set(heard) <= {"owner"}
    owner.execute(remove)
    assert heard_while(till, lambda: sell(till, ONE, 1)) == []


@pytest.mark.parametrize("kind", CODE, ids=[name.replace(" ", "_") for name in CODE])
def test_code_added_to_the_stock_table_finds_the_owners_objects(owner, till, kind):
    """In a session that sold before the code was there, from the very next sale."""
    shop(owner, {ONE: 100}, table="store.inventory", type="integer")
    assert_only_the_owner_is_heard(owner, till, CODE[kind])


@pytest.mark.parametrize("kind", ON_A_PARTITION, ids=[name.replace(" ", "_") for name in ON_A_PARTITION])
def test_code_added_to_a_partition_finds_the_owners_objects(owner, till, kind):
    """The partitioned table itself has no trigger, check or index of that kind: its partition has."""
    owner.execute("CREATE TABLE store.inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY RANGE (id)")
    owner.execute(
        f"CREATE TABLE store.part PARTITION OF store.inventory FOR VALUES FROM ('{item(0)}') TO ('{item(9)}')"
    )
    owner.execute("INSERT INTO store.inventory VALUES (%s, 100)", (ONE,))
    owner.execute("SELECT public.attach_inventory('store.inventory')")
    assert_only_the_owner_is_heard(owner, till, ON_A_PARTITION[kind])


def test_the_trap_is_live(owner, till):
    """The control: the same trigger, fired by an UPDATE of the caller's own, does fall into the caller's trap."""
    shop(owner, {ONE: 100}, table="store.inventory", type="integer")
    owner.execute(CODE["row trigger"][0])
    owner.execute(f'GRANT USAGE ON SCHEMA store TO "{till.info.user}"')
    owner.execute(f'GRANT ALL ON store.inventory TO "{till.info.user}"')
    heard = heard_while(till, lambda: till.execute("UPDATE store.inventory SET quantity = 50"))
    assert heard == [f"trap sprung as {till.info.user}"]


@pytest.mark.parametrize("when", ["at attach", "after attach"])
def test_attach_itself_runs_the_owners_code_with_the_owners_names(db, conn, owner, when):
    """A superuser with a hostile search_path attaches a table whose CHECK calls the owner's function."""
    conn.execute("CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC")
    conn.execute(TRAP)
    owner.execute("CREATE TABLE store.inventory (id uuid PRIMARY KEY, quantity numeric(12,2))")
    owner.execute("INSERT INTO store.inventory VALUES (%s, 5)", (ONE,))
    owner.execute(building("CREATE INDEX ON store.inventory (id) WHERE store.touch(quantity) > 0"))
    conn.execute("SET search_path = evil, public")
    heard = heard_while(conn, lambda: conn.execute("SELECT attach_inventory('store.inventory')"))
    if when == "after attach":
        heard += heard_while(conn, lambda: sell(conn, ONE, 1))
        assert "owner" in heard
    assert not [line for line in heard if line.startswith("trap")]
    assert refused(conn, "UPDATE store.inventory SET quantity = -1").sqlstate == "23514"
