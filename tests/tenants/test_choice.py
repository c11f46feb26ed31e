"""Which of several stock tables a call means: the setting, else the search_path, else the only one there is.

Before several could be attached, every call meant the one table of the database: a tenant whose schema was made from
that of another sold from the other's stock, and was told of success.
"""

import pytest

from books import call, refused_call
from shop import ONE, TWO, UNKNOWN, attach, create_role, fill, refused, refused_attach, refused_sale, sell
from tenants import EXECUTE, tenant


@pytest.fixture
def anna(db):
    return tenant(db, db.connect(), "anna", {ONE: 10, TWO: 10})


@pytest.fixture
def bert(db, anna):
    return tenant(db, anna.admin, "bert", {ONE: 500, TWO: 500})


def test_each_till_sells_its_own_stock_of_the_same_item(anna, bert):
    for _ in range(2):  # the second round of sales finds both tables in the caches of its session
        assert sell(anna.session(), ONE, 1)["success"] and sell(bert.session(), ONE, 3)["success"]
    assert (anna.left(ONE), bert.left(ONE)) == (8, 494)
    assert (anna.kinds(ONE), bert.kinds(ONE)) == (["opening", "sale", "sale"],) * 2


def test_one_session_follows_its_search_path(anna, bert):
    admin = anna.admin
    for schema, expected in (("anna", 9), ("bert", 499), ("anna", 8), ("bert, anna", 498), ("nowhere, anna, bert", 7)):
        admin.execute(f"SET search_path = {schema}, public")
        assert sell(admin, ONE, 1)["new_quantity"] == expected


def test_the_setting_goes_before_the_search_path(anna, bert):
    session = bert.admin
    session.execute("SET search_path = anna, public; SET inventory_ext.stock_table = 'bert.inventory'")
    assert sell(session, ONE, 1)["new_quantity"] == 499
    session.execute("SET inventory_ext.stock_table = 'inventory'")  # as the search_path reads it
    assert sell(session, ONE, 1)["new_quantity"] == 9
    session.execute("SET inventory_ext.stock_table = ''")
    assert sell(session, ONE, 1)["new_quantity"] == 8


def test_the_setting_of_a_transaction_ends_with_it(anna, bert):
    session = bert.session()
    session.execute("BEGIN; SET LOCAL inventory_ext.stock_table = 'bert.inventory'")
    sell(session, ONE, 1)
    session.execute("COMMIT; SET search_path = public")
    assert refused_sale(session, ONE, 1).reason == "several_tables"


@pytest.mark.parametrize("setting", ["bert.inventori", "bert.inventory_movement", "inventory_ext", "nowhere.inventory"])
def test_a_setting_that_names_no_attached_table_is_refused(anna, bert, setting):
    session = bert.admin
    session.execute("SELECT set_config('inventory_ext.stock_table', %s, false)", (setting,))
    refusal = refused_sale(session, ONE, 1)
    assert (refusal.sqlstate, refusal.facts) == ("55000", {"reason": "no_such_stock_table", "stock_table": setting})
    assert (anna.left(ONE), bert.left(ONE)) == (10, 500)


@pytest.mark.parametrize(("setting", "sqlstate"), [("bert.", "42602"), ("a.b.c.d", "42601")])
def test_a_setting_that_is_no_name_is_refused(anna, bert, setting, sqlstate):
    session = bert.admin
    session.execute("SELECT set_config('inventory_ext.stock_table', %s, false)", (setting,))
    assert refused_sale(session, ONE, 1).sqlstate == sqlstate


def test_a_setting_with_one_table_must_name_it_too(anna):
    anna.admin.execute("SET inventory_ext.stock_table = 'anna.stock'")
    assert refused_sale(anna.admin, ONE, 1).reason == "no_such_stock_table"


def test_without_a_choice_the_error_names_the_tables_that_the_caller_may_use(anna, bert):
    everything = anna.admin
    everything.execute("SET search_path = public")
    assert refused_sale(everything, ONE, 1).facts["tables"] == ["anna.inventory", "bert.inventory"]
    refusal = refused_sale(bert.session(path="public"), ONE, 1)
    assert (refusal.sqlstate, refusal.facts) == ("55000", {"reason": "several_tables", "tables": ["bert.inventory"]})
    nobody = create_role(anna.admin, anna.db, "nobody")
    anna.admin.execute(EXECUTE.format(f'"{nobody}"'))
    assert refused_sale(anna.db.connect(user=nobody), ONE, 1).facts["tables"] == []


