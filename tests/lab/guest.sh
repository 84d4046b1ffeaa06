#!/bin/bash
# Builds the lab's test guests from Debian packages: a small Linux (vmlinuz, initrd.cpio, initrd.gz) and mb.elf.
#   guest.sh OUTDIR        a second run finds the files there and returns at once
# The Linux guest prints ROOST-READY on its first serial port, obeys the ACPI power button and answers the guest agent.
# What it does beyond idling is asked for on its kernel command line:
#   roost.name=NAME  roost.ip=ADDRESS/LEN   host name; address of its first network card
#   roost.hb=SECONDS                        a line "ROOST-HB <uptime>" on the serial port every so often
#   roost.mem=MB  roost.same=MB             fill memory with random bytes, or with the same bytes in every guest (KSM)
#   roost.disk=USEC                         overwrite the first 64 MiB of the disk, 64 KiB each time, forever
#   roost.quiet=1                           no shell on the serial port
#   roost.user=NAME                         NAME is logged in; in a shell: login-as NAME, log-out
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net virtio_blk
virtio_console virtio_balloon virtio-rng button evdev watchdog i6300esb"

fail() { printf 'guest.sh: %s\n  why: %s\n  try: %s\n' "$1" "$2" "$3" >&2; exit 1; }

# The kernel that QEMU's interpreter runs most surely is 6.1 (Debian 12); elsewhere take what the suite calls its cloud kernel.
kernel_package() {
  local found
  found=$(apt-cache pkgnames linux-image-6.1. | grep -E '^linux-image-6\.1\.[0-9.-]+-cloud-amd64$' | sort -V | tail -n 1 || true)
  [ -n "$found" ] || found=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  printf '%s\n' "$found"
}

download() { (cd "$work" && apt-get -o APT::Sandbox::User=root download -qq "$@" >&2); }

# Package lists may be absent, or older than the mirror: refresh them once, if that is allowed.
fetch() {
  local kernel
  kernel=$(kernel_package)
  if [ -z "$kernel" ] || ! download "$kernel" qemu-guest-agent; then
    if [ "$(id -u)" = 0 ]; then apt-get update -qq >&2; else sudo -n apt-get update -qq >&2 || true; fi
    kernel=$(kernel_package)
    [ -n "$kernel" ] || fail "no kernel package" "apt knows no linux-image-*-cloud-amd64" "apt-get update, on Debian 12 or 13, amd64"
    download "$kernel" qemu-guest-agent || fail "cannot download $kernel, qemu-guest-agent" "see apt's words above" "apt-get update"
  fi
  local deb
  for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$work/deb"; done
}

copy_modules() { # from the kernel package to the guest's /mod
  local tree name file
  tree=$(find "$work/deb" -type d -path '*lib/modules/*' -name kernel | head -n 1)
  for name in $modules; do
    file=$(find "$tree" -name "$name.ko*" | head -n 1)
    case $file in
      '') ;; # built in
      *.xz) xz -dc "$file" > "$root/mod/$name.ko" ;;
      *) cp "$file" "$root/mod/$name.ko" ;;
    esac
  done
}

copy_agent() { # with the libraries it names, which are this machine's own
  local agent="$work/deb/usr/sbin/qemu-ga" library
  if ldd "$agent" | grep -q 'not found'; then
    fail "the guest agent lacks libraries: $(ldd "$agent" | awk '/not found/ {print $1}' | tr '\n' ' ')" \
         "they are taken from this machine" "apt-get install the packages that hold them"
  fi
  cp "$agent" "$root/usr/sbin/qemu-ga"
  for library in $(ldd "$agent" | grep -o '/lib[^ ]*'); do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/tmp:/bin/sh\n' > "$root/etc/passwd"
}

