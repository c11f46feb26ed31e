"""The row of a striped item lags when the attachment breaks: following the HINT brings no sold unit back.

Attach emptied the stripes it found and believed the row, and the detach of a broken attachment left the row as it
was. So after a renamed CHECK, a dropped ledger or a dropped extension, 31 sold units came back. The rows lag here
for certain: the totals worker is stopped, or sales, breakage and repair are one transaction, of which the worker
sees nothing.
"""

import random
from contextlib import contextmanager
from decimal import Decimal

import psycopg
import pytest

from books import call, order
from shop import ONE, TWO, allow_sales, attach, create_role, item, left, refusal_of, refused, sell, shop, stock_table
from striped import available, detach, in_books, standing_worker, stripe

THREE = item(3)
SOLD_OUT_OF = {ONE: 69, TWO: 105, THREE: 37}

FORCED = "SET session_replication_role = replica; {} RESET session_replication_role"
OUR_TRIGGERS = """DO $$ DECLARE t record; BEGIN
    FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = '{0}'::regclass AND tgname LIKE '0\\_inventory%' LOOP
        EXECUTE format('DROP TRIGGER %I ON {0}', t.tgname); END LOOP; END $$;"""

# How the attachment breaks, and what must be mended between detach and attach.
BREAKS = {
    "CHECK renamed": (
        "ALTER TABLE inventory DROP CONSTRAINT IF EXISTS quantity_good; "
        "ALTER TABLE inventory RENAME CONSTRAINT quantity_non_negative TO quantity_good", None,
    ),
    "CHECK dropped": ("ALTER TABLE inventory DROP CONSTRAINT quantity_non_negative", None),
    "primary key dropped": (
        "ALTER TABLE inventory DROP CONSTRAINT inventory_pkey", "ALTER TABLE inventory ADD PRIMARY KEY (id)",
    ),
    "triggers of the stock table dropped": (OUR_TRIGGERS.format("inventory"), None),
    "triggers of the stripes dropped": (OUR_TRIGGERS.format("inventory_stripe"), None),
    "trigger that records dropped": ('DROP TRIGGER "0_inventory_movement_record" ON inventory', None),
    "trigger that flushes dropped": ('DROP TRIGGER "0_inventory_movement_flush" ON inventory', None),
    "triggers disabled": ("ALTER TABLE inventory DISABLE TRIGGER USER", None),
    "triggers of the stripes disabled": ("ALTER TABLE inventory_stripe DISABLE TRIGGER USER", None),
    "triggers for replicas only": ('ALTER TABLE inventory ENABLE REPLICA TRIGGER "0_inventory_movement_begin"', None),
    "ledger dropped": (FORCED.format("DROP TABLE inventory_movement CASCADE;"), None),
    "keys dropped": (FORCED.format("DROP TABLE inventory_request CASCADE;"), None),
    "keys and ledger dropped": (FORCED.format("DROP TABLE inventory_request, inventory_movement CASCADE;"), None),
    "column of the ledger dropped": (
        FORCED.format("ALTER TABLE inventory_movement DROP COLUMN actor;"), "DROP TABLE inventory_movement",
    ),
    "ledger with another column type": (
        "ALTER TABLE inventory_movement ALTER actor TYPE varchar(300)",
        "ALTER TABLE inventory_movement ALTER actor TYPE text",
    ),
    "column of the keys renamed": (
        "ALTER TABLE inventory_request RENAME created_at TO made_at",
        "ALTER TABLE inventory_request RENAME made_at TO created_at",
    ),
    "configuration emptied": ("DELETE FROM inventory_attachment", "none"),
    "configuration truncated": ("TRUNCATE inventory_attachment", "none"),
    "extension dropped": ("DROP EXTENSION inventory_ext", "CREATE EXTENSION inventory_ext"),
    "extension dropped with CASCADE": ("DROP EXTENSION inventory_ext CASCADE", "CREATE EXTENSION inventory_ext"),
    "nothing": ("", None),
}  # fmt: skip


@pytest.fixture
def conn(db):
    return db.connect()


