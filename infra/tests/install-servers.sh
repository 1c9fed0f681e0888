#!/bin/sh
# Tests of install-servers.sh, with substitutes for apt-get, docker and systemctl and a folder for the system.
set -eu

script=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)/install-servers.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# A machine with nothing but the tools that the script uses.
new_machine() {
    rm -rf "${work:?}/m"
    mkdir -p "$work/m/tools" "$work/m/root/usr/sbin" "$work/m/root/usr/bin"
    for tool in sh sed head grep rm mv rmdir mkdir chmod printf dirname id cat; do
        ln -s "$(command -v "$tool")" "$work/m/tools/$tool"
    done
}

# substitute NAME SCRIPT: a program on the path; it also writes down its call
substitute() {
    printf '#!/bin/sh\necho "%s $*" >>"%s/m/calls"\n%s\n' "$1" "$work" "$2" >"$work/m/tools/$1"
    chmod +x "$work/m/tools/$1"
}

# server PATH TEXT: a server binary that gives this version
server() {
    mkdir -p "$work/m/root${1%/*}"
    printf '#!/bin/sh\necho "%s"\n' "$2" >"$work/m/root$1"
    chmod +x "$work/m/root$1"
}

# What a Debian with apt-get does, and what it finds in place while it does it.
debian() {
    substitute apt-get "
case \"\$*\" in *' install '*)
    cp=\"\$(cat '$work/m/root/usr/sbin/policy-rc.d')\"
    case \"\$cp\" in *'exit 101'*) echo held-back >>'$work/m/calls' ;; esac
    grep -h create_main_cluster '$work/m/root/etc/postgresql-common/createcluster.d/nightshift.conf' >>'$work/m/calls'
    ${1:-}
    mkdir -p '$work/m/root/usr/lib/postgresql/15/bin'
    printf '#!/bin/sh\necho \"postgres (PostgreSQL) 15.1\"\n' >'$work/m/root/usr/lib/postgresql/15/bin/postgres'
    printf '#!/bin/sh\necho \"Redis server v=7.0.15 sha=0\"\n' >'$work/m/root/usr/bin/redis-server'
    chmod +x '$work/m/root/usr/lib/postgresql/15/bin/postgres' '$work/m/root/usr/bin/redis-server' ;;
esac"
}

# run UID: status in $status, what it said in $said, calls of substitutes in $calls
run() {
    status=0
    : >"$work/m/calls"
    said=$(PATH=$work/m/tools INSTALL_ROOT=$work/m/root INSTALL_UID=$1 sh "$script" 2>&1) || status=$?
    calls=$(cat "$work/m/calls")
}

# check WHAT CONDITION...: the condition as a command
check() {
    what=$1
    shift
    if ! "$@"; then
        echo "FAILED: $what" >&2
        printf 'status %s\nsaid: %s\ncalls: %s\n' "$status" "$said" "$calls" >&2
        failures=$((failures + 1))
    fi
}

contains() {
    case "$1" in *"$2"*) return 0 ;; *) return 1 ;; esac
}

lacks() {
    ! contains "$1" "$2"
}

new_machine
debian
server /usr/lib/postgresql/13/bin/postgres 'postgres (PostgreSQL) 13.18 (Debian 13.18-0+deb11u1)'
server /usr/bin/redis-server 'Redis server v=6.0.16 sha=0'
run 0
check 'nothing happens where both are there' [ "$status:$said:$calls" = '0::' ]

new_machine
debian
substitute systemctl ''
run 0
check 'root installs both' [ "$status" = 0 ]
check 'lists are updated first' contains "$calls" 'update -q
apt-get'
check 'without recommendations' contains "$calls" 'install -q -y --no-install-recommends postgresql redis-server'
check 'no service starts meanwhile' contains "$calls" held-back
check 'no cluster is made' contains "$calls" 'create_main_cluster = false'
check 'Redis does not start with the machine' contains "$calls" 'systemctl disable redis-server.service'
check 'no policy is left' [ ! -e "$work/m/root/usr/sbin/policy-rc.d" ]
check 'no setting is left' [ ! -e "$work/m/root/etc/postgresql-common" ]

new_machine
debian
server /usr/lib/postgresql/11/bin/postgres 'postgres (PostgreSQL) 11.2'
server /usr/bin/redis-server 'Redis server v=7.2.4 sha=0'
substitute systemctl ''
run 0
check 'only what is missing or too old is installed' contains "$calls" '--no-install-recommends postgresql'
check 'a Redis that was there is left alone' lacks "$calls" redis-server

new_machine
debian
echo 'somebody cares' >"$work/m/root/usr/sbin/real-policy"
ln -s real-policy "$work/m/root/usr/sbin/policy-rc.d"
mkdir -p "$work/m/root/etc/postgresql-common/createcluster.d"
echo 'ssl = off' >"$work/m/root/etc/postgresql-common/createcluster.d/own.conf"
run 0
check 'a policy that was there comes back' [ "$(readlink "$work/m/root/usr/sbin/policy-rc.d")" = real-policy ]
check 'with its content' [ "$(cat "$work/m/root/usr/sbin/policy-rc.d")" = 'somebody cares' ]
check 'settings of others stay' [ "$(ls "$work/m/root/etc/postgresql-common/createcluster.d")" = own.conf ]

new_machine
debian 'exit 100'
echo 'somebody cares' >"$work/m/root/usr/sbin/policy-rc.d"
run 0
check 'a failed installation fails' [ "$status" != 0 ]
check 'and restores the policy' [ "$(cat "$work/m/root/usr/sbin/policy-rc.d")" = 'somebody cares' ]

new_machine
debian 'kill -9 $PPID; exit 1'
echo 'somebody cares' >"$work/m/root/usr/sbin/policy-rc.d"
run 0
check 'a killed installation leaves its policy' contains "$(cat "$work/m/root/usr/sbin/policy-rc.d")" nightshift
debian
run 0
check 'the next one restores what the killed one had put away' \
    [ "$(cat "$work/m/root/usr/sbin/policy-rc.d")" = 'somebody cares' ]

new_machine
debian
run 1000
check 'a plain user is told the command' contains "$said" "sudo sh '$script'"
check 'and nothing is installed' [ "$status:$calls" = '1:' ]

new_machine
substitute docker 'exit 0'
run 1000
check 'a plain user with Docker needs nothing' [ "$status" = 0 ]

new_machine
substitute docker '[ "$1" = version ]'
run 1000
check 'Docker without compose is not enough' [ "$status" = 1 ]

new_machine
run 0
check 'a machine without apt-get is told so' contains "$status:$said" 'no apt-get'

[ "$failures" = 0 ] || exit 1
echo 'install-servers: all tests passed'
