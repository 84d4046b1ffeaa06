#!/bin/bash
# Prints libvirt's XML for a test guest of guest.sh.
#   domain.sh NAME DISK [MEM_MB] [APPEND] [SERIALFILE]   Linux guest; DISK is a qcow2 file, or - for none; 128 MB
#   domain.sh --mb NAME [MEM_MB] [APPEND] [SERIALFILE]   9 KB guest; 16 MB; APPEND as in mb.S, "h=100" when not given
# Environment: GUEST_DIR (where guest.sh built; default .lab-cache/guest of the checkout), GRAPHICS (none, vnc or spice; on a free
# port of 0.0.0.0), BRIDGE (a bridge for one network card), MACHINE (pc or q35), EXTRA (more XML for <devices>).
# With a SERIALFILE the guest only writes to its serial port (appending); without, there is a shell that `virsh console` reaches.
set -euo pipefail

usage() { sed -n '3,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
kind=linux
if [ "${1:-}" = --mb ]; then kind=mb; shift; set -- "${1:-}" - "${@:2}"; fi
[ -n "${1:-}" ] && [ -n "${2:-}" ] || usage

xml() { printf %s "$1" | sed "s/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g; s/'/\&apos;/g"; }
absolute() { xml "$(realpath -ms "$1")"; }
name=$1 disk=$2 append=${4:-} serial=${5:-}
images=$(absolute "${GUEST_DIR:-$here/../../.lab-cache/guest}")
sum=$(printf 'roost-%s' "$name" | md5sum)
uuid=${sum:0:8}-${sum:8:4}-4${sum:13:3}-8${sum:17:3}-${sum:20:12} # the same name gives the same guest
mac=52:54:00:${sum:0:2}:${sum:2:2}:${sum:4:2}

if [ $kind = linux ]; then
  memory=${3:-128} cache=32
  [ -z "$serial" ] || append="roost.quiet=1 $append"
  boot="<kernel>$images/vmlinuz</kernel><initrd>$images/initrd.cpio</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 roost.name=$(xml "$name") $(xml "$append")</cmdline>"
else
  memory=${3:-16} cache=1
  boot="<kernel>$images/mb.elf</kernel><cmdline>$(xml "${append:-h=100}")</cmdline>"
fi

port() { # serial port: to a file, or to whoever opens the console
  if [ -n "$serial" ]; then echo "<serial type='file'><source path='$(absolute "$serial")' append='on'/><target port='0'/></serial>"
  else echo "<serial type='pty'><target port='0'/></serial>"; fi
}
drive() {
  [ "$disk" = - ] && return
  echo "<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap' detect_zeroes='unmap'/>
      <source file='$(absolute "$disk")'/><target dev='vda' bus='virtio'/></disk>"
}
card() { [ -z "${BRIDGE:-}" ] || echo "<interface type='bridge'><source bridge='$(xml "$BRIDGE")'/><mac address='$mac'/><model type='virtio'/></interface>"; }
screen() {
  case ${GRAPHICS:-none} in
    none) echo "<video><model type='none'/></video>" ;;
    *) echo "<graphics type='$(xml "$GRAPHICS")' autoport='yes' listen='0.0.0.0'/><video><model type='vga' vram='4096'/></video>" ;;
  esac
}
helpers() { # what only a guest with drivers can use
  [ $kind = linux ] || { echo "<memballoon model='none'/>"; return; }
  echo "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='2'/></memballoon>"
}

# cx16 off: QEMU 7.2's interpreter breaks 6.12 kernels on cmpxchg16b. A small tb-cache: the default costs 100 MB and more a guest.
cat <<X
<domain type='qemu'>
  <name>$(xml "$name")</name><uuid>$uuid</uuid>
  <memory unit='MiB'>$memory</memory><currentMemory unit='MiB'>$memory</currentMemory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='${MACHINE:-pc}'>hvm</type>
    $boot</os>
  <features><acpi/><tcg><tb-cache unit='MiB'>$cache</tb-cache></tcg></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model><feature policy='disable' name='cx16'/></cpu>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    $(drive)
    $(card)
    $(port)
    $(screen)
    $(helpers)
    ${EXTRA:-}
  </devices>
</domain>
X
