"""The protections against hostile owners do not break honest shops: their triggers run as before when a clerk sells.

The clerk has EXECUTE only. Each test sells a whole item and a striped one, whose row the totals worker writes.
"""

import threading
from decimal import Decimal

import pytest

from books import call, lines
from owner_shop import LEDGER, ONE, STOCK, STRIPES, TWO, open_store
from shop import fill, item, left, refused_sale, sell, until

KIT, WHEEL, FRAME = item(10), item(11), item(12)


@pytest.fixture
def store(db):
    return open_store(db)


def quantities(store) -> dict:
    return dict(store.admin.execute(f"SELECT id, quantity FROM {STOCK}").fetchall())


@pytest.mark.parametrize("timing", ["BEFORE", "AFTER"])
def test_an_audit_trigger_writes_to_a_schema_of_its_own(store, timing):
    """The function has a SET search_path, and names its table without a schema."""
    store.admin.execute(f'CREATE SCHEMA audit AUTHORIZATION "{store.owner_role}"')
    store.owner.execute(
        "CREATE TABLE audit.log (item uuid, old integer, new integer, by name, session name);"
        "CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql SET search_path = audit AS $$ BEGIN "
        "INSERT INTO log VALUES (NEW.id, OLD.quantity, NEW.quantity, current_user, session_user); RETURN NEW; END $$;"
        f"CREATE TRIGGER note {timing} UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION audit.note()"
    )
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    call(clerk, "decrement_inventory_batch", p_items=lines((ONE, 2), (TWO, 3)), p_idempotency_key="k")
    call(clerk, "restock_inventory", p_inventory_id=ONE, p_quantity=5)
    store.settled(97)
    log = store.admin.execute("SELECT item, old, new, by, session FROM audit.log").fetchall()
    by = (store.owner_role, clerk.info.user)
    assert [row[1:] for row in log if row[0] == ONE] == [(100, 99, *by), (99, 97, *by), (97, 102, *by)]
    assert {row[3] for row in log if row[0] == TWO} == {store.owner_role} and [
        row for row in log if row[:3] == (TWO, 100, 97)
    ]
    store.audit()


def test_a_trigger_like_moddatetime_stamps_the_row(store):
    """The function belongs to a superuser, as a contrib module's does."""
    store.owner.execute(f"ALTER TABLE {STOCK} ADD updated_at timestamptz")
    store.admin.execute(
        "CREATE FUNCTION public.moddate() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$"
    )
    store.owner.execute(
        f"CREATE TRIGGER moddate BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION public.moddate()"
    )
    clerk = store.clerk()
    assert sell(clerk, ONE, 1)["new_quantity"] == 99
    assert sell(clerk, TWO, 1)["deducted"] == 1
    store.settled(99)
    stamps = store.admin.execute(
        f"SELECT count(*) FROM {STOCK} WHERE updated_at > now() - interval '1 hour'"
    ).fetchone()[0]
    assert stamps == 2
    store.audit()


KIT_TRIGGER = f"""
    CREATE FUNCTION store.explode() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$ BEGIN
        IF NEW.id = '{KIT}' AND NEW.quantity < OLD.quantity THEN
            PERFORM decrement_inventory('{WHEEL}', 2 * (OLD.quantity - NEW.quantity));
            PERFORM decrement_inventory('{FRAME}', OLD.quantity - NEW.quantity);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER explode AFTER UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.explode();
"""


