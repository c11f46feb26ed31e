"""Texts and orders that come from clients: length, NUL, size, and what JSON of theirs is taken for.

Actor, key and reference are 1 to 255 bytes of text that PostgreSQL can store and dump, in every way they come; an
order is counted and measured before it is converted; a name inside JSON that a library reserves means nothing. Claims
and headers of any shape fail no sale, unless they say an actor or a key that cannot be kept.
"""

import json
import subprocess

import psycopg
import pytest

from attack_parties import failed, outcome, reason
from books import audit, keys_kept, lines, movements, order, refused_call
from memory import MB, peak
from shop import ONE, TWO, UNKNOWN, attach, item, left, refused, sell, shop, stock_of, stock_table

NUL = "\\u0000"
LONGEST, TOO_LONG = "ä" * 127 + "x", "ä" * 128
HUGE = "x" * (8 * MB)

# One good call of every function that changes stock.
CALLS = {
    "decrement": f"decrement_inventory('{ONE}', 1)",
    "order": f"decrement_inventory_batch('{lines((ONE, 1), (TWO, 1))}')",
    "order of one": f"decrement_inventory_batch('{lines((TWO, 1))}')",
    "restock": f"restock_inventory('{ONE}', 1)",
    "adjust": f"adjust_inventory('{TWO}', 55)",
    "transfer": f"transfer_inventory('{ONE}', '{TWO}', 1)",
    "stripe": f"stripe_inventory('{ONE}', 2)",
    "unstripe": f"unstripe_inventory('{ONE}')",
}
DIRECT = {
    "insert": f"INSERT INTO inventory VALUES ('{item(9)}', 1)",
    "update": f"UPDATE inventory SET quantity = quantity + 1 WHERE id = '{TWO}'",
    "delete": f"DELETE FROM inventory WHERE id = '{TWO}'",
    "merge": f"MERGE INTO inventory i USING (SELECT 1) x ON i.id = '{TWO}' WHEN MATCHED THEN UPDATE SET quantity = 77",
}
# How an actor, a reference or a key reaches a call that has no argument for it.
SETTINGS = {
    "actor": "SELECT set_config('inventory_ext.actor', %s, true)",
    "reference": "SELECT set_config('inventory_ext.reference', %s, true)",
    "key": "SELECT set_config('inventory_ext.idempotency_key', %s, true)",
    "claim": "SELECT set_config('request.jwt.claims', json_build_object('sub', %s::text)::text, true)",
    "header": "SELECT set_config('request.headers', json_build_object('idempotency-key', %s::text)::text, true)",
}
KEYS = ("key", "header")


@pytest.fixture
def conn(db):
    conn = db.connect()
    shop(conn, {ONE: "100.00", TWO: "100.00"})
    return conn


def as_said(conn, way, text, sql, raw=False):
    """The outcome of a statement in a transaction that says `text` as actor, reference or key. `raw` text is JSON
    already."""
    with conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL inventory_ext.request_headers = on")
        if raw:
            name, member = {"claim": ("request.jwt.claims", "sub"), "header": ("request.headers", "idempotency-key")}[
                way
            ]
            conn.execute("SELECT set_config(%s, %s, true)", (name, f'{{"{member}": "{text}"}}'))
        else:
            conn.execute(SETTINGS[way], (text,))
        try:
            result = conn.execute(sql)
            return "OK", result.fetchone()[0] if result.description else result.rowcount
        except psycopg.Error as error:
            return failed(error)


def statements(way):
    """All calls that take the text; a key says nothing to a direct write, nor to cutting an item."""
    calls = {name: f"SELECT ({what})::text" for name, what in CALLS.items()}
    if way in KEYS:
        return {name: sql for name, sql in calls.items() if name not in ("stripe", "unstripe")}
    return calls | DIRECT


