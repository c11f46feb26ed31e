"""A guessed idempotency key gives nothing to a caller who could not have made the call.

All callers share one set of keys. Where the caller's own rights or row-level security decide, a stored result is
returned, and a key is mentioned, only after the checks of rights and items that the first call passed; until then a
used key, an unused one and no key at all have the same outcome.
"""

import json

import pytest

from attack_parties import clerk, outcome, owned_shop, reason, statement, with_key
from books import audit, call, keys_kept, lines, order, refused_call
from shop import ONE, TWO, UNKNOWN, Aside, item, refused, sell, shop, until_waiting

THREE, FOUR = item(3), item(4)
# Every function that writes; {item} and {other} are both red's.
KEYED = {
    "decrement": "decrement_inventory('{item}', 2)",
    "order": 'decrement_inventory_batch(\'[{"inventory_id": "{item}", "quantity": 2}]\', \'order 7\')',
    "restock": "restock_inventory('{item}', 2, 'order 7')",
    "adjust": "adjust_inventory('{item}', 55, NULL, 'count 7')",
    "transfer": "transfer_inventory('{item}', '{other}', 2, 'order 7')",
}
# The same calls with other arguments: IV003 for the role that made the first.
OTHERWISE = {name: what.replace(" 2", " 3").replace(": 2", ": 3").replace("55", "56") for name, what in KEYED.items()}


@pytest.fixture
def conn(db):
    """The superuser."""
    return db.connect()


@pytest.fixture
def red(conn, db):
    return clerk(conn, db, "red")


@pytest.fixture
def blue(conn, db):
    return clerk(conn, db, "blue")


def shop_in(conn, db, mode="caller"):
    """ONE and TWO are red's, ONE striped; THREE and FOUR are blue's, THREE striped."""
    owner = owned_shop(conn, db, {ONE: 100, TWO: 100, THREE: 100, FOUR: 100}, striped=(ONE, THREE), p_run_as=mode)
    owner.execute("GRANT USAGE ON SCHEMA store TO PUBLIC")
    return owner


def grant(owner, *roles):
    for role in roles:
        owner.execute(f'GRANT SELECT, UPDATE ON store.inventory TO "{role}"')


def hide(conn, owner, mode, red, blue):
    """Each tenant sees its own items only: by its role in caller mode, by a setting in owner mode."""
    for role, keys in ((red, (ONE, TWO)), (blue, (THREE, FOUR))):
        conn.execute("UPDATE store.inventory SET note = %s WHERE id = ANY (%s)", (role, list(keys)))
    setting = "current_setting('shop.tenant', true)"
    own = "note = current_user" if mode == "caller" else f"note = {setting} OR {setting} = 'all'"
    owner.execute(
        f"""ALTER TABLE store.inventory ENABLE ROW LEVEL SECURITY; ALTER TABLE store.inventory FORCE ROW LEVEL SECURITY;
            CREATE POLICY own ON store.inventory USING ({own})"""
    )
    grant(owner, red, blue)


def tenant(db, role, name=None):
    session = db.connect(user=role)
    session.execute("SELECT set_config('shop.tenant', %s, false)", (name or role,))
    return session


def uses_of(name, key, other):
    """Calls with the arguments of the first call, and with others; each with a used key, an unused one, and none."""
    for what in (KEYED, OTHERWISE):
        sql = statement(what[name], key, other)
        yield [("used", sql), ("unused", sql), (None, sql)]


def use_of(conn, key, sql):
    return outcome(conn, sql) if key is None else with_key(conn, key, sql)


def refused_alike(intruder, sqlstate):
    """Each function, of a striped and of a plain item: what is learned is the same for every key."""
    for name in KEYED:
        for key, other in ((ONE, TWO), (TWO, ONE)):
            for uses in uses_of(name, key, other):
                found = [use_of(intruder, used and f"{used} {name} {key}", sql) for used, sql in uses]
                assert [words for words in found if words != found[-1]] == [], name
                assert found[-1][:2] == ("ERROR", sqlstate), name


def first_calls(till):
    """Red's own calls, each with a key."""
    results = {}
    for name, what in KEYED.items():
        for key, other in ((ONE, TWO), (TWO, ONE)):
            used = f"used {name} {key}"
            results[used, statement(what, key, other)] = found = with_key(till, used, statement(what, key, other))
            assert found[0] == "OK", found
    return results


def replayed(till, results):
    for (key, sql), first in results.items():
        again = with_key(till, key, sql)
        assert json.loads(again[1]) == {**json.loads(first[1]), "replayed": True}


