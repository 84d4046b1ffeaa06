#!/bin/bash
# The demo: an aggregator on this machine and three hosts with four small real guests each, all in network namespaces.
# Each host has a guard, and a policy has the others go on with its guests when it dies.
#   up                  start it, after removing what an earlier run left; asks nothing; takes a minute or two
#   down                stop it and remove everything it made, also after a crash
#   status              its hosts, and what runs on them
#   kill-host N         cut the power of host N
#   revive-host N       power host N on again; its guard and agent come back by themselves
# As root or with sudo. Environment: ROOST_BIN (folder of the programs; default target/release, else target/debug),
# ROOST_DEMO_HTTPS_PORT (8443), ROOST_DEMO_QUIC_PORT (4433), ROOST_DEMO_NET (the first free one from 10.97.0 on), ROOST_DEMO_DIR (.demo of the checkout).
set -euo pipefail

self=$(realpath "$0")
lab=$(dirname "$self")
root=$(realpath "$lab/../..")
demo=$(realpath -m "${ROOST_DEMO_DIR:-$root/.demo}")
net=${ROOST_DEMO_NET:-$(cat "$demo/net" 2>/dev/null || true)} # of the running demo
https=${ROOST_DEMO_HTTPS_PORT:-8443}
quic=${ROOST_DEMO_QUIC_PORT:-4433}
url=https://localhost:$https
guest_dir=$root/.lab-cache/guest

HOSTS=3
GUESTS=4       # of each host; the last one of the last host stays stopped, to show what that looks like
MEMORY=128M    # what the lab's Linux guest needs
ANSWER_STEPS=300 # of 0.1 s: 30 s until a program answers, on a loaded machine
BOOT_STEPS=240   # of 0.5 s: 2 min until the guests' kernels are up; 40 s is usual on two processors
SAFE_STEPS=120   # of 1 s: 2 min until each guest has a first copy and a council
REPLICA_EVERY=20s # a copy of a quiet guest costs a tenth of a second of processor time at both ends
started=$SECONDS

fail() { printf 'demo.sh: %s\n  why: %s\n  try: %s\n' "$1" "$2" "$3" >&2; exit 1; }
step() { printf '[%3d s] %s\n' $((SECONDS - started)) "$*"; }
hosts() { HOSTS_PREFIX=demo HOSTS_NET=$net HOSTS_DIR=$demo/hosts "$lab/hosts.sh" "$@"; }

# The program of this name; release unless there is only debug.
program() {
  local folder
  for folder in ${ROOST_BIN:+"$ROOST_BIN"} "$root/target/release" "$root/target/debug"; do
    [ ! -x "$folder/$1" ] || { realpath "$folder/$1"; return; }
  done
  fail "no program $1" "it was not built" "make run, or cargo build --release"
}

# `roost` with the demo's own context, so that the visitor's stays as it is.
roost() { env -u ROOST_URL -u ROOST_TOKEN -u ROOST_CONTEXT XDG_CONFIG_HOME="$demo/config" ROOST_CA="$demo/ca.pem" "$cli" "$@"; }
member() { sed -n "s/^ *\"$1\": *\"\([^\"]*\)\".*/\1/p" | head -n 1; } # of a JSON object, a line each

# await STEPS SECONDS WHAT COMMAND...: until the command succeeds.
await() {
  local steps=$1 pause=$2 what=$3 n
  shift 3
  for n in $(seq "$steps"); do
    ! "$@" 2>/dev/null || return 0
    sleep "$pause"
  done
  fail "$what" "not within $n tries of $pause s" "see $demo/log, then $self down"
}

# The first /24 that this machine has no address in.
free_net() {
  local n
  for n in $(seq 0 15); do
    if ! ip -4 -o addr show | grep -qF " 10.97.$n."; then echo "10.97.$n"; return; fi
  done
  fail "find a free network" "10.97.0.0/24 to 10.97.15.0/24 are all in use" "ROOST_DEMO_NET=10.98.0 make run"
}

ports_are_free() {
  ! ss -Hltn "sport = :$https" | grep -q . || fail "listen on port $https" "another program does" "ROOST_DEMO_HTTPS_PORT=PORT make run"
  ! ss -Hlun "src = $net.254 and sport = :$quic" | grep -q . || fail "listen on port $quic" "another program does" "ROOST_DEMO_QUIC_PORT=PORT make run"
}

start_aggregator() {
  local password
  password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
  (umask 077; echo "$password" > "$demo/password")
  cat > "$demo/aggregator.toml" <<C
data_dir = "$demo/aggregator"
quic_listen = "$net.254:$quic"
https_listen = "0.0.0.0:$https"
public = ["$net.254", "localhost", "127.0.0.1"]
C
  "$aggregator" --config "$demo/aggregator.toml" init --admin-password-file "$demo/password" > "$demo/log/init"
  "$aggregator" --config "$demo/aggregator.toml" ca | sed -n '/BEGIN CERT/,/END CERT/p' > "$demo/ca.pem"
  hosts spawn 0 "$demo/log/aggregator" "$aggregator" --config "$demo/aggregator.toml" run > /dev/null
  await $ANSWER_STEPS 0.1 "reach the aggregator" curl -sf --max-time 2 --cacert "$demo/ca.pem" "$url/readyz" -o /dev/null
  roost login "$url" --user admin --password-stdin < "$demo/password" 2> "$demo/log/login" ||
    fail "log in to the aggregator" "$(tail -n 1 "$demo/log/login")" "see $demo/log/aggregator"
}

