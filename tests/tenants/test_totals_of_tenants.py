"""Each owner has a totals worker of its own: neither code nor locks of one tenant hold up the others' totals.

With one worker for all tables, an error in code of one owner ended it, and code that sleeps, or a table that is locked,
made the totals of every other table wait.
"""

import pytest

from shop import ONE, TWO, left, sell, until
from tenants import tenant

WORKER = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'inventory_ext totals'"


@pytest.fixture
def tenants(db):
    admin = db.connect()
    made = [tenant(db, admin, name, {ONE: 100, TWO: 100}) for name in ("anna", "bert", "carl")]
    for one in made:
        one.session().execute("SELECT stripe_inventory(%s::uuid, 2)", (ONE,))
    return made


def shown(one, quantity):
    until(lambda: one.left(ONE) == quantity, f"{one.schema} shows {quantity}")


def in_worker(one, code):
    """Code of the owner that runs where the worker writes a total, and in no sale."""
    owner = one.session(one.owner)
    owner.execute(
        f"CREATE FUNCTION {one.schema}.hostile() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {code}; RETURN NEW; END $$"
    )
    owner.execute(
        f"CREATE TRIGGER hostile BEFORE UPDATE ON {one.stock} FOR EACH ROW EXECUTE FUNCTION {one.schema}.hostile()"
    )


def test_the_totals_of_all_tables_are_shown(tenants):
    for place, one in enumerate(tenants):
        sell(one.session(), ONE, 10 + place)
    for place, one in enumerate(tenants):
        shown(one, 90 - place)
    assert len(tenants[0].admin.execute(WORKER).fetchall()) <= len(tenants), "one for each owner"
    for one in tenants:
        one.audit()


@pytest.mark.parametrize(
    "code",
    [
        "RAISE EXCEPTION 'no'",
        "PERFORM pg_sleep(3600)",
        "LOOP NULL; END LOOP",
        "PERFORM pg_terminate_backend(pg_backend_pid())",
        "PERFORM pg_advisory_unlock_all()",
        # a process that is told to end catches nothing more
        "LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP",
        # errors of the owner's code that end the process
        "PERFORM set_config('exit_on_error', 'on', true); RAISE EXCEPTION 'no'",
        "PERFORM set_config('statement_timeout', '1ms', true); PERFORM pg_sleep(3600)",
    ],
)
def test_hostile_code_of_one_leaves_the_totals_of_the_others_right(tenants, code):
    anna, bert, carl = tenants
    in_worker(bert, code)
    for one in (bert, anna, carl):
        sell(one.session(), ONE, 10)
    shown(anna, 90)
    shown(carl, 90)
    assert len(anna.admin.execute(WORKER).fetchall()) <= 3
    # Also when the worker has seen the hostile code already.
    for one in (bert, anna, carl):
        sell(one.session(), ONE, 10)
    shown(anna, 80)
    shown(carl, 80)
    assert bert.session().execute("SELECT available_inventory(%s::uuid)", (ONE,)).fetchone()[0] == 80


@pytest.mark.parametrize("table", ["inventory", "inventory_stripe", "inventory_stripe_total", "inventory_movement"])
def test_a_lock_of_one_leaves_the_totals_of_the_others_right(tenants, table):
    anna, bert, carl = tenants
    sell(bert.session(), ONE, 1)
    holder = bert.session(bert.owner)
    holder.execute(f"BEGIN; LOCK TABLE bert.{table} IN ACCESS EXCLUSIVE MODE")
    for one in (anna, carl):
        sell(one.session(), ONE, 10)
        shown(one, 90)
    holder.execute("ROLLBACK")
    shown(bert, 99)


def test_a_table_whose_code_is_put_right_is_shown_again(tenants):
    _, bert, _ = tenants
    in_worker(bert, "RAISE EXCEPTION 'no'")
    sell(bert.session(), ONE, 10)
    bert.session(bert.owner).execute("DROP TRIGGER hostile ON bert.inventory")
    sell(bert.session(), ONE, 1)
    shown(bert, 89)


def test_the_worker_ends_when_all_are_idle_and_comes_back_for_each(tenants):
    admin = tenants[0].admin
    until(lambda: admin.execute(WORKER).fetchall() == [], "the worker ends")
    for one in tenants:
        sell(one.session(), ONE, 1)
        shown(one, 99)
        until(lambda: admin.execute(WORKER).fetchall() == [], "the worker ends")


def test_a_table_without_stripes_keeps_no_worker(tenants):
    """It is started by sales of striped items alone."""
    anna, bert, _ = tenants
    until(lambda: anna.admin.execute(WORKER).fetchall() == [], "the worker ends")
    sell(bert.session(), TWO, 1)
    assert left(bert.admin, TWO, bert.stock) == 99
    assert anna.admin.execute(WORKER).fetchall() == []
