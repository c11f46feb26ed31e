"""A stock table and its companions have one owner, or nothing is sold.

Statements on the stock table and on its companions run as their owner, with the stock table's schema in the
search_path. With the ledger of one role and the table and schema of another, either could plant code that runs as the
other.
"""

import pytest

from attack_parties import CALLS, COMPANIONS, EXECUTE, clerk, outcome, owned_shop, reason, statement
from books import audit, call
from shop import ONE, TWO, UNKNOWN, create_role, fill, refused, sell, attach


@pytest.fixture
def conn(db):
    """The superuser."""
    return db.connect()


@pytest.fixture
def mallory(conn, db):
    mallory = create_role(conn, db, "mallory")
    conn.execute(f'GRANT EXECUTE ON FUNCTION {EXECUTE} TO "{mallory}"')
    return mallory


def is_superuser(conn, role):
    return conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (role,)).fetchone()[0]


STAMP = """
    CREATE FUNCTION public.tag() RETURNS text LANGUAGE sql AS 'SELECT current_user::text';
    CREATE FUNCTION public.stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM tag(); RETURN NEW; END $$;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC;
"""
TRAP = """
    CREATE FUNCTION store.tag() RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN EXECUTE format('ALTER ROLE %I SUPERUSER', '{mallory}'); RETURN 'x'; END $$
"""


@pytest.mark.parametrize("companion", COMPANIONS)
@pytest.mark.parametrize("striped", [True, False])
def test_who_was_given_the_table_and_its_schema_does_not_run_code_as_the_owner_of_a_companion(
    conn, db, mallory, companion, striped
):
    """A superuser's ledger has a trigger that names a function without a schema, and the schema is mallory's by now."""
    conn.execute("CREATE SCHEMA store; CREATE TABLE store.inventory (id uuid PRIMARY KEY, quantity integer)")
    fill(conn, {ONE: 10, TWO: 10}, "store.inventory")
    attach(conn, "store.inventory")
    if striped:
        conn.execute("SELECT stripe_inventory(%s, 2)", (ONE,))
    conn.execute(STAMP)
    conn.execute(
        f"CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON store.{companion} FOR EACH ROW "
        f"EXECUTE FUNCTION public.stamp()"
    )
    conn.execute(f'ALTER SCHEMA store OWNER TO "{mallory}"; ALTER TABLE store.inventory OWNER TO "{mallory}"')
    session = db.connect(user=mallory)
    session.execute(TRAP.format(mallory=mallory))
    for call_ in ("decrement_inventory('{item}', 1)", "restock_inventory('{item}', 1, NULL, 'key')"):
        assert reason(outcome(session, statement(call_))) == "55000 companion_changed"
    assert not is_superuser(conn, mallory)


@pytest.mark.parametrize("companion", COMPANIONS)
def test_who_was_given_a_companion_runs_no_code_at_anothers_sale(conn, db, mallory, companion):
    """Every function, of a session that has sold before and of a new one, and the owner's own direct write."""
    owner = owned_shop(conn, db)
    till = db.connect(user=clerk(conn, db))
    sell(till, ONE, 1)
    sell(till, TWO, 1)
    conn.execute(
        f'GRANT CREATE, USAGE ON SCHEMA store TO "{mallory}"; ALTER TABLE store.{companion} OWNER TO "{mallory}"'
    )
    db.connect(user=mallory).execute(
        f"""CREATE FUNCTION store.climb() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'the code of mallory runs as %', current_user; END $$;
            CREATE TRIGGER climb BEFORE INSERT OR UPDATE OR DELETE ON store.{companion}
                FOR EACH STATEMENT EXECUTE FUNCTION store.climb()"""
    )
    with db.connect(user=till.info.user) as fresh:
        for name, what in CALLS.items():
            for session in (till, fresh, conn):
                assert reason(outcome(session, statement(what))) == "55000 companion_changed", name
                assert reason(outcome(session, statement(what, TWO, ONE))) == "55000 companion_changed", name
    found = refused(owner, "UPDATE store.inventory SET quantity = 5 WHERE id = %s", (TWO,))
    assert (found.sqlstate, found.reason) == ("55000", "companion_changed")
    conn.execute(f'DROP FUNCTION store.climb CASCADE; ALTER TABLE store.{companion} OWNER TO "{owner.info.user}"')
    sell(till, ONE, 1)
    sell(till, TWO, 1)
    owner.execute("SELECT unstripe_inventory(%s)", (ONE,))
    audit(owner, "store.inventory", "store.inventory_movement")


