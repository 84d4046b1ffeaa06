#!/bin/bash
# Installs what building, running and testing Roost needs on Debian 12 or 13, and asks nothing. Does nothing when all is there.
#   deps.sh          build and runtime
#   deps.sh test     and what only the tests use, the image's build among it
#   deps.sh image    build and runtime, and what the host image's build and tests use
# Needs root or sudo, for Debian packages only. Rust is installed for the caller.
set -euo pipefail

build="gcc:links-programs libc6-dev:C-headers make:Makefile pkg-config:finds-libvirt libvirt-dev:headers ca-certificates:downloads curl:downloads"
runtime="qemu-system-x86:guests qemu-utils:disk-images libvirt-daemon:guests libvirt-daemon-driver-qemu:guests libvirt-clients:virsh
busybox-static:host-image-and-test-guest cpio:initramfs xz-utils:initramfs nftables:network-faults iproute2:networks socat:sockets
procps:processes kmod:kernel-modules"
tests="python3:API-clients librpc-xml-perl:XML-RPC-client liblwp-protocol-https-perl:its-TLS faketime:clock-tests
snmpd:SNMP snmp:SNMP-clients libnet-snmp-perl:SNMP-client snmptrapd:SNMP-traps smitools:checks-MIBs prometheus:scrapes-metrics
openssh-server:a-door-to-try xrdp:another xserver-xspice:and-one-of-SPICE prometheus-alertmanager:its-webhooks python3-aiosmtpd:receives-mail rsyslog:receives-syslog openssl:its-certificates"

# Debian 13 has a package for each fence agent, Debian 12 one for all.
fence=fence-agents:cuts-power
! apt-cache show fence-agents-dummy > /dev/null 2>&1 ||
  fence="fence-agents-dummy:cuts-nobody's-power fence-agents-ipmilan:speaks-to-a-management-board"
tests="$tests $fence openipmi:a-virtual-management-board ipmitool:speaks-IPMI"

# Debian 13 has another pysnmp, with other names in it.
! apt-cache show python3-pysnmp4 > /dev/null 2>&1 || tests="$tests python3-pysnmp4:SNMP-client"

image="mmdebstrap:host-image debian-archive-keyring:its-packages python3:its-lists mtools:answers-on-a-stick xorriso:answers-on-a-disc openssl:keys-for-Secure-Boot dnsmasq-base:network-boot e2fsprogs:disks-in-its-tests xfsprogs:disks-in-its-tests snmp:SNMP-clients"

need_cargo=1.95
here=$(cd "$(dirname "$0")" && pwd)

fail() { printf 'deps.sh: %s\n  why: %s\n  try: %s\n' "$1" "$2" "$3" >&2; exit 1; }
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo > /dev/null; then sudo "$@"
  else fail "cannot run $*" "not root, and there is no sudo" "run $0 as root"; fi
}
installed() { dpkg-query -W -f '${Package} ${Provides} ${db:Status-Status}\n' 2>/dev/null | awk '$NF == "installed" { gsub(/\([^)]*\)|,/, ""); NF--; print }' | tr ' ' '\n'; }
# RUNLEVEL=1: package scripts then start no services, which would be strangers in the lab.
apt() { as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -y -qq -o Dpkg::Use-Pty=0 "$@"; }

missing() { # of the wanted packages, as name:why
  local item have
  have=$(installed)
  for item in "$@"; do grep -qxF "${item%%:*}" <<< "$have" || echo "$item"; done
}

# QEMU's parts must have one version. Where qemu-utils came from backports, plain install would pick an older qemu-system-x86, which it "Breaks".
# So take that one from backports too, from this machine's own mirror, without adding a source to the machine.
install_qemu_from_backports() {
  local list codename uri key
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  uri=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' | awk -v c="$codename" '$2 == c && $3 == "main" { print $1; exit }')
  key=/usr/share/keyrings/debian-archive-keyring.gpg
  list=$(mktemp --suffix=.list)
  chmod 644 "$list" # apt reads it as its own user
  echo "deb [signed-by=$key] ${uri:-http://deb.debian.org/debian} $codename-backports main" > "$list"
  echo "deps.sh: qemu-system-x86 from $codename-backports, as qemu-utils is from there"
  apt update -o Dir::Etc::sourcelist="$list" -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0
  apt install --no-install-recommends -o Dir::Etc::sourcelist="$list" -t "$codename-backports" "$@"
  rm -f "$list"
}

