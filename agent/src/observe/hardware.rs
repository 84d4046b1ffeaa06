//! Disks, network cards, bound CPUs and the operating system in a domain's XML.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use roost_protocol::message::TEXT;

use super::translate::cut;
use crate::detail::{Card, Drive, Hardware};

/// Most disks, and most network cards, that are shown of one domain.
const DEVICES: usize = 64;
/// Most bound CPUs that are shown of one domain, and the highest number of a physical one.
const PINS: usize = 256;
const CPUS: u32 = 1_024;

/// libvirt's own definitions are less than 10 deep.
const DEPTH: usize = 64;

/// Of nonsense, what was found before it.
pub(super) fn hardware(xml: &str) -> Hardware {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    let mut found = Hardware::default();
    let (mut drive, mut card) = (Drive::default(), Card::default());
    loop {
        match reader.read_event() {
            Ok(Event::Start(tag)) => {
                visit(&path, &tag, &mut found, &mut drive, &mut card);
                path.push(tag.name().0.to_owned());
                if path.len() > DEPTH {
                    return found;
                }
            }
            Ok(Event::Empty(tag)) => visit(&path, &tag, &mut found, &mut drive, &mut card),
            Ok(Event::End(_)) => {
                if path == ["domain", "devices", "disk"] && found.disks.len() < DEVICES {
                    found.disks.push(std::mem::take(&mut drive));
                } else if path == ["domain", "devices", "interface"] && found.nics.len() < DEVICES {
                    found.nics.push(std::mem::take(&mut card));
                }
                if path.pop().is_none() {
                    return found;
                }
            }
            Ok(Event::Eof | Event::DocType(_)) | Err(_) => return found,
            Ok(
                Event::Text(_)
                | Event::CData(_)
                | Event::Comment(_)
                | Event::Decl(_)
                | Event::PI(_)
                | Event::GeneralRef(_),
            ) => {}
        }
    }
}

fn visit(path: &[String], tag: &BytesStart<'_>, found: &mut Hardware, drive: &mut Drive, card: &mut Card) {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let name = tag.name().0;
    match (&path[..], name) {
        (["domain", "devices"], "disk") => {
            *drive = Drive { kind: value(tag, &["type"]), device: value(tag, &["device"]), ..Drive::default() };
        }
        (["domain", "devices"], "interface") => *card = Card::default(),
        (["domain", "devices", "disk"], _) => visit_disk(name, tag, drive),
        (["domain", "devices", "interface"], "mac") => card.mac = value(tag, &["address"]),
        (["domain", "devices", "interface"], "source") => card.bridge = value(tag, &["bridge", "dev"]),
        (["domain", "devices", "interface"], "target") => card.target = value(tag, &["dev"]),
        (["domain", "devices", "interface"], "model") => card.model = value(tag, &["type"]),
        (["domain", "cputune"], "vcpupin") => pin(tag, found),
        (["domain", "metadata", _], "libosinfo:os") => found.os = os(&value(tag, &["id"])),
        _ => {}
    }
}

fn visit_disk(name: &str, tag: &BytesStart<'_>, drive: &mut Drive) {
    match name {
        "driver" => drive.format = value(tag, &["type"]),
        "source" => drive.path = value(tag, &["file", "dev", "dir", "volume", "name"]),
        "target" => (drive.target, drive.bus) = (value(tag, &["dev"]), value(tag, &["bus"])),
        "readonly" => drive.read_only = true,
        _ => {}
    }
}

fn value(tag: &BytesStart<'_>, names: &[&str]) -> String {
    let mut attributes = tag.attributes().flatten();
    let found = attributes.find(|attribute| names.contains(&attribute.key.0));
    let value =
        found.and_then(|attribute| attribute.normalized_value(XmlVersion::Implicit1_0).ok().map(|v| cut(&v, TEXT)));
    value.unwrap_or_default()
}

fn pin(tag: &BytesStart<'_>, found: &mut Hardware) {
    if let Ok(vcpu) = value(tag, &["vcpu"]).parse()
        && found.pins.len() < PINS
    {
        found.pins.push((vcpu, cpu_set(&value(tag, &["cpuset"]))));
    }
}

/// libvirt's `0-3,^2,8`.
fn cpu_set(text: &str) -> Vec<u32> {
    let mut all = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (without, part) = part.strip_prefix('^').map_or((false, part), |part| (true, part));
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) else { continue };
        let range = first..=last.min(CPUS);
        if without {
            range.for_each(|cpu| {
                all.remove(&cpu);
            });
        } else {
            all.extend(range);
        }
    }
    all.into_iter().collect()
}

/// `http://debian.org/debian/12` is told as `debian 12`.
fn os(id: &str) -> String {
    let mut parts = id.rsplit('/');
    match (parts.next(), parts.next()) {
        (Some(version), Some(name)) if !name.is_empty() => format!("{name} {version}"),
        (last, _) => last.unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn hardware_is_read_from_a_definition() {
        let xml = "<domain><metadata><libosinfo:libosinfo xmlns:libosinfo='x'><libosinfo:os id='http://debian.org/debian/12'/>\
            </libosinfo:libosinfo></metadata><cputune><vcpupin vcpu='1' cpuset='0-3,^2,8'/></cputune><devices>\
            <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/a.iso'/><backingStore>\
            <source file='/no'/></backingStore><target dev='sda' bus='sata'/><readonly/></disk>\
            <disk type='block'><target dev='vda'/></disk>\
            <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><target dev='vnet3'/>\
            <model type='virtio'/></interface></devices></domain>";
        let found = hardware(xml);
        assert_eq!((found.os.as_str(), &found.pins[..]), ("debian 12", &[(1, vec![0, 1, 3, 8])][..]));
        let cdrom = Drive {
            kind: "file".into(),
            device: "cdrom".into(),
            format: "raw".into(),
            path: "/a.iso".into(),
            target: "sda".into(),
            bus: "sata".into(),
            read_only: true,
        };
        assert_eq!(found.disks[0], cdrom);
        assert_eq!((found.disks.len(), found.disks[1].kind.as_str(), found.disks[1].path.as_str()), (2, "block", ""));
        let card = Card {
            mac: "52:54:00:00:00:01".into(),
            bridge: "br0".into(),
            target: "vnet3".into(),
            model: "virtio".into(),
            ..Card::default()
        };
        assert_eq!(found.nics, [card]);
    }

    #[test]
    fn nonsense_gives_nothing_and_takes_no_room() {
        for text in ["", "<", "<domain><devices><disk></domain>", &"<interface>".repeat(99_999)] {
            assert_eq!(hardware(text), Hardware::default());
        }
        assert_eq!(cpu_set("0-4294967295").len(), 1_025);
        assert!(cpu_set("x,-,5-2").is_empty());
    }
}
