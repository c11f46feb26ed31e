"""A statement that was planned for one identity is not used under another.

Whether a policy of the stock table is obeyed depends on who acts: sales obey forced row-level security; detach and the
totals worker read the whole table. Plans are kept, so each call is made in sessions that ran the same statement
before under the other rule. A hidden item is unknown, no error shows its quantity, and detach loses no unit. A striped
and a plain item stand for the two ways in which stock is kept.
"""

import pytest

from books import audit_soon, call, lines, refused_call, stripes_of
from selling_calls import (
    SELLING,
    arguments,
    available,
    detach,
    make,
    refused_available,
    refused_make,
    shop_owner,
    stripe,
    worker,
)
from shop import ONE, TWO, attach, create_role, fill, item, left, refused, sell, until

PLAIN, STRIPED, OPEN = ONE, TWO, item(3)
POLICY = "CREATE POLICY own ON inventory USING (tenant IS NULL OR tenant = current_setting('shop.tenant', true))"
FORCE = "ALTER TABLE inventory ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
TABLE = "CREATE TABLE inventory (id uuid {key}, tenant text, quantity integer)"


class Shop:
    """A stock table of an owner who is no superuser: two items of the tenant anna and one of no tenant."""

    def __init__(self, db, run_as="owner", partitioned=False):
        self.db = db
        self.root = db.connect()
        self.reader = db.connect()
        self.owner_role, self.owner = shop_owner(self.root, db)
        self.till_role, self.till = worker(self.root, db, "till")
        self.owner.execute(TABLE.format(key="PRIMARY KEY") + (" PARTITION BY HASH (id)" if partitioned else ""))
        for part in range(2 if partitioned else 0):
            self.owner.execute(
                f"CREATE TABLE part{part} PARTITION OF inventory FOR VALUES WITH (MODULUS 2, REMAINDER {part})"
            )
        fill(self.owner, {PLAIN: 10, STRIPED: 100, OPEN: 10})
        self.owner.execute(f"UPDATE inventory SET tenant = 'anna' WHERE id <> '{OPEN}'")
        self.owner.execute(POLICY)
        if run_as == "caller":
            self.owner.execute(f'GRANT SELECT, UPDATE ON inventory TO "{self.till_role}"')
        attach(self.owner, p_run_as=run_as)
        stripe(self.owner, STRIPED)

    def force(self):
        self.owner.execute(FORCE)

    def quantities(self) -> dict:
        """What each item has, as the superuser reads it."""
        striped = sum(stripes_of(self.reader, STRIPED).values())
        return {PLAIN: left(self.reader, PLAIN), STRIPED: striped, OPEN: left(self.reader, OPEN)}


def tenant(conn, name):
    conn.execute("SELECT set_config('shop.tenant', %s, false)", (name,))


def assert_unknown(answer, hidden):
    """The error of an item that does not exist; no figure of the hidden one stands in any part of it."""
    assert (answer.sqlstate, answer.reason) in (("IV002", "unknown_item"), ("IV002", "short_lines")), answer
    named = answer.facts if answer.reason == "unknown_item" else answer.facts["lines"][0]
    assert (named["reason"], named["inventory_id"]) == ("unknown_item", str(hidden))
    assert set(named) <= {"reason", "inventory_id", "requested", "reference"}
    assert answer.message == "Inventory item not found"


def assert_all_hidden(conn):
    """Every function, both hidden items, with what is there and with far more."""
    for hidden in (PLAIN, STRIPED):
        for function in SELLING:
            for quantity in (2, 1000000):
                assert_unknown(refused_make(conn, function, hidden, OPEN, quantity), hidden)
        assert_unknown(refused_call(conn, "transfer_inventory", p_from=OPEN, p_to=hidden, p_quantity=1), hidden)
        assert_unknown(refused_available(conn, hidden), hidden)
        for word in ("skip", "partial"):
            answer = call(conn, "decrement_inventory_batch", p_items=lines((hidden, 2)), p_on_shortage=word)
            assert answer["lines"] == []
            assert answer["short"] == [{"reason": "unknown_item", "inventory_id": str(hidden), "requested": 2}]


