"""The demo's own arithmetic, on a slice of its data: the figures it prints must be those of the stock table.

The two ways that lock must conserve every unit. The way with the original bug may lose any number here, even none, so
only its bookkeeping is checked. The verdict must fall when it ought to.
"""

from dataclasses import replace

import pytest

from demo import replay
from demo.replay import BY_HAND, EXTENSION, READ_THEN_WRITE, WAYS, Result

SALES = 3_000


@pytest.fixture(scope="module")
def all_sales():
    return replay.load_sales()


@pytest.fixture
def sales(all_sales):
    return all_sales[:SALES]


def units_left(db):
    with db.connect() as connection:
        return dict(connection.execute("SELECT id, quantity FROM inventory").fetchall())


def run(db, way, sales):
    reports = []
    result = replay.replay(db.dsn(), way, sales, lambda *report: reports.append(report))
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)
    assert reports[-1] == (way, len(sales), len(sales))
    return result


def test_the_data_is_what_the_demo_says(all_sales):
    stock = replay.opening_stock(all_sales)
    assert len(all_sales) == 69_659
    assert len(stock) == 2_783
    assert sum(sale.units for sale in all_sales) == 167_881
    demand = dict.fromkeys(stock, 0)
    for sale in all_sales:
        demand[sale.product] += sale.units
    short = [product for product in stock if stock[product] < demand[product]]
    assert len(short) == 557  # every fifth
    assert all(stock[product] == demand[product] for product in stock.keys() - set(short))


@pytest.mark.parametrize("way", [BY_HAND, EXTENSION], ids=lambda way: way.name)
def test_a_way_that_locks_conserves_every_unit(db, sales, way):
    result = run(db, way, sales)
    opening, closing = replay.opening_stock(sales), units_left(db)

    assert (result.lost, result.oversold, result.astray) == (0, 0, 0)
    assert result.sold == sum(opening.values()) - sum(closing.values())
    assert closing.keys() == opening.keys()
    assert min(closing.values()) >= 0
    # Who gets the last units of a short product is open; a product with its whole demand in stock refuses no customer.
    demand = dict.fromkeys(opening, 0)
    for sale in sales:
        demand[sale.product] += sale.units
    short = {product for product in opening if opening[product] < demand[product]}
    assert all(closing[product] == 0 for product in opening.keys() - short)
    assert 0 < result.refused <= sum(sale.product in short for sale in sales)


def test_read_then_write_keeps_its_books(db, sales):
    result = run(db, READ_THEN_WRITE, sales)
    opening, closing = replay.opening_stock(sales), units_left(db)

    assert result.deducted == sum(opening.values()) - sum(closing.values())
    assert result.lost == result.sold - result.deducted
    assert result.lost >= result.oversold >= 0
    assert (result.astray == 0) == (result.lost == 0)
    assert min(closing.values()) >= 0


def test_a_way_that_breaks_ends_the_replay(db, sales):
    """An error that isn't a refusal is never counted as one."""
    broken = replace(
        BY_HAND, prepare="CREATE FUNCTION sell_by_hand(uuid, numeric) RETURNS int LANGUAGE sql RETURN 1 / 0"
    )
    with pytest.raises(Exception, match="division by zero"):
        run(db, broken, sales)


def result_of(way, **figures):
    return Result(
        **(dict(way=way, sales=10, sold=20, deducted=20, refused=3, oversold=0, astray=0, seconds=1.25) | figures)
    )


def test_the_table_shows_the_figures():
    results = [result_of(way, sold=1_234_000 + number) for number, way in enumerate(WAYS)]
    heading, *lines = replay.table(results).splitlines()
    assert heading.split("  ")[0] == "way"
    assert len(lines) == len(WAYS)
    for number, (way, line) in enumerate(zip(WAYS, lines, strict=True)):
        assert line.startswith(way.name)
        figures = line.removeprefix(way.name).split()
        assert figures == ["10", f"{1_234_000 + number:,}", "20", f"{1_233_980 + number:,}", "3", "1.2"]


@pytest.mark.parametrize(
    ("bug", "ours", "right", "word"),
    [
        ({"deducted": 15}, {}, True, "RIGHT"),
        ({}, {}, False, "NOT SHOWN"),
        ({"deducted": 15}, {"deducted": 19}, False, "WRONG"),
        ({"deducted": 15}, {"deducted": 21}, False, "WRONG"),
        ({"deducted": 15}, {"oversold": 1}, False, "WRONG"),
        ({"deducted": 15}, {"astray": 2}, False, "WRONG"),
    ],
)
def test_the_verdict_follows_the_figures(bug, ours, right, word):
    results = [result_of(READ_THEN_WRITE, **bug), result_of(BY_HAND), result_of(EXTENSION, **ours)]
    verdict, line = replay.verdict(results)
    assert verdict is right
    assert line.startswith(f"{word}: ")
    assert "\n" not in line


def test_what_is_printed_to_try_by_hand_works(db):
    answers = []
    with db.connect() as connection:
        for statement in replay.TRY_BY_HAND.strip().split(";\n"):
            cursor = connection.execute(statement)
            answers.append(cursor.fetchall() if cursor.description else None)
    assert answers[-2][0][0]["new_quantity"] == 10.52
    assert [(title, str(quantity)) for title, quantity in answers[-1]] == [("Kind of Blue", "10.52")]
