//! How tests of all rooms run programs and wait for what must come.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Generous, as the machine may be loaded.
const SOON: Duration = Duration::from_secs(120);

pub(crate) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An address of this process's own, so that servers of tests that run beside each other don't meet.
pub(crate) fn own_address() -> Ipv4Addr {
    let [.., third, second, first] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, third | 0x40, second, first.max(1))
}

/// Until somebody listens there; `kind`: `tcp` or `udp`.
pub(crate) fn until_listening(kind: &str, address: Ipv4Addr, port: u16) {
    // As the kernel lists it: the address as a number of this machine's byte order.
    let wanted = format!("{:08X}:{port:04X}", u32::from_ne_bytes(address.octets()));
    let lists = || fs::read_to_string(format!("/proc/net/{kind}")).unwrap().contains(&wanted);
    until(&format!("nobody listens at {address}:{port}"), lists);
}
