"""The row that a constraint refuses is shown to roles that may read it, and to no other.

A statement runs as the owner of the table, who may read all columns. PostgreSQL showed the caller of a refused sale
the whole row in DETAIL.
"""

import pytest

from shop import ONE, TWO, create_role, refused, shop

SALE = f"SELECT decrement_inventory('{ONE}', 95)"
COUNT = f"SELECT adjust_inventory('{ONE}', 5)"


CONSTRAINTS = {
    "a CHECK": "ADD CONSTRAINT c CHECK (quantity >= 10) NOT VALID",
    "a unique index": "ADD CONSTRAINT c UNIQUE (cost, quantity)",
}


@pytest.fixture
def till(db):
    """The session of a role that may sell and read nothing; with a session of the owner and one of a superuser."""
    admin = db.connect()
    shop(admin, {ONE: 100, TWO: 5}, columns=", cost text DEFAULT 'secret'", p_ledger=False)
    owner, role = (create_role(admin, db, name) for name in ("owner", "till"))
    admin.execute(f'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO "{role}", "{owner}"')
    admin.execute(f'GRANT CREATE ON SCHEMA public TO "{owner}"')
    for table in ("inventory", "inventory_request", "inventory_stripe", "inventory_stripe_total"):
        admin.execute(f'ALTER TABLE {table} OWNER TO "{owner}"')
    return db.connect(user=role), db.connect(user=owner), admin


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("call", [SALE, COUNT])
def test_a_refused_row_is_not_shown_to_the_caller(till, constraint, call):
    caller, owner, admin = till
    owner.execute(f"ALTER TABLE inventory {CONSTRAINTS[constraint]}")
    refusal = refused(caller, call)
    assert refusal.sqlstate in ("23514", "23505")
    assert "secret" not in refusal.detail + refusal.message
    for reader in (owner, admin):
        assert "secret" in refused(reader, call).detail


def test_an_error_of_the_owners_own_code_keeps_its_detail(till):
    caller, _, admin = till
    admin.execute(
        """CREATE FUNCTION keep_ten() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
               RAISE EXCEPTION 'too few' USING ERRCODE = 'check_violation', DETAIL = 'keep ten';
           END $$;
           CREATE TRIGGER keep_ten BEFORE UPDATE ON inventory FOR EACH ROW EXECUTE FUNCTION keep_ten()"""
    )
    refusal = refused(caller, SALE)
    assert (refusal.sqlstate, refusal.message, refusal.detail) == ("23514", "too few", "keep ten")
