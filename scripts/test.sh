#!/bin/sh
# Everything that CI checks: sh scripts/test.sh [--quick] [PYTEST ARGUMENT...]
# It takes a quarter of an hour on two cores; --quick leaves out the end-to-end, fault and transcoding tests, and takes 5 minutes.
# Installs what the tests talk to (Debian packages, as root or through sudo) and the venv with the test
# extra, checks style, types and layers, and runs the tests. With CI=true a missing service is a failure,
# otherwise its tests are skipped.
set -eu

cd "$(dirname "$0")/.."
. scripts/packages.sh

if [ "${1:-}" = --quick ]; then
  shift
  set -- tests/unit tests/contract "$@"
  echo "test.sh: style, types, layers, unit and contract tests: some 5 minutes on two cores" >&2
else
  echo "test.sh: everything, a quarter of an hour on two cores; with --quick 5 minutes" >&2
fi
install_packages redis-server dcmtk orthanc orthanc-gdcm libgdcm-tools strace haproxy || {
  [ "${CI:-}" != true ] || exit 1
  echo "test.sh: going on without them; their tests will be skipped" >&2
}
sh scripts/setup.sh test

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports
exec .venv/bin/python -m pytest "$@"