@pytest.mark.parametrize("way", SETTINGS)
def test_a_text_longer_than_255_bytes_is_refused_in_every_way_it_can_come(conn, way):
    """As a setting, a claim or a header, for every function and for direct writes; 255 bytes are kept whole."""
    for name, sql in statements(way).items():
        for text in (TOO_LONG, HUGE) if name in ("decrement", "update") else (TOO_LONG, "x" * 256):
            found = as_said(conn, way, text, sql)
            assert reason(found) == "22023 text_length", (name, found[:3])
            facts = json.loads(found[3])
            assert facts["max_bytes"] == (2_097_152 if way in ("claim", "header") and text == HUGE else 255)
            assert facts["bytes"] - len(text.encode()) in (
                0,
                len('{"sub": ""}') + 1,
                len('{"idempotency-key": ""}') + 1,
            )
            assert len(found[3]) < 1000, "a refused text is not repeated"
        assert as_said(conn, way, LONGEST, sql)[0] == "OK", name
    assert stock_of(conn) == {ONE: 100, TWO: 100}


@pytest.mark.parametrize("way", ["claim", "header"])
def test_a_nul_is_refused_in_every_way_it_can_come(conn, way):
    """JSON can say it and text cannot hold it: the dump would not restore, and boss\\0clerk would read as boss."""
    for text in ("boss" + NUL + "clerk", NUL, NUL + "boss", "boss" + NUL):
        for name, sql in statements(way).items():
            assert reason(as_said(conn, way, text, sql, raw=True)) == "22023 nul_in_text", (name, text)
    assert keys_kept(conn) == []
    assert {m.actor for m in movements(conn)} == {"postgres"}


@pytest.mark.parametrize("way", ["actor", "reference", "claim"])
def test_an_attach_says_who_made_its_opening_movements(db, way):
    """The actor and reference of attach are kept as well; a text that cannot be kept attaches nothing."""
    conn = db.connect()
    stock_table(conn, {ONE: "10.00"})
    found = as_said(conn, way, TOO_LONG, "SELECT attach_inventory('inventory')::text")
    assert reason(found) == "22023 text_length"
    assert conn.execute("SELECT count(*) FROM inventory_attachment").fetchone() == (0,)
    if way == "claim":
        found = as_said(conn, way, "boss" + NUL, "SELECT attach_inventory('inventory')::text", raw=True)
        assert reason(found) == "22023 nul_in_text"
    attach(conn)
    assert [m.actor for m in movements(conn)] == ["postgres"]


@pytest.mark.parametrize("way", SETTINGS)
def test_an_empty_text_counts_as_not_set(conn, way):
    """SET LOCAL leaves an empty text behind when its transaction ends."""
    for name, sql in statements(way).items():
        assert as_said(conn, way, "", sql)[0] == "OK", name
    with conn.transaction():
        conn.execute("SET LOCAL inventory_ext.request_headers = on")
        conn.execute(SETTINGS[way], ("",))
        sell(conn, ONE, 1)
        sell(conn, ONE, 1)
    assert [(m.reference, m.key, m.actor) for m in movements(conn)[-2:]] == [(None, None, "postgres")] * 2


@pytest.mark.parametrize("argument", ["p_reference", "p_idempotency_key", "p_reason"])
@pytest.mark.parametrize("text", ["", TOO_LONG, HUGE])
def test_an_argument_has_a_length_too(conn, argument, text):
    """Of each function that has it."""
    calls = {
        "decrement_inventory_batch": {"p_items": lines((ONE, 1))},
        "restock_inventory": {"p_inventory_id": ONE, "p_quantity": 1},
        "transfer_inventory": {"p_from": ONE, "p_to": TWO, "p_quantity": 1},
    }
    if argument == "p_reason":
        calls = {"adjust_inventory": {"p_inventory_id": ONE, "p_counted_quantity": 7}}
    for function, arguments in calls.items():
        found = refused_call(conn, function, **arguments, **{argument: text})
        assert (found.sqlstate, found.reason, found.facts["bytes"]) == ("22023", "text_length", len(text.encode()))
        assert len(found.detail) < 1000


