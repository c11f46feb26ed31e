"""Databases in other encodings than UTF8: exact numbers, names of the user's own, and texts that everyone can read.

The extension's own texts are ASCII, so that they mean the same everywhere. Names that are not ASCII work, or are
refused in words; a backtrace is no answer.
"""

import psycopg
import pytest

from shop import ONE, answer_text, attach, refused_attach, refused_sale, sell, stock_table

ENCODINGS = {"LATIN1": "Größe", "LATIN9": "Größe", "EUC_JP": "在庫", "WIN1251": "Запас"}


@pytest.mark.parametrize("encoding", [*ENCODINGS, "SQL_ASCII"])
def test_ascii_names_work_in_every_encoding(in_encoding, encoding):
    """Attach, sell, refuse."""
    conn = in_encoding(encoding)
    stock_table(conn, {ONE: "11.52"})
    attach(conn)
    assert answer_text(conn, ONE, "1").endswith('"old_quantity": 11.52, "new_quantity": 10.52, "deducted": 1}')
    assert refused_sale(conn, ONE, "11").sqlstate == "IV001"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_names_that_are_not_ascii_work_or_are_refused_in_words(in_encoding, encoding):
    """Table, id and quantity carry the name; XX000 and a backtrace would be the extension's failure, not the user's."""
    conn = in_encoding(encoding)
    name = ENCODINGS[encoding]
    conn.execute(f'CREATE TABLE "{name}" ("{name} id" uuid PRIMARY KEY, "{name}" numeric(12,2))')
    conn.execute(f"INSERT INTO \"{name}\" VALUES ('{ONE}', 10)")
    try:
        attach(conn, f'"{name}"', p_id_column=f"{name} id", p_quantity_column=name)
    except psycopg.Error as error:
        assert not error.diag.sqlstate.startswith("XX"), error
        assert error.diag.sqlstate != "58000"
        return
    assert sell(conn, ONE, "4")["new_quantity"] == 6
    assert refused_sale(conn, ONE, "0.001").facts["column"] == name


@pytest.mark.parametrize("encoding", ["UTF8", *ENCODINGS])
def test_the_extensions_own_texts_are_ascii(in_encoding, encoding):
    """Every error that a flawed table and a bad call can meet here: message, detail and hint."""
    conn = in_encoding(encoding)
    conn.execute("CREATE TABLE inventory (id uuid, quantity real, number integer)")
    refusals = [
        refused_sale(conn, ONE, "1"),
        refused_attach(conn),
        refused_attach(conn, p_quantity_column="number"),
        refused_attach(conn, p_id_column="no_such"),
        refused_attach(conn, p_id_column="number"),
        refused_attach(conn, p_run_as="nobody"),
        refused_attach(conn, p_ledger=True),
    ]
    conn.execute("ALTER TABLE inventory ALTER id SET NOT NULL")
    refusals.append(refused_attach(conn, p_quantity_column="number"))
    for answer in refusals:
        for text in (answer.message, answer.detail, answer.hint):
            assert text and text.isascii(), answer
