//! The definition of a guest that is booted only to see whether it starts: nothing of it reaches a network, a device of
//! the host, or a file of the guest it comes of. What is not known to be harmless is left out.

use std::path::Path;

use roost_libvirt::TRIAL;
use roost_protocol::operation::{Failure, FailureCode};

use crate::act::import::{self, Element};
use crate::act::{apart, failure};

/// The trial's name; libvirt names files after it.
pub(super) const NAME: &str = "roost-trial";
/// Memory it gets, MiB: what today's desktops start with, however much they have.
const MEMORY_MIB: u64 = 1_024;
const VCPUS: u64 = 2;
/// What stays of the domain itself.
const KEPT: [&str; 14] = [
    "name",
    "uuid",
    "genid",
    "memory",
    "vcpu",
    "iothreads",
    "sysinfo",
    "os",
    "features",
    "cpu",
    "clock",
    "pm",
    "on_crash",
    "devices",
];
/// What stays of its devices. No network card is among them, and nothing of the host.
const DEVICES: [&str; 8] = ["emulator", "disk", "controller", "input", "serial", "channel", "tpm", "panic"];
/// The channel of the guest's agent.
pub(super) const AGENT: &str = "org.qemu.guest_agent.0";

fn invalid(text: impl Into<String>) -> Failure {
    failure(FailureCode::Invalid, text)
}

/// The definition, isolated. Its disks must lie in `folder` already; its first serial port is written to `console`.
pub(super) fn isolate(xml: &str, folder: &Path, console: &Path) -> Result<String, Failure> {
    let mut root = import::tree(xml).map_err(|error| invalid(error.to_string()))?;
    root.attributes.retain(|(name, _)| name == "type");
    root.children.retain(|child| KEPT.contains(&child.name.as_str()));
    for child in &mut root.children {
        match child.name.as_str() {
            "name" => child.text = NAME.into(),
            "uuid" => child.text = uuid::Uuid::from_bytes(TRIAL).to_string(),
            "memory" => shrink(child),
            "vcpu" => *child = counted("vcpu", number(child).min(VCPUS)),
            // They count processors and nodes that are not there any more.
            "cpu" => child.children.retain(|part| !matches!(part.name.as_str(), "topology" | "numa" | "cache")),
            "os" => firmware(child, folder)?,
            "devices" => devices(child, folder, console)?,
            _ => {}
        }
    }
    root.children.push(word("on_poweroff", "destroy"));
    // Who runs here beside it may not be of its trust.
    apart::set_alone(&mut root, true);
    let mut out = String::with_capacity(xml.len());
    import::write(&mut out, &root, "").ok_or_else(|| invalid("the definition can't be written"))?;
    Ok(out)
}

fn element(name: &str, attributes: &[(&str, &str)], children: Vec<Element>) -> Element {
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Element { name: name.into(), attributes, text: String::new(), children }
}

fn word(name: &str, text: &str) -> Element {
    Element { text: text.into(), ..element(name, &[], vec![]) }
}

fn counted(name: &str, number: u64) -> Element {
    word(name, &number.max(1).to_string())
}

fn number(element: &Element) -> u64 {
    element.text.trim().parse().unwrap_or(1)
}

/// libvirt tells memory in KiB.
fn shrink(memory: &mut Element) {
    let kib = matches!(memory.attribute("unit"), None | Some("KiB"));
    let mib = if kib { number(memory) / 1_024 } else { MEMORY_MIB };
    *memory = Element { attributes: vec![("unit".into(), "MiB".into())], ..counted("memory", mib.min(MEMORY_MIB)) };
}

/// Firmware variables that were never kept are made anew, not taken from the guest that was. A BIOS is to say on the
/// console that it finds nothing to boot.
fn firmware(os: &mut Element, folder: &Path) -> Result<(), Failure> {
    let fresh = folder.join("nvram-new");
    for child in os.children.iter_mut().filter(|child| child.name == "nvram") {
        if !Path::new(child.text.trim()).starts_with(folder) {
            child.text = text(&fresh)?.into();
        }
    }
    os.children.retain(|child| child.name != "bios");
    let bios = os.child("loader").is_none() && os.attribute("firmware").is_none();
    let x86 = os.child("type").and_then(|kind| kind.attribute("arch")).is_none_or(|arch| arch == "x86_64");
    if bios && x86 {
        os.children.push(element("bios", &[("useserial", "yes")], vec![]));
    }
    Ok(())
}

fn devices(devices: &mut Element, folder: &Path, console: &Path) -> Result<(), Failure> {
    devices.children.retain(|device| match device.name.as_str() {
        "channel" => is_agent(device),
        "tpm" => device.child("backend").and_then(|backend| backend.attribute("type")) == Some("emulator"),
        name => DEVICES.contains(&name),
    });
    let mut serial = 0;
    for device in &mut devices.children {
        match device.name.as_str() {
            "disk" => disk(device, folder),
            "channel" => device.children.retain(|child| child.name != "source"),
            "serial" => {
                *device = port(if serial == 0 { Some(console) } else { None }, serial)?;
                serial += 1;
            }
            _ => {}
        }
    }
    if serial == 0 {
        devices.children.push(port(Some(console), 0)?);
    }
    // For the picture; a guest that has none of its own shows at least what its firmware says.
    devices.children.push(element("video", &[], vec![element("model", &[("type", "vga")], vec![])]));
    devices.children.push(element("memballoon", &[("model", "none")], vec![]));
    Ok(())
}