def assert_all_shown(conn):
    for shown in (PLAIN, STRIPED):
        assert sell(conn, shown, 1)["deducted"] == 1
        assert call(conn, "restock_inventory", p_inventory_id=shown, p_quantity=1)["added"] == 1
        answer = call(conn, "decrement_inventory_batch", p_items=lines((shown, 1)))
        assert answer["lines"][0]["deducted"] == 1
        call(conn, "transfer_inventory", p_from=OPEN, p_to=shown, p_quantity=1)
        call(conn, "transfer_inventory", p_from=shown, p_to=OPEN, p_quantity=1)
        has = available(conn, shown)
        assert call(conn, "adjust_inventory", p_inventory_id=shown, p_counted_quantity=has + 1)["adjusted"] == 1


def test_no_function_finds_or_measures_an_item_that_forced_security_hides(db):
    """The striped item was sold, restocked and measured before: forced security was obeyed for plain items only."""
    market = Shop(db)
    market.force()
    before = market.quantities()
    assert_all_hidden(market.till)
    assert_all_hidden(market.root)
    assert_all_hidden(market.owner)
    assert market.quantities() == before
    tenant(market.till, "anna")
    assert_all_shown(market.till)
    tenant(market.till, "bert")
    assert_all_hidden(market.till)


def test_plans_made_while_security_was_not_forced_hide_what_is_hidden_now(db):
    """Warm sessions of the owner, a caller and a superuser, through each change of the rule."""
    market = Shop(db)
    sessions = (market.till, market.owner, market.root)
    for _ in range(2):
        for session in sessions:
            assert_all_shown(session)
        market.force()
        for session in sessions:
            assert_all_hidden(session)
            tenant(session, "anna")
            assert_all_shown(session)
            tenant(session, "")
        market.owner.execute("ALTER TABLE inventory NO FORCE ROW LEVEL SECURITY")
    market.owner.execute("ALTER TABLE inventory DISABLE ROW LEVEL SECURITY")
    for session in sessions:
        assert_all_shown(session)


def test_a_rule_that_is_rolled_back_takes_its_plans_with_it(db):
    """Within one transaction of the owner: forced, not forced, forced again by the rollback."""
    market = Shop(db)
    market.force()
    owner = market.owner
    owner.execute("BEGIN")
    owner.execute("SAVEPOINT here")
    owner.execute("ALTER TABLE inventory NO FORCE ROW LEVEL SECURITY")
    assert_all_shown(owner)
    owner.execute("ROLLBACK TO here")
    for hidden in (PLAIN, STRIPED):
        assert_unknown(refused(owner, "SELECT decrement_inventory(%s, 1)", (hidden,)), hidden)
        owner.execute("ROLLBACK TO here")
    owner.execute("COMMIT")
    assert_all_hidden(owner)
    assert market.quantities() == {PLAIN: 10, STRIPED: 100, OPEN: 10}


def test_one_session_that_is_three_roles_in_caller_mode_sees_as_each_of_them(db):
    """A superuser who is not the owner acts as the owner and sees all rows: the same role, and not the same plans."""
    market = Shop(db, run_as="caller")
    market.force()
    for _ in range(3):
        assert_all_shown(market.root)
        market.root.execute(f'SET ROLE "{market.owner_role}"')
        assert_all_hidden(market.root)
        tenant(market.root, "anna")
        assert_all_shown(market.root)
        market.root.execute(f'SET ROLE "{market.till_role}"')
        assert_all_shown(market.root)
        tenant(market.root, "")
        assert_all_hidden(market.root)
        market.root.execute("RESET ROLE")
    audit_soon(market.reader)


def test_a_policy_by_role_is_decided_for_the_role_that_acts(db):
    """In owner mode that is the owner, for every caller; the session's own role decides nothing."""
    market = Shop(db)
    market.owner.execute(f"DROP POLICY own ON inventory; CREATE POLICY own ON inventory USING (tenant IS NULL OR"
                          f" current_user = '{market.till_role}')")  # fmt: skip
    market.force()
    for session in (market.till, market.owner, market.root):
        assert_all_hidden(session)
    market.owner.execute(f"DROP POLICY own ON inventory; CREATE POLICY own ON inventory USING"
                          f" (current_user = '{market.owner_role}')")  # fmt: skip
    for session in (market.till, market.owner, market.root):
        assert_all_shown(session)