write_init() {
  printf '#!/bin/sh\n/bin/busybox poweroff -f\n' | tee "$root/etc/acpi/PWRF/00000080" > "$root/sbin/shutdown"
  # A record of who(1)'s file: type 7, pid, line, id, user, host, exit, session, time, address = 384 bytes. Short fields are padded.
  cat > "$root/bin/login-as" <<'I'
#!/bin/sh
pad() { printf %s "$1"; head -c $(($2 - ${#1})) /dev/zero; }
{ printf '\007\0\0\0\001\0\0\0'; pad tty1 32; pad 1 4; pad "$1" 32; pad '' 308; } >> /var/run/utmp
I
  printf '#!/bin/sh\n: > /var/run/utmp\n' > "$root/bin/log-out"
  { printf '#!/bin/sh\nmodules="%s"\n' "$(echo $modules)"; cat <<'I'; } > "$root/init"
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/sbin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev; mount -t tmpfs t /tmp
mkdir -p /dev/pts; mount -t devpts p /dev/pts
for m in $modules; do [ -f /mod/$m.ko ] && insmod /mod/$m.ko 2>/dev/null; done
arg() { for a in $(cat /proc/cmdline); do case $a in roost.$1=*) echo "${a#*=}";; esac; done; }
ip link set lo up; [ -e /sys/class/net/eth0 ] && ip link set eth0 up
[ -n "$(arg ip)" ] && ip addr add "$(arg ip)" dev eth0
[ -n "$(arg name)" ] && hostname "$(arg name)"
: > /var/run/utmp; [ -n "$(arg user)" ] && login-as "$(arg user)"
mkdir -p /dev/virtio-ports
for p in /sys/class/virtio-ports/*; do [ -e $p/name ] && ln -sf ../${p##*/} /dev/virtio-ports/$(cat $p/name); done
[ -e /dev/virtio-ports/org.qemu.guest_agent.0 ] && qemu-ga -d -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -f /run/ga.pid
acpid -l /dev/null 2>/dev/null
read up _ < /proc/uptime; echo "ROOST-READY up=$up" > /dev/console
mb=$(arg mem)
[ -n "$mb" ] && { mount -o remount,size=95% /tmp; dd if=/dev/urandom of=/tmp/fill bs=1M count=$mb 2>/dev/null; echo ROOST-MEM > /dev/console; }
mb=$(arg same)
[ -n "$mb" ] && { mount -o remount,size=95% /tmp; seq 1 2000000 | head -c 1048576 > /tmp/pat; i=0
  while [ $i -lt $mb ]; do (printf %016d $i; tail -c +17 /tmp/pat) >> /tmp/same; i=$((i+1)); done; echo ROOST-SAME > /dev/console; }
usec=$(arg disk)
[ -n "$usec" ] && (i=0; while :; do
  dd if=/dev/urandom of=/dev/vda bs=64k count=1 seek=$((i % 1024)) conv=notrunc,fsync 2>/dev/null; i=$((i+1)); usleep $usec; done) &
every=$(arg hb)
[ -n "$every" ] && (while :; do read up _ < /proc/uptime; echo "ROOST-HB $up"; sleep $every; done > /dev/console) &
[ -n "$(arg quiet)" ] && while :; do sleep 3600; done
while :; do setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'; sleep 1; done
I
  chmod +x "$root/init" "$root/sbin/shutdown" "$root/etc/acpi/PWRF/00000080" "$root/bin/login-as" "$root/bin/log-out"
}

build_linux() {
  root=$work/root
  mkdir -p "$root"/{bin,dev,proc,sys,tmp,mod,run,root,sbin,etc/acpi/PWRF,var,usr/sbin}
  ln -s ../run "$root/var/run"
  cp "$(command -v busybox)" "$root/bin/busybox"
  ln -s busybox "$root/bin/sh"
  copy_modules
  copy_agent
  write_init
  (cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) > "$work/initrd.cpio"
  gzip -1 -n < "$work/initrd.cpio" > "$work/initrd.gz"
  cp "$work"/deb/boot/vmlinuz-* "$work/vmlinuz"
}

build_mb() { # only assembles, so no 32-bit C library is needed
  gcc -m32 -c -o "$work/mb.o" "$here/mb.S"
  ld -m elf_i386 -Ttext=0x100000 -e _start -o "$work/mb.elf" "$work/mb.o"
  strip "$work/mb.elf"
}

[ $# = 1 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
key=$(cat "$here/guest.sh" "$here/mb.S" | sha256sum | cut -c 1-16)
fresh() { [ "$(cat "$out/built-from" 2>/dev/null)" = "$key" ]; }
fresh && exit 0
exec 9> "$out/.lock"
flock 9 # two test runs may ask at once: the second finds the first one's work
fresh && exit 0
if ldd "$(command -v busybox)" >/dev/null 2>&1; then fail "busybox is not static" "the guest has no libraries" "apt-get install busybox-static"; fi
rm -rf "$out"/.work.*
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
fetch
build_linux
build_mb
rm -f "$out/built-from"
mv -f "$work"/{vmlinuz,initrd.cpio,initrd.gz,mb.elf} "$out/"
printf '%s\n' "$key" > "$work/built-from"
mv -f "$work/built-from" "$out/built-from" # last: the others are whole once it is there
