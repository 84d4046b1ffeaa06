//! This machine's names and addresses, for its certificate; read from /proc, because that needs no library.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use roost_protocol::identity::NAMES;

/// What a client may call this machine by: what the admin set, then what the machine says of itself.
pub(crate) fn names(public: &[String]) -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let host = read("/proc/sys/kernel/hostname");
    let mut addresses = v4(&read("/proc/net/fib_trie"));
    addresses.extend(v6(&read("/proc/net/if_inet6")));
    addresses.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    let own = ["localhost".to_owned(), host.trim().to_ascii_lowercase()];
    let mut names: Vec<String> = Vec::new();
    for name in public.iter().cloned().chain(own).chain(addresses.iter().map(IpAddr::to_string)) {
        if !name.is_empty() && !names.contains(&name) && names.len() < NAMES {
            names.push(name);
        }
    }
    names
}

/// Local addresses in the kernel's routing trie: an address on a line, then `/32 host LOCAL` on the next.
fn v4(trie: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in trie.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("|-- ") {
            last = text.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last.take().map(IpAddr::V4)
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// Lines begin with 32 hexadecimal digits. Link-local ones are good for nothing without their interface.
fn v6(lines: &str) -> Vec<IpAddr> {
    let bits = lines.lines().filter_map(|line| u128::from_str_radix(line.get(..32)?, 16).ok());
    bits.map(Ipv6Addr::from_bits).filter(|address| !address.is_unicast_link_local()).map(IpAddr::V6).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn local_addresses_are_found_and_networks_are_not() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.9.0.0\n        \
                    /24 link UNICAST\n     |-- 10.9.0.7\n        /32 host LOCAL\n     |-- 10.9.0.255\n        \
                    /32 link BROADCAST\n     |-- 10.9.0.7\n        /32 host LOCAL\n";
        assert_eq!(v4(trie), ["10.9.0.7".parse::<IpAddr>().unwrap()]);
        let lines =
            "20010db8000000000000000000000005 02 40 00 80 eth0\nfe800000000000000000000000000001 02 40 20 80 eth0\n";
        assert_eq!(v6(lines), ["2001:db8::5".parse::<IpAddr>().unwrap()]);
        assert_eq!(v6("short\n\u{1f989}"), Vec::<IpAddr>::new());
    }

    #[test]
    fn what_the_admin_set_comes_first_and_nothing_twice() {
        let names = names(&["grid.example.org".to_owned(), "localhost".to_owned()]);
        assert_eq!(names[0], "grid.example.org");
        assert_eq!(names.iter().filter(|name| *name == "localhost").count(), 1);
    }
}
