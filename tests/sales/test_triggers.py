"""The user's own triggers, rules and constraints keep their say.

What changes or drops the deduction fails the sale with IV007 and leaves the stock as it was; what merely watches fires
exactly once for each sale, also at statement level, and not at all for a refusal.
"""

from decimal import Decimal

import pytest

from shop import attach, ONE, TWO, UNKNOWN, left, refused, refused_sale, sell, shop


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "10.00", TWO: "5.00"}, columns=", updated_at timestamptz, sold int NOT NULL DEFAULT 0")
    conn.execute("CREATE TABLE seen (what text)")
    return conn


def trigger(conn, timing, body, clause="", table="inventory"):
    """A trigger of the table's owner with this body."""
    conn.execute(f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    conn.execute(f"CREATE TRIGGER act {timing} ON {table} {clause} EXECUTE FUNCTION act()")


def seen(conn):
    return [what for (what,) in conn.execute("SELECT what FROM seen").fetchall()]


@pytest.mark.parametrize(
    ("body", "new_quantity"),
    [
        ("NEW.quantity := OLD.quantity; RETURN NEW;", 10),
        ("NEW.quantity := NEW.quantity - 1; RETURN NEW;", 5),
        ("NEW.quantity := NEW.quantity + 0.01; RETURN NEW;", "6.01"),
        ("NEW.quantity := 0; RETURN NEW;", 0),
        ("RETURN OLD;", 10),
    ],
)
@pytest.mark.parametrize(("style", "sqlstate"), [("sqlstate", "IV007"), ("postgrest", "PT500")])
def test_a_before_trigger_that_alters_the_quantity_fails_the_sale(conn, body, new_quantity, style, sqlstate):
    """The row is read back as written: 4 were asked for, something else would be deducted, so nothing is."""
    trigger(conn, "BEFORE UPDATE", body, "FOR EACH ROW")
    conn.execute(f"SET inventory_ext.error_style = '{style}'")
    answer = refused_sale(conn, ONE, "4")
    assert (answer.sqlstate, answer.message) == (sqlstate, "Inventory verification failed")
    facts = answer.facts
    assert facts["reason"] == "verification_failed"
    assert (facts["old_quantity"], facts["requested"]) == (10, 4)
    assert facts["new_quantity"] == Decimal(new_quantity)
    assert left(conn, ONE) == 10


def test_a_before_trigger_that_returns_null_fails_the_sale(conn):
    """No row was written: success would be a lie."""
    trigger(conn, "BEFORE UPDATE", "RETURN NULL;", "FOR EACH ROW")
    answer = refused_sale(conn, ONE, "4")
    assert answer.sqlstate == "IV007"
    assert answer.facts["new_quantity"] is None
    assert left(conn, ONE) == 10
    conn.execute("DROP TRIGGER act ON inventory")
    assert sell(conn, ONE, "4")["new_quantity"] == 6


def test_the_writes_of_a_trigger_are_undone_with_the_failed_sale(conn):
    """IV007 undoes what the trigger did elsewhere, too."""
    trigger(conn, "BEFORE UPDATE", "INSERT INTO seen VALUES ('before'); NEW.quantity := 9; RETURN NEW;", "FOR EACH ROW")
    assert refused_sale(conn, ONE, "4").sqlstate == "IV007"
    assert seen(conn) == []


def test_a_before_trigger_that_changes_other_columns_is_welcome(conn):
    """updated_at and counters are the user's business."""
    trigger(conn, "BEFORE UPDATE", "NEW.updated_at := now(); NEW.sold := OLD.sold + 1; RETURN NEW;", "FOR EACH ROW")
    sell(conn, ONE, "1")
    sell(conn, ONE, "1")
    assert conn.execute("SELECT sold, updated_at IS NOT NULL FROM inventory WHERE id = %s", (ONE,)).fetchone() == (
        2,
        True,
    )


@pytest.mark.parametrize(
    ("timing", "clause"),
    [
        ("BEFORE UPDATE", "FOR EACH ROW"),
        ("AFTER UPDATE", "FOR EACH ROW"),
        ("BEFORE UPDATE", "FOR EACH STATEMENT"),
        ("AFTER UPDATE", "FOR EACH STATEMENT"),
        ("AFTER UPDATE OF quantity", "FOR EACH ROW"),
        ("AFTER UPDATE OF quantity", "FOR EACH STATEMENT"),
        ("AFTER UPDATE", "FOR EACH ROW WHEN (OLD.quantity IS DISTINCT FROM NEW.quantity)"),
    ],
)
def test_a_trigger_fires_exactly_once_a_sale_and_never_for_a_refusal(conn, timing, clause):
    """Row and statement level, before and after: one sale, one firing, in autocommit and in a transaction."""
    trigger(conn, timing, "INSERT INTO seen VALUES (TG_WHEN || TG_LEVEL || TG_OP); RETURN NEW;", clause)
    sell(conn, ONE, "1")
    assert len(seen(conn)) == 1
    with conn.transaction():
        sell(conn, ONE, "1")
        sell(conn, TWO, "1")
    assert len(seen(conn)) == 3
    for key, quantity in ((ONE, "100"), (UNKNOWN, "1"), (ONE, "-1"), (ONE, "0.001")):
        refused_sale(conn, key, quantity)
    assert len(seen(conn)) == 3


def test_transition_tables_hold_the_one_row_of_the_sale(conn):
    """REFERENCING OLD/NEW TABLE sees one row before and one after."""
    trigger(
        conn,
        "AFTER UPDATE",
        "INSERT INTO seen SELECT o.quantity || ' > ' || n.quantity FROM o JOIN n USING (id); RETURN NULL;",
        "REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT",
    )
    sell(conn, ONE, "4")
    sell(conn, ONE, "0.50")
    assert seen(conn) == ["10.00 > 6.00", "6.00 > 5.50"]


def test_a_deferred_constraint_trigger_fires_once_at_commit(conn):
    """Deferred triggers belong to the caller's transaction."""
    conn.execute("SELECT detach_inventory()")
    attach(conn, p_run_as="caller")
    conn.execute(
        """
        CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO seen VALUES ('deferred'); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER act AFTER UPDATE ON inventory DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION act()
        """
    )
    with conn.transaction():
        sell(conn, ONE, "1")
        assert seen(conn) == []
    assert seen(conn) == ["deferred"]


def test_an_error_of_a_trigger_reaches_the_caller_with_its_own_sqlstate(conn):
    """A trigger that forbids the sale forbids it in its own words."""
    trigger(
        conn,
        "AFTER UPDATE",
        "RAISE EXCEPTION 'shop is closed' USING ERRCODE = 'XY123', DETAIL = 'why', HINT = 'come back'; RETURN NULL;",
        "FOR EACH ROW",
    )
    answer = refused_sale(conn, ONE, "1")
    assert (answer.sqlstate, answer.message, answer.detail, answer.hint) == (
        "XY123",
        "shop is closed",
        "why",
        "come back",
    )
    assert left(conn, ONE) == 10


def test_a_check_of_the_user_reaches_the_caller_as_23514(conn):
    """A floor of the user's own is PostgreSQL's check violation, with the constraint's name."""
    conn.execute("ALTER TABLE inventory ADD CONSTRAINT keep_two CHECK (quantity >= 2)")
    sell(conn, ONE, "8")
    answer = refused_sale(conn, ONE, "1")
    assert answer.sqlstate == "23514"
    assert "keep_two" in answer.message
    assert left(conn, ONE) == 2


def test_a_trigger_may_sell_another_item_itself(conn):
    """A bundle: selling ONE sells a TWO through the function, from inside the first sale; both answers are right."""
    trigger(
        conn,
        "AFTER UPDATE",
        f"IF NEW.id = '{ONE}' THEN INSERT INTO seen VALUES (decrement_inventory('{TWO}', 2)::text); END IF;"
        " RETURN NULL;",
        "FOR EACH ROW",
    )
    answer = sell(conn, ONE, "1")
    assert (answer["old_quantity"], answer["new_quantity"], answer["deducted"]) == (10, 9, 1)
    assert f'"inventory_id": "{TWO}", "old_quantity": 5.00, "new_quantity": 3.00' in seen(conn)[0]
    assert (left(conn, ONE), left(conn, TWO)) == (9, 3)
    sell(conn, ONE, "1")
    # The third bundle lacks the second half: neither half is sold, and the error is that of the half that is short.
    answer = refused_sale(conn, ONE, "1")
    assert answer.sqlstate == "IV001"
    assert answer.facts["inventory_id"] == str(TWO)
    assert (left(conn, ONE), left(conn, TWO)) == (8, 1)


def test_a_before_trigger_may_sell_another_item_itself(conn):
    """The same from a BEFORE trigger, while the outer sale holds its row and has not yet written it."""
    trigger(
        conn,
        "BEFORE UPDATE",
        f"IF NEW.id = '{ONE}' THEN PERFORM decrement_inventory('{TWO}', 1); END IF; RETURN NEW;",
        "FOR EACH ROW",
    )
    assert sell(conn, ONE, "4")["new_quantity"] == 6
    assert (left(conn, ONE), left(conn, TWO)) == (6, 4)


def test_a_trigger_that_sells_the_same_item_again_never_yields_a_false_answer(conn):
    """PostgreSQL refuses a BEFORE trigger that updates its own row (27000): the sale fails whole."""
    trigger(
        conn,
        "BEFORE UPDATE",
        f"IF OLD.quantity - NEW.quantity = 4 THEN PERFORM decrement_inventory('{ONE}', 1); END IF; RETURN NEW;",
        "FOR EACH ROW",
    )
    assert refused_sale(conn, ONE, "4").sqlstate in ("27000", "IV007")
    assert left(conn, ONE) == 10


@pytest.mark.parametrize("rule", ["DO INSTEAD NOTHING", "DO INSTEAD INSERT INTO seen VALUES ('rule')"])
def test_a_rule_that_swallows_the_update_never_yields_success(conn, rule):
    """PostgreSQL reports such a rule as an UPDATE; it is no sale."""
    conn.execute(f"CREATE RULE swallow AS ON UPDATE TO inventory {rule}")
    refused_sale(conn, ONE, "1")
    assert left(conn, ONE) == 10
    conn.execute("DROP RULE swallow ON inventory")
    assert sell(conn, ONE, "1")["new_quantity"] == 9


def test_a_trigger_created_after_the_first_sale_counts_from_the_next(db, conn):
    """Another session adds the trigger while this one has its statements prepared."""
    till = db.connect()
    sell(till, ONE, "1")
    trigger(conn, "BEFORE UPDATE", "RETURN NULL;", "FOR EACH ROW")
    assert refused_sale(till, ONE, "1").sqlstate == "IV007"
    conn.execute("ALTER TABLE inventory DISABLE TRIGGER act")
    assert sell(till, ONE, "1")["new_quantity"] == 8


def weaken(conn):
    """The owner puts a CHECK of our name in the place of ours that lets everything pass."""
    conn.execute(
        "ALTER TABLE inventory DROP CONSTRAINT quantity_non_negative, ALTER quantity DROP NOT NULL, "
        "ADD CONSTRAINT quantity_non_negative CHECK (id IS NOT NULL OR quantity > 0)"
    )


@pytest.mark.parametrize("spoiled", ["NULL", "'NaN'", "'Infinity'"])
def test_a_stored_quantity_that_is_no_number_fails_the_sale(conn, spoiled):
    """Someone weakened our constraints and spoiled the row behind the ledger's back: no sale, no arithmetic, IV007."""
    weaken(conn)
    conn.execute("ALTER TABLE inventory ALTER quantity TYPE numeric, DISABLE TRIGGER USER")
    conn.execute(f"UPDATE inventory SET quantity = {spoiled} WHERE id = '{ONE}'")
    conn.execute("ALTER TABLE inventory ENABLE TRIGGER USER")
    before = conn.execute("SELECT quantity::text FROM inventory WHERE id = %s", (ONE,)).fetchone()
    assert refused_sale(conn, ONE, "1").sqlstate == "IV007"
    assert conn.execute("SELECT quantity::text FROM inventory WHERE id = %s", (ONE,)).fetchone() == before


def test_a_negative_stored_quantity_is_a_shortage(conn):
    """The same with −3: nothing can be sold from it, and the answer names it as it is."""
    weaken(conn)
    conn.execute("UPDATE inventory SET quantity = -3 WHERE id = %s", (ONE,))
    answer = refused_sale(conn, ONE, "1")
    assert (answer.sqlstate, answer.facts["available"]) == ("IV001", -3)


def test_native_writes_that_make_no_stock_are_refused_by_the_constraints(conn):
    """What attach added: NOT NULL, and a CHECK against negative, NaN and infinite quantities."""
    assert refused(conn, "UPDATE inventory SET quantity = NULL").sqlstate == "23502"
    assert refused(conn, "UPDATE inventory SET quantity = -0.01").sqlstate == "23514"
    conn.execute("ALTER TABLE inventory ALTER quantity TYPE numeric")
    for value in ("NaN", "Infinity", "-Infinity"):
        assert refused(conn, f"UPDATE inventory SET quantity = '{value}'").sqlstate == "23514"
    assert left(conn, ONE) == 10


def test_a_refusal_that_a_trigger_catches_leaves_the_sale_around_it_whole(db):
    """An error of an inner call jumps over frames of its own only: the outer call is answered, and its movements are
    its own."""
    conn = db.connect()
    shop(conn, {ONE: "10", TWO: "0"})
    conn.execute(
        f"""CREATE FUNCTION tries_another() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM decrement_inventory('{TWO}', 1);
                RETURN NULL;
            EXCEPTION WHEN SQLSTATE 'IV001' THEN
                PERFORM nextval('refused');
                RETURN NULL;
            END $$;
            CREATE TRIGGER tries_another AFTER UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION tries_another();
            CREATE SEQUENCE refused"""
    )
    for sold in range(1, 11):
        assert sell(conn, ONE, "1")["new_quantity"] == 10 - sold
    assert conn.execute("SELECT last_value FROM refused").fetchone() == (10,)
    movements = "SELECT kind, count(*), sum(delta) FROM inventory_movement WHERE kind <> 'opening' GROUP BY 1"
    assert conn.execute(movements).fetchall() == [("sale", 10, -10)]
