//! What changes only with a reboot, an upgrade or a new address.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use roost_libvirt::kvm::{self, KvmVerdict};
use roost_protocol::MiB;
use roost_protocol::host::{HostFacts, Virtualization};
use sysinfo::{Networks, System};

use super::proc;
/// What the distribution calls itself.
pub(crate) const OS_RELEASE: &str = "/etc/os-release";
/// UEFI's variable that says whether it starts only what is signed.
pub(crate) const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Addresses that are told; more say nothing to a person.
const ADDRESSES: usize = 16;

/// Facts of this host, without the hypervisor's version, which libvirt tells once it is there. Tries hardware
/// virtualisation: up to 130 ms.
pub(crate) fn facts(name: &str) -> HostFacts {
    let memory = System::new().map(|mut system| {
        system.refresh_memory();
        system.total_memory()
    });
    HostFacts {
        name: name.to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: boot_id(),
        cpus: std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_mib: MiB(memory.unwrap_or(0) >> 20),
        virtualization: match kvm::usable() {
            KvmVerdict::Hardware => Virtualization::Hardware,
            KvmVerdict::Software { why } => Virtualization::Software { why },
        },
        hypervisor: String::new(),
        kernel: System::kernel_version().unwrap_or_default(),
        addresses: addresses(),
        peer_listen: None,
        system: fs::read_to_string(OS_RELEASE).ok().and_then(|text| release(&text, "PRETTY_NAME")),
        image: None,
    }
}

/// What a line of os-release says: `KEY=word`, or in quotes.
pub(crate) fn release(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
}

/// The variable's file has its attributes in four bytes, then its value. Without UEFI there is none.
pub(crate) fn is_secure_boot(variable: &Path) -> bool {
    fs::read(variable).is_ok_and(|bytes| bytes.get(4..) == Some(&[1]))
}

/// Tells one boot from another: the kernel's boot id, and when the first process began, because in a container or a
/// test's namespace the kernel stays and the host boots all the same.
pub(crate) fn boot_id() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let init = fs::read("/proc/1/stat").ok().and_then(|stat| proc::process_start(&stat)).unwrap_or(0);
    format!("{}/{init}", kernel.trim())
}

/// Addresses by which others reach this host, in order.
pub(crate) fn addresses() -> Vec<String> {
    let Ok(networks) = Networks::new_with_refreshed_list() else { return Vec::new() };
    let all = networks.values().flat_map(|network| network.ip_networks()).map(|network| network.addr);
    let mut useful: Vec<_> = all.filter(useful).collect();
    useful.sort_unstable();
    useful.dedup();
    useful.into_iter().take(ADDRESSES).map(|address| address.to_string()).collect()
}

fn useful(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn secure_boot_is_on_where_firmware_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("SecureBoot");
        let says = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            is_secure_boot(&file)
        };
        assert!(says(&[6, 0, 0, 0, 1]));
        assert!(!says(&[6, 0, 0, 0, 0]) && !says(&[1]) && !says(b""));
        assert!(!is_secure_boot(&folder.path().join("none")));
    }

    #[test]
    fn lines_of_os_release_are_read_with_and_without_quotes() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nIMAGE_VERSION=\nNAME='Debian'\n";
        let word = |key: &str| release(text, key);
        assert_eq!(word("PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!((word("ID").as_deref(), word("NAME").as_deref()), (Some("debian"), Some("Debian")));
        assert_eq!((word("IMAGE_VERSION"), word("IMAGE")), (None, None));
    }
}
