"""The tests that depend on the server's version: `make test` runs them in full on each PostgreSQL.

The two servers run the same Rust and SQL but for a few lines behind `cfg(feature = "pg15")`. So one of them runs all
tests; on the other, `--cases 3` chooses three of the cases of each test, always the same ones, and all cases of the
files and folders below.
"""

import random
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent

DEPEND_ON_THE_VERSION = {
    "retries/test_session_keys.py": "the memory of a setting, and the stack of its values, are read by version",
    "retries/test_poolers.py": "the same settings, on connections that clients share",
    "stripes/test_totals.py": "the signal handler and the settings of the worker differ",
    "stripes/test_default_settings.py": "transaction_timeout is a setting since 17",
    "stripes/test_lock_table.py": "the functions that hold and pass on locks differ",
    "crashes/test_backend_kills.py": "the worker's signal handler, and the restart after a kill",
    "crashes/test_prepared.py": "locks that outlive their session",
    "copies": "each version brings its own pg_dump, pg_basebackup, pg_upgrade and logical replication",
    "audit/test_schedule.py": "pg_cron is there for 15",
    "attach/test_attach.py": "NOT NULL is a constraint of its own since 18",
    "attach/test_attach_refuses.py": "18 has virtual generated columns",
    "attach/test_dropped_companions.py": "event triggers",
    "ledger/test_ledger_statements.py": "MERGE and RETURNING know more since 17 and 18",
    "stats": "shared memory is a segment since 17, and is reserved at the start of the server before",
    "monitoring": "where statistics are kept depends on the version: 15 needs shared_preload_libraries",
    "rights/test_default_privileges.py": "MAINTAIN is a privilege since 17",
    "rights/test_deferrable_triggers.py": "the role of a deferred trigger is another since 18",
    "rights/test_names_in_owner_code.py": "CREATE INDEX and REINDEX set search_path since 17",
    "rights/test_owner_code.py": "statements that a security-restricted operation refuses",
    "repo/test_docs.py": "the answers in the manual",
    "repo/test_public_api.py": "the install script and what it makes",
}


def depends_on_the_version(item):
    path = item.path.relative_to(TESTS)
    return str(path) in DEPEND_ON_THE_VERSION or path.parts[0] in DEPEND_ON_THE_VERSION


def choose_cases(items, most):
    """Gives (chosen, others): of each parametrized test at most so many cases, the same ones in every run."""
    cases = defaultdict(list)
    for item in items:
        cases[item.path, item.cls, getattr(item, "originalname", item.name)].append(item)
    chosen = set()
    for (path, _, name), found in cases.items():
        if len(found) > most and not depends_on_the_version(found[0]):
            found = random.Random(f"{path.name} {name}").sample(found, most)
        chosen.update(found)
    return [item for item in items if item in chosen], [item for item in items if item not in chosen]
