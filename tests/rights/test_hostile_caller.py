"""A caller with a search_path full of look-alikes changes nothing.

The caller owns a schema with its own operators, functions, types and tables, puts it first in search_path, and sells.
A control shows that each trap is live for ordinary SQL of that session; the trap's log shows that no sale fell in.
"""

import pytest

from shop import ONE, allow_sales, create_role, left, refused, refused_sale, sell, shop

TRAPS = """
    CREATE TABLE sprung (trap text, victim name);
    GRANT INSERT ON sprung TO PUBLIC;
    CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2));
    INSERT INTO inventory VALUES ('{one}', 1000);

    CREATE FUNCTION minus(a numeric, b numeric) RETURNS numeric LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.sprung VALUES ('-', current_user); RETURN a; END $$;
    CREATE FUNCTION yes(a numeric, b numeric) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.sprung VALUES ('numeric', current_user); RETURN true; END $$;
    CREATE FUNCTION yes(a uuid, b uuid) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.sprung VALUES ('uuid', current_user); RETURN true; END $$;
    CREATE FUNCTION yes(a tid, b tid) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.sprung VALUES ('tid', current_user); RETURN true; END $$;
    CREATE FUNCTION yes(a oid, b oid) RETURNS bool LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO evil.sprung VALUES ('oid', current_user); RETURN true; END $$;
    CREATE OPERATOR - (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = minus);
    CREATE OPERATOR >= (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = yes);
    CREATE OPERATOR > (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = yes);
    CREATE OPERATOR < (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = yes);
    CREATE OPERATOR <= (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = yes);
    CREATE OPERATOR = (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = yes);
    CREATE OPERATOR = (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = yes);
    CREATE OPERATOR = (LEFTARG = tid, RIGHTARG = tid, FUNCTION = yes);
    CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = oid, FUNCTION = yes);

    CREATE FUNCTION numeric_sub(a numeric, b numeric) RETURNS numeric LANGUAGE sql AS 'SELECT evil.minus(a, b)';
    CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql AS
    $$ INSERT INTO evil.sprung VALUES ('now', current_user); SELECT pg_catalog.now() $$;
    CREATE FUNCTION format_type(oid, integer) RETURNS text LANGUAGE sql AS
    $$ INSERT INTO evil.sprung VALUES ('format_type', current_user); SELECT 'text' $$;
    CREATE FUNCTION note_sale(n numeric) RETURNS numeric LANGUAGE sql AS
    $$ INSERT INTO evil.sprung VALUES ('note_sale', current_user); SELECT n $$;
    CREATE DOMAIN "numeric" AS text;
    CREATE DOMAIN uuid AS text;
    CREATE TABLE pg_class (oid oid, relname name);
    CREATE TABLE pg_attribute (attrelid oid, attname name);
    CREATE TABLE pg_constraint (conrelid oid, confrelid oid);
    CREATE TABLE pg_index (indexrelid oid, indrelid oid);
"""


@pytest.fixture
def conn(db):
    return db.connect()


@pytest.fixture
def owner(db, conn):
    """The owner's connection; the shop has ten units, on a table with triggers that name things unqualified."""
    owner = create_role(conn, db, "owner")
    conn.execute(f'GRANT CREATE ON SCHEMA public TO "{owner}"; CREATE SCHEMA store AUTHORIZATION "{owner}"')
    conn.execute(f'GRANT EXECUTE ON FUNCTION attach_inventory TO "{owner}"')
    owner = db.connect(user=owner)
    shop(owner, {ONE: "10.00"}, table="store.inventory")
    return owner


@pytest.fixture
def till(db, conn, owner):
    """The hostile caller, its traps laid and first in its search_path."""
    clerk = create_role(conn, db, "clerk")
    allow_sales(conn, clerk)
    conn.execute(f'CREATE SCHEMA evil AUTHORIZATION "{clerk}"; GRANT USAGE ON SCHEMA evil TO PUBLIC')
    conn.execute(f'GRANT TEMPORARY ON DATABASE "{db.name}" TO "{clerk}"')
    till = db.connect(user=clerk)
    # The caller's look-alike of the stock table, first in its own path, would be refused: a copy that is not attached.
    conn.execute(f'GRANT USAGE ON SCHEMA store TO "{clerk}"')
    till.execute("SET inventory_ext.stock_table = 'store.inventory'")
    till.execute("SET search_path = evil")
    till.execute(TRAPS.format(one=ONE))
    till.execute("SET search_path = evil, pg_catalog, public")
    return till


def sprung(till):
    return till.execute("SELECT trap, victim FROM evil.sprung").fetchall()


def test_look_alike_operators_functions_types_and_tables_change_nothing(owner, till):
    """A sale and a refusal, with every trap first in search_path: right answers, and no call fell into one."""
    assert sell_unqualified(till, "4").endswith('"old_quantity": 10.00, "new_quantity": 6.00, "deducted": 4}')
    assert refused_unqualified(till, "7").sqlstate == "IV001"
    assert left(owner, ONE, "store.inventory") == 6
    assert left_of_trap(till) == 1000
    assert sprung(till) == []


def test_a_look_alike_of_the_stock_table_is_neither_sold_nor_passed_over(owner, till):
    till.execute("RESET inventory_ext.stock_table")
    assert refused_unqualified(till, "4").reason == "shadowed_table"
    assert (left(owner, ONE, "store.inventory"), left_of_trap(till)) == (10, 1000)
    assert sprung(till) == []


