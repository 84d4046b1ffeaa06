//! The domain XML of a guest that the agent makes. Every text from outside goes through [`escape`].

use std::fmt::Write;
use std::path::{Path, PathBuf};

use roost_protocol::GuestId;
use roost_protocol::guest::{GuestSpec, NicSpec};
use roost_protocol::memory::MemoryWish;

use super::image::Format;

/// Tells domains that the agent made from those it found.
pub(crate) const MARKER: &str = "https://roost.dev/guest/1";
/// Cache of translated code without hardware virtualisation; QEMU's default costs 100 MB a guest and more.
const TCG_CACHE_MIB: u32 = 32;
/// How often the guest's balloon driver tells its memory, seconds.
const BALLOON_PERIOD_S: u32 = 10;

/// How guests run on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// libvirt's domain type.
    pub(crate) fn domain_type(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "qemu",
        }
    }

    /// The CPU a guest gets. QEMU 7.2's translator breaks newer kernels on cmpxchg16b, so that is hidden.
    pub(crate) fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "<cpu mode='host-passthrough' check='none' migratable='on'/>",
            Self::Tcg => {
                "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model>\
                 <feature policy='disable' name='cx16'/></cpu>"
            }
        }
    }
}

/// One disk that is already in its place.
#[derive(Clone, Debug)]
pub(crate) struct MadeDisk {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
}

/// Kernel and initrd that are already in their place.
#[derive(Clone, Debug)]
pub(crate) struct MadeKernel {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) cmdline: String,
}

/// All that a definition is made from.
#[derive(Clone, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) guest: GuestId,
    pub(crate) spec: &'a GuestSpec,
    pub(crate) accelerator: Accelerator,
    pub(crate) disks: &'a [MadeDisk],
    pub(crate) kernel: Option<&'a MadeKernel>,
    pub(crate) serial: &'a Path,
}

/// The definition; `None` when a text holds a character that XML can't carry.
pub(crate) fn domain(parts: &Parts<'_>) -> Option<String> {
    let spec = parts.spec;
    let mut xml = String::with_capacity(4_096);
    let type_ = parts.accelerator.domain_type();
    let (name, memory, vcpus) = (escape(&spec.name)?, spec.memory_mib.0, spec.vcpus);
    // Writing into a String can't fail.
    let _ = write!(
        xml,
        "<domain type='{type_}'><name>{name}</name><uuid>{}</uuid>\
         <metadata><roost:guest xmlns:roost='{MARKER}'{}/></metadata>\
         <memory unit='MiB'>{memory}</memory><currentMemory unit='MiB'>{memory}</currentMemory>{}<vcpu>{vcpus}</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type>{}</os>\
         <features><acpi/><apic/>{}</features>{}\
         <clock offset='utc'/>\
         <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash><devices>",
        parts.guest,
        owed(spec.memory.as_ref())?,
        backing(spec.memory.as_ref()),
        boot(parts.kernel)?,
        translator(parts.accelerator),
        parts.accelerator.cpu(),
    );
    for (index, disk) in parts.disks.iter().enumerate() {
        let (format, path, target) = (disk.format.name(), escape_path(&disk.path)?, target(index));
        let _ = write!(
            xml,
            "<disk type='file' device='disk'><driver name='qemu' type='{format}' discard='unmap'/>\
             <source file='{path}'/><target dev='{target}' bus='virtio'/></disk>"
        );
    }
    for nic in &spec.nics {
        xml.push_str(&interface(nic)?);
    }
    let serial = escape_path(parts.serial)?;
    let _ = write!(
        xml,
        "<controller type='usb' model='none'/>\
         <serial type='file'><source path='{serial}' append='on'/><target port='0'/></serial>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <video><model type='none'/></video>\
         <memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='{BALLOON_PERIOD_S}'/>\
         </memballoon></devices></domain>"
    );
    Some(xml)
}

/// What it is owed of memory, on the mark: it goes wherever the definition goes.
fn owed(wish: Option<&MemoryWish>) -> Option<String> {
    let Some(MemoryWish { weight, floor_mib, squeeze, trust, .. }) = wish else { return Some(String::new()) };
    let floor = floor_mib.map(|floor| format!(" floor='{}'", floor.0)).unwrap_or_default();
    let trust = match trust {
        Some(trust) => format!(" trust='{}'", escape(trust)?),
        None => String::new(),
    };
    Some(format!(" weight='{weight}'{floor} squeeze='{}'{trust}", if *squeeze { "yes" } else { "no" }))
}

