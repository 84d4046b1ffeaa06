//! Backups of real guests under a libvirtd of the test's own; `ROOST_REAL=1` and root are needed.

mod broken;
mod lab;
mod memory;
mod whole;
