//! Real grids: real programs, real libvirt and QEMU, hosts in namespaces. Run as root with ROOST_REAL=1, one at a time.

mod afar;
mod at_once;
mod backup;
mod clocks;
mod crowd;
mod discovery;
mod disks;
mod driven;
mod encrypted;
mod faults;
mod frozen;
mod halfway;
mod hostile;
mod joining;
mod lifecycle;
mod memory;
mod monitoring;
mod notified;
mod peers;
mod proof;
mod rogue;
mod slow;
mod storm;
mod survival;
mod xmlrpc;