def test_two_tables_in_one_schema_need_the_setting(anna):
    owner = anna.session(anna.owner)
    owner.execute("CREATE TABLE anna.cellar (LIKE anna.inventory INCLUDING INDEXES)")
    fill(owner, {ONE: 70}, "anna.cellar")
    attach(owner, "anna.cellar")
    till = anna.session()
    assert refused_sale(till, ONE, 1).facts["tables"] == ["anna.cellar", "anna.inventory"]
    till.execute("SET inventory_ext.stock_table = 'anna.cellar'")
    assert sell(till, ONE, 1)["new_quantity"] == 69


def test_schemas_without_usage_are_skipped(anna, bert):
    """As PostgreSQL skips them; the name of the other's table would have been enough to sell from it."""
    till = bert.session(path="anna,bert")
    assert sell(till, ONE, 1)["new_quantity"] == 499
    assert refused_sale(bert.session(path="anna"), ONE, 1).reason == "several_tables"
    till.execute("SET inventory_ext.stock_table = 'anna.inventory'")
    assert refused_sale(till, ONE, 1).sqlstate == "42501"
    assert anna.left(ONE) == 10


def test_usage_that_is_granted_and_taken_back_counts_at_once(anna, bert):
    till = bert.session(path="anna,bert")
    assert sell(till, ONE, 1)["new_quantity"] == 499
    anna.admin.execute(f'GRANT USAGE ON SCHEMA anna TO "{bert.till}"')
    assert sell(till, ONE, 1)["new_quantity"] == 9
    anna.admin.execute(f'REVOKE USAGE ON SCHEMA anna FROM "{bert.till}"')
    assert sell(till, ONE, 1)["new_quantity"] == 498


def test_with_one_table_execute_is_enough(db):
    anna = tenant(db, db.connect(), "anna", {ONE: 10})
    clerk = create_role(anna.admin, db, "clerk")
    anna.admin.execute(EXECUTE.format(f'"{clerk}"'))
    assert sell(db.connect(user=clerk), ONE, 1)["new_quantity"] == 9


def test_a_second_table_takes_the_choice_from_sessions_that_sold_from_the_only_one(anna, db):
    till = anna.session(path="public")
    assert sell(till, ONE, 1)["new_quantity"] == 9
    bert = tenant(db, anna.admin, "bert", {ONE: 500})
    assert refused_sale(till, ONE, 1).reason == "several_tables"
    bert.session(bert.owner).execute("SELECT detach_inventory('bert.inventory')")
    assert sell(till, ONE, 1)["new_quantity"] == 8


# Tables and schemas change while sessions have them in their caches.


def test_a_table_that_moves_into_the_path_is_found(anna, bert):
    """The till's path has two schemas, the first without a stock table at first."""
    admin = anna.admin
    admin.execute(f'CREATE SCHEMA front; GRANT USAGE ON SCHEMA front TO "{bert.till}", "{anna.owner}"')
    till = bert.session(path="front,bert")
    assert sell(till, ONE, 1)["new_quantity"] == 499
    for companion in ("", "_movement", "_request", "_stripe", "_stripe_total"):
        admin.execute(f"ALTER TABLE anna.inventory{companion} SET SCHEMA front")
    assert sell(till, ONE, 1)["new_quantity"] == 9
    admin.execute("ALTER TABLE front.inventory SET SCHEMA anna")
    assert sell(till, ONE, 1)["new_quantity"] == 498


def test_a_schema_that_is_renamed_takes_its_table_along(anna, bert):
    till = bert.session(path="front,bert")
    assert sell(till, ONE, 1)["new_quantity"] == 499
    anna.admin.execute(f'ALTER SCHEMA anna RENAME TO front; GRANT USAGE ON SCHEMA front TO "{bert.till}"')
    assert sell(till, ONE, 1)["new_quantity"] == 9


