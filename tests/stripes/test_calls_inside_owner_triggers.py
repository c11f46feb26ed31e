"""Calls from inside a call: triggers and defaults of the table's owner that stripe, unstripe, attach or detach.

The call that fired them has already decided how the item is kept. They are refused with 55006 "call_running", and
the outer call fails with them; from a direct write, without a call of ours around it, they are refused or leave
exact books.
"""

import psycopg
import pytest

from books import last_movement, lines
from shop import ONE, TWO, refused, sell, shop
from striped import available, in_books, stripe

OUTER = {
    "sell": f"SELECT decrement_inventory('{ONE}', 3)",
    "order": f"SELECT decrement_inventory_batch('{lines((ONE, 2), (TWO, 1))}')",
    "order of one": f"SELECT decrement_inventory_batch('{lines((ONE, 2))}')",
    "restock": f"SELECT restock_inventory('{ONE}', 5)",
    "restock with key": f"SELECT restock_inventory('{ONE}', 5, NULL, 'key')",
    "adjust": f"SELECT adjust_inventory('{ONE}', 50)",
    "transfer": f"SELECT transfer_inventory('{ONE}', '{TWO}', 7)",
    "stripe": f"SELECT stripe_inventory('{ONE}', 4)",
    "unstripe striped": f"SELECT unstripe_inventory('{TWO}')",
}
INNER = {
    "stripe": f"stripe_inventory('{ONE}', 2)",
    "stripe the other": f"stripe_inventory('{TWO}', 2)",
    "unstripe": f"unstripe_inventory('{ONE}')",
    "unstripe the other": f"unstripe_inventory('{TWO}')",
    "detach": "detach_inventory()",
    "attach": "attach_inventory('inventory')",
}
PLACES = {
    "stock, after": "CREATE TRIGGER act AFTER UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION act()",
    "stock, before": "CREATE TRIGGER act BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION act()",
    "stock, statement": "CREATE TRIGGER act AFTER UPDATE ON inventory EXECUTE FUNCTION act()",
    "ledger": "CREATE TRIGGER act AFTER INSERT ON inventory_movement FOR EACH ROW EXECUTE FUNCTION act()",
    "ledger, before": "CREATE TRIGGER act BEFORE INSERT ON inventory_movement FOR EACH ROW EXECUTE FUNCTION act()",
    "default of the ledger": "ALTER TABLE inventory_movement ADD COLUMN acted text DEFAULT act_now()",
}


@pytest.fixture
def conn(db):
    return db.connect()


def opened(conn, ledger=True):
    """100 units of ONE in its row and of TWO in stripes, and functions that act once in a transaction with shop.acts.

    The totals worker fires the same triggers, and has no such setting.
    """
    shop(conn, {ONE: "100", TWO: "100"}, type="integer", columns=", note text", p_ledger=ledger)
    stripe(conn, TWO, 3)
    conn.execute("CREATE TABLE acts (sql text)")
    conn.execute(
        """CREATE FUNCTION act_now() RETURNS text LANGUAGE plpgsql AS $$
           DECLARE act text;
           BEGIN
               IF current_setting('shop.acts', true) = 'on' THEN
                   PERFORM set_config('shop.acts', 'off', true);
                   SELECT sql INTO act FROM public.acts;
                   EXECUTE 'SELECT ' || act;
               END IF;
               RETURN 'acted';
           END $$;
           CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN PERFORM public.act_now(); RETURN NEW; END $$"""
    )


@pytest.mark.parametrize("place", PLACES)
def test_a_call_within_a_call_is_refused_and_changes_nothing(conn, place):
    opened(conn)
    conn.execute(PLACES[place])
    conn.execute("SET shop.acts = on")
    wrong = []
    for outer, sql in OUTER.items():
        for inner, act in INNER.items():
            conn.execute("DELETE FROM acts")
            conn.execute("INSERT INTO acts VALUES (%s)", ("public." + act,))
            try:
                conn.execute(sql)
            except psycopg.Error as error:
                if error.sqlstate != "55006" or '{"reason": "call_running"' not in (error.diag.message_detail or ""):
                    wrong.append((outer, inner, error.sqlstate, error.diag.message_primary))
            else:
                wrong.append((outer, inner, "done"))
            if available(conn, ONE) != 100 or available(conn, TWO) != 100:
                wrong.append((outer, inner, available(conn, ONE), available(conn, TWO)))
                break
    assert wrong == []
    conn.execute("SET shop.acts = off")
    in_books(conn, {ONE: 100, TWO: 100})
    sell(conn, ONE, 1), sell(conn, TWO, 1)
    in_books(conn, {ONE: 99, TWO: 99})


