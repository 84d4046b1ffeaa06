//! What tells a guest its new names: cloud-init's NoCloud seed, and an answer file for Windows, on one CD.

use std::fmt::Write;

use roost_protocol::GuestId;
use roost_protocol::backup::RestoreAs;

use super::iso;
use crate::act::xml::escape;

/// The label by which cloud-init knows its CD.
const LABEL: &str = "cidata";

/// The CD; none when there is nothing to say, or a name can't be written. Names were checked ([`RestoreAs::check`]).
pub(super) fn image(guest: GuestId, wanted: &RestoreAs) -> Option<Vec<u8>> {
    let RestoreAs::AsNew { hostname, windows_name, domain, .. } = wanted else { return None };
    let mut files: Vec<(&str, String)> = Vec::new();
    if let Some(hostname) = hostname {
        files.push(("meta-data", meta_data(guest, hostname)));
        files.push(("user-data", user_data(hostname, domain.as_deref())));
    }
    if windows_name.is_some() || (domain.is_some() && hostname.is_none()) {
        files.push(("autounattend.xml", answers(windows_name.as_deref(), domain.as_deref())?));
    }
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    (!files.is_empty()).then(|| iso::image(LABEL, &files))
}

/// A new instance: cloud-init then makes new host keys and runs once more.
fn meta_data(guest: GuestId, hostname: &str) -> String {
    format!("instance-id: {guest}\nlocal-hostname: {hostname}\n")
}

fn user_data(hostname: &str, domain: Option<&str>) -> String {
    let mut out = format!("#cloud-config\nhostname: {hostname}\npreserve_hostname: false\nmanage_etc_hosts: true\n");
    if let Some(domain) = domain {
        // Writing into a String can't fail.
        let _ = writeln!(out, "fqdn: {hostname}.{domain}");
    }
    out
}

/// Read by a Windows that was generalised (sysprep) when it starts next.
fn answers(name: Option<&str>, domain: Option<&str>) -> Option<String> {
    let component = |kind: &str, inside: &str| {
        format!(
            "    <component name=\"{kind}\" processorArchitecture=\"amd64\" publicKeyToken=\"31bf3856ad364e35\" \
             language=\"neutral\" versionScope=\"nonSxS\">\n{inside}    </component>\n"
        )
    };
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<unattend xmlns=\"urn:schemas-microsoft-com:unattend\">\n  \
         <settings pass=\"specialize\">\n",
    );
    if let Some(name) = name {
        let inside = format!("      <ComputerName>{}</ComputerName>\n", escape(name)?);
        out += &component("Microsoft-Windows-Shell-Setup", &inside);
    }
    if let Some(domain) = domain {
        // Whom it joins with is prepared in the directory: no password is written to a CD.
        let inside = format!(
            "      <Identification>\n        <UnsecureJoin>true</UnsecureJoin>\n        <JoinDomain>{}</JoinDomain>\n      \
             </Identification>\n",
            escape(domain)?
        );
        out += &component("Microsoft-Windows-UnattendedJoin", &inside);
    }
    out += "  </settings>\n</unattend>\n";
    Some(out)
}

#[cfg(test)]
mod test {
    use super::*;

    fn as_new(hostname: Option<&str>, windows: Option<&str>, domain: Option<&str>) -> RestoreAs {
        let own = |text: Option<&str>| text.map(str::to_owned);
        RestoreAs::AsNew { name: "n".into(), hostname: own(hostname), windows_name: own(windows), domain: own(domain) }
    }

    const ANSWERS: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<unattend xmlns="urn:schemas-microsoft-com:unattend">
  <settings pass="specialize">
    <component name="Microsoft-Windows-Shell-Setup" processorArchitecture="amd64" publicKeyToken="31bf3856ad364e35" language="neutral" versionScope="nonSxS">
      <ComputerName>DESK-7</ComputerName>
    </component>
    <component name="Microsoft-Windows-UnattendedJoin" processorArchitecture="amd64" publicKeyToken="31bf3856ad364e35" language="neutral" versionScope="nonSxS">
      <Identification>
        <UnsecureJoin>true</UnsecureJoin>
        <JoinDomain>ad.example.org</JoinDomain>
      </Identification>
    </component>
  </settings>
</unattend>
"#;

    #[test]
    fn answers_are_word_for_word_what_guests_read() {
        assert_eq!(answers(Some("DESK-7"), Some("ad.example.org")).unwrap(), ANSWERS);
        let guest = GuestId::from_u128(5);
        assert_eq!(
            meta_data(guest, "desk-7"),
            "instance-id: 00000000-0000-0000-0000-000000000005\nlocal-hostname: desk-7\n"
        );
        assert_eq!(
            user_data("desk-7", Some("example.org")),
            "#cloud-config\nhostname: desk-7\npreserve_hostname: false\nmanage_etc_hosts: true\nfqdn: desk-7.example.org\n"
        );
    }

    #[test]
    fn a_cd_is_made_only_when_there_is_something_to_say_and_holds_it() {
        let guest = GuestId::from_u128(5);
        assert_eq!(image(guest, &RestoreAs::AsItWas), None);
        assert_eq!(image(guest, &as_new(None, None, None)), None);
        let image = image(guest, &as_new(Some("desk-7"), Some("DESK-7"), Some("ad.example.org"))).unwrap();
        let find = |text: &str| image.windows(text.len()).position(|part| part == text.as_bytes());
        assert_eq!(
            (image.len() % 2_048, &image[32_769..32_774], &image[32_808..32_814]),
            (0, &b"CD001"[..], &b"cidata"[..])
        );
        assert!(find(ANSWERS).is_some_and(|at| at % 2_048 == 0) && find("local-hostname: desk-7").is_some());
        let joliet: Vec<u8> = "meta-data".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert!(image.windows(joliet.len()).any(|part| part == joliet));
    }
}