def test_a_tenant_that_is_put_aside_and_made_anew_has_its_own_stock(anna, bert, db):
    """The old table is attached under a name that the new one has now; both are sold from."""
    admin = anna.admin
    admin.execute("ALTER SCHEMA anna RENAME TO anna_2025; CREATE SCHEMA anna")
    admin.execute("CREATE TABLE anna.inventory (id uuid PRIMARY KEY, quantity numeric)")
    fill(admin, {ONE: 33}, "anna.inventory")
    admin.execute("SET search_path = anna_2025, public")
    assert refused_sale(admin, ONE, 1).reason == "stock_table_swapped"
    attach(admin, "anna.inventory")
    assert sell(admin, ONE, 1)["new_quantity"] == 9
    admin.execute("SET search_path = anna, public")
    assert sell(admin, ONE, 1)["new_quantity"] == 32
    admin.execute("SELECT detach_inventory('anna.inventory')")
    admin.execute("SET search_path = anna_2025, public")
    assert refused_sale(admin, ONE, 1).reason == "stock_table_swapped"


def test_a_dropped_tenant_leaves_the_others_alone(anna, bert):
    till = bert.session(path="public")
    assert refused_sale(till, ONE, 1).reason == "several_tables"
    anna.admin.execute("DROP SCHEMA anna CASCADE")
    assert sell(till, ONE, 1)["new_quantity"] == 499
    gone = (
        "SELECT count(*) FROM inventory_attachment AS a WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = stock_table)"
    )
    assert anna.admin.execute(gone).fetchone()[0] == 1
    tenant(anna.db, anna.admin, "carl", {ONE: 1})
    assert anna.admin.execute(gone).fetchone()[0] == 0


# A schema that was made from another and never attached


@pytest.mark.parametrize("others", [False, True], ids=["one attached", "several attached"])
def test_a_copy_that_was_not_attached_is_not_passed_over(anna, db, others):
    """The sale was taken from the first tenant's stock, and the second one was told of success."""
    copy = tenant(db, anna.admin, "copy", {ONE: 500}, attached=False)
    if others:
        tenant(db, anna.admin, "bert", {ONE: 500})
    anna.admin.execute(f'GRANT USAGE ON SCHEMA anna TO "{copy.till}"')
    till = copy.session(path="copy,anna")
    refusal = refused_sale(till, ONE, 1)
    assert (refusal.sqlstate, refusal.reason) == ("55000", "shadowed_table")
    assert refusal.facts["not_attached"] == "copy.inventory"
    assert (anna.left(ONE), copy.left(ONE)) == (10, 500)
    # what the HINT says
    till.execute("SET inventory_ext.stock_table = 'anna.inventory'")
    assert sell(till, ONE, 1)["new_quantity"] == 9
    till.execute("RESET inventory_ext.stock_table")
    attach(copy.session(copy.owner), "copy.inventory")
    assert sell(till, ONE, 1)["new_quantity"] == 499


def test_a_table_of_the_name_without_the_columns_is_another_thing(anna):
    anna.admin.execute("CREATE TABLE public.inventory (checked_at date, quantity integer)")
    anna.admin.execute("SET search_path = public")
    assert sell(anna.admin, ONE, 1)["new_quantity"] == 9


def test_a_temporary_table_of_the_name_is_no_copy(anna):
    """As a delivery is loaded: what is temporary is nobody's stock."""
    anna.admin.execute("CREATE TEMPORARY TABLE inventory (LIKE anna.inventory)")
    assert sell(anna.admin, ONE, 1)["new_quantity"] == 9


# All functions


def test_every_function_means_the_same_table(anna, bert):
    till = bert.session()
    call(till, "decrement_inventory", p_inventory_id=ONE, p_quantity=1)
    call(till, "decrement_item", p_item=ONE, p_quantity=1, p_idempotency_key="k1")
    call(till, "decrement_inventory_batch", p_items=f'[{{"inventory_id": "{ONE}", "quantity": 1}}]')
    call(till, "restock_inventory", p_inventory_id=ONE, p_quantity=2)
    call(till, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=400)
    call(till, "transfer_inventory", p_from=ONE, p_to=TWO, p_quantity=5)
    till.execute("SELECT stripe_inventory(%s::uuid, 2)", (TWO,))
    call(till, "decrement_item", p_item=TWO, p_quantity=5)
    assert till.execute("SELECT available_inventory(%s::uuid)", (TWO,)).fetchone()[0] == 500
    assert call(till, "unstripe_inventory", p_inventory_id=TWO)["quantity"] == 500
    assert till.execute("SELECT purge_requests('0')").fetchone()[0] == 1
    assert (anna.left(ONE), anna.left(TWO), anna.kinds()) == (10, 10, ["opening", "opening"])
    assert (bert.left(ONE), bert.left(TWO)) == (395, 500)
    bert.audit()


