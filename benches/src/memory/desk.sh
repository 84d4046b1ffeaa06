#!/bin/busybox sh
# An office day in minutes, begun before the test guest's own init: the programs of the image that all desks have, something of
# the desk's own, and over and over an idle while and a log-on, which takes memory, reads files and frees most of it at its end.
# On the kernel's command line: rdinit=/desk roost.desk=NUMBER roost.programs=MIB roost.own=MIB roost.idle=MIB
#   roost.work=LEAST-MOST MIB roost.files=MIB
b=/bin/busybox
# A shell opens /dev/null for what it leaves behind.
[ "$1" = day ] || { $b mknod /dev/null c 1 3; $b sh "$0" day & exec $b sh /init; }
until [ -b /dev/vda ] && $b grep -qs ' /tmp ' /proc/mounts; do $b sleep 1; done
arg() { for a in $($b cat /proc/cmdline); do case $a in roost.$1=*) echo "${a#*=}" ;; esac; done; }
desk=$(arg desk) programs=$(arg programs) own=$(arg own) idle=$(arg idle) work=$(arg work) files=$(arg files) seed=$(arg desk) on=0

# A number from $1 up to and without $2; the same desk has the same day each time.
some() { seed=$(((seed * 1103515245 + 12345) % 2147483648)); some=$((seed / 65536 % ($2 - $1) + $1)); }
# Fills file $1 with $2 MiB that nobody else has: the programs' bytes, so shifted that no page is any other's.
fill() {
  shift_by=$((2 + desk * 64 + on % 64)) left=$2
  while [ $left -gt 0 ]; do
    part=$((left < programs - 1 ? left : programs - 1))
    $b tail -c +$shift_by /tmp/programs | $b head -c $((part * 1048576))
    left=$((left - part)) shift_by=$((shift_by + 2048))
  done > "/tmp/$1"
}

$b mount -o remount,size=95% /tmp
$b dd if=/dev/vda of=/tmp/programs bs=1M count=$programs 2> /dev/null
echo 1 > /proc/sys/vm/drop_caches
fill own $own
echo "ROOST-DESK $desk" > /dev/console
while :; do
  on=$((on + 1))
  fill idle $idle
  some 30 60; $b sleep $some
  some "${work%-*}" "${work#*-}"; fill work $some
  $b dd if=/dev/vda of=/dev/null bs=1M skip=$programs count=$files 2> /dev/null
  echo "ROOST-WORK $on" > /dev/console
  some 20 40; $b sleep $some
  $b rm -f /tmp/work
  echo "ROOST-DAY $on" > /dev/console
done
