"""What attach_inventory does to a table, once, and how it answers.

It adds NOT NULL and a CHECK, makes the tables for keys and ledger and their triggers, remembers the table, and says
so; called again with the same arguments it changes nothing; while one table is attached no other can be. When
attach fails, nothing has changed.
"""

import pytest

from shop import (
    ONE,
    TWO,
    Aside,
    attach,
    fill,
    item,
    left,
    notices,
    refused,
    refused_attach,
    refused_sale,
    sell,
    shop,
    stock_table,
    until_waiting,
)


@pytest.fixture
def conn(db):
    return db.connect()


def traces(conn, table="inventory"):
    """What attach leaves on a table: CHECK constraints and the NOT NULL of quantity. Its tables and triggers are made
    with the CHECK or not at all."""
    checks = conn.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'", (table,)
    ).fetchall()
    not_null = conn.execute(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'quantity'", (table,)
    ).fetchone()
    made = conn.execute(
        "SELECT relname FROM pg_class WHERE relname IN (%(table)s || '_movement', %(table)s || '_request')"
        " UNION ALL SELECT tgname FROM pg_trigger WHERE tgrelid = %(table)s::text::regclass",
        {"table": table},
    ).fetchall()
    assert bool(made) == bool(checks), made
    return [name for (name,) in checks], not_null[0]


def test_attach_answers_what_it_attached(conn):
    """A JSON object that names the table, the columns and the options."""
    stock_table(conn, {ONE: "1", TWO: "2"})
    assert attach(conn) == {
        "success": True,
        "table": "public.inventory",
        "id_column": "id",
        "quantity_column": "quantity",
        "ledger": True,
        "run_as": "owner",
        "items": 2,
    }
    assert traces(conn) == (["quantity_non_negative"], True)
    conn.execute("SELECT detach_inventory()")
    answer = attach(conn, p_ledger=False, p_run_as="caller")
    assert (answer["ledger"], answer["run_as"], answer["items"]) == (False, "caller", 2)


def test_before_any_attach_a_sale_says_that_nothing_is_attached(conn):
    """55000, with a hint at what to call."""
    answer = refused_sale(conn, ONE, "1")
    assert (answer.sqlstate, answer.message, answer.reason) == ("55000", "no stock table is attached", "not_attached")
    assert "attach_inventory" in answer.hint
    assert refused(conn, "SELECT detach_inventory()").sqlstate == "55000"


def test_attaching_the_same_table_again_is_a_notice(conn):
    """Idempotent, for deployment scripts: same table, same options, however the name is written."""
    shop(conn, {ONE: "5"})
    heard = notices(conn)
    for name in ("inventory", "public.inventory", '"public"."inventory"'):
        attach(conn, name)
    attach(conn, p_id_column="id", p_quantity_column="quantity", p_ledger=True, p_run_as="owner")
    assert [line.split(":")[0] for line in heard] == ["NOTICE"] * 4
    assert traces(conn) == (["quantity_non_negative"], True)
    assert sell(conn, ONE, "1")["new_quantity"] == 4


def test_attaching_another_table_leaves_the_first_attached(conn):
    """Until 0.1.0 a database had one stock table; tests/tenants has what a call means then."""
    shop(conn, {ONE: "5"})
    stock_table(conn, {ONE: "100"}, table="other")
    attach(conn, "other")
    for table, expected in (("inventory", 4), ("other", 99)):
        conn.execute("SELECT set_config('inventory_ext.stock_table', %s, false)", (table,))
        assert sell(conn, ONE, "1")["new_quantity"] == expected


def test_attaching_the_same_table_with_other_options_is_an_error(conn):
    """Other columns, another role, or no ledger are another attachment."""
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, id2 uuid NOT NULL UNIQUE, quantity int, reserve int)")
    attach(conn)
    others = ({"p_id_column": "id2"}, {"p_quantity_column": "reserve"}, {"p_run_as": "caller"}, {"p_ledger": False})
    for options in others:
        assert refused_attach(conn, **options).sqlstate == "55000"
    assert traces(conn) == (["quantity_non_negative"], True)


