"""The walls of the house: which room of src may do what, and what no room may do.

Each wall is a function from {file name: text} to a list of complaints. The house must give none; and each wall is also
shown a bad snippet, and a good one that looks like it, so that a wall which no longer stands is noticed.
"""

import re

import pytest

from rust_text import ROOT, blank, end_of_braces, places, shipped, sources

# The only rooms with `unsafe`, and what they need it for. A room that needs it no longer must go from the list.
UNSAFE_ROOMS = {
    "spi.rs": "calls the server programming interface, whose functions are C",
    "cursors.rs": "pins the portals of the caller",
    "utility.rs": "hooks the commands, which are C structs",
    "identity.rs": "switches the role and the search_path by calling C, and asks for privileges",
    "attachment.rs": "locks a relation by calling C",
    "relation.rs": "reads PostgreSQL's caches of relations, functions and names, which are C structs",
    "watch.rs": "registers for and queues invalidation messages",
    "report.rs": "raises a SQLSTATE of our own class, which pgrx has no safe road for",
    "session_key.rs": "defines a setting with hooks, and reads how PostgreSQL keeps it",
    "settings.rs": "reserves the prefix of the settings, and reads those of PostgREST",
    "encoding.rs": "converts text between the database's encoding and UTF-8 by calling C",
    "jsonb.rs": "reads a jsonb argument where PostgreSQL holds it",
    "ledger.rs": "prints rows' quantities, and registers for the ends of (sub)transactions",
    "stripe_lock.rs": "takes and gives back locks of its own by calling C",
    "totals.rs": "is a background worker: signals, latch and transactions are C",
    "trigger.rs": "reads what PostgreSQL hands to a trigger: C structs behind pointers",
}
SPI_ROOM = "spi.rs"
# Pure Rust, tested without a server: they may use each other and nothing else of the house.
PURE_ROOMS = {"quantity.rs", "answer.rs"}
MOST_LINES = 600


def spi_is_named_in_its_room_only(files):
    named = r"\w*SPI_\w+|\bSpi\w*|\bpgrx\s*::\s*spi\b|\bpgrx\s*::\s*\{[^;]*\bspi\b"
    return [
        f"src/{name}:{line}: names SPI ({words}), which only src/{SPI_ROOM} may"
        for name, code in shipped(files).items()
        if name != SPI_ROOM
        for line, words in places(code, named)
    ]


def unsafe_stands_in_its_rooms_only(files):
    found = {name: places(code, r"\bunsafe\b|\bunsafe_code\b") for name, code in shipped(files).items()}
    strangers = [
        f"src/{name}:{line}: {words}, but the room is not in UNSAFE_ROOMS"
        for name, spots in found.items()
        if name not in UNSAFE_ROOMS
        for line, words in spots
    ]
    needless = [
        f"src/{name}: is in UNSAFE_ROOMS and has no unsafe code"
        for name in UNSAFE_ROOMS
        if name in files and not any(words == "unsafe" for _, words in found.get(name, []))
    ]
    return strangers + needless


def every_unsafe_block_says_why(files):
    complaints = []
    for name, text in files.items():
        lines = text.split("\n")
        for number, _ in places(blank(text), r"\bunsafe\s*(?:\{|impl\b)"):
            if "SAFETY:" not in comment_above(lines, number - 1):
                complaints.append(f"src/{name}:{number}: unsafe without a SAFETY: comment directly above")
    return complaints


def comment_above(lines, index):
    """The comment lines directly above the statement that the line with this index belongs to."""
    top = index
    while top > 0 and not re.search(r"(?:^|[;{},])\s*$|^\s*//", lines[top - 1]):
        top -= 1
    comment = []
    while top > 0 and lines[top - 1].lstrip().startswith(("//", "#[")):
        top -= 1
        comment.append(lines[top])
    return "\n".join(comment)


def the_contents_page_holds_no_logic(files):
    """lib.rs: attributes, modules, the two macros of pgrx, and a _PG_init of plain calls."""
    allowed = re.compile(
        r"""\s+ | \#!?\[[^\]]*\] | (?:pub\s+)?mod\s+\w+\s*;
          | pgrx::pg_module_magic!\([\w\s,]*\);
          | pgrx::extension_sql_file!\([^()]*\);
          | pub\s+extern\s+"[^"]*"\s+fn\s+_PG_init\(\)\s*\{(?:\s*\w+(?:::\w+)*\(\);)*\s*\}""",
        re.VERBOSE,
    )
    code, position = shipped(files).get("lib.rs", ""), 0
    while position < len(code):
        found = allowed.match(code, position)
        if not found:
            line = code.count("\n", 0, position) + 1
            return [f"src/lib.rs:{line}: more than a contents page holds: {code[position:].splitlines()[0]}"]
        position = found.end()
    return []