@pytest.mark.parametrize(
    "sql",
    [
        f"decrement_inventory_batch('{lines((ONE, 1))}', p_on_shortage => repeat('x', 9000000))",
        f"decrement_inventory('{ONE}', repeat('9', 100000)::numeric)",
        f"restock_inventory('{ONE}', ('0.' || repeat('1', 16000))::numeric)",
        f"adjust_inventory('{ONE}', 5, repeat('9', 100000)::numeric)",
        "attach_inventory('inventory', p_run_as => repeat('x', 9000000))",
        f"decrement_inventory_batch(jsonb_build_array(jsonb_build_object("
        f"'inventory_id', '{ONE}', 'quantity', repeat('9', 50000)::numeric)))",
        f"decrement_inventory_batch(jsonb_build_array(jsonb_build_object("
        f"'inventory_id', '{ONE}', 'quantity', 1, 'x', repeat('9', 50000))))",
    ],
)
def test_a_refused_value_is_not_repeated_at_its_full_length(conn, sql):
    """DETAIL goes to the log and to the client; a megabyte of a client's own text belongs in neither."""
    found = refused(conn, f"SELECT {sql}")
    assert found.sqlstate in ("22023", "22003")
    assert len(found.detail) < 200_000


def test_a_shop_whose_clients_tried_a_nul_can_be_dumped_and_restored(db, conn):
    """The keys abc and abc\\0x became one after a restore, and the primary key of the keys was lost."""
    for key in ("abc", "abc" + NUL + "x", "abc" + NUL + "y"):
        with conn.transaction():
            conn.execute("SET LOCAL inventory_ext.request_headers = on")
            conn.execute("SELECT set_config('request.headers', %s, true)", (f'{{"idempotency-key": "{key}"}}',))
            if NUL not in key:
                sell(conn, ONE, 1)
            else:
                with conn.transaction(force_rollback=True):
                    outcome(conn, "SELECT decrement_inventory(%s, 1)", (ONE,))
    name, env = f"{db.name}_copy", db.server.env()
    with psycopg.connect(db.server.dsn(), autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            dump = subprocess.run([db.server.bindir / "pg_dump", db.name], env=env, capture_output=True, check=True)
            psql = [db.server.bindir / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", name]
            restored = subprocess.run(psql, input=dump.stdout, env=env, capture_output=True)
            assert (restored.returncode, restored.stderr) == (0, b"")
            with psycopg.connect(db.server.dsn(name), autocommit=True) as copy:
                assert keys_kept(copy) == ["abc"]
                assert "replayed" not in order(copy, (ONE, 1), p_idempotency_key="other")
                audit(copy)
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


LINE = f'{{"inventory_id": "{ONE}", "quantity": 1}}'
TOO_MANY = {
    "3,000,000 zeros": "SELECT jsonb_agg(0) FROM generate_series(1, 3000000)",
    "1,000,000 empty objects": "SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 1000000)",
    "200,000 lines": f"SELECT jsonb_agg('{LINE}'::jsonb) FROM generate_series(1, 200000)",
}
TOO_LARGE = {
    "one text of 32 MB": "SELECT jsonb_build_array(repeat('x', 33554432))",
    "one line with 32 MB more": f"SELECT jsonb_build_array('{LINE}'::jsonb || "
    f"jsonb_build_object('x', repeat('x', 33554432)))",
    "a quantity of 32 MB": f"SELECT jsonb_build_array('{LINE}'::jsonb || "
    f"jsonb_build_object('quantity', repeat('1', 33554432)))",
    "one line with 500,000 members": "SELECT jsonb_build_array("
    "(SELECT jsonb_object_agg(i, 0) FROM generate_series(1, 500000) AS i))",
    "one line of many arrays": "SELECT jsonb_build_array("
    "(SELECT jsonb_agg('[]'::jsonb) FROM generate_series(1, 1500000)))",
}
NO_ARRAY = {
    "an object with 500,000 members": "SELECT jsonb_object_agg(i, 0) FROM generate_series(1, 500000) AS i",
    "a text of 32 MB": "SELECT to_jsonb(repeat('x', 33554432))",
}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        *((sql, ("54000", "too_many_lines")) for sql in TOO_MANY.values()),
        *((sql, ("54000", "items_too_large")) for sql in TOO_LARGE.values()),
        *((sql, ("22023", "not_an_array")) for sql in NO_ARRAY.values()),
    ],
    ids=[*TOO_MANY, *TOO_LARGE, *NO_ARRAY],
)
def test_an_order_is_counted_and_measured_before_it_is_converted(db, conn, made, words):
    """Beyond the jsonb itself, which the server holds anyway, the call needs next to nothing."""
    conn.execute(f"CREATE TABLE big AS SELECT ({made}) AS items")
    till = db.connect()
    sell(till, ONE, 1)
    # The jsonb as the call gets it, in memory twice: read from the table, and as an argument.
    till.execute("SELECT jsonb_typeof(items), jsonb_typeof(items || '{}') FROM big")
    before = peak(till)
    found = refused(till, "SELECT decrement_inventory_batch(items) FROM big")
    assert (found.sqlstate, found.reason) == words
    assert len(found.detail) < 1000
    assert peak(till) - before < 24 * MB
    assert left(conn, ONE) == 99


