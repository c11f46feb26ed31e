"""Runs the test suites and counts: `python -m dev.test [--pg 18] [--pg 15] SUITE…`. The Makefile does the set-up first.

Suites of behaviour run a second time with inventory_ext.write_path = sql, where the extension writes by statements:
pytest with fewer cases, and on the first server alone.

Each suite prints a line when it starts and one when it ends. The last line is `N passed, N failed`, and the exit status
is 1 when anything failed; the failed suites are named, and the slowest tests before them. A suite that depends on the
server runs once for each --pg; on all but the first, pytest runs fewer cases of each test.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from dev.server import TREES, Server, keep_servers_in_memory, other_user

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".local" / "results"
WORKERS = min(2 * (os.cpu_count() or 1), 8)  # tests wait for locks and workers half of their time
FEATURES = ["--no-default-features", "--features", "pg18 pg_test"]
PG_TESTS = "::pg_"  # in the name of every #[pg_test], and of no other test
CASES = "3"  # of a parametrized test, on the second server of a run: tests/support/versions.py
SLOWEST = 10  # tests that are listed at the end
ISOLATION_SECONDS = 30  # after these a step that still waits is cancelled; isolationtester's own limit is 360

# The suite `pytest` is all of these folders and tests/repo in one run; each is also a suite of its own.
SUBJECTS = (
    "attach", "tenants", "upgrade", "sales", "input", "ledger", "stripes", "retries", "rights", "crashes", "copies",
    "models", "clients", "audit", "stats", "monitoring",
)  # fmt: skip


# The output of each runner, line by line: (passed, failed) of one line, and (seconds, test) where it names a duration.


def cargo_counts(line):
    found = re.match(r"test result: .*?(\d+) passed; (\d+) failed", line)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def pytest_counts(line):
    if not re.match(r"=+ .* in [\d.]+s", line):
        return 0, 0
    numbers = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", line)}
    return numbers.get("passed", 0), numbers.get("failed", 0) + numbers.get("error", 0)


def regress_counts(line):
    """pg_regress says `ok 1 - name 5 ms` since PostgreSQL 16, `test name ... ok 5 ms` before."""
    passed = re.match(r"ok \d|test \S+ +\.\.\. ok\b", line)
    failed = re.match(r"not ok \d|test \S+ +\.\.\. FAILED", line)
    return bool(passed), bool(failed)


def node_counts(line):
    found = re.match(r"\S+ (pass|fail) (\d+)$", line)
    return (int(found[2]) * (found[1] == "pass"), int(found[2]) * (found[1] == "fail")) if found else (0, 0)


def duration(line):
    """Of pytest's `1.23s call     tests/…` and pg_regress's `ok 1 - name 5 ms`; node's are of groups of tests, too."""
    if found := re.match(r"([\d.]+)s (?:call|setup|teardown) +(\S.*)", line):
        return float(found[1]), found[2]
    if found := re.match(r"(?:not )?ok \d+ +[-+] (\S+) +(\d+) ms", line):
        return int(found[2]) / 1000, found[1]
    if found := re.match(r"test (\S+) +\.\.\. \w+ +(\d+) ms", line):
        return int(found[2]) / 1000, found[1]
    return None


# What depends on how rows are written; folders of the suite pytest.
WRITTEN = ("sales", "ledger", "stripes", "retries", "crashes", "copies", "models", "rights")
BY_STATEMENTS = {"WRITE_PATH": "sql"}
# Divides only items whose rows are not written by statements; a test of its own says so.
NOT_BY_STATEMENTS = "tests/stripes/test_auto_stripe.py"


class Suite:
    """One run of one suite: runs commands, shows their output as it comes, counts the tests in it."""

    def __init__(self, pg, first=True, path="auto"):
        self.pg = pg
        self.path = path  # inventory_ext.write_path
        self.first = first  # of the servers of this run
        self.passed = self.failed = 0
        self.durations = []

    def run(self, *command, counts=None, env=None):
        """Answers whether the command succeeded. Without `counts` the command itself counts as one test."""
        command = [str(word) for word in command]
        failed_before = self.failed
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            for line in process.stdout:
                text = line.decode(errors="replace")
                sys.stdout.write(text)
                passed, failed = counts(text) if counts else (0, 0)
                self.passed += passed
                self.failed += failed
                if timed := duration(text):
                    self.durations.append(timed)
            succeeded = process.wait() == 0
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if not succeeded and self.failed == failed_before:
            self.failed += 1  # it failed without counting it
            print(f"failed: {' '.join(command)}")
        if not counts:
            self.passed += succeeded
        return succeeded


