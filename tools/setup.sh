#!/bin/bash
# Set-up of a development machine: Debian packages (when root) and a virtual environment. Idempotent.
#
#   tools/setup.sh packages [base|bench]    install what tools/apt-packages.txt lists
#   tools/setup.sh venv                     make .venv with voltool and its development tools
#
# PYTHON names the interpreter to use; without it the first working Python 3.11 or later is taken.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted_packages() {
    awk -v kinds=" $* " '!/^#/ && NF && index(kinds, " " $2 " ") { print $1 }' tools/apt-packages.txt
}

missing_packages() {
    local package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || echo "$package"
    done
}

install_packages() {
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        echo "setup: not a Debian system; see tools/apt-packages.txt for what the tests need" >&2
        return
    fi
    local missing
    mapfile -t missing < <(missing_packages $(wanted_packages "$@"))
    if [ ${#missing[@]} -eq 0 ]; then
        return
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: not root, so these packages stay missing (tests that need them are skipped): ${missing[*]}" >&2
        return
    fi
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q || echo "setup: apt-get update failed; going on with the package lists there are" >&2
    apt-get install -q -y --no-install-recommends "${missing[@]}"
}

usable_python() {
    "$1" -c 'import sys, venv, ensurepip, sqlite3, ssl, zlib; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13 python3.14 /usr/bin/python3.11 /usr/bin/python3}; do
        if usable_python "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: no Python 3.11 or later with venv found (tried ${PYTHON:-python3.11, python3, ...})." >&2
    echo "setup: try: apt-get install python3 python3-venv, or: make PYTHON=/path/to/python3.11 ..." >&2
    return 1
}

make_venv() {
    if ! [ -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        local python
        python=$(find_python)
        echo "setup: making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --root-user-action=ignore -e '.[dev]'
}

case "${1:-}" in
    packages) shift; install_packages "${@:-base}" ;;
    venv) make_venv ;;
    *) echo "usage: tools/setup.sh packages [base|bench]... | venv" >&2; exit 2 ;;
esac