fn backing(wish: Option<&MemoryWish>) -> &'static str {
    match wish.is_none_or(|wish| wish.share) {
        true => "",
        false => "<memoryBacking><nosharepages/></memoryBacking>",
    }
}

fn boot(kernel: Option<&MadeKernel>) -> Option<String> {
    let Some(made) = kernel else { return Some("<boot dev='hd'/>".into()) };
    let initrd = match &made.initrd {
        Some(path) => format!("<initrd>{}</initrd>", escape_path(path)?),
        None => String::new(),
    };
    let (kernel, cmdline) = (escape_path(&made.kernel)?, escape(&made.cmdline)?);
    Some(format!("<kernel>{kernel}</kernel>{initrd}<cmdline>{cmdline}</cmdline>"))
}

fn translator(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => String::new(),
        Accelerator::Tcg => format!("<tcg><tb-cache unit='MiB'>{TCG_CACHE_MIB}</tb-cache></tcg>"),
    }
}

fn interface(nic: &NicSpec) -> Option<String> {
    Some(match &nic.bridge {
        Some(bridge) => {
            let bridge = escape(bridge)?;
            format!("<interface type='bridge'><source bridge='{bridge}'/><model type='virtio'/></interface>")
        }
        None => "<interface type='user'><model type='virtio'/></interface>".into(),
    })
}

/// `vda`, `vdb` ... The caller bounds the number of disks to 26.
pub(crate) fn target(index: usize) -> String {
    let letter = u8::try_from(index % 26).unwrap_or(0) + b'a';
    format!("vd{}", char::from(letter))
}

fn escape_path(path: &Path) -> Option<String> {
    escape(path.to_str()?)
}

/// The text as XML content or attribute value; `None` when it holds a character that XML 1.0 can't carry. Line ends and
/// tabs are written as references, for otherwise readers turn them into spaces.
pub(crate) fn escape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod test {
    use quick_xml::Reader;
    use quick_xml::events::Event;
    use roost_protocol::MiB;
    use roost_protocol::guest::Boot;

    use super::*;

    fn spec(name: &str) -> GuestSpec {
        let nics = vec![NicSpec { bridge: None }, NicSpec { bridge: Some("br'0".into()) }];
        GuestSpec {
            name: name.into(),
            memory_mib: MiB(64),
            vcpus: 2,
            disks: vec![],
            nics,
            boot: Boot::Disk,
            memory: None,
        }
    }

    fn made(name: &str, cmdline: &str) -> Option<String> {
        let kernel = MadeKernel { kernel: "/i/k".into(), initrd: Some("/i/<r>".into()), cmdline: cmdline.into() };
        let wish = MemoryWish { trust: Some(name.into()), ..MemoryWish::default() };
        domain(&Parts {
            guest: GuestId::from_u128(1),
            spec: &GuestSpec { memory: Some(wish), ..spec(name) },
            accelerator: Accelerator::Tcg,
            disks: &[MadeDisk { path: "/g/a&b.qcow2".into(), format: Format::Qcow2 }],
            kernel: Some(&kernel),
            serial: Path::new("/g/serial.log"),
        })
    }

    #[test]
    fn no_text_from_outside_can_add_an_element() {
        let plain = elements(&made("plain", "quiet").unwrap());
        for hostile in [
            "</name><devices><hostdev/>",
            "'/></metadata><devices><hostdev/>",
            "a'b\"c",
            "]]>",
            "<!--",
            "&lt;",
            "emoji 🦀\nline",
            &"x".repeat(300),
        ] {
            assert_eq!(elements(&made(hostile, hostile).unwrap()), plain, "{hostile}");
        }
        assert_eq!(made("a\u{0}b", ""), None);
        assert_eq!(made("a", "\u{1b}[31m"), None);
    }

    #[test]
    fn line_ends_survive_as_references() {
        assert_eq!(escape("a\nb\t'").unwrap(), "a&#10;b&#9;&apos;");
    }

    /// Names of all elements; fails on XML that isn't well formed.
    fn elements(xml: &str) -> Vec<String> {
        let mut reader = Reader::from_str(xml);
        let mut names = Vec::new();
        loop {
            match reader.read_event().unwrap() {
                Event::Start(tag) | Event::Empty(tag) => names.push(tag.name().0.to_owned()),
                Event::Eof => return names,
                Event::End(_) | Event::Text(_) | Event::GeneralRef(_) => {}
                other @ (Event::CData(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_)) => {
                    panic!("{other:?}")
                }
            }
        }
    }
}
