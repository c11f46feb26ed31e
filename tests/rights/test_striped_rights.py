"""Rights and row-level security decide about striped items as about all others.

The stock of a striped item lies in another table; what a caller may do follows the stock table all the same, in owner
mode (the owner's own REVOKE and FORCE ROW LEVEL SECURITY) and in caller mode (grants and policies of the caller).
Row-level security on a companion stops none of the extension's own work. A hidden item answers in the words of an
unknown one, in every function.
"""

import pytest

from attack_parties import (
    CALLS,
    COMPANIONS,
    CUTS,
    READS,
    SALES,
    clerk,
    learned,
    outcome,
    owned_shop,
    reason,
    statement,
    with_key,
)
from books import audit, call, keys_kept, movements, order
from shop import ONE, TWO, UNKNOWN, Aside, attach, item, refused, sell, until, until_waiting

THREE, FOUR = item(3), item(4)
# ONE and THREE are striped, TWO and FOUR are not; a policy by note can hide THREE and FOUR.
STOCK = {ONE: 100, TWO: 100, THREE: 100, FOUR: 100}
STRIPED, SEEN, HIDDEN = (ONE, THREE), (ONE, TWO), (THREE, FOUR)
# An order that leaves out what it cannot sell does not fail because of an unknown item.
LENIENT = ("order, skip", "order, partial")


@pytest.fixture
def conn(db):
    """The superuser."""
    return db.connect()


@pytest.fixture(params=["owner", "caller"])
def mode(request):
    return request.param


@pytest.fixture
def user(conn, db):
    return clerk(conn, db)


def shop_in(conn, db, mode, **options):
    owner = owned_shop(conn, db, STOCK, striped=STRIPED, p_run_as=mode, **options)
    owner.execute("GRANT USAGE ON SCHEMA store TO PUBLIC")
    return owner


def secure(owner, user=None, using="id IN ('{one}', '{two}')", force=True):
    """Row-level security that shows ONE and TWO; with it a clerk gets all that caller mode asks for."""
    using = using.format(one=ONE, two=TWO)
    owner.execute(
        f"ALTER TABLE store.inventory ENABLE ROW LEVEL SECURITY; CREATE POLICY seen ON store.inventory USING ({using})"
    )
    if force:
        owner.execute("ALTER TABLE store.inventory FORCE ROW LEVEL SECURITY")
    if user:
        owner.execute(f'GRANT SELECT (id, quantity), UPDATE (quantity) ON store.inventory TO "{user}"')


def as_seen(conn) -> list:
    return conn.execute("SELECT quantity FROM store.inventory ORDER BY id").fetchall()


def nothing_moved(conn, owner, last):
    assert [m for m in movements(conn, table="store.inventory_movement", after=last) if m.kind != "total"] == []


def last_movement(conn):
    return conn.execute("SELECT max(movement_id) FROM store.inventory_movement").fetchone()[0]


def shown(owner, key, quantity):
    """The totals worker has caught up: until then the row of a striped item lags."""
    until(
        lambda: owner.execute("SELECT quantity FROM store.inventory WHERE id = %s", (key,)).fetchone() == (quantity,),
        "total",
    )


def test_a_hidden_item_answers_in_the_words_of_an_unknown_one(db, conn, user, mode):
    """Code, message, DETAIL and HINT but for the id, of a striped and of another item, alone and beside any other
    item."""
    owner = shop_in(conn, db, mode)
    secure(owner, user)
    till = db.connect(user=user)
    last = last_movement(conn)
    differ = []
    for style in ("sqlstate", "postgrest"):
        till.execute(f"SET inventory_ext.error_style = '{style}'")
        for name, what in CALLS.items():
            for other in (ONE, TWO, UNKNOWN, THREE, FOUR):
                unknown = learned(till, what, item(0xBAD), other)
                assert unknown[0] == "ERROR" or name in LENIENT
                for hidden in HIDDEN:
                    found = learned(till, what, hidden, other)
                    if hidden != other and found != unknown:
                        differ.append((name, hidden, other, found, unknown))
    assert differ == []
    nothing_moved(conn, owner, last)


def test_an_item_that_a_policy_shows_is_sold_striped_or_not(db, conn, user, mode):
    """The control: under the same policy the same calls on ONE and TWO do what they do without it."""
    owner = shop_in(conn, db, mode)
    secure(owner, user)
    till = db.connect(user=user)
    for name, what in CALLS.items():
        for key, other in ((ONE, TWO), (TWO, ONE)):
            if name not in CUTS:
                assert outcome(till, statement(what, key, other))[1] not in ("IV002", "42501"), name


