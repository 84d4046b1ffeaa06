//! Tasks against a real libvirt: each test runs itself once more in a host of tests/lab of its own. Needs root and
//! `ROOST_REAL=1`, and then fails where it can't run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use roost_agent_core::{Event, Made, Task, TaskId, TaskResult};
use roost_libvirt::{Hypervisor, State, XmlForm};
use roost_protocol::guest::{Boot, DiskSpec, GuestSpec, NicSpec};
use roost_protocol::memory::{InForce, MemoryPolicy, MemoryWish};
use roost_protocol::operation::FailureCode;
use roost_protocol::{GuestId, MiB};
use tokio::sync::{mpsc, watch};

use super::domain::Workers;
use super::place::Place;
use super::xml::Accelerator;

/// Set for the process inside the host.
const INSIDE: &str = "ROOST_TEST_LIBVIRT";

/// Runs `test` in a host; `name` is the calling test's own.
fn in_a_host(name: &str, test: impl AsyncFnOnce(Rig)) {
    if let Ok(uri) = std::env::var(INSIDE) {
        return tokio::runtime::Runtime::new().unwrap().block_on(test(Rig::new(&uri)));
    }
    if std::env::var("ROOST_REAL").as_deref() != Ok("1") {
        return eprintln!("{name}: skipped, as ROOST_REAL=1 is not set");
    }
    let lab = Lab::up();
    let inside = format!("{INSIDE}=qemu:///system");
    let program = std::env::current_exe().unwrap();
    let mut again = lab.script(&["exec", "1", "env", &inside]);
    let ended = again.arg(program).args(["--exact", name, "--nocapture"]).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success() && said.contains("1 passed"), "in the host: {}\n{said}", ended.status);
}

/// One powered host, gone when dropped. Named as the labs of tests/src/grid, which remove what killed tests left.
struct Lab {
    folder: PathBuf,
    pid: u32,
}

impl Lab {
    fn up() -> Self {
        let pid = std::process::id();
        let lab = Self { folder: Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../.lab-cache/rt{pid}")), pid };
        std::fs::create_dir_all(&lab.folder).unwrap();
        let up = lab.script(&["up", "1"]).output().unwrap();
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
        lab
    }

    fn script(&self, words: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab/hosts.sh"));
        let net = format!("10.{}.{}", 100 + self.pid % 50, self.pid / 50 % 250);
        command.args(words).env("HOSTS_PREFIX", format!("rt{}", self.pid)).env("HOSTS_NET", net);
        command.env("HOSTS_DIR", self.folder.join("hosts"));
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = self.script(&["down"]).status();
        if !down.is_ok_and(|status| status.success()) || std::fs::remove_dir_all(&self.folder).is_err() {
            eprintln!("{} is left", self.folder.display());
        }
    }
}

struct Rig {
    dir: tempfile::TempDir,
    hypervisor: Arc<Hypervisor>,
    _slot: watch::Sender<Option<Arc<Hypervisor>>>,
    policy: watch::Sender<InForce>,
    workers: Workers,
    events: mpsc::Receiver<Event>,
    place: Place,
}

impl Rig {
    fn new(uri: &str) -> Self {
        let dir = tempfile::tempdir_in("/var/lib").unwrap();
        let hypervisor = Arc::new(Hypervisor::open(uri).unwrap());
        let (slot, receiver) = watch::channel(Some(hypervisor.clone()));
        let place = Place::open(&dir.path().join("images"), &dir.path().join("guests")).unwrap();
        let ((sender, events), (policy, policies)) = (mpsc::channel(64), watch::channel(InForce::default()));
        let workers = Workers::new((receiver, policies), place.clone(), Accelerator::Tcg, None, sender);
        Self { dir, hypervisor, _slot: slot, policy, workers, events, place }
    }

    async fn run(&mut self, what: Task) -> TaskResult {
        self.workers.run(TaskId(1), what);
        loop {
            if let Event::Finished { result, .. } = self.events.recv().await.unwrap() {
                return result;
            }
        }
    }

    fn qemu_img(&self, arguments: &[&str]) {
        let folder = self.dir.path().join("images");
        assert!(Command::new("qemu-img").args(arguments).current_dir(folder).status().unwrap().success());
    }

    fn state(&self, guest: GuestId) -> Option<State> {
        self.hypervisor.domain(&guest.bytes()).ok().map(|domain| domain.state)
    }

