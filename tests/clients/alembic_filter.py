"""For env.py of Alembic: context.configure(…, include_name=include_name)."""

# docs:begin
AUDIT = ("audit", "audit_chain", "audit_segment", "movement_archive")
COMPANIONS = {
    f"inventory_{name}" for name in ("attachment", "sharing", "movement", "request", "stripe", "stripe_total", *AUDIT)
}


def include_name(name, kind, parent_names):
    return kind != "table" or name not in COMPANIONS


# docs:end