spawn_guard() { hosts spawn "$1" "$demo/log/guard-$1" "$guard" --config "$demo/guard-$1.toml" run > /dev/null; }
spawn_agent() { hosts spawn "$1" "$demo/log/agent-$1" "$agent" --config "$demo/agent-$1.toml" run > /dev/null; }

# A join token made by the admin, used once by the agent, then gone.
join() {
  local i=$1 token
  token=$(roost join-token create --name "h$i" -o json | member token)
  [ -n "$token" ] || fail "make a join token for h$i" "the answer had none" "see $demo/log/aggregator"
  cat > "$demo/agent-$i.toml" <<C
name = "h$i"
aggregator = "$net.254:$quic"
guard_socket = "/run/roost-guard/guard.sock"
# All hosts are one machine with one page sharing, and each would take its whole memory for its own.
tune_memory = false
C
  # These hosts have no watchdog of their own: one that hangs as a whole would be ended by nobody.
  cat > "$demo/guard-$i.toml" <<C
listen = "$net.$i:7946"
watchdog = "none"
accept_no_fence = true
C
  spawn_guard "$i"
  hosts exec "$i" mkdir -p /var/lib/roost/images
  hosts exec "$i" cp "$guest_dir/vmlinuz" "$guest_dir/initrd.cpio" /var/lib/roost/images/
  ROOST_JOIN_TOKEN=$token hosts exec "$i" "$agent" --config "$demo/agent-$i.toml" join "$net.254:$quic" --name "h$i" \
    < /dev/null > "$demo/log/join-$i" 2>&1 || fail "join host h$i" "$(tail -n 3 "$demo/log/join-$i")" "see $demo/log"
  spawn_agent "$i"
}

hosts_up() { [ "$(roost host list --state up -o name | wc -l)" = $HOSTS ]; }