def test_without_a_ledger_there_is_neither_ledger_nor_trigger(conn):
    """p_ledger => false: keys work, and nothing stands between a writer and the table."""
    shop(conn, {ONE: "5"}, p_ledger=False)
    assert conn.execute("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'inventory'::regclass").fetchone() == (0,)
    assert conn.execute(
        "SELECT to_regclass('inventory_movement'), to_regclass('inventory_request')::text"
    ).fetchone() == (
        None,
        "inventory_request",
    )
    assert sell(conn, ONE, "1")["new_quantity"] == 4
    for _ in range(2):
        conn.execute("SELECT restock_inventory(%s, 2, p_idempotency_key => 'once')", (ONE,))
    assert left(conn, ONE) == 6
    conn.execute("TRUNCATE inventory")
    assert refused_sale(conn, ONE, "1").sqlstate == "IV002"


@pytest.mark.parametrize("argument", ["p_table", "p_id_column", "p_quantity_column", "p_ledger", "p_run_as"])
def test_a_null_argument_is_named(conn, argument):
    """22004 for each; none of them means a default."""
    stock_table(conn, {ONE: "5"})
    call = {"p_table": "'inventory'"} | {argument: "NULL"}
    answer = refused(conn, f"SELECT attach_inventory({', '.join(f'{k} => {v}' for k, v in call.items())})")
    assert answer.sqlstate == "22004"
    assert answer.facts == {"reason": "null_argument", "argument": argument}


def test_detach_keeps_the_table_and_its_constraints(conn):
    """Detach stops managing: the data and the protection stay, and attach finds its own CHECK again."""
    shop(conn, {ONE: "5"})
    conn.execute("SELECT detach_inventory()")
    assert traces(conn) == (["quantity_non_negative"], True)
    assert left(conn, ONE) == 5
    assert refused_sale(conn, ONE, "1").sqlstate == "55000"
    attach(conn)
    assert traces(conn) == (["quantity_non_negative"], True)
    assert sell(conn, ONE, "1")["new_quantity"] == 4


@pytest.mark.parametrize(
    ("type", "bad"),
    [
        ("numeric", [None]),
        ("numeric", ["NaN"]),
        ("numeric", ["Infinity"]),
        ("numeric", ["-Infinity"]),
        ("numeric", ["-0.01"]),
        ("numeric(12,2)", ["NaN", "-1", None]),
        ("integer", [-1, None]),
        ("smallint", [-32768]),
        ("bigint", [None, -9223372036854775808]),
        ("numeric", [None, "NaN", "Infinity", "-Infinity", "-1"] + ["-2"] * 20),
    ],
)
def test_bad_rows_are_counted_and_the_first_few_named(conn, type, bad):
    """The error says how many and which, a few of them; the table is as it was, and once mended can be attached."""
    good = {item(n): 1 for n in range(100, 120)}
    stock_table(conn, good | {item(n): quantity for n, quantity in enumerate(bad, start=1)}, type=type)
    answer = refused_attach(conn)
    assert answer.sqlstate == "23514"
    assert answer.facts["rows"] == len(bad)
    named = {row["inventory_id"] for row in answer.facts["first"]}
    assert named == {str(item(n)) for n in range(1, 1 + min(len(bad), 5))}
    assert traces(conn) == ([], False)
    assert refused_sale(conn, item(100), 1).sqlstate == "55000"

    conn.execute("UPDATE inventory SET quantity = 0 WHERE id < %s", (item(100),))
    attach(conn)
    assert sell(conn, item(100), 1)["new_quantity"] == 0


def test_bad_rows_in_a_partition_are_found(conn):
    """The check looks at the whole partitioned table."""
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity numeric) PARTITION BY HASH (id)")
    for part in range(3):
        conn.execute(f"CREATE TABLE p{part} PARTITION OF inventory FOR VALUES WITH (MODULUS 3, REMAINDER {part})")
    fill(conn, {item(n): "NaN" if n == 7 else 1 for n in range(10)})
    answer = refused_attach(conn)
    assert (answer.sqlstate, answer.facts["rows"]) == ("23514", 1)
    assert answer.facts["first"][0]["inventory_id"] == str(item(7))