@pytest.mark.parametrize("granted", ["", "SELECT", "UPDATE", "SELECT (id), UPDATE (note)", "SELECT (id, quantity)"])
def test_a_guessed_key_gives_nothing_to_a_role_without_the_rights(db, conn, red, blue, granted):
    """42501 for the stored result, for other arguments, for an unused key and without one; nothing is left behind."""
    owner = shop_in(conn, db)
    grant(owner, red)
    till = db.connect(user=red)
    results = first_calls(till)
    if granted:
        owner.execute(f'GRANT {granted} ON store.inventory TO "{blue}"')
    refused_alike(db.connect(user=blue), "42501")
    assert len(keys_kept(conn, "store.inventory_request")) == len(results)
    replayed(till, results)


@pytest.mark.parametrize("mode", ["caller", "owner"])
def test_a_guessed_key_gives_nothing_about_hidden_items(db, conn, red, blue, mode):
    """IV002 in the very same words; the tenant whose key it is still gets the first result."""
    owner = shop_in(conn, db, mode)
    hide(conn, owner, mode, red, blue)
    till = tenant(db, red)
    results = first_calls(till)
    refused_alike(tenant(db, blue), "IV002")
    assert len(keys_kept(conn, "store.inventory_request")) == len(results)
    replayed(till, results)


@pytest.mark.parametrize("mode", ["caller", "owner"])
def test_one_hidden_item_among_ones_own_is_enough(db, conn, red, blue, mode):
    """An order or a transfer that also names an item of the caller: the stored result would show the hidden one."""
    owner = shop_in(conn, db, mode)
    hide(conn, owner, mode, red, blue)
    both = [
        f"decrement_inventory_batch('{lines((THREE, 1), (ONE, 1))}', 'order 7')",
        f"decrement_inventory_batch('{lines((ONE, 1), (FOUR, 1))}', 'order 8')",
        f"transfer_inventory('{TWO}', '{FOUR}', 1, 'order 9')",
        f"transfer_inventory('{THREE}', '{TWO}', 1, 'order 9')",
    ]
    for number, what in enumerate(both):
        sql = f"SELECT ({what})::text"
        assert with_key(tenant(db, "postgres", "all"), f"used {number}", sql)[0] == "OK"
        for session in (tenant(db, blue), tenant(db, red)):
            assert with_key(session, f"used {number}", sql) == with_key(session, "unused", sql) == outcome(session, sql)
            assert outcome(session, sql)[1] == "IV002"


def test_rights_that_were_taken_away_take_the_stored_results_away(db, conn, red, blue):
    """The check is of the call's own time: a revoked grant, a changed policy; granted again the replay is back."""
    owner = shop_in(conn, db)
    grant(owner, red)
    till = db.connect(user=red)
    results = first_calls(till)
    owner.execute(f'REVOKE UPDATE ON store.inventory FROM "{red}"')
    refused_alike(till, "42501")
    grant(owner, red)
    replayed(till, results)
    hide(conn, owner, "caller", blue, red)
    refused_alike(till, "IV002")
    owner.execute("ALTER TABLE store.inventory DISABLE ROW LEVEL SECURITY")
    replayed(till, results)


def test_a_guessed_key_of_an_order_that_leaves_lines_out_shows_no_figure(db, conn, red, blue):
    """skip and partial do not fail for an unknown item: red's retry is replayed, blue learns what it would without a
    key."""
    owner = shop_in(conn, db)
    hide(conn, owner, "caller", red, blue)
    till, intruder = tenant(db, red), tenant(db, blue)
    for mode in ("skip", "partial"):
        arguments = {
            "p_items": lines((ONE, 2), (UNKNOWN, 1), (TWO, 2)),
            "p_on_shortage": mode,
            "p_idempotency_key": mode,
        }
        first = call(till, "decrement_inventory_batch", **arguments)
        assert [line["reason"] for line in first["short"]] == ["unknown_item"]
        assert call(till, "decrement_inventory_batch", **arguments) == {**first, "replayed": True}
        found = outcome(
            intruder, f"SELECT decrement_inventory_batch('{arguments['p_items']}', NULL, '{mode}', '{mode}')::text"
        )
        assert "old_quantity" not in found[1] and "deducted" not in found[1]
        assert found[0] == "OK" or found[1] == "IV002"
        assert call(till, "decrement_inventory_batch", **arguments) == {**first, "replayed": True}


