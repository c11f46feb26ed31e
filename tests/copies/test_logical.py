"""Logical copies: a switch-over by the manual's recipe loses no unit and counts no order twice; a copy does not sell.

The recipe used to name neither the keys nor the stripes, so that a retry was deducted again on the new side, and sold
units of a striped item came back there, where its total was behind. A copy of all tables copied the attachment too,
sold, and then collided with its publisher.
"""

import pytest

from books import audit, call, last_movement, lines, refused_order, stripes_of
from dev.server import Server
from servers import (
    PG,
    PUBLISHED,
    Shoppers,
    assert_counted_once,
    assert_nothing_crashed,
    at_rest,
    available,
    freeze_total,
    in_sync,
    leave_publisher,
    move_sequence,
    new_database,
    run,
    subscribe,
    two_databases,
)
from shop import ONE, TWO, attach, fill, item, left, refused, refused_attach, refused_sale, sell, shop, stock_of, until

THREE, FOUR = item(3), item(4)
ITEMS, STRIPED = [ONE, TWO, THREE, FOUR], [TWO, FOUR]


@pytest.fixture(scope="module")
def servers():
    settings = {"wal_level": "logical"}
    with Server(pg=PG, settings=settings) as here, Server(pg=PG, settings=settings) as there:
        yield here, there
        assert_nothing_crashed(here, there)


@pytest.fixture
def both(servers):
    """A database with a shop, two of its items striped, and an empty one on another server."""
    with two_databases(*servers) as (publisher, subscriber):
        with publisher.connect() as conn:
            open_shop(conn)
        yield publisher, subscriber


def open_shop(conn, quantity=100_000):
    conn.execute("CREATE EXTENSION IF NOT EXISTS inventory_ext")
    shop(conn, {key: quantity for key in ITEMS})
    for key in STRIPED:
        conn.execute("SELECT stripe_inventory(%s, 4)", (key,))


def publish(publisher, what):
    with publisher.connect() as conn:
        conn.execute(f"CREATE PUBLICATION shop FOR {what}")


def copy_schema(publisher, subscriber, without=()):
    """The definitions of all tables, the extension and its triggers, without the lines that begin so."""
    dumped = run(publisher.server, "pg_dump", "--schema-only", "--no-publications", publisher.name)
    kept = [line for line in dumped.splitlines() if not line.startswith(without)]
    run(subscriber.server, "psql", "-Xqo/dev/null", "-vON_ERROR_STOP=1", "-d", subscriber.name, input="\n".join(kept))


def copy(publisher, subscriber, what=f"TABLE {PUBLISHED}"):
    publish(publisher, what)
    copy_schema(publisher, subscriber)
    subscribe(publisher, subscriber)


def availables(conn):
    return {key: available(conn, key) for key in ITEMS}


def assert_goes_on(conn, orders):
    """Retries are replayed, the rest is sold once, and items can be striped again."""
    for each in orders:
        each.send(conn)
    assert_counted_once(conn, orders)
    for key in STRIPED:
        conn.execute("SELECT stripe_inventory(%s, 4)", (key,))
        assert "stripe" in sell(conn, key, 1)
    at_rest(conn)


def test_a_planned_switch_over_by_the_manual(both):
    """The first copy is made and followed while orders come in; then all of them are known on the new side."""
    publisher, subscriber = both
    with Shoppers(publisher.dsn, ITEMS) as shoppers:
        shoppers.until_answered(20)
        copy(publisher, subscriber)
        shoppers.until_answered(50)
    in_sync(publisher, subscriber)
    with publisher.connect() as old, subscriber.connect() as new:
        new.execute("DROP SUBSCRIPTION shop")
        move_sequence(new)
        before = last_movement(new)
        attach(new)
        assert availables(new) == availables(old)
        audit(new)
        known = [each for each in shoppers.orders if each.result]
        assert [each.send(new)["replayed"] for each in known] == [True] * len(known)
        assert sell(new, ONE, 1)["deducted"] == 1 and last_movement(new) > before
        assert_goes_on(new, shoppers.orders)


