"""The page of a run says what an audit found, shows foreign texts as texts, and asks a browser for nothing else."""

import re

import pytest

from auditing import audit, history, movements, past_the_triggers
from browser import chromium
from shop import ONE, TWO, attach, create_role, item, refused, sell, shop

FINE = "The stock is what the ledger says."
HOSTILE = "<script>alert('x')</script>&lt;&quot;\"'`<img src=//example.invalid/x onerror=alert(1)>"
TABLE = "<script>alert(1)</script>&\"'<b>"
RED = (255, 0, 0)
LINE = 'svg polyline[stroke="#0000FF"]'


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {item(number): "20.00" for number in range(1, 5)})
    return conn


def report(conn, run=None):
    return conn.execute("SELECT inventory_audit_report(%s)", (run,)).fetchone()[0]


def newest_run(conn):
    return conn.execute("SELECT max(run_id) FROM inventory_audit").fetchone()[0]


def broken_shop(conn):
    """One item, whose chain has a break; returns the movement before which it is."""
    chain = history(conn)[str(TWO)]
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 9 WHERE id = '{TWO}'")
    for _ in range(6):
        sell(conn, TWO, 1)
    assert [found[0] for found in audit(conn)] == ["broken_chain"]
    return movements(conn)[str(TWO)][len(chain)]


def opened(browser, folder, page):
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return browser.open(path)


def assert_asks_for_nothing(page):
    assert page.requests == []
    assert page.said == []
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.querySelectorAll('[src], [onerror], [onload], base, iframe, object').length") == 0


def cells(page, table):
    """The texts of a table's rows."""
    rows = f"[...document.querySelectorAll('table')[{table}].rows]"
    return page.evaluate(f"{rows}.map(row => [...row.cells].map(cell => cell.innerText))")


def boxes(page, selector):
    """Where the elements are."""
    found = f"[...document.querySelectorAll('{selector}')]"
    return page.evaluate(f"{found}.map(element => element.getBoundingClientRect().toJSON())")


def texts(page, selector):
    return page.evaluate(f"[...document.querySelectorAll('{selector}')].map(found => found.textContent)")


def test_the_browser_tells_what_a_page_does(browser, tmp_path):
    script = "alert(1); fetch('http://example.invalid/y'); x()"
    page = opened(browser, tmp_path, f"<p>x<img src=http://example.invalid/x><script>{script}</script>")
    assert sorted(page.requests) == ["http://example.invalid/x", "http://example.invalid/y"]
    assert len(page.said) >= 2
    with pytest.raises(AssertionError):
        assert_asks_for_nothing(page)


def test_the_page_of_a_shop_without_faults(browser, tmp_path, conn):
    history(conn)
    conn.execute("SELECT restock_inventory(%s::uuid, 3)", (str(ONE),))
    assert audit(conn, full=True) == []
    page = opened(browser, tmp_path, report(conn))
    assert_asks_for_nothing(page)
    assert texts(page, "h1") == ["Audit of public.inventory"]
    assert texts(page, "p") == [FINE]
    facts = dict(cells(page, 0))
    assert facts["Run"] == str(newest_run(conn))
    assert (facts["Movements read"], facts["Items checked"], facts["Whole ledger"]) == ("25", "4", "yes")
    seal, number = conn.execute("SELECT encode(seal, 'hex'), seal_number FROM inventory_audit").fetchone()
    assert facts["Sealed"] == f"25 movements, seal {number}, {seal}"
    [day] = conn.execute("SELECT to_char(now(), 'YYYY-MM-DD')").fetchone()
    kinds, (on, *counts) = cells(page, 1)
    assert (on, dict(zip(kinds[1:], counts))) == (day, {"opening": "4", "sale": "20", "restock": "1"})
    assert page.evaluate("document.querySelectorAll('svg').length") == 0


def test_the_page_of_a_broken_chain(browser, tmp_path, conn):
    before = broken_shop(conn)
    page = opened(browser, tmp_path, report(conn))
    assert_asks_for_nothing(page)
    [row] = cells(page, 1)[1:]
    after = movements(conn)[str(TWO)]
    after = str(after[after.index(before) - 1])
    assert row == ["broken_chain", str(TWO), "15.00", "9.00", "-6.00", after, str(before), "", "postgres", ""]
    assert texts(page, "h2") == ["What is wrong", f"Stock of {TWO}", "Movements"]
    assert page.evaluate("document.querySelectorAll('svg polyline').length") > 0


