//! Where our objects stand. ROOST-MIB's text holds the enterprise number; it is read from there, so that it stands once.

/// The text of ROOST-MIB, as it is installed for managers.
pub const ROOST_MIB: &str = include_str!("../../mibs/ROOST-MIB.txt");

/// The number under `enterprises`. RFC 5612's documentation number until IANA gave the project one.
pub const ENTERPRISE: u32 = number_after(ROOST_MIB.as_bytes(), b"::= { enterprises ");

/// VM-MIB, RFC 7666.
pub const VM: [u32; 7] = [1, 3, 6, 1, 2, 1, 236];
/// ROOST-MIB.
pub const ROOST: [u32; 8] = [1, 3, 6, 1, 4, 1, ENTERPRISE, 236];

/// The decimal number behind the first `mark`; 0 where there is none, which a test forbids.
const fn number_after(text: &[u8], mark: &[u8]) -> u32 {
    let mut at = 0;
    while at + mark.len() < text.len() {
        let mut same = 0;
        while same < mark.len() && text[at + same] == mark[same] {
            same += 1;
        }
        if same == mark.len() {
            let mut number: u32 = 0;
            at += same;
            while at < text.len() && text[at].is_ascii_digit() {
                // A widening, which `u32::from` may not do in a const.
                number = number * 10 + (text[at] - b'0') as u32;
                at += 1;
            }
            return number;
        }
        at += 1;
    }
    0
}

#[cfg(test)]
mod test {
    #[test]
    fn the_enterprise_number_stands_once() {
        assert_ne!(super::ENTERPRISE, 0);
        let number = format!("::= {{ enterprises {} }}", super::ENTERPRISE);
        assert_eq!(super::ROOST_MIB.matches(&number).count(), 1);
        assert_eq!(super::ROOST_MIB.matches(&super::ENTERPRISE.to_string()).count(), 1);
    }
}
