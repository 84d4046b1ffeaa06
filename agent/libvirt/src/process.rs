//! Which process is the QEMU of which domain.
//!
//! libvirt's API does not tell. Its pid files (`/run/libvirt/qemu/NAME.pid`) hang on the state directory and on the
//! domain's name, and outlive a killed QEMU; the `-uuid` on QEMU's command line is always there, for every driver root.

use crate::{Uuid, uuid_parse};
use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

/// Most bytes of a command line that are read; libvirt writes `-uuid` in the first few KiB of about 5 to 20.
const MOST_BYTES: u64 = 256 * 1024;
/// Most processes that are looked at (the kernel's default `pid_max` on 64 bits is this many).
const MOST_PROCESSES: usize = 4 * 1024 * 1024;

/// All running QEMUs by the UUID of their domain, from one walk over `/proc` (about 20 µs a process). Processes that
/// end meanwhile are passed over, as are those we may not read. Of two with the same UUID the older number is kept.
pub fn qemu_pids() -> BTreeMap<Uuid, u32> {
    scan(Path::new("/proc"))
}

/// The QEMU of one domain; [`qemu_pids`] is cheaper for many.
pub fn qemu_pid(uuid: &Uuid) -> Option<u32> {
    qemu_pids().remove(uuid)
}

fn scan(proc: &Path) -> BTreeMap<Uuid, u32> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(proc) else { return found };
    for entry in entries.flatten().take(MOST_PROCESSES) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some(uuid) = command_line(&entry.path()).as_deref().and_then(domain_of) else { continue };
        found.entry(uuid).and_modify(|known: &mut u32| *known = pid.min(*known)).or_insert(pid);
    }
    found
}

fn command_line(process: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(process.join("cmdline")).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The domain whose QEMU has this command line (arguments end in NUL). Other programs may carry a `-uuid` too, so the
/// program must be named like a QEMU.
fn domain_of(command_line: &[u8]) -> Option<Uuid> {
    let mut arguments = command_line.split(|byte| *byte == 0);
    let program = arguments.next()?.rsplit(|byte| *byte == b'/').next()?;
    if !program.starts_with(b"qemu") && !program.starts_with(b"kvm") {
        return None;
    }
    arguments.find(|argument| *argument == b"-uuid")?;
    uuid_parse(arguments.next()?)
}

#[cfg(test)]
mod test {
    use super::{domain_of, scan};
    use std::fs;

    const UUID: &[u8] = b"11111111-1111-1111-1111-111111111111";

    #[test]
    fn only_a_qemu_with_a_uuid_is_a_domain() {
        let check = |line: &[&[u8]], found: bool| assert_eq!(domain_of(&line.join(&0)), found.then_some([0x11; 16]));
        check(&[b"/usr/bin/qemu-system-x86_64", b"-name", b"guest=a", b"-uuid", UUID, b"-smp", b"1", b""], true);
        check(&[b"kvm", b"-uuid", UUID], true);
        check(&[b"/usr/bin/grep", b"-uuid", UUID], false);
        check(&[b"qemu-system-x86_64", b"-uuid"], false);
        check(&[b"qemu-system-x86_64", b"-uuid", b"\xff\xfe"], false);
        check(&[b""], false);
    }

    #[test]
    fn processes_that_end_meanwhile_are_passed_over() {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("41")).unwrap();
        fs::create_dir(proc.path().join("self")).unwrap();
        for pid in ["43", "42"] {
            fs::create_dir(proc.path().join(pid)).unwrap();
            fs::write(proc.path().join(pid).join("cmdline"), [b"qemu\0-uuid\0", UUID, b"\0"].concat()).unwrap();
        }
        assert_eq!(scan(proc.path()).into_iter().collect::<Vec<_>>(), [([0x11; 16], 42)]);
        assert!(scan(&proc.path().join("none")).is_empty());
    }
}
