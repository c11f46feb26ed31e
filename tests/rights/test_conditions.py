"""What a stranger writes in the WHEN clause of a trigger does not run as the owner of the table.

A role that has TRIGGER on a table may create one with a function of PostgreSQL's own and any condition. A condition
that may run code which is not in it makes the calls fail; conditions that honest owners write go on working.
"""

import os

import pytest

from attack_parties import CALLS, outcome, reason, statement
from owner_shop import KEYS, LEDGER, ONE, STOCK, STRIPES, TOTALS, TWO, Stranger, assert_foreign, open_store
from shop import attach, left, refused_attach, refused_sale, sell

CODE = """
    CREATE FUNCTION tools.query() RETURNS tsquery LANGUAGE plpgsql AS
    $$ BEGIN PERFORM tools.grab(); RETURN 'a'::tsquery; END $$;
    CREATE FUNCTION tools.same(a integer, b integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
    $$ BEGIN RETURN tools.grab(); END $$;
    CREATE OPERATOR tools.=== (LEFTARG = integer, RIGHTARG = integer, FUNCTION = tools.same);
    CREATE DOMAIN tools.checked AS text CHECK (tools.grab());
    CREATE DOMAIN tools.number AS integer CHECK (tools.grab());
    CREATE DOMAIN tools.plain AS text;
    CREATE TYPE tools.pair AS (n tools.number);
    CREATE TYPE tools.span AS RANGE (SUBTYPE = tools.number);
    CREATE SEQUENCE tools.numbers;
    GRANT USAGE ON SEQUENCE tools.numbers TO PUBLIC;
"""
CONDITIONS = {
    "ts_rewrite": "ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, tools.query()') IS NULL",
    "query_to_xml": "query_to_xml('SELECT tools.grab()', true, true, '') IS NULL",
    "pg_read_file": "pg_read_file('PG_VERSION') IS NULL",
    "set_config": "set_config('shop.x', 'theirs', false) IS NULL",
    "nextval": "nextval('tools.numbers') < 0",
    "a domain": "NEW.note::tools.checked IS NULL",
    "a domain without a check": "NEW.note::tools.plain IS NULL",
    "an array of a domain": "ARRAY[NEW.note]::tools.checked[] IS NULL",
    "a function": "NOT tools.same(NEW.quantity, 1)",
    "an operator": "NOT NEW.quantity OPERATOR(tools.===) 1",
    "a composite type": "(jsonb_populate_record(NULL::tools.pair, '{\"n\": 1}')).n IS NULL",
    "a text read as a composite type": "NEW.note::tools.pair IS NULL",
    "a text read as a range": "NEW.note::tools.span IS NULL",
    "a function of a superuser": "NOT public.asked('SELECT tools.grab()')",
}  # fmt: skip
if int(os.environ.get("PG", "18")) >= 18:
    CONDITIONS |= {
        "pg_input_is_valid": "NOT pg_input_is_valid('x', 'tools.checked')",
        "JSON_VALUE": "JSON_VALUE(jsonb '\"x\"', '$' RETURNING tools.checked) IS NULL",
    }
HARMLESS = "pg_catalog.suppress_redundant_updates_trigger()"


@pytest.fixture
def store(db):
    """Notes that can be read as a range and as a composite type only by the code of their types."""
    store = open_store(db, columns=", note text")
    store.admin.execute(
        "CREATE FUNCTION public.asked(sql text) RETURNS boolean LANGUAGE plpgsql AS "
        "$$ DECLARE answer boolean; BEGIN EXECUTE sql INTO answer; RETURN answer; END $$"
    )
    store.owner.execute(f"UPDATE {STOCK} SET note = 'Abc'")
    return store


def stranger_with(store, condition, table=STOCK, event="UPDATE"):
    """The stranger makes a trigger whose function is PostgreSQL's own."""
    stranger = Stranger(store, table)
    stranger.conn.execute(CODE)
    stranger.conn.execute(
        f'CREATE TRIGGER "!spy" BEFORE {event} ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {HARMLESS}'
    )
    return stranger


@pytest.mark.parametrize("name", CONDITIONS, ids=[name.replace(" ", "_") for name in CONDITIONS])
def test_code_in_a_condition_does_not_run_as_the_owner(store, name):
    """Neither as an ordinary owner nor as a superuser who owns the table, in sessions that have sold before or not."""
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    if "read as" in name:
        note = "(7)" if "composite" in name else "[7,8)"
        store.owner.execute(f"UPDATE {STOCK} SET note = '{note}'")
    begin = store.last_movement()
    stranger = stranger_with(store, CONDITIONS[name])
    for attributes in ("NOSUPERUSER", "SUPERUSER"):
        store.admin.execute(f'ALTER ROLE "{store.owner_role}" {attributes}')
        for conn in (clerk, store.clerk(), store.admin, store.owner):
            for item in (ONE, TWO):
                assert_foreign(refused_sale(conn, item, 1), STOCK)
    store.admin.execute(f'ALTER ROLE "{store.owner_role}" NOSUPERUSER')
    stranger.assert_nothing_ran()
    assert store.last_movement() == begin
    stranger.drop_trigger(STOCK)
    assert sell(clerk, ONE, 1)["new_quantity"] == 98
    store.audit()


