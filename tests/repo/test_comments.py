"""The same words for the reader of the source and for psql's \\df+: rustdoc = COMMENT ON.

Each function of the extension that is written in Rust has a documentation comment above its #[pg_extern] or #[pg_trigger],
and a COMMENT ON FUNCTION; the two must say the same, apart from where the lines break. A function is found by its C symbol,
so its Rust name may differ from its SQL name. The prefix that pgrx gives the symbols is not part of a name.
"""

import re

import pytest

from rust_text import shipped, sources

FUNCTION = re.compile(
    r"(?P<doc>(?:^[ \t]*///[^\n]*\n)*)"
    r"(?:^[ \t]*#\[(?!(?:pgrx::)?pg_extern|(?:pgrx::)?pg_trigger)[^\]]*\]\n)*"
    r"^[ \t]*#\[(?:pgrx::)?pg_(?:extern|trigger)\b[^\]]*\]\n"
    r"(?:^[ \t]*#\[[^\]]*\]\n)*"
    r"^[ \t]*(?:pub(?:\([^)]*\))?\s+)?(?:unsafe\s+)?fn\s+(?P<name>\w+)",
    re.MULTILINE,
)

COMMENTS = """
    SELECT p.prosrc, coalesce(obj_description(p.oid, 'pg_proc'), '')
      FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'inventory_ext'
      JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'c'
"""


def one_line(text):
    return " ".join(text.split())


def rustdocs(files):
    """{Rust name: documentation} of every function that SQL can call."""
    found = {}
    for name, code in shipped(files).items():
        for function in FUNCTION.finditer(files[name]):
            if code[function.start("name") : function.end("name")] == function["name"]:  # it ships, and is no comment
                doc = re.sub(r"^[ \t]*///", "", function["doc"], flags=re.MULTILINE)
                found[function["name"]] = one_line(doc)
    return found


def differences(documented, commented):
    """Both are {name: words}."""
    return [
        f"{name}: rustdoc says {documented.get(name)!r}, COMMENT ON says {commented.get(name)!r}"
        for name in sorted(documented.keys() | commented.keys())
        if not documented.get(name) or documented[name] != commented.get(name)
    ]


def comments(conn):
    return {symbol.removesuffix("_wrapper"): one_line(words) for symbol, words in conn.execute(COMMENTS).fetchall()}


def test_rustdoc_and_comment_on_say_the_same(db):
    with db.connect() as conn:
        documented, commented = rustdocs(sources()), comments(conn)
        assert {"attach_inventory", "detach_inventory", "decrement_inventory"} <= documented.keys() & commented.keys()
        assert differences(documented, commented) == []
        conn.execute("COMMENT ON FUNCTION detach_inventory() IS 'Something else.'")
        assert [line.split(":")[0] for line in differences(documented, comments(conn))] == ["detach_inventory"]


def test_every_function_that_sql_can_call_is_read_from_the_source():
    """The reading above misses none: as many functions as attributes."""
    files = sources()
    attributes = sum(len(re.findall(r"#\[(?:pgrx::)?pg_(?:extern|trigger)\b", code)) for code in shipped(files).values())
    assert attributes == len(rustdocs(files))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("/// Does\n/// this.\n#[pg_extern(sql = false)]\npub fn f() {}", {"f": "Does this."}),
        ("/// A.\n#[inline]\n#[pgrx::pg_trigger]\n#[allow(x)]\nfn g<'a>() {}\n#[pg_extern]\nfn h() {}", {"g": "A.", "h": ""}),
        ("/* /// A.\n#[pg_extern]\nfn f() {} */", {}),
        ("#[cfg(test)]\nmod tests {\n    /// A.\n    #[pg_extern]\n    fn f() {}\n}", {}),
    ],
)
def test_documentation_is_read_from_source(source, found):
    assert rustdocs({"a.rs": source}) == found


def test_differences_are_found():
    assert differences({"f": "a"}, {"f": "a"}) == []
    assert len(differences({"f": "a", "g": ""}, {"f": "b", "g": "", "h": "c"})) == 3
