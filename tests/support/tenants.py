"""What the tests of several stock tables share: tenants, each with a schema, a stock table, an owner and a till.

All schemas are alike and the items of all tenants have the same ids, as where one schema is made from a template. The
owner of a tenant owns its schema; the till has USAGE on it, EXECUTE on the functions, and no right on a table.
"""

from __future__ import annotations

from dataclasses import dataclass

from books import audit, movements
from shop import attach, create_role, fill, left

EXECUTE = "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {}"


@dataclass
class Tenant:
    """One of the tenants; `admin` is a superuser's session."""

    db: object
    admin: object
    schema: str
    owner: str
    till: str

    @property
    def stock(self) -> str:
        return f"{self.schema}.inventory"

    def companion(self, suffix) -> str:
        return f"{self.schema}.inventory_{suffix}"

    def session(self, role=None, path=None):
        """A session of the till, or of the owner, that finds the tenant's schema first."""
        return self.db.connect(user=role or self.till, options=f"-c search_path={path or self.schema},public")

    def left(self, item):
        return left(self.admin, item, self.stock)

    def kinds(self, item=None) -> list[str]:
        return [movement.kind for movement in movements(self.admin, item, self.companion("movement"))]

    def audit(self):
        audit(self.admin, self.stock, self.companion("movement"))


def tenant(db, admin, name, stock, id_type="uuid", quantity_type="numeric(12,2)", attached=True, **options) -> Tenant:
    """A tenant with this stock, {item: quantity}."""
    owner, till = (create_role(admin, db, f"{name}_{role}") for role in ("owner", "till"))
    for role in (owner, till):
        admin.execute(EXECUTE.format(f'"{role}"'))
    admin.execute(f'CREATE SCHEMA {name} AUTHORIZATION "{owner}"; GRANT USAGE ON SCHEMA {name} TO "{till}"')
    made = Tenant(db, admin, name, owner, till)
    with db.connect(user=owner) as session:
        session.execute(f"CREATE TABLE {made.stock} (id {id_type} PRIMARY KEY, quantity {quantity_type})")
        fill(session, stock, made.stock)
        if attached:
            attach(session, made.stock, **options)
    return made