def opened(conn, type="integer", **options):
    """ONE and TWO are striped, THREE is not."""
    shop(conn, {ONE: "100", TWO: "100", THREE: "40"}, type=type, columns=", note text", **options)
    stripe(conn, ONE, 4), stripe(conn, TWO, 2)


def sold(conn):
    """31 units of ONE from all of its stripes, in two calls; TWO has 5 more, THREE 3 less."""
    sell(conn, ONE, 30)
    order(conn, (ONE, 1), (THREE, 3))
    call(conn, "restock_inventory", p_inventory_id=TWO, p_quantity=5)
    assert (left(conn, ONE), left(conn, TWO)) == (100, 100), "the rows were to lag"


@contextmanager
def lagging(conn, how):
    """The block runs while the worker stands still, or in one transaction."""
    if how == "in one transaction":
        with conn.transaction():
            conn.execute("LOCK TABLE inventory_attachment, inventory")  # first of all, in the order of the worker
            yield
    else:
        with standing_worker(conn):
            yield


def may_sell(conn):
    """Tries to sell one unit of ONE from the broken attachment; how many were sold."""
    try:
        with conn.transaction():
            sell(conn, ONE, 1)
            return 1
    except psycopg.Error as error:
        assert error.sqlstate in ("55000", "42883"), error
        return 0


def mended(conn, mend):
    """What the HINT says: detach, attach; and what else the breakage needs between the two."""
    detached = mend and ("EXTENSION" in mend or mend == "none")
    if not detached:
        detach(conn)
    if mend and mend != "none":
        conn.execute(mend)


@pytest.mark.parametrize("how", ["worker stands still", "in one transaction"])
@pytest.mark.parametrize("name", BREAKS)
def test_detach_and_attach_bring_nothing_back(conn, name, how):
    opened(conn)
    broken, mend = BREAKS[name]
    with lagging(conn, how):
        sold(conn)
        if broken:
            conn.execute(broken)
        expected = SOLD_OUT_OF | {ONE: SOLD_OUT_OF[ONE] - may_sell(conn)}
        mended(conn, mend)
        attach(conn)
        assert {key: left(conn, key) for key in expected} == expected
        in_books(conn, expected)
    assert sell(conn, ONE, 1)["success"]
    assert conn.execute("SELECT count(*) FROM inventory_stripe").fetchone()[0] == 0


@pytest.mark.parametrize(
    ("name", "ledger"),
    [
        (name, ledger)
        for name in ("CHECK renamed", "primary key dropped", "triggers of the stock table dropped", "keys dropped")
        for ledger in (True, False)
    ]
    + [("ledger dropped", True)],
)
def test_detach_of_a_broken_attachment_puts_the_items_together(conn, name, ledger):
    opened(conn, p_ledger=ledger)
    with standing_worker(conn):
        sold(conn)
        conn.execute(BREAKS[name][0])
        detach(conn)
        assert {key: left(conn, key) for key in SOLD_OUT_OF} == SOLD_OUT_OF
    assert {key: left(conn, key) for key in SOLD_OUT_OF} == SOLD_OUT_OF
    conn.execute("UPDATE inventory SET quantity = 7 WHERE id = %s", (ONE,))
    if name == "primary key dropped":
        conn.execute(BREAKS[name][1])
    attach(conn, p_ledger=ledger)
    in_books(conn, SOLD_OUT_OF | {ONE: 7}, ledger)


@pytest.mark.parametrize(
    "first", [{}, {"p_ledger": False}, {"p_run_as": "caller"}], ids=["owner", "no ledger", "caller"]
)
@pytest.mark.parametrize(
    "then", [{}, {"p_ledger": False}, {"p_run_as": "caller"}], ids=["owner", "no ledger", "caller"]
)
@pytest.mark.parametrize("broken", ["CHECK renamed", "extension dropped with CASCADE"])
def test_any_options_of_attach_before_and_after(conn, first, then, broken):
    opened(conn, **first)
    with standing_worker(conn):
        sold(conn)
        conn.execute(BREAKS[broken][0])
        mended(conn, BREAKS[broken][1])
        attach(conn, **then)
        in_books(conn, SOLD_OUT_OF, then.get("p_ledger", True))


