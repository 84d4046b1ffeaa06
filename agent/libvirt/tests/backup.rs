//! What backups need of a real QEMU: jobs, checkpoints, overlays, freezing. Runs as `qemu.rs` does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use roost_libvirt::freeze::{FREEZE_LIMIT, Frozen, freeze};
use roost_libvirt::{BlockJobKind, BlockJobStatus, Code, EndJob, Event, EventKind, ForceOff, Hypervisor, XmlForm};
use std::{fs, path::Path, process::Command, sync::Arc, sync::mpsc::Receiver, time::Instant};

mod common;
use common::{SOON, UUID, in_namespace, kill, prepare, run, until, watch};

/// Beside the checkout's other lab files, so that it is built once.
const LINUX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.lab-cache/guest");
const BUILD_LINUX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/lab/guest.sh");

/// A running tiny guest that writes to a qcow2 disk, with a screen.
fn start(root: &Path) -> (Hypervisor, Receiver<Event>) {
    let (uri, xml) = prepare(root);
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(root.join("disk.qcow2")).arg("64M"));
    let xml = xml.replace("type='raw'", "type='qcow2'").replace("disk.raw", "disk.qcow2").replace(
        "<memballoon",
        "<graphics type='vnc' port='-1' autoport='yes'/><video><model type='vga'/></video><memballoon",
    );
    let hypervisor = Hypervisor::open(&uri).unwrap();
    let events = watch(&hypervisor);
    hypervisor.define(&xml).unwrap();
    hypervisor.start(&UUID).unwrap();
    (hypervisor, events)
}

fn begin(hypervisor: &Hypervisor, root: &Path, from: Option<&str>, to: &str) -> Result<(), roost_libvirt::Error> {
    let since = from.map(|name| format!("<incremental>{name}</incremental>")).unwrap_or_default();
    let root = root.display();
    let job = format!(
        "<domainbackup mode='pull'>{since}<server transport='unix' socket='{root}/nbd'/><disks>\
         <disk name='hda' backup='yes' type='file'><scratch file='{root}/scratch'/></disk></disks></domainbackup>"
    );
    let checkpoint = format!(
        "<domaincheckpoint><name>{to}</name><disks><disk name='hda' checkpoint='bitmap'/></disks></domaincheckpoint>"
    );
    hypervisor.backup_begin(&UUID, &job, Some(&checkpoint))
}

fn names(hypervisor: &Hypervisor) -> Vec<String> {
    hypervisor.checkpoints(&UUID).unwrap().into_iter().map(|one| one.name).collect()
}

#[test]
fn real_checkpoints_carry_increments_and_a_broken_bitmap_is_told_and_forgotten() {
    in_namespace("real_checkpoints_carry_increments_and_a_broken_bitmap_is_told_and_forgotten", |root| {
        let (hypervisor, _events) = start(root);
        assert_eq!(hypervisor.backup_job(&UUID), Ok(None));
        begin(&hypervisor, root, None, "one").unwrap();
        assert!(hypervisor.backup_job(&UUID).unwrap().unwrap().contains("exportname='hda'"));
        assert!(begin(&hypervisor, root, None, "other").is_err(), "one job at a time");
        hypervisor.abort_job(&UUID).unwrap();
        until("the job is gone with its scratch file", || {
            hypervisor.backup_job(&UUID) == Ok(None) && !root.join("scratch").exists()
        });
        begin(&hypervisor, root, Some("one"), "two").unwrap();
        let job = hypervisor.backup_job(&UUID).unwrap().unwrap();
        assert!(job.contains("exportbitmap='backup-hda'"), "{job}");
        hypervisor.abort_job(&UUID).unwrap();
        assert_eq!(names(&hypervisor), ["one", "two"]);
        hypervisor.checkpoint_delete(&UUID, "one").unwrap();
        assert_eq!(hypervisor.checkpoint_delete(&UUID, "one").unwrap_err().code(), Some(Code::NoCheckpoint));

        kill(roost_libvirt::qemu_pid(&UUID).unwrap(), "KILL");
        until("the guest is off", || !hypervisor.domain(&UUID).unwrap().state.is_active());
        hypervisor.start(&UUID).unwrap();
        let broken = begin(&hypervisor, root, Some("two"), "three").unwrap_err();
        assert_eq!(broken.code(), Some(Code::CheckpointInconsistent), "{broken}");
        hypervisor.checkpoint_delete(&UUID, "two").unwrap();
        assert_eq!(names(&hypervisor), [""; 0]);
        begin(&hypervisor, root, None, "three").unwrap();
        hypervisor.force_off(&UUID, ForceOff::Graceful).unwrap();
        hypervisor.checkpoint_delete(&UUID, "three").unwrap();
    });
}

