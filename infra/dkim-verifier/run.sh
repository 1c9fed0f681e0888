#!/bin/sh
# Asks dkimpy, which shares no code with ours, what it thinks of signatures (verify.py says how). Installs it into
# .nightshift/dkim-verifier when it is not there yet.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=$here/../../.nightshift/dkim-verifier

fail() {
    echo "error: $1" >&2
    exit 1
}

if ! cmp -s "$here/requirements.txt" "$tools/installed.txt"; then
    mkdir -p "$tools"
    # Tests run side by side, and one of them installs.
    exec 9>"$tools/lock"
    flock 9
    if ! cmp -s "$here/requirements.txt" "$tools/installed.txt"; then
        if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
            [ "$(id -u)" = 0 ] || fail "Python's venv is missing; on Debian: sudo apt-get install python3-venv"
            { apt-get update -q && apt-get install -qy python3-venv; } >&2 || fail "python3-venv cannot be installed"
        fi
        python3 -m venv "$tools/venv" >&2
        "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt" >&2
        cp "$here/requirements.txt" "$tools/installed.txt"
    fi
    exec 9>&-
fi
exec "$tools/venv/bin/python" "$here/verify.py"