def by_hand(conn, broken, mend, write):
    """The rows are written by hand after the attachment broke and before it is mended: the error of attach."""
    with standing_worker(conn):
        sold(conn)
        conn.execute(broken)
        conn.execute(write)
        mended(conn, mend)
        refusal = refused(conn, "SELECT attach_inventory('inventory')")
        assert (refusal.sqlstate, refusal.reason) == ("55000", "stripes_differ")
        assert refusal.hint
        return refusal


def attached_by_the_hint(conn, **options):
    """Sets each row that attach names to the figure under "stripes", until attach is content."""
    for _ in range(10):
        try:
            return attach(conn, **options)
        except psycopg.Error as error:
            facts = refusal_of(error).facts
            if facts["reason"] == "stripes_of_another":
                conn.execute(OUR_CHECK)
                continue
            assert facts["reason"] == "stripes_differ", facts
            conn.execute("UPDATE inventory SET quantity = %s WHERE id = %s", (facts["stripes"], facts["inventory_id"]))
    raise AssertionError("attach is never content")


# A table without it is not known to have been attached.
OUR_CHECK = "ALTER TABLE inventory ADD CONSTRAINT quantity_non_negative CHECK (id IS NOT NULL AND quantity >= 0)"

HAND_MADE = [
    "CHECK dropped",
    "triggers of the stock table dropped",
    "triggers disabled",
    "extension dropped with CASCADE",
    "configuration emptied",
]


@pytest.mark.parametrize("name", HAND_MADE)
def test_a_row_that_was_changed_by_hand_is_named_with_all_figures(conn, name):
    """31 units were sold from stripes, 10 by hand from the row that lagged: neither figure is right."""
    opened(conn)
    broken, mend = BREAKS[name]
    if name == "CHECK dropped":
        broken += "; " + OUR_TRIGGERS.format("inventory")  # otherwise the direct write is refused
    if name == "configuration emptied":
        broken = OUR_TRIGGERS.format("inventory") + broken
    facts = by_hand(conn, broken, mend, f"UPDATE inventory SET quantity = 90 WHERE id = '{ONE}'").facts
    assert facts["inventory_id"] == str(ONE)
    assert (facts["row"], facts["last_total"], facts["stripes"]) == (90, 100, 69)
    # Nothing was changed by the refusal.
    assert (
        left(conn, ONE),
        conn.execute("SELECT sum(quantity) FROM inventory_stripe WHERE inventory_id = %s", (ONE,)).fetchone()[0],
    ) == (90, 69)
    attached_by_the_hint(conn)
    in_books(conn, SOLD_OUT_OF)
    call(conn, "adjust_inventory", p_inventory_id=ONE, p_counted_quantity=59, p_expected_quantity=69)
    in_books(conn, SOLD_OUT_OF | {ONE: 59})


@pytest.mark.parametrize(
    ("write", "figures"),
    [
        ("UPDATE inventory SET quantity = quantity + 50", {ONE: (150, 69), TWO: (150, 105)}),
        ("UPDATE inventory SET quantity = 0 WHERE id = '{0}'", {ONE: (0, 69)}),
        ("UPDATE inventory SET quantity = quantity - 1 WHERE id = '{1}'", {TWO: (99, 105)}),
        ("DELETE FROM inventory WHERE id = '{0}'; INSERT INTO inventory VALUES ('{0}', 55)", {ONE: (55, 69)}),
    ],
)
def test_every_row_that_was_changed_by_hand_is_refused(conn, write, figures):
    opened(conn)
    extension = "DROP EXTENSION inventory_ext CASCADE", "CREATE EXTENSION inventory_ext"
    refusal = by_hand(conn, *extension, write.format(ONE, TWO))
    row, stripes = figures[item(int(refusal.facts["inventory_id"].replace("-", ""), 16))]
    assert (refusal.facts["row"], refusal.facts["last_total"], refusal.facts["stripes"]) == (row, 100, stripes)
    attached_by_the_hint(conn)
    in_books(conn, {key: available(conn, key) for key in SOLD_OUT_OF})
    assert (available(conn, ONE), available(conn, TWO)) == (69, 105)


