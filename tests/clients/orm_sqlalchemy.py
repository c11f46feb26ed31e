"""Two clerks sell one unit each with SQLAlchemy: by changing an object that both have read, then by the call."""

import json
import sys
from decimal import Decimal

from sqlalchemy import BigInteger, create_engine, func, literal, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Inventory(Base):
    __tablename__ = "inventory"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    quantity: Mapped[Decimal]


item = int(sys.argv[1])
engine = create_engine("postgresql+psycopg://")


def left():
    with Session(engine) as session:
        return int(session.get(Inventory, item).quantity)


with Session(engine) as first, Session(engine) as second:
    read = [(session, session.get(Inventory, item)) for session in (first, second)]
    for session, clerk in read:
        clerk.quantity -= 1
        session.commit()
saved = left()
for _ in read:
    with Session(engine) as session, session.begin():
        session.scalar(select(func.decrement_item(literal(item, BigInteger), 1)))
print(json.dumps({"saved": saved, "called": left()}))
