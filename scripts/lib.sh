# What the scripts share: saying what happens, and installing what is missing. Sourced, never run.
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Servers live in sbin, which is not on everybody's path.
export PATH="$PATH:/usr/sbin:/sbin:$PWD/target/tools/bin"

say() { printf '\n== %s\n' "$*" >&2; }

fail() {
  printf '\n!! %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '   %s\n' "$@" >&2
  exit 1
}

# Runs a command as root: as it is, or by sudo.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# install PACKAGE...: Debian packages, or the words that tell how to get them.
install_packages() {
  local how="apt-get install $*"
  command -v apt-get >/dev/null ||
    fail "missing: $*" "These are the names of Debian's packages, and there is no apt-get here." \
      "Install the same programs by your own package manager, then try again."
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    fail "missing: $*" "Installing needs root, and there is no sudo. As root: $how"
  fi
  say "installing from Debian: $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 ||
    { as_root apt-get update -q >/dev/null &&
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null; } ||
    fail "could not install: $*" "Try it by hand to see why: $how"
}

# need THING:PACKAGE...: a command, or with a slash a file, and the Debian package that brings it.
need() {
  local pair thing missing=()
  for pair in "$@"; do
    thing=${pair%%:*}
    case $thing in
      */*) [ -e "$thing" ] || missing+=("${pair#*:}") ;;
      *) command -v "$thing" >/dev/null || missing+=("${pair#*:}") ;;
    esac
  done
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# What building needs: cargo of the version in Cargo.toml or newer, and a C compiler (SQLite, zstd, aws-lc).
need_rust() {
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  command -v cargo >/dev/null ||
    fail "cargo is missing: Sitemon is built with Rust $wanted or newer." \
      "Get it from https://rustup.rs (Debian 12's own is too old), open a new shell, and try again."
  have=$(cargo --version | cut -d' ' -f2)
  [ "$(printf '%s\n' "$wanted" "${have%%-*}" | sort -V | head -1)" = "$wanted" ] ||
    fail "cargo $have is too old: Sitemon is built with Rust $wanted or newer." "With rustup: rustup update stable"
  need cc:gcc /usr/include/stdio.h:libc6-dev
}

# A Python environment of the project's own in target/venv, with the packages of a requirements file.
need_python() {
  local requirements=$1 stamp
  stamp=target/venv/.$(basename "$requirements").$(cksum <"$requirements" | cut -d' ' -f1)
  [ ! -e "$stamp" ] || return 0
  need python3:python3
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 is too old: the tests need 3.11 or newer."
  python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
  say "installing into target/venv: the Python packages of $requirements"
  [ -e target/venv/bin/pip ] || python3 -m venv target/venv
  target/venv/bin/pip install -q --disable-pip-version-check -r "$requirements" || return 1
  touch "$stamp"
}

# What is measured and what the tests from outside run is what users run: the release build.
build_release() {
  need_rust
  say "building the release (some minutes the first time, nothing afterwards)"
  cargo build --release --locked "$@"
}