def test_the_stock_table_alone_in_other_hands_is_not_sold_from(conn, db, mallory):
    """Neither by the new owner nor by the old one, who still owns the ledger."""
    owner = owned_shop(conn, db)
    sell(owner, ONE, 1)
    conn.execute(f'ALTER TABLE store.inventory OWNER TO "{mallory}"')
    for session in (owner, db.connect(user=mallory), conn):
        for key in (ONE, TWO):
            assert (
                reason(outcome(session, statement("decrement_inventory('{item}', 1)", key)))
                == "55000 companion_changed"
            )
    conn.execute(f'ALTER TABLE store.inventory OWNER TO "{owner.info.user}"')
    assert sell(owner, TWO, 1)["new_quantity"] == 99


@pytest.mark.parametrize("way", ["REASSIGN OWNED", "ALTER TABLE"])
def test_a_shop_that_is_handed_over_as_a_whole_goes_on(conn, db, mallory, way):
    """All companions with it: the next sale, of a session that has sold before too, runs as the new owner."""
    owner = owned_shop(conn, db)
    till = db.connect(user=clerk(conn, db))
    sell(till, ONE, 1)
    conn.execute(f'GRANT USAGE, CREATE ON SCHEMA store TO "{mallory}"')
    if way == "REASSIGN OWNED":
        conn.execute(f'REASSIGN OWNED BY "{owner.info.user}" TO "{mallory}"')
    else:
        tables = ["inventory", *COMPANIONS]
        conn.execute("".join(f'ALTER TABLE IF EXISTS store.{table} OWNER TO "{mallory}";' for table in tables))
    sell(till, ONE, 1)
    sell(till, TWO, 1)
    first = call(till, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")
    again = call(till, "restock_inventory", p_inventory_id=TWO, p_quantity=1, p_idempotency_key="k")
    assert again == {**first, "replayed": True}
    heir = db.connect(user=mallory)
    heir.execute("SELECT unstripe_inventory(%s)", (ONE,))
    audit(heir, "store.inventory", "store.inventory_movement")


@pytest.mark.parametrize("companion", COMPANIONS)
def test_detach_with_a_companion_in_other_hands_runs_none_of_its_code(conn, db, mallory, companion):
    """Neither the owner nor a superuser who detaches lends mallory a role; no unit is lost when it is attached
    again."""
    owner = owned_shop(conn, db)
    sell(owner, ONE, 30)
    conn.execute(
        f'GRANT CREATE, USAGE ON SCHEMA store TO "{mallory}"; ALTER TABLE store.{companion} OWNER TO "{mallory}"'
    )
    db.connect(user=mallory).execute(
        f"""CREATE TABLE store.ran (who name);
            GRANT INSERT ON store.ran TO PUBLIC;
            CREATE FUNCTION store.climb() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO store.ran VALUES (current_user); RETURN coalesce(NEW, OLD); END $$;
            CREATE TRIGGER climb BEFORE INSERT OR UPDATE OR DELETE ON store.{companion}
                FOR EACH ROW EXECUTE FUNCTION store.climb()"""
    )
    for session in (owner, conn):
        outcome(session, "SELECT detach_inventory()")
    ran = {who for (who,) in conn.execute("SELECT who FROM store.ran").fetchall()}
    assert ran <= {mallory}
    conn.execute(f'DROP FUNCTION store.climb CASCADE; ALTER TABLE store.{companion} OWNER TO "{owner.info.user}"')
    if conn.execute("SELECT count(*) FROM inventory_attachment").fetchone()[0]:
        owner.execute("SELECT detach_inventory()")
    attach(owner, "store.inventory")
    assert owner.execute("SELECT available_inventory(%s)", (ONE,)).fetchone()[0] == 70
    audit(owner, "store.inventory", "store.inventory_movement")


# What transfer_inventory may be given: (name, visible, striped); the first two ids are the lowest and the highest.
ITEMS = {
    "hidden striped": "00000000-0000-4000-8000-000000000001",
    "hidden plain": "00000000-0000-4000-8000-000000000002",
    "unknown": str(UNKNOWN),
    "hidden plain, high": "f0000000-0000-4000-8000-000000000001",
    "hidden striped, high": "f0000000-0000-4000-8000-000000000002",
    "unknown, high": "f0000000-0000-4000-8000-000000000003",
    "seen striped": "80000000-0000-4000-8000-000000000001",
    "seen plain": "80000000-0000-4000-8000-000000000002",
}


@pytest.mark.parametrize("mode", ["owner", "caller"])
def test_transfer_names_the_first_item_in_argument_order_that_the_caller_cannot_see(conn, db, mode):
    """Hidden or unknown, striped or not, whichever id is lower: the words tell nothing about which items exist."""
    stock = {key: 100 for name, key in ITEMS.items() if not name.startswith("unknown")}
    striped = [key for name, key in ITEMS.items() if "striped" in name]
    owner = owned_shop(conn, db, stock, striped=striped, p_run_as=mode)
    user = clerk(conn, db)
    seen = ", ".join(f"'{key}'" for name, key in ITEMS.items() if name.startswith("seen"))
    owner.execute(
        f"""ALTER TABLE store.inventory ENABLE ROW LEVEL SECURITY; ALTER TABLE store.inventory FORCE ROW LEVEL SECURITY;
            CREATE POLICY seen ON store.inventory USING (id IN ({seen}));
            GRANT USAGE ON SCHEMA store TO "{user}"; GRANT SELECT, UPDATE ON store.inventory TO "{user}" """
    )
    till = db.connect(user=user)
    for first, source in ITEMS.items():
        for second, target in ITEMS.items():
            if first == second or (first.startswith("seen") and second.startswith("seen")):
                continue
            missing = target if first.startswith("seen") else source
            for quantity in (1, 1000000):
                found = refused(till, "SELECT transfer_inventory(%s, %s, %s)", (source, target, quantity))
                if found.sqlstate == "IV001":
                    assert quantity > 1 and missing == target, (first, second)
                    continue
                assert found.sqlstate == "IV002", (first, second)
                assert found.detail == f'{{"reason": "unknown_item", "inventory_id": "{missing}"}}', (first, second)


def test_a_shortage_of_the_source_does_not_tell_a_hidden_target_from_an_unknown_one(conn, db):
    """What is found first, the shortage or the missing target, is the same for both."""
    stock = {key: 100 for name, key in ITEMS.items() if not name.startswith("unknown")}
    owner = owned_shop(
        conn, db, stock, striped=[key for name, key in ITEMS.items() if "striped" in name], p_run_as="caller"
    )
    user = clerk(conn, db)
    seen = ", ".join(f"'{key}'" for name, key in ITEMS.items() if name.startswith("seen"))
    owner.execute(
        f"""ALTER TABLE store.inventory ENABLE ROW LEVEL SECURITY;
            CREATE POLICY seen ON store.inventory USING (id IN ({seen}));
            GRANT USAGE ON SCHEMA store TO "{user}"; GRANT SELECT, UPDATE ON store.inventory TO "{user}" """
    )
    till = db.connect(user=user)
    for source in ("seen striped", "seen plain"):
        words = set()
        for target, key in ITEMS.items():
            if not target.startswith("seen"):
                found = outcome(till, "SELECT transfer_inventory(%s, %s, 1000)", (ITEMS[source], key))
                words.add(tuple(part.replace(key, "THE ITEM") for part in found))
        assert len(words) == 1
