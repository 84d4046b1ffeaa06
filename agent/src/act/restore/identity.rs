//! Turns the definition of a point into that of the guest that comes of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use roost_protocol::GuestId;
use roost_protocol::operation::{Failure, FailureCode};

use crate::act::failure;
use crate::act::import::{self, Element};
use crate::act::xml::Accelerator;

/// What is different in the new definition.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) guest: GuestId,
    /// The new name; none when it is the guest that was.
    pub(crate) name: Option<String>,
    /// New files of disks, by target.
    pub(crate) disks: BTreeMap<String, PathBuf>,
    /// What lies below a disk while its data is still being brought in: the socket of its server, by target.
    pub(crate) below: BTreeMap<String, PathBuf>,
    pub(crate) nvram: Option<PathBuf>,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    /// Where the serial port's log goes, if it goes to a file.
    pub(crate) serial: PathBuf,
    /// A CD with answers.
    pub(crate) seed: Option<PathBuf>,
    pub(crate) accelerator: Accelerator,
}

fn invalid(text: impl Into<String>) -> Failure {
    failure(FailureCode::Invalid, text)
}

/// The new definition.
pub(crate) fn change(xml: &str, change: &Change) -> Result<String, Failure> {
    let mut root = import::tree(xml).map_err(|error| invalid(error.to_string()))?;
    if root.name != "domain" {
        return Err(invalid("the point holds no domain"));
    }
    root.attributes.retain(|(name, _)| name != "id");
    root.set("type", change.accelerator.domain_type());
    let as_new = change.name.is_some();
    if let Some(name) = &change.name {
        set_text(&mut root, "name", name);
        // Windows and others would take the copy for the same machine.
        root.children.retain(|child| !matches!(child.name.as_str(), "genid" | "sysinfo"));
    }
    set_text(&mut root, "uuid", &change.guest.to_string());
    let own_cpu = replace_cpu(&mut root, change.accelerator);
    for child in &mut root.children {
        match child.name.as_str() {
            "os" => firmware(child, change)?,
            "devices" => devices(child, change, as_new)?,
            _ => {}
        }
    }
    let mut out = String::with_capacity(xml.len() + 1_024);
    let head = if own_cpu { change.accelerator.cpu() } else { "" };
    import::write(&mut out, &root, head).ok_or_else(|| invalid("the definition can't be written"))?;
    Ok(out)
}

/// The definition of a guest that is off, with these disks over those that are served at `socket`.
pub(crate) fn over_served(xml: &str, layers: &BTreeMap<String, PathBuf>, socket: &Path) -> Result<String, Failure> {
    let mut root = import::tree(xml).map_err(|error| invalid(error.to_string()))?;
    let devices = root.children.iter_mut().filter(|child| child.name == "devices");
    for disk in devices.flat_map(|devices| &mut devices.children).filter(|device| device.name == "disk") {
        let target = disk.child("target").and_then(|target| target.attribute("dev")).unwrap_or_default().to_owned();
        if layers.contains_key(&target) {
            disk.children.retain(|child| !matches!(child.name.as_str(), "backingStore" | "mirror"));
            disk.children.push(served(&target, socket)?);
        }
    }
    let mut out = String::with_capacity(xml.len() + 1_024);
    import::write(&mut out, &root, "").ok_or_else(|| invalid("the definition can't be written"))?;
    Ok(out)
}

/// What lies below a layer while its data is brought in.
fn served(target: &str, socket: &Path) -> Result<Element, Failure> {
    let host = element("host", &[("transport", "unix"), ("socket", text(socket)?)], vec![]);
    let source = element("source", &[("protocol", "nbd"), ("name", target)], vec![host]);
    let format = element("format", &[("type", "raw")], vec![]);
    let last = element("backingStore", &[], vec![]);
    Ok(element("backingStore", &[("type", "network")], vec![format, source, last]))
}

fn element(name: &str, attributes: &[(&str, &str)], children: Vec<Element>) -> Element {
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Element { name: name.into(), attributes, text: String::new(), children }
}

fn set_text(parent: &mut Element, name: &str, text: &str) {
    match parent.children.iter_mut().find(|child| child.name == name) {
        Some(child) => child.text = text.into(),
        None => parent.children.insert(0, Element { text: text.into(), ..element(name, &[], vec![]) }),
    }
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| invalid("a path is not UTF-8"))
}

/// A host without hardware virtualisation can't pass its processor on.
fn replace_cpu(root: &mut Element, accelerator: Accelerator) -> bool {
    let of_host = |child: &Element| {
        child.name == "cpu" && matches!(child.attribute("mode"), Some("host-passthrough" | "host-model" | "maximum"))
    };
    let replace = accelerator == Accelerator::Tcg && root.children.iter().any(of_host);
    if replace {
        root.children.retain(|child| child.name != "cpu");
    }
    replace
}

fn firmware(os: &mut Element, change: &Change) -> Result<(), Failure> {
    for (name, path) in [("nvram", &change.nvram), ("kernel", &change.kernel), ("initrd", &change.initrd)] {
        let Some(path) = path else { continue };
        if let Some(child) = os.children.iter_mut().find(|child| child.name == name) {
            child.text = text(path)?.into();
        }
    }
    Ok(())
}