def test_statement_timeout_ends_the_reading_of_a_large_order(conn):
    """The last line is wrong: an order that is read to its end raises 22023, one that is interrupted 57014."""
    conn.execute("SET inventory_ext.max_batch_lines = 1000000")
    conn.execute(
        f"CREATE TABLE big AS SELECT jsonb_agg('{LINE}'::jsonb) || '[0]' AS items FROM generate_series(1, 700000)"
    )
    conn.execute("SELECT length(items::text) FROM big")
    conn.execute("SET statement_timeout = '100ms'")
    assert refused(conn, "SELECT decrement_inventory_batch(items)::text FROM big").sqlstate == "57014"
    conn.execute("RESET statement_timeout")
    assert left(conn, ONE) == 100


PRIVATE = '{"$serde_json::private::Number": "3"}'
RAW = '{"$serde_json::private::RawValue": "3"}'
PRIVATE_ITEMS = {
    f'[{{"inventory_id": "{ONE}", "quantity": {PRIVATE}}}]': "not_a_number",
    f'[{{"inventory_id": "{ONE}", "quantity": {RAW}}}]': "not_a_number",
    f'[{{"inventory_id": "{ONE}", "quantity": [{PRIVATE}]}}]': "not_a_number",
    f'[{{"inventory_id": {PRIVATE}, "quantity": 1}}]': "not_a_uuid",
    f'[{{"inventory_id": "{ONE}", "quantity": 1, "$serde_json::private::Number": "3"}}]': "unknown_key",
    f"[{PRIVATE}]": "unknown_key",
    f"[{RAW}]": "unknown_key",
    PRIVATE: "not_an_array",
    RAW: "not_an_array",
    f'[{{"inventory_id": "{ONE}", "quantity": {{"$serde_json::private::Number": 3}}}}]': "not_a_number",
    f'[{{"inventory_id": "{ONE}", "quantity": {{"$serde_json::private::Number": "x"}}}}]': "not_a_number",
}


@pytest.mark.parametrize("items", PRIVATE_ITEMS)
def test_an_object_is_no_number_under_any_name_of_its_member(conn, items):
    """A name that a JSON library keeps for itself was read as the number 3, and three units were sold."""
    found = refused(conn, "SELECT decrement_inventory_batch(%s::jsonb)", (items,))
    assert (found.sqlstate, found.reason) == ("22023", PRIVATE_ITEMS[items])
    if items == PRIVATE:
        assert found.facts["type"] == "object"
    assert left(conn, ONE) == 100


# Claims of any shape, and the actor that they give: None stands for the role.
CLAIMS = {
    "": None, "{": None, "[]": None, "null": None, "5": None, '"sub"': None, "{}": None, '{"sub": null}': None,
    '{"sub": 5}': None, '{"sub": true}': None, '{"sub": ["a"]}': None, '{"sub": {"a": "b"}}': None, '{"sub": ""}': None,
    '{"SUB": "a"}': None, '{"other": {"sub": "a"}}': None, '[{"sub": "a"}]': None, "[" * 200_000: None,
    '{"sub": "\\ud800"}': None, '{"sub": "\\udc00\\ud800"}': None, '{"sub": "a"': None, '{"sub": "a"} x': None,
    f'{{"sub": {PRIVATE}}}': None, f'{{"sub": {RAW}}}': None, PRIVATE: None, "\ufeff" + '{"sub": "a"}': None,
    '{"sub": "' + "\t" + '"}': None, '{"sub": NaN}': None, "{'sub': 'a'}": None,
    '{"sub": "anna"}': "anna", '{"sub": "a", "sub": "b"}': "b",
    '{"sub": "\\u0061nna"}': "anna", ' {"sub" : "anna"} ': "anna",
    '{"sub": "\\ud83d\\ude00"}': "😀", '{"sub": "Jürgen"}': "Jürgen", '{"sub": "a\\nb"}': "a\nb", '{"sub": " "}': " ",
    '{"sub": "x", "role": "' + "y" * MB + '"}': "x", '{"sub": "x", "n": 1e400000}': "x",
    '{"sub": "x", "n": ' + "9" * 200_000 + "}": "x",
    '{"sub": "x", "y": ' + "[" * 100 + "]" * 100 + "}": "x",
    '{"sub": "x", "y": {"sub": "z"}}': "x", '{"sub": "\\"; DROP TABLE inventory; --"}': '"; DROP TABLE inventory; --',
}  # fmt: skip