make_guests() {
  local i g name start jobs=()
  for i in $(seq $HOSTS); do
    for g in $(seq $GUESTS); do
      name=guest-$i$g start=--start
      [ "$i$g" != "$HOSTS$GUESTS" ] || start=--start=false
      roost guest create --name "$name" --host "h$i" --memory $MEMORY $start --disk blank:256M --nic user \
        --kernel vmlinuz --initrd initrd.cpio --cmdline "console=ttyS0 quiet panic=-1 roost.name=$name roost.quiet=1 roost.hb=10" \
        > "$demo/log/guest-$name" 2>&1 &
      jobs+=("$!:$name")
    done
  done
  for name in "${jobs[@]}"; do
    wait "${name%%:*}" || fail "make ${name#*:}" "$(tail -n 3 "$demo/log/guest-${name#*:}")" "see $demo/log"
  done
}

booted() { # guests whose kernel said so
  local i sum=0 n
  for i in $(seq $HOSTS); do
    # shellcheck disable=SC2016 # for the shell inside
    n=$(hosts exec "$i" sh -c 'cat /var/lib/roost/guests/*/serial.log 2>/dev/null | grep -c ROOST-READY' || true)
    sum=$((sum + ${n:-0}))
  done
  echo "$sum"
}

await_boot() {
  local n now=0 told=-1 wanted=$((HOSTS * GUESTS - 1))
  for n in $(seq $BOOT_STEPS); do
    now=$(booted)
    [ "$now" = "$told" ] || step "$now of $wanted guests have booted"
    told=$now
    [ "$now" -lt $wanted ] || return 0
    sleep 0.5
  done
  step "going on: the others are still booting"
}

# Every running guest is copied to another host, which goes on with it when its own dies.
protect_guests() {
  local name jobs=()
  roost backup-policy create --name ha --replica-every $REPLICA_EVERY --replica-failover > "$demo/log/policy" 2>&1 ||
    fail "make the policy ha" "$(tail -n 3 "$demo/log/policy")" "see $demo/log"
  for name in $(roost guest list --state running -o name); do
    roost backup-set set-policy "$name" --policy ha > "$demo/log/policy-$name" 2>&1 &
    jobs+=("$!:$name")
  done
  for name in "${jobs[@]}"; do
    wait "${name%%:*}" || fail "protect ${name#*:}" "$(tail -n 3 "$demo/log/policy-${name#*:}")" "see $demo/log"
  done
}

await_protected() {
  local n now=0 told=-1 wanted=$((HOSTS * GUESTS - 1))
  for n in $(seq $SAFE_STEPS); do
    now=$(roost guest list -o json | grep -c '"protected": true' || true)
    [ "$now" = "$told" ] || step "$now of $wanted guests would go on elsewhere"
    told=$now
    [ "$now" -lt $wanted ] || return 0
    sleep 1
  done
  step "going on: roost guest list -o wide says what the others lack"
}

write_access() {
  local token i comma=''
  token=$(roost api-token create --name demo -o json | member token)
  [ -n "$token" ] || fail "make an API token" "the answer had none" "see $demo/log/aggregator"
  (
    umask 077
    {
      printf '{\n  "url": "%s",\n  "ca": "%s",\n  "user": "admin",\n  "password": "%s",\n  "token": "%s",\n  "lab": "%s",\n  "hosts": [' \
        "$url" "$demo/ca.pem" "$(cat "$demo/password")" "$token" "$self"
      for i in $(seq $HOSTS); do
        printf '%s\n    {"name": "h%s", "address": "%s", "namespace": "demo/h%s"}' "$comma" "$i" "$net.$i" "$i"
        comma=,
      done
      printf '\n  ]\n}\n'
    } > "$demo/access.json.new"
  )
  # The visitor who came by sudo reads it too.
  [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$demo/access.json.new"
  mv "$demo/access.json.new" "$demo/access.json"
}

farewell() {
  cat <<T

Roost is up: $HOSTS hosts, $((HOSTS * GUESTS)) guests.

  URL       $url   (certificate of the grid's own CA: $demo/ca.pem)
  log-in    admin / $(cat "$demo/password")
  scripts   $demo/access.json

Three things to try, in this folder:
  $cli guest list
  $cli demo kill-host 2       cuts its power, and shows how its desktops come back on the other hosts
  $cli demo revive-host 2

  make stop   ends it and removes everything
T
}

up() {
  aggregator=$(program roost-aggregator) agent=$(program roost-agent) guard=$(program roost-guard) cli=$(program roost)
  clean
  net=${ROOST_DEMO_NET:-$(free_net)}
  ports_are_free
  mkdir -p "$demo/log"
  chmod 711 "$demo"
  echo "$net" > "$demo/net"
  trap 'code=$?; [ $code = 0 ] || echo "demo.sh: not started; logs are in $demo/log; $self down removes all" >&2' EXIT
  step "test guest (built at the first use)"
  "$lab/guest.sh" "$guest_dir" > "$demo/log/guest.sh"
  step "$HOSTS hosts, each with its own libvirt"
  hosts up $HOSTS
  step "aggregator"
  start_aggregator
  step "agents join with one-time tokens"
  local i
  for i in $(seq $HOSTS); do join "$i"; done
  await $ANSWER_STEPS 0.1 "see all hosts up" hosts_up
  step "$((HOSTS * GUESTS)) guests"
  make_guests
  await_boot
  protect_guests
  await_protected
  write_access
  step "ready"
  farewell
}

# Only what it made, by name: ROOST_DEMO_DIR may be any folder.
clean() {
  hosts down
  rm -rf "$demo"/{log,config,aggregator,hosts} "$demo"/{net,password,ca.pem,aggregator.toml,access.json,access.json.new} "$demo"/{agent,guard}-[0-9]*.toml
  [ ! -d "$demo" ] || rmdir --ignore-fail-on-non-empty "$demo"
}

revive() {
  [ -f "$demo/agent-$1.toml" ] || fail "revive host $1" "the demo has no such host, or is not up" "$self up"
  agent=$(program roost-agent) guard=$(program roost-guard)
  hosts boot "$1"
  hosts exec "$1" pgrep -x roost-guard > /dev/null || spawn_guard "$1"
  hosts exec "$1" pgrep -x roost-agent > /dev/null || spawn_agent "$1"
  echo "h$1 is on again"
}

case ${1:-} in up | down | status | kill-host | revive-host) ;; *) sed -n '2,10s/^# \{0,1\}//p' "$self" >&2; exit 2 ;; esac
if [ "$(id -u)" != 0 ]; then
  command -v sudo > /dev/null || fail "run the demo" "it needs root for namespaces, and there is no sudo" "run as root"
  exec sudo env ROOST_BIN="${ROOST_BIN:-}" ROOST_DEMO_HTTPS_PORT="$https" ROOST_DEMO_QUIC_PORT="$quic" ROOST_DEMO_NET="${ROOST_DEMO_NET:-}" \
    ROOST_DEMO_DIR="$demo" "$self" "$@"
fi
case ${1:-}:${2:-} in
  kill-host:[1-9]* | revive-host:[1-9]*) [ -d "$demo/hosts/h$2" ] || fail "find host $2" "the demo has hosts 1 to $HOSTS" "$self status" ;;
  kill-host:* | revive-host:*) fail "$1" "no host number" "$1 1, up to $HOSTS" ;;
esac

case $1 in
  up) up ;;
  down) clean ;;
  status) hosts status ;;
  kill-host) hosts off "$2"; echo "h$2 is off, as if its power had failed" ;;
  revive-host) revive "$2" ;;
esac