@pytest.mark.parametrize("key", [ONE, TWO], ids=["striped", "plain"])
@pytest.mark.parametrize("right", ["UPDATE", "SELECT", "SELECT (quantity)"])
def test_an_owner_who_took_a_right_from_itself_is_obeyed(db, conn, user, right, key):
    """Owner mode: without UPDATE nothing is sold, without SELECT nothing is read, whether the item is striped or
    not."""
    owner = shop_in(conn, db, "owner")
    till = db.connect(user=user)
    sell(till, key, 1)
    me = owner.info.user
    owner.execute(f'REVOKE {right.split()[0]} ON store.inventory FROM "{me}"')
    if "(" in right:
        owner.execute(f'GRANT SELECT (id, note) ON store.inventory TO "{me}"')
    last = last_movement(conn)
    calls = SALES | CUTS | (READS if right != "UPDATE" else {})
    other = TWO if key == ONE else ONE
    for session in (till, db.connect(user=user), conn):
        for name, what in calls.items():
            assert outcome(session, statement(what, key, other))[:2] == ("ERROR", "42501"), name
    if right == "UPDATE":
        assert outcome(till, statement(READS["available"], key)) == ("OK", "99")
    nothing_moved(conn, owner, last)
    owner.execute(f'GRANT {right.split()[0]} ON store.inventory TO "{me}"')
    assert sell(till, key, 1)["success"] is True


def test_an_owner_who_took_update_of_the_quantity_alone_is_obeyed(db, conn, user):
    """UPDATE on another column is enough to lock a row, and not to sell from it."""
    owner = shop_in(conn, db, "owner")
    me = owner.info.user
    owner.execute(f'REVOKE UPDATE ON store.inventory FROM "{me}"; GRANT UPDATE (note) ON store.inventory TO "{me}"')
    till = db.connect(user=user)
    for key, other in ((ONE, TWO), (TWO, ONE)):
        for name, what in SALES.items():
            assert outcome(till, statement(what, key, other))[1] == "42501", name


# What a caller of caller mode was granted, and what it may do then.
GRANTS = {
    "nothing": ("", False, False),
    "another column": ("SELECT (id), UPDATE (note)", False, False),
    "id only": ("SELECT (id)", False, False),
    "no update": ("SELECT (id, quantity)", True, False),
    "update of another column": ("SELECT, UPDATE (note)", True, False),
    "update without reading": ("UPDATE", False, False),
    "no reading of the quantity": ("SELECT (id, note), UPDATE", False, False),
    "no reading of the id": ("SELECT (quantity, note), UPDATE", False, False),
    "the two columns": ("SELECT (id, quantity), UPDATE (quantity)", True, True),
    "the table": ("SELECT, UPDATE", True, True),
}


@pytest.mark.parametrize("grants", GRANTS)
def test_caller_mode_asks_for_the_same_grants_striped_or_not(db, conn, user, grants):
    """SELECT on id and quantity, UPDATE on the quantity; what one item allows or refuses, the other does too."""
    owner = shop_in(conn, db, "caller")
    granted, may_read, may_sell = GRANTS[grants]
    if granted:
        owner.execute(f'GRANT {granted} ON store.inventory TO "{user}"')
    last = last_movement(conn)
    till = db.connect(user=user)
    for key, other in ((ONE, TWO), (TWO, ONE), (ONE, THREE), (TWO, FOUR)):
        for name, what in SALES.items():
            found = outcome(till, statement(what, key, other))
            assert (found[:2] != ("ERROR", "42501")) == may_sell, (name, found)
        assert (outcome(till, statement(READS["available"], key))[:2] != ("ERROR", "42501")) == may_read
    if may_sell:
        owner.execute("SELECT unstripe_inventory(%s), unstripe_inventory(%s)", STRIPED)
        audit(owner, "store.inventory", "store.inventory_movement")
    else:
        nothing_moved(conn, owner, last)


def test_caller_mode_asks_a_superuser_for_nothing(db, conn):
    """The owner's policies and grants do not bind a superuser's own statements; here the work is the owner's."""
    shop_in(conn, db, "caller")
    for key in (ONE, TWO):
        assert sell(conn, key, 1)["success"] is True