def test_the_break_is_red_where_it_arose(browser, tmp_path, conn):
    before = broken_shop(conn)
    chain = movements(conn)[str(TWO)]
    page = opened(browser, tmp_path, report(conn))
    [mark] = boxes(page, "svg circle")
    [line] = boxes(page, LINE)
    # Each movement that is shown is a step; the line begins before the first one and ends after the last one.
    shown = len(page.evaluate(f"document.querySelector('{LINE}').getAttribute('points')").split()) // 3
    step = line["width"] / shown
    assert abs(mark["x"] + mark["width"] / 2 - (line["x"] + step * chain.index(before))) < 3
    colours = browser.colours(page.screenshot("svg"))
    assert colours[RED] > 60, "a disc of 6 pixels"
    blue = sum(count for (red, green, blue), count in colours.items() if blue > red + 60 and blue > green + 60)
    assert blue > 500, "the line of the stock"


def test_each_break_of_an_item_is_marked(browser, tmp_path, conn):
    broken_shop(conn)
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 12 WHERE id = '{TWO}'")
    sell(conn, TWO, 1)
    assert [found[0] for found in audit(conn)] == ["broken_chain"] * 2
    page = opened(browser, tmp_path, report(conn))
    assert len(boxes(page, "svg")) == 1
    assert len(boxes(page, "svg circle")) == 2


def test_the_stock_after_a_break_is_shown(browser, tmp_path, conn):
    broken_shop(conn)
    page = opened(browser, tmp_path, report(conn))
    [mark], [line] = boxes(page, "svg circle"), boxes(page, LINE)
    assert line["x"] + line["width"] > mark["x"] + mark["width"] + 0.25 * line["width"], "five sales came after it"


def test_the_page_can_be_seen_and_read(browser, tmp_path, conn):
    broken_shop(conn)
    page = opened(browser, tmp_path, report(conn))
    picture = page.screenshot()
    colours = browser.colours(picture)
    assert len(colours) > 50, "smooth letters and lines"
    assert 0.5 < colours[(255, 255, 255)] / sum(colours.values()) < 0.99
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1], "nothing is cut off on the right"
    inside = (
        "[...document.querySelectorAll('svg text')].every(text => {"
        "const a = text.getBoundingClientRect(), b = text.closest('svg').getBoundingClientRect();"
        "return a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom})"
    )
    assert page.evaluate(inside), "a text of the chart is cut off"


def test_foreign_texts_are_shown_and_not_obeyed(browser, tmp_path, db):
    conn = db.connect()
    actor = create_role(conn, db, "<img src=x onerror=alert(2)>&'")
    table = TABLE.replace('"', '""')
    conn.execute(f'CREATE TABLE "{table}" (id text PRIMARY KEY, quantity numeric(12,2) NOT NULL)')
    conn.execute(f'INSERT INTO "{table}" VALUES (%s, 20)', (HOSTILE,))
    conn.execute("SELECT attach_inventory(%s::regclass)", (f'"{table}"',))
    conn.execute(f'GRANT EXECUTE ON FUNCTION decrement_item(inventory_key, numeric, text, text) TO "{actor}"')
    conn.execute("SELECT decrement_item(%s, 1)", (HOSTILE,))
    past_the_triggers(conn, f'UPDATE "{table}" SET quantity = 11')
    conn.execute(f'SET SESSION AUTHORIZATION "{actor}"')
    conn.execute("SELECT decrement_item(%s, 1, %s)", (HOSTILE, HOSTILE))
    conn.execute("RESET SESSION AUTHORIZATION")
    assert [found[:2] for found in audit(conn)] == [("broken_chain", HOSTILE)]
    source = report(conn)
    page = opened(browser, tmp_path, source)
    assert_asks_for_nothing(page)
    [row] = texts(page, "tr:has(td:nth-child(9))")
    assert row.count(HOSTILE) == 2
    assert row.endswith(actor)
    relation = f'public."{table}"'
    assert texts(page, "h1") == [f"Audit of {relation}"]
    assert page.evaluate("document.title") == f"Audit of {relation}"
    assert f"Stock of {HOSTILE}" in texts(page, "h2")
    for tag in ("<script", "<img", "<b>"):
        assert tag not in source


