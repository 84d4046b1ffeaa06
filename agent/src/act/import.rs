//! Domain XML from outside: read into a small tree, held against a list of what is allowed, and written anew, so that
//! what libvirt reads is what was checked. Anything not on the list is refused by its path.

use std::fmt::Write;

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use roost_protocol::GuestId;

use super::xml::{self, Accelerator, MARKER};

/// Longest definition; libvirt's own of a rich guest has 10 KiB.
pub(crate) const TEXT: usize = 256 << 10;
/// Deepest nesting; libvirt's own has 7.
const DEPTH: usize = 32;
/// Most elements.
const ELEMENTS: usize = 10_000;

/// Elements that a definition may have, below `domain`, with the attributes each may have. `*` ends a path: any element
/// below that holds settings only. Left out on purpose: everything that names a file, a device of the host, a program or
/// its arguments, a label or a network address of the host, other than disks (see [`disk_paths`]).
const ALLOWED: &[(&str, &[&str])] = &[
    ("", &["type", "id"]),
    ("name", &[]),
    ("uuid", &[]),
    ("title", &[]),
    ("description", &[]),
    ("memory", &["unit"]),
    ("currentMemory", &["unit"]),
    ("vcpu", &["placement", "current"]),
    ("os", &["firmware"]),
    ("os/type", &["arch", "machine"]),
    ("os/boot", &["dev"]),
    ("os/bootmenu", &["enable", "timeout"]),
    ("features", &[]),
    ("features/acpi", &[]),
    ("features/apic", &["eoi"]),
    ("features/pae", &[]),
    ("features/vmport", &["state"]),
    ("features/hyperv", &["mode"]),
    ("features/hyperv/*", &["state", "retries", "value"]),
    ("features/tcg", &[]),
    ("features/tcg/tb-cache", &["unit"]),
    ("cpu", &["mode", "match", "check", "migratable"]),
    ("cpu/model", &["fallback"]),
    ("cpu/vendor", &[]),
    ("cpu/topology", &["sockets", "dies", "clusters", "cores", "threads"]),
    ("cpu/feature", &["policy", "name"]),
    ("clock", &["offset", "basis", "timezone"]),
    ("clock/timer", &["name", "tickpolicy", "present", "track"]),
    ("on_poweroff", &[]),
    ("on_reboot", &[]),
    ("on_crash", &[]),
    ("pm", &[]),
    ("pm/suspend-to-mem", &["enabled"]),
    ("pm/suspend-to-disk", &["enabled"]),
    ("devices", &[]),
    ("devices/emulator", &[]),
    ("devices/disk", &["type", "device"]),
    ("devices/disk/driver", &["name", "type", "cache", "io", "discard", "detect_zeroes"]),
    ("devices/disk/source", &["file", "index"]),
    ("devices/disk/target", &["dev", "bus", "rotation_rate"]),
    ("devices/disk/readonly", &[]),
    ("devices/disk/serial", &[]),
    ("devices/disk/boot", &["order"]),
    ("devices/disk/alias", &["name"]),
    ("devices/disk/address", ADDRESS),
    ("devices/controller", &["type", "index", "model", "ports", "vectors"]),
    ("devices/controller/model", &["name"]),
    ("devices/controller/target", &["chassis", "port", "hotplug"]),
    ("devices/controller/driver", &["queues"]),
    ("devices/controller/alias", &["name"]),
    ("devices/controller/address", ADDRESS),
    ("devices/interface", &["type"]),
    ("devices/interface/source", &["bridge", "network"]),
    ("devices/interface/mac", &["address"]),
    ("devices/interface/model", &["type"]),
    ("devices/interface/link", &["state"]),
    ("devices/interface/boot", &["order"]),
    ("devices/interface/alias", &["name"]),
    ("devices/interface/address", ADDRESS),
    ("devices/serial", &["type"]),
    ("devices/serial/target", &["type", "port"]),
    ("devices/serial/target/model", &["name"]),
    ("devices/serial/alias", &["name"]),
    ("devices/console", &["type"]),
    ("devices/console/target", &["type", "port"]),
    ("devices/console/alias", &["name"]),
    ("devices/channel", &["type"]),
    ("devices/channel/target", &["type", "name"]),
    ("devices/channel/alias", &["name"]),
    ("devices/channel/address", ADDRESS),
    ("devices/input", &["type", "bus"]),
    ("devices/input/alias", &["name"]),
    ("devices/input/address", ADDRESS),
    ("devices/video", &[]),
    ("devices/video/model", &["type", "ram", "vram", "vram64", "vgamem", "heads", "primary"]),
    ("devices/video/alias", &["name"]),
    ("devices/video/address", ADDRESS),
    ("devices/sound", &["model"]),
    ("devices/sound/alias", &["name"]),
    ("devices/sound/address", ADDRESS),
    ("devices/memballoon", &["model", "autodeflate", "freePageReporting"]),
    ("devices/memballoon/stats", &["period"]),
    ("devices/memballoon/alias", &["name"]),
    ("devices/memballoon/address", ADDRESS),
    ("devices/rng", &["model"]),
    ("devices/rng/backend", &["model"]),
    ("devices/rng/rate", &["bytes", "period"]),
    ("devices/rng/alias", &["name"]),
    ("devices/rng/address", ADDRESS),
    ("devices/watchdog", &["model", "action"]),
    ("devices/watchdog/alias", &["name"]),
    ("devices/watchdog/address", ADDRESS),
];
const ADDRESS: &[&str] =
    &["type", "domain", "bus", "slot", "function", "multifunction", "controller", "target", "unit", "port"];