@pytest.mark.parametrize("definition", ["CHECK (quantity > -5)", "CHECK (true)", "UNIQUE (quantity, id)"])
def test_a_constraint_of_the_same_name_is_not_dropped(conn, definition):
    """It is the user's, and says something else: attach refuses and leaves it. Under another name it does no harm."""
    stock_table(conn, {ONE: "5"}, columns=f", CONSTRAINT quantity_non_negative {definition}")
    defined = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s"
    before = conn.execute(defined, ("quantity_non_negative",)).fetchall()
    answer = refused_attach(conn)
    assert (answer.sqlstate, answer.reason) == ("42710", "constraint_name_taken")
    assert answer.facts["constraint"] == "quantity_non_negative"
    assert conn.execute(defined, ("quantity_non_negative",)).fetchall() == before
    assert conn.execute("SELECT to_regclass('inventory_request')").fetchone() == (None,)

    conn.execute("ALTER TABLE inventory RENAME CONSTRAINT quantity_non_negative TO mine")
    attach(conn)
    assert conn.execute(defined, ("mine",)).fetchall() == before
    assert refused(conn, "UPDATE inventory SET quantity = -1").sqlstate == "23514"
    assert refused(conn, "UPDATE inventory SET quantity = 'NaN'").sqlstate == "23514"


@pytest.mark.parametrize("ending", ["ROLLBACK", "ROLLBACK TO here"])
def test_an_attach_that_is_rolled_back_never_happened(db, conn, ending):
    """Not in the catalog, not in the configuration, not in the cache of the very session that did it."""
    stock_table(conn, {ONE: "5"})
    session = db.connect(autocommit=False)
    session.execute("SAVEPOINT here")
    attach(session)
    assert sell(session, ONE, "1")["new_quantity"] == 4
    session.execute(ending)
    assert refused_sale(session, ONE, "1").sqlstate == "55000"
    session.rollback()
    assert traces(conn) == ([], False)
    assert left(conn, ONE) == 5
    stock_table(conn, {ONE: "100"}, table="other")
    attach(session, "other")
    assert sell(session, ONE, "1")["new_quantity"] == 99
    session.commit()
    assert sell(conn, ONE, "1")["new_quantity"] == 98


@pytest.mark.parametrize("ending", ["ROLLBACK", "ROLLBACK TO here"])
def test_a_detach_that_is_rolled_back_never_happened(db, conn, ending):
    """The same for detach and for detach with another attach."""
    shop(conn, {ONE: "5"})
    stock_table(conn, {ONE: "100"}, table="other")
    session = db.connect(autocommit=False)
    sell(session, ONE, "1")
    session.commit()
    session.execute("SAVEPOINT here")
    session.execute("SELECT detach_inventory()")
    attach(session, "other")
    assert sell(session, ONE, "1")["new_quantity"] == 99
    session.execute(ending)
    assert sell(session, ONE, "1")["new_quantity"] == 3
    session.commit()
    assert (left(conn, ONE), left(conn, ONE, "other")) == (3, 100)
    assert traces(conn, "other") == ([], False)


def test_attach_waits_for_a_writer_and_then_checks_what_it_wrote(db, conn):
    """A bad row that is being written while attach begins is found all the same."""
    stock_table(conn, {ONE: "5"})
    writer = db.connect(autocommit=False)
    writer.execute("UPDATE inventory SET quantity = -1")
    attacher = db.connect()
    attempt = Aside(attach, attacher)
    until_waiting(conn, attacher)
    writer.commit()
    answer = attempt.refusal()
    assert (answer.sqlstate, answer.facts["rows"]) == ("23514", 1)
    assert refused_sale(conn, ONE, "1").sqlstate == "55000"


def test_two_attaches_at_once_do_not_wait_for_each_other(db, conn):
    stock_table(conn, {ONE: "5"})
    stock_table(conn, {ONE: "100"}, table="other")
    first, second = db.connect(autocommit=False), db.connect()
    attach(first)
    attach(second, "other")
    first.commit()
    assert refused_sale(second, ONE, "1").reason == "several_tables"
    assert traces(conn) == traces(conn, "other") == (["quantity_non_negative"], True)


def test_an_index_on_the_quantity_is_warned_about(conn):
    """It works, and costs every sale: a WARNING says so, once, at attach."""
    stock_table(conn, {ONE: "5"})
    conn.execute("CREATE INDEX ON inventory (quantity)")
    heard = notices(conn)
    attach(conn)
    assert [line.split(":")[0] for line in heard] == ["WARNING"]
    assert sell(conn, ONE, "1")["new_quantity"] == 4
    assert len(heard) == 1


def test_attach_holds_no_lock_after_its_transaction(db, conn):
    """Other sessions read and write the table as soon as attach has committed."""
    stock_table(conn, {ONE: "5"})
    attach(conn)
    other = db.connect()
    other.execute("SET lock_timeout = '10s'")
    other.execute("ALTER TABLE inventory ADD note text")
    assert sell(other, ONE, "1")["new_quantity"] == 4