def test_one_key_may_be_used_by_each_tenant(anna, bert):
    for one, expected in ((anna, 9), (bert, 499)):
        till = one.session()
        for replayed in (None, True):
            answer = call(till, "decrement_item", p_item=ONE, p_quantity=1, p_idempotency_key="order-1")
            assert (answer["new_quantity"], answer.get("replayed")) == (expected, replayed)


def test_detach_names_its_table_where_there_are_several(anna, bert):
    owner = bert.session(bert.owner)
    owner.execute("SET inventory_ext.stock_table = 'bert.inventory'")  # chooses for calls, not for this
    refusal = refused(owner, "SELECT detach_inventory()")
    assert (refusal.sqlstate, refusal.reason) == ("55000", "several_tables")
    assert refused(owner, "SELECT detach_inventory('bert.inventory_movement')").reason == "not_attached"
    assert refused(owner, f"SELECT detach_inventory({oid_of(anna)})").sqlstate == "42501"
    owner.execute("SELECT detach_inventory('bert.inventory')")
    assert sell(anna.session(path="public"), ONE, 1)["new_quantity"] == 9


def oid_of(one):
    return one.admin.execute(f"SELECT '{one.stock}'::regclass::oid").fetchone()[0]


def test_the_same_attach_again_is_a_notice_also_beside_others(anna, bert):
    attach(bert.session(bert.owner), "bert.inventory")
    assert refused_attach(bert.session(bert.owner), "bert.inventory", p_run_as="caller").reason == "already_attached"


@pytest.mark.parametrize("relative", ["inventory_movement", "inventory_stripe", "inventory_request"])
def test_a_companion_is_no_stock_table(anna, relative):
    id_column, quantity_column = {
        "inventory_movement": ("movement_id", "new_quantity"),
        "inventory_stripe": ("inventory_id", "quantity"),
        "inventory_request": ("idempotency_key", "quantity"),
    }[relative]
    owner = anna.session(anna.owner)
    refusal = refused_attach(
        owner, f"anna.{relative}", p_id_column=id_column, p_quantity_column=quantity_column, p_ledger=False
    )
    assert (refusal.sqlstate, refusal.reason) == ("42809", "part_of_attached")


def test_partitions_and_parents_of_attached_tables_are_no_stock_tables(db):
    conn = db.connect()
    conn.execute("CREATE TABLE inventory (id integer PRIMARY KEY, quantity integer) PARTITION BY RANGE (id)")
    for number in (0, 1):
        bounds = f"FROM ({number * 100}) TO ({number * 100 + 100})"
        conn.execute(f"CREATE TABLE inventory_{number} PARTITION OF inventory FOR VALUES {bounds}")
    attach(conn)
    assert refused_attach(conn, "inventory_1").reason == "part_of_attached"
    conn.execute("SELECT detach_inventory(); ALTER TABLE inventory DROP CONSTRAINT quantity_non_negative")
    attach(conn, "inventory_1")
    assert refused_attach(conn).facts == {
        "reason": "part_of_attached", "table": "public.inventory", "attached": "public.inventory_1"
    }  # fmt: skip


def test_an_unknown_item_of_one_tenant_may_be_known_to_the_other(anna, bert):
    bert.admin.execute("INSERT INTO bert.inventory VALUES (%s, 1)", (UNKNOWN,))
    assert refused_call(anna.session(), "decrement_item", p_item=UNKNOWN, p_quantity=1).sqlstate == "IV002"
    assert call(bert.session(), "decrement_item", p_item=UNKNOWN, p_quantity=1)["new_quantity"] == 0
