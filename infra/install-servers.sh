#!/bin/sh
# Makes sure that server binaries of Postgres (13 or later) and Redis (6 or later) are on this machine.
#
# Where they are, it does nothing. As root on Debian it installs what is missing, and leaves no server running on the
# standard ports, now or after a reboot; servers that run already go on. Everybody else is told the command, unless Docker
# works here. INSTALL_ROOT is put before the system paths that are read or written; tests use it.
set -eu

root=${INSTALL_ROOT:-}
policy=$root/usr/sbin/policy-rc.d
saved=$policy.nightshift-saved
cluster=$root/etc/postgresql-common/createcluster.d/nightshift.conf
mark='# nightshift: no service is started while its servers are installed'

say() {
    echo "install-servers: $*" >&2
}

# major PROGRAM: major version that a server binary gives, 0 when it does not run
major() {
    number=$("$1" --version 2>/dev/null | sed -n 's/^[^0-9]*\([0-9][0-9]*\).*/\1/p' | head -n 1)
    echo "${number:-0}"
}

have_postgres() {
    found=$(command -v postgres || true)
    for program in ${found:+"$found"} "$root"/usr/lib/postgresql/*/bin/postgres; do
        if [ -x "$program" ] && [ "$(major "$program")" -ge 13 ]; then
            return 0
        fi
    done
    return 1
}

have_redis() {
    for name in redis-server valkey-server; do
        for program in "$(command -v "$name" || true)" "$root/usr/bin/$name"; do
            if [ -n "$program" ] && [ -x "$program" ] && [ "$(major "$program")" -ge 6 ]; then
                return 0
            fi
        done
    done
    return 1
}

docker_works() {
    command -v docker >/dev/null 2>&1 &&
        docker version --format '{{.Server.Version}}' >/dev/null 2>&1 &&
        docker compose version >/dev/null 2>&1
}

# Puts everything back as it was; also what a killed predecessor left behind.
restore() {
    if [ -e "$policy" ] && grep -qF "$mark" "$policy"; then
        rm -f "$policy"
    fi
    if [ -e "$saved" ] || [ -L "$saved" ]; then
        mv -f "$saved" "$policy"
    fi
    if [ -e "$cluster" ] && grep -qF "$mark" "$cluster"; then
        rm -f "$cluster"
        # The folders belong to a package that reads them, if it is there by now.
        if [ ! -e "${cluster%/*/*}/createcluster.conf" ]; then
            rmdir "${cluster%/*}" "${cluster%/*/*}" 2>/dev/null || true
        fi
    fi
}

# Keeps packages from starting what they install, and Postgres from making a cluster that would start with the machine.
hold_back() {
    restore
    if [ -e "$policy" ] || [ -L "$policy" ]; then
        mv "$policy" "$saved"
    fi
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
    mkdir -p "${cluster%/*}"
    printf '%s\ncreate_main_cluster = false\n' "$mark" >"$cluster"
}

install_packages() {
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    lock='-o DPkg::Lock::Timeout=300'
    # An unreachable extra source must not stand in the way of the packages that are reachable.
    # shellcheck disable=SC2086
    apt-get $lock update -q || say 'apt-get update had errors; going on with the lists there are'
    trap 'restore' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    hold_back
    # shellcheck disable=SC2086
    apt-get $lock install -q -y --no-install-recommends "$@" </dev/null
    for package in "$@"; do
        # Its unit would start with the machine. It was not here before, so nobody relies on that.
        if [ "$package" = redis-server ] && command -v systemctl >/dev/null 2>&1; then
            systemctl disable redis-server.service >/dev/null 2>&1 || true
        fi
    done
}

missing=
have_postgres || missing='postgresql'
have_redis || missing="${missing:+$missing }redis-server"
if [ -z "$missing" ]; then
    exit 0
fi

if [ "${INSTALL_UID:-$(id -u)}" != 0 ]; then
    if docker_works; then
        say "not installed: $missing; Docker works and is used instead"
        exit 0
    fi
    here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
    quoted=$(printf '%s' "$here/install-servers.sh" | sed "s/'/'\\\\''/g")
    say "not installed: $missing; please run:"
    echo "sudo sh '$quoted'" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
    say "not installed: $missing; this machine has no apt-get, please install them with its own package manager"
    exit 1
fi

say "installing $missing"
# shellcheck disable=SC2086
install_packages $missing
if ! have_postgres || ! have_redis; then
    say 'the packages are installed, and still a server is missing or too old (Postgres 13, Redis 6 are needed)'
    exit 1
fi
