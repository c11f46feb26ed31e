"""A sale of exactly the rest searches the tables no more often than any other sale."""

import pytest

from books import stripes_of
from shop import ONE, TWO, attach, item, refused_sale, sell, shop
from striped import stripe

THREE = item(3)


@pytest.fixture
def conn(db):
    return db.connect()


def scans_of(conn, work, tables="inventory|part"):
    """How often a piece of work of this session searches these tables; other sessions and the worker do not count."""
    sql = "SELECT sum(seq_scan + coalesce(idx_scan, 0)) FROM pg_stat_xact_user_tables WHERE relname ~ %s"
    with conn.transaction():
        before = conn.execute(sql, (f"^({tables})$",)).fetchone()[0]
        work()
        return conn.execute(sql, (f"^({tables})$",)).fetchone()[0] - before


@pytest.mark.parametrize("type", ["integer", "numeric(12,2)"])
@pytest.mark.parametrize("how", ["owner", "caller", "partitioned", "referenced"])
def test_a_sale_of_exactly_what_is_left_searches_no_more_than_any_other(conn, how, type):
    """The condition under which the row is locked was "more than", and the last unit took four statements
    instead of two."""
    partitions = " PARTITION BY HASH (id)" if how == "partitioned" else ""
    conn.execute(f"CREATE TABLE inventory (id uuid PRIMARY KEY, quantity {type}){partitions}")
    if partitions:
        conn.execute("CREATE TABLE part PARTITION OF inventory FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    if how == "referenced":
        conn.execute("CREATE TABLE line (item uuid REFERENCES inventory)")
    conn.execute("INSERT INTO inventory VALUES (%s, 10), (%s, 10), (%s, 10)", (ONE, TWO, THREE))
    attach(conn, p_run_as="caller" if how == "caller" else "owner")
    sell(conn, TWO, 1)
    some = scans_of(conn, lambda: sell(conn, TWO, 8))
    assert scans_of(conn, lambda: sell(conn, TWO, 1)) == some
    assert scans_of(conn, lambda: sell(conn, THREE, 10)) == some
    # After a refusal the session looks at that item first.
    assert refused_sale(conn, ONE, 11).sqlstate == "IV001"
    assert scans_of(conn, lambda: sell(conn, ONE, 9)) == scans_of(conn, lambda: sell(conn, ONE, 1)) + 1 == some + 1


def test_a_sale_of_exactly_what_a_stripe_has_searches_no_more_than_any_other(conn):
    """From the session's own stripe, and from another one where the own one has too little: in both the
    stripe was passed over."""
    shop(conn, {ONE: "12", TWO: "12", THREE: "12"}, type="integer")
    for key in (ONE, TWO, THREE):
        stripe(conn, key)

    def each_of(key, quantity):
        """The searches of two sales: the second finds too little in the own stripe."""
        return [scans_of(conn, lambda: sell(conn, key, quantity), "inventory_stripe") for _ in range(2)]

    sell(conn, THREE, 1)
    some = each_of(ONE, 2)
    assert each_of(TWO, 3) == some
    assert sorted(stripes_of(conn, ONE).values()) == [1, 1, 3, 3]
    assert sorted(stripes_of(conn, TWO).values()) == [0, 0, 3, 3]