@pytest.mark.parametrize("parts", ["whole", "striped"])
def test_a_kit_takes_its_parts(store, parts):
    """A trigger that calls the extension, sold by a clerk: all of it, or nothing."""
    fill(store.owner, {KIT: 100, WHEEL: 10, FRAME: 3}, STOCK)
    store.owner.execute(KIT_TRIGGER)
    if parts == "striped":
        store.owner.execute(
            "SELECT public.stripe_inventory(id, 2) FROM (VALUES (%s::uuid), (%s)) AS parts (id)", (WHEEL, FRAME)
        )
    clerk = store.clerk()

    def available():
        sql = "SELECT available_inventory(%s)"
        return [store.admin.execute(sql, (key,)).fetchone()[0] for key in (KIT, WHEEL, FRAME)]

    assert sell(clerk, KIT, 1)["new_quantity"] == 99
    assert available() == [99, 8, 2]
    refusal = refused_sale(clerk, KIT, 3)
    assert (refusal.sqlstate, refusal.facts["inventory_id"]) == ("IV001", str(FRAME))
    assert available() == [99, 8, 2]
    call(clerk, "decrement_inventory_batch", p_items=lines((KIT, 1), (WHEEL, 1)), p_reference="order 1")
    assert available() == [98, 5, 1]
    clerk.execute("BEGIN")
    sell(clerk, KIT, 1)
    clerk.execute("SAVEPOINT s")
    assert refused_sale(clerk, KIT, 1).sqlstate == "IV001"
    clerk.execute("ROLLBACK TO s; COMMIT")
    assert available() == [97, 3, 0]
    until(lambda: [quantities(store)[key] for key in (KIT, WHEEL, FRAME)] == [97, 3, 0], "the rows show the totals")
    store.audit()


def test_a_kit_that_catches_a_short_part_goes_on(store):
    """An exception block inside the trigger, with calls that are undone and calls that stay."""
    fill(store.owner, {KIT: 100, WHEEL: 10, FRAME: 3}, STOCK)
    store.owner.execute(
        "CREATE FUNCTION store.explode() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NEW.id = '{KIT}' AND NEW.quantity < OLD.quantity THEN "
        f"BEGIN PERFORM public.decrement_inventory('{WHEEL}', 1); PERFORM public.decrement_inventory('{FRAME}', 1000); "
        "EXCEPTION WHEN SQLSTATE 'IV001' THEN NULL; END; "
        f"PERFORM public.restock_inventory('{FRAME}', 1, 'inside'); END IF; RETURN NULL; END $$;"
        f"CREATE TRIGGER explode AFTER UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.explode()"
    )
    sell(store.clerk(), KIT, 1)
    assert {key: quantities(store)[key] for key in (KIT, WHEEL, FRAME)} == {KIT: 99, WHEEL: 10, FRAME: 4}
    assert [movement.reference for movement in store.movements(FRAME)][-1] == "inside"
    store.audit()


def test_triggers_on_order_lines_sell_in_parallel(store):
    """A statement trigger of another table calls an order; eight clerks, lines in any order."""
    fill(store.owner, {KIT: 1000, WHEEL: 1000, FRAME: 1000}, STOCK)
    store.owner.execute("SELECT public.stripe_inventory(%s, 4)", (WHEEL,))
    store.owner.execute(
        f"CREATE TABLE store.line (item uuid REFERENCES {STOCK}, quantity integer);"
        "CREATE FUNCTION store.sell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM "
        "public.decrement_inventory_batch("
        "(SELECT jsonb_agg(jsonb_build_object('inventory_id', item, 'quantity', quantity)) FROM lines)); RETURN NULL; "
        "END $$;"
        "CREATE TRIGGER sell AFTER INSERT ON store.line REFERENCING NEW TABLE AS lines EXECUTE FUNCTION store.sell();"
        "GRANT USAGE ON SCHEMA store TO PUBLIC; GRANT INSERT ON store.line TO PUBLIC"
    )
    sessions, errors = [store.clerk() for _ in range(8)], []

    def work(number, conn):
        keys = [(KIT, WHEEL, FRAME)[(number + n) % 3] for n in range(3)]
        try:
            for n in range(12):
                conn.execute(
                    "INSERT INTO store.line VALUES (%s, 1), (%s, 2), (%s, 1)",
                    (keys[n % 3], keys[(n + 1) % 3], keys[n % 3]),
                )
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    sold = store.admin.execute("SELECT sum(quantity) FROM store.line").fetchone()[0]
    assert sold == 8 * 12 * 4
    until(lambda: sum(quantities(store)[key] for key in (KIT, WHEEL, FRAME)) == 3000 - sold, "the rows show the totals")
    store.audit()