    async fn expect(&mut self, what: Task, state: Option<State>) {
        let guest = what.guest();
        let word = format!("{what:?}");
        assert_eq!(self.run(what).await, Ok(Made::Nothing), "{word}");
        assert_eq!(self.state(guest), state, "{word}");
    }
}

fn spec(name: &str, disks: Vec<DiskSpec>) -> GuestSpec {
    let nics = vec![NicSpec { bridge: None }];
    GuestSpec { name: name.into(), memory_mib: MiB(32), vcpus: 1, disks, nics, boot: Boot::Disk, memory: None }
}

fn image(path: &str, format: &str) -> DiskSpec {
    DiskSpec::Image { path: path.into(), format: format.into() }
}

#[tokio::test]
async fn nothing_is_begun_with_guests_on_a_host_that_is_about_to_restart_but_copies_are() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::open(&dir.path().join("images"), &dir.path().join("guests")).unwrap();
    let (_slot, slot) = watch::channel(None);
    let ((sender, mut events), policies) = (mpsc::channel(64), watch::channel(InForce::default()).1);
    let workers = Workers::new((slot, policies), place, Accelerator::Tcg, None, sender);
    let guest = GuestId::from_u128(1);
    let mut why = async |what: Task| {
        workers.run(TaskId(1), what);
        let Event::Finished { result, .. } = events.recv().await.unwrap() else { panic!("it ends") };
        result.unwrap_err().text
    };
    let free = why(Task::Start { guest, paused: false }).await;
    assert!(!free.contains("restart"), "it is begun, and there is no libvirt: {free}");
    assert!(workers.gate().shut(), "what ended is not within any more");
    assert_eq!(why(Task::Start { guest, paused: false }).await, "this host is about to restart");
    let copy = Task::Pin { guest, point: roost_protocol::PointId::from_u128(2), pinned: true };
    assert!(!why(copy).await.contains("restart"));
}

#[test]
fn real_a_guest_lives_its_whole_life() {
    in_a_host("act::test::real_a_guest_lives_its_whole_life", a_guest_lives_its_whole_life);
}

async fn a_guest_lives_its_whole_life(mut rig: Rig) {
    rig.qemu_img(&["create", "-q", "-f", "qcow2", "good.qcow2", "64M"]);
    let guest = GuestId::from(uuid::Uuid::new_v4());
    let name = format!("life 'q\" & <x> 🦀 {guest}");
    let disks = vec![DiskSpec::Blank { size_mib: MiB(16) }, image("good.qcow2", "qcow2")];
    rig.expect(Task::Create { guest, spec: spec(&name, disks) }, Some(State::ShutOff)).await;
    assert_eq!(rig.hypervisor.domain(&guest.bytes()).unwrap().name, name);
    assert!(!rig.place.unfinished(guest) && rig.place.guest(guest).join("vdb.qcow2").exists());
    for (what, state) in [
        (Task::Start { guest, paused: false }, State::Running),
        (Task::Start { guest, paused: false }, State::Running),
        (Task::Pause { guest }, State::Paused),
        (Task::Resume { guest }, State::Running),
        (Task::Reset { guest }, State::Running),
        (Task::Shutdown { guest }, State::Running),
        (Task::ForceOff { guest }, State::ShutOff),
        (Task::ForceOff { guest }, State::ShutOff),
        (Task::CleanUp { guest }, State::ShutOff),
    ] {
        rig.expect(what, Some(state)).await;
    }
    assert_eq!(rig.run(Task::Reset { guest }).await.unwrap_err().code, FailureCode::WrongState);
    rig.expect(Task::Delete { guest, keep_disks: false }, None).await;
    assert!(!rig.place.guest(guest).exists());
    assert_eq!(rig.run(Task::Start { guest, paused: false }).await.unwrap_err().code, FailureCode::NotFound);
}

#[test]
fn real_a_guest_of_another_trust_group_runs_with_pages_that_nobody_merges() {
    in_a_host(
        "act::test::real_a_guest_of_another_trust_group_runs_with_pages_that_nobody_merges",
        a_guest_of_another_trust_group_runs_with_pages_that_nobody_merges,
    );
}

async fn a_guest_of_another_trust_group_runs_with_pages_that_nobody_merges(mut rig: Rig) {
    let guest = GuestId::from(uuid::Uuid::new_v4());
    let trusted = |trust: &str| Some(trust.to_owned());
    let wish = MemoryWish { trust: trusted("red"), ..MemoryWish::default() };
    let spec = GuestSpec { memory: Some(wish), ..spec(&format!("red-{guest}"), vec![]) };
    rig.expect(Task::Create { guest, spec }, Some(State::ShutOff)).await;
    for (host, merged) in [(None, false), (trusted("red"), true), (trusted("blue"), false), (trusted("red"), true)] {
        let policy = MemoryPolicy { trust: host.clone(), ..MemoryPolicy::default() };
        rig.policy.send_replace(InForce::of(Some(&policy), &policy));
        rig.expect(Task::Start { guest, paused: false }, Some(State::Running)).await;
        assert_eq!(merges(guest), merged, "on a host of {host:?}");
        // The host changes hands while it runs; it is as it was started.
        rig.policy.send_replace(InForce::default());
        rig.expect(Task::Start { guest, paused: false }, Some(State::Running)).await;
        let told = rig.hypervisor.xml(&guest.bytes(), XmlForm { inactive: true, ..XmlForm::default() }).unwrap();
        assert_eq!(!told.contains("nosharepages"), merged, "{told}");
        rig.expect(Task::ForceOff { guest }, Some(State::ShutOff)).await;
    }
    rig.expect(Task::Delete { guest, keep_disks: false }, None).await;
}