def test_the_traps_are_live(till):
    """The control: the same session's own SQL does fall in."""
    assert till.execute("SELECT 5::pg_catalog.numeric - 1::pg_catalog.numeric").fetchone()[0] == 5
    assert till.execute("SELECT 5::pg_catalog.numeric >= 9::pg_catalog.numeric").fetchone()[0] is True
    assert till.execute("SELECT quantity FROM inventory").fetchone()[0] == 1000
    assert {trap for trap, _ in sprung(till)} == {"-", "numeric"}


def test_a_first_call_under_a_hostile_path_leaves_no_poisoned_plan(db, owner, till):
    """Plans made under the hostile path are as good as any, also after the path has changed, and the other way."""
    sell_unqualified(till, "1")
    till.execute("RESET search_path")
    assert sell(till, ONE, "1")["new_quantity"] == 8
    till.execute("SET search_path = evil, pg_catalog, public")
    assert '"new_quantity": 7.00' in sell_unqualified(till, "1")
    assert sprung(till) == []


def test_a_temporary_table_that_looks_like_the_stock_table_is_not_sold_from(owner, till):
    """Temporary tables come first in every search_path; the sale goes to the attached table all the same."""
    till.execute("RESET search_path")
    till.execute("CREATE TEMPORARY TABLE inventory (id uuid PRIMARY KEY, quantity numeric(12,2))")
    till.execute("INSERT INTO inventory VALUES (%s, 1000)", (ONE,))
    assert sell(till, ONE, "1")["old_quantity"] == 10
    assert refused_sale(till, ONE, "10").sqlstate == "IV001"
    assert left(till, ONE) == 1000
    assert left(owner, ONE, "store.inventory") == 9


def test_names_inside_the_owners_triggers_mean_the_owners_objects(owner, till):
    """The owner's trigger names a table and a function without a schema: those in the stock table's schema are meant,
    not the caller's of the same name, not even temporary ones."""
    owner.execute("CREATE TABLE store.sale_log (quantity numeric)")
    owner.execute(
        """
        CREATE FUNCTION store.note_sale(n numeric) RETURNS numeric LANGUAGE sql AS 'SELECT n';
        CREATE FUNCTION store.write_log() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO sale_log VALUES (note_sale(OLD.quantity - NEW.quantity)); RETURN NULL; END $$;
        CREATE TRIGGER write_log AFTER UPDATE ON store.inventory FOR EACH ROW EXECUTE FUNCTION store.write_log()
        """
    )
    till.execute("CREATE TEMPORARY TABLE sale_log (quantity pg_catalog.numeric)")
    till.execute("GRANT ALL ON sale_log TO PUBLIC")
    till.execute("CREATE TABLE evil.sale_log (quantity pg_catalog.numeric)")
    till.execute("GRANT ALL ON evil.sale_log TO PUBLIC")
    sell_unqualified(till, "4")
    assert owner.execute("SELECT quantity FROM store.sale_log").fetchall() == [(4,)]
    assert till.execute("SELECT count(*) FROM pg_temp.sale_log").fetchone()[0] == 0
    assert till.execute("SELECT count(*) FROM evil.sale_log").fetchone()[0] == 0
    assert sprung(till) == []


def test_the_callers_search_path_is_its_own_again_afterwards(owner, till):
    """After a sale, after a refusal, inside a transaction and after it."""
    path = "evil, pg_catalog, public"
    sell_unqualified(till, "1")
    assert till.execute("SHOW search_path").fetchone()[0] == path
    refused_unqualified(till, "100")
    assert till.execute("SHOW search_path").fetchone()[0] == path
    till.autocommit = False
    till.execute("SET LOCAL search_path = evil, public")
    sell_unqualified(till, "1")
    assert till.execute("SHOW search_path").fetchone()[0] == "evil, public"
    till.execute("SAVEPOINT here")
    refused_unqualified(till, "100")
    till.execute("ROLLBACK TO here")
    assert till.execute("SHOW search_path").fetchone()[0] == "evil, public"
    till.commit()
    assert till.execute("SHOW search_path").fetchone()[0] == path


def test_attach_under_a_hostile_path_attaches_honestly(db, conn, owner, till):
    """A superuser who attaches while the traps come first in its path is not fooled either."""
    conn.execute("SELECT detach_inventory()")
    conn.execute("SET search_path = evil, pg_catalog, public")
    conn.execute("SELECT public.attach_inventory('store.inventory'::pg_catalog.regclass)")
    conn.execute("RESET search_path")
    assert sprung(till) == []
    assert sell(conn, ONE, "1")["old_quantity"] == 10
    constraint = conn.execute(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'store.inventory'::regclass "
        "AND contype = 'c'"
    ).fetchall()
    assert len(constraint) == 1 and "evil" not in constraint[0][0]


# shop.py casts with unqualified names, which here would be the traps' domains.
CALL = "SELECT public.decrement_inventory(%s::pg_catalog.uuid, %s::pg_catalog.numeric)::pg_catalog.text"


def sell_unqualified(till, quantity):
    return till.execute(CALL, (str(ONE), quantity)).fetchone()[0]


def refused_unqualified(till, quantity):
    return refused(till, CALL, (str(ONE), quantity))


def left_of_trap(till):
    return till.execute("SELECT quantity FROM evil.inventory").fetchone()[0]
