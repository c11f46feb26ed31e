"""Reads the manual and runs what stands in it, as a reader would.

What a reader can copy is checked: each ```sql block is run by psql, in the order of the page, a page being one session in a
fresh database that has the extension. A plain block directly below it shows what psql answers (as `psql -At` prints it,
where … stands for anything) and is compared; a block may fail only if the answer shows its error. Each line of a ```sh
block is looked at by `shell_complaint`. CONTRIBUTING.md tells writers the same.
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
    """One block of SQL, and the answer that is shown below it."""

    line: int
    sql: str
    answer: str | None = None

    @property
    def may_fail(self):
        return bool(re.search(r"^(ERROR|FATAL):", self.answer or "", re.MULTILINE))


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
                previous.answer = body
            previous = document.examples[-1] if language == "sql" else None
    if block is not None:
        document.complaints.append(f"line {begin}: the block never ends")
    return document


def strip_comments(sql):
    return re.sub(r"\s*--[^\n]*", "", sql).strip()


def complaints_of_sql(document, server, database):
    """Runs all examples in one psql and compares what it answered; [] when all is as shown."""
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
        return [f"line {failed.line}: the block fails, and no error is shown below it:\n{outputs[-1]}"]
    return [
        f"line {example.line}: shown is\n{example.answer}\nanswered is\n{output}"
        for example, output in zip(examples, outputs)
        if example.answer is not None and not re.fullmatch(pattern(example.answer), tidy(output))
    ]


def tidy(text):
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def pattern(answer):
    return ".*".join(re.escape(part) for part in tidy(answer).split("…"))


def clean_environment():
    """For a `make` inside a test that a `make` runs: it must not inherit that one's variables."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PG")}


def quiet(*command):
    return subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)


def shell_complaint(line):
    """Why a command of the manual would not work; None when it would. Nothing is changed by looking."""
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
    return "no way is known to check this command: see shell_complaint"


def anchors(text):
    """The anchors that a page's headings make, as code hosts do."""
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page):
    """Links to files and headings of the project that are not there."""
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