def test_an_item_that_may_be_seen_and_not_updated_is_not_sold_striped_or_not(db):
    """Policies for SELECT let the row pass, those for UPDATE do not: unknown for every change, and measured exactly."""
    market = Shop(db)
    market.owner.execute(
        "DROP POLICY own ON inventory; CREATE POLICY see ON inventory FOR SELECT USING (true);"
        f"CREATE POLICY change ON inventory FOR UPDATE USING (id = '{OPEN}')"
    )
    market.force()
    for hidden in (PLAIN, STRIPED):
        for function in SELLING:
            assert_unknown(refused_make(market.till, function, hidden, OPEN), hidden)
    assert (available(market.till, PLAIN), available(market.till, STRIPED)) == (10, 100)
    assert market.quantities() == {PLAIN: 10, STRIPED: 100, OPEN: 10}


BREAK = """
    CREATE FUNCTION close() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF current_setting('shop.closed', true) = 'yes' THEN RAISE 'closed'; END IF; RETURN NEW; END $$;
    CREATE TRIGGER close BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION close();
"""


@pytest.mark.parametrize("function", [name for name in SELLING if name != "decrement_inventory"])
@pytest.mark.parametrize("who", ["owner", "root"])
def test_a_detach_that_failed_leaves_no_plan_that_reads_hidden_items(db, who, function):
    """IV007 named the quantity of a hidden item: its row was locked by a plan of detach, which sees all rows."""
    market = Shop(db)
    market.owner.execute(BREAK)
    market.force()
    session = getattr(market, who)
    session.execute("SET shop.closed = 'yes'")
    assert refused(session, "SELECT detach_inventory()").sqlstate == "P0001"
    session.execute("RESET shop.closed")
    assert_unknown(refused_make(session, function, PLAIN, OPEN), PLAIN)
    assert_unknown(refused_make(session, function, STRIPED, OPEN), STRIPED)
    assert market.quantities() == {PLAIN: 10, STRIPED: 100, OPEN: 10}
    tenant(session, "anna")
    assert_all_shown(session)


@pytest.mark.parametrize("run_as", ["owner", "caller"])
@pytest.mark.parametrize("warm", ["owner", "root", "switched"])
@pytest.mark.parametrize("partitioned", [False, True])
def test_detach_puts_hidden_items_together_in_a_session_that_obeyed_the_policy_before(db, run_as, warm, partitioned):
    """The stripes of an item that the policy hides by now stayed behind, and with them the units that were sold."""
    market = Shop(db, run_as, partitioned)
    market.force()
    session = market.owner if warm == "owner" else market.root
    if warm == "switched":
        session.execute(f'SET ROLE "{market.owner_role}"')
    tenant(session, "anna")
    for function in ("decrement_inventory_batch", "restock_inventory", "transfer_inventory"):
        make(session, function, PLAIN, OPEN, 2)
        make(session, function, STRIPED, OPEN, 2)
    tenant(market.till, "anna")
    sell(market.till, STRIPED, 30)
    tenant(session, "")
    detach(session)
    assert (left(market.reader, STRIPED), left(market.reader, PLAIN)) == (68, 8)
    assert stripes_of(market.reader, STRIPED) == {}
    audit_soon(market.reader)
    attach(market.owner, p_run_as=run_as)
    audit_soon(market.reader)
    assert left(market.reader, STRIPED) == 68


def test_a_detach_that_is_rolled_back_leaves_the_policy_in_force(db):
    market = Shop(db)
    market.force()
    for session in (market.owner, market.root):
        session.execute("BEGIN")
        detach(session)
        session.execute("ROLLBACK")
        assert_all_hidden(session)
    assert market.quantities() == {PLAIN: 10, STRIPED: 100, OPEN: 10}


def test_row_security_off_in_the_session_opens_nothing(db):
    """PostgreSQL raises 42501 where a policy would filter; a striped item was sold all the same."""
    market = Shop(db)
    market.force()
    tenant(market.till, "anna")
    assert_all_shown(market.till)
    before = market.quantities()
    for name in ("anna", ""):
        tenant(market.till, name)
        market.till.execute("SET row_security = off")
        for shown in (PLAIN, STRIPED):
            for function in SELLING:
                answer = refused_make(market.till, function, shown, OPEN)
                assert answer.sqlstate in ("42501", "IV002"), (function, answer)
                assert answer.sqlstate == "42501" or "unknown_item" in answer.detail
            assert refused_available(market.till, shown).sqlstate in ("42501", "IV002")
        market.till.execute("SET row_security = on")
    assert market.quantities() == before
    assert_all_hidden(market.till)
    tenant(market.till, "anna")
    assert_all_shown(market.till)