#[test]
fn real_overlay_is_put_over_a_running_disk_and_merged_back() {
    in_namespace("real_overlay_is_put_over_a_running_disk_and_merged_back", |root| {
        let (hypervisor, events) = start(root);
        let (base, over) = (root.join("disk.qcow2"), root.join("over.qcow2"));
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-o", "extended_l2=on,cluster_size=128k", "-b"])
            .args([&base, &over]));
        let snapshot = format!(
            "<domainsnapshot><disks><disk name='hda' snapshot='external' type='file'><driver type='qcow2'/>\
             <source file='{}'/></disk></disks></domainsnapshot>",
            over.display()
        );
        hypervisor.snapshot_onto_overlays(&UUID, &snapshot).unwrap();
        let live = || hypervisor.xml(&UUID, XmlForm::default()).unwrap();
        let kept = || hypervisor.xml(&UUID, XmlForm { inactive: true, ..XmlForm::default() }).unwrap();
        assert!(live().contains("over.qcow2") && live().contains("<backingStore type='file'"));
        assert!(kept().contains("over.qcow2"), "a guest that dies now starts on the overlay");
        assert_eq!(hypervisor.block_job(&UUID, "hda"), Ok(None));

        hypervisor.block_commit(&UUID, "hda", 1).unwrap();
        assert_eq!(hypervisor.block_job(&UUID, "hda").unwrap().unwrap().kind, BlockJobKind::ActiveCommit);
        assert!(hypervisor.block_commit(&UUID, "hda", 0).is_err(), "one job at a time");
        hypervisor.block_job_end(&UUID, "hda", EndJob::Cancel).unwrap();
        assert!(live().contains("over.qcow2"));

        hypervisor.block_commit(&UUID, "hda", 4 << 20).unwrap();
        hypervisor.block_job_speed(&UUID, "hda", 0).unwrap();
        until("in step", || hypervisor.block_job(&UUID, "hda").unwrap().is_some_and(|job| job.in_step()));
        until("pivot", || hypervisor.block_job_end(&UUID, "hda", EndJob::Pivot).is_ok());
        assert!(!live().contains("over.qcow2") && !kept().contains("over.qcow2"), "depth 0 again");
        job_ended(&events);
        fs::remove_file(over).unwrap();

        // A screen that shows nothing yet is a small picture.
        until("a picture of the screen", || {
            hypervisor.screenshot(&UUID).is_ok_and(|shot| shot.mime.starts_with("image/") && shot.bytes.len() > 1000)
        });
        hypervisor.force_off(&UUID, ForceOff::Kill).unwrap();
        assert!(hypervisor.screenshot(&UUID).is_err());
    });
}

fn job_ended(events: &Receiver<Event>) {
    let end = Instant::now() + SOON;
    while let Ok(event) = events.recv_timeout(end.saturating_duration_since(Instant::now())) {
        if let Event::Domain(domain) = event
            && let EventKind::BlockJob { status: BlockJobStatus::Completed, job: 4, disk } = domain.kind
        {
            return assert_eq!(disk, "hda");
        }
    }
    panic!("no end of the block job was told");
}

#[test]
fn real_freeze_ends_in_time_whatever_the_guest_does() {
    in_namespace("real_freeze_ends_in_time_whatever_the_guest_does", |root| {
        run(Command::new(BUILD_LINUX).arg(LINUX));
        let (uri, tiny) = prepare(root);
        let hypervisor = Arc::new(Hypervisor::open(&uri).unwrap());
        let guest = hypervisor.define(&linux(root)).unwrap();
        let Frozen::No { why } = freeze(&hypervisor, &guest) else { panic!("it is off") };
        assert!(why.contains("not running"), "{why}");
        hypervisor.define(&tiny).unwrap();
        hypervisor.start(&UUID).unwrap();
        let Frozen::No { why } = freeze(&hypervisor, &UUID) else { panic!("it has no agent") };
        assert!(why.contains("agent"), "{why}");
        hypervisor.force_off(&UUID, ForceOff::Kill).unwrap();

        hypervisor.start(&guest).unwrap();
        until("the agent answers", || hypervisor.agent_command(&guest, r#"{"execute":"guest-ping"}"#, 2).is_ok());
        let Frozen::Yes(thaw) = freeze(&hypervisor, &guest) else { panic!("it has an agent") };
        assert!(thaw.now(), "thawed in time");

        // The agent stops itself, as a hung one does.
        let stop = r#"{"execute":"guest-exec","arguments":{"path":"/bin/sh","arg":["-c","sleep 1; kill -STOP $(cat /run/ga.pid)"]}}"#;
        hypervisor.agent_command(&guest, stop, 5).unwrap();
        until("the agent hangs", || hypervisor.agent_command(&guest, r#"{"execute":"guest-ping"}"#, 1).is_err());
        let began = Instant::now();
        let Frozen::No { why } = freeze(&hypervisor, &guest) else { panic!("it hangs") };
        assert!(began.elapsed() < FREEZE_LIMIT, "{why}");
        hypervisor.force_off(&guest, ForceOff::Kill).unwrap();
    });
}

fn linux(root: &Path) -> String {
    let root = root.display();
    format!(
        "<domain type='qemu'><name>linux</name><memory unit='MiB'>128</memory><vcpu>1</vcpu><features><acpi/></features>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{LINUX}/vmlinuz</kernel><initrd>{LINUX}/initrd.cpio</initrd>\
         <cmdline>console=ttyS0 quiet roost.quiet=1</cmdline></os>\
         <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model>\
         <feature policy='disable' name='cx16'/></cpu>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><serial type='file'><source path='{root}/linux'/></serial>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices></domain>"
    )
}
