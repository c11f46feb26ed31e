"""The architecture: which folder of src may use what, and what no file may do. docs/internals.md describes the layers.

Each rule is a function from {file below src: text} to a list of complaints. The crate must give none; and each rule
is also shown files that break it, and good ones that look like them, so that a rule which no longer works is noticed.
"""

import re
from itertools import accumulate

import pytest

from rust_text import ROOT, blank, end_of_braces, places, shipped, sources

# A folder imports only from itself and from folders to its left. lib.rs may use all of them.
LAYERS = ["core", "pg", "statements", "stats", "table", "ledger", "stripes", "stock", "attach", "audit"]
LAYERS += ["advice", "api"]
MOST_LINES = 600
MOST_LINES_OF_A_FUNCTION = 70
MOST_COLUMNS = 120


def folder(name):
    return name.split("/")[0] if "/" in name else None


def ships(files):
    """What a release build compiles, without lib.rs and the tests that run in a server."""
    return {name: code for name, code in shipped(files).items() if folder(name)}


def imports(code):
    """[(line, ["table", "cache", "current"])]: every path that begins with crate::, use trees expanded."""
    found = []
    for path in re.finditer(r"\bcrate::", code):
        line = code.count("\n", 0, path.start()) + 1
        found += [(line, names) for names in expand(code, path.end())]
    return found


def expand(code, start):
    """The paths of the use tree that begins at `start`."""
    names, position = [], start
    while word := re.compile(r"\s*(\w+)\s*(::)?\s*").match(code, position):
        names, position = [*names, word[1]], word.end()
        if not word[2]:
            return [names]
    if code[position : position + 1] != "{":
        return [names]
    branches = split(code[position + 1 : end_of_braces(code, position) - 1])
    return [names + rest for branch in branches for rest in expand(branch, 0)]


def split(branches):
    """The branches of a use tree, at the commas that are in no braces."""
    depth, parts = 0, [""]
    for character in branches:
        depth += {"{": 1, "}": -1}.get(character, 0)
        parts = [*parts, ""] if character == "," and depth == 0 else [*parts[:-1], parts[-1] + character]
    return [part for part in parts if part.strip()]


def a_folder_imports_from_its_left(files):
    complaints = []
    for name, code in ships(files).items():
        allowed = LAYERS[: LAYERS.index(folder(name)) + 1] if folder(name) in LAYERS else []
        complaints += [
            f"src/{name}:{line}: imports crate::{'::'.join(names)}, which is not to the left of {folder(name)}"
            for line, names in imports(code)
            if names[0] not in allowed
        ]
    return complaints


def modules_have_no_import_circles(files):
    """Between the files of a folder; a mod.rs and its own modules are one."""
    code = ships(files)
    known = {name.removesuffix(".rs"): name for name in code if not name.endswith("/mod.rs")}
    edges = {name: set() for name in known}
    for module, name in known.items():
        for _, names in imports(code[name]):
            target = "/".join(names[:2])
            if target in known and target != module:
                edges[module].add(target)
    return [f"src/{' -> '.join(circle)}" for circle in circles(edges)]