def test_row_security_off_is_no_hindrance_where_no_policy_binds_the_owner(db):
    """Also for attach, detach and stripe; only the database's default and a caller's setting are tried."""
    market = Shop(db)
    market.force()
    market.root.execute(f"ALTER DATABASE {db.name} SET row_security = off")
    owner, till = db.connect(user=market.owner_role), db.connect(user=market.till_role)
    detach(owner)
    assert left(market.root, STRIPED) == 100
    market.root.execute("ALTER TABLE inventory NO FORCE ROW LEVEL SECURITY")
    attach(owner)
    stripe(owner, STRIPED)
    assert_all_shown(till)
    assert_all_shown(owner)
    market.owner.execute("ALTER TABLE inventory FORCE ROW LEVEL SECURITY")
    for hidden in (PLAIN, STRIPED):
        assert refused_make(till, "decrement_inventory", hidden, OPEN).sqlstate in ("42501", "IV002")


def test_the_totals_worker_writes_the_row_of_an_item_that_is_hidden_from_the_owner(db):
    """Also where sessions default to row_security = off, and while the tills see nothing of it."""
    market = Shop(db)
    market.root.execute(f"ALTER DATABASE {db.name} SET row_security = off")
    tenant(market.till, "anna")
    sell(market.till, STRIPED, 7)
    market.force()
    until(lambda: left(market.root, STRIPED) == 93, "the row shows the total")
    tenant(market.till, "")
    assert_unknown(refused_make(market.till, "decrement_inventory", STRIPED, OPEN), STRIPED)


@pytest.mark.parametrize("style", ["sqlstate", "postgrest"])
def test_a_hidden_striped_item_has_the_error_of_an_item_that_does_not_exist(db, style):
    """Byte for byte but for the id, for every call; in caller mode as in owner mode."""
    market = Shop(db)
    market.force()
    market.till.execute(f"SET inventory_ext.error_style = '{style}'")
    missing = item(0xDEAD)
    for function in SELLING:
        for quantity in (1, 100, 101):
            hidden = refused_make(market.till, function, STRIPED, OPEN, quantity)
            unknown = refused_make(market.till, function, missing, OPEN, quantity)
            assert hidden.sqlstate == unknown.sqlstate == {"sqlstate": "IV002", "postgrest": "PT404"}[style]
            assert hidden.detail == unknown.detail.replace(str(missing), str(STRIPED))
            assert (hidden.message, hidden.hint) == (unknown.message, unknown.hint)


def test_transfers_between_a_hidden_and_an_unknown_item_name_the_first_argument(db):
    """Which of the two is striped, and which is hidden, cannot be read from the error."""
    market = Shop(db)
    market.force()
    missing = item(0xDEAD)
    for first, second in ((STRIPED, missing), (missing, STRIPED), (PLAIN, STRIPED), (STRIPED, PLAIN), (PLAIN, missing)):
        answer = refused_call(market.till, "transfer_inventory", p_from=first, p_to=second, p_quantity=1)
        assert_unknown(answer, first)
    for first, second in ((OPEN, STRIPED), (OPEN, PLAIN), (OPEN, missing)):
        answer = refused_call(market.till, "transfer_inventory", p_from=first, p_to=second, p_quantity=1)
        assert_unknown(answer, second)


def test_a_key_does_not_open_the_stored_result_of_an_item_that_is_hidden_by_now(db):
    """In caller mode: the rights and the item are looked at before the key."""
    market = Shop(db, run_as="caller")
    market.force()
    tenant(market.till, "anna")
    other_role = create_role(market.root, db, "other")
    market.root.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{other_role}"')
    other = db.connect(user=other_role)
    for number, (function, target) in enumerate((f, i) for f in ("restock_inventory", "transfer_inventory")
                                                for i in (PLAIN, STRIPED)):  # fmt: skip
        keyed = arguments(function, target, OPEN) | {"p_idempotency_key": f"key {number}"}
        call(market.till, function, **keyed)
        tenant(market.till, "bert")
        assert_unknown(refused_call(market.till, function, **keyed), target)
        tenant(market.till, "anna")
        assert call(market.till, function, **keyed)["replayed"] is True
        assert refused_call(other, function, **keyed).sqlstate == "42501"