def test_a_switch_over_in_the_midst_of_orders(both):
    """The publisher is cut off while it sells, with a total far behind. All orders are sent again: each counts once."""
    publisher, subscriber = both
    copy(publisher, subscriber)
    with freeze_total(publisher, TWO), Shoppers(publisher.dsn, ITEMS) as shoppers, subscriber.connect() as new:
        arrived = "SELECT count(*) FROM inventory_request"
        until(lambda: shoppers.errors or new.execute(arrived).fetchone()[0] >= 50, "orders arrive at the copy")
        leave_publisher(new)
        held = {key: sum(stripes_of(new, key).values()) for key in STRIPED}
        assert held[TWO] < left(new, TWO) == 100_000
        move_sequence(new)
        attach(new)
        assert {key: available(new, key) for key in STRIPED} == {key: left(new, key) for key in STRIPED} == held
        assert [stripes_of(new, key) for key in STRIPED] == [{}, {}]
        audit(new)
    with subscriber.connect() as new:
        known = new.execute(arrived).fetchone()[0]
        assert 0 < known <= len(shoppers.orders)
        assert sum(each.send(new).get("replayed", False) for each in shoppers.orders) == known
        assert_counted_once(new, shoppers.orders)
        ordered = {key: sum(dict(each.pairs).get(key, 0) for each in shoppers.orders) for key in ITEMS}
        assert availables(new) == {key: 100_000 - ordered[key] for key in ITEMS}
        assert_goes_on(new, shoppers.orders)


@pytest.mark.parametrize("frozen", [False, True], ids=["total exact", "total behind"])
def test_attach_after_a_switch_over_without_the_totals_gives_no_unit_back(both, frozen):
    """A publication that leaves the totals out: attach adds the stripes up, or refuses and names both figures."""
    publisher, subscriber = both
    copy(publisher, subscriber, "TABLE inventory, inventory_movement, inventory_request, inventory_stripe")
    with publisher.connect() as old:
        holder = freeze_total(publisher, TWO) if frozen else None
        sell(old, TWO, 31)
        if holder is None:
            at_rest(old)
        in_sync(publisher, subscriber)
    with subscriber.connect() as new:
        leave_publisher(new)
        move_sequence(new)
        if holder:
            refusal = refused_attach(new)
            assert_refused(refusal, "stripes_differ")
            figures = refusal.facts
            assert (figures["inventory_id"], figures["row"], figures["stripes"]) == (str(TWO), 100_000, 99_969)
            assert sum(stripes_of(new, TWO).values()) == 99_969
            # As the HINT says: the row is set to what the stripes hold. The triggers came with the schema, and refuse
            # writes that they cannot record as long as nothing is attached.
            new.execute("ALTER TABLE inventory DISABLE TRIGGER USER")
            new.execute("UPDATE inventory SET quantity = 99969 WHERE id = %s", (TWO,))
            new.execute("ALTER TABLE inventory ENABLE TRIGGER USER")
            holder.close()
        attach(new)
        assert available(new, TWO) == left(new, TWO) == 99_969
        assert_goes_on(new, [])


def sales():
    """Every call that sells or changes stock, on an item as it is and on a striped one."""
    for here, other in ((ONE, TWO), (TWO, FOUR)):
        yield f"SELECT decrement_inventory('{here}', 1)"
        yield f"SELECT decrement_inventory_batch('{lines((here, 1))}')"
        yield f"SELECT decrement_inventory_batch('{lines((here, 1))}', p_on_shortage => 'partial')"
        yield f"SELECT restock_inventory('{here}', 1)"
        yield f"SELECT adjust_inventory('{here}', 1)"
        yield f"SELECT transfer_inventory('{here}', '{other}', 1)"
        yield f"SELECT stripe_inventory('{here}', 2)"
        yield f"SELECT unstripe_inventory('{here}')"


def assert_refused(refusal, reason="subscriber"):
    assert refusal.sqlstate == "55000", refusal
    assert refusal.reason == reason, refusal


def assert_all_refused(conn, reason="subscriber"):
    for sql in sales():
        assert_refused(refused(conn, sql), reason)


def assert_refused_and_unchanged(conn, reason="subscriber"):
    before = stock_of(conn), last_movement(conn)
    assert_all_refused(conn, reason)
    assert (stock_of(conn), last_movement(conn)) == before