@pytest.mark.parametrize(
    "write",
    ["UPDATE inventory SET note = 'x'", "UPDATE inventory SET quantity = 69 WHERE id = '{0}'", "VACUUM FULL inventory"],
)
def test_writes_that_do_not_contradict_the_stripes_are_no_obstacle(conn, write):
    """Another column, or the very sum of the stripes."""
    opened(conn)
    with standing_worker(conn):
        sold(conn)
        conn.execute("DROP EXTENSION inventory_ext CASCADE")
        conn.execute(write.format(ONE))
        conn.execute("CREATE EXTENSION inventory_ext")
        attach(conn)
        in_books(conn, SOLD_OUT_OF)


def test_a_warning_says_that_detach_left_the_stripes(conn):
    """Detach succeeds, so that the table can be mended; the stripes stay for the attach that decides."""
    opened(conn)
    heard = []
    conn.add_notice_handler(lambda diag: heard.append((diag.severity_nonlocalized, diag.message_primary)))
    by_hand(conn, OUR_TRIGGERS.format("inventory"), None, f"UPDATE inventory SET quantity = 90 WHERE id = '{ONE}'")
    assert any(severity == "WARNING" and "stripes" in message for severity, message in heard), heard
    assert left(conn, ONE) == 90


def test_the_last_totals_were_dropped(conn):
    """Nothing says then whether the row lags or was written: where it is not the sum of the stripes, attach asks."""
    opened(conn)
    with standing_worker(conn):
        sold(conn)
        conn.execute(FORCED.format("DROP TABLE inventory_stripe_total CASCADE;"))
        assert may_sell(conn) == 0
        detach(conn)
        attached_by_the_hint(conn)
        in_books(conn, SOLD_OUT_OF)


@pytest.mark.parametrize(
    ("harm", "mend"),
    [
        (
            "ALTER TABLE inventory_stripe RENAME quantity TO amount",
            "ALTER TABLE inventory_stripe RENAME amount TO quantity",
        ),
        (
            "ALTER TABLE inventory_stripe ALTER stripe TYPE integer",
            "ALTER TABLE inventory_stripe ALTER stripe TYPE smallint",
        ),
        (
            "ALTER TABLE inventory_stripe ALTER quantity TYPE bigint",
            "ALTER TABLE inventory_stripe ALTER quantity TYPE numeric",
        ),
        (
            "ALTER TABLE inventory_stripe RENAME TO inventory_bands",
            "ALTER TABLE inventory_bands RENAME TO inventory_stripe",
        ),
        ("ALTER TABLE inventory_stripe OWNER TO {role}", "ALTER TABLE inventory_stripe OWNER TO CURRENT_USER"),
        (
            "ALTER TABLE inventory_stripe_total OWNER TO {role}",
            "ALTER TABLE inventory_stripe_total OWNER TO CURRENT_USER",
        ),
        ("ALTER TABLE inventory OWNER TO {role}", "ALTER TABLE inventory OWNER TO CURRENT_USER"),
    ],
)
def test_a_companion_that_is_not_ours_for_a_time(db, conn, harm, mend):
    """Detach cannot merge what it does not recognize; once it is recognized again, attach does."""
    opened(conn)
    role = create_role(conn, db, "other")
    conn.execute(f'GRANT ALL ON SCHEMA public TO "{role}"')
    with standing_worker(conn):
        sold(conn)
        conn.execute(harm.format(role=f'"{role}"'))
        detach(conn)
        conn.execute(mend)
        attach(conn)
        in_books(conn, SOLD_OUT_OF)


def test_a_detach_that_is_rolled_back_changes_nothing(conn):
    opened(conn)
    with standing_worker(conn):
        sold(conn)
        conn.execute("ALTER TABLE inventory RENAME CONSTRAINT quantity_non_negative TO quantity_good")
        with pytest.raises(ZeroDivisionError), conn.transaction():
            detach(conn)
            raise ZeroDivisionError
        conn.execute("ALTER TABLE inventory RENAME CONSTRAINT quantity_good TO quantity_non_negative")
        assert {key: available(conn, key) for key in SOLD_OUT_OF} == SOLD_OUT_OF
    in_books(conn, SOLD_OUT_OF)


