"""A session that outlives many tables does not keep what it knew of them: plans, names, striped items."""

from books import call
from shop import attach, sell

PLANS = "SELECT count(*) FROM pg_backend_memory_contexts WHERE name LIKE 'CachedPlan%'"


def test_a_session_forgets_the_tables_that_are_gone(db):
    """Of each it kept its plans, 175 kB for a shop that used four functions."""
    admin, session = db.connect(), db.connect()
    session.prepare_threshold = None  # psycopg's own plans do not count

    def once(number, removal):
        admin.execute(f"CREATE TABLE stock_{number} (id uuid PRIMARY KEY, quantity integer)")
        admin.execute(f"INSERT INTO stock_{number} VALUES (gen_random_uuid(), 10)")
        (item,) = admin.execute(f"SELECT id FROM stock_{number}").fetchone()
        attach(admin, f"stock_{number}")
        session.execute(f"SET inventory_ext.stock_table = stock_{number}")
        sell(session, item, 1)
        call(session, "restock_inventory", p_inventory_id=item, p_quantity=1)
        admin.execute(removal.format(f"stock_{number}"))

    counts = []
    for number in range(12):
        once(number, "SELECT detach_inventory('{0}')" if number % 2 else "DROP TABLE {0}")
        counts.append(session.execute(PLANS).fetchone()[0])
    assert counts[-1] <= counts[2], counts
