//! Backups of real guests under a libvirtd of the test's own; `ROOST_REAL=1` and root are needed.

mod broken;
pub(crate) mod lab;
mod many;
pub(crate) mod memory;
mod whole;