def test_a_copy_of_all_tables_does_not_sell_before_it_has_left_its_publisher(both):
    """FOR ALL TABLES copies the attachment row. The copy refuses and follows; after DROP SUBSCRIPTION it sells."""
    publisher, subscriber = both
    copy(publisher, subscriber, "ALL TABLES")
    with publisher.connect() as old, subscriber.connect() as new, subscriber.connect() as warm:
        assert new.execute("SELECT stock_table::text FROM inventory_attachment").fetchone() == ("inventory",)
        assert_refused_and_unchanged(new)
        assert_refused(refused_sale(warm, TWO, 1))
        sell(old, ONE, 1)
        sell(old, TWO, 1)
        old.execute("SELECT stripe_inventory(%s, 3), unstripe_inventory(%s)", (ONE, FOUR))
        sell(old, ONE, 1)
        at_rest(old)
        in_sync(publisher, subscriber)
        new.execute("ALTER SUBSCRIPTION shop DISABLE")
        assert_refused_and_unchanged(new)
        leave_publisher(new)
        move_sequence(new)
        assert availables(new) == availables(old)
        for conn in (warm, new):
            assert [sell(conn, key, 1)["deducted"] for key in ITEMS] == [1, 1, 1, 1]
        at_rest(new)


def test_a_subscriber_that_was_refused_does_not_disturb_its_publisher(both):
    """What is sold there goes on arriving: nothing that was refused has left a movement or a stripe in its way."""
    publisher, subscriber = both
    copy(publisher, subscriber, "ALL TABLES")
    with Shoppers(publisher.dsn, ITEMS) as shoppers, subscriber.connect() as new:
        for _ in range(3):
            assert_all_refused(new)
            shoppers.until_answered(30)
    with publisher.connect() as old, subscriber.connect() as new:
        at_rest(old)
        in_sync(publisher, subscriber)
        # A worker that ran here would have written totals of its own by now; one of the publisher's may still arrive.
        until(lambda: stock_of(new) == stock_of(old), "the subscriber has the rows of the publisher")
        audit(new)
        assert "conflict" not in subscriber.server.log_path.read_text()


TABLES = [*PUBLISHED.split(", "), "p1"]


@pytest.mark.parametrize("table", TABLES)
def test_one_subscribed_table_of_the_shop_is_enough_to_refuse(servers, table):
    """The stock table, a partition or a companion, in a shop that sold before: sessions that sold are refused too."""
    with two_databases(*servers) as (publisher, subscriber):
        for db in (publisher, subscriber):
            with db.connect() as conn:
                open_partitioned_shop(conn) if table == "p1" else open_shop(conn)
        publish(publisher, f"TABLE {table}")
        with subscriber.connect() as warm, subscriber.connect() as new:
            assert sell(warm, ONE, 1)["deducted"] == 1
            subscribe(publisher, subscriber, options=", copy_data = false")
            for conn in (warm, new):
                assert_refused(refused_sale(conn, ONE, 1))
                assert_refused(refused_order(conn, (ONE, 1), (TWO, 1)))
            new.execute("DROP SUBSCRIPTION shop")
            for conn in (warm, new):
                assert sell(conn, ONE, 1)["deducted"] == 1
            at_rest(new)


def open_partitioned_shop(conn):
    conn.execute("CREATE EXTENSION inventory_ext")
    conn.execute("CREATE TABLE inventory (id uuid PRIMARY KEY, quantity integer) PARTITION BY HASH (id)")
    for n in range(2):
        conn.execute(f"CREATE TABLE p{n} PARTITION OF inventory FOR VALUES WITH (MODULUS 2, REMAINDER {n})")
    fill(conn, {key: 100 for key in ITEMS})
    attach(conn)


def test_a_subscription_to_something_else_does_not_hinder_sales(both):
    publisher, subscriber = both
    for db in both:
        with db.connect() as conn:
            conn.execute("CREATE TABLE news (id int PRIMARY KEY, text text)")
    publish(publisher, "TABLE news")
    with subscriber.connect() as conn:
        open_shop(conn)
        subscribe(publisher, subscriber)
        assert [sell(conn, key, 1)["deducted"] for key in ITEMS] == [1, 1, 1, 1]
        at_rest(conn)


