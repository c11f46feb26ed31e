"""The examples of docs/clients.md are excerpts of the programs that the tests of clients run.

An excerpt is what stands between the comments `docs:begin` and `docs:end`.
"""

import re
import textwrap

from rust_text import ROOT

CLIENTS = ROOT / "tests/clients"
LANGUAGES = {".py": "python", ".js": "js", ".rs": "rust", ".java": "java"}
EXCERPT = re.compile(r"^ *(?:#|//) docs:begin\n(.*?)^ *(?:#|//) docs:end$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def excerpts(name, text):
    """(language, text) of each; two blank lines before an end are the formatter's."""
    language = LANGUAGES["." + name.rpartition(".")[2]]
    return [(language, textwrap.dedent(excerpt).strip("\n")) for excerpt in EXCERPT.findall(text)]


def blocks(page):
    return [(language, text.rstrip("\n")) for language, text in BLOCK.findall(page) if language in LANGUAGES.values()]


def programs():
    files = [path for pattern in ("*.*", "tokio/src/*.rs") for path in CLIENTS.glob(pattern)]
    return {path.name: path.read_text() for path in sorted(files) if path.suffix in LANGUAGES}


def test_the_examples_are_what_is_tested():
    examples = blocks((ROOT / "docs/clients.md").read_text())
    tested = [excerpt for name, text in programs().items() for excerpt in excerpts(name, text)]
    assert len(examples) >= 10
    assert [example for example in examples if example not in tested] == []
    assert [excerpt for excerpt in tested if excerpt not in examples] == []


def test_each_client_has_an_example():
    """A mark that is misspelled would leave a program out."""
    clients = [name for name in programs() if name.lower().startswith("with")]
    assert len(clients) >= 9
    assert [name for name in clients if len(excerpts(name, programs()[name])) != 1] == []


def test_an_example_that_differs_is_noticed():
    text = "x = 1\n# docs:begin\ny = 2\n\n\nz = 3\n\n\n# docs:end\n"
    assert excerpts("a.py", text) == [("python", "y = 2\n\n\nz = 3")]
    assert excerpts("A.java", "{\n    // docs:begin\n    int y;\n    // docs:end\n}") == [("java", "int y;")]
    assert blocks("```python\ny = 2\n\n\nz = 3\n```\n\n```sql\nSELECT 1;\n```\n") == [("python", "y = 2\n\n\nz = 3")]
    assert blocks("```python\ny = 3\n```\n") != excerpts("a.py", "# docs:begin\ny = 2\n# docs:end\n")
