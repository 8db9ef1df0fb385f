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

# Whether this user can be root.
may_install() { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }

# What rustup is fetched with.
for_rustup=(curl:curl /etc/ssl/certs/ca-certificates.crt:ca-certificates)

# install_packages PACKAGE...: Debian packages, or the words that tell how to get them.
install_packages() {
  local how="apt-get install $*"
  command -v apt-get >/dev/null ||
    fail "missing: $*" "These are the names of Debian's packages, and there is no apt-get here." \
      "Install the same programs by your own package manager, then try again."
  if ! may_install; then
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

# What building needs: cargo of the version in Cargo.toml or newer, a C compiler (SQLite, zstd, aws-lc), and what
# librdkafka's own build needs beside it: a C++ compiler, make, and OpenSSL's headers, which pkg-config finds.
need_rust() {
  local wanted
  local wants=(cc:gcc /usr/include/stdio.h:libc6-dev c++:g++ make:make pkg-config:pkg-config /usr/include/openssl/ssl.h:libssl-dev)
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  # Where rustup puts it; a shell that was open before does not know yet.
  PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
  # Without root it comes by rustup. All that is missing is told at once.
  rust_fits "$wanted" || may_install || wants+=("${for_rustup[@]}")
  need "${wants[@]}"
  rust_fits "$wanted" || install_rust "$wanted"
}

# at_least WANTED HAVE: whether a version, which may be empty, is new enough.
at_least() { [ -n "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort -V | head -1)" = "$1" ]; }

# Whether cargo is there and new enough: by itself, or as the toolchain that was installed for this project.
rust_fits() {
  local have
  have=$(cargo --version 2>/dev/null | cut -d' ' -f2)
  ! at_least "$1" "${have%%-*}" || return 0
  [ -z "${RUSTUP_TOOLCHAIN:-}" ] && command -v rustup >/dev/null || return 1
  have=$(rustup toolchain list 2>/dev/null | grep -oE "^$1(\.[0-9]+)?-[^ ]*" | head -1)
  [ -n "$have" ] || return 1
  export RUSTUP_TOOLCHAIN=$have
}

# Rust from Debian where it has one that is new enough and none that it would replace, else by rustup, which needs no
# root and leaves the toolchain that is the user's default as it is.
install_rust() {
  local wanted=$1 candidate how
  how="Get it from https://rustup.rs, open a new shell, and try again."
  if command -v rustup >/dev/null; then
    say "installing by rustup: Rust $wanted (your default toolchain stays as it is)"
    rustup toolchain install "$wanted" --profile minimal --component clippy --component rustfmt --no-self-update >&2 ||
      fail "could not install Rust $wanted" "Try it by hand to see why: rustup toolchain install $wanted"
  elif candidate=$(rust_of_debian "$wanted"); then
    # shellcheck disable=SC2086 # a list of packages
    install_packages $candidate
  else
    need "${for_rustup[@]}"
    say "installing by https://rustup.rs into ${RUSTUP_HOME:-~/.rustup} and ${CARGO_HOME:-~/.cargo}: Rust $wanted"
    rust_by_rustup "$wanted" ||
      fail "could not install Rust $wanted, which Sitemon is built with." "$how"
  fi
  rust_fits "$wanted" ||
    fail "$(cargo --version 2>/dev/null || echo cargo) is too old: Sitemon is built with Rust $wanted or newer." "$how"
}

# rustup's own installer. The shell's files are left alone: the scripts look where it puts things.
rust_by_rustup() {
  mkdir -p target
  curl --proto '=https' --tlsv1.2 -sSf --connect-timeout 20 --retry 2 -o target/rustup.sh https://sh.rustup.rs || return 1
  RUSTUP_INIT_SKIP_PATH_CHECK=yes sh target/rustup.sh -y -q --no-modify-path --profile minimal --component clippy --component rustfmt \
    --default-toolchain "$1" >/dev/null
}

# The packages of a Rust that is new enough. `cargo-web` is what Debian builds browsers with, newer than its `cargo`.
rust_of_debian() {
  local packages version
  command -v apt-get >/dev/null || return 1
  may_install || return 1
  ! command -v cargo >/dev/null && ! command -v rustc >/dev/null || return 1
  for _ in before after; do
    for packages in "cargo rustfmt rust-clippy" "cargo-web rustfmt-web rust-web-clippy"; do
      version=$(apt-cache policy "${packages%% *}" | sed -n 's/^ *Candidate: \(.*:\)\?\([0-9.]*\).*/\2/p')
      if at_least "$1" "$version"; then
        echo "$packages"
        return 0
      fi
    done
    # Lists that are not there yet, or old.
    as_root apt-get update -q >/dev/null 2>&1 || return 1
  done
  return 1
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

# What is measured and what the tests from outside run is what users run: the release build. One package at a time:
# asked for together, they would share what they depend on with the features of both, and each way of asking would
# build it, and them, anew.
build_release() {
  need_rust
  say "building the release of $2 (some minutes the first time, nothing afterwards)"
  cargo build --release --locked "$@"
}