fn devices(devices: &mut Element, change: &Change, as_new: bool) -> Result<(), Failure> {
    for device in &mut devices.children {
        match device.name.as_str() {
            "disk" => disk(device, change)?,
            "interface" if as_new => device.children.retain(|child| child.name != "mac"),
            "channel" if as_new => device.children.retain(|child| child.name != "source"),
            "serial" | "console" if device.attribute("type") == Some("file") => {
                let path = text(&change.serial)?;
                device.children.iter_mut().filter(|child| child.name == "source").for_each(|it| it.set("path", path));
            }
            _ => {}
        }
    }
    if let Some(seed) = &change.seed {
        devices.children.push(cd(devices, text(seed)?));
    }
    Ok(())
}

fn disk(disk: &mut Element, change: &Change) -> Result<(), Failure> {
    let target = disk.child("target").and_then(|target| target.attribute("dev")).unwrap_or_default().to_owned();
    disk.children.retain(|child| !matches!(child.name.as_str(), "backingStore" | "mirror"));
    let Some(path) = change.disks.get(&target) else {
        // A medium that this host doesn't have: the drive stays, empty.
        let has = disk
            .child("source")
            .and_then(|source| source.attribute("file"))
            .is_some_and(|path| Path::new(path).exists());
        if !has {
            disk.children.retain(|child| child.name != "source");
        }
        return Ok(());
    };
    disk.set("type", "file");
    disk.children.retain(|child| child.name != "source");
    disk.children.push(element("source", &[("file", text(path)?)], vec![]));
    if let Some(socket) = change.below.get(&target) {
        disk.children.push(served(&target, socket)?);
        if let Some(driver) = disk.children.iter_mut().find(|child| child.name == "driver") {
            driver.set("type", "qcow2");
            // A part that can't be had stops the guest; it must not see errors where there is only a wait.
            driver.set("error_policy", "stop");
            driver.set("rerror_policy", "stop");
        }
    }
    Ok(())
}

/// A drive with answers in it, on a bus that machine type and firmware know.
fn cd(devices: &Element, path: &str) -> Element {
    let used = |name: &str| {
        let targets = devices.children.iter().filter_map(|device| device.child("target"));
        targets.into_iter().any(|target| target.attribute("dev") == Some(name))
    };
    let target = ('d'..='z').map(|letter| format!("sd{letter}")).find(|name| !used(name)).unwrap_or_default();
    let driver = element("driver", &[("name", "qemu"), ("type", "raw")], vec![]);
    let source = element("source", &[("file", path)], vec![]);
    let target = element("target", &[("dev", &target), ("bus", "sata")], vec![]);
    let readonly = element("readonly", &[], vec![]);
    element("disk", &[("type", "file"), ("device", "cdrom")], vec![driver, source, target, readonly])
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::act::backup::definition;

    const XML: &str = "<domain type='kvm'><name>old</name><uuid>11111111-1111-1111-1111-111111111111</uuid>\
        <genid>x</genid><memory unit='MiB'>64</memory><cpu mode='host-passthrough'/>\
        <os><type machine='q35'>hvm</type><nvram>/old/nvram</nvram><kernel>/old/kernel</kernel></os><devices>\
        <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/vg/x'/><target dev='vda'/></disk>\
        <disk type='file' device='cdrom'><source file='/none.iso'/><target dev='sda'/></disk>\
        <interface type='user'><mac address='52:54:00:00:00:01'/></interface>\
        <serial type='file'><source path='/old/serial.log'/></serial></devices></domain>";

    fn changed(name: Option<&str>, below: bool) -> String {
        let at = |path: &str| PathBuf::from(path);
        let below = below.then(|| ("vda".to_owned(), at("/new/socket"))).into_iter().collect();
        let wanted = Change {
            guest: GuestId::from_u128(5),
            name: name.map(str::to_owned),
            disks: BTreeMap::from([("vda".into(), at("/new/vda.raw"))]),
            below,
            nvram: Some(at("/new/nvram")),
            kernel: None,
            initrd: None,
            serial: at("/new/serial.log"),
            seed: name.map(|_| at("/new/seed.iso")),
            accelerator: Accelerator::Tcg,
        };
        change(XML, &wanted).unwrap()
    }

    #[test]
    fn a_new_guest_shares_nothing_with_the_one_it_comes_of() {
        let xml = changed(Some("new & better"), false);
        for word in [
            "11111111",
            ">old<",
            "genid",
            "52:54",
            "/old/nvram",
            "/dev/vg",
            "/none.iso",
            "host-passthrough",
            "/old/serial",
        ] {
            assert!(!xml.contains(word), "{word}: {xml}");
        }
        for word in
            ["00000000-0000-0000-0000-000000000005", "new &amp; better", "/new/seed.iso", "dev='sdd'", "/old/kernel"]
        {
            assert!(xml.contains(word), "{word}: {xml}");
        }
        let state = definition::read(&xml).unwrap();
        assert_eq!((state.disks.len(), state.disks[0].path.as_path()), (1, Path::new("/new/vda.raw")));
    }

    #[test]
    fn the_same_guest_keeps_its_name_and_addresses() {
        let xml = changed(None, false);
        assert!(xml.contains(">old<") && xml.contains("52:54:00:00:00:01") && !xml.contains("seed"), "{xml}");
    }

    #[test]
    fn a_disk_that_is_brought_in_later_lies_on_its_server_and_waits_for_it() {
        let xml = changed(None, true);
        let state = definition::read(&xml).unwrap();
        assert_eq!(state.disks[0].format, crate::act::image::Format::Qcow2);
        assert!(xml.contains("socket='/new/socket'") && xml.contains("rerror_policy='stop'"), "{xml}");
    }
}