def test_every_call_is_refused(store):
    """Also by the stranger itself, who may call, and those that only read."""
    stranger = stranger_with(store, CONDITIONS["ts_rewrite"])
    store.admin.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{stranger.role}"')
    for conn in (store.clerk(), store.admin, store.owner, stranger.conn):
        found = {reason(outcome(conn, statement(call))) for call in CALLS.values()}
        assert found == {"55000 foreign_trigger"}
    stranger.assert_nothing_ran()


@pytest.mark.parametrize(
    ("table", "name"), [(LEDGER, "ts_rewrite"), (KEYS, "query_to_xml"), (STRIPES, "nextval"), (TOTALS, "ts_rewrite")]
)
def test_code_in_a_condition_on_a_companion_does_not_run(store, table, name):
    """They are written as the owner, too."""
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    stranger = stranger_with(store, CONDITIONS[name], table, "INSERT OR UPDATE")
    for call in ("decrement_inventory('{item}', 1)", "restock_inventory('{item}', 1, NULL, 'key')"):
        for item in (ONE, TWO):
            assert reason(outcome(clerk, statement(call, item))) == "55000 foreign_trigger"
    stranger.assert_nothing_ran()
    stranger.drop_trigger(table)
    sell(clerk, TWO, 1)
    store.settled(99)
    store.audit()


@pytest.mark.parametrize("name", ["ts_rewrite", "a composite type"])
def test_attach_refuses_code_in_a_condition(store, name):
    """By the owner and by a superuser; with the caller's rights it is attached, and a superuser's sale is refused."""
    store.owner.execute("SELECT public.detach_inventory()")
    stranger = stranger_with(store, CONDITIONS[name])
    for conn in (store.owner, store.admin):
        assert_foreign(refused_attach(conn, STOCK), STOCK)
    attach(store.owner, STOCK, p_run_as="caller")
    assert_foreign(refused_sale(store.admin, ONE, 1), STOCK)
    stranger.assert_nothing_ran()
    assert left(store.admin, ONE, STOCK) == 100


# 1 is sold of 100, then 95, with shop.x = 'y', then 1 without it: when the condition is true.
EVERY, NEVER = [99, 4, 3], []
HONEST = {
    "OLD.quantity IS DISTINCT FROM NEW.quantity": EVERY,
    "NEW.* IS DISTINCT FROM OLD.*": EVERY,
    "OLD.* IS NOT DISTINCT FROM NEW.*": NEVER,
    "NEW.quantity < 5 AND OLD.quantity >= 5": [4],
    "NEW.quantity <= OLD.quantity - 50 OR NOT NEW.quantity <> 3": [4, 3],
    "NEW.quantity BETWEEN 4 AND 99": [99, 4],
    "NEW.quantity IN (3, 99)": [99, 3],
    "NEW.quantity = ANY ('{3, 4}')": [4, 3],
    "NEW.quantity % 2 = 0": [4],
    "abs(NEW.quantity - OLD.quantity) > 50": [4],
    "NEW.quantity::numeric / 2 > 10.5": [99],
    "NEW.quantity::text LIKE '9%'": [99],
    "NEW.id = '{ONE}'": EVERY,
    "NEW.id IN ('{TWO}', '{UNKNOWN}')": NEVER,
    "pg_trigger_depth() = 0": EVERY,
    "pg_trigger_depth() < 2": EVERY,
    "pg_trigger_depth() > 0": NEVER,
    "current_setting('shop.x', true) = 'y'": [4],
    "current_setting('shop.x', true) IS DISTINCT FROM 'y'": [99, 3],
    "current_user <> session_user": EVERY,
    "now() > '2001-02-03'": EVERY,
    "CURRENT_TIMESTAMP < '2001-02-03'": NEVER,
    "NEW.note LIKE 'A%'": EVERY,
    "NEW.note ILIKE 'a_c' AND NEW.note ~ '^A'": EVERY,
    "NEW.note IS NULL OR NEW.note = ''": NEVER,
    "lower(NEW.note) IN ('abc', 'b')": EVERY,
    "length(NEW.note || 'd') = 4 AND substr(NEW.note, 1, 1) <> 'B'": EVERY,
    "coalesce(NEW.note, '') = '' OR coalesce(NEW.quantity, 0) < 4": [3],
    "nullif(NEW.quantity, 4) IS NULL": [4],
    "greatest(NEW.quantity, 5) = 5": [4, 3],
    "CASE WHEN NEW.quantity < 4 THEN true WHEN NEW.note = 'x' THEN true ELSE false END": [3],
    "CASE NEW.quantity WHEN 4 THEN 'few' ELSE 'many' END = 'few'": [4],
    "store.few(NEW.quantity)": [4, 3],
    "NEW.sold IS NULL AND NEW.colour = 'red' AND NEW.tags @> ARRAY['a']": EVERY,
}
OWNERS_CODE = f"""
    CREATE TYPE store.colour AS ENUM ('red', 'blue');
    ALTER TABLE {STOCK} ADD sold timestamptz, ADD colour store.colour DEFAULT 'red', ADD tags text[] DEFAULT '{{a,b}}';
    CREATE FUNCTION store.few(n integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN n < 5; END $$;
    CREATE TABLE store.fired (number integer, item uuid, quantity integer);
    CREATE FUNCTION store.note_number() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO store.fired VALUES (TG_ARGV[0]::integer, NEW.id, NEW.quantity);
        RETURN NEW;
    END $$;
"""