/// Elements that are left out silently: the definition stands without them. The emulator is this host's own.
const DROPPED: &[&str] = &["metadata", "uuid", "devices/emulator", "resource"];

/// Attributes whose values are bound, by path.
const VALUES: &[(&str, &str, &[&str])] = &[
    ("devices/disk", "type", &["file"]),
    ("devices/disk", "device", &["disk", "cdrom"]),
    ("devices/disk/driver", "name", &["qemu"]),
    ("devices/disk/driver", "type", &["raw", "qcow2"]),
    ("devices/interface", "type", &["bridge", "network", "user"]),
    ("devices/serial", "type", &["pty"]),
    ("devices/console", "type", &["pty"]),
    ("devices/channel", "type", &["unix", "spicevmc"]),
    ("devices/channel/target", "type", &["virtio"]),
    ("devices/rng/backend", "model", &["random", "builtin"]),
    ("devices/input", "type", &["mouse", "keyboard", "tablet"]),
    ("devices/watchdog", "action", &["reset", "shutdown", "poweroff", "pause", "none", "inject-nmi"]),
];

/// Texts that are bound, by path: what else could be a file of the host.
const TEXTS: &[(&str, &[&str])] = &[
    (
        "devices/emulator",
        &["/usr/bin/qemu-system-x86_64", "/usr/bin/kvm", "/usr/bin/qemu-kvm", "/usr/libexec/qemu-kvm"],
    ),
    ("devices/rng/backend", &["/dev/urandom", "/dev/random", ""]),
];

/// Why a definition is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("the definition has {0} bytes; {TEXT} are allowed")]
    TooLong(usize),
    #[error("the definition is not well-formed XML: {0}")]
    Syntax(String),
    #[error("document types, processing instructions and entities are not allowed")]
    Doctype,
    #[error("the definition is nested too deeply or has too many elements")]
    Bounds,
    #[error("the definition must be one <domain>")]
    NotADomain,
    #[error("<{0}> is not allowed in an imported definition")]
    Element(String),
    #[error("attribute {name} of <{path}> is not allowed in an imported definition")]
    Attribute { path: String, name: String },
    #[error("{value:?} is not allowed as {what} of <{path}> in an imported definition")]
    Value { path: String, what: String, value: String },
    #[error("disk {0:?} must name its format: <driver name='qemu' type='raw' or 'qcow2'/>")]
    NoFormat(String),
    #[error("the definition has no name")]
    NoName,
    #[error("a text holds a character that XML can't carry")]
    Character,
}

/// One element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

impl Element {
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.attributes.retain(|(key, _)| key != name);
        self.attributes.push((name.into(), value.into()));
    }
}

/// One disk of a checked definition, whose path the caller must still check.
#[derive(Debug)]
pub(crate) struct ImportedDisk<'a> {
    pub(crate) path: String,
    pub(crate) format: String,
    source: &'a mut Element,
}

impl ImportedDisk<'_> {
    /// Puts the path that was checked in its place.
    pub(crate) fn set_path(&mut self, path: &str) {
        self.source.set("file", path);
    }
}