def test_triggers_of_one_call_share_settings_and_read_those_of_the_caller(store):
    """A BEFORE trigger leaves a note for the AFTER trigger of the same call; the caller's own custom setting is
    readable."""
    store.owner.execute(
        "CREATE TABLE store.seen (note text, clerk text);"
        "CREATE FUNCTION store.leave() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM set_config('shop.note', 'was ' || OLD.quantity, true); RETURN NEW; END $$;"
        "CREATE FUNCTION store.take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO store.seen VALUES (current_setting('shop.note'), current_setting('shop.clerk')); RETURN NULL; "
        "END $$;"
        f"CREATE TRIGGER leave BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.leave();"
        f"CREATE TRIGGER take AFTER UPDATE ON {STOCK} FOR EACH ROW WHEN (NEW.id = '{ONE}') EXECUTE FUNCTION "
        f"store.take()"
    )
    clerk = store.clerk()
    clerk.execute("SET shop.clerk = 'anna'")
    sell(clerk, ONE, 1)
    sell(clerk, ONE, 1)
    assert store.admin.execute("SELECT note, clerk FROM store.seen").fetchall() == [
        ("was 100", "anna"),
        ("was 99", "anna"),
    ]


def test_loops_and_cursors_inside_and_around_a_sale(store):
    """The owner's trigger walks a cursor and closes it; the clerk sells inside a loop over a query of its own."""
    store.owner.execute(
        "CREATE FUNCTION store.walk() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "DECLARE c CURSOR FOR SELECT generate_series(1, 5) AS n; r record; total integer := 0; BEGIN "
        "FOR x IN c LOOP total := total + x.n; END LOOP; OPEN c; FETCH c INTO r; CLOSE c; "
        "FOR r IN EXECUTE 'SELECT 1 AS n' LOOP total := total + r.n; END LOOP; "
        "IF total <> 16 THEN RAISE 'total %', total; END IF; RETURN NEW; END $$;"
        f"CREATE TRIGGER walk BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.walk();"
        f"CREATE TRIGGER walk BEFORE UPDATE ON {STRIPES} FOR EACH ROW EXECUTE FUNCTION store.walk();"
        f"CREATE TRIGGER walk AFTER INSERT ON {LEDGER} FOR EACH ROW EXECUTE FUNCTION store.walk()"
    )
    clerk = store.clerk()
    clerk.execute(
        "DO $$ DECLARE c refcursor; x integer; n integer; BEGIN OPEN c FOR SELECT generate_series(1, 9); "
        f"FOR n IN SELECT generate_series(1, 5) LOOP PERFORM decrement_inventory('{ONE}', n); PERFORM "
        f"decrement_inventory('{TWO}', 1); "
        "FETCH c INTO x; IF x <> n THEN RAISE 'fetched %', x; END IF; END LOOP; CLOSE c; END $$"
    )
    assert left(store.admin, ONE, STOCK) == 85
    store.settled(95)
    store.audit()


def test_notifications_of_the_owners_trigger_arrive(store):
    """NOTIFY is allowed in a restricted operation; it goes out at commit, also from the totals worker."""
    store.owner.execute(
        "CREATE FUNCTION store.tell() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_notify('stock', NEW.id || ' ' || NEW.quantity); RETURN NULL; END $$;"
        f"CREATE TRIGGER tell AFTER UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.tell()"
    )
    listener = store.db.connect()
    listener.execute("LISTEN stock")
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    sell(clerk, TWO, 1)
    store.settled(99)
    heard = [notify.payload for notify in listener.notifies(timeout=20, stop_after=2)]
    assert f"{ONE} 99" in heard and f"{TWO} 99" in heard