def test_a_subscription_to_a_table_that_inherits_does_not_hinder_sales(both):
    """It holds nothing of the stock: sales are from the parent alone."""
    publisher, subscriber = both
    with publisher.connect() as conn:
        conn.execute("CREATE TABLE kid (id uuid PRIMARY KEY, quantity numeric(12,2))")
    publish(publisher, "TABLE kid")
    with subscriber.connect() as conn:
        open_shop(conn)
        conn.execute("CREATE TABLE kid (PRIMARY KEY (id)) INHERITS (inventory)")
        subscribe(publisher, subscriber)
        assert [sell(conn, key, 1)["deducted"] for key in ITEMS] == [1, 1, 1, 1]
        at_rest(conn)


def test_attach_on_a_subscriber_is_refused(both):
    """It would merge stripes that the publisher goes on writing: 26 units that are sold later would come back."""
    publisher, subscriber = both
    copy(publisher, subscriber)
    with freeze_total(publisher, TWO), publisher.connect() as old, subscriber.connect() as new:
        sell(old, TWO, 5)
        in_sync(publisher, subscriber)
        move_sequence(new)
        assert_refused(refused_attach(new))
        sell(old, TWO, 26)
        in_sync(publisher, subscriber)
        leave_publisher(new)
        move_sequence(new)
        attach(new)
        assert available(new, TWO) == left(new, TWO) == 99_969
        assert_goes_on(new, [])


def test_detach_on_a_subscriber_leaves_the_stripes_to_its_publisher(both):
    """After FOR ALL TABLES: stripes follow on, and the attach after the switch-over adds them up."""
    publisher, subscriber = both
    copy(publisher, subscriber, "ALL TABLES")
    with freeze_total(publisher, TWO), publisher.connect() as old, subscriber.connect() as new:
        sell(old, TWO, 5)
        in_sync(publisher, subscriber)
        new.execute("SELECT detach_inventory()")
        sell(old, TWO, 26)
        in_sync(publisher, subscriber)
        leave_publisher(new)
        move_sequence(new)
        assert sum(stripes_of(new, TWO).values()) == 99_969
        attach(new)
        assert available(new, TWO) == left(new, TWO) == 99_969
        assert_goes_on(new, [])


def test_a_copy_without_our_triggers_is_refused_after_it_has_left(both):
    """Tables made by a tool that copies no triggers: nothing would be recorded. Detach and attach put it right."""
    publisher, subscriber = both
    publish(publisher, "ALL TABLES")
    copy_schema(publisher, subscriber, without=('CREATE TRIGGER "0_inventory', 'ALTER TRIGGER "0_inventory'))
    subscribe(publisher, subscriber)
    with publisher.connect() as old, subscriber.connect() as new:
        holder = freeze_total(publisher, TWO)
        sell(old, TWO, 31)
        in_sync(publisher, subscriber)
        leave_publisher(new)
        holder.close()
        move_sequence(new)
        assert_refused_and_unchanged(new, "trigger_missing")
        new.execute("SELECT detach_inventory()")
        attach(new)
        assert available(new, TWO) == left(new, TWO) == 99_969
        assert_goes_on(new, [])


def test_a_template_copy_of_a_subscriber_sells(both):
    """The new database has the list of subscribed tables, but no subscription: it is a shop of its own."""
    publisher, subscriber = both
    copy(publisher, subscriber, "ALL TABLES")
    with subscriber.connect() as conn:
        conn.execute("ALTER SUBSCRIPTION shop DISABLE")
        gone = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        until(lambda: conn.execute(gone).fetchone() == (0,), "nothing else is connected to the template")
    with new_database(subscriber.server, f"TEMPLATE {subscriber.name}") as independent, independent.connect() as conn:
        move_sequence(conn)
        assert [sell(conn, key, 1)["deducted"] for key in ITEMS] == [1, 1, 1, 1]
        at_rest(conn)
        conn.execute("SELECT detach_inventory()")
        assert call(conn, "attach_inventory", p_table="inventory")["items"] == 4
        at_rest(conn)