/// A definition that holds nothing but what is allowed.
#[derive(Debug)]
pub(crate) struct Definition(Element);

impl Definition {
    /// Reads and checks.
    pub(crate) fn parse(text: &str) -> Result<Self, ImportError> {
        if text.len() > TEXT {
            return Err(ImportError::TooLong(text.len()));
        }
        let mut root = tree(text)?;
        if root.name != "domain" {
            return Err(ImportError::NotADomain);
        }
        check(&root, "")?;
        drop_unwanted(&mut root, "");
        if root.child("name").is_none_or(|name| name.text.trim().is_empty()) {
            return Err(ImportError::NoName);
        }
        Ok(Self(root))
    }

    /// The name it asks for.
    pub(crate) fn name(&self) -> &str {
        self.0.child("name").map_or("", |name| name.text.trim())
    }

    /// Its disks with a file.
    pub(crate) fn disks(&mut self) -> Result<Vec<ImportedDisk<'_>>, ImportError> {
        let mut found = Vec::new();
        let devices = self.0.children.iter_mut().filter(|child| child.name == "devices");
        for disk in devices.flat_map(|devices| devices.children.iter_mut()).filter(|child| child.name == "disk") {
            let format = disk.child("driver").and_then(|driver| driver.attribute("type")).map(str::to_owned);
            for source in disk.children.iter_mut().filter(|child| child.name == "source") {
                let Some(path) = source.attribute("file").map(str::to_owned) else { continue };
                let format = format.clone().ok_or_else(|| ImportError::NoFormat(path.clone()))?;
                found.push(ImportedDisk { path, format, source });
            }
        }
        Ok(found)
    }

    /// The definition to give to libvirt: with this id, and run the way this host runs guests.
    pub(crate) fn finish(mut self, guest: GuestId, accelerator: Accelerator) -> Result<String, ImportError> {
        let root = &mut self.0;
        root.attributes.clear();
        root.set("type", accelerator.domain_type());
        let host_cpu = |child: &Element| {
            child.name == "cpu"
                && child
                    .attribute("mode")
                    .is_some_and(|mode| matches!(mode, "host-passthrough" | "host-model" | "maximum"))
        };
        let replace_cpu = accelerator == Accelerator::Tcg && root.children.iter().any(host_cpu);
        if replace_cpu {
            root.children.retain(|child| child.name != "cpu");
        }
        let mut out = String::with_capacity(8_192);
        let head = format!(
            "<uuid>{guest}</uuid><metadata><roost:guest xmlns:roost='{MARKER}'/></metadata>{}",
            if replace_cpu { accelerator.cpu() } else { "" }
        );
        write(&mut out, root, &head).ok_or(ImportError::Character)?;
        Ok(out)
    }
}

/// Reads XML within bounds.
pub(crate) fn tree(text: &str) -> Result<Element, ImportError> {
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let mut done: Option<Element> = None;
    let mut elements = 0;
    let syntax = |error: quick_xml::Error| ImportError::Syntax(error.to_string());
    loop {
        match reader.read_event().map_err(syntax)? {
            Event::Start(tag) => {
                elements += 1;
                if open.len() >= DEPTH || elements > ELEMENTS || done.is_some() {
                    return Err(ImportError::Bounds);
                }
                open.push(element(&tag)?);
            }
            Event::Empty(tag) => {
                elements += 1;
                if open.len() >= DEPTH || elements > ELEMENTS || done.is_some() {
                    return Err(ImportError::Bounds);
                }
                close(element(&tag)?, &mut open, &mut done);
            }
            Event::End(_) => {
                let ended = open.pop().ok_or(ImportError::NotADomain)?;
                close(ended, &mut open, &mut done);
            }
            Event::Text(part) => add_text(&mut open, &part.xml_content(XmlVersion::Implicit1_0))?,
            Event::CData(part) => add_text(&mut open, &part.xml_content(XmlVersion::Implicit1_0))?,
            Event::GeneralRef(reference) => {
                let text = format!("&{};", reference.xml_content(XmlVersion::Implicit1_0));
                let text = quick_xml::escape::unescape(&text).map_err(|_| ImportError::Doctype)?;
                add_text(&mut open, &text)?;
            }
            Event::Comment(_) | Event::Decl(_) => {}
            Event::DocType(_) | Event::PI(_) => return Err(ImportError::Doctype),
            Event::Eof => break,
        }
    }
    if open.is_empty() { done.ok_or(ImportError::NotADomain) } else { Err(ImportError::Syntax("cut short".into())) }
}