def errors_are_told_not_panicked(files):
    return [
        f"src/{name}:{line}: {words} outside a test: a user must get an error with a SQLSTATE"
        for name, code in shipped(files).items()
        for line, words in places(code, r"\.\s*unwrap\(\)|\.\s*expect\(|\b(?:panic|todo|unimplemented)!")
    ]


def pure_rooms_stay_pure(files):
    pure = "|".join(name.removesuffix(".rs") for name in PURE_ROOMS)
    impure = rf"\bpgrx\w*|\bpg_sys\b|\bcrate::(?!(?:{pure})\b)\w+"
    return [
        f"src/{name}:{line}: a pure room uses {words}"
        for name, code in shipped(files).items()
        if name in PURE_ROOMS
        for line, words in places(code, impure)
    ]


def every_room_has_its_sign(files):
    """The first line says what the room is for."""
    return [f"src/{name}: begins without a //! header" for name, text in files.items() if not text.startswith("//! ")]


GOOD_LIB = """//! The contents page.
#![cfg_attr(not(test), warn(missing_docs))]
pub mod spi;
#[cfg(feature = "pg_test")]
mod server_tests;
pgrx::pg_module_magic!(name, version);
pgrx::extension_sql_file!("../sql/a.sql", name = "a", requires = ["b"]);
/// Docs.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
}
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}
}
"""

# For each wall: files it must complain about, and files that only look bad.
WALLS = {
    spi_is_named_in_its_room_only: (
        [
            {"a.rs": "fn f() { unsafe { pg_sys::SPI_connect() }; }"},
            {"a.rs": "fn f(plan: *mut pg_sys::_SPI_plan) {}"},
            {"a.rs": "fn f() { Spi::run(sql) }"},
            {"a.rs": "use pgrx::{pg_sys, spi::SpiClient};"},
            {"a.rs": "use pgrx :: spi;"},
            {"a.rs": "/* Spi */ fn f(s: &'static str, c: char) { if c == '\"' { SpiClient::new(s) } }"},
        ],
        [
            {"spi.rs": "fn f() { unsafe { pg_sys::SPI_connect() }; }"},
            {"a.rs": "use crate::spi::{Arg, Connection}; // not Spi::run\nfn f() { g(\"SPI_connect\", r#\"Spi\"#) }"},
            {"a.rs": "/* Spi /* and Spi */ Spi */\n#[cfg(test)]\nmod tests { fn f() { Spi::run(\"}\") } }"},
            {"lib.rs": "#[cfg(test)]\n#[path = \"a_tests.rs\"]\nmod tests;", "a_tests.rs": "fn f() { Spi::run(s) }"},
        ],
    ),
    unsafe_stands_in_its_rooms_only: (
        [
            {"decrement.rs": "fn f() { unsafe { g() } }"},
            {"decrement.rs": "#![allow(unsafe_code)]"},
            {"decrement.rs": "pub unsafe fn f() {}"},
            {"report.rs": "#![allow(unsafe_code)]\nfn f() {}"},
        ],
        [
            {"decrement.rs": "// unsafe\nfn f() -> &'static str { \"unsafe\" }"},
            {"report.rs": "fn f() { unsafe { g() } }"},
        ],
    ),
    every_unsafe_block_says_why: (
        [
            {"spi.rs": "fn f() {\n    unsafe { g() }\n}"},
            {"spi.rs": "fn f() {\n    // SAFETY: fine.\n    g();\n    unsafe { g() }\n}"},
            {"spi.rs": "// SAFETY: of another.\n\nunsafe impl Send for S {}"},
            {"spi.rs": "fn f() {\n    g(\"SAFETY: \");\n    unsafe { g() }\n}"},
        ],
        [
            {"spi.rs": "fn f() {\n    // SAFETY: g is never wrong,\n    // as its manual says.\n    unsafe { g() }\n}"},
            {"spi.rs": "fn f() {\n    // SAFETY: fine.\n    let answer =\n        unsafe { g() };\n}"},
            {"spi.rs": "// SAFETY: a number.\n#[rustfmt::skip]\nunsafe impl Send for S {}\nunsafe extern \"C\" fn f() {}"},
        ],
    ),
    the_contents_page_holds_no_logic: (
        [
            {"lib.rs": GOOD_LIB + "fn f() {}"},
            {"lib.rs": GOOD_LIB + "static COUNT: u32 = 0;"},
            {"lib.rs": GOOD_LIB.replace("settings::define();", "if ready() { settings::define(); }")},
            {"lib.rs": GOOD_LIB.replace("#[cfg(test)]\npub mod", "pub mod")},
            {"lib.rs": GOOD_LIB.replace("pub mod spi;", "pub mod spi { fn f() {} }")},
        ],
        [{"lib.rs": GOOD_LIB}],
    ),
    errors_are_told_not_panicked: (
        [
            {"a.rs": "fn f() { g().unwrap() }"},
            {"a.rs": "fn f() { g()\n        .expect(\"there\") }"},
            {"a.rs": "fn f() { panic!(\"no\") }"},
            {"a.rs": "#[cfg(not(test))]\nmod a { fn f() { todo!() } }"},
        ],
        [
            {"a.rs": "fn f() { g().unwrap_or_default() } // .unwrap()"},
            {"a.rs": "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn f() { g().unwrap() }\n}"},
        ],
    ),
    pure_rooms_stay_pure: (
        [
            {"quantity.rs": "use pgrx::AnyNumeric;"},
            {"answer.rs": "use crate::error::Fault;"},
            {"answer.rs": "fn f() -> crate::spi::Arg {}"},
        ],
        [{"answer.rs": "use crate::quantity::Quantity; // as pgrx prints it", "error.rs": "use pgrx::pg_sys;"}],
    ),
    every_room_has_its_sign: ([{"a.rs": "use std::fmt;\n"}, {"a.rs": ""}], [{"a.rs": "//! A room.\n"}]),
}


