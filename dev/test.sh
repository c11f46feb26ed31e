#!/usr/bin/env bash
# dev/test.sh all|SUITE [18|15]: does the set-up that the suites need, then runs them with dev/test.py.
# `all` without a version is everything; with one, only what depends on the server's version. `pytest` is all of tests/
# that pytest runs, the repository's own tests too; check-repo and the folders of tests/ are parts of it.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$ROOT"

suites=$1 pg=${2:-} note=
steps=(venv cargo-pgrx pg18 pgrx-home) versions=("${pg:-18}")
case $suites/$pg in
    all/) suites="lint unit pgrx-test failpoints regress isolation rpc pytest" ;;
    all/18) suites="regress isolation rpc pytest" ;;
    all/15) suites="regress isolation pytest" ;;
esac
[[ " $suites " != *" rpc "* ]] || steps+=(rpc)
[[ ! " $suites " =~ \ (pytest|retries|clients)\  ]] || steps+=(pgbouncer)
[[ ! " $suites " =~ \ (pytest|clients)\  ]] || steps+=(clients)
[[ ! " $suites " =~ \ (pytest|audit)\  ]] || steps+=(chromium)
[[ ! " $suites " =~ \ (pytest|monitoring)\  ]] || steps+=(monitoring)
[[ $1/$pg != all/ && $pg != 15 ]] || steps+=(pg15 pg-cron)
pg_config_of "${versions[0]}" >/dev/null

dev/setup.sh "${steps[@]}"
. dev/env.sh                  # again: the Python packages may not have been there the first time
if [ -x "$(pg_config_of 15)" ]; then
    [ "$1/$pg" != all/ ] || versions+=(15)
else
    reason=$(cat "$LOCAL/pg15.reason" 2>/dev/null || true)
    [ "$pg" != 15 ] || die "PostgreSQL 15 is missing: $reason"
    [ "$1" != all ] || note="PostgreSQL 15: not tested here ($reason)"
fi
for version in "${versions[@]}"; do
    [[ $suites == unit || $suites == pgrx-test ]] || dev/build.sh "$version"
done
# shellcheck disable=SC2086
exec python -m dev.test --note "$note" "${versions[@]/#/--pg=}" $suites
