"""The COMMENT ON is the source of a public function's description; rustdoc is its first paragraph.

Each function of the extension that is written in Rust has a documentation comment above its #[pg_extern] or
#[pg_trigger], and a COMMENT ON FUNCTION. The documentation comment equals the first paragraph of the COMMENT, apart
from line breaks. The COMMENT of a public function names every argument, and the SQLSTATEs that the manual lists for
it. A function is found by its C symbol, so its Rust name may differ from its SQL name. The prefix that pgrx adds to
the symbols is not part of a name.
"""

import re

import pytest

from rust_text import ROOT, shipped, sources

FUNCTION = re.compile(
    r"(?P<doc>(?:^[ \t]*///[^\n]*\n)*)"
    r"(?:^[ \t]*#\[(?!(?:pgrx::)?pg_extern|(?:pgrx::)?pg_trigger)[^\]]*\]\n)*"
    r"^[ \t]*#\[(?:pgrx::)?pg_(?:extern|trigger)\b[^\]]*\]\n"
    r"(?:^[ \t]*#\[[^\]]*\]\n)*"
    r"^[ \t]*(?:pub(?:\([^)]*\))?\s+)?(?:unsafe\s+)?fn\s+(?P<name>\w+)",
    re.MULTILINE,
)

COMMENTS = """
    SELECT p.prosrc, coalesce(obj_description(p.oid, 'pg_proc'), ''), coalesce(p.proargnames[1:p.pronargs], '{}'),
           p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype), p.proname
      FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'inventory_ext'
      JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'c'
"""


FUNCTIONS = ("functions.md", "audit-functions.md", "monitoring-functions.md")
MANUAL_OF_FUNCTIONS = "".join((ROOT / "docs" / name).read_text() for name in FUNCTIONS)


def one_line(text):
    return " ".join(text.split())


def first_paragraph(comment):
    return one_line(re.split(r"\n[ \t]*\n", comment.strip())[0])


def of_the_catalog(files):
    """What ships, without the functions of earlier catalogs."""
    return {name: code for name, code in shipped(files).items() if name != "api/outdated.rs"}


def rustdocs(files):
    """{Rust name: documentation} of every function that SQL can call."""
    found = {}
    for name, code in of_the_catalog(files).items():
        for function in FUNCTION.finditer(files[name]):
            if code[function.start("name") : function.end("name")] == function["name"]:  # it ships, and is no comment
                doc = re.sub(r"^[ \t]*///", "", function["doc"], flags=re.MULTILINE)
                found[function["name"]] = one_line(doc)
    return found


def differences(documented, commented):
    """Both are {name: words}; of a COMMENT, its first paragraph."""
    return [
        f"{name}: rustdoc says {documented.get(name)!r}, COMMENT ON says {commented.get(name)!r}"
        for name in sorted(documented.keys() | commented.keys())
        if not documented.get(name) or documented[name] != commented.get(name)
    ]


def comments(conn):
    """{Rust name: (COMMENT ON, names of the arguments, whether it is public, SQL name)}"""
    rows = conn.execute(COMMENTS).fetchall()
    return {symbol.removesuffix("_wrapper"): facts for symbol, *facts in rows}


def first_paragraphs(conn):
    return {name: first_paragraph(comment) for name, (comment, *_) in comments(conn).items()}


def omissions(comment, arguments, errors):
    """Arguments and SQLSTATEs that a COMMENT leaves out, or has beside those of the manual."""
    description, separator, listed = comment.partition("Errors: ")
    named = set(re.findall(r"\bp_\w+", description))
    states = set(re.findall(r"\b(?:IV\d{3}|\d[0-9A-Z]{4})\b", listed.split("In the postgrest style")[0]))
    found = [f"argument {name}" for name in sorted(named ^ set(arguments))]
    found += [f"SQLSTATE {state}" for state in sorted(states ^ errors)]
    return found if separator else [*found, "no sentence that begins with 'Errors: '"]


