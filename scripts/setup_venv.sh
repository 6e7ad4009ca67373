#!/bin/sh
# Make $VENV (default .venv) and install torch_semimarkov there, editable.
# Usage: scripts/setup_venv.sh demo|dev     PYTHON=python3.12 picks the interpreter.
# Does nothing when the environment is newer than pyproject.toml and constraints.txt.
set -eu
cd "$(dirname "$0")/.."

kind=${1:-dev}
venv=${VENV:-.venv}
case $kind in
    demo) extras=plots,ecg ;;
    dev) extras=dev ;;
    *) echo "setup_venv.sh: expected demo or dev, got $kind" >&2; exit 2 ;;
esac

fail() { echo "set-up: $*" >&2; exit 1; }

recent_enough() {
    command -v "$1" >/dev/null 2>&1 &&
        "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# Prints the first interpreter that can make an environment, or else the first recent one.
find_python() {
    first=
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
        recent_enough "$name" || continue
        can_make_venv "$name" && { echo "$name"; return; }
        first=${first:-$name}
    done
    echo "$first"
}

# Debian and Ubuntu ship the venv module's ensurepip in a package of its own.
apt_install() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        return 1
    fi
    echo "set-up: apt-get install $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q "$@" >/dev/null 2>&1 ||
        { apt-get update -q >/dev/null && apt-get install -y -q "$@" >/dev/null; }
}

# Scripts of an environment hold its path, so one of ours that was moved is made again.
usable() {
    [ -x "$venv/bin/python" ] && recent_enough "$venv/bin/python" || return 1
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || return 1
    [ ! -e "$venv/.made-in" ] || [ "$(cat "$venv/.made-in")" = "$(pwd)" ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version "$venv/bin/python")" ]
}

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

make_venv() {
    python=$(find_python)
    if [ -z "$python" ]; then
        [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python 3.10 or newer"
        apt_install python3 python3-venv ||
            fail "no Python 3.10 or newer; on Debian or Ubuntu: sudo apt-get install python3 python3-venv"
        python=$(find_python)
        [ -n "$python" ] || fail "the Python of this system is older than 3.10; set PYTHON=path of a newer one"
    fi
    if ! can_make_venv "$python"; then
        package=python$(version "$python")-venv
        apt_install "$package" ||
            fail "$python cannot make an environment; on Debian or Ubuntu: sudo apt-get install $package"
    fi
    if [ -e "$venv" ] && [ ! -e "$venv/.made-in" ]; then
        fail "$venv is there and not usable; remove it or set VENV=another path"
    fi
    echo "set-up: making $venv with $python ($(version "$python"))"
    mkdir -p "$venv"
    pwd >"$venv/.made-in"
    "$python" -m venv --clear "$venv"
    pwd >"$venv/.made-in"
}

fresh() {
    [ -e "$1" ] && [ -z "$(find pyproject.toml constraints.txt -newer "$1")" ]
}

usable || make_venv
# dev holds everything that demo needs
if fresh "$venv/.installed-$kind" || fresh "$venv/.installed-dev"; then
    exit 0
fi
echo "set-up: installing torch_semimarkov[$extras] (the first time takes some minutes)"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$extras]"
touch "$venv/.installed-$kind"