@pytest.mark.parametrize("name", ["CHECK renamed", "primary key dropped", "extension dropped with CASCADE"])
def test_a_partitioned_table(conn, name):
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer, note text) PARTITION BY HASH (id)")
    for part in range(2):
        conn.execute(f"CREATE TABLE part{part} PARTITION OF inventory FOR VALUES WITH (MODULUS 2, REMAINDER {part})")
    conn.execute("INSERT INTO inventory VALUES (%s, 100), (%s, 100), (%s, 40)", (ONE, TWO, THREE))
    attach(conn)
    stripe(conn, ONE, 4), stripe(conn, TWO, 2)
    broken, mend = BREAKS[name]
    with standing_worker(conn):
        sold(conn)
        conn.execute(broken)
        mended(conn, mend)
        attach(conn)
        in_books(conn, SOLD_OUT_OF)


def test_many_items_of_odd_quantities(conn):
    """Some rows lag and some do not, and the attachment breaks and is mended again and again."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    stock = {item(number): Decimal(rng.randrange(1, 100_000)) / 100 for number in range(1, 13)}
    shop(conn, {key: str(quantity) for key, quantity in stock.items()}, type="numeric(12,2)", columns=", note text")
    for _ in range(5):
        striped = rng.sample(list(stock), 7)
        for key in striped:
            stripe(conn, key, rng.randrange(2, 9))
        with standing_worker(conn, item=striped[0]):
            for _ in range(20):
                key = rng.choice(list(stock))
                amount = Decimal(rng.randrange(1, int(stock[key] * 100) + 2)) / 100
                if amount <= stock[key]:
                    sell(conn, key, amount)
                    stock[key] -= amount
                else:
                    call(conn, "restock_inventory", p_inventory_id=key, p_quantity=amount)
                    stock[key] += amount
            broken, mend = BREAKS[rng.choice([name for name in BREAKS if name != "nothing"])]
            conn.execute(broken)
            mended(conn, mend)
            attach(conn)
            assert {key: left(conn, key) for key in stock} == stock, broken
            in_books(conn, stock)


FORCE = "ALTER TABLE {0} ENABLE ROW LEVEL SECURITY; ALTER TABLE {0} FORCE ROW LEVEL SECURITY"


@pytest.mark.parametrize("session", ["that striped", "fresh"])
@pytest.mark.parametrize("companions", [True, False])
def test_detach_merges_items_that_forced_policies_hide_from_the_owner(db, conn, session, companions):
    """A kept plan left the owner's policy in force: detach found no row, and 4 sold units came back."""
    owner, till = create_role(conn, db, "owner"), create_role(conn, db, "till")
    conn.execute(f'GRANT CREATE ON SCHEMA public TO "{owner}"')
    conn.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{owner}"')
    allow_sales(conn, till)
    session_of_owner = db.connect(user=owner)
    stock_table(session_of_owner, {ONE: "10"}, type="integer", columns=", tenant text DEFAULT 'anna'")
    attach(session_of_owner)
    session_of_owner.execute(
        FORCE.format("inventory")
        + "; CREATE POLICY own ON inventory USING (tenant = current_setting('shop.tenant', true))"
    )
    if companions:
        for table in ("inventory_stripe", "inventory_movement", "inventory_request"):
            session_of_owner.execute(FORCE.format(table))
    session_of_owner.execute("SET shop.tenant = 'anna'")
    stripe(session_of_owner, ONE, 2)
    session_of_owner.execute("SET shop.tenant = ''")
    seller = db.connect(user=till)
    seller.execute("SET shop.tenant = 'anna'")
    with standing_worker(conn, seller):
        sell(seller, ONE, 4)
        detach(session_of_owner if session == "that striped" else db.connect(user=owner))
        assert left(conn, ONE) == 6
    assert conn.execute("SELECT count(*) FROM inventory_stripe").fetchone()[0] == 0
    moved = conn.execute("SELECT sum(delta) FROM inventory_movement").fetchone()[0]
    assert moved == 6
    attach(db.connect(user=owner))
    assert left(conn, ONE) == 6
