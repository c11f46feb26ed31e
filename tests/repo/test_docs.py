"""The manual is correct, and it covers everything public.

Its SQL returns the output shown, its commands and links work. See documents.py for how blocks are read and run. Each
check also runs on wrong pages, which it must detect.
"""

import os
import re
import subprocess

import psycopg
import pytest

import documents
from documents import Example, compare, complaints_of_sql, pattern, read, shell_complaint
from rust_text import ROOT, blank, files_of_tests, sources

PG = os.environ.get("PG", "18")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FUNCTIONS = ("functions.md", "audit-functions.md", "monitoring-functions.md")
MANUAL_OF_FUNCTIONS = "".join((ROOT / "docs" / name).read_text() for name in FUNCTIONS)
OTHER_PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "demo/README.md", "monitoring/README.md")
ALL_PAGES = [*PAGES, *(ROOT / name for name in OTHER_PAGES)]


def name_of(page):
    return str(page.relative_to(ROOT))


# SQL


@pytest.fixture
def shop(server, template):
    """A fresh database `shop`, as `make psql` opens it. The databases and roles that a page creates are dropped."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        before = everything(conn)
        conn.execute(f"CREATE DATABASE shop TEMPLATE {template}")
        yield "shop"
        for kind, name in sorted(everything(conn) - before):  # DATABASE, then ROLE: what a role owns is gone by then
            conn.execute(f'DROP {kind} "{name}"')


def everything(conn):
    return set(conn.execute("SELECT 'DATABASE', datname FROM pg_database UNION SELECT 'ROLE', rolname FROM pg_roles"))


@pytest.mark.parametrize("page", [page for page in PAGES if "```sql" in page.read_text()], ids=name_of)
def test_the_sql_runs_and_returns_the_output_shown(page, server, shop):
    document = read(page.read_text())
    assert document.complaints + complaints_of_sql(document, server, shop) == []


def test_there_is_sql_to_run_on_every_page():
    assert {"README.md", "docs/functions.md", "docs/errors.md"} <= {name_of(page) for page in PAGES}
    without = [page.name for page in PAGES if "```sql" not in page.read_text()]
    assert without == ["audit-functions.md", "monitoring-functions.md"]


WRONG = {
    "output that differs": "```sql\nSELECT 1;\n```\n\n```\n2\n```",
    "a second row": "```sql\nSELECT 1 UNION ALL SELECT 1;\n```\n```\n1\n```",
    "a failure that is not shown": "```sql\nSELECT 1/0;\n```\n```sql\nSELECT 1;\n```",
    "a failure in the last block": "```sql\nSELECT 1;\n```\n\n```\n1\n```\n```sql\nSELECT nothing();\n```",
    "an error that does not come": "```sql\nSELECT 1;\n```\n```\nERROR:  division by zero\n```",
    "another error": "```sql\nSELECT 1/0;\n```\n```\nERROR:  something else\n```",
    "SQL without an end": "```sql\nSELECT 1;\nSELECT 1\n```",
    "a block without an end": "```sql\nSELECT 1;\n",
    "an indented block": "- so:\n\n  ```sql\n  SELECT 1;\n  ```",
}
RIGHT = """
```sql
CREATE TABLE t (a text);  -- one session: the next block sees it
INSERT INTO t VALUES ('x'), ('y');
\\set two 2
```
Prose.
```
not the expected output: prose stands between
```
```sql
SELECT a, :two FROM t;
```