def test_a_trigger_on_the_keys_or_the_stripes_is_refused_too(conn):
    opened(conn)
    conn.execute("SET shop.acts = on")
    for table, sql in (
        ("inventory_request", OUTER["restock with key"]),
        ("inventory_stripe", f"SELECT decrement_inventory('{TWO}', 3)"),
    ):
        for when in ("BEFORE", "AFTER"):
            conn.execute(f"CREATE TRIGGER act {when} INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION act()")
            for act in INNER.values():
                conn.execute("DELETE FROM acts")
                conn.execute("INSERT INTO acts VALUES (%s)", ("public." + act,))
                refusal = refused(conn, sql)
                assert (refusal.sqlstate, refusal.reason) == ("55006", "call_running"), (table, when, act)
            conn.execute(f"DROP TRIGGER act ON {table}")
    in_books(conn, {ONE: 100, TWO: 100})


def test_a_trigger_that_catches_the_error_lets_the_outer_call_succeed(conn):
    """The refusal leaves nothing behind that the outer call would stumble over."""
    opened(conn)
    conn.execute(
        """CREATE OR REPLACE FUNCTION act_now() RETURNS text LANGUAGE plpgsql AS $$
           DECLARE act text;
           BEGIN
               FOR act IN SELECT sql FROM public.acts WHERE current_setting('shop.acts', true) = 'on' LOOP
                   BEGIN
                       EXECUTE 'SELECT ' || act;
                       RETURN 'acted';
                   EXCEPTION WHEN object_in_use THEN NULL;
                   END;
               END LOOP;
               RETURN 'refused';
           END $$"""
    )
    conn.execute("INSERT INTO acts SELECT unnest(%s::text[])", (["public." + act for act in INNER.values()],))
    conn.execute(PLACES["stock, after"])
    conn.execute(PLACES["default of the ledger"])
    begin = last_movement(conn)
    conn.execute("SET shop.acts = on")
    for sql in OUTER.values():
        conn.execute(sql)
    acted = "SELECT count(*) FROM inventory_movement WHERE acted = 'acted' AND movement_id > %s"
    assert conn.execute(acted, (begin,)).fetchone()[0] == 0
    conn.execute("SET shop.acts = off")
    in_books(conn, {ONE: available(conn, ONE), TWO: available(conn, TWO)})
    assert (available(conn, ONE), available(conn, TWO)) == (43, 106)


WRITES = [("quantity = quantity + 5", 5), ("note = 'x'", 0)]


@pytest.mark.parametrize("place", ["stock, after", "stock, before", "stock, statement"])
@pytest.mark.parametrize("ledger", [True, False])
def test_the_same_calls_from_a_direct_write_lose_nothing(conn, place, ledger):
    """No call of ours runs around them: each write is refused as a whole, or what it does is right."""
    opened(conn, ledger)
    conn.execute(PLACES[place])
    conn.execute("SET shop.acts = on")
    expected, wrong = {ONE: 100, TWO: 100}, []
    for act in (*INNER.values(), f"decrement_inventory('{ONE}', 1)", f"decrement_inventory('{TWO}', 1)"):
        for key, write, added in [(key, *write) for key in (ONE, TWO) for write in WRITES]:
            conn.execute("DELETE FROM acts")
            conn.execute("INSERT INTO acts VALUES (%s)", ("public." + act,))
            try:
                conn.execute(f"UPDATE inventory SET {write} WHERE id = '{key}'")
            except psycopg.Error as error:
                assert error.sqlstate in ("55006", "55000", "27000", "54001"), error
            else:
                expected[key] += added
                if act.startswith("decrement"):
                    expected[ONE if str(ONE) in act else TWO] -= 1
            if not conn.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0]:
                conn.execute("SELECT attach_inventory('inventory', p_ledger => %s)", (ledger,))
            found = {item: available(conn, item) for item in expected}
            if found != expected:
                wrong.append((act, write, key.int, found, dict(expected)))
                expected = found
    assert wrong == []
    conn.execute("SET shop.acts = off")
    in_books(conn, expected, ledger)