def test_claims_of_any_shape_fail_no_sale(conn):
    """What is no actor leaves the role; what is one is recorded, character for character."""
    for claims, actor in CLAIMS.items():
        with conn.transaction():
            conn.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))
            conn.execute("SELECT set_config('request.headers', %s, true)", (claims,))
            conn.execute("SET LOCAL inventory_ext.request_headers = on")
            conn.execute("SELECT restock_inventory(%s, 1)", (ONE,))
        last = movements(conn, ONE)[-1]
        assert (last.actor, last.key) == (actor or "postgres", None), claims[:60]
    audit(conn)


def test_headers_of_any_shape_give_a_key_or_none(conn):
    """The same shapes with the name of the header; of what gives a key the second call is a replay."""
    for number, (claims, key) in enumerate(CLAIMS.items()):
        headers = claims.replace('"sub"', '"idempotency-key"')
        results = []
        for _ in range(2):
            with conn.transaction():
                conn.execute("SET LOCAL inventory_ext.request_headers = on")
                conn.execute("SELECT set_config('request.headers', %s, true)", (headers,))
                results.append(conn.execute("SELECT restock_inventory(%s, 1)::text", (ONE,)).fetchone()[0])
        assert ("replayed" in results[1]) == (key is not None), headers[:60]
        if key:
            assert key in keys_kept(conn)
            conn.execute("SELECT purge_requests('0')")
    audit(conn)


@pytest.fixture
def shop_in_encoding(in_encoding):
    """A shop of 100 units in a database of an encoding: its superuser's connection, which speaks UTF8 where it can."""

    def open_shop(encoding, client="UTF8"):
        conn = in_encoding(encoding, client)
        shop(conn, {ONE: "100.00", TWO: "100.00"})
        return conn

    return open_shop


def bytes_of_last(conn, column="actor"):
    """The stored bytes, as they are."""
    sql = (
        f"SELECT convert_to({column}, current_setting('server_encoding')) "
        "FROM inventory_movement ORDER BY movement_id DESC LIMIT 1"
    )
    return conn.execute(sql).fetchone()[0]


def sell_as(conn, claims):
    with conn.transaction():
        conn.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))
        conn.execute("SELECT restock_inventory(%s, 1)", (ONE,))


@pytest.mark.parametrize(
    ("encoding", "text", "stored"),
    [
        ("LATIN1", "J\\u00fcrgen", b"J\xfcrgen"),
        ("LATIN1", "\\u0141\\u00f3d\\u017a", b"\\u0141\xf3d\\u017a"),
        ("LATIN9", "5 \\u20ac", b"5 \xa4"),
        ("WIN1251", "\\u0141", b"\\u0141"),
        ("EUC_JP", "J\\u00fcrgen", None),
        ("LATIN1", "\\ud83d\\ude00", b"\\ud83d\\ude00"),
    ],
)
def test_an_actor_that_the_database_cannot_hold_is_recorded_with_escapes(shop_in_encoding, encoding, text, stored):
    """The sale goes through, as every other sale of that user, and two such actors stay two."""
    conn = shop_in_encoding(encoding)
    sell_as(conn, f'{{"sub": "{text}"}}')
    if stored is not None:
        assert bytes_of_last(conn).lower() == stored.lower()
    sell_as(conn, '{"sub": "\\u0142"}')
    sell_as(conn, '{"sub": "\\u0143"}')
    sell(conn, ONE, 1)
    actors = [m.actor for m in movements(conn, ONE)][-4:]
    assert len(set(actors)) == 4 and actors[-1] == "postgres"
    audit(conn)


