//! Echo requests (RFC 792, RFC 4443) and ARP (RFC 826): whether there is a system with this address at all, whatever runs
//! in it. Both need a socket of root's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;

/// Longest answer that is looked at: an IPv4 header with all its options, and ours behind it.
const ANSWER: usize = 128;
/// What an echo request carries, so that no other one's answer is taken for ours.
type Token = [u8; 8];
type Mac = [u8; 6];
/// Ethernet header and ARP for IPv4.
type Frame = [u8; 42];

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet, IPv4, and the lengths of their addresses.
const ARP_KIND: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];

/// Waits for an answer to an echo request, for ever.
///
/// # Errors
/// No way there, or no right to ask.
pub(super) async fn echo(address: IpAddr) -> io::Result<()> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    // From now on it hears nobody else.
    socket.connect(&SockAddr::from(SocketAddr::new(address, 0)))?;
    let mut token = Token::default();
    SystemRandom::new().fill(&mut token).map_err(|_| io::Error::other("the system gives no random bytes"))?;
    let six = address.is_ipv6();
    exchange(socket, &echo_request(six, token), |packet| is_echo_reply(six, token, packet)).await
}

/// Waits for an ARP answer, for ever: one that a system on the same network gives, whatever its firewall drops.
///
/// # Errors
/// The address is on no network of this host, or no right to ask.
pub(super) async fn arp(address: IpAddr) -> io::Result<()> {
    let IpAddr::V4(address) = address else { return Err(io::Error::other("ARP is of IPv4")) };
    let (link, mac, own) = link_to(address)?;
    let protocol = i32::from(u16::from_ne_bytes(ETHERTYPE_ARP));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol)))?;
    bind(socket.as_raw_fd(), &link)?;
    exchange(socket, &arp_request(mac, own, address), |frame| is_arp_reply(address, frame)).await
}

/// Sends one packet, and reads until the answer came.
async fn exchange(socket: Socket, request: &[u8], answers: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Tokio has no raw sockets. It sends and receives by descriptor, whatever the socket is of.
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(request).await?;
    let mut heard = [0; ANSWER];
    loop {
        let length = socket.recv(&mut heard).await?;
        if heard.get(..length).is_some_and(&answers) {
            return Ok(());
        }
    }
}

fn echo_request(six: bool, token: Token) -> [u8; 16] {
    let mut packet = [0; 16];
    packet[0] = if six { 128 } else { 8 };
    packet[8..].copy_from_slice(&token);
    // The kernel makes that of IPv6, which counts addresses too.
    let sum = if six { [0; 2] } else { checksum(&packet) };
    packet[2..4].copy_from_slice(&sum);
    packet
}

/// Of an ICMP packet, the checksum's own place being zero (RFC 1071).
fn checksum(packet: &[u8]) -> [u8; 2] {
    let words = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}

/// The kernel gives IPv4 packets with their header, and those of IPv6 without.
fn is_echo_reply(six: bool, token: Token, packet: &[u8]) -> bool {
    let header = match packet.first() {
        Some(first) if !six => usize::from(first & 0xf) * 4,
        _ => 0,
    };
    let reply = if six { 129 } else { 0 };
    packet.get(header..).is_some_and(|icmp| icmp.first() == Some(&reply) && icmp.get(8..) == Some(&token))
}

/// The network of this host that the address is on, with this host's own two addresses there.
fn link_to(address: Ipv4Addr) -> io::Result<(LinkAddr, Mac, Ipv4Addr)> {
    let all: Vec<_> = getifaddrs()?.collect();
    let on = all.iter().filter_map(|it| {
        let own = it.address.as_ref()?.as_sockaddr_in()?.ip();
        let mask = it.netmask.as_ref()?.as_sockaddr_in()?.ip();
        (own & mask == address & mask).then_some((mask, own, &it.interface_name))
    });
    let nearest = on.max_by_key(|(mask, ..)| *mask);
    let found = nearest.and_then(|(_, own, name)| {
        let links = all.iter().filter(|it| it.interface_name == *name);
        let link = *links.filter_map(|it| it.address.as_ref()?.as_link_addr()).next()?;
        Some((link, link.addr()?, own))
    });
    found.ok_or_else(|| io::Error::other("the address is on no network of this host"))
}

fn arp_request(mac: Mac, own: Ipv4Addr, wanted: Ipv4Addr) -> Frame {
    let parts: [&[u8]; 9] =
        [&[0xff; 6], &mac, &ETHERTYPE_ARP, &ARP_KIND, &ARP_REQUEST, &mac, &own.octets(), &[0; 6], &wanted.octets()];
    let mut frame = [0; 42];
    for (place, byte) in frame.iter_mut().zip(parts.concat()) {
        *place = byte;
    }
    frame
}

fn is_arp_reply(wanted: Ipv4Addr, frame: &[u8]) -> bool {
    let begins = [&ETHERTYPE_ARP[..], &ARP_KIND, &ARP_REPLY].concat();
    frame.get(12..22) == Some(&begins) && frame.get(28..32) == Some(&wanted.octets())
}

#[cfg(test)]
mod test {
    use super::*;

    const TOKEN: Token = *b"whoareyo";
    const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

    /// RFC 1071's own example, and that a receiver's sum over all comes to nothing.
    #[test]
    fn checksums_are_those_of_the_internet() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), [0x22, 0x0d]);
        assert_eq!(checksum(&echo_request(false, TOKEN)), [0, 0]);
    }

    #[test]
    fn only_the_reply_to_our_own_request_counts() {
        let mut four = [&[0x46; 24][..], &echo_request(false, TOKEN)].concat();
        assert!(!is_echo_reply(false, TOKEN, &four), "a request, as one hears one's own on the loopback");
        four[24] = 0;
        assert!(is_echo_reply(false, TOKEN, &four));
        assert!(!is_echo_reply(false, *b"anothers", &four));
        let mut six = echo_request(true, TOKEN);
        assert!(!is_echo_reply(true, TOKEN, &six));
        six[0] = 129;
        assert!(is_echo_reply(true, TOKEN, &six));
        for length in 0..four.len() {
            assert!(!is_echo_reply(false, TOKEN, &four[..length]), "cut short at {length}");
        }
    }

    #[test]
    fn who_has_the_address_is_known_by_its_reply() {
        let request = arp_request([2; 6], Ipv4Addr::new(192, 0, 2, 1), GUEST);
        assert!(!is_arp_reply(GUEST, &request));
        let mut reply = arp_request([3; 6], GUEST, Ipv4Addr::new(192, 0, 2, 1));
        reply[20..22].copy_from_slice(&ARP_REPLY);
        assert!(is_arp_reply(GUEST, &reply));
        assert!(!is_arp_reply(Ipv4Addr::new(192, 0, 2, 8), &reply));
        // Nobody was asked, but says who it is.
        assert!(!is_arp_reply(GUEST, &arp_request([3; 6], GUEST, GUEST)));
        for length in 0..32 {
            assert!(!is_arp_reply(GUEST, &reply[..length]), "cut short at {length}");
        }
    }

    #[test]
    fn an_address_far_away_is_on_no_network_here() {
        let why = link_to(Ipv4Addr::new(240, 0, 0, 7)).unwrap_err().to_string();
        assert!(why.contains("on no network"), "{why}");
    }
}
