#!/bin/bash
# Several private "hosts" on one machine, for tests and the demo. Needs root; uses only namespaces, overlayfs, a bridge and libvirtd.
# A host is a mount, network, process and host-name namespace with its own /etc and /var (overlay), /run (tmpfs), libvirtd and PID 1.
#   up N               start hosts 1..N with empty disks, after removing what an earlier run left
#   boot I | off I     power on (same disks) | cut the power
#   cut I | heal I     pull host I's network cable | put it back, and end its loss
#   loss I PERCENT [from|to]  drop that share of the frames from and to host I, or one way; at 100 the link stays up and is silent
#   exec I CMD...      run CMD in host I; host 0 is the machine itself
#   spawn I LOG CMD... start CMD in host I and return at once; prints its process id there; output goes to LOG
#   restart-libvirt I  kill -9 libvirtd and start it again; guests go on
#   status | down      what runs | remove everything; fine when nothing is there
# Host I is NET.I, the machine is NET.254; they are called h1, h2, ... and lab.
# Environment, so that several labs live side by side: HOSTS_PREFIX (a-z0-9, at most 10; default roost), HOSTS_NET (default 10.99.0),
# HOSTS_DIR (state; default .lab-cache/hosts-PREFIX of the checkout; not below /etc /var /run /proc /sys), HOSTS_KEEP=1 (down keeps disks and logs).
set -euo pipefail

self=$(realpath "$0")
PREFIX=${HOSTS_PREFIX:-roost}
NET=${HOSTS_NET:-10.99.0}
DIR=$(realpath -m "${HOSTS_DIR:-$(dirname "$self")/../../.lab-cache/hosts-$PREFIX}")
SWITCH=$PREFIX-sw # namespace that holds the bridge vbr0 with one port v1..vN a host, and v0 for the machine
UPLINK=$PREFIX-up # the machine's end of v0
MARK=ROOST_LAB    # environment variable by which every process of this lab is found again, even when its files are gone
MAX_HOSTS=99
READY_STEPS=600   # of 0.05 s: 30 s, for a loaded machine; 1-2 s is usual

fail() { printf 'hosts.sh: %s\n' "$*" >&2; exit 1; }
on_switch() { ip -n "$SWITCH" "$@"; }
number() { [[ ${1:-} =~ ^[0-9]+$ ]] && [ "$1" -le $MAX_HOSTS ] || fail "'${1:-}' is not a host number"; }
count() { cat "$DIR/count" 2>/dev/null || echo 0; }

# Prints the ids of this lab's live processes whose mark begins with $1 ("h" = all of them), but not of ourselves or our caller.
marked() {
  grep -lzs "^$MARK=$PREFIX/$1" /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3 | grep -vxe $$ -e $PPID || true
}

kill_marked() {
  local left step
  for step in $(seq 1500); do # 30 s: one that writes to a slow disk ends when that is done
    left=$(marked "$1")
    [ -z "$left" ] && return
    # shellcheck disable=SC2086 # one word each
    [ $((step % 20)) != 1 ] || kill -9 $left 2>/dev/null || true
    sleep 0.02
  done
  fail "processes outlive kill -9: $left"
}

# The id, seen from here, of host I's PID 1; nothing when it is off.
init_of() {
  local pid step
  pid=$(cat "$DIR/h$1/pid" 2>/dev/null) || return 0
  # A process shows no environment for a moment while it becomes another program, as PID 1 does at its start. On a machine
  # that stands still the moment may be long.
  for step in $(seq 50); do
    ! grep -qzs "^$MARK=$PREFIX/h$1\$" "/proc/$pid/environ" || { echo "$pid"; return 0; }
    [ -e "/proc/$pid" ] || return 0
    sleep 0.02
  done
}

# ---- inside the host: `hosts.sh _init I` becomes its PID 1 ----

write_config() {
  local j
  mkdir -p /etc/libvirt /var/log/libvirt /var/lib/libvirt/images
  grep -q ^libvirt-qemu: /etc/passwd || { # libvirtd refuses to start without it; Debian makes it in a package that needs systemd
    echo libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin >> /etc/passwd
    echo libvirt-qemu:x:64055: >> /etc/group
  }
  grep -q ' lab$' /etc/hosts || {
    for j in $(seq "$(count)"); do echo "$NET.$j h$j"; done
    echo "$NET.254 lab"
  } >> /etc/hosts
  cat > /etc/libvirt/qemu.conf <<C
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
migration_host = "$NET.$1"
C
  cat > /etc/libvirt/libvirtd.conf <<C
host_uuid = "$(printf '00000000-1111-4222-8333-%012d' "$1")"
auth_unix_rw = "none"
auth_tcp = "none"
listen_tls = 0
listen_tcp = 1
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
C
}

# One processor only: libvirt throws its cache of QEMU's abilities away whenever CPUID differs between two processors.
start_libvirtd() {
  local first
  first=$(sed -n 's/^Cpus_allowed_list:\s*\([0-9]*\).*/\1/p' /proc/self/status)
  taskset -c "$first" libvirtd --listen -d -p /run/libvirtd.pid
  virsh -q -c qemu:///system domcapabilities --virttype qemu > /dev/null # the first probe of QEMU is paid here, not in a test
}