def test_a_trigger_that_needs_a_temporary_table_works_for_the_owner_only(store):
    """For others PostgreSQL refuses it as in VACUUM: 42501, and nothing is sold."""
    store.owner.execute(
        "CREATE FUNCTION store.scratch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "CREATE TEMPORARY TABLE scratch ON COMMIT DROP AS SELECT NEW.quantity AS n; DROP TABLE scratch; RETURN NEW; "
        "END $$;"
        f"CREATE TRIGGER scratch BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.scratch()"
    )
    sell(store.owner, ONE, 1)
    assert refused_sale(store.clerk(), ONE, 1).sqlstate == "42501"
    assert left(store.admin, ONE, STOCK) == 99
    store.audit()


def test_columns_of_the_owner_on_ledger_and_stock_are_filled(store):
    """A default, a domain and a generated column, on sales by a clerk and on direct writes of the owner."""
    store.owner.execute(
        "CREATE FUNCTION store.shift() RETURNS text LANGUAGE sql AS $$ SELECT 'early' $$;"
        "CREATE DOMAIN store.percent AS numeric CHECK (VALUE BETWEEN 0 AND 100);"
        f"ALTER TABLE {LEDGER} ADD shift text DEFAULT store.shift(), ADD tax store.percent DEFAULT 19;"
        f"ALTER TABLE {STOCK} ADD boxes integer GENERATED ALWAYS AS (quantity / 10) STORED"
    )
    clerk = store.clerk()
    begin = store.last_movement()
    sell(clerk, ONE, 1)
    sell(clerk, TWO, 1)
    store.owner.execute(f"UPDATE {STOCK} SET quantity = quantity - 60 WHERE id = %s", (ONE,))
    store.settled(99)
    rows = store.admin.execute(f"SELECT shift, tax FROM {LEDGER} WHERE movement_id > %s", (begin,)).fetchall()
    assert set(rows) == {("early", Decimal(19))} and len(rows) == 3
    assert dict(store.admin.execute(f"SELECT id, boxes FROM {STOCK}").fetchall()) == {ONE: 3, TWO: 9}
    store.audit()


@pytest.mark.parametrize("caller", ["clerk", "superuser", "owner"])
def test_what_the_caller_had_before_a_sale_it_has_afterwards(store, caller):
    """Temporary tables, prepared statements, cursors, LISTEN, advisory locks, SET and SET LOCAL."""
    conn = {
        "clerk": store.clerk,
        "superuser": store.db.connect,
        "owner": lambda: store.db.connect(user=store.owner_role),
    }[caller]()
    store.owner.execute(
        "CREATE FUNCTION store.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET LOCAL work_mem = '9MB'; RETURN "
        "NEW; END $$;"
        f"CREATE TRIGGER note BEFORE UPDATE ON {STOCK} FOR EACH ROW EXECUTE FUNCTION store.note()"
    )
    conn.execute(
        "CREATE TEMPORARY TABLE basket (n integer); INSERT INTO basket VALUES (7); LISTEN mine; SET work_mem = '5MB'"
    )
    conn.execute("PREPARE sale AS SELECT decrement_inventory($1, 1)")
    conn.execute("SELECT pg_advisory_lock(42)")
    for key in (ONE, TWO):
        with conn.transaction():
            conn.execute("DECLARE mine CURSOR WITH HOLD FOR SELECT generate_series(1, 3)")
            conn.execute("FETCH mine; SET LOCAL work_mem = '6MB'")
            for _ in range(8):
                conn.execute(f"EXECUTE sale('{key}')")
            assert conn.execute("SHOW work_mem").fetchone()[0] == "6MB"
        assert conn.execute("FETCH mine").fetchone()[0] == 2
        conn.execute("CLOSE mine")
    assert conn.execute("SHOW work_mem").fetchone()[0] == "5MB"
    assert conn.execute("SELECT n FROM basket").fetchall() == [(7,)]
    assert conn.execute("SELECT pg_listening_channels()").fetchall() == [("mine",)]
    assert conn.execute("SELECT pg_advisory_unlock(42)").fetchone()[0] is True
    assert conn.execute("SELECT current_user, session_user").fetchone() == (conn.info.user, conn.info.user)
    store.settled(92)
    store.audit()