@pytest.mark.parametrize("type", ["bigint", "uuid", "text", "integer", "varchar(40)"])
def test_the_chart_of_an_item_of_each_type_of_id(conn, db, type):
    other = db.connect()
    key = str(ONE) if type == "uuid" else "7"
    other.execute(f"CREATE TABLE typed (id {type} PRIMARY KEY, quantity integer NOT NULL)")
    other.execute("INSERT INTO typed VALUES (%s, 20)", (key,))
    attach(other, "typed")
    other.execute("SET inventory_ext.stock_table = 'typed'")
    for quantity in (20, 11):
        past_the_triggers(other, f"UPDATE typed SET quantity = {quantity}")
        other.execute("SELECT decrement_item(%s, 1)", (key,))
    other.execute("SELECT count(*) FROM audit_inventory()")
    page = report(other)
    assert f"Stock of {key}" in page
    assert len(re.findall(r'<circle[^>]*fill="#FF0000"', page)) == 1


def test_all_kinds_of_faults_are_shown(browser, tmp_path, conn):
    conn.execute("SELECT stripe_inventory(%s, 2)", (str(item(4)),))
    chains = history(conn)
    audit(conn)
    three = chains[str(item(3))]
    past_the_triggers(
        conn,
        f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'",
        f"DELETE FROM inventory WHERE id = '{ONE}'",
        f"INSERT INTO inventory VALUES ('{item(5)}', 7)",
        f"UPDATE inventory_movement SET actor = 'nobody' WHERE movement_id = {three[2]}",
        f"DELETE FROM inventory_movement WHERE movement_id = {three[3]}",
        f"UPDATE inventory_stripe SET quantity = 1 WHERE inventory_id = '{item(4)}' AND stripe = 2",
    )
    found = audit(conn, full=True)
    assert {one[0] for one in found} >= {
        "on_hand_drift", "missing_item", "unknown_item", "altered_movement", "missing_movement", "stripe_drift",
    }  # fmt: skip
    page = opened(browser, tmp_path, report(conn))
    assert_asks_for_nothing(page)
    rows = cells(page, 1)[1:]
    assert sorted(row[0] for row in rows) == sorted(one[0] for one in found)
    assert f"{item(4)}, stripe 2" in [row[1] for row in rows]
    for key in {one[1] for one in found if one[1]}:
        assert f"Stock of {key}" in texts(page, "h2")
    colours = [browser.colours(page.screenshot("svg", number)) for number in range(len(boxes(page, "svg")))]
    marked = [found.get(RED, 0) > 60 for found in colours]
    assert dict(zip(texts(page, "h2")[1:-1], marked)) == {f"Stock of {item(number)}": True for number in range(1, 6)}


def test_a_break_among_the_movements_of_a_stripe_is_marked(browser, tmp_path, conn):
    conn.execute("SELECT stripe_inventory(%s, 2)", (str(TWO),))
    history(conn)
    past_the_triggers(conn, f"UPDATE inventory_stripe SET quantity = 1 WHERE inventory_id = '{TWO}'")
    sell(conn, TWO, 1)
    assert "broken_chain" in [found[0] for found in audit(conn)]
    page = opened(browser, tmp_path, report(conn))
    assert len(boxes(page, "svg circle")) >= 1


def test_the_stock_of_a_striped_item_is_that_of_the_whole_item(browser, tmp_path, conn):
    conn.execute("SELECT stripe_inventory(%s, 2)", (str(TWO),))
    history(conn)
    past_the_triggers(conn, f"UPDATE inventory_stripe SET quantity = 9 WHERE inventory_id = '{TWO}' AND stripe = 2")
    assert [found[0] for found in audit(conn)] == ["stripe_drift"]
    page = opened(browser, tmp_path, report(conn))
    points = page.evaluate(f"document.querySelector('{LINE}').getAttribute('points')").split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights[0] - heights[-1] > 0.5 * (heights[0] - min(heights)), "of 20 units 5 were sold"