```
x|2
y|…
```
```sql
BEGIN;
SELECT 1/0;
SELECT 1;
ROLLBACK;
```
```
ERROR:  division by zero
ERROR:  current transaction is aborted, …
```
"""


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_example_is_noticed(what, server, shop):
    document = read(WRONG[what])
    assert len(document.examples) >= (what != "a block without an end")
    assert document.complaints or complaints_of_sql(document, server, shop) != []


def test_a_right_example_is_not_complained_about(server, shop):
    document = read(RIGHT)
    assert [example.expected is None for example in document.examples] == [True, False, False]
    assert document.complaints + complaints_of_sql(document, server, shop) == []


def test_output_is_compared_as_text():
    assert compare([Example(1, "", "a\nb")], [" a \nb\n", ""]) == []
    assert compare([Example(1, "", "a.b")], ["axb", ""]) != []
    assert re.fullmatch(pattern('{"oid": …}'), '{"oid": 16384}')


# Commands and links


def commands():
    return [
        pytest.param(line, id=f"{name_of(page)}:{number}: {line}")
        for page in ALL_PAGES
        for number, line in read(page.read_text()).commands
    ]


@pytest.mark.parametrize("line", commands())
def test_the_command_would_work(line):
    assert not shell_complaint(line)


@pytest.mark.parametrize(
    "line",
    [
        "make no-such-target",
        "make demo no-such-target",
        ". dev/no-such-file.sh",
        "python -m pytest tests/no-such-folder",
        "python -m pytest tests/repo/test_architecture.py -k no_such_test",
        "python -m dev.server --pg 7",
        "cargo pgrx no-such-command",
        "curl https://example.org | sh",
    ],
)
def test_a_wrong_command_is_noticed(line):
    assert shell_complaint(line)


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_the_links_lead_somewhere(page):
    assert documents.broken_links(page) == []


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three\n[a](page.md) [b](#one-two-three) [c](https://example.org/x)\n")
    assert documents.broken_links(page) == []
    page.write_text("# One\n[a](other.md) [b](#two) [c](page.md#three) [d](page.md#one)\n")
    assert documents.broken_links(page) == ["other.md", "#two", "page.md#three"]


# The first screen of README.md


def test_the_first_screen_works_when_pasted_into_make_psql():
    """The first example that shows its output is pasted as it is; its last result is a finished sale."""
    readme = (ROOT / "README.md").read_text()
    document = read(readme)
    first = next(example for example in document.examples if example.expected)
    assert first.line <= 60, "the SQL is not on the first screen"
    commands = {without_comment(line) for number, line in document.commands if number < first.line}
    assert {"make demo", "make test"} <= commands
    assert len([line for line in first.sql.splitlines() if line.strip()]) <= 6
    done = subprocess.run(
        ["make", "-s", "psql", f"PG={PG}"],
        cwd=ROOT,
        env=documents.clean_environment(),
        input=first.sql + "\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shown = [line for line in first.expected.splitlines() if line.startswith('{"success": true')]
    printed = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith('{"success": true')]
    assert shown and printed == shown


def without_comment(line):
    return line.split("#")[0].strip()


# Completeness: what is public, and every error, is in the manual


def test_every_function_stands_in_the_manual_as_it_is(db):
    page = MANUAL_OF_FUNCTIONS
    with db.connect() as conn:
        functions = conn.execute(
            "SELECT format('%s(%s) → %s', proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid))"
            " FROM pg_proc p JOIN pg_depend d"
            " ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'"
            " JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'inventory_ext'"
            " WHERE p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)"
            " AND p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'internal')"
        ).fetchall()
    short = [signature.replace("timestamp with time zone", "timestamptz") for (signature,) in functions]
    signatures = [re.sub(r"('|NULL)::\w+", r"\1", signature) for signature in short]
    assert len(signatures) >= 8
    assert [signature for signature in signatures if signature not in " ".join(page.split())] == []


def test_every_setting_stands_in_the_manual_with_its_default(db):
    page = (ROOT / "docs/settings.md").read_text()
    with db.connect() as conn:
        conn.execute("LOAD 'inventory_ext'")
        settings = conn.execute(
            r"SELECT name, boot_val, coalesce(enumvals, '{}') FROM pg_settings WHERE name LIKE 'inventory\_ext.%'"
        ).fetchall()
    assert len(settings) >= 7
    for name, default, values in settings:
        assert f"## `{name}` " + (f"= `{default}`\n" if default else "(unset)\n") in page
        assert [value for value in values if f"`{value}`" not in page] == []


ROW = re.compile(r"^\| `(\w{5})` \| (?:`(\w{5})`|same) \| \d{3}[^|]*\| `(\w+)` \|", re.MULTILINE)


def documented_errors(page):
    """{(SQLSTATE, SQLSTATE in the postgrest style, reason)} of the table in docs/errors.md."""
    return {(ours, theirs or ours, reason) for ours, theirs, reason in ROW.findall(page)}


# Where a reason is an argument of the call that makes the error: the call, and its SQLSTATE.
REASONS = {
    r'unsuitable\(\s*"(?P<state>\w{5})",\s*"[^"]*",\s*"(\w+)"': None,
    r'words = \["(?P<state>\w{5})", "[^"]*", "(\w+)"\]': None,
    r'unsuitable\(table, \["(?P<state>\w{5})", "[^"]*", "(\w+)"\]': None,
    r'malformed_items\(\s*"[^"]*",\s*"(\w+)"': "22023",
    r'\bwrong\("(\w+)"\)': "22023",
    r'broken(?:_attachment)?\(\s*"(\w+)"': "55000",
    r'=> "(\w+_dropped)"': "55000",
}
# Calls that are written as above, or pass a reason on; any other would be missed.
CALLS = {
    r'unsuitable\(\s*"': r'unsuitable\(\s*"\w{5}",\s*"[^"]*",\s*"\w+"',
    r"malformed_items\(\s*\"": r'malformed_items\(\s*"[^"]*",\s*(?:"\w+"|reason\b)',
    r'\bwrong\("': r'\bwrong\("\w+"\)',
}


def errors_in(files):
    """The same, of the sources.

    Every error is made in core/error, its reason there or where the general ones are called.
    """
    tests = files_of_tests(files)
    code = {name: blank(text, literals=False) for name, text in files.items() if name not in tests}
    found = set()
    errors = "".join(text for name, text in code.items() if name.startswith("core/error/"))
    for function in re.split(r"\bpub fn ", errors):
        states = re.findall(r'\["(\w{5})", "(\w{5})"\]', function)
        plain = re.findall(r'Self::(?:new|with_reason)\(\s*"(\w{5})"', function)
        reasons = re.findall(r'"reason"(?:: |\] = json!\()"(\w+)"', function)
        reasons += re.findall(r'Self::with_reason\(\s*"\w{5}",\s*"[^"]*",\s*"(\w+)"', function)
        found |= {(*pair, reason) for pair in states + [(one, one) for one in plain] for reason in reasons}
    for name, text in code.items():
        for call, written in CALLS.items():
            as_written = len(re.findall(written, text))
            assert len(re.findall(call, text)) == as_written, f"{name}: a call of {call} written in a new way"
        for call, state in REASONS.items():
            for match in re.finditer(call, text):
                sqlstate, reason = state or match["state"], match[match.lastindex]
                found.add((sqlstate, sqlstate, reason))
    return found


def test_every_error_stands_in_the_table_and_no_other():
    files = sources()
    found = errors_in(files)
    assert {sqlstate for sqlstate, _, _ in found} >= {
        "IV001",
        "IV002",
        "IV003",
        "IV005",
        "IV007",
        "22023",
        "22003",
        "54000",
        "55000",
        "42P07",
        "23514",
    }
    assert documented_errors((ROOT / "docs/errors.md").read_text()) == found


def test_an_error_that_is_not_in_the_table_is_noticed():
    files = {"core/error/a.rs": 'pub fn a() { Self::styled(["IV009", "PT418"], m, json!({"reason": "teapot"})) }'}
    assert errors_in(files) == {("IV009", "PT418", "teapot")}
    files["items.rs"] = 'fn b() { wrong("not_tea"); Error::malformed_items("no tea", "no_tea", facts) }'
    files["b.rs"] = 'fn c() { broken("pot_gone", "gone"); match self { Self::Lid => "lid_dropped" } }'
    files["c.rs"] = (
        'fn d() { let words = ["42809", "no cup", "no_cup"]; unsuitable(table, ["42703", "no tin", "no_tin"], h) }'
    )
    assert {reason for _, _, reason in errors_in(files)} == {
        "teapot",
        "not_tea",
        "no_tea",
        "pot_gone",
        "lid_dropped",
        "no_cup",
        "no_tin",
    }
    with pytest.raises(AssertionError):
        errors_in(files | {"items.rs": 'fn b() { wrong("not " + tea) }'})
    assert documented_errors("| `IV009` | `PT418` | 418 | `teapot` | always |\n| `22004` | same | 400 | `x` |") == {
        ("IV009", "PT418", "teapot"),
        ("22004", "22004", "x"),
    }