fn close(element: Element, open: &mut [Element], done: &mut Option<Element>) {
    match open.last_mut() {
        Some(parent) => parent.children.push(element),
        None => *done = Some(element),
    }
}

fn add_text(open: &mut [Element], text: &str) -> Result<(), ImportError> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(ImportError::NotADomain),
    }
    Ok(())
}

fn element(tag: &BytesStart<'_>) -> Result<Element, ImportError> {
    let mut element = Element { name: tag.name().0.to_owned(), ..Element::default() };
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| ImportError::Syntax(error.to_string()))?;
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|_| ImportError::Doctype)?;
        element.attributes.push((attribute.key.0.to_owned(), value.into_owned()));
    }
    Ok(element)
}

fn check(element: &Element, path: &str) -> Result<(), ImportError> {
    let allowed = ALLOWED.iter().find(|(known, _)| matches_path(known, path));
    let (_, attributes) = allowed.ok_or_else(|| ImportError::Element(path.into()))?;
    for (name, value) in &element.attributes {
        // Namespace declarations carry nothing by themselves and are not written again.
        let harmless = path.is_empty() && name.starts_with("xmlns");
        if !harmless && !attributes.contains(&name.as_str()) {
            return Err(ImportError::Attribute { path: path.into(), name: name.clone() });
        }
        let bound = VALUES.iter().find(|(known, key, _)| *known == path && key == name);
        if bound.is_some_and(|(_, _, values)| !values.contains(&value.as_str())) {
            return Err(ImportError::Value { path: path.into(), what: name.clone(), value: value.clone() });
        }
    }
    let text = element.text.trim();
    if TEXTS.iter().any(|(known, texts)| *known == path && !texts.contains(&text)) {
        return Err(ImportError::Value { path: path.into(), what: "content".into(), value: text.into() });
    }
    for child in &element.children {
        let below = below(path, &child.name);
        if below == "metadata" || below == "resource" {
            continue;
        }
        check(child, &below)?;
    }
    Ok(())
}