def manual_errors(page):
    """{function: SQLSTATEs} of the lines "Errors: …" in docs/functions.md."""
    sections = re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return {
        name: set(re.findall(r"`(\w{5})`", listed.partition("; see")[0]))
        for name, text in sections
        for listed in re.findall(r"^Errors: (.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    }


def test_rustdoc_is_the_first_paragraph_of_the_comment(db):
    with db.connect() as conn:
        documented, commented = rustdocs(sources()), first_paragraphs(conn)
        assert {"attach_table", "detach_table", "decrement_inventory"} <= documented.keys() & commented.keys()
        assert differences(documented, commented) == []
        conn.execute("COMMENT ON FUNCTION detach_inventory(regclass) IS 'Something else.'")
        assert [line.split(":")[0] for line in differences(documented, first_paragraphs(conn))] == ["detach_table"]


def test_the_comment_of_a_public_function_names_its_arguments_and_its_errors(db):
    errors = manual_errors(MANUAL_OF_FUNCTIONS)
    with db.connect() as conn:
        public = {name: (comment, names) for comment, names, is_public, name in comments(conn).values() if is_public}
    assert len(public) >= 11
    assert {name: omissions(*public[name], errors.get(name, set())) for name in public} == {name: [] for name in public}


def test_every_function_that_sql_can_call_is_read_from_the_source():
    """`rustdocs` finds every function: there are as many functions as attributes."""
    files = sources()
    attribute = r"#\[(?:pgrx::)?pg_(?:extern|trigger)\b"
    attributes = sum(len(re.findall(attribute, code)) for code in of_the_catalog(files).values())
    assert attributes == len(rustdocs(files))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("/// Does\n/// this.\n#[pg_extern(sql = false)]\npub fn f() {}", {"f": "Does this."}),
        (
            "/// A.\n#[inline]\n#[pgrx::pg_trigger]\n#[allow(x)]\nfn g<'a>() {}\n#[pg_extern]\nfn h() {}",
            {"g": "A.", "h": ""},
        ),
        ("/* /// A.\n#[pg_extern]\nfn f() {} */", {}),
        ("#[cfg(test)]\nmod tests {\n    /// A.\n    #[pg_extern]\n    fn f() {}\n}", {}),
    ],
)
def test_documentation_is_read_from_source(source, found):
    assert rustdocs({"a.rs": source}) == found


def test_differences_are_found():
    assert differences({"f": "a"}, {"f": "a"}) == []
    assert len(differences({"f": "a", "g": ""}, {"f": "b", "g": "", "h": "c"})) == 3


@pytest.mark.parametrize(
    ("comment", "paragraph"),
    [("Does\nthis.", "Does this."), ("Does\n this.\n\nIn detail.\n\nMore.", "Does this."), ("", "")],
)
def test_the_first_paragraph_ends_at_a_blank_line(comment, paragraph):
    assert first_paragraph(comment) == paragraph


def test_omissions_are_found():
    comment = (
        "Does this.\n\np_a: one. p_b: 22004 units.\n\nErrors: IV001 short; 22004 NULL. In the postgrest style PT409."
    )
    assert omissions(comment, ["p_a", "p_b"], {"IV001", "22004"}) == []
    assert omissions(comment, ["p_a", "p_b", "p_c"], {"IV001", "22004"}) == ["argument p_c"]
    assert omissions(comment, ["p_a"], {"IV001", "22004", "42P01"}) == ["argument p_b", "SQLSTATE 42P01"]
    assert omissions("Does this.", [], set()) == ["no sentence that begins with 'Errors: '"]


def test_errors_are_read_from_the_manual():
    page = (
        "## `f`\n\nReturns `a`.\n\nErrors: `IV001`,\n`22004`; see `notes`.\n\n`55000`\n\n## `g`\n\nErrors: `42P01`.\n"
    )
    assert manual_errors(page) == {"f": {"IV001", "22004"}, "g": {"42P01"}}