@pytest.mark.parametrize("way", ["actor", "reference", "key"])
@pytest.mark.parametrize("encoding", ["LATIN1", "UTF8"])
def test_a_text_that_the_database_can_hold_comes_back(shop_in_encoding, encoding, way):
    """Jürgen is Jürgen: what a setting holds is converted once in and once out, and counted in bytes of UTF8."""
    conn = shop_in_encoding(encoding)
    for text in ("Jürgen", "Größe 5 µ"):
        with conn.transaction():
            conn.execute(SETTINGS[way], (text,))
            sell(conn, ONE, 1)
            assert sell(conn, ONE, 1).get("replayed", False) == (way == "key")
        last = movements(conn, ONE)[-1]
        assert {"actor": last.actor, "reference": last.reference, "key": last.key}[way] == text
    audit(conn)


@pytest.mark.parametrize(
    ("given", "stored"),
    [(b"\xfc", b"\\xFC"), (b"J\xfcrgen", b"J\\xFCrgen"), (b"\xff\xfe", b"\\xFF\\xFE"), (b"a\xe2\x82", b"a\\xE2\\x82")],
)
def test_sql_ascii_bytes_that_are_no_utf8_are_recorded_with_escapes(shop_in_encoding, given, stored):
    """A database without an encoding takes any bytes: as actor, and in claims that then are no JSON, they fail no
    sale."""
    conn = shop_in_encoding("SQL_ASCII", client="SQL_ASCII")
    said = "SELECT set_config(%s, convert_from(%s, 'SQL_ASCII'), true)"
    with conn.transaction():
        conn.execute(said, ("inventory_ext.actor", given))
        sell(conn, ONE, 1)
    assert bytes_of_last(conn).lower() == stored.lower()
    for claims in (b'{"sub": "' + given + b'"}', b'{"sub": "anna", "x": "' + given + b'"}', given):
        with conn.transaction():
            conn.execute(said, ("request.jwt.claims", claims))
            sell(conn, ONE, 1)
    assert left(conn, ONE) == 96


def test_sql_ascii_actors_from_json_escapes_fail_no_sale(shop_in_encoding):
    """A claim says \\u00fc in ASCII: however it is recorded, two actors are two, and the ledger can be read."""
    conn = shop_in_encoding("SQL_ASCII", client="SQL_ASCII")
    found = []
    for text in ("J\\u00fcrgen", "J\\u00f6rgen", "\\u0141", "\\ud83d\\ude00", "anna"):
        sell_as(conn, f'{{"sub": "{text}"}}')
        found.append(bytes_of_last(conn))
    assert len(set(found)) == 5 and found[-1] == b"anna"
    with conn.transaction():
        conn.execute(
            "SELECT set_config('inventory_ext.actor', convert_from(%s, 'SQL_ASCII'), true)", ("Jürgen".encode(),)
        )
        sell(conn, ONE, 1)
    assert bytes_of_last(conn) == found[0]


def test_numbers_that_are_no_quantity_are_refused_by_name(conn):
    """NaN, infinities, a hundred thousand digits, nothing: of every function, before anything is locked or written."""
    values = ("'NaN'", "'Infinity'", "'-Infinity'", "-1", "1e-20", "repeat('9', 100000)::numeric", "1e28", "NULL",
              "9223372036854775808")  # fmt: skip
    for value in values:
        for what in (f"decrement_inventory('{ONE}', {value})", f"restock_inventory('{ONE}', {value})",
                     f"adjust_inventory('{ONE}', {value})",
                     f"transfer_inventory('{ONE}', '{TWO}', {value})"):  # fmt: skip
            assert refused(conn, f"SELECT {what}").sqlstate in ("22023", "22003", "22004"), what
    assert stock_of(conn) == {ONE: 100, TWO: 100}
    assert refused(conn, "SELECT decrement_inventory(%s, 1)", (UNKNOWN,)).sqlstate == "IV002"
