"""Reads the Rust sources for the house tests: what is code, what is comment, what ships.

No Rust parser is needed for the walls: `blank` replaces comments and the insides of literals by spaces, so that a
word in what remains is a word of the program, at its line; `shipped` blanks what only test builds compile as well.
Line numbers never change.
"""

import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SRC = ROOT / "src"

# In order: nested comments are handled by hand; a lifetime ('a) must not be read as the start of a character.
TOKEN = re.compile(
    r"""
      (?P<line>//[^\n]*)
    | (?P<block>/\*)
    | (?P<raw>\b(?:b|c)?r(?P<hashes>\#*)"(?s:.*?)"(?P=hashes))
    | (?P<string>(?:\b[bc])?"(?:\\(?s:.)|[^"\\])*")
    | (?P<char>(?:\bb)?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[0-9a-fA-F_]+\}|.)|[^'\\\n])')
    """,
    re.VERBOSE,
)


def sources():
    """Every Rust file of the crate as {name below src: text}."""
    return {str(path.relative_to(SRC)): path.read_text() for path in sorted(SRC.rglob("*.rs"))}


@functools.cache
def blank(text, literals=True):
    """The text with comments, and the insides of literals, as spaces: same length, same lines."""
    done, position = [], 0
    while found := TOKEN.search(text, position):
        done.append(text[position : found.start()])
        end = end_of_block(text, found.start()) if found["block"] else found.end()
        token = text[found.start() : end]
        is_comment = bool(found["line"] or found["block"])
        done.append(spaces(token) if is_comment else quoted(token) if literals else token)
        position = end
    return "".join(done) + text[position:]


def end_of_block(text, start):
    """Rust's block comments nest."""
    depth, position = 0, start
    while mark := re.compile(r"/\*|\*/").search(text, position):
        depth += 1 if mark[0] == "/*" else -1
        position = mark.end()
        if depth == 0:
            return position
    return len(text)


def spaces(token):
    return re.sub(r"[^\n]", " ", token)


def quoted(token):
    """An empty literal of the same length stands where the literal stood."""
    return f'"{spaces(token[1:-1])}"'


TEST_ONLY = re.compile(
    r"""\#\[cfg\(\s*(?:test|feature\s*=\s*"pg_test")\s*\)\]\s*   # compiled by test builds alone
        (?P<attributes>(?:\#\[[^\]]*\]\s*)*)
        (?:pub(?:\([^)]*\))?\s+)?mod\s+(?P<name>\w+)\s*(?P<body>;|\{)""",
    re.VERBOSE,
)


def files_of_tests(files):
    """The files that only test builds compile, as their module declarations say."""
    found = set()
    for name, text in files.items():
        for module in TEST_ONLY.finditer(blank(text, literals=False)):
            if module["body"] == ";":
                path = re.search(r'path\s*=\s*"([^"]+)"', module["attributes"])
                found.add(str(Path(name).parent / (path[1] if path else f"{module['name']}.rs")))
    return found


def shipped(files):
    """{name: code} of what a release build compiles, comments and literals blanked, test modules too."""
    kept = {}
    for name in files.keys() - files_of_tests(files):
        code = blank(files[name])
        # found where literals are still there, cut where they are blank: the two texts have the same length
        for module in TEST_ONLY.finditer(blank(files[name], literals=False)):
            end = module.end() if module["body"] == ";" else end_of_braces(code, module.end() - 1)
            code = code[: module.start()] + spaces(code[module.start() : end]) + code[end:]
        kept[name] = code
    return kept


def end_of_braces(code, start):
    """The position after the brace that closes the one at `start`; literals must be blank."""
    depth = 0
    for position in range(start, len(code)):
        depth += {"{": 1, "}": -1}.get(code[position], 0)
        if depth == 0:
            return position + 1
    return len(code)


def places(code, pattern):
    """Where a pattern stands: [(line number, the words found)]."""
    return [(code.count("\n", 0, m.start()) + 1, m[0].strip()) for m in re.finditer(pattern, code)]