@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.__name__)
def test_the_wall_stands(wall):
    files = sources()
    assert {"lib.rs", SPI_ROOM, *UNSAFE_ROOMS, *PURE_ROOMS} <= files.keys()
    assert wall(files) == []


@pytest.mark.parametrize(
    ("wall", "files"),
    [(wall, files) for wall, (bad, _) in WALLS.items() for files in bad],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_wall_holds_against(wall, files):
    assert wall(files) != []


@pytest.mark.parametrize(
    ("wall", "files"),
    [(wall, files) for wall, (_, good) in WALLS.items() for files in good],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_wall_has_a_door_for(wall, files):
    assert wall(files) == []


# The length of files concerns the whole project, not the crate alone.

LOCK_FILES = {"Cargo.lock", "package-lock.json"}
NOT_OURS = {".git", ".local", "target", "node_modules", "results", "__pycache__"}
TEXT = {".rs", ".sql", ".py", ".sh", ".js", ".md", ".toml", ".control", ".spec", ".out", ".txt", ".json", ".ini", ""}


def project_files(folder=ROOT):
    for path in sorted(folder.iterdir()):
        if path.name in NOT_OURS or path.name.endswith("_cache") or path.name == ".hypothesis":
            continue
        if path.is_dir():
            yield from project_files(path)
        elif path.suffix in TEXT and path.name not in LOCK_FILES:
            yield path


def too_long(paths):
    lengths = {path: len(path.read_text().splitlines()) for path in paths}
    return [f"{path} has {length} lines" for path, length in lengths.items() if length > MOST_LINES]


def test_no_file_is_over_600_lines(tmp_path):
    files = list(project_files())
    assert {ROOT / "src/lib.rs", ROOT / "Makefile", ROOT / "README.md", ROOT / "tests/conftest.py"} <= set(files)
    assert too_long(files) == []
    (tmp_path / "fits.rs").write_text("\n" * MOST_LINES)
    (tmp_path / "long.rs").write_text("\n" * (MOST_LINES + 1))
    assert too_long(project_files(tmp_path)) == [f"{tmp_path / 'long.rs'} has {MOST_LINES + 1} lines"]


def test_comments_and_literals_are_told_from_code():
    """The reading that all walls rest on."""
    text = "a(\"x // y\", 'b', '\\'', b\"\\\"z\", r#\"\"q\"\"#) /* n /* m */ n */ + <'l>(c\"w\"); // end\nnext"
    code = blank(text)
    assert len(code) == len(text)
    assert re.sub(r"\s+", "", code) == 'a("","","","","")+<\'l>("");next'
    assert end_of_braces("{ { } } }", 0) == 7
