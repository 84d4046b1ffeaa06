//! Made-up kernels, old and new.

use std::fs;

use roost_libvirt::BalloonStats;
use roost_protocol::Stamp;
use roost_protocol::memory::MemoryWish;

use super::*;

fn kernel(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

const MEMINFO: (&str, &str) = (
    "proc/meminfo",
    "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\nSwapTotal: 4096 kB\nSwapFree: 1024 kB\nHugePages_Total: 4\nHugepagesize: \
     2048 kB\n",
);

#[test]
fn a_new_kernel_is_read_in_full() {
    let psi = "some avg10=1.50 avg60=0 avg300=0 total=1\nfull avg10=0.25 avg60=0 avg300=0 total=1\n";
    let root = kernel(&[
        MEMINFO,
        ("proc/pressure/memory", psi),
        ("proc/pressure/cpu", psi),
        ("proc/pressure/io", psi),
        ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: 1048576 kB\nNode 0 MemFree: 2048 kB\n"),
        ("sys/devices/system/node/node2/meminfo", "Node 2 MemTotal: 1048576 kB\nNode 2 MemFree: 4096 kB\n"),
        ("sys/kernel/mm/ksm/run", "1\n"),
        ("sys/kernel/mm/ksm/pages_to_scan", "100\n"),
        ("sys/kernel/mm/ksm/advisor_mode", "none [scan-time]\n"),
        ("sys/kernel/mm/ksm/pages_sharing", "256\n"),
        ("sys/kernel/mm/ksm/ksm_zero_pages", "256\n"),
        ("sys/kernel/mm/ksm/use_zero_pages", "0\n"),
        ("sys/kernel/mm/ksm/general_profit", "-4096\n"),
        ("proc/42/comm", "ksmd\n"),
        ("proc/42/statm", "0 0 0 0 0 0 0\n"),
        ("proc/42/stat", "42 (ksmd) S 1 2 3 4 5 6 7 8 9 10 70 30 0 0 20 0 1 0 5555 0"),
        ("proc/41/comm", "ksmd\n"),
        ("proc/41/statm", "9 9 0 0 0 0 0\n"),
    ]);
    let mut eye = Eye::new(root.path());
    let host = eye.host().unwrap();
    assert_eq!((host.total, host.available, host.swap_used, host.huge), (MiB(2_048), MiB(1_024), MiB(3), MiB(8)));
    assert_eq!((host.pressure.unwrap().memory_centi, host.full_centi), (150, Some(25)));
    assert_eq!(host.nodes.iter().map(|node| (node.number, node.free)).collect::<Vec<_>>(), [(0, MiB(2)), (2, MiB(4))]);
    let ksm = eye.ksm().unwrap();
    assert_eq!((ksm.knobs.run, ksm.knobs.advisor, ksm.knobs.use_zero_pages), (Some(1), Some(true), Some(0)));
    assert_eq!((ksm.knobs.smart_scan, ksm.profit, ksm.saved()), (None, Some(-4_096), MiB(2)));
    assert_eq!(ksm.cpu, Some(Millis(1_000 * 100 / eye.ticks_per_second)));
}

#[test]
fn an_old_kernel_lacks_things_and_that_is_all() {
    let root = kernel(&[MEMINFO, ("sys/kernel/mm/ksm/run", "0\n"), ("sys/kernel/mm/ksm/use_zero_pages", "0\n")]);
    let mut eye = Eye::new(root.path());
    let (host, ksm) = (eye.host().unwrap(), eye.ksm().unwrap());
    assert_eq!((host.pressure, host.full_centi, host.nodes), (None, None, vec![]));
    assert_eq!((ksm.knobs.advisor, ksm.knobs.use_zero_pages, ksm.profit, ksm.cpu), (None, None, None, None));
    let bare = kernel(&[MEMINFO]);
    let mut eye = Eye::new(bare.path());
    assert!(eye.host().is_some() && eye.ksm().is_none() && eye.process(1).is_none());
    assert!(Eye::new(&bare.path().join("none")).host().is_none());
}

#[test]
fn whether_a_guest_is_merged_is_read_off_its_qemu() {
    let root = kernel(&[
        (
            "proc/1/cmdline",
            "/usr/bin/qemu-system-x86_64\0-name\0mem-merge=off\0-machine\0pc-q35-10.0,usb=off\0-m\x0064\0",
        ),
        ("proc/2/cmdline", "/usr/bin/qemu-system-x86_64\0-machine\0pc-q35-10.0,mem-merge=off,usb=off\0"),
        ("proc/3/cmdline", ""),
    ]);
    let eye = Eye::new(root.path());
    assert_eq!([1, 2, 3, 4].map(|pid| eye.merges(pid)), [Some(true), Some(false), None, None]);
}

#[test]
fn this_kernel_is_read() {
    let mut eye = Eye::new(Path::new("/"));
    let host = eye.host().unwrap();
    assert!(host.available > MiB(0) && host.available < host.total, "{host:?}");
    assert!(eye.process(std::process::id()).unwrap().0 > MiB(0));
}

#[test]
fn a_definition_says_what_may_be_taken_and_shared() {
    let mark = "<metadata><roost:guest xmlns:roost='https://roost.dev/guest/1'/></metadata>";
    let balloon = "<devices><memballoon model='virtio' autodeflate='on'><stats period='2'/></memballoon></devices>";
    let made = |memory: &str, rest: &str| definition::read(&format!("<domain>{memory}{rest}</domain>")).unwrap();
    let ours = made(
        "<memory unit='GiB'>4</memory><currentMemory unit='MiB'>1024</currentMemory>",
        &format!("{mark}{balloon}"),
    );
    let wish = MemoryWish::default();
    let found = |wish: MemoryWish| definition::Definition {
        full: MiB(1_024),
        rescue: true,
        wish,
        mergeable: true,
        balloon: true,
        ours: true,
    };
    assert_eq!(ours, found(wish.clone()));
    let owed = mark.replace("/></", " weight='300' floor='700' squeeze='no'/></");
    let ours = made("<memory unit='MiB'>1024</memory>", &format!("{owed}{balloon}"));
    assert_eq!(ours, found(MemoryWish { weight: 300, floor_mib: Some(MiB(700)), squeeze: false, ..wish.clone() }));
    let nonsense = mark.replace("/></", " weight='0' floor='-1' squeeze='?'/></");
    assert_eq!(made("<memory unit='MiB'>1024</memory>", &format!("{nonsense}{balloon}")), found(wish.clone()));
    let plain = "<memory>2097152</memory><memoryBacking><nosharepages/></memoryBacking>";
    let other = made(plain, "<devices><memballoon model='none'/></devices>");
    assert_eq!(
        other,
        definition::Definition {
            full: MiB(2_048),
            rescue: false,
            wish: MemoryWish { share: false, ..wish },
            mergeable: false,
            balloon: false,
            ours: false
        }
    );
    for bad in ["", "<domain/>", "<domain><memory>x</memory></domain>", "<domain", "nonsense"] {
        assert_eq!(definition::read(bad), None, "{bad}");
    }
}

#[test]
fn a_guest_that_never_told_tells_nothing() {
    let stats = BalloonStats { current_kib: Some(2_048), unused_kib: Some(1_024), ..BalloonStats::default() };
    assert_eq!(guests::as_told(&stats, Some(Millis(0))).unwrap().told, None, "no usable");
    let stats = BalloonStats { usable_kib: Some(1_024), ..stats };
    assert_eq!(guests::as_told(&stats, None).unwrap().told, None, "no time");
    assert_eq!(guests::as_told(&stats, Some(Millis(7))).unwrap().told.unwrap().age, Millis(7));
    assert_eq!(guests::age(Some(0), Stamp(9_000)), None);
    assert_eq!(guests::age(Some(5), Stamp(9_000)), Some(Millis(4_000)));
    assert_eq!(guests::age(Some(50), Stamp(9_000)), Some(Millis(0)), "the clock was set back");
}
