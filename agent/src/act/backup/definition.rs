//! What a domain's XML says of the state that belongs to a point: its disks, firmware variables and TPM; and putting a
//! merged disk back into it.

use std::path::{Path, PathBuf};

use roost_protocol::operation::{Failure, FailureCode};

use crate::act::failure;
use crate::act::image::Format;
use crate::act::import::{self, Element};

/// The channel by which a guest's agent is reached.
const AGENT: &str = "org.qemu.guest_agent.0";
/// Disks of one guest that are backed up; more than libvirt's own limits for most buses.
const DISKS: usize = 64;

/// One disk that is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    /// `vda`.
    pub(crate) target: String,
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    /// A block device, not a file.
    pub(crate) device: bool,
    /// What lies right below, as libvirt told; a running domain only.
    pub(crate) below: Option<PathBuf>,
}

/// What a point is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) disks: Vec<Disk>,
    pub(crate) nvram: Option<PathBuf>,
    /// What it boots directly, where it does not boot from a disk.
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    /// Whether it has an emulated TPM.
    pub(crate) tpm: bool,
    /// Whether its guest agent is there.
    pub(crate) agent: bool,
}

fn invalid(text: impl Into<String>) -> Failure {
    failure(FailureCode::Invalid, text)
}

/// Reads what belongs to a point; a disk that can't be backed up is a refusal, never left out silently.
pub(crate) fn read(xml: &str) -> Result<State, Failure> {
    let root = import::tree(xml).map_err(|error| invalid(error.to_string()))?;
    let name = root.child("name").map(|name| name.text.trim().to_owned()).unwrap_or_default();
    let devices = root.child("devices");
    let all = |kind: &'static str| {
        devices.into_iter().flat_map(|devices| &devices.children).filter(move |child| child.name == kind)
    };
    let disks = all("disk").filter(|disk| written_to(disk)).map(disk).collect::<Result<Vec<_>, _>>()?;
    if disks.len() > DISKS {
        return Err(invalid(format!("the guest has more than {DISKS} disks")));
    }
    let of_os = |kind: &str| {
        let path = root.child("os").and_then(|os| os.child(kind)).map(|path| path.text.trim());
        path.filter(|path| !path.is_empty()).map(PathBuf::from)
    };
    let tpm = all("tpm").filter_map(|tpm| tpm.child("backend"));
    let agent = all("channel").filter_map(|channel| channel.child("target"));
    Ok(State {
        name,
        disks,
        nvram: of_os("nvram"),
        kernel: of_os("kernel"),
        initrd: of_os("initrd"),
        tpm: tpm.into_iter().any(|backend| backend.attribute("type") == Some("emulator")),
        agent: agent
            .into_iter()
            .any(|target| target.attribute("name") == Some(AGENT) && target.attribute("state") == Some("connected")),
    })
}

fn written_to(disk: &Element) -> bool {
    matches!(disk.attribute("device"), None | Some("disk")) && disk.child("readonly").is_none()
}

fn disk(element: &Element) -> Result<Disk, Failure> {
    let target = element.child("target").and_then(|target| target.attribute("dev")).unwrap_or_default().to_owned();
    let plain = |text: &str| !text.is_empty() && text.len() < 16 && text.bytes().all(|c| c.is_ascii_alphanumeric());
    if !plain(&target) {
        return Err(invalid(format!("disk {target:?} has no usable target name")));
    }
    let kind = element.attribute("type").unwrap_or("file");
    let path = source(element);
    let format = element.child("driver").and_then(|driver| driver.attribute("type")).and_then(Format::parse);
    match (path, format) {
        (Some(path), Some(format)) => {
            let below = element.child("backingStore").and_then(source);
            Ok(Disk { target, path, format, device: kind == "block", below })
        }
        (None, _) => Err(invalid(format!("disk {target} is no file or device of this host ({kind})"))),
        (Some(_), None) => Err(invalid(format!("disk {target} is neither raw nor qcow2"))),
    }
}

fn source(element: &Element) -> Option<PathBuf> {
    let source = element.child("source")?;
    source.attribute("file").or_else(|| source.attribute("dev")).map(PathBuf::from)
}

