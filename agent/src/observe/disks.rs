//! The disks in a domain's XML.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use roost_protocol::guest::Disk;
use roost_protocol::message::TEXT;

use super::translate::cut;

/// Most disks that are shown of one domain; QEMU's own limit is far below.
const DISKS: usize = 64;

/// Disks of the domain; of nonsense, what was found before it.
pub(crate) fn disks(xml: &str) -> Vec<Disk> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    let mut found = Vec::new();
    let mut current = Disk::default();
    loop {
        match reader.read_event() {
            Ok(Event::Start(tag)) => {
                visit(&path, &tag, &mut current);
                path.push(tag.name().0.to_owned());
            }
            Ok(Event::Empty(tag)) => visit(&path, &tag, &mut current),
            Ok(Event::End(_)) => {
                if path == ["domain", "devices", "disk"] {
                    found.push(std::mem::take(&mut current));
                }
                if path.pop().is_none() || found.len() >= DISKS {
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

fn visit(path: &[String], tag: &BytesStart<'_>, disk: &mut Disk) {
    if path != ["domain", "devices", "disk"] {
        return;
    }
    let value = |names: &[&str]| {
        let mut attributes = tag.attributes().flatten();
        let found = attributes.find(|attribute| names.contains(&attribute.key.0))?;
        found.normalized_value(XmlVersion::Implicit1_0).ok().map(|value| cut(&value, TEXT))
    };
    match tag.name().0 {
        "driver" => disk.format = value(&["type"]).unwrap_or_default(),
        "source" => disk.path = value(&["file", "dev", "dir", "volume", "name"]).unwrap_or_default(),
        "target" => disk.target = value(&["dev"]).unwrap_or_default(),
        _ => {}
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn disks_are_read_from_the_definition_and_not_from_its_backing_chain() {
        let xml = "<domain><name>x</name><devices><disk type='file'><driver name='qemu' type='qcow2'/>\
             <source file='/a&amp;b'><x/></source><backingStore type='file'><format type='raw'/><source file='/no'/>\
             </backingStore><target dev='vda'/></disk><disk type='file' device='cdrom'><target dev='sda'/></disk>\
             <controller><target dev='zz'/></controller></devices></domain>";
        let disk = |target: &str, path: &str, format: &str| Disk {
            target: target.into(),
            path: path.into(),
            format: format.into(),
        };
        assert_eq!(disks(xml), [disk("vda", "/a&b", "qcow2"), disk("sda", "", "")]);
    }

    #[test]
    fn nonsense_gives_nothing() {
        for text in
            ["", "<", "</a>", "<!DOCTYPE x><domain/>", "<domain><devices><disk></domain>", &"<disk>".repeat(99_999)]
        {
            assert!(disks(text).is_empty());
        }
    }
}
