//! Which network card is in the bridge that host and guests share, and what systemd-networkd is told.

use std::fmt::Write;

use super::answers::Answers;

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Card {
    pub(super) name: String,
    /// As in 52:54:00:12:34:56.
    pub(super) address: String,
    /// There is a cable, and a switch behind it.
    pub(super) linked: bool,
}

/// The card that was named, by name or address; else the one that was booted by, else the first with a link, else the
/// first. Only one: two in a bridge may make a loop.
pub(super) fn uplink(cards: &[Card], wish: Option<&str>, booted: Option<&str>) -> Result<Card, String> {
    let named = |name: &str| {
        let address = name.replace('-', ":");
        cards.iter().find(|card| card.name == name || card.address.eq_ignore_ascii_case(&address)).cloned()
    };
    let Some(wish) = wish else {
        let chosen = booted.and_then(named).or_else(|| cards.iter().find(|card| card.linked).cloned());
        return chosen
            .or_else(|| cards.first().cloned())
            .ok_or_else(|| "there is no network card that a driver here knows".into());
    };
    named(wish).ok_or_else(|| {
        let known: Vec<String> = cards.iter().map(|card| format!("{} ({})", card.name, card.address)).collect();
        format!("there is no network card {wish}; there are: {}", known.join(", "))
    })
}

/// The address of the card that was booted by, where the boot loader tells it: `BOOTIF=01-52-54-00-12-34-56`, in which 01
/// is Ethernet.
pub(super) fn booted(line: &str) -> Option<&str> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix("BOOTIF=")?.strip_prefix("01-"))
}

/// systemd-networkd's file that puts the card into the bridge.
pub(super) fn uplink_file(card: &Card) -> String {
    format!("[Match]\nPermanentMACAddress={}\nType=ether\n[Network]\nBridge=br0\n", card.address)
}

/// systemd-networkd's file for the bridge: by DHCP, or as it was answered.
pub(super) fn bridge_file(answers: &Answers) -> String {
    let mut text =
        String::from("[Match]\nName=br0\n[Link]\nRequiredForOnline=routable\n[Network]\nLinkLocalAddressing=ipv6\n");
    // Writing into a String can't fail.
    let _ = match &answers.address {
        None => write!(text, "DHCP=yes\n[DHCPv4]\nClientIdentifier=mac\n"),
        Some(address) => {
            let line =
                |key: &str, value: &Option<String>| value.as_ref().map_or(String::new(), |v| format!("{key}={v}\n"));
            let (gateway, dns) = (line("Gateway", &answers.gateway), line("DNS", &answers.dns));
            write!(text, "Address={address}\n{gateway}{dns}")
        }
    };
    text
}

/// A name for a host that was given none: it stays the same, and is another on each machine.
pub(super) fn default_name(card: Option<&Card>) -> String {
    let digits: String =
        card.map_or(String::new(), |card| card.address.chars().filter(char::is_ascii_hexdigit).collect());
    match digits.get(digits.len().saturating_sub(6)..) {
        Some(end) if !end.is_empty() => format!("roost-{end}"),
        _ => "roost-host".into(),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn card(name: &str, address: &str) -> Card {
        Card { name: name.into(), address: address.into(), linked: false }
    }

    #[test]
    fn the_named_card_is_taken_then_the_one_booted_by_then_one_with_a_link_then_the_first() {
        let two = [card("eno1", "52:54:00:aa:bb:01"), card("eno2", "52:54:00:aa:bb:02")];
        let [first, second] = two.clone();
        let plugged = [first, Card { linked: true, ..second }];
        let check = |cards: &[Card], wish, booted, wanted: &str| {
            assert_eq!(uplink(cards, wish, booted).unwrap().name, wanted, "{wish:?} {booted:?}");
        };
        let (one, other) = (Some("52-54-00-aa-bb-01"), Some("52-54-00-AA-BB-02"));
        check(&two, None, None, "eno1");
        check(&two, Some("eno2"), one, "eno2");
        check(&two, Some("52:54:00:AA:BB:02"), None, "eno2");
        check(&two, other, None, "eno2");
        check(&two, None, other, "eno2");
        check(&plugged, None, None, "eno2");
        check(&plugged, None, one, "eno1");
        check(&plugged, Some("eno1"), None, "eno1");
        check(&plugged, None, Some("52-54-00-aa-bb-03"), "eno2");
        assert!(uplink(&two, Some("eno3"), one).unwrap_err().contains("eno2 (52:54:00:aa:bb:02)"));
        assert!(uplink(&[], None, one).unwrap_err().contains("no network card"));
    }

    #[test]
    fn a_boot_loader_tells_the_card_it_used() {
        let line = "vmlinuz initrd=initrd.img BOOTIF=01-52-54-00-aa-bb-02 quiet";
        assert_eq!(booted(line), Some("52-54-00-aa-bb-02"));
        for none in ["", "BOOTIF=", "BOOTIF=20-52-54-00-aa-bb-02", "XBOOTIF=01-52"] {
            assert_eq!(booted(none), None, "{none}");
        }
    }

    #[test]
    fn an_address_that_was_answered_is_used_instead_of_dhcp() {
        assert!(bridge_file(&Answers::default()).contains("DHCP=yes"));
        let fixed = |text: &str| Some(text.to_owned());
        let answers = Answers { address: fixed("10.0.0.7/24"), gateway: fixed("10.0.0.1"), ..Answers::default() };
        let text = bridge_file(&answers);
        assert!(text.contains("Address=10.0.0.7/24\nGateway=10.0.0.1\n") && !text.contains("DHCP"), "{text}");
    }

    #[test]
    fn a_host_without_a_name_is_named_after_its_card() {
        assert_eq!(default_name(Some(&card("e", "52:54:00:aa:bb:01"))), "roost-aabb01");
        assert_eq!(default_name(Some(&card("e", ""))), "roost-host");
        assert_eq!(default_name(None), "roost-host");
    }
}