def circles(edges):
    found, done = [], set()

    def visit(module, path):
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(edges[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(edges):
        visit(module, [])
    return found


def only_pg_is_unsafe_and_calls_postgresql(files):
    named = r"\bunsafe\b|\bunsafe_code\b|\bpg_sys\b|\w*SPI_\w+|\bSpi\w*|\bpgrx\s*::\s*spi\b"
    return [
        f"src/{name}:{line}: {words}, which only src/pg may use"
        for name, code in ships(files).items()
        if folder(name) != "pg"
        for line, words in places(code, named)
    ]


def spi_is_called_in_one_file(files):
    return [
        f"src/{name}:{line}: {words}, which only src/pg/spi.rs may use"
        for name, code in ships(files).items()
        if name not in ("pg/spi.rs", "pg/trigger.rs", "pg/portal.rs")  # these read columns of rows, and close cursors
        for line, words in places(code, r"\bSPI_(?!fnumber|getbinval|gettypeid|cursor)\w+")
    ]


def pgrx_stays_in_pg(files):
    """Other folders see PostgreSQL through src/pg; api marks its functions with pgrx's attribute."""
    return [
        f"src/{name}:{line}: {words}"
        for name, code in ships(files).items()
        if folder(name) != "pg"
        for line, words in places(code, r"\bpgrx\b[\w:]*")
        if not (folder(name) == "api" and words == "pgrx::pg_extern")
    ]


def sql_stands_in_statements(files):
    """Every SQL text is a function of src/statements."""
    sql = (
        r'"\s*(?:SELECT\s|INSERT INTO|UPDATE [^"]* SET|DELETE FROM'
        r"|(?:ALTER|CREATE|DROP|LOCK) (?:TABLE|TRIGGER|INDEX) )"
    )
    return [
        f"src/{name}:{line}: {words.split()[0]} … outside of src/statements"
        for name in ships(files)
        if folder(name) != "statements"
        for line, words in places(blank(files[name], literals=False), sql)
        if not in_test(files[name], line)
    ]


def in_test(text, line):
    begin = text.find("#[cfg(test)]")
    return begin != -1 and line > text.count("\n", 0, begin)


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


def every_thread_local_has_a_reason(files):
    """State travels as arguments. A static that stays says in its comment why it cannot."""
    complaints = []
    for name, code in shipped(files).items():
        lines = files[name].split("\n")
        for number, words in places(code, r"(?m)^[ \t]*(?:pub\s+)?static\s+\w+"):
            above = [line.strip() for line in lines[: number - 1]]
            while above and above[-1].startswith("#["):
                above.pop()
            if not above or not above[-1].startswith("//"):
                complaints.append(f"src/{name}:{number}: {words.split()[-1]} has no comment with its reason")
    return complaints


def functions_fit_on_a_screen(files):
    complaints = []
    for name, code in shipped(files).items():
        for function in re.finditer(r"\bfn\s+(\w+)", code):
            body = re.compile(r"[^;{]*([;{])").match(code, function.end())
            if body and body[1] == "{":
                length = code.count("\n", function.start(), end_of_braces(code, body.end() - 1)) + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    line = code.count("\n", 0, function.start()) + 1
                    complaints.append(f"src/{name}:{line}: {function[1]} has {length} lines")
    return complaints


def lib_holds_no_logic(files):
    """lib.rs: attributes, modules, the two macros of pgrx, and a _PG_init of plain calls."""
    allowed = re.compile(
        r"""\s+ | \#!?\[[^\]]*\] | (?:pub\s+)?mod\s+\w+\s*;
          | pgrx::pg_module_magic!\([\w\s,]*\);
          | pgrx::extension_sql_file!\([^()]*\);
          | pub\s+extern\s+"[^"]*"\s+fn\s+_PG_init\(\)\s*\{(?:\s*\w+(?:::\w+)*\((?:\w+(?:::\w+)*\(\))?\);)*\s*\}""",
        re.VERBOSE,
    )
    code, position = shipped(files).get("lib.rs", ""), 0
    while position < len(code):
        found = allowed.match(code, position)
        if not found:
            line = code.count("\n", 0, position) + 1
            return [f"src/lib.rs:{line}: more than modules and registrations: {code[position:].splitlines()[0]}"]
        position = found.end()
    return []


def errors_are_reported_not_panicked(files):
    return [
        f"src/{name}:{line}: {words} outside a test: a user must get an error with a SQLSTATE"
        for name, code in shipped(files).items()
        for line, words in places(code, r"\.\s*unwrap\(\)|\.\s*expect\(|\b(?:panic|todo|unimplemented)!")
    ]


def a_name_means_one_thing(files):
    """No two types of the crate have the same name."""
    found = {}
    for name, code in ships(files).items():
        for line, words in places(code, r"\b(?:struct|enum|trait|pub type)\s+[A-Z]\w*"):
            found.setdefault(words.split()[-1], []).append(f"src/{name}:{line}")
    return [f"{', '.join(spots)}: {word} is defined twice" for word, spots in found.items() if len(spots) > 1]


def texts_are_ascii(files):
    """A message reaches clients and logs in encodings that lack other characters."""
    return [
        f"src/{name}:{line}: {words} in a text"
        for name in ships(files)
        for line, words in places(blank(files[name], literals=False), r"[^\x00-\x7f]+")
        if not in_test(files[name], line)
    ]


def every_file_has_a_header(files):
    """The first line says what the module is for."""
    return [f"src/{name}: begins without a //! header" for name, text in files.items() if not text.startswith("//! ")]


GOOD_LIB = """//! The contents page.
#![cfg_attr(not(test), warn(missing_docs))]
pub mod pg;
#[cfg(feature = "pg_test")]
mod server_tests;
pgrx::pg_module_magic!(name, version);
pgrx::extension_sql_file!("../sql/a.sql", name = "a", requires = ["b"]);
/// Docs.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::settings::define();
    pg::worker::register(stripes::totals::work());
}
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}
}
"""
LONG = "fn f() {\n" + "    g();\n" * (MOST_LINES_OF_A_FUNCTION - 1) + "}\n"

# For each rule: files that it must complain about, and files that only look bad.
RULES = {
    a_folder_imports_from_its_left: (
        [
            {"table/rows.rs": "use crate::stock::sale;"},
            {"core/json.rs": "fn f() -> crate::pg::spi::Rows {}"},
            {"pg/spi.rs": "use crate::{core::json, table::{cache, rows}};"},
            {"ledger/writer.rs": "use crate::{\n    core::json,\n    stripes::guard,\n};"},
            {"other/a.rs": "use crate::core::json;"},
        ],
        [
            {"stock/sale.rs": "use crate::table::{cache::{self, current}, rows};\nuse crate::stock::shortage;"},
            {"lib.rs": "fn f() { crate::api::f() }", "table/a.rs": "// use crate::api;\n"},
            {"pg/spi.rs": "#[cfg(test)]\nmod tests { use crate::api; }"},
        ],
    ),
    modules_have_no_import_circles: (
        [
            {"table/a.rs": "use crate::table::b;", "table/b.rs": "use crate::table::a::f;"},
            {"a/b.rs": "use crate::a::c;", "a/c.rs": "use crate::a::{d};", "a/d.rs": "fn f() { crate::a::b::g() }"},
        ],
        [{"table/a.rs": "use crate::table::{b, c};", "table/b.rs": "use crate::table::c;", "table/c.rs": ""}],
    ),
    only_pg_is_unsafe_and_calls_postgresql: (
        [
            {"stock/sale.rs": "fn f() { unsafe { g() } }"},
            {"stock/sale.rs": "#![allow(unsafe_code)]"},
            {"table/a.rs": "fn f() { Spi::run(sql) }"},
            {"table/a.rs": "fn f(oid: pg_sys::Oid) {}"},
            {"api/a.rs": "/* Spi */ fn f(s: &'static str, c: char) { if c == '\"' { SpiClient::new(s) } }"},
        ],
        [
            {"pg/spi.rs": "fn f() { unsafe { pg_sys::SPI_connect() }; }"},
            {"stock/a.rs": '// unsafe\nfn f() -> &\'static str { "unsafe Spi" }'},
            {"stock/a.rs": '/* Spi /* and Spi */ Spi */\n#[cfg(test)]\nmod tests { fn f() { Spi::run("}") } }'},
        ],
    ),
    spi_is_called_in_one_file: (
        [{"pg/lock.rs": "fn f() { pg_sys::SPI_connect() }"}],
        [{"pg/spi.rs": "fn f() { pg_sys::SPI_connect() }"}, {"pg/a.rs": "fn f() { pg_sys::SPI_fnumber() }"}],
    ),
    pgrx_stays_in_pg: (
        [
            {"core/quantity.rs": "use pgrx::AnyNumeric;"},
            {"api/sell.rs": "use pgrx::Uuid;"},
            {"stock/sale.rs": "use pgrx::pg_extern;"},
        ],
        [
            {"api/sell.rs": "use pgrx::pg_extern;"},
            {"core/a.rs": "//! Not as pgrx does."},
            {"pg/a.rs": "use pgrx::Uuid;"},
        ],
    ),
    sql_stands_in_statements: (
        [
            {"stock/sale.rs": 'fn f() { run("SELECT 1") }'},
            {"table/a.rs": 'fn f() { run(&format!("UPDATE {table} AS s SET quantity = 1")) }'},
            {"attach/a.rs": 'fn f() { run(r"\n   DELETE FROM a") }'},
        ],
        [
            {"statements/a.rs": 'fn f() { run("SELECT 1") }'},
            {"core/error/a.rs": 'fn f() { hint("DELETE the rows, or ALTER TABLE … SET NOT NULL; UPDATE nothing.") }'},
        ],
    ),
    every_unsafe_block_says_why: (
        [
            {"pg/spi.rs": "fn f() {\n    unsafe { g() }\n}"},
            {"pg/spi.rs": "fn f() {\n    // SAFETY: fine.\n    g();\n    unsafe { g() }\n}"},
            {"pg/spi.rs": "// SAFETY: of another.\n\nunsafe impl Send for S {}"},
            {"pg/spi.rs": 'fn f() {\n    g("SAFETY: ");\n    unsafe { g() }\n}'},
        ],
        [
            {
                "pg/spi.rs": "fn f() {\n    // SAFETY: g is never wrong,\n    // as its manual says.\n"
                "    unsafe { g() }\n}"
            },
            {"pg/spi.rs": "fn f() {\n    // SAFETY: fine.\n    let answer =\n        unsafe { g() };\n}"},
            {
                "pg/a.rs": "// SAFETY: a number.\n#[rustfmt::skip]\nunsafe impl Send for S {}\n"
                'unsafe extern "C" fn f() {}'
            },
        ],
    ),
    every_thread_local_has_a_reason: (
        [
            {"a.rs": "thread_local! {\n    static A: Cell<u32> = const { Cell::new(0) };\n}"},
            {"a.rs": "\nstatic A: u8 = 1;"},
        ],
        [
            {"a.rs": "thread_local! {\n    /// Called back.\n    static A: Cell<u32> = const { Cell::new(0) };\n}"},
            {"a.rs": "/// Set once.\n#[cfg(x)]\nstatic A: u8 = 1;\nfn f(s: &'static str) {}"},
        ],
    ),
    functions_fit_on_a_screen: (
        [
            {"a.rs": LONG},
            {"a.rs": "impl A {\n    pub fn g(\n        a: u8,\n    ) {" + "\n" * MOST_LINES_OF_A_FUNCTION + "}\n}"},
        ],
        [{"a.rs": LONG.replace("    g();\n", "", 1)}, {"a.rs": "trait T { fn f(); }\n" + "\n" * 80 + "fn g() {}"}],
    ),
    lib_holds_no_logic: (
        [
            {"lib.rs": GOOD_LIB + "fn f() {}"},
            {"lib.rs": GOOD_LIB + "static COUNT: u32 = 0;"},
            {"lib.rs": GOOD_LIB.replace("pg::settings::define();", "if ready() { pg::settings::define(); }")},
            {"lib.rs": GOOD_LIB.replace("#[cfg(test)]\npub mod", "pub mod")},
            {"lib.rs": GOOD_LIB.replace("pub mod pg;", "pub mod pg { fn f() {} }")},
        ],
        [{"lib.rs": GOOD_LIB}],
    ),
    errors_are_reported_not_panicked: (
        [
            {"a.rs": "fn f() { g().unwrap() }"},
            {"a.rs": 'fn f() { g()\n        .expect("there") }'},
            {"a.rs": 'fn f() { panic!("no") }'},
            {"a.rs": "#[cfg(not(test))]\nmod a { fn f() { todo!() } }"},
        ],
        [
            {"a.rs": "fn f() { g().unwrap_or_default() } // .unwrap()"},
            {"a.rs": "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn f() { g().unwrap() }\n}"},
        ],
    ),
    a_name_means_one_thing: (
        [{"pg/a.rs": "pub struct Rows;", "ledger/b.rs": "enum Rows { One }"}],
        [{"pg/a.rs": "pub struct Rows; impl Rows { fn f() -> Rows {} }", "ledger/b.rs": "// struct Rows\nstruct Row;"}],
    ),
    texts_are_ascii: (
        [{"core/a.rs": 'fn f() { hint("Run ALTER TABLE … RENAME.") }'}],
        [{"core/a.rs": '// A comment …\nfn f() { hint("...") }\n#[cfg(test)]\nmod tests { fn g() { f("ä") } }'}],
    ),
    every_file_has_a_header: ([{"a.rs": "use std::fmt;\n"}, {"a.rs": ""}], [{"a.rs": "//! A module.\n"}]),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_crate_keeps_the_rule(rule):
    files = sources()
    assert {folder(name) for name in files} == {None, *LAYERS}
    assert rule(files) == []


@pytest.mark.parametrize(
    ("rule", "files"),
    [(rule, files) for rule, (bad, _) in RULES.items() for files in bad],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_rule_complains_about(rule, files):
    assert rule(files) != []


@pytest.mark.parametrize(
    ("rule", "files"),
    [(rule, files) for rule, (_, good) in RULES.items() for files in good],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_rule_allows(rule, files):
    assert rule(files) == []


@pytest.mark.parametrize(
    ("rule", "name", "planted"),
    [
        (a_folder_imports_from_its_left, "table/rows.rs", "use crate::stock::shortage;\n"),
        (only_pg_is_unsafe_and_calls_postgresql, "stock/sale.rs", "fn f() { unsafe { g() } }\n"),
        (functions_fit_on_a_screen, "stock/sale.rs", LONG),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_planted_breach_is_found_in_the_crate_itself(rule, name, planted):
    files = sources()
    files[name] += planted
    assert [complaint.split(":")[0] for complaint in rule(files)] == [f"src/{name}"]


# The lengths of files and lines concern the whole project, not the crate alone.

LOCK_FILES = {"Cargo.lock", "package-lock.json"}
NOT_OURS = {".git", ".local", "target", "node_modules", "results", "__pycache__"}
TEXT = {".rs", ".sql", ".py", ".sh", ".js", ".md", ".toml", ".control", ".spec", ".out", ".txt", ".json", ".ini", ""}
CODE = {".rs", ".sql", ".py", ".sh", ".js"}


def project_files(folder=ROOT):
    for path in sorted(folder.iterdir()):
        if path.name in NOT_OURS or path.name.endswith("_cache") or path.name == ".hypothesis":
            continue
        if path.is_dir():
            yield from project_files(path)
        elif path.suffix in TEXT and path.name not in LOCK_FILES:
            yield path


def is_frozen(path):
    """An installation script of an earlier version: PostgreSQL reads one file, which pgrx made of several."""
    return path.parent == ROOT / "tests/upgrade" and path.suffix == ".sql"


def too_long(paths):
    lengths = {path: len(path.read_text().splitlines()) for path in paths if not is_frozen(path)}
    return [f"{path} has {length} lines" for path, length in lengths.items() if length > MOST_LINES]


def measured_lines(path):
    """(number, line) of code and prose: tables and outputs in a manual are as wide as what they show."""
    lines = list(enumerate(path.read_text().splitlines(), start=1))
    if path.suffix == ".md":
        fences = accumulate(line.lstrip().startswith("```") for _, line in lines)
        lines = [
            numbered for numbered, fence in zip(lines, fences) if fence % 2 == 0 and not numbered[1].startswith("|")
        ]
    return lines if path.suffix in {*CODE, ".md"} else []


def too_wide(paths):
    return [
        f"{path}:{number} has {len(line)} columns"
        for path in paths
        for number, line in measured_lines(path)
        if len(line) > MOST_COLUMNS
    ]


def test_no_file_is_over_600_lines(tmp_path):
    files = list(project_files())
    assert {ROOT / "src/lib.rs", ROOT / "Makefile", ROOT / "README.md", ROOT / "tests/conftest.py"} <= set(files)
    assert too_long(files) == []
    (tmp_path / "fits.rs").write_text("\n" * MOST_LINES)
    (tmp_path / "long.rs").write_text("\n" * (MOST_LINES + 1))
    assert too_long(project_files(tmp_path)) == [f"{tmp_path / 'long.rs'} has {MOST_LINES + 1} lines"]


def test_no_line_of_code_or_prose_is_over_120_columns(tmp_path):
    assert too_wide(project_files()) == []
    (tmp_path / "wide.sql").write_text("\n" + "x" * MOST_COLUMNS + "\n" + "x" * (MOST_COLUMNS + 1))
    wide = "x" * (MOST_COLUMNS + 1)
    (tmp_path / "wide.md").write_text(f"| {wide} |\n```\n{wide}\n```\n{wide}\n")
    assert too_wide(project_files(tmp_path)) == [
        f"{tmp_path / 'wide.md'}:5 has {MOST_COLUMNS + 1} columns",
        f"{tmp_path / 'wide.sql'}:3 has {MOST_COLUMNS + 1} columns",
    ]


def test_comments_and_literals_are_told_from_code():
    """The reading that all rules rest on."""
    text = 'a("x // y", \'b\', \'\\\'\', b"\\"z", r#""q""#) /* n /* m */ n */ + <\'l>(c"w"); // end\nnext'
    code = blank(text)
    assert len(code) == len(text)
    assert re.sub(r"\s+", "", code) == 'a("","","","","")+<\'l>("");next'
    assert end_of_braces("{ { } } }", 0) == 7


def test_use_trees_are_expanded():
    code = "use crate::a::{self, b::{C, d}, e};\nfn f() { crate::g::h(crate::i) }"
    assert [names for _, names in imports(code)] == [
        ["a", "self"],
        ["a", "b", "C"],
        ["a", "b", "d"],
        ["a", "e"],
        ["g", "h"],
        ["i"],
    ]