fn matches_path(known: &str, path: &str) -> bool {
    match known.strip_suffix('*') {
        Some(folder) => path.strip_prefix(folder).is_some_and(|rest| !rest.is_empty()),
        None => known == path,
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}

fn drop_unwanted(element: &mut Element, path: &str) {
    element.children.retain(|child| !DROPPED.contains(&below(path, &child.name).as_str()));
    element.children.retain(|child| child.name != "alias" && !(path == "devices/disk" && child.name == "index"));
    for child in &mut element.children {
        let path = below(path, &child.name);
        drop_unwanted(child, &path);
    }
}

/// `None` when a text can't be written. `head` goes right behind the opening tag.
pub(crate) fn write(out: &mut String, element: &Element, head: &str) -> Option<()> {
    out.push('<');
    out.push_str(&element.name);
    for (name, value) in &element.attributes {
        // Writing into a String can't fail.
        let _ = write!(out, " {name}='{}'", xml::escape(value)?);
    }
    out.push('>');
    out.push_str(head);
    let text = element.text.trim();
    out.push_str(&xml::escape(text)?);
    for child in &element.children {
        write(out, child, "")?;
    }
    let _ = write!(out, "</{}>", element.name);
    Some(())
}

#[cfg(test)]
mod test {
    use super::*;

    fn with(inside: &str, devices: &str) -> String {
        format!(
            "<?xml version='1.0'?><!-- c --><domain type='kvm' id='3' xmlns:qemu='http://x'><name>a &amp; b</name>\
             <uuid>11111111-1111-1111-1111-111111111111</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><cpu mode='host-passthrough'/>{inside}\
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices></domain>"
        )
    }

    const DISK: &str = "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='a.qcow2'/>\
                        <target dev='vda' bus='virtio'/></disk>";

    fn refused(inside: &str, devices: &str, word: &str) {
        let error = Definition::parse(&with(inside, devices)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }

    #[test]
    fn an_honest_definition_is_taken_and_gets_its_id_and_our_way_to_run() {
        let mut definition = Definition::parse(&with("<metadata><x/></metadata>", DISK)).unwrap();
        assert_eq!(definition.name(), "a & b");
        let mut disks = definition.disks().unwrap();
        assert_eq!((disks.len(), disks[0].path.as_str(), disks[0].format.as_str()), (1, "a.qcow2", "qcow2"));
        disks[0].set_path("/images/a.qcow2");
        let xml = definition.finish(GuestId::from_u128(5), Accelerator::Tcg).unwrap();
        assert!(xml.starts_with("<domain type='qemu'><uuid>00000000-0000-0000-0000-000000000005</uuid>"), "{xml}");
        assert!(xml.contains("<name>a &amp; b</name>") && xml.contains("file='/images/a.qcow2'"), "{xml}");
        assert!(xml.contains("qemu64") && !xml.contains("host-passthrough"), "{xml}");
        assert!(!xml.contains("11111111") && !xml.contains("<x>") && !xml.contains("emulator"), "{xml}");
    }

    #[test]
    fn what_reaches_the_host_is_refused() {
        refused("<qemu:commandline><qemu:arg value='-x'/></qemu:commandline>", "", "qemu:commandline");
        refused("<seclabel type='none'/>", "", "seclabel");
        refused("<memoryBacking><source type='file'/></memoryBacking>", "", "memoryBacking");
        refused("", "<hostdev mode='subsystem' type='pci'/>", "hostdev");
        refused("", "<filesystem type='mount'/>", "filesystem");
        refused("", "<shmem name='x'/>", "shmem");
        refused("", "<graphics type='vnc'/>", "graphics");
        refused("", "<serial type='file'><source path='/etc/x'/></serial>", "serial");
        refused("", "<serial type='pty'><source path='/etc/x'/></serial>", "devices/serial/source");
        refused("", "<rng model='virtio'><backend model='random'>/etc/shadow</backend></rng>", "/etc/shadow");
        refused("", "<rng model='virtio'><backend model='egd' type='tcp'/></rng>", "rng");
        refused("", "<interface type='direct'><source dev='eth0'/></interface>", "direct");
        refused("", "<interface type='vhostuser'/>", "vhostuser");
        let error = Definition::parse(&with("", "").replace("/usr/bin/qemu-system-x86_64", "/tmp/evil")).unwrap_err();
        assert!(error.to_string().contains("/tmp/evil"));
        assert!(Definition::parse(&with("<os><loader>/x</loader></os>", "")).is_err());
    }

    #[test]
    fn disks_by_network_device_or_chain_are_refused() {
        refused("", "<disk type='network' device='disk'/>", "network");
        refused("", "<disk type='block' device='disk'/>", "block");
        refused("", "<disk type='file' device='lun'/>", "lun");
        refused("", &DISK.replace("<target", "<backingStore type='file'/><target"), "backingStore");
        refused("", &DISK.replace("<target", "<mirror/><target"), "mirror");
        refused("", &DISK.replace("file='a.qcow2'", "file='a' startupPolicy='optional'"), "startupPolicy");
        refused("", &DISK.replace("'qcow2'/>", "'vmdk'/>"), "vmdk");
        let mut definition = Definition::parse(&with("", &DISK.replace(" type='qcow2'", ""))).unwrap();
        assert!(matches!(definition.disks(), Err(ImportError::NoFormat(_))));
    }

    #[test]
    fn bombs_are_refused() {
        let check = |text: &str, error| assert_eq!(Definition::parse(text).err(), Some(error));
        check("<!DOCTYPE d [<!ENTITY a 'b'>]><domain/>", ImportError::Doctype);
        check("<domain>&a;</domain>", ImportError::Doctype);
        check("<domain x='&a;'/>", ImportError::Doctype);
        check("<?php x?><domain/>", ImportError::Doctype);
        check(&"<a>".repeat(1_000), ImportError::Bounds);
        check(&format!("<domain>{}</domain>", "<a/>".repeat(20_000)), ImportError::Bounds);
        check(&"x".repeat(TEXT + 1), ImportError::TooLong(TEXT + 1));
        check("<domain/><domain/>", ImportError::Bounds);
        check("<network/>", ImportError::NotADomain);
        check("", ImportError::NotADomain);
        check("<domain/>", ImportError::NoName);
        assert!(matches!(Definition::parse("<domain><name>"), Err(ImportError::Syntax(_))));
        assert!(matches!(Definition::parse("<domain></name>"), Err(ImportError::Syntax(_))));
    }
}
