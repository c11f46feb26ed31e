"""Reads the manual and runs its examples, as a reader would.

Each part that a reader can copy is checked. psql runs each ```sql block in the order of the page; a page is one
session in a fresh database that has the extension. A plain block directly below a ```sql block is the expected output
(as `psql -At` prints it, where … stands for any text) and is compared. A block may fail only if the expected output
has its error. `shell_complaint` checks each line of a ```sh block. CONTRIBUTING.md describes the same convention for
writers.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field

from rust_text import ROOT

MARKER = "--- end of block {}"
ENDED = re.compile(r"^--- end of block \d+\n", re.MULTILINE)


@dataclass
class Example:
    """One block of SQL, and the expected output below it."""

    line: int
    sql: str
    expected: str | None = None

    @property
    def may_fail(self):
        return bool(re.search(r"^(ERROR|FATAL):", self.expected or "", re.MULTILINE))


@dataclass
class Document:
    """The blocks of one page that a reader can copy, with their line numbers."""

    examples: list = field(default_factory=list)
    commands: list = field(default_factory=list)
    complaints: list = field(default_factory=list)


def read(text):
    document, block, language, begin = Document(), None, None, 0
    previous = None  # the SQL block that ended just above, if only blank lines came since
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.match(r"( *)```+ *(\w*) *$", line)
        if block is None and not fence:
            previous = previous if not line.strip() else None
        elif block is None:
            block, language, begin = [], fence[2], number
            if fence[1] and language in ("sql", "sh"):
                document.complaints.append(f"line {number}: an indented block is not run; begin it at the margin")
        elif not fence:
            block.append(line)
        else:
            body, block = "\n".join(block), None
            if language == "sql":
                document.examples.append(Example(begin, body))
                if not re.search(r"(;|(^|\n)\\[^\n]*)\Z", strip_comments(body)):
                    document.complaints.append(f"line {begin}: the SQL ends without a semicolon")
            elif language == "sh":
                document.commands += [(begin + n, c) for n, c in enumerate(body.splitlines(), start=1) if c.strip()]
            elif language in ("", "text") and previous:
                previous.expected = body
            previous = document.examples[-1] if language == "sql" else None
    if block is not None:
        document.complaints.append(f"line {begin}: the block never ends")
    return document


def strip_comments(sql):
    return re.sub(r"\s*--[^\n]*", "", sql).strip()


def complaints_of_sql(document, server, database):
    """Runs all examples in one psql and compares the output; [] when all is as expected."""
    psql = [server.bindir / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database]
    return compare(document.examples, run(document.examples, psql, server.env()))


def run(examples, psql, env):
    script = []
    for number, example in enumerate(examples):
        script += [f"\\set ON_ERROR_STOP {'off' if example.may_fail else 'on'}", example.sql]
        script += ["\\warn " + MARKER.format(number)]  # psql flushes each result, so this comes after them all
    done = subprocess.run(
        psql, input="\n".join(script) + "\n", env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return ENDED.split(done.stdout)


def compare(examples, outputs):
    if len(outputs) != len(examples) + 1:
        failed = examples[len(outputs) - 1]
        return [f"line {failed.line}: the block fails, and the expected output has no error:\n{outputs[-1]}"]
    return [
        f"line {example.line}: expected is\n{example.expected}\nthe output is\n{output}"
        for example, output in zip(examples, outputs)
        if example.expected is not None and not re.fullmatch(pattern(example.expected), tidy(output))
    ]


def tidy(text):
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def pattern(expected):
    return ".*".join(re.escape(part) for part in tidy(expected).split("…"))


def clean_environment():
    """The environment for a `make` inside a test: without the variables of the `make` that runs the test."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PG")}


def quiet(*command):
    return subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)


def shell_complaint(line):
    """The reason why a command of the manual would fail, or None. The check changes nothing."""
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    if not words:
        return None
    match words:
        case ["make", *rest]:
            done = quiet("make", "-n", *rest)
            return done.returncode and done.stderr
        case [".", script]:
            done = quiet("bash", "-c", f". {shlex.quote(script)}")
            return done.returncode and done.stderr
        case ["python", "-m", "pytest", *rest]:
            done = quiet(sys.executable, "-m", "pytest", "--collect-only", "-q", *rest)
            return done.returncode and done.stdout
        case ["python", "-m", "dev.server", *rest]:
            before_command = rest[: rest.index("--")] if "--" in rest else rest
            done = quiet(sys.executable, "-m", "dev.server", *before_command, "--help")
            return done.returncode and done.stderr
        case ["cargo", *rest]:
            known = {("pgrx", "test"), ("pgrx", "run"), ("pgrx", "package"), ("fmt", "--all")}
            return None if tuple(rest[:2]) in known else "not a cargo command that is known to work here"
        case ["git", "clone", url, *_]:
            return None if url.startswith("https://") else "not an address to clone from"
    return "shell_complaint cannot check this command"


def anchors(text):
    """The anchors of a page's headings, as code hosts derive them."""
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page):
    """Links to files and headings of the project that do not exist."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)
    return broken