install_packages() {
  local item names=() qemu=() utils
  [ $# -gt 0 ] || return 0
  echo "deps.sh: will install"
  for item in "$@"; do printf '  %-28s for %s\n' "${item%%:*}" "${item#*:}"; done
  utils=$(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null || true)
  for item in "$@"; do
    case $item in
      qemu-system-x86:*) if [[ $utils == *~bpo* ]]; then qemu+=("${item%%:*}"); else names+=("${item%%:*}"); fi ;;
      *) names+=("${item%%:*}") ;;
    esac
  done
  apt update -o APT::Get::List-Cleanup=0 || echo "deps.sh: package lists could not be refreshed; going on with those here" >&2
  [ ${#qemu[@]} = 0 ] || install_qemu_from_backports "${qemu[@]}"
  [ ${#names[@]} = 0 ] || apt install --no-install-recommends "${names[@]}"
  shut_doors "${names[@]}"
}

# Ways to log in that only tests need, and that were not here before, don't open at the next boot.
shut_doors() {
  local name
  command -v systemctl > /dev/null || return 0
  for name in "$@"; do
    case $name in
      openssh-server) as_root systemctl --quiet disable ssh.service ssh.socket 2> /dev/null || true ;;
      xrdp) as_root systemctl --quiet disable xrdp.service xrdp-sesman.service 2> /dev/null || true ;;
    esac
  done
}

cargo_fits() {
  local have
  have=$(cd "$here" && cargo --version 2>/dev/null | awk '{ print $2 }') || return 1
  [ -n "$have" ] && [ "$(printf '%s\n' $need_cargo "$have" | sort -V | head -n 1)" = $need_cargo ] &&
    command -v cargo-clippy rustfmt > /dev/null
}

# In order: the toolchain that is there, rustup that is there, Debian's rustup.
install_rust() {
  cargo_fits && return
  local channel
  channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$here/../../rust-toolchain.toml")
  if ! command -v rustup > /dev/null && [ -n "$(apt-cache policy rustup 2>/dev/null | sed -n 's/.*Candidate: \([0-9].*\)/\1/p')" ]; then
    install_packages rustup:Rust-$channel
  fi
  command -v rustup > /dev/null || fail "needs cargo $need_cargo or newer, found: $(cargo --version 2>/dev/null || echo none)" \
    "Debian's cargo is older, and this release has no rustup package" "install rustup as https://rustup.rs says, then run $0 again"
  echo "deps.sh: Rust $channel by rustup"
  rustup toolchain install "$channel" --profile minimal --component clippy --component rustfmt
  command -v cargo > /dev/null || fail "rustup is there but cargo is not on PATH" "rustup puts its programs in ~/.cargo/bin" "export PATH=\$HOME/.cargo/bin:\$PATH"
}

install_nextest() {
  command -v cargo-nextest > /dev/null || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo-nextest" ] && return
  echo "deps.sh: cargo-nextest, for running tests (compiles for some minutes)"
  cargo install cargo-nextest --locked
}

mode=${1:-}
case $mode in '' | test | image) ;; *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac
command -v dpkg-query > /dev/null || fail "this is not Debian" "there is no dpkg-query" "Debian 12 or 13, or install by hand what $0 lists"
# shellcheck disable=SC2086 # lists of words
wanted="$build $runtime"
case $mode in
  test) wanted="$wanted $tests $image" ;;
  image) wanted="$wanted $image" ;;
esac
# shellcheck disable=SC2086
mapfile -t lacking < <(missing $wanted)
install_packages "${lacking[@]}"
install_rust
[ -z "$mode" ] || install_nextest