@pytest.mark.parametrize("policies", ["select all, update some", "update all, select some", "restrictive"])
def test_policies_for_reading_and_for_writing_count_alike_striped_or_not(db, conn, user, policies):
    """A row that may be read and not updated, and the reverse: striped and plain items give the same results."""
    owner = shop_in(conn, db, "caller")
    seen = f"id IN ('{ONE}', '{TWO}')"
    owner.execute(
        f'GRANT SELECT, UPDATE ON store.inventory TO "{user}"; ALTER TABLE store.inventory ENABLE ROW LEVEL SECURITY'
    )
    reads, writes = {
        "select all, update some": ("true", seen), "update all, select some": (seen, "true"),
        "restrictive": ("true", "true"),
    }[policies]  # fmt: skip
    owner.execute(
        f"""CREATE POLICY reads ON store.inventory FOR SELECT USING ({reads});
            CREATE POLICY writes ON store.inventory FOR UPDATE USING ({writes})"""
    )
    if policies == "restrictive":
        owner.execute(f"CREATE POLICY less ON store.inventory AS RESTRICTIVE FOR UPDATE USING ({seen})")
    till = db.connect(user=user)
    for name, what in (SALES | READS).items():
        for striped, plain in ((THREE, FOUR), (ONE, TWO)):
            found = [outcome(till, statement(what, key, other)) for key, other in ((striped, plain), (plain, striped))]
            assert found[0][0] == found[1][0], (name, found)
            if found[0][0] == "ERROR":
                assert reason(found[0]) in ("IV002 unknown_item", "IV002 short_lines", reason(found[1])), (name, found)


def test_a_role_of_one_session_sees_its_own_items_only(db, conn):
    """A pooled connection that changes roles: nothing that one role was shown, striped or not, is kept for the next."""
    owner = shop_in(conn, db, "caller")
    red, blue = (clerk(conn, db, name) for name in ("red", "blue"))
    for role, keys in ((red, (ONE, TWO)), (blue, (THREE, FOUR))):
        owner.execute(f"UPDATE store.inventory SET note = '{role}' WHERE id IN ('{keys[0]}', '{keys[1]}')")
        owner.execute(f'GRANT SELECT, UPDATE ON store.inventory TO "{role}"')
    secure(owner, using="note = current_user", force=False)
    pooled = db.connect()
    for _ in range(4):
        for role, own, foreign in ((red, (ONE, TWO), (THREE, FOUR)), (blue, (THREE, FOUR), (ONE, TWO))):
            pooled.execute(f'SET ROLE "{role}"')
            for key in own:
                assert sell(pooled, key, 1)["success"] is True
            for name, what in CALLS.items():
                for key in foreign:
                    found = outcome(pooled, statement(what, key, own[0]))
                    assert found[:2] in (("ERROR", "IV002"), ("OK", found[1])) and (
                        found[0] == "ERROR" or "order" in name
                    ), name
    pooled.execute("RESET ROLE")


@pytest.mark.parametrize(
    ("run_as", "companions", "policy"),
    [
        *(("owner", [table], "false") for table in COMPANIONS),
        ("owner", COMPANIONS, "none"),
        ("caller", COMPANIONS, "false"),
    ],
    ids=[*COMPANIONS, "all, no policy", "all, caller mode"],
)
def test_row_level_security_on_a_companion_stops_nothing(db, conn, user, run_as, companions, policy):
    """Enabled and forced, without a policy and with one that shows nothing: keys, stripes, ledger, purge, detach,
    attach."""
    owner = shop_in(conn, db, run_as)
    owner.execute(f'GRANT SELECT, UPDATE ON store.inventory TO "{user}"')
    for table in companions:
        force(owner, table, policy)
    till = db.connect(user=user)
    for row_security in ("on", "off"):
        till.execute(f"SET row_security = {row_security}")
        key = f"key {row_security}"
        first = call(till, "restock_inventory", p_inventory_id=ONE, p_quantity=2, p_idempotency_key=key)
        again = call(till, "restock_inventory", p_inventory_id=ONE, p_quantity=2, p_idempotency_key=key)
        assert again == {**first, "replayed": True}
        sell(till, ONE, 60)
        order(till, (ONE, 1), (TWO, 1), p_idempotency_key=f"order {row_security}")
        call(till, "transfer_inventory", p_from=TWO, p_to=ONE, p_quantity=60 if row_security == "on" else 1)
        call(till, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=100)
    available = till.execute("SELECT available_inventory(%s)", (ONE,)).fetchone()[0]
    assert available == 100
    shown(conn, ONE, 100)
    owner.execute("SELECT stripe_inventory(%s, 3)", (TWO,))
    till.execute("RESET row_security")
    sell(till, TWO, 1)
    assert till.execute("SELECT purge_requests('0')").fetchone()[0] == 4
    assert keys_kept(conn, "store.inventory_request") == []
    sell(till, THREE, 40)
    owner.execute("SELECT detach_inventory()")
    assert dict(conn.execute("SELECT id, quantity FROM store.inventory").fetchall())[THREE] == 60
    attach(owner, "store.inventory", p_run_as=run_as)
    assert conn.execute("SELECT count(*) FROM store.inventory_movement WHERE kind = 'opening'").fetchone()[0] == len(
        STOCK
    )
    audit(conn, "store.inventory", "store.inventory_movement")


