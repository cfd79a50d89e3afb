# Read by setup.sh and test.sh: Debian packages, installed only where they are missing.

# install_packages NAME...: install those that are not there, as root or through sudo.
install_packages() {
  missing=""
  for package in "$@"; do
    dpkg-query --show --showformat '${Status}' "$package" 2>/dev/null | grep -q ' installed$' ||
      missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null || {
    echo "no apt-get here; install by other means what these Debian packages hold:$missing" >&2
    return 1
  }
  as_root=""
  if [ "$(id -u)" != 0 ]; then
    as_root=sudo
    command -v sudo >/dev/null || {
      echo "neither root nor sudo; as root, run: apt-get install$missing" >&2
      return 1
    }
  fi
  echo "installing$missing with apt-get" >&2
  keep_services_off
  $as_root apt-get update -qq
  # No service of these packages is wanted, only their programs; standard input stays ours.
  # shellcheck disable=SC2086 # names of packages, one word each
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing \
    </dev/null >/dev/null
  let_services_on
}

# Debian starts what it installs unless this file says no. A machine's own policy stays as it is.
keep_services_off() {
  policy=/usr/sbin/policy-rc.d
  if [ -e "$policy" ]; then
    policy=""
    return
  fi
  trap let_services_on EXIT
  printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
  $as_root chmod 755 "$policy"
}

let_services_on() {
  [ -z "${policy:-}" ] || $as_root rm -f "$policy"
  policy=""
}
