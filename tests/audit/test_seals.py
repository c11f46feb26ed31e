"""Nobody alters, removes or adds a sealed movement unseen, and a proof says what was sealed without the database."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from auditing import audit, digest, history, kinds, movements, past_the_triggers, verify
from shop import ONE, TWO, item, refused, sell, shop

THREE, FOUR, FIVE, SIX = (item(number) for number in range(3, 7))
PROGRAM = Path(__file__).parents[2] / "docs" / "check_proof.py"
TABLES = ("inventory_audit", "inventory_audit_chain", "inventory_audit_segment")
COLUMNS = "kind, old_quantity, new_quantity, reference, idempotency_key, actor, xact_id"
FIELDS = ["movement_id", "inventory_id", "stripe", *COLUMNS.split(", "), "microseconds_since_2000"]
TIME = "(extract(epoch FROM occurred_at - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint"


@pytest.fixture
def conn(db):
    """A shop with three seals."""
    conn = db.connect()
    shop(conn, {key: "20.00" for key in (ONE, TWO, THREE, FOUR)})
    seal(conn)
    history(conn)
    seal(conn)
    history(conn, sales=2)
    seal(conn)
    return conn


@pytest.fixture
def lively(db):
    """Items that were striped, striped again, deleted, inserted again and renamed, between six seals."""
    conn = db.connect()
    shop(conn, {key: "30.00" for key in (ONE, TWO, THREE, FOUR)})
    history(conn)
    seal(conn)
    live(conn)
    return conn


def live(conn):
    for stripes in (3, 5):
        conn.execute("SELECT stripe_inventory(%s, %s)", (str(ONE), stripes))
        for _ in range(4):
            sell(conn, ONE, 1)
        seal(conn)
    conn.execute(f"DELETE FROM inventory WHERE id = '{FOUR}'")
    conn.execute(f"UPDATE inventory SET id = '{SIX}' WHERE id = '{THREE}'")
    seal(conn)
    conn.execute(f"INSERT INTO inventory VALUES ('{FOUR}', 9)")
    conn.execute("SELECT decrement_item(%s, 2, 'Bestellung 7 – Tür', 'key 7')", (str(SIX),))
    seal(conn)
    conn.execute("SELECT unstripe_inventory(%s)", (str(ONE),))
    seal(conn)


def seal(conn):
    assert audit(conn) == []


def alter(conn, movement, change):
    past_the_triggers(conn, f"UPDATE inventory_movement SET {change} WHERE movement_id = {movement}")


def archive(conn):
    return conn.execute("SELECT archive_movements(now())").fetchone()[0]


def fields_of(conn, movement, table="inventory_movement"):
    texts = ", ".join(f"{field}::text" for field in [*FIELDS[:-1], TIME])
    return conn.execute(f"SELECT {texts} FROM {table} WHERE movement_id = %s", (movement,)).fetchone()


def counted(field):
    """A field as it is hashed: after its length in four bytes, or the length ffffffff alone for NULL."""
    data = field.encode() if isinstance(field, str) else field
    return b"\xff\xff\xff\xff" if data is None else len(data).to_bytes(4, "big") + data


def canonical_hash(what, fields):
    return hashlib.sha256(bytes([what]) + b"".join(map(counted, fields))).digest()


def proof(conn, movement):
    return conn.execute("SELECT movement_proof(%s)", (movement,)).fetchone()[0]


class Checker:
    """Runs the program of the manual."""

    def __init__(self, folder):
        self.file = folder / "digest.json"

    def run(self, proved, kept):
        self.file.write_text(json.dumps(kept))
        command = [sys.executable, "-I", str(PROGRAM), str(self.file)]
        text = proved if isinstance(proved, str) else json.dumps(proved)
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)

    def accept(self, conn, proved, kept, table="inventory_movement"):
        done = self.run(proved, kept)
        assert (done.returncode, done.stderr) == (0, "")
        printed = dict(line.split(": ", 1) for line in done.stdout.splitlines())
        fields = fields_of(conn, int(proved["movement"][0]), table)
        assert {name: json.loads(value) for name, value in printed.items()} == dict(zip(FIELDS, fields, strict=True))

    def refuse(self, proved, kept):
        done = self.run(proved, kept)
        assert (done.returncode, done.stdout) == (1, ""), done.stdout
        assert done.stderr.startswith("not proved: ")


@pytest.fixture
def checker(tmp_path):
    return Checker(tmp_path)


def all_movements(conn, table="inventory_movement"):
    return [number for (number,) in conn.execute(f"SELECT movement_id FROM {table} ORDER BY 1").fetchall()]


def test_there_is_no_digest_before_anything_is_sealed(db):
    conn = db.connect()
    shop(conn, {ONE: "5"})
    for _ in range(2):
        error = refused(conn, "SELECT inventory_digest()")
        assert (error.sqlstate, error.reason) == ("55000", "nothing_sealed")
        past_the_triggers(conn, "DELETE FROM inventory_movement")
        assert kinds(conn) == ["unknown_item"], "a run that seals nothing"


def test_the_digest_is_that_of_the_newest_seal(conn):
    before = digest(conn)
    assert list(before) == ["stock_table", "seal", "sealed_at", "movements", "hash"]
    assert (before["seal"], before["movements"]) == (3, 4 + 20 + 8)
    assert before["stock_table"].endswith("inventory")
    assert len(bytes.fromhex(before["hash"])) == 32
    seal(conn)
    assert digest(conn) == before, "nothing was new"
    sell(conn, ONE, 1)
    assert digest(conn) == before, "nothing was sealed"
    seal(conn)
    after = digest(conn)
    assert (after["seal"], after["movements"]) == (4, 33)
    assert after["hash"] != before["hash"]
    assert after["sealed_at"] > before["sealed_at"]


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "null", "7", '"hash"', '{"seal": 1}', '{"hash": "%h"}', '{"seal": 0, "hash": "%h"}',
     '{"seal": -1, "hash": "%h"}', '{"seal": "1", "hash": "%h"}', '{"seal": 1.5, "hash": "%h"}',
     '{"seal": 9223372036854775808, "hash": "%h"}', '{"seal": 1, "hash": ""}', '{"seal": 1, "hash": "%h00"}',
     '{"seal": 1, "hash": null}', '{"seal": 1, "hash": "\\\\x%h"}', '[{"seal": 1, "hash": "%h"}]',
     '{"seal": 1, "hash": "\\ud800"}', '{"seal": null, "hash": "%h"}', "[" * 1000 + "]" * 1000],
)  # fmt: skip
def test_what_is_no_digest_is_refused(conn, text):
    error = refused(conn, "SELECT verify_inventory(%s)", (text.replace("%h", "ab" * 32),))
    assert (error.sqlstate, error.reason) == ("22023", "malformed_digest")


def test_a_null_and_a_long_digest_are_refused(conn):
    error = refused(conn, "SELECT verify_inventory(NULL)")
    assert (error.sqlstate, error.reason) == ("22004", "null_argument")
    text = json.dumps(digest(conn))
    longest = text + " " * (65536 - len(text))
    assert conn.execute("SELECT count(*) FROM verify_inventory(%s)", (longest,)).fetchone() == (0,)
    error = refused(conn, "SELECT verify_inventory(%s)", (longest + " ",))
    assert (error.sqlstate, error.reason) == ("22023", "text_length")


def test_an_intact_ledger_stays_intact_while_the_shop_goes_on(conn):
    kept = [digest(conn)]
    history(conn, sales=1)
    assert verify(conn, kept[0]) == [], "after more sales"
    seal(conn)
    kept.append(digest(conn))
    live(conn)
    kept.append(digest(conn))
    sell(conn, TWO, 1)
    assert [verify(conn, one) for one in kept] == [[], [], []]
    assert [one["seal"] for one in kept] == [3, 4, 9]
    conn.execute("SET default_transaction_read_only = on")
    assert verify(conn, kept[-1]) == [], "in a session that only reads"


def test_a_movement_that_commits_after_later_ones_were_sealed_was_not_inserted(db, conn):
    with db.connect(autocommit=False) as late:
        sell(late, ONE, 1)
        sell(conn, TWO, 1)
        seal(conn)
        kept = digest(conn)
        late.commit()
    assert verify(conn, kept) == []
    seal(conn)
    assert (verify(conn, kept), verify(conn, digest(conn))) == ([], [])


def test_a_digest_of_another_shop_is_none_of_this(conn):
    kept = digest(conn)
    for change in ({"hash": "0" * 64}, {"seal": 2}, {"seal": 99}):
        assert verify(conn, {**kept, **change}) == [("altered_seal", None, None)]


@pytest.mark.parametrize(
    "change",
    ["kind = 'restock'", "old_quantity = old_quantity + 1", "old_quantity = old_quantity + 0.000",
     "new_quantity = new_quantity - 1", "new_quantity = new_quantity + 0.000",
     "old_quantity = old_quantity + 1, new_quantity = new_quantity + 1", "reference = 'order 1'", "reference = ''",
     "idempotency_key = 'key 1'", "actor = 'nobody'", "actor = actor || ' '",
     "xact_id = (xact_id::text::bigint + 1)::text::xid8", "occurred_at = occurred_at + interval '1 microsecond'"],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, 3, -1])
def test_an_altered_column_is_found(conn, change, place):
    kept, altered = digest(conn), movements(conn)[str(TWO)][place]
    alter(conn, altered, change)
    assert verify(conn, kept) == [("altered_movement", altered, str(TWO))]
    sell(conn, ONE, 1)
    audit(conn)
    assert verify(conn, kept) == [("altered_movement", altered, str(TWO))]


def free_number(conn):
    """A number that a call which was rolled back has left."""
    with pytest.raises(ZeroDivisionError), conn.transaction():
        sell(conn, TWO, 1)
        1 / 0  # noqa: B018
    sell(conn, TWO, 1)
    return movements(conn)[str(TWO)][-1] - 1


def insert(conn, number, like=1):
    """A movement as another one, under another number."""
    past_the_triggers(
        conn,
        f"INSERT INTO inventory_movement (movement_id, inventory_id, {COLUMNS}, occurred_at) OVERRIDING SYSTEM VALUE "
        f"SELECT {number}, '{TWO}', {COLUMNS}, occurred_at FROM inventory_movement WHERE movement_id = {like}",
    )


def remove(conn, *numbers):
    past_the_triggers(conn, *(f"DELETE FROM inventory_movement WHERE movement_id = {number}" for number in numbers))


def test_a_movement_under_another_number_is_found(conn):
    free, moved = free_number(conn), movements(conn)[str(TWO)][3]
    seal(conn)
    kept = digest(conn)
    insert(conn, free, like=moved)
    remove(conn, moved)
    assert verify(conn, kept) == [("inserted_movement", free, str(TWO)), ("missing_movement", moved, str(TWO))]


def test_a_movement_of_another_item_or_stripe_is_found(conn):
    kept, (moved, other) = digest(conn), movements(conn)[str(TWO)][3:5]
    alter(conn, moved, f"inventory_id = '{ONE}'")
    alter(conn, other, "stripe = 1")
    found = [("missing_movement", moved, str(TWO)), ("missing_movement", other, str(TWO))]
    assert verify(conn, kept) == [("inserted_movement", moved, str(ONE)), *found]


@pytest.mark.parametrize("places", [slice(1), slice(3, 4), slice(-1, None), slice(None)])
def test_removed_movements_are_found(conn, places):
    kept, removed = digest(conn), movements(conn)[str(TWO)][places]
    remove(conn, *removed)
    assert verify(conn, kept) == [("missing_movement", movement, str(TWO)) for movement in removed]


def test_an_emptied_ledger_is_found(lively):
    kept, chains = digest(lively), movements(lively)
    past_the_triggers(lively, "TRUNCATE inventory_movement")
    expected = [("missing_movement", movement, key) for key, chain in chains.items() for movement in chain]
    assert verify(lively, kept) == sorted(expected)


def test_inserted_movements_are_found(conn):
    free = free_number(conn)
    seal(conn)
    kept = digest(conn)
    for number in (0, free):
        insert(conn, number)
    assert verify(conn, kept) == [("inserted_movement", number, str(TWO)) for number in (0, free)]


def test_a_second_movement_of_a_number_is_found(conn):
    kept, chain = digest(conn), movements(conn)[str(TWO)]
    conn.execute("ALTER TABLE inventory_movement DROP CONSTRAINT inventory_movement_pkey")
    for number in chain:
        insert(conn, number)
    assert {movement for _, movement, _ in verify(conn, kept)} == set(chain)


def test_every_fault_among_what_was_sealed_is_named_at_once(lively):
    kept, chains = digest(lively), movements(lively)
    stripe = lively.execute("SELECT movement_id FROM inventory_movement WHERE stripe = 2 LIMIT 1").fetchone()[0]
    removed, altered = chains[str(TWO)][0], chains[str(SIX)][-1]
    remove(lively, removed)
    sell(lively, TWO, 1)
    not_sealed = movements(lively)[str(TWO)][-1]
    for movement in (altered, stripe, not_sealed):
        alter(lively, movement, "actor = 'nobody'")
    found = [("altered_movement", stripe, str(ONE)), ("altered_movement", altered, str(SIX)),
             ("missing_movement", removed, str(TWO))]  # fmt: skip
    assert verify(lively, kept) == found


def test_a_history_that_was_rewritten_and_sealed_again_is_found_by_the_digest_alone(conn):
    kept = digest(conn)
    remove(conn, movements(conn)[str(TWO)][-1])
    past_the_triggers(conn, f"UPDATE inventory SET quantity = quantity + 1 WHERE id = '{TWO}'")
    conn.execute(f"TRUNCATE {', '.join(TABLES)}")
    seal(conn)
    assert audit(conn, full=True) == []
    assert verify(conn, digest(conn)) == []
    assert verify(conn, kept) == [("altered_seal", None, None)], "there is no third seal"
    for _ in range(2):
        sell(conn, ONE, 1)
        seal(conn)
    assert digest(conn)["seal"] == kept["seal"]
    assert verify(conn, kept) == [("altered_seal", None, None)], "the third seal is another one"


def test_the_tables_of_the_audit_made_anew_or_removed_are_found(conn):
    kept = digest(conn)
    conn.execute(f"TRUNCATE {', '.join(TABLES)}")
    seal(conn)
    assert verify(conn, kept) == [("altered_seal", None, None)]
    conn.execute(f"DROP TABLE {', '.join(TABLES)}")
    assert verify(conn, kept) == [("altered_seal", None, None)]


SEGMENT = f"inventory_id = '{TWO}' AND seal_number = 2"
# Bytes of the second of five movements, each of which has eight of its number and 32 of its hash.
NUMBER, HASH = 40 + 7, 40 + 20


@pytest.mark.parametrize(
    "change",
    [f"movements = set_byte(movements, {HASH}, 255 - get_byte(movements, {HASH}))",
     f"movements = set_byte(movements, {NUMBER}, get_byte(movements, {NUMBER}) + 1)",
     "movements = substr(movements, 1, 160)", "movements = movements || substr(movements, 1, 40)",
     "movements = movements || '\\x00'", "movements = ''", "quantity = '99.00'", "quantity = quantity || '0'",
     "previous = set_byte(previous, 0, 255 - get_byte(previous, 0))", "previous = ''",
     "root = set_byte(root, 0, 255 - get_byte(root, 0))", "head = set_byte(head, 31, 255 - get_byte(head, 31))",
     "stripe = 1", "first_movement = first_movement - 1", "last_movement = last_movement + 1"],
)  # fmt: skip
def test_an_altered_segment_is_found_and_its_item_named(conn, change):
    kept = digest(conn)
    assert conn.execute(f"UPDATE inventory_audit_segment SET {change} WHERE {SEGMENT}").rowcount == 1
    assert ("altered_seal", None, str(TWO)) in verify(conn, kept)
    assert "altered_seal" in kinds(conn, full=True)


@pytest.mark.parametrize(
    "statement",
    [f"UPDATE inventory_audit_segment SET inventory_id = '{FIVE}' WHERE {SEGMENT}",
     f"UPDATE inventory_audit_segment SET place = place + 100 WHERE {SEGMENT}",
     f"UPDATE inventory_audit_segment SET seal_number = 3 WHERE {SEGMENT}",
     f"UPDATE inventory_audit_segment SET seal_number = 0 WHERE {SEGMENT}",
     f"UPDATE inventory_audit_segment SET seal_number = 77 WHERE {SEGMENT}",
     f"DELETE FROM inventory_audit_segment WHERE {SEGMENT}", "TRUNCATE inventory_audit_segment",
     "UPDATE inventory_audit SET sealed = sealed + 1 WHERE seal_number = 2",
     "UPDATE inventory_audit SET sealed = NULL WHERE seal_number = 2",
     "UPDATE inventory_audit SET sealed_at = sealed_at - interval '1 microsecond' WHERE seal_number = 2",
     "UPDATE inventory_audit SET previous_seal = root WHERE seal_number = 2",
     "UPDATE inventory_audit SET root = seal WHERE seal_number = 2",
     "UPDATE inventory_audit SET seal = root WHERE seal_number = 2",
     "UPDATE inventory_audit SET seal = NULL WHERE seal_number = 3",
     "UPDATE inventory_audit SET seal_number = 4 WHERE seal_number = 3",
     "UPDATE inventory_audit SET seal_number = -1 WHERE seal_number = 1",
     "UPDATE inventory_audit SET seal_number = NULL WHERE seal_number = 2",
     "DELETE FROM inventory_audit WHERE seal_number = 1", "DELETE FROM inventory_audit WHERE seal_number = 2",
     "DELETE FROM inventory_audit WHERE seal_number = 3", "TRUNCATE inventory_audit"],
)  # fmt: skip
def test_altered_and_deleted_seals_are_found(conn, statement):
    kept = digest(conn)
    assert conn.execute(statement).rowcount != 0
    found = verify(conn, kept)
    assert "altered_seal" in [kind for kind, _, _ in found]
    assert {movement for kind, movement, _ in found if kind == "altered_seal"} == {None}


@pytest.mark.parametrize("number", [0, -1])
def test_a_segment_outside_of_the_seals_excuses_no_altered_movement(conn, number):
    kept, altered = digest(conn), movements(conn)[str(TWO)][3]
    alter(conn, altered, "actor = 'nobody'")
    fields, nothing = fields_of(conn, altered), bytes(32)
    leaf = canonical_hash(0, fields)
    head = canonical_hash(2, [str(TWO), "0", str(altered), str(altered), "1", fields[5], nothing, leaf])
    conn.execute(
        "INSERT INTO inventory_audit_segment VALUES (%s, 0, %s, 0, %s, %s, %s, %s, %s, %s, %s)",
        (number, TWO, altered, altered, fields[5], nothing, leaf, head, altered.to_bytes(8, "big") + leaf),
    )
    assert ("altered_movement", altered, str(TWO)) in verify(conn, kept)


def test_a_removed_movement_whose_number_is_removed_from_its_segment_is_found(conn):
    kept, chain = digest(conn), movements(conn)[str(TWO)]
    removed, before = chain[2], chain[1]
    remove(conn, removed)
    number = before.to_bytes(8, "big").hex()
    changed = conn.execute(
        f"UPDATE inventory_audit_segment SET movements = overlay(movements PLACING '\\x{number}' FROM 41) "
        f"WHERE {SEGMENT} AND substr(movements, 41, 8) = %s",
        (removed.to_bytes(8, "big"),),
    )
    assert changed.rowcount == 1
    assert ("altered_seal", None, str(TWO)) in verify(conn, kept)


def test_every_movement_of_a_lively_shop_is_proved(lively, checker):
    kept = digest(lively)
    assert kept["seal"] == 6
    for movement in all_movements(lively):
        proved = proof(lively, movement)
        assert proved["hash"] == kept["hash"]
        checker.accept(lively, proved, kept)


def test_a_proof_leads_to_an_older_digest_that_has_the_movement(conn, checker):
    older = digest(conn)
    sell(conn, TWO, 1)
    seal(conn)
    newer = digest(conn)
    before, after = movements(conn)[str(TWO)][-2:]
    for kept in (older, newer):
        checker.accept(conn, proof(conn, before), kept)
    checker.accept(conn, proof(conn, after), newer)
    checker.refuse(proof(conn, after), older)


def changes(value):
    """Copies of a piece of JSON, each with one value changed, or one of a list repeated or left out."""
    if isinstance(value, dict):
        for name in value:
            yield from ({**value, name: changed} for changed in changes(value[name]))
        if set(value) <= {"left", "right"}:
            yield {"right" if name == "left" else "left": other for name, other in value.items()}
    elif isinstance(value, list):
        for place, element in enumerate(value):
            head, tail = value[:place], value[place + 1 :]
            yield from ([*head, changed, *tail] for changed in changes(element))
            yield head + tail
            yield [*head, element, element, *tail]
    elif isinstance(value, str):
        yield ("1" if value[0] == "0" else "0") + value[1:]
        yield value[:-1] + ("1" if value[-1] == "0" else "0")
        yield value + "0"
        yield value[:-1]
    else:
        yield "" if value is None else value + 1


def test_a_proof_with_anything_changed_is_none(lively, checker):
    kept = digest(lively)
    movement = movements(lively)[str(TWO)][2]
    proved = proof(lively, movement)
    assert proved["steps_in_segment"] and proved["steps_in_seal"] and proved["later_seals"]
    checker.accept(lively, proved, kept)
    changed = list(changes(proved))
    assert len(changed) > 100
    for one in changed:
        checker.refuse(one, kept)
    for name in proved:
        checker.refuse({other: value for other, value in proved.items() if other != name}, kept)


def test_a_digest_with_its_hash_or_number_changed_proves_nothing(conn, checker):
    kept, proved = digest(conn), proof(conn, 1)
    checker.accept(conn, proved, kept)
    for name, value in (("hash", "0" * 64), ("hash", None), ("seal", 1), ("seal", 99), ("seal", None)):
        checker.refuse(proved, {**kept, name: value})
    checker.refuse(proved, {"seal": 99, "hash": None})
    for nothing in ({}, [], None, "hash"):
        checker.refuse(proved, nothing)
        checker.refuse(nothing, kept)
    for text in ("", "{", "\x00"):
        checker.refuse(text, kept)


@pytest.mark.parametrize("change", ["actor = 'nobody'", "new_quantity = 0", "reference = ''"])
def test_a_movement_that_was_altered_is_not_proved(conn, change):
    altered = movements(conn)[str(TWO)][3]
    alter(conn, altered, change)
    error = refused(conn, "SELECT movement_proof(%s)", (altered,))
    assert (error.sqlstate, error.reason) == ("55000", "altered_movement")


def test_there_is_no_proof_of_what_is_not_there_or_not_sealed(conn):
    error = refused(conn, "SELECT movement_proof(NULL)")
    assert (error.sqlstate, error.reason) == ("22004", "null_argument")
    for movement in (0, -1, 10**6, 2**63 - 1):
        error = refused(conn, "SELECT movement_proof(%s)", (movement,))
        assert (error.sqlstate, error.reason) == ("22023", "unknown_movement")
    sell(conn, TWO, 1)
    late = movements(conn)[str(TWO)][-1]
    error = refused(conn, "SELECT movement_proof(%s)", (late,))
    assert (error.sqlstate, error.reason, error.facts["movement_id"]) == ("55000", "not_sealed", late)
    conn.execute(f"DROP TABLE {', '.join(TABLES)}")
    error = refused(conn, "SELECT movement_proof(1)")
    assert (error.sqlstate, error.reason) == ("55000", "not_sealed")


def test_the_hash_of_a_movement_is_that_of_its_columns(lively):
    segments = b"".join(row[0] for row in lively.execute("SELECT movements FROM inventory_audit_segment").fetchall())
    sealed = {segments[place : place + 40] for place in range(0, len(segments), 40)}
    computed = {
        movement.to_bytes(8, "big") + canonical_hash(0, fields_of(lively, movement))
        for movement in all_movements(lively)
    }
    assert sealed == computed


def test_a_movement_in_another_encoding_is_proved(in_encoding, checker):
    conn = in_encoding("LATIN1")
    shop(conn, {ONE: "5"})
    conn.execute("SELECT decrement_item(%s, 1, 'Crème brûlée')", (str(ONE),))
    seal(conn)
    for movement in all_movements(conn):
        checker.accept(conn, proof(conn, movement), digest(conn))


def test_archiving_alters_nothing(lively, checker):
    kept, before = digest(lively), all_movements(lively)
    assert archive(lively)["movements"] == len(before)
    after = digest(lively)
    assert (verify(lively, kept), verify(lively, after)) == ([], []), "a digest from before, and one from after"
    assert audit(lively, full=True) == []
    for movement in before:
        checker.accept(lively, proof(lively, movement), after, "inventory_movement_archive")
    sell(lively, TWO, 1)
    seal(lively)
    assert (verify(lively, kept), verify(lively, after)) == ([], [])


@pytest.mark.parametrize("sold", [0, 2])
def test_archiving_twice_alters_nothing(conn, checker, sold):
    kept = []
    for _ in range(2):
        archive(conn)
        kept.append(digest(conn))
        history(conn, sales=sold)
    assert [verify(conn, one) for one in kept] == [[], []]
    assert audit(conn, full=True) == []
    for movement in all_movements(conn, "inventory_movement_archive"):
        checker.accept(conn, proof(conn, movement), digest(conn), "inventory_movement_archive")


def test_archived_movements_that_were_altered_or_removed_are_found(conn):
    kept, chain = digest(conn), movements(conn)[str(TWO)]
    archive(conn)
    for altered in (chain[2], chain[-1]):
        conn.execute(f"UPDATE inventory_movement_archive SET actor = 'nobody' WHERE movement_id = {altered}")
    conn.execute(f"DELETE FROM inventory_movement_archive WHERE movement_id = {chain[4]}")
    found = [("altered_movement", chain[2], str(TWO)), ("altered_movement", chain[-1], str(TWO)),
             ("missing_movement", chain[4], str(TWO))]  # fmt: skip
    assert verify(conn, digest(conn)) == found
    assert verify(conn, kept) == found


@pytest.mark.parametrize("change", ["new_quantity = new_quantity + 1", "actor = 'nobody'", "kind = 'restock'"])
def test_what_archiving_has_left_is_not_altered_unseen(conn, change):
    archive(conn)
    kept, left = digest(conn), movements(conn)[str(TWO)][0]
    alter(conn, left, change)
    assert verify(conn, kept) == [("altered_movement", left, str(TWO))]


def test_a_dropped_archive_leaves_a_shop_without_a_discrepancy(lively):
    archive(lively)
    kept = digest(lively)
    lively.execute("DROP TABLE inventory_movement_archive")
    for _ in range(2):
        assert (verify(lively, kept), audit(lively, full=True)) == ([], [])
        sell(lively, TWO, 1)
        seal(lively)
    last = movements(lively)[str(TWO)][-1]
    remove(lively, last)
    assert verify(lively, digest(lively)) == [("missing_movement", last, str(TWO))]


def test_what_archiving_has_left_is_proved_when_the_archive_was_dropped(lively, checker):
    archive(lively)
    lively.execute("DROP TABLE inventory_movement_archive")
    for movement in all_movements(lively):
        checker.accept(lively, proof(lively, movement), digest(lively))


def test_archiving_again_after_the_archive_was_dropped_alters_nothing(conn):
    archive(conn)
    kept = digest(conn)
    conn.execute("DROP TABLE inventory_movement_archive")
    history(conn, sales=2)
    archive(conn)
    assert (verify(conn, kept), verify(conn, digest(conn)), audit(conn, full=True)) == ([], [], [])