host_init() {
  local i=$1 H=$DIR/h$1
  mount --make-rprivate /
  ! mountpoint -q /run/netns || umount -l -R /run/netns # else this host would keep other labs' switches alive
  mount -t overlay o -o "lowerdir=/etc,upperdir=$H/disk/etc,workdir=$H/disk/etc.work" /etc
  mount -t overlay o -o "lowerdir=/var,upperdir=$H/disk/var,workdir=$H/disk/var.work" /var
  mount -t tmpfs t /run
  mkdir -p /run/lock
  mount -t sysfs s /sys
  # A KVM that opens but cannot run guests would mislead libvirt. Hide it behind a file that even root may not write: were it
  # /dev/null, libvirt would think KVM had just come back and probe QEMU anew at every call (5-10 s for each define and start).
  [ ! -e /dev/kvm ] || { : > /run/no-kvm; mount --bind /run/no-kvm /dev/kvm; mount -o remount,bind,ro /dev/kvm; }
  hostname "h$i"
  write_config "$i"
  ip link set lo up
  until [ -e /sys/class/net/eth0 ]; do sleep 0.02; done
  ip addr add "$NET.$i/24" dev eth0
  ip link set eth0 up
  { start_libvirtd && touch "$H/ready"; } &
  exec -a "roost-host-$i" perl -e 'for (;;) { waitpid(-1, 0) < 0 and sleep 1 }' # must reap: else libvirt waits 80 s for each QEMU
}

# ---- outside ----

power_on() {
  local i=$1 H=$DIR/h$1 outer pid='' step
  [ -z "$(init_of "$i")" ] || return 0
  rm -f "$H/ready" "$H/pid"
  # Everything of the caller's is shut: a host must not hold a test's pipes open.
  env "$MARK=$PREFIX/h$i" HOSTS_PREFIX="$PREFIX" HOSTS_NET="$NET" HOSTS_DIR="$DIR" \
    setsid unshare -m -n -p -u -f --mount-proc --kill-child=SIGKILL "$self" _init "$i" < /dev/null >> "$H/log" 2>&1 3>&- 9>&- &
  outer=$!
  for step in $(seq 3000); do
    pid=$(pgrep -P $outer || true)
    [ -z "$pid" ] || break
    sleep 0.01
  done
  [ -n "$pid" ] || fail "host $i did not start: $(tail -n 3 "$H/log")"
  echo "$pid" > "$H/pid"
  # Make both ends before either is up, so no frame meets half a switch.
  on_switch link del "v$i" 2>/dev/null || true
  on_switch link add "v$i" type veth peer name eth0 netns "$pid"
  on_switch link set "v$i" master vbr0 up
}

await() {
  local step
  for step in $(seq $READY_STEPS); do
    [ ! -e "$DIR/h$1/ready" ] || return 0
    [ -n "$(init_of "$1")" ] || break
    sleep 0.05
  done
  tail -n 5 "$DIR/h$1/log" >&2
  fail "host $1 is not ready (after $step steps); its log is $DIR/h$1/log"
}

power_off() {
  local pid
  pid=$(init_of "$1")
  [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true # PID 1's end is the end of all inside
  kill_marked "h$1\$"
  on_switch link del "v$1" 2>/dev/null || true
  rm -f "$DIR/h$1/pid" "$DIR/h$1/ready"
}

make_switch() {
  local other
  other=$(ip -4 -o addr show | awk -v n="$NET." 'index($4, n) == 1 { print $2; exit }')
  [ -z "$other" ] || fail "$NET.0/24 is in use by $other: set HOSTS_NET to another network"
  ip netns add "$SWITCH"
  on_switch link add vbr0 type bridge
  on_switch link set vbr0 up
  ip link add "$UPLINK" type veth peer name v0 netns "$SWITCH"
  on_switch link set v0 master vbr0 up
  ip addr add "$NET.254/24" dev "$UPLINK"
  ip link set "$UPLINK" up
}

# The disks of hosts lie in HOSTS_DIR. On an overlay (a container's root) no second overlay can stand: use memory.
make_disks() {
  mkdir -p "$DIR"
  case $(stat -f -c %T "$DIR") in
    overlay*) mountpoint -q "$DIR" || mount -t tmpfs "$PREFIX" "$DIR" ;;
  esac
  local i
  for i in $(seq "$1"); do mkdir -p "$DIR/h$i"/disk/{etc,etc.work,var,var.work}; done
  echo "$1" > "$DIR/count"
}

wipe_disks() {
  local H
  for H in "$DIR"/h[0-9]*; do [ ! -d "$H/disk" ] || rm -rf "$H"; done
  rm -f "$DIR/count"
  ! mountpoint -q "$DIR" || umount -l "$DIR"
  rmdir "$DIR" 2>/dev/null || true
}