/// As its QEMU was told.
fn merges(guest: GuestId) -> bool {
    let pid = roost_libvirt::qemu_pids()[&guest.bytes()];
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    !String::from_utf8_lossy(&line).contains("mem-merge=off")
}

#[test]
fn real_nothing_half_made_stays_when_a_creation_is_refused() {
    in_a_host(
        "act::test::real_nothing_half_made_stays_when_a_creation_is_refused",
        nothing_half_made_stays_when_a_creation_is_refused,
    );
}

async fn nothing_half_made_stays_when_a_creation_is_refused(mut rig: Rig) {
    rig.qemu_img(&["create", "-q", "-f", "qcow2", "-b", "/etc/hosts", "-F", "raw", "backing.qcow2"]);
    rig.qemu_img(&["create", "-q", "-f", "qcow2", "-o", "data_file=d.raw,data_file_raw=on", "data.qcow2", "1M"]);
    std::fs::copy(rig.dir.path().join("images/backing.qcow2"), rig.dir.path().join("images/false.raw")).unwrap();
    std::os::unix::fs::symlink("/etc", rig.dir.path().join("images/etc")).unwrap();
    let cases: BTreeMap<&str, (DiskSpec, FailureCode, &str)> = BTreeMap::from([
        ("backing", (image("backing.qcow2", "qcow2"), FailureCode::Invalid, "backing")),
        ("data", (image("data.qcow2", "qcow2"), FailureCode::Invalid, "another file")),
        ("false", (image("false.raw", "raw"), FailureCode::Invalid, "begins like qcow2")),
        ("link", (image("etc/hosts", "raw"), FailureCode::Invalid, "leads out")),
        ("none", (image("none", "raw"), FailureCode::NotFound, "none")),
        ("big", (DiskSpec::Blank { size_mib: MiB(1 << 40) }, FailureCode::Invalid, "MiB")),
        // Refused by libvirt itself, with its own reason.
        ("a/b", (DiskSpec::Blank { size_mib: MiB(1) }, FailureCode::Hypervisor, "a/b")),
        ("a\nb", (DiskSpec::Blank { size_mib: MiB(1) }, FailureCode::Hypervisor, "name")),
    ]);
    for (name, (disk, code, words)) in cases {
        let guest = GuestId::from(uuid::Uuid::new_v4());
        let disks = vec![DiskSpec::Blank { size_mib: MiB(1) }, disk];
        let refused = rig.run(Task::Create { guest, spec: spec(name, disks) }).await.unwrap_err();
        assert_eq!((refused.code, refused.text.contains(words)), (code, true), "{name:?}: {}", refused.text);
        assert_eq!((rig.place.guest(guest).exists(), rig.state(guest)), (false, None), "{name:?}");
    }
}

#[test]
fn real_an_honest_import_is_defined_under_its_new_id_and_its_image_outlives_it() {
    in_a_host(
        "act::test::real_an_honest_import_is_defined_under_its_new_id_and_its_image_outlives_it",
        an_honest_import_is_defined_under_its_new_id_and_its_image_outlives_it,
    );
}

async fn an_honest_import_is_defined_under_its_new_id_and_its_image_outlives_it(mut rig: Rig) {
    rig.qemu_img(&["create", "-q", "-f", "qcow2", "good.qcow2", "64M"]);
    let guest = GuestId::from(uuid::Uuid::new_v4());
    let xml = format!(
        "<domain type='kvm'><name>import-{guest}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type \
         arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><cpu mode='host-passthrough'/><devices><disk type='file' \
         device='disk'><driver name='qemu' type='qcow2'/><source file='good.qcow2'/><target dev='vda' \
         bus='virtio'/></disk>HERE</devices></domain>"
    );
    let hostile = xml.replace("HERE", "<hostdev mode='subsystem' type='usb'/>");
    let refused = rig.run(Task::Import { guest, xml: hostile }).await.unwrap_err();
    assert_eq!((refused.code, rig.state(guest)), (FailureCode::Invalid, None));
    let unknown = xml.replace("HERE", "").replace("bus='virtio'", "bus='vax'");
    let refused = rig.run(Task::Import { guest, xml: unknown }).await.unwrap_err();
    assert!(refused.text.contains("schema"), "libvirt's own reason: {}", refused.text);
    assert_eq!(rig.state(guest), None);
    rig.expect(Task::Import { guest, xml: xml.replace("HERE", "") }, Some(State::ShutOff)).await;
    rig.expect(Task::Start { guest, paused: false }, Some(State::Running)).await;
    rig.expect(Task::ForceOff { guest }, Some(State::ShutOff)).await;
    rig.expect(Task::Delete { guest, keep_disks: false }, None).await;
    assert!(rig.dir.path().join("images/good.qcow2").exists());
}