def honest_trigger(store, number, condition, timing="BEFORE"):
    for name, value in (("ONE", ONE), ("TWO", TWO), ("UNKNOWN", "00000000-0000-0000-0000-00000000dead")):
        condition = condition.replace("{" + name + "}", str(value))
    store.owner.execute(
        f"CREATE TRIGGER t{number} {timing} UPDATE ON {STOCK} FOR EACH ROW WHEN ({condition}) "
        f"EXECUTE FUNCTION store.note_number('{number}')"
    )


def fired(store, item=ONE) -> dict[int, list]:
    rows = store.admin.execute(
        "SELECT number, array_agg(quantity ORDER BY quantity DESC) FROM store.fired WHERE item = %s GROUP BY 1", (item,)
    )
    return dict(rows.fetchall())


@pytest.mark.parametrize("timing", ["BEFORE", "AFTER"])
def test_an_honest_condition_decides_when_its_trigger_fires(store, timing):
    """Each of them, on the sales of a clerk; none of them keeps anything from being sold."""
    store.owner.execute(OWNERS_CODE)
    refused = []
    clerk = store.clerk()
    for number, condition in enumerate(HONEST):
        honest_trigger(store, number, condition, timing)
        found = reason(outcome(clerk, "SELECT available_inventory(%s)", (ONE,)))
        if found != "OK 100":
            refused.append((condition, found))
            store.owner.execute(f"DROP TRIGGER t{number} ON {STOCK}")
    assert refused == []
    sell(clerk, ONE, 1)
    clerk.execute("SET shop.x = 'y'")
    sell(clerk, ONE, 95)
    clerk.execute("RESET shop.x")
    sell(clerk, ONE, 1)
    found = fired(store)
    wrong = {condition: found.get(number, []) for number, (condition, when) in enumerate(HONEST.items())
             if found.get(number, []) != when}  # fmt: skip
    assert wrong == {}
    store.audit()


def test_honest_conditions_hold_for_the_totals_worker(store):
    """The row of a striped item is written by it, as the owner."""
    store.owner.execute(OWNERS_CODE)
    conditions = ["OLD.quantity IS DISTINCT FROM NEW.quantity", "NEW.quantity < 5 AND OLD.quantity >= 5",
                  "store.few(NEW.quantity)", "NEW.id = '{ONE}'"]  # fmt: skip
    for number, condition in enumerate(conditions):
        honest_trigger(store, number, condition)
    clerk = store.clerk()
    for quantity, total in ((1, 99), (95, 4), (1, 3)):
        sell(clerk, TWO, quantity)
        store.settled(total)
    assert fired(store, TWO) == {0: EVERY, 1: [4], 2: [4, 3]}
    store.audit()


def test_a_condition_on_the_depth_of_triggers_tells_a_sale_from_a_trigger_of_the_owner(store):
    """The trigger does not fire for what another trigger of the owner writes."""
    store.owner.execute(OWNERS_CODE)
    honest_trigger(store, 0, "pg_trigger_depth() = 0")
    honest_trigger(store, 1, "pg_trigger_depth() < 2")
    store.owner.execute(
        "CREATE TABLE store.line (item uuid, quantity integer); GRANT USAGE ON SCHEMA store TO PUBLIC;"
        "CREATE FUNCTION store.sell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM public.decrement_inventory(NEW.item, NEW.quantity); RETURN NULL; END $$;"
        "CREATE TRIGGER sell AFTER INSERT ON store.line FOR EACH ROW EXECUTE FUNCTION store.sell();"
        "GRANT INSERT ON store.line TO PUBLIC"
    )
    clerk = store.clerk()
    sell(clerk, ONE, 1)
    clerk.execute("INSERT INTO store.line VALUES (%s, 2)", (ONE,))
    assert fired(store) == {0: [99], 1: [99, 97]}
    store.audit()


def test_a_stranger_may_write_an_honest_condition(store):
    """With a function of PostgreSQL's own: nothing in it runs code."""
    stranger = stranger_with(store, "NEW.* IS NOT DISTINCT FROM OLD.* OR lower(NEW.note) = 'x'")
    for conn in (store.clerk(), store.admin, store.owner):
        sell(conn, ONE, 1)
        sell(conn, TWO, 1)
    assert left(store.admin, ONE, STOCK) == 97
    store.settled(97)
    stranger.assert_nothing_ran()
    store.audit()