def lint(suite):
    suite.run("cargo", "fmt", "--all", "--", "--check")
    suite.run("cargo", "clippy", "--all-targets", *FEATURES, "--", "-D", "warnings")
    suite.run("rustfmt", "--check", "--edition", "2024", "tests/clients/tokio/src/main.rs")
    suite.run("ruff", "check", "bench", "dev", "demo", "tests")
    for script in ("dev/env.sh", "dev/setup.sh", "dev/build.sh", "dev/test.sh", ".ci/run"):
        suite.run("bash", "-n", script)
    # pgspot reads what CREATE EXTENSION reads: the script that pgrx generated from src and sql
    sharedir = subprocess.check_output([Server(pg="18").bindir / "pg_config", "--sharedir"], text=True).strip()
    suite.run("pgspot", *sorted(Path(sharedir).glob("extension/inventory_ext--*.sql")))


def unit(suite):
    suite.run("cargo", "test", "--lib", *FEATURES, "--", "--skip", PG_TESTS, counts=cargo_counts)


# Stands in for sudo, which cargo-pgrx calls to become another user: root needs no sudo for that.
SUDO = """#!/bin/sh
[ "$1" = -u ] || exec "$@"
user=$2
shift 2
exec setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups env "$@"
"""


def pgrx_test(suite):
    """`cargo pgrx test` on a copy of the PostgreSQL tree: it installs a debug build, which the others must not test."""
    # Built first with the usual PGRX_HOME: what is built with the one below, cargo would build anew each time.
    for build in (["build", "--lib"], ["test", "--no-run"]):
        if not suite.run("cargo", *build, *FEATURES, counts=lambda _: (0, 0)):
            return
    with tempfile.TemporaryDirectory(prefix="inventory_ext-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        pgdata = folder / "pgdata"
        folder.chmod(0o755)
        pgdata.mkdir()
        shutil.copytree(ROOT / ".local/pg18", folder / "pg18", symlinks=True)
        pg_config = folder / "pg18" / TREES["18"] / "bin/pg_config"
        (folder / "config.toml").write_text(f'[configs]\npg18 = "{pg_config}"\n')
        env = os.environ | {"PGRX_HOME": name}
        command = ["cargo", "pgrx", "test", *FEATURES, "--pgdata", pgdata]
        if os.geteuid() == 0:
            user = other_user()
            os.chown(pgdata, user.pw_uid, user.pw_gid)
            (folder / "sudo").write_text(SUDO)
            (folder / "sudo").chmod(0o755)
            env["PATH"] = f"{name}:{env['PATH']}"
            command += ["--runas", user.pw_name]
        try:
            suite.run(*command, "pg18", PG_TESTS, counts=cargo_counts, env=env)
        finally:
            for pidfile in pgdata.glob("*/postmaster.pid"):  # of a server that a crashed test run left behind
                os.kill(int(pidfile.read_text().split()[0]), signal.SIGQUIT)
            packaged = Path(env.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/inventory_ext-pg18"
            shutil.rmtree(packaged / folder.relative_to("/"), ignore_errors=True)  # as root, cargo-pgrx keeps a copy


def step_limit(seconds):
    """The environment in which isolationtester cancels a step that has waited so long, and gives up after twice that.

    PostgreSQL 16 renamed the variable and doubles its value.
    """
    return {"PGISOLATIONTIMEOUT": str(seconds), "PG_TEST_TIMEOUT_DEFAULT": str(seconds // 2)}


def run_pg_regress(suite, program, kind, suffix):
    tests = sorted(path.stem for path in (ROOT / "tests" / kind).glob(f"s*/*{suffix}"))
    output = RESULTS / f"{kind}-{suite.pg}"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    with Server(pg=suite.pg) as server:
        where = ["--host", server.host, "--port", server.port, "--user", "postgres", "--dbname", f"{kind}_tests"]
        where += ["--bindir", server.bindir, "--inputdir", f"tests/{kind}", "--outputdir", output]
        where += ["--load-extension", "inventory_ext"]
        program = server.libdir / "pgxs/src/test" / program
        env = server.env() | step_limit(ISOLATION_SECONDS)
        suite.run(program, *where, *tests, counts=regress_counts, env=env)
    differences = output / "regression.diffs"
    if differences.exists():
        print(differences.read_text(errors="replace"))


def regress(suite):
    run_pg_regress(suite, "regress/pg_regress", "regress", ".sql")


def isolation(suite):
    run_pg_regress(suite, "isolation/pg_isolation_regress", "isolation", ".spec")


def run_pytest(suite, *folders, workers=WORKERS):
    """Each worker has a server of its own."""
    spread = ["-n", workers, "--dist", "worksteal"] if workers > 1 else []
    cases = CASES if suite.path == "auto" else "1"
    chosen = [] if suite.first and suite.path == "auto" else ["--cases", cases]
    chosen += [f"--ignore={NOT_BY_STATEMENTS}"] if suite.path == "sql" else []
    options = [f"--durations={SLOWEST}", "--durations-min=0.5", *chosen]
    command = [sys.executable, "-m", "pytest", *spread, *options, *(f"tests/{folder}" for folder in folders)]
    suite.run(*command, counts=pytest_counts, env=os.environ | {"PG": suite.pg})


def pytest_folder(folder):
    return lambda suite: run_pytest(suite, folder)


def all_of_pytest(suite):
    run_pytest(suite, *((*SUBJECTS, "repo") if suite.path == "auto" else WRITTEN))


def failpoints(suite):
    """On a build that can be stopped between two statements, in a copy of the PostgreSQL tree: no release has that."""
    tree, package = ROOT / ".local/pg18-failpoints", ROOT / "target/failpoints"
    pg_config = ROOT / ".local/pg18" / TREES["18"] / "bin/pg_config"
    if suite.path != "auto":  # the build is there
        run_pytest(suite, "failpoints", workers=1)
        return
    shutil.rmtree(package, ignore_errors=True)
    build = [
        "cargo",
        "pgrx",
        "package",
        "--pg-config",
        pg_config,
        "--no-default-features",
        "--features",
        "pg18 failpoints",
    ]
    if not suite.run(*build, "--out-dir", package, counts=lambda _: (0, 0)):
        return
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT / ".local/pg18", tree, symlinks=True)
    shutil.copytree(package / pg_config.parents[1].relative_to("/"), tree / TREES["18"], dirs_exist_ok=True)
    run_pytest(suite, "failpoints", workers=1)


def rpc(suite):
    tests = sorted((ROOT / "tests/rpc").glob("*.test.js"))
    with Server(pg="18") as server:
        suite.run("node", "--test", "--test-reporter=spec", *tests, counts=node_counts, env=server.env())


ONCE = {"lint": lint, "unit": unit, "pgrx-test": pgrx_test, "failpoints": failpoints, "rpc": rpc}
FOR_EACH_SERVER = {
    "regress": regress,
    "isolation": isolation,
    "pytest": all_of_pytest,
    "check-repo": pytest_folder("repo"),
    **{subject: pytest_folder(subject) for subject in SUBJECTS},
}


# Run once more, by statements.
ON_BOTH_PATHS = ("regress", "isolation", "rpc", "failpoints", "pytest", *WRITTEN)


def run_suite(name, function, pg, first=True, path="auto"):
    title = f"{name}, PostgreSQL {pg}" if name in FOR_EACH_SERVER else name
    title += ", write_path = sql" if path == "sql" else ""
    print(f"==> {title}")
    suite, begin = Suite(pg, first, path), time.monotonic()
    os.environ.pop("WRITE_PATH", None)
    os.environ |= BY_STATEMENTS if path == "sql" else {}
    try:
        function(suite)
    except Exception:
        traceback.print_exc()
        suite.failed += 1
    print(f"==> {title}: {suite.passed} passed, {suite.failed} failed, {time.monotonic() - begin:.0f} s")
    return title, suite


def show_slowest(runs):
    timed = sorted(((*timed, title) for title, suite in runs for timed in suite.durations), reverse=True)
    if timed:
        print(f"==> the {SLOWEST} slowest tests:")
    for seconds, test, title in timed[:SLOWEST]:
        print(f"{seconds:7.1f} s  {test} ({title})")


def main():
    parser = argparse.ArgumentParser(prog="python -m dev.test", description="Runs test suites")
    parser.add_argument("--pg", action="append", choices=sorted(TREES), help="PostgreSQL version (18); may be repeated")
    parser.add_argument("--note", help="a line to show before the last one")
    parser.add_argument("suites", nargs="+", metavar="SUITE", help=", ".join(ONCE | FOR_EACH_SERVER))
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    keep_servers_in_memory()
    runs = []
    for name in args.suites:
        for number, pg in enumerate(args.pg or ["18"]):
            if name in FOR_EACH_SERVER:
                runs.append(run_suite(name, FOR_EACH_SERVER[name], pg, first=number == 0))
        if name in ONCE:
            runs.append(run_suite(name, ONCE[name], "18"))
        if name in ON_BOTH_PATHS:
            function, pg = (FOR_EACH_SERVER | ONCE)[name], (args.pg or ["18"])[0] if name in FOR_EACH_SERVER else "18"
            runs.append(run_suite(name, function, pg, path="sql"))
    show_slowest(runs)
    failed = [title for title, suite in runs if suite.failed or not suite.passed]
    if failed:
        print(f"failed: {'; '.join(failed)}")
    if args.note:
        print(args.note)
    print(f"{sum(suite.passed for _, suite in runs)} passed, {sum(suite.failed for _, suite in runs)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