fn is_agent(channel: &Element) -> bool {
    let named = channel.child("target").and_then(|target| target.attribute("name")) == Some(AGENT);
    channel.attribute("type") == Some("unix") && named
}

/// A drive whose medium is not of the point stays, empty.
fn disk(disk: &mut Element, folder: &Path) {
    let source = disk.child("source");
    let file = source.and_then(|source| source.attribute("file"));
    if !file.is_some_and(|path| Path::new(path).starts_with(folder)) {
        disk.set("type", "file");
        disk.set("device", "cdrom");
        disk.children.retain(|child| !matches!(child.name.as_str(), "source" | "backingStore" | "driver"));
    }
}

fn port(file: Option<&Path>, number: u32) -> Result<Element, Failure> {
    let target = element("target", &[("port", &number.to_string())], vec![]);
    Ok(match file {
        Some(path) => {
            element("serial", &[("type", "file")], vec![element("source", &[("path", text(path)?)], vec![]), target])
        }
        None => element("serial", &[("type", "null")], vec![target]),
    })
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| invalid("a path is not UTF-8"))
}

#[cfg(test)]
mod test {
    use super::*;

    const XML: &str = "<domain type='qemu' id='3' xmlns:qemu='http://x'><name>web</name>\
        <uuid>11111111-1111-1111-1111-111111111111</uuid><memory unit='KiB'>67108864</memory>\
        <currentMemory unit='KiB'>67108864</currentMemory><vcpu placement='static' current='4'>16</vcpu>\
        <memoryBacking><source type='memfd'/></memoryBacking><cputune><shares>1</shares></cputune>\
        <os><type machine='q35'>hvm</type><nvram>/var/lib/web.fd</nvram></os>\
        <cpu mode='custom'><topology sockets='16'/><numa><cell/></numa><model>qemu64</model></cpu>\
        <qemu:commandline><qemu:arg value='-netdev'/></qemu:commandline><seclabel type='none'/><devices>\
        <emulator>/usr/bin/qemu-system-x86_64</emulator>\
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/trial/vda.qcow2'/>\
        <target dev='vda' bus='virtio'/></disk>\
        <disk type='file' device='cdrom'><source file='/iso/x.iso'/><target dev='sda' bus='sata'/></disk>\
        <disk type='network' device='disk'><source protocol='rbd'/><target dev='vdb' bus='virtio'/></disk>\
        <interface type='bridge'><source bridge='br0'/></interface><interface type='user'/>\
        <hostdev mode='subsystem' type='pci'/><filesystem type='mount'/><redirdev bus='usb'/><shmem name='x'/>\
        <vsock model='virtio'/><rng model='virtio'><backend model='egd' type='tcp'/></rng><graphics type='vnc'/>\
        <sound model='ich9'/><watchdog model='i6300esb' action='dump'/><smartcard mode='host'/>\
        <serial type='tcp'><source mode='bind' host='0.0.0.0'/></serial><serial type='pty'/><console type='pty'/>\
        <parallel type='dev'><source path='/dev/lp0'/></parallel>\
        <channel type='unix'><source path='/run/web.agent'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
        <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>\
        <tpm model='tpm-crb'><backend type='passthrough'/></tpm></devices></domain>";

    #[test]
    fn nothing_of_a_trial_reaches_beyond_its_folder() {
        let xml = isolate(XML, Path::new("/trial"), Path::new("/trial/console")).unwrap();
        for word in [
            "1111",
            "web",
            "interface",
            "hostdev",
            "filesystem",
            "redirdev",
            "shmem",
            "vsock",
            "rng",
            "graphics",
            "sound",
            "watchdog",
            "smartcard",
            "tcp",
            "pty",
            "parallel",
            "spice",
            "tpm",
            "qemu:",
            "seclabel",
            "hugepages",
            "cputune",
            "/iso",
            "rbd",
            "topology",
            "numa",
            "/var/lib",
            "current",
            "67108864",
            "id=",
        ] {
            assert!(!xml.contains(word), "{word}: {xml}");
        }
        for word in [
            "726f6f73-742d-8074-8069-616c2d6f6e65",
            NAME,
            "<memory unit='MiB'>1024</memory><memoryBacking>",
            "<vcpu>2<",
            "/trial/nvram-new",
            "file='/trial/vda.qcow2'",
            "path='/trial/console'",
            "serial type='null'",
            "guest_agent",
            "<nosharepages>",
            "model type='vga'",
        ] {
            assert!(xml.contains(word), "{word}: {xml}");
        }
    }

    #[test]
    fn a_guest_without_a_serial_port_gets_one_to_be_heard() {
        let xml = "<domain type='qemu'><memory unit='KiB'>65536</memory><devices/></domain>";
        let xml = isolate(xml, Path::new("/trial"), Path::new("/trial/console")).unwrap();
        assert!(xml.contains("/trial/console") && xml.contains("<memory unit='MiB'>64<"), "{xml}");
    }
}