take_down() {
  kill_marked h
  ip link del "$UPLINK" 2>/dev/null || true
  [ ! -e "/run/netns/$SWITCH" ] || ip netns del "$SWITCH"
}

loss() { # frames dropped on their way through the switch
  local way ways='iifname oifname' share="numgen random mod 100 < $2 "
  case ${3:-} in from) ways=iifname ;; to) ways=oifname ;; esac # the switch takes in what comes from a host
  [ "$2" -lt 100 ] || share='' # nft takes no comparison that is always true
  ip netns exec "$SWITCH" nft -f - <<N
add table bridge lab
add chain bridge lab loss$1 { type filter hook forward priority 0; policy accept; }
flush chain bridge lab loss$1
$([ "$2" = 0 ] || for way in $ways; do echo "add rule bridge lab loss$1 $way v$1 ${share}drop"; done)
N
}

# Runs "$@" in host I with this shell's files and folder; a folder the host does not have becomes /.
enter() {
  local pid folder=$PWD
  pid=$(init_of "$1")
  [ -n "$pid" ] || fail "host $1 is off"
  nsenter -t "$pid" -m test -d "$folder" || folder=/
  exec nsenter -t "$pid" -m -n -p -u --wdns="$folder" -- env "$MARK=$PREFIX/h$1" "${@:2}"
}

spawn() {
  local i=$1 log=$2
  shift 2
  # The shell inside goes away at once, so PID 1 of the host inherits the program and reaps it.
  local start='setsid "$@" < /dev/null >&4 2>&1 3>&- 4>&- 9>&- & echo $!'
  if [ "$i" = 0 ]; then env "$MARK=$PREFIX/h0" sh -c "$start" sh "$@" 4>> "$log"
  else (enter "$i" sh -c "$start" sh "$@" 4>> "$log"); fi
}

restart_libvirt() {
  # shellcheck disable=SC2016 # for the shell inside
  (enter "$1" sh -c 'kill -9 $(cat /run/libvirtd.pid); while kill -0 $(cat /run/libvirtd.pid) 2>/dev/null; do sleep 0.02; done
    rm -f /run/libvirtd.pid /run/libvirt/libvirt-sock* /run/libvirt/libvirt-admin-sock')
  (enter "$1" env HOSTS_PREFIX="$PREFIX" HOSTS_NET="$NET" HOSTS_DIR="$DIR" "$self" _libvirtd)
}

status() {
  local i power cable guests
  printf '%-5s %-14s %-4s %-6s %s\n' host address power cable guests
  for i in $(seq "$(count)"); do
    power=off cable=- guests=-
    if [ -n "$(init_of "$i")" ]; then
      power=on cable=in
      on_switch link show "v$i" | head -n 1 | grep -q '[<,]UP[,>]' || cable=cut
      guests=$( (enter "$i" timeout 3 virsh -q -c qemu:///system list --name) 2>/dev/null | xargs || echo '?')
    fi
    printf '%-5s %-14s %-4s  %-6s %s\n' "h$i" "$NET.$i" $power $cable "${guests:--}"
  done
}

[[ $PREFIX =~ ^[a-z0-9]{1,10}$ ]] || fail "HOSTS_PREFIX '$PREFIX' is not 1 to 10 of a-z0-9"
case $DIR/ in /etc/* | /var/* | /run/* | /proc/* | /sys/*) fail "HOSTS_DIR $DIR is hidden inside hosts: choose another" ;; esac
command=${1:-}
case $command in
  up | boot | off | cut | heal | loss | exec | spawn | restart-libvirt | down | status | _init | _libvirtd) shift ;;
  *) sed -n '2,17s/^# \{0,1\}//p' "$self" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || fail "needs root for namespaces: sudo $0 $command $*"
case $command in boot | off | cut | heal | loss | exec | spawn | restart-libvirt) number "${1:-}" ;; esac

case $command in
  up)
    number "${1:-}"
    take_down; wipe_disks; make_disks "$1"; make_switch
    for i in $(seq "$1"); do power_on "$i"; done
    for i in $(seq "$1"); do await "$i"; done ;;
  boot) [ -d "$DIR/h$1/disk" ] || fail "no host $1"; power_on "$1"; await "$1" ;;
  off) power_off "$1" ;;
  cut) on_switch link set "v$1" down ;;
  heal) on_switch link set "v$1" up; loss "$1" 0 ;;
  loss) [[ ${2:-} =~ ^[0-9]+$ ]] && [ "$2" -le 100 ] || fail "loss I PERCENT, 0 to 100"; loss "$1" "$2" "${3:-}" ;;
  exec) [ $# -gt 1 ] || fail "exec I CMD..."; if [ "$1" = 0 ]; then shift; exec "$@"; else enter "$@"; fi ;;
  spawn) [ $# -gt 2 ] || fail "spawn I LOG CMD..."; spawn "$@" ;;
  restart-libvirt) restart_libvirt "$1" ;;
  down) take_down; [ "${HOSTS_KEEP:-0}" = 1 ] || wipe_disks ;;
  status) status ;;
  _init) host_init "$1" ;;
  _libvirtd) start_libvirtd ;;
esac