/// A definition with one disk's layer replaced by what lay below it.
pub(crate) fn without_layer(xml: &str, layer: &Path, below: &Path, format: Format) -> Result<String, Failure> {
    let mut root = import::tree(xml).map_err(|error| invalid(error.to_string()))?;
    let path = below.to_str().ok_or_else(|| invalid("a disk's path is not UTF-8"))?;
    let devices = root.children.iter_mut().filter(|child| child.name == "devices");
    for disk in devices.flat_map(|devices| &mut devices.children).filter(|child| child.name == "disk") {
        if source(disk).as_deref() != Some(layer) {
            continue;
        }
        disk.children.retain(|child| child.name != "backingStore");
        for child in &mut disk.children {
            match child.name.as_str() {
                "source" => child.set("file", path),
                "driver" => child.set("type", format.name()),
                _ => {}
            }
        }
    }
    let mut out = String::with_capacity(xml.len());
    import::write(&mut out, &root, "").ok_or_else(|| invalid("the definition can't be written"))?;
    Ok(out)
}

#[cfg(test)]
mod test {
    use super::*;

    const XML: &str = "<domain type='kvm' id='1'><name>a &amp; b</name><os><nvram template='/t'>/n/vars.fd</nvram></os><devices>\
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/s/vda.over' index='2'/>\
        <backingStore type='file' index='1'><format type='raw'/><source file='/i/vda.raw'/><backingStore/></backingStore>\
        <target dev='vda' bus='virtio'/></disk>\
        <disk type='file' device='cdrom'><target dev='sda'/></disk>\
        <disk type='file' device='disk'><driver type='raw'/><source file='/i/ro'/><target dev='vdb'/><readonly/></disk>\
        <disk type='block' device='disk'><driver type='raw'/><source dev='/dev/vg/x'/><target dev='vdc'/></disk>\
        <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>\
        <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices></domain>";

    #[test]
    fn a_point_is_made_of_all_disks_that_are_written_to_and_of_firmware_and_tpm() {
        let state = read(XML).unwrap();
        assert_eq!((state.name.as_str(), state.tpm, state.agent), ("a & b", true, true));
        assert_eq!(state.nvram.as_deref(), Some(Path::new("/n/vars.fd")));
        let [vda, vdc] = &state.disks[..] else { panic!("{:?}", state.disks) };
        assert_eq!((vda.target.as_str(), vda.format, vda.device), ("vda", Format::Qcow2, false));
        assert_eq!(vda.below.as_deref(), Some(Path::new("/i/vda.raw")));
        assert_eq!((vdc.path.as_path(), vdc.device, &vdc.below), (Path::new("/dev/vg/x"), true, &None));
    }

    #[test]
    fn a_disk_that_cant_be_read_is_refused_and_not_left_out() {
        for (from, to, word) in [
            (
                "type='file' device='disk'><driver name='qemu' type='qcow2'",
                "type='network'><driver type='vmdk'",
                "raw nor",
            ),
            ("dev='/dev/vg/x'", "protocol='rbd'", "no file or device"),
            ("dev='vdc'", "dev='../x'", "target"),
            ("<domain", "<!DOCTYPE x><domain", "document types"),
        ] {
            let text = read(&XML.replace(from, to)).unwrap_err().text;
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_merged_layer_is_taken_out_of_the_definition_and_nothing_else_changes() {
        let xml = without_layer(XML, Path::new("/s/vda.over"), Path::new("/i/<vda>.raw"), Format::Raw).unwrap();
        let state = read(&xml).unwrap();
        assert_eq!(state.disks[0].path, Path::new("/i/<vda>.raw"));
        assert_eq!((state.disks[0].format, &state.disks[0].below), (Format::Raw, &None));
        assert_eq!(state.disks[1], read(XML).unwrap().disks[1]);
        let other = without_layer(XML, Path::new("/s/other"), Path::new("/x"), Format::Raw).unwrap();
        assert_eq!(read(&other).unwrap(), read(XML).unwrap());
    }
}