def test_what_is_wrong_with_a_seal_is_said(browser, tmp_path, conn):
    history(conn)
    audit(conn)
    conn.execute("UPDATE inventory_audit SET seal = set_byte(seal, 0, 255 - get_byte(seal, 0))")
    audit(conn, full=True)
    found = conn.execute("SELECT found FROM inventory_audit ORDER BY run_id DESC LIMIT 1").fetchone()[0]
    assert [one["kind"] for one in found] == ["altered_seal"]
    page = opened(browser, tmp_path, report(conn))
    assert found[0]["detail"]["problem"] in page.evaluate("document.body.innerText")


def test_at_most_twenty_items_have_a_chart(conn):
    for number in range(10, 35):
        conn.execute("INSERT INTO inventory VALUES (%s, 5)", (item(number),))
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 1 WHERE id >= '{item(10)}'")
    assert len(audit(conn)) == 25
    page = report(conn)
    assert page.count("<svg") == page.count("<h2>Stock of ") == 20
    assert page.count("on_hand_drift") == 25


def test_the_newest_run_and_a_chosen_one(conn):
    history(conn)
    audit(conn)
    honest, first = newest_run(conn), report(conn)
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'")
    audit(conn)
    assert FINE in first
    assert FINE not in report(conn)
    assert report(conn) == report(conn, newest_run(conn))
    sell(conn, ONE, 1)
    assert report(conn, honest) == first, "a page is the same whenever it is made"


def test_an_unknown_run(conn):
    error = refused(conn, "SELECT inventory_audit_report()")
    assert error.sqlstate == "22023", "nothing was audited yet"
    audit(conn)
    run = newest_run(conn)
    for unknown in (run + 1, 0, -1, 2**63 - 1, -(2**63)):
        assert refused(conn, "SELECT inventory_audit_report(%s)", (unknown,)).sqlstate == "22023", unknown
    assert FINE in report(conn, run)


def test_a_run_that_is_no_audit_has_no_page(conn):
    history(conn)
    past_the_triggers(conn, f"UPDATE inventory SET quantity = 11 WHERE id = '{TWO}'")
    audit(conn)
    audits = conn.execute("SELECT array_agg(run_id) FROM inventory_audit").fetchone()[0]
    conn.execute("SELECT reconcile_inventory(%s, p_apply => true)", (str(TWO),))
    others = conn.execute("SELECT run_id FROM inventory_audit WHERE run_id <> ALL(%s)", (audits,)).fetchall()
    assert others
    for (run,) in others:
        assert refused(conn, "SELECT inventory_audit_report(%s)", (run,)).sqlstate == "22023"
    assert report(conn) == report(conn, audits[-1])


def test_a_read_only_session_makes_it(db, conn):
    audit(conn)
    with db.connect() as reader:
        reader.execute("SET default_transaction_read_only = on")
        assert FINE in report(reader)


def test_without_a_ledger_or_a_table(db):
    conn = db.connect()
    assert refused(conn, "SELECT inventory_audit_report()").sqlstate == "55000"
    shop(conn, {ONE: "1"}, p_ledger=False)
    error = refused(conn, "SELECT inventory_audit_report()")
    assert (error.sqlstate, error.reason) == ("55000", "no_ledger")


def test_only_members_of_the_owner_see_it(db, conn):
    owner, member, guest = (create_role(conn, db, name) for name in ("owner", "member", "guest"))
    conn.execute(f'GRANT "{owner}" TO "{member}"; GRANT CREATE ON SCHEMA public TO "{owner}"')
    tables = "SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relname ~ %s"
    for (table,) in conn.execute(tables, ("^inventory(_movement|_stripe.*|_request)?$",)).fetchall():
        conn.execute(f'ALTER TABLE {table} OWNER TO "{owner}"')
    audit(conn)
    with db.connect(guest) as session:
        assert refused(session, "SELECT inventory_audit_report()").sqlstate == "42501"
    conn.execute(f'GRANT EXECUTE ON FUNCTION inventory_audit_report TO "{guest}", "{member}", "{owner}"')
    with db.connect(guest) as session:
        for call in ("inventory_audit_report()", f"inventory_audit_report({newest_run(conn)})"):
            error = refused(session, f"SELECT {call}")
            assert (error.sqlstate, error.reason) == ("42501", "not_owner")
    for role in (member, owner):
        with db.connect(role) as session:
            assert FINE in report(session)