def force(owner, table, policy="none"):
    owner.execute(f"ALTER TABLE store.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    if policy == "false":
        owner.execute(f"CREATE POLICY nothing ON store.{table} USING (false) WITH CHECK (false)")


@pytest.mark.parametrize("companion", COMPANIONS)
def test_row_security_off_in_the_database_stops_nothing(db, conn, user, companion):
    """With it PostgreSQL raises an error where a policy would hide rows, in the totals worker too."""
    owner = shop_in(conn, db, "owner")
    force(owner, companion)
    conn.execute(f"ALTER DATABASE {db.name} SET row_security = off")
    till = db.connect(user=user)
    sell(till, ONE, 1)
    call(till, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")
    assert call(till, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")["replayed"] is True
    shown(conn, ONE, 99)


def test_forced_row_level_security_follows_the_callers_setting_for_striped_items(db, conn, user):
    """Owner mode, a policy by a setting as Supabase writes them: the till of one tenant sells nothing of the other."""
    owner = shop_in(conn, db, "owner")
    owner.execute("UPDATE store.inventory SET note = CASE WHEN id IN (%s, %s) THEN 'anna' ELSE 'bert' END", SEEN)
    secure(owner, using="note = current_setting('shop.tenant', true)")
    till = db.connect(user=user)
    for tenant, own, foreign in (("anna", SEEN, HIDDEN), ("bert", HIDDEN, SEEN), ("anna", SEEN, HIDDEN)):
        till.execute("SELECT set_config('shop.tenant', %s, false)", (tenant,))
        for key in own:
            assert sell(till, key, 1)["success"] is True
        for key in foreign:
            assert refused(till, "SELECT decrement_inventory(%s, 1)", (key,)).sqlstate == "IV002"
            assert outcome(till, statement("available_inventory('{item}')", key))[1] == "IV002"
    till.execute("RESET shop.tenant")
    for key in STOCK:
        assert refused(till, "SELECT decrement_inventory(%s, 1)", (key,)).sqlstate == "IV002"


def test_detach_puts_stripes_together_that_a_policy_hides_from_the_owner(db, conn, user):
    """In the session that striped and in a new one: nothing that was sold comes back."""
    owner = shop_in(conn, db, "owner")
    secure(owner, using="note = current_setting('shop.tenant', true) OR note IS NULL")
    till = db.connect(user=user, autocommit=False)
    for session in (owner, db.connect(user=owner.info.user)):
        session.execute("SELECT stripe_inventory(%s, 3)", (TWO,))
        sell(till, TWO, 4)
        conn.execute("UPDATE store.inventory SET note = 'anna'")
        detaching = Aside(session.execute, "SELECT detach_inventory()")
        until_waiting(conn, session)
        till.commit()  # so that the totals worker has not written the row before
        detaching.result()
        found = dict(conn.execute("SELECT id, quantity FROM store.inventory").fetchall())
        assert found[TWO] == 96
        assert conn.execute("SELECT count(*) FROM store.inventory_stripe").fetchone()[0] == 0
        conn.execute("UPDATE store.inventory SET note = NULL")
        conn.execute("UPDATE store.inventory SET quantity = 100 WHERE id = %s", (TWO,))
        attach(owner, "store.inventory")
    audit(conn, "store.inventory", "store.inventory_movement")


def test_a_key_makes_no_difference_for_a_hidden_item(db, conn, user, mode):
    """The call with a key is refused in the same words, and leaves no key behind."""
    owner = shop_in(conn, db, mode)
    secure(owner, user)
    till = db.connect(user=user)
    for name, what in SALES.items():
        for hidden in HIDDEN:
            if name not in LENIENT:
                without = outcome(till, statement(what, hidden, TWO))
                assert without[1] == "IV002", name
                assert with_key(till, "key", statement(what, hidden, TWO)) == without, name
    assert keys_kept(conn, "store.inventory_request") == []


def test_a_member_of_the_owner_is_bound_like_the_owner(db, conn):
    """The owner's rights reach members by inheritance; FORCE binds them too, striped or not, in caller mode."""
    owner = shop_in(conn, db, "caller")
    member = clerk(conn, db, "member")
    conn.execute(f'GRANT "{owner.info.user}" TO "{member}"')
    secure(owner)
    till = db.connect(user=member)
    for name, what in CALLS.items():
        if name in LENIENT:
            continue
        for hidden, other in ((THREE, ONE), (FOUR, ONE)):
            assert outcome(till, statement(what, hidden, other))[1] == "IV002", name
    for key in SEEN:
        assert sell(till, key, 1)["success"] is True
