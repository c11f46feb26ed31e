#!/usr/bin/env bash
# dev/build.sh 18|15: builds the extension (release) and installs it into the project's own PostgreSQL of that version.
#   Skipped when neither the sources nor the installed files changed since the last time.
# dev/build.sh /path/to/pg_config: the same for a server of yours, with sudo when its folders are not yours to write.
# Output goes to stderr.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$ROOT"

case $1 in
    */*) pg_config=$1 own=yes ;;
    *) pg_config=$(pg_config_of "$1") own= ;;
esac
major=$("$pg_config" --version 2>/dev/null | sed 's/[^0-9]*\([0-9]*\).*/\1/') || true
[ -n "$major" ] || die "pg_config is missing: $pg_config is not one"
[ -e "$("$pg_config" --includedir-server)/postgres.h" ] ||
    die "the headers of PostgreSQL $major are missing: get them with:" \
        "apt-get install postgresql-server-dev-$major (as root)"
extension_dir=$("$pg_config" --sharedir)/extension
library_dir=$("$pg_config" --pkglibdir)
need_rust

# .local/pgrx/config.toml names PostgreSQL 18 and no other, so that it never changes, which would make cargo build anew.
[ "$1" = 18 ] || export PGRX_PG_CONFIG_PATH=$pg_config

install() {
    cargo pgrx install --release --pg-config "$pg_config" --no-default-features --features "pg$major" "$@" >&2 ||
        die "building for PostgreSQL $major failed: the messages above say why"
}

if [ -n "$own" ]; then
    # a target folder of its own: it reads other headers, and cargo would build everything again and again
    export CARGO_TARGET_DIR=$ROOT/target/install
    say "building inventory_ext for $("$pg_config" --version) and installing it into $extension_dir"
    if [ -w "$extension_dir" ] && [ -w "$library_dir" ]; then install; else install --sudo; fi
    exit
fi

inputs() {                    # a by-hand `cargo pgrx test` may have replaced what is installed: that counts as a change
    find src sql tests/upgrade Cargo.toml Cargo.lock ./*.control .cargo build.rs -type f 2>/dev/null | sort |
        xargs -r sha256sum
    sha256sum "$library_dir"/inventory_ext.so "$extension_dir"/inventory_ext* 2>/dev/null || true
    rustc --version
}
if is_done "build-pg$major" "$(inputs | hash_of)"; then exit; fi

say "building inventory_ext for PostgreSQL $major (the first time takes a few minutes)"
marker=$(mktemp)
trap 'rm -f "$marker"' EXIT
install
cp tests/upgrade/inventory_ext--*.sql "$extension_dir"/    # earlier versions, from which tests update
find "$extension_dir" -name 'inventory_ext*' ! -newer "$marker" -delete    # scripts of a version that is no more
mark_done "build-pg$major" "$(inputs | hash_of)"