@pytest.mark.parametrize("barred", ["no grant", "hidden"])
def test_a_key_in_use_makes_a_caller_without_the_rights_wait_for_nothing(db, conn, red, blue, barred):
    """A wait would show that the key is used, and would let the stranger stand in the way of the shop's own retry."""
    owner = shop_in(conn, db)
    if barred == "hidden":
        hide(conn, owner, "caller", red, blue)
    else:
        grant(owner, red)
    till, intruder = db.connect(user=red, autocommit=False), db.connect(user=blue)
    intruder.execute("SET lock_timeout = '2s'")
    call(till, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")
    found = refused_call(intruder, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")
    assert found.sqlstate == ("IV002" if barred == "hidden" else "42501")
    till.commit()
    assert call(till, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")["replayed"] is True


def test_the_refused_use_of_a_key_does_not_hold_it(db, conn, red, blue):
    """Within a transaction that goes on: the shop's own call with that key neither waits nor finds it used."""
    owner = shop_in(conn, db)
    hide(conn, owner, "caller", red, blue)
    intruder, till = db.connect(user=blue, autocommit=False), db.connect(user=red)
    till.execute("SET lock_timeout = '5s'")
    intruder.execute("SAVEPOINT here")
    assert refused(intruder, "SELECT restock_inventory(%s, 1, NULL, 'k')", (TWO,)).sqlstate == "IV002"
    intruder.execute("ROLLBACK TO here")
    assert "replayed" not in call(till, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")
    intruder.rollback()


def test_a_key_in_the_header_is_guarded_alike(db, conn, red, blue):
    """PostgREST passes the client's own header, so guessing costs nothing."""
    owner = shop_in(conn, db)
    grant(owner, red)
    sql = "SELECT restock_inventory(%s, 2)::text"
    outcomes = []
    for role in (red, red, blue):
        session = db.connect(user=role, autocommit=False)
        session.execute("SET LOCAL inventory_ext.request_headers = on")
        session.execute("""SELECT set_config('request.headers', '{"idempotency-key": "k"}', true)""")
        outcomes.append(outcome(session, sql, (ONE,)))
        session.commit()
    assert [found[0] for found in outcomes] == ["OK", "OK", "ERROR"]
    assert "replayed" in outcomes[1][1] and outcomes[2][1] == "42501"


def test_in_owner_mode_a_retry_is_replayed_after_any_change_of_the_item(db, conn):
    """EXECUTE is all that the first call needed; it is all that the retry needs, also when the item is gone or sold
    out."""
    shop(conn, {ONE: 5, TWO: 5}, type="integer")
    first = order(conn, (ONE, 5), (TWO, 1), p_idempotency_key="k")
    conn.execute("DELETE FROM inventory WHERE id = %s", (TWO,))
    assert order(conn, (ONE, 5), (TWO, 1), p_idempotency_key="k") == {**first, "replayed": True}
    audit(conn)


# decrement_inventory takes no reference as an argument.
REFERENCED = [
    (name, way) for name in KEYED for way in ("argument", "setting") if (name, way) != ("decrement", "argument")
]


@pytest.mark.parametrize("striped", [False, True])
@pytest.mark.parametrize(("function", "way"), REFERENCED)
def test_the_same_key_for_another_reference_is_another_request(conn, function, way, striped):
    """'order 1' and then 'order 2' under one key: the second order would be answered with the first one's goods."""
    shop(conn, {ONE: 100, TWO: 100}, type="integer")
    if striped:
        conn.execute("SELECT stripe_inventory(%s, 2)", (ONE,))

    def request(reference):
        given = f"'{reference}'" if way == "argument" else "NULL"
        what = KEYED[function].replace("'order 7'", given).replace("'count 7'", given)
        with conn.transaction():
            if way == "setting":
                conn.execute("SELECT set_config('inventory_ext.reference', %s, true)", (reference,))
            return with_key(conn, "k", statement(what))

    first = request("order 1")
    assert first[0] == "OK"
    for other in ("order 2", "order 11", "Order 1"):
        assert reason(request(other)) == "IV003 key_reused"
    assert json.loads(request("order 1")[1]) == {**json.loads(first[1]), "replayed": True}


def test_a_retry_in_another_transaction_waits_for_the_first_and_is_replayed(db, conn, red):
    """The control of the waits: a caller with the rights waits for the key and gets the first result."""
    owner = shop_in(conn, db)
    grant(owner, red)
    holder, rival = db.connect(user=red, autocommit=False), db.connect(user=red)
    first = call(holder, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")
    waiting = Aside(lambda: call(rival, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k"))
    until_waiting(conn, rival)
    holder.commit()
    assert waiting.result() == {**first, "replayed": True}
    assert sell(rival, TWO, 1)["new_quantity"] == 100
